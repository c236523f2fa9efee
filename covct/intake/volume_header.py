"""Files that hold a whole volume (NIfTI, MetaImage, NRRD): which they are, and what is said at their beginning."""

from __future__ import annotations

import hashlib
import math
import os
import posixpath
import stat
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from covct.disk.archives import DEFLATE_RATIO, GZIP_MAGIC, LARGEST_FILE
from covct.disk.sources import Opener, SourceFile, digest, read_all, size_of
from covct.errors import SeriesError, SourceDefect, why
from covct.intake import metaimage, nrrd
from covct.intake.voxel_layout import LONGEST_HEADER, VoxelLayout

FORMATS = {
    ".nii": "nifti", ".nii.gz": "nifti", ".mha": "metaimage", ".mhd": "metaimage", ".nrrd": "nrrd", ".nhdr": "nrrd",
}  # fmt: skip
SUFFIXES = (".nii.gz", *FORMATS)
FORMAT_NAMES = {"nifti": "NIfTI", "metaimage": "MetaImage", "nrrd": "NRRD"}
PARSERS = {"metaimage": metaimage.parse, "nrrd": nrrd.parse}
DETACHED = (".mhd", ".nhdr")  # a header whose voxels lie in a file beside it
# NIfTI's codes of what a voxel is, and its bytes.
NIFTI_BYTES = {
    2: 1, 4: 2, 8: 4, 16: 4, 32: 8, 64: 8, 128: 3, 256: 1, 512: 2, 768: 4, 1024: 8, 1280: 8, 1536: 16, 1792: 16,
    2048: 32, 2304: 4,
}  # fmt: skip
NIFTI_HEADER, NIFTI2_HEADER = 348, 540


def format_of(name: str) -> str | None:
    """ "nifti", "metaimage" or "nrrd" by a file's name, in capitals or not; None for others."""
    stem = stem_of(name)
    return None if stem is None else FORMATS[name[len(stem) :].lower()]


def stem_of(name: str) -> str | None:
    """A volume file's name without its suffix; None for other files."""
    lower = name.lower()
    found = max((suffix for suffix in FORMATS if lower.endswith(suffix)), key=len, default="")
    return name[: len(name) - len(found)] if found else None


def volume_beside(stem: Path) -> Path | None:
    """The volume file of this name in whatever format, its suffix in capitals or not; NIfTI first."""
    names = {name.lower(): name for name in os.listdir(stem.parent)} if stem.parent.is_dir() else {}
    wanted = (f"{stem.name}{suffix}" for suffix in SUFFIXES)
    paths = (stem.with_name(names[name.lower()]) for name in wanted if name.lower() in names)
    return next((path for path in paths if stem_of(path.name) == stem.name and path.is_file()), None)


def data_file(file: SourceFile) -> SourceFile | None:
    """The file beside a detached header that holds its voxels; None for others, and where the header is defective."""
    if not (file.member or file.where).lower().endswith(DETACHED):
        return None
    try:
        return _beside(file, layout_of(file))
    except SeriesError:
        return None


def layout_of(file: SourceFile, opener: Opener | None = None) -> VoxelLayout:
    """What the header of a MetaImage or NRRD declares.

    Raises
    ------
    SeriesError
        `unreadable`.
    """
    kind = format_of(file.name)
    assert kind in PARSERS
    [(_, start)] = read_all([file], LONGEST_HEADER + 1, opener=opener)
    try:
        return PARSERS[kind](start)
    except SourceDefect as error:
        raise SeriesError("unreadable", f"the {FORMAT_NAMES[kind]} cannot be read: {error}", file.label) from error


def identity(file: SourceFile, opener: Opener | None = None, alive: Callable[[], None] = lambda: None) -> str:
    """What a volume file is known by: the sha256 of its contents, with those of the file that holds its voxels.

    Of a file whose header shows that it cannot be read, of its beginning and its size: sparse files of any length cost
    their sender nothing. `check` refuses such a file, so that the name stands for no result.

    Parameters
    ----------
    alive : function ()
        Called now and then: 2 GiB take seconds.

    Raises
    ------
    SeriesError
        `unreadable`, where not even the beginning can be read.
    """
    try:
        files = check(file, opener)
    except SeriesError:
        [(_, start)] = read_all([file], LONGEST_HEADER, opener=opener)
        size = size_of(file, opener)
        if size > LARGEST_FILE:
            raise
        return hashlib.sha256(b"%d %b" % (size, start)).hexdigest()
    found = [digest(one, opener, alive) for one in files]
    return found[0] if len(found) == 1 else hashlib.sha256(" ".join(found).encode()).hexdigest()


def check(file: SourceFile, opener: Opener | None = None) -> list[SourceFile]:
    """The file, and the one with its voxels if it is another, once they are as long as the header wants.

    Raises
    ------
    SeriesError
        `unreadable`.
    """
    if format_of(file.name) == "nifti":
        _check_nifti(file, opener)
        return [file]
    layout = layout_of(file, opener)
    data = _beside(file, layout)
    size = size_of(data or file, opener)
    try:
        _check_size(layout.size, max(0, layout.offset), size, layout.compressed)
    except SourceDefect as error:
        raise SeriesError("unreadable", f"the {layout.format} cannot be read: {error}", file.label) from error
    return [file, data] if data else [file]


def _beside(file: SourceFile, layout: VoxelLayout) -> SourceFile | None:
    """The file with the voxels.

    Raises
    ------
    SeriesError
        `unreadable`: not there, or no regular file of its own.
    """
    if not layout.data:
        return None
    if file.member:
        return SourceFile(file.where, posixpath.join(posixpath.dirname(file.member), layout.data))
    path = file.path.with_name(layout.data)
    if not _is_own(path):
        message = f"the {layout.format} cannot be read: the file with its voxels is not beside it"
        raise SeriesError("unreadable", message, file.label)
    return SourceFile(str(path))


def _is_own(path: Path) -> bool:
    """Whether it is a regular file: a link may lead to what its sender may not read."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def _check_size(wanted: int, offset: int, there: int, compressed: bool) -> None:
    if wanted > LARGEST_FILE:
        raise SourceDefect(f"its header declares {wanted} bytes; wanted at most {LARGEST_FILE}")
    if compressed and wanted > DEFLATE_RATIO * max(0, there - offset):
        raise SourceDefect(f"its header declares {wanted} bytes, more than {there} compressed ones can hold")
    if not compressed and offset + wanted > there:
        raise SourceDefect(f"the file has {there} bytes, but its header declares {offset + wanted}")


def _check_nifti(file: SourceFile, opener: Opener | None) -> None:
    [(_, start)] = read_all([file], LONGEST_HEADER, opener=opener)
    there, compressed = size_of(file, opener), start[:2] == GZIP_MAGIC
    try:
        if compressed:
            start = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(start, NIFTI2_HEADER)
        _check_size(_nifti_bytes(start), 0, there, compressed)
    except (SourceDefect, zlib.error) as error:
        raise SeriesError("unreadable", f"the NIfTI cannot be read: {why(error)}", file.label) from error


def _nifti_bytes(start: bytes) -> int:
    """Bytes up to the end of the voxels, by the header of NIfTI-1 or NIfTI-2 in either byte order."""
    if len(start) < NIFTI_HEADER:
        raise SourceDefect(f"it ends after {len(start)} of {NIFTI_HEADER} bytes of its header")
    is_second = NIFTI2_HEADER in (int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big"))
    if is_second and len(start) < NIFTI2_HEADER:
        raise SourceDefect(f"it ends after {len(start)} of {NIFTI2_HEADER} bytes of its header")
    for order in "<>":
        axes, *shape = struct.unpack_from(f"{order}8{'q' if is_second else 'h'}", start, 16 if is_second else 40)
        if 1 <= axes <= 7:
            break
    else:
        raise SourceDefect("its header declares no axes")
    [code] = struct.unpack_from(f"{order}h", start, 12 if is_second else 70)
    [offset] = struct.unpack_from(f"{order}{'q' if is_second else 'f'}", start, 168 if is_second else 108)
    if code not in NIFTI_BYTES:
        raise SourceDefect(f"its header declares voxels of an unknown type ({code})")
    if min(shape[:axes]) < 1:
        raise SourceDefect(f"the NIfTI has shape {list(shape[:axes])}")
    if not 0 <= offset <= LARGEST_FILE:  # nor not a number
        raise SourceDefect("its header declares no position of its voxels")
    return int(int(offset) + math.prod(shape[:axes]) * NIFTI_BYTES[code])
