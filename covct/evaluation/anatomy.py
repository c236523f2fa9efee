"""Where in the chest a false call lies, by rules of geometry and density alone: no atlas, no network.

The rules are asked in this order, and the first that holds names the region, so that the regions' volumes add up.

| region | rule |
|---|---|
| `outline` | within `OUTLINE_PIXELS` of marked infection on the same slice: where outlines differ |
| `dome` | soft tissue within `REACH_MM` below, in the lower half of the lungs: partial volume over the diaphragm |
| `arch` | soft tissue within `REACH_MM` above, or below in the upper half: the aortic arch, hila, first ribs |
| `vessel` | a structure thinner than `VESSEL_MM` and `VESSEL_HU` brighter than what is around it, and its rim |
| `outside` | not lung, where lungs were marked: chest wall, bowel, stomach |
| `apex` | the top `APEX_MM` of the lungs |
| `dependent` | the posterior `DEPENDENT_MM` of the lungs on the slice, the anterior ones of a patient who lies prone |
| `rest` | none of these |

Sources. A voxel that shares lung with soft tissue of the next slice looks like ground glass: partial volume (Barrett &
Keat 2004, RadioGraphics 24:1679). Thin and bright is the white top-hat, the image less its opening by a disk (Zana &
Klein 2001, IEEE Trans Image Process 10:1010, for vessels): it is 0 in ground glass wider than the disk, and needs no
scale by scale search as filters by eigenvalues do. Dependent lung is denser in healthy people too (Verschakelen 1993,
AJR 161:713). The lengths are bounds by eye, not measured borders: a region says where to look first, not why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from covct.evaluation.scores import ratio

REGIONS = ("outline", "dome", "arch", "vessel", "outside", "apex", "dependent", "rest")
OUTLINE_PIXELS = 2.0
REACH_MM = 5.0  # and at least the next slice
SOLID_HU = -300.0  # denser than aerated or hazy lung
SOLID_MM = 8.0  # narrower than this it is a vessel or a fissure, not a dome, an arch or a rib
WIDE_MM = 20.0  # wider than this it is none of the lung's vessels, though it was found as lung
VESSEL_MM = 10.0
VESSEL_HU = 200.0
APEX_MM = 20.0
DEPENDENT_MM = 25.0


@dataclass(frozen=True)
class Chest:
    """What the rules look at; all arrays (slices, rows, columns), head to feet, anterior first.

    Attributes
    ----------
    hu : number
    lungs : bool
        As marked, or as found where nobody marked any.
    marked : bool or None
        Infection as marked.
    spacing_mm : (float, float, float)
        Between slices, rows and columns.
    whole : bool
        The lungs are there from apex to base, head first: only then a slice has a height within them. Of a part of
        them soft tissue above and below are both `arch`, and there is no apex.
    outlined : bool
        The lungs are marked, so that a call may lie outside of them.
    prone : bool
        The patient lies on the front.
    """

    hu: np.ndarray
    lungs: np.ndarray
    spacing_mm: tuple[float, float, float]
    marked: np.ndarray | None = None
    whole: bool = True
    outlined: bool = False
    prone: bool = False


def count_regions(chest: Chest, places: np.ndarray) -> dict[str, int]:
    """Voxels of `places`, (slices, rows, columns) bool, in each of `REGIONS`."""
    totals = dict.fromkeys(REGIONS, 0)
    for index, numbers in regions(chest, places).items():
        counts = np.bincount(numbers[places[index]], minlength=len(REGIONS))
        for name, count in zip(REGIONS, counts.tolist(), strict=True):
            totals[name] += count
    return totals


def regions(chest: Chest, places: np.ndarray) -> dict[int, np.ndarray]:
    """The region of each voxel of the slices that hold any of `places`.

    Returns
    -------
    dict of int to (rows, columns) uint8
        By slice: places in `REGIONS`.
    """
    with_lung = np.flatnonzero(chest.lungs.any((1, 2)))
    top, bottom = (int(with_lung[0]), int(with_lung[-1])) if with_lung.size else (0, len(chest.lungs) - 1)

    @lru_cache(maxsize=64)
    def solid(index: int) -> np.ndarray:
        return _solid(chest, index)

    out = {}
    for index in np.flatnonzero(places.any((1, 2))).tolist():
        airy = chest.lungs[index] | (chest.hu[index] <= SOLID_HU)  # what is soft tissue itself is not next to it
        below, above = (_over(solid, index, step, chest) & airy for step in (1, -1))
        lower = chest.whole and index > (top + bottom) / 2
        high = chest.whole and (index - top) * chest.spacing_mm[0] < APEX_MM
        held = (
            _near_marked(chest, index),
            below & lower,
            above | below,
            _vessel(chest, index),
            ~chest.lungs[index] & chest.outlined,
            np.full(above.shape, high),
            _dependent(chest, index),
            np.ones(above.shape, bool),
        )
        out[index] = np.argmax(held, axis=0).astype(np.uint8)  # the first that holds
    return out


def shares(counts: dict[str, float]) -> dict[str, float]:
    """The share of each region in all of them, nan where there is nothing."""
    total = sum(counts.values())
    return {name: float(ratio(count, total)) for name, count in counts.items()}


def _over(solid: Callable[[int], np.ndarray], index: int, step: int, chest: Chest) -> np.ndarray:
    """Whether soft tissue lies within reach on the slices below (`step` 1) or above (-1), in the same column."""
    reach = max(1, int(REACH_MM / chest.spacing_mm[0]))
    found = np.zeros(chest.hu.shape[1:], bool)
    for other in range(index + step, index + step * (reach + 1), step):
        if 0 <= other < len(chest.hu):
            found |= solid(other)
    return found


def _solid(chest: Chest, index: int) -> np.ndarray:
    """Soft tissue beside the lungs, without what is thin; lungs that were found may hold the top of a dome."""
    dense = chest.hu[index] > SOLID_HU
    beside = dense & ~chest.lungs[index]
    return _opened(beside if chest.outlined else beside | _opened(dense, WIDE_MM, chest), SOLID_MM, chest)


def _opened(mask: np.ndarray, diameter_mm: float, chest: Chest) -> np.ndarray:
    opened: np.ndarray = cv2.morphologyEx(mask.view(np.uint8), cv2.MORPH_OPEN, _disk(diameter_mm, chest)) > 0
    return opened


def _vessel(chest: Chest, index: int) -> np.ndarray:
    hu = np.clip(chest.hu[index], -1000, 200).astype(np.float32)
    top_hat = cv2.morphologyEx(hu, cv2.MORPH_TOPHAT, _disk(VESSEL_MM, chest))
    core = ((top_hat >= VESSEL_HU) & (chest.lungs[index])).view(np.uint8)
    rimmed: np.ndarray = cv2.dilate(core, np.ones((3, 3), np.uint8)) > 0
    return rimmed


def _disk(diameter_mm: float, chest: Chest) -> np.ndarray:
    down, across = (max(3, 2 * round(diameter_mm / mm / 2) + 1) for mm in chest.spacing_mm[1:])
    disk: np.ndarray = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (across, down))
    return disk


def _near_marked(chest: Chest, index: int) -> np.ndarray:
    if chest.marked is None or not chest.marked[index].any():
        return np.zeros(chest.hu.shape[1:], bool)
    rest = (~chest.marked[index]).astype(np.uint8)
    near: np.ndarray = cv2.distanceTransform(rest, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= OUTLINE_PIXELS
    return near


def _dependent(chest: Chest, index: int) -> np.ndarray:
    rows = np.flatnonzero(chest.lungs[index].any(1))
    if not rows.size:
        return np.zeros(chest.hu.shape[1:], bool)
    from_wall = np.arange(chest.hu.shape[1]) - rows[0] if chest.prone else rows[-1] - np.arange(chest.hu.shape[1])
    low = from_wall * chest.spacing_mm[1] < DEPENDENT_MM
    return np.broadcast_to(low[:, None], chest.hu.shape[1:])
