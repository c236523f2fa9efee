"""Archives on loopback that do as they are told, and output trees with small DICOM objects to send there."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, generate_uid

from support.example_report import example_report
from support.pacs import data_set, free_ports

SEG, SR, KO = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.88.59"
SR_3D = "1.2.840.10008.5.1.4.1.1.88.34"
SC, PDF = "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.104.1"
OBJECTS = {
    "segmentation.seg.dcm": (SEG, ExplicitVRLittleEndian),
    "measurements.sr.dcm": (SR, ExplicitVRLittleEndian),
    "capture-0001.sc.dcm": (SC, RLELossless),
    "report.pdf.dcm": (PDF, ExplicitVRLittleEndian),
}


def put_result(out: Path, folder: str, key: str = "a", files: tuple[str, ...] = tuple(OBJECTS), **changes: Any) -> Path:
    """A result as a scan leaves it, with small objects whose UIDs derive from `key`; in place of one before."""
    place = out / folder
    place.mkdir(parents=True, exist_ok=True)
    (out / ".covct").mkdir(exist_ok=True)
    for old in place.iterdir():
        old.unlink()
    (place / "report.json").write_text(json.dumps(example_report()))
    for name in files:
        write_object(place / name, folder, f"{key}{folder}{name}")
    outcome = {
        "status": "done",
        "work_key": hashlib.sha256(f"{key}{folder}".encode()).hexdigest(),
        "files": {one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in sorted(place.iterdir())},
        "finished": "2026-03-04T02:15:00+00:00",
    }
    (place / "outcome.json").write_text(json.dumps(outcome | changes))
    return place


def write_object(path: Path, folder: str, identity: str, remark: str = "") -> None:
    sop_class, syntax = OBJECTS[path.name]
    study, series = folder.split("/")
    one = pydicom.Dataset()
    one.SOPClassUID, one.SOPInstanceUID = sop_class, generate_uid(entropy_srcs=[identity])
    one.PatientName, one.PatientID, one.StudyInstanceUID = "Doe^Jane", "P1", study
    one.PatientBirthDate = one.PatientSex = one.AccessionNumber = one.StudyID = one.StudyDate = one.StudyTime = ""
    one.SeriesInstanceUID = generate_uid(entropy_srcs=[identity, series])
    if remark:
        one.EncapsulatedDocument = remark.encode()
    if syntax == RLELossless:
        one.Rows = one.Columns = 2
        one.PixelData = pydicom.encaps.encapsulate([bytes(64)])
        one["PixelData"].VR = "OB"
    one.file_meta = pydicom.dataset.FileMetaDataset()
    one.file_meta.TransferSyntaxUID = syntax
    pydicom.dcmwrite(path, one, enforce_file_format=True)


def objects_of(out: Path) -> dict[str, bytes]:
    """Every DICOM object of the results, by its UID, as its data set's bytes."""
    return {
        str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID): data_set(path.read_bytes())
        for path in out.glob("[!.]*/*/*.dcm")
    }


@dataclass
class Node:
    """A Storage SCP: what it got, as data sets' bytes by SOP Instance UID, in the order in which it came."""

    port: int
    title: str = "PACS"
    got: list[tuple[str, bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"{self.title}@127.0.0.1:{self.port}"

    @property
    def kept(self) -> dict[str, bytes]:
        """As an archive keeps them: one under each UID."""
        return dict(self.got)


@contextmanager
def node(
    port: int | None = None,
    takes: tuple[str, ...] = (SEG, SR, SR_3D, SC, KO, PDF),
    status: Callable[[str, str], int | None] = lambda sop_class, uid: 0x0000,
    commits: Callable[[str], bool] | None = None,
    tls: Any = None,
    **rules: Any,
) -> Iterator[Node]:
    """A DICOM node while the context lasts. `status` says what it answers to an object of a class and UID, None that it
    breaks off; `commits` whether it takes responsibility for a UID, asked over the same association."""
    pynetdicom = pytest.importorskip("pynetdicom")
    found = Node(port or free_ports(1)[0])

    def store(event: Any) -> int:
        request = event.request
        answer = status(str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID))
        if answer is None:
            event.assoc.abort()
            return 0x0110
        if answer == 0x0000:
            found.got.append((str(request.AffectedSOPInstanceUID), request.DataSet.getvalue()))
        return answer

    def commit(event: Any) -> tuple[int, None]:
        request = event.action_information
        threading.Thread(target=_report, args=(event.assoc, request, commits)).start()
        return 0x0000, None

    entity = pynetdicom.AE(ae_title=found.title)
    for sop_class in takes:
        entity.add_supported_context(sop_class, [ExplicitVRLittleEndian, RLELossless])
    entity.add_supported_context("1.2.840.10008.1.1")
    if commits:
        entity.add_supported_context("1.2.840.10008.1.20.1")
    for name, value in rules.items():
        setattr(entity, name, value)
    handlers = [(pynetdicom.evt.EVT_C_STORE, store), (pynetdicom.evt.EVT_N_ACTION, commit)]
    server = entity.start_server(("127.0.0.1", found.port), block=False, evt_handlers=handlers, ssl_context=tls)
    try:
        yield found
    finally:
        server.shutdown()


@contextmanager
def stalling(port: int, after: int) -> Iterator[int]:
    """A port that hands on to another one, and stops reading after so many bytes."""
    stalled = threading.Event()

    def up(client: socket.socket, server: socket.socket) -> None:
        handed = 0
        while handed < after and (chunk := client.recv(4096)):
            server.sendall(chunk)
            handed += len(chunk)
        stalled.wait()
        client.close()
        server.close()

    def down(client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while chunk := server.recv(4096):
                client.sendall(chunk)

    def serve() -> None:
        with suppress(OSError):
            while True:
                ends = listener.accept()[0], socket.create_connection(("127.0.0.1", port))
                for one in (up, down):
                    threading.Thread(target=one, args=ends, daemon=True).start()

    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        stalled.set()
        listener.shutdown(socket.SHUT_RDWR)


def _report(association: Any, request: pydicom.Dataset, commits: Callable[[str], bool]) -> None:
    told = pydicom.Dataset()
    told.TransactionUID = request.TransactionUID
    told.ReferencedSOPSequence, told.FailedSOPSequence = [], []
    for item in request.ReferencedSOPSequence:
        if commits(item.ReferencedSOPInstanceUID):
            told.ReferencedSOPSequence.append(item)
        else:
            item.FailureReason = 0x0112
            told.FailedSOPSequence.append(item)
    if not told.FailedSOPSequence:
        del told.FailedSOPSequence
    kind = 2 if "FailedSOPSequence" in told else 1
    association.send_n_event_report(told, kind, "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1")


Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Service:
    """A STOW-RS service: what it was sent, request by request, and with which headers."""

    port: int
    scheme: str = "http"
    requests: list[dict[str, bytes]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/dicom-web"

    @property
    def kept(self) -> dict[str, bytes]:
        return {uid: content for request in self.requests for uid, content in request.items()}


def stored(objects: dict[str, bytes], failed: dict[str, int] | None = None, status: int = 200) -> Answer:
    """What a service answers that stored all but some (PS3.18 table 10.5.3-1)."""
    said = pydicom.Dataset()
    said.ReferencedSOPSequence, said.FailedSOPSequence = [], []
    for uid in objects:
        item = pydicom.Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = SEG, uid
        if uid in (failed or {}):
            item.FailureReason = failed[uid]
            said.FailedSOPSequence.append(item)
        else:
            said.ReferencedSOPSequence.append(item)
    return status, {"Content-Type": "application/dicom+json; charset=utf-8"}, said.to_json().encode()


@contextmanager
def service(answer: Callable[[dict[str, bytes]], Answer] = stored, tls: Any = None) -> Iterator[Service]:
    """A STOW-RS service while the context lasts."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            objects = _parts(self.headers["Content-Type"], self._body())
            found.requests.append(objects)
            found.headers.append(dict(self.headers))
            status, headers, content = answer(objects)
            (self.send_response_only if "Date" in headers else self.send_response)(status)
            for name, value in ({"Content-Length": str(len(content))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers["Content-Length"]))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    found = Service(server.server_port, "https" if tls else "http")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _parts(kind: str, body: bytes) -> dict[str, bytes]:
    boundary = kind.split("boundary=")[1].strip('"').encode()
    found = {}
    for part in body.split(b"--" + boundary)[1:-1]:
        content = part.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n")
        found[str(pydicom.dcmread(BytesIO(content)).SOPInstanceUID)] = data_set(content)
    return found
