"""From a folder with truth to evaluation.json and evaluation.html."""

from __future__ import annotations

import json
import platform
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from covct import RESEARCH_USE, __version__
from covct.data.cases import person_of
from covct.data.leakage import two_names, untold
from covct.data.slices import Restore
from covct.data.views import as_hounsfield
from covct.disk.durable import replace_file
from covct.disk.state import output_errors
from covct.errors import SeriesError, UsageError
from covct.evaluation import bootstrap
from covct.evaluation.cases import Case, Truth, find_cases
from covct.evaluation.eligible import Judge, find_judges, judge_of
from covct.evaluation.judge import (
    Called,
    Judged,
    calls_without_truth,
    case_for_networks,
    judge,
    look_at_series,
    look_at_slices,
    read_called,
)
from covct.evaluation.masks import TASKS, Labels, find_segs
from covct.evaluation.page import as_html, read_history
from covct.evaluation.pooling import ALL, by_fold, case_figures, group_figures, plain
from covct.networks.cards import Card, file_sha256
from covct.networks.network import Networks

FORMAT = 1
SCHEMA = "covct-evaluation-1"
JSON, PAGE = "evaluation.json", "evaluation.html"
HELD_OUT, EVERYONE = "held-out", "all"
RESTORED, LINEAR = "restored", "linear"
FEW_PATIENTS = 10
MEMBER = re.compile(r"-fold-\d+$")  # of an ensemble, in the name of its card
Emit = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Order:
    """What `covct evaluate` was asked for.

    Attributes
    ----------
    weights : Path or None
        Folder of cards, or of folds: whose networks are judged; with `predictions` only who was held out.
    predictions : Path or None
        Folder of another tool's masks.
    patients : str
        "held-out" or "all".
    also_seen : bool
        With all patients, those too that a network has learned from.
    threshold : float or None
        In place of the card's; of a single task.
    source : str
        What the data is called, in place of its layout's name; a source that no card names nobody has learned from.
    names : bool
        Cases are written under their own names.
    clahe : str
        How 8-bit CLAHE slices come to Hounsfield units: "restored" by the restorer, or "linear", their grey read as HU
        of the networks' window, so that they look as published.
    """

    data: Path
    out: Path
    weights: Path | None = None
    predictions: Path | None = None
    restorer: Path | None = None
    tasks: tuple[str, ...] = TASKS
    patients: str = HELD_OUT
    also_seen: bool = False
    threshold: float | None = None
    labels: Labels | None = None
    resample: bool = False
    tolerance_mm: float = 2.0
    resamples: int = bootstrap.RESAMPLES
    seed: int = 0
    source: str = ""
    names: bool = False
    clahe: str = RESTORED


def evaluate(
    order: Order,
    load_networks: Callable[[Path], Networks],
    load_restorer: Callable[[Path], Restore],
    emit: Emit = lambda event: None,
) -> dict[str, Any]:
    """Judge every case asked for, and write both files, each whole or not at all.

    Parameters
    ----------
    load_networks, load_restorer : functions
        Asked only for what is needed.
    emit : function
        Gets an event a case.

    Returns
    -------
    dict
        As written to evaluation.json.

    Raises
    ------
    UsageError
        Nothing to judge; a patient that was learned from and `also_seen` is not said; a mask that does not fit.
    """
    _check(order)
    judges = find_judges(order.weights, order.restorer) if order.weights else []
    restored = order.clahe == RESTORED and not order.predictions
    cases, chosen = _choose(order, find_cases(order.data, order.labels or {}, order.source), judges, restored)
    segs = find_segs(order.predictions) if order.predictions else []
    emit({"event": "found", "cases": len(cases)})
    loaded = _Loaded(order, load_networks, load_restorer)

    def called_in(case: Case, truth: Truth) -> Called:
        if order.predictions:
            tasks = tuple(task for task in order.tasks if task in truth.masks)
            return read_called(case, truth, tasks, order.predictions, segs, order.labels or {}, order.resample)
        networks = loaded.networks(chosen[case.key][0])
        if case.series:
            return look_at_series(networks, case)
        return look_at_slices(networks, truth, "infection" in order.tasks and "infection" in truth.masks)

    def truth_of(case: Case) -> Truth:
        if order.predictions:
            return case.read()
        return case_for_networks(case, loaded.restore(chosen[case.key][0]) if case.domain == "clahe-8bit" else None)

    cards = _named(judges, restored and any(case.domain == "clahe-8bit" for case in cases))
    published = {person_of(p) for card in cards.values() for held in _held_out(card).values() for p in held}
    judged: list[Judged] = []
    rows: list[dict[str, Any]] = []
    left_out: list[dict[str, str]] = []
    for case in cases:
        began = time.monotonic()
        shown = order.names or person_of(case.patient) in published
        # by a patient that cases.csv declares no card publishes the name of his file
        label = case.name if order.names or (shown and case.named_by_patient) else case.key
        try:
            truth = truth_of(case)
            called = called_in(case, truth)
        except SeriesError as error:
            left_out.append({"case": label, "source": case.source, "slug": error.slug, "reason": error.message})
            emit({"event": "left-out", **left_out[-1]})
            continue
        found = judge(case, label, truth, called, order.tasks, order.tolerance_mm)
        without = calls_without_truth(truth, called) if "infection" in order.tasks else None
        if not found and not without:
            reason = f"it has truth of {', '.join(truth.masks) or 'nothing'}, wanted {' or '.join(order.tasks)}"
            left_out.append({"case": label, "source": case.source, "slug": "no-truth", "reason": reason})
            emit({"event": "left-out", **left_out[-1]})
            continue
        judged += found
        rows.append(_row(case, label, shown, truth, found, without, *chosen.get(case.key, (None, []))))
        dice = {one.task: rows[-1]["tasks"][one.task]["dice"] for one in found}
        emit({"event": "judged", "case": label, "source": case.source, "slices": len(truth.hu), "dice": dice,
              "seconds": round(time.monotonic() - began, 1)})  # fmt: skip
    if not rows:
        raise UsageError(f"{order.data}: none of {len(cases)} cases could be judged; first: {left_out[0]['reason']}")
    groups = _groups(judged, order, {key: judge.name for key, (judge, _) in chosen.items() if judge.name})
    evaluation = {
        "schema": SCHEMA,
        "format": FORMAT,
        "research_use": RESEARCH_USE,
        "covct_version": __version__,
        "software": _software(loaded.last),
        "settings": _settings(order),
        "judged": _judged_what(order, cards, judges),
        "also_seen": any(row["seen_by"] for row in rows),
        "notes": _notes(order, cards, rows, groups),
        "groups": groups,
        "cases": rows,
        "left_out": left_out,
    }
    history = {
        judge.key(task): read_history(judge.folder, task)
        for judge in ([] if order.predictions else judges)
        for task in order.tasks
    }
    pictures = {task: [p for one in judged if one.task == task for p in one.pictures] for task in order.tasks}
    with output_errors(order.out):
        order.out.mkdir(parents=True, exist_ok=True)
        replace_file(order.out / JSON, json.dumps(evaluation, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        replace_file(order.out / PAGE, as_html(evaluation, history, pictures))
    return evaluation


def _check(order: Order) -> None:
    if not order.weights and not order.predictions:
        raise UsageError("say what to judge: --weights DIR or --predictions DIR")
    for folder in (order.weights, order.predictions):
        if folder and not folder.is_dir():
            raise UsageError(f"no such directory: {folder}")
    if order.also_seen and order.patients != EVERYONE:
        raise UsageError("--also-seen goes with --patients all")
    if order.threshold is not None and (order.predictions or len(order.tasks) > 1):
        raise UsageError("--threshold is of one network: it goes with --weights and with --task")
    if order.patients == HELD_OUT and not order.weights:
        raise UsageError("only a card says who was held out: --patients held-out goes with --weights")


class _Loaded:
    """The networks in memory: those of one judge at a time, as cases come judge by judge."""

    def __init__(self, order: Order, load_networks: Callable[[Path], Networks], load_restorer: Callable[..., Restore]):
        self.order, self.load_networks, self.load_restorer = order, load_networks, load_restorer
        self.folder: Path | None = None
        self.last: Networks | None = None
        self.restorers: dict[Path, Restore] = {}

    def networks(self, judge: Judge) -> Networks:
        if self.last is None or self.folder != judge.folder:
            self.folder, self.last = judge.folder, _with_threshold(self.load_networks(judge.folder), self.order)
        return self.last

    def restore(self, judge: Judge) -> Restore:
        if self.order.clahe == LINEAR:
            return as_hounsfield
        if judge.restorer not in self.restorers:
            self.restorers = {judge.restorer: self.load_restorer(judge.restorer)}
        return self.restorers[judge.restorer]


def _named(judges: list[Judge], with_restorer: bool) -> dict[str, Card]:
    """The cards of all judges by the names of their files, of folds as "fold-0/lungs"."""
    named = {judge.key(name): card for judge in judges for name, card in judge.cards.items()}
    if with_restorer:
        named |= {judge.key("restorer"): judge.restorer_card for judge in judges}
    return named


def _held_out(card: Card) -> dict[str, list[str]]:
    return card.training.get("held_out_patients", {})


def _choose(
    order: Order, cases: list[Case], judges: list[Judge], restored: bool
) -> tuple[list[Case], dict[str, tuple[Judge, list[str]]]]:
    """The cases to judge, judge by judge; and by case who judges it and which of his networks have seen its patient.

    A patient counts as seen with all of his volumes where only one of them was.
    """
    if not judges:
        return cases, {}
    chosen = {case.key: judge_of(case, judges, restored) for case in cases}
    seen = [case for case in cases if chosen[case.key][1]]
    cases = sorted(cases, key=lambda case: judges.index(chosen[case.key][0]))
    if order.patients == HELD_OUT:
        if len(seen) == len(cases):
            raise UsageError(
                f"{order.data}: the networks have learned from all {len(cases)} cases; judge patients that the cards "
                "hold out, or say --patients all --also-seen (the scores then say nothing about other patients)"
            )
        return [case for case in cases if not chosen[case.key][1]], chosen
    if seen and not order.also_seen:
        raise UsageError(
            f"{order.data}: the networks have learned from {len(seen)} of {len(cases)} cases; say --also-seen to judge "
            "these too, or --patients held-out. Other data by the same layout: --source NAME"
        )
    return cases, chosen


def _with_threshold(networks: Networks, order: Order) -> Networks:
    if order.threshold is None:
        return networks
    [task] = order.tasks
    network = getattr(networks, task)
    return replace(networks, **{task: replace(network, card=replace(network.card, threshold=order.threshold))})


def _row(case: Case, label: str, shown: bool, truth: Truth, found: list[Judged], without, by: Judge | None, seen):
    spacing = truth.spacing_mm
    patient = case.patient if shown else "patient-" + case.patient_key
    return {
        "case": label,
        "patient": patient,
        "source": case.source,
        "fold": by.name if by and by.name else None,
        "seen_by": seen,
        "slices": len(truth.hu),
        "spacing_mm": [round(mm, 4) for mm in spacing] if spacing else None,
        "tasks": {one.task: case_figures(one) for one in found},
        "calls_without_truth": without and {name: plain(value) for name, value in without.items()},
    }


def _groups(judged: list[Judged], order: Order, fold_of: dict[str, str]) -> list[dict[str, Any]]:
    groups = []
    for task in order.tasks:
        of_task = [one for one in judged if one.task == task]
        sources = list(dict.fromkeys(one.case.source for one in of_task))
        for source in [*sources, *([ALL] if len(sources) > 1 else [])]:
            mine = [one for one in of_task if source in (ALL, one.case.source)]
            figures = group_figures(source, task, mine, order.resamples, order.seed)
            groups.append({**figures, "folds": by_fold(mine, fold_of)})
    return groups


def _software(networks: Networks | None) -> dict[str, Any]:
    names = ("numpy", "opencv-python-headless", "SimpleITK", *(("keras", "tensorflow", "jax") if networks else ()))
    return {
        "python": platform.python_version(),
        **{name: found for name in names if (found := _version(name))},
        "device": networks.used().name if networks else None,
    }


def _version(name: str) -> str | None:
    for distribution in (name, f"{name}-cpu"):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return None


def _settings(order: Order) -> dict[str, Any]:
    return {
        "tasks": list(order.tasks),
        "patients": order.patients,
        "also_seen": order.also_seen,
        "threshold": order.threshold,
        "source": order.source or None,
        "labels": {task: sorted(names) for task, names in (order.labels or {}).items()},
        "resample": order.resample,
        "surface_tolerance_mm": order.tolerance_mm,
        "resamples": order.resamples,
        "seed": order.seed,
        "level": bootstrap.LEVEL,
        "clahe": order.clahe,
    }


def _judged_what(order: Order, cards: dict[str, Card], judges: list[Judge]) -> dict[str, Any]:
    files = {judge.key(name): judge.folder / f"{name}.json" for judge in judges for name in judge.cards}
    used = {}
    for key, card in cards.items():
        by_hand = order.threshold is not None and [card.task] == list(order.tasks)
        threshold = order.threshold if by_hand else card.threshold
        if card.task == "restorer" or MEMBER.search(key):  # an ensemble's is that of its first
            threshold = None
        used[key] = {
            "name": card.name,
            "sha256": card.sha256,
            "threshold": threshold,
            "held_out_patients": {source: len(held) for source, held in _held_out(card).items()},
        }
        if key in files:
            used[key]["card_sha256"] = file_sha256(files[key])
    return {"what": "predictions" if order.predictions else "networks", "cards": used}


def _notes(order: Order, cards: dict[str, Card], rows: list[dict[str, Any]], groups: list[dict[str, Any]]) -> list[str]:
    """What a reader must know to read the figures rightly."""
    notes = []
    seen = [row for row in rows if row["seen_by"]]
    if seen:
        notes.append(
            f"SEEN IN TRAINING: networks have learned from {len(seen)} of {len(rows)} cases; "
            "these figures say nothing about other patients."
        )
    if order.predictions and not cards:
        notes.append("Masks of another tool: whom it has learned from is not known.")
    for key, card in cards.items():
        if hashes := ", ".join(sha256[:12] for sha256 in untold(card)):
            notes.append(
                f"No card says whom every network behind {key} has learned from: that of sha256 {hashes} is unknown."
            )
        if twice := two_names(card):
            told = ", ".join(f"{held} (as {' and '.join(learned)})" for held, learned in twice.items())
            notes.append(
                f"The card of {key} knows people by two names: it holds out {told}, and has learned from the same "
                "person by the name in brackets. They count as learned from."
            )
    if not order.predictions and order.threshold is None:
        chosen_on = {source for card in cards.values() for source in _held_out(card)}
        if mine := sorted({row["source"] for row in rows if not row["seen_by"] and row["source"] in chosen_on}):
            notes.append(
                f"Thresholds and best epochs were chosen in training on the held-out patients of {', '.join(mine)}, "
                "the same that these figures are of: a little optimistic. Dice with 'threshold chosen on the other "
                "patients' is not."
            )
    if order.threshold is not None:
        notes.append(f"The threshold {order.threshold:g} was given by hand.")
    if unknown := sorted({row["source"] for row in rows if not row["spacing_mm"]}):
        notes.append(
            f"Spacing is not known of {', '.join(unknown)}: no distances in mm and no volumes in mL there; figures of "
            "a volume are pooled over its slices."
        )
    if any(row["source"] == "ma" for row in rows) and not order.predictions:
        how = "restored to HU" if order.clahe == RESTORED else "read as they are, their grey linearly as HU,"
        notes.append(f"Slices of ma are {how} and cropped around their true lungs, as in training.")
    if any(row["fold"] for row in rows):
        notes.append(
            "Cross-validation: each patient is judged by the fold that held him out; data that no fold knows by the "
            "first one."
        )
    if any(row["calls_without_truth"] for row in rows):
        notes.append("Cases without infection truth say only how much is called in them; none of it need be wrong.")
    if few := [group for group in groups if group["patients"] < FEW_PATIENTS]:
        least = min(group["patients"] for group in few)
        notes.append(
            f"Intervals over few patients (here {least} and more) are too narrow: they know no patient but these."
        )
    if any(group["source"] == ALL for group in groups):
        notes.append("Pooled over all sources, those with more voxels a case count more.")
    return notes
