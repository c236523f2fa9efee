"""Directory tree to series references, by headers only; and which series of a study to segment, and why."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Any

import pydicom
from pydicom.errors import InvalidDicomError

from covct.errors import SeriesError
from covct.sources import Problem, SourceFile, read_all, walk

NIFTI_SUFFIXES = (".nii", ".nii.gz")
HEADER_BYTES = 64 * 1024  # a CT header has 2 to 20 KiB; larger ones are read whole
NOT_IMAGES = {".png", ".jpg", ".jpeg", ".txt", ".csv", ".json", ".xml", ".html", ".pdf", ".md", ".log", ".tmp"}
UID_PATTERN = re.compile(r"[0-9.]{1,64}")
CT_IMAGE, ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"
HEADER_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality",
    "ImageType", "AcquisitionNumber", "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient",
    "PixelSpacing", "SliceThickness", "Rows", "Columns", "RescaleSlope", "RescaleIntercept", "RescaleType",
    "ConvolutionKernel", "BodyPartExamined", "LossyImageCompression", "ContrastBolusAgent",
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
    """

    kind: str
    study_uid: str
    series_uid: str
    folder: str
    content: tuple[str, ...]
    instances: tuple[Instance, ...] = ()
    path: SourceFile | None = None
    duplicates: int = 0

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
    ignored = 0
    for file in walk(sources, problems, avoid):
        suffix = Path(file.name).suffix.lower()
        try:
            if file.name.lower().endswith(NIFTI_SUFFIXES):
                volumes.append(_nifti_series(file))
            elif suffix in NOT_IMAGES or Path(file.name).name == "DICOMDIR":
                ignored += 1
            elif found := _read_instance(file):
                instances.append(found)
            else:
                ignored += 1
        except SeriesError as error:
            problems.append(Problem(file.label, error.slug, error.message))
    return Discovery((*_dicom_series(instances), *volumes), tuple(problems), ignored)


def _read_instance(file: SourceFile) -> tuple[str, str, Instance] | None:
    """Study UID, series UID and instance; None for a file that is not DICOM."""
    [(_, start)] = read_all([file], HEADER_BYTES)
    claims = start[128:132] == b"DICM" or Path(file.name).suffix.lower() in (".dcm", ".ima")
    if not claims and not _looks_like_dicom(start):
        return None
    try:
        header = _parse(start)
        if "Rows" not in header and len(start) == HEADER_BYTES:
            [(_, start)] = read_all([file])
            header = _parse(start)
    except (InvalidDicomError, ValueError, EOFError, KeyError, AttributeError, TypeError, NotImplementedError) as error:
        if not claims:
            return None
        raise SeriesError("unreadable", f"not a readable DICOM file ({len(start)} bytes): {error}") from error
    uid = header.get("SOPInstanceUID") or getattr(header, "file_meta", {}).get("MediaStorageSOPInstanceUID")
    if not uid:
        if not claims:
            return None
        raise SeriesError("unreadable", "a DICOM file without SOPInstanceUID: cut short, or no image?")
    header.SOPInstanceUID = uid
    return str(header.get("StudyInstanceUID", "")), str(header.get("SeriesInstanceUID", "")), _instance(file, header)


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
        return values if len(values) == count else None

    def number(keyword: str) -> float | None:
        try:
            return float(header[keyword].value)
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
        shape=(int(header.get("Rows") or 0), int(header.get("Columns") or 0)),
        has_rescale=number("RescaleSlope") is not None and number("RescaleIntercept") is not None,
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
    """Two acquisitions under one Series Instance UID occupy the same positions; each is a candidate of its own."""
    positions = [instance.position for instance in series.instances]
    numbers = sorted({i.acquisition for i in series.instances if i.acquisition is not None})
    if len(numbers) < 2 or len(set(positions)) == len(positions):
        return [series]
    parts = []
    for number in numbers:
        instances = tuple(i for i in series.instances if i.acquisition == number)
        parts.append(
            replace(
                series,
                folder=f"{series.folder}-{number}",
                content=tuple(i.sop_instance_uid for i in instances),
                instances=instances,
            )
        )
    return parts


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
    return "uid-" + hashlib.sha256(uid.encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Choice:
    """One study's series to segment, with the reason, and the others with theirs."""

    chosen: Series | None
    reasons: tuple[str, ...]
    left_out: tuple[tuple[Series, str, str], ...]  # series, slug, message


def choose(candidates: list[Series], check) -> Choice:
    """Choose the series of one study to segment, always the same for the same study.

    The rule, in this order: a series that passes the gate; more slices than a localizer (three or more);
    a lung or sharp kernel before a soft one; thinner slices; more slices; no contrast medium; the lowest UID.

    Parameters
    ----------
    candidates : list of Series
        All of one study.
    check : function (Series) -> None
        Raises SeriesError for a series that cannot be segmented.
    """
    good: list[Series] = []
    left_out: list[tuple[Series, str, str]] = []
    for series in candidates:
        try:
            check(series)
            good.append(series)
        except SeriesError as error:
            left_out.append((series, error.slug, error.message))
    if not good:
        return Choice(None, (), tuple(left_out))
    best, *others = sorted(good, key=_preference)
    reasons = _reasons(best, others)
    left_out += [
        (other, "not-chosen", f"another series of the study was chosen: {'; '.join(reasons)}") for other in others
    ]
    return Choice(best, reasons, tuple(left_out))


def _preference(series: Series):
    first = series.instances[0] if series.instances else None
    return (
        len(series.instances) < 3,
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
    """GE LUNG and BONE, Siemens B50 and above, Toshiba FC50 to FC56, Philips L and YC: sharp, made for lungs."""
    name = kernel.upper().strip()
    if name in {"LUNG", "L", "YC", "YD"}:
        return True
    siemens = re.match(r"(?:B|BL|BR|BV|I|QR)(\d\d)", name)
    toshiba = re.match(r"FC(\d\d)", name)
    return bool((siemens and int(siemens[1]) >= 50) or (toshiba and 50 <= int(toshiba[1]) <= 56))
