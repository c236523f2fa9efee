"""Labelled cases of DICOM: a CT series, and what a person drew in it as DICOM SEG or in a volume file beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from covct.data.cases import Case, CaseError, LeftOut, person_of
from covct.data.domains import HU
from covct.data.labels import PLAIN, from_structures
from covct.dicom import seg_masks
from covct.dicom.header import read_values
from covct.dicom.seg_masks import LabelNames
from covct.disk.sources import SourceFile
from covct.errors import SeriesError, SourceDefect
from covct.intake.discover import Series, discover
from covct.intake.gate import check_headers
from covct.intake.load_dicom import load_dicom
from covct.voxels.volume import WORKING_ORIENTATION, Scan

AUTOMATIC = "automatic-mask"
MADE_BY_COVCT = "was drawn by covct and corrected by nobody: no truth"


def find_dicom(
    files: list[Path], data: Path, labels: LabelNames = PLAIN, masked: bool = True
) -> Iterator[Case | LeftOut]:
    """The series among the files that a SEG refers to, or with `masked` false all, and what is left out and why."""
    if not files:
        return
    discovery = discover(files)
    for problem in discovery.problems:
        yield LeftOut("dicom", Path(problem.label).name, problem.slug, problem.message)
    segs: list[seg_masks.Segmentation] = []
    series: list[Series] = []
    for one in discovery.series:
        if not (one.instances and one.instances[0].sop_class_uid in seg_masks.SEG_STORAGE):
            series.append(one)
            continue
        for instance in one.instances:
            try:
                segs.append(seg_masks.read_segmentation(instance.file))
            except (SeriesError, SourceDefect, AttributeError, KeyError, ValueError) as error:
                yield LeftOut("dicom", instance.file.name, "unreadable", _why(error))
    used: set[SourceFile] = set()
    for one in series:
        if one.kind != "dicom" or one.instances[0].modality != "CT":
            continue
        mine = segs_of(one, segs)
        used.update(seg.file for seg in mine)
        yield from _with_masks(one, mine, data, labels, masked)
    yield from (_without_series(seg, data) for seg in segs if seg.file not in used)


def segs_of(series: Series, segs: list[seg_masks.Segmentation]) -> list[seg_masks.Segmentation]:
    """Those that refer to the series: to its slices, or where they list none to its UID."""
    instances = set(series.sop_instance_uids)
    return [
        seg
        for seg in segs
        if (seg.instance_uids & instances if seg.instance_uids else series.series_uid in seg.series_uids)
    ]


def _without_series(seg: seg_masks.Segmentation, data: Path) -> LeftOut:
    lacking = "the series that it refers to is not among the data"
    if seg.automatic:
        return LeftOut("dicom", seg.file.name, AUTOMATIC, f"{_by_covct(seg, data)}; {lacking}")
    return LeftOut("dicom", seg.file.name, "no-image", f"{_path(seg, data)}: {lacking}")


def _path(seg: seg_masks.Segmentation, data: Path) -> str:
    return seg.file.path.relative_to(data).as_posix()


def _by_covct(seg: seg_masks.Segmentation, data: Path) -> str:
    return f"{_path(seg, data)} {MADE_BY_COVCT}"


def _with_masks(
    series: Series, segs: list[seg_masks.Segmentation], data: Path, labels: LabelNames, masked: bool
) -> Iterator[Case | LeftOut]:
    name, source = series.folder.split("/")[-1], _dicom_source(series, data)
    chosen: list[seg_masks.Segmentation] = []
    shown: set[str] = set()
    if masked and not segs:
        yield LeftOut(source, name, "no-mask", "no DICOM SEG refers to this series")
    for seg in sorted(segs, key=lambda seg: (seg.moment, seg.file), reverse=True):
        tasks = seg.tasks(labels)
        if not tasks:
            yield LeftOut(source, name, "no-mask", f"{_path(seg, data)} has no segment of lungs or infection")
        elif seg.automatic:
            yield LeftOut(source, name, AUTOMATIC, _by_covct(seg, data))
        elif tasks <= shown:
            yield LeftOut(source, name, "superseded", f"{_path(seg, data)} is older than {_path(chosen[0], data)}")
        else:
            chosen.append(seg)
            shown |= tasks
    if masked and not chosen:
        return
    case = Case(name, source, data, "dicom", pseudonym(series), domain=HU, series=series)
    yield _if_sound(replace(case, segmentations=tuple(seg.file for seg in chosen)))


def _if_sound(case: Case) -> Case | LeftOut:
    """The case, unless the gate refuses its series by its headers."""
    assert case.series
    try:
        check_headers(case.series)
    except SeriesError as error:
        return LeftOut(case.source, case.name, error.slug, error.message)
    return case


def with_volume_masks(case: Case, place: Path, patient: str) -> Case | LeftOut:
    """The case of masks in volume files NAME_lungs, NAME_infection, whose image is the DICOM in NAME/ or NAME.zip.

    patient : str
        As declared; empty where nobody declares any.
    """
    found = [series for series in discover([place]).series if series.kind == "dicom"]
    if len(found) != 1:
        got = f"{place.name}: {len(found)} DICOM series; wanted the one that {case.name}'s masks are of"
        return LeftOut(case.source, case.name, "no-image", got)
    public = person_of(case.name) if person_of(case.name) != case.name else ""
    told = patient or public or pseudonym(found[0])
    return _if_sound(replace(case, layout="dicom", patient=told, domain=HU, series=found[0]))


def _dicom_source(series: Series, data: Path) -> str:
    """The top folder (or archive) below DATA that the series lies in."""
    parts = series.instances[0].file.path.relative_to(data).parts
    return parts[0] if len(parts) > 1 else "dicom"


def pseudonym(series: Series) -> str:
    """A patient's name for splits, cards and logs: a hash, since identifiers do not belong there.

    All series of one Patient ID share it; without that, all of one study.
    """
    values = read_values(series.instances[0].file, ("PatientID", "IssuerOfPatientID"))
    identity = "\\".join(values.values()) if values["PatientID"] else series.study_uid
    return "patient-" + hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def read_series(case: Case) -> Scan:
    """The series of a case. Raises CaseError, with the gate's slugs."""
    assert case.series
    try:
        return load_dicom(case.series)
    except SeriesError as error:
        raise CaseError(error.slug, f"{case.where}: {error.message}") from error


def read_segments(case: Case, scan: Scan, labels: LabelNames = PLAIN) -> dict[str, np.ndarray]:
    """The masks of a case's DICOM SEG: `lungs`, `infection`, `classes`, (slices, rows, columns) in working orientation.

    What the newest of them shows is taken from it.
    """
    masks: dict[str, np.ndarray] = {}
    for file in case.segmentations:
        found = from_structures(_working(_read_seg(file, scan, labels), scan))
        if "infection" in masks:
            found.pop("classes", None)  # they tell another infection apart
        masks = found | masks
    return masks


def _read_seg(file: SourceFile, scan: Scan, labels: LabelNames) -> dict[str, np.ndarray]:
    try:
        return seg_masks.read_masks(file, scan, labels)
    except SeriesError as error:
        raise CaseError(error.slug, f"{file.name}: {error.message}") from error
    except SourceDefect as error:
        raise CaseError("other-geometry", f"{file.name}: {error}") from error
    except Exception as error:  # a damaged file raises what the damage hits
        raise CaseError("unreadable", f"{file.name}: {_why(error)}") from error


def _working(masks: dict[str, np.ndarray], scan: Scan) -> dict[str, np.ndarray]:
    return {
        name: scan.volume.with_array(mask.astype(np.uint8)).to_patient_orientation(WORKING_ORIENTATION).array
        for name, mask in masks.items()
    }


def _why(error: Exception) -> str:
    if isinstance(error, SeriesError):
        return error.message
    return str(error) if isinstance(error, SourceDefect) else f"it cannot be read ({type(error).__name__})"
