"""Source files of finished studies to another directory: nothing overwritten, nothing half, nothing lost in a crash."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

from covct.cards import file_sha256
from covct.errors import RunError
from covct.index import status_of
from covct.sources import check_apart
from covct.state import PRIVATE, fsync, lock


def check_place(done: Path, sources: Iterable[Path], out: Path) -> None:
    """Refuse a directory where moved files would be found again, or lie among results.

    Raises
    ------
    UsageError
    """
    check_apart(done, (*sources, out), "--move-done")


def move_study(study: str, files: Iterable[Path], roots: Iterable[Path], done: Path, marker: str = "") -> list[str]:
    """Move files of a study to the same path below `done` as they have below their source.

    What is not a regular file below one of the `roots` (links, what was moved before) stays. Folders that are left
    empty, or with nothing but the marker, go too. Where the process dies, each file is whole in one of the two places
    or in both, and the next call ends what was begun.

    Parameters
    ----------
    study : str
        Its folder in the output tree: `moved_before` finds its files by it.

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
            return _move_all(study, below, done, marker)
    except RunError as error:
        return [str(error)]
    except OSError as error:
        return [f"{done}: {error.strerror}"]


def _move_all(study: str, below: list[tuple[Path, Path, Path]], done: Path, marker: str) -> list[str]:
    reasons: list[str] = []
    for path, relative, home in below:
        try:
            target = _move(path, done / relative)
            if target != done / relative:
                _note(done, study, [target.relative_to(done)])
            _leave(path.parent, home, done, marker)
        except FileNotFoundError:
            continue  # someone else was faster
        except OSError as error:
            reasons.append(f"{error.strerror or error}")
    return reasons


def moved_before(done: Path, study: str) -> list[Path]:
    """Files of a study that were moved: with a slice that comes late they are one study again."""
    try:
        names = (done / PRIVATE / study).read_bytes().split(b"\0")
    except OSError:
        return []
    return [path for name in names if name and (path := done / os.fsdecode(name)).is_file()]


def _relative(path: Path, homes: list[Path]) -> tuple[Path, Path | None]:
    """The path below its source, and the source; None where it is a link, or lies elsewhere."""
    real = Path(os.path.realpath(path.parent)) / path.name
    for home in homes:
        if home in real.parents and path.exists() and stat.S_ISREG(os.lstat(path).st_mode):
            return real.relative_to(home), home
    return path, None


def _note(done: Path, study: str, names: list[Path]) -> None:
    """Write down, before the first is moved, where the files of a study will be."""
    ledger = done / PRIVATE / study
    ledger.parent.mkdir(parents=True, exist_ok=True)
    known = {os.fsencode(path.relative_to(done)) for path in moved_before(done, study)}
    temporary = ledger.with_name(f".{study[:100]}.tmp")
    with open(temporary, "wb") as file:
        file.write(b"\0".join(sorted(known | {os.fsencode(name) for name in names})))
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, ledger)


def _move(source: Path, wanted: Path) -> Path:
    """Where the file is now."""
    wanted.parent.mkdir(parents=True, exist_ok=True)
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
            _copy(source, target)
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


def _copy(source: Path, target: Path) -> None:
    """To another file system: whole, on the disk and read back before the source goes."""
    temporary = target.with_name(f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}.covct.part")
    try:
        before = status_of(source)
        shutil.copyfile(source, temporary)
        with suppress(OSError):
            shutil.copystat(source, temporary)
        fsync(temporary)
        if file_sha256(temporary) != file_sha256(source) or status_of(source) != before:
            raise OSError(errno.EIO, "the copy differs from its source, or that has changed")
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
                _move(folder / marker, done / real.relative_to(home) / marker)
            if real == home or home not in real.parents:
                return
            folder.rmdir()
            folder = folder.parent
