"""The parts of evaluation.json: cases, groups, settings, networks and software, as plain dictionaries."""

from __future__ import annotations

import platform
import re
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from covct.data.cases import Case
from covct.evaluation import bootstrap
from covct.evaluation.calls import CaseCalls
from covct.evaluation.eligible import Judge
from covct.evaluation.judge import Judged
from covct.evaluation.networks import held_out_by
from covct.evaluation.order import EvaluationOrder
from covct.evaluation.pooled_calls import case_calls, group_calls
from covct.evaluation.pooled_detection import case_detection, group_detection
from covct.evaluation.pooling import by_fold, by_source, case_figures, group_figures
from covct.evaluation.truth import Truth
from covct.networks.cards import Card, file_sha256
from covct.networks.network import Networks

MEMBER = re.compile(r"-fold-\d+$")  # of an ensemble, in the name of its card


def row(
    case: Case,
    label: str,
    shown: bool,
    truth: Truth,
    found: list[Judged],
    calls: CaseCalls,
    by: Judge | None,
    seen: list[str],
) -> dict[str, Any]:
    """A case: under `label`, and with its patient's name only if that is `shown`."""
    spacing = truth.spacing_mm
    patient = case.patient if shown else "patient-" + case.patient_key
    return {
        "case": label,
        "patient": patient,
        "source": case.known_as,
        "fold": by.name if by and by.name else None,
        "seen_by": seen,
        "slices": len(truth.hu),
        "spacing_mm": [round(mm, 4) for mm in spacing] if spacing else None,
        "tasks": {one.task: {**case_figures(one), **case_detection(one)} for one in found},
        **case_calls(calls),
    }


def groups(judged: list[Judged], order: EvaluationOrder, fold_of: dict[str, str]) -> list[dict[str, Any]]:
    """Pooled figures of each task and source, and of all sources; `fold_of` a case's key says which fold judged it."""
    out = []
    for task in order.tasks:
        for source, mine in by_source([one for one in judged if one.task == task], lambda one: one.case):
            figures = group_figures(source, task, mine, order.resamples, order.seed)
            detected = group_detection(mine, order.resamples, order.seed)
            out.append({**figures, **detected, "folds": by_fold(mine, fold_of)})
    return out


def calls_groups(calls: list[CaseCalls], order: EvaluationOrder) -> list[dict[str, Any]]:
    """What is called, slice by slice and by anatomy, of each source and of all."""
    return [
        group_calls(source, mine, order.resamples, order.seed)
        for source, mine in by_source(calls, lambda one: one.case)
    ]


def software(networks: Networks | None) -> dict[str, Any]:
    """Versions, and the device that the networks ran on."""
    names = (
        "numpy",
        "opencv-python-headless",
        "SimpleITK",
        *(("openvino", "keras", "tensorflow", "jax") if networks else ()),
    )
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


def settings(order: EvaluationOrder) -> dict[str, Any]:
    """What was asked for, as far as it decides a figure."""
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
        "robustness": order.robustness,
    }


def judged_what(order: EvaluationOrder, cards: dict[str, Card], judges: list[Judge]) -> dict[str, Any]:
    """The networks by their cards, or another tool's masks."""
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
            "held_out_patients": {source: len(held) for source, held in held_out_by(card).items()},
        }
        if key in files:
            used[key]["card_sha256"] = file_sha256(files[key])
    return {"what": "predictions" if order.predictions else "networks", "cards": used}
