"""Figures as pages show them: with as many digits as a segmentation can promise."""

from __future__ import annotations

from collections.abc import Sequence

from covct.terms import Unit
from covct.visible import decimals, share

Interval = tuple[float, float]


def percent(value: float | None, interval: Sequence[float] | None = None) -> str:
    """A share; without decimals where its interval is wide."""
    return share(value, interval)


def from_to(interval: Sequence[float] | None, between: str = "–") -> str:
    """An interval of a share."""
    return "-" if interval is None else between.join(f"{end:.{decimals(interval)}f}" for end in interval)


def number(value: float) -> str:
    """A volume, a mass or a mean, without its unit."""
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.1f}"


def amount(value: float | None, unit: Unit) -> str:
    """A volume, a mass or a mean, with its unit."""
    return "-" if value is None else f"{number(value)} {unit.symbol}"
