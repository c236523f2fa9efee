"""Slices of DICOM files by pydicom: where each lies, and its Hounsfield units."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.encaps import get_frame
from pydicom.pixels import pixel_array
from pydicom.tag import Tag
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

AIR_HU = -1024  # the least value, and that of padding
HIGHEST_HU = 32767
JPEG_LS = {JPEGLSLossless, JPEGLSNearLossless}
JPEG_2000 = {JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K}


@dataclass(frozen=True)
class Plane:
    """One slice.

    Attributes
    ----------
    uid : str
        SOP Instance UID.
    frame : int or None
        Of a multi-frame instance, from 1.
    position, row, column : (3,) float
        LPS mm of the first pixel's centre; unit vectors along a row and down a column.
    spacing : (float, float)
        Between rows, between columns, mm.
    shape : (int, int)
        Rows, columns.
    stack : str
        Stack ID of a frame; empty where there is none.
    """

    uid: str
    frame: int | None
    position: np.ndarray
    row: np.ndarray
    column: np.ndarray
    spacing: tuple[float, float]
    shape: tuple[int, int]
    stack: str = ""


def parsed(contents: bytes) -> pydicom.Dataset:
    """A DICOM file as pydicom reads it."""
    return pydicom.dcmread(BytesIO(contents), force=True)


def planes_of(dataset: pydicom.Dataset) -> list[Plane]:
    """The slices of an instance: one, or one a frame.

    Raises
    ------
    Exception
        Of any kind, where an attribute is missing or no number.
    """
    frames = range(1, len(dataset.get("PerFrameFunctionalGroupsSequence") or []) + 1)
    return [_plane(dataset, frame) for frame in frames or [None]]


def _plane(dataset: pydicom.Dataset, frame: int | None) -> Plane:
    position = numbers(_group(dataset, frame, "PlanePositionSequence"), "ImagePositionPatient")
    cosines = numbers(_group(dataset, frame, "PlaneOrientationSequence"), "ImageOrientationPatient")
    row, column = np.reshape(cosines, (2, 3))
    between_rows, between_columns = numbers(_group(dataset, frame, "PixelMeasuresSequence"), "PixelSpacing")
    return Plane(
        str(dataset.SOPInstanceUID),
        frame,
        np.array(position),
        row / np.linalg.norm(row),
        column / np.linalg.norm(column),
        (between_rows, between_columns),
        (int(dataset.Rows), int(dataset.Columns)),
        str(_group(dataset, frame, "FrameContentSequence").get("StackID") or ""),
    )


def _group(dataset: pydicom.Dataset, frame: int | None, sequence: str) -> pydicom.Dataset:
    """Where an attribute of a slice stands: in its frame's groups, in those of all frames, else at the top."""
    if frame is None:
        return dataset
    per_frame = dataset.PerFrameFunctionalGroupsSequence[frame - 1]
    for groups in (per_frame, *(dataset.get("SharedFunctionalGroupsSequence") or [])):
        if items := groups.get(sequence):
            return items[0]
    return dataset


def numbers(dataset: pydicom.Dataset, keyword: str) -> list[float]:
    """The numbers of an attribute, as text too: a decimal comma stands for a point."""
    element: Any = dataset.get_item(Tag(keyword))
    value = element.value if isinstance(element, RawDataElement) else dataset.get(keyword)
    if isinstance(value, bytes):
        value = value.decode("ascii").rstrip(" \0")
    parts = value.split("\\") if isinstance(value, str) else [value] if np.isscalar(value) else value
    return [float(str(part).strip().replace(",", ".")) for part in parts]


def hounsfield(dataset: pydicom.Dataset, frame: int | None = None) -> np.ndarray:
    """A slice in HU, (rows, columns) float32: padding is air, and nothing lies outside -1024 to 32767.

    Raises
    ------
    Exception
        Of any kind: decoders raise whatever damaged pixels make them raise.
    """
    allocated = int(dataset.BitsAllocated)
    bits = int(dataset.get("BitsStored") or allocated)
    signed = bool(dataset.get("PixelRepresentation") or 0)
    patterns = _patterns(dataset, (frame or 1) - 1)
    stored = _integers(patterns, bits, signed)
    group = _group(dataset, frame, "PixelValueTransformationSequence")
    slope, intercept = _number(group, "RescaleSlope", 1), _number(group, "RescaleIntercept", 0)
    hu = stored * slope + intercept
    if (padding := dataset.get("PixelPaddingValue")) not in (None, ""):
        limit = dataset.get("PixelPaddingRangeLimit")
        ends = np.array([int(padding), int(padding if limit in (None, "") else limit)])
        for values, width in ((stored, bits), (_integers(patterns, allocated, signed), allocated)):
            low, high = np.sort(_integers(ends, width, signed))
            hu[(values >= low) & (values <= high)] = AIR_HU
    return np.clip(hu, AIR_HU, HIGHEST_HU).astype(np.float32)


def _number(dataset: pydicom.Dataset, keyword: str, default: float) -> float:
    return numbers(dataset, keyword)[0] if keyword in dataset and dataset.get_item(Tag(keyword)).value else default


def _integers(patterns: np.ndarray, bits: int, signed: bool) -> np.ndarray:
    """What the low bits say, two's complement where signed: bits above may hold anything."""
    low = patterns.astype(np.int64) % (1 << bits)
    return np.where(low >= 1 << (bits - 1), low - (1 << bits), low) if signed else low


def _patterns(dataset: pydicom.Dataset, index: int) -> np.ndarray:
    """The stored pixels of a frame, (rows, columns), whatever their sign."""
    syntax = UID(dataset.file_meta.get("TransferSyntaxUID") or ImplicitVRLittleEndian)
    dataset.file_meta.TransferSyntaxUID = syntax
    if not syntax.is_encapsulated or syntax == RLELossless:
        return np.asarray(pixel_array(dataset, index=index, raw=True))
    import imagecodecs

    frame = get_frame(dataset.PixelData, index, number_of_frames=int(dataset.get("NumberOfFrames") or 1))
    decode = {
        **dict.fromkeys(JPEG_LS, imagecodecs.jpegls_decode),
        **dict.fromkeys(JPEG_2000, imagecodecs.jpeg2k_decode),
    }
    found: np.ndarray = decode.get(syntax, imagecodecs.jpeg8_decode)(frame)
    return found
