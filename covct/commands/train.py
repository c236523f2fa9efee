"""`covct train`."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from covct.commands.console import stderr
from covct.commands.quiet import quiet_tensorflow
from covct.disk.signals import stoppable
from covct.errors import Stopped, UsageError
from covct.unattended.logs import LogFormat

QUIET_S = 30.0  # between two lines where there is no terminal to draw on


class Task(str, Enum):
    restorer = "restorer"
    lungs = "lungs"
    infection = "infection"
    empty_slices = "empty-slices"


class Optimizer(str, Enum):
    adam = "adam"
    adamw = "adamw"
    sgd = "sgd"


class Norm(str, Enum):
    batch = "batch"
    group = "group"


class Schedule(str, Enum):
    constant = "constant"
    exponential = "exponential"
    cosine = "cosine"
    cosine_restarts = "cosine-restarts"
    plateau = "plateau"
    one_cycle = "one-cycle"


class Augment(str, Enum):
    none = "none"
    light = "light"
    real_lesions = "real-lesions"
    standard = "standard"
    full = "full"


def train_command(
    task: Annotated[Task, typer.Argument(help="What to train.")],
    data: Annotated[Path, typer.Argument(help="Folder with the training data.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for weights, card, history and checkpoints.")],
    architecture: Annotated[
        str | None,
        typer.Option(
            help="The network by its name. Default: unet; of empty-slices slice-classifier.", show_default=False
        ),
    ] = None,
    base_filters: Annotated[
        int | None, typer.Option(help="Filters of the first level. Default: the network's own.", min=1)
    ] = None,
    loss: Annotated[str | None, typer.Option(help="By its name in LOSSES. Default: the task's own.")] = None,
    optimizer: Annotated[Optimizer, typer.Option()] = Optimizer.adamw,
    learning_rate: Annotated[float, typer.Option(help="At its highest.", min=0)] = 1e-3,
    schedule: Annotated[Schedule, typer.Option(help="How the learning rate goes from there.")] = Schedule.cosine,
    clip_norm: Annotated[
        float, typer.Option(help="Each variable's gradient is cut to this norm; 0 leaves it.", min=0)
    ] = 1.0,
    neighbours: Annotated[
        int, typer.Option(help="2.5D: see so many slices on either side as channels. 0: one slice.", min=0)
    ] = 0,
    patch: Annotated[
        str | None,
        typer.Option(help="Of unet3d: slices, rows, columns at once. Default: 80,160,160.", show_default=False),
    ] = None,
    spacing: Annotated[
        str | None,
        typer.Option(
            help="Of unet3d: bring volumes to this distance of slices, rows, columns, mm: 2.7,1.58,1.58. "
            "Default: the slices' own grid.",
            show_default=False,
        ),
    ] = None,
    classes: Annotated[
        bool,
        typer.Option(
            "--classes", help="Tell classes apart: ground glass, consolidation, effusion; of lungs right and left."
        ),
    ] = False,
    epochs: Annotated[int, typer.Option(min=1)] = 12,
    samples: Annotated[int, typer.Option(help="Augmented slices (of unet3d patches) an epoch.", min=8)] = 1200,
    batch_size: Annotated[int | None, typer.Option(help="Default: 8; of unet3d 1.", min=1, show_default=False)] = None,
    patience: Annotated[
        int, typer.Option(help="End after so many epochs without a better validation; 0 trains all.", min=0)
    ] = 0,
    ema: Annotated[
        float, typer.Option(help="Keep a running average of the weights, of this decay a step: 0.99. 0: none.", min=0)
    ] = 0.0,
    norm: Annotated[
        Norm | None, typer.Option(help="Normalisation. Default: the network's own.", show_default=False)
    ] = None,
    mixed_precision: Annotated[bool, typer.Option("--mixed-precision", help="bfloat16 arithmetic.")] = False,
    augment: Annotated[Augment, typer.Option(help="How much slices are changed on the fly.")] = Augment.standard,
    recipe: Annotated[
        str, typer.Option(help="Intensities: hu-window, min-max, z-score or clahe, as NAME:ARGUMENT=NUMBER,...")
    ] = "hu-window:low=-1000,high=200",
    field_of_view: Annotated[str, typer.Option(help="body, otsu-body, lung-contours or lung-mask.")] = "body",
    size: Annotated[int, typer.Option(help="Side of the network's input, pixels.")] = 256,
    show_augmented: Annotated[
        int, typer.Option(help="Write a sheet of so many augmented samples to OUT, and train nothing.", min=0, max=240)
    ] = 0,
    split: Annotated[
        str,
        typer.Option(help="Held out by patient: 90/10, 70/30 or a share; slice or slice:90/10 (leaks); none."),
    ] = "70/30",
    folds: Annotated[int, typer.Option(help="Cross-validate by patient, in OUT/fold-0 and on.", min=0)] = 0,
    fold: Annotated[int | None, typer.Option(help="Only this fold, from 0. Default: all of them.", min=0)] = None,
    parallel: Annotated[bool, typer.Option("--parallel", help="All folds at once, one process a GPU.")] = False,
    threshold: Annotated[
        float | None, typer.Option(help="Of the card. Default: chosen on the held-out patients.", min=0.01, max=0.99)
    ] = None,
    leave_out: Annotated[
        str, typer.Option(help="Patients, with commas: neither trained nor validated on, to be judged afterwards.")
    ] = "",
    cross_validated: Annotated[
        Path | None,
        typer.Option(help="With --split none: a folder of folds, whose mean threshold and scores go into the card."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of weights, samples and splits.", min=0)] = 0,
    initial: Annotated[
        Path | None, typer.Option(help="Card of a network to start from; {fold} in it is the fold's number.")
    ] = None,
    backbone: Annotated[
        Path | None, typer.Option(help="Published ResNet50 weights (.h5) for deeplabv3-plus to start from.")
    ] = None,
    restorer: Annotated[
        Path | None, typer.Option(help="Card of the CLAHE-to-HU restorer (8-bit slices need it); {fold} likewise.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint, if there is one.")] = False,
    checkpoint_steps: Annotated[
        int, typer.Option(help="A checkpoint after so many steps, and after each epoch.", min=1)
    ] = 100,
    exact: Annotated[
        bool, typer.Option("--exact", help="One thread of arithmetic: the same weights bit by bit in every run.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(help="Threads that draw samples. Default: half of the CPUs.", min=1)
    ] = None,
    find_lr: Annotated[
        bool, typer.Option("--find-lr", help="Only look for a learning rate: a range test, its plot in OUT.")
    ] = False,
    log_format: Annotated[LogFormat, typer.Option(help="Progress on stderr, as text or JSON lines.")] = LogFormat.text,
) -> None:
    """Train the restorer, the lungs, infection or empty-slice network; whole patients are held out."""
    if not data.is_dir():
        raise UsageError(f"no such directory: {data}")
    if fold is not None and not folds:
        raise UsageError(f"--fold {fold}: of how many? give --folds")
    if ema >= 1:
        raise UsageError(f"--ema {ema}: wanted a decay below 1, such as 0.99")
    if exact:
        for variable in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
            os.environ[variable] = "1"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false"
    if cross_validated and split != "none":
        raise UsageError("--cross-validated is for weights that are trained on everybody: it goes with --split none")
    all_folds = bool(folds) and fold is None
    if all_folds and parallel and not find_lr and _in_parallel(out, task.value, folds):
        return
    with quiet_tensorflow():
        from covct.architectures import architecture_name
        from covct.training.cross_validation import credit, threshold_of
        from covct.training.find_lr import find_learning_rate
        from covct.training.loop import train
        from covct.training.samples.empty_slices import NETWORK
        from covct.training.samples.inputs import VOLUMETRIC, parse_patch, parse_three
        from covct.training.samples.reading import Readings
        from covct.training.settings import Settings

    if cross_validated and threshold is None:
        threshold = threshold_of(cross_validated, task.value)
    usual = NETWORK if task is Task.empty_slices else "unet"
    name = architecture_name(architecture or usual)
    settings = Settings(
        task.value, epochs, samples, batch_size or (1 if name == VOLUMETRIC else 8), learning_rate, base_filters,
        name, loss,
        optimizer.value, schedule.value, clip_norm, patience, ema, split, folds, fold or 0, threshold, seed,
        mixed_precision, augment=augment.value, recipe=recipe, field_of_view=field_of_view, size=size,
        leave_out=tuple(filter(None, leave_out.split(","))),
        neighbours=neighbours, patch=parse_patch(patch), spacing_mm=parse_three("--spacing", spacing), classes=classes,
        norm=norm.value if norm else None,
    )  # fmt: skip
    if show_augmented:
        from covct.training.samples.sheet import write_augmented

        sheet = write_augmented(settings, data, out, _of(restorer, settings.fold), show_augmented)
        typer.echo(json.dumps({"sheet": str(sheet)}))
        return
    with _told(log_format, epochs * settings.steps_per_epoch) as report, _resumable():
        if find_lr:
            found = find_learning_rate(
                settings, data, out, _of(initial, settings.fold), _of(restorer, settings.fold), report=report,
                backbone=backbone,
            )  # fmt: skip
            plot = str(out / f"{task.value}-find-lr.svg")
            typer.echo(json.dumps({"learning_rate": found.suggestion, "plot": plot}))
            return
        readings = Readings() if all_folds else None  # what was read is kept for the next fold
        for number in range(folds) if all_folds else [settings.fold]:
            this = replace(settings, fold=number)
            card = train(
                this, data, out, _of(initial, number), _of(restorer, number), resume, checkpoint_steps, workers, report,
                readings, backbone,
            )  # fmt: skip
            folder = out / f"fold-{number}" if folds else out
            if cross_validated:
                card = credit(card, cross_validated, folder)
            typer.echo(json.dumps({"card": str(folder / f"{card.name}.json"), "scores": card.scores}))
    if folds:
        _summarise(out, task.value, folds)


def _of(card: Path | None, fold: int) -> Path | None:
    return Path(str(card).replace("{fold}", str(fold))) if card else None


def _in_parallel(out: Path, task: str, folds: int) -> bool:
    """The same command a fold, on all GPUs; False where there are not two of them."""
    from covct.training.cross_validation import gpus, run_in_parallel

    devices = gpus()
    if len(devices) < 2:
        typer.echo(f"covct: --parallel: {len(devices)} GPU: the folds are trained one after another", err=True)
        return False
    arguments = [argument for argument in sys.argv[1:] if argument != "--parallel"]
    commands = {
        number: [sys.executable, "-m", "covct", *arguments, "--fold", str(number), "--log-format", "json"]
        for number in range(folds)
    }
    with _resumable():
        run_in_parallel(commands, devices, lambda event: typer.echo(json.dumps(event), err=True))
    _summarise(out, task, folds)
    return True


def _summarise(out: Path, task: str, folds: int) -> None:
    from covct.training.cross_validation import summarise

    typer.echo(json.dumps(summarise(out, task, folds)))


@contextmanager
def _resumable() -> Iterator[None]:
    """A stop signal ends the training behind its checkpoint, with exit code 130."""
    try:
        with stoppable():
            yield
    except Stopped as stopped:
        typer.echo(f"covct: stopped by {stopped}; the checkpoint is written, go on with --resume", err=True)
        raise typer.Exit(130) from stopped


@contextmanager
def _told(log_format: LogFormat, steps: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Where events go: JSON lines, a line that is drawn over on a terminal, or a line now and then."""
    if log_format == LogFormat.json:
        yield _seldom(lambda event: stderr.print(json.dumps(event), markup=False, highlight=False, soft_wrap=True))
    elif not stderr.is_terminal:
        yield _seldom(lambda event: stderr.print(_sentence(event), markup=False, highlight=False, soft_wrap=True))
    else:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}", markup=False),
        )
        with Progress(*columns, console=stderr) as bar:
            line = bar.add_task("training", total=steps, told="")
            seen = {"steps": 0}

            def report(event: dict[str, Any]) -> None:
                if event["event"] == "started":
                    seen["steps"] = event["steps"]
                if event["event"] == "step":
                    done = (event["epoch"] - 1) * seen["steps"] + event["step"]
                    bar.update(line, completed=done, description=f"epoch {event['epoch']}", told=_sentence(event))
                else:
                    bar.console.print(_sentence(event), markup=False, highlight=False)

            yield report


def _seldom(write: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    """Every event but steps, of which one in half a minute is enough."""
    last = [-QUIET_S]

    def report(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            if time.monotonic() - last[0] < QUIET_S:
                return
            last[0] = time.monotonic()
        write(event)

    return report


def _sentence(event: dict[str, Any]) -> str:
    if event["event"] == "note":
        return event["text"]
    if event["event"] == "started":
        return (
            f"{event['task']}: {event['epochs']} epochs of {event['steps']} steps of {event['batch_size']} samples, "
            f"{event['parameters']} parameters, on {event['device']}"
        )
    if event["event"] == "step":
        rate, left = event.get("slices_per_second"), event.get("seconds_left")
        pace = f", {rate:.1f} samples/s" if rate else ""
        return f"step {event['step']}: loss {event['loss']:.4f}{pace}{f', {_duration(left)} left' if left else ''}"
    figures = ", ".join(f"{k} {v:.4g}" for k, v in event.items() if isinstance(v, float))
    return f"epoch {event['epoch']}: {figures}; best epoch {event['best_epoch']}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
