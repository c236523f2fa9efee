"""Volumes, masses and means as pages show them: with as many digits as a segmentation can promise."""

from __future__ import annotations

from collections.abc import Sequence

from covct.terms import Unit
from covct.visible import decimals

Interval = tuple[float, float]


def number(value: float) -> str:
    """A volume, a mass or a mean, without its unit."""
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.1f}"


def amount(value: float | None, unit: Unit, interval: Sequence[float] | None = None) -> str:
    """A volume, a mass or a mean, with its unit; with as many decimals as its interval, where it has one."""
    if value is None:
        return "-"
    return f"{value:,.{decimals(interval)}f} {unit.symbol}" if interval else f"{number(value)} {unit.symbol}"


def ends(interval: Sequence[float]) -> str:
    """The interval of an amount, both ends with the same decimals."""
    return "–".join(f"{end:,.{decimals(interval)}f}" for end in interval)
