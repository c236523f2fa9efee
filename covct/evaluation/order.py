"""What `covct evaluate` was asked for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from covct.data.cases import TASKS
from covct.dicom.seg_masks import LabelNames
from covct.errors import UsageError
from covct.evaluation import bootstrap

HELD_OUT, EVERYONE = "held-out", "all"
RESTORED, LINEAR = "restored", "linear"


@dataclass(frozen=True)
class EvaluationOrder:
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
    robustness : bool
        Whole series are segmented again, smoothed, sharpened and at other thicknesses.
    calibrate : Path or None
        Folder of weights into whose card goes what the intervals of reports rest on.
    against : Path or None
        Folder of weights, or of another tool's masks, that the same cases are compared with.
    figures : bool
        The figures of the page are written as PNG files too.
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
    labels: LabelNames | None = None
    resample: bool = False
    tolerance_mm: float = 2.0
    resamples: int = bootstrap.RESAMPLES
    seed: int = 0
    source: str = ""
    names: bool = False
    clahe: str = RESTORED
    robustness: bool = False
    calibrate: Path | None = None
    against: Path | None = None
    figures: bool = False


def with_tasks_of(order: EvaluationOrder, tasks: Collection[str], whose: Path | None) -> EvaluationOrder:
    """For the tasks that there are networks of alone; UsageError where the only one that is asked for is not."""
    mine = tuple(task for task in order.tasks if task in tasks)
    if not mine:
        raise UsageError(f"{whose}: no network for {' or '.join(order.tasks)}; wanted {order.tasks[0]}.json")
    return replace(order, tasks=mine)


def check_order(order: EvaluationOrder) -> None:
    """Raise UsageError where wishes contradict each other, or say nothing to judge."""
    if not order.weights and not order.predictions:
        raise UsageError("say what to judge: --weights DIR or --predictions DIR")
    for folder in (order.weights, order.predictions, order.against):
        if folder and not folder.is_dir():
            raise UsageError(f"no such directory: {folder}")
    if order.also_seen and order.patients != EVERYONE:
        raise UsageError("--also-seen goes with --patients all")
    if order.threshold is not None and (order.predictions or len(order.tasks) > 1):
        raise UsageError("--threshold is of one network: it goes with --weights and with --task")
    if order.against and order.threshold is not None:
        raise UsageError("--threshold is of one network: it does not go with --against")
    if order.robustness and order.predictions:
        raise UsageError("--robustness segments changed scans: it goes with --weights alone")
    if order.calibrate and (order.predictions or order.threshold is not None or len(order.tasks) < len(TASKS)):
        raise UsageError("--calibrate is of both networks as they are: it goes with --weights alone, for both tasks")
    if order.patients == HELD_OUT and not order.weights:
        raise UsageError("only a card says who was held out: --patients held-out goes with --weights")
