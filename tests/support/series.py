"""A folder of CT slices, changed in place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.uid import generate_uid


def change(folder, **attributes):
    """Set attributes in every file of a folder; a function is given the file's index."""
    for index, path in enumerate(sorted(folder.iterdir())):
        dataset = pydicom.dcmread(path)
        for name, value in attributes.items():
            setattr(dataset, name, value(index) if callable(value) else value)
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.save_as(path)


def each_slice(folder: Path) -> Iterator[pydicom.Dataset]:
    """Every file's data set in order of its name, saved again when the loop comes round to the next."""
    for path in sorted(folder.iterdir()):
        dataset = pydicom.dcmread(path)
        yield dataset
        with pydicom.config.disable_value_validation():
            dataset.save_as(path)


def named(dataset: pydicom.Dataset, *identity: Any) -> pydicom.Dataset:
    """Give a data set an instance UID of its own."""
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[dataset.SOPInstanceUID, *map(str, identity)])
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def anew(folder: Path, series_uid: str | None = None) -> Path:
    """Make every slice of a folder an instance of its own, of another series if one is given."""
    for dataset in each_slice(folder):
        named(dataset, folder.name)
        if series_uid:
            dataset.SeriesInstanceUID = series_uid
    return folder


def put_hu(dataset: pydicom.Dataset, hu: np.ndarray) -> None:
    """Replace a slice's pixels, stored without sign and with an intercept of -1024."""
    dataset.Rows, dataset.Columns = hu.shape
    dataset.PixelData = np.clip(np.rint(hu) + 1024, 0, 65535).astype("<u2").tobytes()


def hu_of(dataset: pydicom.Dataset) -> np.ndarray:
    return dataset.pixel_array.astype(int) - 1024


def tilt(folder, degrees):
    """Move each slice sideways as a tilted gantry does."""

    def sheared(index):
        dataset = pydicom.dcmread(sorted(folder.iterdir())[index])
        x, y, z = dataset.ImagePositionPatient
        return [float(x), round(float(y) + np.tan(np.radians(degrees)) * float(z), 4), float(z)]

    change(folder, ImagePositionPatient=sheared)
