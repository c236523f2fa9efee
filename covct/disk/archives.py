"""Zip archives from outside: read in place, and within bounds, whatever their directories declare."""

from __future__ import annotations

import os
import re
import stat
import zipfile
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from covct.errors import SourceDefect

LARGEST_FILE = 2 * 1024**3  # bytes; one CT slice has half a MiB, an enhanced series some hundred
GZIP_MAGIC = b"\x1f\x8b"
DEFLATE_RATIO = 1032  # deflate cannot do more
LARGEST_RATIO = 200  # a CT slice deflates to a half; zeros to a thousandth
SWOLLEN_FREELY = 10 * 1024**2  # bytes that a member may swell to at any ratio
LARGEST_DIRECTORY = 32 * 1024**2  # bytes of an archive's directory: a quarter of a million members
COMPRESSIONS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}  # zipfile cannot bound what the others swell to
DIRECTORY_BIT = 0x10  # of an archive's entry, as Windows notes it

Entries = dict[tuple[str, int], zipfile.ZipInfo]


def open_regular(path: Path) -> BinaryIO:
    """Open a file without waiting for it: what was a file when it was listed may be a FIFO by now."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise SourceDefect("it is not a regular file")
    return open(descriptor, "rb")


def open_archive(stream: BinaryIO) -> zipfile.ZipFile:
    """Open an archive whose directory is not too long: zipfile makes an object of every entry."""
    bounded = _Bounded(stream, LARGEST_DIRECTORY)
    archive = zipfile.ZipFile(bounded)
    bounded.most = LARGEST_FILE
    return archive


@dataclass
class _Bounded:
    """A file that refuses to be read in pieces of more than `most` bytes, whatever its contents declare."""

    stream: BinaryIO
    most: int

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            size = os.fstat(self.stream.fileno()).st_size - self.stream.tell()
        if size > self.most:
            raise SourceDefect(f"its directory has {size} bytes, at most {self.most} are read")
        return self.stream.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.stream.seek(offset, whence)

    def tell(self) -> int:
        return self.stream.tell()

    def seekable(self) -> bool:
        return True


def entries_of(archive: zipfile.ZipFile) -> Entries:
    """An archive's members by name, and by number where several have one name, sorted."""
    seen: Counter[str] = Counter()
    found = {}
    for member in archive.infolist():
        found[member.filename, seen[member.filename]] = member
        seen[member.filename] += 1
    return dict(sorted(found.items()))


def members_of(path: Path) -> tuple[Entries, int]:
    """The members of an archive, and the archive's size in bytes."""
    with ExitStack() as stack:
        stream = stack.enter_context(open_regular(path))
        archive = stack.enter_context(open_archive(stream))
        members = entries_of(archive)
        size = os.fstat(stream.fileno()).st_size
    packed = sum(m.compress_size for m in members.values() if m.compress_size <= size)
    if packed > size:
        raise SourceDefect(f"its members have {packed} bytes, the archive {size}: they overlap, a zip bomb")
    return members, size


def is_hidden(member: zipfile.ZipInfo) -> bool:
    """A folder, whatever its name, and what systems hide or leave behind: `._x` and `.DS_Store` of a Mac."""
    parts = [part for part in re.split(r"[/\\]", member.filename) if part not in (".", "..")]
    return _is_directory(member) or any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _is_directory(member: zipfile.ZipInfo) -> bool:
    """By its name, or by what the archive's system says of it: not every archiver ends the names of folders so."""
    said = stat.S_ISDIR(member.external_attr >> 16) or member.external_attr & DIRECTORY_BIT
    return member.filename.endswith(("/", "\\")) or (bool(said) and not member.file_size)


def refusal(member: zipfile.ZipInfo, archive_size: int) -> str | None:
    """Why a member is not read; None where it is."""
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        return "the archive member is a link or a device, wanted a file"
    if member.flag_bits & 1:
        return "the archive member is encrypted"
    if member.compress_type not in COMPRESSIONS:
        return f"the archive member is compressed by method {member.compress_type}, wanted none or deflate"
    if member.compress_size > archive_size:
        return f"the archive member claims {member.compress_size} bytes of an archive of {archive_size}"
    if member.file_size > LARGEST_FILE:
        return f"the archive member has {member.file_size} bytes, at most {LARGEST_FILE} are read"
    if member.file_size > LARGEST_RATIO * max(1, member.compress_size) and member.file_size > SWOLLEN_FREELY:
        return f"the archive member would expand {member.file_size // max(1, member.compress_size)}-fold: a zip bomb"
    return None
