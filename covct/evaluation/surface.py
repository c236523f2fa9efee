"""Distances between the surfaces of two masks, mm."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk


def surface_scores(
    truth: np.ndarray, called: np.ndarray, spacing_mm: tuple[float, float, float], tolerance_mm: float
) -> tuple[float, float]:
    """95th percentile Hausdorff distance and surface Dice.

    A surface is the voxels of a mask with a face neighbour outside of it; beyond the array is outside, but for an axis
    of length 1, along which a single slice has no surface. Distances are exact, between centres of voxels.

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
        HD95 is the larger of the two directed 95th percentiles (Huttenlocher 1993, as in the Medical Segmentation
        Decathlon); surface Dice is that of Nikolov et al. 2018, every surface voxel counting alike. Both empty:
        (nan, nan), left out of means like Dice. One empty: (inf, 0).
    """
    if not truth.any() or not called.any():
        return (np.nan, np.nan) if truth.any() == called.any() else (np.inf, 0.0)
    box = tuple(_extent((truth | called).any(axis)) for axis in ((1, 2), (0, 2), (0, 1)))
    one, other = _surface(truth[box], truth.shape), _surface(called[box], called.shape)
    to_other, to_one = _distance(other, spacing_mm)[one], _distance(one, spacing_mm)[other]
    near = np.count_nonzero(to_other <= tolerance_mm) + np.count_nonzero(to_one <= tolerance_mm)
    hd95 = max(np.percentile(to_other, 95), np.percentile(to_one, 95))
    return float(hd95), near / (len(to_other) + len(to_one))


def _extent(held: np.ndarray) -> slice:
    places = np.flatnonzero(held)
    return slice(int(places[0]), int(places[-1]) + 1)


def _surface(mask: np.ndarray, whole: tuple[int, ...]) -> np.ndarray:
    """Surface voxels of a mask cut out of an array of shape `whole`; what was cut off holds none of it."""
    inner = mask.copy()
    for axis, extent in enumerate(whole):
        if extent == 1:
            continue
        padded = np.pad(mask, [(int(a == axis),) * 2 for a in range(3)])
        inner &= np.take(padded, range(mask.shape[axis]), axis) & np.take(padded, range(2, mask.shape[axis] + 2), axis)
    surface: np.ndarray = mask & ~inner
    return surface


def _distance(surface: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Exact distance of every voxel to the next surface voxel, mm (Maurer 2003)."""
    image = sitk.GetImageFromArray(surface.astype(np.uint8))
    image.SetSpacing([float(mm) for mm in reversed(spacing_mm)])
    signed = sitk.SignedMaurerDistanceMap(image, insideIsPositive=False, squaredDistance=False, useImageSpacing=True)
    distance: np.ndarray = np.maximum(sitk.GetArrayFromImage(signed), 0)
    return distance
