"""Probabilities to clean masks: two lungs told apart, holes filled, specks removed. All in working orientation."""

from __future__ import annotations

import cv2
import numpy as np
import SimpleITK as sitk

from covct.preprocess import FieldOfView, from_model_space
from covct.terms import LEFT_LUNG, RIGHT_LUNG

LEAST_PART = 0.02  # of the largest component: less is bowel gas, mattress or a bronchus
LEAST_SECOND_LUNG = 0.12  # of the larger lung: a smaller "second lung" is a part of the first
SPECK_MM3 = 100.0  # infection smaller than this (a cube of 4.6 mm) is not counted
SPECK_MM2 = 25.0  # the same for a single slice


def separate_lungs(probability: np.ndarray, threshold: float, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Two lungs from one network's probability, right and left by the patient's geometry.

    Parameters
    ----------
    probability : (slices, rows, columns) float
        Working orientation: columns run from the patient's right to the left.
    threshold : float
    spacing_mm : (float, float, float)
        Between slices, rows and columns.

    Returns
    -------
    (slices, rows, columns) uint8
        0 background, 1 right lung, 2 left lung.
    """
    mask = _fill_holes(_main_components(probability >= threshold))
    if not mask.any():
        return mask.astype(np.uint8)
    cores = _two_cores(mask, spacing_mm)
    if cores is None:
        return _by_midline(mask)
    return _grow(cores, mask, spacing_mm)


def _main_components(mask: np.ndarray) -> np.ndarray:
    labels, sizes = _components(mask)
    if not sizes.size:
        return mask
    kept = np.flatnonzero(sizes >= max(LEAST_PART * sizes.max(), 20)) + 1
    return np.isin(labels, kept)


def _components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels by 6-connectivity, and the size of each in voxels, largest first."""
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    relabel = sitk.RelabelComponentImageFilter()
    labelled = relabel.Execute(sitk.ConnectedComponent(image))
    return sitk.GetArrayFromImage(labelled), np.array(relabel.GetSizeOfObjectsInPixels(), np.int64)


def _fill_holes(mask: np.ndarray) -> np.ndarray:
    """Fill holes slice by slice: vessels and nodules enclosed by lung belong to it."""
    out = np.empty_like(mask)
    for index, one in enumerate(mask):
        padded = cv2.copyMakeBorder(one.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        cv2.floodFill(padded, None, (0, 0), 2)
        out[index] = padded[1:-1, 1:-1] != 2
    return out


def _two_cores(mask: np.ndarray, spacing_mm) -> np.ndarray | None:
    """Labels 1 (right) and 2 (left) on the cores of both lungs; None where there is only one.

    The lungs touch at the anterior junction, a bridge some millimetres thick: erode until it breaks.
    """
    depth = _depth_mm(mask, spacing_mm)
    for erosion_mm in (0.0, 1.5, 3.0, 4.5, 6.0, 8.0, 10.0, 13.0):
        labels, sizes = _components(depth > erosion_mm)
        if len(sizes) >= 2 and sizes[1] >= LEAST_SECOND_LUNG * sizes[0]:
            columns = [float(np.mean(np.nonzero(labels == label)[2])) for label in (1, 2)]
            middle = float(np.mean(np.nonzero(mask.any((0, 1)))[0]))
            if (columns[0] - middle) * (columns[1] - middle) < 0:  # one on each side of the chest
                right = 1 if columns[0] < columns[1] else 2
                cores = np.zeros(mask.shape, np.uint8)
                cores[labels == right] = RIGHT_LUNG
                cores[labels == 3 - right] = LEFT_LUNG
                return cores
    return None


def _depth_mm(mask: np.ndarray, spacing_mm) -> np.ndarray:
    """In-plane distance to the edge of the mask, mm. Bridges are thin in the plane whatever the slice spacing."""
    scale = float(spacing_mm[1] + spacing_mm[2]) / 2
    return np.stack([cv2.distanceTransform(one.astype(np.uint8), cv2.DIST_L2, 3) for one in mask]) * scale


def _grow(cores: np.ndarray, mask: np.ndarray, spacing_mm) -> np.ndarray:
    """Give every voxel of the mask to the core that reaches it first (watershed from markers)."""
    relief = sitk.GetImageFromArray(-_depth_mm(mask, spacing_mm).astype(np.float32))
    markers = np.where(mask, cores, 3).astype(np.uint8)  # 3: background floods what is not lung
    grown = sitk.GetArrayFromImage(
        sitk.MorphologicalWatershedFromMarkers(relief, sitk.GetImageFromArray(markers), markWatershedLine=False)
    )
    out = np.where(mask & (grown != 3), grown, 0).astype(np.uint8)
    missed = mask & (out == 0)  # islands that no core reaches: by the side they lie on
    if missed.any():
        out[missed] = _by_midline(mask)[missed]
    return out


def _by_midline(mask: np.ndarray) -> np.ndarray:
    """Right and left of the middle of the lungs' extent, for a single lung or an island."""
    columns = np.flatnonzero(mask.any((0, 1)))
    middle = (columns[0] + columns[-1]) / 2
    labels, sizes = _components(mask)
    out = np.zeros(mask.shape, np.uint8)
    if len(sizes) == 1:  # one lung: it is the side of the slice's centre that it lies on
        middle = (mask.shape[2] - 1) / 2
    for label in range(1, len(sizes) + 1):
        part = labels == label
        out[part] = RIGHT_LUNG if np.mean(np.nonzero(part)[2]) < middle else LEFT_LUNG
    return out


def to_source_lungs(
    labels: np.ndarray, probability: np.ndarray, threshold: float, view: FieldOfView, shape
) -> np.ndarray:
    """Lungs in model space to the source grid, the border following the probability.

    labels (slices, size, size) uint8, probability (slices, size, size) -> (slices, rows, columns) uint8.
    """
    out = np.zeros((len(labels), *shape), np.uint8)
    kernel = np.ones((3, 3), np.uint8)
    for index in np.flatnonzero(labels.any((1, 2))):
        label, p = labels[index], probability[index].astype(np.float32)
        p = np.where(label > 0, np.maximum(p, threshold + 0.25), np.where(p >= threshold, 0, p))
        sides = [cv2.dilate((label == side).astype(np.float32), kernel) for side in (RIGHT_LUNG, LEFT_LUNG)]
        inside = from_model_space(p, view, shape) >= threshold
        right, left = (from_model_space(side, view, shape) for side in sides)
        out[index][inside & (right >= left) & (right > 0)] = RIGHT_LUNG
        out[index][inside & (left > right)] = LEFT_LUNG
    return out


def to_source_infection(probability: np.ndarray, threshold: float, lungs: np.ndarray, view: FieldOfView) -> np.ndarray:
    """Infection on the source grid, only inside the lungs. Returns (slices, rows, columns) bool."""
    out = np.zeros(lungs.shape, bool)
    for index in np.flatnonzero((probability >= threshold).any((1, 2))):
        p = from_model_space(probability[index].astype(np.float32), view, lungs.shape[1:])
        out[index] = (p >= threshold) & (lungs[index] > 0)
    return out


def remove_specks(infection: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Drop infection components below `SPECK_MM3` (`SPECK_MM2` in a single slice). (slices, rows, columns) bool."""
    if not infection.any():
        return infection
    single = len(infection) == 1
    voxel = spacing_mm[1] * spacing_mm[2] * (1 if single else spacing_mm[0])
    first, last = np.flatnonzero(infection.any((1, 2)))[[0, -1]]
    labels, sizes = _components(infection[first : last + 1])
    too_small = np.flatnonzero(sizes * voxel < (SPECK_MM2 if single else SPECK_MM3)) + 1
    out = infection.copy()
    if too_small.size:  # labels are ordered by size: the small ones are the last
        out[first : last + 1] &= labels < too_small[0]
    return out
