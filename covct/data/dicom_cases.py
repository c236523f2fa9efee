"""Labelled cases of DICOM: a CT series, and the newest DICOM SEG drawn by a person that refers to it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from covct.data.cases import Case, CaseError, LeftOut
from covct.data.domains import HU
from covct.dicom import seg_masks
from covct.dicom.header import read_values
from covct.disk.sources import SourceFile
from covct.errors import SeriesError, SourceDefect
from covct.intake.discover import Series, discover
from covct.intake.gate import check_headers
from covct.intake.load_dicom import load_dicom

CLASSES = {"ground glass": 1, "consolidation": 2, "effusion": 3}


def find_dicom(files: list[Path], data: Path) -> Iterator[Case | LeftOut]:
    """The series among the files that a SEG refers to, and what is left out and why."""
    if not files:
        return
    discovery = discover(files)
    for problem in discovery.problems:
        yield LeftOut("dicom", Path(problem.label).name, problem.slug, problem.message)
    segmentations: list[seg_masks.Segmentation] = []
    series: list[Series] = []
    for one in discovery.series:
        if one.instances and one.instances[0].sop_class_uid in seg_masks.SEG_STORAGE:
            for instance in one.instances:
                try:
                    segmentations.append(seg_masks.read_segmentation(instance.file))
                except (SeriesError, SourceDefect, AttributeError, KeyError, ValueError) as error:
                    yield LeftOut("dicom", instance.file.name, "unreadable", _why(error))
        else:
            series.append(one)
    used: set[SourceFile] = set()
    for one in series:
        if one.kind != "dicom" or one.instances[0].modality != "CT":
            continue
        mine = [seg for seg in segmentations if _refers(seg, one)]
        used.update(seg.file for seg in mine)
        yield from _with_masks(one, mine, data)
    for seg in segmentations:
        if seg.file not in used:
            yield LeftOut(
                "dicom", seg.file.name, "no-image", "the series that this SEG refers to is not among the data"
            )


def _refers(seg: seg_masks.Segmentation, series: Series) -> bool:
    if seg.instance_uids:
        return bool(seg.instance_uids & set(series.sop_instance_uids))
    return series.series_uid in seg.series_uids


def _with_masks(series: Series, segs: list[seg_masks.Segmentation], data: Path) -> Iterator[Case | LeftOut]:
    name = series.folder.split("/")[-1]
    source = _dicom_source(series, data)
    known = [seg for seg in segs if seg.structures]
    drawn = [seg for seg in known if not seg.automatic]
    if not segs:
        yield LeftOut(source, name, "no-mask", "no DICOM SEG refers to this series")
        return
    for seg in segs:
        if not seg.structures:
            yield LeftOut(source, name, "no-mask", f"{seg.file.name} has no segment of lungs or infection")
        elif seg.automatic:
            yield LeftOut(source, name, "automatic-mask", f"{seg.file.name} was drawn by covct and corrected by nobody")
    if not drawn:
        return
    *older, chosen = sorted(drawn, key=lambda seg: (seg.moment, seg.file))
    for seg in older:
        yield LeftOut(source, name, "superseded", f"{seg.file.name} is older than {chosen.file.name}")
    try:
        check_headers(series)
    except SeriesError as error:
        yield LeftOut(source, name, error.slug, error.message)
        return
    yield Case(
        name,
        source,
        data,
        "dicom",
        pseudonym(series),
        domain=HU,
        series=series,
        segmentation=chosen.file,
    )


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


def read_series(case: Case):
    """Pixels, masks, spacing in mm and orientation of a case of DICOM. Raises CaseError."""
    assert case.series and case.segmentation
    try:
        scan = load_dicom(case.series)
        masks = seg_masks.read_masks(case.segmentation, scan)
    except SeriesError as error:
        raise CaseError(error.slug, f"series {case.name}: {error.message}") from error
    except SourceDefect as error:
        raise CaseError("other-geometry", f"{case.segmentation.name}: {error}") from error
    except Exception as error:  # a damaged file raises what the damage hits
        raise CaseError("unreadable", f"{case.segmentation.name}: {_why(error)}") from error
    volume = scan.working
    turned = {
        name: scan.volume.with_array(mask.astype(np.uint8)).to_patient_orientation("FPL").array
        for name, mask in masks.items()
    }
    spacing = (float(volume.spacing[0]), float(volume.spacing[1]), float(volume.spacing[2]))
    codes = "".join(str(code.value) for code in scan.volume.get_closest_patient_orientation())
    return volume.array, _from_structures(turned), spacing, codes


def _from_structures(masks: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    out: dict[str, np.ndarray] = {}
    parts = [masks[name] for name in seg_masks.ANY_LUNG if name in masks]
    if parts:
        lungs = (np.maximum.reduce(parts) > 0).astype(np.uint8)
        left = masks.get(seg_masks.LEFT_LUNG_NAME)
        right = masks.get(seg_masks.RIGHT_LUNG_NAME)
        if left is not None and right is not None and not (lungs & (left == 0) & (right == 0)).any():
            lungs[left > 0] = 2
        out["lungs"] = lungs
    named = {CLASSES[name]: masks[name] for name in CLASSES if name in masks}
    if named:
        classes = np.zeros_like(next(iter(named.values())))
        for value, mask in named.items():
            classes[mask > 0] = value
        out["classes"] = classes
    infected = [masks[name] for name in seg_masks.INFECTED if name in masks]
    if infected:
        out["infection"] = (np.maximum.reduce(infected) > 0).astype(np.uint8)
    return out


def _why(error: Exception) -> str:
    return (
        error.message
        if isinstance(error, SeriesError)
        else str(error)
        if isinstance(error, SourceDefect)
        else (f"it cannot be read ({type(error).__name__})")
    )
