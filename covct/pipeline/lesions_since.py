"""Which lesions of a scan are new, and which of an earlier one have gone, once the lungs lie over one another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from covct.pipeline.burden import LARGEST_LESIONS, Lesion
from covct.terms import RIGHT_LUNG
from covct.voxels.components import components
from covct.voxels.labels import Slices
from covct.voxels.registration import Blocks, away_from_now, away_from_then, blocks, laid_over

# Opacity so near to that of the other scan is no new lesion and has not gone: by as much may lungs that were laid over
# one another be apart, since a breath moves their bases otherwise than an affine map.
REACH_MM = 10.0


class NotMatched(Exception):
    """Why lesions of two scans are not matched, in words."""


@dataclass(frozen=True)
class Marked:
    """The masks of one scan.

    Attributes
    ----------
    lungs : (slices, rows, columns) uint8
        0 background, 1 right lung, 2 left lung.
    infection : (slices, rows, columns) bool
    affine : (4, 4) float
        Slice, row and column index to LPS mm.
    """

    lungs: Slices
    infection: Slices
    affine: np.ndarray


@dataclass(frozen=True)
class Matched:
    """The lesions of two scans of one patient.

    Attributes
    ----------
    new, vanished : list of Lesion
        The largest LARGEST_LESIONS, places in the scan now (LPS mm); what has vanished with its volume then.
    new_count, vanished_count, persisting_count : int
        All of them; persisting are lesions now.
    overlap : float
        Dice of the lungs laid over one another.
    """

    new: list[Lesion]
    vanished: list[Lesion]
    new_count: int
    vanished_count: int
    persisting_count: int
    overlap: float


def match(now: Marked, then: Marked) -> Matched:
    """Lay the lungs of both over one another, and look for each lesion in the other scan.

    Raises
    ------
    NotMatched
        Why that would not be right.
    """
    here, there = (blocks(one.lungs, one.infection, _straight(one.affine)) for one in (now, then))
    if not here.lungs.any() or not there.lungs.any():
        raise NotMatched("one of the scans has no lungs")
    registered = laid_over(here, there)
    if registered.doubt:
        raise NotMatched(registered.doubt)
    new, known = _apart(now, here, away_from_then(here, there, registered))
    vanished, _ = _apart(then, there, away_from_now(here, there, registered))
    back = registered.to_then.GetInverse()
    moved = [Lesion(one.volume_ml, _point(back.TransformPoint(one.centroid_lps_mm)), one.side) for one in vanished]
    return Matched(
        new[:LARGEST_LESIONS],
        moved[:LARGEST_LESIONS],
        len(new),
        len(vanished),
        known,
        round(registered.overlap, 3),
    )


def _straight(affine: np.ndarray) -> np.ndarray:
    """The affine, where its axes are perpendicular."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if np.abs(axes.T @ axes - np.eye(3)).max() > 1e-3:
        raise NotMatched("the gantry was tilted")
    return affine


def _apart(marked: Marked, grid: Blocks, away: np.ndarray) -> tuple[list[Lesion], int]:
    """Lesions that no infection of the other scan is near to, the largest first; how many others there are.

    `away` says of each block of `grid` how far that is.
    """
    found = components(marked.infection.__getitem__, len(marked.infection))
    count = len(found.sizes)
    nearest, sums, right = np.full(count + 1, np.inf), np.zeros((count + 1, 3)), np.zeros(count + 1, np.int64)
    most = np.array(away.shape) - 1
    for index, numbers in enumerate(found.numbers):
        if len(numbers) == 1:
            continue
        here = found.on_slice(index)
        rows, columns = np.nonzero(here)
        of = here[rows, columns]
        places = np.stack([np.full(len(of), index), rows, columns])
        block = np.clip(places // grid.step[:, None] - grid.first[:, None], 0, most[:, None])
        np.minimum.at(nearest, of, away[tuple(block)])
        for axis in range(3):
            sums[:, axis] += np.bincount(of, weights=places[axis], minlength=count + 1)
        right += np.bincount(of[marked.lungs[index][rows, columns] == RIGHT_LUNG], minlength=count + 1)
    ml = abs(float(np.linalg.det(marked.affine[:3, :3]))) / 1000
    apart = [number for number in range(1, count + 1) if nearest[number] > REACH_MM]
    lesions = []
    for number in apart:
        size = int(found.sizes[number - 1])
        centre = marked.affine[:3, :3] @ (sums[number] / size) + marked.affine[:3, 3]
        lesions.append(Lesion(size * ml, _point(centre), "right_lung" if 2 * right[number] >= size else "left_lung"))
    return lesions, count - len(apart)


def _point(place: np.ndarray | tuple[float, ...]) -> tuple[float, float, float]:
    x, y, z = (round(float(one), 1) + 0.0 for one in place)
    return x, y, z
