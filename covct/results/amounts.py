"""Figures as pages show them: with as many digits as a segmentation can promise."""

from __future__ import annotations

from collections.abc import Sequence

from covct.terms import Unit

Interval = tuple[float, float]


def percent(value: float | None) -> str:
    if value is None:
        return "-"
    return "< 0.1 %" if 0 < value < 0.05 else f"{value:.1f} %"


def from_to(interval: Sequence[float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:.1f}–{interval[1]:.1f}"


def number(value: float) -> str:
    """A volume, a mass or a mean, without its unit."""
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.1f}"


def amount(value: float | None, unit: Unit) -> str:
    """A volume, a mass or a mean, with its unit."""
    return "-" if value is None else f"{number(value)} {unit.symbol}"
