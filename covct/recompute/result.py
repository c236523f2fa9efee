"""One result's figures anew: its masks laid on its source, slice by slice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pydicom

from covct.recompute.figures import Lesion, Tally, Tree, figures, lesions, tally
from covct.recompute.lattice import Stack, is_even, lattice_of, stack_of
from covct.recompute.masks import RIGHT, NoMasks, Segmented, Volume
from covct.recompute.planes import Plane, hounsfield, parsed, planes_of

BY_HU = ("mean HU", "ground glass", "consolidation", "what is in neither band", "mass")
_Drawn = tuple[np.ndarray, np.ndarray, np.ndarray | None]  # a `Slice`, and its lobes where there are any
GRID = "the size of the grid, and where thirds begin"
ON_ITS_SLICE = 0.1  # of a voxel: a slice and a mask that lie further apart lie on two grids


@dataclass(frozen=True)
class Recomputed:
    """A result's figures, derived anew.

    Attributes
    ----------
    tree : dict
        As in the report, unrounded; None for what has no value.
    lesions : list of Lesion
        All that are counted, the largest first.
    inexact, inexact_mm : float
        By what share rounded headers leave volumes unknown, and by how much places.
    missing : dict of str to str
        What could not be derived, and why.
    """

    tree: Tree
    lesions: list[Lesion]
    inexact: float = 0.0
    inexact_mm: float = 0.0
    missing: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Laid:
    """A source slice with its masks, packed eight voxels a byte, and what it adds."""

    plane: Plane
    right: np.ndarray
    infection: np.ndarray
    tally: Tally


def of_seg(seg: Segmented, files: Iterable[bytes], *, one_height: bool) -> Recomputed:
    """By a SEG, on the slices that it lists.

    Parameters
    ----------
    files : iterable of bytes
        Source files that hold them, whatever else they hold.
    one_height : bool
        As `figures` has it.

    Raises
    ------
    Exception
        Of any kind: what is damaged raises what the damage hits.
    """

    def slice_of(plane: Plane) -> _Drawn | None:
        if plane.uid not in seg.instances:
            return None
        return *seg.slice_of(plane.uid, plane.frame), seg.lobes_of(plane.uid, plane.frame) if seg.lobes_of else None

    found = _lay(files, slice_of)
    gone = len(seg.instances - {one.plane.uid for one in found})
    if not gone:
        scan, whole = _of_one_scan(found, seg)
        unknown = {} if whole else {GRID: "the frames of its multi-frame source make several stacks"}
        return _of_stack(scan, one_height=one_height, whole=whole, missing=unknown)
    there = [_laid(plane, (*seg.slice_of(*key), None), None) for key, plane in seg.planes.items()]
    why = f"{gone} of {len(seg.instances)} source instances are not among the sources"
    missing = {", ".join(BY_HU): why, GRID: why}
    return _of_stack(there, one_height=one_height, with_hu=False, whole=False, missing=missing)


def of_masks(pair: Volume, files: Iterable[bytes], *, one_height: bool) -> Recomputed:
    """By NIfTI masks of a DICOM series, which lie in the order of columns, rows and slices.

    Raises
    ------
    NoMasks
        Where slices of the masks are not among the files.
    """
    to_index, seen = np.linalg.inv(pair.affine), set()
    height, width = pair.lungs.shape[1::-1]

    def slice_of(plane: Plane) -> _Drawn | None:
        column, row, index = (to_index @ [*plane.position, 1.0])[:3]
        number = round(float(index))
        if max(abs(column), abs(row)) > ON_ITS_SLICE * 10 or not 0 <= number < pair.lungs.shape[2]:
            return None
        if plane.shape != (height, width) or number in seen:
            return None
        seen.add(number)
        lobes = None if pair.lobes is None else pair.lobes[..., number].T
        return pair.lungs[..., number].T, pair.infection[..., number].T, lobes

    found = _lay(files, slice_of)
    if len(seen) < pair.lungs.shape[2]:
        raise NoMasks(f"{pair.lungs.shape[2] - len(seen)} of {pair.lungs.shape[2]} slices are not among the sources")
    return _of_stack(found, one_height=one_height)


def of_volume(pair: Volume, hu: np.ndarray | None, why: str, *, one_height: bool) -> Recomputed:
    """By NIfTI masks on the grid of a volume file, (i, j, k); without HU where its format is not read here, and why."""
    lattice = lattice_of((pair.lungs.shape[0], pair.lungs.shape[1], pair.lungs.shape[2]), pair.affine)
    planes = (None if hu is None else hu[index] for index in range(len(pair.lungs)))
    lobes = [None] * len(pair.lungs) if pair.lobes is None else pair.lobes
    tallies = [tally(*each) for each in zip(pair.lungs, pair.infection, planes, lobes, strict=True)]
    tree = figures(tallies, lattice, with_hu=hu is not None, one_height=one_height)
    missing = {} if hu is not None else {", ".join(BY_HU): why}
    return Recomputed(tree, lesions(*_part(pair.infection, pair.lungs == RIGHT), lattice), missing=missing)


def _lay(files: Iterable[bytes], slice_of: Callable[[Plane], _Drawn | None]) -> list[_Laid]:
    found: list[_Laid] = []
    for contents in files:
        dataset = parsed(contents)
        for plane in planes_of(dataset):
            masks = slice_of(plane)
            if masks is not None:
                found.append(_laid(plane, masks, dataset))
    return found


def _laid(plane: Plane, masks: _Drawn, dataset: pydicom.Dataset | None) -> _Laid:
    lungs, infection, lobes = masks
    hu = hounsfield(dataset, plane.frame) if dataset is not None and lungs.any() else None
    return _Laid(
        plane, np.packbits(lungs == RIGHT, axis=1), np.packbits(infection, axis=1), tally(lungs, infection, hu, lobes)
    )


def _of_one_scan(found: list[_Laid], seg: Segmented) -> tuple[list[_Laid], bool]:
    """Without the frames of other stacks in a multi-frame instance; and whether these are all of one.

    They are told by the Stack ID of those with a mask; where the frames so found make no even stack, only those with a
    mask are known to be of it.
    """
    if found[0].plane.frame is None:
        return found, True
    marked = [one for one in found if (one.plane.uid, one.plane.frame) in seg.planes]
    names = {one.plane.stack for one in marked}
    stack = [one for one in found if one.plane.stack in names]
    return (stack, True) if is_even(stack_of([one.plane for one in stack])) else (marked, False)


def _of_stack(
    found: list[_Laid],
    *,
    one_height: bool,
    with_hu: bool = True,
    whole: bool = True,
    missing: dict[str, str] | None = None,
) -> Recomputed:
    by_plane = {id(one.plane): one for one in found}
    stack = stack_of([one.plane for one in found], whole=whole)
    lattice, slices = stack.lattice, [by_plane[id(plane)] for plane in stack.planes]
    empty = np.zeros(stack.planes[0].shape, np.uint8)
    tallies = [tally(empty, empty > 0, None) for _ in range(lattice.shape[0])]
    for index, one in zip(stack.indices, slices, strict=True):
        tallies[index] = one.tally
    tree = figures(tallies, lattice, with_hu=with_hu, one_height=one_height)
    return Recomputed(tree, _lesions(stack, slices), lattice.inexact, lattice.inexact_mm, missing or {})


def _lesions(stack: Stack, slices: Sequence[_Laid]) -> list[Lesion]:
    rows, columns = stack.lattice.shape[1:]
    ill = [index for index, one in zip(stack.indices, slices, strict=True) if one.infection.any()]
    if not ill:
        return []
    first, end = min(ill), max(ill) + 1
    masks = np.zeros((2, end - first, rows, columns), bool)
    for index, one in zip(stack.indices, slices, strict=True):
        if first <= index < end:
            for mask, packed in zip(masks, (one.infection, one.right), strict=True):
                mask[index - first] = np.unpackbits(packed, axis=1, count=columns)
    infection, right, origin = _part(masks[0], masks[1])
    return lesions(infection, right, [origin[0] + first, *origin[1:]], stack.lattice)


def _part(infection: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """The box of all infection, and the index of its first voxel."""
    held = [np.flatnonzero(infection.any(axis)) for axis in ((1, 2), (0, 2), (0, 1))]
    box = tuple(slice(int(one[0]), int(one[-1]) + 1) if len(one) else slice(0, 0) for one in held)
    return np.ascontiguousarray(infection[box]), np.ascontiguousarray(right[box]), [one.start for one in box]
