"""Figures by lobe, and the CT severity score of 0 to 25 that follows, each with an interval of the atlas's own errors.

The score is that of Pan (Radiology 2020;295:715) with the edges of Francone (Eur Radiol 2020;30:6808): 0 to 5 for each
lobe by its share of opacity, and their sum. Readers give it by eye; here the share is counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from covct.intake.gate_rules import ONE_LUNG, ValidFor
from covct.networks.lobe_card import LobeCard
from covct.pipeline.burden import RegionBurden
from covct.pipeline.conformal import LEVEL, rank
from covct.terms import LEFT_LUNG, LOBE_SCALE, LOBE_SCORES, LOBES, REGIONS, RIGHT_LUNG
from covct.voxels.labels import INFECTED, Labels
from covct.voxels.lobes import Atlas, Counted, lobes_of, other_courses

MOSTLY_DENSE_HU = -400  # a lung's mean above: what air is left does not show where its lobes lie
ML_DIGITS, PERCENT_DIGITS = 3, 2

Ends = tuple[float, float]
LoadLobes = Callable[[], tuple[LobeCard, Atlas]]


@dataclass(frozen=True)
class LobeBurden:
    """Burden of one lobe; without an interval, share and score where its lung's are withheld or it has no voxel."""

    volume_ml: float
    infection_ml: float
    infection_percent: float | None
    percent_interval: Ends | None
    score: int | None
    score_interval: tuple[int, int] | None


@dataclass(frozen=True)
class ByLobe:
    """What was measured by lobe.

    Attributes
    ----------
    card : LobeCard
    lobes : dict of str to LobeBurden
        By name, as `terms.LOBES`.
    score, score_interval : int, (int, int), or None
        Sum of all lobes; None where one has none.
    withheld : tuple of str
        Why figures of a lung are withheld.
    """

    card: LobeCard
    lobes: dict[str, LobeBurden]
    score: int | None
    score_interval: tuple[int, int] | None
    withheld: tuple[str, ...]


def lobe_score(percent: float) -> int:
    """0 to 5 by a lobe's share of opacity."""
    return int(lobe_scores(np.asarray(percent)))


def lobe_scores(percent: np.ndarray) -> np.ndarray:
    """The same of an array of any shape."""
    score = np.zeros(percent.shape, np.int64)
    for number, start, itself in LOBE_SCORES:
        score[(percent >= start) if itself else (percent > start)] = number
    return score


def by_lobe(
    card: LobeCard, atlas: Atlas, labels: Labels, burden: dict[str, RegionBurden], voxel_volume_mm3: float
) -> tuple[Labels, ByLobe]:
    """Divide lungs into lobes, and measure these.

    Parameters
    ----------
    labels : Labels
        Lungs and infection, working orientation.
    burden : dict of str to RegionBurden
        Of each lung, as it was measured.
    """
    lobes, held = lobes_of(atlas, labels.lungs, labels.infection)
    voxels = _voxels(lobes, labels)
    withheld = _withheld(burden)
    shares = _other_shares(atlas, held)
    ml = voxel_volume_mm3 / 1000
    measured = {
        lobe.name: _lobe(int(all_), int(sick), ml, None if lobe.lung in withheld else other)
        for lobe, (all_, sick), other in zip(LOBES, voxels, shares.T, strict=True)
    }
    scores = [one.score for one in measured.values() if one.score is not None]
    whole = sum(scores) if len(scores) == len(LOBES) else None
    sums = lobe_scores(np.nan_to_num(shares)).sum(1)
    interval = None if whole is None else _whole_ends(sums, whole)
    return lobes, ByLobe(card, measured, whole, interval, tuple(withheld.values()))


def _voxels(lobes: Labels, labels: Labels) -> np.ndarray:
    """(lobes, 2) int: voxels of each, and the infected ones."""
    found = np.zeros((len(LOBES) + 1, 2), np.int64)
    for here, both in zip(lobes, labels, strict=True):
        if here.any():
            found[1:, 0] += [np.count_nonzero(here == lobe.number) for lobe in LOBES]
            found[:, 1] += np.bincount(here[both >= INFECTED], minlength=len(found))
    return found[1:]


def _other_shares(atlas: Atlas, held: Counted) -> np.ndarray:
    """(people, lobes) float: shares of opacity, percent, by other courses of the fissures; NaN of a lobe of nothing."""
    whole, sick = np.moveaxis(other_courses(atlas, held), 2, 0)
    return np.where(whole > 0, 100 * sick / np.where(whole > 0, whole, 1), np.nan)


def _lobe(voxels: int, infected: int, ml: float, other: np.ndarray | None) -> LobeBurden:
    """`other`: its shares by other courses of the fissures, (people,); None where share and score are withheld."""
    if other is None or not voxels:
        return LobeBurden(voxels * ml, infected * ml, None, None, None, None)
    percent, known = 100.0 * infected / voxels, other[~np.isnan(other)]
    score = lobe_score(percent)
    return LobeBurden(
        voxels * ml, infected * ml, percent, _ends(known, percent), score, _whole_ends(lobe_scores(known), score)
    )


def _ends(values: np.ndarray, value: float) -> Ends:
    """Where 9 of 10 such values lie, and the value itself."""
    place = rank(len(values))
    if not place:
        return value, value
    ordered = np.sort(values)
    return min(float(ordered[place - 1]), value), max(float(ordered[-place]), value)


def _whole_ends(values: np.ndarray, value: int) -> tuple[int, int]:
    low, high = _ends(values, value)
    return int(low), int(high)


def _withheld(burden: dict[str, RegionBurden]) -> dict[int, str]:
    """By lung: why the shares of its lobes do not hold."""
    reasons = {}
    volumes = [burden[name].volume_ml for name, labels in REGIONS.items() if len(labels) == 1]
    for side, name in ((RIGHT_LUNG, "right_lung"), (LEFT_LUNG, "left_lung")):
        lung, words = burden[name], name.replace("_", " ")
        if lung.volume_ml < ONE_LUNG * max(volumes) or not lung.volume_ml:
            reasons[side] = f"hardly any {words} was found: its lobes are not known"
        elif lung.mean_hu is not None and lung.mean_hu > MOSTLY_DENSE_HU:
            reasons[side] = (
                f"the {words} is mostly dense (mean {lung.mean_hu:.0f} HU, wanted at most {MOSTLY_DENSE_HU}): its "
                "lobes are not known"
            )
    return reasons


def lobes_part(measured: ByLobe, valid_for: ValidFor) -> dict[str, Any]:
    """What the report says by lobe; null where the input does not allow it."""
    card, holds = measured.card, valid_for.percent
    return {
        "scale": LOBE_SCALE,
        "by_lobe": {name: _lobe_part(one, valid_for) for name, one in measured.lobes.items()},
        "score": measured.score if holds else None,
        "score_interval": list(measured.score_interval) if measured.score_interval and holds else None,
        "level": LEVEL,
        "withheld": list(measured.withheld),
        "atlas": {
            "name": card.name,
            "sha256": card.sha256,
            "licence": card.licence,
            "source": card.source,
            "people": card.people,
            "dice": card.dice.model_dump(),
            "interval_held": card.interval_held,
            "limits": card.limits,
        },
    }


def _lobe_part(lobe: LobeBurden, valid_for: ValidFor) -> dict[str, Any]:
    share = lobe.infection_percent if valid_for.percent else None
    given = share is not None
    volume, infection = (
        round(value, ML_DIGITS) if valid_for.volume else None for value in (lobe.volume_ml, lobe.infection_ml)
    )
    return {
        "volume_ml": volume,
        "infection_ml": infection,
        "infection_percent": None if share is None else round(share, PERCENT_DIGITS),
        "infection_percent_interval": [round(end, PERCENT_DIGITS) for end in lobe.percent_interval or ()]
        if given
        else None,
        "score": lobe.score if given else None,
        "score_interval": list(lobe.score_interval or ()) if given else None,
    }
