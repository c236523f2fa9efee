"""Where a training stands: all that is not an array, and that a resumed training must know."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from covct.training.schedules import PLATEAU_EPOCHS


@dataclass
class Progress:
    """Where a training stands.

    Attributes
    ----------
    epoch, step : int
        The epoch that goes on, and the steps of it that are done. The samples of a step are a function of both.
    sums : list of float
        The metrics' variables, summed over the steps of this epoch.
    history : dict of str to list of float
        By epoch.
    best_epoch : int or None
        Counted from 0.
    best_file : str or None
        Its weights, in the folder of checkpoints.
    waited : int
        Epochs since.
    halvings : int
        How often the schedule "plateau" has halved the learning rate.
    stale : int
        Epochs since the best one or the last halving.
    finished : bool
        Nothing is left to train.
    """

    epoch: int = 0
    step: int = 0
    sums: list[float] = field(default_factory=list)
    history: dict[str, list[float]] = field(default_factory=dict)
    best_score: float | None = None
    best_epoch: int | None = None
    best_file: str | None = None
    waited: int = 0
    halvings: int = 0
    stale: int = 0
    finished: bool = False

    def add(self, sums: list[float]) -> None:
        """A step is done; `sums` are what it brought."""
        self.sums = [a + b for a, b in zip(self.sums, sums, strict=True)] if self.sums else list(sums)
        self.step += 1

    def is_better(self, score: float, lower_is_better: bool) -> bool:
        if not math.isfinite(score):
            return False
        if self.best_score is None:
            return True
        return score < self.best_score if lower_is_better else score > self.best_score

    def end_epoch(self, logs: dict[str, float], better: bool, score: float | None, plateau: bool) -> None:
        """An epoch is done and validated."""
        for name, value in logs.items():  # what an earlier version did not measure is no number
            self.history.setdefault(name, [math.nan] * self.epoch).append(value)
        if better:
            self.best_score, self.best_epoch, self.waited, self.stale = score, self.epoch, 0, 0
        else:
            self.waited, self.stale = self.waited + 1, self.stale + 1
        if plateau and self.stale >= PLATEAU_EPOCHS:
            self.halvings, self.stale = self.halvings + 1, 0
        self.epoch, self.step, self.sums = self.epoch + 1, 0, []


@dataclass
class Pace:
    """Slices a second and seconds left, from the steps of this process. The first step compiles and does not count."""

    begun: float | None = None
    steps: int = 0

    def tick(self, now: float) -> None:
        if self.begun is None:
            self.begun = now
        else:
            self.steps += 1

    def per_second(self, now: float) -> float | None:
        """Steps a second, validation included; None before the second step."""
        return self.steps / (now - self.begun) if self.steps and self.begun is not None and now > self.begun else None

    def seconds_left(self, now: float, steps: int) -> float | None:
        rate = self.per_second(now)
        return steps / rate if rate else None
