"""Judged cases to figures: each case, each source pooled, all with intervals over patients. Plain dictionaries."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from covct.evaluation import agreement, bootstrap, calibration
from covct.evaluation.judge import Judged
from covct.evaluation.scores import SCORES, ratio, scores

DIGITS = 6
ALL = "all"
MEANS = (*SCORES, "hd95_mm", "surface_dice")

# A pooled figure and its interval, of what is summed over cases and what is computed of the sums.
Figure = Callable[[Callable[[list[Judged]], np.ndarray], Callable[[np.ndarray], Any]], dict[str, Any]]


def case_figures(one: Judged) -> dict[str, Any]:
    """What is written of one task of one case. Undefined figures are None."""
    volume, percent = one.volume_ml, one.percent_of_lung
    return {
        "counts": {"hit": one.counts.hit, "invented": one.counts.invented, "missed": one.counts.missed,
                   "rest": one.counts.rest},
        **{name: plain(value) for name, value in _values(one).items()},
        "hd95_infinite": bool(one.surface and np.isinf(one.surface[0])),
        "slice_dice": _quartiles(scores(one.slice_counts)["dice"]),
        "volume_ml": {"truth": plain(volume[0]), "called": plain(volume[1])} if volume else None,
        "volume_error_percent": plain(_relative_error(one)),
        "percent_of_lung": {"truth": plain(percent[0]), "called": plain(percent[1])} if percent else None,
        "truth_sha256": one.truth_sha256,
        "called_sha256": one.called_sha256,
    }  # fmt: skip


def _values(one: Judged) -> dict[str, float]:
    hd95, surface_dice = one.surface or (np.nan, np.nan)
    return {**{name: float(v) for name, v in scores(one.counts).items()}, "hd95_mm": hd95, "surface_dice": surface_dice}


def _relative_error(one: Judged) -> float:
    """Called - true size in percent of the true one; needs no spacing, as both are counted in the same voxels."""
    return float(100 * ratio(one.counts.invented - one.counts.missed, one.counts.hit + one.counts.missed))


def _quartiles(dice: np.ndarray) -> dict[str, Any] | None:
    """Of the Dice of a case's slices: what a box plot shows."""
    dice = dice[~np.isnan(dice)]
    if not dice.size:
        return None
    names = ("least", "p5", "q1", "median", "q3", "p95", "most")
    values = np.quantile(dice, (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1))
    return {"slices": int(dice.size), **{name: plain(v) for name, v in zip(names, values, strict=True)}}


def group_figures(
    source: str, task: str, judged: list[Judged], resamples: int = bootstrap.RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Pooled figures of one task over cases, with intervals by bootstrap over their patients."""
    by_person: dict[tuple[str, str], list[Judged]] = {}
    for one in sorted(judged, key=lambda one: (one.case.known_as, one.case.patient)):
        by_person.setdefault(one.case.identity, []).append(one)
    of_patient = list(by_person.values())

    def figure(
        sums: Callable[[list[Judged]], np.ndarray], statistic: Callable[[np.ndarray], np.ndarray]
    ) -> dict[str, Any]:
        stacked = np.stack([sums(cases) for cases in of_patient])
        stacked = stacked[stacked.any(1)]  # the others have nothing that this figure is of
        drawn = bootstrap.draw(max(1, len(stacked)), resamples, seed)
        interval = bootstrap.interval(stacked, statistic, drawn)
        return {
            "value": plain(statistic(stacked.sum(0))),
            "interval": None if interval is None else [plain(end) for end in interval],
        }

    return {
        "source": source,
        "task": task,
        "patients": len(of_patient),
        "cases": len(judged),
        "slices": sum(len(one.slice_counts) for one in judged),
        "cases_both_empty": sum(not (one.counts.hit + one.counts.invented + one.counts.missed) for one in judged),
        "pooled": {name: figure(_counts, partial(_pooled, name)) for name in SCORES},
        "mean": {name: _mean(judged, name, figure) for name in MEANS},
        "volume_ml": _agreement(judged, lambda one: one.volume_ml, figure),
        "volume_error_percent": _agreement(
            judged, lambda one: None if np.isnan(_relative_error(one)) else (0.0, _relative_error(one)), figure
        ),
        "percent_of_lung": _agreement(judged, lambda one: one.percent_of_lung, figure),
        **_calibration(task, of_patient, figure),
    }


def _counts(cases: list[Judged]) -> np.ndarray:
    total: np.ndarray = np.array([list(one.counts) for one in cases], float).sum(0)
    return total


def by_fold(judged: list[Judged], fold_of: dict[str, str]) -> dict[str, Any] | None:
    """Pooled Dice of each fold of a cross-validation, their mean and standard deviation; None where there is none.

    fold_of : dict of str to str
        The fold that judged a case, by the case's key.
    """
    folds = sorted({fold_of[one.case.key] for one in judged if one.case.key in fold_of})
    if not folds:
        return None
    of_fold = [[list(one.counts) for one in judged if fold_of.get(one.case.key) == fold] for fold in folds]
    dice = [float(scores(np.sum(counts, axis=0))["dice"]) for counts in of_fold]
    return {
        "dice": {fold: plain(value) for fold, value in zip(folds, dice, strict=True)},
        "mean": plain(np.mean(dice)),
        "standard_deviation": plain(np.std(dice, ddof=1)) if len(dice) > 1 else None,
    }


def _pooled(name: str, sums: np.ndarray) -> np.ndarray:
    return scores(sums)[name]


def _mean(judged: list[Judged], name: str, figure: Figure) -> dict[str, Any]:
    """Mean over cases in which the figure is defined and finite, how many these are, and in how many it is infinite.

    HD95 is where one side marks nothing: a mean without these flatters whoever misses whole cases, so they are counted.
    """
    values = np.array([_values(one)[name] for one in judged])

    def defined(cases: list[Judged]) -> np.ndarray:
        values = np.array([_values(one)[name] for one in cases])
        values_there: np.ndarray = values[np.isfinite(values)]
        return values_there

    whole = figure(
        lambda cases: np.array([defined(cases).sum(), len(defined(cases))]), lambda s: ratio(s[..., 0], s[..., 1])
    )
    return {**whole, "cases": int(np.isfinite(values).sum()), "infinite": int(np.isinf(values).sum())}


def _agreement(
    judged: list[Judged], pair: Callable[[Judged], tuple[float, float] | None], figure: Figure
) -> dict[str, Any] | None:
    """Bland-Altman over the cases that have such a pair; None where none has."""
    there = [both for one in judged if (both := pair(one))]
    if not there:
        return None

    def sums(cases: list[Judged]) -> np.ndarray:
        pairs = [both for one in cases if (both := pair(one))]
        return agreement.difference_sums(*np.array(pairs, float).reshape(-1, 2).T)

    return {
        "cases": len(there),
        "bias": figure(sums, agreement.bias),
        "mean_absolute_error": figure(sums, agreement.mean_size),
        "standard_deviation": figure(sums, agreement.deviation)["value"],
        "lower_limit": figure(sums, agreement.lower_limit),
        "upper_limit": figure(sums, agreement.upper_limit),
    }


def _calibration(task: str, of_patient: list[list[Judged]], figure: Figure) -> dict[str, Any]:
    if any(one.histogram is None for cases in of_patient for one in cases):
        return {"calibration": None, "thresholds": None}

    def sums(cases: list[Judged]) -> np.ndarray:
        return sum((one.histogram for one in cases if one.histogram is not None), np.zeros(calibration.LENGTH))

    stacked = np.stack([sums(cases) for cases in of_patient])
    by_others = calibration.threshold_by_others(stacked, calibration.FLAT_DICE.get(task, 0.0))
    return {
        "calibration": {
            "expected_calibration_error": figure(sums, calibration.expected_calibration_error),
            "brier_score": figure(sums, calibration.brier_score),
            "bins": [
                {name: plain(value) for name, value in one.items()} for one in calibration.reliability(stacked.sum(0))
            ],
        },
        "thresholds": {
            "curve": [
                {"threshold": k / calibration.BINS, "dice": plain(calibration.dice_at(stacked.sum(0), k))}
                for k in range(1, calibration.BINS)
            ],
            "by_other_patients": by_others
            and {"dice": plain(by_others[0]), "least": min(by_others[1]), "most": max(by_others[1])},
        },
    }


def plain(value: Any) -> Any:
    """A number as JSON has it: None for what is undefined or infinite, and no more digits than mean something."""
    if value is None or isinstance(value, int | str):
        return value
    number = float(value)
    return round(number, DIGITS) if np.isfinite(number) else None
