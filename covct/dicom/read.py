"""Bytes to a data set, within bounds: a small hostile file shall not fill the memory."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import BytesIO

import pydicom
from pydicom.dataset import FileDataset
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from covct.dicom.syntaxes import DEFLATED, EXPLICIT_BIG_ENDIAN, EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN
from covct.errors import SourceDefect

# A CT slice deflates to a half, one of air only to a thousandth: up to 64 MiB any ratio will do (a slice of 4096 x
# 4096 has half of that), beyond it no more than zip members may swell.
INFLATED_FREELY = 64 * 1024**2
LARGEST_RATIO = 200
INFLATED_STEPS = (64 * 1024, 4 * 1024**2, INFLATED_FREELY)  # until the pixels are reached
BEHIND_PIXELS = 1024**2  # bytes that may follow them: padding, signatures
PIXEL_GROUP, PIXELS_BEGIN = 0x7FE0, b"\xe0\x7f"
# A damaged file may read as elements without end: zeros are elements of 8 bytes, and each costs a kilobyte. Headers
# have some hundred elements, enhanced ones a dozen items a frame.
MOST_ELEMENTS = 100_000
MOST_GROUP_ELEMENTS = 1000  # of the file meta information, of a command set before the data set
MOST_ITEMS = 500_000
MOST_META_BYTES = 4096
MOST_FRAMES = 16384  # of one instance: 1.6 m in slices of 0.1 mm

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
    SourceDefect
        A deflated data set that is cut short, or swells beyond the pixels that it declares; elements without end.
    Exception
        Of any kind, for what is not DICOM; RecursionError for sequences nested by the hundred.
    """
    stream = BytesIO(contents) if isinstance(contents, bytes) else contents
    tags = None if specific_tags is None else [Tag(keyword) for keyword in specific_tags]
    start, deflated = _data_set_at(stream.getbuffer())
    if deflated:
        return _read_deflated(stream, start, stop_before_pixels, tags)
    whole = stream.getvalue()
    if DEFLATED.encode() in whole[: max(start, MOST_META_BYTES)]:  # pydicom may read it so, and inflate without end
        raise SourceDefect("the file meta information is damaged: deflated or not?")
    _check_items(whole)
    dataset = read_partial(stream, _stop(stop_before_pixels), force=True, specific_tags=tags)
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


def _data_set_at(contents: memoryview) -> tuple[int, bool]:
    """Where the data set begins, and whether it is deflated.

    Before it come the file meta information, a list of explicit little endian elements of group 2 (PS3.10 section
    7.1), and, wrongly, now and then a command set, implicit ones of group 0.
    """
    position = 132 if contents[128:132] == b"DICM" else 0
    start, deflated = position, False
    for _ in range(MOST_GROUP_ELEMENTS):
        group, vr = contents[position : position + 2], bytes(contents[position + 4 : position + 6])
        if group not in (b"\x02\x00", b"\0\0"):
            return start, deflated
        explicit = group == b"\x02\x00" and b"AA" <= vr <= b"ZZ"
        length_at, value = (6, 8) if explicit else (4, 8)
        if explicit and vr.decode() in EXPLICIT_VR_LENGTH_32:
            length_at, value = 8, 12
        length = int.from_bytes(contents[position + length_at : position + value], "little")
        value += position
        if contents[position : position + 4] == b"\x02\x00\x10\x00":
            deflated = bytes(contents[value : value + length]).rstrip(b"\0 ") == DEFLATED.encode()
        position = value + length
        if group == b"\x02\x00":
            start = position
    raise SourceDefect(f"more than {MOST_GROUP_ELEMENTS} elements before the data set")


def _check_items(encoded: bytes) -> None:
    """Items are counted, not parsed: an empty one has 8 bytes, and costs two kilobytes once it is."""
    for item in (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00"):
        if len(encoded) > 8 * MOST_ITEMS and encoded.count(item) > MOST_ITEMS:
            raise SourceDefect(f"more than {MOST_ITEMS} sequence items")


def _stop(before_pixels: bool) -> Callable[[BaseTag, str | None, int], bool]:
    """Where pydicom is to stop: before the pixels if wanted, and at elements without end."""
    count = 0

    def stop(tag: BaseTag, vr: str | None, length: int) -> bool:
        nonlocal count
        count += 1
        if count > MOST_ELEMENTS:
            raise SourceDefect(f"more than {MOST_ELEMENTS} elements")
        return before_pixels and tag.group == PIXEL_GROUP

    return stop


def _read_deflated(stream: BytesIO, start: int, stop_before_pixels: bool, tags: list | None) -> pydicom.Dataset:
    meta = pydicom.dcmread(BytesIO(stream.getvalue()[:start]), force=True)
    deflated = stream.getbuffer()[start:]
    inflated, to_pixels = _inflate_to_pixels(deflated)
    if not stop_before_pixels:
        header = _parsed(inflated, before_pixels=True, tags=None)
        inflated = _inflate_whole(deflated, to_pixels + _pixel_bytes(header) + BEHIND_PIXELS)
    inner = _parsed(inflated, stop_before_pixels, tags)
    dataset = FileDataset("", inner, meta.preamble, meta.file_meta, is_implicit_VR=False, is_little_endian=True)
    dataset.set_original_encoding(False, True, inner._character_set)
    return dataset


def _parsed(inflated: bytes, before_pixels: bool, tags: list | None) -> pydicom.Dataset:
    _check_items(inflated)
    return pydicom.filereader.read_dataset(
        BytesIO(inflated),
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=_stop(before_pixels),
        specific_tags=tags,
    )


def _inflate_to_pixels(deflated: memoryview) -> tuple[bytes, int]:
    """The beginning of the data set, inflated only as far as needed, and where its pixels begin in it."""
    for limit in INFLATED_STEPS:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)  # raw: without zlib's header (PS3.5 A.5)
        inflated = inflater.decompress(deflated, limit)
        stream = BytesIO(inflated)
        with suppress(struct.error, EOFError):  # where the beginning ends within an element
            pydicom.filereader.read_dataset(stream, False, True, stop_when=_stop(True), specific_tags=[Tag("Rows")])
        position = stream.tell()
        if inflated[position : position + 2] == PIXELS_BEGIN or not inflater.unconsumed_tail:
            break
    return inflated, position


def _pixel_bytes(header: pydicom.Dataset) -> int:
    """As many as the header declares; 0 where it declares none."""
    declared = [header.get("Rows") or 0, header.get("Columns") or 0]
    declared += [header.get(keyword) or 1 for keyword in ("NumberOfFrames", "SamplesPerPixel", "BitsAllocated")]
    return math.prod(max(0, int(value)) for value in declared) // 8


def _inflate_whole(deflated: memoryview, most: int) -> bytes:
    limit = min(most, max(INFLATED_FREELY, LARGEST_RATIO * len(deflated)))
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = inflater.decompress(deflated, limit)
    if inflater.unconsumed_tail:
        raise SourceDefect(f"deflated data set of {len(deflated)} bytes swells beyond {limit} bytes")
    if not inflater.eof:
        raise SourceDefect(f"deflated data set is cut short after {len(deflated)} bytes")
    return inflated
