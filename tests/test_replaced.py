"""Files that are replaced under their old SOP Instance UIDs once their series is finished, and files only touched."""

import json
import os
import shutil
import time
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest

from covct.disk.outcome import read_outcome
from covct.intake.discover import discover
from covct.results.verify import verify
from covct.unattended import batch, replaced
from support.batches import watched
from support.encodings import rewrite
from support.line import night
from support.running import invoke, read_json
from support.series import change, each_slice, hu_of, put_hu

pytestmark = pytest.mark.slow

SEG = "segmentation.seg.dcm"


def brighten(folder):
    """Pixels alone: air in the lungs becomes ground glass. Every file has the size that it had."""
    for dataset in each_slice(folder):
        put_hu(dataset, np.where(hu_of(dataset) < -400, hu_of(dataset) + 100, hu_of(dataset)))


def move_patient(folder):
    """Place alone: the slices lie 5 mm higher, written in as many characters."""
    for dataset in each_slice(folder):
        x, y, z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, y, round(float(z) + 5, 1)]


def touch(folder):
    for path in folder.iterdir():
        os.utime(path, (time.time() - 3600, time.time() - 3600))


def encode_anew(folder):
    rewrite(folder, pydicom.uid.JPEGLSLossless)


def describe_otherwise(folder):
    """As archives do of what they send again."""
    change(folder, StudyDescription="coerced", RetrieveAETitle="ARCHIVE")


def forget_what_was_finished(out):
    """As after an update: every study is planned again."""
    (out / ".covct" / batch.INDEX_NAME).unlink()


def only(out):
    """The one result of a tree: its outcome, and its files with what they hold."""
    [path] = out.glob("*/*/outcome.json")
    return read_outcome(path.parent), {one.name: one.read_bytes() for one in path.parent.glob("*.dcm")}


def unread(monkeypatch):
    def read(*_):
        raise AssertionError("the series was read")

    monkeypatch.setattr("covct.pipeline.series.read", read)


def test_replaced_slices_get_results_with_uids_of_their_own(series_folder, tmp_path):
    """And those that were there first get theirs back, byte for byte: UIDs follow from what an object is made of."""
    original = shutil.copytree(series_folder, tmp_path / "original")
    first = night(series_folder, formats=("seg",))
    before, objects = only(first.out)
    brighten(series_folder)
    second = night(series_folder, out=first.out, formats=("seg",))
    after, _ = only(first.out)
    assert after.work_key != before.work_key
    assert after.content == before.content
    was, now = pydicom.dcmread(BytesIO(objects[SEG])), pydicom.dcmread(second.result / SEG)
    assert (was.SOPInstanceUID, was.SeriesInstanceUID) != (now.SOPInstanceUID, now.SeriesInstanceUID)
    assert not [defect for verdict in verify(first.out, [series_folder]) for defect in verdict.defects]
    assert night(series_folder, out=first.out, formats=("seg",)).said("skipped")
    for path in original.iterdir():
        shutil.copyfile(path, series_folder / path.name)
    assert night(series_folder, out=first.out, formats=("seg",)).said("done")
    assert only(first.out)[0].work_key == before.work_key
    assert only(first.out)[1] == objects


def test_slices_in_another_place_reopen_their_series(series_folder):
    first = night(series_folder)
    move_patient(series_folder)
    assert night(series_folder, out=first.out).said("done")


@pytest.mark.parametrize("change_files", [touch, encode_anew, describe_otherwise])
def test_changed_files_with_the_same_slices_are_compared_once(change_files, series_folder, monkeypatch):
    first = night(series_folder)
    before = only(first.out)[0]
    change_files(series_folder)
    again = night(series_folder, out=first.out)
    assert not again.said("done")
    assert [one["status"] for one in again.said("unchanged")] == ["done"]
    assert (again.tally["done before"], again.tally["done"], again.tally["troubled"]) == (1, 0, 0)
    kept = only(first.out)[0]
    assert kept.model_copy(update={"signatures": []}) == before.model_copy(update={"signatures": []})
    forget_what_was_finished(first.out)
    unread(monkeypatch)
    assert night(series_folder, out=first.out).said("skipped")


def test_a_forced_run_over_touched_files_makes_the_same_objects(series_folder):
    first = night(series_folder, formats=("seg",))
    before, objects = only(first.out)
    touch(series_folder)
    assert night(series_folder, out=first.out, formats=("seg",), force=True).said("done")
    assert only(first.out)[0].work_key == before.work_key
    assert only(first.out)[1] == objects


def test_a_study_that_lies_in_a_folder_and_in_an_archive_is_read_once_in_each(series_folder, tmp_path, monkeypatch):
    first = night(series_folder)
    archive = Path(shutil.make_archive(str(tmp_path / "study"), "zip", series_folder))
    assert night(archive, out=first.out).said("unchanged")
    unread(monkeypatch)
    for source in (series_folder, archive):
        forget_what_was_finished(first.out)
        assert night(source, out=first.out).said("skipped")


def test_a_member_that_is_replaced_reopens_its_series(series_folder, tmp_path):
    archive = Path(shutil.make_archive(str(tmp_path / "study"), "zip", series_folder))
    first = night(archive)
    times = archive.stat().st_mtime
    brighten(series_folder)
    archive.unlink()
    shutil.make_archive(str(tmp_path / "study"), "zip", series_folder)
    os.utime(archive, (times, times))
    assert night(archive, out=first.out).said("done")


def test_a_late_copy_that_says_something_else_reopens_the_series(series_folder):
    first = night(series_folder)
    path = sorted(series_folder.iterdir())[12]
    other = pydicom.dcmread(path)
    put_hu(other, hu_of(other) + 50)
    other.save_as(series_folder / "corrected.dcm")
    assert night(series_folder, out=first.out).rejection[0] == "conflicting-files"


def test_what_was_rejected_is_tried_again_when_its_files_are_replaced(series_folder):
    """An orientation that is put in afterwards changes no UID."""
    right = {dataset.SOPInstanceUID: dataset.ImageOrientationPatient for dataset in each_slice(series_folder)}
    for dataset in each_slice(series_folder):
        del dataset.ImageOrientationPatient
    first = night(series_folder)
    assert first.said("rejected")
    assert night(series_folder, out=first.out).said("skipped"), "not as long as they are what they were"
    for dataset in each_slice(series_folder):
        dataset.ImageOrientationPatient = right[dataset.SOPInstanceUID]
    assert night(series_folder, out=first.out).said("done")


def test_a_file_that_cannot_be_read_at_the_second_look_costs_no_result(series_folder, tmp_path):
    """It is being sent again, and half of it is there. Nothing is moved meanwhile."""
    first = night(series_folder)
    before = only(first.out)
    victim = sorted(series_folder.iterdir())[7]
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-3000])
    looked = night(series_folder, out=first.out, move_done=tmp_path / "moved")
    [problem] = looked.said("problem")
    assert problem["slug"] == "unreadable"
    assert problem["message"].endswith("its earlier result stays")
    assert victim.name not in problem["message"]
    assert looked.said("unchanged") and looked.tally["troubled"] == 1
    assert only(first.out) == before
    assert not list((tmp_path / "moved").rglob("*.dcm"))
    assert not list((first.out / ".covct" / "attempts").iterdir())
    victim.write_bytes(whole)
    assert night(series_folder, out=first.out).said("unchanged")


def test_replaced_files_are_not_moved_away_before_they_are_processed(series_folder, tmp_path):
    moved = tmp_path / "moved"
    first = night(series_folder)
    brighten(series_folder)
    files = {path.name: path.read_bytes() for path in series_folder.iterdir()}
    over = datetime.now(UTC) - timedelta(minutes=1)
    late = night(series_folder, out=first.out, move_done=moved, until=over)
    assert late.said("waiting")
    assert {path.name: path.read_bytes() for path in series_folder.iterdir()} == files
    assert night(series_folder, out=first.out, move_done=moved).said("done")
    assert {path.name: path.read_bytes() for path in moved.rglob("*.dcm")} == files


def test_a_slice_sent_again_takes_the_place_of_the_one_that_was_moved(series_folder, tmp_path):
    """A corrected one, under its old UID, after its study was moved: what came last is the study's, also later on."""
    moved, aside = tmp_path / "moved", tmp_path / "aside"
    original = shutil.copytree(series_folder, tmp_path / "original")
    late, corrected = sorted(original.iterdir())[0], sorted(original.iterdir())[12]
    shutil.move(series_folder / late.name, aside)
    first = night(series_folder, move_done=moved)
    dataset = pydicom.dcmread(corrected)
    put_hu(dataset, hu_of(dataset) + 50)
    dataset.save_as(series_folder / corrected.name)
    second = night(series_folder, out=first.out, move_done=moved)
    assert second.said("done")
    assert {path.read_bytes() for path in moved.rglob("*.dcm")} >= {corrected.read_bytes()}, "the old one is kept"
    shutil.move(aside, series_folder / late.name)
    assert night(series_folder, out=first.out, move_done=moved).said("done"), "and conflicts with nothing"
    together = tmp_path / "together"
    shutil.copytree(original, together)
    dataset.save_as(together / corrected.name)
    assert only(first.out)[0].slices == only(night(together).out)[0].slices
    assert not list(series_folder.rglob("*.dcm"))


def test_a_copy_sent_again_is_compared_and_moved_over_its_like(series_folder, tmp_path):
    moved = tmp_path / "moved"
    copy = shutil.copytree(series_folder, tmp_path / "copy")
    first = night(series_folder, move_done=moved)
    shutil.copytree(copy, series_folder, dirs_exist_ok=True)
    again = night(series_folder, out=first.out, move_done=moved)
    assert not again.said("done") and not again.said("rejected")
    assert sorted(path.name for path in moved.rglob("*.dcm")) == sorted(path.name for path in copy.iterdir())
    assert not list(series_folder.rglob("*.dcm"))


def test_watch_processes_replaced_files_and_leaves_touched_ones(order, inbox, networks):
    def in_place():
        brighten(inbox / "a")
        touch(inbox / "b")

    events = watched(order, networks, [None] * 4 + [in_place] + [None] * 4)
    assert [folder for event, folder in events if event == "done"] == [
        "1.2.1/1.2.1.1", "1.2.2/1.2.2.1", "1.2.3/1.2.3.1", "1.2.1/1.2.1.1",
    ]  # fmt: skip


def test_a_result_of_a_version_that_noted_no_slices_stands(series_folder):
    """Nothing tells whether its files are what they were."""
    first = night(series_folder)
    [path] = first.out.glob("*/*/outcome.json")
    outcome = read_json(path)
    for name in ("slices", "first_slices", "signatures"):
        del outcome[name]
    path.write_text(json.dumps(outcome))
    brighten(series_folder)
    assert night(series_folder, out=first.out).said("skipped")


def test_a_dry_run_says_what_would_be_compared(series_folder, tmp_path):
    first = night(series_folder, formats=("seg",))
    touch(series_folder)
    before = {path: path.stat().st_mtime_ns for path in first.out.rglob("*")}
    weights = tmp_path / "threshold-weights"
    asked = ["scan", series_folder, "--out", first.out, "--weights", weights, "--formats", "seg"]
    [row] = map(json.loads, invoke(*asked, "--dry-run", "--json").stdout.splitlines())
    assert (row["verdict"], row["why"]) == ("compare", "its files have changed; processed again if its slices have")
    assert {path: path.stat().st_mtime_ns for path in first.out.rglob("*")} == before


@pytest.mark.parametrize(
    ("age_s", "relied_on"), [(0.001, False), (0.5, True), (1.0, False), (3.0, True)], ids=lambda value: str(value)
)
def test_what_changed_just_now_may_change_again_under_the_same_time(age_s, relied_on, series_folder, monkeypatch):
    """A file system that counts whole seconds shows whole ones."""
    written = 1_700_000_000 * 10**9 + (123_456_789 if age_s < 1 else 0)
    for path in series_folder.iterdir():
        os.utime(path, ns=(written, written))
    monkeypatch.setattr(replaced.time, "time_ns", lambda: written + int(age_s * 10**9))
    [series] = discover([series_folder]).series
    assert bool(replaced.signature(series)) is relied_on


def test_a_signature_knows_no_names(series_folder, tmp_path):
    [series] = discover([series_folder]).series
    signature = replaced.signature(series)
    for path in list(series_folder.iterdir()):
        path.rename(series_folder / f"renamed {path.name}")
    [again] = discover([series_folder.rename(tmp_path / "elsewhere")]).series
    assert replaced.signature(again) == signature != ""
