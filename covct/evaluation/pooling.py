"""Judged cases to figures: each case, each source pooled, all with intervals over patients. Plain dictionaries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np

from covct.data.cases import Case
from covct.evaluation import agreement, bootstrap, calibration, outline
from covct.evaluation.judge import Burden, Judged
from covct.evaluation.scores import SCORES, ratio, scores

DIGITS = 6
ALL = "all"
MEANS = (*SCORES, "hd95_mm", "surface_dice")
# Which of hit, invented, missed and rest a score is of.
TELLING = {
    "dice": (1, 1, 1, 0),  # and IoU and F1
    "precision": (1, 1, 0, 0),
    "recall": (1, 0, 1, 0),
    "specificity": (0, 1, 0, 1),
    "accuracy": (1, 1, 1, 1),
}

Of = TypeVar("Of")  # what a case comes to
# A pooled figure and its interval, of what is summed over a patient's cases and what is computed of the sums.
FigureOf = Callable[[Callable[[list[Of]], np.ndarray], Callable[[np.ndarray], Any]], dict[str, Any]]
Figure = FigureOf[Judged]


def case_figures(one: Judged) -> dict[str, Any]:
    """What is written of one task of one case. Undefined figures are None."""
    volume, inside = one.volume_ml, one.marked_inside
    return {
        "counts": {"hit": one.counts.hit, "invented": one.counts.invented, "missed": one.counts.missed,
                   "rest": one.counts.rest},
        **{name: plain(value) for name, value in _values(one).items()},
        "hd95_infinite": bool(one.surface and np.isinf(one.surface[0])),
        "slice_dice": _quartiles(scores(one.slice_counts)["dice"]),
        "volume_ml": _pair(volume) if volume else None,
        "volume_error_percent": plain(_relative_error(one)),
        "percent_of_lung": _pair(one.burden.percent) if one.burden else None,
        "severity": _pair(one.burden.severity) if one.burden else None,
        "outline": {name: plain(score(one.outline)) for name, score in outline.SCORES.items()},
        "marked_inside_lungs": plain(ratio(*inside)) if inside else None,
        "interval": _promised(one),
        "truth_sha256": one.truth_sha256,
        "called_sha256": one.called_sha256,
    }  # fmt: skip


def _promised(one: Judged) -> dict[str, Any] | None:
    """The interval for the infected share, and whether it holds the true one."""
    if not (one.promise and one.burden):
        return None
    low, high, level = one.promise.low, one.promise.high, one.promise.level
    holds = one.promise.holds(one.burden.percent[0])
    return {"low": plain(low), "high": plain(high), "level": plain(level), "holds_truth": holds}


def _pair(both: tuple[float, float]) -> dict[str, Any]:
    return {"truth": plain(both[0]), "called": plain(both[1])}


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
    of_patient = by_patient(judged, lambda one: one.case)
    figure = figure_over(of_patient, resamples, seed)
    return {
        "source": source,
        "task": task,
        "patients": len(of_patient),
        "cases": len(judged),
        "slices": sum(len(one.slice_counts) for one in judged),
        "cases_both_empty": sum(not (one.counts.hit + one.counts.invented + one.counts.missed) for one in judged),
        "pooled": {name: figure(partial(_counts, name), partial(_pooled, name)) for name in SCORES},
        "mean": {name: _mean(judged, name, figure) for name in MEANS},
        "volume_ml": _agreement(judged, lambda one: one.volume_ml, figure),
        "volume_error_percent": _agreement(
            judged, lambda one: None if np.isnan(_relative_error(one)) else (0.0, _relative_error(one)), figure
        ),
        "percent_of_lung": _agreement(judged, lambda one: one.burden.percent if one.burden else None, figure),
        "burden": _burden(of_patient, figure),
        "intervals": _intervals(judged, figure),
        "outline": {name: figure(_outlines, score) for name, score in outline.SCORES.items()},
        "marked_inside_lungs": _marked_inside(judged, figure),
        **_calibration(task, of_patient, figure),
    }


def by_patient(found: Iterable[Of], case_of: Callable[[Of], Case]) -> list[list[Of]]:
    """What cases come to, patient by patient, in the order of source and patient."""
    by_person: dict[tuple[str, str], list[Of]] = {}
    for one in sorted(found, key=lambda one: (case_of(one).known_as, case_of(one).patient)):
        by_person.setdefault(case_of(one).identity, []).append(one)
    return list(by_person.values())


def by_source(found: Sequence[Of], case_of: Callable[[Of], Case]) -> Iterator[tuple[str, list[Of]]]:
    """What cases come to, source by source, and of all sources where there are several."""
    sources = list(dict.fromkeys(case_of(one).known_as for one in found))
    for source in [*sources, *([ALL] if len(sources) > 1 else [])]:
        yield source, [one for one in found if source in (ALL, case_of(one).known_as)]


def figure_over(of_patient: list[list[Of]], resamples: int, seed: int) -> FigureOf[Of]:
    """The function that makes figures over these patients: a value, and its interval by bootstrap over them."""

    def figure(sums: Callable[[list[Of]], np.ndarray], statistic: Callable[[np.ndarray], Any]) -> dict[str, Any]:
        stacked = np.stack([sums(cases) for cases in of_patient])
        stacked = stacked[stacked.any(1)]  # the others have nothing that this figure is of
        drawn = bootstrap.draw(max(1, len(stacked)), resamples, seed)
        interval = bootstrap.interval(stacked, statistic, drawn)
        return {
            "value": plain(statistic(stacked.sum(0))),
            "interval": None if interval is None else [plain(end) for end in interval],
        }

    return figure


def _outlines(cases: list[Judged]) -> np.ndarray:
    return sum((one.outline for one in cases), np.zeros(outline.LENGTH))


def _marked_inside(judged: list[Judged], figure: Figure) -> dict[str, Any] | None:
    """The share of marked infection that lies inside the lungs found."""
    if not any(one.marked_inside for one in judged):
        return None

    def sums(cases: list[Judged]) -> np.ndarray:
        there = [one.marked_inside for one in cases if one.marked_inside]
        total: np.ndarray = np.array(there, float).reshape(-1, 2).sum(0)
        return total

    return figure(sums, lambda s: ratio(s[..., 0], s[..., 1]))


def _burden(of_patient: list[list[Judged]], figure: Figure) -> dict[str, Any] | None:
    """Error of the infected share by patient, all volumes of a patient together, and how classes change with it."""

    def whole(cases: list[Judged]) -> Burden | None:
        there = [one.burden for one in cases if one.burden]
        return sum(there[1:], there[0]) if there else None

    patients = [one for cases in of_patient if (one := whole(cases))]
    if not patients:
        return None

    def sums(cases: list[Judged]) -> np.ndarray:
        one = whole(cases)
        return agreement.patient_sums([one.percent] if one else [])

    changes = Counter(one.severity for one in patients)
    return {
        "patients": len(patients),
        "bias": figure(sums, agreement.bias),
        "mean_absolute_error": figure(sums, agreement.mean_size),
        "worst": plain(max((abs(called - true) for true, called in (one.percent for one in patients)))),
        "classes": [{**_pair(pair), "patients": count} for pair, count in sorted(changes.items())],
    }


def _intervals(judged: list[Judged], figure: Figure) -> dict[str, Any] | None:
    """How often intervals hold the true share, and what share of patients they promise to hold."""
    there = [promised for one in judged if (promised := _promised(one))]
    if not there:
        return None

    def sums(cases: list[Judged]) -> np.ndarray:
        held = [promised["holds_truth"] for one in cases if (promised := _promised(one))]
        return np.array([sum(held), len(held)], float)

    return {
        "cases": len(there),
        "held": sum(one["holds_truth"] for one in there),
        "share": figure(sums, lambda s: ratio(s[..., 0], s[..., 1])),
        "level": min(one["level"] for one in there),
        "mean_width": plain(np.mean([one["high"] - one["low"] for one in there])),
    }


def _counts(name: str, cases: list[Judged]) -> np.ndarray:
    """Of a patient, but only counts that the score is of: who has none of these tells nothing of it."""
    total: np.ndarray = np.array([list(one.counts) for one in cases], float).sum(0)
    return total * TELLING.get(name, TELLING["dice"])


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
    """Bland-Altman over the patients with a case that has such a pair; None where none has."""
    there = [both for one in judged if (both := pair(one))]
    if not there:
        return None

    def sums(cases: list[Judged]) -> np.ndarray:
        return agreement.patient_sums([both for one in cases if (both := pair(one))])

    return {
        "cases": len(there),
        "patients": len({one.case.identity for one in judged if pair(one)}),
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
