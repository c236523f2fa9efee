"""Damage of every kind, as pure functions (file's bytes, random numbers) -> bytes. The same seed does the same damage.

A mutator never fails: what it cannot find to damage, it leaves as it is. Several may follow one another, so each has
to bear what the one before has left.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from random import Random

import pydicom

from covct.dicom.syntaxes import DEFLATED, EXPLICIT_BIG_ENDIAN, EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN, SYNTAXES

Mutator = Callable[[bytes, Random], bytes]
UNDEFINED = 0xFFFFFFFF
LONG_VRS = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT", b"SV", b"UV"}
ALL_VRS = [b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"OB", b"OD", b"OF",
           b"OW", b"PN", b"SH", b"SL", b"SQ", b"SS", b"ST", b"TM", b"UI", b"UL", b"UN", b"US", b"UT", b"UC", b"\0\0",
           b"??"]  # fmt: skip
SYNTAX_UID, PIXEL_DATA, FRAMES = 0x00020010, 0x7FE00010, 0x00280008
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
EXTREME_LENGTHS = [0, 1, 2, 3, 7, 255, 4096, 65534, 65535, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFE,
                   UNDEFINED]  # fmt: skip
EXTREME_BYTES = [0, 1, 2, 3, 4, 8, 15, 16, 17, 32, 33, 63, 64, 127, 128, 254, 255]
EXTREME_WORDS = [0, 1, 2, 3, 7, 8, 9, 12, 15, 16, 17, 32, 63, 65, 255, 256, 4096, 4097, 16384, 32767, 32768, 65535]
EXTREME_LONGS = [0, 1, 2, 63, 64, 65, 4096, 65535, 65536, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
NUMBERS = [b"0", b"-0", b"-1", b"1", b"0.0000001", b"1e-308", b"1e308", b"-1e308", b"1e300", b"1e38", b"nan", b"inf",
           b"-inf", b"2147483648", b"-2147483649", b"99999999999", b"16385", b"1e400", b"9" * 400]  # fmt: skip
TEXTS = [
    b"", b" ", b"\\", b"\\\\\\", b"abc", b"\xff\xfe\0", b"\0\0\0\0", b"\x1b$B!!", b"\x1b(J\x1b-A\xe4", b"\n\x1b[31m",
    b"../../../tmp/x", b"..", b"/", b"A" * 70, b"0" * 5000, b"1.2.3.\0", "日本".encode(), "ü".encode("latin-1"),
    b"\xed\xa0\x80", b"1\\2\\3\\4\\5\\6\\7", b"1\\1", b"0\\0\\0\\0\\0\\0", b"nan\\nan\\nan", b"1\\0\\0\\1\\0\\0",
    b"99999999", b"20230230", b"256161.9", b"DERIVED\\SECONDARY", b"Y" * 70000,
]  # fmt: skip
CHARACTER_SETS = [b"", b"ISO_IR 6", b"ISO_IR 13", b"ISO_IR 100", b"ISO_IR 144", b"ISO_IR 192", b"GB18030", b"GBK",
                  b"\\ISO 2022 IR 87", b"ISO 2022 IR 13\\ISO 2022 IR 87", b"\\ISO 2022 IR 149", b"utf_7", b"rot13",
                  b"ISO_IR 999", b"ISO 2022 IR 58\\\\\\", b"idna", b"unicode_escape"]  # fmt: skip
# What the gate and the pixels look at: tag, VR, values that no scanner writes.
SIDES = [struct.pack("<H", n) for n in (0, 1, 2, 3, 32, 63, 65, 128, 2048, 4096, 4097, 32768, 65535)]
SMALL = [struct.pack("<H", n) for n in (0, 1, 2, 3, 4, 7, 8, 9, 11, 12, 15, 16, 17, 24, 31, 32, 64, 255, 65535)]
POINTED = {
    0x00280010: (b"US", SIDES), 0x00280011: (b"US", SIDES), 0x00280100: (b"US", SMALL), 0x00280101: (b"US", SMALL),
    0x00280102: (b"US", SMALL), 0x00280103: (b"US", SMALL), 0x00280002: (b"US", SMALL),
    0x00280004: (b"CS", [b"MONOCHROME1", b"RGB", b"PALETTE COLOR", b"YBR_FULL_422", b"", b"MONOCHROME2\\RGB"]),
    FRAMES: (b"IS", [b"0", b"-1", b"2", b"17", b"16384", b"16385", b"2147483647", b"99999999999", b"1e9", b"1\\2"]),
    0x00280120: (b"US", SIDES + [b"", b"\0\0\1\0"]), 0x00280121: (b"US", SIDES),
    0x00281052: (b"DS", NUMBERS), 0x00281053: (b"DS", NUMBERS), 0x00281054: (b"LO", TEXTS),
    0x00283000: (b"SQ", [b"", struct.pack("<HHL", 0xFFFE, 0xE000, 0)]),
    0x00280030: (b"DS", [b"0\\0", b"-1\\-1", b"1e-9\\1e-9", b"0.1\\0.1", b"10\\10", b"9\\3", b"1e308\\1e308", b"6"]),
    0x00180050: (b"DS", NUMBERS), 0x00180060: (b"DS", NUMBERS), 0x00200012: (b"IS", NUMBERS),
    0x00200013: (b"IS", NUMBERS), 0x00200100: (b"IS", NUMBERS), 0x00201002: (b"IS", NUMBERS),
    0x00200032: (b"DS", [b"0\\0\\0", b"1e308\\0\\0", b"99999\\99999\\99999", b"nan\\0\\0", b"1\\2", b"1\\2\\3\\4"]),
    0x00200037: (b"DS", [b"0\\0\\0\\0\\0\\0", b"1\\0\\0\\1\\0\\0", b"1e200\\0\\0\\0\\1e200\\0",
                         b"0.8\\0.6\\0\\-0.6\\0.8\\0", b"1\\0\\0\\0\\0\\-1",
                         b"0\\1\\0\\0\\0\\-1", b"1\\0\\0\\0\\-1\\0", b"nan\\0\\0\\0\\1\\0"]),
    0x00200052: (b"UI", TEXTS), 0x0020000D: (b"UI", TEXTS), 0x0020000E: (b"UI", TEXTS), 0x00080018: (b"UI", TEXTS),
    0x00080016: (b"UI", [b"1.2.840.10008.5.1.4.1.1.2.1", b"1.2.840.10008.5.1.4.1.1.2.2", b"1.2.840.10008.5.1.4.1.1.7",
                         b"1.2.840.10008.5.1.4.1.1.66.4", b"1.2.840.10008.1.3.10", b"", b"CT"]),
    0x00080005: (b"CS", CHARACTER_SETS), 0x00080008: (b"CS", TEXTS), 0x00080060: (b"CS", TEXTS),
    0x00282110: (b"CS", [b"01", b"00", b"", b"01\\00"]), 0x00282112: (b"DS", NUMBERS),
    0x00100010: (b"PN", TEXTS), 0x00100020: (b"LO", TEXTS), 0x00100030: (b"DA", TEXTS), 0x00100040: (b"CS", TEXTS),
    0x00101010: (b"AS", TEXTS), 0x00101030: (b"DS", NUMBERS), 0x00080020: (b"DA", TEXTS), 0x00080030: (b"TM", TEXTS),
    0x00080050: (b"SH", TEXTS), 0x00080090: (b"PN", TEXTS), 0x00200010: (b"SH", TEXTS), 0x0008103E: (b"LO", TEXTS),
    0x00080070: (b"LO", TEXTS), 0x00081090: (b"LO", TEXTS), 0x00180015: (b"CS", TEXTS), 0x00181210: (b"SH", TEXTS),
    0x00185100: (b"CS", TEXTS), 0x00204000: (b"LT", TEXTS), 0x00201040: (b"LO", TEXTS), 0x00080201: (b"SH", TEXTS),
}  # fmt: skip


# Structure


@dataclass(frozen=True)
class Element:
    """Where an element, or the head of an item, lies in the file's bytes."""

    tag: int
    start: int
    vr: bytes
    length_at: int
    length_size: int
    value: int
    length: int
    depth: int

    @property
    def end(self) -> int:
        return self.value + (0 if self.length == UNDEFINED else self.length)


@dataclass(frozen=True)
class Layout:
    """How elements are encoded, by the Transfer Syntax UID in the file meta information."""

    implicit: bool
    order: str  # of struct: < or >

    def tag(self, data: bytes, at: int) -> int:
        group, element = struct.unpack_from(f"{self.order}HH", data, at)
        return group << 16 | element

    def number(self, size: int, value: int) -> bytes:
        return (value & ((1 << 8 * size) - 1)).to_bytes(size, "little" if self.order == "<" else "big")

    def element(self, tag: int, vr: bytes, value: bytes) -> bytes:
        head = struct.pack(f"{self.order}HH", tag >> 16, tag & 0xFFFF)
        if self.implicit:
            return head + self.number(4, len(value)) + value
        if vr in LONG_VRS:
            return head + vr + b"\0\0" + self.number(4, len(value)) + value
        return head + vr + self.number(2, len(value)) + value


META = Layout(False, "<")


def walk(data: bytes) -> tuple[Layout, list[Element]]:
    """All elements that can still be told apart, file meta information first; sequences are entered."""
    found: list[Element] = []
    position = 132 if data[128:132] == b"DICM" else 0
    while data[position : position + 2] == b"\2\0" and (element := _element(data, position, META, 0)):
        found.append(element)
        position = element.end
    uid = next((data[e.value : e.end].rstrip(b"\0 ").decode("latin-1") for e in found if e.tag == SYNTAX_UID), "")
    layout = Layout(uid == IMPLICIT_LITTLE_ENDIAN, ">" if uid == EXPLICIT_BIG_ENDIAN else "<")
    if uid == DEFLATED:
        return layout, found
    ends: list[int] = []
    while position + 8 <= len(data) and (element := _element(data, position, layout, len(ends))):
        found.append(element)
        inside = element.tag == ITEM or element.vr == b"SQ" or element.length == UNDEFINED
        if layout.implicit and element.length >= 8:
            inside = inside or data[element.value : element.value + 4] == b"\xfe\xff\0\xe0"
        if inside and element.tag != PIXEL_DATA:
            ends.append(element.end if element.length != UNDEFINED else len(data))
            position = element.value
        elif element.tag == PIXEL_DATA and element.length == UNDEFINED:
            break
        else:
            position = element.end
        if element.tag in (ITEM_END, SEQUENCE_END) and ends:
            ends.pop()
        while ends and position >= ends[-1] and ends[-1] != len(data):
            ends.pop()
    return layout, found


def _element(data: bytes, at: int, layout: Layout, depth: int) -> Element | None:
    if at + 8 > len(data):
        return None
    tag = layout.tag(data, at)
    if tag >> 16 == 0xFFFE or layout.implicit:
        vr, length_at, size = b"", at + 4, 4
    else:
        vr = data[at + 4 : at + 6]
        length_at, size = (at + 8, 4) if vr in LONG_VRS else (at + 6, 2)
    value = length_at + size
    if value > len(data):
        return None
    length = int.from_bytes(data[length_at:value], "little" if layout.order == "<" else "big")
    if length != UNDEFINED and value + length > len(data):
        return None
    return Element(tag, at, vr, length_at, size, value, length, depth)


def _splice(data: bytes, start: int, end: int, middle: bytes) -> bytes:
    return data[:start] + middle + data[end:]


def _with_value(data: bytes, layout: Layout, element: Element, value: bytes) -> bytes:
    """An element's value replaced, with the length that fits. Lengths of what encloses it stay."""
    if len(value) % 2:
        value += b"\0" if element.vr in (b"UI", b"OB", b"UN") else b" "
    value = value[: (1 << 8 * element.length_size) - 2]
    order = META if element.tag >> 16 == 2 else layout
    return _splice(data, element.length_at, element.end, order.number(element.length_size, len(value)) + value)


def _with_element(data: bytes, tag: int, vr: bytes, value: bytes) -> bytes:
    """A top-level element set, or put in where its place is."""
    layout, elements = walk(data)
    if layout.order == ">" and vr == b"US":
        value = value[::-1]
    there = [e for e in elements if e.tag == tag and e.depth == 0]
    if there:
        return _with_value(data, layout, there[0], value)
    after = [e for e in elements if e.depth == 0 and e.tag > tag]
    if not after:
        return data
    padded = (value + b" " * (len(value) % 2))[:65534]
    return _splice(data, after[0].start, after[0].start, layout.element(tag, vr, padded))


def _some(rng: Random, elements: list[Element]) -> Element | None:
    return rng.choice(elements) if elements else None


# Bytes, whatever they mean


def flip_bits(data: bytes, rng: Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20)) if out else 0):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def flip_bits_in_the_header(data: bytes, rng: Random) -> bytes:
    _, elements = walk(data)
    end = min(len(data), max((e.value for e in elements), default=len(data)))
    return flip_bits(data[:end], rng) + data[end:]


def overwrite(data: bytes, rng: Random) -> bytes:
    at, length = rng.randrange(len(data) + 1), rng.choice((1, 2, 4, 8, 64, 1024))
    return _splice(data, at, at + length, rng.choice((b"\0" * length, b"\xff" * length, rng.randbytes(length))))


def move_bytes(data: bytes, rng: Random) -> bytes:
    """Some bytes gone, doubled, put in, or two runs of them swapped."""
    a, length = rng.randrange(len(data) + 1), rng.choice((1, 2, 3, 8, 100, 3000))
    run = data[a : a + length]
    what = rng.randrange(4)
    if what == 0:
        return _splice(data, a, a + length, b"")
    if what == 1:
        return _splice(data, a, a, run)
    if what == 2:
        return _splice(data, a, a, rng.randbytes(length))
    b = rng.randrange(len(data) + 1)
    return _splice(_splice(data, a, a + length, data[b : b + length]), b, b + length, run)


def cut_short(data: bytes, rng: Random) -> bytes:
    return data[: rng.choice((rng.randrange(len(data) + 1), len(data) - rng.randrange(1, 20), rng.randrange(600)))]


# DICOM


def wrong_length(data: bytes, rng: Random) -> bytes:
    layout, elements = walk(data)
    element = _some(rng, elements)
    if element is None:
        return data
    around = [element.length + n for n in (-2, -1, 1, 2, 8)] + [len(data) - element.value, len(data)]
    order = META if element.tag >> 16 == 2 else layout
    number = order.number(element.length_size, rng.choice(EXTREME_LENGTHS + around))
    return _splice(data, element.length_at, element.value, number)


def missing_tag(data: bytes, rng: Random) -> bytes:
    _, elements = walk(data)
    element = _some(rng, elements)
    return _splice(data, element.start, element.end, b"") if element else data


def tags_out_of_order(data: bytes, rng: Random) -> bytes:
    """An element twice, or in another's place."""
    _, elements = walk(data)
    one, other = _some(rng, elements), _some(rng, elements)
    if not one or not other:
        return data
    doubled = _splice(data, other.start, other.start, data[one.start : one.end])
    return doubled if rng.random() < 0.5 or one.start < other.start else _splice(data, one.start, one.end, b"")


def another_tag(data: bytes, rng: Random) -> bytes:
    layout, elements = walk(data)
    element = _some(rng, elements)
    if not element:
        return data
    tag = rng.choice([PIXEL_DATA, ITEM, ITEM_END, SEQUENCE_END, 0, 0xFFFFFFFF, 0x00280010, 0x52009229, 0x52009230,
                      0x7FE00008, 0x7FE00009, 0x00080005, 0x00091001, rng.getrandbits(32)])  # fmt: skip
    return _splice(data, element.start, element.start + 4, struct.pack(f"{layout.order}HH", tag >> 16, tag & 0xFFFF))


def extreme_value(data: bytes, rng: Random) -> bytes:
    """Any element, of any depth."""
    layout, elements = walk(data)
    element = _some(rng, [e for e in elements if e.length != UNDEFINED and e.tag != PIXEL_DATA])
    if not element:
        return data
    binary = [struct.pack("<d", v) for v in (float("nan"), float("inf"), 1e308, -1.0)]
    value = rng.choice([rng.choice(some) for some in (TEXTS, NUMBERS, SIDES, binary, [rng.randbytes(6)])])
    return _with_value(data, layout, element, value)


def extreme_attribute(data: bytes, rng: Random) -> bytes:
    """What the program looks at: size, bits, rescale, place, identity, patient."""
    tag = rng.choice(list(POINTED))
    vr, values = POINTED[tag]
    value = rng.choice(values) if rng.random() < 0.8 else rng.choice(TEXTS + NUMBERS)
    return _with_element(data, tag, vr, value)


def change_vr(data: bytes, rng: Random) -> bytes:
    _, elements = walk(data)
    element = _some(rng, [e for e in elements if e.vr])
    pixels = [e for e in elements if e.vr and e.tag == PIXEL_DATA]
    if pixels and rng.random() < 0.2:
        element = pixels[0]
    if not element:
        return data
    vr = rng.choice(ALL_VRS)
    if element.vr in LONG_VRS and vr not in LONG_VRS and rng.random() < 0.5:
        vr = rng.choice([b"UN", b"UT", b"SQ", b"OF", b"OD", b"UC"])
    return _splice(data, element.start + 4, element.start + 6, vr)


def change_pixel_vr(data: bytes, rng: Random) -> bytes:
    """Pixel Data with its length as it was, as numbers of another kind or as text."""
    _, elements = walk(data)
    pixels = [e for e in elements if e.vr and e.tag == PIXEL_DATA and e.length != UNDEFINED]
    if not pixels:
        return change_vr(data, rng)
    vr = rng.choice([b"OF", b"OD", b"OL", b"UN", b"UT", b"UC", b"SV"])
    return _splice(data, pixels[0].start + 4, pixels[0].start + 6, vr)


def swap_syntax(data: bytes, rng: Random) -> bytes:
    layout, elements = walk(data)
    there = [e for e in elements if e.tag == SYNTAX_UID]
    uid = rng.choice([*SYNTAXES, "1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.106", "1.2.3", ""])
    return _with_value(data, layout, there[0], uid.encode()) if there else data


def nest_deep(data: bytes, rng: Random) -> bytes:
    """Sequences in sequences, by the ten or by the thousand, of a length undefined or a wrong one."""
    layout, elements = walk(data)
    after = _some(rng, [e for e in elements if e.depth == 0 and e.tag >> 16 > 2])
    if not after:
        return data
    depth = rng.choice((2, 20, 100, 300, 900, 1200, 5000))
    tag = rng.choice((0x00081140, 0x00400275, 0x52009229, 0x00091010, 0x00082112))
    length = rng.choice((UNDEFINED, UNDEFINED, 0x7FFFFFFF, 8))
    head = layout.element(tag, b"SQ", b"")[:-4] + layout.number(4, length)
    item = struct.pack(f"{layout.order}HH", 0xFFFE, 0xE000) + layout.number(4, length)
    tail = b"".join(
        struct.pack(f"{layout.order}HH", 0xFFFE, e) + bytes(4) for e in (0xE00D, 0xE0DD)
    ) if rng.random() < 0.8 else b""  # fmt: skip
    return _splice(data, after.start, after.start, (head + item) * depth + tail * depth)


def many_elements(data: bytes, rng: Random) -> bytes:
    """Thousands of small elements or of empty items."""
    layout, elements = walk(data)
    after = _some(rng, [e for e in elements if e.depth == 0 and e.tag >> 16 > 2])
    if not after:
        return data
    count = rng.choice((100, 5000))
    if rng.random() < 0.5:
        more = b"".join(layout.element(0x00091001 + n % 0xF000, b"DS", b"1\\2\\3\\4 ") for n in range(count))
    else:
        items = struct.pack("<HHL", 0xFFFE, 0xE000, 0) * count
        more = layout.element(rng.choice((0x52009230, 0x00081140, 0x00104001)), b"SQ", items)
    return _splice(data, after.start, after.start, more)


def wrong_character_set(data: bytes, rng: Random) -> bytes:
    data = _with_element(data, 0x00080005, b"CS", rng.choice(CHARACTER_SETS))
    texts = [0x00100010, 0x00080090, 0x00100020, 0x0008103E, 0x00080070, 0x00204000]
    value = rng.choice([rng.choice(TEXTS), rng.randbytes(20), b"\x1b$)C\xb1\xe8^\x1b$B;3ED\x1b(J"])
    return _with_element(data, rng.choice(texts), b"LO", value)


def short_pixels(data: bytes, rng: Random) -> bytes:
    """Pixel Data too short or too long, with a length that fits it."""
    layout, elements = walk(data)
    pixels = [e for e in elements if e.tag == PIXEL_DATA and e.length != UNDEFINED]
    if not pixels:
        return cut_short(data, rng)
    value = data[pixels[0].value : pixels[0].end]
    lengths = [0, 2, len(value) // 2, len(value) - 2, len(value) + 2, 2 * len(value), rng.randrange(len(value) + 1)]
    return _with_value(data, layout, pixels[0], (value + value)[: rng.choice(lengths)])


def enormous(data: bytes, rng: Random) -> bytes:
    """Rows and columns that header and codestream agree on, far more than there are pixels."""
    rows, columns = (rng.choice((1, 2, 1024, 2048, 4095, 4096, 4097, 32768, 65535)) for _ in "rc")
    data = _with_element(data, 0x00280010, b"US", struct.pack("<H", rows))
    data = _with_element(data, 0x00280011, b"US", struct.pack("<H", columns))
    if rng.random() < 0.3:
        data = _with_element(data, FRAMES, b"IS", rng.choice(POINTED[FRAMES][1]))
    return _resized(data, rows, columns)


def _resized(data: bytes, rows: int, columns: int) -> bytes:
    out = bytearray(data)
    for at in _all(data, b"\xff\xd8\xff"):
        for position, marker, _ in _segments(data, at + 2):
            if marker in (0xC0, 0xC1, 0xC3, 0xF7) and position + 9 <= len(out):
                struct.pack_into(">HH", out, position + 5, rows, columns)
    for at in _all(data, b"\xff\x4f\xff\x51"):
        if at + 32 <= len(out):
            struct.pack_into(">LL", out, at + 8, columns, rows)
            struct.pack_into(">LL", out, at + 24, columns, rows)
    return bytes(out)


def _all(data: bytes, pattern: bytes) -> Iterator[int]:
    at = data.find(pattern)
    while at >= 0:
        yield at
        at = data.find(pattern, at + 1)


# Encapsulated pixels


def _encapsulated(data: bytes) -> tuple[int, list[bytes]] | None:
    """Where the items begin, and the items with the offset table; None where pixels are plain."""
    _, elements = walk(data)
    pixels = [e for e in elements if e.tag == PIXEL_DATA and e.length == UNDEFINED]
    if not pixels:
        return None
    items, position = [], pixels[0].value
    while data[position : position + 4] == b"\xfe\xff\0\xe0":
        (length,) = struct.unpack_from("<L", data, position + 4)
        items.append(data[position + 8 : position + 8 + length])
        position += 8 + length
    return (pixels[0].value, items) if len(items) > 1 else None


def _with_items(data: bytes, start: int, items: list[bytes]) -> bytes:
    even = [item + b"\0" * (len(item) % 2) for item in items]
    packed = b"".join(struct.pack("<HHL", 0xFFFE, 0xE000, len(item)) + item for item in even)
    return data[:start] + packed + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)


def on_a_codestream(damage: Mutator) -> Mutator:
    def mutator(data: bytes, rng: Random) -> bytes:
        found = _encapsulated(data)
        if not found:
            return data
        start, items = found
        number = rng.randrange(1, len(items))
        items[number] = damage(items[number], rng)
        return _with_items(data, start, items)

    return mutator


def fragments(data: bytes, rng: Random) -> bytes:
    """Offset table and fragments that say something else than the frames."""
    found = _encapsulated(data)
    if not found:
        return data
    start, items = found
    what = rng.randrange(7)
    if what == 0:
        items[0] = struct.pack("<L", rng.choice(EXTREME_LONGS)) * rng.randrange(1, 40)
    elif what == 1:
        whole = items.pop()
        size = rng.choice((1, 2, 16, 1000))
        items += [whole[at : at + size] for at in range(0, len(whole), size)]
    elif what == 2:
        items.insert(rng.randrange(len(items) + 1), b"")
    elif what == 3:
        items.pop(rng.randrange(len(items)))
    elif what == 4:
        items += [items[-1]] * rng.choice((1, 100))
    elif what == 5:
        rng.shuffle(items)
    else:
        return wrong_fragment_length(data, rng)
    return _with_items(data, start, items)


def wrong_fragment_length(data: bytes, rng: Random) -> bytes:
    found = _encapsulated(data)
    if not found:
        return data
    at = found[0] + 4
    for item in found[1][: rng.randrange(len(found[1]))]:
        at += 8 + len(item)
    return _splice(data, at, at + 4, struct.pack("<L", rng.choice(EXTREME_LENGTHS)))


def _segments(data: bytes, position: int) -> list[tuple[int, int, int]]:
    """Marker segments of a JPEG or JPEG 2000 header: position, marker, end; up to the first scan or tile's data."""
    found = []
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker in (0x93, 0xD9) or marker == 0xFF:
            break
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        found.append((position, marker, min(end, len(data))))
        if marker == 0xDA:
            break
        position = end
    return found


def damage_segment(code: bytes, rng: Random) -> bytes:
    """One marker segment of a codestream: a value of it, its length, itself twice, away, or of another kind."""
    segments = _segments(code, 2)
    if not segments:
        return flip_bits(code, rng)
    start, _, end = rng.choice(segments)
    what = rng.randrange(8)
    if what < 4 and end > start + 4:
        size = rng.choice((1, 1, 2, 4))
        at = rng.randrange(start + 4, end)
        value = rng.choice({1: EXTREME_BYTES, 2: EXTREME_WORDS, 4: EXTREME_LONGS}[size])
        return _splice(code, at, at + size, value.to_bytes(size, "big"))
    if what == 4:
        return _splice(code, start + 2, start + 4, struct.pack(">H", rng.choice(EXTREME_WORDS)))
    if what == 5:
        return _splice(code, start, start, code[start:end])
    if what == 6:
        return _splice(code, start, end, b"")
    return _splice(
        code, start + 1, start + 2, bytes([rng.choice((rng.randrange(0xC0, 0xFF), rng.randrange(0x4F, 0x94)))])
    )


def coding_style(code: bytes, rng: Random) -> bytes:
    """JPEG 2000's COD: layers, levels, code blocks and precincts at their extremes; or a progression change."""
    segments = [s for s in _segments(code, 2) if s[1] == 0x52]
    if not segments:
        return damage_segment(code, rng)
    start, _, end = segments[0]
    if rng.random() < 0.2:
        parts = rng.choice((1, 31, 100))
        change = struct.pack(">BBHBBB", 0, 0, rng.choice(EXTREME_WORDS), 33, 1, rng.randrange(6)) * parts
        return _splice(code, end, end, b"\xff\x5f" + struct.pack(">H", 2 + len(change)) + change)
    levels = rng.choice((0, 1, 3, 5, 6, 16, 32, 33, 255))
    style = rng.choice((0, 1, 1, 1, 3, 7))
    precincts = [rng.choice((0x00, 0x11, 0x12, 0x44, 0xFF, 0x88)) for _ in range(1 + min(levels, 40))]
    layers, colours = rng.choice((1, 2, 100, 1000, 65535, 0)), rng.choice((0, 0, 1, 2))
    width, height = (rng.choice((0, 1, 2, 4, 8, 255)) for _ in "wh")
    passes, wavelet = rng.choice((0, 1, 0x40, 0x3F, 255)), rng.choice((0, 1))
    value = struct.pack(
        ">BBHBBBBBB", style, rng.randrange(6), layers, colours, levels, width, height, passes, wavelet
    ) + bytes(precincts if style & 1 else [])  # fmt: skip
    return _splice(code, start, end, b"\xff\x52" + struct.pack(">H", 2 + len(value)) + value)


def image_and_tiles(code: bytes, rng: Random) -> bytes:
    """JPEG 2000's SIZ: image, offsets and tiles that do not belong together; or any size elsewhere."""
    if code[:4] != b"\xff\x4f\xff\x51" or len(code) < 50:
        return damage_segment(code, rng)
    out = bytearray(code)
    for _ in range(rng.randrange(1, 4)):
        struct.pack_into(">L", out, 8 + 4 * rng.randrange(8), rng.choice(EXTREME_LONGS))
    if rng.random() < 0.2:
        out[rng.choice((6, 40, 41, 42, 43, 44))] = rng.choice(EXTREME_BYTES)
    return bytes(out)


def run_lengths(code: bytes, rng: Random) -> bytes:
    """RLE: number and offsets of the segments, and runs."""
    out = bytearray(code)
    if len(out) < 64 or rng.random() < 0.4:
        return flip_bits(code, rng)
    for _ in range(rng.randrange(1, 4)):
        value = rng.choice([*EXTREME_LONGS, len(code), len(code) - 1, 66, 100])
        struct.pack_into("<L", out, 4 * rng.randrange(16), value)
    return bytes(out)


# Functional groups of multi-frame images, deflated data sets


def functional_groups(data: bytes, rng: Random) -> bytes:
    """Frames without groups, groups without frames, macros missing, empty, doubled, of another frame."""
    try:
        dataset = pydicom.dcmread(BytesIO(data), force=True)
        shared, frames = dataset.SharedFunctionalGroupsSequence, dataset.PerFrameFunctionalGroupsSequence
        what = rng.randrange(9)
        groups = rng.choice([*frames, shared[0], shared[0]])
        if what == 0:
            del groups[rng.choice(list(groups.keys()))]
        elif what == 1:
            groups[rng.choice(list(groups.keys()))].value = []
        elif what == 2:
            [macro] = rng.choice([element.value for element in groups])
            del macro[rng.choice(list(macro.keys()))]
        elif what == 3:
            dataset.PerFrameFunctionalGroupsSequence = list(frames)[: rng.randrange(len(frames))]
        elif what == 4:
            dataset.PerFrameFunctionalGroupsSequence = list(frames) * rng.choice((2, 50))
        elif what == 5:
            dataset.PerFrameFunctionalGroupsSequence = [pydicom.Dataset() for _ in range(rng.choice((1, 16, 20000)))]
        elif what == 6:
            dataset.SharedFunctionalGroupsSequence = rng.choice(([], [pydicom.Dataset()], [shared[0], shared[0]]))
        elif what == 7:
            frames[rng.randrange(len(frames))] = frames[rng.randrange(len(frames))]
        else:
            dataset.NumberOfFrames = rng.choice((0, 1, 2, 17, 16384, 16385, 2**31 - 1))
        out = BytesIO()
        dataset.save_as(out)
        return out.getvalue()
    except Exception:  # damaged before
        return data


def inside_deflated(damage: Mutator) -> Mutator:
    """Damage to the data set before it is deflated, so that it is found only after it was inflated."""

    def mutator(data: bytes, rng: Random) -> bytes:
        layout, elements = walk(data)
        if not elements or elements[-1].tag >> 16 != 2:
            return damage(data, rng)
        end = elements[-1].end
        try:
            inner = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data[end:], 1 << 26)
        except zlib.error:
            return damage(data, rng)
        if len(inner) > 8 << 20:  # a bomb already
            return data
        uid = next((e for e in elements if e.tag == SYNTAX_UID), None)
        if uid is None:
            return damage(data, rng)
        plain = _with_value(data[:end], layout, uid, EXPLICIT_LITTLE_ENDIAN.encode())
        damaged = damage(plain + inner, rng)
        return data[:end] + _deflate(damaged[len(plain) :])

    return mutator


def _deflate(data: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(data) + deflater.flush()


def deflate_bomb(data: bytes, rng: Random) -> bytes:
    """Pixels, or the last element before them, of zeros without end."""
    _, elements = walk(data)
    if not elements or elements[-1].tag >> 16 != 2:
        return data
    end = elements[-1].end
    try:
        inner = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data[end:], 1 << 26)
    except zlib.error:
        return data
    return data[:end] + _deflate(inner[: rng.randrange(len(inner) + 1)] + bytes(rng.choice((20, 60, 100)) << 20))


# Zip archives


def zip_directory(data: bytes, rng: Random) -> bytes:
    """A field of the central directory, of a local header or of the end record."""
    heads = [at for signature in (b"PK\1\2", b"PK\3\4", b"PK\5\6") for at in _all(data, signature)]
    if not heads:
        return flip_bits(data, rng)
    at = rng.choice(heads) + rng.randrange(4, 46)
    size = rng.choice((1, 2, 4))
    value = rng.choice({1: EXTREME_BYTES, 2: EXTREME_WORDS, 4: EXTREME_LONGS}[size])
    return _splice(data, at, at + size, value.to_bytes(size, "little"))


def zip_sizes(data: bytes, rng: Random) -> bytes:
    """Sizes of a member that lie, in the directory and before the member."""
    entries = list(_all(data, b"PK\1\2"))
    if not entries:
        return data
    out = bytearray(data)
    at = rng.choice(entries)
    (compressed, size) = struct.unpack_from("<LL", out, at + 20)
    size = rng.choice((0, 1, size - 1, size + 1, 2 * size, 0x7FFFFFFF, UNDEFINED, 1 << 31))
    compressed = rng.choice((0, 1, compressed, compressed - 1, len(data), 0x7FFFFFFF, UNDEFINED))
    struct.pack_into("<LL", out, at + 20, compressed & UNDEFINED, size & UNDEFINED)
    return bytes(out)


def zip_method(data: bytes, rng: Random) -> bytes:
    """Another compression method or flag, in directory and local headers alike."""
    out = bytearray(data)
    method, flags = rng.choice((0, 8, 9, 12, 14, 93, 99, 255)), rng.choice((0, 0, 0, 1, 8, 0x800, 0x2001))
    for signature, where in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        for at in _all(data, signature):
            if at + where + 4 <= len(out):
                struct.pack_into("<HH", out, at + where, flags, method)
    return bytes(out)


def zip_names(data: bytes, rng: Random) -> bytes:
    """Members named by letters that no file system takes, or all alike."""
    out = bytearray(data)
    name = rng.choice((b"\0" * 8, b"\xff" * 8, b"../../..", b"//////..", b"a.zip\\.\\", rng.randbytes(8)))
    for signature, where in ((b"PK\1\2", 46), (b"PK\3\4", 30)):
        for at in _all(data, signature):
            out[at + where : at + where + 8] = name
    return bytes(out[: len(data)])


# NIfTI


NIFTI_1 = [  # offset, format of struct
    (0, "i"), (70, "h"), (72, "h"), (108, "f"), (112, "f"), (116, "f"), (123, "B"), (252, "h"), (254, "h"), (344, "i"),
    *((40 + 2 * n, "h") for n in range(8)), *((76 + 4 * n, "f") for n in range(8)),
    *((256 + 4 * n, "f") for n in range(18)),
]  # fmt: skip
NIFTI_2 = [
    (0, "i"), (4, "i"), (12, "h"), (14, "h"), (168, "q"), (176, "d"), (184, "d"), (344, "i"), (348, "i"), (500, "i"),
    *((16 + 8 * n, "q") for n in range(8)), *((104 + 8 * n, "d") for n in range(8)),
    *((352 + 8 * n, "d") for n in range(18)),
]  # fmt: skip
WHOLE = [0, 1, -1, 2, 3, 4, 7, 8, 16, 32, 63, 64, 65, 128, 256, 512, 768, 1024, 1280, 1792, 2048, 2304, 32767, -32768,
         2**31 - 1, -(2**31), 2**40, 2**62]  # fmt: skip
REAL = [0.0, 1.0, -1.0, 1e-40, 1e-6, 0.01, 2.5, 11.0, -1000.0, 1e6, 1e9, 1e30, 3e38, -3e38, float("nan"), float("inf"),
        348.0, 352.0, 353.0, 540.0, 544.0]  # fmt: skip


def nifti_header(data: bytes, rng: Random) -> bytes:
    """Fields at their extremes: dimensions, type, scale, place."""
    out = bytearray(data)
    second = data[:4] == (540).to_bytes(4, "little")
    for _ in range(rng.choice((1, 1, 2, 3))):
        at, form = rng.choice(NIFTI_2 if second else NIFTI_1)
        if at + struct.calcsize(form) > len(out):
            continue
        if form in "fd":
            struct.pack_into("<" + form, out, at, rng.choice(REAL))
        else:
            bits = 8 * struct.calcsize(form)
            out[at : at + bits // 8] = (rng.choice(WHOLE) & ((1 << bits) - 1)).to_bytes(bits // 8, "little")
    return bytes(out)


def nifti_dimensions(data: bytes, rng: Random) -> bytes:
    """As many voxels as there are, in another shape; or a few enormous numbers."""
    out = bytearray(data)
    second = data[:4] == (540).to_bytes(4, "little")
    at, form = (16, "<8q") if second else (40, "<8h")
    if len(out) < at + struct.calcsize(form):
        return data
    dims = list(struct.unpack_from(form, out, at))
    if rng.random() < 0.5:
        shape = dims[1:4]
        for _ in range(rng.randrange(1, 8)):
            a, b = rng.sample(range(3), 2)
            if shape[a] % 2 == 0 and shape[b] < 16000:
                shape[a], shape[b] = shape[a] // 2, shape[b] * 2
        dims[1:4] = shape
    else:
        dims[0] = rng.choice((0, 1, 2, 3, 3, 3, 4, 5, 7, 8, -1))
        dims[1:5] = [rng.choice((0, 1, 2, 64, 512, 4096, 30000, 32767, -1)) for _ in range(4)]
    most = 2**63 - 1 if second else 2**15 - 1  # a mutation of a mutation may have gone beyond
    struct.pack_into(form, out, at, *(max(-most, min(most, extent)) for extent in dims))
    return bytes(out)


def inside_gzip(damage: Mutator) -> Mutator:
    def mutator(data: bytes, rng: Random) -> bytes:
        if data[:2] != b"\x1f\x8b":
            return damage(data, rng)
        try:
            plain = zlib.decompressobj(wbits=31).decompress(data, 1 << 26)
        except zlib.error:
            return damage(data, rng)
        return gzip.compress(damage(plain, rng), 1, mtime=0)

    return mutator


def gzip_bomb(data: bytes, rng: Random) -> bytes:
    """Zeros without end behind the voxels, in the same member or in more."""
    if data[:2] != b"\x1f\x8b":
        return data
    zeros = rng.choice((40, 100)) << 20
    if rng.random() < 0.5:
        return data + gzip.compress(bytes(zeros), mtime=0)
    try:
        plain = zlib.decompressobj(wbits=31).decompress(data, 1 << 26)
    except zlib.error:
        return data
    return gzip.compress(plain + bytes(zeros), mtime=0)


# Text


JSON_VALUES = (b"null", b"NaN", b"-1", b"1e999", b"[]", b"{}", b'""', b'"x"', b"true", b"[" * 3000, b"9" * 5000,
               b'"\\ud800"', b'"../../x"', b"")  # fmt: skip


def json_value(data: bytes, rng: Random) -> bytes:
    """A word or number of a JSON text replaced by another kind of value."""
    places = [at for at in _all(data, b": ")]
    if not places:
        return flip_bits(data, rng)
    at = rng.choice(places) + 2
    end = min((data.find(c, at) for c in (b",", b"\n", b"}") if data.find(c, at) >= 0), default=len(data))
    return _splice(data, at, end, rng.choice(JSON_VALUES))


ANY: dict[str, Mutator] = {f.__name__: f for f in (flip_bits, overwrite, move_bytes, cut_short)}
DICOM: dict[str, Mutator] = {
    f.__name__: f
    for f in (
        flip_bits_in_the_header, wrong_length, missing_tag, tags_out_of_order, another_tag, extreme_value,
        extreme_attribute, change_vr, change_pixel_vr, swap_syntax, nest_deep, many_elements, wrong_character_set,
        short_pixels, enormous,
    )
}  # fmt: skip
ON_CODESTREAMS = (*ANY.values(), damage_segment, coding_style, image_and_tiles, run_lengths)
CODESTREAM: dict[str, Mutator] = {
    "fragments": fragments,
    **{f"codestream_{f.__name__}": on_a_codestream(f) for f in ON_CODESTREAMS},
}
GROUPS: dict[str, Mutator] = {"functional_groups": functional_groups}
DEFLATE: dict[str, Mutator] = {
    "deflate_bomb": deflate_bomb,
    **{f"inside_deflated_{name}": inside_deflated(f) for name, f in DICOM.items()},
}
ZIP: dict[str, Mutator] = {f.__name__: f for f in (zip_directory, zip_sizes, zip_method, zip_names)}
NIFTI: dict[str, Mutator] = {f.__name__: f for f in (nifti_header, nifti_dimensions)}
GZIP: dict[str, Mutator] = {
    "gzip_bomb": gzip_bomb,
    **{f"inside_gzip_{name}": inside_gzip(f) for name, f in {**NIFTI, **ANY}.items()},
}
JSON: dict[str, Mutator] = {"json_value": json_value}
