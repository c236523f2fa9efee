"""One DICOM file's header to the slices it holds: what choosing, checking and placing them needs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
from pydicom.datadict import tag_for_keyword

from covct.dicom.alike import Alike
from covct.dicom.patient import PATIENT_TAGS, Patient, patient_of
from covct.dicom.read import MOST_FRAMES, BeyondBounds, read_dataset, transfer_syntax_uid
from covct.dicom.syntaxes import DEFLATED, is_lossy
from covct.dicom.valid import commas_to_points, is_uid
from covct.disk.sources import Opener, SourceFile, digest, is_media_directory, read_all
from covct.errors import SeriesError, SourceDefect

# A CT header has 2 to 20 KiB, an enhanced one some KiB a frame; more than the last is no header.
HEADER_BYTES = (64 * 1024, 4 * 1024**2, 64 * 1024**2)
HIGHEST_KVP = 1000  # kV; tubes of CT scanners have 70 to 150
LARGEST_WHOLE = 2**31  # of an integer string (PS3.5 6.2); one may become part of a folder's name
APPLE_DOUBLE = b"\0\x05\x16\x07"  # what a Mac writes beside a file, under the file's name
BY_CONTENTS = "sha256-"  # before what identifies a slice that has no UID of its own
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
LEGACY_CONVERTED_CT = "1.2.840.10008.5.1.4.1.1.2.2"
MULTI_FRAME_CT = {ENHANCED_CT, LEGACY_CONVERTED_CT}
HEADER_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality",
    "ImageType", "AcquisitionNumber", "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient",
    "PixelSpacing", "SliceThickness", "Rows", "Columns", "RescaleSlope", "RescaleIntercept", "RescaleType",
    "ConvolutionKernel", "BodyPartExamined", "LossyImageCompression", "LossyImageCompressionRatio",
    "ContrastBolusAgent", "SeriesDescription", "ImageComments", "TemporalPositionIdentifier", "TemporalPositionIndex",
    "ImagesInAcquisition", "KVP", "NominalPercentageOfCardiacPhase", "NumberOfFrames", "InConcatenationTotalNumber",
    "VolumetricProperties", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip
ALIKE: Alike[Header] = Alike([*HEADER_TAGS, *PATIENT_TAGS])  # of this process


@dataclass(frozen=True)
class Instance:
    """What the header says of one slice: one instance, or one frame of a multi-frame instance.

    None, or empty, where it is silent.

    Attributes
    ----------
    sop_instance_uid : str
        BY_CONTENTS and a hash of the file where it has none that is valid.
    frame : int or None
        Multi-frame only: the frame number, from 1.
    position : (3,) float or None
        Image Position (Patient), LPS mm.
    orientation : (6,) float or None
        Image Orientation (Patient).
    pixel_spacing : (2,) float or None
        Between rows, between columns, mm.
    rescale : (float, float) or None
        Slope and intercept.
    comment : str
        Series description and image comments, in capitals: says of breath-hold and contrast.
    images_in_acquisition : int
        0 where the header does not say.
    lossy_ratio : float
        The largest Lossy Image Compression Ratio; 0 where the header does not say.
    patient : Patient
        Whose slice it is, as digests.
    kvp : int or None
        Peak kilovoltage of the tube, kV.
    phase_percent : float or None
        Nominal Percentage of Cardiac Phase: from one R wave (0) to the next (100).
    commas, doubtful_commas : tuple of str
        Attributes written with a decimal comma; those where it may be one between thousands, with the value.
    """

    file: SourceFile
    sop_class_uid: str
    sop_instance_uid: str
    modality: str
    image_type: tuple[str, ...]
    acquisition: int | None
    number: int
    position: tuple[float, float, float] | None
    orientation: tuple[float, ...] | None
    pixel_spacing: tuple[float, float] | None
    thickness: float | None
    shape: tuple[int, int]
    rescale: tuple[float, float] | None
    rescale_type: str
    body_part: str
    kernel: str
    contrast: bool
    lossy: bool
    frame_of_reference_uid: str | None
    transfer_syntax_uid: str
    comment: str = ""
    temporal_position: int | None = None
    images_in_acquisition: int = 0
    lossy_ratio: float = 0.0
    frame: int | None = None
    stack: str = ""
    concatenated: bool = False
    patient: Patient = Patient()
    kvp: int | None = None
    phase_percent: float | None = None
    commas: tuple[str, ...] = ()
    doubtful_commas: tuple[str, ...] = ()


@dataclass(frozen=True)
class Header:
    """The slices of one file, and the study and series they belong to."""

    study_uid: str
    series_uid: str
    instances: tuple[Instance, ...]


@dataclass(frozen=True)
class MediaDirectory:
    """A Media Storage Directory: the index of a medium, whatever it is called. It belongs to what lies below it."""


def read_header(file: SourceFile, opener: Opener | None = None) -> Header | MediaDirectory | None:
    """Read what a file says of its slices; None for a file that is not DICOM, or a nameless object that is no CT.

    Parameters
    ----------
    opener : Opener, optional
        Keeps the archive open that many files lie in.

    Raises
    ------
    SeriesError
        `unreadable`: it claims to be DICOM and cannot be read.
    """
    start, walked = b"", None
    claims = whole = False
    found: Header | None = None
    fault = ""
    for limit in HEADER_BYTES:
        [(_, start)] = read_all([file], limit, opener=opener)
        if is_media_directory(start):
            return MediaDirectory()
        looks = start[128:132] == b"DICM" or _looks_like_dicom(start)
        claims = start[128:132] == b"DICM" or Path(file.name).suffix.lower() in (".dcm", ".ima")
        if (not claims and not looks) or start.startswith(APPLE_DOUBLE):
            return None
        walked = ALIKE.walk(start) if limit == HEADER_BYTES[0] else None
        if walked and (header := ALIKE.recall(walked, file)):
            return header
        try:
            found, whole, fault = _parsed(file, start)
        except BeyondBounds as error:
            if not claims:
                return None
            raise SeriesError("unreadable", f"not a readable DICOM image: {error}") from error
        if whole or len(start) < limit or not looks:
            break
    if len(start) == HEADER_BYTES[-1] and not whole and not _is_deflated(found):
        raise SeriesError(
            "unreadable", f"not a readable DICOM image: its header does not end within {len(start)} bytes"
        )
    if found and not whole and _may_be_ct(found) and not _is_deflated(found):
        # Cut before its pixels, perhaps in the middle of a value: what it says of itself is not yet true. As a slice
        # it would found a series of its own, or have its own one rejected under the key that the whole one has.
        found = None
    if found is None and claims:
        raise SeriesError("unreadable", f"not a readable DICOM image ({len(start)} bytes): {fault or 'cut short?'}")
    if found and walked and whole:
        ALIKE.remember(walked, found)
    return _identified(file, found, opener) if found else None


def _identified(file: SourceFile, header: Header, opener: Opener | None) -> Header | None:
    """Slices without a UID of their own are known by their contents; what else has none is not for us."""
    nameless = not header.instances[0].sop_instance_uid
    if not nameless and header.study_uid and header.series_uid:
        return header
    if not _may_be_ct(header) or header.instances[0].modality not in ("CT", ""):
        return None
    if not nameless:
        return header
    contents = f"{BY_CONTENTS}{digest(file, opener)}"
    instances = tuple(replace(instance, sop_instance_uid=contents) for instance in header.instances)
    return replace(header, instances=instances)


def own_uid(dataset: pydicom.Dataset) -> str:
    """SOP Instance UID of a data set, or else of its file meta information; empty where there is none that is valid."""
    for uid in (dataset.get("SOPInstanceUID"), dataset.file_meta.get("MediaStorageSOPInstanceUID")):
        if uid:
            return str(uid) if is_uid(str(uid)) else ""
    return ""


def read_values(file: SourceFile, keywords: tuple[str, ...]) -> dict[str, str]:
    """Values of attributes of one file's top level, as text; several are joined by backslashes.

    Missing ones are empty, and so are damaged ones.

    Raises
    ------
    SeriesError
        `unreadable`: the file.
    """
    [(_, contents)] = read_all([file], HEADER_BYTES[-1])
    try:
        header = read_dataset(contents, stop_before_pixels=True, specific_tags=keywords)
    except Exception as error:  # what is not DICOM raises anything
        raise SeriesError("unreadable", f"the file cannot be read: {type(error).__name__}", file.label) from error
    values = {}
    for keyword in keywords:
        value = _value(header, keyword)
        parts = [value] if not _is_list(value) else value
        values[keyword] = "\\".join("" if part is None else str(part) for part in parts)
    return values


def _value(header: pydicom.Dataset, keyword: str) -> Any:
    """A value, parsed on access; None where it is missing or damaged."""
    try:
        return header.get(keyword)
    except Exception:  # struct, unicode, value errors; NotImplementedError for a value representation that is none
        return None


def _looks_like_dicom(start: bytes) -> bool:
    """Without a preamble a file begins with group 0002 or 0008, little or big endian."""
    return start[:2] in (b"\x08\x00", b"\x02\x00") or start[:4] in (b"\x00\x08\x00\x05", b"\x00\x08\x00\x08")


def _is_deflated(header: Header | None) -> bool:
    """Whether nobody can say where the header ends in the file."""
    return header is not None and header.instances[0].transfer_syntax_uid == DEFLATED


def _parsed(file: SourceFile, start: bytes) -> tuple[Header | None, bool, str]:
    """The header, whether the bytes reached to its end, and what is wrong where there is no header."""
    stream, at = BytesIO(start), ""
    try:
        header = read_dataset(stream, stop_before_pixels=True, specific_tags=[*HEADER_TAGS, *PATIENT_TAGS])
        syntax = transfer_syntax_uid(header)
        reached = stream.tell() < len(start) - 8 and syntax != DEFLATED
        commas = commas_to_points(header, list(header.keys()))
        for keyword in HEADER_TAGS:
            at = keyword
            header.get(keyword)  # values are parsed on access: a damaged one shall be found here
        at = ""
        header.SOPInstanceUID = own_uid(header)
        study, series = str(header.get("StudyInstanceUID") or ""), str(header.get("SeriesInstanceUID") or "")
        slices = tuple(_with_commas(one, commas) for one in _instances(file, header, syntax))
        return Header(study, series, slices), reached, ""
    except BeyondBounds:
        raise
    except SourceDefect as error:
        return None, False, str(error)
    except Exception:  # a header cut or damaged anywhere raises anything: struct, zlib, unicode, value errors
        return None, False, f"its {at} cannot be read" if at else ""


def _with_commas(instance: Instance, commas: tuple[list[str], list[str]]) -> Instance:
    if not any(commas):
        return instance
    read, doubtful = (tuple(sorted(set(found))) for found in commas)
    return replace(instance, commas=read, doubtful_commas=doubtful)


def _may_be_ct(header: Header) -> bool:
    """Whether it is CT as far as it goes: of a header that is cut the SOP class may be missing, or cut itself."""
    return any(known.startswith(header.instances[0].sop_class_uid) for known in {CT_IMAGE, *MULTI_FRAME_CT})


def _instances(file: SourceFile, header: pydicom.Dataset, syntax: str) -> Iterable[Instance]:
    if header.get("SOPClassUID") not in MULTI_FRAME_CT:
        yield _instance(file, _Attributes([header]), syntax)
        return
    shared = list(header.get("SharedFunctionalGroupsSequence") or [])[:1]
    frames = list(header.get("PerFrameFunctionalGroupsSequence") or [])
    declared = int(header.get("NumberOfFrames") or 0)
    if not 0 < len(frames) == declared <= MOST_FRAMES:
        raise SourceDefect(f"per-frame functional groups of {len(frames)} frames, NumberOfFrames is {declared}")
    common = _Attributes([*(item for groups in shared for item in _items(groups)), header])
    for number, groups in enumerate(frames, 1):
        yield _instance(file, _Attributes(_items(groups), common), syntax, number)


class _Attributes:
    """Values by keyword: from the first of the data sets that has it, then from what is common to all frames."""

    def __init__(self, datasets: Iterable[pydicom.Dataset], common: _Attributes | None = None):
        self.own = {tag: dataset for dataset in reversed([*datasets]) for tag in dataset.keys()}  # noqa: SIM118
        self.common = common

    def get(self, keyword: str) -> Any:
        tag = tag_for_keyword(keyword)
        if tag in self.own:
            return self.own[tag][tag].value
        return self.common.get(keyword) if self.common else None

    def number(self, keyword: str) -> float | None:
        try:
            value = float(self.get(keyword))
            return value if math.isfinite(value) else None
        except (TypeError, ValueError, OverflowError):
            return None

    def whole(self, keyword: str) -> int | None:
        value = self.number(keyword)
        return None if value is None or abs(value) > LARGEST_WHOLE else int(value)

    def numbers(self, keyword: str, count: int) -> Any:
        try:
            found = self.get(keyword) or ()
            if isinstance(found, bytes) or any(isinstance(value, str) for value in found):  # no numbers, by their VR
                return None
            values = tuple(float(value) for value in found)
        except (TypeError, ValueError, OverflowError):
            return None
        return values if len(values) == count and all(map(math.isfinite, values)) else None

    def text(self, keyword: str) -> str:
        value = self.get(keyword) or ""
        return str(value if isinstance(value, str) else value[0] if _is_list(value) and len(value) else value)


def _items(group: pydicom.Dataset) -> list[pydicom.Dataset]:
    """The macros of a functional group: the first item of each of its sequences."""
    return [element.value[0] for element in group if element.VR == "SQ" and len(element.value)]


def _is_list(value: Any) -> bool:
    return not isinstance(value, (str, bytes)) and hasattr(value, "__getitem__") and hasattr(value, "__len__")


def _instance(file: SourceFile, values: _Attributes, syntax: str, frame: int | None = None) -> Instance:
    image_type = values.get("FrameType") or values.get("ImageType") or ()
    distorted = ("DISTORTED",) if values.text("VolumetricProperties") == "DISTORTED" else ()
    slope, intercept = values.number("RescaleSlope"), values.number("RescaleIntercept")
    ratios = values.get("LossyImageCompressionRatio") or ()
    kvp, phase = values.number("KVP"), values.number("NominalPercentageOfCardiacPhase")
    return Instance(
        file=file,
        sop_class_uid=values.text("SOPClassUID"),
        sop_instance_uid=values.text("SOPInstanceUID"),
        modality=values.text("Modality"),
        image_type=(
            *(str(v).upper() for v in ([image_type] if isinstance(image_type, str) else image_type)),
            *distorted,
        ),
        acquisition=values.whole("FrameAcquisitionNumber" if frame else "AcquisitionNumber"),
        number=values.whole("InStackPositionNumber") or frame or values.whole("InstanceNumber") or 0,
        position=values.numbers("ImagePositionPatient", 3),
        orientation=values.numbers("ImageOrientationPatient", 6),
        pixel_spacing=values.numbers("PixelSpacing", 2),
        thickness=values.number("SliceThickness"),
        shape=(values.whole("Rows") or 0, values.whole("Columns") or 0),
        rescale=None if slope is None or intercept is None else (slope, intercept),
        rescale_type=values.text("RescaleType"),
        body_part=f"{values.text('BodyPartExamined')} {values.text('SeriesDescription')}".upper(),
        kernel=values.text("ConvolutionKernel"),
        contrast=bool(values.get("ContrastBolusAgent")),
        lossy=is_lossy(syntax, values.text("LossyImageCompression")),
        frame_of_reference_uid=values.text("FrameOfReferenceUID") or None,
        transfer_syntax_uid=syntax,
        comment=f"{values.text('SeriesDescription')} {values.text('ImageComments')}".upper(),
        temporal_position=_temporal_position(values, frame),
        images_in_acquisition=values.whole("ImagesInAcquisition") or 0,
        lossy_ratio=max(_floats(ratios), default=0.0),
        frame=frame,
        stack=values.text("StackID"),
        concatenated=(values.whole("InConcatenationTotalNumber") or 1) > 1,
        patient=patient_of(values.get),
        kvp=round(kvp) if kvp and 0 < kvp < HIGHEST_KVP else None,
        phase_percent=None if phase is None or not 0 <= phase <= 100 else round(phase, 1),
    )


def _temporal_position(values: _Attributes, frame: int | None) -> int | None:
    """Single-frame images have the identifier, frames the index; some scanners write the other one."""
    keywords = ("TemporalPositionIdentifier", "TemporalPositionIndex")
    found = (values.whole(keyword) for keyword in (keywords[::-1] if frame else keywords))
    return next((number for number in found if number is not None), None)


def _floats(values: Any) -> list[float]:
    out = []
    for value in values if _is_list(values) else [values]:
        try:
            number = float(value)
        except (TypeError, ValueError):
            continue
        if math.isfinite(number):
            out.append(number)
    return out
