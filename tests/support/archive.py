"""Archives to pull from: tiny CT studies, and a query/retrieve SCP in this process that fails as it is told to."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless

from support.pacs import free_ports

FIND, MOVE, GET = (f"1.2.840.10008.5.1.4.1.2.2.{number}" for number in (1, 2, 3))
UNIQUE = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}


def ct_series(folder: Path, study: str, number: int = 1, slices: int = 4, **attributes: Any) -> list[Path]:
    """A series of tiny CT slices, as files; `attributes` beside or in place of its own. `syntax` compresses them."""
    folder.mkdir(parents=True, exist_ok=True)
    syntax = attributes.pop("syntax", ExplicitVRLittleEndian)
    paths = []
    for index in range(1, slices + 1):
        dataset = pydicom.Dataset()
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        values = {
            "SOPClassUID": CTImageStorage, "SOPInstanceUID": f"{study}.{number}.{index}", "StudyInstanceUID": study,
            "SeriesInstanceUID": f"{study}.{number}", "Modality": "CT", "StudyDate": "20261129", "StudyTime": "213000",
            "PatientID": f"P{study}", "PatientName": "Secret^Name", "BodyPartExamined": "CHEST",
            "StudyDescription": "CT Thorax", "InstanceNumber": index, "Rows": 16, "Columns": 16, "BitsAllocated": 16,
            "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1, "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2", "PixelSpacing": [1, 1], "SliceThickness": 1,
            "ImagePositionPatient": [0, 0, index], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "RescaleSlope": 1, "RescaleIntercept": 0, "AccessionNumber": "", "StudyID": "",
            "FrameOfReferenceUID": f"{study}.9",
        }  # fmt: skip
        for keyword, value in {**values, **attributes}.items():
            setattr(dataset, keyword, value)
        pixels = np.arange(256, dtype="<i2").reshape(16, 16) + index
        dataset.PixelData = pixels.tobytes()
        if syntax == RLELossless:
            dataset.compress(RLELossless, pixels, generate_instance_uid=False)
        path = folder / f"{study}.{number}.{index}"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


@dataclass
class TinyArchive:
    """A query/retrieve SCP over files, on loopback.

    Attributes
    ----------
    refuses : set of str
        UIDs of instances that it cannot send, of classes that it does not offer.
    sent : list of str
        SOP Instance UIDs of what it sent, or tried to.
    stop_after : int or None
        So many instances later it breaks the association off.
    """

    files: list[Path]
    title: str = "TINY"
    calling: str = ""
    refuses: set[str] = field(default_factory=set)
    listeners: dict[str, tuple[str, int]] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)
    stop_after: int | None = None
    status: int | None = None
    port: int = 0
    tls: ssl.SSLContext | None = None

    @property
    def peer(self) -> str:
        return f"{'dicoms://' if self.tls else ''}{self.title}@127.0.0.1:{self.port}"

    def datasets(self) -> list[pydicom.Dataset]:
        return [pydicom.dcmread(path) for path in self.files]

    def matching(self, asked: pydicom.Dataset) -> list[pydicom.Dataset]:
        """Of the unique keys and the range of dates; other keys are not matched, as an archive may do."""
        found = []
        for one in self.datasets():
            keys = [getattr(asked, keyword, "") for keyword in UNIQUE.values()]
            lists = [key if isinstance(key, pydicom.multival.MultiValue) else [key] if key else [] for key in keys]
            same = all(
                not some or one[keyword].value in some for some, keyword in zip(lists, UNIQUE.values(), strict=True)
            )
            first, _, last = str(asked.get("StudyDate", "")).partition("-")
            if same and (not first or one.StudyDate >= first) and (not last or one.StudyDate <= last):
                found.append(one)
        return found

    def find(self, event: Any) -> Iterator[tuple[int, pydicom.Dataset | None]]:
        asked = event.identifier
        key = UNIQUE[asked.QueryRetrieveLevel]
        if self.status is not None:
            yield self.status, None
            return
        matching = self.matching(asked)
        for uid in dict.fromkeys(str(one[key].value) for one in matching):
            [first, *_] = same = [one for one in matching if one[key].value == uid]
            answer = pydicom.Dataset()
            answer.QueryRetrieveLevel = asked.QueryRetrieveLevel
            for element in asked:
                if element.keyword in first:
                    answer[element.tag] = first[element.tag]
            if "NumberOfSeriesRelatedInstances" in asked:
                answer.NumberOfSeriesRelatedInstances = len(same)
            yield 0xFF00, answer

    def get(self, event: Any) -> Iterator[Any]:
        matching = self.matching(event.identifier)
        yield len(matching)
        yield from self._sub_operations(matching, event)

    def move(self, event: Any) -> Iterator[Any]:
        matching = self.matching(event.identifier)
        if event.move_destination not in self.listeners:
            yield None, None
            return
        yield self.listeners[event.move_destination]
        yield len(matching)
        yield from self._sub_operations(matching, event)

    def _sub_operations(self, matching: Iterable[pydicom.Dataset], event: Any) -> Iterator[Any]:
        for one in matching:
            if self.stop_after is not None and len(self.sent) >= self.stop_after:
                event.assoc.abort()
                return
            self.sent.append(str(one.SOPInstanceUID))
            if one.SOPInstanceUID in self.refuses:
                one.SOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"  # of which no context was accepted
                one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID
            yield 0xFF00, one


@contextmanager
def tiny_archive(files: Iterable[Path], **settings: Any) -> Iterator[TinyArchive]:
    """A tiny archive that is up."""
    from pynetdicom import AE, build_context, evt
    from pynetdicom.presentation import DEFAULT_TRANSFER_SYNTAXES

    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    archive = TinyArchive(list(files), **settings)
    entity = AE(ae_title=archive.title)
    entity.require_called_aet = True
    entity.require_calling_aet = [archive.calling] if archive.calling else []
    entity.supported_contexts = [build_context(uid) for uid in (FIND, MOVE, GET) if uid not in archive.refuses]
    entity.add_supported_context(
        CTImageStorage, [*DEFAULT_TRANSFER_SYNTAXES, RLELossless], scu_role=True,
        scp_role=CTImageStorage not in archive.refuses,
    )  # fmt: skip
    entity.add_requested_context(CTImageStorage, [ExplicitVRLittleEndian])
    [archive.port] = free_ports(1)
    handlers = [(evt.EVT_C_FIND, archive.find), (evt.EVT_C_GET, archive.get), (evt.EVT_C_MOVE, archive.move)]
    server = entity.start_server(
        ("127.0.0.1", archive.port), block=False, evt_handlers=handlers, ssl_context=archive.tls
    )  # fmt: skip
    try:
        yield archive
    finally:
        server.shutdown()
