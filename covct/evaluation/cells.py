"""Figures as the cells of a page's tables."""

from __future__ import annotations

from typing import Any

from covct.evaluation.figures import minus

Group = dict[str, Any]
Cell = tuple[str, str]  # a figure, and what stands small beside it

DIGITS = {
    "hd95_mm": 1, "ml": 1, "points": 2, "expected_calibration_error": 4, "brier_score": 4, "infected_share_error": 2,
}  # fmt: skip  # else 3


def figure(value: float | None, name: str = "") -> str:
    """With as many decimals as it is worth."""
    return "–" if value is None else minus(f"{value:.{DIGITS.get(name, 3)}f}")


def with_interval(one: dict[str, Any] | None, name: str = "") -> Cell:
    """A figure of the evaluation, its interval beside it."""
    if one is None or one["value"] is None:
        return "–", ""
    ends = [figure(end, name) for end in one["interval"] or ()]
    return figure(one["value"], name), f"({' to '.join(ends)})" if ends else ""
