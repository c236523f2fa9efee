"""One DICOM file of a result, read back whole: every element as long as it says, every frame decoded."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.pixels import iter_pixels
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import EncapsulatedPDFStorage, SegmentationStorage

from covct.dicom.evidence import LABEL_MAP_STORAGE

UNDEFINED_LENGTH = 0xFFFFFFFF
SEGMENTATIONS = (SegmentationStorage, LABEL_MAP_STORAGE)


class Damage(Exception):
    """What is wrong with a file that is not worth looking at any further."""

    def __init__(self, slug: str, message: str):
        super().__init__(message)
        self.slug = slug


def read_whole(path: Path) -> pydicom.Dataset:
    """Every element of a file, each as long as it says: pydicom by itself takes a file that is cut short."""
    dataset = quietly(pydicom.dcmread, path)
    _check_lengths(dataset)
    quietly(list, dataset.iterall())  # values are parsed on access
    missing = [k for k in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", _content(dataset)) if k not in dataset]
    if missing:
        raise Damage("unreadable-dicom", f"it has no {', '.join(missing)}: cut short?")
    if dataset.file_meta.get("MediaStorageSOPInstanceUID") != dataset.SOPInstanceUID:
        raise Damage("unreadable-dicom", "its file meta information names another SOP Instance UID")
    return dataset


def _content(dataset: pydicom.Dataset) -> str:
    """The attribute that comes last and that an object of its kind is for."""
    if dataset.get("SOPClassUID") == EncapsulatedPDFStorage:
        return "EncapsulatedDocument"
    return "ContentSequence" if dataset.get("Modality") in ("SR", "KO") else "PixelData"


def _check_lengths(dataset: pydicom.Dataset) -> None:
    for tag in dataset.keys():  # noqa: SIM118 - iterating a Dataset parses the elements
        element = dataset.get_item(tag)
        if isinstance(element, RawDataElement):
            if element.value is not None and element.length not in (UNDEFINED_LENGTH, len(element.value)):
                raise Damage("unreadable-dicom", f"it is cut short within {tag}")
        elif element.VR == "SQ":
            for item in element.value:
                _check_lengths(item)


def quietly(read: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Run without warnings, which quote values; what tells of a file that ends too early is damage all the same."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        result = read(*arguments, **options)
    for warning in told:
        if "end of file" in str(warning.message).lower():
            raise Damage("unreadable-dicom", "it is cut short")
    return result


def check_pixels(dataset: pydicom.Dataset) -> dict[int, int]:
    """Decode every frame, one at a time, and drop the pixels.

    Returns
    -------
    dict of int to int
        SEG but not a fractional one: voxels by segment number.
    """
    if "PixelData" not in dataset:
        return {}
    counts: Counter[int] = Counter()
    try:
        frames = int(dataset.get("NumberOfFrames") or 1)
        segments = segment_numbers(dataset) if is_seg(dataset) and dataset.SegmentationType == "BINARY" else []
        if segments and len(segments) != frames:
            raise Damage("bad-pixels", f"{frames} frames, and functional groups for {len(segments)}")
        decoded = 0
        for index, frame in enumerate(_frames(dataset, frames)):
            decoded += 1
            if segments:
                counts[segments[index]] += int(np.count_nonzero(frame))
            elif is_seg(dataset) and dataset.SegmentationType == "LABELMAP":
                counts.update(dict(enumerate(np.bincount(frame.ravel()).tolist())))
    except Damage:
        raise
    except Exception as error:
        raise Damage("bad-pixels", f"they cannot be decoded ({type(error).__name__})") from error
    if decoded != frames:
        raise Damage("bad-pixels", f"{decoded} frames, wanted {frames}")
    del dataset.PixelData
    return dict(counts)


def _frames(dataset: pydicom.Dataset, frames: int) -> Iterator[np.ndarray]:
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        yield from iter_pixels(dataset, raw=True)
        return
    contents = np.frombuffer(dataset.PixelData, np.uint8)
    wanted = get_expected_length(dataset)
    if len(contents) not in (wanted, wanted + wanted % 2):
        raise Damage("bad-pixels", f"{len(contents)} bytes, wanted {wanted}")
    bits = int(dataset.Rows) * int(dataset.Columns) * int(dataset.get("SamplesPerPixel") or 1) * dataset.BitsAllocated
    for index in range(frames):
        first, stop = index * bits, (index + 1) * bits
        if dataset.BitsAllocated == 1:  # frames follow one another without padding (PS3.5 8.1.1)
            unpacked = np.unpackbits(contents[first // 8 : math.ceil(stop / 8)], bitorder="little")
            yield unpacked[first % 8 : first % 8 + bits]
        else:
            yield contents[first // 8 : stop // 8].view(f"<u{dataset.BitsAllocated // 8}")


def is_seg(dataset: pydicom.Dataset) -> bool:
    return dataset.SOPClassUID in SEGMENTATIONS


def segment_numbers(dataset: pydicom.Dataset) -> list[int]:
    groups = dataset.PerFrameFunctionalGroupsSequence
    return [int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber) for group in groups]
