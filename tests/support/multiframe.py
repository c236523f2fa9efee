"""A series of single-frame CT images as enhanced multi-frame CT (PS3.3 A.38): the other way a scanner sends a chest."""

from __future__ import annotations

import copy
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedCTImageStorage, generate_uid


def _item(**attributes) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def write_enhanced(folder: Path, path: Path, stacks: int = 1, slopes: tuple[float, ...] = (1.0,)) -> Path:
    """All slices of a folder as the frames of one file, in an order that is not that of space.

    Parameters
    ----------
    stacks : int
        The slices come so many times, each time as a stack of its own; the second is 100 HU denser.
    slopes : tuple of float
        Rescale slopes that the frames take in turn.
    """
    slices = [pydicom.dcmread(one) for one in sorted(folder.iterdir())]
    slices = slices[1::2] + slices[::2]
    first = slices[0]
    whole = copy.deepcopy(first)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "KVP",
                    "RescaleSlope", "RescaleIntercept", "RescaleType", "WindowCenter", "WindowWidth",
                    "ConvolutionKernel"):  # fmt: skip
        if keyword in whole:
            delattr(whole, keyword)
    whole.SOPClassUID = whole.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    whole.SOPInstanceUID = whole.file_meta.MediaStorageSOPInstanceUID = generate_uid(
        entropy_srcs=[str(path), str(stacks)]
    )
    whole.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    whole.NumberOfFrames = len(slices) * stacks
    shared = _item(
        PixelMeasuresSequence=[_item(PixelSpacing=first.PixelSpacing, SliceThickness=first.SliceThickness)],
        PlaneOrientationSequence=[_item(ImageOrientationPatient=first.ImageOrientationPatient)],
        CTImageFrameTypeSequence=[
            _item(FrameType=whole.ImageType, PixelPresentation="MONOCHROME", VolumetricProperties="VOLUME",
                  VolumeBasedCalculationTechnique="NONE")
        ],
        CTReconstructionSequence=[_item(ConvolutionKernel="B60f")],
    )  # fmt: skip
    whole.SharedFunctionalGroupsSequence = [shared]
    frames, pixels = [], []
    for stack in range(1, stacks + 1):
        for number, one in enumerate(slices):
            slope = slopes[number % len(slopes)]
            hu = one.pixel_array.astype(float) - 1024 + 100 * (stack - 1)
            pixels.append(np.rint((hu + 1024) / slope).astype("<u2"))
            frames.append(_item(
                PlanePositionSequence=[_item(ImagePositionPatient=one.ImagePositionPatient)],
                FrameContentSequence=[_item(
                    StackID=str(stack), InStackPositionNumber=number + 1, DimensionIndexValues=[stack, number + 1],
                    FrameAcquisitionNumber=1,
                )],
                PixelValueTransformationSequence=[
                    _item(RescaleIntercept="-1024", RescaleSlope=str(slope), RescaleType="HU")
                ],
            ))  # fmt: skip
    whole.PerFrameFunctionalGroupsSequence = frames
    whole.PixelData = np.stack(pixels).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    whole.save_as(path)
    return path


def write_legacy_converted(folder: Path, path: Path) -> Path:
    """The slices of a folder as a PACS converts them: legacy converted enhanced CT (PS3.3 A.70)."""
    slices = [pydicom.dcmread(one) for one in sorted(folder.iterdir())]
    whole = hd.legacy.LegacyConvertedEnhancedCTImage(
        slices,
        series_instance_uid=generate_uid(entropy_srcs=[str(path)]),
        series_number=2,
        sop_instance_uid=generate_uid(entropy_srcs=[str(path), "instance"]),
        instance_number=1,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    whole.save_as(path)
    return path
