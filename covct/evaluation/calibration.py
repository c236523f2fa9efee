"""Does a probability of 0.7 mean that 7 of 10 such pixels are what the network says? And which threshold is best?

Everything is computed from a histogram of the probabilities, so that cases, patients and resamples add up.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from covct.evaluation.scores import ratio

BINS = 20  # of 0.05: also the steps of the threshold
FLAT_DICE = {"infection": 0.01}  # by task, of others 0: Dice is flat around its best, and a higher threshold calls
# least in people without the disease
# A case's histogram, flat: pixels, positives and sum of probabilities of each bin; sum of squared errors; positives
# outside of the region, which no threshold can find.
LENGTH = 3 * BINS + 2


def histogram(probability: np.ndarray, truth: np.ndarray, region: np.ndarray) -> np.ndarray:
    """The histogram of one case, (LENGTH,) float.

    Parameters
    ----------
    probability : float16 or float32
        Edges of the bins are of its type, so that a threshold calls what its bin holds.
    truth, region : bool of the same shape
        Only pixels of the region are counted.
    """
    p, y = probability[region], truth[region].astype(np.float64)
    edges = (np.arange(1, BINS) / BINS).astype(p.dtype)
    place = np.searchsorted(edges, p, side="right")
    wide = p.astype(np.float64)
    parts = [np.bincount(place, weights, BINS) for weights in (np.ones(len(p)), y, wide)]
    missed = np.count_nonzero(truth & ~region)
    return np.concatenate([*parts, [((wide - y) ** 2).sum(), missed]])


def _parts(sums: np.ndarray) -> Iterator[np.ndarray]:
    return (sums[..., k * BINS : (k + 1) * BINS] for k in range(3))


def expected_calibration_error(sums: np.ndarray) -> np.ndarray:
    """Mean distance of probability and frequency over ten bins, weighted by pixels (Naeini 2015). (..., LENGTH)."""
    number, positives, total = (part.reshape(*part.shape[:-1], -1, 2).sum(-1) for part in _parts(sums))
    return ratio(np.abs(positives - total).sum(-1), number.sum(-1))


def brier_score(sums: np.ndarray) -> np.ndarray:
    """Mean squared error of the probability (Brier 1950). (..., LENGTH) -> (...)."""
    return ratio(sums[..., 3 * BINS], sums[..., :BINS].sum(-1))


def reliability(sums: np.ndarray) -> list[dict[str, float | int | None]]:
    """Ten bins: their edges, pixels, mean probability and frequency of the truth. sums (LENGTH,)."""
    number, positives, total = (part.reshape(-1, 2).sum(-1) for part in _parts(sums))
    return [
        {
            "from": k / 10,
            "to": (k + 1) / 10,
            "pixels": int(number[k]),
            "probability": float(total[k] / number[k]) if number[k] else None,
            "frequency": float(positives[k] / number[k]) if number[k] else None,
        }
        for k in range(10)
    ]


def counts_at(sums: np.ndarray, twentieth: int) -> np.ndarray:
    """Hits, inventions and misses were the threshold `twentieth` / 20. (..., LENGTH) -> (..., 3)."""
    number, positives, _ = _parts(sums)
    calls, hit = number[..., twentieth:].sum(-1), positives[..., twentieth:].sum(-1)
    there = positives.sum(-1) + sums[..., -1]
    return np.stack([hit, calls - hit, there - hit], -1)


def dice_at(sums: np.ndarray, twentieth: int) -> np.ndarray:
    """Dice were the threshold `twentieth` / 20. (..., LENGTH) -> (...)."""
    hit, invented, missed = np.moveaxis(counts_at(sums, twentieth), -1, 0)
    return ratio(2 * hit, 2 * hit + invented + missed)


def chosen_twentieth(sums: np.ndarray, flat: float = 0.0) -> int:
    """The threshold that training would choose on these patients: the highest within `flat` of the best Dice."""
    dice = [float(np.nan_to_num(dice_at(sums, k))) for k in range(1, BINS)]
    return max(k for k, one in enumerate(dice, 1) if one >= max(dice) - flat)


def threshold_by_others(patients: np.ndarray, flat: float = 0.0) -> tuple[float, list[float]] | None:
    """Pooled Dice when each patient's threshold is chosen on all the others, and the thresholds.

    A threshold chosen on the patients that are scored with it makes the score optimistic; this does not.

    Parameters
    ----------
    patients : (patients, LENGTH) float

    Returns
    -------
    (dice, thresholds), or None with fewer than two patients
    """
    if len(patients) < 2:
        return None
    whole = patients.sum(0)
    chosen = [chosen_twentieth(whole - one, flat) for one in patients]
    counts = [counts_at(one, k) for one, k in zip(patients, chosen, strict=True)]
    hit, invented, missed = np.sum(counts, axis=0)
    return float(ratio(2 * hit, 2 * hit + invented + missed)), [k / BINS for k in chosen]
