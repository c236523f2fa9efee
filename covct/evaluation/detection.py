"""Precision by recall, and the receiver operating characteristic, pixel by pixel inside the lungs found.

Everything is computed from a histogram of the probabilities, so that memory is bounded and cases, patients and
resamples add up. Its edges lie evenly in the logit: networks are sure of most pixels, and evenly spaced thresholds
would say nothing of those. Infection marked outside the lungs found is never called: it counts as missed at every
threshold, so that a curve ends where the lungs end.
"""

from __future__ import annotations

import numpy as np

from covct.evaluation.scores import ratio

BINS = 256
REACH = 9.0  # of the logit on either side
EDGES = 1 / (1 + np.exp(-np.linspace(-REACH, REACH, BINS - 1)))
# A case's histogram, flat: pixels and positives of each bin, and positives outside of the region.
LENGTH = 2 * BINS + 1


def histogram(probability: np.ndarray, truth: np.ndarray, region: np.ndarray) -> np.ndarray:
    """What one slice adds, (LENGTH,) float.

    probability : float16 or float32
    truth, region : bool of the same shape
        Only pixels of the region are asked about.
    """
    p, true = probability[region].astype(np.float32), truth[region]
    place = np.searchsorted(EDGES.astype(np.float32), p, side="right")
    counts = [np.bincount(place, minlength=BINS), np.bincount(place[true], minlength=BINS)]
    return np.concatenate([*counts, [np.count_nonzero(truth & ~region)]]).astype(float)


def _rates(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Recall, precision and false-positive rate, the threshold falling bin by bin. (..., LENGTH) -> (..., BINS)."""
    calls, hit = (np.cumsum(part[..., ::-1], -1) for part in (sums[..., :BINS], sums[..., BINS:-1]))
    false = calls - hit
    return (
        ratio(hit, hit[..., -1:] + sums[..., -1:]),
        ratio(hit, calls),
        ratio(false, false[..., -1:]),
    )


def average_precision(sums: np.ndarray) -> np.ndarray:
    """Mean of the precision over the recall, by steps; nan without anything to find. (..., LENGTH) -> (...)."""
    recall, precision, _ = _rates(sums)
    steps = np.diff(recall, axis=-1, prepend=0)
    area: np.ndarray = (steps * np.nan_to_num(precision)).sum(-1)
    return area


def roc_auc(sums: np.ndarray) -> np.ndarray:
    """Area under the receiver operating characteristic; nan without positives or negatives. (..., LENGTH) -> (...)."""
    recall, _, false = _rates(sums)
    before = np.concatenate([np.zeros_like(recall[..., :1]), recall[..., :-1]], -1)
    area: np.ndarray = (np.diff(false, axis=-1, prepend=0) * (recall + before) / 2).sum(-1)
    return area


SCORES = {"average_precision": average_precision, "roc_auc": roc_auc}


def points(sums: np.ndarray, every: int) -> list[dict[str, float]]:
    """Every so many-th threshold, from the highest: recall, precision and false-positive rate there. sums (LENGTH,)."""
    recall, precision, false = _rates(sums)
    return [
        {
            "threshold": float(EDGES[BINS - 2 - k]),
            "recall": float(recall[k]),
            "precision": float(precision[k]),
            "false_positive_rate": float(false[k]),
        }
        for k in range(0, BINS - 1, every)
    ]
