"""Power failures: what a disk may be left with without an fsync. All of them: `python tests/crash_states.py --all`."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from crash_states import NAMES, compiled
from support.disk import Call, Disk, lay

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """What each campaign found, by name; it is a process of its own, with the recorder before the C library."""
    if not compiled(tmp_path_factory.mktemp("recorder")):
        pytest.skip("takes a C compiler, on Linux")
    command = [sys.executable, str(HERE / "crash_states.py"), "--json", "--states", "40", "--dear", "4"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    rows = {row["name"]: row for row in map(json.loads, run.stdout.splitlines())}
    assert rows, run.stderr
    return rows


@pytest.mark.parametrize("name", NAMES)
def test_after_a_power_failure_the_rerun_leaves_what_an_undisturbed_run_does(name, rows):
    """Nothing lost, nothing half, nothing twice; and what was said to be done is done. States are drawn by a seed."""
    row = rows[name]
    assert row["calls"] and row["checked"]
    assert not row["faults"]


def disk(root, *calls):
    """One folder with one old file, and what was done since."""
    lay(root, {"a": None, "b": None, "a/old": b"old"})
    found = Disk(root)
    found.record(
        [Call(kind, str(root / path), str(root / other), number, data) for kind, path, other, number, data in calls]
    )
    return found


def states(found, time=None):
    return [*found.states(found.end if time is None else time, random.Random(1))]


def test_a_file_that_was_renamed_without_fsync_may_be_empty(tmp_path):
    found = disk(tmp_path, ("C", "a/new", "", 0, b""), ("W", "a/new", "", 0, b"text"), ("R", "a/new", "a/old", 0, b""))
    assert {state.get("a/old") for state in states(found)} >= {b"old", b"text", b""}


def test_a_file_that_was_fsynced_before_it_was_renamed_is_the_old_or_the_new_one(tmp_path):
    found = disk(
        tmp_path, ("C", "a/new", "", 0, b""), ("W", "a/new", "", 0, b"text"), ("S", "a/new", "", 0, b""),
        ("R", "a/new", "a/old", 0, b""),
    )  # fmt: skip
    assert {state.get("a/old") for state in states(found)} == {b"old", b"text"}


def test_what_a_folder_was_fsynced_for_stays(tmp_path):
    calls = ("C", "a/new", "", 0, b""), ("S", "a", "", 0, b""), ("U", "a/old", "", 0, b"")
    found = disk(tmp_path, *calls)
    assert all("a/new" in state for state in states(found))
    assert {"a/old" in state for state in states(found)} == {True, False}
    assert {"a/new" in state for state in states(found, 1)} == {True, False}


def test_changes_of_two_folders_come_in_any_order_and_a_rename_is_one_of_both(tmp_path):
    found = disk(tmp_path, ("R", "a/old", "b/old", 0, b""), ("C", "b/new", "", 0, b""), ("C", "a/new", "", 0, b""))
    for state in states(found):
        assert ("a/old" in state) is not ("b/old" in state)
        assert "b/old" in state or not {"a/new", "b/new"} & state.keys(), "they came later in the same folder"
    assert {("a/new" in state, "b/new" in state) for state in states(found)} == {
        (False, False), (True, False), (False, True), (True, True),
    }  # fmt: skip


def test_of_writes_that_were_not_fsynced_any_may_be_there(tmp_path):
    writes = [("W", "a/old", "", offset, b"NEW") for offset in (0, 3, 6)]
    found = disk(tmp_path, *writes)
    contents = {state["a/old"] for state in states(found)}
    assert {b"old", b"NEWNEWNEW", b"old" + bytes(6), b"NEWNEWN"} <= contents
