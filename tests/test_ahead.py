"""Series that are prepared before their turn: in order, two at most, and nothing of them told or written early."""

import threading
import time

import pytest

from covct.unattended.ahead import Closed, Line, Steps

A, B, C = "a", "b", "c"  # in the place of jobs


class Works:
    """Steps that note when they begin and end, and wait where they are told to."""

    def __init__(self, fit=True):
        self.noted: list[str] = []
        self.gates: dict[str, threading.Event] = {}
        self.steps = Steps(self._read, self._compute, lambda job, other: fit)

    def hold(self, step):
        return self.gates.setdefault(step, threading.Event())

    def _step(self, step):
        self.noted.append(step)
        if step in self.gates:
            assert self.gates[step].wait(10)

    def _read(self, job, tell):
        self._step(f"read {job}")
        tell({"event": f"read {job}"})
        return job.upper()

    def _compute(self, job, loaded, tell):
        scan = loaded()
        self._step(f"compute {job}")
        tell({"event": f"computed {job}"})
        return f"{scan} ready"

    def until(self, step):
        for _ in range(1000):
            if step in self.noted:
                return
            time.sleep(0.01)
        pytest.fail(f"{step} never came: {self.noted}")


def test_the_next_is_read_while_one_is_computed_and_computed_while_it_is_written():
    works, told = Works(), []
    computing = works.hold("compute a")
    with Line(works.steps) as line:
        threading.Thread(target=lambda: (works.until("read b"), computing.set())).start()
        assert line.take(A, told.append, B) == "A ready"
        assert told == [{"event": "read a"}, {"event": "computed a"}], "nothing of the next one yet"
        time.sleep(0.05)
        assert "compute b" not in works.noted, "not before everybody was told that the first is written"
        line.go_on()
        works.until("compute b")
        told.clear()
        assert line.take(B, told.append, None) == "B ready"
        assert told == [{"event": "read b"}, {"event": "computed b"}]
    assert works.noted[0] == "read a" and works.noted[-1] == "compute b" and len(works.noted) == 4


def test_never_more_than_one_before_its_turn():
    works = Works()
    with Line(works.steps) as line:
        line.take(A, lambda event: None, B)
        line.go_on()
        works.until("compute b")
        time.sleep(0.05)
        assert "read c" not in works.noted
        line.take(B, lambda event: None, C)
        works.until("read c")
        assert line.in_company


def test_what_does_not_fit_into_memory_waits_for_its_turn():
    works = Works(fit=False)
    with Line(works.steps) as line:
        line.take(A, lambda event: None, B)
        time.sleep(0.05)
        assert works.noted == ["read a", "compute a"] and not line.in_company
        assert line.take(B, lambda event: None, None) == "B ready"


def test_a_series_put_before_the_next_is_done_first_and_the_next_once_more():
    works = Works()
    with Line(works.steps) as line:
        line.take(A, lambda event: None, C)
        assert line.take(B, lambda event: None, C) == "B ready"
        assert line.take(C, lambda event: None, None) == "C ready"
    assert works.noted.index("compute b") < works.noted.index("compute c")


def test_what_is_at_work_tells_at_once_when_its_turn_has_come():
    """A call that never comes back must not keep what was told before it."""
    works, told = Works(), []
    computing = works.hold("compute a")

    def look():
        works.until("compute a")
        told.append("seen" if {"event": "read a"} in told else "not yet")
        computing.set()

    with Line(works.steps) as line:
        looking = threading.Thread(target=look)
        looking.start()
        line.take(A, told.append, None)
        looking.join()
    assert told[:2] == [{"event": "read a"}, "seen"]


def test_an_error_is_raised_in_its_turn():
    works = Works()

    def read(job, tell):
        if job == B:
            raise OSError(B)
        return job

    with Line(Steps(read, works.steps.compute, works.steps.fit)) as line:
        assert line.take(A, lambda event: None, B) == "a ready"
        with pytest.raises(OSError, match="b"):
            line.take(B, lambda event: None, C)
        assert [one.job for one in line._early] == [C], "nothing of the one that failed is kept"
        assert line.take(C, lambda event: None, None) == "c ready"


def test_whoever_is_stopped_stops_what_is_on_its_way():
    works, ended = Works(), []
    computing = works.hold("compute b")

    def compute(job, loaded, tell):
        try:
            return works.steps.compute(job, loaded, tell)
        except Closed:
            ended.append(job)
            raise

    with pytest.raises(KeyboardInterrupt), Line(Steps(works.steps.read, compute, works.steps.fit)) as line:
        line.take(A, lambda event: None, B)
        line.go_on()
        works.until("compute b")
        threading.Timer(0.1, computing.set).start()
        raise KeyboardInterrupt
    assert ended == [B]
