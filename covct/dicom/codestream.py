"""What a compressed frame says of itself, read before any decoder is called.

Decoders believe the codestream, not the data set: one of a few bytes may claim 65,535 x 65,535 pixels.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from covct.errors import SourceDefect

MOST_TILES = 1024  # of a JPEG 2000 image: 4096 x 4096 in tiles of 128; a decoder keeps some KiB for each
TAIL = 16  # bytes in which the end marker must stand: encoders pad with zeros, some with more
START_OF_SCAN = 0xDA
STANDALONE = {0x01, *range(0xD0, 0xD8)}  # markers without a segment
FRAME_MARKERS = {
    "jpeg": {0xC0: "baseline", 0xC1: "extended"},
    "jpeg-lossless": {0xC3: "lossless"},
    "jpeg-ls": {0xF7: "JPEG-LS"},
}
OTHER_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
JPEG_LS_PARAMETERS, OVERSIZE = 0xF8, 4


@dataclass(frozen=True)
class Coded:
    """The image that a codestream declares.

    Attributes
    ----------
    precision : int
        Bits of a sample.
    signed : bool
        JPEG 2000 alone knows signed samples; the others carry two's complement as if unsigned.
    """

    rows: int
    columns: int
    components: int
    precision: int
    signed: bool = False


def coded(codestream: bytes, kind: str) -> Coded:
    """Read the size from the headers of a JPEG, JPEG-LS or JPEG 2000 codestream.

    Parameters
    ----------
    kind : str
        "jpeg", "jpeg-lossless", "jpeg-ls" or "jpeg2000".

    Raises
    ------
    SourceDefect
        Another kind of codestream, damaged headers, or an end that is missing: libjpeg fills what is missing with grey.
    """
    if b"\xff\xd9" not in codestream.rstrip(b"\0")[-TAIL:]:
        raise SourceDefect(f"the codestream of {len(codestream)} bytes has no end marker: cut short?")
    try:
        return _jpeg_2000(codestream) if kind == "jpeg2000" else _jpeg(codestream, kind)
    except (struct.error, IndexError) as error:
        raise SourceDefect(f"the codestream of {len(codestream)} bytes ends within its headers") from error


def _jpeg(codestream: bytes, kind: str) -> Coded:
    """Walk the marker segments up to the first scan (ISO/IEC 10918-1 B.2, 14495-1 C.2)."""
    if codestream[:2] != b"\xff\xd8":
        raise SourceDefect(f"the codestream begins with {codestream[:4].hex(' ')}, wanted ff d8 (JPEG)")
    found: Coded | None = None
    position = 2
    while True:
        if codestream[position] != 0xFF:
            raise SourceDefect(f"no marker at byte {position} of the JPEG headers")
        marker = codestream[position + 1]
        if marker == 0xFF or marker in STANDALONE:  # fill byte, or a marker that stands alone
            position += 1 if marker == 0xFF else 2
            continue
        if marker == START_OF_SCAN:
            if found is None:
                raise SourceDefect("the JPEG scan comes before its frame header")
            return found
        (length,) = struct.unpack_from(">H", codestream, position + 2)
        if marker in FRAME_MARKERS[kind]:
            if found:
                raise SourceDefect("two JPEG frame headers, wanted one")
            precision, rows, columns, components = struct.unpack_from(">BHHB", codestream, position + 4)
            found = Coded(rows, columns, components, precision)
        elif marker in OTHER_FRAMES:
            wanted = " or ".join(f"SOF{number & 0x3F} ({name})" for number, name in FRAME_MARKERS[kind].items())
            raise SourceDefect(f"the JPEG frame is of kind SOF{marker & 0x3F}, wanted {wanted}")
        elif marker == JPEG_LS_PARAMETERS and codestream[position + 4] == OVERSIZE:
            raise SourceDefect("the JPEG-LS codestream declares its size a second time")
        position += 2 + max(2, length)


def raw_codestream(frame: bytes) -> bytes:
    """JPEG 2000 without the boxes of a .jp2 file, which some writers leave around it (PS3.5 A.4.4 forbids them)."""
    if frame[4:8] != b"jP  ":
        return frame
    position = 0
    while position + 8 <= len(frame):
        length, name = struct.unpack_from(">L4s", frame, position)
        if name == b"jp2c":
            return frame[position + 8 : position + length if length > 8 else None]
        if length < 8:
            break
        position += length
    raise SourceDefect("a .jp2 file without a codestream")


def _jpeg_2000(codestream: bytes) -> Coded:
    """SIZ comes first, at once after the start (ISO/IEC 15444-1 A.5.1)."""
    if codestream[:4] != b"\xff\x4f\xff\x51":
        raise SourceDefect(f"the codestream begins with {codestream[:4].hex(' ')}, wanted ff 4f ff 51 (JPEG 2000)")
    width, height, left, top, tile_width, tile_height, tile_left, tile_top, components = struct.unpack_from(
        ">8LH", codestream, 8
    )
    depth, across, down = struct.unpack_from("3B", codestream, 42)
    if (across, down) != (1, 1):
        raise SourceDefect(f"JPEG 2000 samples are {down} x {across} pixels apart, wanted 1 x 1")
    if not tile_width or not tile_height:
        raise SourceDefect("JPEG 2000 tiles of no size")
    tiles = -(-(width - tile_left) // tile_width) * -(-(height - tile_top) // tile_height)
    if not 1 <= tiles <= MOST_TILES:
        raise SourceDefect(f"{tiles} JPEG 2000 tiles, wanted at most {MOST_TILES}")
    return Coded(height - top, width - left, components, (depth & 0x7F) + 1, bool(depth & 0x80))
