"""What a compressed frame says of itself, read before any decoder is called.

Decoders believe the codestream, not the data set: one of a few bytes may claim 65,535 x 65,535 pixels.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
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
# JPEG 2000: what OpenJPEG knows in the main header and before a tile's data; within others it searches for one.
SIZ, COD, COC, START_OF_TILE, START_OF_DATA = 0x51, 0x52, 0x53, 0x90, 0x93
J2K_MARKERS = {0x50, SIZ, COD, COC, 0x55, 0x57, 0x58, 0x59, 0x5C, 0x5D, 0x5E, 0x5F, 0x60, 0x61, 0x63, 0x64, 0x74, 0x75,
               0x77, 0x78}  # fmt: skip
# OpenJPEG keeps 1.6 KiB for each precinct, 300 bytes for each code block, 2 for each layer of a precinct; an honest
# image needs 6 bytes a pixel in all. Encoders make precincts of 128 x 128 and more, blocks of 32 x 32 and 64 x 64.
PIXELS_A_PRECINCT, FREE_PRECINCTS = 1024, 64
SMALLEST_BLOCK = 8  # as a power of 2: 16 x 16


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
    rows, columns = height - top, width - left
    tile = min(tile_width, columns), min(tile_height, rows)
    for marker, value in _j2k_segments(codestream):
        if marker == COD:
            _check_coding_style(value[0], value[1:5], value[5:], tile, tiles, rows * columns)
        elif marker == COC:
            skip = 1 if components < 257 else 2
            _check_coding_style(value[skip], b"", value[skip + 1 :], tile, tiles, rows * columns)
    return Coded(rows, columns, components, (depth & 0x7F) + 1, bool(depth & 0x80))


def _j2k_segments(codestream: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and value of each segment of the main header and of the tile parts' headers (ISO/IEC 15444-1 A.3)."""
    position, tile_part = 2, 0
    while codestream[position : position + 2] not in (b"\xff\xd9", b""):
        start, marker = struct.unpack_from(">BB", codestream, position)
        if start == 0xFF and marker == START_OF_DATA:
            (length,) = struct.unpack_from(">L", codestream, tile_part + 6)
            if not length:  # to the end
                return
            position = max(position + 2, tile_part + length)
            continue
        (length,) = struct.unpack_from(">H", codestream, position + 2)
        if start != 0xFF or marker not in J2K_MARKERS | {START_OF_TILE} or length < 2:
            raise SourceDefect(f"no JPEG 2000 marker that is known at byte {position}: {start:02x} {marker:02x}")
        if marker == START_OF_TILE:
            tile_part = position
        yield marker, codestream[position + 4 : position + 2 + length]
        position += 2 + length


def _check_coding_style(flags: int, order: bytes, style: bytes, tile: tuple[int, int], tiles: int, pixels: int) -> None:
    """Refuse precincts, code blocks and layers so many that they need more memory than the pixels do.

    Parameters
    ----------
    flags : int
        Scod or Scoc; bit 0: precinct sizes follow.
    order : bytes
        SGcod: progression, layers, transformation of components. Empty for COC.
    style : bytes
        SPcod or SPcoc: levels, code block width and height, and so on (A.6.1).
    """
    levels, block_width, block_height = style[:3]
    layers = struct.unpack(">H", order[1:3])[0] if order else 1
    precincts = 0
    for level in range(min(levels, 32) + 1):  # the coarsest comes first
        width, height = (-(-side >> (min(levels, 32) - level)) for side in tile)
        size = style[5 + level] if flags & 1 else 0xFF
        precincts += tiles * -(-width >> (size & 15)) * -(-height >> (size >> 4))
    if (block_width & 15) + (block_height & 15) + 4 < SMALLEST_BLOCK:
        raise SourceDefect("JPEG 2000 code blocks of fewer than 256 pixels")
    if precincts > FREE_PRECINCTS + tiles * (levels + 1) + pixels // PIXELS_A_PRECINCT or layers * precincts > pixels:
        raise SourceDefect(f"{precincts} JPEG 2000 precincts of {layers} layers for {pixels} pixels")
