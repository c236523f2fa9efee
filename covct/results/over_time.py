"""A patient's share of opacity over time, as lines and words of a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from covct.visible import days, from_to, share

WIDTH, HEIGHT = 560, 160  # of the drawing; it scales with the page
LEFT, RIGHT, TOP, BOTTOM = 48, 16, 12, 28  # what axes and their numbers take
STEPS = (4, 10, 20, 50, 100)  # percent that the axis may end at


@dataclass(frozen=True)
class Point:
    """One result: where it is drawn, and what is said of it.

    Attributes
    ----------
    x, y : float
    low, high : float or None
        Where the ends of its interval are drawn; None without one.
    when, value, ends : str
    """

    x: float
    y: float
    low: float | None
    high: float | None
    when: str
    value: str
    ends: str


@dataclass(frozen=True)
class Line:
    """The drawing, in its own units.

    Attributes
    ----------
    path : str
        Of an SVG polyline.
    ticks : list of (float, str)
        Height and number of the marks on the axis of shares.
    """

    width: int
    height: int
    left: int
    right: int
    bottom: int
    points: list[Point]
    path: str
    ticks: list[tuple[float, str]]


def line_of(report: dict[str, Any]) -> Line | None:
    """The patient's results up to this one, the oldest first; None where there is only one with a share."""
    told = report.get("since") or {}
    both = report["regions"]["lungs"]
    now = {
        "days_before": 0,
        "infection_percent": both["infection_percent"],
        "infection_percent_interval": both["infection_percent_interval"],
    }
    known = [one for one in (*told.get("earlier", ()), now) if one["infection_percent"] is not None]
    if len(known) < 2:
        return None
    highest = max(max(one["infection_percent_interval"] or [one["infection_percent"]]) for one in known)
    most = next(step for step in STEPS if highest <= step)
    longest = max(one["days_before"] for one in known)

    def height(percent: float) -> float:
        return round(HEIGHT - BOTTOM - percent / most * (HEIGHT - TOP - BOTTOM), 1)

    def point(one: dict[str, Any]) -> Point:
        ends = one["infection_percent_interval"]
        x = round(WIDTH - RIGHT - one["days_before"] / max(1, longest) * (WIDTH - LEFT - RIGHT), 1)
        low, high = map(height, ends) if ends else (None, None)
        when = f"{days(one['days_before'])} before" if one["days_before"] else "now"
        value = share(one["infection_percent"], ends)
        return Point(x, height(one["infection_percent"]), low, high, when, value, from_to(ends) if ends else "")

    points = [point(one) for one in known]
    path = " ".join(f"{one.x},{one.y}" for one in points)
    ticks = [(height(percent), f"{percent:g} %") for percent in (0, most / 2, most)]
    return Line(WIDTH, HEIGHT, LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM, points, path, ticks)
