"""What tells that a file is not the one it was."""

from __future__ import annotations

import os
from pathlib import Path

from covct.disk.sources import SourceFile
from covct.intake.volume_header import data_file

Status = tuple[int, int, int, int]  # size, modification time ns, inode, change time ns


def status_of(path: Path | str | int) -> Status:
    """What changes when a file's contents do. The change time tells of a copy that kept size and modification time."""
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns, found.st_ino, found.st_ctime_ns


def with_data(file: SourceFile, status: Status) -> Status:
    """The status of a file, and where it is the header of another that holds its voxels, of both."""
    data = None if file.member else data_file(file)
    if data is None:
        return status
    size, modified, inode, changed = status_of(data.where)
    return status[0] + size, max(status[1], modified), status[2] ^ inode, max(status[3], changed)
