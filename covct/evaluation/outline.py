"""How near outlines are, slice by slice, in pixels: outline Dice, and the Dice that forgives a thin rim.

Everything is sums over slices, so that cases and patients pool. Pixels are those of the grid that is judged; what is in
mm stands in `surface`.

Outline Dice is the share of both outlines that lies within the tolerance of the other one; an outline is the pixels of
a mask with a side neighbour outside of it. Each pixel counts alike: it is not the surface Dice of Nikolov et al. 2018,
which weighs surface by its area, though its keys are called so (`surface_dice_1px`).

`dice_within` counts a wrong pixel as right that lies within the tolerance of the other mask on its slice: what is left
is wrong by more than how outlines are drawn.
"""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np

from covct.evaluation.scores import ratio

TOLERANCES_PX = (1, 2)
# What a slice adds: pixels of both outlines, those of them within each tolerance; hits, wrong pixels, those forgiven.
OUTLINE, NEAR, HIT, WRONG, FORGIVEN = 0, slice(1, 3), 3, 4, slice(5, 7)
LENGTH = 7
CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)


def outline_sums(truth: np.ndarray, called: np.ndarray) -> np.ndarray:
    """What a case adds, (LENGTH,) float; truth and called (slices, rows, columns) bool."""
    total = np.zeros(LENGTH)
    for true, mine in zip(truth, called, strict=True):
        either = true | mine
        if either.any():
            rows, columns = np.flatnonzero(either.any(1)), np.flatnonzero(either.any(0))
            box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
            total += _of_slice(np.ascontiguousarray(true[box]), np.ascontiguousarray(mine[box]))
    return total


def _of_slice(true: np.ndarray, mine: np.ndarray) -> np.ndarray:
    edges, wrong = (_edge(true), _edge(mine)), true ^ mine
    to_other = np.concatenate([_distance(edges[1])[edges[0]], _distance(edges[0])[edges[1]]])
    off = np.where(true, _distance(mine), _distance(true))[wrong]
    sums = np.zeros(LENGTH)
    sums[OUTLINE], sums[HIT], sums[WRONG] = len(to_other), np.count_nonzero(true & mine), len(off)
    sums[NEAR] = [np.count_nonzero(to_other <= tolerance) for tolerance in TOLERANCES_PX]
    sums[FORGIVEN] = [np.count_nonzero(off <= tolerance) for tolerance in TOLERANCES_PX]
    return sums


def _edge(mask: np.ndarray) -> np.ndarray:
    inner = cv2.erode(mask.view(np.uint8), CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    edge: np.ndarray = mask & (inner == 0)
    return edge


def _distance(mask: np.ndarray) -> np.ndarray:
    """Of each pixel to the next one of the mask, in pixels."""
    if not mask.any():
        return np.full(mask.shape, np.inf, np.float32)
    distance: np.ndarray = cv2.distanceTransform((~mask).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return distance


def surface_dice(sums: np.ndarray, number: int) -> np.ndarray:
    """Within the tolerance of that number. (..., LENGTH) -> (...)."""
    return ratio(sums[..., NEAR][..., number], sums[..., OUTLINE])


def dice_within(sums: np.ndarray, number: int) -> np.ndarray:
    """Dice once wrong pixels within the tolerance of that number are right. (..., LENGTH) -> (...)."""
    right = sums[..., HIT] + sums[..., FORGIVEN][..., number]
    return ratio(2 * right, 2 * right + sums[..., WRONG] - sums[..., FORGIVEN][..., number])


SCORES = {
    f"{name}_{tolerance}px": partial(score, number=number)
    for name, score in (("surface_dice", surface_dice), ("dice_within", dice_within))
    for number, tolerance in enumerate(TOLERANCES_PX)
}
