"""Muscle behind the ribs that was called lung, where dense lung touches the chest wall. In model space."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

from covct.pipeline.postprocess import air_around

BONE_HU, SOFT_HU = 150, 50
NOISE = 4.5  # standard deviations of it above soft tissue is no bone
SIGMAS = 1.57  # standard deviations of noise to the median distance from the mean of nine pixels
DENSE_HU = -300  # denser than this, lung and muscle look alike
AERATED_HU = -500
SLAB_MM = 9.0  # ribs run downwards: those of so many millimetres above and below close the gaps between them
GAP_MM = 8.0  # between two ribs, or bone too thin to be seen at this size
DETOUR, MARGIN_MM = 1.6, 10.0  # a way no longer than so many times the distance, and a margin, is nearly straight
LEAST_DENSE_MM2 = 200.0  # dense lung called in a slice: with less there is nothing to look for
LEAST_BEYOND_MM2 = 50.0
MOST_BEYOND = 0.8  # of the dense lung of a slice: muscle is never nearly all of it


def remove_chest_wall(
    probability: np.ndarray, hu: np.ndarray, threshold: float, spacing_mm: tuple[float, float, float]
) -> None:
    """Take back what was called lung beyond the ribs: dense, behind bone as seen from aerated lung, not from the skin.

    Nothing is taken back from a slice without aerated lung or a skin to look from: a crop, lung at the edge.

    Parameters
    ----------
    probability : (slices, rows, columns) float
        Changed in place.
    hu : (slices, rows, columns)
    threshold : float
        From which probability on lung is called.
    spacing_mm : (float, float, float)
        Between slices, rows and columns.
    """
    apart, pixel = spacing_mm[0], float(np.sqrt(spacing_mm[1] * spacing_mm[2]))
    near = max(1, round(SLAB_MM / apart))
    bones_on = cache(lambda index: _bones(hu[index]))
    for index, one in enumerate(probability):
        called = one >= threshold
        dense = called & (hu[index] > DENSE_HU)
        if np.count_nonzero(dense) * pixel**2 < LEAST_DENSE_MM2:
            continue
        bones = np.any([bones_on(one) for one in range(max(0, index - near), min(index + near + 1, len(hu)))], axis=0)
        beyond = _beyond(called, dense, hu[index], bones, pixel)
        if beyond is not None:
            one[beyond] = 0


def _beyond(
    called: np.ndarray, dense: np.ndarray, hu: np.ndarray, bones: np.ndarray, pixel: float
) -> np.ndarray | None:
    """What of the dense pixels of a slice lies behind the bones, with what of it lies between them; or None."""
    aerated, skin = called & (hu < AERATED_HU), air_around(hu)
    if not aerated.any() or not skin.any() or (aerated & skin).any():
        return None
    wall = _closed(bones, max(1, round(GAP_MM / pixel)))
    hidden = dense & ~_in_reach(aerated, ~wall | aerated, dense, pixel)
    behind = hidden & ~wall
    behind &= _in_reach(skin, ~_closed(bones, max(1, round(GAP_MM / 2 / pixel))) | skin, behind, pixel)
    if np.count_nonzero(behind) * pixel**2 < LEAST_BEYOND_MM2:
        return None
    _, parts = cv2.connectedComponents(hidden.view(np.uint8), connectivity=4)
    beyond = np.isin(parts, np.unique(parts[behind]))
    return beyond if np.count_nonzero(beyond) <= MOST_BEYOND * np.count_nonzero(dense) else None


def _bones(hu_slice: np.ndarray) -> np.ndarray:
    """Where bone is: dense, and more so than noise makes soft tissue, or a few bright pixels of a slab were a wall."""
    hu_slice = hu_slice.astype(np.float32)
    mean = cv2.blur(hu_slice, (3, 3))
    tissue = (mean > -100) & (mean < BONE_HU)
    noise = SIGMAS * np.median(np.abs(hu_slice - mean)[tissue]) if tissue.any() else 0.0
    bones: np.ndarray = hu_slice > max(BONE_HU, SOFT_HU + NOISE * noise)
    return bones


def _in_reach(start: np.ndarray, free: np.ndarray, wanted: np.ndarray, pixel: float) -> np.ndarray:
    """Which pixels a nearly straight way leads to from the start, through free ones, as far as those wanted lie."""
    if not wanted.any():
        return start
    far = cv2.distanceTransform((~start).view(np.uint8), cv2.DIST_L2, 3)[wanted].max()
    reached, way = start.astype(np.uint8), free.astype(np.uint8)
    kernels = np.ones((3, 3), np.uint8), cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    for step in range(int(np.ceil(DETOUR * far + MARGIN_MM / pixel))):
        reached = cv2.dilate(reached, kernels[step % 2]) & way
    return reached > 0


def _closed(bones: np.ndarray, radius: int) -> np.ndarray:
    """Bones with the gaps between them closed."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    framed = cv2.copyMakeBorder(bones.view(np.uint8), radius, radius, radius, radius, cv2.BORDER_CONSTANT, value=0)
    closed = cv2.morphologyEx(framed, cv2.MORPH_CLOSE, kernel)[radius:-radius, radius:-radius]
    return np.ascontiguousarray(closed) > 0
