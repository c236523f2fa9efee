"""Whether a mask lies on the voxels of its scan, and how it is brought there where somebody asks for it."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
import SimpleITK as sitk

from covct.errors import UsageError
from covct.voxels.volume import LARGEST_OFFSET, voxels_apart


def difference(mask: hd.Volume, grid: hd.Volume) -> str:
    """What was got and what wanted, where two grids in one orientation are not the same; else empty."""
    if mask.spatial_shape != grid.spatial_shape:
        return f"the mask has {_shape(mask)} voxels, wanted {_shape(grid)} as its scan has"
    apart = voxels_apart(grid, mask)
    if apart > LARGEST_OFFSET:
        return f"the mask lies up to {apart:.1f} voxels beside its scan; wanted one grid"
    return ""


def _shape(volume: hd.Volume) -> str:
    return " x ".join(str(extent) for extent in volume.spatial_shape)


def on_grid(mask: hd.Volume, path: Path, grid: hd.Volume, resample: bool = False) -> np.ndarray:
    """A mask on the grid of its scan, (slices, rows, columns) bool in working orientation.

    Parameters
    ----------
    mask, grid : highdicom.Volume
        Both in working orientation.
    resample : bool
        A mask of another grid is brought to this one (nearest neighbour) instead of being refused.

    Raises
    ------
    UsageError
        Another grid, and `resample` is false.
    """
    if apart := difference(mask, grid):
        if not resample:
            raise UsageError(f"{path}: {apart} (--resample brings it to that grid)")
        return _resampled(mask, grid)
    marked: np.ndarray = mask.array
    return marked


def _resampled(mask: hd.Volume, grid: hd.Volume) -> np.ndarray:
    image = mask.with_array(mask.array.astype(np.uint8)).to_simpleitk()
    reference = grid.with_array(np.zeros(grid.spatial_shape, np.uint8)).to_simpleitk()
    resampled = sitk.Resample(image, reference, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    out = hd.Volume.from_simpleitk(resampled, "PATIENT").match_orientation(grid)
    near: np.ndarray = out.array > 0
    return near
