"""Calls of cases to figures: slices found and called, where false calls lie, people without disease. Dictionaries."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from covct.evaluation import agreement, bootstrap
from covct.evaluation.anatomy import REGIONS
from covct.evaluation.calls import BySlice, CaseCalls, Everywhere, FalseCalls
from covct.evaluation.pooling import FigureOf, by_patient, figure_over, plain
from covct.evaluation.robustness import Varied
from covct.evaluation.scores import ratio

Figure = FigureOf[CaseCalls]
Ratio = Callable[[np.ndarray], np.ndarray]


def case_calls(one: CaseCalls) -> dict[str, Any]:
    """What is written of the calls of a case."""
    slices, false, everywhere = one.by_slice, one.false, one.everywhere
    return {
        "by_slice": slices and _slices(slices),
        "false_calls": false and _false(false),
        "calls_without_truth": everywhere and _without(everywhere),
        "robustness": one.varied and _varied(one.varied),
    }


def _slices(one: BySlice) -> dict[str, Any]:
    return {"labelled": one.labelled, "found": one.found, "clear": one.clear, "called": one.called}


def _false(one: FalseCalls) -> dict[str, Any]:
    total = sum(one.voxels.values())
    return {
        "ml": None if one.voxel_ml is None else plain(total * one.voxel_ml),
        "percent_of_lung": plain(100 * total / one.lung_voxels),
        "regions": {
            name: {
                "ml": None if one.voxel_ml is None else plain(voxels * one.voxel_ml),
                "percent_of_lung": plain(100 * voxels / one.lung_voxels),
                "share": plain(ratio(voxels, total)),
            }
            for name, voxels in one.voxels.items()
        },
    }


def _without(one: Everywhere) -> dict[str, Any]:
    return {
        "percent_of_lung": plain(100 * ratio(one.called, one.lung)),
        "percent_of_aerated_lung": plain(100 * one.called_aerated / max(1, one.aerated)),
        "lungs": "marked" if one.lungs_marked else "found",
    }


def _varied(one: Varied) -> dict[str, Any]:
    return {
        "percent_of_lung": plain(one.percent),
        "points": {name: plain(points) for name, points in one.points.items()},
    }


def group_calls(
    source: str, calls: list[CaseCalls], resamples: int = bootstrap.RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Figures of the calls of cases, with intervals by bootstrap over their patients."""
    of_patient = by_patient(calls, lambda one: one.case)
    figure = figure_over(of_patient, resamples, seed)
    return {
        "source": source,
        "patients": len(of_patient),
        "cases": len(calls),
        "by_slice": _pooled_slices(calls, figure),
        "false_calls": _pooled_false(calls, figure),
        "calls_without_truth": _pooled_without(calls, figure),
        "robustness": _pooled_varied(calls, figure),
    }


def _share(above: int, below: int) -> Ratio:
    return lambda sums: ratio(sums[..., above], sums[..., below])


def _total(rows: list[list[int]]) -> np.ndarray:
    """Sums of four counts; 0 of no rows."""
    total: np.ndarray = np.array(rows, float).reshape(-1, 4).sum(0)
    return total


def _pooled_slices(calls: list[CaseCalls], figure: Figure) -> dict[str, Any] | None:
    if not any(one.by_slice for one in calls):
        return None

    def sums(cases: list[CaseCalls]) -> np.ndarray:
        return _total([[s.labelled, s.found, s.clear, s.called] for one in cases if (s := one.by_slice)])

    return {
        **_slices(BySlice(*(int(count) for count in sums(calls)))),
        "sensitivity": figure(sums, _share(1, 0)),
        "specificity": figure(sums, lambda s: ratio(s[..., 2] - s[..., 3], s[..., 2])),
    }


def _pooled_false(calls: list[CaseCalls], figure: Figure) -> dict[str, Any] | None:
    """Volumes are weighed in mL; where any spacing is unknown, voxels count alike."""
    there = [one.false for one in calls if one.false]
    if not there:
        return None
    in_ml = all(one.voxel_ml is not None for one in there)

    def sums(cases: list[CaseCalls]) -> np.ndarray:
        total = np.zeros(len(REGIONS) + 1)
        for one in (one.false for one in cases if one.false):
            size = (one.voxel_ml or 1.0) if in_ml else 1.0
            total += size * np.array([*one.voxels.values(), one.lung_voxels], float)
        return total

    def part(index: int, s: np.ndarray) -> np.ndarray:
        return ratio(s[..., index], s[..., :-1].sum(-1))

    whole = sums(calls)
    return {
        "cases": len(there),
        "ml": plain(whole[:-1].sum()) if in_ml else None,
        "percent_of_lung": figure(sums, lambda s: 100 * ratio(s[..., :-1].sum(-1), s[..., -1])),
        "regions": {
            name: {
                "ml": plain(whole[index]) if in_ml else None,
                "percent_of_lung": plain(100 * ratio(whole[index], whole[-1])),
                "share": figure(sums, partial(part, index)),
            }
            for index, name in enumerate(REGIONS)
        },
    }


def _pooled_without(calls: list[CaseCalls], figure: Figure) -> dict[str, Any] | None:
    there = [one.everywhere for one in calls if one.everywhere]
    if not there:
        return None

    def sums(cases: list[CaseCalls]) -> np.ndarray:
        return _total([[e.called, e.lung, e.called_aerated, e.aerated] for one in cases if (e := one.everywhere)])

    aerated = [100 * one.called_aerated / max(1, one.aerated) for one in there]
    return {
        "cases": len(there),
        "percent_of_lung": figure(sums, lambda s: 100 * ratio(s[..., 0], s[..., 1])),
        "percent_of_aerated_lung": figure(sums, lambda s: 100 * ratio(s[..., 2], s[..., 3])),
        "median_percent_of_aerated_lung": plain(np.median(aerated)),
        "worst_percent_of_aerated_lung": plain(max(aerated)),
    }


def _pooled_varied(calls: list[CaseCalls], figure: Figure) -> dict[str, Any] | None:
    """How far the infected share moves, in points, by variant."""
    names = dict.fromkeys(name for one in calls if one.varied for name in one.varied.points)

    def of_variant(name: str) -> dict[str, Any]:
        def points(cases: list[CaseCalls]) -> list[float]:
            return [one.varied.points[name] for one in cases if one.varied and name in one.varied.points]

        def sums(cases: list[CaseCalls]) -> np.ndarray:
            return agreement.difference_sums(np.zeros(len(points(cases))), np.array(points(cases)))

        there = points(calls)
        return {
            "cases": len(there),
            "mean_absolute": figure(sums, agreement.mean_size),
            "bias": figure(sums, agreement.bias),
            "worst": plain(max(map(abs, there))),
        }

    return {name: of_variant(name) for name in names} or None
