"""DICOM series to a Scan: decoded slices in Hounsfield units, sorted along the normal."""

from __future__ import annotations

from io import BytesIO

import highdicom as hd
import numpy as np
import pydicom
from pydicom.uid import UID

from covct.dicom.pixels import hounsfield
from covct.discover import Series
from covct.errors import SeriesError
from covct.sources import read_all
from covct.volume import Scan


def load_dicom(series: Series) -> Scan:
    """Read every slice of a series that passed the gate.

    Raises
    ------
    SeriesError
        `unreadable`, naming the file that is truncated or cannot be decoded: a slice is never silently dropped.
    """
    orientation = np.array(series.instances[0].orientation)
    row, column = orientation[:3], orientation[3:]
    normal = np.cross(row, column)
    ordered = sorted(series.instances, key=lambda i: (float(np.array(i.position) @ normal), i.sop_instance_uid))
    array: np.ndarray | None = None
    headers: list[pydicom.Dataset] = []
    for index, (file, contents) in enumerate(read_all(i.file for i in ordered)):
        try:
            dataset = pydicom.dcmread(BytesIO(contents), force=True)
            hu = hounsfield(dataset)
        except Exception as error:  # decoders raise all kinds of errors on damaged pixels
            raise SeriesError(
                "unreadable", f"{file.name} cannot be decoded ({_first_line(error)}); wanted a whole slice"
            ) from error
        uid = dataset.get("SOPInstanceUID") or dataset.file_meta.MediaStorageSOPInstanceUID
        if uid != ordered[index].sop_instance_uid:
            raise SeriesError("unreadable", f"{file.name} changed while it was read")
        if array is None:
            array = np.empty((len(ordered), *hu.shape), np.int16)
        if hu.shape != array.shape[1:]:
            raise SeriesError("unreadable", f"{file.name} has {hu.shape} pixels, its header said {array.shape[1:]}")
        if hu.dtype != array.dtype and array.dtype != np.float32:
            array = array.astype(np.float32)
        array[index] = hu
        del dataset.PixelData
        headers.append(dataset)
    assert array is not None
    spacing, origin = ordered[0].pixel_spacing, ordered[0].position
    assert spacing and origin  # the gate has seen to it
    affine = np.eye(4)
    affine[:3, 0] = _slice_vector(ordered, normal)
    affine[:3, 1] = column * spacing[0]  # moving down the rows follows the column cosines
    affine[:3, 2] = row * spacing[1]
    affine[:3, 3] = origin
    volume = hd.Volume(array, affine, "PATIENT", frame_of_reference_uid=ordered[0].frame_of_reference_uid)
    syntaxes = sorted({UID(i.transfer_syntax_uid).name for i in ordered if i.transfer_syntax_uid})
    return Scan(volume, tuple(headers), tuple(syntaxes))


def _slice_vector(ordered, normal: np.ndarray) -> np.ndarray:
    """From one slice to the next. Along the normal exactly: the gate has bounded the tilt."""
    if len(ordered) == 1:
        return normal * (ordered[0].thickness or 1.0)
    first, last = np.array(ordered[0].position), np.array(ordered[-1].position)
    return normal * float((last - first) @ normal) / (len(ordered) - 1)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
