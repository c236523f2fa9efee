"""Orthanc as it is installed, a PACS on loopback."""

from __future__ import annotations

import ctypes
import http.client
import json
import shutil
import signal
import socket
import subprocess
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pytest

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
LONGEST_START_S = 60
SET_PARENT_DEATH_SIGNAL = 1  # prctl(2)
FAILED_SOPS, REFERENCED_SOPS = "00081198", "00081199"  # of a STOW-RS answer


@dataclass(frozen=True)
class Orthanc:
    """A PACS on loopback."""

    http_port: int
    dicom_port: int

    @property
    def peer(self) -> str:
        """As `--from` names it."""
        return f"ORTHANC@127.0.0.1:{self.dicom_port}"

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
        pynetdicom = pytest.importorskip("pynetdicom")
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


def data_set(contents: bytes) -> bytes:
    """A file without preamble and file meta information (PS3.10 7.1), which whoever writes the file may word anew."""
    assert contents[128:132] == b"DICM" and contents[132:136] == b"\x02\x00\x00\x00"
    return contents[144 + int.from_bytes(contents[140:144], "little") :]


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


@contextmanager
def started(folder: Path) -> Iterator[Orthanc]:
    """Orthanc with its DICOMweb plugin and a storage of its own; only this machine may talk to it."""
    program = shutil.which("Orthanc")
    if not program or not PLUGIN.exists():
        pytest.skip("Orthanc is not installed (apt-get install orthanc orthanc-dicomweb)")
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
