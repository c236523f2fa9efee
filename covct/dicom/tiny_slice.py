"""A slice of 16 by 16 pixels in any transfer syntax that covct reads: what `covct doctor` tries the decoders with."""

from __future__ import annotations

import io
import uuid

import numpy as np
import pydicom
from pydicom.encaps import encapsulate

from covct.dicom.syntaxes import EXPLICIT_BIG_ENDIAN, IMPLICIT_LITTLE_ENDIAN, JPEG, SYNTAXES

HTJ2K = "1.2.840.10008.1.2.4.201"  # and above
SIDE = 16  # rows and columns


def tiny_slice(uid: str) -> tuple[np.ndarray, bytes]:
    """Stored values (16, 16) of a slope, and the same as a DICOM file in this transfer syntax."""
    kind = SYNTAXES[uid].codestream
    eight = uid.endswith(".4.50")  # baseline JPEG has no more bits
    stored = np.add.outer(np.arange(SIDE), np.arange(SIDE)) * (8 if eight else 100)
    pixels = stored.astype(np.uint8 if eight else np.uint16)
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = f"2.25.{uuid.uuid4().int}"
    dataset.Rows = dataset.Columns = SIDE
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    dataset.BitsAllocated = 8 if eight else 16
    dataset.BitsStored = 8 if eight else 12
    dataset.HighBit = dataset.BitsStored - 1
    big = uid == EXPLICIT_BIG_ENDIAN
    if kind is None:
        dataset.PixelData = pixels.astype(">u2" if big else "<u2").tobytes()
    else:
        frame = _encoded(pixels, kind, SYNTAXES[uid].decoder == JPEG and not eight, uid)
        dataset.PixelData = encapsulate([frame])
        dataset["PixelData"].is_undefined_length = True
    dataset["PixelData"].VR = "OB" if kind else "OW"
    file = io.BytesIO()
    pydicom.dcmwrite(
        file, dataset, implicit_vr=uid == IMPLICIT_LITTLE_ENDIAN, little_endian=not big,
        enforce_file_format=True,
    )  # fmt: skip
    return stored, file.getvalue()


def _encoded(pixels: np.ndarray, kind: str, twelve_bits: bool, uid: str) -> bytes:
    import imagecodecs  # here: one that is missing or broken is a finding of each syntax, not the end of all

    frame: bytes | bytearray
    if kind == "jpeg":
        frame = imagecodecs.jpeg8_encode(pixels, level=98, bitspersample=12 if twelve_bits else 8)
    elif kind == "jpeg-lossless":
        frame = imagecodecs.jpeg8_encode(pixels, lossless=True, predictor=1, bitspersample=12)
    elif kind == "jpeg-ls":
        frame = imagecodecs.jpegls_encode(pixels, level=0)
    elif kind == "jpeg2000" and uid >= HTJ2K:
        frame = imagecodecs.htj2k_encode(pixels)
    elif kind == "jpeg2000":
        frame = imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True, level=0)
    else:  # RLE: a header of 64 bytes, then the high bytes and the low ones (PS3.5 annex G)
        planes = [((pixels >> shift) & 255).astype(np.uint8).tobytes() for shift in (8, 0)]
        high, low = map(imagecodecs.packbits_encode, planes)
        header = (2, 64, 64 + len(high), *[0] * 13)
        frame = b"".join(n.to_bytes(4, "little") for n in header) + high + low
    return bytes(frame)
