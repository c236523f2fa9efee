"""Checkpoints: one file each, whole or not there at all, checked against the hash in its name when it is read.

A checkpoint is an .npz of plain arrays, one of them the text of a JSON object: nothing in it can run (no pickle). It is
written beside, brought to the disk and renamed, so that a crash, a full disk or a pulled plug leaves the one before.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from covct.disk.durable import output_errors, remove_halves, replace_file
from covct.disk.signals import unbroken
from covct.errors import RunError
from covct.networks.cards import file_sha256

FORMAT = 1
KEPT = 2
STATE = "state.json"
NAME = re.compile(r"(?P<stem>step-(?P<step>\d{9})|best-\d{5})\.(?P<hash>[0-9a-f]{16})\.npz")


class CheckpointError(RunError):
    """No checkpoint of a folder that has some can be used."""

    exit_code = 10


@dataclass(frozen=True)
class Checkpoint:
    """Arrays by name, and the rest as JSON."""

    arrays: dict[str, np.ndarray]
    state: dict[str, Any]
    path: Path


def write_checkpoint(folder: Path, step: int, arrays: dict[str, np.ndarray], state: dict[str, Any]) -> Path:
    """Write the checkpoint of a step; the last two are kept, with the best weights that they name.

    Raises
    ------
    OutputNotWritable
        Disk full or not writable; the checkpoints before are as they were.
    """
    path = write_arrays(folder, f"step-{step:09d}", arrays, state)
    with output_errors(folder), unbroken():
        for old in list(_newest_first(folder))[KEPT:]:
            old.unlink()
        remove_halves(folder)
    return path


def write_arrays(folder: Path, stem: str, arrays: dict[str, np.ndarray], state: dict[str, Any]) -> Path:
    """Write one file of arrays and JSON, with its hash in its name."""
    text = json.dumps({"format": FORMAT, **state})
    # In memory first: a zip file that a full disk cuts off raises errors of its own.
    buffer = BytesIO()
    contents: dict[str, Any] = {**arrays, STATE: np.frombuffer(text.encode(), np.uint8)}
    np.savez(buffer, **contents)
    path = folder / f"{stem}.{hashlib.sha256(buffer.getbuffer()).hexdigest()[:16]}.npz"
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(path, buffer.getbuffer())
    return path


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; None where there is none at all.

    Raises
    ------
    CheckpointError
        There are some, and none is whole.
    """
    damaged = []
    for path in _newest_first(folder):
        try:
            return read_arrays(path)
        except CheckpointError as error:
            damaged.append(str(error))
    if damaged:
        raise CheckpointError(f"{folder}: no checkpoint is intact: {'; '.join(damaged)}")
    return None


def read_arrays(path: Path) -> Checkpoint:
    """Read a file of `write_arrays`; CheckpointError where it is not as it was written."""
    match = NAME.fullmatch(path.name)
    if not match:
        raise CheckpointError(f"{path}: not the name of a checkpoint")
    try:
        actual = file_sha256(path)[:16]
        if actual != match["hash"]:
            raise CheckpointError(f"{path}: sha256 begins with {actual}, its name says {match['hash']}: damaged")
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        state = json.loads(arrays.pop(STATE).tobytes())
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if state.get("format") != FORMAT:
        raise CheckpointError(f"{path}: checkpoint format {state.get('format')!r}, wanted {FORMAT}")
    return Checkpoint(arrays, state, path)


def forget_other_bests(folder: Path, wanted: set[str | None]) -> None:
    """Take away the best weights that no kept checkpoint names any more."""
    with output_errors(folder), unbroken():
        for path in folder.glob("best-*.npz"):
            if path.name not in wanted:
                path.unlink()


def forget_all(folder: Path) -> None:
    """Take away a training's checkpoints, for another to begin."""
    with output_errors(folder):
        for path in [*_newest_first(folder), *folder.glob("best-*.npz")]:
            path.unlink()


def _newest_first(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        named = ((match["step"], path) for path in folder.iterdir() if (match := NAME.fullmatch(path.name)))
        steps = [(step, path.stat().st_mtime_ns, path) for step, path in named if step]
        yield from (path for *_, path in sorted(steps, reverse=True))
