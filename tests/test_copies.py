"""One volume under several names: it is done once, the other names are noted, and they go with it."""

import json
import os
import shutil
import zipfile
from dataclasses import replace
from datetime import datetime

import pytest
from typer.testing import CliRunner

from covct.cli import app
from covct.intake.discover import discover
from covct.intake.nifti import write_nifti
from covct.unattended import batch
from covct.unattended.convert import Conversion, convert
from covct.unattended.since_until import parse_since
from support.batches import never, run, watched
from support.running import read_json

pytestmark = pytest.mark.slow


def copied(path, again):
    again.parent.mkdir(exist_ok=True)
    shutil.copy(path, again)


def linked(path, again):
    again.parent.mkdir(exist_ok=True)
    again.symlink_to(path)


def hard_linked(path, again):
    again.parent.mkdir(exist_ok=True)
    again.hardlink_to(path)


def zipped(path, again):
    again.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(again.with_suffix(".zip"), "w") as archive:
        archive.write(path, path.name)


WAYS = (copied, linked, hard_linked, zipped)


@pytest.fixture
def chest(phantom, inbox):
    """A NIfTI in the inbox, beside three DICOM studies."""
    path = inbox / "d" / "chest.nii.gz"
    path.parent.mkdir()
    write_nifti(phantom.volume, path)
    return path


def warnings(out):
    [report] = out.glob("nifti-*/volume/report.json")
    return {one["slug"]: one["message"] for one in read_json(report)["warnings"]}


@pytest.mark.parametrize("again", WAYS)
def test_a_copied_nifti_is_done_once_and_noted(again, chest, inbox, order, networks):
    again(chest, inbox / "e" / "copy of chest.nii.gz")
    tally, _ = run(order, networks)
    assert (tally["done"], tally["failed"]) == (4, 0)
    assert warnings(order.out)["duplicate-files"].startswith("1 file repeats the contents of one already there")


def test_a_nifti_that_is_there_once_is_not_noted_as_a_copy(chest, order, networks):
    run(order, networks)
    assert "duplicate-files" not in warnings(order.out)


@pytest.mark.parametrize("again", WAYS)
def test_a_copy_that_comes_the_next_night_is_not_done_again(again, chest, inbox, order, networks):
    run(order, networks)
    before = {path: path.stat().st_mtime_ns for path in order.out.glob("*/*/*")}
    again(chest, inbox / "a" / "copy.nii.gz")
    tally, _ = run(order, never)
    assert tally["done before"] == 4
    assert {path: path.stat().st_mtime_ns for path in order.out.glob("*/*/*")} == before


def test_a_copy_that_comes_while_the_inbox_is_watched(chest, inbox, order, networks):
    watched(order, networks, [None, None, lambda: copied(chest, inbox / "e" / "copy.nii.gz"), None, None, None])
    assert len(list(order.out.glob("nifti-*/volume/report.json"))) == 1
    assert len(list(order.out.glob("*/*/report.json"))) == 4


def test_a_dry_run_shows_the_copied_nifti_once(chest, inbox, order):
    copied(chest, inbox / "e" / "copy of chest.nii.gz")
    asked = [str(inbox), "--out", str(order.out), "--weights", str(order.weights), "--dry-run", "--json"]
    result = CliRunner().invoke(app, ["scan", *asked])
    assert result.exit_code == 0
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["verdict"] for row in rows] == ["segment"] * 4


def test_a_copied_nifti_is_converted_once(chest, inbox, tmp_path):
    copied(chest, inbox / "e" / "copy.nii.gz")
    counts = convert(Conversion((inbox,), tmp_path / "converted", to="dicom"), lambda event: None)
    assert counts["converted"] == 1


def test_two_empty_uploads_are_one_rejected_file(inbox, order, networks):
    for name in ("one.nii", "two.nii", "three.nii.gz"):
        (inbox / name).touch()
    tally, events = run(order, networks)
    assert (tally["done"], tally["rejected"]) == (3, 1)
    [rejected] = [event for event in events if event["event"] == "rejected"]
    assert rejected["slug"] == "unreadable"


def test_both_names_are_moved_with_what_is_done(chest, inbox, order, networks, tmp_path):
    copied(chest, inbox / "e" / "copy.nii.gz")
    moving = replace(order, move_done=tmp_path / "moved")
    run(moving, networks)
    assert sorted(path.name for path in moving.move_done.rglob("*.nii.gz")) == ["chest.nii.gz", "copy.nii.gz"]
    assert not list(inbox.rglob("*.nii.gz"))


def test_a_copy_of_what_was_moved_follows_it(chest, inbox, order, networks, tmp_path):
    aside = shutil.copy(chest, tmp_path / "aside.nii.gz")
    moving = replace(order, move_done=tmp_path / "moved")
    run(moving, networks)
    shutil.copy(aside, inbox / "late.nii.gz")
    tally, _ = run(moving, never)
    assert (tally["done"], tally["done before"]) == (0, 1)
    assert sorted(path.name for path in moving.move_done.rglob("*.nii.gz")) == ["chest.nii.gz", "late.nii.gz"]
    assert not list(inbox.rglob("*.nii.gz"))


def test_the_same_file_named_twice_is_no_copy(chest):
    [series] = discover([chest, chest, chest.parent]).series
    assert series.twins == ()


def test_a_copy_taken_since_yesterday_brings_the_old_name_along(chest, inbox, order):
    os.utime(chest, (0, 0))
    copied(chest, inbox / "new.nii.gz")
    found = batch.look(replace(order, since=parse_since("1h", datetime.now().astimezone())))
    assert [series.kind for series in found.series if series.kind == "nifti"] == ["nifti"]
