"""Where a viewer goes from the DICOM SR: for each group one region on one slice, and a library of these slices."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import cv2
import highdicom as hd
import numpy as np
import pydicom
from highdicom.sr import (
    CodeContentItem,
    ContainerContentItem,
    ContentSequence,
    ImageContentItem,
    NumContentItem,
    RelationshipTypeValues,
    UIDRefContentItem,
)
from pydicom.sr.codedict import codes

from covct.dicom.evidence import code
from covct.dicom.sr_groups import Group
from covct.terms import IMAGE_POSITION, LOBES, PIXELS, SOURCE
from covct.voxels.components import largest_part
from covct.voxels.volume import Masks, Scan

OPACITY_OFFSET = 2  # added to a lung's label where it is opacity, as in a label map
LOBE_OFFSET = 4  # times a lobe's number, added where lobes are known
MOST_LABEL = LOBE_OFFSET * (len(LOBES) + 1)
_OF_LUNGS = {
    "right_lung": (1, 3),
    "left_lung": (2, 4),
    "lungs": (1, 2, 3, 4),
    "opacity right_lung": (3,),
    "opacity left_lung": (4,),
    "opacity lungs": (3, 4),
}
# Masks that are outlined, by the labels that make them up.
LABELS = {
    **{
        name: tuple(label + LOBE_OFFSET * lobe for lobe in range(len(LOBES) + 1) for label in labels)
        for name, labels in _OF_LUNGS.items()
    },
    **{lobe.name: tuple(label + LOBE_OFFSET * lobe.number for label in _OF_LUNGS["lungs"]) for lobe in LOBES},
}
FINER = 3  # pixels are divided for outlines, so that the smallest mask has an inside
FEWEST_POINTS = 6  # OHIF takes a region of four or five for a rectangle of its own, and drops the figures
Place = tuple[int, np.ndarray]  # index of a source slice; (points, 2) columns and rows of a closed outline


def places(scan: Scan, masks: Masks, groups: Iterable[Group]) -> dict[str, Place]:
    """By the label of a group: an outline on one slice of the source.

    Of a mask its largest part on the slice where it is largest; of a third the largest part of its region in the
    middle; of a lesion the part of opacity next to its centre. Where there is no opacity, the lung that it was looked
    for in; of a lung or a third of which nothing was found, a small square in the middle of the image, which is
    nobody's. One group without a place, and OHIF shows none. Coordinates are those of an SCOORD: 0, 0 is the corner of
    the first pixel, 0.5, 0.5 its centre (PS3.3 C.18.6.1).
    """
    every = list(groups)
    points = {group.label: point for group in every if (point := _point_mm(group, scan, masks))}
    indices = {label: _index(scan, point) for label, point in points.items()}
    largest, planes = _planes(scan, masks, {round(index[0]) for index in indices.values()})
    found: dict[str, Place] = {}
    for group in every:
        if group.label in indices:
            at, row, column = indices[group.label]
            mask = np.isin(planes[round(at)], LABELS[group.outlined])
            if mask.any():
                part = _next_to(mask, row, column) if group.centre_mm else largest_part(mask.astype(np.uint8))
                found[group.label] = round(at), _outline(part)
                continue
        searched = () if group.slices else (group.outlined, group.outlined.removeprefix("opacity "))
        known = next((largest[name] for name in searched if name in largest), None)
        found[group.label] = _shown(*known) if known else _nowhere(scan, group.slices)
    return found


def _shown(index: int, mask: np.ndarray) -> Place:
    return index, _outline(largest_part(mask.astype(np.uint8)))


def _nowhere(scan: Scan, slices: tuple[int, int] | None) -> Place:
    """A small square in the middle of the image, in the middle of these slices (in working orientation) or of all."""
    count, rows, columns = scan.working.array.shape
    first, end = slices or (0, count)
    x, y, z = (scan.working_affine @ [(first + end - 1) / 2, rows / 2, columns / 2, 1])[:3].tolist()
    at, row, column = _index(scan, (x, y, z))
    square = np.array([[-2, -2], [2, -2], [2, 2], [-2, 2], [-2, -2]]) + [column, row]
    return round(at), np.insert(square, 1, (square[0] + square[1]) / 2, axis=0)


def _point_mm(group: Group, scan: Scan, masks: Masks) -> tuple[float, float, float] | None:
    """Of a lesion and of a third: a point in the patient (LPS)."""
    if group.centre_mm is not None or group.slices is None:
        return group.centre_mm
    return _middle(group.slices, LABELS[group.outlined], scan, masks)


def _index(scan: Scan, point_mm: tuple[float, float, float]) -> tuple[float, float, float]:
    """A point's slice (as far as there are), row and column in the source."""
    at, row, column = (np.linalg.inv(scan.affine)[:3] @ [*point_mm, 1]).tolist()
    return min(max(at, 0.0), scan.volume.shape[0] - 1.0), row, column


def _middle(
    slices: tuple[int, int], labels: tuple[int, ...], scan: Scan, masks: Masks
) -> tuple[float, float, float] | None:
    """A marked voxel (LPS mm) next to the middle of these slices in working orientation; None where none is marked."""
    first, end = slices
    for index in sorted(range(first, end), key=lambda one: abs(2 * one - first - end + 1)):
        rows, columns = np.nonzero(np.isin(_labels(masks, index), labels))
        if len(rows):
            nearest = int(np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2))
            x, y, z = (scan.working_affine @ [index, rows[nearest], columns[nearest], 1])[:3].tolist()
            return x, y, z
    return None


def _labels(masks: Masks, index: int) -> np.ndarray:
    """(rows, columns) of a slice in working orientation: 1, 2 the lungs, 3, 4 their opacity, with what lobes add."""
    lungs = masks.lungs[index]
    labels = lungs + np.uint8(OPACITY_OFFSET) * (masks.infection[index] & (lungs > 0))
    return labels if masks.lobes is None else labels + np.uint8(LOBE_OFFSET) * masks.lobes[index]


def _planes(
    scan: Scan, masks: Masks, wanted: set[int]
) -> tuple[dict[str, tuple[int, np.ndarray]], dict[int, np.ndarray]]:
    """Each mask on the source slice where it is largest, with its index; and labels of the slices wanted."""
    areas: dict[str, int] = {}
    largest: dict[str, tuple[int, np.ndarray]] = {}
    planes: dict[int, np.ndarray] = {}
    for index, plane in enumerate(scan.planes_of_source(partial(_labels, masks))):
        counts = np.bincount(plane.ravel(), minlength=MOST_LABEL + 1)
        here = {name: int(counts[list(labels)].sum()) for name, labels in LABELS.items()}
        larger = {name: area for name, area in here.items() if area > areas.get(name, 0)}
        if larger or index in wanted:
            kept = plane.copy()
            areas |= larger
            largest |= dict.fromkeys(larger, (index, kept))
            planes |= {index: kept} if index in wanted else {}
    return {name: (index, np.isin(plane, LABELS[name])) for name, (index, plane) in largest.items()}, planes


def _next_to(mask: np.ndarray, row: float, column: float) -> np.ndarray:
    """The part of a mask (rows, columns) that has the pixel nearest to a place."""
    _, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    rows, columns = np.nonzero(mask)
    nearest = int(np.argmin((rows - row) ** 2 + (columns - column) ** 2))
    part: np.ndarray = parts == parts[rows[nearest], columns[nearest]]
    return part


def _outline(part: np.ndarray) -> np.ndarray:
    """(points, 2) columns and rows of a closed polyline just within the pixels of one part (rows, columns)."""
    rows, columns = np.nonzero(part)
    first = np.array([columns.min(), rows.min()])
    cut = part[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].astype(np.uint8)
    finer = np.kron(cut, np.ones((FINER, FINER), np.uint8))
    contours, _ = cv2.findContours(finer, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    tolerance = min(float(FINER), 0.25 * float(np.sqrt(finer.sum())))
    points = cv2.approxPolyDP(max(contours, key=cv2.contourArea), tolerance, closed=True)[:, 0]
    closed = np.concatenate([points, points[:1]]).astype(float)
    while len(closed) < FEWEST_POINTS:
        between = (closed[:-1] + closed[1:]) / 2
        closed = np.insert(closed, np.arange(1, len(closed)), between, axis=0)
    return first + (closed + 0.5) / FINER


def image_region(scan: Scan, place: Place) -> hd.sr.ImageRegion:
    """A place as the region of a planar group (PS3.16 TID 1410)."""
    index, points = place
    sop_class, uid, frame = scan.reference(index)
    source = hd.sr.SourceImageForRegion(sop_class, uid, [frame] if frame else None)
    return hd.sr.ImageRegion("POLYLINE", np.round(points, 2), source)


def library(scan: Scan, source: pydicom.Dataset, indices: Iterable[int]) -> ContainerContentItem:
    """An image library (PS3.16 TID 1600) of these source slices: what they share, and each with its position.

    Of the slices that regions lie on, not of all: an entry takes 0.9 kB, those of 1500 slices ten times the rest. All
    are listed in its evidence.
    """
    group = ContainerContentItem(codes.DCM.ImageLibraryGroup, relationship_type=RelationshipTypeValues.CONTAINS)
    group.ContentSequence = ContentSequence(
        [*_shared(scan, source), *(_entry(scan, index) for index in sorted(indices))]
    )
    whole = ContainerContentItem(codes.DCM.ImageLibrary, relationship_type=RelationshipTypeValues.CONTAINS)
    whole.ContentSequence = ContentSequence([group])
    return whole


def _shared(scan: Scan, source: pydicom.Dataset) -> list[hd.sr.ContentItem]:
    """Descriptors that hold for each slice (TID 1602, 1604)."""
    context = RelationshipTypeValues.HAS_ACQ_CONTEXT
    _, rows, columns = scan.volume.shape
    _, vertical, horizontal = (round(float(mm), 6) for mm in scan.volume.spacing)
    millimetre = codes.UCUM.Millimeter
    shared: list[hd.sr.ContentItem] = [CodeContentItem(codes.DCM.Modality, codes.DCM.ComputedTomography, context)]
    if frame_of_reference := source.get("FrameOfReferenceUID"):
        shared.append(UIDRefContentItem(codes.DCM.FrameOfReferenceUID, frame_of_reference, context))
    return [
        *shared,
        NumContentItem(codes.DCM.PixelDataRows, rows, code(PIXELS), relationship_type=context),
        NumContentItem(codes.DCM.PixelDataColumns, columns, code(PIXELS), relationship_type=context),
        NumContentItem(codes.DCM.HorizontalPixelSpacing, horizontal, millimetre, relationship_type=context),
        NumContentItem(codes.DCM.VerticalPixelSpacing, vertical, millimetre, relationship_type=context),
    ]


def _entry(scan: Scan, index: int) -> ImageContentItem:
    sop_class, uid, frame = scan.reference(index)
    entry = ImageContentItem(code(SOURCE), sop_class, uid, frame, relationship_type=RelationshipTypeValues.CONTAINS)
    position = scan.affine[:3] @ [index, 0, 0, 1]
    context = RelationshipTypeValues.HAS_ACQ_CONTEXT
    entry.ContentSequence = ContentSequence(
        NumContentItem(code(name), round(float(mm), 4) + 0.0, codes.UCUM.Millimeter, relationship_type=context)
        for name, mm in zip(IMAGE_POSITION, position, strict=True)
    )
    return entry
