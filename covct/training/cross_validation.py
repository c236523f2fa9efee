"""All folds, one after another or a process a GPU, what their scores come to, and the weights that follow them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from statistics import mean, stdev
from typing import Any

from covct.disk.durable import output_errors, replace_json
from covct.errors import RunError, UsageError, WeightsError
from covct.networks.cards import Card, read_card, write_card
from covct.networks.devices import NVIDIA_GPUS


class FoldFailed(RunError):
    """A fold that was trained in a process of its own did not come to its end."""

    exit_code = 3


def summarise(out: Path, task: str, folds: int) -> dict[str, Any]:
    """Mean and spread of the scores over the folds that have a card; also written to `out`/TASK-folds.json.

    Returns
    -------
    dict
        ``folds``, ``done`` (fold numbers), ``by_fold`` (scores), ``mean`` and ``spread`` (standard deviation over
        folds, None for one fold) of each score.
    """
    cards: dict[int, Card] = {}
    for fold in range(folds):
        try:
            cards[fold] = read_card(out / f"fold-{fold}" / f"{task}.json")
        except WeightsError:
            continue
    names = sorted({name for card in cards.values() for name in card.scores} | {"threshold"})
    values = {name: [figures[name] for figures in map(_figures, cards.values()) if name in figures] for name in names}
    summary = {
        "task": task,
        "folds": folds,
        "done": list(cards),
        "by_fold": {str(fold): _figures(card) for fold, card in cards.items()},
        "mean": {name: round(mean(found), 4) for name, found in values.items() if found},
        "spread": {name: round(stdev(found), 4) if len(found) > 1 else None for name, found in values.items()},
    }
    with output_errors(out):
        replace_json(out / f"{task}-folds.json", summary)
    return summary


ALIKE = (
    "task", "architecture", "recipe", "field_of_view", "size", "channels", "neighbours_mm", "patch", "spacing_mm",
    "classes",
)  # fmt: skip


def threshold_of(folder: Path, task: str) -> float:
    """The mean of the folds' thresholds, for weights that are trained on everybody and have nobody to choose one on.

    Raises
    ------
    UsageError
        Fewer than two folds of the task lie in the folder.
    """
    return round(mean(card.threshold for card in _folds(folder, task)), 2)


def credit(card: Card, folder: Path, out: Path) -> Card:
    """Write into a card in `out` what a cross-validation in `folder` says of weights made in the same way.

    The scores are the folds' means and standard deviations, and named so: the weights themselves have none.

    Raises
    ------
    UsageError
        The folds are of another network, recipe or view, or fewer than two.
    """
    folds = _folds(folder, card.task)
    for other in folds:
        for name in ALIKE:
            theirs, own = getattr(other, name), getattr(card, name)
            if theirs != own:
                raise UsageError(
                    f"{folder}: a fold of {card.task} has {name} {theirs}, the weights {own}: "
                    "not a cross-validation of these weights"
                )
    scores: dict[str, float] = {}
    for name in sorted(set.intersection(*(set(other.scores) for other in folds))):
        values = [other.scores[name] for other in folds]
        scores[f"folds_{name}"] = round(mean(values), 4)
        scores[f"folds_{name}_sd"] = round(stdev(values), 4)
    told = {"folds": len(folds), "sha256": [other.sha256 for other in folds]}
    card = card.replaced(scores=scores, training={**card.training, "cross_validation": told})
    with output_errors(out):
        write_card(card, out)
    return card


def _folds(folder: Path, task: str) -> list[Card]:
    cards = [read_card(path) for path in sorted(folder.glob(f"fold-*/{task}.json"))]
    if len(cards) < 2:
        raise UsageError(f"{folder}: {len(cards)} folds of {task}, wanted two or more (covct train {task} --folds K)")
    return cards


def _figures(card: Card) -> dict[str, float]:
    return {**card.scores, "threshold": card.threshold}


def gpus(folder: Path = NVIDIA_GPUS) -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    return [str(number) for number in range(len(list(folder.iterdir())))] if folder.is_dir() else []


def run_in_parallel(
    commands: dict[int, list[str]], devices: list[str], report: Callable[[dict[str, Any]], None]
) -> None:
    """Run a command a fold, one at a time on each device.

    Raises
    ------
    FoldFailed
        Some ended with another exit code than 0; the others were trained to their end.
    """
    free: SimpleQueue[str] = SimpleQueue()
    for device in devices:
        free.put(device)
    running: set[subprocess.Popen[bytes]] = set()

    def run(fold: int, command: list[str]) -> int:
        device = free.get()
        report({"event": "note", "text": f"fold {fold} begins on GPU {device}"})
        try:
            process = subprocess.Popen(command, env={**os.environ, "CUDA_VISIBLE_DEVICES": device})
            running.add(process)
            return process.wait()
        finally:
            free.put(device)

    with ThreadPoolExecutor(len(devices)) as pool:
        ended = {fold: pool.submit(run, fold, command) for fold, command in commands.items()}
        try:
            codes = {fold: future.result() for fold, future in ended.items()}
        except BaseException:  # a stop signal: each fold writes its checkpoint and ends
            pool.shutdown(wait=False, cancel_futures=True)
            for process in running:
                process.terminate()
            raise
    if failed := {fold: code for fold, code in codes.items() if code}:
        told = ", ".join(f"fold {fold} with exit code {code}" for fold, code in failed.items())
        raise FoldFailed(f"training failed: {told}; the other folds are kept, continue with --resume")
