"""Lesion by lesion: which marked lesions are found, and which called ones are there.

A lesion is a component of a mask as a report counts them: connected through faces, not smaller than its floor. Found
is one that a called lesion touches, and matched one that a single called lesion covers with an IoU above one half,
which no two can (panoptic quality, Kirillov 2019). By size: a marked lesion by its own, a called one by its own. Sums
over lesions, so that cases and patients pool.
"""

from __future__ import annotations

import numpy as np

from covct.evaluation.scores import ratio
from covct.pipeline.postprocess import SPECK_MM3
from covct.voxels.components import components

MARKED, CALLED, FOUND, RIGHT, MATCHED = range(5)
NAMES = ("marked", "called", "found", "right", "matched")
SIZES_ML = (1.0, 10.0)  # where one class of sizes ends and the next begins
BY_SIZE = ("marked", "found", "called", "right")  # of each class, in the order of their sums
LENGTH = len(NAMES) + (len(SIZES_ML) + 1) * len(BY_SIZE)


def lesion_sums(truth: np.ndarray, called: np.ndarray, voxel_mm3: float) -> np.ndarray:
    """What a case adds, (LENGTH,) float: lesions marked, called, of the marked found, of the called right, matched.

    Then the same by size, see `by_size`.

    truth, called : (slices, rows, columns) bool
    """
    one, other = (components(mask.__getitem__, len(mask)) for mask in (truth, called))
    marked, calls = (int(np.count_nonzero(found.sizes * voxel_mm3 >= SPECK_MM3)) for found in (one, other))
    overlaps: dict[tuple[int, int], int] = {}
    for index in range(len(truth)):
        both = truth[index] & called[index]
        if both.any():
            pairs = np.stack([one.on_slice(index)[both], other.on_slice(index)[both]])
            numbers, counts = np.unique(pairs, axis=1, return_counts=True)
            for pair, count in zip(numbers.T.tolist(), counts.tolist(), strict=True):
                overlaps[pair[0], pair[1]] = overlaps.get((pair[0], pair[1]), 0) + count
    # numbered by size: those that count come first
    there = {pair: count for pair, count in overlaps.items() if pair[0] <= marked and pair[1] <= calls}
    found, right = ({pair[side] for pair in there} for side in (0, 1))
    matched = sum(2 * count > int(one.sizes[a - 1] + other.sizes[b - 1]) - count for (a, b), count in there.items())
    sides = [
        (one.sizes[:marked] * voxel_mm3 / 1000, {a - 1 for a in found}),
        (other.sizes[:calls] * voxel_mm3 / 1000, {b - 1 for b in right}),
    ]
    counts = np.stack([count for sizes_ml, touched in sides for count in _count(sizes_ml, touched)], 1)
    return np.concatenate([[marked, calls, len(found), len(right), matched], counts.ravel()]).astype(float)


def _count(sizes_ml: np.ndarray, touched: set[int]) -> tuple[np.ndarray, np.ndarray]:
    """Lesions of each class of sizes, and those of them that the other side touches."""
    classes, least = np.digitize(sizes_ml, SIZES_ML), len(SIZES_ML) + 1
    return np.bincount(classes, minlength=least), np.bincount(classes[sorted(touched)], minlength=least)


def by_size(sums: np.ndarray) -> np.ndarray:
    """Of each class of sizes lesions marked, of these found, called, of these right. (..., LENGTH) -> (..., 3, 4)."""
    return sums[..., len(NAMES) :].reshape(*sums.shape[:-1], len(SIZES_ML) + 1, len(BY_SIZE))


def sensitivity(sums: np.ndarray) -> np.ndarray:
    """Share of marked lesions that are found. (..., LENGTH) -> (...)."""
    return ratio(sums[..., FOUND], sums[..., MARKED])


def precision(sums: np.ndarray) -> np.ndarray:
    """Share of called lesions that touch a marked one. (..., LENGTH) -> (...)."""
    return ratio(sums[..., RIGHT], sums[..., CALLED])


def recognition_quality(sums: np.ndarray) -> np.ndarray:
    """F1 of matched lesions. (..., LENGTH) -> (...)."""
    return ratio(2 * sums[..., MATCHED], sums[..., MARKED] + sums[..., CALLED])


SCORES = {"sensitivity": sensitivity, "precision": precision, "recognition_quality": recognition_quality}
