"""Confidence intervals by resampling patients: slices and volumes of one patient are never independent."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
FEWEST_PATIENTS = 2


def draw(patients: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each patient is in each resample, drawn with replacement. (resamples, patients) int."""
    chance = np.full(patients, 1 / patients)
    return np.random.default_rng(seed).multinomial(patients, chance, size=resamples)


def interval(
    sums: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], drawn: np.ndarray, level: float = LEVEL
) -> tuple[float, float] | None:
    """Percentile interval (Efron 1979) of a statistic that depends on sums over patients.

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
        None with fewer than two patients, or where a twentieth of the resamples has no value. With a handful of
        patients the interval is too narrow: it knows no patient but these.
    """
    if len(sums) < FEWEST_PATIENTS:
        return None
    values = statistic(drawn @ sums)
    values = values[~np.isnan(values)]
    if len(values) < 0.95 * len(drawn):
        return None
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
