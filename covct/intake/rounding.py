"""Numbers that were rounded to the digits given: told from real jitter and real gaps by fitting one even line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MOST_DECIMALS = 6
SLACK = 1e-6  # of a unit: half a unit is reached by ties
GOLDEN = (5**0.5 - 1) / 2
SEARCHES = 48  # each leaves 0.62 of the interval
PLAIN_UNITS = 3.0  # of a step: from there on no rounding hides a missing slice
MOST_PLACES = 200  # where a gap is looked for
MOST_MISSING = 5


@dataclass(frozen=True)
class Line:
    """An even stack: LPS mm of its first place, and from each to the next; (3,) each."""

    origin: np.ndarray
    step: np.ndarray


def decimals(values: Sequence[float] | np.ndarray) -> int:
    """How many decimals it takes to write all of them, at most 6.

    Not what the text has: a program that wrote a rounded 13 again wrote 13.0 or 13.000000.
    """
    array = np.asarray(values, float)
    exact = (d for d in range(MOST_DECIMALS) if np.abs(np.round(array, d) - array).max() < 1e-8)
    return next(exact, MOST_DECIMALS)


def units_of(positions: np.ndarray) -> np.ndarray:
    """(3,) mm: the unit of the last decimal of x, y and z. positions (n, 3)."""
    return 10.0 ** -np.array([decimals(values) for values in positions.T], float)


def even_line(positions: np.ndarray, normal: np.ndarray, numbers: np.ndarray) -> Line | None:
    """The line on which places lie evenly that are these positions once they are rounded; None where there is none.

    Parameters
    ----------
    positions : (n, 3) LPS mm
        In order along the normal.
    numbers : (n,) int
        Instance numbers: a number that is missing where a position may be missing is a gap, not rounding.
    """
    units = units_of(positions)
    if _numbered_gaps(positions, numbers, units) is not None:
        return None
    line = _fitted(positions, np.arange(len(positions)), units)
    if line and line.step @ normal < PLAIN_UNITS * float(np.abs(normal) @ units):
        return None if _one_gap(positions, units, most=1) is not None else line  # both explain it: the gap is believed
    return line


def gaps(positions: np.ndarray, numbers: np.ndarray) -> list[tuple[int, int]]:
    """Where an even line of rounded places lacks some: (index before, how many). Empty where none is found."""
    units = units_of(positions)
    counted = _numbered_gaps(positions, numbers, units)
    if counted is None:
        counted = _one_gap(positions, units)
    if counted is None:
        return []
    missing = np.diff(counted) - 1
    return [(int(index), int(missing[index])) for index in np.flatnonzero(missing)]


def _fitted(positions: np.ndarray, counted: np.ndarray, units: np.ndarray) -> Line | None:
    """The line through places number `counted`, off by no more than half a unit in x, y and z."""
    origin, step = np.zeros(3), np.zeros(3)
    for axis in np.argsort(-np.ptp(positions, axis=0)):  # the one along which the slices lie decides nearly always
        origin[axis], step[axis], width = _narrowest(positions[:, axis], counted)
        if width > units[axis] * (1 + SLACK) + 1e-9:
            return None
    return Line(origin, step)


def _narrowest(values: np.ndarray, counted: np.ndarray) -> tuple[float, float, float]:
    """Origin, step and width of the narrowest strip around a line that holds all values (Chebyshev's fit)."""
    length = counted[-1] - counted[0]

    def strip(step: float) -> tuple[float, float, float]:
        rest = values - step * (counted - counted[0])
        return float(rest.max() + rest.min()) / 2, step, float(rest.max() - rest.min())

    middle = (values[-1] - values[0]) / length
    if strip(middle)[2] < 1e-9:
        return strip(middle)
    reach = strip(middle)[2] / length  # a step further off leaves the first or the last value outside of that strip
    low, high = middle - reach, middle + reach
    for _ in range(SEARCHES):  # the width is convex in the step
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        if strip(left)[2] <= strip(right)[2]:
            high = right
        else:
            low = left
    return strip((low + high) / 2)


def _numbered_gaps(positions: np.ndarray, numbers: np.ndarray, units: np.ndarray) -> np.ndarray | None:
    """Places counted by instance numbers, where these have gaps and the positions agree with them."""
    steps = np.diff(numbers)
    if not len(steps) or not ((steps > 0).all() or (steps < 0).all()):
        return None
    every = int(np.gcd.reduce(np.abs(steps)))
    counted = np.abs(numbers - numbers[0]) // every
    if counted[-1] < len(numbers) or counted[-1] > 2 * len(numbers):
        return None
    return counted if _fitted(positions, counted, units) else None


def _one_gap(positions: np.ndarray, units: np.ndarray, most: int = MOST_MISSING) -> np.ndarray | None:
    """Places counted with one gap of up to `most`, at the widest step that allows it."""
    lengths = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    widest = np.argsort(-lengths, kind="stable")[:MOST_PLACES]
    for index in dict.fromkeys([*widest.tolist(), 0, len(lengths) - 1]):
        for missing in range(1, most + 1):
            counted = np.arange(len(positions))
            counted[index + 1 :] += missing
            if _fitted(positions, counted, units):
                return counted
    return None
