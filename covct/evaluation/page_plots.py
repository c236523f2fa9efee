"""The plots of an evaluation's page, task by task, and those of the training beside them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from covct.evaluation.cells import Group
from covct.evaluation.figures import (
    SERIES,
    Plot,
    bland_altman,
    box_plot,
    confusion,
    curves,
    reliability,
    threshold_curve,
)
from covct.evaluation.page_detection import detection_plots
from covct.evaluation.scores import scores

History = dict[str, list[float]]
Cases = Sequence[tuple[dict[str, Any], dict[str, Any]]]  # case of the evaluation, its figures in the task
BOXED = {"dice": "Dice", "iou": "IoU", "precision": "precision", "recall": "recall"}
CLASSES = 5  # of severity
EPOCH_LINES = {"loss": ("loss", "val_loss"), "Dice": ("dice", "val_dice")}


def plots_of(
    evaluation: dict[str, Any], task: str, groups: Sequence[Group], classes: dict[str, str], cases: Cases
) -> list[Plot]:
    """One task's; `classes` by source."""
    return [
        *_by_patient(cases, classes),
        *_agreement_plots(evaluation, task, groups, classes),
        *_severity(groups),
        *detection_plots([{**row, "figures": figures} for row, figures in cases], groups, classes),
        *_calibration_plots(evaluation, task, groups, classes),
    ]


def _by_patient(cases: Cases, classes: Mapping[str, str]) -> list[Plot]:
    """Box plots over patients, the voxels of all of a patient's cases together; none of a single patient."""
    counts: dict[tuple[str, str], np.ndarray] = defaultdict(lambda: np.zeros(4))
    for row, figures in cases:
        told = figures["counts"]
        counts[row["source"], row["patient"]] += [told[name] for name in ("hit", "invented", "missed", "rest")]
    values: dict[str, list[tuple[str, str, float]]] = {words: [] for words in BOXED.values()}
    for (source, patient), sums in counts.items():
        told = scores(sums)
        for name, words in BOXED.items():
            if np.isfinite(told[name]):
                values[words].append((patient, classes[source], float(told[name])))
    there = {words: sorted(rows, key=lambda row: row[2]) for words, rows in values.items() if len(rows) > 1}
    return [box_plot(there, "voxels of a patient pooled", "Scores by patient")] if there else []


def _severity(groups: Sequence[Group]) -> list[Plot]:
    whole = next((g["burden"] for g in reversed(groups) if g["burden"]), None)
    return [confusion(whole["classes"], CLASSES, "Severity class by patient: true and called")] if whole else []


def _agreement_plots(
    evaluation: dict[str, Any], task: str, groups: Sequence[Group], classes: dict[str, str]
) -> list[Plot]:
    plots = []
    for key, unit, words in (("percent_of_lung", "% of the lungs", "Infected share"), ("volume_ml", "mL", "Volume")):
        name = f"agreement-{words.lower().replace(' ', '-')}"
        rows = [
            (row["case"], classes[row["source"]], pair["truth"], pair["called"])
            for row in evaluation["cases"]
            if (pair := row["tasks"].get(task, {}).get(key))
        ]
        whole = next((g[key] for g in reversed(groups) if g[key]), None)
        if rows and whole:
            plots.append(bland_altman(name, rows, whole, unit, f"{words}: agreement with the truth (Bland-Altman)"))
    return plots


def _calibration_plots(
    evaluation: dict[str, Any], task: str, groups: Sequence[Group], classes: dict[str, str]
) -> list[Plot]:
    calibrated = [(classes[g["source"]], g) for g in groups if g["source"] in classes and g["calibration"]]
    if not calibrated:
        return []
    where = "in the lungs found" if task == "infection" else "in the whole slice"
    bins = [(cls, g["calibration"]["bins"]) for cls, g in calibrated]
    by_threshold = [(cls, g["thresholds"]["curve"]) for cls, g in calibrated]
    return [
        reliability(bins, f"Calibration {where}"),
        threshold_curve(by_threshold, _threshold(evaluation, task), "Dice by threshold"),
    ]


def _threshold(evaluation: dict[str, Any], task: str) -> float | None:
    """The one that was used; None where folds have different ones."""
    cards = evaluation["judged"]["cards"]
    used = {card["threshold"] for key, card in cards.items() if key.rpartition("/")[2] == task}
    return used.pop() if len(used) == 1 else None


def training_plots(history: Mapping[str, History | None]) -> list[Plot]:
    plots = []
    for task, told in history.items():
        for label, wanted in EPOCH_LINES.items():
            lines = [(SERIES[k], told[name]) for k, name in enumerate(wanted) if told and told.get(name)]
            if lines:
                plots.append(curves(f"{task}-{label.lower()}", lines, label, f"{task}: {label}"))
    return plots
