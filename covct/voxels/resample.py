"""Volumes of one spacing for networks of volumes, and back; every voxel's centre stays where it is in the patient.

Each axis is resampled on its own by a small matrix of weights: linear between neighbours, and a triangle as wide as the
coarser of both spacings where it gets coarser, so that fine noise does not fold into the network's scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from covct.voxels.arrays import Floats
from covct.voxels.preprocess import AIR_HU, FieldOfView

Spacing = tuple[float, float, float]
LARGEST_SIDE = 2048


@dataclass(frozen=True)
class Axis:
    """One axis of a resampled volume: `count` voxels of `spacing_mm`, centred on the same point as the source's part.

    Attributes
    ----------
    source_count : int
    source_spacing_mm : float
    source_centre : float
        Index on the source's axis of the point that both share; between two voxels where need be.
    """

    count: int
    spacing_mm: float
    source_count: int
    source_spacing_mm: float
    source_centre: float

    def source_index(self, index: Floats) -> Floats:
        """Where on the source's axis voxels of the resampled one lie. Numbers or arrays."""
        from_centre_mm = (index - (self.count - 1) / 2) * self.spacing_mm
        return self.source_centre + from_centre_mm / self.source_spacing_mm

    def index(self, source_index: Floats) -> Floats:
        """The way back of `source_index`."""
        from_centre_mm = (source_index - self.source_centre) * self.source_spacing_mm
        return (self.count - 1) / 2 + from_centre_mm / self.spacing_mm


@dataclass(frozen=True)
class Grid:
    """Where a resampled volume lies on its source.

    Attributes
    ----------
    axes : (Axis, Axis, Axis)
        Slices, rows, columns.
    view : FieldOfView
        The square of the source that it covers.
    """

    axes: tuple[Axis, Axis, Axis]
    view: FieldOfView

    @property
    def shape(self) -> tuple[int, int, int]:
        slices, rows, columns = (axis.count for axis in self.axes)
        return slices, rows, columns


def plan_grid(shape: tuple[int, int, int], view: FieldOfView, source_spacing_mm: Spacing, spacing_mm: Spacing) -> Grid:
    """The smallest grid of a spacing that covers a field of view in all slices of a source of this shape.

    Raises
    ------
    ValueError
        A side would have more than 2048 voxels.
    """
    extents = (shape[0], view.height, view.width)
    centres = ((shape[0] - 1) / 2, view.row, view.column)
    axes = []
    for length, source_mm, extent, centre, wanted_mm in zip(
        shape, source_spacing_mm, extents, centres, spacing_mm, strict=True
    ):
        count = max(1, int(np.ceil(extent * source_mm / wanted_mm - 1e-6)))  # no voxel more for a rounding error
        if count > LARGEST_SIDE:
            raise ValueError(f"{count} voxels of {wanted_mm} mm on a side, at most {LARGEST_SIDE}")
        axes.append(Axis(count, wanted_mm, length, source_mm, centre))
    return Grid((axes[0], axes[1], axes[2]), view)


def to_volume_space(
    hu: np.ndarray, view: FieldOfView, source_spacing_mm: Spacing, spacing_mm: Spacing
) -> tuple[np.ndarray, Grid]:
    """Resample a field of view to the spacing of a network of volumes.

    Parameters
    ----------
    hu : (slices, rows, columns) number
    view : FieldOfView
    source_spacing_mm, spacing_mm : (float, float, float)
        Between slices, rows and columns of `hu`, and of what is wanted, e.g. (2.70, 1.58, 1.58).

    Returns
    -------
    ((slices, rows, columns) float32, Grid)
        HU; air beyond the source's rows and columns, the first and last slice repeated beyond its slices.
    """
    grid = plan_grid((hu.shape[0], hu.shape[1], hu.shape[2]), view, source_spacing_mm, spacing_mm)
    slices, rows, columns = (_to_weights(axis) for axis in grid.axes)
    flat = np.empty((len(hu), *grid.shape[1:]), np.float32)
    for index, one in enumerate(hu):  # a slice at a time: the source is never held twice
        flat[index] = rows @ (one.astype(np.float32) - AIR_HU) @ columns.T + AIR_HU
    slices /= slices.sum(1, keepdims=True)
    return np.tensordot(slices, flat, 1), grid


def from_volume_space(probability: np.ndarray, grid: Grid, size: int) -> np.ndarray:
    """Bring a network's answer from its volume to slices of the field of view, as `to_model_space` cuts them.

    Parameters
    ----------
    probability : (slices, rows, columns) number
        On `grid`.
    size : int
        Side of the slices that come back.

    Returns
    -------
    (slices, size, size) float32
        One for each slice of the source.
    """
    along, down, across = grid.axes
    rows = _from_weights(down, _pixel_centres(grid.view.row, grid.view.height, size), grid.view.height / size)
    columns = _from_weights(across, _pixel_centres(grid.view.column, grid.view.width, size), grid.view.width / size)
    slices = _from_weights(along, np.arange(along.source_count, dtype=float), 1.0)
    out = np.empty((along.source_count, size, size), np.float32)
    volume = np.asarray(probability, np.float32)
    for index, weights in enumerate(slices):
        used = np.flatnonzero(weights)
        out[index] = rows @ np.tensordot(weights[used], volume[used], 1) @ columns.T
    return out


def _pixel_centres(centre: float, extent: float, size: int) -> np.ndarray:
    """Where on the source's axis the pixels of a slice in model space lie."""
    # to_model_space cuts whole pixels: the square that it cuts is a rounded one
    count = max(1, round(extent))
    first = round(centre - (count - 1) / 2)
    return first - 0.5 + (np.arange(size) + 0.5) * count / size


def _to_weights(axis: Axis) -> np.ndarray:
    """(count, source_count): how much of each source voxel goes into each voxel; rows sum to less beyond the source."""
    reach = max(1.0, axis.spacing_mm / axis.source_spacing_mm)
    centres = axis.source_index(np.arange(axis.count, dtype=float))
    return _triangles(centres, axis.source_count, reach, keep_sum=False)


def _from_weights(axis: Axis, source_centres: np.ndarray, step: float) -> np.ndarray:
    """(points, count): how much of each voxel goes into each point of the source; every row sums to 1."""
    reach = max(1.0, step * axis.source_spacing_mm / axis.spacing_mm)
    return _triangles(axis.index(source_centres), axis.count, reach, keep_sum=True)


def _triangles(centres: np.ndarray, count: int, reach: float, keep_sum: bool) -> np.ndarray:
    """(points, count) float32: a triangle of half width `reach` around each centre, sampled on 0..count - 1.

    What reaches beyond the ends is lost, or with `keep_sum` given to what lies within.
    """
    if keep_sum:
        centres = np.clip(centres, 0, count - 1)
    first, last = int(np.floor(min(0.0, centres.min() - reach))), int(np.ceil(max(count, centres.max() + reach)))
    around = np.maximum(0, 1 - np.abs(np.arange(first, last + 1) - centres[:, None]) / reach)
    around /= around.sum(1, keepdims=True)
    weights = around[:, -first : count - first]
    if keep_sum:
        weights = weights / weights.sum(1, keepdims=True)
    return np.ascontiguousarray(weights, np.float32)
