"""What a folder of training data holds: facts about every case, and what is left out and why. Reads, never writes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from covct.data.cases import IN_PLACE_OF, PERSON, Case, CaseError, Labelled, LeftOut
from covct.data.domains import CLAHE, HU, as_grey
from covct.data.facts import FEW_SLICES, Facts, doubts, facts_of, rounded
from covct.data.layouts import search_cases
from covct.data.model_space import Restore, slices_of, to_hounsfield
from covct.data.read_case import read_case
from covct.data.screen import Likeness, Screen
from covct.data.slices import UNKNOWN

FORMAT = 1  # of the JSON
HU_EDGES = np.arange(-1100, 501, 20)
GREY_EDGES = np.arange(0, 257, 4)
TISSUES = ("image", "healthy lung", "infected lung")
EXAMPLES = 2  # cases of each source that are shown
EXAMPLE_SLICES = 3
RESTORABLE = "only through the restorer (--restorer)"
HOW_TO_HU = {
    HU: "as they are",
    CLAHE: RESTORABLE,
    "window-8bit": "by their window where it is known, else by air and soft tissue in their histogram",
}


@dataclass(frozen=True)
class Histogram:
    """Counts of intensities of one domain in some thirty slices a case, by tissue (one of `TISSUES`)."""

    unit: str
    edges: np.ndarray
    counts: dict[str, np.ndarray]


@dataclass(frozen=True)
class Example:
    """A slice to look at: HU (256, 256), lungs (1, or 1 and 2) and infection, anterior up. HU is guessed for CLAHE."""

    source: str
    case: str
    index: int
    hu: np.ndarray
    lungs: np.ndarray
    infection: np.ndarray


@dataclass
class Exploration:
    """All that was found.

    Attributes
    ----------
    alike : list of dict
        Cases of different patients with slices that look alike: near-duplicates to look at, not left out.
    """

    facts: list[Facts] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    alike: list[dict[str, Any]] = field(default_factory=list)
    doubtful: list[dict[str, str]] = field(default_factory=list)
    histograms: dict[str, Histogram] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "format": FORMAT,
            "sources": self.sources(),
            "cases": [asdict(one) for one in self.facts],
            "left_out": [asdict(one) for one in self.left_out],
            "alike": self.alike,
            "doubtful": self.doubtful,
        }

    def sources(self) -> list[dict[str, Any]]:
        """A line for each source and domain; a source of two domains is two lines, and they are never pooled."""
        groups: dict[tuple[str, str], list[Facts]] = defaultdict(list)
        for one in self.facts:
            groups[one.source, one.domain].append(one)
        out = []
        for (source, domain), some in sorted(groups.items()):
            whole = Counter(one.slug for one in self.left_out if one.source == source and not one.slices)
            out.append(
                {
                    "source": source,
                    "layout": some[0].layout,
                    "domain": domain,
                    "to_hu": HOW_TO_HU[domain],
                    "cases": len(some),
                    "patients": len({one.patient for one in some}),
                    "negatives": sum(one.negative for one in some),
                    "slices": sum(one.shape[0] for one in some),
                    "shapes": sorted({f"{one.shape[1]} x {one.shape[2]}" for one in some}),
                    "lung_share": _mean(one.lung_share for one in some),
                    "infection_share": _mean(one.infection_share for one in some),
                    "without_lung": _total(one.without_lung for one in some),
                    "without_infection": _total(one.without_infection for one in some),
                    "left_out": dict(whole),
                }
            )
        return out


def explore(
    data: Path,
    restore: Restore | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Exploration:
    """Read every case below a folder and say what it is.

    Parameters
    ----------
    data : Path
    restore : function, optional
        (slices, 256, 256) uint8 -> HU: with it the histograms and examples of CLAHE slices are in HU too.
    progress : function (int, int), optional
        Called with the cases done and their number.

    Raises
    ------
    UsageError
        The folder is missing, or one of its tables cannot be read.
    """
    found = search_cases(data)
    out = Exploration(left_out=list(found.left_out))
    screen, likeness = Screen(), Likeness()
    shown = _shown_of_each_source(found.cases)
    for number, case in enumerate(found.cases):
        progress(number, len(found.cases))
        kept = _explore_case(case, out, screen, likeness)
        if kept is None:
            continue
        _count(out.histograms, kept, restore)
        if _wanted_as_example(number, case.source, shown, out.examples):
            out.examples += _examples(kept, restore)
    out.left_out += _in_two_sources(out.facts)
    out.alike = _alike(likeness)
    progress(len(found.cases), len(found.cases))
    return out


def _explore_case(case: Case, out: Exploration, screen: Screen, likeness: Likeness) -> Labelled | None:
    """Note the facts of a case; what remains of it to learn from."""
    try:
        labelled = read_case(case)
    except CaseError as error:
        out.left_out.append(LeftOut(case.source, case.name, error.slug, str(error)))
        return None
    likeness.add(labelled)
    kept, faults = screen.judge(labelled)
    out.left_out += faults
    if kept is not None:
        out.facts.append(facts_of(kept))
        out.doubtful += [{"source": case.source, "case": case.name, "message": one} for one in doubts(labelled)]
    return kept


def _alike(likeness: Likeness) -> list[dict[str, Any]]:
    return [
        {
            "cases": [f"{one.source} {one.name}", f"{other.source} {other.name}"],
            "slices": count,
            "likeness": round(highest, 4),
        }
        for one, other, count, highest in likeness.pairs()
    ]


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return rounded(np.mean(known)) if known else None


def _total(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _shown_of_each_source(cases: Sequence[Case]) -> dict[str, list[int]]:
    """Which cases of each source are shown, as places among all: evenly over it, from the first on."""
    places: dict[str, list[int]] = defaultdict(list)
    for number, case in enumerate(cases):
        places[case.source].append(number)
    return {
        source: [some[round(place)] for place in np.linspace(0, len(some) - 1, min(EXAMPLES, len(some)))]
        for source, some in places.items()
    }


def _wanted_as_example(number: int, source: str, shown: dict[str, list[int]], examples: list[Example]) -> bool:
    """Whether a case is the next of its source to be shown, or follows one that was left out."""
    done = len({one.case for one in examples if one.source == source})
    return done < len(shown[source]) and number >= shown[source][done]


def _count(histograms: dict[str, Histogram], labelled: Labelled, restore: Restore | None) -> None:
    """Add a case to the histograms: in HU where its domain leads there, else in grey."""
    in_grey = labelled.domain == CLAHE and restore is None
    name = labelled.domain if labelled.domain != CLAHE else f"{CLAHE}, {'as stored' if in_grey else 'restored'}"
    labelled = _slices_only(labelled, list(range(0, len(labelled), max(1, len(labelled) // FEW_SLICES))))
    values = as_grey(labelled.pixels) if in_grey else to_hounsfield(labelled, restore)
    edges = GREY_EDGES if in_grey else HU_EDGES
    histogram = histograms.setdefault(
        name,
        Histogram(
            "grey" if in_grey else "HU", edges, {tissue: np.zeros(len(edges) - 1, np.int64) for tissue in TISSUES}
        ),
    )
    known = np.ones(values.shape, bool) if labelled.unknown is None else ~labelled.unknown
    masks: list[np.ndarray | None] = [known, None, None]
    if labelled.lungs is not None and values.shape == labelled.lungs.shape:
        masks[1] = (labelled.lungs > 0) & (True if labelled.infection is None else labelled.infection == 0)
    if labelled.infection is not None and values.shape == labelled.infection.shape:
        masks[2] = labelled.infection > 0
    for tissue, mask in zip(TISSUES, masks, strict=True):
        if mask is not None:
            histogram.counts[tissue][:] += np.histogram(values[mask], edges)[0]


def _examples(labelled: Labelled, restore: Restore | None) -> list[Example]:
    """Slices of a case as the networks see them; of CLAHE without a restorer the greys stand in for HU."""
    chosen = _telling(labelled)
    part = slices_of(_slices_only(labelled, chosen), restore or _grey_as_hu)
    return [
        Example(labelled.case.source, labelled.case.name, index, hu, lungs * (lungs != UNKNOWN), infection == 1)
        for index, hu, lungs, infection in zip(chosen, part.hu, part.lungs, part.infection, strict=True)
    ]


def _grey_as_hu(grey: np.ndarray) -> np.ndarray:
    """For pictures only."""
    return (grey.astype(np.float32) * (1500 / 255) - 1350).astype(np.int16)


def _telling(labelled: Labelled) -> list[int]:
    """A few slices evenly over the lungs, of each stretch the most infected."""
    if len(labelled) <= EXAMPLE_SLICES:
        return list(range(len(labelled)))
    mask = labelled.lungs if labelled.lungs is not None else labelled.infection
    assert mask is not None
    held = np.flatnonzero(mask.any((1, 2)))
    if not held.size:  # what held it was left out
        held = np.arange(len(labelled))
    bounds = np.linspace(held[0], held[-1] + 1, EXAMPLE_SLICES + 1).astype(int)
    infected = np.zeros(len(labelled)) if labelled.infection is None else labelled.infection.sum((1, 2), dtype=float)
    stretches = [range(int(a), max(int(a) + 1, int(b))) for a, b in zip(bounds, bounds[1:], strict=False)]
    return [
        max(some, key=lambda i: (float(infected[i]), -abs(i - (some.start + some.stop - 1) / 2))) for some in stretches
    ]


def _slices_only(labelled: Labelled, chosen: list[int]) -> Labelled:
    def of(array: np.ndarray | None) -> np.ndarray | None:
        return None if array is None else array[chosen]

    return replace(
        labelled,
        pixels=labelled.pixels[chosen],
        lungs=of(labelled.lungs),
        infection=of(labelled.infection),
        classes=of(labelled.classes),
        unknown=of(labelled.unknown),
    )


def _in_two_sources(facts: list[Facts]) -> list[LeftOut]:
    """Patients in two sources, under the name of a public set: on both sides of a split nobody would notice."""
    seen: dict[str, Facts] = {}
    out = []
    for one in sorted(facts, key=lambda one: one.domain == HU):  # training keeps the slices that it knows by layout
        found = PERSON.search(one.patient)
        person = found[1] if found else one.patient
        first = seen.setdefault(person, one)
        if first.source != one.source and not _two_forms(first.layout, one.layout):
            out.append(LeftOut(one.source, one.name, "patient-elsewhere", f"{person} is in {first.source} too"))
    return out


def _two_forms(one: str, other: str) -> bool:
    """Whether two layouts hold the same slices: on 8 bit and in HU, cropped and in full field."""
    return other == IN_PLACE_OF.get(one) or one == IN_PLACE_OF.get(other)
