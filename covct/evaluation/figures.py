"""Plots of an evaluation as inline SVG: coloured by the page's style, light or dark. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 400, 290
LEFT, RIGHT, TOP, BOTTOM = 52, 22, 12, 46
SERIES = ("s0", "s1", "s2", "s3", "s4", "s5")  # classes of the page's style, one a line or source


@dataclass(frozen=True)
class Axis:
    """One axis: its range, its ticks and what it says."""

    low: float
    high: float
    ticks: tuple[float, ...]
    label: str

    def place(self, value: float) -> float:
        """0 at `low`, 1 at `high`; beyond them at the edge."""
        share = (value - self.low) / (self.high - self.low)
        return min(1.0, max(0.0, share))


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


def plot(x: Axis, y: Axis, draw: Callable[[Callable, Callable], Iterable[str]], title: str) -> str:
    """Axes, and what `draw` puts between them with its two functions from values to pixels."""

    def across(value: float) -> float:
        return round(LEFT + x.place(value) * (WIDTH - LEFT - RIGHT), 1)

    def up(value: float) -> float:
        return round(HEIGHT - BOTTOM - y.place(value) * (HEIGHT - TOP - BOTTOM), 1)

    parts = [f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title, True)}">']
    for tick in y.ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(tick)}" y2="{up(tick)}"/>')
        parts.append(f'<text class="tick end" x="{LEFT - 6}" y="{up(tick) + 4}">{_number(tick)}</text>')
    for tick in x.ticks:
        parts.append(f'<text class="tick mid" x="{across(tick)}" y="{HEIGHT - BOTTOM + 17}">{_number(tick)}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="name mid" x="{middle}" y="{HEIGHT - 8}">{escape(x.label)}</text>')
    centre = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text class="name mid" x="13" y="{centre}" transform="rotate(-90 13 {centre})">{escape(y.label)}</text>'
    )
    return "".join([*parts, *draw(across, up), "</svg>"])


def line(points: Sequence[tuple[float, float]], across, up, cls: str) -> str:
    """A line through points of values; class of the page's style."""
    places = " ".join(f"{across(x)},{up(y)}" for x, y in points)
    return f'<polyline class="line {cls}" points="{places}"/>'


def dot(x: float, y: float, cls: str, words: str = "") -> str:
    """A dot at a place in pixels, with words to be shown when it is pointed at."""
    title = f"<title>{escape(words)}</title>" if words else ""
    return f'<circle class="dot {cls}" cx="{x}" cy="{y}" r="3.5">{title}</circle>'


def bland_altman(rows: Sequence[tuple[str, str, float, float]], limits: dict, unit: str, title: str) -> str:
    """Difference against mean (Bland & Altman 1986).

    Parameters
    ----------
    rows : sequence of (case, class, truth, called)
    limits : dict
        bias, lower_limit and upper_limit of the evaluation.
    """
    levels = [(name, limits[key]["value"]) for name, key in _LIMITS if limits[key]["value"] is not None]
    x = axis([(truth + called) / 2 for _, _, truth, called in rows], f"mean of truth and call, {unit}")
    y = axis([*(called - truth for _, _, truth, called in rows), *(v for _, v in levels), 0.0], f"call − truth, {unit}")

    def draw(across, up):
        for name, value in levels:
            cls = "bias" if name == "bias" else "limit"
            yield f'<line class="{cls}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(value)}" y2="{up(value)}"/>'
            words = f"{name} {value:+.3g}".replace("-", "−")
            yield f'<text class="tick end" x="{WIDTH - RIGHT}" y="{up(value) - 4}">{words}</text>'
        for case, cls, truth, called in rows:
            words = f"{case}: truth {truth:.3g}, called {called:.3g} {unit}"
            yield dot(across((truth + called) / 2), up(called - truth), cls, words)

    return plot(x, y, draw, title)


_LIMITS = (("bias", "bias"), ("−1.96 SD", "lower_limit"), ("+1.96 SD", "upper_limit"))


def reliability(lines: Sequence[tuple[str, Sequence[dict]]], title: str) -> str:
    """Frequency of the truth against probability, a line a source: (class, bins of the evaluation)."""

    def draw(across, up):
        yield f'<line class="limit" x1="{across(0)}" y1="{up(0)}" x2="{across(1)}" y2="{up(1)}"/>'
        for cls, bins in lines:
            there = [one for one in bins if one["pixels"]]
            yield line([(one["probability"], one["frequency"]) for one in there], across, up, cls)
            for one in there:
                words = f"probability {one['probability']:.2f}, true in {one['frequency']:.2f} of {one['pixels']:,}"
                yield dot(across(one["probability"]), up(one["frequency"]), cls, words)

    return plot(share_axis("probability"), share_axis("share that is true"), draw, title)


def threshold_curve(lines: Sequence[tuple[str, Sequence[dict]]], used: float | None, title: str) -> str:
    """Pooled Dice against the threshold, and the threshold in use."""

    def draw(across, up):
        if used is not None:
            yield f'<line class="bias" x1="{across(used)}" x2="{across(used)}" y1="{up(0)}" y2="{up(1)}"/>'
            side, cls = (-5, "end") if used > 0.5 else (5, "start")
            yield f'<text class="tick {cls}" x="{across(used) + side}" y="{up(0) - 6}">in use: {used:g}</text>'
        for cls, curve in lines:
            yield line([(p["threshold"], p["dice"]) for p in curve if p["dice"] is not None], across, up, cls)

    return plot(share_axis("threshold"), share_axis("pooled Dice"), draw, title)


def curves(lines: Sequence[tuple[str, Sequence[float]]], label: str, title: str) -> str:
    """Values by epoch, a line each: (class, values)."""
    longest = max(len(values) for _, values in lines)
    x = axis([1, max(2, longest)], "epoch")
    x = Axis(1, max(2, longest), tuple(t for t in x.ticks if t >= 1 and t == int(t) and t <= max(2, longest)), "epoch")
    y = axis([v for _, values in lines for v in values if math.isfinite(v)], label)

    def draw(across, up):
        for cls, values in lines:
            yield line([(k, v) for k, v in enumerate(values, 1) if math.isfinite(v)], across, up, cls)

    return plot(x, y, draw, title)


def box(quartiles: dict, dice: float | None) -> str:
    """A box plot of one case's slices from 0 to 1, stretched to its cell, with a mark at the whole case's Dice."""
    low, q1, median, q3, high = (100 * quartiles[name] for name in ("p5", "q1", "median", "q3", "p95"))
    parts = ['<svg class="box" viewBox="0 0 100 20" preserveAspectRatio="none" aria-hidden="true">']
    parts += [f'<line class="grid" x1="{tick}" x2="{tick}" y1="0" y2="20"/>' for tick in (0, 20, 40, 60, 80, 100)]
    if quartiles["slices"] > 1:
        parts.append(f'<line class="whisker" x1="{low:.2f}" x2="{high:.2f}" y1="10" y2="10"/>')
        parts.append(f'<rect class="quartiles" x="{q1:.2f}" y="5" width="{max(0.3, q3 - q1):.2f}" height="10"/>')
        parts.append(f'<line class="median" x1="{median:.2f}" x2="{median:.2f}" y1="5" y2="15"/>')
    if dice is not None:
        parts.append(f'<line class="mark" x1="{100 * dice:.2f}" x2="{100 * dice:.2f}" y1="2" y2="18"/>')
    return "".join([*parts, "</svg>"])


def _number(value: float) -> str:
    return f"{value:g}".replace("-", "−")
