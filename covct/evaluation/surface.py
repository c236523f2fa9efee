"""Surface Dice and HD95 in mm, both weighted by the surface's area, as Nikolov et al. 2018 define them.

A surface runs between the voxels. Around each corner lie eight voxels; where some of them belong to the mask and others
do not, the marching cubes (Lorensen 1987) put pieces of surface through the corner. Their area is the corner's weight,
and distances are those between corners, so that neither voxels of uneven size nor slanted surfaces count too much.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import permutations, product

import numpy as np
import SimpleITK as sitk

# The pieces of surface of a corner by which of its eight voxels are in the mask, as bits of a number (the voxel at the
# corner's low side in all axes is bit 7): area vectors in eighths of a voxel's faces, without signs. All other cases
# are one of these turned, mirrored or inverted.
PIECES = {
    0: (),
    1: ((1, 1, 1),),
    3: ((2, 2, 0), (2, 2, 0)),
    6: ((1, 1, 1), (1, 1, 1)),
    7: ((1, 1, 1), (2, 2, 2), (4, 0, 0)),
    15: ((4, 0, 0), (4, 0, 0)),
    22: ((1, 1, 1), (1, 1, 1), (1, 1, 1)),
    23: ((1, 1, 1), (1, 1, 1), (2, 2, 2), (2, 2, 2)),
    24: ((1, 1, 1), (1, 1, 1)),
    25: ((0, 2, 2), (0, 2, 2), (1, 1, 1)),
    27: ((0, 2, 2), (1, 1, 1), (2, 0, 2), (3, 3, 3)),
    30: ((1, 1, 1), (1, 1, 1), (2, 2, 2), (4, 0, 0)),
    60: ((2, 2, 0), (2, 2, 0), (2, 2, 0), (2, 2, 0)),
    105: ((1, 1, 1), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
}
BITS = np.array([128, 64, 32, 16, 8, 4, 2, 1], np.uint8).reshape(2, 2, 2)
OUTSIDE, INSIDE = 0, 255  # of corners without surface
ROUNDED_MM = 1e-4  # distances are of single precision


def surface_scores(
    truth: np.ndarray, called: np.ndarray, spacing_mm: tuple[float, float, float], tolerance_mm: float
) -> tuple[float, float]:
    """95th percentile Hausdorff distance and surface Dice.

    Beyond the array is outside of a mask, but for an axis of length 1: a single slice has an outline, no faces.

    Parameters
    ----------
    truth, called : (slices, rows, columns) bool
    spacing_mm : (float, float, float)
        Between slices, rows and columns.
    tolerance_mm : float
        Surface within so much of the other one counts as found.

    Returns
    -------
    (hd95_mm, surface_dice)
        HD95 is the larger of the two distances within which 95 % of a surface's area lie of the other one; surface
        Dice the share of both areas within the tolerance. Both empty: (nan, nan), left out of means like Dice. One
        empty: (inf, 0).
    """
    if not truth.any() or not called.any():
        return (np.nan, np.nan) if truth.any() == called.any() else (np.inf, 0.0)
    box = tuple(_extent((truth | called).any(axis)) for axis in ((1, 2), (0, 2), (0, 1)))
    areas = np.array([piece_area(code, spacing_mm) for code in range(256)])
    one, other = _corners(truth[box], truth.shape), _corners(called[box], called.shape)
    near = total = hd95 = 0.0
    for here, there in ((one, other), (other, one)):
        surface = _has_surface(here)
        distance, area = _distance(_has_surface(there), spacing_mm)[surface], areas[here[surface]]
        near, total = near + float(area[distance <= tolerance_mm + ROUNDED_MM].sum()), total + float(area.sum())
        hd95 = max(hd95, _percentile(distance, area, 0.95))
    return hd95, near / total


@lru_cache(maxsize=4096)
def piece_area(code: int, spacing_mm: tuple[float, float, float]) -> float:
    """Area of the surface at a corner, mm²: bits of `code` are its voxels, as in `BITS`."""
    faces_mm2 = np.prod(spacing_mm) / np.array(spacing_mm) / 8
    return float(sum(np.linalg.norm(np.array(piece) * faces_mm2) for piece in _pieces()[code]))


@lru_cache(maxsize=1)
def _pieces() -> list[tuple[tuple[int, ...], ...]]:
    """Of all 256 cases: those that are written down, turned and mirrored by the 48 symmetries of a cube, inverted."""
    found: dict[int, tuple[tuple[int, ...], ...]] = {}
    for code, pieces in PIECES.items():
        voxels = (BITS & code) > 0
        for axes, mirrored in product(permutations(range(3)), product((1, -1), repeat=3)):
            turned = np.transpose(voxels, axes)[tuple(slice(None, None, step) for step in mirrored)]
            number = int(BITS[turned].sum())
            found[number] = found[INSIDE - number] = tuple(tuple(piece[axis] for axis in axes) for piece in pieces)
    return [found[code] for code in range(256)]


def _extent(held: np.ndarray) -> slice:
    places = np.flatnonzero(held)
    return slice(int(places[0]), int(places[-1]) + 1)


def _corners(mask: np.ndarray, whole: tuple[int, ...]) -> np.ndarray:
    """Of each corner its voxels, as bits: one more an axis than voxels. What was cut off `whole` holds none of it."""
    padded = mask
    for axis, extent in enumerate(whole):
        ends = [(int(a == axis),) * 2 for a in range(3)]
        padded = np.pad(padded, ends) if extent > 1 else np.pad(padded, ends, mode="edge")
    low, high = slice(None, -1), slice(1, None)
    codes = np.zeros([extent - 1 for extent in padded.shape], np.uint8)
    for place in product((0, 1), repeat=3):
        codes |= padded[tuple(high if step else low for step in place)] * BITS[place]
    return codes[tuple(slice(1) if extent == 1 else slice(None) for extent in whole)]


def _has_surface(codes: np.ndarray) -> np.ndarray:
    surface: np.ndarray = (codes != OUTSIDE) & (codes != INSIDE)
    return surface


def _percentile(distance: np.ndarray, area: np.ndarray, share: float) -> float:
    """The distance within which such a share of the area lies."""
    order = np.argsort(distance, kind="stable")
    within = np.cumsum(area[order])
    place = int(np.searchsorted(within / within[-1], share))
    return float(distance[order][min(place, len(order) - 1)])


def _distance(surface: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Exact distance of every corner to the next one with surface, mm (Maurer 2003)."""
    image = sitk.GetImageFromArray(surface.astype(np.uint8))
    image.SetSpacing([float(mm) for mm in reversed(spacing_mm)])
    signed = sitk.SignedMaurerDistanceMap(image, insideIsPositive=False, squaredDistance=False, useImageSpacing=True)
    distance: np.ndarray = np.maximum(sitk.GetArrayFromImage(signed), 0)
    return distance
