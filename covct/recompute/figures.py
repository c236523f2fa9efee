"""Masks and Hounsfield units to figures, after the definitions of the manual (docs/outputs.md).

Slice by slice: what a slice adds is a `Tally`; only the masks of infection are looked at as a whole, for its lesions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from covct.recompute.lattice import Lattice
from covct.recompute.masks import LEFT, RIGHT

REGIONS = {"right_lung": [RIGHT], "left_lung": [LEFT], "lungs": [RIGHT, LEFT]}
THIRDS = ("upper", "middle", "lower")
BANDS = {
    "below_bands_ml": (-np.inf, -750),
    "ground_glass_ml": (-750, -400),
    "consolidation_ml": (-400, 100),
    "above_bands_ml": (100, np.inf),
}
HARDLY_A_LUNG = 0.1  # of the other: its share and its mean would be those of the last air in it
MOSTLY_DENSE_HU = -400
LOBES = {
    "right_upper_lobe": "right_lung",
    "right_middle_lobe": "right_lung",
    "right_lower_lobe": "right_lung",
    "left_upper_lobe": "left_lung",
    "left_lower_lobe": "left_lung",
}
CLASS_STARTS = (0, 5, 25, 50, 75)
SMALLEST_MM3, SMALLEST_MM2 = 100.0, 25.0

Tree = dict[str, Any]


@dataclass
class Tally:
    """What one slice adds, by side (index 1 right, 2 left).

    Attributes
    ----------
    lung, infected : two arrays
        Voxels along the rows, (3, rows), and along the columns, (3, columns).
    lung_hu, infected_hu, mass : (3,) float
        Sums; of (HU + 1000) / 1000, not below 0, for the mass. Zero where there are no HU.
    bands : dict of str to (3,) int
    """

    lung: tuple[np.ndarray, np.ndarray]
    infected: tuple[np.ndarray, np.ndarray]
    lung_hu: np.ndarray = field(default_factory=lambda: np.zeros(3))
    infected_hu: np.ndarray = field(default_factory=lambda: np.zeros(3))
    mass: np.ndarray = field(default_factory=lambda: np.zeros(3))
    bands: dict[str, np.ndarray] = field(default_factory=lambda: {name: np.zeros(3, np.int64) for name in BANDS})
    lobes: np.ndarray | None = None  # (6, 2) int: voxels and infected ones, from index 1; None where none are drawn


def tally(lungs: np.ndarray, infection: np.ndarray, hu: np.ndarray | None, lobes: np.ndarray | None = None) -> Tally:
    """What a slice adds. lungs (rows, columns) uint8, infection likewise bool, hu likewise float, lobes likewise uint8;
    None: unknown."""
    sides = np.stack([lungs == side for side in range(3)])
    sides[0] = False
    ill = sides & infection
    found = Tally((sides.sum(2), sides.sum(1)), (ill.sum(2), ill.sum(1)))
    if lobes is not None:
        found.lobes = np.stack(
            [np.bincount(one, minlength=len(LOBES) + 1) for one in (lobes.ravel(), lobes[infection])], 1
        )
    for side in (RIGHT, LEFT) if hu is not None else ():
        assert hu is not None
        found.lung_hu[side] = hu[sides[side]].sum(dtype=np.float64)
        values = hu[ill[side]].astype(np.float64)
        found.infected_hu[side] = values.sum()
        found.mass[side] = (np.maximum(values, -1000) / 1000 + 1).sum()
        for name, (low, high) in BANDS.items():
            found.bands[name][side] = np.count_nonzero((values >= low) & (values < high))
    return found


def figures(tallies: Sequence[Tally], lattice: Lattice, *, with_hu: bool, one_height: bool) -> Tree:
    """The figures of the report, under its names; None for what has no value.

    Parameters
    ----------
    tallies : sequence of Tally
        One a plane along the first axis of the lattice.
    with_hu : bool
        Else those that need HU are left out.
    one_height : bool
        Whether thirds are of the height of both lungs, the same planes for each, or of each region's own.
    """
    lung, ill = _profiles(tallies, lattice, "lung"), _profiles(tallies, lattice, "infected")
    ml = None if lattice.voxel_mm3 is None else lattice.voxel_mm3 / 1000
    shared = _edges(lung[[RIGHT, LEFT]].sum(0))
    regions = {}
    for name, sides in REGIONS.items():
        here, sick = lung[sides].sum(0), ill[sides].sum(0)
        region = _measured(int(here.sum()), int(sick.sum()), ml)
        if with_hu:
            region |= _by_hu(tallies, sides, int(here.sum()), int(sick.sum()), ml)
        edges = shared if one_height else _edges(here)
        region["thirds"] = {
            third: _measured(int(here[a:b].sum()), int(sick[a:b].sum()), ml)
            for third, a, b in zip(THIRDS, edges, edges[1:], strict=False)
        }
        regions[name] = region
    _without_one_lung(regions, lung.sum(1))
    percent = regions["lungs"]["infection_percent"]
    severity = None if percent is None else int(np.searchsorted(CLASS_STARTS, percent, "right"))
    divided = {"thirds": {"edges": shared}} if one_height and lattice.whole else {}
    lobes = _by_lobe(tallies, regions, ml) if with_hu else {}  # whether a lung is mostly dense HU alone tell
    return {"regions": regions, "severity": {"class": severity}, "geometry": _geometry(lattice), **divided, **lobes}


def _by_lobe(tallies: Sequence[Tally], regions: Tree, ml: float | None) -> Tree:
    """Figures by lobe and their score; nothing where no lobes are drawn. What withholds a lung's share withholds its
    lobes', and so does a mean above MOSTLY_DENSE_HU."""
    drawn = [one.lobes for one in tallies if one.lobes is not None]
    if not drawn:
        return {}
    by_lobe = {}
    for (name, lung), (voxels, infected) in zip(LOBES.items(), np.sum(drawn, axis=0)[1:].tolist(), strict=True):
        here = _measured(voxels, infected, ml)
        mean, share = regions[lung]["mean_hu"], regions[lung]["infection_percent"]
        if share is None or mean is None or mean > MOSTLY_DENSE_HU:
            here["infection_percent"] = None
        percent = here["infection_percent"]
        by_lobe[name] = {**here, "score": None if percent is None else _lobe_score(percent)}
    scores = [lobe["score"] for lobe in by_lobe.values()]
    return {"lobes": {"by_lobe": by_lobe, "score": None if None in scores else sum(scores)}}


def _lobe_score(percent: float) -> int:
    """0: nothing; 1: below 5 %; 2: 5 to 25 %; 3: above 25 to 50 %; 4: above 50 to 75 %; 5: above 75 %."""
    return 0 if not percent else 1 if percent < 5 else 2 + sum(percent > edge for edge in (25, 50, 75))


def _profiles(tallies: Sequence[Tally], lattice: Lattice, what: str) -> np.ndarray:
    """(3, planes) int: voxels by side, plane by plane from head to feet."""
    axis = lattice.axes[0]
    if axis == 0:
        profile = np.stack([getattr(one, what)[0].sum(1) for one in tallies], axis=1)
    else:
        profile = np.sum([getattr(one, what)[axis - 1] for one in tallies], axis=0)
    return profile if lattice.head_first else profile[:, ::-1]


def _edges(held: np.ndarray) -> list[int]:
    """Where the thirds begin and the last ends: equal heights between the first and the last plane with lung."""
    there = np.flatnonzero(held)
    if not len(there):
        return [0, 0, 0, 0]
    first, height = int(there[0]), int(there[-1]) + 1 - int(there[0])
    return [first + round(height * part / 3) for part in range(4)]


def _measured(voxels: int, infected: int, ml: float | None) -> Tree:
    return {
        "volume_ml": None if ml is None else voxels * ml,
        "infection_ml": None if ml is None else infected * ml,
        "infection_percent": 100 * infected / voxels if voxels else None,
    }


def _by_hu(tallies: Sequence[Tally], sides: list[int], voxels: int, infected: int, ml: float | None) -> Tree:
    def total(name: str) -> float:
        return float(sum(getattr(one, name)[sides].sum() for one in tallies))

    bands = {name: sum(int(one.bands[name][sides].sum()) for one in tallies) for name in BANDS}
    return {
        "mean_hu": total("lung_hu") / voxels if voxels else None,
        "infection_mean_hu": total("infected_hu") / infected if infected else None,
        "infection_mass_g": None if ml is None else total("mass") * ml,
        **{name: None if ml is None else count * ml for name, count in bands.items()},
    }


def _without_one_lung(regions: Tree, voxels: np.ndarray) -> None:
    """A lung of which hardly any was found has no share and no mean."""
    for name, here, other in (("right_lung", RIGHT, LEFT), ("left_lung", LEFT, RIGHT)):
        if voxels[here] < HARDLY_A_LUNG * voxels[other]:
            gone = regions[name]
            for figure in ("infection_percent", "mean_hu"):
                if figure in gone:
                    gone[figure] = None
            for third in gone["thirds"].values():
                third["infection_percent"] = None


def _geometry(lattice: Lattice) -> Tree:
    """The grid as the report has it: slices between feet and head, rows between front and back."""
    names = ("slice", "row", "column")
    sizes = {f"{name}s": lattice.shape[axis] for name, axis in zip(names, lattice.axes, strict=True)}
    spacings = {f"{name}_spacing_mm": lattice.spacing_mm[axis] for name, axis in zip(names, lattice.axes, strict=True)}
    turned = {"patient_orientation": lattice.orientation, "gantry_tilt_degrees": lattice.tilt_degrees}
    if lattice.voxel_mm3 is None:  # a single slice is as high as its header says
        return {**sizes, **turned}
    return {**(sizes if lattice.whole else {}), **spacings, "voxel_volume_mm3": lattice.voxel_mm3, **turned}


@dataclass(frozen=True)
class Lesion:
    """A connected region: its volume, None of a single slice; centroid, LPS mm; the lung that holds most of it."""

    voxels: int
    volume_ml: float | None
    centroid_lps_mm: tuple[float, float, float]
    side: str


def lesions(infection: np.ndarray, right: np.ndarray, first: Sequence[int], lattice: Lattice) -> list[Lesion]:
    """Infected regions, of voxels that share a face, the largest first; those too small to be counted are left out.

    Parameters
    ----------
    infection, right : (planes, rows, columns) bool
        A part of the grid that holds all infection: what is infected, and what is right lung.
    first : sequence of int
        Index of the part's first voxel.
    """
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(infection.view(np.uint8))
    labels = sitk.GetArrayFromImage(sitk.ConnectedComponent(image, False))
    sizes = np.bincount(labels.ravel())[1:]
    voxel = lattice.voxel_mm3
    area = lattice.spacing_mm[1] * lattice.spacing_mm[2]
    smallest = SMALLEST_MM3 / voxel if voxel else SMALLEST_MM2 / area
    counted = np.flatnonzero(sizes >= smallest * (1 - lattice.inexact)) + 1
    places = np.flatnonzero(labels)
    order = np.argsort(labels.ravel()[places], kind="stable")
    starts = np.concatenate([[0], np.cumsum(sizes)])
    found = []
    for number in counted.tolist():
        indices = places[order[starts[number - 1] : starts[number]]]
        middle = np.array([axis.mean() for axis in np.unravel_index(indices, labels.shape)]) + first
        x, y, z = (float(v) for v in lattice.affine[:3, :3] @ middle + lattice.affine[:3, 3])
        on_the_right = int(np.count_nonzero(right.ravel()[indices]))
        side = "right_lung" if 2 * on_the_right >= len(indices) else "left_lung"
        found.append(Lesion(len(indices), None if voxel is None else len(indices) * voxel / 1000, (x, y, z), side))
    return sorted(found, key=lambda lesion: -lesion.voxels)
