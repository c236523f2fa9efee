"""Masks as a result holds them: of a DICOM SEG (binary or label map), or of a pair of NIfTI files."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from pydicom.pixels import pixel_array

from covct.recompute.planes import Plane, numbers

LUNG = "39607008"  # SNOMED CT: the type of a segment that is lung
RIGHT, LEFT = 1, 2
SIDES = {"24028007": RIGHT, "7771000": LEFT}
# Types of segments that are lobes, with their side: in the order of the numbers that a NIfTI mask gives them, from 1.
LOBES = (("45653009", RIGHT), ("72481006", RIGHT), ("90572001", RIGHT), ("45653009", LEFT), ("90572001", LEFT))
LPS_OF_RAS = np.diag([-1.0, -1, 1, 1])

Slice = tuple[np.ndarray, np.ndarray]  # lungs (rows, columns) uint8: 1 right, 2 left; infection likewise bool


class NoMasks(Exception):
    """Why there is nothing to count, in words."""


@dataclass(frozen=True)
class Segmented:
    """A DICOM SEG.

    Attributes
    ----------
    planes : dict of (SOP Instance UID, frame number or None) to Plane
        Where its frames lie, by the source slice that they name.
    instances : set of str
        All source instances that it lists, those without a frame too.
    slice_of : function (str, int or None) -> Slice
        The masks of a source slice; nothing where no frame names it.
    lobes_of : function (str, int or None) -> (rows, columns) uint8, or None
        Its lobes, 1 to 5 in the order of LOBES; None where it has no segments of lobes.
    """

    planes: dict[tuple[str, int | None], Plane]
    instances: set[str]
    slice_of: Callable[[str, int | None], Slice]
    lobes_of: Callable[[str, int | None], np.ndarray] | None = None


@dataclass(frozen=True)
class _Meaning:
    """What a segment number stands for: lung or infection, of which side, None of either; or a lobe, by its number."""

    lung: bool
    side: int | None
    lobe: int = 0


def read_seg(path: Path) -> Segmented:
    """Masks of a SEG, decoded frame by frame as they are asked for.

    Raises
    ------
    NoMasks
        Of a fractional one.
    Exception
        Of any kind, where it is damaged.
    """
    dataset = pydicom.dcmread(path)
    kind = str(dataset.SegmentationType)
    if kind == "FRACTIONAL":
        raise NoMasks("its SEG holds probabilities: what was called is not in it")
    meanings = {int(s.SegmentNumber): _meaning(s) for s in dataset.SegmentSequence if int(s.SegmentNumber)}
    frames: dict[tuple[str, int | None], list[tuple[int, int | None]]] = {}
    planes = {}
    for index, groups in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        source = groups.DerivationImageSequence[0].SourceImageSequence[0]
        frame = source.get("ReferencedFrameNumber")
        key = str(source.ReferencedSOPInstanceUID), None if frame is None else int(frame)
        number = groups.get("SegmentIdentificationSequence")
        frames.setdefault(key, []).append((index, int(number[0].ReferencedSegmentNumber) if number else None))
        planes[key] = _plane(dataset, groups, *key)
    shape = int(dataset.Rows), int(dataset.Columns)

    def slice_of(uid: str, frame: int | None) -> Slice:
        lungs, infection = np.zeros(shape, np.uint8), np.zeros(shape, bool)
        for index, number in frames.get((uid, frame), []):
            if number and meanings[number].lobe:
                continue
            pixels = np.asarray(pixel_array(dataset, index=index, raw=True))
            for segment in meanings if number is None else [number]:
                _mark(lungs, infection, pixels == segment if number is None else pixels > 0, meanings[segment])
        return lungs, infection

    def lobes_of(uid: str, frame: int | None) -> np.ndarray:
        lobes = np.zeros(shape, np.uint8)
        for index, number in frames.get((uid, frame), []):
            if number and meanings[number].lobe:
                lobes[np.asarray(pixel_array(dataset, index=index, raw=True)) > 0] = meanings[number].lobe
        return lobes

    listed = {
        str(i.ReferencedSOPInstanceUID) for s in dataset.ReferencedSeriesSequence for i in s.ReferencedInstanceSequence
    }
    has_lobes = any(meaning.lobe for meaning in meanings.values())
    return Segmented(planes, listed, slice_of, lobes_of if has_lobes else None)


def _meaning(segment: pydicom.Dataset) -> _Meaning:
    kind = segment.SegmentedPropertyTypeCodeSequence[0]
    regions = segment.get("AnatomicRegionSequence") or []
    modifiers = [*(kind.get("SegmentedPropertyTypeModifierCodeSequence") or [])]
    modifiers += [m for r in regions for m in r.get("AnatomicRegionModifierSequence") or []]
    sides = [SIDES[m.CodeValue] for m in modifiers if m.CodeValue in SIDES]
    if sides and (lobe := (str(kind.CodeValue), sides[0])) in LOBES:
        return _Meaning(lung=False, side=sides[0], lobe=LOBES.index(lobe) + 1)
    return _Meaning(str(kind.CodeValue) == LUNG, sides[0] if sides else None)


def _plane(dataset: pydicom.Dataset, groups: pydicom.Dataset, uid: str, frame: int | None) -> Plane:
    shared = dataset.SharedFunctionalGroupsSequence[0]
    row, column = np.reshape(numbers(shared.PlaneOrientationSequence[0], "ImageOrientationPatient"), (2, 3))
    between_rows, between_columns = numbers(shared.PixelMeasuresSequence[0], "PixelSpacing")
    position = np.array(numbers(groups.PlanePositionSequence[0], "ImagePositionPatient"))
    return Plane(
        uid, frame, position, row, column, (between_rows, between_columns), (int(dataset.Rows), int(dataset.Columns))
    )


def _mark(lungs: np.ndarray, infection: np.ndarray, here: np.ndarray, meaning: _Meaning) -> None:
    """Voxels of a segment; infection of a side is that lung's, also where the lung has a segment of its own."""
    if meaning.side:
        lungs[here] = meaning.side
    if not meaning.lung:
        infection |= here


@dataclass(frozen=True)
class Volume:
    """Both masks of a NIfTI pair: (i, j, k) uint8, and their affine to LPS mm; with lobes, if there are any."""

    lungs: np.ndarray
    infection: np.ndarray
    affine: np.ndarray
    lobes: np.ndarray | None = None


def read_nifti_pair(lungs: Path, infection: Path, lobes: Path | None = None) -> Volume:
    """Masks written as NIfTI.

    Raises
    ------
    Exception
        Of any kind, where they are damaged or of two grids.
    """
    first, second = nibabel.load(lungs), nibabel.load(infection)
    third = nibabel.load(lobes) if lobes else None
    if first.shape != second.shape or (third is not None and third.shape != first.shape):
        raise ValueError("the masks differ in size")
    return Volume(
        np.asanyarray(first.dataobj).astype(np.uint8),
        np.asanyarray(second.dataobj) > 0,
        LPS_OF_RAS @ first.affine,
        None if third is None else np.asanyarray(third.dataobj).astype(np.uint8),
    )


def read_nifti_source(contents: bytes) -> np.ndarray:
    """HU (i, j, k) float32 of a NIfTI file, packed or not."""
    plain = gzip.decompress(contents) if contents[:2] == b"\x1f\x8b" else contents
    second = (540).to_bytes(4, "little")  # the size of NIfTI-2's header, in either byte order
    kind = nibabel.Nifti2Image if second in (plain[:4], plain[3::-1]) else nibabel.Nifti1Image
    hu: np.ndarray = np.asanyarray(kind.from_bytes(plain).dataobj).astype(np.float32)
    return hu.reshape(hu.shape[:3])
