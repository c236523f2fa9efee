"""A label map of a whole series in little memory: three bits a voxel, of the rows and columns that hold any."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

LUNG_BITS, INFECTED = 3, 4
PLANES = (1, 2, INFECTED)


class Labels:
    """Lungs and infection, slice by slice: 0 background, 1 right lung, 2 left lung; `INFECTED` is added where infected.

    A slice is packed when it is set and unpacked when it is read. 1500 slices of 768 x 768 whose lungs are half as
    wide and high are 80 MiB, and could never be more than 316; two plain arrays would be 1688.

    Attributes
    ----------
    shape : (int, int, int)
        Slices, rows, columns.
    """

    def __init__(self, shape: tuple[int, int, int]):
        self.shape = shape
        self._packed: list[_Packed | None] = [None] * shape[0]

    def __len__(self) -> int:
        return self.shape[0]

    def __setitem__(self, index: int, labels: np.ndarray) -> None:
        """Set a slice, (rows, columns) uint8."""
        self._packed[index] = _pack(labels)

    def __getitem__(self, index: int) -> np.ndarray:
        """A slice, (rows, columns) uint8: a copy, writing to it changes nothing."""
        packed = self._packed[index]
        out = np.zeros(self.shape[1:], np.uint8)
        return out if packed is None else _unpack(packed, out)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))

    @property
    def lungs(self) -> Layer:
        """(slices, rows, columns) uint8: 1 right lung, 2 left lung."""
        return Layer(self, infection=False)

    @property
    def infection(self) -> Layer:
        """(slices, rows, columns) bool."""
        return Layer(self, infection=True)


class Layer:
    """One layer of a label map, read slice by slice like an array; ``np.asarray`` makes one of it, for small ones."""

    def __init__(self, labels: Labels, infection: bool):
        self._labels, self._infection = labels, infection
        self.shape = labels.shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> np.ndarray:
        labels = self._labels[index]
        return labels >= INFECTED if self._infection else labels & np.uint8(LUNG_BITS)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        return np.array(list(self), dtype)


# What holds a mask (slices, rows, columns) and is read one slice after the other.
Slices: TypeAlias = np.ndarray | Layer

# First row, end, first column, end; the bits of each plane, None where it is empty.
_Packed: TypeAlias = tuple[tuple[int, int, int, int], tuple[np.ndarray | None, ...]]


def per_slice(mask: Iterable[np.ndarray]) -> np.ndarray:
    """(slices,) how many voxels of each slice are marked. NumPy's own count along axes copies the whole mask."""
    return np.array([np.count_nonzero(one) for one in mask])


def _pack(labels: np.ndarray) -> _Packed | None:
    rows, columns = (np.flatnonzero(labels.max(axis)) for axis in (1, 0))
    if not rows.size:
        return None
    box = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    cut = labels[box[0] : box[1], box[2] : box[3]]
    marked = [(cut & np.uint8(plane)).astype(bool) for plane in PLANES]
    return box, tuple(np.packbits(plane) if plane.any() else None for plane in marked)


def _unpack(packed: _Packed, out: np.ndarray) -> np.ndarray:
    (top, bottom, left, right), planes = packed
    size = (bottom - top) * (right - left)
    cut = np.zeros(size, np.uint8)
    for value, bits in zip(PLANES, planes, strict=True):
        if bits is not None:
            cut += np.unpackbits(bits, count=size) * np.uint8(value)
    out[top:bottom, left:right] = cut.reshape(bottom - top, right - left)
    return out
