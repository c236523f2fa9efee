"""What every DICOM object we write shares: its source's patient and study, covct as its equipment, coded terms."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
from pydicom.tag import Tag
from pydicom.uid import UID, CTImageStorage, generate_uid

from covct import RESEARCH_USE, __version__
from covct.dicom.inherited import TYPE_2, Valid, can_be_written, copied, leave_out
from covct.dicom.orientation import snapped
from covct.dicom.valid import is_uid
from covct.outputs import DICOM_FORMATS, FORMATS
from covct.terms import ARTIFICIAL_INTELLIGENCE, DEVICE, PROCESSING_EQUIPMENT, CodedTerm

OF_FRAMES = (0x00280008, 0x52009229, 0x52009230)  # what makes the library take an image for a multi-frame one
CHARACTER_SET = Tag("SpecificCharacterSet")
MANUFACTURER = "covct"
# Attributes with Date and Time that tell when an object was made; SecondaryCapture of those that have it.
OF_THE_MAKING = ("Content", "Series", "InstanceCreation")
OFFSET = re.compile(r"[+-](0\d|1[0-4])[0-5]\d")  # Timezone Offset From UTC (0008,0201)
# Captures of every slice are other objects than those of key slices, under the same number.
OBJECTS = {name: (name,) for name in DICOM_FORMATS} | {"sc": ("sc", "sc-all")}
# Series numbers far above a scanner's, one a kind of object, so that they sort last and together.
SERIES_NUMBERS = {name: one.series_number for name, one in FORMATS.items() if one.series_number}


@dataclass(frozen=True)
class Making:
    """When and where a result was computed: what its objects tell of their making.

    Attributes
    ----------
    computed : datetime
        The first time, with an offset from UTC. Computed again, a result keeps it, and so its objects their bytes.
    installation : str
        Stands for the installation; says nothing of it.
    compared : datetime or None
        When it was first compared with the earlier result that it is compared with; None: with none.
    """

    computed: datetime
    installation: str
    compared: datetime | None = None

    @property
    def of_comparison(self) -> Making:
        """Of an object that tells of the comparison."""
        return replace(self, computed=self.compared or self.computed)


def equipment() -> dict[str, str]:
    """The General Equipment of every object we write, as highdicom's arguments."""
    return {
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": MANUFACTURER,
        "software_versions": __version__,
        "device_serial_number": "0",
    }


def object_uids(key: str, kind: str) -> dict[str, str]:
    """Series and SOP Instance UID of an object, from the work key: a redo sends a PACS the same object.

    `kind` is one of OBJECTS; more instances of a series take ``instance_uid``.
    """
    return {
        "series_instance_uid": generate_uid(entropy_srcs=[key, f"{kind}-series"]),
        "sop_instance_uid": instance_uid(key, kind),
    }


def telling_key(key: str, since: dict[str, Any] | None) -> str:
    """What the SOP Instance UID of an object derives from that tells how a result compares with an earlier one.

    The work key alone where there is nothing to tell. Compared with another one, or with the same done otherwise, it is
    another object, of the same series: a PACS never gets two contents under one UID.

    Parameters
    ----------
    since : dict or None
        The report's `since`, as it is written.
    """
    if not since or not since["comparison"]:
        return key
    told = json.dumps(since, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(f"{key} since {told}".encode()).hexdigest()


def telling_uids(key: str, kind: str, report: dict[str, Any]) -> dict[str, str]:
    """As `object_uids`, of an object that tells of the comparison that a report holds."""
    instance = instance_uid(telling_key(key, report.get("since")), kind)
    return object_uids(key, kind) | {"sop_instance_uid": instance}


def instance_uid(key: str, kind: str, number: int = 1) -> str:
    """SOP Instance UID of the `number`-th object of a kind; the first is that of `object_uids`."""
    uid: str = generate_uid(entropy_srcs=[key, f"{kind}-instance", *([str(number)] if number > 1 else [])])
    return uid


def algorithm(task: str, networks: dict[str, Any]) -> hd.AlgorithmIdentificationSequence:
    """covct as the algorithm of a task, with its threshold and the hash of the weights it ran with.

    `networks` is the report's: by task `threshold` and `sha256`, and more; an atlas has no threshold.
    """
    threshold = networks[task].get("threshold")
    return hd.AlgorithmIdentificationSequence(
        name="covct",
        version=__version__,
        family=code(ARTIFICIAL_INTELLIGENCE),
        parameters={
            "weights": networks[task]["sha256"][:16],
            "task": task,
            **({} if threshold is None else {"threshold": f"{threshold:g}"}),
        },
    )


def contributing_equipment() -> list[hd.ContributingEquipment]:
    """Contributing Equipment Sequence (0018,A001): covct processed the images; its purpose says research use only."""
    return [
        hd.ContributingEquipment(
            purpose_of_reference=code(PROCESSING_EQUIPMENT),
            contribution_description=RESEARCH_USE,
            **equipment(),
        )
    ]


def device_observer(making: Making) -> hd.sr.ObserverContext:
    """covct as the observer of a document (TID 1004); its name, which viewers show on top, says research use only.

    Its UID is that of the installation: two hospitals' are two devices.
    """
    return hd.sr.ObserverContext(
        observer_type=code(DEVICE),
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=generate_uid(entropy_srcs=["covct device", making.installation]),
            name=f"covct {__version__}. {RESEARCH_USE}",
            manufacturer_name=MANUFACTURER,
            model_name=MANUFACTURER,
        ),
    )


def finish(dataset: pydicom.Dataset, source: pydicom.Dataset, key: str, making: Making) -> None:
    """Mark an object as research, date it, and make it the same bytes whenever it is made again.

    The SOP Instance UID derives from the work key, so a redo must be the same object and not another one under its
    UID: PACS keep the first they got, and compare. So its dates are those of the first computation, which the outcome
    keeps, and UIDs that the library draws at random derive from the key.
    """
    mark_as_research(dataset)
    _date(dataset, source, making.computed)
    if "DimensionOrganizationSequence" in dataset:
        uid = generate_uid(entropy_srcs=[key, "dimension-organization"])
        for item in (*dataset.DimensionOrganizationSequence, *dataset.get("DimensionIndexSequence", [])):
            item.DimensionOrganizationUID = uid


def _date(dataset: pydicom.Dataset, source: pydicom.Dataset, computed: datetime) -> None:
    """Content, series and instance are as old as their computation (PS3.3 C.7.3.1, C.12.1, C.17.2), not as the scan.

    Dates in an object are of one time zone: of the source's, where it names one, which is named here too then; else
    local, as a scanner's.
    """
    offset = str(source.get("TimezoneOffsetFromUTC") or "").strip()
    if OFFSET.fullmatch(offset):
        computed = computed.astimezone(datetime.strptime(offset, "%z").tzinfo)
        dataset.TimezoneOffsetFromUTC = offset
    day, time = computed.strftime("%Y%m%d"), computed.strftime("%H%M%S")
    for of in OF_THE_MAKING:
        setattr(dataset, f"{of}Date", day)
        setattr(dataset, f"{of}Time", time)
    if "DateOfSecondaryCapture" in dataset:
        dataset.DateOfSecondaryCapture, dataset.TimeOfSecondaryCapture = day, time
    for item in dataset.get("ContributingEquipmentSequence", []):
        if item.PurposeOfReferenceCodeSequence[0].CodeValue == PROCESSING_EQUIPMENT.value:
            item.ContributionDateTime = computed.strftime("%Y%m%d%H%M%S%z")


LABEL_MAP_STORAGE = UID("1.2.840.10008.5.1.4.1.1.66.7")  # Label Map Segmentation Storage


def separate_items(container: pydicom.Dataset) -> None:
    """Continuity of Content (0040,A050) SEPARATE, here and below: viewers set items apart, not into one sentence."""
    container.ContinuityOfContent = "SEPARATE"
    for item in container.get("ContentSequence", []):
        if item.ValueType == "CONTAINER":
            separate_items(item)


def mark_as_research(dataset: pydicom.Dataset) -> None:
    """Content Qualification (0018,9004) RESEARCH: DICOM's own word for what is not a product."""
    dataset.ContentQualification = "RESEARCH"


def encodable(headers: tuple[pydicom.Dataset, ...], key: str, spacing_mm: float) -> list[pydicom.Dataset]:
    """Copies of the source headers that can be encoded against: type 2 attributes present, one orientation.

    A missing frame of reference is that of the other slices, or else derived from the work; a missing slice thickness
    (which the object must have) is the slice spacing. `filled` says in words what was done.
    """
    out = []
    derived = generate_uid(entropy_srcs=[key, "frame-of-reference"])
    frame = next((one.FrameOfReferenceUID for one in headers if _has_frame_of_reference(one)), derived)
    for good in identified(headers):
        if not _has_frame_of_reference(good):
            _put(good, "FrameOfReferenceUID", frame)
        if _is_multi_frame(good):
            _complete_groups(good, spacing_mm)
        else:
            if not _has_thickness(good):
                _put(good, "SliceThickness", float(round(spacing_mm, 6)))
            _put(good, "ImageOrientationPatient", snapped(headers[0].ImageOrientationPatient))
        out.append(good)
    return out


def identified(headers: Iterable[pydicom.Dataset]) -> list[pydicom.Dataset]:
    """Copies of source headers that can be referred to and inherited from: type 2 attributes of patient and study.

    Nothing is invented that could be taken for the patient's: what is missing or not valid is empty, or left out
    (`inherited.leave_out`).
    """
    out: list[pydicom.Dataset] = []
    valid: dict[str, Valid] = {}
    for header in headers:
        good = copied(header)
        for tag in OF_FRAMES:
            if tag in good and not _is_multi_frame(good):
                del good[tag]
        characters = str(getattr(good.get_item(CHARACTER_SET), "value", None))
        leave_out(good, valid.setdefault(characters, set()))
        for keyword in TYPE_2:
            if keyword not in good:
                _put(good, keyword, "" if keyword != "PatientName" else None)
        # Names are decoded by the source's character set on access, whatever it is, and written as UTF-8.
        _put(good, "PatientName", str(good.PatientName or "") or None)
        _put(good, "SpecificCharacterSet", "ISO_IR 192")
        if not good.get("SOPInstanceUID"):
            good.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            if keyword in good:
                _put(good, keyword, str(good[keyword].value))  # where its VR is damaged it came as a name
        out.append(good)
    return out


def _put(dataset: pydicom.Dataset, keyword: str, value: str | float | list[float] | None) -> None:
    """Set an attribute with its own value representation, whatever was there before."""
    if keyword in dataset:
        del dataset[keyword]
    setattr(dataset, keyword, value)


def _has_frame_of_reference(header: pydicom.Dataset) -> bool:
    """Whether there is one that is valid, and not several."""
    value = header.get("FrameOfReferenceUID")
    return isinstance(value, str) and is_uid(value)


def _has_thickness(dataset: pydicom.Dataset) -> bool:
    """Whether there is a slice thickness, as a number."""
    try:
        value = dataset.get("SliceThickness")
    except Exception:  # a damaged one
        return False
    return isinstance(value, float | int) and 0 < value < math.inf


def _is_multi_frame(header: pydicom.Dataset) -> bool:
    return bool(header.get("SOPClassUID") != CTImageStorage)


def filled(headers: tuple[pydicom.Dataset, ...]) -> list[str]:
    """What `encodable` has to fill or snap, a phrase an attribute; for the report. Never a value of the patient's."""
    found: set[str] = set()
    for header in headers[:1]:  # the others are referred to, not inherited from
        emptied = {f"{keyword}: not valid, left out" for keyword in TYPE_2}
        found.update(phrase for phrase in leave_out(copied(header)) if phrase not in emptied)
    for header in headers:
        for keyword in TYPE_2:
            if keyword not in header:
                found.add(f"{keyword}: missing, left empty")
            elif not can_be_written(header, Tag(keyword)):
                found.add(f"{keyword}: not valid, left empty")
        if not _has_frame_of_reference(header):
            others = any(map(_has_frame_of_reference, headers))
            source = "that of the other slices was taken" if others else "derived from the work key"
            what = "not valid" if header.get("FrameOfReferenceUID") else "missing"
            found.add(f"FrameOfReferenceUID: {what}, {source}")
        if not _is_multi_frame(header):
            if not _has_thickness(header):
                found.add("SliceThickness: missing, the slice spacing was taken")
            cosines = header.get("ImageOrientationPatient")
            if cosines and np.abs(np.array(cosines, float) - snapped(headers[0].ImageOrientationPatient)).max() > 0:
                found.add("ImageOrientationPatient: snapped to perpendicular unit vectors")
    return sorted(found)


def _complete_groups(header: pydicom.Dataset, spacing_mm: float) -> None:
    """Fill a slice thickness and snap orientations in the functional groups of a multi-frame header of ours."""
    for groups in [*header.get("SharedFunctionalGroupsSequence", []), *header.PerFrameFunctionalGroupsSequence]:
        for measures in groups.get("PixelMeasuresSequence", []):
            if not _has_thickness(measures):
                _put(measures, "SliceThickness", float(round(spacing_mm, 6)))
        for plane in groups.get("PlaneOrientationSequence", []):
            plane.ImageOrientationPatient = snapped(plane.ImageOrientationPatient)


def code(term: CodedTerm) -> hd.sr.CodedConcept:
    return hd.sr.CodedConcept(term.value, term.scheme, term.meaning)
