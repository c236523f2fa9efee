"""The protocol of a night as a game: sender, watcher, mover, second writer, deaths, restarts and clock in any order.

The code is the real one but for the networks, whose place a few bytes take.
"""

import inspect
import io
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import pydicom
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from covct.disk import state
from covct.disk.durable import write_json
from covct.disk.outcome import read_outcome
from covct.errors import OutputLocked, SeriesError, Stopped
from covct.unattended import batch, index, one_series, preparing
from support.example_report import example_report
from support.thresholds import make_weights

pytestmark = pytest.mark.slow

GAMES = int(os.environ.get("COVCT_GAMES", "15"))  # a campaign has hundreds
STUDIES, SLICES = 2, 4
SETTLE_S = 10.0
CHANGES = ("rename", "replace", "link", "unlink", "mkdir", "rmdir", "fsync")


class Killed(BaseException):
    """The process is gone."""


@cache
def chest() -> tuple[bytes, ...]:
    """Four neighbouring slices."""
    from covct.phantom.chest import make_phantom
    from covct.phantom.dicom import write_dicom_series

    phantom = make_phantom(
        slices=30, rows=64, columns=64, slice_spacing_mm=None, pixel_spacing_mm=(6.0, 6.0), lesions="severe", seed=1
    )
    with tempfile.TemporaryDirectory() as folder:
        write_dicom_series(phantom, Path(folder))
        return tuple(path.read_bytes() for path in sorted(Path(folder).iterdir())[12 : 12 + SLICES])


@cache
def slice_of(study: int, number: int, version: int, shade: int = 0) -> bytes:
    """A corrected slice is another instance, as DICOM wants it; one of another shade is not, as senders do it."""
    dataset = pydicom.dcmread(io.BytesIO(chest()[number]))
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = f"1.2.{study}", f"1.2.{study}.1"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.{study}.1.{number + 1}.{version + 1}"
    dataset.PixelData = (dataset.pixel_array + shade).tobytes()
    written = io.BytesIO()
    dataset.save_as(written)
    return written.getvalue()


class World:
    """What stands around the program while a game lasts: its calls to the file system pass through here."""

    def __init__(self):
        self.real = {name: getattr(os, name) for name in CHANGES}
        self.deadly: int | None = None  # the process dies at the change after so many
        self.overtaken: tuple[Path, Callable[[], None]] | None = (
            None  # what its sender does as it is about to be renamed
        )

    def __enter__(self):
        for name, real in self.real.items():
            setattr(os, name, self._watched(name, real))
        return self

    def __exit__(self, *_):
        for name, real in self.real.items():
            setattr(os, name, real)

    def _watched(self, name, real):
        def change(*arguments, **options):
            if self.deadly is not None:
                if self.deadly == 0:
                    raise Killed
                self.deadly -= 1
            if name == "rename" and self.overtaken and Path(arguments[0]) == self.overtaken[0]:
                (_, sends), self.overtaken = self.overtaken, None
                sends()
            return real(*arguments, **options)

        return change

    def send(self, path: Path, content: bytes) -> None:
        """As a good sender does: beside, and renamed."""
        os.makedirs(path.parent, exist_ok=True)
        beside = path.with_suffix(".part")
        beside.write_bytes(content)
        self.real["replace"](beside, path)


class Watcher:
    """`covct watch` in a thread that goes on when it is told to."""

    def __init__(self, order, clock):
        self.go, self.idle, self.stopping, self.ended, self.error = (
            threading.Semaphore(0), threading.Semaphore(0), False, False, None,
        )  # fmt: skip
        self.events: list[dict] = []
        self.thread = threading.Thread(target=self._run, args=(order, clock))
        self.thread.start()
        self.idle.acquire()

    def _run(self, order, clock):
        try:
            batch.watch(order, lambda: pytest.fail("networks"), self.events.append, SETTLE_S, 1.0, self._sleep, clock)
        except (Stopped, Killed):
            pass
        except BaseException as error:
            self.error = error
        finally:
            self.ended = True
            self.idle.release()

    def _sleep(self, seconds):
        self.idle.release()
        self.go.acquire()
        if self.stopping:
            raise Stopped("SIGTERM")

    def look(self, stop=False):
        self.stopping = stop
        self.go.release()
        self.idle.acquire()
        if self.ended:
            self.thread.join()


class Protocol(RuleBasedStateMachine):
    """Nothing sent is lost, only what was processed is moved, one writes, what rests gets an outcome, nothing twice."""

    @initialize()
    def begin(self):
        self.patch = pytest.MonkeyPatch()
        self.base = Path(tempfile.mkdtemp())
        self.inbox, self.out, self.done = self.base / "in", self.base / "out", self.base / "done"
        self.inbox.mkdir()
        make_weights(self.base / "weights")
        self.now, self.days = 0.0, 0
        self.sent: dict[Path, bytes] = {}
        self.versions: dict[tuple[int, int], int] = {}
        self.shades: dict[tuple[int, int], int] = {}
        self.whole: set[bytes] = set()
        self.processed: set[bytes] = set()
        self.moved: set[bytes] = set()
        self.faults: list[str] = []
        self.watcher: Watcher | None = None
        self.patch.setattr(preparing, "_computed", self._computed)
        self.patch.setattr(one_series, "_write", self._write)
        self.patch.setattr(state, "LOCK_PATIENCE_S", 0.0)
        for known in (index.Index.__init__, inspect.unwrap(index.open_index)):
            self.patch.setattr(known, "__defaults__", (self._now_ns,))
        self.world = World().__enter__()

    def teardown(self):
        if not hasattr(self, "base"):
            return
        try:
            self.rest()
        finally:
            self.world.__exit__()
            self.patch.undo()
            if self.watcher and not self.watcher.ended:
                self.watcher.look(stop=True)
            shutil.rmtree(self.base)

    def _now_ns(self):
        """Files have come to rest by then, whatever day the clock says."""
        return time.time_ns() + (3600 + 86_400 * self.days) * 10**9

    def _order(self):
        began = datetime.now(UTC) + timedelta(days=self.days, seconds=self.now)
        return batch.Order((self.inbox,), self.out, self.base / "weights", move_done=self.done, began=began)

    def _computed(self, order, job, scan, work_key, networks, clock, emit):
        """In the place of the networks: what was read."""
        contents = {instance.file.path.read_bytes() for instance in job.series.instances}
        if not contents <= self.whole:
            raise SeriesError("unreadable", "a slice is cut short")
        return contents

    def _write(self, order, job, prepared, stage, emit, go_on):
        go_on()
        there = read_outcome(order.out / job.series.folder)
        if there and (there.work_key, there.status) == (prepared.read.work_key, "done"):
            self.faults.append(f"done twice: {job.series.folder}")
        self.processed |= prepared.result
        report = example_report()
        write_json(stage / "report.json", report)
        return report

    def _path(self, study, number):
        return self.inbox / str(study) / f"{number}.dcm"

    def _content(self, study, number, corrected=False):
        self.versions[study, number] = self.versions.get((study, number), 0) + corrected
        content = slice_of(study, number, self.versions[study, number], self.shades.get((study, number), 0))
        self.whole.add(content)
        return content

    # The sender

    @rule(study=st.integers(0, STUDIES - 1), numbers=st.sets(st.integers(0, SLICES - 1), min_size=1))
    def sends(self, study, numbers):
        """New slices, or the same ones again."""
        for number in sorted(numbers):
            self.sent[self._path(study, number)] = content = self._content(study, number)
            self.world.send(self._path(study, number), content)

    @rule(study=st.integers(0, STUDIES - 1))
    def sends_all(self, study):
        self.sends(study, set(range(SLICES)))

    @rule(study=st.integers(0, STUDIES - 1), number=st.integers(0, SLICES - 1))
    def begins_to_send(self, study, number):
        """In place, and is cut off: until it is sent again there is no such slice."""
        path = self._path(study, number)
        os.makedirs(path.parent, exist_ok=True)
        path.write_bytes(self._content(study, number)[:-3000])
        self.sent.pop(path, None)

    @rule(study=st.integers(0, STUDIES - 1), number=st.integers(0, SLICES - 1))
    def corrects(self, study, number):
        self.sent[self._path(study, number)] = content = self._content(study, number, True)
        self.world.send(self._path(study, number), content)

    @rule(study=st.integers(0, STUDIES - 1), number=st.integers(0, SLICES - 1))
    def replaces(self, study, number):
        """By other pixels under the old UID, which DICOM forbids."""
        self.shades[study, number] = self.shades.get((study, number), 0) + 1
        self.sends(study, {number})

    @rule(study=st.integers(0, STUDIES - 1), number=st.integers(0, SLICES - 1))
    def will_correct_it_as_it_is_moved(self, study, number):
        self.world.overtaken = self._path(study, number), lambda: self.corrects(study, number)

    # The one who watches and moves

    @precondition(lambda self: self.watcher is None)
    @rule()
    def starts(self):
        self.watcher = Watcher(self._order(), lambda: self.now)
        self._after_a_look()

    @precondition(lambda self: self.watcher is not None)
    @rule(seconds=st.sampled_from([1.0, SETTLE_S + 1]))
    def looks(self, seconds):
        self.now += seconds
        self.watcher.look()
        self._after_a_look()

    @precondition(lambda self: self.watcher is not None)
    @rule(changes=st.integers(0, 150))
    def dies(self, changes):
        """At this change of the disk, in the next look that comes to so many."""
        self.now += SETTLE_S + 1
        self.world.deadly = changes
        self.watcher.look()
        self.world.deadly = None
        self._after_a_look()

    @precondition(lambda self: self.watcher is not None)
    @rule(
        study=st.integers(0, STUDIES - 1),
        corrected=st.booleans(),
        changes=st.none() | st.integers(0, 150),
        overtaken=st.none() | st.integers(0, SLICES - 1),
    )
    def takes_a_study(self, study, corrected, changes, overtaken):
        """A whole one comes, is processed and moved; or it dies at a change, or the sender comes between."""
        for number in range(SLICES):
            if corrected:
                self.corrects(study, number)
        self.sends_all(study)
        self.looks(1.0)
        if overtaken is not None:
            self.will_correct_it_as_it_is_moved(study, overtaken)
        if self.watcher and changes is not None:
            self.dies(changes)
        elif self.watcher:
            self.looks(SETTLE_S + 1)

    @precondition(lambda self: self.watcher is not None)
    @rule()
    def is_stopped(self):
        self.watcher.look(stop=True)
        self._after_a_look()

    def _after_a_look(self):
        assert self.watcher.error is None, self.watcher.error
        if self.watcher.ended:
            self.watcher = None

    # Others

    @precondition(lambda self: self.watcher is None)
    @rule()
    def scans(self):
        batch.scan(self._order(), lambda: pytest.fail("networks"), lambda event: None)

    @rule()
    def a_second_writer_comes(self):
        try:
            with state.lock(self.out):
                assert self.watcher is None, "two at once"
        except OutputLocked:
            assert self.watcher is not None, "the lock of a dead process"

    @rule(days=st.sampled_from([-4000, -1, 0, 1, 4000]))
    def the_clock_is_set(self, days):
        self.days = days

    # What always holds

    def _contents(self, *folders):
        paths = (path for folder in folders for path in folder.rglob("*.dcm"))
        return {path.read_bytes() for path in paths if ".covct" not in path.parts}

    @invariant()
    def nothing_is_lost(self):
        if not hasattr(self, "base"):
            return
        assert not self.faults
        everything = self._contents(self.inbox, self.done)
        assert {*self.sent.values()} <= everything
        now_moved = self._contents(self.done) - {b""}
        assert self.moved <= now_moved, "gone from where it was moved"
        self.moved = now_moved
        beside = {path.read_bytes() for path in self.done.rglob("*.replaced*.dcm")}
        assert now_moved - beside <= self.processed, "moved and not processed"

    def rest(self):
        """Nobody disturbs it any more."""
        self.world.overtaken = None
        if self.watcher is None:
            self.starts()
        for _ in range(8):
            self.looks(SETTLE_S + 1000)
            self.nothing_is_lost()
        for study in range(STUDIES):
            left = [path for path in (self.inbox / str(study)).rglob("*") if path.is_file()]
            outcome = read_outcome(self.out / f"1.2.{study}" / f"1.2.{study}.1")
            if any((self.inbox / str(study), self.done / str(study))) and any(
                p.parent.name == str(study) for p in self.sent
            ):
                assert outcome, "a study that has come to rest, and no outcome"
            halves = [path for path in left if path.read_bytes() not in self.whole]  # their study waits for the rest
            if outcome and outcome.status == "done" and not halves:
                assert not left, "done, and not moved"
        kept = [path.read_bytes() for path in self.done.rglob("*.dcm") if ".covct" not in path.parts]
        assert len(kept) == len({*kept}), "moved twice"
        assert not list((self.out / ".covct" / "attempts").glob("*"))
        assert not [path for name in ("old", "staging") for path in (self.out / ".covct" / name).glob("*/*/*")]


TestProtocol = Protocol.TestCase
TestProtocol.settings = settings(max_examples=GAMES, stateful_step_count=15, deadline=None)
