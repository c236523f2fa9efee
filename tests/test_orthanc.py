"""A real PACS: every DICOM object of a result goes into Orthanc by C-STORE and by STOW-RS, and comes back as it was."""

import json
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest

from covct.exchange.audit import audit_log
from covct.exchange.destinations import of_texts
from covct.exchange.sender import send
from covct.outputs import DICOM_FORMATS
from covct.results.writers import WRITERS
from covct.unattended.sending import DestinationState
from support.line import segmented_tree
from support.pacs import Orthanc, data_set, free_ports

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


@pytest.fixture
def sent(out, tmp_path) -> Callable[..., list[DestinationState]]:
    """What `covct send` does with a copy of the tree; how the destinations stand."""
    copy = shutil.copytree(out, tmp_path / "out")

    def sent(*to: str, **table: Any) -> list[DestinationState]:
        destinations = of_texts(list(to) or ["pacs"], {"pacs": table} if table else {})
        return send(copy, destinations, lambda event: None, audit_log(copy))

    return sent


@pytest.mark.parametrize("address", ["ORTHANC@127.0.0.1:{dicom}", "http://127.0.0.1:{http}/dicom-web"])
def test_covct_send_and_back(address, sent, pacs, objects):
    """Every format, by C-STORE and by STOW-RS, each in its own transfer syntax; a second call sends nothing."""
    to = address.format(dicom=pacs.dicom_port, http=pacs.http_port)
    [state] = sent(to)
    assert (state.delivered, state.waiting, state.refused, state.error) == (len(objects), 0, 0, "")
    assert len(pacs.listed("/instances")) == len(objects)
    for path in objects:
        assert_same(path.read_bytes(), pacs.file(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID))
    changes = json.loads(pacs.ask("GET", "/changes?last")[0])["Last"]
    assert sent(to) == [state]
    assert json.loads(pacs.ask("GET", "/changes?last")[0])["Last"] == changes


def test_orthanc_takes_responsibility_by_storage_commitment(sent, pacs, objects):
    """It answers over an association of its own, to our listener."""
    [port] = free_ports(1)
    modality = json.dumps({"AET": "COVCT", "Host": "127.0.0.1", "Port": port}).encode()
    pacs.ask("PUT", "/modalities/covct", modality)
    table = {"address": f"ORTHANC@127.0.0.1:{pacs.dicom_port}", "commit": True, "commit_port": port}
    [state] = sent(**table)
    assert (state.delivered, state.waiting) == (len(objects), 0), state.reasons


def test_a_rejection_note_joins_the_study(sent, pacs, objects, tmp_path):
    """As for a result that was replaced; Orthanc has no IOCM, and keeps it as a key object."""
    table = {"address": f"ORTHANC@127.0.0.1:{pacs.dicom_port}", "rejects": True}
    sent(**table)
    [outcome] = (tmp_path / "out").glob("[!.]*/*/outcome.json")
    (outcome.parent / "measurements.sr.dcm").unlink()
    told = json.loads(outcome.read_text())
    del told["files"]["measurements.sr.dcm"]
    outcome.write_text(json.dumps(told))
    [state] = sent(**table)
    assert (state.waiting, state.superseded) == (0, 0)
    assert len(pacs.listed("/studies")) == 1
    assert len(pacs.listed("/instances")) == len(objects) + 1


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
