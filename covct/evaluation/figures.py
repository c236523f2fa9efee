"""Plots of an evaluation: what is where. `plot` and `box` of templates/plots.html draw them, in the page's colours;
`drawn` draws the same as PNG.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

SERIES = ("s0", "s1", "s2", "s3", "s4", "s5")  # classes of the stylesheet, one a line or source
_LIMITS = (("bias", "bias"), ("−1.96 SD", "lower_limit"), ("+1.96 SD", "upper_limit"))


@dataclass(frozen=True)
class Axis:
    """One axis: its range, its ticks and what it says; `names` stand at the ticks in place of their numbers."""

    low: float
    high: float
    ticks: tuple[float, ...]
    label: str
    names: tuple[str, ...] = ()

    @property
    def told(self) -> list[tuple[float, str]]:
        """Each tick with what stands there."""
        return list(zip(self.ticks, self.names or [minus(f"{tick:g}") for tick in self.ticks], strict=True))

    def place(self, value: float) -> float:
        """0 at `low`, 1 at `high`; beyond them at the edge."""
        share = (value - self.low) / (self.high - self.low)
        return min(1.0, max(0.0, share))


@dataclass(frozen=True)
class Rule:
    """A straight line between two places, in values of the axes, of class "bias" or "limit"."""

    cls: str
    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True)
class Line:
    """A line through points of values."""

    cls: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Dot:
    """A dot at a place in values, with words to be shown when it is pointed at."""

    cls: str
    x: float
    y: float
    words: str


@dataclass(frozen=True)
class Words:
    """Text beside a place in values, (dx, dy) pixels from it. `cls`: "start" or "end", the side that is there."""

    cls: str
    x: float
    y: float
    dx: int
    dy: int
    text: str


@dataclass(frozen=True)
class Box:
    """A box plot at a place: whiskers to the least and the most, quartiles, a line at the median."""

    x: float
    least: float
    q1: float
    median: float
    q3: float
    most: float


@dataclass(frozen=True)
class Square:
    """A square of one by one around a place, as dark as its `shade` of 0 to 1 says, with words in it."""

    x: float
    y: float
    shade: float
    text: str


@dataclass(frozen=True)
class Plot:
    """Axes, and what lies between them, drawn in this order. Sizes are in pixels; the margins hold the axes' labels.

    `name` is that of its file, where it becomes one.
    """

    width: ClassVar[int] = 400
    height: ClassVar[int] = 290
    left: ClassVar[int] = 52
    right: ClassVar[int] = 22
    top: ClassVar[int] = 12
    bottom: ClassVar[int] = 46

    name: str
    title: str
    x: Axis
    y: Axis
    rules: Sequence[Rule] = ()
    squares: Sequence[Square] = ()
    boxes: Sequence[Box] = ()
    words: Sequence[Words] = ()
    lines: Sequence[Line] = ()
    dots: Sequence[Dot] = ()

    def across(self, value: float) -> float:
        """Pixels from the left."""
        return round(self.left + self.x.place(value) * (self.width - self.left - self.right), 1)

    def up(self, value: float) -> float:
        """Pixels from the top."""
        inside = self.height - self.top - self.bottom
        return round(self.height - self.bottom - self.y.place(value) * inside, 1)


def axis(values: Iterable[float], label: str, steps: int = 5) -> Axis:
    """An axis with round ticks that holds all values."""
    there = list(values) or [0.0, 1.0]
    low, high = min(there), max(there)
    if high - low < 1e-12:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    rough = (high - low) / steps
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(k * step, 10) for k in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], ticks, label)


def share_axis(label: str) -> Axis:
    """From 0 to 1."""
    return Axis(0, 1, (0, 0.2, 0.4, 0.6, 0.8, 1), label)


def bland_altman(
    name: str, rows: Sequence[tuple[str, str, float, float]], limits: Mapping[str, Any], unit: str, title: str
) -> Plot:
    """Difference against mean (Bland & Altman 1986).

    Parameters
    ----------
    rows : sequence of (case, class, truth, called)
    limits : mapping
        bias, lower_limit and upper_limit of the evaluation.
    """
    levels = [(words, limits[key]["value"]) for words, key in _LIMITS if limits[key]["value"] is not None]
    x = axis([(truth + called) / 2 for _, _, truth, called in rows], f"mean of truth and call, {unit}")
    y = axis([*(called - truth for _, _, truth, called in rows), *(v for _, v in levels), 0.0], f"call − truth, {unit}")
    return Plot(
        name,
        title,
        x,
        y,
        rules=[Rule("bias" if words == "bias" else "limit", x.low, value, x.high, value) for words, value in levels],
        words=[Words("end", x.high, value, 0, -4, f"{words} {minus(f'{value:+.3g}')}") for words, value in levels],
        dots=[
            Dot(cls, (truth + called) / 2, called - truth, f"{case}: truth {truth:.3g}, called {called:.3g} {unit}")
            for case, cls, truth, called in rows
        ],
    )


def reliability(lines: Sequence[tuple[str, Sequence[Mapping[str, Any]]]], title: str) -> Plot:
    """Frequency of the truth against probability, a line a source: (class, bins of the evaluation)."""
    there = [(cls, [one for one in bins if one["pixels"]]) for cls, bins in lines]
    return Plot(
        "reliability",
        title,
        share_axis("probability"),
        share_axis("share that is true"),
        rules=[Rule("limit", 0, 0, 1, 1)],
        lines=[Line(cls, [(one["probability"], one["frequency"]) for one in bins]) for cls, bins in there],
        dots=[
            Dot(
                cls,
                one["probability"],
                one["frequency"],
                f"probability {one['probability']:.2f}, true in {one['frequency']:.2f} of {one['pixels']:,}",
            )
            for cls, bins in there
            for one in bins
        ],
    )


def threshold_curve(lines: Sequence[tuple[str, Sequence[Mapping[str, Any]]]], used: float | None, title: str) -> Plot:
    """Pooled Dice against the threshold, and the threshold in use."""
    rules, words = [], []
    if used is not None:
        side, cls = (-5, "end") if used > 0.5 else (5, "start")
        rules = [Rule("bias", used, 0, used, 1)]
        words = [Words(cls, used, 0, side, -6, f"in use: {used:g}")]
    drawn = [Line(cls, [(p["threshold"], p["dice"]) for p in curve if p["dice"] is not None]) for cls, curve in lines]
    axes = share_axis("threshold"), share_axis("pooled Dice")
    return Plot("dice-by-threshold", title, *axes, rules=rules, words=words, lines=drawn)


def box_plot(values: Mapping[str, Sequence[tuple[str, str, float]]], label: str, title: str) -> Plot:
    """A box a score over patients, each of them a dot beside it: (patient, class, value)."""
    names = tuple(values)
    places = tuple(float(number) for number in range(1, len(names) + 1))
    boxes, dots = [], []
    for place, (score, rows) in zip(places, values.items(), strict=True):
        quartiles = np.quantile([value for _, _, value in rows], (0, 0.25, 0.5, 0.75, 1)).tolist()
        boxes.append(Box(place, *quartiles))
        dots += [
            Dot(cls, place + 0.3 * spread, value, f"{patient}: {score} {value:.3f}")
            for (patient, cls, value), spread in zip(rows, np.linspace(-1, 1, len(rows)).tolist(), strict=True)
        ]
    return Plot(
        "box-plot", title, Axis(0.4, len(names) + 0.6, places, label, names), share_axis("by patient"), boxes=boxes,
        dots=dots,
    )  # fmt: skip


def confusion(changes: Iterable[Mapping[str, int]], classes: int, title: str) -> Plot:
    """How many patients of a class are called which: {"truth", "called", "patients"}, classes from 1."""
    counts = {(one["truth"], one["called"]): one["patients"] for one in changes}
    most = max(counts.values(), default=1)
    ticks = tuple(float(number) for number in range(1, classes + 1))
    return Plot(
        "severity-classes",
        title,
        Axis(0.5, classes + 0.5, ticks, "class called"),
        Axis(0.5, classes + 0.5, ticks, "true class"),
        squares=[Square(called, true, n / most, str(n)) for (true, called), n in sorted(counts.items())],
        rules=[Rule("limit", 0.5, 0.5, classes + 0.5, classes + 0.5)],
    )


def curves(name: str, lines: Sequence[tuple[str, Sequence[float]]], label: str, title: str) -> Plot:
    """Values by epoch, a line each: (class, values)."""
    last = max(2, *(len(values) for _, values in lines))
    ticks = tuple(t for t in axis([1, last], "").ticks if 1 <= t <= last and t == int(t))
    finite = [(cls, [(k, v) for k, v in enumerate(values, 1) if math.isfinite(v)]) for cls, values in lines]
    y = axis([v for _, points in finite for _, v in points], label)
    return Plot(name, title, Axis(1, last, ticks, "epoch"), y, lines=[Line(cls, points) for cls, points in finite])


def minus(text: str) -> str:
    """With the sign that is as wide as a plus."""
    return text.replace("-", "−")
