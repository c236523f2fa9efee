"""Masks and geometry to the report's values. Volumes in mL, on the source grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from covct.intake.gate_rules import ONE_LUNG, Finding
from covct.terms import FIGURES, HU_AROUND, HU_BANDS, LEFT_LUNG, NOTHING_FOUND, REGIONS, RIGHT_LUNG, SEVERITY, THIRDS
from covct.voxels.components import components
from covct.voxels.labels import Slices

LARGEST_LESIONS = 10


@dataclass(frozen=True)
class ThirdBurden:
    """Burden of one third: of the slices from `first` (counted from the head) to before `end`."""

    first: int
    end: int
    volume_ml: float
    infection_ml: float
    infection_percent: float | None


@dataclass(frozen=True)
class RegionBurden:
    """Burden of one region. A region without voxels has no percentage and no mean (None), never 0."""

    volume_ml: float
    infection_ml: float
    infection_percent: float | None
    infection_mean_hu: float | None
    ground_glass_ml: float
    consolidation_ml: float
    below_bands_ml: float
    above_bands_ml: float
    infection_mass_g: float
    mean_hu: float | None
    thirds: dict[str, ThirdBurden]


@dataclass(frozen=True)
class Lesion:
    volume_ml: float
    centroid_lps_mm: tuple[float, float, float]
    side: str


def _within(low: float, high: float, hu: np.ndarray) -> np.ndarray:
    return (hu >= low) & (hu < high)


def _density_g_ml(hu: np.ndarray) -> np.ndarray:
    """Physical density, g/mL, by the convention of lung densitometry: air 0 at -1000 HU, water 1 at 0 HU, linear.

    After Mull, AJR 1984;143:1101. No calibration of the scanner at hand; nothing weighs less than nothing.
    """
    density: np.ndarray = np.maximum(hu + 1000, 0) / 1000
    return density


# Of the infected voxels: what of their HU, (voxels,), is summed by lung.
INFECTED_SUMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "hu": lambda hu: hu,
    "mass": _density_g_ml,
    **{name: partial(_within, low, high) for name, (low, high) in (HU_BANDS | HU_AROUND).items()},
}


def measure_burden(
    hu: np.ndarray, lungs: Slices, infection: Slices, voxel_volume_mm3: float
) -> dict[str, RegionBurden]:
    """Measure infection burden per lung and for both lungs together.

    Parameters
    ----------
    hu : (slices, rows, columns) number
        Hounsfield units, working orientation (slices head to feet).
    lungs : (slices, rows, columns) uint8
        Label map: 0 background, 1 right lung, 2 left lung (the patient's right and left).
    infection : (slices, rows, columns) bool
        Infected voxels. Only those inside `lungs` are counted.
    voxel_volume_mm3 : float
        Volume of one voxel of the *source* grid, mm³.

    Returns
    -------
    dict of str to RegionBurden
        Keys "right_lung", "left_lung", "lungs". Thirds are of the height of both lungs together, the same slices for
        each region, so that right and left add up to both.
    """
    counts, ml = _count(hu, lungs, infection), voxel_volume_mm3 / 1000
    edges = third_edges(counts.lung[:, [RIGHT_LUNG, LEFT_LUNG]].sum(1))
    return {region: _region(counts, list(labels), edges, ml) for region, labels in REGIONS.items()}


def third_edges(lung_per_slice: np.ndarray) -> list[int]:
    """First slice of the upper, the middle and the lower third, and the one after the last: equal heights.

    Readers divide at the carina and at the inferior pulmonary veins; neither is looked for here.

    lung_per_slice : (slices,) int
        Voxels of both lungs, head to feet.
    """
    held = np.flatnonzero(lung_per_slice)
    first, end = (int(held[0]), int(held[-1]) + 1) if held.size else (0, 0)
    return [int(edge) for edge in np.rint(np.linspace(first, end, len(THIRDS) + 1))]


@dataclass(frozen=True)
class _Counts:
    """By label (none, right, left lung): voxels of each slice, (slices, labels); sums of HU of all and of the infected.

    They are all that is needed: no full-size temporary.
    """

    lung: np.ndarray
    infected: np.ndarray
    lung_hu: np.ndarray
    sums: dict[str, np.ndarray]


def _count(hu: np.ndarray, lungs: Slices, infection: Slices) -> _Counts:
    lung, lung_hu = np.zeros((len(hu), 3), np.int64), np.zeros(3)
    for index, here in enumerate(lungs):
        for label in (RIGHT_LUNG, LEFT_LUNG):
            values = hu[index][here == label]
            lung[index, label] = values.size
            lung_hu[label] += values.sum(dtype=np.float64)
    counts = _Counts(lung, np.zeros_like(lung), lung_hu, {name: np.zeros(3) for name in INFECTED_SUMS})
    for index, infected in enumerate(infection):
        if not infected.any():
            continue
        here = lungs[index]
        inside = infected & (here > 0)
        sides, values = here[inside], hu[index][inside].astype(np.float64)
        counts.infected[index] = np.bincount(sides, minlength=3)[:3]
        for name, of in INFECTED_SUMS.items():
            counts.sums[name] += np.bincount(sides, weights=of(values), minlength=3)[:3]
    return counts


def _region(counts: _Counts, labels: list[int], edges: list[int], ml: float) -> RegionBurden:
    per_slice, infected = counts.lung[:, labels].sum(1), counts.infected[:, labels].sum(1)
    total, sick = int(per_slice.sum()), int(infected.sum())
    sums = {name: float(of[labels].sum()) for name, of in counts.sums.items()}
    return RegionBurden(
        volume_ml=total * ml,
        infection_ml=sick * ml,
        infection_percent=_percent(sick, total),
        infection_mean_hu=sums["hu"] / sick if sick else None,
        ground_glass_ml=sums["ground_glass"] * ml,
        consolidation_ml=sums["consolidation"] * ml,
        below_bands_ml=sums["below_bands"] * ml,
        above_bands_ml=sums["above_bands"] * ml,
        infection_mass_g=sums["mass"] * ml,
        mean_hu=float(counts.lung_hu[labels].sum()) / total if total else None,
        thirds=_thirds(per_slice, infected, edges, ml),
    )


def _thirds(
    lung_per_slice: np.ndarray, infected_per_slice: np.ndarray, edges: list[int], ml: float
) -> dict[str, ThirdBurden]:
    out = {}
    for name, first, end in zip(THIRDS, edges[:-1], edges[1:], strict=True):
        total, sick = int(lung_per_slice[first:end].sum()), int(infected_per_slice[first:end].sum())
        out[name] = ThirdBurden(first, end, total * ml, sick * ml, _percent(sick, total))
    return out


def _percent(part: int, whole: int) -> float | None:
    return 100.0 * part / whole if whole else None


def without_one_lung(burden: dict[str, RegionBurden]) -> tuple[dict[str, RegionBurden], list[Finding]]:
    """Withhold share and mean of a lung that is all but gone: they would be those of the last air in it."""
    right, left = burden["right_lung"].volume_ml, burden["left_lung"].volume_ml
    if min(right, left) >= ONE_LUNG * max(right, left):
        return burden, []
    side = "right" if right < left else "left"
    message = f"hardly any {side} lung was found ({min(right, left):.0f} mL): absent or airless, no percentage of it"
    gone = burden[f"{side}_lung"]
    thirds = {name: replace(third, infection_percent=None) for name, third in gone.thirds.items()}
    withheld: dict[str, Any] = {figure.name: None for figure in FIGURES if "percent" in figure.valid_for}
    gone = replace(gone, **withheld, thirds=thirds)
    return {**burden, f"{side}_lung": gone}, [Finding("one-lung", message)]


def find_lesions(infection: Slices, lungs: Slices, affine: np.ndarray) -> tuple[int, list[Lesion]]:
    """Count connected lesions and describe the largest ten.

    infection (slices, rows, columns) bool, lungs likewise uint8; `affine` (4, 4) brings their indices to LPS
    millimetres. The side is that of most of the lesion's voxels.
    """
    found = components(infection.__getitem__, len(infection))
    listed = min(len(found.sizes), LARGEST_LESIONS)
    index_sums, on_the_right = np.zeros((listed + 1, 3)), np.zeros(listed + 1, np.int64)
    for index, numbers in enumerate(found.numbers):
        if not ((numbers > 0) & (numbers <= listed)).any():
            continue
        here = found.on_slice(index)
        rows, columns = np.nonzero((here > 0) & (here <= listed))
        of = here[rows, columns]
        for axis, places in enumerate((np.full(len(of), index), rows, columns)):
            index_sums[:, axis] += np.bincount(of, weights=places, minlength=listed + 1)
        on_the_right += np.bincount(of[lungs[index][rows, columns] == RIGHT_LUNG], minlength=listed + 1)
    ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    lesions = []
    for number in range(1, listed + 1):
        size = int(found.sizes[number - 1])
        centroid = affine[:3, :3] @ (index_sums[number] / size) + affine[:3, 3]
        side = "right_lung" if 2 * on_the_right[number] >= size else "left_lung"
        x, y, z = (round(float(v), 1) for v in centroid)
        lesions.append(Lesion(size * ml, (x, y, z), side))
    return len(found.sizes), lesions


def severity(infection_percent: float | None) -> tuple[int | None, str]:
    """Whole-lung CT severity class 1 to 5 by infected share (LungQuant), and its words.

    Class 1 begins at 0 %; that nothing was found at all is said in words (Pan's scale has a 0 for it).
    """
    if infection_percent is None:
        return None, "not determined"
    cls, _, words = [row for row in SEVERITY if infection_percent >= row[1]][-1]
    return cls, words if infection_percent else NOTHING_FOUND
