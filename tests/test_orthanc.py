"""A real PACS: every DICOM object of a result goes into Orthanc by C-STORE and by STOW-RS, and comes back as it was."""

from io import BytesIO
from pathlib import Path

import pydicom
import pytest

from covct.outputs import DICOM_FORMATS
from covct.results.writers import WRITERS
from support.line import segmented_tree
from support.pacs import Orthanc, data_set

pytestmark = pytest.mark.slow

pytest.importorskip("pynetdicom")

FORMATS = tuple(name for name in DICOM_FORMATS if name in WRITERS)


@pytest.fixture(scope="module")
def out(phantom_series, tmp_path_factory) -> Path:
    """The output tree of the phantom, in every DICOM format that covct writes. Not to be changed."""
    return segmented_tree([phantom_series], tmp_path_factory.mktemp("pacs") / "out", formats=FORMATS)


@pytest.fixture(scope="module")
def objects(out) -> list[Path]:
    """Every DICOM file of the result."""
    paths = sorted(out.glob("*/*/*.dcm"))
    assert len(paths) >= len(FORMATS) > 0
    return paths


def assert_same(sent: bytes, back: bytes) -> None:
    ours, theirs = (pydicom.dcmread(BytesIO(contents)) for contents in (sent, back))
    assert theirs.file_meta.TransferSyntaxUID == ours.file_meta.TransferSyntaxUID
    assert theirs.file_meta.MediaStorageSOPInstanceUID == ours.SOPInstanceUID
    assert list(theirs) == list(ours)
    assert data_set(back) == data_set(sent)


def test_c_store_and_back(pacs, objects):
    pacs.c_store(objects)
    assert len(pacs.listed("/instances")) == len(objects)
    for path in objects:
        assert_same(path.read_bytes(), pacs.file(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID))


def test_stow_rs_and_back_by_wado_rs(pacs, objects):
    pacs.stow(objects)
    assert len(pacs.listed("/instances")) == len(objects)
    for path in objects:
        assert_same(path.read_bytes(), pacs.wado(pydicom.dcmread(path, stop_before_pixels=True)))


@pytest.mark.parametrize("send", [Orthanc.c_store, Orthanc.stow])
def test_results_join_the_study_of_their_source(send, pacs, objects, phantom_series):
    """Same patient, same study: where identifiers were spelled differently, Orthanc would open another."""
    slices = sorted(phantom_series.glob("*.dcm"))
    send(pacs, [*slices, *objects])
    assert len(pacs.listed("/patients")) == 1
    assert len(pacs.listed("/studies")) == 1
    series = {pydicom.dcmread(path, stop_before_pixels=True).SeriesInstanceUID for path in objects}
    assert len(pacs.listed("/series")) == 1 + len(series)
    assert len(pacs.listed("/instances")) == len(slices) + len(objects)


def test_a_redo_sent_again_makes_no_second_instance(pacs, out, objects, phantom_series):
    pacs.c_store(objects)
    before = sorted(pacs.listed("/instances"))
    written = [path.stat().st_mtime_ns for path in objects]
    segmented_tree([phantom_series], out, force=True, formats=FORMATS)
    assert all(path.stat().st_mtime_ns > then for path, then in zip(objects, written, strict=True))
    pacs.c_store(objects)
    pacs.stow(objects)
    assert sorted(pacs.listed("/instances")) == before
