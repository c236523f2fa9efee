"""NIfTI files to and from volumes. The only module that knows NIfTI's RAS millimetres; everything else is LPS."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import highdicom as hd
import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError

from covct.discover import Series
from covct.errors import SeriesError
from covct.sources import read_all
from covct.volume import Scan


def load_nifti(series: Series) -> Scan:
    """The series' one file as a Scan; also from inside a zip archive."""
    assert series.path is not None
    if not series.path.member:
        return Scan(read_nifti(series.path.path))
    [(file, contents)] = read_all([series.path])
    try:
        image = nibabel.Nifti1Image.from_bytes(gzip.decompress(contents) if file.name.endswith(".gz") else contents)
    except (OSError, EOFError, zlib.error, ImageFileError, ValueError) as error:
        raise SeriesError("unreadable", f"the NIfTI cannot be read: {error}") from error
    return Scan(_to_volume(image))


def read_nifti(path: Path) -> hd.Volume:
    """Read a 3D NIfTI as a volume in LPS millimetres, in the file's own axis order.

    Returns
    -------
    highdicom.Volume
        (i, j, k) of the file; int16 where the stored values are whole numbers in that range, else float32.

    Raises
    ------
    SeriesError
        `unreadable` for a truncated or foreign file, `not-3d` for more than one volume, `no-geometry` where the
        file says nothing of how the patient lies.
    """
    try:
        image = nibabel.load(path)
    except (OSError, EOFError, zlib.error, ImageFileError, ValueError) as error:
        raise SeriesError("unreadable", f"the NIfTI cannot be read: {error}") from error
    return _to_volume(image)


def _to_volume(image) -> hd.Volume:
    try:
        if len(image.shape) > 3 and all(extent == 1 for extent in image.shape[3:]):
            image = image.slicer[(slice(None),) * 3 + (0,) * (len(image.shape) - 3)]
        if len(image.shape) != 3:
            raise SeriesError("not-3d", f"the NIfTI has shape {image.shape}; one 3D volume is wanted")
        if not (image.header["sform_code"] or image.header["qform_code"]):
            raise SeriesError("no-geometry", "the NIfTI has neither sform nor qform: left and right are unknown")
        array = np.asanyarray(image.dataobj)
        return hd.Volume(_compact(array), image.affine, "PATIENT", from_reference_convention="RAS")
    except (OSError, EOFError, zlib.error, ValueError) as error:  # pixels are read here, and may be cut short
        raise SeriesError("unreadable", f"the NIfTI cannot be read: {error}") from error


def write_nifti(volume: hd.Volume, path: Path) -> None:
    """Write a volume as NIfTI, its affine as both sform and qform (scanner coordinates)."""
    image = volume.to_nibabel()
    image.set_qform(image.affine, code=1)
    image.set_sform(image.affine, code=1)
    nibabel.save(image, path)


def _compact(array: np.ndarray) -> np.ndarray:
    if np.issubdtype(array.dtype, np.floating):
        array = np.nan_to_num(array.astype(np.float32, copy=False), nan=-1024.0, posinf=3071.0, neginf=-1024.0)
        if not np.all(array == np.rint(array)):
            return array
    if array.size and (array.min() < -32768 or array.max() > 32767):
        return array.astype(np.float32)
    return array.astype(np.int16)
