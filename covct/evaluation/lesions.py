"""Lesion by lesion: which marked lesions are found, and which called ones are there.

A lesion is a component of a mask as a report counts them: connected through faces, not smaller than its floor. Found
is one that a called lesion touches, and matched one that a single called lesion covers with an IoU above one half,
which no two can (panoptic quality, Kirillov 2019). Sums over lesions, so that cases and patients pool.
"""

from __future__ import annotations

import numpy as np

from covct.evaluation.scores import ratio
from covct.pipeline.postprocess import SPECK_MM3
from covct.voxels.components import components

MARKED, CALLED, FOUND, RIGHT, MATCHED = range(5)
NAMES = ("marked", "called", "found", "right", "matched")
LENGTH = len(NAMES)


def lesion_sums(truth: np.ndarray, called: np.ndarray, voxel_mm3: float) -> np.ndarray:
    """What a case adds, (LENGTH,) float: lesions marked, called, of the marked found, of the called right, matched.

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
    return np.array([marked, calls, len(found), len(right), matched], float)


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
