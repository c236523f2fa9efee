"""What a training's data is, in a few digits: to resume with other data would be another training."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from covct.networks.cards import file_sha256


def fingerprint(folder: Path, apart_from: Path) -> str:
    """sha256, shortened, of the names and contents of all files below a folder, but not below `apart_from`."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.is_relative_to(apart_from):
            continue
        digest.update(f"{path.relative_to(folder).as_posix()}\0{file_sha256(path)}\n".encode())
    return digest.hexdigest()[:16]


def differences(before: dict[str, Any], now: dict[str, Any], name: str = "") -> list[str]:
    """What differs between two nested dicts, as "name: before, now"."""
    found = []
    for key in [*before, *(key for key in now if key not in before)]:
        old, new, place = before.get(key), now.get(key), f"{name}{key}"
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{place}.")
        elif old != new:
            found.append(f"{place} was {old}, is {new}")
    return found
