"""A redo makes the same objects: a PACS that has a SOP Instance UID sees what it has."""

from dataclasses import replace
from functools import partial

import pydicom
import pytest

from covct.dicom.evidence import source_moment
from covct.intake.nifti import write_nifti
from covct.networks.cards import file_sha256
from covct.outputs import SEG_TYPES, Outputs
from covct.phantom.chest import make_phantom
from covct.unattended import batch
from support.batches import watched
from support.chests import SMALL
from support.series import change

pytestmark = pytest.mark.slow


def files(out):
    """sha256 of every result file but those that hold times."""
    paths = [path for path in out.glob("*/*/*") if path.name not in ("outcome.json", "report.json")]
    return {str(path.relative_to(out)): file_sha256(path) for path in paths}


@pytest.mark.parametrize("seg_type", SEG_TYPES)
def test_two_runs_write_the_same_bytes(phantom_series, tmp_path, weights, networks, seg_type):
    """The second one starts later, in another folder, and after the first: nothing of that may be in an object."""
    outputs = Outputs(("seg", "sr", "sc", "ko", "png", "nifti"), seg_type)
    order = batch.Order((phantom_series,), tmp_path / "first", weights, outputs)
    for one in (order, replace(order, out=tmp_path / "second")):
        assert batch.scan(one, lambda: networks, lambda event: None)["done"] == 1
    first = files(tmp_path / "first")
    assert {name.rsplit(".", 2)[-2] for name in first} >= {"seg", "sr", "sc", "ko"}
    assert files(tmp_path / "second") == first


def test_a_watch_writes_the_bytes_of_a_scan(inbox, tmp_path, weights, networks):
    """Slice after slice in whatever order, among other studies; of two series of one study, of a volume, of what is
    refused."""
    (inbox / "b").rename(inbox / "a" / "other")
    change(inbox / "a" / "other", StudyInstanceUID="1.2.1")
    change(inbox / "c", Modality="MR")
    write_nifti(make_phantom(**{**SMALL, "slices": 20}, lesions="moderate", seed=1).volume, inbox / "volume.nii.gz")
    outputs = Outputs(("seg", "sr", "sc", "ko", "png", "nifti"))
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


@pytest.mark.parametrize(
    ("header", "moment"),
    [
        ({"ContentDate": "20200102", "ContentTime": "030405.6", "StudyDate": "20191231"}, ("20200102", "030405.6")),
        ({"ContentDate": "20200230", "SeriesDate": "20200301", "SeriesTime": "later"}, ("20200301", "000000")),
        ({"StudyDate": "20200301", "StudyTime": "0910"}, ("20200301", "0910")),
        ({"ContentDate": "", "StudyTime": "0910"}, ("19000101", "000000")),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_content_date_is_the_sources(header, moment):
    """Type 1 in SEG and SR. A de-identified source may have none, and a dirty one no date at all."""
    dataset = pydicom.Dataset()
    for keyword, value in header.items():
        setattr(dataset, keyword, value)
    assert source_moment(dataset) == moment
