"""Output trees that other versions wrote: read, verified and superseded by this one; of a newer one refused.

`trees/` holds what each version made of the same small studies with threshold networks: a chest and its NIfTI done, a
series with a gap rejected. A version is added when it is released.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from datetime import datetime
from pathlib import Path

import pytest

from covct.disk import state
from covct.disk.outcome import is_whole, read_outcome
from covct.errors import UsageError
from covct.outputs import Outputs
from covct.phantom.chest import make_phantom
from covct.phantom.dicom import write_dicom_series
from covct.results.entries import read_tree
from covct.results.summary import write_summary
from covct.unattended import batch
from covct.unattended.status import tree_status
from support.running import invoke, read_json
from support.thresholds import make_networks, make_weights

pytestmark = pytest.mark.slow

TREES = sorted(Path(__file__).with_name("trees").glob("*.tar.xz"))
SMALL = {"slices": 20, "rows": 64, "columns": 64, "slice_spacing_mm": None, "pixel_spacing_mm": (6.0, 6.0)}
each_tree = pytest.mark.parametrize("tree", TREES, ids=lambda path: path.name.removesuffix(".tar.xz"))


def unpacked(tree: Path, out: Path) -> Path:
    with tarfile.open(tree) as archive:
        archive.extractall(out, filter="data")
    return out


@pytest.fixture
def inbox(tmp_path):
    """What those versions were given, of DICOM: the chest, and the series with two slices missing."""
    folder = tmp_path / "in"
    folder.mkdir()
    write_dicom_series(make_phantom(**SMALL, lesions="moderate", seed=1), folder / "chest")
    write_dicom_series(make_phantom(**SMALL, seed=2), folder / "gap")
    for path in sorted((folder / "gap").iterdir())[5:8:2]:
        path.unlink()
    return folder


def scan(inbox, out, tmp_path):
    if not (tmp_path / "weights").exists():
        make_weights(tmp_path / "weights")
    events = []
    order = batch.Order((inbox,), out, tmp_path / "weights", Outputs(("seg", "sr")))
    batch.scan(order, make_networks, events.append)
    return events


@each_tree
def test_it_is_read(tree, tmp_path):
    out = unpacked(tree, tmp_path / "out")
    entries = {entry.folder: entry.status for entry in read_tree(out)}
    assert sorted(entries.values()) == ["done", "done", "rejected"]
    told = tree_status(out, datetime.now().astimezone())
    assert (told["done"], told["rejected"], told["failed"]) == (2, 1, 0)
    write_summary(out)
    rows = (out / "summary.csv").read_text().splitlines()
    assert len(rows) == 4
    assert all(folder.split("/")[0] in "\n".join(rows) for folder in entries)


@each_tree
def test_verify_finds_its_results_whole(tree, tmp_path):
    """A report of 0.1.0 lacks what came later, which is no defect."""
    out = unpacked(tree, tmp_path / "out")
    ended = invoke("verify", out, "--json", "--no-dciodvfy")
    defects = [event for event in map(json.loads, ended.stdout.splitlines()) if event["event"] == "defect"]
    assert not defects


@each_tree
def test_it_is_superseded_and_nothing_is_counted_twice(tree, inbox, tmp_path):
    out = unpacked(tree, tmp_path / "out")
    before = {entry.folder: entry.status for entry in read_tree(out)}
    events = scan(inbox, out, tmp_path)
    redone = {event["folder"]: event["event"] for event in events if event["event"] in ("done", "rejected", "failed")}
    assert redone.items() <= before.items(), "the same studies come to the same end in the same folders"
    assert {entry.folder for entry in read_tree(out)} == set(before), "the NIfTI of that night is kept"
    for folder in redone:
        assert read_outcome(out / folder).work_key != ""
        assert is_whole(out / folder, read_outcome(out / folder))
    again = scan(inbox, out, tmp_path)
    assert not [event for event in again if event["event"] in ("done", "rejected", "failed")]


@each_tree
def test_its_result_stays_while_the_new_one_cannot_be_made(tree, inbox, tmp_path, monkeypatch):
    """What an earlier night wrote is never lost: the old folder goes with the commit of the new one, not before."""
    out = unpacked(tree, tmp_path / "out")
    [done] = [entry.folder for entry in read_tree(out) if entry.status == "done" and not entry.folder.startswith("nif")]
    old = {path.name: path.read_bytes() for path in (out / done).iterdir()}
    monkeypatch.setattr(state, "commit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        scan(inbox, out, tmp_path)
    assert {path.name: path.read_bytes() for path in (out / done).iterdir()} == old


@pytest.fixture
def newer(tmp_path, inbox):
    out = tmp_path / "out"
    scan(inbox, out, tmp_path)
    assert read_json(out / ".covct" / "format")["format"] == 1
    (out / ".covct" / "format").write_text('{"format": 99, "covct_version": "9.9", "more": []}\n')
    return out


def test_a_newer_tree_is_refused_with_a_sentence_and_left_alone(newer, inbox, tmp_path):
    before = {path: path.read_bytes() for path in newer.rglob("*") if path.is_file() and path.name != "lock"}
    with pytest.raises(UsageError, match=r"was written by covct 9.9, in format 99; this one, .* knows formats up to 1"):
        scan(inbox, newer, tmp_path)
    for command in (["status"], ["summary"], ["verify"]):
        assert isinstance(invoke(*command, newer).exception, UsageError)
    assert {p: p.read_bytes() for p in newer.rglob("*") if p.is_file() and p.name != "lock"} == before


def test_fields_that_this_version_does_not_know_are_passed_over(inbox, tmp_path):
    """A later version of the same format says more of a result: it is still finished."""
    out = tmp_path / "out"
    scan(inbox, out, tmp_path)
    for path in out.glob("*/*/outcome.json"):
        path.write_text(json.dumps({**read_json(path), "reviewed_by": "nobody"}))
    shutil.rmtree(out / ".covct")
    assert not [e for e in scan(inbox, out, tmp_path) if e["event"] in ("done", "rejected", "failed")]


def test_a_damaged_note_of_the_format_is_written_again(inbox, tmp_path):
    out = tmp_path / "out"
    for damage in ("", "null", "[1]", '{"format": "x"}', '{"format": Infinity}', '{"covct_version": "9"}'):
        (out / ".covct").mkdir(parents=True, exist_ok=True)
        (out / ".covct" / "format").write_text(damage)
        scan(inbox, out, tmp_path)
        assert read_json(out / ".covct" / "format")["format"] == 1
