"""A DICOM SEG against the report: its segments, planes, voxels and source series."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pydicom

from covct.pipeline.report_document import Report
from covct.results.check_masks import compare_lobes, compare_volumes, source_grid
from covct.results.defects import Defect
from covct.terms import CALLED, LABELMAP_SEGMENTS, LOBE_SEGMENTS, LOBES, OPACITY, SEGMENTS, CodedTerm, Segment

SPACING_TOLERANCE_MM = 1e-3  # of the same: the gate's tolerance for pixel spacing
SIDEWAYS_TOLERANCE_MM = 10.0  # the gate lets slices be shifted by 5 mm to either side
ROUNDED_MM = 1.0  # where the report says that positions are rounded: half a unit at either end, whole mm the coarsest
STEP_TOLERANCE = 0.15  # of the slice spacing: the gate refuses steps beyond 10 % of the median

# As results up to result version 8 have them.
FORMER = "COVID-19 infection"
_INFILTRATE = CodedTerm("47351003", "SCT", "Infiltrate")
_COVID_19 = CodedTerm("840539006", "SCT", "COVID-19")


def _former(segment: Segment) -> Segment:
    label = segment.label.replace(CALLED, FORMER).replace("outside opacity", "outside infection")
    if segment.type != OPACITY:
        return replace(segment, label=label)
    return replace(segment, label=label, type=_INFILTRATE, modifier=_COVID_19)


FORMER_SEGMENTS = tuple(map(_former, SEGMENTS))
FORMER_LABELMAP_SEGMENTS = tuple(map(_former, LABELMAP_SEGMENTS))


@dataclass(frozen=True)
class Frame:
    segment: int | None
    position: tuple[float, ...]
    references: tuple[tuple[str, int | None], ...]


def frame_of(group: pydicom.Dataset) -> Frame:
    segments = group.get("SegmentIdentificationSequence")
    references = tuple(
        (str(source.ReferencedSOPInstanceUID), number)
        for derivation in group.get("DerivationImageSequence") or []
        for source in derivation.get("SourceImageSequence") or []
        for number in numbers(source.get("ReferencedFrameNumber"))
    )
    position = tuple(float(v) for v in group.PlanePositionSequence[0].ImagePositionPatient)
    return Frame(int(segments[0].ReferencedSegmentNumber) if segments else None, position, references)


def numbers(value: Any) -> list[int | None]:
    if value is None:
        return [None]
    return [int(v) for v in value] if isinstance(value, pydicom.multival.MultiValue) else [int(value)]


def check_seg(dataset: pydicom.Dataset, counts: dict[int, int], report: Report | None) -> Iterator[Defect]:
    yield from _check_segments(dataset)
    frames = [frame_of(group) for group in dataset.PerFrameFunctionalGroupsSequence]
    if doubled := [f for f, n in Counter((f.segment, f.position) for f in frames).items() if n > 1]:
        yield Defect("wrong-geometry", f"{len(doubled)} planes occur twice in one segment")
    if silent := sum(not frame.references for frame in frames):
        yield Defect("dangling-reference", f"{silent} of {len(frames)} frames name no source slice")
    if report is None:
        return
    source = report.source
    frame_of_reference = source.frame_of_reference_uid
    if not dataset.get("FrameOfReferenceUID") or frame_of_reference not in (None, dataset.FrameOfReferenceUID):
        yield Defect("wrong-frame-of-reference", f"got {dataset.get('FrameOfReferenceUID')}, the report says another")
    listed = [(str(s.SeriesInstanceUID), len(instances_of(s))) for s in dataset.ReferencedSeriesSequence]
    if [uid for uid, _ in listed] != [source.series_instance_uid]:
        yield Defect("wrong-source", f"it was drawn on series {', '.join(u for u, _ in listed)}, the report on another")
    elif listed[0][1] != source.instances:
        yield Defect("wrong-source", f"its source has {listed[0][1]} instances, the report's {source.instances}")
    yield from _check_grid(dataset, frames, report)
    yield from compare_volumes(_by_figure(dataset.SegmentationType, counts), report)
    if len(dataset.SegmentSequence) == len(SEGMENTS) + len(LOBE_SEGMENTS):
        by_lobe = {lobe.name: counts.get(one.number, 0) for lobe, one in zip(LOBES, LOBE_SEGMENTS, strict=True)}
        yield from compare_lobes(by_lobe, report)


def instances_of(series: pydicom.Dataset) -> list[pydicom.Dataset]:
    return list(series.get("ReferencedInstanceSequence") or [])


def _check_segments(dataset: pydicom.Dataset) -> Iterator[Defect]:
    labelmap = dataset.SegmentationType == "LABELMAP"
    wanted: tuple[Segment, ...] = LABELMAP_SEGMENTS if labelmap else SEGMENTS
    segments = [s for s in dataset.SegmentSequence if s.SegmentNumber != 0]  # 0: a label map's background
    got = [(int(s.SegmentNumber), str(s.SegmentLabel)) for s in segments]
    if not labelmap and len(got) > len(SEGMENTS):
        wanted = (*SEGMENTS, *LOBE_SEGMENTS)
    if any(FORMER in label for _, label in got):
        wanted = FORMER_LABELMAP_SEGMENTS if labelmap else FORMER_SEGMENTS
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


def _check_grid(dataset: pydicom.Dataset, frames: list[Frame], report: Report) -> Iterator[Defect]:
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
    rounded = any(warned.slug == "rounded-headers" for warned in report.warnings)
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
