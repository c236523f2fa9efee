"""Connected components of a stack of masks, slice by slice: no label of the whole stack is ever in memory.

Voxels are connected through faces. The pieces of each slice are found by OpenCV and joined with those of the slice
before where they overlap. A labelled volume would take four bytes a voxel, and twice that while it is made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

CONNECTIVITY = 6  # faces of a voxel


@dataclass(frozen=True)
class Components:
    """The components of a stack, numbered from 1 by size, the largest first.

    Attributes
    ----------
    slice_of : function (int) -> (rows, columns) bool
        The masks. Called again whenever a slice is asked for; it must give the same each time.
    sizes : (components,) int64
        Voxels.
    numbers : tuple of (pieces + 1,) int32
        For each slice, the component of each of its pieces; the first is 0, the background.
    """

    slice_of: Callable[[int], np.ndarray]
    sizes: np.ndarray
    numbers: tuple[np.ndarray, ...]

    def on_slice(self, index: int) -> np.ndarray:
        """(rows, columns) int32: the component of each voxel, 0 for background."""
        if len(self.numbers[index]) == 1:
            return np.zeros(self.slice_of(index).shape, np.int32)
        pieces: np.ndarray = self.numbers[index][_pieces(self.slice_of(index))[1]]
        return pieces

    def holding(self, number: int) -> list[int]:
        """The slices that hold a part of a component."""
        return [index for index, numbers in enumerate(self.numbers) if (numbers == number).any()]


def components(slice_of: Callable[[int], np.ndarray], slices: int) -> Components:
    """Find the components of a stack of `slices` masks."""
    parents: list[int] = []
    sizes: list[int] = []
    firsts: list[int] = []  # the number of each slice's first piece
    before: np.ndarray | None = None  # pieces of the slice before, numbered through the whole stack from 1
    for index in range(slices):
        mask = slice_of(index)
        firsts.append(len(parents))
        if not mask.any():
            before = None
            continue
        count, labels = _pieces(mask)
        sizes += np.bincount(labels.ravel(), minlength=count)[1:].tolist()
        parents += range(firsts[-1], firsts[-1] + count - 1)
        here = np.where(labels > 0, labels + np.int32(firsts[-1]), 0)
        if before is not None:
            for one, other in _touching(before, here):
                _join(parents, one, other)
        before = here
    return _numbered(slice_of, parents, sizes, [*firsts, len(parents)])


def _pieces(mask: np.ndarray) -> tuple[int, np.ndarray]:
    """How many labels, background included, and (rows, columns) int32."""
    return cv2.connectedComponents(np.ascontiguousarray(mask).view(np.uint8), connectivity=4, ltype=cv2.CV_32S)


def _touching(before: np.ndarray, here: np.ndarray) -> list[list[int]]:
    """Pairs of pieces, numbered from 0, of which one lies over the other."""
    both = (before > 0) & (here > 0)
    pairs = before[both].astype(np.int64) << 32 | here[both]
    pairs = np.unique(pairs)
    touching: list[list[int]] = np.stack([(pairs >> 32) - 1, (pairs & 0xFFFFFFFF) - 1], axis=1).tolist()
    return touching


def _root(parents: list[int], piece: int) -> int:
    while parents[piece] != piece:
        parents[piece] = parents[parents[piece]]
        piece = parents[piece]
    return piece


def _join(parents: list[int], one: int, other: int) -> None:
    """The piece found first stays the root, so that components of one size are in the order they were found in."""
    first, second = sorted((_root(parents, one), _root(parents, other)))
    parents[second] = first


def _numbered(
    slice_of: Callable[[int], np.ndarray], parents: list[int], sizes: list[int], firsts: list[int]
) -> Components:
    roots = np.array([_root(parents, piece) for piece in range(len(parents))], np.int64)
    whole = np.zeros(len(parents), np.int64)
    np.add.at(whole, roots, np.array(sizes, np.int64))
    largest_first = np.argsort(-whole, kind="stable")[: np.count_nonzero(whole)]
    number_of = np.zeros(len(parents), np.int32)
    number_of[largest_first] = np.arange(1, len(largest_first) + 1)
    by_slice = (number_of[roots[first:end]] for first, end in zip(firsts, firsts[1:], strict=False))
    numbers = tuple(np.concatenate([np.zeros(1, np.int32), part]) for part in by_slice)
    return Components(slice_of, whole[largest_first], numbers)


def largest_part(mask: np.ndarray, connectivity: int = 8) -> np.ndarray:
    """The largest component of a slice: (rows, columns) uint8 -> (rows, columns) bool, all false without any."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=connectivity)
    if count < 2:
        return np.zeros(mask.shape, bool)
    largest: np.ndarray = labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    return largest
