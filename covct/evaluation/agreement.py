"""Agreement of a measured quantity with the true one (Bland & Altman 1986), as functions of sums over patients.

A patient with several cases counts once, with the mean of them: cases of one patient resemble each other, and limits
that take them for several people are too narrow.
"""

from __future__ import annotations

import numpy as np

from covct.evaluation.scores import ratio

WITHIN = 1.96  # standard deviations that hold 95 % of normally distributed differences


def difference_sums(truth: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """What patients add, one value each: number, sum and sum of squares of measured - truth, sum of its size. (4,)."""
    d = np.asarray(measured, float) - np.asarray(truth, float)
    return np.array([len(d), d.sum(), (d**2).sum(), np.abs(d).sum()])


def patient_sums(pairs: list[tuple[float, float]]) -> np.ndarray:
    """What a patient adds with all of their cases, each (truth, measured). (4,) float, zeros without a case."""
    return difference_sums(*np.array(pairs, float).reshape(-1, 2).mean(0, keepdims=True).T) if pairs else np.zeros(4)


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
