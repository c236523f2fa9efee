"""Frames of bytes as RLE (PS3.5 annex G). Not by whatever encoder pydicom finds installed: GDCM's ends the process at
odd sizes.
"""

from __future__ import annotations

import struct

import numpy as np

RLE_HEADER = struct.Struct("<16L")  # number of segments, offsets of 15 (PS3.5 G.5)


def run_lengths(*planes: np.ndarray) -> bytes:
    """A frame: a segment for each plane of (rows, columns) uint8, of which no run goes beyond its row."""
    import imagecodecs

    offsets, segments = [RLE_HEADER.size], []
    for plane in planes:
        segment = b"".join(imagecodecs.packbits_encode(row.tobytes()) for row in plane)
        segments.append(segment + b"\0" * (len(segment) % 2))
        offsets.append(offsets[-1] + len(segments[-1]))
    return RLE_HEADER.pack(len(planes), *offsets[:-1], *[0] * (15 - len(planes))) + b"".join(segments)
