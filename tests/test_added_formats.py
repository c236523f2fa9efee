"""A call that asks for further formats adds them to results that stand, from the masks that are there: nothing is
computed, nothing is taken away, and the files are those that a call for all of them at once would have written."""

import errno
import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import numpy as np
import pydicom
import pytest

from covct.disk import state
from covct.disk.attempts import begin_attempt
from covct.disk.outcome import read_outcome
from covct.errors import SeriesError
from covct.intake import load_dicom
from covct.intake.nifti import write_nifti
from covct.networks.cards import file_sha256
from covct.outputs import FORMATS, NIFTI_PAIR, Outputs
from covct.phantom.chest import make_phantom
from covct.phantom.dicom import write_dicom_series
from covct.results.verify import verify
from covct.unattended import batch, one_series
from support.batches import never, well_told
from support.chests import SMALL
from support.multiframe import write_enhanced
from support.running import invoke
from support.series import hu_of, put_hu

pytestmark = pytest.mark.slow

ALL = tuple(FORMATS)


@pytest.fixture
def one_moment(monkeypatch):
    """The same installation, whatever the output tree, and a first computation at a moment that is over since."""
    monkeypatch.setattr(one_series, "installation", lambda out: "one")
    moments = iter([datetime(2026, 5, 4, tzinfo=UTC)] * 2)
    monkeypatch.setattr(one_series, "now", lambda: next(moments, datetime(2026, 6, 7, tzinfo=UTC)))


@pytest.fixture
def one_order(phantom_series, tmp_path, weights):
    return batch.Order((phantom_series,), tmp_path / "out", weights, Outputs(("seg",)))


def asking(order, *formats, **settings):
    return replace(order, outputs=Outputs(formats, **settings))


def files(out):
    """sha256 of every result file but those that hold times."""
    paths = [path for path in out.glob("[!.]*/*/*") if path.name not in ("outcome.json", "report.json")]
    return {path.name: file_sha256(path) for path in paths}


def only(out):
    [path] = out.glob("[!.]*/*/outcome.json")
    return path.parent, read_outcome(path.parent)


def scanned(order, networks):
    """How it ended, and its events, each as `Event` says that it is."""
    events = []
    tally = batch.scan(order, networks, events.append)
    return tally, well_told(events)


@pytest.fixture
def source(request, phantom, phantom_series, tmp_path):
    """The chest as axial slices, as coronal ones, or as the frames of one file."""
    if request.param == "coronal":
        write_dicom_series(phantom, tmp_path / "in", orientation_cosines=(1, 0, 0, 0, 0, -1))
    elif request.param == "frames":
        (tmp_path / "in").mkdir()
        write_enhanced(phantom_series, tmp_path / "in" / "all.dcm")
    return phantom_series if request.param == "axial" else tmp_path / "in"


@pytest.mark.parametrize(
    ("source", "first", "seg_type"),
    [
        ("axial", ("seg",), "binary"),
        ("axial", ("sr", "png"), "labelmap"),
        ("coronal", ("nifti",), "binary"),
        ("coronal", ("seg",), "labelmap"),
        ("frames", ("seg",), "binary"),
    ],
    indirect=["source"],
)
def test_what_is_added_has_the_bytes_of_all_at_once(one_order, source, tmp_path, networks, one_moment, first, seg_type):
    """Some after others, the first ones without their pixels, over a phantom asymmetric in all three axes."""
    one_order = replace(one_order, sources=(source,))
    at_once = asking(replace(one_order, out=tmp_path / "at-once"), *ALL, seg_type=seg_type)
    scanned(at_once, lambda: networks)
    scanned(asking(one_order, *first, seg_type=seg_type), lambda: networks)
    folder, before = only(one_order.out)
    report = (folder / "report.json").read_bytes()
    for more in (("seg", "ko"), ("sr", "nifti"), ("sc", "png"), ("pdf", "page")):
        tally, events = scanned(asking(one_order, *more, seg_type=seg_type), never)
        assert tally["failed"] == tally["troubled"] == 0, events
    assert files(one_order.out) == files(at_once.out)
    assert (folder / "report.json").read_bytes() == report
    outcome = only(one_order.out)[1]
    assert outcome.formats == only(at_once.out)[1].formats
    assert (outcome.work_key, outcome.moments, outcome.finished) == (before.work_key, before.moments, before.finished)
    assert [verdict.defects for verdict in verify(one_order.out)] == [()]


def test_added_to_a_volume_file(tmp_path, weights, networks, one_moment):
    write_nifti(make_phantom(**{**SMALL, "slices": 20}, lesions="moderate", seed=1).volume, tmp_path / "volume.nii.gz")
    order = batch.Order((tmp_path / "volume.nii.gz",), tmp_path / "out", weights)
    at_once = asking(replace(order, out=tmp_path / "at-once"), *ALL)
    scanned(at_once, lambda: networks)
    scanned(asking(order, "seg"), lambda: networks)
    assert set(files(order.out)) == set(NIFTI_PAIR), "NIfTI masks stand in for a SEG"
    scanned(asking(order, "page", "png", "pdf", "sc"), never)
    assert files(order.out) == files(at_once.out)


@pytest.fixture
def one_result(one_order, networks):
    """A result with a SEG, computed once; and the function that scans on without networks."""
    tally, _ = scanned(one_order, lambda: networks)
    assert tally["done"] == 1
    return partial(replace, one_order)


def test_asking_for_less_removes_nothing(one_result, networks):
    order = asking(one_result(), "seg", "sc", captures="all")
    tally, [*_, done, _] = scanned(order, never)
    assert (tally["done"], done["added"]) == (1, ["sc"])
    all_captures = files(order.out)
    assert len(all_captures) > 20
    for formats in (("seg",), ("sc",), ()):
        tally, events = scanned(asking(order, *formats), never)
        assert (tally["done before"], tally["done"]) == (1, 0), events
        assert files(order.out) == all_captures
    scanned(replace(asking(order, "seg"), force=True), lambda: networks)
    assert files(order.out) == all_captures, "computed again, a result holds what it held"


def test_captures_of_every_slice_take_the_place_of_those_of_key_slices(one_result, tmp_path, networks, monkeypatch):
    monkeypatch.setattr(one_series, "installation", lambda out: "one")
    order = asking(one_result(), "sc")
    scanned(order, never)
    uids = {pydicom.dcmread(path).SOPInstanceUID for path in order.out.glob("*/*/*.sc.dcm")}
    scanned(asking(order, "sc", captures="all"), never)
    every = {pydicom.dcmread(path).SOPInstanceUID for path in order.out.glob("*/*/*.sc.dcm")}
    assert len(uids) == 12 < len(every)
    assert not uids & every, "another picture is another object"
    assert not [defect for verdict in verify(order.out) for defect in verdict.defects]


def test_pixels_are_read_only_for_pictures(one_result, monkeypatch):
    def decoded(*_):
        raise AssertionError("a pixel is decoded")

    with monkeypatch.context() as patched:
        patched.setattr(load_dicom, "_hounsfield", decoded)
        tally, _ = scanned(asking(one_result(), "sr", "ko", "nifti"), never)
        assert tally["done"] == 1
        tally, _ = scanned(asking(one_result(), "png"), never)
        assert (tally["done before"], tally["troubled"]) == (1, 1)
    assert scanned(asking(one_result(), "png"), never)[0]["done"] == 1


def test_slices_that_were_replaced_unnoticed_are_noticed_when_they_are_drawn(one_result, networks, phantom_series):
    """Of the same size, with the time of the one before: nothing but its pixels tells."""
    path = sorted(phantom_series.iterdir())[5]
    contents, before = path.read_bytes(), path.stat()
    try:
        dataset = pydicom.dcmread(path)
        put_hu(dataset, np.roll(hu_of(dataset), 7, axis=1))
        dataset.save_as(path)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert path.stat().st_size == before.st_size
        old = only(one_result().out)[1]
        tally, [*_, done, _] = scanned(asking(one_result(), "sc"), lambda: networks)
    finally:
        path.write_bytes(contents)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    new = only(one_result().out)[1]
    assert tally["done"] == 1 and "added" not in done
    assert new.work_key != old.work_key and new.slices != old.slices
    assert set(new.held) == {"seg", "sc"}, "what was there is there of the new slices too"


def test_where_the_source_cannot_be_read_the_result_stays_without_what_was_to_be_added(one_result, monkeypatch):
    def broken(*_):
        raise SeriesError("unreadable", "instance 1.2 is unreadable")

    before = files(one_result().out)
    monkeypatch.setattr(load_dicom, "_dataset", broken)
    tally, events = scanned(asking(one_result(), "sc", "ko"), never)
    [problem] = [event for event in events if event["event"] == "problem"]
    assert problem["message"] == "instance 1.2 is unreadable (sc, ko not added); its earlier result stays"
    assert (problem["slug"], tally["troubled"]) == ("unreadable", 1)
    assert files(one_result().out) == before


def test_what_cannot_be_added_in_three_attempts_takes_nothing_away(one_result):
    folder = only(one_result().out)[0]
    name = f"{folder.parent.name}/{folder.name}"
    key = only(one_result().out)[1].work_key
    for _ in range(3):
        begin_attempt(one_result().out, name, key)
    tally, events = scanned(asking(one_result(), "sc"), never)
    assert [event["slug"] for event in events if event["event"] == "problem"] == ["crashed-repeatedly"]
    assert (tally["done before"], tally["troubled"]) == (1, 1)
    assert scanned(asking(one_result(), "sc"), never)[0]["done"] == 1, "the next run tries again"


@pytest.mark.parametrize("at", ["stage", "aside", "commit"])
def test_an_addition_that_was_interrupted_is_made_by_the_next_run(one_result, tmp_path, monkeypatch, at):
    """Before the outcome is written, between the two renames, and after them."""
    before, rename = files(one_result().out), os.rename

    def dying(source, target):
        if at == "aside" and "staging" in str(source):
            raise KeyboardInterrupt
        rename(source, target)
        if at == "commit" and "staging" in str(source):
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        if at == "stage":
            patched.setattr(state, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        else:
            patched.setattr(os, "rename", dying)
        with pytest.raises(KeyboardInterrupt):
            scanned(asking(one_result(), "sc"), never)
    tally, _ = scanned(asking(one_result(), "sc"), never)
    assert tally["done"] + tally["done before"] == 1
    after = files(one_result().out)
    assert len(after) == len(before) + 12 and before.items() <= after.items()
    assert [verdict.defects for verdict in verify(one_result().out)] == [()]


def test_masks_that_are_not_those_of_the_outcome_are_computed_again(one_result, networks):
    folder, outcome = only(one_result().out)
    path = folder / "segmentation.seg.dcm"
    path.write_bytes(path.read_bytes()[:-2] + b"\1\1")
    tally, [*_, done, _] = scanned(asking(one_result(), "nifti"), lambda: networks)
    assert tally["done"] == 1 and "added" not in done
    assert file_sha256(path) == outcome.files[path.name]


def test_damage_elsewhere_is_not_blessed_by_an_addition(one_result):
    order = asking(one_result(), "png", "nifti")
    scanned(order, never)
    path = only(order.out)[0] / "overlay.png"
    path.write_bytes(path.read_bytes() + b"more")
    scanned(asking(order, "ko"), never)
    [verdict] = verify(order.out)
    assert [(defect.slug, defect.file) for defect in verdict.defects] == [("altered-file", "overlay.png")]


@pytest.mark.parametrize(("held", "wanted"), [({"seg_type": "fractional"}, "nifti"), ({}, "seg")])
def test_without_masks_it_is_computed_again(one_order, networks, held, wanted):
    """Probabilities do not tell what was called, and a report has no masks at all."""
    first = asking(one_order, "seg", **held) if held else asking(one_order)
    scanned(first, lambda: networks)
    before = files(one_order.out)
    tally, [*_, done, _] = scanned(asking(one_order, wanted), lambda: networks)
    assert tally["done"] == 1 and "added" not in done
    assert before.items() <= files(one_order.out).items()


def test_files_are_copied_where_they_cannot_have_two_names(one_result, monkeypatch):
    def refused(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    before = files(one_result().out)
    scanned(asking(one_result(), "ko"), never)
    assert before.items() <= files(one_result().out).items()
    assert [verdict.defects for verdict in verify(one_result().out)] == [()]


def test_the_dry_run_says_what_would_be_added(order, networks, threshold_networks, weights, inbox):
    scanned(order, lambda: networks)
    command = ["scan", inbox, "-o", order.out, "--weights", weights, "--dry-run", "--formats"]
    assert "adds sc, ko to 3 results; computes nothing\n" in invoke(*command, "sc,ko").stdout
    rows = [json.loads(line) for line in invoke(*command, "seg,nifti", "--json").stdout.splitlines()]
    assert {(row["verdict"], row["why"]) for row in rows} == {("add", "adds nifti to its result; computes nothing")}
    [row, *_] = (json.loads(line) for line in invoke(*command, "seg", "--json").stdout.splitlines())
    assert row["verdict"] == "finished"
    rows = [json.loads(line) for line in invoke(*command, "seg", "--seg-type=labelmap", "--json").stdout.splitlines()]
    assert {row["verdict"] for row in rows} == {"segment"}, "a SEG of another type is another result"
