"""What the page shows of detection, and of a comparison."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from covct.evaluation.cells import Cell, Group, figure, with_interval
from covct.evaluation.figures import Dot, Line, Plot, Rule, share_axis

MOST_LINES = 60  # thin ones of a plot
LESIONS = {
    "sensitivity": "share of marked ones found", "precision": "share of called ones that touch a marked one",
    "recognition_quality": "F1 at an IoU above 0.5",
}  # fmt: skip
CURVES = {
    "average_precision": ("average precision", "pixels in the lungs found"),
    "mean_average_precision": ("average precision", "mean of patients"),
    "roc_auc": ("area under the ROC", "pixels in the lungs found"),
    "mean_roc_auc": ("area under the ROC", "mean of patients"),
}
COMPARED = {
    "dice": "Dice, pooled", "mean_dice": "Dice, mean of cases", "iou": "IoU, pooled", "precision": "precision, pooled",
    "recall": "recall, pooled", "infected_share_error": "infected share, mean size of the error, points",
    "average_precision": "average precision", "roc_auc": "area under the ROC",
    "lesion_sensitivity": "marked lesions found", "lesion_precision": "called lesions that touch a marked one",
}  # fmt: skip


@dataclass(frozen=True)
class AgainstSection:
    """A comparison: (task, source, patients, rows of (figure, this, that, difference)) a group, and the cases."""

    groups: list[tuple[str, str, int, list[tuple[str, str, str, Cell]]]]
    plots: list[Plot]


def detection_scores(groups: Sequence[Group]) -> Iterator[tuple[str, str, list[Cell]]]:
    """Rows of the table of scores, a cell a group."""
    lesions = [g["lesions"] for g in groups]
    if any(lesions):
        for name, of in LESIONS.items():
            yield "lesions", of, [with_interval(one and one[name]) for one in lesions]
        for number, row in enumerate(next(one for one in lesions if one)["by_size"]):
            yield f"lesions of {_size(row)}", "found of marked", [_of_size(one, number) for one in lesions]
    curves = [g["curves"] for g in groups]
    if any(curves):
        for name, (words, of) in CURVES.items():
            yield words, of, [with_interval(one and one[name]) for one in curves]


def _size(row: Mapping[str, Any]) -> str:
    if row["to_ml"] is None:
        return f"{row['from_ml']:g} mL and more"
    return f"{row['from_ml']:g} to {row['to_ml']:g} mL"


def _of_size(lesions: Mapping[str, Any] | None, number: int) -> Cell:
    if not lesions:
        return "–", ""
    row = lesions["by_size"][number]
    sensitivity, note = with_interval(row["sensitivity"])
    counts = f"{row['found']} hit, {row['missed']} missed, {row['false']} of {row['called']} called are false"
    return sensitivity, f"{note} {counts}".strip()


def detection_plots(cases: Sequence[dict[str, Any]], groups: Sequence[Group], classes: Mapping[str, str]) -> list[Plot]:
    """Precision by recall and the ROC: a line a source, and a thin one a case, of some where they are many.

    Parameters
    ----------
    cases : sequence of (case of the evaluation, with its "source" and its figures of the task as "figures")
    """
    drawn = [(classes[g["source"]], g) for g in groups if g["source"] in classes and g["curves"]]
    if not drawn:
        return []
    there = [case for case in cases if case["figures"]["curves"]]
    thin = [
        (f"{classes[case['source']]} one", case["figures"]["curves"]["points"])
        for case in there[:: max(1, -(-len(there) // MOST_LINES))]
    ]
    bold = [(cls, g["curves"]["points"]) for cls, g in drawn]
    called = [
        Dot(cls, g["pooled"]["recall"]["value"], g["pooled"]["precision"]["value"], f"{g['source']}: as called")
        for cls, g in drawn
        if None not in (g["pooled"]["recall"]["value"], g["pooled"]["precision"]["value"])
    ]
    axes = share_axis("recall"), share_axis("precision")
    rates = share_axis("false-positive rate"), share_axis("recall")
    return [
        Plot(
            "precision-recall",
            "Precision by recall in the lungs found",
            *axes,
            lines=_lines(thin + bold, "recall", "precision"),
            dots=called,
        ),
        Plot(
            "roc",
            "ROC in the lungs found",
            *rates,
            rules=[Rule("limit", 0, 0, 1, 1)],
            lines=_lines(thin + bold, "false_positive_rate", "recall"),
        ),
    ]


def _lines(curves: Sequence[tuple[str, Sequence[Mapping[str, Any]]]], x: str, y: str) -> list[Line]:
    return [
        Line(cls, [(point[x], point[y]) for point in points if None not in (point[x], point[y])])
        for cls, points in curves
    ]


def against_section(against: dict[str, Any] | None) -> AgainstSection | None:
    """None where nothing was compared with."""
    if not against:
        return None
    groups = [(g["task"], g["source"], g["patients"], list(_compared(g["figures"]))) for g in against["groups"]]
    return AgainstSection(groups, [_scatter(against["cases"], task) for task in dict.fromkeys(g[0] for g in groups)])


def _compared(figures: Mapping[str, Any]) -> Iterator[tuple[str, str, str, Cell]]:
    for name, words in COMPARED.items():
        if one := figures.get(name):
            yield (
                words,
                figure(one["value"], name),
                figure(one["against"], name),
                with_interval(one["difference"], name),
            )


def _scatter(rows: Sequence[Mapping[str, Any]], task: str) -> Plot:
    dots = [
        Dot("s0", row["against"], row["dice"], f"{row['case']}: {row['dice']:.3f}, against {row['against']:.3f}")
        for row in rows
        if row["task"] == task and None not in (row["dice"], row["against"])
    ]
    axes = share_axis("Dice of what is compared with"), share_axis("Dice")
    return Plot(
        f"{task}-against",
        f"{task.capitalize()}: Dice of each case",
        *axes,
        rules=[Rule("limit", 0, 0, 1, 1)],
        dots=dots,
    )
