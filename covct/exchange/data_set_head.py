"""Which study an encoded data set belongs to, read from its beginning: element by element, nothing more than needed.

The command of a C-STORE names the instance, not its study. pydicom would parse what a hostile peer sends, and all of a
header for four values; the values sought come early, and what lies between is stepped over.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO

from covct.dicom.syntaxes import DEFLATED, EXPLICIT_BIG_ENDIAN, IMPLICIT_LITTLE_ENDIAN

CLASS, INSTANCE, STUDY, RELATED = 0x00080016, 0x00080018, 0x0020000D, 0x00201208
LAST_WANTED = RELATED
LONGEST_VALUE = 66  # bytes; a UID has 64
MOST_ELEMENTS = 100_000  # of all levels; CT headers have some 200 before the last that is wanted
MOST_INFLATED = 4 << 20  # of a deflated data set
UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}


@dataclass(frozen=True)
class DataSetHead:
    """What a data set says of itself; empty where it is silent.

    Attributes
    ----------
    related_instances : int
        Number of Study Related Instances: how many its study has, says its sender; 0 where nothing is said.
    """

    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    study_uid: str = ""
    related_instances: int = 0


def read_head(stream: BinaryIO, syntax: str) -> DataSetHead:
    """Read what the beginning of a data set says; the stream lies where it begins.

    Raises
    ------
    ValueError
        It is no data set in this transfer syntax, or cut short before what is wanted.
    """
    if syntax == DEFLATED:
        stream = BytesIO(zlib.decompressobj(-zlib.MAX_WBITS).decompress(stream.read(MOST_INFLATED), MOST_INFLATED))
    try:
        values = _walked(stream, syntax == IMPLICIT_LITTLE_ENDIAN, ">" if syntax == EXPLICIT_BIG_ENDIAN else "<")
    except struct.error:
        raise ValueError("it is cut short") from None
    related = values.get(RELATED, "")
    number = int(related) if related.isascii() and related.isdecimal() else 0
    return DataSetHead(values.get(CLASS, ""), values.get(INSTANCE, ""), values.get(STUDY, ""), number)


def _walked(stream: BinaryIO, implicit: bool, order: str) -> dict[int, str]:
    """Values by tag. A sequence of undefined length is entered and left again; `depth` counts those that are open.

    `unknown` is the depth of one whose value representation is UN: what is in it is implicit, little endian (PS3.5
    6.2.2), whatever the data set is.
    """
    values: dict[int, str] = {}
    depth = last = unknown = 0
    for _ in range(MOST_ELEMENTS):
        head = stream.read(8)
        if not head:
            return values
        tag, vr, length = _element(head, stream, implicit or unknown > 0, "<" if unknown else order)
        if not depth:
            if tag <= last:
                raise ValueError("its elements are out of order")
            last = tag
            if tag > LAST_WANTED:
                return values
        if tag in (ITEM_END, SEQUENCE_END):
            unknown = 0 if depth == unknown else unknown
            depth -= 1
        elif length == UNDEFINED:
            if tag != ITEM and vr not in (b"", b"SQ", b"UN"):
                raise ValueError("a value without a length")
            depth += 1
            unknown = unknown or (depth if vr == b"UN" else 0)
        elif not depth and tag in (CLASS, INSTANCE, STUDY, RELATED) and length <= LONGEST_VALUE:
            values[tag] = _text(stream.read(length), length)
        else:
            stream.seek(length, 1)
    raise ValueError(f"more than {MOST_ELEMENTS} elements")


def _element(head: bytes, stream: BinaryIO, implicit: bool, order: str) -> tuple[int, bytes, int]:
    """Tag, value representation (none where it is implicit) and length."""
    group, element = struct.unpack_from(f"{order}HH", head)
    tag = group << 16 | element
    if implicit or group == ITEM >> 16:
        return tag, b"", struct.unpack_from(f"{order}L", head, 4)[0]
    vr = head[4:6]
    if not all(0x40 < letter < 0x5B for letter in vr):
        raise ValueError("no value representation where one is wanted")
    if vr in LONG:
        return tag, vr, struct.unpack(f"{order}L", stream.read(4))[0]
    return tag, vr, struct.unpack_from(f"{order}H", head, 6)[0]


def _text(value: bytes, length: int) -> str:
    if len(value) < length:
        raise ValueError("it is cut short")
    return value.rstrip(b"\0 ").strip(b" ").decode("ascii", "replace")
