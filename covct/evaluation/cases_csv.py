"""`cases.csv`: a row for each case and task, flat, for whoever computes on."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Any

from covct import RESEARCH_USE
from covct.visible import cell

OWN = ("dice", "iou", "precision", "recall", "specificity", "accuracy", "hd95_mm", "surface_dice")
PAIRS = ("volume_ml", "percent_of_lung", "severity")
LESIONS = ("marked", "found", "called", "right", "matched")


def as_csv(evaluation: dict[str, Any]) -> str:
    """The rows of an evaluation, in the order of evaluation.json; what is undefined is an empty cell."""
    rows = list(_rows(evaluation))
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(rows[0] if rows else _row({}, "", {}, None))
    lines.writerows([cell(value) for value in row.values()] for row in rows)
    return out.getvalue()


def _rows(evaluation: dict[str, Any]) -> Iterator[dict[str, Any]]:
    against = _by_case(evaluation["against"]["cases"]) if evaluation["against"] else {}
    for case in evaluation["cases"]:
        for task, figures in case["tasks"].items():
            yield _row(case, task, figures, against.get((case["case"], case["source"], task)))


def _by_case(rows: Iterable[dict[str, Any]]) -> dict[tuple[str, str, str], float | None]:
    return {(row["case"], row["source"], row["task"]): row["against"] for row in rows}


def _row(case: dict[str, Any], task: str, figures: dict[str, Any], against: float | None) -> dict[str, Any]:
    lesions, curves = figures.get("lesions") or {}, figures.get("curves") or {}
    pairs = {name: figures.get(name) or {} for name in PAIRS}
    return {
        **{name: case.get(name) for name in ("case", "patient", "source", "fold")},
        "seen_by": ";".join(case.get("seen_by", ())),
        "task": task,
        "slices": case.get("slices"),
        **{name: figures.get(name) for name in OWN},
        "dice_against": against,
        "average_precision": curves.get("average_precision"),
        "roc_auc": curves.get("roc_auc"),
        **{f"{name}_{side}": both.get(side) for name, both in pairs.items() for side in ("truth", "called")},
        "volume_error_percent": figures.get("volume_error_percent"),
        **{f"lesions_{name}": lesions.get(name) for name in LESIONS},
        "research_use": RESEARCH_USE,
    }
