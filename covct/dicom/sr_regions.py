"""Where a viewer goes from the DICOM SR: for each group one region on one slice, and a library of these slices."""

from __future__ import annotations

from collections.abc import Iterable

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
from covct.terms import IMAGE_POSITION, PIXELS, SOURCE
from covct.voxels.components import largest_part
from covct.voxels.volume import Masks, Scan

OPACITY_OFFSET = 2  # added to a lung's label where it is opacity, as in a label map
# Masks that are outlined, by the labels that make them up.
LABELS = {
    "right_lung": (1, 3),
    "left_lung": (2, 4),
    "lungs": (1, 2, 3, 4),
    "opacity right_lung": (3,),
    "opacity left_lung": (4,),
    "opacity lungs": (3, 4),
}
Place = tuple[int, np.ndarray]  # index of a source slice; (points, 2) column and row of an outline or a point


def places(scan: Scan, masks: Masks, groups: Iterable[Group]) -> dict[str, Place]:
    """By the label of a group: the outline of its largest part on the slice where it is largest, or a lesion's centre.

    Coordinates are those of an SCOORD: 0, 0 is the corner of the first pixel, 0.5, 0.5 its centre (PS3.3 C.18.6.1). A
    mask without voxels has no place.
    """
    outlines = _outlines(scan, masks)
    found: dict[str, Place] = {}
    for group in groups:
        if group.outlined in outlines:
            found[group.label] = outlines[group.outlined]
        elif group.centre_mm is not None:
            index, row, column = np.linalg.inv(scan.affine)[:3] @ [*group.centre_mm, 1]
            nearest = int(np.clip(np.rint(index), 0, scan.volume.shape[0] - 1))
            found[group.label] = nearest, np.array([[column + 0.5, row + 0.5]])
    return found


def _outlines(scan: Scan, masks: Masks) -> dict[str, Place]:
    def labels(index: int) -> np.ndarray:
        lungs = masks.lungs[index]
        return lungs + np.uint8(OPACITY_OFFSET) * (masks.infection[index] & (lungs > 0))

    areas: dict[str, int] = {}
    kept: dict[str, tuple[int, np.ndarray]] = {}
    for index, plane in enumerate(scan.planes_of_source(labels)):
        counts = np.bincount(plane.ravel(), minlength=5)
        for name, wanted in LABELS.items():
            area = int(counts[list(wanted)].sum())
            if area > areas.get(name, 0):
                areas[name], kept[name] = area, (index, np.isin(plane, wanted))
    return {name: (index, _outline(mask)) for name, (index, mask) in kept.items()}


def _outline(mask: np.ndarray) -> np.ndarray:
    """(points, 2) columns and rows of a closed polyline around the largest part of a mask (rows, columns)."""
    part = largest_part(mask.astype(np.uint8)).astype(np.uint8)
    contours, _ = cv2.findContours(part, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    points = cv2.approxPolyDP(max(contours, key=len), 1.0, closed=True)[:, 0] + 0.5
    return np.concatenate([points, points[:1]])


def image_region(scan: Scan, place: Place) -> hd.sr.ImageRegion:
    """A place as the region of a planar group (PS3.16 TID 1410)."""
    index, points = place
    sop_class, uid, frame = scan.reference(index)
    source = hd.sr.SourceImageForRegion(sop_class, uid, [frame] if frame else None)
    return hd.sr.ImageRegion("POINT" if len(points) == 1 else "POLYLINE", np.round(points, 2), source)


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
