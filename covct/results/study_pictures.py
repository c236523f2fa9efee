"""Small pictures of a scan and of its masks, for a page that has to hold all of them.

They are for looking: grey in steps of some HU, compressed with loss, and of fewer pixels where a scan has many slices.
Figures come from the masks, never from these.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from covct.voxels.labels import INFECTED, Slices

LOWEST_HU, HU_A_GREY = -1024, 6  # 256 greys reach up to 506 HU: what the lung and the mediastinal window show
BYTES_MOST = 10_500_000  # of all slices together; in base64, with masks and figures, a page of 15 MB
QUALITIES = (80, 65, 50)  # of JPEG, the better ones first
SCALES = (1.0, 0.75, 0.5, 0.375, 0.25)
TRIED = 8  # slices that are encoded to learn what all would take


@dataclass(frozen=True)
class Encoding:
    """How slices become pictures.

    Attributes
    ----------
    rows, columns : int
        Of a picture.
    quality : int
        Of JPEG, to 100.
    """

    rows: int
    columns: int
    quality: int


@dataclass(frozen=True)
class Picture:
    """One slice.

    Attributes
    ----------
    grey : bytes
        JPEG, 8 bits: HU = LOWEST_HU + HU_A_GREY * grey.
    marks : bytes
        PNG, 8 bits: 1 right lung, 2 left lung, 4 added where infected. Empty where nothing is marked.
    lung, infected : int
        Voxels of the source's slice.
    """

    grey: bytes
    marks: bytes
    lung: int
    infected: int


def fitting(hu: np.ndarray) -> Encoding:
    """The encoding that shows most of a scan within BYTES_MOST.

    Parameters
    ----------
    hu : (slices, rows, columns) number
    """
    slices, rows, columns = hu.shape
    tried = hu[np.unique(np.linspace(0, slices - 1, TRIED).round().astype(int))]
    for scale in SCALES:
        for quality in QUALITIES:
            encoding = Encoding(max(1, round(rows * scale)), max(1, round(columns * scale)), quality)
            if sum(len(_grey(one, encoding)) for one in tried) / len(tried) * slices <= BYTES_MOST:
                return encoding
    # thousands of slices, or enormous ones: as many pixels as fit if each takes a fifth of a byte
    scale = min(SCALES[-1], math.sqrt(5 * BYTES_MOST / hu.size))
    return Encoding(max(1, int(rows * scale)), max(1, int(columns * scale)), QUALITIES[-1])


def pictures(hu: np.ndarray, lungs: Slices, infection: Slices, encoding: Encoding) -> Iterator[Picture]:
    """Slice by slice, in the order of the array.

    Parameters
    ----------
    hu : (slices, rows, columns) number
    lungs : (slices, rows, columns) uint8
        0 background, 1 right lung, 2 left lung.
    infection : (slices, rows, columns) bool
    """
    for one, in_lung, in_infection in zip(hu, lungs, infection, strict=True):
        marked = in_lung + np.uint8(INFECTED) * in_infection.astype(np.uint8)
        lung, infected = int(np.count_nonzero(marked)), int(np.count_nonzero(in_infection))
        yield Picture(_grey(one, encoding), _marks(marked, encoding) if lung else b"", lung, infected)


def _grey(hu: np.ndarray, encoding: Encoding) -> bytes:
    grey = np.clip((hu.astype(np.float32) - LOWEST_HU) / HU_A_GREY + 0.5, 0, 255).astype(np.uint8)
    return _encoded(".jpg", _sized(grey, encoding, cv2.INTER_AREA), cv2.IMWRITE_JPEG_QUALITY, encoding.quality)


def _marks(marked: np.ndarray, encoding: Encoding) -> bytes:
    return _encoded(".png", _sized(marked, encoding, cv2.INTER_NEAREST), cv2.IMWRITE_PNG_COMPRESSION, 6)


def _sized(plane: np.ndarray, encoding: Encoding, interpolation: int) -> np.ndarray:
    if plane.shape == (encoding.rows, encoding.columns):
        return plane
    smaller: np.ndarray = cv2.resize(plane, (encoding.columns, encoding.rows), interpolation=interpolation)
    return smaller


def _encoded(suffix: str, plane: np.ndarray, *options: int) -> bytes:
    return bytes(cv2.imencode(suffix, plane, list(options))[1])
