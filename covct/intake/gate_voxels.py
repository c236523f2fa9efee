"""The input gate's look at voxels: whether what was segmented can be a person's chest, of this size and so turned.

Measured on every few slices and pixels, whatever size they are said to have: a wrong voxel size is what is looked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from covct.errors import SeriesError
from covct.intake import gate_rules
from covct.intake.gate_rules import REFUSED, WARNED, Finding
from covct.voxels.components import largest_part
from covct.voxels.labels import Slices, per_slice

SEEN = 60, 128, 128  # slices, rows and columns: at least so many are looked at, where there are as many
TISSUE_ABOVE_HU = -400  # skin and what lies inside the chest wall is denser, lung and air are not
BONE_HU = 200
BONE_ENOUGH = 60  # voxels seen: fewer are no spine
MIDLINE = 0.08  # half the strip that the spine is looked for in, as a share of the body's width
BACK = 0.3  # of the body's depth, from the back; as much from the front
INSIDE_MM = 4.0  # from the edge of the lungs: no partial volume


@dataclass(frozen=True)
class Chest:
    """What the voxels say of one scan. Lengths in mm and volumes in mL as the header's voxel sizes have them.

    Attributes
    ----------
    right_ml, left_ml : float
    width_mm, area_cm2 : float
        Of the body's cross-section: medians of the slices with lung.
    lungs_mm : (float, float, float)
        Extent of both lungs together: head to feet, front to back, right to left.
    lung_share : float
        Of the body's cross-section, on the slice where it is largest.
    end_share : float
        Lung area on the first or the last slice, as a share of the largest.
    at_edge : bool
        The lungs reach the edge of the image, on one slice at least.
    clefts : (float, float, float)
        How deep the lungs' profile dips in its middle, along slices, rows and columns: 0 where they fall into two
        apart, 1 without any dip.
    spine : float or None
        Share of the midline's bone at the back, of that at the back and in front; None where there is too little.
    inner_hu : float or None
        Median of the lungs without their rim.
    """

    right_ml: float
    left_ml: float
    width_mm: float
    area_cm2: float
    lungs_mm: tuple[float, float, float]
    lung_share: float
    end_share: float
    at_edge: bool
    clefts: tuple[float, float, float]
    spine: float | None
    inner_hu: float | None

    @property
    def volume_ml(self) -> float:
        return self.right_ml + self.left_ml

    @property
    def has_both(self) -> bool:
        """Whether there is more of either lung than a tenth of the other."""
        return min(self.right_ml, self.left_ml) >= gate_rules.ONE_LUNG * max(self.right_ml, self.left_ml)


def measure_chest(hu: np.ndarray, lungs: Slices, spacing_mm: tuple[float, float, float]) -> Chest:
    """Measure body and lungs.

    Parameters
    ----------
    hu : (slices, rows, columns) number
        Working orientation: slices run head to feet, rows front to back, columns from the patient's right to left.
    lungs : (slices, rows, columns) uint8
        Labels: 1 right lung, 2 left lung. Some voxel is marked.
    spacing_mm : (float, float, float)
        Of slices, rows and columns.
    """
    steps = tuple(max(1, extent // seen) for extent, seen in zip(hu.shape, SEEN, strict=True))
    few = (slice(None, None, steps[1]), slice(None, None, steps[2]))
    spacing = tuple(mm * step for mm, step in zip(spacing_mm, steps, strict=True))
    areas = per_slice(lungs)
    labels = np.stack([lungs[index][few] for index in range(0, len(hu), steps[0])])
    seen = hu[:: steps[0]][(slice(None), *few)]
    sides = [int(np.count_nonzero(labels == side)) for side in (1, 2)]
    ml = float(areas.sum()) * float(np.prod(spacing_mm)) / 1000 / max(1, sum(sides))  # a voxel seen stands for so much
    bodies = [body_of(one, lung) for one, lung in zip(seen, labels, strict=True)]
    held = [index for index, lung in enumerate(labels) if lung.any()]
    boxes = [_box(bodies[index]) for index in held]
    pixel_cm2 = spacing[1] * spacing[2] / 100
    body_pixels = [np.count_nonzero(bodies[index]) for index in held]
    return Chest(
        right_ml=sides[0] * ml,
        left_ml=sides[1] * ml,
        width_mm=_median([(box[3] - box[2]) * spacing[2] for box in boxes]),
        area_cm2=_median([pixels * pixel_cm2 for pixels in body_pixels]),
        lungs_mm=_extent_mm(labels, spacing),
        lung_share=float(
            max((np.count_nonzero(labels[i]) / n for i, n in zip(held, body_pixels, strict=True)), default=0)
        ),
        end_share=float(max(areas[0], areas[-1]) / max(1, areas.max())),
        at_edge=bool(labels[:, (0, -1)].any() or labels[:, :, (0, -1)].any()),
        clefts=(_cleft(labels > 0, 0), _cleft(labels > 0, 1), _cleft(labels > 0, 2)),
        spine=_spine([(seen[index], bodies[index], box) for index, box in zip(held, boxes, strict=True)]),
        inner_hu=_inner_hu(seen, labels, spacing),
    )


def too_large(hu: np.ndarray, spacing_mm: tuple[float, float, float]) -> list[Finding]:
    """A warning where the body is larger than anybody's. Nothing is known of lungs, and it may be any part of the body.

    hu (slices, rows, columns) in working orientation, spacing of slices, rows and columns.
    """
    steps = [max(1, extent // seen) for extent, seen in zip(hu.shape, SEEN, strict=True)]
    few = hu[:: steps[0], :: steps[1], :: steps[2]]
    bodies = [body_of(one, np.zeros(one.shape, np.uint8)) for one in few]
    pixel_cm2 = steps[1] * spacing_mm[1] * steps[2] * spacing_mm[2] / 100
    area_cm2 = _median([np.count_nonzero(body) * pixel_cm2 for body in bodies])
    if area_cm2 <= gate_rules.BODY_CM2_WARNED[1]:
        return []
    message = f"the body has {area_cm2:.0f} cm² in cross-section: the voxel size cannot be right"
    return [Finding("implausible-body", message)]


def body_of(hu_slice: np.ndarray, lungs: np.ndarray) -> np.ndarray:
    """(rows, columns) bool: the largest piece of tissue on a slice, with what it encloses; lungs belong to it."""
    tissue = ((hu_slice > TISSUE_ABOVE_HU) | (lungs > 0)).astype(np.uint8)
    opened = cv2.morphologyEx(tissue, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))  # off the table
    body = largest_part(opened, connectivity=4)
    if not body.any():
        return lungs > 0
    framed = cv2.copyMakeBorder(body.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    cv2.floodFill(framed, None, (0, 0), 2)
    inside: np.ndarray = framed[1:-1, 1:-1] != 2
    return inside


def _box(body: np.ndarray) -> tuple[int, int, int, int]:
    """First row, end, first column, end."""
    rows, columns = (np.flatnonzero(body.any(axis)) for axis in (1, 0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _median(values: list[float]) -> float:
    return float(np.median(values)) if values else 0.0


def _extent_mm(labels: np.ndarray, spacing: Sequence[float]) -> tuple[float, float, float]:
    out = []
    for axis, mm in enumerate(spacing):
        held = np.flatnonzero(labels.any(tuple(other for other in range(3) if other != axis)))
        out.append(float(held[-1] - held[0] + 1) * mm if held.size else 0.0)
    return out[0], out[1], out[2]


def _cleft(mask: np.ndarray, axis: int) -> float:
    """The lowest point of the profile's middle half, as a share of the lower of the summits beside it."""
    profile = np.trim_zeros(np.count_nonzero(mask, tuple(other for other in range(3) if other != axis)))
    if not len(profile):
        return 1.0
    width = max(1, len(profile) // 20)
    profile = np.convolve(profile, np.full(width, 1 / width), "valid")
    places = range(max(1, len(profile) // 4), min(len(profile) - 1, 3 * len(profile) // 4 + 1))
    dips = [profile[i] / max(min(profile[:i].max(), profile[i + 1 :].max()), 1e-9) for i in places]
    return float(min([1.0, *dips]))


def _spine(slices: list[tuple[np.ndarray, np.ndarray, tuple[int, int, int, int]]]) -> float | None:
    """Bone near the midline, at the back of the body and in front. Contrast medium in the heart lies between."""
    back = front = 0
    for hu, body, (top, bottom, left, right) in slices:
        middle, half = (left + right) / 2, max(1.0, MIDLINE * (right - left))
        strip = (slice(top, bottom), slice(round(middle - half), round(middle + half)))
        bone = np.count_nonzero((hu[strip] > BONE_HU) & body[strip], axis=1)
        deep = max(1, round(BACK * (bottom - top)))
        front += int(bone[:deep].sum())
        back += int(bone[-deep:].sum())
    return back / (back + front) if back + front >= BONE_ENOUGH else None


def _inner_hu(hu: np.ndarray, labels: np.ndarray, spacing: Sequence[float]) -> float | None:
    size = [2 * max(1, round(INSIDE_MM / mm)) + 1 for mm in spacing[1:]]
    inside = np.stack([cv2.erode((one > 0).astype(np.uint8), np.ones(size, np.uint8)) for one in labels]) > 0
    return float(np.median(hu[inside])) if inside.any() else None


def judge_chest(chest: Chest, age_years: float | None, other_part: bool) -> list[Finding]:
    """Whether this can be a person's chest, of this size and so turned: warnings, each of which withholds figures.

    Parameters
    ----------
    age_years : float, optional
        Unknown: what holds for a child as well as for an adult.
    other_part : bool
        The header names another part of the body: more is asked for.

    Raises
    ------
    SeriesError
        `head-or-abdomen`, `no-lungs`, `turned`, `implausible-body` or `implausible-lungs`, beyond the first tolerance.
    """
    if other_part:
        _ask_for_a_chest(chest, age_years)
    found = list(_little_lung(chest))
    if chest.width_mm:  # else there is too little lung to have been looked at
        found += [*_turned(chest), *_body(chest, age_years), *_lungs(chest, age_years), *_shape(chest)]
    for finding in found:
        if finding.level == REFUSED:
            raise SeriesError(finding.slug, finding.message)
    return found


def _ask_for_a_chest(chest: Chest, age_years: float | None) -> None:
    """Said to be another part of the body: all of a chest's signs are wanted, not only some air."""
    child = age_years is not None and age_years < gate_rules.ADULT_YEARS
    least_ml = gate_rules.least_lung(age_years)[0] if child else gate_rules.OTHER_PART_LEAST_ML
    lacks = [
        words
        for lacking, words in (
            (chest.volume_ml < least_ml, f"{chest.volume_ml:.0f} mL of lung, wanted {least_ml:g}"),
            (
                chest.lung_share < gate_rules.OTHER_PART_LEAST_SHARE,
                f"lung in at most {100 * chest.lung_share:.0f} % of the body's cross-section",
            ),
            (not chest.has_both or chest.clefts[2] > gate_rules.CLEFT, "no two lungs side by side"),
            (chest.end_share > gate_rules.OTHER_PART_CUT, "only one end of the lungs"),
        )
        if lacking
    ]
    if lacks:
        raise SeriesError(
            "head-or-abdomen", f"labelled as another part of the body, with {'; '.join(lacks)}; wanted a chest CT"
        )


def _little_lung(chest: Chest) -> Iterator[Finding]:
    gas = chest.inner_hu is not None and chest.inner_hu < gate_rules.GAS_HU
    if gas and chest.volume_ml < gate_rules.GAS_MOST_ML:
        message = f"{chest.volume_ml:.0f} mL of {chest.inner_hu:.0f} HU are gas, not lung; wanted a chest CT"
        yield Finding("no-lungs", message, REFUSED)
    if chest.lung_share < gate_rules.LEAST_LUNG_SHARE:
        share = f"{100 * chest.lung_share:.0f} %"
        yield Finding("no-lungs", f"lung fills at most {share} of the body's cross-section: probably not a chest")


def _turned(chest: Chest) -> Iterator[Finding]:
    """Two lungs lie side by side, with the spine behind them."""
    if chest.clefts[2] > gate_rules.CLEFT and min(chest.clefts[:2]) < gate_rules.CLEFT_OF_TWO:
        how = "one above the other" if chest.clefts[0] < chest.clefts[1] else "one in front of the other"
        yield Finding("turned", f"the lungs lie {how}; wanted one on the patient's right and one on the left", REFUSED)
    elif chest.clefts[2] > gate_rules.CLEFT and chest.has_both:
        yield Finding("turned", "nothing separates the right lung from the left")
    if (
        chest.spine is not None
        and chest.lungs_mm[0] >= gate_rules.SPINE_LEAST_MM
        and chest.spine < gate_rules.SPINE_WARNED
    ):
        level = REFUSED if chest.spine < gate_rules.SPINE_REFUSED else WARNED
        message = f"only {100 * chest.spine:.0f} % of the midline's bone lies at the back: back and front seem swapped"
        yield Finding("turned", f"{message}, and so may be right and left", level)


def _body(chest: Chest, age_years: float | None) -> Iterator[Finding]:
    size = f"{chest.width_mm:.0f} mm wide, {chest.area_cm2:.0f} cm² in cross-section"
    levels = {
        _outside(chest.width_mm, gate_rules.BODY_MM_REFUSED, gate_rules.BODY_MM_WARNED),
        _outside(chest.area_cm2, gate_rules.BODY_CM2_REFUSED, gate_rules.BODY_CM2_WARNED),
    }
    adult = age_years is not None and age_years >= gate_rules.ADULT_YEARS
    if levels != {""}:
        level = REFUSED if REFUSED in levels else WARNED
        yield Finding("implausible-body", f"the body is {size}: the voxel size cannot be right", level)
    elif adult and chest.area_cm2 < gate_rules.ADULT_LEAST_CM2:
        yield Finding("implausible-body", f"an adult's body that is {size}: the voxel size cannot be right")


def _lungs(chest: Chest, age_years: float | None) -> Iterator[Finding]:
    most = gate_rules.most_lung_ml(age_years)
    larger = max(chest.right_ml, chest.left_ml)
    said = f"{chest.volume_ml:.0f} mL of lungs (right {chest.right_ml:.0f}, left {chest.left_ml:.0f})"
    largest = max(chest.volume_ml, larger / gate_rules.ONE_OF_BOTH)
    if largest > most:
        # The age may be what is wrong: beyond a child's there is only a warning.
        level = REFUSED if largest > gate_rules.LUNGS_REFUSED * gate_rules.MOST_LUNG_ML else WARNED
        whose = "anybody of this age has" if most < gate_rules.MOST_LUNG_ML else "anybody has"
        yield Finding("implausible-lungs", f"{said}: more than {whose}", level)
    adult = age_years is not None and age_years >= gate_rules.ADULT_YEARS
    if adult and not chest.end_share and not chest.at_edge and chest.volume_ml < gate_rules.ADULT_LEAST_LUNGS_ML:
        yield Finding("implausible-lungs", f"{said}: less than an adult has, although the lungs are not cut off")


def _shape(chest: Chest) -> Iterator[Finding]:
    """Height to width of both lungs: what a wrong slice spacing gives away, whatever the patient's size."""
    if not chest.has_both or chest.at_edge:
        return
    refused, warned = gate_rules.SHAPE_REFUSED, gate_rules.SHAPE_WARNED
    if chest.end_share:  # cut off: as low as it may be
        refused, warned = (0.0, refused[1]), (0.0, warned[1])
    if level := _outside(chest.lungs_mm[0] / chest.lungs_mm[2], refused, warned):
        size = f"{chest.lungs_mm[0]:.0f} mm high and {chest.lungs_mm[2]:.0f} mm wide"
        yield Finding("implausible-lungs", f"the lungs are {size}: the slice spacing cannot be right", level)


def _outside(value: float, refused: tuple[float, float], warned: tuple[float, float]) -> str:
    """The level of a value outside either range; nothing for one within both."""
    if not refused[0] <= value <= refused[1]:
        return REFUSED
    return "" if warned[0] <= value <= warned[1] else WARNED
