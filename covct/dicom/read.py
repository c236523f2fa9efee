"""Bytes to a data set, within bounds: a small hostile file shall not fill the memory."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from typing import Any

import numpy as np
import pydicom
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import FileDataset
from pydicom.filereader import read_partial, read_sequence
from pydicom.hooks import hooks, raw_element_value
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from covct.dicom.syntaxes import DEFLATED, EXPLICIT_BIG_ENDIAN, EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN
from covct.errors import SourceDefect

# A CT slice deflates to a half, one of air only to a thousandth: up to 64 MiB any ratio will do (a slice of 4096 x
# 4096 has half of that), beyond it no more than zip members may swell.
INFLATED_FREELY = 64 * 1024**2
LARGEST_RATIO = 200
INFLATED_STEPS = (64 * 1024, 1024**2, 16 * 1024**2)  # until the pixels are reached: a header of 16,384 frames
BEHIND_PIXELS = 1024**2  # bytes that may follow them: padding, signatures
PIXEL_GROUP, PIXELS_BEGIN = 0x7FE0, b"\xe0\x7f"
ITEMS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")  # little and big endian
ITEM_BYTE, COUNTED_AT_ONCE = 0xE0, 1024**2  # each of them has one such byte
# A damaged file may read as elements without end: zeros are elements of 8 bytes, and each costs a kilobyte. Headers
# have some hundred elements, enhanced ones a dozen items a frame.
MOST_ELEMENTS = 100_000
MOST_GROUP_ELEMENTS = 1000  # of the file meta information, of a command set before the data set
MOST_ITEMS, FREE_ITEMS, ITEM_BYTES = 500_000, 1000, 32  # those of functional groups have 80 bytes on average
MOST_META_BYTES = 4096
MOST_FRAMES = 16384  # of one instance: 1.6 m in slices of 0.1 mm
FRAMES_TAG = Tag("NumberOfFrames")
FRAME_ELEMENTS = 80  # further ones for each frame that is declared: 15 macros of a sequence, an item and three elements
DEFLATED_FRAME = 64  # bytes at least, of a frame and its functional groups: a deflated header may declare any number
# In what is parsed, the head of an element or item is read at once, its value in one to three pieces.
HEAD_BYTES, HEAD_COST = 8, 4
DEEPEST = 32  # sequences within sequences; those of CT have four
# Values that pydicom makes an object each of. Explicit encodings end them at 64 KiB, but for a few; implicit do not.
LONGEST_VALUES = 65535
MULTIPLE = {"AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "PN", "SH", "SL", "SS", "SV", "TM", "UC",
            "UI", "UL", "US", "UV"}  # fmt: skip

# pydicom else warns of each value that breaks its value representation, and quotes it: a name in the wrong place would
# stand in the log, and a file of 400,000 broken UIDs takes 13 s. Covct checks what it uses of a header itself.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE


class BeyondBounds(SourceDefect):
    """More than any header has. More of the file would only add to it."""


def _bounded_value(raw: RawDataElement, data: dict[str, Any], **context: Any) -> None:
    """Values are parsed when they are asked for: in 60 MiB of `1\\1\\1`, thirty million numbers of 100 bytes."""
    if data["VR"][:2] in MULTIPLE and "OW" not in data["VR"] and len(raw.value or b"") > LONGEST_VALUES:
        raise BeyondBounds(f"values of {len(raw.value)} bytes in one element, wanted at most {LONGEST_VALUES}")
    raw_element_value(raw, data, **context)


hooks.register_callback("raw_element_value", _bounded_value)


class _Metered(BytesIO):
    """Contents of which only so much is read as the elements of an honest header take.

    pydicom asks nobody before it parses the items of a sequence, and what is in them. It has to read them.
    """

    def __init__(self, contents: bytes, most_frames: int = MOST_FRAMES, left: int = HEAD_COST * MOST_ELEMENTS):
        super().__init__(contents)
        self.most_frames, self.left = most_frames, left

    def read(self, size: int | None = -1) -> bytes:
        self.left -= HEAD_COST if size == HEAD_BYTES else 1
        if self.left < 0:
            raise BeyondBounds(f"more than {MOST_ELEMENTS} elements in sequences")
        return super().read(size)

    def declare(self, length: int) -> None:
        """Make room for the functional groups of as many frames as the value says that comes next; once."""
        at = self.tell()
        with suppress(ValueError):  # not by `getbuffer`, which makes a copy
            frames = int(super().read(length))
            self.left += HEAD_COST * FRAME_ELEMENTS * max(0, min(frames, self.most_frames))
            self.most_frames = 0
        self.seek(at)


def read_dataset(
    contents: bytes | BytesIO, stop_before_pixels: bool = False, specific_tags: Sequence[str] | None = None
) -> pydicom.Dataset:
    """Parse a DICOM file, with or without preamble and file meta information.

    Parameters
    ----------
    contents : bytes or BytesIO
        The file. With `stop_before_pixels` its beginning is enough, deflated or not. A stream is left where reading
        ended.
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
    BeyondBounds
        Elements without end, at the top level or in sequences.
    SourceDefect
        A deflated data set that is cut short, or swells beyond the pixels that it declares.
    Exception
        Of any kind, for what is not DICOM; RecursionError for sequences nested by the hundred.
    """
    stream = BytesIO(contents) if isinstance(contents, bytes) else contents
    tags = None if specific_tags is None else [Tag(keyword) for keyword in specific_tags]
    whole = stream.getvalue()
    start, deflated = _data_set_at(memoryview(whole))
    if deflated:
        return _read_deflated(whole, start, stop_before_pixels, tags)
    if DEFLATED.encode() in whole[: max(start, MOST_META_BYTES)]:  # pydicom may read it so, and inflate without end
        raise SourceDefect("the file meta information is damaged: deflated or not?")
    _check_items(whole)
    metered = _Metered(whole)
    with _bounded(metered):
        dataset = read_partial(metered, _stop(metered, stop_before_pixels), force=True, specific_tags=tags)
    stream.seek(metered.tell())
    _check_nested(dataset, metered.left)
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
    position = 132 if bytes(contents[128:132]) == b"DICM" else 0
    start, deflated = position, False
    for _ in range(MOST_GROUP_ELEMENTS):
        group, vr = bytes(contents[position : position + 2]), bytes(contents[position + 4 : position + 6])
        if group not in (b"\x02\x00", b"\0\0"):
            return start, deflated
        explicit = group == b"\x02\x00" and b"AA" <= vr <= b"ZZ"
        length_at, value = (6, 8) if explicit else (4, 8)
        if explicit and vr.decode() in EXPLICIT_VR_LENGTH_32:
            length_at, value = 8, 12
        length = int.from_bytes(contents[position + length_at : position + value], "little")
        value += position
        if bytes(contents[position : position + 4]) == b"\x02\x00\x10\x00":
            deflated = bytes(contents[value : value + length]).rstrip(b"\0 ") == DEFLATED.encode()
        position = value + length
        if group == b"\x02\x00":
            start = position
    raise BeyondBounds(f"more than {MOST_GROUP_ELEMENTS} elements before the data set")


def _check_items(encoded: bytes) -> None:
    if has_too_many_items(encoded):
        raise BeyondBounds(f"more than {_most_items(encoded)} sequence items in {len(encoded)} bytes")


def has_too_many_items(encoded: bytes) -> bool:
    """Items are counted, not parsed: an empty one has 8 bytes, and costs two kilobytes once it is."""
    most = _most_items(encoded)
    if len(encoded) < len(ITEMS[0]) * most:
        return False
    if len(encoded) <= COUNTED_AT_ONCE and np.count_nonzero(np.frombuffer(encoded, np.uint8) == ITEM_BYTE) <= most:
        return False  # a tenth of the time
    return any(encoded.count(item) > most for item in ITEMS)


def _most_items(encoded: bytes) -> int:
    return min(MOST_ITEMS, FREE_ITEMS + len(encoded) // ITEM_BYTES)


def _stop(stream: _Metered, before_pixels: bool) -> Callable[[BaseTag, str | None, int], bool]:
    """Where pydicom is to stop: before the pixels if wanted, and at elements without end."""
    count = 0

    def stop(tag: BaseTag, vr: str | None, length: int) -> bool:
        nonlocal count
        count += 1
        if count > MOST_ELEMENTS:
            raise BeyondBounds(f"more than {MOST_ELEMENTS} elements")
        if tag == FRAMES_TAG:
            stream.declare(min(length, HEAD_BYTES))
        return before_pixels and tag.group == PIXEL_GROUP

    return stop


@contextmanager
def _bounded(stream: _Metered) -> Iterator[None]:
    """pydicom makes an OSError of whatever ends the reading of an item."""
    try:
        yield
    except Exception as error:
        if stream.left < 0 and not isinstance(error, BeyondBounds):
            raise BeyondBounds(f"more than {MOST_ELEMENTS} elements in sequences") from error
        raise


def _check_nested(dataset: pydicom.Dataset, left: int) -> None:
    """Count what is in sequences of known length, which pydicom parses when they are asked for.

    Level by level, until what is left has no room for too many: in an honest header that is at once.
    """
    level = [dataset]
    for _ in range(DEEPEST):
        items: list[pydicom.Dataset] = []
        unparsed: list[tuple[pydicom.Dataset, RawDataElement]] = []
        for one in level:
            for element in one.elements():
                if isinstance(element, RawDataElement):
                    unparsed += [(one, element)] if _is_sequence(element) else []
                elif element.VR == "SQ":
                    items += element.value
        if not items and sum(len(element.value) for _, element in unparsed) // HEAD_BYTES <= left // HEAD_COST:
            return
        for one, element in unparsed:
            left, found = _items_of(element, one, left)
            items += found
        level = items
    raise BeyondBounds(f"sequences nested deeper than {DEEPEST}")


def _is_sequence(element: RawDataElement) -> bool:
    if not element.value or element.VR == "SQ" or element.VR not in (None, "UN"):
        return bool(element.value) and element.VR == "SQ"
    begins = element.value[:4] in ITEMS
    return begins or (dictionary_has_tag(element.tag) and dictionary_VR(element.tag) == "SQ")


def _items_of(element: RawDataElement, dataset: pydicom.Dataset, left: int) -> tuple[int, list[pydicom.Dataset]]:
    """Parse a sequence in its data set, and say what is left to read. A damaged one is left for who asks for it."""
    stream = _Metered(element.value, left=left)
    encoding = dataset.original_character_set or pydicom.charset.default_encoding
    try:
        with _bounded(stream):
            sequence = read_sequence(
                stream, bool(element.is_implicit_VR), element.is_little_endian, len(element.value), encoding
            )
    except BeyondBounds:
        raise
    except Exception:
        return stream.left, []
    dataset[element.tag] = DataElement(element.tag, "SQ", sequence)
    return stream.left, list(sequence)


def _read_deflated(whole: bytes, start: int, stop_before_pixels: bool, tags: list[Any] | None) -> pydicom.Dataset:
    meta = pydicom.dcmread(_Metered(whole[:start]), force=True)
    deflated = memoryview(whole)[start:]
    most_frames = min(MOST_FRAMES, len(deflated) // DEFLATED_FRAME)
    inflated, to_pixels = _inflate_to_pixels(deflated, most_frames)
    if not stop_before_pixels:
        header = _parsed(inflated, True, None, most_frames)
        inflated = _inflate_whole(deflated, to_pixels + _pixel_bytes(header) + BEHIND_PIXELS)
    inner = _parsed(inflated, stop_before_pixels, tags, most_frames)
    dataset = FileDataset("", inner, meta.preamble, meta.file_meta, is_implicit_VR=False, is_little_endian=True)
    dataset.set_original_encoding(False, True, inner._character_set)
    return dataset


def _parsed(inflated: bytes, before_pixels: bool, tags: list[Any] | None, most_frames: int) -> pydicom.Dataset:
    _check_items(inflated)
    stream = _Metered(inflated, most_frames)
    with _bounded(stream):
        dataset = pydicom.filereader.read_dataset(
            stream,
            is_implicit_VR=False,
            is_little_endian=True,
            stop_when=_stop(stream, before_pixels),
            specific_tags=tags,
        )
    _check_nested(dataset, stream.left)
    return dataset


def _inflate_to_pixels(deflated: memoryview, most_frames: int) -> tuple[bytes, int]:
    """The beginning of the data set, inflated only as far as needed, and where its pixels begin in it."""
    for limit in INFLATED_STEPS:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)  # raw: without zlib's header (PS3.5 A.5)
        inflated = inflater.decompress(deflated, limit)
        _check_items(inflated)
        stream = _Metered(inflated, most_frames)
        with suppress(struct.error, EOFError, OSError), _bounded(stream):  # where the beginning ends within an element
            stop = _stop(stream, True)
            pydicom.filereader.read_dataset(stream, False, True, stop_when=stop, specific_tags=[Tag("Rows")])
        position = stream.tell()
        if inflated[position : position + 2] == PIXELS_BEGIN or not inflater.unconsumed_tail:
            return inflated, position
    raise SourceDefect(f"deflated data set of {len(deflated)} bytes swells: no pixels within {limit} bytes")


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
