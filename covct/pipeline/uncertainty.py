"""How sure the figures are: from what the networks compute anyway to intervals, by people with truth.

Three things move a figure without a second look at the patient: the mirrored slice and the networks of other folds
(where the weights have them) call other pixels; and pixels near the threshold could as well have been called the other
way. Their spread is a width that grows where the network hesitates, but not yet an interval that holds the truth as
often as it says. How many such widths a figure is wrong by, to either side, is measured in whole scans of people with
truth, in the very figures that reports give, and stands in the weight card (`covct evaluate --calibrate`); `conformal`
makes the ends of it. Without enough people there is no interval, and the report says why.

A scan that looks like nothing learned (`likeness`) has no interval either: nobody measured people there. What it cannot
know: opacities that are no COVID-19 but are called all the same. A single lung has no interval, since truth mostly does
not tell the sides apart.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from covct.intake.gate_rules import WIDE_PERCENT, Finding
from covct.networks.cards import Calibrated, Card
from covct.networks.network import Networks
from covct.pipeline.burden import RegionBurden, severity
from covct.pipeline.conformal import LEVEL, Guarantee, Seen, Stated, ends, guarantee
from covct.terms import LEFT_LUNG, REGIONS, RIGHT_LUNG, SEVERITY
from covct.voxels.preprocess import FieldOfView, to_model_space

BAND_LOGIT = 1.0  # pixels whose odds are within a factor e of the threshold's could be called either way
FLOOR_PERCENT = 0.1  # of the lung: no width is smaller, since what no look sees can be there all the same
FLOOR_SHARE = 0.005  # of the lung's own volume
FLOOR_ML = 0.1  # no lung, no share of it
SIDES = (RIGHT_LUNG, LEFT_LUNG)
UNLIKE = "the scan looks like nothing that the infection network learned"

Interval = tuple[float, float]
# Figures with an interval, and whether they are 0 in some people.
MAY_BE_NOTHING = {"volume_ml": False, "infection_ml": True, "infection_percent": True}
MOST = {"infection_percent": 100.0}
# Of folds only this is what each of them says by itself: in mL there is the volume of the ensemble's lungs in it.
BY_EACH_FOLD = ("infection_percent",)
# What of a card changes what its network calls, beside its weights and its threshold.
SETTINGS = ("recipe", "field_of_view", "size", "channels", "neighbours_mm", "patch", "classes", "spacing_mm",
            "flip", "least_air_mm2")  # fmt: skip


def band(threshold: float) -> tuple[float, float]:
    """The probabilities between which a pixel could be called either way."""
    logit = math.log(threshold / (1 - threshold))
    low, high = (1 / (1 + math.exp(-(logit + shift))) for shift in (-BAND_LOGIT, BAND_LOGIT))
    return low, high


@dataclass
class Tally:
    """Counts of model-space pixels by lung (index 0 right, 1 left): all that is kept of the looks.

    Attributes
    ----------
    threshold : float
    lungs, called, surely, perhaps : (2,) int64
        Pixels of the lung; called by the mean of all looks; called with the threshold at the upper and at the lower
        end of the `band`.
    by_look : (looks, 2) int64 or None
        Called by each look alone.
    """

    threshold: float
    lungs: np.ndarray
    called: np.ndarray
    surely: np.ndarray
    perhaps: np.ndarray
    by_look: np.ndarray | None = None

    @classmethod
    def empty(cls, threshold: float) -> Tally:
        return cls(threshold, *(np.zeros(2, np.int64) for _ in range(4)))

    def add(self, looks: Sequence[np.ndarray], sides: np.ndarray) -> None:
        """Count some slices.

        looks : sequence of (slices, size, size) probability, the same number each time
        sides : (slices, size, size) uint8, 1 right lung, 2 left lung
        """
        mean = np.mean(looks, axis=0)
        low, high = band(self.threshold)
        if self.by_look is None:
            self.by_look = np.zeros((len(looks), 2), np.int64)
        for place, side in enumerate(SIDES):
            inside = sides == side
            self.lungs[place] += np.count_nonzero(inside)
            for counts, least in ((self.called, self.threshold), (self.surely, high), (self.perhaps, low)):
                counts[place] += np.count_nonzero((mean >= least) & inside)
            for number, look in enumerate(looks):
                self.by_look[number, place] += np.count_nonzero((look >= self.threshold) & inside)


def tally_lungs(sides: np.ndarray, probability: np.ndarray, threshold: float) -> Tally:
    """Count how the lungs' border hesitates. `lungs` and `called` are then the same.

    sides (slices, size, size) uint8 as `separate_lungs` makes them, probability alike. Vessels inside are filled
    whatever their probability: they do not hesitate.
    """
    tally, (low, high) = Tally.empty(threshold), band(threshold)
    kernel = np.ones((5, 5), np.uint8)
    for index in np.flatnonzero(sides.any((1, 2))).tolist():
        side, p = sides[index], probability[index]
        for place, number in enumerate(SIDES):
            mask = (side == number).view(np.uint8)
            around = (cv2.dilate(mask, kernel) > 0) & (side == 0) & (p >= low)
            size = int(np.count_nonzero(mask))
            tally.lungs[place] += size
            tally.called[place] += size
            tally.surely[place] += size - np.count_nonzero((mask > 0) & (p >= threshold) & (p < high))
            tally.perhaps[place] += size + np.count_nonzero(around)
    return tally


def sides_in_view(lungs: Iterable[np.ndarray], view: FieldOfView, size: int) -> np.ndarray:
    """Lung labels of the source grid as the network's pixels: slices of (rows, columns) -> (slices, size, size)."""
    out = []
    for one in lungs:
        sides = np.zeros((size, size), np.uint8)
        for side in SIDES:  # a mean of labels would be another label
            sides[to_model_space((one == side).astype(np.float32)[None], view, size)[0] > 0.5] = side
        out.append(sides)
    return np.stack(out)


def widths(tally: Tally, region: str = "lungs") -> tuple[float, float]:
    """How far the count of a region could be too high and too low, in percent of its lung: not yet an interval."""
    places = [side - 1 for side in REGIONS[region]]
    lungs, called, surely, perhaps = (
        int(counts[places].sum()) for counts in (tally.lungs, tally.called, tally.surely, tally.perhaps)
    )
    by_look = [] if tally.by_look is None else tally.by_look[:, places].sum(1)
    spread = float(np.std(by_look, ddof=1)) if len(by_look) > 1 else 0.0
    percent = 100 / max(1, lungs)
    return math.hypot(called - surely, spread) * percent, math.hypot(perhaps - called, spread) * percent


@dataclass(frozen=True)
class Uncertainty:
    """What the networks say of both lungs' figures, and the intervals that follow.

    Attributes
    ----------
    stated : dict of str to list of Stated
        By figure: what is reported, and for an ensemble what each of its networks says instead.
    guarantees : dict of str to Guarantee
    intervals : dict of str to ((float, float) or None)
        None where too few people were measured, or the figure itself is none.
    source : str or None
        Where people were measured.
    apart : float or None
        How unlike what was learned the scan looks, as `likeness.Likeness`.
    """

    looks: int
    stated: dict[str, list[Stated]]
    guarantees: dict[str, Guarantee]
    intervals: dict[str, Interval | None]
    source: str | None = None
    apart: float | None = None


def uncertainty(
    burden: dict[str, RegionBurden],
    lungs: Tally,
    infection: Sequence[Tally],
    networks: Networks,
    apart: float | None = None,
) -> Uncertainty:
    """Put intervals beside the figures of both lungs.

    Parameters
    ----------
    burden : dict of str to RegionBurden
        As measured on the source grid.
    lungs : Tally
    infection : sequence of Tally
        Of the same series, in model space: of the mean of all networks, then for an ensemble of each by itself. Only
        shares are taken from them.
    networks : Networks
        The infection network's card holds the people that were measured.
    apart : float, optional
        As of `likeness.Likeness`: beyond 1 no interval is given.
    """
    stated = stated_figures(burden["lungs"], lungs, infection)
    told = networks.infection.card.calibration
    other = None if told is None else _of_other_networks(told, networks)
    other = UNLIKE if apart is not None and apart > 1 else other
    by_folds = told is not None and told.by_folds
    guarantees: dict[str, Guarantee] = {}
    intervals: dict[str, Interval | None] = dict.fromkeys(MAY_BE_NOTHING)
    for name, may_be_nothing in MAY_BE_NOTHING.items():
        people = [] if told is None else people_of(told, name)
        made = guarantee(people, may_be_nothing, by_folds)
        made = replace(made, guaranteed=None) if by_folds and name not in BY_EACH_FOLD else made
        guarantees[name] = Guarantee(made.people, made.people_without, reason=other) if other else made
        if guarantees[name].level is not None and getattr(burden["lungs"], name) is not None:
            reported, *folds = stated[name]
            assert told is not None
            low, high = ends(people, reported.value, folds if told.by_folds else [reported], may_be_nothing)
            intervals[name] = max(0.0, low), min(MOST.get(name, math.inf), high)
    return Uncertainty(networks.infection.looks, stated, guarantees, intervals, told.source if told else None, apart)


def people_of(told: Calibrated, figure: str) -> list[Seen]:
    """Those of a card whose truth of a figure is known."""
    return [
        Seen(one.source, one.there or not MAY_BE_NOTHING[figure], one.errors[figure], one.fold)
        for one in told.people
        if figure in one.errors
    ]


def weights_of(networks: Networks) -> tuple[list[str], list[float]]:
    """sha256 of all networks that figures rest on, and their thresholds."""
    both = (networks.lungs, networks.infection)
    hashes = [one.card.sha256 for network in both for one in (network, *network.members)]
    return hashes, [network.card.threshold for network in both]


def settings_of(lungs: Card, infection: Card, empty_slices: Card | None) -> str:
    """sha256 of how networks are fed, and of all that an empty-slices network, where there is one, leaves out by."""
    of = [card.model_dump(include=set(SETTINGS)) for card in (lungs, infection)]
    if empty_slices:
        of.append(empty_slices.model_dump(include={*SETTINGS, "sha256", "threshold"}))
    return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()


def _of_other_networks(told: Calibrated, networks: Networks) -> str | None:
    """Why a card's people say nothing of these networks; None where they do."""
    if (told.networks, told.thresholds) != weights_of(networks):
        return "people were measured with other networks or thresholds"
    empty = networks.empty_slices.card if networks.empty_slices else None
    settings = settings_of(networks.lungs.card, networks.infection.card, empty)
    if told.settings not in (None, settings):
        return "people were measured with other settings of the networks, or another empty-slices network"
    folds = len(networks.infection.members) + 1 if told.by_folds and networks.infection.members else 0
    if any(one.fold >= max(1, folds) for one in told.people) or (told.by_folds and not folds):
        return "people were measured with other folds than there are networks"
    return None


def stated_figures(lungs: RegionBurden, of_lungs: Tally, infection: Sequence[Tally]) -> dict[str, list[Stated]]:
    """Of both lungs, by figure: what is reported with its widths, then what each network of an ensemble says."""
    volume, percent = lungs.volume_ml, lungs.infection_percent
    share = percent if percent is not None else 0.0
    out: dict[str, list[Stated]] = {name: [] for name in MAY_BE_NOTHING}
    volume_widths = (volume * (FLOOR_SHARE + width / 100) + FLOOR_ML for width in widths(of_lungs))
    volume_ml = Stated(volume, *volume_widths)
    for tally in infection:
        moved = min(100.0, max(0.0, share + called_percent(tally) - called_percent(infection[0])))
        below, above = (FLOOR_PERCENT + width for width in widths(tally))
        out["infection_percent"].append(Stated(moved, below, above))
        ml = volume / 100
        out["infection_ml"].append(Stated(moved * ml, below * ml + FLOOR_ML, above * ml + FLOOR_ML))
        out["volume_ml"].append(volume_ml)
    return out


def called_percent(tally: Tally) -> float:
    """Share of both lungs that is called in model space."""
    return 100 * float(tally.called.sum()) / max(1, int(tally.lungs.sum()))


@dataclass(frozen=True)
class NextClass:
    """The boundary of the severity classes that is nearest to a percentage."""

    number: int
    boundary_percent: float
    distance_percent: float


def next_class(percent: float) -> NextClass:
    """The class on the other side of the nearest boundary, and how far that is, in percentage points."""
    here, _ = severity(percent)
    number, boundary = min(
        ((cls if cls != here else cls - 1, start) for cls, start, _ in SEVERITY if start > 0),
        key=lambda one: abs(percent - one[1]),
    )
    return NextClass(number, boundary, abs(percent - boundary))


def classes(interval: Interval) -> tuple[int, int]:
    """The lowest and the highest severity class that an interval reaches."""
    low, high = (severity(end)[0] for end in interval)
    assert low is not None and high is not None
    return low, high


def doubts(interval: Interval | None) -> list[Finding]:
    """The low-confidence warning, where an infected share is uncertain; nothing where there is none."""
    if interval is None:
        return []
    (lowest, highest), (low, high) = classes(interval), interval
    message = f"the share of opacity is put between {low:.1f} and {high:.1f} % ({100 * LEVEL:.0f} % interval)"
    if lowest != highest:
        return [Finding("low-confidence", f"{message}: severity class {lowest} to {highest}")]
    if high - low > WIDE_PERCENT:
        return [Finding("low-confidence", message)]
    return []
