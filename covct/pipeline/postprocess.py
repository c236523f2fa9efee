"""Probabilities to clean masks: two lungs told apart, holes filled, specks removed. All in working orientation."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import SimpleITK as sitk

from covct.terms import LEFT_LUNG, RIGHT_LUNG
from covct.voxels.components import Components, components
from covct.voxels.labels import INFECTED, Labels
from covct.voxels.preprocess import BODY_HU, FieldOfView, from_model_space

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
    called = components(lambda index: probability[index] >= threshold, len(probability))
    labels = np.zeros(probability.shape, np.uint8)
    if not called.sizes.size:
        return labels
    mask = _fill_holes(called)
    if not mask.any():
        return labels
    # The rest is done in the lungs' box, with a border of background where there is some.
    box = tuple(
        slice(max(0, held.start - 1), min(held.stop + 1, extent))
        for held, extent in zip(bounding_box(mask), mask.shape, strict=True)
    )
    middle = (mask.shape[2] - 1) / 2 - box[2].start
    mask = np.ascontiguousarray(mask[box])
    labels[box] = _separated(mask, spacing_mm, middle)
    return labels


def _separated(mask: np.ndarray, spacing_mm: tuple[float, float, float], middle: float) -> np.ndarray:
    """Labels of a mask's two lungs. `middle` is the column of the slices' centre."""
    depth = _depth_mm(mask, spacing_mm)
    for erosion_mm in EROSIONS_MM:
        cores = _two_cores(depth, erosion_mm, mask)
        if cores is not None:
            return _grow(cores, mask, depth, middle) if erosion_mm else _with_islands(cores, mask, middle)
    return _by_midline(mask, middle)


def remove_outside_air(probability: np.ndarray, hu: np.ndarray, threshold: float) -> None:
    """Take back what was called lung in the air outside the body: under an arm, in a mattress, in a tube.

    probability (slices, rows, columns), changed in place; hu likewise in model space. Where more than half of a slice's
    lung would go the slice stays: there the lung itself reaches the edge of the field of view.
    """
    for one, hu_slice in zip(probability, hu, strict=True):
        called = one >= threshold
        if not called.any():
            continue
        outside = air_around(hu_slice)
        if np.count_nonzero(outside & called) < 0.5 * np.count_nonzero(called):
            one[outside] = 0


def remove_enclosed_air(probability: np.ndarray, hu: np.ndarray, threshold: float) -> None:
    """Take back pockets of pure air that soft tissue encloses: trachea, stomach, bowel.

    A pocket is connected air below `POCKET_HU` called lung, at most `POCKET_SHARE` of all that was called lung, with
    `ENCLOSED_SHARE` of its surroundings (from the third to the fourth pixel) denser than `BODY_HU`.
    A bulla lies in lung and stays.

    probability (slices, rows, columns), changed in place; hu likewise in model space.
    """
    most = POCKET_SHARE * sum(np.count_nonzero(one >= threshold) for one in probability)
    dark = components(lambda index: (probability[index] >= threshold) & (hu[index] < POCKET_HU), len(probability))
    pockets = np.flatnonzero((dark.sizes >= LEAST_POCKET) & (dark.sizes <= most)) + 1
    rims: dict[int, list[np.ndarray]] = {}
    for number in pockets.tolist():
        for index, rim in _enclosed(dark, number, hu):
            rims.setdefault(index, []).append(rim)
    for index, found in rims.items():  # the rim of partial volume goes with the pocket
        probability[index][np.logical_or.reduce(found)] = 0


def _enclosed(dark: Components, number: int, hu: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """A pocket with its rim on each of its slices, (rows, columns) bool; none where soft tissue does not enclose it."""
    rim_kernel, outer_kernel = np.ones((5, 5), np.uint8), np.ones((9, 9), np.uint8)
    rims, dense, all_around = [], 0, 0
    for index in dark.holding(number):
        pocket = (dark.on_slice(index) == number).view(np.uint8)
        rim = cv2.dilate(pocket, rim_kernel)
        around = cv2.dilate(pocket, outer_kernel) > rim
        dense += int(np.count_nonzero(hu[index][around] > BODY_HU))
        all_around += int(np.count_nonzero(around))
        rims.append((index, rim > 0))
    return rims if dense >= ENCLOSED_SHARE * all_around > 0 else []


def air_around(hu_slice: np.ndarray) -> np.ndarray:
    """(rows, columns) bool: the air of one slice that is connected with its edge."""
    air = (hu_slice < BODY_HU).astype(np.uint8)
    framed = cv2.copyMakeBorder(air, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=1)
    cv2.floodFill(framed, None, (0, 0), 2)
    outside: np.ndarray = framed[1:-1, 1:-1] == 2
    return outside


def _fill_holes(called: Components) -> np.ndarray:
    """The main components as a mask, with holes filled slice by slice: vessels and nodules enclosed by lung belong to
    it."""
    kept = np.count_nonzero(called.sizes >= max(LEAST_PART * called.sizes[0], 20))
    out = []
    for index in range(len(called.numbers)):
        numbers = called.on_slice(index)
        one = ((numbers > 0) & (numbers <= kept)).view(np.uint8)
        padded = cv2.copyMakeBorder(one, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        cv2.floodFill(padded, None, (0, 0), 2)
        out.append(padded[1:-1, 1:-1] != 2)
    return np.stack(out)


def _two_cores(depth: np.ndarray, erosion_mm: float, mask: np.ndarray) -> np.ndarray | None:
    """Labels 1 (right) and 2 (left) where the eroded mask falls apart into two lungs; None where it does not."""
    found = components(lambda index: depth[index] > erosion_mm, len(depth))
    if len(found.sizes) < 2 or found.sizes[1] < LEAST_SECOND_LUNG * found.sizes[0]:
        return None
    counts = np.zeros((3, mask.shape[2]), np.int64)
    for index in range(len(mask)):
        numbers = found.on_slice(index)
        for number in (1, 2):
            counts[number] += np.count_nonzero(numbers == number, axis=0)
    columns = [float(np.average(np.arange(mask.shape[2]), weights=counts[number])) for number in (1, 2)]
    middle = float(np.mean(np.flatnonzero(mask.any((0, 1)))))
    if (columns[0] - middle) * (columns[1] - middle) >= 0:  # both on one side of the chest
        return None
    sides = np.zeros(len(found.sizes) + 1, np.uint8)
    sides[1:3] = (RIGHT_LUNG, LEFT_LUNG) if columns[0] < columns[1] else (LEFT_LUNG, RIGHT_LUNG)
    return np.stack([sides[found.on_slice(index)] for index in range(len(mask))])


def _depth_mm(mask: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """In-plane distance to the edge of the mask, mm. Bridges are thin in the plane whatever the slice spacing."""
    scale = np.float32((spacing_mm[1] + spacing_mm[2]) / 2)
    return np.stack([cv2.distanceTransform(one.astype(np.uint8), cv2.DIST_L2, 3) for one in mask]) * scale


def _grow(cores: np.ndarray, mask: np.ndarray, depth: np.ndarray, middle: float) -> np.ndarray:
    """Give every voxel of the mask to the core that reaches it first (watershed from markers). `depth` is used up."""
    level = sitk.GetImageFromArray(np.negative(depth, out=depth))
    cores[~mask] = 3  # background floods what is not lung
    grown = sitk.GetArrayFromImage(
        sitk.MorphologicalWatershedFromMarkers(level, sitk.GetImageFromArray(cores), markWatershedLine=False)
    )
    grown[~mask | (grown == 3)] = 0
    return _with_islands(grown, mask, middle)


def _with_islands(labels: np.ndarray, mask: np.ndarray, middle: float) -> np.ndarray:
    """Lung that no core reaches goes to the side it lies on."""
    missed = mask & (labels == 0)
    if missed.any():
        labels[missed] = _by_midline(mask, middle)[missed]
    return labels


def _by_midline(mask: np.ndarray, middle: float) -> np.ndarray:
    """Right and left of the middle of the lungs' extent, for islands; of the slices' centre, for a single lung."""
    found = components(lambda index: mask[index], len(mask))
    if len(found.sizes) > 1:
        columns = np.flatnonzero(mask.any((0, 1)))
        middle = (columns[0] + columns[-1]) / 2
    sums = np.zeros(len(found.sizes) + 1)
    for index, one in enumerate(mask):
        column = np.nonzero(one)[1]
        sums += np.bincount(found.on_slice(index)[one], weights=column, minlength=len(sums))
    sides = np.where(sums[1:] / found.sizes < middle, RIGHT_LUNG, LEFT_LUNG)
    sides = np.concatenate([[0], sides]).astype(np.uint8)
    return np.stack([sides[found.on_slice(index)] for index in range(len(mask))])


def to_source_lungs(
    labels: np.ndarray, probability: np.ndarray, threshold: float, view: FieldOfView, shape: tuple[int, int]
) -> Labels:
    """Lungs in model space to the source grid, the border following the probability.

    labels (slices, size, size) uint8, probability (slices, size, size) -> (slices, rows, columns).
    """
    out = Labels((len(labels), *shape))
    kernel = np.ones((3, 3), np.uint8)
    for index in np.flatnonzero(labels.any((1, 2))).tolist():
        label, p = labels[index], probability[index].astype(np.float32)
        p = np.where(label > 0, np.maximum(p, threshold + 0.25), np.where(p >= threshold, 0, p))
        sides = [cv2.dilate((label == side).astype(np.float32), kernel) for side in (RIGHT_LUNG, LEFT_LUNG)]
        inside = from_model_space(p, view, shape) >= threshold
        right, left = (from_model_space(side, view, shape) for side in sides)
        sides_here = np.zeros(shape, np.uint8)
        sides_here[inside & (right >= left) & (right > 0)] = RIGHT_LUNG
        sides_here[inside & (left > right)] = LEFT_LUNG
        out[index] = sides_here
    return out


def mark_infection(labels: Labels, probability: np.ndarray, threshold: float, view: FieldOfView) -> None:
    """Mark infection in the lungs of a label map on the source grid, and nowhere else.

    probability (slices, size, size) in model space.
    """
    for index, one in enumerate(probability):
        if not (one >= threshold).any():
            continue
        p = from_model_space(one.astype(np.float32), view, labels.shape[1:])
        lungs = labels[index]
        lungs[(p >= threshold) & (lungs > 0)] += INFECTED
        labels[index] = lungs


def unmark_specks(labels: Labels, spacing_mm: tuple[float, float, float]) -> None:
    """Take back infection components below `SPECK_MM3` (`SPECK_MM2` in a single slice)."""
    single = len(labels) == 1
    voxel = spacing_mm[1] * spacing_mm[2] * (1 if single else spacing_mm[0])
    found = components(labels.infection.__getitem__, len(labels))
    kept = np.count_nonzero(found.sizes * voxel >= (SPECK_MM2 if single else SPECK_MM3))  # numbered by size
    for index, numbers in enumerate(found.numbers):
        if numbers.max() > kept:
            one = labels[index]
            one[found.on_slice(index) > kept] -= INFECTED
            labels[index] = one


def bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """The slices that hold all true voxels of a mask with any."""
    ranges = (np.flatnonzero(mask.any(axis)) for axis in ((1, 2), (0, 2), (0, 1)))
    return tuple(slice(int(held[0]), int(held[-1]) + 1) for held in ranges)
