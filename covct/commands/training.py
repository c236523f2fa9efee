"""One training as it was asked for: its samples shown, its learning rate found, its folds trained, what it tells."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from covct.commands.bars import QUIET_S, Bar, progress
from covct.commands.console import plain, stderr
from covct.commands.quiet import quiet_tensorflow
from covct.commands.recipe import command_line, write_recipe
from covct.commands.train_options import Asked, Task
from covct.disk.signals import stoppable
from covct.errors import DeviceMissing, RunError, Stopped, UsageError, whereabouts
from covct.unattended.logs import LogFormat

if TYPE_CHECKING:
    from covct.training.samples.reading import Readings
    from covct.training.settings import Settings

RANGE_TEST_STEPS = 100
OF_DIAGNOSIS = ("task", "data", "out", "initial", "seed", "exact", "log_format")  # options that it takes
Report = Callable[[dict[str, Any]], None]


def run(asked: Asked, readings: Readings | None = None) -> None:
    """Do what was asked for; `readings`: what was read for another training before, and will be for the next."""
    check(asked)
    if asked.exact:
        compute_on_one_thread()
    if asked.task is Task.diagnosis:
        _train_diagnosis(asked)
        return
    if _all_folds(asked) and asked.parallel and not asked.find_lr and _in_parallel(asked):
        return
    with progress("loading Keras", asked.log_format == LogFormat.json), quiet_tensorflow():
        settings = settings_of(asked)
    if asked.show_augmented:
        _show_augmented(asked, settings)
        return
    with _told(asked, settings.epochs * settings.steps_per_epoch) as report, _resumable():
        if asked.find_lr:
            _find_learning_rate(asked, settings, report)
            return
        _train_folds(asked, settings, report, readings)
    if asked.folds:
        _summarise(asked)


def check(asked: Asked) -> None:
    """Refuse what does not go together, before anything heavy is loaded."""
    if not asked.data.is_dir():
        raise UsageError(f"no such directory: {asked.data}")
    if asked.fold is not None and not asked.folds:
        raise UsageError(f"--fold {asked.fold}: the number of folds is missing; give --folds")
    if asked.ema >= 1:
        raise UsageError(f"--ema {asked.ema}: wanted a decay below 1, such as 0.99")
    if asked.task is Task.diagnosis and (beside := _not_of_diagnosis(asked)):
        raise UsageError(f"diagnosis fits heads on a network that is there: {beside} means nothing to it")
    if asked.cross_validated and asked.split != "none":
        raise UsageError("--cross-validated is for weights trained on all patients; wanted --split none")


def _not_of_diagnosis(asked: Asked) -> str:
    """The first option that asks for something else than the fit of heads takes; empty where there is none."""
    others = (one for one in fields(asked) if one.name not in OF_DIAGNOSIS)
    return next((f"--{one.name.replace('_', '-')}" for one in others if getattr(asked, one.name) != one.default), "")


def _train_diagnosis(asked: Asked) -> None:
    """Heads on a frozen encoder: no epochs, no checkpoints."""
    with _told(asked, 0) as report:
        with quiet_tensorflow():
            from covct.training.diagnosis import train_diagnosis
        told = train_diagnosis(asked.data, asked.out, asked.initial, asked.seed, report)
    card = str(asked.out / "diagnosis.json")
    typer.echo(json.dumps({"card": card, "notice": told.notice, "scores": told.scores}))


def compute_on_one_thread() -> None:
    """Before keras is loaded: sums are then taken in one order."""
    for variable in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[variable] = "1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false"


def _all_folds(asked: Asked) -> bool:
    return bool(asked.folds) and asked.fold is None


def settings_of(asked: Asked) -> Settings:
    """What decides the weights."""
    from covct.architectures import architecture_name
    from covct.training.cross_validation import threshold_of
    from covct.training.samples.empty_slices import NETWORK
    from covct.training.samples.inputs import VOLUMETRIC, parse_distances, parse_patch, parse_three
    from covct.training.settings import Settings

    threshold = asked.threshold
    if asked.cross_validated and threshold is None:
        threshold = threshold_of(asked.cross_validated, asked.task.value)
    name = architecture_name(asked.architecture or (NETWORK if asked.task is Task.empty_slices else "unet"))
    return Settings(
        task=asked.task.value, epochs=asked.epochs, samples_per_epoch=asked.samples,
        batch_size=asked.batch_size or (1 if name == VOLUMETRIC else 8), learning_rate=asked.learning_rate,
        base_filters=asked.base_filters, architecture=name, loss=asked.loss, optimizer=asked.optimizer.value,
        schedule=asked.schedule.value, clip_norm=asked.clip_norm, patience=asked.patience, ema=asked.ema,
        split=asked.split, folds=asked.folds, fold=asked.fold or 0, threshold=threshold, seed=asked.seed,
        mixed_precision=asked.mixed_precision, augment=asked.augment.value, recipe=asked.recipe,
        field_of_view=asked.field_of_view, size=asked.size, leave_out=tuple(filter(None, asked.leave_out.split(","))),
        neighbours=asked.neighbours, neighbours_mm=parse_distances(asked.neighbours_mm), patch=parse_patch(asked.patch),
        spacing_mm=parse_three("--spacing", asked.spacing), classes=asked.classes,
        norm=asked.norm.value if asked.norm else None,
    )  # fmt: skip


def _show_augmented(asked: Asked, settings: Settings) -> None:
    from covct.training.samples.sheet import write_augmented

    restorer = card_of(asked.restorer, settings.fold)
    with progress(f"reading {asked.data}", asked.log_format == LogFormat.json) as bar:
        sheet = write_augmented(settings, asked.data, asked.out, restorer, asked.show_augmented, bar.at)
    typer.echo(json.dumps({"sheet": str(sheet)}))


def _find_learning_rate(asked: Asked, settings: Settings, report: Report) -> None:
    with quiet_tensorflow():
        from covct.training.find_lr import find_learning_rate

    initial, restorer = card_of(asked.initial, settings.fold), card_of(asked.restorer, settings.fold)
    found = find_learning_rate(
        settings, asked.data, asked.out, initial, restorer, RANGE_TEST_STEPS, report=report, backbone=asked.backbone
    )
    plot = str(asked.out / f"{asked.task.value}-find-lr.svg")
    tried = [asdict(trial) for trial in found.trials]
    typer.echo(json.dumps({"learning_rate": found.suggestion, "plot": plot, "tried": tried}))


def _train_folds(asked: Asked, settings: Settings, report: Report, kept: Readings | None) -> None:
    """One network, or one after another where all folds are wanted."""
    with quiet_tensorflow():
        from covct.training.cross_validation import credit
        from covct.training.loop import train
        from covct.training.samples.reading import Readings

    all_folds = _all_folds(asked)
    readings = kept or (Readings() if all_folds else None)  # what was read is kept for the next fold
    for number in range(asked.folds) if all_folds else [settings.fold]:
        folder = asked.out / f"fold-{number}" if asked.folds else asked.out
        card = train(
            replace(settings, fold=number), asked.data, asked.out, card_of(asked.initial, number),
            card_of(asked.restorer, number), asked.resume, asked.checkpoint_steps, asked.workers,
            _with_recipe(report, asked, asked.out if all_folds else folder), readings, asked.backbone,
        )  # fmt: skip
        if asked.cross_validated:
            card = credit(card, asked.cross_validated, folder)
        _convert(folder / f"{card.name}.json", card.task, report)
        typer.echo(json.dumps({"card": str(folder / f"{card.name}.json"), "scores": card.scores}))


def _convert(card: Path, task: str, report: Report) -> None:
    """Also for OpenVINO. A training of days must not be lost to a conversion of seconds: what prevents it is noted."""
    from covct.networks.runtimes import is_installed

    if task == "restorer":
        return
    try:
        if not is_installed("openvino"):
            raise DeviceMissing("it is not installed: pip install 'covct[cpu]', then covct export openvino")
        from covct.networks.to_openvino import convert

        convert(card)
        text = f"{card.name}: converted for OpenVINO too"
    except Exception as error:
        reason = error if isinstance(error, RunError) else whereabouts(error)
        text = f"{card.name}: not converted for OpenVINO ({reason}); scans on a CPU take TensorFlow"
    report({"event": "note", "text": text})


def _with_recipe(report: Report, asked: Asked, folder: Path) -> Report:
    """Also write the recipe, once the training begins: one that is refused must not replace an earlier one's."""

    def reported(event: dict[str, Any]) -> None:
        if event["event"] == "started":
            write_recipe(asked, folder)
        report(event)

    return reported


def card_of(card: Path | None, fold: int) -> Path | None:
    return Path(str(card).replace("{fold}", str(fold))) if card else None


def _in_parallel(asked: Asked) -> bool:
    """A process a fold, on all GPUs; False where there are not two of them."""
    from covct.training.cross_validation import gpus, run_in_parallel

    devices = gpus()
    if len(devices) < 2:
        typer.echo(f"covct: --parallel: {len(devices)} GPU found, so the folds are trained one after another", err=True)
        return False
    commands = {
        number: [sys.executable, "-m", "covct", *command_line(replace(asked, parallel=False, fold=number))]
        for number in range(asked.folds)
    }
    with _resumable():
        run_in_parallel(commands, devices, lambda event: typer.echo(json.dumps(event), err=True))
    write_recipe(asked, asked.out)
    _summarise(asked)
    return True


def _summarise(asked: Asked) -> None:
    from covct.training.cross_validation import summarise

    typer.echo(json.dumps(summarise(asked.out, asked.task.value, asked.folds)))


@contextmanager
def _resumable() -> Iterator[None]:
    """A stop signal ends the training behind its checkpoint, with exit code 130."""
    try:
        with stoppable():
            yield
    except Stopped as stopped:
        typer.echo(f"covct: stopped by {stopped}; the checkpoint is written, continue with --resume", err=True)
        raise typer.Exit(130) from stopped


@contextmanager
def _told(asked: Asked, steps: int) -> Iterator[Report]:
    """Where events go: JSON lines, a bar on a terminal, or a line now and then."""
    if asked.log_format == LogFormat.json:
        yield _seldom(lambda event: stderr.print(json.dumps(event), markup=False, highlight=False, soft_wrap=True))
    elif not stderr.is_terminal:
        yield _seldom(lambda event: stderr.print(_sentence(event), markup=False, highlight=False, soft_wrap=True))
    else:
        counts = {"all": steps, "epoch": 0, **({"part": RANGE_TEST_STEPS} if asked.find_lr else {})}
        with progress("preparing", time_left=False) as bar:
            yield partial(_draw, bar, counts)


def _draw(bar: Bar, steps: dict[str, int], event: dict[str, Any]) -> None:
    """One event on a terminal; `steps` are all, of an epoch, and of each part of a range test, where it is one."""
    if event["event"] == "started":
        steps["epoch"] = event["steps"]
    if event["event"] != "step":
        bar.print(plain(_sentence(event)))
    elif "part" in steps:
        bar.say("range test" if event["epoch"] == 1 else f"short training {event['epoch'] - 1}")
        bar.at(event["step"], steps["part"], _sentence(event))
    else:
        bar.say(f"epoch {event['epoch']}")
        bar.at((event["epoch"] - 1) * steps["epoch"] + event["step"], steps["all"], _sentence(event))


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
        text: str = event["text"]
        return text
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
