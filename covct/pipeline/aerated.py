"""Aerated lung that the network left out, such as the lowest recess behind liver and spleen. In model space."""

from __future__ import annotations

import cv2
import numpy as np

from covct.pipeline.postprocess import air_around
from covct.voxels.components import components

LEAST_HU, MOST_HU = -940, -600  # of aerated lung: below lies gas, above a rim of partial volume
CALLED_SHARE = 0.5  # of a region that is lung: bowel is a region by itself, and none of it is called
MOST_ADDED = 0.25  # of what was called: more means that this is no lung, or that the network found none
SQUARE, DISC = np.ones((3, 3), np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))


def complete_aerated(probability: np.ndarray, hu: np.ndarray, threshold: float) -> None:
    """Call the rest of a connected region with the density of aerated lung most of which is called already.

    Only what is five pixels wide somewhere in a slice: the network knows better where a border lies.

    Parameters
    ----------
    probability : (slices, rows, columns) float
        Changed in place: 1 where lung is added.
    hu : (slices, rows, columns)
    threshold : float
        From which probability on lung is called.
    """
    aerated = np.stack([_aerated(hu_slice) for hu_slice in hu])
    regions = components(aerated.__getitem__, len(hu))
    called = np.zeros(len(regions.sizes) + 1, np.int64)
    total = 0
    for index, one in enumerate(probability):
        lung = one >= threshold
        called += np.bincount(regions.on_slice(index)[lung], minlength=len(called))
        total += int(np.count_nonzero(lung))
    is_lung = np.concatenate([[False], called[1:] >= CALLED_SHARE * regions.sizes])
    for index, one in enumerate(probability):
        aerated[index] = is_lung[regions.on_slice(index)] & (one < threshold)
    missing = components(aerated.__getitem__, len(hu))
    wide = {number for index in range(len(hu)) for number in _wide(missing.on_slice(index))}
    added = np.isin(np.arange(len(missing.sizes) + 1), list(wide))
    if missing.sizes[added[1:]].sum() > MOST_ADDED * total:
        return
    for index, one in enumerate(probability):
        one[added[missing.on_slice(index)]] = 1


def _aerated(hu_slice: np.ndarray) -> np.ndarray:
    """Where a slice is as dense as aerated lung over three pixels, outside air excepted."""
    mean = cv2.blur(hu_slice.astype(np.float32), (3, 3))
    aerated = (mean > LEAST_HU) & (mean < MOST_HU) & ~air_around(hu_slice)
    opened: np.ndarray = cv2.morphologyEx(aerated.view(np.uint8), cv2.MORPH_OPEN, SQUARE) > 0
    return opened


def _wide(numbers: np.ndarray) -> list[int]:
    """The numbers of the regions of a slice that are wide enough."""
    wide = cv2.morphologyEx((numbers > 0).view(np.uint8), cv2.MORPH_OPEN, DISC) > 0
    return [int(number) for number in np.unique(numbers[wide]) if number]
