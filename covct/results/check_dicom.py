"""The DICOM objects of one result, read back: whole, consistent with the report, with one another and the source."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.pixels import iter_pixels
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import SegmentationStorage

from covct.dicom.evidence import LABEL_MAP_STORAGE, SERIES_NUMBERS, instance_uid, object_uids
from covct.dicom.header import Instance
from covct.dicom.inherited import TYPE_2
from covct.dicom.patient import PATIENT_TAGS, Kin, patient_of
from covct.dicom.valid import is_uid
from covct.disk.sources import read_all
from covct.errors import SeriesError
from covct.intake.grid import SPACING_DIFFERS, cosine_unit, half_unit
from covct.results.defects import Defect
from covct.terms import LABELMAP_SEGMENTS, SEGMENTS, Segment

UNDEFINED_LENGTH = 0xFFFFFFFF
PATIENT_AND_STUDY = (*(keyword for keyword in TYPE_2 if keyword != "PositionReferenceIndicator"), "StudyInstanceUID")
# Copied with the source's patient and study modules: they name studies and procedure steps, not evidence.
NOT_EVIDENCE = {
    "ReferencedStudySequence", "ReferencedPatientSequence", "ReferencedPerformedProcedureStepSequence",
    "ReferencedRequestSequence",
}  # fmt: skip
MEASUREMENT_REPORT = "1500"
POSITION_TOLERANCE_MM = 0.01  # decimal strings hold 16 characters
COSINE_TOLERANCE = 2e-3  # the gate lets cosines of a series differ by 1e-3, and all take the first slice's
SPACING_TOLERANCE_MM = 1e-3  # of the same: the gate's tolerance for pixel spacing
SIDEWAYS_TOLERANCE_MM = 10.0  # the gate lets slices be shifted by 5 mm to either side
ROUNDED_MM = 1.0  # where the report says that positions are rounded: half a unit at either end, whole mm the coarsest
STEP_TOLERANCE = 0.15  # of the slice spacing: the gate refuses steps beyond 10 % of the median
AXES = {"F": "slice", "H": "slice", "A": "row", "P": "row", "L": "column", "R": "column"}
SIZES = {"slice": "slices", "row": "rows", "column": "columns"}

Sources = Mapping[tuple[str, int | None], Instance]


def check_objects(
    paths: Iterable[Path], report: dict[str, Any] | None, sources: Sources | None
) -> tuple[list[Defect], dict[str, pydicom.Dataset]]:
    """Check the DICOM files of one result.

    Parameters
    ----------
    paths : iterable of Path
    report : dict or None
        The result's report, valid by its schema; None where there is none to compare with.
    sources : mapping of (SOP Instance UID, frame number or None) to Instance, or None
        Headers of the source slices, where the sources were given.

    Returns
    -------
    defects, and by file name the data sets that could be read, without their pixels
    """
    defects: list[Defect] = []
    objects: dict[str, pydicom.Dataset] = {}
    for path in paths:
        try:
            dataset = _read(path)
            counts = _quietly(_check_pixels, dataset)
        except _Damage as damage:
            defects.append(Defect(damage.slug, str(damage), path.name))
            continue
        except FileNotFoundError:
            defects.append(Defect("missing-file", "it disappeared while the result was read", path.name))
            continue
        except Exception as error:  # damage makes a parser raise anything; its text may quote the patient
            defects.append(Defect("unreadable-dicom", f"it cannot be parsed ({type(error).__name__})", path.name))
            continue
        objects[path.name] = dataset
        if not _is_seg(dataset):
            defects += _guarded(path.name, _check_template, dataset)
            continue
        defects += _guarded(path.name, _check_seg, dataset, counts, report)
        if sources is not None:
            defects += _guarded(path.name, _check_source, dataset, sources)
    defects += _guarded("", _same_patient, objects)
    if report:
        defects += _guarded("", _check_identity, objects, report)
    defects += _guarded("", _check_references, objects, report)
    return defects, objects


class _Damage(Exception):
    """What is wrong with a file that is not worth looking at any further."""

    def __init__(self, slug: str, message: str):
        super().__init__(message)
        self.slug = slug


def _guarded(name: str, check: Callable[..., Iterable[Defect]], *arguments: Any) -> list[Defect]:
    """The defects of a check, under the file's name; an object that lacks what it must have is one itself."""
    found: list[Defect] = []
    try:
        for defect in check(*arguments):
            found.append(replace(defect, file=defect.file or name))
    except Exception as error:  # an attribute that is missing, empty or of the wrong kind
        found.append(Defect("unreadable-dicom", f"it lacks what its kind must have ({_reason(error)})", name))
    return found


def _reason(error: Exception) -> str:
    """Keyword of a missing attribute, else the kind of error: a text may quote the patient's."""
    keyword = getattr(error, "name", None)
    return str(keyword) if isinstance(error, AttributeError) and keyword else type(error).__name__


# Whole


def _read(path: Path) -> pydicom.Dataset:
    """Every element of a file, each as long as it says: pydicom by itself takes a file that is cut short."""
    dataset = _quietly(pydicom.dcmread, path)
    _check_lengths(dataset)
    _quietly(list, dataset.iterall())  # values are parsed on access
    missing = [k for k in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", _content(dataset)) if k not in dataset]
    if missing:
        raise _Damage("unreadable-dicom", f"it has no {', '.join(missing)}: cut short?")
    if dataset.file_meta.get("MediaStorageSOPInstanceUID") != dataset.SOPInstanceUID:
        raise _Damage("unreadable-dicom", "its file meta information names another SOP Instance UID")
    return dataset


def _content(dataset: pydicom.Dataset) -> str:
    """The attribute that comes last and that an object of its kind is for."""
    return "ContentSequence" if dataset.get("Modality") in ("SR", "KO") else "PixelData"


def _check_lengths(dataset: pydicom.Dataset) -> None:
    for tag in dataset.keys():  # noqa: SIM118 - iterating a Dataset parses the elements
        element = dataset.get_item(tag)
        if isinstance(element, RawDataElement):
            if element.value is not None and element.length not in (UNDEFINED_LENGTH, len(element.value)):
                raise _Damage("unreadable-dicom", f"it is cut short within {tag}")
        elif element.VR == "SQ":
            for item in element.value:
                _check_lengths(item)


def _quietly(read: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Run without warnings, which quote values; what tells of a file that ends too early is damage all the same."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        result = read(*arguments, **options)
    for warning in told:
        if "end of file" in str(warning.message).lower():
            raise _Damage("unreadable-dicom", "it is cut short")
    return result


def _check_pixels(dataset: pydicom.Dataset) -> dict[int, int]:
    """Decode every frame, one at a time, and drop the pixels.

    Returns
    -------
    dict of int to int
        SEG but not a fractional one: voxels by segment number.
    """
    if "PixelData" not in dataset:
        return {}
    counts: Counter[int] = Counter()
    try:
        frames = int(dataset.get("NumberOfFrames") or 1)
        segments = _segment_numbers(dataset) if _is_seg(dataset) and dataset.SegmentationType == "BINARY" else []
        if segments and len(segments) != frames:
            raise _Damage("bad-pixels", f"{frames} frames, and functional groups for {len(segments)}")
        decoded = 0
        for index, frame in enumerate(_frames(dataset, frames)):
            decoded += 1
            if segments:
                counts[segments[index]] += int(np.count_nonzero(frame))
            elif _is_seg(dataset) and dataset.SegmentationType == "LABELMAP":
                counts.update(dict(enumerate(np.bincount(frame.ravel()).tolist())))
    except _Damage:
        raise
    except Exception as error:
        raise _Damage("bad-pixels", f"they cannot be decoded ({type(error).__name__})") from error
    if decoded != frames:
        raise _Damage("bad-pixels", f"{decoded} frames, wanted {frames}")
    del dataset.PixelData
    return dict(counts)


def _frames(dataset: pydicom.Dataset, frames: int) -> Iterator[np.ndarray]:
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        yield from iter_pixels(dataset, raw=True)
        return
    contents = np.frombuffer(dataset.PixelData, np.uint8)
    wanted = get_expected_length(dataset)
    if len(contents) not in (wanted, wanted + wanted % 2):
        raise _Damage("bad-pixels", f"{len(contents)} bytes, wanted {wanted}")
    bits = int(dataset.Rows) * int(dataset.Columns) * int(dataset.get("SamplesPerPixel") or 1) * dataset.BitsAllocated
    for index in range(frames):
        first, stop = index * bits, (index + 1) * bits
        if dataset.BitsAllocated == 1:  # frames follow one another without padding (PS3.5 8.1.1)
            unpacked = np.unpackbits(contents[first // 8 : math.ceil(stop / 8)], bitorder="little")
            yield unpacked[first % 8 : first % 8 + bits]
        else:
            yield contents[first // 8 : stop // 8].view(f"<u{dataset.BitsAllocated // 8}")


# SEG


@dataclass(frozen=True)
class _Frame:
    segment: int | None
    position: tuple[float, ...]
    references: tuple[tuple[str, int | None], ...]


def _is_seg(dataset: pydicom.Dataset) -> bool:
    return dataset.SOPClassUID in (SegmentationStorage, LABEL_MAP_STORAGE)


def _segment_numbers(dataset: pydicom.Dataset) -> list[int]:
    groups = dataset.PerFrameFunctionalGroupsSequence
    return [int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber) for group in groups]


def _frame(group: pydicom.Dataset) -> _Frame:
    segments = group.get("SegmentIdentificationSequence")
    references = tuple(
        (str(source.ReferencedSOPInstanceUID), number)
        for derivation in group.get("DerivationImageSequence") or []
        for source in derivation.get("SourceImageSequence") or []
        for number in _numbers(source.get("ReferencedFrameNumber"))
    )
    position = tuple(float(v) for v in group.PlanePositionSequence[0].ImagePositionPatient)
    return _Frame(int(segments[0].ReferencedSegmentNumber) if segments else None, position, references)


def _numbers(value: Any) -> list[int | None]:
    if value is None:
        return [None]
    return [int(v) for v in value] if isinstance(value, pydicom.multival.MultiValue) else [int(value)]


def _check_seg(dataset: pydicom.Dataset, counts: dict[int, int], report: dict[str, Any] | None) -> Iterator[Defect]:
    yield from _check_segments(dataset)
    frames = [_frame(group) for group in dataset.PerFrameFunctionalGroupsSequence]
    if doubled := [f for f, n in Counter((f.segment, f.position) for f in frames).items() if n > 1]:
        yield Defect("wrong-geometry", f"{len(doubled)} planes occur twice in one segment")
    if silent := sum(not frame.references for frame in frames):
        yield Defect("dangling-reference", f"{silent} of {len(frames)} frames name no source slice")
    if report is None:
        return
    source = report["source"]
    frame_of_reference = source["frame_of_reference_uid"]
    if not dataset.get("FrameOfReferenceUID") or frame_of_reference not in (None, dataset.FrameOfReferenceUID):
        yield Defect("wrong-frame-of-reference", f"got {dataset.get('FrameOfReferenceUID')}, the report says another")
    listed = [(str(s.SeriesInstanceUID), len(_instances(s))) for s in dataset.ReferencedSeriesSequence]
    if [uid for uid, _ in listed] != [source["series_instance_uid"]]:
        yield Defect("wrong-source", f"it was drawn on series {', '.join(u for u, _ in listed)}, the report on another")
    elif listed[0][1] != source["instances"]:
        yield Defect("wrong-source", f"its source has {listed[0][1]} instances, the report's {source['instances']}")
    yield from _check_grid(dataset, frames, report)
    yield from compare_volumes(_by_figure(dataset.SegmentationType, counts), report)


def _instances(series: pydicom.Dataset) -> list[pydicom.Dataset]:
    return list(series.get("ReferencedInstanceSequence") or [])


def _check_segments(dataset: pydicom.Dataset) -> Iterator[Defect]:
    wanted = LABELMAP_SEGMENTS if dataset.SegmentationType == "LABELMAP" else SEGMENTS
    segments = [s for s in dataset.SegmentSequence if s.SegmentNumber != 0]  # 0: a label map's background
    got = [(int(s.SegmentNumber), str(s.SegmentLabel)) for s in segments]
    if got != [(s.number, s.label) for s in wanted]:
        told = ", ".join(f"{number} {label}" for number, label in got)
        yield Defect("wrong-segments", f"it has {told}; wanted {', '.join(f'{s.number} {s.label}' for s in wanted)}")
        return
    for segment, term in zip(segments, wanted, strict=True):
        if _codes(segment) != _wanted_codes(term):
            yield Defect("wrong-segments", f"segment {term.number} is not coded as {term.label}")


def _codes(segment: pydicom.Dataset) -> list[str]:
    kind = segment.SegmentedPropertyTypeCodeSequence[0]
    modifiers = kind.get("SegmentedPropertyTypeModifierCodeSequence") or []
    items = [segment.SegmentedPropertyCategoryCodeSequence[0], kind, *modifiers]
    return [str(item.CodeValue) for item in items]


def _wanted_codes(segment: Segment) -> list[str]:
    return [term.value for term in (segment.category, segment.type, segment.modifier) if term]


def _check_grid(dataset: pydicom.Dataset, frames: list[_Frame], report: dict[str, Any]) -> Iterator[Defect]:
    """Planes lie one slice spacing apart, or whole multiples where slices hold nothing; a tilt shears them evenly."""
    sizes, spacings = source_grid(report)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    if (dataset.Rows, dataset.Columns) != tuple(sizes[1:]):
        yield Defect("wrong-geometry", f"{dataset.Rows} x {dataset.Columns} pixels, the report says {sizes[1:]}")
    pixel = [float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing]
    if np.abs(np.subtract(pixel, spacings[1:])).max() > SPACING_TOLERANCE_MM:
        yield Defect("wrong-geometry", f"pixel spacing {pixel} mm, the report says {spacings[1:]}")
    cosines = np.array([float(v) for v in shared.PlaneOrientationSequence[0].ImageOrientationPatient])
    normal = np.cross(cosines[:3], cosines[3:])
    positions = np.unique(np.array([frame.position for frame in frames]), axis=0)
    along = positions @ normal
    positions, along = positions[np.argsort(along)], np.sort(along)
    if len(along) > sizes[0]:
        yield Defect("wrong-geometry", f"{len(along)} planes, the report says {sizes[0]} slices")
    if len(along) < 2 or not spacings[0]:
        return
    steps = np.diff(along)
    number = np.maximum(np.rint(steps / spacings[0]), 1)
    rounded = any(warning["slug"] == "rounded-headers" for warning in report["warnings"])
    allowed = STEP_TOLERANCE * number * spacings[0] + ROUNDED_MM * rounded
    if (off := np.abs(steps - number * spacings[0]) > allowed).any():
        at = f"{steps[np.argmax(off)]:.2f} mm at {along[np.argmax(off)]:.1f} mm"
        yield Defect("wrong-geometry", f"planes lie {at}, the report says {spacings[0]:g} mm from slice to slice")
        return
    lateral = positions - np.outer(along, normal)
    design = np.stack([along, np.ones_like(along)], axis=1)
    residual = lateral - design @ np.linalg.lstsq(design, lateral, rcond=None)[0]
    if (worst := float(np.linalg.norm(residual, axis=1).max())) > SIDEWAYS_TOLERANCE_MM:
        yield Defect("wrong-geometry", f"a plane lies {worst:.1f} mm beside the line of the others")


def source_grid(report: dict[str, Any]) -> tuple[list[int], list[float]]:
    """Size and spacing, mm, along slices, rows and columns of the *source*; the report has them head to feet first."""
    geometry = report["geometry"]
    axes = [AXES[letter] for letter in geometry["patient_orientation"]]
    return [geometry[SIZES[axis]] for axis in axes], [geometry[f"{axis}_spacing_mm"] for axis in axes]


def _by_figure(kind: str, counts: dict[int, int]) -> dict[tuple[str, str], int]:
    """Voxels by region and figure of the report. A fractional SEG holds probabilities: nothing to count."""
    if kind == "BINARY":
        right, left, infection = (counts.get(segment.number, 0) for segment in SEGMENTS)
        return {
            ("right_lung", "volume_ml"): right,
            ("left_lung", "volume_ml"): left,
            ("lungs", "infection_ml"): infection,
        }
    if kind == "LABELMAP":
        right, left, right_ill, left_ill = (counts.get(segment.number, 0) for segment in LABELMAP_SEGMENTS)
        return {
            ("right_lung", "volume_ml"): right + right_ill,
            ("left_lung", "volume_ml"): left + left_ill,
            ("right_lung", "infection_ml"): right_ill,
            ("left_lung", "infection_ml"): left_ill,
        }
    return {}


def compare_volumes(voxels: Mapping[tuple[str, str], int], report: dict[str, Any]) -> Iterator[Defect]:
    """Voxels by region and figure against the report's mL, within the rounding of both the mL and the voxel volume."""
    voxel_mm3 = report["geometry"]["voxel_volume_mm3"]
    for (region, figure), number in voxels.items():
        told = report["regions"][region][figure]
        if told is None or not voxel_mm3:
            continue
        volume = number * voxel_mm3 / 1000
        if abs(volume - told) > 0.0005 + number * 5e-10 + 1e-6:
            yield Defect("volume-differs", f"{region} {figure}: the mask has {volume:.3f} mL, the report {told:.3f}")


# Against the source


def _check_source(dataset: pydicom.Dataset, sources: Sources) -> Iterator[Defect]:
    wanted = {str(i.ReferencedSOPInstanceUID) for s in dataset.ReferencedSeriesSequence for i in _instances(s)}
    if missing := sorted(wanted - {uid for uid, _ in sources}):
        yield Defect("source-missing", f"{len(missing)} of {len(wanted)} instances are missing, first {missing[0]}")
    referred = {uid: source for (uid, _), source in sources.items() if uid in wanted}
    yield from _check_patient(dataset, [referred[uid] for uid in sorted(referred)])
    shared = dataset.SharedFunctionalGroupsSequence[0]
    differing: dict[str, list[str]] = {}
    for frame in map(_frame, dataset.PerFrameFunctionalGroupsSequence):
        for uid, number in frame.references:
            if there := sources.get((uid, number)):
                for what, message in _differences(dataset, shared, frame, there):
                    differing.setdefault(what, []).append(f"{message} in source {uid}")
            elif uid not in missing:
                differing.setdefault("frame", []).append(f"there is no frame {number} in source {uid}")
    for messages in differing.values():
        yield Defect("source-differs", f"{messages[0]}" + (f", and in {len(messages) - 1} more" * (len(messages) > 1)))


def _differences(
    dataset: pydicom.Dataset, shared: pydicom.Dataset, frame: _Frame, source: Instance
) -> Iterator[tuple[str, str]]:
    """What of a frame's place in the patient is not that of the source slice it names."""
    spacing, cosines = shared.PixelMeasuresSequence[0].PixelSpacing, shared.PlaneOrientationSequence[0]
    turned, longer = _rounded_by(source)
    for what, got, wanted, tolerance in (
        ("position", frame.position, source.position, POSITION_TOLERANCE_MM),
        ("orientation", cosines.ImageOrientationPatient, source.orientation, max(COSINE_TOLERANCE, turned)),
        ("pixel spacing", spacing, source.pixel_spacing, max(SPACING_TOLERANCE_MM, longer)),
        ("rows and columns", (dataset.Rows, dataset.Columns), source.shape, 0),
    ):
        got = [float(value) for value in got]
        if wanted is None or np.abs(np.subtract(got, wanted)).max() > tolerance:
            yield what, f"{what} is {_list(got)}, but {_list(wanted)}"
    if is_uid(source.frame_of_reference_uid) and source.frame_of_reference_uid != dataset.FrameOfReferenceUID:
        yield "frame", f"frame of reference is {dataset.FrameOfReferenceUID}, but {source.frame_of_reference_uid}"


def _rounded_by(source: Instance) -> tuple[float, float]:
    """How far rounding may have brought a slice's cosines, and its pixel spacing in mm, from those of the others."""
    if source.orientation is None or source.pixel_spacing is None:
        return 0.0, 0.0
    turned = cosine_unit(np.array([source.orientation])) * (1 + 1e-6)
    return turned, max(min(half_unit(value), SPACING_DIFFERS * value) for value in source.pixel_spacing) + 1e-9


def _check_patient(dataset: pydicom.Dataset, sources: list[Instance]) -> Iterator[Defect]:
    """Patient and study are the source's: whoever is one person to the gate is one here, in whatever spelling.

    Empty on either side says nothing: what breaks its type is left out of a SEG.
    """
    who = patient_of(dataset.get)
    strangers = [source for source in sources if who.kin(source.patient) in (Kin.DIFFERENT, Kin.APART)]
    differing = _in_none(who.differing(source.patient) for source in strangers or sources)
    try:
        differing += _in_none(_study_differing(dataset, source) for source in sources)
    except SeriesError as error:
        yield Defect("source-missing", error.message)
    if differing:
        yield Defect("patient-differs", f"{', '.join(differing)} not as in the source")


def _in_none(looks: Iterable[list[str]]) -> list[str]:
    """Keywords that differ from every slice; no more are looked at than needed."""
    differing: list[str] | None = None
    for look in looks:
        differing = [keyword for keyword in (look if differing is None else differing) if keyword in look]
        if not differing:
            break
    return differing or []


def _study_differing(dataset: pydicom.Dataset, source: Instance) -> list[str]:
    [(_, contents)] = read_all([source.file])
    keywords = [keyword for keyword in PATIENT_AND_STUDY if keyword not in PATIENT_TAGS]
    options = {"stop_before_pixels": True, "force": True, "specific_tags": ["SpecificCharacterSet", *keywords]}
    header = _quietly(pydicom.dcmread, BytesIO(contents), **options)
    return [k for k in keywords if _text(header, k) and _text(dataset, k) not in ("", _text(header, k))]


def _list(values: Iterable[float] | None) -> str:
    return "none" if values is None else "\\".join(f"{value:g}" for value in values)


# Among one another


def _same_patient(objects: dict[str, pydicom.Dataset]) -> Iterator[Defect]:
    named = iter(objects.items())
    first = next(named, None)
    for name, dataset in named:
        assert first
        differing = [k for k in PATIENT_AND_STUDY if _text(dataset, k) != _text(first[1], k)]
        if differing:
            yield Defect("patient-differs", f"{', '.join(differing)} not as in {first[0]}", name)


def _text(dataset: pydicom.Dataset, keyword: str) -> str:
    return str(dataset.get(keyword) or "").strip()


def _check_identity(objects: dict[str, pydicom.Dataset], report: dict[str, Any]) -> Iterator[Defect]:
    """UIDs derive from the report's work key: an object of another result, or of another series, is found out."""
    kinds = {number: kind for kind, number in SERIES_NUMBERS.items()}
    study, key = report["source"]["study_instance_uid"], report["work_key"]
    numbers = Counter(dataset.get("SeriesNumber") for dataset in objects.values())
    for name, dataset in objects.items():
        if dataset.get("StudyInstanceUID") != study:
            yield Defect("wrong-identity", f"it belongs to study {dataset.get('StudyInstanceUID')}", name)
        kind = kinds.get(dataset.get("SeriesNumber"))
        if kind is None:
            yield Defect("wrong-identity", f"series number {dataset.get('SeriesNumber')} is none of covct's", name)
        elif dataset.SeriesInstanceUID != object_uids(key, kind)["series_instance_uid"]:
            yield Defect("wrong-identity", "its Series Instance UID is not that of the report's work key", name)
        elif dataset.SOPInstanceUID not in {
            instance_uid(key, kind, number)
            for number in {*range(1, numbers[dataset.SeriesNumber] + 1), int(dataset.get("InstanceNumber") or 1)}
        }:
            yield Defect("wrong-identity", "its SOP Instance UID is not that of the report's work key", name)


def _check_template(dataset: pydicom.Dataset) -> Iterator[Defect]:
    if dataset.get("Modality") != "SR":
        return
    templates = [item.get("TemplateIdentifier") for item in dataset.get("ContentTemplateSequence") or []]
    if templates != [MEASUREMENT_REPORT]:
        yield Defect("wrong-template", f"template {templates}, wanted TID {MEASUREMENT_REPORT}")


def _check_references(objects: dict[str, pydicom.Dataset], report: dict[str, Any] | None) -> Iterator[Defect]:
    """Every instance that an object names is in the result or in its source; every segment in the SEG it names."""
    own = {str(dataset.SOPInstanceUID): dataset for dataset in objects.values()}
    source = _source_instances(objects.values(), report)
    for name, dataset in objects.items():
        named = list(_referenced(dataset))
        if strange := sorted({uid for uid, _, _ in named} - set(own) - source):
            yield Defect("dangling-reference", f"{len(strange)} instances are unknown, first {strange[0]}", name)
        if moved := sorted({u for u, s, _ in named if s and u in own and own[u].SeriesInstanceUID != s}):
            yield Defect("dangling-reference", f"{moved[0]} is not in the series it is said to be in", name)
        for uid, _, segments in named:
            if segments and uid in own:
                there = {s.get("SegmentNumber") for s in own[uid].get("SegmentSequence") or []}
                if absent := set(segments) - there:
                    yield Defect("dangling-reference", f"segment {min(absent)} is not in {uid}", name)


def _source_instances(objects: Iterable[pydicom.Dataset], report: dict[str, Any] | None) -> set[str]:
    """SOP Instance UIDs of the source: as the SEG lists them; without a SEG, as the others' evidence does."""
    every = list(objects)
    if segs := [dataset for dataset in every if _is_seg(dataset)]:
        return {uid for dataset in segs for uid, series, _ in _referenced(dataset) if series}
    wanted = report["source"]["series_instance_uid"] if report else None
    return {uid for dataset in every for uid, series, _ in _referenced(dataset) if series and wanted in (None, series)}


def _referenced(
    dataset: pydicom.Dataset, series: str | None = None
) -> Iterator[tuple[str, str | None, tuple[int, ...]]]:
    """Every Referenced SOP Instance UID, with the series it is listed under, if any, and referenced segments."""
    uid = dataset.get("ReferencedSOPInstanceUID")
    if uid:
        segments = tuple(n for n in _numbers(dataset.get("ReferencedSegmentNumber")) if n is not None)
        yield str(uid), series, segments
    for element in dataset:
        if element.VR == "SQ" and element.keyword not in NOT_EVIDENCE:
            listed = element.keyword in ("ReferencedInstanceSequence", "ReferencedSOPSequence")
            under = str(dataset.SeriesInstanceUID) if listed and "SeriesInstanceUID" in dataset else None
            for item in element.value:
                yield from _referenced(item, under)
