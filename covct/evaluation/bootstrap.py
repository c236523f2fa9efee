"""Confidence intervals by resampling patients: slices and volumes of one patient are never independent."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
FEWEST_PATIENTS = 10  # at four an interval that says 95 % holds the truth in 76 % of all samples
NORMAL = NormalDist()


def draw(patients: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each patient is in each resample, drawn with replacement. (resamples, patients) int."""
    chance = np.full(patients, 1 / patients)
    return np.random.default_rng(seed).multinomial(patients, chance, size=resamples)


def interval(
    sums: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], drawn: np.ndarray, level: float = LEVEL
) -> tuple[float, float] | None:
    """Interval of a statistic that depends on sums over patients.

    Corrected for bias and skewness (BCa, Efron 1987), and widened as Student's t is wider than the normal distribution
    (Hesterberg 2015): at ten patients it holds the truth in 93 % of all samples, where it would be 90 %.

    Parameters
    ----------
    sums : (patients, k) float
        What each patient adds.
    statistic : function (..., k) -> (...)
        Of the sum over the patients; nan where it is undefined: those resamples are left out.
    drawn : (resamples, patients) int
        From `draw`.

    Returns
    -------
    (low, high), or None
        None with fewer than `FEWEST_PATIENTS`, or where a twentieth of the resamples has no value: an interval that
        knows no patient but a handful is too narrow.
    """
    if len(sums) < FEWEST_PATIENTS:
        return None
    values = statistic(drawn @ sums)
    values = values[~np.isnan(values)]
    if len(values) < 0.95 * len(drawn):
        return None
    total = sums.sum(0)
    shares = _corrected(values, float(statistic(total)), statistic(total - sums), expanded(level, len(sums)))
    low, high = np.quantile(values, shares)
    return float(low), float(high)


def expanded(level: float, patients: int) -> float:
    """The level that resamples need for an interval to have `level`: they vary less than samples of patients do."""
    z, freedom = NORMAL.inv_cdf((1 + level) / 2), patients - 1
    t = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)  # Cornish and Fisher 1938
    return 2 * NORMAL.cdf(t * (patients / freedom) ** 0.5) - 1


def _corrected(values: np.ndarray, value: float, without_each: np.ndarray, level: float) -> list[float]:
    """Which quantiles of the resamples are the ends.

    Where half of them does not lie below the value, the bias is taken back; where leaving out one patient moves the
    value more to one side, the skewness.
    """
    ends = [(1 - level) / 2, (1 + level) / 2]
    below = float(np.mean(values < value) + np.mean(values == value) / 2)
    if not 0 < below < 1 or np.isnan(without_each).any():
        return ends
    bias, moved = NORMAL.inv_cdf(below), without_each.mean() - without_each
    spread = float((moved**2).sum()) ** 1.5
    skewness = float((moved**3).sum()) / (6 * spread) if spread else 0.0
    shifted = [bias + NORMAL.inv_cdf(end) for end in ends]
    return [NORMAL.cdf(bias + shift / (1 - skewness * shift)) for shift in shifted]
