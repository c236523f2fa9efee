"""A real PACS: every DICOM object of a result goes into Orthanc by C-STORE and by STOW-RS, and comes back as it was."""

import ctypes
import http.client
import json
import shutil
import signal
import socket
import subprocess
import threading
import uuid
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pydicom
import pytest

from covct.outputs import DICOM_FORMATS
from covct.results.writers import WRITERS
from support.line import segmented_tree

pytestmark = pytest.mark.slow

pynetdicom = pytest.importorskip("pynetdicom")

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
LONGEST_START_S = 60
SET_PARENT_DEATH_SIGNAL = 1  # prctl(2)
FAILED_SOPS, REFERENCED_SOPS = "00081198", "00081199"  # of a STOW-RS answer
FORMATS = tuple(name for name in DICOM_FORMATS if name in WRITERS)


@dataclass(frozen=True)
class Orthanc:
    """A PACS on loopback."""

    http_port: int
    dicom_port: int

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[bytes, str]:
        """Body and content type of the answer, which must be a success."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=60)) as connection:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            content = answer.read()
            assert answer.status == 200, (answer.status, content[:500])
            return content, answer.headers.get("Content-Type", "")

    def listed(self, path: str) -> list[str]:
        return json.loads(self.ask("GET", path)[0])

    def file(self, sop_instance_uid: str) -> bytes:
        """A stored instance by Orthanc's own interface, as the file that it keeps."""
        found = json.loads(self.ask("POST", "/tools/lookup", sop_instance_uid.encode())[0])
        [identifier] = [one["ID"] for one in found if one["Type"] == "Instance"]
        return self.ask("GET", f"/instances/{identifier}/file")[0]

    def c_store(self, paths: list[Path]) -> None:
        """Send files over one association."""
        entity = pynetdicom.AE(ae_title="COVCT")
        kinds = {
            (m.MediaStorageSOPClassUID, m.TransferSyntaxUID) for m in map(pydicom.filereader.read_file_meta_info, paths)
        }
        for sop_class, syntax in sorted(kinds):
            entity.add_requested_context(sop_class, syntax)
        association = entity.associate("127.0.0.1", self.dicom_port, ae_title="ORTHANC")
        assert association.is_established
        try:
            assert len(association.accepted_contexts) == len(kinds), association.rejected_contexts
            statuses = [association.send_c_store(path).get("Status") for path in paths]
        finally:
            association.release()
        assert statuses == [0x0000] * len(paths)

    def stow(self, paths: list[Path]) -> None:
        """Send files in one STOW-RS request (PS3.18 10.5)."""
        boundary = uuid.uuid4().hex.encode()
        parts = [
            b"--%s\r\nContent-Type: application/dicom\r\n\r\n%s\r\n" % (boundary, path.read_bytes()) for path in paths
        ]
        kind = f'multipart/related; type="application/dicom"; boundary={boundary.decode()}'
        answer, _ = self.ask(
            "POST", "/dicom-web/studies", b"".join(parts) + b"--%s--\r\n" % boundary,
            Content_Type=kind, Accept="application/dicom+json",
        )  # fmt: skip
        stored = json.loads(answer)
        refused, accepted = (stored.get(tag, {}).get("Value", []) for tag in (FAILED_SOPS, REFERENCED_SOPS))
        assert not refused
        assert len(accepted) == len(paths)

    def wado(self, dataset: pydicom.Dataset) -> bytes:
        """Retrieve an instance by WADO-RS in the transfer syntax it is stored in."""
        answer, kind = self.ask(
            "GET",
            f"/dicom-web/studies/{dataset.StudyInstanceUID}/series/{dataset.SeriesInstanceUID}"
            f"/instances/{dataset.SOPInstanceUID}",
            Accept='multipart/related; type="application/dicom"; transfer-syntax=*',
        )
        boundary = kind.split("boundary=")[1].split(";")[0].strip('"').encode()
        [_, part, end] = answer.split(b"--" + boundary)
        assert end.strip() == b"--"
        return part.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n")


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def die_with_parent() -> None:
    """Also where pytest is killed and no fixture ends: the kernel ends Orthanc with its parent."""
    ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


@pytest.fixture(scope="session")
def orthanc(tmp_path_factory):
    """Orthanc with its DICOMweb plugin and a storage of its own; only this machine may talk to it."""
    program = shutil.which("Orthanc")
    if not program or not PLUGIN.exists():
        pytest.skip("Orthanc is not installed (apt-get install orthanc orthanc-dicomweb)")
    folder = tmp_path_factory.mktemp("orthanc")
    http_port, dicom_port = free_ports(2)
    (folder / "orthanc.json").write_text(
        json.dumps(
            {
                "StorageDirectory": str(folder / "storage"),
                "IndexDirectory": str(folder / "storage"),
                "TemporaryDirectory": str(folder),
                "Plugins": [str(PLUGIN)],
                "HttpPort": http_port,
                "RemoteAccessAllowed": False,
                "AuthenticationEnabled": False,
                "DicomPort": dicom_port,
                "DicomAlwaysAllowEcho": False,
                "DicomAlwaysAllowStore": False,
                "DicomCheckModalityHost": True,
                "DicomModalities": {"covct": ["COVCT", "127.0.0.1", 104]},
            }
        )
    )
    log: list[str] = []
    known = threading.Event()  # that it has started, or never will
    process = subprocess.Popen(
        [program, folder / "orthanc.json"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        errors="replace", preexec_fn=die_with_parent,
    )  # fmt: skip

    def listen() -> None:
        for line in process.stderr:
            log.append(line)
            if "Orthanc has started" in line:
                known.set()
        known.set()

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        assert known.wait(LONGEST_START_S) and process.poll() is None, "".join(log[-20:])
        yield Orthanc(http_port, dicom_port)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        listener.join(10)


@pytest.fixture
def pacs(orthanc) -> Orthanc:
    """Orthanc with nothing in it."""
    for patient in orthanc.listed("/patients"):
        orthanc.ask("DELETE", f"/patients/{patient}")
    return orthanc


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


def data_set(contents: bytes) -> bytes:
    """A file without preamble and file meta information (PS3.10 7.1), which whoever writes the file may word anew."""
    assert contents[128:132] == b"DICM" and contents[132:136] == b"\x02\x00\x00\x00"
    return contents[144 + int.from_bytes(contents[140:144], "little") :]


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
