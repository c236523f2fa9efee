"""Which slices to look at where they lie closer than anything changes, and what lies between those."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from covct.voxels.half import to_half

EXACT = 1e-3  # a spacing that is told in hundredths of a millimetre may miss a whole number of steps by as much


def every(count: int, slice_mm: float, apart_mm: float) -> np.ndarray:
    """Slices no further apart than `apart_mm`, the first and the last among them; all where they lie further apart.

    Returns
    -------
    (slices,) bool
    """
    step = max(1, int(apart_mm / slice_mm + EXACT)) if slice_mm > 0 else 1
    chosen = np.zeros(count, bool)
    chosen[::step] = True
    chosen[-1:] = True
    return chosen


def fill_between(probability: np.ndarray, known: np.ndarray) -> None:
    """Give slices between two known ones what lies between those, in proportion to how near each is. In place.

    Parameters
    ----------
    probability : (slices, rows, columns) float16
        Changed where `known` is false.
    known : (slices,) bool
        The first and the last are.
    """
    for first, last in pairwise(np.flatnonzero(known).tolist()):
        before, after = probability[first].astype(np.float32), probability[last].astype(np.float32)
        for index in range(first + 1, last):
            share = (index - first) / (last - first)
            probability[index] = to_half(before + np.float32(share) * (after - before))
