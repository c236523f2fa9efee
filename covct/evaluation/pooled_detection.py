"""Detection, pixel by pixel and lesion by lesion: of each case and of each source pooled. Plain dictionaries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from covct.evaluation import detection, lesions
from covct.evaluation.judge import Judged
from covct.evaluation.pooling import Figure, by_patient, figure_over, plain
from covct.evaluation.scores import ratio
from covct.pipeline.postprocess import SPECK_MM3

EVERY, EVERY_OF_A_CASE = 4, 16  # thresholds of the 255 that a curve is given at


def case_detection(one: Judged) -> dict[str, Any]:
    """Lesions and curves of one task of one case."""
    return {"lesions": _case_lesions(one.lesions), "curves": _case_curves(one.detection)}


def group_detection(judged: list[Judged], resamples: int, seed: int) -> dict[str, Any]:
    """The same pooled over cases, with intervals by bootstrap over their patients."""
    of_patient = by_patient(judged, lambda one: one.case)
    figure = figure_over(of_patient, resamples, seed)
    return {"lesions": _lesions(judged, figure), "curves": _curves(judged, figure)}


def _summed(name: str, length: int) -> Callable[[list[Judged]], np.ndarray]:
    def sums(cases: list[Judged]) -> np.ndarray:
        there = [value for one in cases if (value := getattr(one, name)) is not None]
        return sum(there, np.zeros(length))

    return sums


def _case_curves(sums: np.ndarray | None) -> dict[str, Any] | None:
    if sums is None:
        return None
    return {**{name: plain(score(sums)) for name, score in detection.SCORES.items()}, **_points(sums, EVERY_OF_A_CASE)}


def _points(sums: np.ndarray, every: int) -> dict[str, Any]:
    shown = detection.points(sums, every)
    return {"points": [{name: plain(value) for name, value in point.items()} for point in shown]}


def _curves(judged: list[Judged], figure: Figure) -> dict[str, Any] | None:
    """Pooled over all pixels, and the mean of the patients, each of whom counts alike."""
    if not any(one.detection is not None for one in judged):
        return None
    sums = _summed("detection", detection.LENGTH)
    pooled = {name: figure(sums, score) for name, score in detection.SCORES.items()}
    means = {
        f"mean_{name}": figure(_one_each(sums, score), lambda s: ratio(s[..., 0], s[..., 1]))
        for name, score in detection.SCORES.items()
    }
    return {**pooled, **means, **_points(sums(judged), EVERY)}


def _one_each(
    sums: Callable[[list[Judged]], np.ndarray], score: Callable[[np.ndarray], np.ndarray]
) -> Callable[[list[Judged]], np.ndarray]:
    """A patient's own score and 1, or nothing where it is undefined."""

    def own(cases: list[Judged]) -> np.ndarray:
        value = float(score(sums(cases)))
        return np.zeros(2) if np.isnan(value) else np.array([value, 1.0])

    return own


def _case_lesions(sums: np.ndarray | None) -> dict[str, Any] | None:
    if sums is None:
        return None
    counts = dict(zip(lesions.NAMES, map(int, sums), strict=False))
    sizes = [dict(zip(lesions.BY_SIZE, map(int, row), strict=True)) for row in lesions.by_size(sums)]
    return {**counts, "by_size": [{**ends, **_wrong(row)} for ends, row in zip(_ends(), sizes, strict=True)]}


def _ends() -> list[dict[str, float | None]]:
    starts = (SPECK_MM3 / 1000, *lesions.SIZES_ML)
    return [{"from_ml": a, "to_ml": b} for a, b in zip(starts, (*lesions.SIZES_ML, None), strict=True)]


def _wrong(row: dict[str, int]) -> dict[str, int]:
    return {**row, "missed": row["marked"] - row["found"], "false": row["called"] - row["right"]}


def _lesions(judged: list[Judged], figure: Figure) -> dict[str, Any] | None:
    """Lesions marked, called, found, right and matched in all cases, and their shares, all together and by size."""
    there = [one.lesions for one in judged if one.lesions is not None]
    if not there:
        return None
    sums = _summed("lesions", lesions.LENGTH)
    found = _case_lesions(np.sum(there, axis=0)) or {}
    for number, row in enumerate(found["by_size"]):
        row["sensitivity"] = figure(sums, lambda s, n=number: _share(s, n, 0, 1))  # type: ignore[misc]
        row["precision"] = figure(sums, lambda s, n=number: _share(s, n, 2, 3))  # type: ignore[misc]
    return {**found, **{name: figure(sums, score) for name, score in lesions.SCORES.items()}}


def _share(sums: np.ndarray, size: int, whole: int, part: int) -> np.ndarray:
    counts = lesions.by_size(sums)[..., size, :]
    return ratio(counts[..., part], counts[..., whole])
