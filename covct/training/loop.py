"""Training: one network a task, whole patients held out, the best epoch kept, a card beside the weights.

Pure Keras 3 (no `tf.*`): runs the same on tensorflow and on jax. The loop is our own, not `fit`: a checkpoint after any
step holds all that decides the next one, so that a training that was killed ends with the weights of one that was not.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import keras
import numpy as np

from covct.data.leakage import ancestors_of, has_learned_from, untold
from covct.disk.durable import output_errors
from covct.disk.signals import unbroken
from covct.disk.state import lock
from covct.errors import Stopped, UsageError
from covct.networks.cards import Card, file_sha256, read_card
from covct.networks.segment import device_in_use, load_network, start_from_backbone
from covct.training import checkpoints, histories
from covct.training.average import RunningAverage
from covct.training.batches import batches, sample_seed
from covct.training.build import arguments_of, build, check, compiled, started
from covct.training.curves import write_progress
from covct.training.events import EpochEvents
from covct.training.fingerprint import differences, fingerprint
from covct.training.finish import finish, leak_of
from covct.training.folds import keep_folds
from covct.training.not_a_number import refuse_what_is_not_a_number
from covct.training.progress import Pace, Progress
from covct.training.samples import lesions
from covct.training.samples.plan import Plan
from covct.training.samples.plans import PLANS
from covct.training.samples.reading import Readings
from covct.training.schedules import SCHEDULES
from covct.training.settings import Settings, with_defaults
from covct.training.validation import Examples, parts_of, validate

CHECKPOINT_STEPS = 100
OWN_SPLIT = "use its --seed and --split or --folds"
OWN_RESTORER = "it is the shipped restorer: train one of your own (covct train restorer) and name it with --restorer"
Report = Callable[[dict[str, Any]], None]


def train(
    settings: Settings,
    data: Path,
    out: Path,
    initial: Path | None = None,
    restorer: Path | None = None,
    resume: bool = False,
    checkpoint_steps: int = CHECKPOINT_STEPS,
    workers: int | None = None,
    report: Report = lambda event: None,
    readings: Readings | None = None,
    backbone: Path | None = None,
    most_epochs: int | None = None,
) -> Card:
    """Train one network and write `<task>.keras` with its card and history into `out`.

    Parameters
    ----------
    data : Path
        Folder with the sources `find_sources` recognises.
    out : Path
        With folds, each fold's files go to `out`/fold-I, and the assignment to `out`/folds.json.
    initial : Path, optional
        A card to start the weights from.
    restorer : Path, optional
        The restorer's card; needed where 8-bit CLAHE slices are among the data.
    resume : bool
        Go on from the last checkpoint, if there is one. On one thread of a CPU the weights come out bit by bit as of a
        training that was never stopped; with more threads sums are taken in the order that they come in.
    checkpoint_steps : int
        A checkpoint after as many steps, and after each epoch.
    workers : int, optional
        Threads that draw samples. Default: half of the CPUs, at most 8.
    report : function (event)
        Told of what happens: {"event": "started" | "step" | "epoch" | "note", ...}.
    readings : Readings, optional
        Given to every call, several folds and networks learn from data that are read once.
    backbone : Path, optional
        Published ResNet50 weights (`segment.start_from_backbone`) that a deeplabv3-plus starts from.
    most_epochs : int, optional
        The training pauses there, with a card of the best so far; `resume` goes on.

    Raises
    ------
    UsageError
        The settings, data or networks do not fit each other or the checkpoint.
    WeightsError
        A file to start from cannot be read, or does not fit.
    NotANumber
        The loss is not a number any more; the last good checkpoint stays.
    OutputNotWritable, OutputLocked, CheckpointError
    """
    folder = out / f"fold-{settings.fold}" if settings.folds else out
    with lock(folder):
        plan, network, facts = prepare(settings, data, out, initial, restorer, readings, backbone, report)
        if plan.on_both_sides:
            report({"event": "note", "text": leak_of(plan)})
        started_from = read_card(initial) if initial else None  # now: the new card may take its place
        if started_from and (hashes := ", ".join(sha256[:12] for sha256 in untold(started_from))):
            report({"event": "note", "text": f"{initial}: no card says which patients these were trained on: {hashes}"})
        run = _Run(settings, plan, network, folder, facts, checkpoint_steps, report)
        if resume:
            run.go_on()
        else:
            run.begin()
        run.train(workers or min(8, max(1, len(os.sched_getaffinity(0)) // 2)), most_epochs)
        told = facts | ({"ancestors": ancestors_of(started_from)} if started_from else {})
        return finish(run.best_weights(), settings, plan, run.progress, folder, told)


def prepare(
    settings: Settings,
    data: Path,
    out: Path,
    initial: Path | None,
    restorer: Path | None,
    readings: Readings | None = None,
    backbone: Path | None = None,
    report: Report = lambda event: None,
) -> tuple[Plan, keras.Model, dict[str, Any]]:
    """Plan, compiled network, and the facts that must be the same for a training to go on."""
    check(settings)
    if backbone:
        _check_backbone(settings, initial)
    keras.utils.set_random_seed(settings.seed)
    report({"event": "note", "text": f"reading {data}"})
    reading = (readings or Readings()).of(data, restorer)
    plan = PLANS[settings.task](reading, settings)
    if settings.architecture == lesions.NETWORK:
        plan = lesions.of_lesions(plan)
    if settings.folds:
        keep_folds(out, plan.patients, settings)
    network = build(settings, plan.size)
    facts: dict[str, Any] = {
        "settings": asdict(settings),
        "data": {name: fingerprint(folder, out) for name, folder in reading.sources.items() if name in plan.sources},
        "slices": plan.slices,
        "held_out_patients": plan.held_out,
        "backend": keras.backend.backend(),
    }
    if initial:
        card, trained = load_network(initial)
        _refuse_a_leak(plan, card, plan.held_out)
        weights = started(network, trained)
        if weights is None:
            raise UsageError(
                f"{initial}: a {card.architecture.name} with {card.architecture.arguments}, "
                f"wanted a {settings.architecture} with {arguments_of(settings, plan.size)}"
            )
        network.set_weights(weights)
        facts["initial"] = {"task": card.task, "sha256": card.sha256, "epochs": card.training.get("epochs")}
    if backbone:
        start_from_backbone(network, backbone)
        facts["backbone"] = {"sha256": file_sha256(backbone)}
    if used := reading.restored_by:
        if not restorer:
            report({"event": "note", "text": f"8-bit CLAHE slices are brought to HU by the shipped restorer, {used}"})
        _refuse_a_leak(plan, read_card(used), plan.restored, OWN_SPLIT if restorer else OWN_RESTORER)
        facts["restorer"] = {"sha256": read_card(used).sha256}
    return plan, compiled(network, settings, plan.loss), facts


def _check_backbone(settings: Settings, initial: Path | None) -> None:
    if initial:
        raise UsageError("--backbone and --initial: wanted only one of them")
    if settings.architecture != "deeplabv3-plus":
        raise UsageError(f"--backbone: {settings.architecture} has no ResNet50; wanted --architecture deeplabv3-plus")


def _refuse_a_leak(plan: Plan, earlier: Card, judged: Iterable[str], mend: str = OWN_SPLIT) -> None:
    """A patient held out now must not have been learned from before, by the network started from or the restorer.

    judged : the sources that the earlier network has a hand in. A restorer is never asked of HU slices, so that the
    people whose scans taught it may still be held out as they are.
    """
    for source in judged:
        seen = {patient for patient in plan.held_out[source] if has_learned_from(earlier, source, patient)}
        if seen:
            raise UsageError(
                f"{earlier.name} was trained on {', '.join(sorted(seen))}, or started from a network that was, and "
                f"would be validated on them here; {mend}"
            )


class _Run:
    """One training: network, optimizer, running average and progress, which together are a checkpoint."""

    def __init__(
        self,
        settings: Settings,
        plan: Plan,
        network: keras.Model,
        folder: Path,
        facts: dict[str, Any],
        checkpoint_steps: int,
        report: Report,
    ):
        self.settings: Settings = settings
        self.plan: Plan = plan
        self.network: keras.Model = network
        self.out: Path = folder
        self.folder: Path = folder / "checkpoints" / settings.task
        self.facts: dict[str, Any] = facts
        self.sample_seed = sample_seed(settings.seed, facts.get("initial", {}).get("sha256"))
        self.checkpoint_steps: int = checkpoint_steps
        self.report: Report = report
        self.progress = Progress()
        self.average = RunningAverage(settings.ema, network.get_weights()) if settings.ema else None
        self.lower_is_better = settings.task == "restorer"
        self.monitor = "val_loss" if self.lower_is_better else "val_dice"
        self.pace = Pace()
        self.written: tuple[int, int, bool] | None = None
        self.bests: deque[str | None] = deque(maxlen=checkpoints.KEPT)  # as the kept checkpoints name them
        self.tensorboard: Path = folder / "tensorboard" / settings.task
        self.parts = parts_of(plan)
        self.examples = Examples.of(self.parts, settings.task)

    def begin(self) -> None:
        """From the start; an unfinished training that lies here is not thrown away for it."""
        before = checkpoints.read_checkpoint(self.folder)
        if before and not before.state["progress"]["finished"]:
            at = before.state["progress"]
            raise UsageError(
                f"{self.folder}: an unfinished training of {self.settings.task}, epoch {at['epoch'] + 1}, "
                f"step {at['step']}: continue with --resume, or remove that folder to start over"
            )
        checkpoints.forget_all(self.folder)

    def go_on(self) -> None:
        """Bring back the last whole checkpoint; from the start where there is none.

        Raises
        ------
        UsageError
            It was made with other settings or data.
        """
        before = checkpoints.read_checkpoint(self.folder)
        if before is None:
            self.report({"event": "note", "text": f"no checkpoint in {self.folder}: starting from the beginning"})
            return
        stored = before.state["facts"]
        stored = {**stored, "settings": histories.plain(with_defaults(stored["settings"]))}
        if other := differences(stored, self._facts()):
            raise UsageError(f"{before.path}: made with other settings or data: {'; '.join(other)}")
        for name, variable in self._variables().items():
            if name not in before.arrays or before.arrays[name].shape != tuple(variable.shape):
                got = before.arrays[name].shape if name in before.arrays else "nothing"
                raise UsageError(f"{before.path}: {name} is {got}, wanted {tuple(variable.shape)}: another network")
            variable.assign(before.arrays[name])
        if self.average:
            self.average.arrays = [before.arrays[f"average/{i}"] for i in range(len(self.average.arrays))]
        self.progress = Progress(**before.state["progress"])
        self.bests.append(self.progress.best_file)
        text = f"resuming at epoch {self.progress.epoch + 1}, step {self.progress.step}, from {before.path.name}"
        self.report({"event": "note", "text": "finished before" if self.progress.finished else text})

    def _facts(self) -> dict[str, Any]:
        """As they come back from a checkpoint."""
        facts: dict[str, Any] = histories.plain(self.facts)
        return facts

    def _variables(self) -> dict[str, Any]:
        """All that a step changes: weights, moving statistics, the state of random layers, and the optimizer's."""
        network = {f"network/{i}": v for i, v in enumerate(self.network.variables)}
        return network | {f"optimizer/{i}": v for i, v in enumerate(self.network.optimizer.variables)}

    def train(self, workers: int, most_epochs: int | None = None) -> None:
        """The epochs that are left, up to `most_epochs` in all."""
        p, steps = self.progress, self.settings.steps_per_epoch
        self.end = min(self.settings.epochs, most_epochs or self.settings.epochs)
        if p.finished or p.epoch >= self.end:
            return
        self.report(
            {
                "event": "started", "task": self.settings.task, "epochs": self.end, "steps": steps,
                "batch_size": self.settings.batch_size, "parameters": self.network.count_params(),
                "device": device_in_use().name,
            }
        )  # fmt: skip
        with output_errors(self.out):
            told = EpochEvents(self.tensorboard, p.history)
        places = ((e, s) for e, s in product(range(self.end), range(steps)) if (e, s) >= (p.epoch, p.step))
        drawn = batches(self.plan.draw, self.settings.batch_size, self.sample_seed, places, workers)
        try:
            while p.epoch < self.end and not self._is_enough():
                while p.step < steps:
                    self._step(*next(drawn))
                self._end_epoch(told)
            p.finished = p.epoch == self.settings.epochs or self._is_enough()
            self._checkpoint()
        except Stopped:
            with unbroken():
                self._checkpoint()
            raise
        finally:
            drawn.close()
            told.close()

    def _is_enough(self) -> bool:
        return bool(self.settings.patience) and self.progress.waited >= self.settings.patience

    def _step(self, x: np.ndarray, truth: np.ndarray) -> None:
        p, settings = self.progress, self.settings
        done = p.epoch * settings.steps_per_epoch + p.step
        share = SCHEDULES[settings.schedule](done, settings.steps) * 0.5**p.halvings
        with unbroken():
            self.network.optimizer.learning_rate = settings.learning_rate * share
            logs = self.network.train_on_batch(x, truth, return_dict=True)
            refuse_what_is_not_a_number(
                float(logs["loss"]), self.network, settings, self.plan, p, (x, truth), self.sample_seed
            )
            p.add([float(np.asarray(variable)) for variable in self.network.metrics_variables])
            if self.average and self.average.is_due(done + 1):
                self.average.take(self.network.get_weights(), done + 1)
            if p.step % self.checkpoint_steps == 0 and p.step < settings.steps_per_epoch:
                self._checkpoint()
        now = time.monotonic()
        self.pace.tick(now)
        rate = self.pace.per_second(now)
        self.report(
            {
                "event": "step", "epoch": p.epoch + 1, "step": p.step, "loss": float(logs["loss"]),
                "slices_per_second": rate and round(rate * settings.batch_size, 2),
                "seconds_left": self.pace.seconds_left(now, self.end * settings.steps_per_epoch - done - 1),
            }
        )  # fmt: skip

    def _end_epoch(self, told: EpochEvents) -> None:
        """Validate, remember what is best, write the logs and a checkpoint."""
        p, settings = self.progress, self.settings
        for variable, total in zip(self.network.metrics_variables, p.sums, strict=True):
            variable.assign(total)
        logs = {name: float(np.asarray(value)) for name, value in self.network.get_metrics_result().items()}
        logs["learning_rate"] = float(np.asarray(self.network.optimizer.learning_rate))
        score, best, picture = None, None, None
        with self._averaged_weights():
            if self.parts:
                logs |= validate(self.network, self.parts, settings.batch_size)
                score = logs[self.monitor]
            if self.examples:
                picture = self.examples.draw(self.network)
            better = score is None or p.is_better(score, self.lower_is_better)
            if better:
                best = {str(i): array for i, array in enumerate(self.network.get_weights())}
        with unbroken():
            if best:
                p.best_file = checkpoints.write_arrays(self.folder, f"best-{p.epoch:05d}", best, {}).name
            p.end_epoch(logs, better, score, settings.schedule == "plateau")
            histories.write(self.out, settings.task, p.history)
            write_progress(self.out, settings.task, p.history, p.best_epoch, self.end)
            with output_errors(self.out):
                told.add(p.epoch, logs, picture)
            self._checkpoint()
        self.report({"event": "epoch", "epoch": p.epoch, "best_epoch": (p.best_epoch or 0) + 1, **logs})

    @contextmanager
    def _averaged_weights(self) -> Iterator[None]:
        """Within, the network has the running average of its weights."""
        if not self.average:
            yield
            return
        own = self.network.get_weights()
        try:
            self.network.set_weights(self.average.arrays)
            yield
        finally:
            self.network.set_weights(own)

    def _checkpoint(self) -> None:
        p = self.progress
        if self.written == (p.epoch, p.step, p.finished):
            return
        arrays = {name: np.asarray(variable) for name, variable in self._variables().items()}
        if self.average:
            arrays |= {f"average/{i}": array for i, array in enumerate(self.average.arrays)}
        done = p.epoch * self.settings.steps_per_epoch + p.step
        checkpoints.write_checkpoint(self.folder, done, arrays, {"facts": self.facts, "progress": asdict(p)})
        self.written = (p.epoch, p.step, p.finished)
        self.bests.append(p.best_file)
        checkpoints.forget_other_bests(self.folder, set(self.bests))

    def best_weights(self) -> list[np.ndarray]:
        if self.progress.best_file is None:
            raise UsageError("no epoch had a finite validation score: no weights to keep")
        stored = checkpoints.read_arrays(self.folder / self.progress.best_file).arrays
        return [stored[str(i)] for i in range(len(stored))]
