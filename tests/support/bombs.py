"""Files of a few KiB that cost minutes or gibibytes before they were bounded; made by code, each in one function.

What is laid into an honest inbox with one of them must come out as if it were not there, and each must cost no more
than an honest file of its size.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Callable
from io import BytesIO

UNDEFINED = struct.pack("<L", 0xFFFFFFFF)
EXPLICIT, IMPLICIT, DEFLATED = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99"
CT, ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"
EMPTY_ITEM, SEQUENCE_END = b"\xfe\xff\x00\xe0\0\0\0\0", b"\xfe\xff\xdd\xe0\0\0\0\0"
REQUESTS, PER_FRAME = 0x00400275, 0x52009230


def tag(number: int) -> bytes:
    return struct.pack("<HH", number >> 16, number & 0xFFFF)


def short(number: int, vr: str, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    return tag(number) + vr.encode() + struct.pack("<H", len(value)) + value


def long(number: int, vr: str, value: bytes) -> bytes:
    return tag(number) + vr.encode() + b"\0\0" + struct.pack("<L", len(value)) + value


def endless(number: int, vr: str, value: bytes) -> bytes:
    """Of undefined length."""
    return tag(number) + vr.encode() + b"\0\0" + UNDEFINED + value + SEQUENCE_END


def item(value: bytes) -> bytes:
    return EMPTY_ITEM[:4] + struct.pack("<L", len(value)) + value


def identity(sop_class: str = CT) -> bytes:
    """What makes bytes a CT image of a study and a series."""
    uids = ((0x00080016, sop_class), (0x00080018, "1.2.826.0.1.3680043.9.1"))
    series = ((0x0020000D, "1.2.826.0.1.3680043.9.2"), (0x0020000E, "1.2.826.0.1.3680043.9.3"))
    first, last = (b"".join(short(at, "UI", uid.encode()) for at, uid in group) for group in (uids, series))
    return first + short(0x00080060, "CS", b"CT") + last


def part_10(body: bytes, syntax: str = EXPLICIT) -> bytes:
    meta = short(0x00020010, "UI", syntax.encode())
    if syntax == DEFLATED:
        packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
        body = packer.compress(body) + packer.flush()
    return bytes(128) + b"DICM" + short(0x00020000, "UL", struct.pack("<L", len(meta))) + meta + body


def empty_elements(count: int) -> bytes:
    """Each of eight bytes and another tag: as objects they take half a kilobyte."""
    return b"".join(tag((0x11 + 2 * (n >> 15)) << 16 | 0x1000 + (n & 0x7FFF)) + b"LO\0\0" for n in range(count))


def deflated_items(count: int = 1_900_000) -> bytes:
    """Zeros past the first steps of inflating, then empty items that pydicom parsed while looking for the pixels."""
    zeros = long(0x00091001, "OB", bytes(1_150_000))
    return part_10(identity() + zeros + endless(REQUESTS, "SQ", EMPTY_ITEM * count), DEFLATED)


def elements_in_an_item(count: int = 2_000_000) -> bytes:
    """A sequence of undefined length is parsed at once, wanted or not."""
    return part_10(identity() + endless(REQUESTS, "SQ", item(empty_elements(count))))


def elements_in_functional_groups(count: int = 2_000_000) -> bytes:
    """A sequence of known length is parsed when it is asked for."""
    return part_10(
        identity(ENHANCED_CT) + short(0x00280008, "IS", b"1") + long(PER_FRAME, "SQ", item(empty_elements(count)))
    )


def deflated_elements(count: int = 2_000_000) -> bytes:
    """As many frames are declared as there may be, in bytes that could hold some hundred."""
    elements = (tag(0x00111000) + b"LO\0\0") * count
    frames = short(0x00280008, "IS", b"16384")
    return part_10(identity(ENHANCED_CT) + frames + long(PER_FRAME, "SQ", item(elements)), DEFLATED)


def zipped_elements() -> bytes:
    out = BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.dcm", elements_in_an_item())
    return out.getvalue()


def numbers_without_end(megabytes: int = 10) -> bytes:
    """Implicit encodings do not end a value at 64 KiB: five million coordinates of a position."""
    values = [(0x00080016, CT), (0x00080018, "1.2.3"), (0x00080060, "CT"), (0x0020000D, "1.2.3"), (0x0020000E, "1.2.4")]
    head = b"".join(
        tag(at) + struct.pack("<L", len(v) + len(v) % 2) + v.encode() + b"\0" * (len(v) % 2) for at, v in values
    )
    coordinates = b"1\\" * (megabytes * 500_000)
    return part_10(head + tag(0x00200032) + struct.pack("<L", len(coordinates)) + coordinates + bytes(16), IMPLICIT)


def texts_without_end(megabytes: int = 10) -> bytes:
    """Nor does UC: each backslash begins another value."""
    return part_10(identity() + long(0x00201040, "UC", b"\\" * (megabytes * 1_000_000)) + bytes(16))


BOMBS: dict[str, tuple[str, Callable[[], bytes]]] = {
    function.__name__: (suffix, function)
    for suffix, functions in {
        ".dcm": (deflated_items, elements_in_an_item, elements_in_functional_groups, deflated_elements,
                 numbers_without_end, texts_without_end),
        ".zip": (zipped_elements,),
    }.items()
    for function in functions
}  # fmt: skip
