"""The output tree is the ledger: work keys, outcomes, attempts, staging, one writer a tree.

Files of a result are staged on the same file system and the folder is renamed in whole, `outcome.json` in it; so a
result is there with its outcome or not at all. What a crash leaves between two renames is put right by `recover`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from covct.errors import OutputLocked, OutputNotWritable

RESULT_VERSION = 3  # raise it when the same input would give another result
MOST_ATTEMPTS = 3
PRIVATE = ".covct"


@dataclass(frozen=True)
class Outcome:
    """What became of one series. `status`: done, rejected (input not for us) or failed (unexpected)."""

    status: str
    work_key: str
    slug: str | None = None
    message: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    covct_version: str = ""
    finished: str = ""
    seconds: float = 0.0
    study_instance_uid: str = ""
    series_instance_uid: str = ""
    source: str = ""


def work_key(content: tuple[str, ...], settings: dict[str, Any], weights: dict[str, str]) -> str:
    """sha256 of all that decides a result: the input's identity, settings, both weight cards, RESULT_VERSION.

    `weights` maps the task to the hash of its card, which holds the weights' own hash, the threshold and the recipe.
    """
    parts = {
        "content": sorted(content),
        "settings": settings,
        "weights": weights,
        "result_version": RESULT_VERSION,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read_outcome(folder: Path) -> Outcome | None:
    """The outcome of a result folder, or None where there is none that can be read."""
    try:
        return Outcome(**json.loads((folder / "outcome.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


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
def lock(out: Path) -> Iterator[None]:
    """Hold the output tree. The kernel frees the lock with the process, so none is ever stale.

    Raises
    ------
    OutputLocked
        Another process holds it; the message says which.
    """
    with output_errors(out):
        private = out / PRIVATE
        private.mkdir(parents=True, exist_ok=True)
        handle = open(private / "lock", "a+")  # noqa: SIM115 - held as long as the lock
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            handle.seek(0)
            raise OutputLocked(f"{out}: another covct writes here ({handle.read().strip() or 'unknown'})") from error
        except OSError as error:
            raise OutputNotWritable(f"{out}: this file system offers no file locks ({error.strerror})") from error
        with output_errors(out):
            handle.truncate(0)
            handle.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            handle.flush()
        yield
    finally:
        handle.close()


def ensure_temporary_folder(out: Path) -> None:
    """One in the output tree where no other can be written: libraries want it even to be imported."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        folder = out / PRIVATE / "tmp"
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)


def recover(out: Path) -> None:
    """Put right what a killed process left: an old result without its successor goes back, the rest is rubbish."""
    with output_errors(out):
        for old in sorted((out / PRIVATE / "old").glob("*/*")):
            place = out / old.parent.name / old.name
            if not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                os.rename(old, place)
        for rubbish in ("old", "staging"):
            shutil.rmtree(out / PRIVATE / rubbish, ignore_errors=True)


def new_stage(out: Path, key: str) -> Path:
    """An empty folder on the output's own file system to write a result into."""
    with output_errors(out):
        stage = out / PRIVATE / "staging" / key[:16]
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir(parents=True)
        return stage


def commit(out: Path, folder: str, stage: Path, outcome: Outcome) -> None:
    """Write `outcome.json` into the stage, bring everything to the disk, and rename the stage to its place."""
    with output_errors(out):
        write_json(stage / "outcome.json", asdict(outcome))
        install(out, stage, folder)


def install(out: Path, staged: Path, place: str) -> None:
    """Bring a staged file or folder to the disk, and rename it to its place below the tree.

    What was there stays whole until the new one is complete: a file is replaced; a folder is moved aside, and back by
    `recover` where the process dies between the two renames.
    """
    with output_errors(out):
        for path in (*(sorted(staged.iterdir()) if staged.is_dir() else ()), staged):
            _fsync(path)
        target = out / place
        target.parent.mkdir(parents=True, exist_ok=True)
        old = out / PRIVATE / "old" / place
        if target.is_dir():
            old.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(old, ignore_errors=True)
            os.rename(target, old)
        os.rename(staged, target)
        _fsync(target.parent)
        shutil.rmtree(old, ignore_errors=True)


def is_whole(folder: Path, outcome: Outcome) -> bool:
    """Whether every file of a result is still there."""
    return all((folder / name).is_file() for name in outcome.files)


def retire(out: Path, folder: str) -> None:
    """Take a result away that another series of its study has superseded."""
    with output_errors(out):
        if (out / folder).exists():
            shutil.rmtree(out / folder)


def write_json(path: Path, value: Any) -> None:
    """Write and fsync; NaN is refused, since no JSON reader takes it."""
    with open(path, "w") as file:
        json.dump(value, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def begin_attempt(out: Path, folder: str, key: str) -> int:
    """Note *before* the work that it begins; returns the how-manieth attempt at this key it is."""
    path = _attempt_path(out, folder)
    attempts = 1
    try:
        noted = json.loads(path.read_text())
        if noted["work_key"] == key:
            attempts = int(noted["attempts"]) + 1
    except (OSError, ValueError, KeyError, TypeError):
        pass
    with output_errors(out):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"work_key": key, "attempts": attempts})
    return attempts


def end_attempt(out: Path, folder: str) -> None:
    """The attempt came to an end of its own: an outcome, a stop signal, a full disk. It does not count."""
    _attempt_path(out, folder).unlink(missing_ok=True)


def _attempt_path(out: Path, folder: str) -> Path:
    return out / PRIVATE / "attempts" / (folder.replace("/", "_") + ".json")


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
