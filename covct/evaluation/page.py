"""An evaluation on one self-contained HTML page: nothing on it is fetched or run."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from covct.data.cases import identity
from covct.evaluation.cells import Cell, Group, figure, with_interval
from covct.evaluation.figures import SERIES, Plot, minus
from covct.evaluation.judge import Picture
from covct.evaluation.page_detection import against_section, detection_scores
from covct.evaluation.page_plots import History, plots_of, training_plots
from covct.html import png_address, render

POOLED = {
    "dice": "Dice, F1", "iou": "IoU", "precision": "precision", "recall": "recall, sensitivity",
    "specificity": "specificity", "accuracy": "accuracy",
}  # fmt: skip
MEANS = {"dice": "Dice", "iou": "IoU", "precision": "precision", "recall": "recall"}
MEANS_MM = {"surface_dice": "surface Dice", "hd95_mm": "HD95, mm"}
AGREEMENT = {
    "volume_ml": "volume error, mL",
    "volume_error_percent": "volume error, %",
    "percent_of_lung": "infected share error, points",
}
OUTLINE = {
    "surface_dice_1px": ("outline Dice by slice", "within 1 pixel"),
    "surface_dice_2px": ("outline Dice by slice", "within 2 pixels"),
    "dice_within_1px": ("Dice, outlines forgiven", "within 1 pixel"),
    "dice_within_2px": ("Dice, outlines forgiven", "within 2 pixels"),
}
REGIONS = {
    "outline": "within 2 pixels of marked infection", "dome": "over a dome of the diaphragm",
    "arch": "under or over soft tissue (arch, hila, ribs)", "vessel": "in or around a thin bright structure",
    "outside": "outside the marked lungs", "apex": "top 20 mm", "dependent": "dependent 25 mm", "rest": "elsewhere",
}  # fmt: skip
VARIANTS = {"smooth": "softer kernel", "sharp": "sharper kernel"}
CALIBRATION = {"expected_calibration_error": "calibration error", "brier_score": "Brier score"}
MOST_ROWS = 80
MOST_PICTURES = 4  # worst, and as many best


def read_history(folder: Path, task: str) -> History | None:
    """What training wrote beside a card: TASK-history.json, else TASK.csv; None where there is neither."""
    try:
        told = json.loads((folder / f"{task}-history.json").read_text())
        return {name: [float(v) for v in values] for name, values in told.items()}
    except OSError:
        pass
    except (ValueError, TypeError, AttributeError):  # another program's file
        return None
    try:
        with open(folder / f"{task}.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        return {name: [float(row[name]) for row in rows] for name in rows[0] if _is_number(rows[0][name])}
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except (ValueError, TypeError):
        return False
    return True


@dataclass(frozen=True)
class Section:
    """All of one task.

    Attributes
    ----------
    legend : list of (class, source)
    scores : list of (figure, what of, cells), a cell a group
    cases : list of (case of the evaluation, its figures in this task), worst first
    """

    task: str
    groups: list[Group]
    legend: list[tuple[str, str]]
    scores: list[tuple[str, str, list[Cell]]]
    plots: list[Plot]
    cases: list[tuple[dict[str, Any], dict[str, Any]]]
    with_mm: bool
    worst: list[Picture]
    best: list[Picture]


@dataclass(frozen=True)
class CallsSection:
    """What is called slice by slice and by anatomy.

    Attributes
    ----------
    groups : list of groups of the evaluation's calls, a column each
    scores : list of (figure, what of, cells), a cell a group
    cases : list of (case, label, cells), a cell a word of `columns`
    """

    groups: list[Group]
    scores: list[tuple[str, str, list[Cell]]]
    columns: list[str]
    cases: list[tuple[dict[str, Any], list[str]]]


def as_html(evaluation: dict[str, Any], history: dict[str, History | None], pictures: dict[str, list[Picture]]) -> str:
    """The page.

    Parameters
    ----------
    evaluation : dict
        As written to evaluation.json.
    history : dict of str to History or None
        By task; empty where no network of ours was judged.
    pictures : dict of str to list of Picture
        By task; the worst and best of them are shown.
    """
    return render(
        "evaluation.html",
        *_FILTERS,
        evaluation=evaluation,
        patients=len({identity(row["source"], row["patient"]) for row in evaluation["cases"]}),
        whose=_patients_words(evaluation),
        sections=sections_of(evaluation, pictures),
        calls=_calls_section(evaluation),
        against=against_section(evaluation["against"]),
        most_rows=MOST_ROWS,
        training=training_plots(history) if history else None,
        without_history=[task for task, told in history.items() if not told],
    )


def _patients_words(evaluation: dict[str, Any]) -> str:
    if evaluation["also_seen"]:
        return "some of them seen by the networks in training"
    return "held out by the cards" if evaluation["judged"]["cards"] else "all in the folder"


def sections_of(evaluation: dict[str, Any], pictures: Mapping[str, list[Picture]]) -> list[Section]:
    """What the page has of each task that was judged."""
    judged = {group["task"] for group in evaluation["groups"]}
    tasks = [task for task in evaluation["settings"]["tasks"] if task in judged]
    return [_section(evaluation, task, pictures.get(task, [])) for task in tasks]


def _section(evaluation: dict[str, Any], task: str, pictures: list[Picture]) -> Section:
    groups = [group for group in evaluation["groups"] if group["task"] == task]
    sources = [group["source"] for group in groups if group["source"] != "all"]
    classes = {source: SERIES[k % len(SERIES)] for k, source in enumerate(sources)}
    cases = [(row, row["tasks"][task]) for row in evaluation["cases"] if task in row["tasks"]]
    cases.sort(key=lambda pair: math.inf if pair[1]["dice"] is None else pair[1]["dice"])
    ranked = sorted(pictures, key=lambda picture: picture.dice)
    worst = ranked[:MOST_PICTURES]
    return Section(
        task,
        groups,
        legend=[(cls, source) for source, cls in classes.items()] if len(sources) > 1 else [],
        scores=list(_scores(groups)),
        plots=plots_of(evaluation, task, groups, classes, cases),
        cases=cases,
        with_mm=any(row["spacing_mm"] for row, _ in cases),
        worst=worst,
        best=[picture for picture in reversed(ranked) if picture not in worst][:MOST_PICTURES],
    )


def _scores(groups: Sequence[Group]) -> Iterator[tuple[str, str, list[Cell]]]:
    """A row a figure and a column a source, so that a narrow screen scrolls over few columns."""
    for name, words in POOLED.items():
        yield words, "pooled", [with_interval(g["pooled"][name]) for g in groups]
    in_mm = any(g["mean"]["surface_dice"]["cases"] for g in groups)
    for name, words in {**MEANS, **(MEANS_MM if in_mm else {})}.items():
        yield words, "mean of cases", [_mean(g["mean"][name], name) for g in groups]
    outlined = [g["outline"] for g in groups]
    if any(outlined):
        for name, (words, of) in OUTLINE.items():
            yield words, of, [with_interval(one and one[name]) for one in outlined]
    inside = [g["marked_inside_lungs"] for g in groups]
    if any(inside):
        yield "marked infection", "share inside the lungs found", [with_interval(one) for one in inside]
    yield from detection_scores(groups)
    burdens = [g["burden"] for g in groups]
    if any(burdens):
        sizes = [with_interval(one and one["mean_absolute_error"], "ml") for one in burdens]
        yield "infected share by patient, points", "mean size of the error", sizes
        yield "severity class by patient", "true → called", [(_class_changes(one), "") for one in burdens]
    promised = [g["intervals"] for g in groups]
    if any(promised):
        yield "infected share", "inside the report's interval", [_held(one) for one in promised]
    for key, words in AGREEMENT.items():
        found = [g[key] for g in groups]
        if any(found):
            yield words, "bias", [with_interval(one and one["bias"], "ml") for one in found]
            yield words, "95 % limits of agreement", [_limits(one) for one in found]
            yield words, "mean size", [with_interval(one and one["mean_absolute_error"], "ml") for one in found]
    calibrated = [g["calibration"] for g in groups]
    if any(calibrated):
        for name, words in CALIBRATION.items():
            yield words, "", [with_interval(one and one[name], name) for one in calibrated]
        yield "Dice", "threshold chosen on the other patients", [_by_others(g) for g in groups]


def _class_changes(burden: dict[str, Any] | None) -> str:
    """Patients whose class is called another one, by change."""
    if not burden:
        return "–"
    changed = [one for one in burden["classes"] if one["truth"] != one["called"]]
    same = burden["patients"] - sum(one["patients"] for one in changed)
    told = [f"{one['truth']} → {one['called']}: {one['patients']}" for one in changed]
    return ", ".join([f"same: {same}", *told])


def _held(one: dict[str, Any] | None) -> Cell:
    if not one:
        return "–", ""
    width = f"{100 * one['level']:.0f} % promised, width {figure(one['mean_width'], 'ml')} points"
    return f"{one['held']} of {one['cases']}", width


def _calls_section(evaluation: dict[str, Any]) -> CallsSection | None:
    groups = evaluation["calls"]
    if not groups:
        return None
    rows = [row for row in evaluation["cases"] if row["by_slice"] or row["false_calls"]]
    return CallsSection(
        groups,
        list(_calls_scores(groups)),
        ["labelled slices found", "clear slices called", "false mL", "false, % of lungs", *REGIONS],
        [(row, list(_calls_cells(row))) for row in rows],
    )


def _calls_scores(groups: Sequence[Group]) -> Iterator[tuple[str, str, list[Cell]]]:
    slices, false, without = ([g[key] for g in groups] for key in ("by_slice", "false_calls", "calls_without_truth"))
    if any(slices):
        yield "labelled slices found", "sensitivity", [_of_slices(one, "sensitivity") for one in slices]
        yield "clear slices called", "specificity", [_of_slices(one, "specificity") for one in slices]
    if any(without):
        for name, of in (("percent_of_lung", "% of the lungs"), ("percent_of_aerated_lung", "% of aerated lung")):
            yield "called where none was marked", of, [with_interval(one and one[name]) for one in without]
    if any(false):
        yield "falsely called", "mL", [(figure(one and one["ml"], "ml"), "") for one in false]
        yield "falsely called", "% of the lungs", [with_interval(one and one["percent_of_lung"]) for one in false]
        for name, words in REGIONS.items():
            yield words, "share of it", [with_interval(one and one["regions"][name]["share"]) for one in false]
    yield from _robustness_scores(groups)


def _robustness_scores(groups: Sequence[Group]) -> Iterator[tuple[str, str, list[Cell]]]:
    varied = [g["robustness"] or {} for g in groups]
    for name in dict.fromkeys(name for one in varied for name in one):
        what = VARIANTS.get(name, f"slices of {name.removesuffix('mm')} mm")
        yield f"infected share, {what}", "mean change, points", [_variant(one.get(name)) for one in varied]


def _variant(one: dict[str, Any] | None) -> Cell:
    if not one:
        return "–", ""
    shown, note = with_interval(one["mean_absolute"], "points")
    return shown, f"{note} at most {figure(one['worst'], 'points')}".strip()


def _of_slices(one: dict[str, Any] | None, name: str) -> Cell:
    value, note = with_interval(one and one[name])
    if not one:
        return value, note
    part, whole = ("found", "labelled") if name == "sensitivity" else ("called", "clear")
    return f"{one[part]} of {one[whole]}", f"{name} {value} {note}".strip()


def _calls_cells(row: dict[str, Any]) -> Iterator[str]:
    slices, false = row["by_slice"], row["false_calls"]
    yield f"{slices['found']} of {slices['labelled']}" if slices and slices["labelled"] else "–"
    yield f"{slices['called']} of {slices['clear']}" if slices and slices["clear"] else "–"
    yield figure(false and false["ml"], "ml")
    yield figure(false and false["percent_of_lung"])
    for name in REGIONS:
        yield figure(false and false["regions"][name]["percent_of_lung"])


def _mean(mean: dict[str, Any], name: str) -> Cell:
    """With how many cases it leaves out since their distance is infinite."""
    shown, note = with_interval(mean, name)
    count = mean["infinite"]
    left_out = f"and ∞ in {count} of {count + mean['cases']} cases" if count else ""
    return shown, " ".join(part for part in (note, left_out) if part)


def _limits(figures: dict[str, Any] | None) -> Cell:
    low, high = (figures[key]["value"] if figures else None for key in ("lower_limit", "upper_limit"))
    return ("–" if low is None or high is None else f"{figure(low, 'ml')} to {figure(high, 'ml')}"), ""


def _by_others(group: Group) -> Cell:
    found = group["thresholds"] and group["thresholds"]["by_other_patients"]
    if not found:
        return "–", ""
    span = f"{found['least']:g}" if found["least"] == found["most"] else f"{found['least']:g} to {found['most']:g}"
    return figure(found["dice"]), f"(threshold {span})"


def _hundredths(share: float) -> str:
    """Of a box plot's width."""
    return f"{100 * share:.2f}"


_FILTERS = (figure, _hundredths, minus, png_address)
