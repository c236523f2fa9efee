"""A volume in HU as a CT series: CT Image Storage (PS3.3 A.3), one file per slice."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pydicom.valuerep import DSfloat

from covct import __version__
from covct.dicom.evidence import MANUFACTURER
from covct.voxels.volume import PADDING_HU

STORED = np.iinfo(np.uint16)
LOWEST_HU, HIGHEST_HU = np.iinfo(np.int16).min, np.iinfo(np.int16).max
STEPS_HU = tuple(2.0**-k for k in range(7))  # whole HU to 1/64: half of that is less than 0.01


@dataclass(frozen=True)
class Storage:
    """How HU are stored in 16 bits without sign: HU = stored * slope + intercept.

    Attributes
    ----------
    slope : float
        A power of two, which decimal strings and float32 both hold exactly.
    intercept : int
    rounded : bool
        Values lie between two steps; the error is up to half a step.
    clipped : int
        Voxels beyond -32768..32767 HU, which are stored as the nearest of these.
    """

    slope: float = 1.0
    intercept: int = PADDING_HU
    rounded: bool = False
    clipped: int = 0

    def encode(self, hu: np.ndarray) -> np.ndarray:
        """(rows, columns) HU to uint16."""
        if np.issubdtype(hu.dtype, np.integer):
            stored = hu.astype(np.int32) - self.intercept
        else:
            stored = np.rint((np.clip(hu.astype(np.float64), LOWEST_HU, HIGHEST_HU) - self.intercept) / self.slope)
        return np.clip(stored, STORED.min, STORED.max).astype("<u2")


def storage_for(hu: np.ndarray) -> Storage:
    """Without loss where 16 bits allow it, else in the finest steps that do. hu (slices, rows, columns)."""
    low, high = (float(np.clip(value, LOWEST_HU, HIGHEST_HU)) for value in (hu.min(), hu.max()))
    if np.issubdtype(hu.dtype, np.integer):
        return Storage(intercept=min(PADDING_HU, int(low)))
    clipped = sum(np.count_nonzero((one < LOWEST_HU) | (one > HIGHEST_HU)) for one in hu)
    intercept = int(np.floor(low))
    fitting = [step for step in STEPS_HU if (high - intercept) / step <= STORED.max]
    exact = [step for step in fitting if all(_multiples(one, step) for one in hu)]
    step = exact[0] if exact else fitting[-1]
    return Storage(step, intercept, rounded=not exact, clipped=int(clipped))


def _multiples(hu: np.ndarray, step: float) -> bool:
    steps = np.clip(hu.astype(np.float64), LOWEST_HU, HIGHEST_HU) / step
    return bool(np.array_equal(steps, np.rint(steps)))


def write_ct_series(
    folder: Path,
    array: np.ndarray,
    affine: np.ndarray,
    common: pydicom.Dataset,
    instance_uid: Callable[[int], str],
    storage: Storage,
) -> list[Path]:
    """Write one file per slice, named by instance number.

    Parameters
    ----------
    folder : Path
        Made if absent.
    array : (slices, rows, columns)
        HU.
    affine : (4, 4)
        Slice, row and column index to LPS mm. Rows and columns are perpendicular; the slices need not be stacked along
        their normal, since each has a position of its own (a tilted gantry).
    common : pydicom.Dataset
        What all slices share and is not of their pixels: patient, study, series, UIDs, Image Type, Manufacturer Model
        Name.
    instance_uid : function (int) -> str
        SOP Instance UID by instance number.

    Returns
    -------
    list of Path
        In order of instance number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shared = _shared(common, array.shape[1:], affine, storage)
    paths = []
    for index, hu in enumerate(array):
        dataset = copy.copy(shared)
        dataset.InstanceNumber = index + 1
        dataset.SOPInstanceUID = instance_uid(index + 1)
        dataset.ImagePositionPatient = [_decimal(mm) for mm in affine[:3, 3] + index * affine[:3, 0]]
        dataset.PixelData = storage.encode(hu).tobytes()
        dataset["PixelData"].VR = "OW"
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        path = folder / f"{index + 1:04d}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _shared(common: pydicom.Dataset, shape: tuple[int, ...], affine: np.ndarray, storage: Storage) -> pydicom.Dataset:
    """Everything but what makes one slice another than the next."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    row, column = affine[:3, 2] / spacing[2], affine[:3, 1] / spacing[1]
    normal = np.cross(row, column)
    dataset = copy.copy(common)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = CTImageStorage
    dataset.Modality = "CT"
    dataset.Manufacturer = MANUFACTURER
    dataset.SoftwareVersions = __version__
    dataset.PositionReferenceIndicator = ""
    dataset.SliceThickness = _decimal(abs(float(affine[:3, 0] @ normal)))  # of voxels that leave no gap
    dataset.ImageOrientationPatient = [_decimal(cosine) for cosine in (*row, *column)]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = shape
    dataset.PixelSpacing = [_decimal(mm) for mm in spacing[1:]]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = 0
    dataset.WindowCenter, dataset.WindowWidth = "-500", "1500"
    dataset.RescaleIntercept, dataset.RescaleSlope = str(storage.intercept), f"{storage.slope:g}"
    dataset.RescaleType = "HU"
    return dataset


def _decimal(value: float) -> DSfloat:
    """A decimal string of at most 16 characters; values within a nanometre of a whole number become it."""
    rounded = round(float(value), 9)
    return DSfloat(rounded + 0.0, auto_format=True)
