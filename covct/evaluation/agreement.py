"""Agreement of a measured quantity with the true one (Bland & Altman 1986), as functions of sums over cases."""

from __future__ import annotations

import numpy as np

from covct.evaluation.scores import ratio

WITHIN = 1.96  # standard deviations that hold 95 % of normally distributed differences


def difference_sums(truth: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """What a patient's cases add: number, sum and sum of squares of measured - truth, sum of its size. (4,) float."""
    d = np.asarray(measured, float) - np.asarray(truth, float)
    return np.array([len(d), d.sum(), (d**2).sum(), np.abs(d).sum()])


def bias(sums: np.ndarray) -> np.ndarray:
    """Mean of measured - truth. (..., 4) -> (...)."""
    return ratio(sums[..., 1], sums[..., 0])


def mean_size(sums: np.ndarray) -> np.ndarray:
    """Mean absolute error. (..., 4) -> (...)."""
    return ratio(sums[..., 3], sums[..., 0])


def deviation(sums: np.ndarray) -> np.ndarray:
    """Standard deviation of the differences (n - 1), nan below two cases. (..., 4) -> (...)."""
    number, total, squares = (sums[..., index] for index in range(3))
    spread = np.maximum(squares - ratio(total**2, number), 0)
    deviation: np.ndarray = np.sqrt(ratio(spread, np.where(number > 1, number - 1, 0)))
    return deviation


def lower_limit(sums: np.ndarray) -> np.ndarray:
    """Lower 95 % limit of agreement. (..., 4) -> (...)."""
    return bias(sums) - WITHIN * deviation(sums)


def upper_limit(sums: np.ndarray) -> np.ndarray:
    """Upper 95 % limit of agreement. (..., 4) -> (...)."""
    return bias(sums) + WITHIN * deviation(sums)
