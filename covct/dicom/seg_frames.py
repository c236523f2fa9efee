"""The frames of a DICOM Segmentation: which slice of a scan each lies on, and its pixels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import pydicom
from pydicom.multival import MultiValue
from pydicom.pixels import iter_pixels

from covct.errors import SourceDefect
from covct.voxels.volume import Scan

# Of the smallest voxel edge. Further off, a mask lies on its neighbours' voxels. Writers that space their slices evenly
# (dcmqi, 3D Slicer) miss the positions that the scanner wrote, but by less.
POSITION_TOLERANCE = 0.5
# The gate lets cosines differ so much within a series as 1e-3; making them perpendicular, as writers do, adds as much.
COSINE_TOLERANCE = 2e-3


def frame_places(dataset: pydicom.Dataset, scan: Scan) -> list[int]:
    """The slice of the scan's source that each frame lies on: by reference, and where there is none by position.

    Of several slices that a frame refers to it is the nearest. Whatever told the slice, plane and position must agree.

    Raises
    ------
    SourceDefect
        A frame refers to slices that the scan does not have, to none and lies on none, or lies elsewhere than the one
        that it refers to.
    """
    shared = _first(dataset, "SharedFunctionalGroupsSequence") or pydicom.Dataset()
    planes = [_plane_of_slice(scan, index) for index in range(scan.volume.shape[0])]
    positions, orientations = (np.array(values) for values in zip(*planes, strict=True))
    tolerance_mm = POSITION_TOLERANCE * float(np.linalg.norm(scan.affine[:3, :3], axis=0).min())
    index_of = _slices_by_reference(scan)
    places = []
    for number, groups in enumerate(dataset.PerFrameFunctionalGroupsSequence, 1):
        referenced = list(referenced_slices(groups))
        candidates = [index for one in referenced for index in index_of[one]] if referenced else range(len(planes))
        if not candidates:
            raise SourceDefect(f"frame {number} refers to a slice that its scan does not have")
        position, orientation = _plane(groups, shared)
        if position is None:
            if not referenced:
                raise SourceDefect(f"frame {number} has neither a position nor a slice that it refers to")
            places.append(candidates[0])
            continue
        apart_mm = np.linalg.norm(positions[candidates] - position, axis=1)
        place, off_mm = candidates[int(apart_mm.argmin())], float(apart_mm.min())
        if off_mm > tolerance_mm:
            which = "the slice that it refers to" if referenced else "the next slice of its scan"
            raise SourceDefect(f"frame {number} lies {off_mm:.1f} mm from {which}")
        if orientation and np.abs(orientations[place] - orientation).max() > COSINE_TOLERANCE:
            raise SourceDefect(f"frame {number} is turned against its scan; wanted the same planes")
        places.append(place)
    return places


def referenced_slices(groups: pydicom.Dataset) -> Iterator[tuple[str, int | None]]:
    """SOP Instance UID and frame number (None: not told) of the source slices of one frame."""
    for derivation in groups.get("DerivationImageSequence") or []:
        for source in derivation.get("SourceImageSequence") or []:
            numbers = source.get("ReferencedFrameNumber")
            several = numbers if isinstance(numbers, MultiValue) else [numbers]
            for number in several:
                yield str(source.ReferencedSOPInstanceUID), None if number is None else int(number)


def _slices_by_reference(scan: Scan) -> defaultdict[tuple[str, int | None], list[int]]:
    """Slices by what a frame may call them: without a number the whole instance is meant; one frame may be called 1."""
    out: defaultdict[tuple[str, int | None], list[int]] = defaultdict(list)
    for index in range(scan.volume.shape[0]):
        _, uid, frame = scan.reference(index)
        out[str(uid), None].append(index)
        out[str(uid), frame or 1].append(index)
    return out


def _plane_of_slice(scan: Scan, index: int) -> tuple[list[float], list[float]]:
    """Image Position and Orientation (Patient) as its header says: the affine spaces slices evenly."""
    if not scan.frames:
        header = scan.headers[index]
        return list(map(float, header.ImagePositionPatient)), list(map(float, header.ImageOrientationPatient))
    header = scan.headers[0]
    shared = _first(header, "SharedFunctionalGroupsSequence") or pydicom.Dataset()
    position, orientation = _plane(header.PerFrameFunctionalGroupsSequence[scan.frames[index] - 1], shared)
    assert position and orientation  # the gate has seen to it
    return position, orientation


def _plane(groups: pydicom.Dataset, shared: pydicom.Dataset) -> tuple[list[float] | None, list[float] | None]:
    """Position and orientation of a frame, each of its own or shared by all."""
    return (
        _macro(groups, shared, "PlanePositionSequence", "ImagePositionPatient"),
        _macro(groups, shared, "PlaneOrientationSequence", "ImageOrientationPatient"),
    )


def _macro(groups: pydicom.Dataset, shared: pydicom.Dataset, sequence: str, keyword: str) -> list[float] | None:
    for where in (groups, shared):
        if item := _first(where, sequence):
            return [float(value) for value in item.get(keyword) or []] or None
    return None


def _first(dataset: pydicom.Dataset, sequence: str) -> pydicom.Dataset | None:
    return next(iter(dataset.get(sequence) or []), None)


def frame_pixels(dataset: pydicom.Dataset) -> Iterator[np.ndarray]:
    """(rows, columns) of each frame: yes or no, in a label map the numbers; of probabilities those of a half are yes.

    Raises
    ------
    SourceDefect
        There are fewer pixels than frames.
    """
    frames = len(dataset.PerFrameFunctionalGroupsSequence)
    kind = str(dataset.get("SegmentationType") or "BINARY")
    half = int(dataset.get("MaximumFractionalValue") or 255) / 2
    packed = dataset.get("BitsAllocated") == 1 and not dataset.file_meta.TransferSyntaxUID.is_encapsulated
    if packed:  # frames follow one another without padding (PS3.5 8.1.1), which pydicom 3.0 trips over
        size = int(dataset.Rows) * int(dataset.Columns)
        contents = np.frombuffer(dataset.PixelData, np.uint8)
        if 8 * contents.size < frames * size:
            raise SourceDefect(f"the SEG has {8 * contents.size} pixels, {frames} frames of {size} are wanted")
        for start in range(0, frames * size, size):
            bits = np.unpackbits(contents[start // 8 : -(-(start + size) // 8)], bitorder="little")
            yield bits[start % 8 : start % 8 + size].reshape(dataset.Rows, dataset.Columns)
        return
    for frame in iter_pixels(dataset):
        yield frame >= half if kind == "FRACTIONAL" else frame
