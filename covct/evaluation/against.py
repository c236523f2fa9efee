"""Networks or masks against others: the same patients judged twice, and their differences, paired by patient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from covct.data.cases import TASKS, Case
from covct.evaluation import agreement, detection, lesions
from covct.evaluation.judge import Judged
from covct.evaluation.order import EVERYONE, HELD_OUT, EvaluationOrder
from covct.evaluation.pooling import by_patient, by_source, figure_over, plain
from covct.evaluation.scores import ratio, scores

Sums = Callable[[Sequence[Judged]], np.ndarray]
Statistic = Callable[[np.ndarray], np.ndarray]
POOLED = ("dice", "iou", "precision", "recall")


@dataclass(frozen=True)
class Pair:
    """One task of one case, judged as it is and by what it is compared with."""

    one: Judged
    other: Judged

    @property
    def case(self) -> Case:
        return self.one.case


def order_against(order: EvaluationOrder) -> EvaluationOrder:
    """What is compared with: the same data and patients by the networks of another folder, or by the masks in it."""
    assert order.against
    alike = replace(order, against=None, calibrate=None, robustness=False, threshold=None)
    if holds_cards(order.against):
        patients = order.patients if order.also_seen else HELD_OUT
        return replace(alike, weights=order.against, predictions=None, patients=patients)
    return replace(alike, weights=None, predictions=order.against, patients=EVERYONE, also_seen=False)


def holds_cards(folder: Path) -> bool:
    """Whether a folder is one of weights, or of the folds of a cross-validation."""
    return any((place / f"{task}.json").is_file() for place in (folder, *folder.glob("fold-*")) for task in TASKS)


def pairs_of(judged: Sequence[Judged], others: Sequence[Judged]) -> list[Pair]:
    """What both have judged."""
    there = {(one.case.key, one.task): one for one in others}
    return [Pair(one, there[one.case.key, one.task]) for one in judged if (one.case.key, one.task) in there]


def compare(pairs: Sequence[Pair], resamples: int, seed: int) -> list[dict[str, Any]]:
    """By task and source, and over all sources: each figure of both, and their difference with its interval."""
    groups = []
    for task in dict.fromkeys(pair.one.task for pair in pairs):
        for source, mine in by_source([pair for pair in pairs if pair.one.task == task], lambda pair: pair.case):
            groups.append({"task": task, "source": source, **_compared(mine, resamples, seed)})
    return groups


def rows_of(pairs: Sequence[Pair], label: Callable[[Case], str]) -> list[dict[str, Any]]:
    """Each case by itself."""
    return [
        {
            "case": label(pair.case),
            "source": pair.case.known_as,
            "task": pair.one.task,
            "dice": plain(scores(pair.one.counts)["dice"]),
            "against": plain(scores(pair.other.counts)["dice"]),
        }
        for pair in pairs
    ]


def _compared(pairs: list[Pair], resamples: int, seed: int) -> dict[str, Any]:
    of_patient = by_patient(pairs, lambda pair: pair.case)
    figure = figure_over(of_patient, resamples, seed)

    def both(sums: Sums, statistic: Statistic) -> dict[str, Any]:
        def beside(cases: list[Pair]) -> np.ndarray:
            return np.stack([sums([pair.one for pair in cases]), sums([pair.other for pair in cases])]).ravel()

        def difference(whole: np.ndarray) -> np.ndarray:
            half = whole.shape[-1] // 2
            return statistic(whole[..., :half]) - statistic(whole[..., half:])

        total = np.sum([beside(cases) for cases in of_patient], axis=0)
        value, against = (plain(statistic(half)) for half in np.split(total, 2))
        return {"value": value, "against": against, "difference": figure(beside, difference)}

    return {
        "patients": len(of_patient),
        "cases": len(pairs),
        "other_pixels": sum(pair.one.truth_sha256 != pair.other.truth_sha256 for pair in pairs),
        "figures": {name: both(*how) for name, how in _figures(pairs).items()},
    }


def _figures(pairs: list[Pair]) -> dict[str, tuple[Sums, Statistic]]:
    """What both sides have figures of."""
    found: dict[str, tuple[Sums, Statistic]] = {name: (_counts, partial(_pooled, name)) for name in POOLED}
    found["mean_dice"] = (_dice_and_one, _mean)
    if _all(pairs, "burden"):
        found["infected_share_error"] = (_errors, agreement.mean_size)
    if _all(pairs, "detection") and all(_pixels(pair.one) == _pixels(pair.other) for pair in pairs):
        found |= {name: (partial(_sum, "detection"), score) for name, score in detection.SCORES.items()}
    if _all(pairs, "lesions"):
        shares = {"lesion_sensitivity": lesions.sensitivity, "lesion_precision": lesions.precision}
        found |= {name: (partial(_sum, "lesions"), share) for name, share in shares.items()}
    return found


def _pixels(one: Judged) -> float:
    """Of its curves: those in the lungs that this side found. Over larger lungs the same calls have better curves."""
    return 0.0 if one.detection is None else float(one.detection[: detection.BINS].sum())


def _all(pairs: list[Pair], name: str) -> bool:
    return all(getattr(one, name) is not None for pair in pairs for one in (pair.one, pair.other))


def _counts(judged: Sequence[Judged]) -> np.ndarray:
    total: np.ndarray = np.array([list(one.counts) for one in judged], float).sum(0)
    return total


def _pooled(name: str, sums: np.ndarray) -> np.ndarray:
    return scores(sums)[name]


def _dice_and_one(judged: Sequence[Judged]) -> np.ndarray:
    dice = np.array([float(scores(one.counts)["dice"]) for one in judged])
    return np.array([np.nansum(dice), np.count_nonzero(~np.isnan(dice))], float)


def _mean(sums: np.ndarray) -> np.ndarray:
    return ratio(sums[..., 0], sums[..., 1])


def _errors(judged: Sequence[Judged]) -> np.ndarray:
    return agreement.patient_sums([one.burden.percent for one in judged if one.burden])


def _sum(name: str, judged: Sequence[Judged]) -> np.ndarray:
    total: np.ndarray = np.sum([getattr(one, name) for one in judged], axis=0)
    return total
