"""The learning-rate range test (Smith 2017): one short training in which the rate climbs from nothing to too much."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from covct.disk.durable import output_errors, replace_json
from covct.errors import UsageError
from covct.html import render
from covct.training.batches import batches
from covct.training.loop import prepare
from covct.training.settings import Settings

LOWEST, HIGHEST = 1e-6, 1.0
STEPS = 100
SMOOTHING = 0.9
TOO_MUCH = 4.0  # times the least loss: there is nothing more to see
EDGE = 5  # steps whose slope is not looked at: the smoothed loss settles
WIDTH, HEIGHT = 640, 360  # of the plot; its axes lie within
LEFT, RIGHT, TOP, BOTTOM = 60, 620, 30, 310


@dataclass(frozen=True)
class RangeTest:
    """Rates, the smoothed loss at each, and the rate at which the loss falls fastest."""

    rates: list[float]
    losses: list[float]
    suggestion: float


def find_learning_rate(
    settings: Settings,
    data: Path,
    out: Path,
    initial: Path | None = None,
    restorer: Path | None = None,
    steps: int = STEPS,
    workers: int = 1,
    report: Callable[[dict[str, Any]], None] = lambda event: None,
    backbone: Path | None = None,
) -> RangeTest:
    """Run the range test on the training data; write `out`/TASK-find-lr.svg and .json. Nothing is trained for good."""
    plan, network, _ = prepare(settings, data, out, initial, restorer, backbone=backbone)
    rates: list[float] = []
    losses: list[float] = []
    smooth = 0.0
    drawn = batches(plan.draw, settings.batch_size, settings.seed, ((0, step) for step in range(steps)), workers)
    try:
        for step, (x, truth) in enumerate(drawn):
            rate = LOWEST * (HIGHEST / LOWEST) ** (step / max(1, steps - 1))
            network.optimizer.learning_rate = rate
            loss = float(network.train_on_batch(x, truth, return_dict=True)["loss"])
            smooth = SMOOTHING * smooth + (1 - SMOOTHING) * loss
            unbiased = smooth / (1 - SMOOTHING ** (step + 1))
            if not math.isfinite(unbiased) or (losses and unbiased > TOO_MUCH * min(losses)):
                break
            rates.append(rate)
            losses.append(unbiased)
            report({"event": "step", "epoch": 1, "step": step + 1, "loss": loss, "learning_rate": rate})
    finally:
        drawn.close()
    found = RangeTest(rates, losses, suggest(rates, losses))
    with output_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        replace_json(out / f"{settings.task}-find-lr.json", found.__dict__)
        (out / f"{settings.task}-find-lr.svg").write_text(draw_plot(found))
    return found


def suggest(rates: list[float], losses: list[float]) -> float:
    """The rate at which the loss falls fastest by decade, before its least value."""
    least = int(np.argmin(losses)) if losses else 0
    if least < 2:
        raise UsageError("--find-lr: the loss never fell; more --samples, another --loss or other data are needed")
    slopes = np.gradient(np.array(losses[: least + 1]), np.log10(rates[: least + 1]))
    first = min(EDGE, least - 1)
    return float(f"{rates[first + int(np.argmin(slopes[first:]))]:.2g}")


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
