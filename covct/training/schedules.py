"""Learning rates as functions of the step alone, so that a resumed training goes on where it was."""

from __future__ import annotations

import math
from collections.abc import Callable

WARM_UP = 100  # steps, at most a tenth of them
COLDEST = 0.01  # share of the learning rate that the exponential decay ends at
CYCLES = 3  # of cosine with restarts, each twice as long as the one before
RISE = 0.3  # share of the steps in which one cycle climbs
PLATEAU_EPOCHS = 3  # without a better validation, then half the rate


def constant(step: int, steps: int) -> float:
    return 1.0


def exponential(step: int, steps: int) -> float:
    """The same factor each step, down to a hundredth at the last."""
    return float(COLDEST ** (step / max(1, steps - 1)))


def cosine(step: int, steps: int) -> float:
    """Linear from a tenth up to one, since batch statistics are young; then half a cosine down to 0 at the end."""
    warm = min(WARM_UP, steps // 10)
    if step < warm:
        return 0.1 + 0.9 * step / warm
    return _half_cosine((step - warm) / max(1, steps - warm))


def cosine_restarts(step: int, steps: int) -> float:
    """SGDR (Loshchilov and Hutter 2017): three cosines down to 0, of 1, 2 and 4 sevenths of the steps."""
    part = step / max(1, steps) * (2**CYCLES - 1)
    cycle = min(CYCLES - 1, int(math.log2(part + 1)))
    return _half_cosine((part - (2**cycle - 1)) / 2**cycle)


def one_cycle(step: int, steps: int) -> float:
    """One cycle (Smith and Topin 2018): from 1/25 up in 30 % of the steps, then down to nearly nothing, both cosine."""
    rise = RISE * steps
    if step < rise:
        return 1 / 25 + (1 - 1 / 25) * (1 - _half_cosine(step / rise))
    return 1e-4 + (1 - 1e-4) * _half_cosine((step - rise) / max(1, steps - rise))


def _half_cosine(part: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * min(1.0, part)))


# "plateau" is constant by step; what halves it is the validation, see `Progress.halvings`
SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "constant": constant,
    "exponential": exponential,
    "cosine": cosine,
    "cosine-restarts": cosine_restarts,
    "plateau": constant,
    "one-cycle": one_cycle,
}
