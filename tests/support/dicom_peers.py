"""Modalities of the tests: one that sends as it should, and one that sends whatever it is told to."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID
from pynetdicom import AE, _config
from pynetdicom.dsutils import decode, encode
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, ImplementationClassUIDNotification, MaximumLengthNotification
from pynetdicom.presentation import build_context

from covct.dicom.header import CT_IMAGE
from covct.dicom.syntaxes import EXPLICIT_LITTLE_ENDIAN, SYNTAXES
from covct.exchange.acceptor import Terms
from covct.exchange.listener import Listener, listening
from covct.exchange.peers import VERIFICATION, caller_of
from covct.exchange.received import Inbox

TITLE, MODALITY, MAX_PDU = "COVCT", "CT1", 16384
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
PIXELS = b"\xfe\xff\x00\xe0\x00\x00\x00\x00\xfe\xff\x00\xe0\x04\x00\x00\x00abcd\xfe\xff\xdd\xe0\x00\x00\x00\x00"


def instance(
    folder: Path,
    number: int = 1,
    study: str = "1.2.3",
    sop_class: str = CT_IMAGE,
    syntax: str = EXPLICIT_LITTLE_ENDIAN,
    **attributes: Any,
) -> Path:
    """A file with an instance that says little more than who it is."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, f"{study}.4.{number}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, f"{study}.4"
    dataset.Modality, dataset.PatientID, dataset.InstanceNumber = "CT", "nobody", number
    dataset.ReferencedStudySequence = [Dataset()]
    dataset.ReferencedStudySequence[0].StudyInstanceUID = "9.9.9"  # within a sequence it is another's
    dataset.Rows = dataset.Columns = 1
    dataset.BitsAllocated, dataset.PixelRepresentation = 16, 0
    compressed = SYNTAXES[syntax].codestream is not None
    dataset.PixelData = PIXELS if compressed else b"ab"
    dataset["PixelData"].VR = "OB" if compressed else "OW"
    dataset["PixelData"].is_undefined_length = compressed
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    path = folder / f"{dataset.SOPInstanceUID}-{len(list(folder.iterdir()))}.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return path


@dataclass
class Running:
    """A listener of this process in a thread, with the events that it tells."""

    listener: Listener
    events: list[dict[str, Any]]

    @property
    def port(self) -> int:
        return self.listener.address[1]

    def told(self, count: int = 1, kind: str = "association") -> list[dict[str, Any]]:
        """The events of a kind, once there are so many."""
        for _ in range(200):
            found = [event for event in self.events if event["event"] == kind]
            if len(found) >= count:
                return found
            time.sleep(0.05)
        raise AssertionError(self.events)


@contextmanager
def running(
    folder: Path, allow: Iterable[str] = ("*",), timeout_s: float = 60.0, most: int = 4, tls: Any = None
) -> Iterator[Running]:
    """A listener on a free port."""
    events: list[dict[str, Any]] = []
    terms = Terms(TITLE, tuple(map(caller_of, allow)), MAX_PDU, timeout_s)
    with listening("127.0.0.1", 0, terms, Inbox(folder), tls, most, events.append) as listener:
        thread = threading.Thread(target=listener.serve, daemon=True)
        thread.start()
        try:
            yield Running(listener, events)
        finally:
            listener.stop()
            thread.join(10)


def send(port: int, paths: Iterable[Path], tls: Any = None, title: str = MODALITY, called: str = TITLE) -> list[int]:
    """Statuses of what a well-behaved modality sends over one association, its bytes as they are in the files."""
    paths = list(paths)
    entity = AE(ae_title=title)
    for path in paths:
        meta = pydicom.filereader.read_file_meta_info(path)
        entity.add_requested_context(meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID)
    before, _config.STORE_SEND_CHUNKED_DATASET = _config.STORE_SEND_CHUNKED_DATASET, True
    try:
        association = entity.associate("127.0.0.1", port, ae_title=called, tls_args=(tls, "127.0.0.1") if tls else None)
        if not association.is_established:
            return []
        statuses = [association.send_c_store(path).get("Status") for path in paths]
        association.release()
        return statuses
    finally:
        _config.STORE_SEND_CHUNKED_DATASET = before


class Raw:
    """A peer that sends what it is told to, over a socket of its own."""

    def __init__(self, port: int, title: str = MODALITY, called: str = TITLE, associate: bool = True):
        self.socket = socket.create_connection(("127.0.0.1", port), 60)
        if associate:
            self.socket.sendall(request(title, called))
            self.answer = self.read()

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def read(self) -> tuple[int, bytes]:
        """Type and contents of the next PDU; 0 where the connection ends."""
        with suppress(OSError):
            head = self._read(6)
            if len(head) == 6:
                return head[0], self._read(struct.unpack(">L", head[2:])[0])
        return 0, b""

    def _read(self, length: int) -> bytes:
        found = b""
        while len(found) < length and (piece := self.socket.recv(length - len(found))):
            found += piece
        return found

    def pdu(self, kind: int, contents: bytes) -> None:
        self.socket.sendall(struct.pack(">BBL", kind, 0, len(contents)) + contents)

    def value(self, contents: bytes, control: int, context: int = 1) -> None:
        """One presentation data value in a PDU of its own."""
        self.pdu(4, struct.pack(">LBB", len(contents) + 2, context, control) + contents)

    def store(self, uid: str, data: bytes, sop_class: str = CT_IMAGE, last: bool = True) -> int | None:
        """The status of an instance that is sent under this UID; None without an answer."""
        self.value(command(uid, sop_class), 3)
        for at in range(0, len(data), MAX_PDU - 6):
            piece = data[at : at + MAX_PDU - 6]
            self.value(piece, 2 if last and at + len(piece) == len(data) else 0)
        return self.status() if last else None

    def status(self) -> int | None:
        """Of the response that comes next."""
        kind, contents = self.read()
        return int(decode(BytesIO(contents[6:]), True, True).Status) if kind == 4 else None


def request(title: str, called: str) -> bytes:
    """An A-ASSOCIATE-RQ: CT in explicit little endian as context 1, verification as 3."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = UID("1.2.840.10008.3.1.1.1")
    primitive.calling_ae_title, primitive.called_ae_title = title, called
    contexts = [build_context(CT_IMAGE, EXPLICIT_LITTLE_ENDIAN), build_context(VERIFICATION)]
    for number, context in zip((1, 3), contexts, strict=True):
        context.context_id = number
    primitive.presentation_context_definition_list = contexts
    longest, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    longest.maximum_length_received, implementation.implementation_class_uid = MAX_PDU, UID("1.2.3")
    primitive.user_information = [longest, implementation]
    return A_ASSOCIATE_RQ(primitive).encode()


def command(uid: str, sop_class: str = CT_IMAGE, field: int = 1) -> bytes:
    """A C-STORE-RQ's command set."""
    found = Dataset()
    found.AffectedSOPClassUID, found.CommandField, found.MessageID, found.Priority = sop_class, field, 7, 0
    found.CommandDataSetType = 0x0001
    encoded = encode(found, True, True) or b""
    value = uid.encode() + b"\0" * (len(uid) % 2)
    encoded += struct.pack("<HHL", 0, 0x1000, len(value)) + value  # whatever it is
    return struct.pack("<HHLL", 0, 0, 4, len(encoded)) + encoded
