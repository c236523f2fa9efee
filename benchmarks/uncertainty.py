"""How often intervals hold the truth, before and after, in people who are made up.

    python benchmarks/uncertainty.py [--draws N]

A person has a share of the lung infected (none in some, else log-normal), and a site. A site's network misses or
invents by a factor of its own, each person by one of theirs, and some people have dense lung that is called.
The network's own doubt (its width) grows with what it calls, and says only roughly how wrong it is.

*before*: one factor for both ends, the 90 % quantile of the size of errors in people with infection, as the cards of
covct 0.1.0 had it. *after*: `covct.pipeline.conformal`. Each line is a set of people measured, and the share of new
people whose truth is held: of all, of those with and of those without infection, and of a site that was not measured.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

import numpy as np

from covct.pipeline.conformal import Seen, Stated, ends, guarantee

SITES = 4
FLOOR_PERCENT = 0.1


@dataclass(frozen=True)
class Person:
    source: str
    truth: float
    stated: Stated


def made_up(rng: np.random.Generator, healthy: float, site: int, bias: float) -> Person:
    """One person of a site whose network is off by a factor `bias`."""
    sick = rng.random() >= healthy
    truth = min(80.0, float(rng.lognormal(1.8, 1.1))) if sick else 0.0
    found = truth * bias * float(rng.lognormal(0, 0.25))
    dense = float(rng.exponential(0.15 if rng.random() < 0.6 else 2.5))  # called without much doubt, and no infection
    called = min(95.0, found + dense)
    doubt = (0.08 * called + 0.3 * math.sqrt(found)) * float(rng.lognormal(0, 0.3))
    return Person(f"site {site}", truth, Stated(called, doubt + FLOOR_PERCENT, doubt + FLOOR_PERCENT))


def people(rng: np.random.Generator, number: int, healthy: float, biases: np.ndarray) -> list[Person]:
    return [made_up(rng, healthy, site, biases[site]) for site in rng.integers(0, len(biases), number)]


def before(measured: list[Person], new: Person) -> tuple[float, float] | None:
    """A factor of the people with infection, to both sides."""
    sizes = sorted(abs(one.stated.error(one.truth)) for one in measured if one.truth > 0)
    place = math.ceil((len(sizes) + 1) * 0.9 - 1e-9)
    if place > len(sizes):
        return None
    return max(0.0, new.stated.at(-sizes[place - 1])), min(100.0, new.stated.at(sizes[place - 1]))


def after(measured: list[Person], new: Person) -> tuple[float, float] | None:
    seen = [Seen(one.source, one.truth > 0, one.stated.error(one.truth)) for one in measured]
    if guarantee(seen, may_be_nothing=True, by_folds=False).level is None:
        return None
    low, high = ends(seen, new.stated.value, [new.stated], may_be_nothing=True)
    return max(0.0, low), min(100.0, high)


def coverage(
    number: int, healthy: float, spread: float, draws: int = 200, seed: int = 0
) -> dict[str, tuple[dict[str, float], float] | None]:
    """Of both kinds of interval: the share held by group of people, and the median width; None where there is none.

    number : people measured of each group, with infection and without
    healthy : share of new people without infection
    spread : of the sites' factors, as a standard deviation of their logarithm
    """
    rng = np.random.default_rng(seed)
    held: dict[str, dict[str, list[bool]]] = {"before": {}, "after": {}}
    widths: dict[str, list[float]] = {"before": [], "after": []}
    for _ in range(draws):
        biases = rng.lognormal(-0.15, spread, SITES + 1)
        measured = [*people(rng, number, 0.0, biases[:SITES]), *people(rng, number, 1.0, biases[:SITES])]
        known, unknown = people(rng, 40, healthy, biases[:SITES]), people(rng, 40, healthy, biases[SITES:])
        for name, interval in (("before", before), ("after", after)):
            for new, group in [*((one, "all") for one in known), *((one, "new site") for one in unknown)]:
                if (found := interval(measured, new)) is None:
                    continue
                low, high = found
                groups = (group, "with" if new.truth else "without") if group == "all" else (group,)
                for each in groups:
                    held[name].setdefault(each, []).append(low <= new.truth <= high)
                widths[name].append(high - low)
    return {
        name: ({group: float(np.mean(of)) for group, of in found.items()}, float(np.median(widths[name])))
        if (found := held[name])
        else None
        for name in held
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=200)
    draws = parser.parse_args().draws
    print("| of each group | sites differ by | none infected | kind | all | with | without | new site | width |")
    print("|---|---|---|---|---|---|---|---|---|")
    for spread in (0.0, 0.3):
        for number in (10, 19, 40, 80):
            for healthy in (0.3, 0.7):
                for kind, told in coverage(number, healthy, spread, draws).items():
                    line = f"| {number} | {100 * spread:.0f} % | {100 * healthy:.0f} % | {kind} |"
                    if told is None:
                        print(f"{line} no interval | | | | |")
                        continue
                    shares, width = told
                    cells = " | ".join(f"{shares[group]:.2f}" for group in ("all", "with", "without", "new site"))
                    print(f"{line} {cells} | {width:.1f} |")


if __name__ == "__main__":
    main()
