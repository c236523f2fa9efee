"""A redo makes the same objects: a PACS that has a SOP Instance UID sees what it has."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import pydicom
import pytest

from covct.dicom.evidence import contributing_equipment, finish
from covct.disk.outcome import Outcome, first_computed
from covct.intake.nifti import write_nifti
from covct.networks.cards import file_sha256
from covct.outputs import SEG_TYPES, Outputs
from covct.phantom.chest import make_phantom
from covct.unattended import batch, one_series
from support.batches import watched
from support.chests import SMALL
from support.objects import MAKING
from support.running import read_json
from support.series import change

pytestmark = pytest.mark.slow


@pytest.fixture
def one_moment(monkeypatch):
    """Computed at the same moment by the same installation, whatever the output tree."""
    monkeypatch.setattr(one_series, "now", lambda: datetime(2026, 5, 4, tzinfo=UTC))
    monkeypatch.setattr(one_series, "installation", lambda out: "one")


def files(out):
    """sha256 of every result file but those that hold times."""
    paths = [path for path in out.glob("[!.]*/*/*") if path.name not in ("outcome.json", "report.json")]
    return {str(path.relative_to(out)): file_sha256(path) for path in paths}


@pytest.mark.parametrize("seg_type", SEG_TYPES)
def test_two_runs_write_the_same_bytes(phantom_series, tmp_path, weights, networks, seg_type, one_moment):
    """The second one runs in another folder, and after the first: but for the moment nothing of that may be in it."""
    outputs = Outputs(("seg", "sr", "sc", "ko", "pdf", "png", "nifti"), seg_type)
    order = batch.Order((phantom_series,), tmp_path / "first", weights, outputs)
    for one in (order, replace(order, out=tmp_path / "second")):
        assert batch.scan(one, lambda: networks, lambda event: None)["done"] == 1
    first = files(tmp_path / "first")
    assert {name.rsplit(".", 2)[-2] for name in first} >= {"seg", "sr", "sc", "ko", "pdf"}
    assert files(tmp_path / "second") == first


def test_a_watch_writes_the_bytes_of_a_scan(inbox, tmp_path, weights, networks, one_moment):
    """Slice after slice in whatever order, among other studies; of two series of one study, of a volume, of what is
    refused."""
    (inbox / "b").rename(inbox / "a" / "other")
    change(inbox / "a" / "other", StudyInstanceUID="1.2.1")
    change(inbox / "c", Modality="MR")
    write_nifti(make_phantom(**{**SMALL, "slices": 20}, lesions="moderate", seed=1).volume, inbox / "volume.nii.gz")
    outputs = Outputs(("seg", "sr", "sc", "ko", "pdf", "png", "nifti"))
    order = batch.Order((inbox,), tmp_path / "scanned", weights, outputs)
    batch.scan(order, lambda: networks, lambda event: None)

    aside = inbox.rename(tmp_path / "aside")
    paths = [path.relative_to(aside) for path in sorted(aside.rglob("*")) if path.is_file()]

    def arrive(some):
        for path in some:
            (inbox / path).parent.mkdir(parents=True, exist_ok=True)
            (aside / path).rename(inbox / path)

    inbox.mkdir()
    changes = [partial(arrive, paths[::-3]), None, *(partial(arrive, paths[-1 - n :: -3]) for n in (1, 2))]
    watched(replace(order, out=tmp_path / "watched"), networks, [*changes, *[None] * 5])
    scanned = files(tmp_path / "scanned")
    assert len({name.rsplit("/", 1)[0] for name in scanned}) == 2
    assert files(tmp_path / "watched") == scanned


def test_a_redo_keeps_the_moment_of_the_first_computation(phantom_series, tmp_path, weights, networks, monkeypatch):
    """Forced, or back from other settings: the objects are those that the archive has. Another key, another moment."""
    order = batch.Order((phantom_series,), tmp_path / "out", weights, Outputs(("seg", "sr", "sc", "ko", "pdf")))
    other = replace(order, outputs=Outputs(("seg", "sr", "sc", "ko", "pdf"), "labelmap"))

    def scan(order, hour):
        monkeypatch.setattr(one_series, "now", lambda: datetime(2026, 5, 4, hour, tzinfo=UTC))
        assert batch.scan(order, lambda: networks, lambda event: None)["done"] == 1
        return files(order.out)

    first = scan(order, 1)
    assert scan(replace(order, force=True), 2) == first
    assert {dated(path) for path in order.out.glob("[!.]*/*/*.dcm")} == {"20260504 010000"}
    scan(other, 3)
    assert {dated(path) for path in order.out.glob("[!.]*/*/*.dcm")} == {"20260504 030000"}
    assert scan(order, 4) == first


def dated(path):
    one = pydicom.dcmread(path)
    return f"{one.ContentDate} {one.ContentTime}"


def test_a_result_that_noted_no_moment_is_as_old_as_it_was_finished(phantom_series, tmp_path, weights, networks):
    order = batch.Order((phantom_series,), tmp_path / "out", weights, Outputs(("seg",)), force=True)
    batch.scan(order, lambda: networks, lambda event: None)
    [path] = order.out.glob("*/*/outcome.json")
    outcome = {**read_json(path), "finished": "2025-03-04T05:06:07+00:00"}
    del outcome["moments"]
    path.write_text(json.dumps(outcome))
    batch.scan(order, lambda: networks, lambda event: None)
    assert dated(path.with_name("segmentation.seg.dcm")) == "20250304 050607"


@pytest.mark.parametrize("told", ["", "yesterday", "2026-01-02T03:04:05", "1970-01-01T00:00:00+00:00"])
def test_a_moment_that_makes_no_sense_is_now(told):
    now = datetime(2026, 5, 4, tzinfo=UTC)
    before = Outcome(status="done", work_key="key", finished=told, moments={"key": told})
    assert first_computed(before, "key", now) == now


@pytest.mark.parametrize(
    ("offset", "date", "time", "written"),
    [(None, "20260102", "030405", None), ("-0500", "20260101", "220405", "-0500"), ("5 h", "20260102", "030405", None)],
)
def test_an_object_is_as_old_as_its_computation(offset, date, time, written):
    """In the time zone of the source, where it names one: that of all dates in an object."""
    source, dataset = pydicom.Dataset(), pydicom.Dataset()
    source.ContentDate, source.ContentTime = "20030101", "120000"
    if offset:
        source.TimezoneOffsetFromUTC = offset
    dataset.ContributingEquipmentSequence = contributing_equipment()
    finish(dataset, source, "key", MAKING)
    for of in ("Content", "Series", "InstanceCreation"):
        assert (dataset[f"{of}Date"].value, dataset[f"{of}Time"].value) == (date, time)
    assert dataset.get("TimezoneOffsetFromUTC") == written
    assert dataset.ContributingEquipmentSequence[0].ContributionDateTime == f"{date}{time}{written or '+0000'}"
