"""Files of a source tree: on disk or inside a zip archive. Read only; nothing is ever extracted to disk."""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from covct.errors import SeriesError, why

LARGEST_MEMBER = 2 * 1024**3  # bytes; one CT slice has half a MiB, an enhanced series some hundred
LARGEST_RATIO = 200  # a CT slice deflates to a half; zeros to a thousandth


@dataclass(frozen=True, order=True)
class SourceFile:
    """One file, or one member of a zip archive."""

    path: Path
    member: str = ""

    @property
    def label(self) -> str:
        return printable(f"{self.path}!{self.member}" if self.member else self.path)

    @property
    def name(self) -> str:
        return printable(self.member or self.path.name)


def printable(path: Path | str) -> str:
    """A path as text that JSON and a terminal take: names of old exports are Latin-1, not UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")


@dataclass(frozen=True)
class Problem:
    """Something in the source tree that no series can be made of."""

    label: str
    slug: str
    message: str


def walk(sources: Iterable[Path], problems: list[Problem], avoid: Path | None = None) -> Iterator[SourceFile]:
    """All regular files below the sources, sorted, members of zip archives among them.

    Parameters
    ----------
    problems : list of Problem
        What cannot be read is appended here.
    avoid : Path, optional
        An output tree that may lie inside a source; it is not entered.
    """
    for source in sources:
        if source.name.upper() == "DICOMDIR":  # the index of a medium means the medium
            source = source.parent
        if source.is_dir():
            for path in _files_below(source, problems, avoid):
                yield from _with_members(path, problems)
        else:
            yield from _with_members(source, problems)


def _files_below(folder: Path, problems: list[Problem], avoid: Path | None) -> Iterator[Path]:
    seen: set[tuple[int, int]] = set()  # a symlink loop leads to a folder already seen
    avoided = avoid.resolve() if avoid else None

    def note(error: OSError) -> None:
        where = printable(error.filename or folder)
        problems.append(Problem(where, "unreadable", f"the folder cannot be listed: {error.strerror}"))

    for here, folders, names in os.walk(folder, followlinks=True, onerror=note):
        try:
            status = os.stat(here)
        except OSError as error:  # moved away since it was listed
            note(error)
            folders.clear()
            continue
        if (status.st_dev, status.st_ino) in seen or (avoided and Path(here).resolve() == avoided):
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(here) / name


def _with_members(path: Path, problems: list[Problem]) -> Iterator[SourceFile]:
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        if os.path.lexists(path):  # else it was moved away since it was listed
            problems.append(Problem(printable(path), "unreadable", f"the file cannot be read: {error.strerror}"))
        return
    if not regular:
        return
    if path.suffix.lower() != ".zip":
        yield SourceFile(path)
        return
    try:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            members = sorted((m for m in archive.infolist() if not _hidden(m)), key=lambda m: m.filename)
    except Exception as error:  # a damaged directory raises what the damage hits: struct, unicode, zip errors
        problems.append(Problem(printable(path), "unreadable", f"the zip archive cannot be read: {why(error)}"))
        return
    for member in members:
        if reason := _refused(member, size):
            problems.append(Problem(SourceFile(path, member.filename).label, "unreadable", reason))
        else:
            yield SourceFile(path, member.filename)


def _hidden(member: zipfile.ZipInfo) -> bool:
    parts = member.filename.split("/")
    return member.is_dir() or any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _refused(member: zipfile.ZipInfo, archive_size: int) -> str | None:
    if member.flag_bits & 1:
        return "the archive member is encrypted"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # zipfile bounds no others' output
        return f"the archive member is compressed by method {member.compress_type}, wanted none or deflate"
    if member.compress_size > archive_size:
        return f"the archive member claims {member.compress_size} bytes of an archive of {archive_size}"
    if member.file_size > LARGEST_MEMBER:
        return f"the archive member has {member.file_size} bytes, at most {LARGEST_MEMBER} are read"
    if member.file_size > LARGEST_RATIO * max(1, member.compress_size) and member.file_size > 10 * 1024**2:
        return f"the archive member would swell {member.file_size // max(1, member.compress_size)}-fold: a zip bomb"
    return None


def read_all(files: Iterable[SourceFile], first_bytes: int = -1) -> Iterator[tuple[SourceFile, bytes]]:
    """Contents of the files in the order given; an archive stays open while its members follow one another.

    Raises
    ------
    SeriesError
        `unreadable`, naming the file.
    """
    archive: zipfile.ZipFile | None = None
    opened: Path | None = None
    try:
        for file in files:
            try:
                if not file.member:
                    with open(file.path, "rb") as stream:
                        yield file, stream.read(first_bytes)
                    continue
                if opened != file.path or archive is None:
                    if archive:
                        archive.close()
                    archive, opened = zipfile.ZipFile(file.path), file.path
                size = archive.getinfo(file.member).file_size
                with archive.open(file.member) as member:  # without a number it would inflate whatever is there
                    yield file, member.read(size if first_bytes < 0 else min(first_bytes, size))
            except Exception as error:  # a damaged member raises what the damage hits: zlib, lzma, zip errors
                raise SeriesError("unreadable", f"{file.label} cannot be read: {why(error)}") from error
    finally:
        if archive:
            archive.close()
