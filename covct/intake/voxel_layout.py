"""Where a file's voxels lie, by its header alone: what MetaImage and NRRD have in common."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import numpy as np

from covct.errors import SourceDefect

LONGEST_HEADER = 64 * 1024  # bytes; writers' own have less than one thousand


@dataclass(frozen=True)
class VoxelLayout:
    """What a header declares.

    Attributes
    ----------
    format : str
        "MetaImage" or "NRRD".
    shape : tuple of int
        Voxels along each axis; the first index runs fastest.
    dtype : numpy.dtype
        With its byte order.
    components : int
        Values a voxel: three of a colour.
    offset : int
        Bytes before the voxels, in the file that holds them; -1: they are its last ones.
    compressed : bool
        By zlib or gzip.
    data : str
        Name of the file that holds the voxels, in the header's own folder; empty: they follow the header.
    affine : (4, 4) float or None
        Index to LPS mm; None where the header does not say how the patient lies.
    missing : str
        Then: what it lacks.
    """

    format: str
    shape: tuple[int, ...]
    dtype: np.dtype
    components: int
    offset: int
    compressed: bool
    data: str = ""
    affine: np.ndarray | None = None
    missing: str = ""

    @property
    def size(self) -> int:
        """Bytes of the voxels, uncompressed."""
        return math.prod(self.shape) * self.components * self.dtype.itemsize


def extents(text: str, count: int) -> tuple[int, ...]:
    """Voxels along each axis.

    Raises
    ------
    SourceDefect
        Not as many as wanted, or no extents.
    """
    words = text.split()
    if len(words) != count or not all(word.isascii() and word.isdigit() and len(word) < 10 for word in words):
        raise SourceDefect(f"its header has no {count} sizes of {count} axes")
    if not all(int(word) for word in words):
        raise SourceDefect("its header declares an axis of 0 voxels")
    return tuple(int(word) for word in words)


def whole(text: str, name: str) -> int:
    """A whole number of a header's field."""
    try:
        return int(text[:20])
    except ValueError:
        raise SourceDefect(f"{name} in its header is not a whole number") from None


def numbers(text: str, count: int) -> np.ndarray | None:
    """As many finite numbers; None for anything else."""
    try:
        found = np.array([float(word) for word in text.split()])
    except ValueError:
        return None
    return found if len(found) == count and np.all(np.isfinite(found)) else None


def name_beside(text: str) -> str:
    """The name of a file in the header's own folder, which may be written as `./name`.

    Raises
    ------
    SourceDefect
        A path, an address, a list or a pattern of names: a header shall not make covct read what lies elsewhere.
    """
    text = text.removeprefix("./")
    is_bare = text and text == os.path.basename(text) and not set(text) & set('\\/:%*?<>|"\0') and text.isprintable()
    if not is_bare or text.startswith(".") or text.split()[0] == "LIST":
        raise SourceDefect("its voxels lie elsewhere (a path, an address or a list); wanted one file beside the header")
    return text
