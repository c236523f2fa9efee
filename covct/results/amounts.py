"""Volumes, masses and means as pages show them: with as many digits as a segmentation can promise."""

from __future__ import annotations

from covct.terms import Unit

Interval = tuple[float, float]


def number(value: float) -> str:
    """A volume, a mass or a mean, without its unit."""
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.1f}"


def amount(value: float | None, unit: Unit) -> str:
    """A volume, a mass or a mean, with its unit."""
    return "-" if value is None else f"{number(value)} {unit.symbol}"
