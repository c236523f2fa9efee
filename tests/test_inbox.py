"""When a study has settled: whatever arrives, in whatever order, it is taken whole and not before."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covct.disk.sources import Problem, SourceFile
from covct.intake.discover import is_partial
from covct.unattended.inbox import Settling, Study, Survey

SETTLE = 30


class Files:
    """An index that only says which files are as they were."""

    def __init__(self, changing=()):
        self.changing = changing

    def still(self, file):
        return file.path.name not in self.changing


def seen(**studies):
    """A survey: of each study the files, with a mark each."""
    found = Survey()
    for name, marks in studies.items():
        files = [SourceFile(f"/inbox/{name}/{number}") for number in range(len(marks))]
        found.studies[name] = Study(files, list(marks))
    return found


def settling(marker=""):
    return Settling(SETTLE, marker, [Path("/inbox")])


def test_a_study_is_ready_when_it_held_still():
    rule = settling()
    assert rule.ready(seen(a=[1, 2]), Files(), 0) == []
    assert rule.ready(seen(a=[1, 2]), Files(), 29) == []
    assert rule.ready(seen(a=[1, 2]), Files(), 30) == ["a"]


def test_a_late_file_begins_the_wait_again():
    rule = settling()
    rule.ready(seen(a=[1]), Files(), 0)
    assert rule.ready(seen(a=[1, 2]), Files(), 29) == []
    assert rule.ready(seen(a=[1, 2]), Files(), 58) == []
    assert rule.ready(seen(a=[1, 2]), Files(), 59) == ["a"]


def test_one_restless_study_does_not_keep_the_others():
    rule = settling()
    rule.ready(seen(a=[1], b=[1]), Files(), 0)
    assert rule.ready(seen(a=[1], b=[2]), Files(), 30) == ["a"]
    assert rule.counts == {"studies": 2, "waiting": 1, "without_marker": 0}


def test_a_study_is_taken_once():
    rule = settling()
    rule.ready(seen(a=[1]), Files(), 0)
    rule.take("a", seen(a=[1]).studies["a"], False, 30)
    assert rule.ready(seen(a=[1]), Files(), 1e6) == []


def test_a_new_file_reopens_a_taken_study_and_one_that_goes_away_does_not():
    """A network drive that shows a part, or whoever clears the inbox, must not undo a whole result."""
    rule = settling()
    rule.take("a", seen(a=[1, 2, 3]).studies["a"], False, 0)
    for now in (0, 100):
        assert rule.ready(seen(a=[1, 3]), Files(), now) == []
    rule.ready(seen(a=[1, 2, 3, 4]), Files(), 200)
    assert rule.ready(seen(a=[1, 2, 3, 4]), Files(), 230) == ["a"]


def test_a_network_drive_that_shows_old_sizes_is_asked_by_opening():
    """NFS keeps attributes for up to a minute, longer than a study is waited for."""
    rule = settling()
    rule.ready(seen(a=[1, 2]), Files(), 0)
    assert rule.ready(seen(a=[1, 2]), Files(changing=["1"]), 30) == []
    assert rule.ready(seen(a=[1, 2]), Files(), 59) == [], "the wait begins again"
    assert rule.ready(seen(a=[1, 2]), Files(), 60) == ["a"]


def test_what_could_not_be_read_is_tried_again_at_longer_intervals():
    rule, study = settling(), seen(a=[1])
    rule.ready(study, Files(), 0)
    now, waits = 30.0, []
    for _ in range(12):
        rule.take("a", study.studies["a"], True, now)
        taken = now
        while not rule.ready(study, Files(), now):
            now += 1
        waits.append(now - taken)
    assert waits[:4] == [30, 60, 120, 240]
    assert waits[-1] == 3600


def test_a_growing_unfinished_file_keeps_the_study_beside_it(tmp_path):
    rule, part = Settling(SETTLE, "", [tmp_path]), tmp_path / "3.dcm.part"
    study = Survey(arriving=[SourceFile(str(part))])
    study.studies["a"] = Study([SourceFile(str(tmp_path / "1.dcm"))], [1])
    for step in range(5):
        part.write_bytes(bytes(step))
        assert rule.ready(study, Files(), 30 * step) == []
    assert rule.ready(study, Files(), 150) == ["a"], "one that somebody forgot does not keep it for ever"


@pytest.mark.parametrize("times", [(0, 0), (2**33, 2**33), (-(10**9), -(10**9))])
def test_times_in_the_future_or_the_past_do_not_block(tmp_path, times):
    path = tmp_path / "x.part"
    path.write_bytes(b"")
    os.utime(path, times)
    rule = Settling(SETTLE, "", [tmp_path])
    study = Survey(arriving=[SourceFile(str(path))])
    study.studies["a"] = Study([SourceFile(str(tmp_path / "1.dcm"))], [1])
    rule.ready(study, Files(), 0)
    assert rule.ready(study, Files(), 30) == ["a"]


@pytest.mark.parametrize(
    ("marker", "files", "taken"),
    [
        ("study/DONE", ["study/1/a", "study/2/b"], True),
        ("study/1/DONE", ["study/1/a", "study/2/b"], False),
        ("DONE", ["study/1/a"], False),
        ("DONE", ["a"], True),
        ("other/DONE", ["study/1/a"], False),
    ],
)
def test_a_marker_speaks_of_its_folder_and_those_below(tmp_path, marker, files, taken):
    for name in (marker, *files):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    study = Survey()
    study.studies["a"] = Study([SourceFile(str(tmp_path / name)) for name in files], list(range(len(files))))
    rule = Settling(0, "DONE", [tmp_path])
    assert rule.ready(study, Files(), 0) == (["a"] if taken else [])
    assert rule.counts["without_marker"] == (not taken)


def test_a_problem_is_told_once_and_not_while_it_may_be_half_copied():
    rule = settling()
    broken = Survey(problems=[Problem("a.dcm", "unreadable", "cut short")])
    assert rule.problems(broken, 0) == []
    assert [p.label for p in rule.problems(broken, 30)] == ["a.dcm"]
    assert rule.problems(broken, 60) == []
    assert rule.problems(Survey(), 61) == []
    assert rule.problems(broken, 62) == []
    assert [p.label for p in rule.problems(broken, 92)] == ["a.dcm"], "it is another time"


MARKS = st.sampled_from([1, 10, 100, 1000, 10000])  # no two sets of them have one sum, as 64 random bits have not
STATES = st.frozensets(MARKS)


@given(st.lists(st.tuples(STATES, st.integers(0, 40)), max_size=30))
def test_whatever_happens_a_study_is_taken_only_still_and_not_twice(history):
    """The inbox is in each state for so many seconds, and is looked at whenever one begins."""
    rule, now, since, before, taken = settling(), 0, 0, None, []
    for marks, seconds in history:
        if marks != before:
            before, since = marks, now
        found = seen(**({"a": sorted(marks)} if marks else {}))
        if rule.ready(found, Files(), now):
            assert now - since >= SETTLE
            assert not (taken and marks <= taken[-1]), "nothing new"
            taken.append(marks)
            rule.take("a", found.studies["a"], False, now)
        elif not marks:
            taken.clear()
        else:
            assert now - since < SETTLE or (taken and marks <= taken[-1])
        now += seconds


@pytest.mark.parametrize(
    "name", ["1.dcm.part", "1.dcm.PART", "1.filepart", "1.tmp", "1.dcm.crdownload", "1.dcm~", "a.zip.partial"]
)
def test_names_of_unfinished_transfers(name):
    assert is_partial(name)


@pytest.mark.parametrize("name", ["1.dcm", "IM00001", "1.2.840.1", "part.dcm", "tmp", "a.nii.gz"])
def test_names_of_whole_files(name):
    assert not is_partial(name)
