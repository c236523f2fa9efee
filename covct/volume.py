"""The voxel type: a highdicom Volume in Hounsfield units, with what is needed to point back at its source.

Conventions, stated once: arrays are (slices, rows, columns); positions are LPS millimetres; the working orientation
is "FPL": slices run head to feet, rows front to back, columns from the patient's right to left.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import highdicom as hd
import numpy as np
import pydicom

WORKING_ORIENTATION = "FPL"
AIR_HU = -1024


@dataclass(frozen=True)
class Scan:
    """One loaded series.

    Attributes
    ----------
    volume : highdicom.Volume
        HU, int16 (float32 where a rescale slope asks for it), in the order of the source.
    headers : tuple of pydicom.Dataset
        DICOM only: the source slices without pixels, in the order of the volume's slices.
    transfer_syntaxes : tuple of str
    """

    volume: hd.Volume
    headers: tuple[pydicom.Dataset, ...] = ()
    transfer_syntaxes: tuple[str, ...] = field(default=())

    @property
    def working(self) -> hd.Volume:
        """The volume in working orientation: a view, no resampling."""
        return self.volume.to_patient_orientation(WORKING_ORIENTATION)

    def to_source(self, mask: np.ndarray) -> hd.Volume:
        """A mask (slices, rows, columns) in working orientation, back in the order of the source."""
        return self.working.with_array(mask).match_orientation(self.volume)


def voxel_volume_mm3(volume: hd.Volume) -> float:
    return float(np.prod(volume.spacing))


def spacing_mm(volume: hd.Volume) -> tuple[float, float, float]:
    """Distance between slices, rows and columns, mm."""
    slices, rows, columns = (float(v) for v in volume.spacing)
    return slices, rows, columns
