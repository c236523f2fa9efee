"""Directory tree to series references, by headers only; and which series of a study to segment, and why."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Any

import pydicom

from covct.errors import SeriesError
from covct.sources import Problem, SourceFile, read_all, walk

NIFTI_SUFFIXES = (".nii", ".nii.gz")
HEADER_BYTES = 64 * 1024  # a CT header has 2 to 20 KiB; larger ones are read whole
NOT_IMAGES = {".png", ".jpg", ".jpeg", ".txt", ".csv", ".json", ".xml", ".html", ".pdf", ".md", ".log", ".tmp"}
UID_PATTERN = re.compile(r"[0-9.]{1,64}")
MOSTLY = 0.5  # of an acquisition's positions are another's too: two scans of one region, not one scan in rotations
OTHER_PARTS = re.compile(r"HEAD|BRAIN|SKULL|SINUS|NECK|ABDOMEN|PELVIS|KNEE|HIP|LEG|FOOT|ARM|HAND|SPINE")
CHEST_PARTS = re.compile(r"CHEST|THORAX|LUNG|CAP|TAP|BODY|PULM")
CT_IMAGE, ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"
HEADER_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality",
    "ImageType", "AcquisitionNumber", "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient",
    "PixelSpacing", "SliceThickness", "Rows", "Columns", "RescaleSlope", "RescaleIntercept", "RescaleType",
    "ConvolutionKernel", "BodyPartExamined", "LossyImageCompression", "ContrastBolusAgent", "SeriesDescription",
]  # fmt: skip


@dataclass(frozen=True)
class Instance:
    """What one slice's header says, as far as choosing and checking need it. None where it is silent."""

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
    has_rescale: bool
    rescale_type: str
    body_part: str
    kernel: str
    contrast: bool
    lossy: bool
    frame_of_reference_uid: str | None
    transfer_syntax_uid: str


@dataclass(frozen=True)
class Series:
    """A candidate for segmentation: one DICOM series (or one acquisition of it), or one NIfTI file.

    Attributes
    ----------
    kind : str
        "dicom" or "nifti".
    folder : str
        Where its result goes below the output tree: ``study/series``; safe as a path whatever the UIDs hold.
    instances : tuple of Instance
        DICOM only, each SOP Instance UID once.
    path : SourceFile or None
        NIfTI only.
    content : tuple of str
        What identifies the input: sorted SOP Instance UIDs, or the file's sha256.
    duplicates : int
        Files that repeated an instance already there.
    unreadable_beside : int
        Unreadable files in the same folder or archive: an end slice may be among them.
    """

    kind: str
    study_uid: str
    series_uid: str
    folder: str
    content: tuple[str, ...]
    instances: tuple[Instance, ...] = ()
    path: SourceFile | None = None
    duplicates: int = 0
    unreadable_beside: int = 0

    @property
    def study_folder(self) -> str:
        return self.folder.split("/")[0]


@dataclass(frozen=True)
class Discovery:
    """Everything found below the sources."""

    series: tuple[Series, ...]
    problems: tuple[Problem, ...]
    ignored: int


def discover(sources: Iterable[Path], avoid: Path | None = None) -> Discovery:
    """Find the series below files and directories, nested, DICOM and NIfTI mixed, zip archives too.

    Parameters
    ----------
    sources : iterable of Path
    avoid : Path, optional
        An output tree not to enter.
    """
    problems: list[Problem] = []
    instances: list[tuple[str, str, Instance]] = []
    volumes: list[Series] = []
    unreadable: list[SourceFile] = []
    ignored = 0
    for file in walk(sources, problems, avoid):
        suffix = Path(file.name).suffix.lower()
        try:
            if file.name.lower().endswith(NIFTI_SUFFIXES):
                volumes.append(_nifti_series(file))
            elif suffix in NOT_IMAGES or Path(file.name).name.upper() == "DICOMDIR":
                ignored += 1
            elif found := _read_instance(file):
                instances.append(found)
            else:
                ignored += 1
        except SeriesError as error:
            problems.append(Problem(file.label, error.slug, error.message))
            unreadable.append(file)
    spoiled = Counter(_place(file) for file in unreadable)
    series = [
        replace(one, unreadable_beside=sum(spoiled[place] for place in {_place(i.file) for i in one.instances}))
        for one in _dicom_series(instances)
    ]
    return Discovery((*series, *volumes), tuple(problems), ignored)


def _place(file: SourceFile) -> str:
    """The folder, or the archive, that a file lies in."""
    return str(file.path) if file.member else str(file.path.parent)


def _read_instance(file: SourceFile) -> tuple[str, str, Instance] | None:
    """Study UID, series UID and instance; None for a file that is not DICOM."""
    [(_, start)] = read_all([file], HEADER_BYTES)
    claims = start[128:132] == b"DICM" or Path(file.name).suffix.lower() in (".dcm", ".ima")
    if not claims and not _looks_like_dicom(start):
        return None
    found = _parsed(file, start)
    if (found is None or found[2].shape == (0, 0)) and len(start) == HEADER_BYTES:  # a long header: read all
        [(_, start)] = read_all([file])
        found = _parsed(file, start)
    if found is None and claims:
        raise SeriesError("unreadable", f"not a readable DICOM image ({len(start)} bytes): cut short?")
    return found


def _parsed(file: SourceFile, start: bytes) -> tuple[str, str, Instance] | None:
    try:
        header = _parse(start)
        uid = header.get("SOPInstanceUID") or header.file_meta.get("MediaStorageSOPInstanceUID")
        if not uid:
            return None
        header.SOPInstanceUID = uid
        study, series = str(header.get("StudyInstanceUID") or ""), str(header.get("SeriesInstanceUID") or "")
        return study, series, _instance(file, header)
    except Exception:  # a header cut or damaged anywhere raises anything: struct, zlib, unicode, value errors
        return None


def _looks_like_dicom(start: bytes) -> bool:
    """Without a preamble a file begins with group 0002 or 0008, little or big endian."""
    return start[:2] in (b"\x08\x00", b"\x02\x00") or start[:4] in (b"\x00\x08\x00\x05", b"\x00\x08\x00\x08")


def _parse(start: bytes) -> pydicom.Dataset:
    header = pydicom.dcmread(BytesIO(start), stop_before_pixels=True, force=True, specific_tags=HEADER_TAGS)
    for keyword in HEADER_TAGS:
        header.get(keyword)  # values are parsed on access: a damaged one shall be found here
    return header


def _instance(file: SourceFile, header: pydicom.Dataset) -> Instance:
    def numbers(keyword: str, count: int) -> Any:
        try:
            values = tuple(float(v) for v in header.get(keyword) or ())
        except (TypeError, ValueError):
            return None
        return values if len(values) == count and all(map(math.isfinite, values)) else None

    def number(keyword: str) -> float | None:
        try:
            value = float(header[keyword].value)
            return value if math.isfinite(value) else None
        except (KeyError, TypeError, ValueError):
            return None

    image_type = header.get("ImageType") or ()
    acquisition, instance_number = number("AcquisitionNumber"), number("InstanceNumber")
    kernel = header.get("ConvolutionKernel") or ""
    meta = getattr(header, "file_meta", {})
    return Instance(
        file=file,
        sop_class_uid=str(header.get("SOPClassUID", "")),
        sop_instance_uid=str(header.SOPInstanceUID),
        modality=str(header.get("Modality", "")),
        image_type=tuple(str(v).upper() for v in ([image_type] if isinstance(image_type, str) else image_type)),
        acquisition=None if acquisition is None else int(acquisition),
        number=int(instance_number or 0),
        position=numbers("ImagePositionPatient", 3),
        orientation=numbers("ImageOrientationPatient", 6),
        pixel_spacing=numbers("PixelSpacing", 2),
        thickness=number("SliceThickness"),
        shape=(int(number("Rows") or 0), int(number("Columns") or 0)),
        has_rescale=number("RescaleSlope") is not None and number("RescaleIntercept") is not None,
        rescale_type=str(header.get("RescaleType") or ""),
        body_part=f"{header.get('BodyPartExamined') or ''} {header.get('SeriesDescription') or ''}".upper(),
        kernel=kernel if isinstance(kernel, str) else str(kernel[0]),
        contrast=bool(header.get("ContrastBolusAgent")),
        lossy=str(header.get("LossyImageCompression", "")) == "01",
        frame_of_reference_uid=str(header.FrameOfReferenceUID) if header.get("FrameOfReferenceUID") else None,
        transfer_syntax_uid=str(meta.get("TransferSyntaxUID", "") or ""),
    )


def _dicom_series(found: list[tuple[str, str, Instance]]) -> list[Series]:
    def identity(entry: tuple[str, str, Instance]) -> tuple[str, str, str]:
        """Without identifiers only the place tells what belongs together; the gate refuses it, once for all."""
        study, uid, instance = entry
        return study, uid, "" if study and uid else str((instance.file.path / instance.file.member).parent)

    found = sorted(found, key=lambda entry: (identity(entry), entry[2].sop_instance_uid, entry[2].file))
    out: list[Series] = []
    for (study, uid, place), group in groupby(found, key=identity):
        instances: dict[str, Instance] = {}
        duplicates = 0
        for _, _, instance in group:
            duplicates += instance.sop_instance_uid in instances
            instances.setdefault(instance.sop_instance_uid, instance)
        folder = f"{_safe(study or place)}/{_safe(uid or place)}"
        whole = Series("dicom", study, uid, folder, tuple(instances), tuple(instances.values()), duplicates=duplicates)
        out += _split_acquisitions(whole)
    return out


def _split_acquisitions(series: Series) -> list[Series]:
    """Two whole acquisitions under one Series Instance UID occupy the same positions; each is a candidate of its own.

    Split only where that explains the doubled positions: each acquisition has every position once, and all are
    numbered. Else the series stays whole, for the gate to name what is wrong with it.
    """
    numbers = sorted({i.acquisition for i in series.instances if i.acquisition is not None})
    parts = [tuple(i for i in series.instances if i.acquisition == number) for number in numbers]
    doubled = len(series.instances) - len({i.position for i in series.instances})
    if not (
        len(parts) > 1
        and sum(map(len, parts)) == len(series.instances)
        and all(len({i.position for i in part}) == len(part) for part in parts)
        and doubled >= MOSTLY * min(map(len, parts))
    ):
        return [series]
    return [
        replace(
            series,
            folder=f"{series.folder}-{number}",
            content=tuple(i.sop_instance_uid for i in part),
            instances=part,
        )
        for number, part in zip(numbers, parts, strict=True)
    ]


def _nifti_series(file: SourceFile) -> Series:
    """A NIfTI is known by its contents: the file name may hold a patient's."""
    digest = hashlib.sha256()
    for _, contents in read_all([file]):
        digest.update(contents)
    identity = digest.hexdigest()
    return Series("nifti", "", "", f"nifti-{identity[:12]}/volume", (identity,), path=file)


def _safe(uid: str) -> str:
    """A UID as a folder name; anything that is not one is hashed, since DICOM contents are not to be trusted."""
    if UID_PATTERN.fullmatch(uid) and uid.strip("."):
        return uid
    return "uid-" + hashlib.sha256(os.fsencode(uid)).hexdigest()[:24]


@dataclass(frozen=True)
class Choice:
    """One study's series to segment, with the reasons, and the others with theirs.

    `next_best` are the series that also passed the gate, in order of preference: where the chosen one turns out to
    hold no lungs, or cannot be read, the next takes its place.
    """

    chosen: Series | None
    reasons: tuple[str, ...]
    left_out: tuple[tuple[Series, str, str], ...]  # series, slug, message
    next_best: tuple[Series, ...] = ()

    def without_chosen(self, slug: str, message: str) -> Choice | None:
        """The choice once the chosen series was rejected for this reason; None where no other is left."""
        assert self.chosen is not None
        if not self.next_best:
            return None
        best, *others = self.next_best
        reasons = (*_reasons(best, others), f"the preferred series was rejected ({slug})")
        refused = tuple(entry for entry in self.left_out if entry[1] != NOT_CHOSEN)
        return Choice(
            best, reasons, (*refused, (self.chosen, slug, message), *_not_chosen(others, reasons)), tuple(others)
        )


NOT_CHOSEN = "not-chosen"


def choose(candidates: list[Series], check: Callable[[Series], None]) -> Choice:
    """Choose the series of one study to segment, always the same for the same study.

    The rule, in this order: a series that passes the gate; more slices than a localizer (three or more); not said to
    be of another part of the body; a lung or sharp kernel before a soft one; thinner slices; more slices; no contrast
    medium; the lowest UID.

    Parameters
    ----------
    candidates : list of Series
        All of one study.
    check : function (Series) -> None
        Raises SeriesError for a series that cannot be segmented.
    """
    good: list[Series] = []
    refused: list[tuple[Series, str, str]] = []
    for series in candidates:
        try:
            check(series)
            good.append(series)
        except SeriesError as error:
            refused.append((series, error.slug, error.message))
    if not good:
        return Choice(None, (), tuple(refused))
    best, *others = sorted(good, key=_preference)
    reasons = _reasons(best, others)
    return Choice(best, reasons, (*refused, *_not_chosen(others, reasons)), tuple(others))


def _not_chosen(others: list[Series], reasons: tuple[str, ...]) -> list[tuple[Series, str, str]]:
    message = f"another series of the study was chosen: {'; '.join(reasons)}"
    return [(other, NOT_CHOSEN, message) for other in others]


def _preference(series: Series):
    first = series.instances[0] if series.instances else None
    return (
        len(series.instances) < 3,
        bool(first and OTHER_PARTS.search(first.body_part) and not CHEST_PARTS.search(first.body_part)),
        not (first and is_lung_kernel(first.kernel)),
        round((first.thickness if first else None) or 99.0, 2),
        -len(series.instances),
        bool(first and first.contrast),
        series.folder,
    )


def _reasons(best: Series, others: list[Series]) -> tuple[str, ...]:
    if best.kind == "nifti":
        return ("the only volume of the file",)
    first = best.instances[0]
    if not others:
        return ("the only series of the study that can be segmented",)
    described = [f"{len(best.instances)} slices"]
    if first.thickness:
        described.append(f"{first.thickness:g} mm thick")
    if first.kernel:
        described.append(f"kernel {first.kernel}" + (" (lung)" if is_lung_kernel(first.kernel) else ""))
    return tuple(described)


def is_lung_kernel(kernel: str) -> bool:
    """GE LUNG, BONE, BONEPLUS, EDGE; Siemens B50 and above; Toshiba FC50 to FC56; Philips L, YC, YD: sharp kernels."""
    name = kernel.upper().strip()
    if name in {"LUNG", "BONE", "BONEPLUS", "EDGE", "L", "YC", "YD"}:
        return True
    siemens = re.match(r"(?:B|BL|BR|BV|I|QR)(\d\d)", name)
    toshiba = re.match(r"FC(\d\d)", name)
    return bool((siemens and int(siemens[1]) >= 50) or (toshiba and 50 <= int(toshiba[1]) <= 56))
