"""Faults by the dozen: the campaigns of faults.py and soak.py, shortened. Whole, in an hour: `COVCT_FAULTS=full`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from faults import CAMPAIGNS, OF_TEN

pytestmark = pytest.mark.slow

FULL = os.environ.get("COVCT_FAULTS") == "full"
HERE = Path(__file__).parent
# Left out of the short form: what is drawn by the clock, not by a seed.
NAMES = [name for name in CAMPAIGNS if FULL or name not in OF_TEN]


def told(script, *arguments):
    """What a script prints; it is a process of its own, since one with threads cannot be forked."""
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """What each campaign found, by name."""
    short = () if FULL else ("--short",)
    run = told("faults.py", "--json", "--folder", tmp_path_factory.mktemp("faults"), *short, "--only", *NAMES)
    rows = {row["name"]: row for row in map(json.loads, run.stdout.splitlines())}
    assert rows, run.stderr
    return rows


@pytest.mark.parametrize("name", NAMES)
def test_after_a_fault_the_rerun_leaves_the_tree_of_an_undisturbed_run(name, rows):
    """Nothing lost, nothing twice, nothing half, the same bytes; faults are drawn by a seed."""
    row = rows[name]
    if row["omitted"]:
        pytest.skip(row["omitted"])
    assert row["runs"]
    assert not row["faults"]


def test_series_that_arrive_in_every_way_are_each_done_with_all_their_slices(tmp_path):
    """Thirty of them: whole, by halves, late, under other names, in any order. Memory is for the long form to judge."""
    run = told(
        "soak.py", "--series", 2000 if FULL else 30, "--settle", 0.5, "--interval", 0.1, "--folder", tmp_path,
    )  # fmt: skip
    found = json.loads(run.stdout)
    assert not found["faults"], run.stderr
    assert found["exit"] == 130
    first, last = found["descriptors"]
    assert last <= first + 2
    if FULL:
        assert run.returncode == 0, found
