"""Source files of finished studies to another directory: nothing overwritten, nothing half, nothing lost in a crash.

A sender may replace a file at any moment, so that what is looked at need not be what is taken. Each file is therefore
renamed aside first, where no sender looks; what is there is compared with what was processed, and put back where it
differs. The name aside is one that the next look finds: what a crash leaves under it is a file of its study like any
other, with or without `--move-done`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from uuid import uuid4

from covct.cards import file_sha256
from covct.errors import RunError
from covct.index import Status, status_of
from covct.sources import check_apart
from covct.state import PRIVATE, fsync, lock, make_folder

ASIDE = re.compile(r"covct-moving-[0-9a-f]{8}-(.+)", re.DOTALL)
LONGEST_NAME = 255  # bytes


def check_place(done: Path, sources: Iterable[Path], out: Path) -> None:
    """Refuse a directory where moved files would be found again, or lie among results.

    Raises
    ------
    UsageError
    """
    check_apart(done, (*sources, out), "--move-done")


class Replaced(OSError):
    """The file is not the one that was processed."""

    def __init__(self) -> None:
        super().__init__(errno.ESTALE, "a file was replaced while the study was moved: it is looked at again")


def move_study(
    study: str,
    files: Mapping[Path, Status],
    roots: Iterable[Path],
    done: Path,
    marker: str = "",
    alive: Callable[[], None] = lambda: None,
) -> list[str]:
    """Move files of a study to the same path below `done` as they have below their source.

    What is not a regular file below one of the `roots` (links, what was moved before) stays. Folders that are left
    empty, or with nothing but the marker, go too. Where the process dies, each file is whole in one of the two places
    or in both, and the next call ends what was begun.

    Parameters
    ----------
    study : str
        Its folder in the output tree: `moved_before` finds its files by it.
    files : mapping of Path to Status
        Each with what it was when it was processed, as `status_of` says. Where one is another by now it stays, and
        what was not moved before it.
    alive : function ()
        Called at each file: copying thousands to a slow disk takes hours.

    Returns
    -------
    list of str
        Why files were not moved.
    """
    homes = [Path(os.path.realpath(root if root.is_dir() else root.parent)) for root in roots]
    below = [(path, relative, home) for path in files for relative, home in [_relative(path, homes)] if home]
    if not below:
        return []
    try:
        with lock(done):  # two processes may move to one directory
            _note(done, study, [relative for _, relative, _ in below])
            return _move_all(study, below, files, done, marker, alive)
    except RunError as error:
        return [str(error)]
    except OSError as error:
        return [f"{done}: {error.strerror}"]


def _move_all(
    study: str,
    below: list[tuple[Path, Path, Path]],
    files: Mapping[Path, Status],
    done: Path,
    marker: str,
    alive: Callable[[], None],
) -> list[str]:
    reasons: list[str] = []
    for path, relative, home in below:
        alive()
        try:
            target = _move(path, done / relative, files[path])
            if target != done / relative:
                _note(done, study, [target.relative_to(done)])
            _leave(path.parent, home, done, marker)
        except FileNotFoundError:
            continue  # someone else was faster
        except Replaced as error:
            return [*reasons, str(error.strerror)]
        except OSError as error:
            reasons.append(f"{error.strerror or error}")
    return reasons


def moved_before(done: Path, study: str) -> list[Path]:
    """Files of a study that were moved: with a slice that comes late they are one study again."""
    try:
        names = (done / PRIVATE / study).read_bytes().split(b"\0")
    except OSError:
        return []
    paths = [done / os.fsdecode(name) for name in names if name]
    return [path for path in paths if path.is_file() and not _is_reservation(path)]


def _relative(path: Path, homes: list[Path]) -> tuple[Path, Path | None]:
    """The path below its source, and the source; None where it is a link, or lies elsewhere."""
    left = ASIDE.fullmatch(path.name)  # by a crash
    real = Path(os.path.realpath(path.parent)) / (left[1] if left else path.name)
    for home in homes:
        if home in real.parents and path.exists() and stat.S_ISREG(os.lstat(path).st_mode):
            return real.relative_to(home), home
    return path, None


def _note(done: Path, study: str, names: list[Path]) -> None:
    """Write down, before the first is moved, where the files of a study will be."""
    ledger = done / PRIVATE / study
    make_folder(ledger.parent)
    known = {os.fsencode(path.relative_to(done)) for path in moved_before(done, study)}
    temporary = ledger.with_name(f".{study[:100]}.tmp")
    with open(temporary, "wb") as file:
        file.write(b"\0".join(sorted(known | {os.fsencode(name) for name in names})))
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, ledger)
    fsync(ledger.parent)  # else the files could be moved, and nobody know it


def _move(source: Path, wanted: Path, processed: Status) -> Path:
    """Where the file is now."""
    make_folder(wanted.parent)
    aside = _set_aside(source, processed)
    try:
        if status_of(aside)[:3] != processed[:3]:  # not the change time, which the renaming sets
            raise Replaced
        return _into(aside, wanted, processed)
    except BaseException:
        _put_back(aside, source, wanted)
        raise


def _set_aside(source: Path, processed: Status) -> Path:
    """Take the file from where its sender would look for it; at once, so that nothing else can be taken."""
    if ASIDE.fullmatch(source.name):
        return source
    name = source.name
    if len(os.fsencode(name)) > LONGEST_NAME - 32:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:16] + source.suffix[:16]
    aside = source.with_name(f"covct-moving-{uuid4().hex[:8]}-{name}")
    if _status_now(source) != processed:
        raise Replaced
    os.rename(source, aside)
    return aside


def _status_now(path: Path) -> Status:
    """By opening it: a network file system then asks its server."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return status_of(descriptor)
    finally:
        os.close(descriptor)


def _put_back(aside: Path, source: Path, wanted: Path) -> None:
    """Under its name, never over what the sender has put there meanwhile: that replaces what is held here, which its
    sender gave up, and which is kept beside the moved files all the same.

    Where links are not to be had (SMB) it stays aside, where it is found as well.
    """
    with suppress(OSError):
        if aside == source:
            return
        try:
            os.link(aside, source)
            aside.unlink()
        except FileExistsError:
            _into(aside, wanted.with_name(f"{wanted.stem}.replaced{wanted.suffix}"), status_of(aside))


def _into(source: Path, wanted: Path, processed: Status) -> Path:
    """Rename or copy the file to a name that is free. Returns where it is."""
    for target in _names(wanted):
        if not _reserved(target):
            if _same(source, target):  # moved before, and the process died before the source was removed
                source.unlink()
                return target
            if not _is_reservation(target):
                continue
        try:
            # Over the empty file that reserves the name: link() is not to be had on SMB, and rename() alone overwrites.
            os.rename(source, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                _give_back(target)
                raise
            _copy(source, target, processed)
            return target
        if status_of(target)[:3] != processed[:3]:  # its sender had it open, and wrote on
            os.rename(target, source)
            raise Replaced
        return target
    raise AssertionError("names never end")


def _names(wanted: Path) -> Iterator[Path]:
    """The wanted name, then numbered ones: another file of that name came before."""
    yield wanted
    for number in count(2):
        yield wanted.with_name(f"{wanted.stem}.{number}{wanted.suffix}")


def _reserved(target: Path) -> bool:
    try:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC))
        return True
    except FileExistsError:
        return False


def _is_reservation(target: Path) -> bool:
    """An empty file, as a process leaves it that died after reserving the name."""
    found = os.lstat(target)
    return stat.S_ISREG(found.st_mode) and not found.st_size


def _give_back(target: Path) -> None:
    with suppress(OSError):
        if _is_reservation(target):
            target.unlink()


def _same(source: Path, target: Path) -> bool:
    found = os.lstat(target)
    if not stat.S_ISREG(found.st_mode) or found.st_size != source.stat().st_size or not found.st_size:
        return False
    return file_sha256(source) == file_sha256(target)


def _copy(source: Path, target: Path, processed: Status) -> None:
    """To another file system: whole, on the disk and read back before the source goes."""
    temporary = target.with_name(f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}.covct.part")
    try:
        before = status_of(source)
        shutil.copyfile(source, temporary)
        with suppress(OSError):
            shutil.copystat(source, temporary)
        fsync(temporary)
        if before[:3] != processed[:3] or status_of(source) != before:
            raise Replaced
        if file_sha256(temporary) != file_sha256(source):
            raise OSError(errno.EIO, "the copy differs from its source")
        os.rename(temporary, target)
        fsync(target.parent)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        _give_back(target)
        raise
    source.unlink()


def _leave(folder: Path, home: Path, done: Path, marker: str) -> None:
    """Remove a folder that is empty now, and those above it; a marker alone goes where the files went."""
    with suppress(OSError):  # not empty, or not ours: then it stays
        while True:
            real = Path(os.path.realpath(folder))
            if marker and os.listdir(folder) == [marker]:
                make_folder(done / real.relative_to(home))
                _into(folder / marker, done / real.relative_to(home) / marker, status_of(folder / marker))
            if real == home or home not in real.parents:
                return
            with os.scandir(folder) as entries:
                if any(entries):
                    return
            if (target := done / real.relative_to(home)).is_dir():
                fsync(target)  # else a power failure may find the folder gone, and the files not yet where they went
            folder.rmdir()
            folder = folder.parent
