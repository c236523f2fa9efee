"""`covct evaluate`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from covct import RESEARCH_USE
from covct.commands import scan
from covct.commands.bars import Bar, progress
from covct.commands.console import plain, stderr
from covct.commands.options import Runtime, RuntimeOption
from covct.commands.quiet import quiet_tensorflow
from covct.disk.signals import stoppable
from covct.disk.sources import check_apart
from covct.visible import json_line

if TYPE_CHECKING:
    import numpy as np

    from covct.networks.network import Networks


class Task(str, Enum):
    lungs = "lungs"
    infection = "infection"


class Clahe(str, Enum):
    restored = "restored"
    linear = "linear"


class Patients(str, Enum):
    held_out = "held-out"
    all = "all"


_what = partial(typer.Option, rich_help_panel="What to evaluate")
_reading = partial(typer.Option, rich_help_panel="Masks and slices")
_scores = partial(typer.Option, rich_help_panel="Scores")
_naming = partial(typer.Option, rich_help_panel="Names")


def evaluate_command(
    data: Annotated[Path, typer.Argument(help="Folder with scans and their reference masks.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder for the page, JSON and CSV.")],
    weights: Annotated[
        Path | None,
        _what(
            help="Folder of cards or folds: evaluate their networks, or with --predictions the patients they held out."
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        _what(help="Evaluate the masks in this folder: volumes by name, DICOM SEG by reference, or PNG slices."),
    ] = None,
    against: Annotated[
        Path | None,
        _what(help="Compare with this other folder of cards, of folds or of masks, patient by patient."),
    ] = None,
    task: Annotated[Task | None, _what(help="Evaluate this task only.", show_default="both")] = None,
    patients: Annotated[
        Patients | None,
        _what(
            help="Evaluate the patients whom the cards held out, or all.",
            show_default="held-out where there are cards, else all",
        ),
    ] = None,
    also_seen: Annotated[
        bool,
        _what("--also-seen", help="With --patients all, include patients a network was trained on, marked."),
    ] = False,
    threshold: Annotated[
        float | None, _reading(help="Threshold to use instead of the card's; needs --task.", min=0.01, max=0.99)
    ] = None,
    label: Annotated[
        list[str] | None,
        _reading(help="Labels of a task in masks with several labels: infection=2, lungs=1,2, infection=GGO."),
    ] = None,
    resample: Annotated[
        bool, _reading("--resample", help="Resample masks on another grid to the scan's (nearest neighbour).")
    ] = False,
    tolerance: Annotated[float, _scores(help="Tolerance of the surface Dice, in mm.", min=0)] = 2.0,
    robustness: Annotated[
        bool,
        _scores("--robustness", help="Segment whole series again with other kernels and thicknesses, as a check."),
    ] = False,
    calibrate: Annotated[
        Path | None,
        _scores(help="Write into the cards of this folder what the intervals of reports rest on: whole series."),
    ] = None,
    resamples: Annotated[int, _scores(help="Bootstrap resamples of the patients.", min=100)] = 2000,
    seed: Annotated[int, _scores(help="Random seed of the bootstrap.", min=0)] = 0,
    source: Annotated[
        str,
        _naming(
            help="Name of the dataset. If no card names it, only patients of public datasets count as seen in training."
        ),
    ] = "",
    restorer: Annotated[
        Path | None,
        _reading(
            help="Card of the restorer, for 8-bit CLAHE slices; {fold} stands for the number of the fold.",
            show_default="restorer.json of --weights, otherwise the shipped one",
        ),
    ] = None,
    clahe: Annotated[
        Clahe, _reading(help="Restore HU of 8-bit CLAHE slices, or read their grey values as linear HU.")
    ] = Clahe.restored,
    figures: Annotated[
        bool, typer.Option("--figures", help="Write the figures of the page as PNG files too, into OUT/figures.")
    ] = False,
    names: Annotated[
        bool, _naming("--names", help="Write the names of all cases, also of those that no card publishes.")
    ] = False,
    runtime: RuntimeOption = Runtime.auto,
    json_events: Annotated[bool, typer.Option("--json", help="Print one JSON event per line to stdout.")] = False,
) -> None:
    """Evaluate networks or other tools' masks: overlap, distances, volumes, calibration, confidence intervals."""
    from covct.data.cases import TASKS
    from covct.data.labels import parse_labels
    from covct.evaluation.order import EVERYONE, HELD_OUT, EvaluationOrder
    from covct.evaluation.run import PAGE, evaluate
    from covct.networks.cards import default_weights_folder

    if out:
        check_apart(out, [data], "--out")
    order = EvaluationOrder(
        data, out, weights, predictions, restorer,
        tasks=(task.value,) if task else TASKS,
        patients=patients.value if patients else HELD_OUT if weights else EVERYONE,
        also_seen=also_seen, threshold=threshold, labels=parse_labels(label or ()), resample=resample,
        tolerance_mm=tolerance, resamples=resamples, seed=seed, source=source, names=names,
        clahe=clahe.value, robustness=robustness, calibrate=calibrate, against=against, figures=figures,
    )  # fmt: skip

    with stoppable(), progress(f"reading {data}", quiet=json_events) as bar:
        emit = partial(_tell, _Told(bar, json_events))

        def networks(folder: Path) -> Networks:
            bar.say("loading the networks")
            return scan.networks_of(folder, "auto", False, runtime.value, default_weights_folder())()

        evaluation = evaluate(order, networks, _restorer, emit)
    if json_events:
        emit({"event": "evaluated", "page": str(out / PAGE), "groups": evaluation["groups"]})
    else:
        _show(evaluation)
        typer.echo(str(out / PAGE))
    if evaluation["left_out"]:
        raise typer.Exit(3)


@dataclass
class _Told:
    """Where events go, and how many cases there are and are done."""

    bar: Bar
    as_json: bool
    cases: int = 0
    done: int = 0
    last: str = "judged"


def _tell(told: _Told, event: dict[str, Any]) -> None:
    if told.as_json:
        print(json_line(event), flush=True)
    else:
        told.bar.print(_line(event))
    if event["event"] == "found":
        told.cases = event["cases"]
    if event["event"] in ("judged", "compared"):
        told.done = 1 + (told.done if event["event"] == told.last else 0)
        told.last = event["event"]
    told.bar.say("comparing" if told.last == "compared" else "evaluating")
    told.bar.at(told.done, told.cases)


def _restorer(card: Path) -> Callable[[np.ndarray], np.ndarray]:
    with quiet_tensorflow():
        from covct.training.samples.restoration import load_restorer
    return load_restorer(card)


def _line(event: dict[str, Any]) -> str:
    if event["event"] == "found":
        return f"{event['cases']} cases to evaluate"
    if event["event"] == "left-out":
        return f"[yellow]left out[/]  {plain(event['case'])}: {plain(event['reason'])}"
    dice = "  ".join(f"{task} {_short(d)}" for task, d in event["dice"].items())
    told = f"{event['slices']} slices  {dice}  {event['seconds']:.1f} s"
    return f"[green]{event['event']:8}[/]  {plain(event['case'])}  {told}"


def _show(evaluation: dict[str, Any]) -> None:
    table = Table(caption=f"n: patients. {RESEARCH_USE}")
    for name in ("task", "source", "n", "Dice pooled (95 %)", "mean", "recall", "precision"):
        table.add_column(name, no_wrap=True)
    with_folds = any(group["folds"] for group in evaluation["groups"])
    if with_folds:
        table.add_column("folds ± sd", no_wrap=True)
    for group in evaluation["groups"]:
        pooled, mean = group["pooled"], group["mean"]["dice"]
        interval = pooled["dice"]["interval"]
        within = f" ({_short(interval[0])}–{_short(interval[1])})" if interval else ""
        figures = (mean["value"], pooled["recall"]["value"], pooled["precision"]["value"])
        numbers = str(group["patients"]), _short(pooled["dice"]["value"]) + within
        spread = [_spread(group["folds"])] if with_folds else []
        table.add_row(group["task"], plain(group["source"]), *numbers, *map(_short, figures), *spread)
    stderr.print(table)
    for note in evaluation["notes"]:
        stderr.print(f"- {plain(note)}", highlight=False, soft_wrap=True)


def _spread(folds: dict[str, Any] | None) -> str:
    return f"{_short(folds['mean'])} ± {_short(folds['standard_deviation'])}" if folds else "–"


def _short(figure: float | None) -> str:
    return "–" if figure is None else f"{figure:.3f}"
