"""Stored pixels to Hounsfield units: what the header declares is checked, then a frame is decoded, then rescaled.

Nothing is allocated or decoded before header and codestream agree on a plausible size, so that no file makes covct
use more memory than an honest file of the size it declares.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pydicom

from covct.dicom.codestream import coded, raw_codestream
from covct.dicom.quotable import PHOTOMETRIC_INTERPRETATIONS, quoted
from covct.dicom.read import MOST_FRAMES, transfer_syntax_uid
from covct.dicom.syntaxes import EXPLICIT_BIG_ENDIAN, syntax
from covct.errors import SourceDefect
from covct.voxels.volume import PADDING_HU

LARGEST_SIDE = 4096  # rows or columns; CT scanners reconstruct up to 2048
HIGHEST_HU = 32767  # of int16
STEEPEST_SLOPE, FARTHEST_INTERCEPT = 1e3, 1e6  # Hounsfield units need no more, and sums stay exact
PIXEL_VRS = {"OB", "OW", "UN", "OB or OW", None}  # None: implicit
ITEM, DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
FRAME_STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  ")  # JPEG and JPEG-LS, JPEG 2000, .jp2
RLE_HEADER = struct.Struct("<16L")  # number of segments, offsets of 15 (PS3.5 G.5)
LONGEST_RUN = 64  # RLE: 128 equal bytes are coded in 2
PIXELS_A_BYTE = {"jpeg-lossless": 8, "jpeg": 256}  # at most: a bit a pixel; 2 bits a block of 8 x 8


Fragments = list[tuple[int, int]]  # start and end in the Pixel Data


def frame_index(dataset: pydicom.Dataset) -> list[Fragments]:
    """Where the fragments of each frame lie in encapsulated Pixel Data; empty where pixels are plain.

    Raises
    ------
    SourceDefect, SeriesError
        As `hounsfield`.
    """
    image, raw = describe(dataset), dataset.get_item("PixelData")
    if raw is None or not raw.value or syntax(transfer_syntax_uid(dataset)).codestream is None:
        return []
    return _frames(raw.value, image.frames)


def hounsfield(
    dataset: pydicom.Dataset,
    frame: int | None = None,
    rescale: tuple[float, float] | None = None,
    index: list[Fragments] | None = None,
) -> np.ndarray:
    """One slice in HU.

    MONOCHROME1 changes nothing: it says that low values are to be *shown* bright (PS3.3 C.7.6.3.1.2); the rescale is
    applied to the stored values all the same.

    Parameters
    ----------
    dataset : pydicom.Dataset
        With Pixel Data, as read by `covct.dicom.read.read_dataset`.
    frame : int, optional
        Frame number, from 1, of a multi-frame instance.
    rescale : (float, float), optional
        Slope and intercept; default those of the dataset's top level, else 1 and 0.
    index : list of Fragments, optional
        What `frame_index` says of the dataset: with it, fragments are not looked for anew for each of many frames.

    Returns
    -------
    (rows, columns)
        int16 for a whole-numbered rescale, else float32; from PADDING_HU to 32767, clipped and never wrapped. Padding
        (Pixel Padding Value, and the range to Pixel Padding Range Limit) becomes air.

    Raises
    ------
    SourceDefect
        What was got and what was wanted: pixels that are no CT slice, too few of them, a codestream of another size.
    SeriesError
        `unreadable`: a transfer syntax that is not read.
    Exception
        Of any kind: decoders raise whatever damaged pixels make them raise.
    """
    image = describe(dataset)
    slope, intercept = _checked_rescale(dataset, rescale)
    if frame is None and image.frames > 1:
        raise SourceDefect(f"{image.frames} frames, wanted one or the number of one")
    number = 1 if frame is None else frame
    if not 1 <= number <= image.frames:
        raise SourceDefect(f"frame {number} of {image.frames}")
    patterns, bits = _decoded(dataset, image, number - 1, index)
    if patterns.shape != (image.rows, image.columns) or patterns.dtype.itemsize * 8 > image.bits_allocated:
        raise SourceDefect(
            f"{patterns.dtype} pixels of shape {patterns.shape} were decoded, wanted {image.bits_allocated} bits of "
            f"{image.rows} x {image.columns}"
        )
    table = _hounsfield_table(patterns.dtype.itemsize * 8, bits, image.signed, slope, intercept, image.padding)
    return np.take(table, patterns)


@dataclass(frozen=True)
class Image:
    """What the Image Pixel module (PS3.3 C.7.6.3) declares, found plausible.

    Attributes
    ----------
    padding : (int, int) or None
        The first and the last stored value that mean "no pixel here", as the header's writer took them.
    """

    rows: int
    columns: int
    frames: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    padding: tuple[int, int] | None

    @property
    def frame_bytes(self) -> int:
        return self.rows * self.columns * self.bits_allocated // 8


def describe(dataset: pydicom.Dataset) -> Image:
    """Check that a header declares pixels of a CT.

    Raises
    ------
    SourceDefect
        Which attribute, what was got and what was wanted.
    """
    for keyword in ("FloatPixelData", "DoubleFloatPixelData"):
        if keyword in dataset:
            raise SourceDefect(f"pixels are floating point ({keyword}), wanted integers (PixelData)")
    rows = _whole(dataset, "Rows", None, 1, LARGEST_SIDE)
    columns = _whole(dataset, "Columns", None, 1, LARGEST_SIDE)
    frames = _whole(dataset, "NumberOfFrames", 1, 1, MOST_FRAMES)
    _whole(dataset, "SamplesPerPixel", 1, 1, 1)
    photometric = str(dataset.get("PhotometricInterpretation") or "MONOCHROME2").strip()
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        said = quoted(photometric, PHOTOMETRIC_INTERPRETATIONS)
        raise SourceDefect(f"PhotometricInterpretation is {said}, wanted MONOCHROME1 or MONOCHROME2")
    allocated = _whole(dataset, "BitsAllocated", None, 8, 16)
    if allocated not in (8, 16):
        raise SourceDefect(f"BitsAllocated is {allocated}, wanted 8 or 16")
    stored = _whole(dataset, "BitsStored", allocated, 1, allocated)
    _whole(dataset, "HighBit", stored - 1, stored - 1, stored - 1)
    signed = _whole(dataset, "PixelRepresentation", 0, 0, 1) == 1
    if dataset.get("ModalityLUTSequence"):
        raise SourceDefect("a Modality LUT Sequence, wanted Rescale Slope and Intercept")
    return Image(rows, columns, frames, allocated, stored, signed, _padding(dataset))


def _whole(dataset: pydicom.Dataset, keyword: str, default: int | None, least: int, most: int) -> int:
    """A whole number of the header within bounds. An empty or absent one is the default, where there is one."""
    value: Any = dataset.get(keyword)
    wanted = str(least) if least == most else f"{least} to {most}"
    if value is None or value == "":
        if default is None:
            raise SourceDefect(f"{keyword} is missing, wanted {wanted}")
        return default
    try:
        number = int(value)
    except (TypeError, ValueError):
        raise SourceDefect(f"{keyword} is no whole number, wanted {wanted}") from None
    if not least <= number <= most:
        raise SourceDefect(f"{keyword} is {number}, wanted {wanted}")
    return number


def _padding(dataset: pydicom.Dataset) -> tuple[int, int] | None:
    """Pixel Padding Value and Pixel Padding Range Limit, in either order (PS3.3 C.7.5.1.1.2)."""
    value, limit = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    if value is None or value == "":
        return None
    try:
        return int(value), int(value if limit is None or limit == "" else limit)
    except (TypeError, ValueError):
        raise SourceDefect("PixelPaddingValue or PixelPaddingRangeLimit is no whole number") from None


def _checked_rescale(dataset: pydicom.Dataset, rescale: tuple[float, float] | None) -> tuple[float, float]:
    if rescale is None:
        given = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
        try:
            slope, intercept = (d if v in (None, "") else float(v) for v, d in zip(given, (1.0, 0.0), strict=True))
        except (TypeError, ValueError):
            raise SourceDefect("RescaleSlope or RescaleIntercept is no number") from None
    else:
        slope, intercept = float(rescale[0]), float(rescale[1])
    # NaN compares as false
    if not 0 < abs(slope) <= STEEPEST_SLOPE:
        raise SourceDefect(f"RescaleSlope is {slope:g}, wanted a number other than 0 and up to {STEEPEST_SLOPE:g}")
    if not abs(intercept) <= FARTHEST_INTERCEPT:
        raise SourceDefect(f"RescaleIntercept is {intercept:g}, wanted one up to {FARTHEST_INTERCEPT:g}")
    return slope, intercept


@lru_cache(maxsize=16)  # one entry serves a series; slopes that change from slice to slice cost 1 ms each
def _hounsfield_table(
    width: int, bits: int, signed: bool, slope: float, intercept: float, padding: tuple[int, int] | None
) -> np.ndarray:
    """HU of every pattern of `width` bits that a pixel can hold: int16, or float32 for a fractional rescale.

    One table in place of arithmetic on each slice: as fast, and nothing can wrap.

    Parameters
    ----------
    bits : int
        The low bits that carry the value; those above may hold anything (retired overlays, garbage, no sign).
    """
    patterns = np.arange(1 << width, dtype=np.int64)
    values = _numbers(patterns, bits, signed)
    hu = values * slope + intercept
    if padding is not None:
        # writers take the padding's sign as they like, and set it in all bits allocated (-2000 in 12 bits stored)
        for numbers, in_bits in ((values, bits), (_numbers(patterns, width, signed), width)):
            low, high = sorted(int(v) for v in _numbers(np.array(padding), in_bits, signed))
            hu[(numbers >= low) & (numbers <= high)] = PADDING_HU
    hu = np.clip(hu, PADDING_HU, HIGHEST_HU)
    table = hu.astype(np.int16 if slope.is_integer() and intercept.is_integer() else np.float32)
    table.flags.writeable = False  # it is shared
    return table


def _numbers(patterns: np.ndarray, bits: int, signed: bool) -> np.ndarray:
    """The low bits of each pattern as a number, two's complement where signed."""
    low = patterns & ((1 << bits) - 1)
    return low - ((low >> (bits - 1)) << bits) if signed else low


def _decoded(
    dataset: pydicom.Dataset, image: Image, number: int, index: list[Fragments] | None
) -> tuple[np.ndarray, int]:
    """The bit patterns of one frame, (rows, columns) unsigned, and how many low bits of each carry the value."""
    raw = dataset.get_item("PixelData")
    if raw is None or not raw.value:
        raise SourceDefect("no Pixel Data")
    if raw.VR not in PIXEL_VRS:  # bytes as numbers would take ten times their memory
        raise SourceDefect(f"Pixel Data has the value representation {raw.VR!r:.8}, wanted OW or OB")
    element = dataset["PixelData"]
    data: bytes = element.value
    uid = transfer_syntax_uid(dataset)
    kind = syntax(uid).codestream
    if kind is None:
        return _plain(data, element, image, number, big=uid == EXPLICIT_BIG_ENDIAN), image.bits_stored
    fragments = (index or _frames(data, image.frames))[number]
    frame = b"".join(data[start:end] for start, end in fragments)
    if kind == "rle":
        return _run_lengths(frame, image), image.bits_stored
    return _decompressed(frame, kind, image)


def _plain(data: bytes, element: pydicom.DataElement, image: Image, index: int, big: bool) -> np.ndarray:
    wanted, bytes_each = image.frame_bytes * image.frames, image.bits_allocated // 8
    if element.is_undefined_length:
        raise SourceDefect("Pixel Data is compressed, the transfer syntax says it is not")
    if len(data) < wanted:
        raise SourceDefect(f"Pixel Data has {len(data)} bytes, wanted {wanted}")
    if len(data) >= wanted + image.frame_bytes and len(data) > wanted + 1:
        raise SourceDefect(f"Pixel Data has {len(data)} bytes, wanted {wanted}: more frames than the header says")
    count, offset = image.rows * image.columns, index * image.frame_bytes
    if big and bytes_each == 1 and element.VR == "OW":  # bytes lie in words, swapped
        pixels = np.frombuffer(data[: len(data) // 2 * 2], "<u2").byteswap().view(np.uint8)[offset : offset + count]
        if len(pixels) < count:
            raise SourceDefect(f"Pixel Data has {len(data)} bytes, wanted whole words")
    else:
        pixels = np.frombuffer(data, f"{'>' if big else '<'}u{bytes_each}", count, offset)
    return pixels.reshape(image.rows, image.columns)


def _frames(data: bytes, frames: int) -> list[Fragments]:
    """The fragments of each frame of encapsulated pixel data (PS3.5 A.4).

    Offset tables are often wrong, so they are not relied on: frames are fragments, or begin where a codestream does.
    """
    fragments = _fragments(data)
    if frames == 1:
        return [fragments]
    if len(fragments) > frames:
        starts = [k for k, (start, _) in enumerate(fragments) if data.startswith(FRAME_STARTS, start)]
        groups = [fragments[a:b] for a, b in zip(starts, [*starts[1:], len(fragments)], strict=True)]
    else:
        groups = [[fragment] for fragment in fragments]
    if len(groups) != frames:
        raise SourceDefect(f"Pixel Data holds {len(groups)} frames in {len(fragments)} fragments, wanted {frames}")
    return groups


def _fragments(data: bytes) -> Fragments:
    """Start and end of each fragment, without the offset table and empty ones."""
    found = []
    position, first = 0, True
    while data[position : position + 4] == ITEM:
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        start, position = position + 8, position + 8 + length
        if position > len(data):
            raise SourceDefect(f"a fragment of {length} bytes is cut short after {len(data) - start}")
        if length and not first:
            found.append((start, position))
        first = False
    if data[position : position + 4] not in (DELIMITER, b""):
        raise SourceDefect(f"no fragment at byte {position} of the Pixel Data")
    if not found:
        raise SourceDefect("Pixel Data holds no fragment of a frame")
    return found


def _run_lengths(frame: bytes, image: Image) -> np.ndarray:
    """RLE (PS3.5 annex G): a segment for each byte of a pixel, the most significant first."""
    import imagecodecs

    bytes_each, count = image.bits_allocated // 8, image.rows * image.columns
    if len(frame) < RLE_HEADER.size:
        raise SourceDefect(f"an RLE frame of {len(frame)} bytes, wanted a header of {RLE_HEADER.size}")
    segments, *offsets = RLE_HEADER.unpack_from(frame)
    if segments != bytes_each:
        raise SourceDefect(f"{segments} RLE segments, wanted {bytes_each}")
    bounds = [*offsets[:segments], len(frame)]
    if bounds[0] != RLE_HEADER.size or any(a >= b for a, b in zip(bounds, bounds[1:], strict=False)):
        raise SourceDefect(f"RLE segments begin at {', '.join(map(str, bounds[:-1]))} of {len(frame)} bytes")
    if min(b - a for a, b in zip(bounds, bounds[1:], strict=False)) * LONGEST_RUN < count:
        raise SourceDefect(f"an RLE segment is too short for {count} pixels")
    pixels = np.empty((count, bytes_each), np.uint8)
    for number in range(segments):
        # one byte more: some writers encode the padding to an even length
        plane = imagecodecs.packbits_decode(frame[bounds[number] : bounds[number + 1]], out=count + 1)
        if len(plane) < count:
            raise SourceDefect(f"an RLE segment expands to {len(plane)} bytes, wanted {count}")
        pixels[:, bytes_each - 1 - number] = np.frombuffer(plane, np.uint8, count)
    return pixels.view(f"<u{bytes_each}").reshape(image.rows, image.columns)


def _decompressed(frame: bytes, kind: str, image: Image) -> tuple[np.ndarray, int]:
    import imagecodecs

    codestream = raw_codestream(frame) if kind == "jpeg2000" else frame
    said = coded(codestream, kind)
    if (said.rows, said.columns, said.components) != (image.rows, image.columns, 1):
        raise SourceDefect(
            f"the codestream holds {said.rows} x {said.columns} pixels of {said.components} samples, the header says "
            f"{image.rows} x {image.columns} of 1"
        )
    if not 2 <= said.precision <= image.bits_allocated:
        raise SourceDefect(f"the codestream has {said.precision} bits a sample, wanted 2 to {image.bits_allocated}")
    if len(codestream) * PIXELS_A_BYTE.get(kind, math.inf) < image.rows * image.columns:
        raise SourceDefect(f"the codestream of {len(codestream)} bytes is too short for {image.rows} x {image.columns}")
    decoders = {"jpeg2000": imagecodecs.jpeg2k_decode, "jpeg-ls": imagecodecs.jpegls_decode}
    pixels = decoders.get(kind, imagecodecs.jpeg8_decode)(codestream)
    patterns = pixels.view(f"u{pixels.dtype.itemsize}")
    if not said.signed:
        return patterns, min(said.precision, image.bits_stored)
    # Signed samples come with their sign in all bits. Where the header says unsigned, the codestream's bits are meant.
    return patterns, patterns.dtype.itemsize * 8 if image.signed else said.precision
