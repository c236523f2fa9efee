"""Probabilities to clean masks: two lungs told apart, holes filled, specks removed. All in working orientation."""

from __future__ import annotations

import cv2
import numpy as np
import SimpleITK as sitk

from covct.preprocess import BODY_HU, FieldOfView, from_model_space
from covct.terms import LEFT_LUNG, RIGHT_LUNG

LEAST_PART = 0.02  # of the largest component: less is bowel gas, mattress or a bronchus
LEAST_SECOND_LUNG = 0.12  # of the larger lung: a smaller "second lung" is a part of the first
POCKET_HU = -910  # aerated lung seldom is so dark over a region of this size, gas is
POCKET_SHARE = 0.25
LEAST_POCKET = 40  # pixels in model space, some 1 cm2 of one slice
ENCLOSED_SHARE = 0.6
# The lungs touch at the anterior junction, a bridge some millimetres thick: erode until it breaks.
EROSIONS_MM = (0.0, 1.5, 3.0, 4.5, 6.0, 8.0, 10.0, 13.0)
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
    depth = _depth_mm(mask, spacing_mm)
    for erosion_mm in EROSIONS_MM:
        cores = _two_cores(depth > erosion_mm, mask)
        if cores is not None:
            return _grow(cores, mask, depth) if erosion_mm else _with_islands(cores, mask)
    return _by_midline(mask)


def remove_outside_air(probability: np.ndarray, hu: np.ndarray, threshold: float) -> np.ndarray:
    """Take back what was called lung in the air outside the body: under an arm, in a mattress, in a tube.

    probability (slices, rows, columns), hu likewise in model space -> a changed copy. Where more than half of a
    slice's lung would go the slice stays: there the lung itself reaches the edge of the field of view.
    """
    out = probability.copy()
    for index in np.flatnonzero((probability >= threshold).any((1, 2))):
        outside = _connected_with_border(hu[index] < BODY_HU)
        called = probability[index] >= threshold
        if np.count_nonzero(outside & called) < 0.5 * np.count_nonzero(called):
            out[index][outside] = 0
    return out


def remove_enclosed_air(probability: np.ndarray, hu: np.ndarray, threshold: float) -> np.ndarray:
    """Take back pockets of pure air that soft tissue encloses: trachea, stomach, bowel.

    A pocket is connected air below `POCKET_HU` called lung, at most `POCKET_SHARE` of all that was called lung, with
    `ENCLOSED_SHARE` of its surroundings (from the third to the fourth pixel) denser than `BODY_HU`.
    A bulla lies in lung and stays.

    probability (slices, rows, columns), hu likewise in model space -> a changed copy.
    """
    called = probability >= threshold
    labels, sizes = _components(called & (hu < POCKET_HU))
    out = probability.copy()
    rim_kernel, outer_kernel = np.ones((5, 5), np.uint8), np.ones((9, 9), np.uint8)
    for label in np.flatnonzero((sizes >= LEAST_POCKET) & (sizes <= POCKET_SHARE * np.count_nonzero(called))) + 1:
        planes = np.flatnonzero((labels == label).any((1, 2)))
        pocket = (labels[planes] == label).astype(np.uint8)
        rim = np.stack([cv2.dilate(one, rim_kernel) for one in pocket])
        around = np.stack([cv2.dilate(one, outer_kernel) for one in pocket]) > rim
        if np.mean(hu[planes][around] > BODY_HU) >= ENCLOSED_SHARE:
            out[planes] = np.where(rim > 0, 0, out[planes])  # the rim of partial volume goes with the pocket
    return out


def _connected_with_border(air: np.ndarray) -> np.ndarray:
    """The air of one slice that is connected with a border of air around the slice."""
    framed = cv2.copyMakeBorder(air.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=1)
    cv2.floodFill(framed, None, (0, 0), 2)
    return framed[1:-1, 1:-1] == 2


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


def _two_cores(eroded: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
    """Labels 1 (right) and 2 (left) where the eroded mask falls apart into two lungs; None where it does not."""
    labels, sizes = _components(eroded)
    if len(sizes) < 2 or sizes[1] < LEAST_SECOND_LUNG * sizes[0]:
        return None
    columns = [float(np.average(np.arange(mask.shape[2]), weights=(labels == n).sum((0, 1)))) for n in (1, 2)]
    middle = float(np.mean(np.flatnonzero(mask.any((0, 1)))))
    if (columns[0] - middle) * (columns[1] - middle) >= 0:  # both on one side of the chest
        return None
    right = 1 if columns[0] < columns[1] else 2
    cores = np.zeros(mask.shape, np.uint8)
    cores[labels == right] = RIGHT_LUNG
    cores[labels == 3 - right] = LEFT_LUNG
    return cores


def _depth_mm(mask: np.ndarray, spacing_mm) -> np.ndarray:
    """In-plane distance to the edge of the mask, mm. Bridges are thin in the plane whatever the slice spacing."""
    scale = np.float32((spacing_mm[1] + spacing_mm[2]) / 2)
    return np.stack([cv2.distanceTransform(one.astype(np.uint8), cv2.DIST_L2, 3) for one in mask]) * scale


def _grow(cores: np.ndarray, mask: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Give every voxel of the mask to the core that reaches it first (watershed from markers)."""
    markers = np.where(mask, cores, 3).astype(np.uint8)  # 3: background floods what is not lung
    grown = sitk.GetArrayFromImage(
        sitk.MorphologicalWatershedFromMarkers(
            sitk.GetImageFromArray(-depth), sitk.GetImageFromArray(markers), markWatershedLine=False
        )
    )
    return _with_islands(np.where(mask & (grown != 3), grown, 0).astype(np.uint8), mask)


def _with_islands(labels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Lung that no core reaches goes to the side it lies on."""
    missed = mask & (labels == 0)
    if missed.any():
        labels[missed] = _by_midline(mask)[missed]
    return labels


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
    box = bounding_box(infection)
    labels, sizes = _components(infection[box])
    too_small = np.flatnonzero(sizes * voxel < (SPECK_MM2 if single else SPECK_MM3)) + 1
    out = infection.copy()
    if too_small.size:  # labels are ordered by size: the small ones are the last
        out[box] &= labels < too_small[0]
    return out


def bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """The slices that hold all true voxels of a mask with any."""
    ranges = (np.flatnonzero(mask.any(axis)) for axis in ((1, 2), (0, 2), (0, 1)))
    return tuple(slice(int(held[0]), int(held[-1]) + 1) for held in ranges)
