"""What was found in a folder of training data, as one self-contained HTML page with plots and slices to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from covct.data.explore import EXAMPLES, TISSUES, Example, Exploration, Histogram
from covct.data.facts import CLASS_NAMES, Facts
from covct.data.screen import SAME
from covct.html import png_address, render
from covct.voxels.overlay import paint

WIDTH, HEIGHT = 640, 240  # of a histogram, in units of its SVG
LEFT, RIGHT, BOTTOM, TOP = 44, 10, 34, 12
LONGEST_LIST = 400  # rows of a table; a browser scrolls no more, and the JSON has all
MOST_PATIENTS = 60  # with a bar of their own
COLOURS = dict(zip(TISSUES, ("grey", "blue", "red"), strict=True))  # classes of the stylesheet
PART_COLOURS = ("red", "blue", "green", "grey")


@dataclass(frozen=True)
class Curves:
    """A histogram drawn: (pixels, text) of the ticks, and (tissue, colour, points) of the curves."""

    name: str
    unit: str
    ticks: list[tuple[int, str]]
    curves: list[tuple[str, str, str]]


@dataclass(frozen=True)
class Bar:
    """A bar in parts: (words, colour, left end, width), of 640."""

    title: str
    parts: list[tuple[str, str, float, float]]


@dataclass(frozen=True)
class Patients:
    """Slices by patient, of one source: (patient, slices), most first, and how many have one alone."""

    source: str
    count: int
    single: int
    several: list[tuple[str, int]]


def as_html(found: Exploration, title: str) -> str:
    """The page. `title` names the folder. Patients are the groups of the layout, of DICOM a hash."""
    return render(
        "explore.html",
        *_FILTERS,
        title=title,
        found=found,
        sources=found.sources(),
        domains=sorted({one.domain for one in found.facts}),
        reasons=Counter(one.slug for one in found.left_out).most_common(),
        same=SAME,
        histograms=[_curves(name, one) for name, one in sorted(found.histograms.items())],
        plot={"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT, "base": HEIGHT - BOTTOM},
        bars=list(_balance(found)),
        patients=list(_per_patient(found.facts)),
        shown=EXAMPLES,
        longest=LONGEST_LIST,
    )


def percent(share: float | None, digits: int = 1) -> str:
    """A share as text; a dash where it is not known."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def _known(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"


def _curves(name: str, one: Histogram) -> Curves:
    """Share of the voxels of each tissue by intensity, as lines."""
    low, high = float(one.edges[0]), float(one.edges[-1])
    centres = (one.edges[:-1] + one.edges[1:]) / 2
    shares = {tissue: counts / counts.sum() for tissue, counts in one.counts.items() if counts.sum()}
    # Air around the patient would flatten every other curve.
    most = max((float(np.sort(share)[-3]) for share in shares.values()), default=1.0) * 1.15 or 1.0
    room = HEIGHT - BOTTOM - TOP

    def points(share: np.ndarray) -> str:
        heights = np.minimum(1.0, share / most) * room
        places = zip(centres, HEIGHT - BOTTOM - heights, strict=True)
        return " ".join(f"{_across(x, low, high):.1f},{y:.1f}" for x, y in places)

    ticks = [(round(_across(value, low, high)), f"{value:g}") for value in np.linspace(low, high, 9).round()]
    curves = [(tissue, COLOURS[tissue], points(share)) for tissue, share in shares.items()]
    return Curves(name, one.unit, ticks, curves)


def _across(value: float, low: float, high: float) -> float:
    return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)


def _balance(found: Exploration) -> Iterator[Bar]:
    """For each source: slices by what they hold, and the classes of disease."""
    for one in found.sources():
        some = [f for f in found.facts if (f.source, f.domain) == (one["source"], one["domain"])]
        yield _bar(f"{one['source']}, slices", [(name, n, str(n)) for name, n in _slices_by_content(one, some)])
        shares = [f.class_shares for f in some if f.class_shares]
        if shares:
            means = {key: float(np.mean([s[key] for s in shares])) for key in CLASS_NAMES.values()}
            classes = [(key.replace("_", " "), mean, percent(mean)) for key, mean in means.items()]
            yield _bar(f"{one['source']}, kinds of disease (mean over cases)", classes)


def _slices_by_content(source: dict[str, Any], some: list[Facts]) -> list[tuple[str, int]]:
    labelled = sum(f.shape[0] for f in some if f.without_infection is not None)
    infected = labelled - sum(f.without_infection or 0 for f in some)
    clean = sum(f.shape[0] for f in some if f.negative)
    return [
        ("with infection", infected),
        ("without", labelled - infected),
        ("of people without COVID-19", clean),
        ("not labelled", source["slices"] - labelled - clean),
    ]


def _bar(title: str, values: Sequence[tuple[str, float, str]]) -> Bar:
    """values: name, size, and the size in words; what has none is left out."""
    total = sum(value for _, value, _ in values) or 1
    left, parts = 0.0, []
    for (name, value, words), colour in zip(values, PART_COLOURS, strict=False):
        if value:
            width = WIDTH * value / total
            parts.append((f"{name}: {words}", colour, round(left, 1), round(width, 1)))
            left += width
    return Bar(title, parts)


def _per_patient(facts: list[Facts]) -> Iterator[Patients]:
    """Patients of one slice are told together."""
    for source in sorted({one.source for one in facts}):
        counts: Counter[str] = Counter()
        for one in facts:
            if one.source == source:
                counts[one.patient] += one.shape[0]
        several = [(patient, count) for patient, count in counts.most_common() if count > 1][:MOST_PATIENTS]
        yield Patients(source, len(counts), sum(count == 1 for count in counts.values()), several)


def _picture(one: Example) -> str:
    """The address of the slice as it is painted."""
    image = paint(one.hu, one.lungs == 1, one.lungs == 2, one.infection)
    _, png = cv2.imencode(".png", image[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
    return png_address(png.tobytes())


_FILTERS = (percent, _known, _picture)
