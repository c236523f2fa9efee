"""Ends that hold a new person's truth as often as they say, from people with truth whom no network had learned from.

A figure is wrong by so many widths, its sign kept, in each of those people (`Seen.error`). The errors of a new person
drawn like them fall anywhere among theirs, each place as likely: so the lower end is the figure plus the error that
5 % of them lie below, the upper end that plus the one that 5 % lie above, each on its own side (split conformal
prediction, Papadopoulos 2002, Lei 2018). This holds for any network and any widths; only their size depends on these.

- *Folds.* Where people were held out by a fold each, and the network is the mean of the folds, a person's error is put
  beside what that fold says of the new scan (CV+, Barber 2021): nobody's error is of a network that has seen them.
- *People in whom nothing is there* are a group of their own (label-conditional, Vovk 2012): how many of them there are
  among the people measured, or among those to come, changes nothing. Nothing is within the interval unless so much is
  called as in fewer than 5 % of them.
- *Sources.* The ends are the widest of all sources with enough people, and of all people together: they hold in each,
  not on average. Of a source that is not among them nothing is promised.

Each person counts once. With fewer than nineteen of a group no end can be promised, and none is given.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

END_LEVEL = 0.95  # each end holds the truth in so many
LEVEL = 0.9  # and so both at once
FEWEST = 19  # with fewer people even the largest error is exceeded more often than in 5 %
LEVEL_OF_FOLDS = 0.8  # what CV+ promises in the worst case; nearly always it comes to LEVEL
BAND = 0.9  # how often the coverage of so many people lies within the band that is told


@dataclass(frozen=True)
class Stated:
    """What a network says of a figure: its value, and by how much that could be too high and too low (one width)."""

    value: float
    below: float
    above: float

    def error(self, truth: float) -> float:
        """How many widths the truth lies above the value; below it negative."""
        return (truth - self.value) / (self.above if truth > self.value else self.below)

    def at(self, error: float) -> float:
        """The truth of such an error."""
        return self.value + error * (self.above if error > 0 else self.below)


@dataclass(frozen=True)
class Seen:
    """A person with truth: of which source, whether anything is there, the error of the network that had not seen them.

    `fold` counts the networks of an ensemble; 0 where there is one.
    """

    source: str
    there: bool
    error: float
    fold: int = 0


@dataclass(frozen=True)
class Guarantee:
    """What an interval is worth.

    Attributes
    ----------
    people, people_without : int
        With truth, each once; those of them in whom nothing is there.
    level : float or None
        Share of people whose truth lies inside; None where there is no interval.
    guaranteed : float or None
        What it cannot fall below, on average over draws of such people; None where nothing is proven.
    coverage : (float, float) or None
        Where the true share lies for people measured like these, in 9 of 10 draws of so many; None of folds, whose
        people do not all have the same network.
    reason : str or None
        Why there is no interval.
    """

    people: int
    people_without: int
    level: float | None = None
    guaranteed: float | None = None
    coverage: tuple[float, float] | None = None
    reason: str | None = None


def rank(people: int) -> int:
    """Which of so many sorted values is an end, counted from outside from 1; 0: they are too few for any."""
    return math.floor((people + 1) * (1 - END_LEVEL) + 1e-9)


def guarantee(people: Sequence[Seen], may_be_nothing: bool, by_folds: bool) -> Guarantee:
    """What can be promised by such people.

    may_be_nothing : bool
        Of figures that are 0 in some people: these are a group that has to be large enough too.
    """
    there = sum(one.there for one in people)
    counted = Guarantee(len(people), len(people) - there)
    if there < FEWEST or (may_be_nothing and counted.people_without < FEWEST):
        numbers = f"{there} with opacity, {counted.people_without} without" if may_be_nothing else str(there)
        wanted = f"{FEWEST} of each" if may_be_nothing else str(FEWEST)
        reason = f"people measured with truth that the networks have not learned: {numbers}; wanted {wanted}"
        return Guarantee(counted.people, counted.people_without, reason=reason)
    if by_folds:
        return Guarantee(counted.people, counted.people_without, LEVEL, LEVEL_OF_FOLDS)
    return Guarantee(counted.people, counted.people_without, LEVEL, LEVEL, coverage_band(there))


def ends(people: Sequence[Seen], value: float, stated: Sequence[Stated], may_be_nothing: bool) -> tuple[float, float]:
    """The interval of a figure; `guarantee` says whether there are enough people for one.

    Parameters
    ----------
    value : float
        As reported: within the interval in any case.
    stated : sequence of Stated
        What each fold says; of a network that is no ensemble, what is reported.
    """
    low, high = value, value
    for group in _by_source([one for one in people if one.there]):
        values, place = sorted(stated[one.fold].at(one.error) for one in group), rank(len(group))
        low, high = min(low, values[place - 1]), max(high, values[-place])
    clear = [one for one in people if not one.there]
    if may_be_nothing and any(_nothing_fits(group, stated) for group in _by_source(clear)):
        low = min(low, 0.0)
    return low, high


def _by_source(people: list[Seen]) -> Iterator[list[Seen]]:
    """All of them, and those of each source that are enough by themselves."""
    yield people
    for source in sorted({one.source for one in people}):
        group = [one for one in people if one.source == source]
        if FEWEST <= len(group) < len(people):
            yield group


def _nothing_fits(group: list[Seen], stated: Sequence[Stated]) -> bool:
    """Whether as much as here is called in enough people in whom nothing is."""
    return sum(one.error <= stated[one.fold].error(0.0) for one in group) >= rank(len(group))


def coverage_band(people: int) -> tuple[float, float]:
    """Where the share of new people lies whose truth the ends of so many hold, in `BAND` of all draws of these.

    That share is distributed as Beta(n + 1 - 2r, 2r) over draws of n people, with the r-th from outside as ends.
    """
    outside = 2 * rank(people)
    tail = (1 - BAND) / 2
    return _beta_quantile(tail, people + 1 - outside, outside), _beta_quantile(1 - tail, people + 1 - outside, outside)


def _beta_quantile(share: float, a: int, b: int) -> float:
    """By halving: Beta(a, b) lies below x as often as at least a of a + b - 1 tries succeed with chance x.

    In logarithms, since the ways to choose among some thousand people are more than a float holds.
    """
    low, high, tries = 0.0, 1.0, a + b - 1
    ways = [math.lgamma(tries + 1) - math.lgamma(hits + 1) - math.lgamma(tries - hits + 1) for hits in range(b)]
    for _ in range(50):
        x = (low + high) / 2
        held, failed = math.log(x), math.log1p(-x)
        fewer = sum(math.exp(way + (tries - hits) * held + hits * failed) for hits, way in enumerate(ways))
        low, high = (x, high) if fewer < share else (low, x)
    return (low + high) / 2
