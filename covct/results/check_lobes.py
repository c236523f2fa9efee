"""What of a report's figures by lobe cannot be true together, rounding allowed for."""

from __future__ import annotations

from collections.abc import Iterator

from covct.pipeline.lobes import lobe_score
from covct.pipeline.report_figures import Regions
from covct.pipeline.report_lobes import Lobe, Lobes
from covct.terms import LEFT_LUNG, LOBES, RIGHT_LUNG

ROUNDED_ML, ROUNDED_PERCENT = 0.0005, 0.005  # the report's last digit, halved
LUNGS = {RIGHT_LUNG: "right_lung", LEFT_LUNG: "left_lung"}


def lobes_contradict(found: Lobes, regions: Regions) -> Iterator[str]:
    """Lobes make up their lung, scores follow from shares, their sum from them, and intervals hold their figures."""
    figures = dict(found.by_lobe.items())
    for number, lung in LUNGS.items():
        for figure in ("volume_ml", "infection_ml"):
            parts = [getattr(figures[lobe.name], figure) for lobe in LOBES if lobe.lung == number]
            whole = regions.named(lung).figure(figure)
            if whole is not None and None not in parts and abs(sum(parts) - whole) > (len(parts) + 1) * ROUNDED_ML:
                yield f"{lung} {figure}: its lobes make {sum(parts):g}, the report says {whole:g}"
    for name, lobe in figures.items():
        yield from _of_lobe(name, lobe)
    scores = [lobe.score for lobe in figures.values() if lobe.score is not None]
    whole_score = sum(scores) if len(scores) == len(LOBES) else None
    if found.score != whole_score:
        yield f"lobes: their scores make {whole_score}, the report says {found.score}"
    if not _holds(found.score_interval, found.score):
        yield f"lobes: the score is {found.score}, its interval {found.score_interval}"


def _of_lobe(name: str, lobe: Lobe) -> Iterator[str]:
    percent, volume, infection = lobe.infection_percent, lobe.volume_ml, lobe.infection_ml
    near = (
        [None]
        if percent is None
        else [lobe_score(max(percent + off, 0)) for off in (-ROUNDED_PERCENT, 0, ROUNDED_PERCENT)]
    )
    if lobe.score not in near:
        yield f"{name}: score {lobe.score} with {percent} % opacity"
    if not (_holds(lobe.infection_percent_interval, percent) and _holds(lobe.score_interval, lobe.score)):
        yield f"{name}: share or score lies outside its interval"
    if percent is not None and volume and infection is not None:
        rounded = 100 * ROUNDED_ML * (1 + infection / volume) / volume + ROUNDED_PERCENT
        if abs(percent - 100 * infection / volume) > rounded + 1e-9:
            yield f"{name}: {infection} of {volume} mL is {100 * infection / volume:.2f} %, the report says {percent}"


def _holds(interval: tuple[float, float] | None, value: float | None) -> bool:
    """An interval is there where its figure is, and holds it."""
    if interval is None or value is None:
        return interval is None and value is None
    return interval[0] - ROUNDED_PERCENT <= value <= interval[1] + ROUNDED_PERCENT
