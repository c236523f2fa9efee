"""Stored pixels to Hounsfield units: decoding, rescale, padding."""

from __future__ import annotations

import numpy as np
import pydicom
from pydicom.pixels import pixel_array

from covct.volume import AIR_HU


def hounsfield(
    dataset: pydicom.Dataset, frame: int | None = None, rescale: tuple[float, float] | None = None
) -> np.ndarray:
    """One slice in HU.

    Parameters
    ----------
    dataset : pydicom.Dataset
        With Pixel Data.
    frame : int, optional
        Frame number, from 1, of a multi-frame instance.
    rescale : (float, float), optional
        Slope and intercept; default those of the dataset's top level, else 1 and 0.

    Returns
    -------
    (rows, columns)
        int16 for a whole-numbered rescale, else float32. Padding becomes air.

    Raises
    ------
    Exception
        Of any kind: decoders raise whatever damaged pixels make them raise.
    """
    stored = pixel_array(dataset) if frame is None else pixel_array(dataset, index=frame - 1)
    if stored.ndim != 2:
        raise ValueError(f"{stored.ndim} dimensions, wanted rows and columns")
    slope, intercept = rescale or _rescale(dataset)
    if slope == 1 and intercept.is_integer():
        hu = stored.astype(np.int32) + int(intercept)
    else:
        hu = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    padding = dataset.get("PixelPaddingValue")
    if padding is not None:
        hu[stored == _as_stored(padding, stored.dtype)] = AIR_HU
    if np.issubdtype(hu.dtype, np.floating) and slope.is_integer() and intercept.is_integer():
        hu = hu.astype(np.int32)
    if np.issubdtype(hu.dtype, np.integer):
        return np.clip(hu, AIR_HU, 32767).astype(np.int16)
    return np.maximum(hu, AIR_HU)


def _rescale(dataset: pydicom.Dataset) -> tuple[float, float]:
    return float(dataset.get("RescaleSlope") or 1), float(dataset.get("RescaleIntercept") or 0)


def _as_stored(value: int, dtype: np.dtype) -> int:
    """PixelPaddingValue is signed or not as the header's writer took it; bring it to the stored type."""
    bits = dtype.itemsize * 8
    value %= 1 << bits
    return value - (1 << bits) if dtype.kind == "i" and value >= 1 << (bits - 1) else value
