"""Files of a source tree: on disk or inside a zip archive. Read only; nothing is ever extracted to disk."""

from __future__ import annotations

import hashlib
import os
import stat
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from covct.disk.archives import LARGEST_FILE, entries_of, is_hidden, members_of, open_archive, open_regular, refusal
from covct.errors import SeriesError, SourceDefect, UsageError, why
from covct.visible import visible

PIECE = 1024**2
MEDIA_STORAGE_DIRECTORY = b"1.2.840.10008.1.3.10"
MEDIA_STORAGE_SOP_CLASS = b"\x02\0\x02\0UI"  # tag and value representation, little endian always (PS3.10 7.1)


@dataclass(frozen=True)
class SourceFile:
    """One file, or one member of a zip archive.

    Attributes
    ----------
    where : str
        Its path. Text, since a night looks at files by the hundred thousand, and asks few of them for more.
    entry : int
        An archive may have several members of one name: which of them, from 0.
    """

    where: str
    member: str = ""
    entry: int = 0

    def __lt__(self, other: SourceFile) -> bool:
        return (self.path, self.member, self.entry) < (other.path, other.member, other.entry)

    @property
    def path(self) -> Path:
        return Path(self.where)

    @property
    def place(self) -> str:
        """The folder, or the archive, that it lies in."""
        return self.where if self.member else os.path.dirname(self.where) or "."

    @property
    def label(self) -> str:
        which = f" ({self.entry + 1})" if self.entry else ""
        return printable(f"{self.where}!{self.member}{which}" if self.member else self.where)

    @property
    def file_name(self) -> str:
        """As it is on the disk; of a member, its archive's."""
        return os.path.basename(self.where)

    @property
    def name(self) -> str:
        return printable(self.member or self.file_name)


def printable(path: Path | str) -> str:
    """A path as text that JSON, a log and a terminal take. Names of old exports are Latin-1, not UTF-8."""
    text = str(path)
    return visible(text if text.isascii() else os.fsencode(text).decode("utf-8", "replace"))


@dataclass(frozen=True)
class Problem:
    """Something in the source tree that no series can be made of."""

    label: str
    slug: str
    message: str


def check_apart(path: Path, others: Iterable[Path], name: str) -> None:
    """Refuse a directory that covct writes into where it is one of these, or lies in or around one of them.

    Parameters
    ----------
    name : str
        What the user calls it, e.g. ``--out``.

    Raises
    ------
    UsageError
    """
    for other in others:
        one, two = path.resolve(), other.resolve()
        if one == two or one in two.parents or two in one.parents:
            raise UsageError(f"{name} {path}: wanted a directory that neither lies in {other} nor contains it")


def walk(sources: Iterable[Path], problems: list[Problem], avoid: Path | None = None) -> Iterator[SourceFile]:
    """All regular files below the sources, sorted, each once, members of zip archives among them.

    Links are followed as long as they stay below the sources: whoever may write into an inbox shall not make covct
    read what he may not read himself.

    Parameters
    ----------
    problems : list of Problem
        What cannot be read is appended here.
    avoid : Path, optional
        An output tree that may lie inside a source; it is not entered.
    """
    # the index of a medium means the medium
    places = [source.parent if _is_media_directory(source) else source for source in sources]
    roots = {os.path.realpath(place): place for place in reversed(places)}
    folders = [root for root, place in roots.items() if place.is_dir()]
    seen = {_identity(avoid)} if avoid and avoid.exists() else set()
    for root, place in reversed(roots.items()):
        if root in folders:
            for path, is_regular in _files_below(place, list(roots), problems, seen):
                yield from _with_members(path, problems, is_regular)
        elif not _is_below(root, folders):  # else it comes with the folder
            yield from _with_members(str(place), problems)


def _files_below(
    folder: Path, roots: list[str], problems: list[Problem], seen: set[tuple[int, int]]
) -> Iterator[tuple[str, bool]]:
    """Files, and whether the listing itself says of one that it is regular: then nobody else need be asked.

    Not by recursion: folders nested by the thousand shall not end the night. `seen` are folders not to enter.
    """
    waiting = [str(folder)]
    while waiting:
        here = waiting.pop()
        try:
            identity = _identity(here)
            if identity in seen:  # a symlink loop leads to a folder already seen
                continue
            seen.add(identity)
            with os.scandir(here) as listing:
                entries = sorted((e for e in listing if not e.name.startswith(".")), key=lambda e: e.name)
        except OSError as error:  # no right to read it, or moved away since it was found
            where = printable(error.filename or here)
            problems.append(Problem(where, "unreadable", f"the folder cannot be listed: {error.strerror}"))
            continue
        folders, outside = [], 0
        for entry in entries:
            if entry.is_symlink() and not _is_below(entry.path, roots):
                outside += 1
            elif _is_folder(entry):
                folders.append(entry.path)
            else:
                yield entry.path, _is_regular(entry)
        if outside:
            reason = f"{outside} links lead outside the sources; name their targets as sources too"
            problems.append(Problem(printable(here), "unreadable", reason))
        waiting += reversed(folders)


def is_media_directory(start: bytes) -> bool:
    """Whether a file that begins so is a Media Storage Directory, by any name: DICOMDIR, DIRFILE, DICOMDIR;1."""
    at = start.find(MEDIA_STORAGE_SOP_CLASS, 132, 1024)
    if start[128:132] != b"DICM" or at < 0:
        return False
    length = int.from_bytes(start[at + 6 : at + 8], "little")
    return start[at + 8 : at + 8 + length].rstrip(b"\0 ") == MEDIA_STORAGE_DIRECTORY


def _is_media_directory(path: Path) -> bool:
    try:
        if path.is_dir():
            return False
        with open_regular(path) as stream:
            return is_media_directory(stream.read(1024))
    except (OSError, SourceDefect):  # what will be named when it is read
        return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: no file either, and named as such
        return False


def _is_regular(entry: os.DirEntry[str]) -> bool:
    """Whether a listing says so, of no link; most file systems do, and then this costs nothing."""
    try:
        return entry.is_file(follow_symlinks=False)
    except OSError:
        return False


def _identity(folder: str | Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _is_below(path: str, roots: list[str]) -> bool:
    target = os.path.realpath(path)
    return any(target == root or target.startswith(root.rstrip("/") + "/") for root in roots)


def _with_members(path: str, problems: list[Problem], is_regular: bool = False) -> Iterator[SourceFile]:
    try:
        regular = is_regular or stat.S_ISREG(os.stat(path).st_mode)
    except OSError as error:
        if os.path.lexists(path):  # else it was moved away since it was listed
            problems.append(Problem(printable(path), "unreadable", f"the file cannot be read: {error.strerror}"))
        return
    if not regular:  # opening a FIFO waits for ever, reading a device may never end
        return
    if not path.lower().endswith(".zip") or not os.path.splitext(path)[1]:
        yield SourceFile(path)
        return
    try:
        members, size = members_of(Path(path))
    except Exception as error:  # a damaged directory raises what the damage hits: struct, unicode, zip errors
        problems.append(Problem(printable(path), "unreadable", f"the zip archive cannot be read: {why(error)}"))
        return
    for (name, entry), member in members.items():
        if is_hidden(member):
            continue
        file = SourceFile(path, name, entry)
        if reason := refusal(member, size):
            problems.append(Problem(file.label, "unreadable", reason))
        else:
            yield file


def read_all(
    files: Iterable[SourceFile], first_bytes: int = -1, largest: int = LARGEST_FILE, opener: Opener | None = None
) -> Iterator[tuple[SourceFile, bytes]]:
    """Contents of the files in the order given; an archive stays open while its members follow one another.

    Parameters
    ----------
    first_bytes : int
        Only the beginning; -1 for all.
    largest : int
        Bytes; a longer file is not read, unless only its beginning is wanted. Sparse files make any length for nothing.
    opener : Opener, optional
        Whose archive stays open beyond this call.

    Raises
    ------
    SeriesError
        `unreadable`, naming the file.
    """
    with nullcontext(opener) if opener else Opener() as opened:
        for file in files:
            try:
                stream, size = opened.open(file)
                with stream:
                    contents = _read(stream, size, first_bytes, largest)
            except Exception as error:  # a damaged member raises what the damage hits: zlib, zip errors
                raise _unreadable(file, error) from error
            yield file, contents


def size_of(file: SourceFile, opener: Opener | None = None) -> int:
    """Bytes that a file, or a member of an archive, says it has.

    Raises
    ------
    SeriesError
        `unreadable`, naming the file.
    """
    try:
        with nullcontext(opener) if opener else Opener() as opened:
            stream, size = opened.open(file)
            stream.close()
            return size
    except Exception as error:  # as above
        raise _unreadable(file, error) from error


def sizes(files: Iterable[SourceFile]) -> list[int]:
    """Bytes of each; errors as `size_of`."""
    with Opener() as opener:
        return [size_of(file, opener) for file in files]


def digest(file: SourceFile, opener: Opener | None = None, alive: Callable[[], None] = lambda: None) -> str:
    """sha256 of a file's contents, of which only a piece at a time is in memory.

    Parameters
    ----------
    opener : Opener, optional
        Whose archive stays open beyond this call.
    alive : function ()
        Called after each piece.

    Raises
    ------
    SeriesError
        `unreadable`, naming the file.
    """
    found = hashlib.sha256()
    try:
        with nullcontext(opener) if opener else Opener() as opened:
            stream, size = opened.open(file)
            with stream:
                _check_size(size, LARGEST_FILE)
                while size > 0 and (piece := stream.read(min(PIECE, size))):
                    found.update(piece)
                    size -= len(piece)
                    alive()
    except Exception as error:  # as above
        raise _unreadable(file, error) from error
    return found.hexdigest()


class Opener:
    """Opens source files, and keeps the archive of the last one open: its directory is read whole at each opening."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self.stack = ExitStack()

    def __enter__(self) -> Opener:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the archive; the opener can be used again."""
        self.stack.close()
        self.path = None

    def open(self, file: SourceFile) -> tuple[BinaryIO, int]:
        """A stream to read and to close, and how many bytes it says it has."""
        if not file.member:
            stream = open_regular(file.path)
            return stream, os.fstat(stream.fileno()).st_size
        member = self._member(file)
        if reason := refusal(member, self.size):  # the archive is another by now
            raise SourceDefect(reason)
        return cast(BinaryIO, self.archive.open(member)), member.file_size

    def stamp(self, file: SourceFile) -> tuple[int, int]:
        """What tells that a file is another, without reading it: size and modification time in ns; of a member of an
        archive size and CRC-32."""
        if file.member:
            member = self._member(file)
            return member.file_size, member.CRC
        found = os.stat(file.path)
        return found.st_size, found.st_mtime_ns

    def _member(self, file: SourceFile) -> zipfile.ZipInfo:
        if self.path != file.path:
            self.close()
            stream = self.stack.enter_context(open_regular(file.path))
            self.archive = self.stack.enter_context(open_archive(stream))
            self.path, self.size = file.path, os.fstat(stream.fileno()).st_size
            self.entries = entries_of(self.archive)
        member = self.entries.get((file.member, file.entry))
        if member is None:
            raise SourceDefect("the archive no longer has this member")
        return member


def _read(stream: BinaryIO, size: int, first_bytes: int, largest: int) -> bytes:
    """Never more than the file said it has when it was opened: a member is cut off where it declared to end."""
    if first_bytes < 0:
        _check_size(size, largest)
    wanted = size if first_bytes < 0 else min(first_bytes, size)
    contents = stream.read(wanted)
    if len(contents) < wanted:
        raise SourceDefect(f"it ends after {len(contents)} of {wanted} bytes")
    return contents


def _check_size(size: int, largest: int) -> None:
    if size > largest:
        raise SourceDefect(f"it has {size} bytes, at most {largest} are read")


def _unreadable(file: SourceFile, error: Exception) -> SeriesError:
    return SeriesError("unreadable", f"the file cannot be read: {why(error)}", file.label)
