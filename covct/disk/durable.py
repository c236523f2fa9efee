"""Files that are there whole or not at all: written beside their place, brought to the disk, renamed into it.

`to_disk` says whether a power failure may take what was written: with it the file is on the disk before the rename, and
the rename before the call returns. Without it the process may be killed at any moment, and a reader still never meets
half a file. A bare OSError here is our own disk; callers turn it into a sentence (`output_errors`).
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from covct.disk.signals import unbroken
from covct.errors import OutputNotWritable

LONGEST_NAME = 220  # bytes of a name that our temporary ones repeat whole; file systems take 255
BESIDE = ".{name}.{process}.tmp"


@contextmanager
def output_errors(out: Path) -> Iterator[None]:
    """A bare OSError here is our own disk: it stops the run."""
    try:
        yield
    except OSError as error:
        # pydicom repeats an error without its number, and with a traceback in its text
        reason = error.strerror or (str(error).splitlines() or [type(error).__name__])[0]
        where = f" ({error.filename})" if error.filename else ""
        raise OutputNotWritable(f"{out}: cannot write results: {reason}{where}") from error


@contextmanager
def replacing(path: Path, *, to_disk: bool = True, suffix: str = "") -> Iterator[Path]:
    """A name beside `path` to write to; at the end it takes the place of `path`, after an error it is removed.

    Where `path` is a stream (/dev/stdout, /dev/null, a named pipe) nothing can take its place: what was written goes
    into it.

    Parameters
    ----------
    path : Path
        The file to make or replace, in a folder that exists.
    to_disk : bool
        Bring the file to the disk before the rename, and its folder after it.
    suffix : str
        An ending that the temporary name must have, for writers that choose a format by it (".nii.gz").

    Raises
    ------
    OSError
        Not written or not renamed; what was at `path` is as it was.
    """
    if is_a_stream(path):
        with _passed_on(path, suffix) as elsewhere:
            yield elsewhere
        return
    name = path.name if len(os.fsencode(path.name)) <= LONGEST_NAME else path.name[: LONGEST_NAME // 4]
    # Of this process alone, as several may write one file. No collector or reader takes the ending for a finished one.
    beside = path.with_name(BESIDE.format(name=name, process=os.getpid()) + suffix)
    try:
        yield beside
        if to_disk:
            fsync(beside)
        with unbroken():
            os.replace(beside, path)
            if to_disk:
                fsync(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def is_a_stream(path: Path) -> bool:
    """Whether what is there hands bytes on; so does /dev/stdout, even where that is led into a file."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    folder = os.path.realpath(path.parent)
    return stat.S_ISCHR(mode) or stat.S_ISFIFO(mode) or folder == "/dev" or folder.startswith("/proc/")


@contextmanager
def _passed_on(path: Path, suffix: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="covct-") as folder:
        whole = Path(folder) / f"whole{suffix}"
        yield whole
        with whole.open("rb") as source, path.open("wb") as stream:
            shutil.copyfileobj(source, stream)


def replace_file(path: Path, content: str | bytes | memoryview, *, to_disk: bool = True) -> None:
    """Make or replace a file by `content`, text as UTF-8. Raises OSError as `replacing` does."""
    with replacing(path, to_disk=to_disk) as beside:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)


def replace_json(path: Path, value: Any, *, to_disk: bool = True) -> None:
    """Make or replace a file by a value as JSON; ValueError where it holds NaN, since no JSON reader takes it."""
    replace_file(path, as_json(value), to_disk=to_disk)


def write_json(path: Path, value: Any) -> None:
    """Write a file of a stage, which is renamed whole, and bring it to the disk. Raises as `replace_json` does."""
    path.write_bytes(as_json(value).encode())
    fsync(path)


def as_json(value: Any) -> str:
    """As our JSON files have it: indented, UTF-8, without NaN."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def remove_halves(folder: Path, name: str = "*") -> None:
    """Remove what processes that are gone had half written beside files called `name` (a pattern) in `folder`."""
    for half in folder.glob(BESIDE.format(name=name, process="*")):
        if not _is_running(half.suffixes[-2][1:]):
            half.unlink(missing_ok=True)


def _is_running(process: str) -> bool:
    return process.isdecimal() and process != str(os.getpid()) and Path("/proc", process).exists()


def link_or_copy(source: Path, target: Path) -> None:
    """A second name for a file that nobody writes to again; a copy where the file system, or its rules, allow none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def rename(source: Path, target: Path) -> None:
    """Rename, and bring it to the disk: both folders it changes."""
    os.rename(source, target)
    for folder in {target.parent, source.parent}:
        fsync(folder)


def make_folder(folder: Path) -> None:
    """Make a folder, and bring it to the disk: a new study's must not be lost with the result in it."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        fsync(folder.parent)


def bring_to_disk(path: Path) -> None:
    """fsync a file, or a folder with all that is in it: a rename must not be on the disk before what it renames."""
    if path.is_dir():
        for below in sorted(path.iterdir()):
            bring_to_disk(below)
    fsync(path)


def fsync(path: Path) -> None:
    """Bring a file or a folder's entries to the disk; a folder that cannot be asked for it is passed over."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        if path.is_dir():  # the folder above the tree may be one that we can only pass through
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():  # SMB has no fsync of folders
            raise
    finally:
        os.close(descriptor)
