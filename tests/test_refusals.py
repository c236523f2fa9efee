"""Files that cannot be read: not at every look, and never by a third process that they end."""

import os

import pytest

from covct.errors import SeriesError
from covct.unattended.refusals import FIRST_DELAY_S, LONGEST_DELAY_S, Refusals
from support.batches import later
from support.bombs import deflated_items

STATUS = (1, 2, 3, 4)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def read(refusals, error=None, status=STATUS, key=b"a"):
    """Whether the file was really read, and what came of it."""
    begun = []
    try:
        with refusals.watched(key, status, "a.dcm"):
            begun.append(1)
            if error:
                raise error
    except SeriesError as said:
        return bool(begun), said.message
    return bool(begun), None


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def refusals(tmp_path, clock):
    return Refusals(tmp_path, clock, lambda: 0)


def test_what_cannot_be_read_is_read_again_at_longer_intervals(refusals, clock):
    """24 KB that take seconds took them at every look of the night."""
    times = []
    for second in range(0, 12 * 3600, 10):
        clock.now = second
        was_read, said = read(refusals, SeriesError("unreadable", "cut short"))
        assert said == "cut short", "it is named at every look all the same"
        times += [second] if was_read else []
    waits = [b - a for a, b in zip(times, times[1:], strict=False)]
    assert waits[:4] == [FIRST_DELAY_S * n for n in (1, 2, 4, 8)]
    assert waits[-1] == LONGEST_DELAY_S


def test_a_file_that_changes_is_read_at_once(refusals):
    read(refusals, SeriesError("unreadable", "cut short"))
    assert read(refusals, status=(2, 2, 3, 4)) == (True, None)
    assert read(refusals) == (True, None), "nothing is held against it any more"


def test_a_drive_that_fails_is_not_the_files_fault(refusals):
    """The file is as it was when the network is back."""
    failing = SeriesError("unreadable", "Input/output error")
    failing.__cause__ = OSError(5, "Input/output error")
    read(refusals, failing)
    assert read(refusals) == (True, None)


def test_files_that_went_away_are_forgotten(refusals):
    read(refusals, SeriesError("unreadable", "cut short"))
    refusals.sweep(set())
    assert read(refusals) == (True, None)


def killed_at(tmp_path, key, status=STATUS):
    """A process that begins to read a file, and ends there."""
    child = os.fork()
    if child == 0:
        with Refusals(tmp_path).watched(key, status, "a.dcm"):
            os._exit(0)
    os.waitpid(child, 0)


def test_a_file_that_ended_two_processes_is_left_to_no_third(tmp_path):
    """In a container of 1 GiB one file killed four of them, and the night was over."""
    for key in (b"a", b"b", b"a", b"b"):
        killed_at(tmp_path, key)
    after = Refusals(tmp_path)
    for key in (b"a", b"b"):
        was_read, said = read(after, key=key)
        assert not was_read and said.startswith("2 processes died while reading it")
    assert read(after, key=b"c") == (True, None)
    assert read(after, key=b"a", status=(9, 9, 9, 9)) == (True, None), "another file under its name"


def test_one_death_is_forgiven(tmp_path):
    """It may have been an operator's kill, or a power cut."""
    killed_at(tmp_path, b"a")
    assert read(Refusals(tmp_path)) == (True, None)
    assert read(Refusals(tmp_path)) == (True, None), "and a whole read is no death"


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"a": 1}', b"{", b'{"a": [1, "x"]}', bytes(16)])
def test_damaged_notes_are_none(damage, tmp_path):
    (tmp_path / "suspects.json").write_bytes(damage)
    (tmp_path / "reading").write_bytes(damage[:7])
    assert read(Refusals(tmp_path)) == (True, None)
    assert read(Refusals(tmp_path / "missing")) == (True, None)


def test_an_inbox_with_a_hostile_file_is_looked_at_in_peace(four_slices, index_file, files_read):
    """By the index: the second look of a watch reads neither the slices nor what was refused."""
    from covct.unattended import index
    from covct.unattended.inbox import survey

    (four_slices / "z.dcm").write_bytes(deflated_items(100_000))
    with index.open_index(index_file, later) as opened:
        for _ in range(3):
            seen = survey([four_slices], None, opened)
            opened.sweep()
            assert [problem.slug for problem in seen.problems] == ["unreadable"]
            assert [len(study.files) for study in seen.studies.values()] == [4]
    assert files_read.count("z.dcm") == 1
