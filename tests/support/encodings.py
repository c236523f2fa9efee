"""One series in every encoding a CT comes in."""

import io
import struct
import zlib

import imagecodecs
import jpeg_ls
import numpy as np
import pydicom
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRBigEndian

from covct.dicom.syntaxes import DEFLATED

JPEG, HTJ2K = "1.2.840.10008.1.2.4.", "1.2.840.10008.1.2.4.20"


def j2k(level: int, reversible: bool):
    return lambda pixels: imagecodecs.jpeg2k_encode(pixels, level, codecformat="J2K", reversible=reversible)


# Others than the decoders, where there are others: liblj92, pyjpegls, OpenJPH. python-gdcm's corrupt the heap.
ENCODERS = {
    f"{JPEG}57": imagecodecs.ljpeg_encode,  # liblj92
    f"{JPEG}70": lambda pixels: imagecodecs.jpeg8_encode(pixels, lossless=True, predictor=1, bitspersample=16),
    f"{JPEG}80": lambda pixels: bytes(jpeg_ls.encode_array(pixels)),  # pyjpegls
    f"{JPEG}81": lambda pixels: imagecodecs.jpegls_encode(pixels, 4),  # off by 4 at most
    f"{JPEG}90": j2k(0, True),
    f"{JPEG}91": j2k(80, False),  # dB below 65535
    f"{HTJ2K}1": lambda pixels: imagecodecs.htj2k_encode(pixels, reversible=True),
    f"{HTJ2K}2": lambda pixels: imagecodecs.htj2k_encode(pixels, reversible=True, tlm=True),
    f"{HTJ2K}3": lambda pixels: imagecodecs.htj2k_encode(pixels, 0.0001, reversible=False),
    f"{JPEG}50": lambda pixels: imagecodecs.jpeg8_encode(pixels, 95),
    f"{JPEG}51": lambda pixels: imagecodecs.jpeg8_encode(pixels, 95, bitspersample=12),
}


def rewrite(folder, uid: str) -> None:
    """Every file of the folder in another transfer syntax. Lossy ones say nothing of it: the syntax must do."""
    for path in sorted(folder.iterdir()):
        dataset = pydicom.dcmread(path)
        pixels = dataset.pixel_array
        if uid == f"{JPEG}50":  # 8 bits hold a chest in steps of 8 HU
            pixels = np.minimum(pixels // 8, 255).astype(np.uint8)
            dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.RescaleSlope = 8, 8, 7, 8
        elif uid == f"{JPEG}51":
            pixels = np.minimum(pixels, 4095)
            dataset.BitsStored, dataset.HighBit = 12, 11
        if uid in ENCODERS:
            dataset.PixelData = encapsulate([ENCODERS[uid](pixels)])
            dataset["PixelData"].VR = "OB"
            dataset["PixelData"].is_undefined_length = True
        elif uid == pydicom.uid.RLELossless:
            dataset.compress(uid, generate_instance_uid=False)
        elif uid == ExplicitVRBigEndian:
            dataset.PixelData = pixels.astype(">u2").tobytes()
        dataset.file_meta.TransferSyntaxUID = UID(uid)
        kept = pydicom.Dataset(dataset)  # without the encoding it was read in
        kept.file_meta = dataset.file_meta
        kept.save_as(path, enforce_file_format=True)


def deflated(path, behind: bytes = b"", pixels: bool = True) -> bytes:
    """A slice in the deflated transfer syntax, with more behind its pixels, or in their place."""
    dataset = pydicom.dcmread(path)
    if not pixels:
        del dataset.PixelData
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    whole = out.getvalue()
    start = whole.index(b"\x08\x00\x05\x00CS")
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    body = packer.compress(whole[start:] + behind) + packer.flush()
    stated, wanted = b"1.2.840.10008.1.2.1\0", DEFLATED.encode()
    meta = whole[:start].replace(struct.pack("<H", len(stated)) + stated, struct.pack("<H", len(wanted)) + wanted)
    return meta + body
