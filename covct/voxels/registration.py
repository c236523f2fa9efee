"""The lungs of two scans of one patient laid over one another, so that places in one can be looked up in the other.

Affine, by the lungs' shape alone: of an earlier result there are masks, and its scan may be gone. Lungs are reduced to
blocks of some millimetres first, so that time and memory do not grow with the scan.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from covct.voxels.labels import Slices

BLOCK_MM = 3.0
MOST_BLOCKS = 4_000_000  # more, of a scan far larger than a chest, and the blocks grow
MARGIN_MM = 30.0  # of air around the lungs: the border is what is laid over
SHRINK, SMOOTH_MM = [4, 2], [8.0, 4.0]  # from coarse to fine
ITERATIONS = 200  # on each of these at most: a second or two, whatever the lungs
FIRST_STEP_MM, LAST_STEP_MM = 2.0, 0.001
LEAST_OVERLAP = 0.9  # Dice of the lungs; 0.97 and more where the same lungs breathe more or less deeply
VOLUME_RATIO = (0.5, 2.0)  # a lung does not grow or shrink by more between two breaths
OUTSIDE_MM = 1000.0  # in place of a distance that nothing is there to measure from


@dataclass(frozen=True)
class Blocks:
    """Masks in blocks of voxels, cut to the lungs.

    Attributes
    ----------
    lungs : (slices, rows, columns) float32
        The share of each block that is lung.
    infection : (slices, rows, columns) bool
        Blocks that hold any.
    affine : (4, 4) float
        Block index (slice, row, column) to LPS mm.
    first : (3,) int
        Index of the first block of all that is cut out here, counted in blocks.
    step : (3,) int
        Voxels of a block.
    """

    lungs: np.ndarray
    infection: np.ndarray
    affine: np.ndarray
    first: np.ndarray
    step: np.ndarray


@dataclass(frozen=True)
class Registered:
    """How two scans lie over one another.

    Attributes
    ----------
    to_then : SimpleITK.Transform
        A point (LPS mm) of the scan now to that of the scan then.
    overlap : float
        Dice of the lungs laid over one another, 0 to 1.
    doubt : str
        Why this is not to be trusted; empty where it is.
    """

    to_then: sitk.Transform
    overlap: float
    doubt: str


def blocks(lungs: Slices, infection: Slices, affine: np.ndarray) -> Blocks:
    """Reduce masks to blocks.

    Parameters
    ----------
    lungs : (slices, rows, columns) uint8
        0 where there is no lung.
    infection : (slices, rows, columns) bool
    affine : (4, 4) float
        Slice, row and column index to LPS mm.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    step = _step(np.array(lungs.shape), spacing)
    count = -(-np.array(lungs.shape) // step)
    share, infected = np.zeros(count, np.float32), np.zeros(count, bool)
    for index, (lung, sick) in enumerate(zip(lungs, infection, strict=True)):
        at = index // step[0]
        if lung.any():
            share[at] += _blocked(lung > 0, step).sum(axis=(1, 3), dtype=np.float32)
        if sick.any():
            infected[at] |= _blocked(sick, step).any(axis=(1, 3))
    share /= np.float32(np.prod(step))
    first, end = _cut(share, np.ceil(MARGIN_MM / (step * spacing)).astype(int))
    inside = tuple(slice(a, b) for a, b in zip(first, end, strict=True))
    to_voxel = np.eye(4)
    to_voxel[:3, :3] = np.diag(step)
    to_voxel[:3, 3] = first * step + (step - 1) / 2
    return Blocks(share[inside], infected[inside], affine @ to_voxel, first, step)


def _step(shape: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Voxels of a block along each axis."""
    size_mm = BLOCK_MM
    while True:
        step: np.ndarray = np.maximum(1, np.rint(size_mm / spacing)).astype(int)
        if np.prod(-(-shape // step)) <= MOST_BLOCKS:
            return step
        size_mm *= 1.25


def _blocked(mask: np.ndarray, step: np.ndarray) -> np.ndarray:
    """(rows, columns) as (blocks, rows of a block, blocks, columns of a block)."""
    rows, columns = mask.shape
    padded = np.pad(mask, ((0, -rows % step[1]), (0, -columns % step[2])))
    return padded.reshape(padded.shape[0] // step[1], step[1], padded.shape[1] // step[2], step[2])


def _cut(share: np.ndarray, margin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First block and the one after the last, along each axis, around all that is lung."""
    there = np.argwhere(share > 0)
    if not len(there):
        return np.zeros(3, int), np.array(share.shape)
    return np.maximum(there.min(0) - margin, 0), np.minimum(there.max(0) + 1 + margin, share.shape)


def laid_over(now: Blocks, then: Blocks) -> Registered:
    """Lay the lungs of an earlier scan over those of a later one. The same blocks give the same transform.

    Both have lungs.
    """
    fixed, moving = _image(now.lungs, now.affine), _image(then.lungs, then.affine)
    start = sitk.CenteredTransformInitializer(
        fixed, moving, sitk.AffineTransform(3), sitk.CenteredTransformInitializerFilter.MOMENTS
    )
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)  # sums of several threads differ in their last digits from run to run
    method.SetNumberOfWorkUnits(1)
    method.SetMetricAsMeanSquares()
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=FIRST_STEP_MM, minStep=LAST_STEP_MM, numberOfIterations=ITERATIONS, gradientMagnitudeTolerance=1e-6
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(SHRINK)
    method.SetSmoothingSigmasPerLevel(SMOOTH_MM)
    method.SetInitialTransform(start, inPlace=False)
    try:
        found = sitk.AffineTransform(sitk.CompositeTransform(method.Execute(fixed, moving)).GetBackTransform())
    except RuntimeError:  # nothing lies over anything
        return Registered(start, 0.0, "the lungs of both scans could not be laid over one another")
    ratio = abs(float(np.linalg.det(np.reshape(found.GetMatrix(), (3, 3)))))
    there = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, found, sitk.sitkLinear, 0.0)) > 0.5
    here = now.lungs > 0.5
    both = int(here.sum()) + int(there.sum())
    overlap = 2 * int((here & there).sum()) / both if both else 0.0
    return Registered(found, overlap, _doubt(overlap, ratio))


def _doubt(overlap: float, ratio: float) -> str:
    if overlap < LEAST_OVERLAP:
        return (
            f"the lungs of both scans, laid over one another, overlap by {overlap:.2f} (Dice), wanted {LEAST_OVERLAP:g}"
        )
    if not VOLUME_RATIO[0] <= ratio <= VOLUME_RATIO[1]:
        return f"one scan's lungs would have {ratio:.2f} times the other's volume"
    return ""


def away_from_then(now: Blocks, then: Blocks, registered: Registered) -> np.ndarray:
    """(slices, rows, columns) float32: how far each block now lies from infection then, mm."""
    return _away(then, now, registered.to_then)


def away_from_now(now: Blocks, then: Blocks, registered: Registered) -> np.ndarray:
    """(slices, rows, columns) float32: how far each block then lies from infection now, mm."""
    return _away(now, then, registered.to_then.GetInverse())


def _away(of: Blocks, on: Blocks, transform: sitk.Transform) -> np.ndarray:
    """Distances to what is infected in `of`, on the blocks of `on`, whose points `transform` brings to `of`."""
    if not of.infection.any():
        return np.full(on.lungs.shape, OUTSIDE_MM, np.float32)
    image = _image(of.infection.astype(np.uint8), of.affine)
    distance = sitk.SignedMaurerDistanceMap(image, insideIsPositive=False, squaredDistance=False, useImageSpacing=True)
    shown = sitk.Resample(distance, _image(on.lungs, on.affine), transform, sitk.sitkLinear, OUTSIDE_MM)
    away: np.ndarray = np.maximum(sitk.GetArrayFromImage(shown), 0).astype(np.float32)
    return away


def _image(array: np.ndarray, affine: np.ndarray) -> sitk.Image:
    """An array (slices, rows, columns) as SimpleITK has it: its axes are columns, rows, slices."""
    image = sitk.GetImageFromArray(array)
    axes = affine[:3, 2::-1]
    spacing = np.linalg.norm(axes, axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((axes / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image
