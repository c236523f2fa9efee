"""Bytes to a data set, within bounds: a small hostile file shall not fill the memory."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from io import BytesIO

import pydicom
from pydicom.dataset import FileDataset
from pydicom.tag import Tag

from covct.dicom.syntaxes import DEFLATED, EXPLICIT_BIG_ENDIAN, EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN

# A CT slice deflates to a half, one of air only to a thousandth: up to 64 MiB any ratio will do (a slice of 4096 x
# 4096 has half of that), beyond it no more than zip members may swell.
INFLATED_FREELY = 64 * 1024**2
LARGEST_RATIO = 200
PIXEL_GROUP = 0x7FE0

# pydicom else warns of each value that breaks its value representation, and quotes it: a name in the wrong place would
# stand in the log, and a file of 400,000 broken UIDs takes 13 s. Covct checks what it uses of a header itself.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE


def read_dataset(
    contents: bytes | BytesIO, stop_before_pixels: bool = False, specific_tags: Sequence[str] | None = None
) -> pydicom.Dataset:
    """Parse a DICOM file, with or without preamble and file meta information.

    Parameters
    ----------
    contents : bytes or BytesIO
        The file. With `stop_before_pixels` its beginning is enough, deflated or not.
    stop_before_pixels : bool
    specific_tags : sequence of str, optional
        Keywords of the only elements wanted.

    Returns
    -------
    pydicom.Dataset
        Its file_meta always has a Transfer Syntax UID: where the file has none, the encoding found. It does not keep
        `contents` alive.

    Raises
    ------
    ValueError
        A deflated data set that is cut short, or swells beyond all measure.
    Exception
        Of any kind, for what is not DICOM; RecursionError for sequences nested by the hundred.
    """
    stream = BytesIO(contents) if isinstance(contents, bytes) else contents
    tags = None if specific_tags is None else [Tag(keyword) for keyword in specific_tags]
    start = _deflated_at(stream.getbuffer())
    if start is not None:
        return _read_deflated(stream, start, stop_before_pixels, tags)
    dataset = pydicom.dcmread(stream, force=True, stop_before_pixels=stop_before_pixels, specific_tags=tags)
    dataset.buffer = None  # pydicom keeps the whole file else: 150 MiB for the headers of 300 slices
    dataset.file_meta.TransferSyntaxUID = transfer_syntax_uid(dataset)
    return dataset


def transfer_syntax_uid(dataset: pydicom.Dataset) -> str:
    """As the file meta information has it; where it has none, the encoding found in reading."""
    if stated := dataset.file_meta.get("TransferSyntaxUID"):
        return str(stated)
    implicit, little = dataset.original_encoding
    if implicit:
        return IMPLICIT_LITTLE_ENDIAN
    return EXPLICIT_BIG_ENDIAN if little is False else EXPLICIT_LITTLE_ENDIAN


def _deflated_at(contents: memoryview) -> int | None:
    """Where the deflated data set begins; None for other transfer syntaxes.

    The file meta information is a list of explicit little endian elements of group 2 (PS3.10 section 7.1).
    """
    position = 132 if contents[128:132] == b"DICM" else 0
    deflated = False
    while contents[position : position + 2] == b"\x02\x00":
        element, vr = contents[position + 2 : position + 4], bytes(contents[position + 4 : position + 6])
        long = vr in (b"OB", b"OW", b"UN", b"SQ", b"UT")
        value = position + (12 if long else 8)
        length = int.from_bytes(contents[position + 8 if long else position + 6 : value], "little")
        if element == b"\x10\x00":
            deflated = bytes(contents[value : value + length]).rstrip(b"\0 ") == DEFLATED.encode()
        position = value + length
    return position if deflated else None


def _read_deflated(stream: BytesIO, start: int, stop_before_pixels: bool, tags: list | None) -> pydicom.Dataset:
    meta = pydicom.dcmread(BytesIO(stream.getvalue()[:start]), force=True)
    inflated = _inflate(stream.getbuffer()[start:], whole=not stop_before_pixels)
    inner = pydicom.filereader.read_dataset(
        BytesIO(inflated),
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=_at_pixels if stop_before_pixels else None,
        specific_tags=tags,
    )
    dataset = FileDataset("", inner, meta.preamble, meta.file_meta, is_implicit_VR=False, is_little_endian=True)
    dataset.set_original_encoding(False, True, inner._character_set)
    return dataset


def _at_pixels(tag, vr: str | None, length: int) -> bool:
    return tag.group == PIXEL_GROUP


def _inflate(deflated: memoryview, whole: bool) -> bytes:
    limit = max(INFLATED_FREELY, LARGEST_RATIO * len(deflated))
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)  # raw: without zlib's header (PS3.5 A.5)
    inflated = inflater.decompress(deflated, limit)
    if inflater.unconsumed_tail:
        raise ValueError(f"deflated data set of {len(deflated)} bytes swells beyond {limit} bytes")
    if whole and not inflater.eof:
        raise ValueError(f"deflated data set is cut short after {len(deflated)} bytes")
    return inflated
