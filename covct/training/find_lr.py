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
from covct.training.batches import batches
from covct.training.loop import prepare
from covct.training.settings import Settings

LOWEST, HIGHEST = 1e-6, 1.0
STEPS = 100
SMOOTHING = 0.9
TOO_MUCH = 4.0  # times the least loss: there is nothing more to see
EDGE = 5  # steps whose slope is not looked at: the smoothed loss settles


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


def draw_plot(found: RangeTest, width: int = 640, height: int = 360) -> str:
    """Loss over rate, the rate in decades, as an SVG text."""
    left, right, top, bottom = 60, 20, 30, 50
    low, high = math.log10(LOWEST), math.log10(HIGHEST)
    least, most = min(found.losses), max(found.losses)
    room = (most - least) or 1.0

    def place(rate: float, loss: float) -> tuple[float, float]:
        x = left + (math.log10(rate) - low) / (high - low) * (width - left - right)
        return x, top + (most - loss) / room * (height - top - bottom)

    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, found.rates, found.losses))
    marks = []
    for decade in range(round(low), round(high) + 1):
        x, _ = place(10.0**decade, least)
        marks.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{height - bottom}" class="grid"/>')
        marks.append(f'<text x="{x:.1f}" y="{height - bottom + 18}" text-anchor="middle">1e{decade}</text>')
    for loss in (least, most):
        _, y = place(LOWEST, loss)
        marks.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{loss:.3g}</text>')
    x, _ = place(found.suggestion, least)
    chosen = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{height - bottom}" class="chosen"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        "<style>text{font:12px sans-serif;fill:#333}.grid{stroke:#ddd}.chosen{stroke:#c33;stroke-dasharray:4}"
        "polyline{fill:none;stroke:#236;stroke-width:2}</style>"
        f'<rect width="{width}" height="{height}" fill="#fff"/>{"".join(marks)}{chosen}<polyline points="{line}"/>'
        f'<text x="{x + 6:.1f}" y="{top - 10}">suggestion {found.suggestion:g}</text>'
        f'<text x="{(left + width - right) / 2}" y="{height - 12}" text-anchor="middle">learning rate</text>'
        f'<text x="{left}" y="{top - 10}" text-anchor="middle">loss</text></svg>\n'
    )
