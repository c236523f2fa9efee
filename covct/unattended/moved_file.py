"""One file to another place, while its sender may replace it: set aside, compared, moved to a name that is free."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from uuid import uuid4

from covct.disk.durable import fsync, make_folder, rename
from covct.networks.cards import file_sha256
from covct.unattended.file_status import Status, status_of

ASIDE = re.compile(r"covct-moving-[0-9a-f]{8}-(.+)", re.DOTALL)
LONGEST_NAME = 255  # bytes


class Replaced(OSError):
    """The file is not the one that was processed."""

    def __init__(self) -> None:
        super().__init__(
            errno.ESTALE, "a file was replaced while the study was being moved; the study will be read again"
        )


def move_file(source: Path, wanted: Path, processed: Status) -> Path:
    """Where the file is now."""
    make_folder(wanted.parent)
    aside = set_aside(source, processed)
    try:
        if status_of(aside)[:3] != processed[:3]:  # not the change time, which the renaming sets
            raise Replaced
        return into(aside, wanted, processed)
    except BaseException:
        put_aside_back(aside, source, wanted)
        raise


def set_aside(source: Path, processed: Status) -> Path:
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


def put_aside_back(aside: Path, source: Path, wanted: Path) -> None:
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
            into(aside, wanted.with_name(f"{wanted.stem}.replaced{wanted.suffix}"), status_of(aside))


def into(source: Path, wanted: Path, processed: Status) -> Path:
    """Rename or copy the file to a name that is free. Returns where it is."""
    for target in _names(wanted):
        if not reserved(target):
            if same_contents(source, target):  # moved before, and the process died before the source was removed
                source.unlink()
                return target
            if not is_reservation(target):
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


def target_of(source: Path, wanted: Path) -> Path:
    """Where `into` will bring the file, unless it changes or somebody else takes that name."""
    with suppress(OSError):  # moving it will tell
        for target in _names(wanted):
            if not os.path.lexists(target) or is_reservation(target) or same_contents(source, target):
                return target
    return wanted


def _names(wanted: Path) -> Iterator[Path]:
    """The wanted name, then numbered ones: another file of that name came before."""
    yield wanted
    for number in count(2):
        yield wanted.with_name(f"{wanted.stem}.{number}{wanted.suffix}")


def reserved(target: Path) -> bool:
    try:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC))
        return True
    except FileExistsError:
        return False


def is_reservation(target: Path) -> bool:
    """An empty file, as a process leaves it that died after reserving the name."""
    found = os.lstat(target)
    return stat.S_ISREG(found.st_mode) and not found.st_size


def _give_back(target: Path) -> None:
    with suppress(OSError):
        if is_reservation(target):
            target.unlink()


def same_contents(source: Path, target: Path) -> bool:
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
        rename(temporary, target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        _give_back(target)
        raise
    source.unlink()
