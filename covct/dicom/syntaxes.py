"""What a DICOM file says of itself before its data set: the transfer syntaxes read (PS3.5 section 10), its class."""

from __future__ import annotations

from dataclasses import dataclass

from covct.dicom.quotable import quoted_uid
from covct.errors import SeriesError


@dataclass(frozen=True)
class Syntax:
    """One transfer syntax.

    Attributes
    ----------
    codestream : str or None
        How a frame is coded: "rle", "jpeg", "jpeg-lossless", "jpeg-ls" or "jpeg2000"; None where pixels are plain.
    loss : str
        "never", "always", or "maybe" where the syntax allows both and only LossyImageCompression can tell.
    decoder : str
        The package and its function; all are permissively licensed and decode without the interpreter's lock.
    """

    name: str
    codestream: str | None = None
    loss: str = "never"
    decoder: str = "numpy"


IMPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
EXPLICIT_BIG_ENDIAN = "1.2.840.10008.1.2.2"
JPEG, JPEG_LS, JPEG_2000 = "imagecodecs.jpeg8", "imagecodecs.jpegls", "imagecodecs.jpeg2k"

SYNTAXES = {
    IMPLICIT_LITTLE_ENDIAN: Syntax("Implicit VR Little Endian"),
    EXPLICIT_LITTLE_ENDIAN: Syntax("Explicit VR Little Endian"),
    DEFLATED: Syntax("Deflated Explicit VR Little Endian", decoder="zlib, numpy"),
    EXPLICIT_BIG_ENDIAN: Syntax("Explicit VR Big Endian (retired)"),
    "1.2.840.10008.1.2.5": Syntax("RLE Lossless", "rle", decoder="imagecodecs.packbits"),
    "1.2.840.10008.1.2.4.50": Syntax("JPEG Baseline, 8 bit", "jpeg", "always", JPEG),
    "1.2.840.10008.1.2.4.51": Syntax("JPEG Extended, 12 bit", "jpeg", "always", JPEG),
    "1.2.840.10008.1.2.4.57": Syntax("JPEG Lossless, process 14", "jpeg-lossless", decoder=JPEG),
    "1.2.840.10008.1.2.4.70": Syntax("JPEG Lossless, process 14, first-order", "jpeg-lossless", decoder=JPEG),
    "1.2.840.10008.1.2.4.80": Syntax("JPEG-LS Lossless", "jpeg-ls", decoder=JPEG_LS),
    "1.2.840.10008.1.2.4.81": Syntax("JPEG-LS Near-Lossless", "jpeg-ls", "maybe", JPEG_LS),
    "1.2.840.10008.1.2.4.90": Syntax("JPEG 2000 Lossless", "jpeg2000", decoder=JPEG_2000),
    "1.2.840.10008.1.2.4.91": Syntax("JPEG 2000", "jpeg2000", "maybe", JPEG_2000),
    "1.2.840.10008.1.2.4.201": Syntax("HTJ2K Lossless", "jpeg2000", decoder=JPEG_2000),
    "1.2.840.10008.1.2.4.202": Syntax("HTJ2K Lossless RPCL", "jpeg2000", decoder=JPEG_2000),
    "1.2.840.10008.1.2.4.203": Syntax("HTJ2K", "jpeg2000", "maybe", JPEG_2000),
}


def syntax(uid: str) -> Syntax:
    """The syntax of this Transfer Syntax UID.

    Raises
    ------
    SeriesError
        `unreadable`: not in the table.
    """
    if uid not in SYNTAXES:
        raise SeriesError(
            "unreadable",
            f"transfer syntax is {quoted_uid(uid)}, wanted uncompressed, deflated, RLE, JPEG lossless, baseline or "
            "extended, JPEG-LS, JPEG 2000 or HTJ2K",
        )
    return SYNTAXES[uid]


def is_compressed(uid: str) -> bool:
    """Whether frames are encapsulated, and decoding takes longer than reading."""
    return uid in SYNTAXES and SYNTAXES[uid].codestream is not None


def is_lossy(uid: str, lossy_image_compression: str = "") -> bool:
    """Whether pixels lost something to compression, now or before.

    A syntax that allows loss counts as lossy unless Lossy Image Compression (0028,2110) says "00": a warning too many
    costs a glance, one too few hides a changed measurement. A lossless syntax may hold pixels that were lossy
    before, so "01" counts everywhere.
    """
    loss = SYNTAXES[uid].loss if uid in SYNTAXES else "never"
    return lossy_image_compression == "01" or loss == "always" or (loss == "maybe" and lossy_image_compression != "00")
