"""The learning-rate range test (Smith 2017), and a short training at the rate that it suggests.

The test climbs from nothing to too much in one short training. What it tells is rough: each rate is seen for a step or
two. So the rate that it suggests is trained at for as many steps, and is taken only if the loss falls there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from covct.disk.durable import output_errors, replace_file, replace_json
from covct.errors import UsageError
from covct.html import render
from covct.training.batches import batches
from covct.training.loop import prepare
from covct.training.samples.plan import Plan
from covct.training.schedules import SCHEDULES
from covct.training.settings import Settings

LOWEST, HIGHEST = 1e-6, 1.0
SMOOTH_DECADES = 0.2  # standard deviation of the window that smooths the curve
TOO_MUCH = 4.0  # times the least smoothed loss: there is nothing more to see
EDGE_DECADES = 0.5  # at the lowest rates, where slopes are noise
BEFORE_LEAST = 10.0  # a rate so many times below that of the least loss is well before it
LOWER = 10**0.5  # how much lower the next rate is, where one does not train
TRIALS = 5
WORTH = 0.5  # of the fall of the range test: a short training at a good rate falls at least so far
FEW = 10  # steps whose mean tells where a short training begins, and where it ends
WIDTH, HEIGHT = 640, 360  # of the plot; its axes lie within
LEFT, RIGHT, TOP, BOTTOM = 60, 620, 30, 310
Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Trial:
    """A short training at one rate: its steps, the loss of its first and last ones, their Dice, and whether it fell.

    `last` and `dice` are None where the loss was no number any more, `dice` also where the task has none.
    """

    rate: float
    steps: int
    first: float
    last: float | None
    dice: float | None
    trains: bool


@dataclass(frozen=True)
class RangeTest:
    """Rates, the smoothed loss at each, the rate that is suggested, and the short trainings that led to it."""

    rates: list[float]
    losses: list[float]
    suggestion: float
    trials: list[Trial] = field(default_factory=list)


def find_learning_rate(
    settings: Settings,
    data: Path,
    out: Path,
    initial: Path | None = None,
    restorer: Path | None = None,
    steps: int = 100,
    workers: int = 1,
    report: Report = lambda event: None,
    backbone: Path | None = None,
) -> RangeTest:
    """Run the range test on the training data and a short training at the rate it suggests, at lower ones if need be.

    Writes `out`/TASK-find-lr.svg and .json. Nothing is trained for good.

    Raises
    ------
    UsageError
        The loss fell in neither.
    """
    plan, network, _ = prepare(settings, data, out, initial, restorer, backbone=backbone, report=report)
    lab = _Lab(settings, plan, network, steps, workers, report)
    rates, losses = lab.range_test()
    smooth = smoothed(rates, losses)
    rate = suggest(rates, smooth)
    least = int(np.argmin(smooth))
    trials = list(_try_out(lab, rate, max(smooth[: least + 1]) - smooth[least]))
    if not trials[-1].trains:
        tried = ", ".join(f"{trial.rate:g}" for trial in trials)
        raise UsageError(
            f"--find-lr: in short trainings at {tried} the loss did not fall by half of what it fell in the range "
            "test; more --samples, another --loss or other data are needed"
        )
    found = RangeTest(rates, smooth, trials[-1].rate, trials)
    with output_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        replace_json(out / f"{settings.task}-find-lr.json", asdict(found))
        replace_file(out / f"{settings.task}-find-lr.svg", draw_plot(found), to_disk=False)
    return found


def _try_out(lab: _Lab, rate: float, fall: float) -> Iterator[Trial]:
    """Short trainings at the rate and at lower ones, up to the first at which the loss falls."""
    for number in range(TRIALS):
        trial = lab.try_out(_round(rate / LOWER**number), number + 2, fall)
        lab.report({"event": "note", "text": told(trial)})
        yield trial
        if trial.trains:
            return


def told(trial: Trial) -> str:
    """What a short training gave, in a sentence."""
    to = "what is no number" if trial.last is None else f"{trial.last:.3f}"
    dice = "" if trial.dice is None else f", Dice {trial.dice:.2f}"
    verdict = "it trains" if trial.trains else "too high, a lower rate is tried"
    return f"a short training of {trial.steps} steps at {trial.rate:g}: loss {trial.first:.3f} to {to}{dice}: {verdict}"


class _Lab:
    """A network that is trained from the same beginning again and again."""

    def __init__(self, settings: Settings, plan: Plan, network: keras.Model, steps: int, workers: int, report: Report):
        self.settings, self.plan, self.network = settings, plan, network
        self.steps, self.workers, self.report = steps, workers, report
        self.variables = [*network.variables, *network.optimizer.variables]
        self.beginning = [np.array(variable) for variable in self.variables]

    def range_test(self) -> tuple[list[float], list[float]]:
        """Rates and the loss of the step at each, up to where it is too much."""
        rates: list[float] = []
        losses: list[float] = []

        def climbing(step: int) -> float:
            return float(LOWEST * (HIGHEST / LOWEST) ** (step / max(1, self.steps - 1)))

        for rate, logs in self._train(climbing, 1):
            rates.append(rate)
            losses.append(logs["loss"])
            smooth = smoothed(rates, losses)
            if smooth[-1] > TOO_MUCH * min(smooth):
                break
        return rates, losses

    def try_out(self, rate: float, number: int, fall: float) -> Trial:
        """A short training at a rate by the schedule that was asked for; `fall` is that of the range test."""

        def scheduled(step: int) -> float:
            return rate * SCHEDULES[self.settings.schedule](step, self.steps)

        seen = [logs for _, logs in self._train(scheduled, number)]
        first = float(np.mean([logs["loss"] for logs in seen[:FEW]])) if seen else math.nan
        if len(seen) < self.steps:
            return Trial(rate, len(seen), first, None, None, False)
        end = seen[-FEW:]
        last = float(np.mean([logs["loss"] for logs in end]))
        dice = float(np.mean([logs["dice"] for logs in end])) if "dice" in end[0] else None
        return Trial(rate, len(seen), first, last, dice, first - last >= WORTH * fall and dice != 0)

    def _train(self, rate_at: Callable[[int], float], number: int) -> Iterator[tuple[float, dict[str, float]]]:
        """Step by step from the beginning, up to the first loss that is no number."""
        for variable, value in zip(self.variables, self.beginning, strict=True):
            variable.assign(value)
        places = ((0, step) for step in range(self.steps))
        drawn = batches(self.plan.draw, self.settings.batch_size, self.settings.seed, places, self.workers)
        try:
            for step, (x, truth) in enumerate(drawn):
                rate = rate_at(step)
                self.network.optimizer.learning_rate = rate
                got = self.network.train_on_batch(x, truth, return_dict=True)
                logs = {name: float(value) for name, value in got.items()}
                if not math.isfinite(logs["loss"]):
                    return
                self.report(
                    {"event": "step", "epoch": number, "step": step + 1, "loss": logs["loss"], "learning_rate": rate}
                )
                yield rate, logs
        finally:
            drawn.close()


def smoothed(rates: list[float], losses: list[float]) -> list[float]:
    """The loss at each rate as the mean of those around it, weighted by a Gaussian over decades: nothing lags."""
    decades = np.log10(rates)
    weights = np.exp(-0.5 * ((decades[:, None] - decades[None]) / SMOOTH_DECADES) ** 2)
    smooth: list[float] = (weights @ np.array(losses) / weights.sum(1)).tolist()
    return smooth


def suggest(rates: list[float], losses: list[float]) -> float:
    """Of a smoothed curve the rate at which the loss falls fastest by decade, well before its least value."""
    least = int(np.argmin(losses)) if losses else 0
    if least < 2:
        raise UsageError("--find-lr: the loss never fell; more --samples, another --loss or other data are needed")
    decades = np.log10(rates)
    slopes = np.gradient(np.array(losses), decades)
    there = (decades >= decades[0] + EDGE_DECADES) & (decades <= decades[least] - math.log10(BEFORE_LEAST))
    if not there.any():
        return _round(rates[least] / BEFORE_LEAST)
    return _round(rates[int(np.flatnonzero(there)[np.argmin(slopes[there])])])


def _round(rate: float) -> float:
    return float(f"{rate:.2g}")


def draw_plot(found: RangeTest) -> str:
    """Loss over rate, the rate in decades, as an SVG text."""
    low, high = math.log10(LOWEST), math.log10(HIGHEST)
    least, most = min(found.losses), max(found.losses)

    def across(rate: float) -> float:
        return LEFT + (math.log10(rate) - low) / (high - low) * (RIGHT - LEFT)

    def up(loss: float) -> float:
        return TOP + (most - loss) / ((most - least) or 1.0) * (BOTTOM - TOP)

    return render(
        "find-lr.svg",
        width=WIDTH, height=HEIGHT, left=LEFT, right=RIGHT, top=TOP, bottom=BOTTOM,
        decades=[(across(10.0**decade), decade) for decade in range(round(low), round(high) + 1)],
        levels=[(up(loss), loss) for loss in (least, most)],
        line=[(across(rate), up(loss)) for rate, loss in zip(found.rates, found.losses, strict=True)],
        chosen=across(found.suggestion),
        suggestion=found.suggestion,
    )  # fmt: skip
