"""The voxel type: a highdicom Volume in Hounsfield units, with what is needed to point back at its source.

Conventions, stated once: arrays are (slices, rows, columns); positions are LPS millimetres; the working orientation
is "FPL": slices run head to feet, rows front to back, columns from the patient's right to left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import highdicom as hd
import numpy as np
import pydicom

from covct.voxels.labels import Labels, Slices
from covct.voxels.preprocess import FieldOfView, from_model_space

WORKING_ORIENTATION = "FPL"
LARGEST_OFFSET = 0.5  # of a voxel: a scan and a mask that lie further apart lie on two grids
PADDING_HU = -1024
BLOCK_BYTES = 64 * 1024**2  # of a mask, while it is turned to the source's orientation


@dataclass(frozen=True)
class Scan:
    """One loaded series.

    Attributes
    ----------
    volume : highdicom.Volume
        HU, int16 (float32 where a rescale slope asks for it), in the order of the source.
    headers : tuple of pydicom.Dataset
        DICOM only, without pixels: the source slices in the order of the volume's slices, or the one multi-frame
        instance that holds them all.
    transfer_syntaxes : tuple of str
    frames : tuple of int
        Multi-frame only: the frame number (from 1) of each slice of the volume.
    tilted_affine : (4, 4) float or None
        Where the gantry was tilted: slice, row and column index to LPS mm, as the slices really lie. The volume's own
        affine then is that of the same slices pushed straight along their normal, which has the same voxel volume.
    """

    volume: hd.Volume
    headers: tuple[pydicom.Dataset, ...] = ()
    transfer_syntaxes: tuple[str, ...] = field(default=())
    frames: tuple[int, ...] = ()
    tilted_affine: np.ndarray | None = None

    @property
    def affine(self) -> np.ndarray:
        """(4, 4): slice, row and column index of the source to LPS mm."""
        return self.volume.affine if self.tilted_affine is None else self.tilted_affine

    @property
    def tilt_degrees(self) -> float:
        """Angle between the way from slice to slice and the slices' normal."""
        straight, real = (a[:3, :3] / np.linalg.norm(a[:3, :3], axis=0) for a in (self.volume.affine, self.affine))
        return float(np.degrees(np.arccos(np.clip(np.sum(straight * real, axis=0), -1, 1))).max())

    @property
    def working_affine(self) -> np.ndarray:
        """(4, 4): slice, row and column index in working orientation to LPS mm."""
        affine: np.ndarray = self.affine @ np.linalg.inv(self.volume.affine) @ self.working.affine
        return affine

    def reference(self, index: int) -> tuple[str, str, int | None]:
        """SOP Class UID, SOP Instance UID and frame number (multi-frame only) of a slice of the source."""
        header = self.headers[0 if self.frames else index]
        return header.SOPClassUID, header.SOPInstanceUID, self.frames[index] if self.frames else None

    @property
    def working(self) -> hd.Volume:
        """The volume in working orientation: a view, no resampling."""
        return self.volume.to_patient_orientation(WORKING_ORIENTATION)

    def to_source(self, mask: np.ndarray) -> hd.Volume:
        """A mask (slices, rows, columns) in working orientation, back in the order of the source."""
        return self.working.with_array(mask).match_orientation(self.volume)

    def planes_of_source(
        self, slice_of: Callable[[int], np.ndarray], dtype: type = np.uint8, axis: int = 0, backwards: bool = False
    ) -> Iterator[np.ndarray]:
        """A mask plane by plane in the order of the source, in the memory of a few slices.

        Parameters
        ----------
        slice_of : function (int) -> (rows, columns)
            A slice in working orientation. Where planes cut across those slices, as with a coronal series, it is called
            for each slice again with every block of planes.
        dtype : numpy type
            Of the planes.
        axis : int
            Which axis of the source the planes follow one another on: 0 its slices, 1 its rows, 2 its columns.
        backwards : bool
            The last plane first.
        """
        working = self.working
        to_source = np.rint(np.linalg.inv(self.volume.affine)[:3, :3] @ working.affine[:3, :3]).astype(int)
        along = int(np.argmax(np.abs(to_source[axis])))
        count, shape = working.shape[along], list(working.shape)
        step = max(1, int(BLOCK_BYTES * count // (np.prod(shape, dtype=np.int64) * np.dtype(dtype).itemsize)))
        starts = range(0, count, step)
        for start in starts if (to_source[axis, along] > 0) != backwards else reversed(starts):
            cut = [slice(None)] * 3
            cut[along] = slice(start, min(start + step, count))
            part = working[tuple(cut)]
            array = np.empty(part.shape, dtype)
            for index in range(len(array)):
                whole = slice_of(index + start if along == 0 else index)
                array[index] = whole[cut[1], cut[2]]
            planes = np.moveaxis(part.with_array(array).match_orientation(self.volume).array, axis, 0)
            yield from reversed(planes) if backwards else planes


@dataclass(frozen=True)
class Probability:
    """What a network said, on its own grid: array (slices, size, size) in 0..1, and the field of view it covers."""

    array: np.ndarray
    view: FieldOfView

    def on_slice(self, index: int, shape: tuple[int, int]) -> np.ndarray:
        """(rows, columns) float32 in 0..1 on the source grid, working orientation."""
        return from_model_space(self.array[index].astype(np.float32), self.view, shape)


@dataclass(frozen=True)
class Masks:
    """What was found; on the source grid, in working orientation.

    Attributes
    ----------
    lungs : (slices, rows, columns) uint8, an array or a layer of packed labels
        0 background, 1 right lung, 2 left lung.
    infection : (slices, rows, columns) bool, likewise
    lung_probability, infection_probability : Probability
    lobes : Labels or None
        (slices, rows, columns) uint8, likewise, numbered as `terms.LOBES`; None where they were not asked for.
    """

    lungs: Slices
    infection: Slices
    lung_probability: Probability
    infection_probability: Probability
    lobes: Labels | None = None


def voxel_volume_mm3(volume: hd.Volume) -> float:
    return float(np.prod(volume.spacing))


def voxels_apart(grid: hd.Volume, other: hd.Volume) -> float:
    """How far the corners of two grids of one shape lie apart at most, in voxels of the first."""
    ends = [0, 1]
    corners = np.array([[i, j, k] for i in ends for j in ends for k in ends]) * (np.array(grid.spatial_shape) - 1)
    corners = np.c_[corners, np.ones(len(corners))].T
    return float(np.abs((np.linalg.inv(grid.affine) @ other.affine @ corners - corners)[:3]).max())


def spacing_mm(volume: hd.Volume) -> tuple[float, float, float]:
    """Distance between slices, rows and columns, mm."""
    slices, rows, columns = (float(v) for v in volume.spacing)
    return slices, rows, columns
