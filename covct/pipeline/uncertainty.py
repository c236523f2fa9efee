"""How sure the figures are: from what the networks compute anyway to intervals, scaled by patients with truth.

Three things move a figure without a second look at the patient: the mirrored slice and the networks of other folds
(where the weights have them) call other pixels; and pixels near the threshold could as well have been called the other
way. Their spread is a width that grows where the network hesitates, but not yet one that holds the truth as often as
promised. For that it is multiplied by a factor measured on patients the network never saw: the quantile of (error /
width), as in split conformal prediction with a local width (Papadopoulos 2002, Lei 2018). The factor stands in the
weight card with where it comes from, `benchmarks/uncertainty.py` measures it.

What it cannot know: a scan unlike those patients', and opacities that are no COVID-19 but are called all the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from covct.intake.gate_rules import WIDE_PERCENT, Finding
from covct.networks.cards import Card
from covct.networks.network import Networks
from covct.pipeline.burden import RegionBurden, severity
from covct.terms import LEFT_LUNG, REGIONS, RIGHT_LUNG, SEVERITY
from covct.voxels.preprocess import FieldOfView, to_model_space

LEVEL = 0.9  # share of patients whose true value the interval is to hold
BAND_LOGIT = 1.0  # pixels whose odds are within a factor e of the threshold's could be called either way
FLOOR_PERCENT = 0.1  # of the lung: no width is smaller, since what no look sees can be there all the same
FLOOR_SHARE = 0.005  # of the lung's own volume
# Where a card has none: what the shipped networks came to, rounded up. The report says so.
DEFAULT_FACTORS = {"lungs": 4.0, "infection": 5.0}
UNCALIBRATED = "default: these weights were not calibrated on patients with truth"
SIDES = (RIGHT_LUNG, LEFT_LUNG)

Interval = tuple[float, float]


@dataclass(frozen=True)
class Calibration:
    """What widths are multiplied by, for which share of patients, and where that was measured."""

    factor: float
    level: float
    source: str


def calibration(card: Card, looks: int | None = None) -> Calibration:
    """The card's factor; the default where it has none, or one for another number of looks."""
    told = card.uncertainty
    if told and looks in (None, told.looks):
        return Calibration(told.factor, told.level, told.source)
    return Calibration(DEFAULT_FACTORS[card.task], LEVEL, UNCALIBRATED)


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
    """How far the count of a region could be too high and too low, in percent of its lung: not yet calibrated."""
    places = [side - 1 for side in REGIONS[region]]
    lungs, called, surely, perhaps = (
        int(counts[places].sum()) for counts in (tally.lungs, tally.called, tally.surely, tally.perhaps)
    )
    by_look = [] if tally.by_look is None else tally.by_look[:, places].sum(1)
    spread = float(np.std(by_look, ddof=1)) if len(by_look) > 1 else 0.0
    percent = 100 / max(1, lungs)
    return math.hypot(called - surely, spread) * percent, math.hypot(perhaps - called, spread) * percent


@dataclass(frozen=True)
class Figures:
    """The intervals of one region; None where the figure itself is none."""

    volume_ml: Interval
    infection_ml: Interval
    infection_percent: Interval | None


@dataclass(frozen=True)
class Uncertainty:
    """Intervals by region, and what they were made of."""

    looks: int
    calibrations: dict[str, Calibration]
    regions: dict[str, Figures]


def uncertainty(burden: dict[str, RegionBurden], lungs: Tally, infection: Tally, networks: Networks) -> Uncertainty:
    """Put intervals beside measured figures.

    Parameters
    ----------
    burden : dict of str to RegionBurden
        As measured on the source grid.
    lungs, infection : Tally
        Of the same series, in model space. Only shares are taken from them.
    networks : Networks
        Their cards hold the factors.
    """
    looks = networks.infection.looks
    calibrations = {
        "lungs": calibration(networks.lungs.card),
        "infection": calibration(networks.infection.card, looks),
    }
    regions = {}
    for name, measured in burden.items():
        below, above = (100 * FLOOR_SHARE + width for width in widths(lungs, name))
        factor = calibrations["lungs"].factor / 100
        volume = measured.volume_ml
        volume_interval = (max(0.0, volume * (1 - factor * below)), volume * (1 + factor * above))
        share = 100 * measured.infection_ml / volume if volume else 0.0
        low, high = percent_interval(share, widths(infection, name), calibrations["infection"].factor)
        regions[name] = Figures(
            volume_interval,
            (volume * low / 100, volume * high / 100),
            (low, high) if measured.infection_percent is not None else None,
        )
    return Uncertainty(looks, calibrations, regions)


def percent_interval(percent: float, widths_percent: tuple[float, float], factor: float) -> Interval:
    """The interval of an infected share, within 0..100."""
    below, above = (factor * (FLOOR_PERCENT + width) for width in widths_percent)
    return max(0.0, percent - below), min(100.0, percent + above)


def error_in_widths(percent: float, truth: float, widths_percent: tuple[float, float]) -> float:
    """How many widths the truth lies away: the factor that would just have held it."""
    below, above = (FLOOR_PERCENT + width for width in widths_percent)
    return (truth - percent) / above if truth > percent else (percent - truth) / below


def conformal_factor(scores: Sequence[float], level: float = LEVEL) -> float:
    """The factor that holds a new patient's truth with probability `level`, were it drawn like those of `scores`.

    Raises
    ------
    ValueError
        Too few patients to promise that much: nine for 0.9.
    """
    rank = math.ceil((len(scores) + 1) * level - 1e-9)
    if rank > len(scores):
        raise ValueError(f"{len(scores)} patients are too few for a level of {level:g}")
    return sorted(scores)[rank - 1]


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


def doubts(interval: Interval | None, level: float) -> list[Finding]:
    """The low-confidence warning, where an infected share is uncertain; nothing where there is none."""
    if interval is None:
        return []
    (lowest, highest), (low, high) = classes(interval), interval
    message = f"the share of opacity is put between {low:.1f} and {high:.1f} % ({100 * level:.0f} % interval)"
    if lowest != highest:
        return [Finding("low-confidence", f"{message}: severity class {lowest} to {highest}")]
    if high - low > WIDE_PERCENT:
        return [Finding("low-confidence", message)]
    return []
