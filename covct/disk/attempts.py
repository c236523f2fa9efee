"""The note of a series while it is worked on: how many attempts there were, and what is about to be committed.

Standard library only, as it is read and written by whoever clears up after a crash.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from covct.disk.durable import make_folder, output_errors, replace_json
from covct.disk.places import OUTCOME, PRIVATE, is_result_folder
from covct.disk.signals import unbroken

MOST_ATTEMPTS = 3


@dataclass(frozen=True)
class Attempt:
    """What is noted of a series while it is worked on; gone once its outcome stands.

    Attributes
    ----------
    folder : str
        The result's folder below the tree.
    attempts : int
        How many began at this key and were neither finished nor stopped from outside, this one included.
    timed_out_s : float or None
        An earlier one exceeded this series timeout, and its process was ended.
    commit : str
        sha256 of the `outcome.json` that is about to take its place; empty before.
    supersedes : tuple of str
        Folders of results that go when the commit stands.
    comparing : bool
        It is being compared with earlier results.
    died_comparing : int
        How many of the attempts before ended while it was.
    """

    folder: str
    work_key: str
    attempts: int
    timed_out_s: float | None = None
    commit: str = ""
    supersedes: tuple[str, ...] = ()
    comparing: bool = False
    died_comparing: int = 0

    @property
    def may_be_compared(self) -> bool:
        """Not in a last attempt where all before it ended at that: the comparison is not worth the result."""
        return self.died_comparing < MOST_ATTEMPTS - 1


def begin_attempt(out: Path, folder: str, key: str) -> Attempt:
    """Note *before* the work that it begins; returns the note, which knows of the attempts before."""
    path = attempt_path(out, folder)
    before = read_attempt(path)
    attempt = Attempt(folder, key, 1)
    if before and before.work_key == key:
        died = before.died_comparing + before.comparing
        attempt = Attempt(folder, key, before.attempts + 1, before.timed_out_s, died_comparing=died)
    with output_errors(out), unbroken():
        write_attempt(path, attempt)
    return attempt


def forgive_attempt(out: Path, folder: str) -> None:
    """The attempt was ended from outside: a stop signal, our own full disk. It does not count; crashes before it do."""
    path = attempt_path(out, folder)
    attempt = read_attempt(path)
    with output_errors(out), unbroken():
        if attempt and stands(out, attempt):
            return  # our disk failed after the commit: `recover` ends it
        if attempt and (attempt.attempts > 1 or attempt.timed_out_s is not None):
            fewer = replace(attempt, attempts=attempt.attempts - 1, commit="", supersedes=(), comparing=False)
            write_attempt(path, fewer)
        else:
            path.unlink(missing_ok=True)


def note_comparing(out: Path, folder: str, comparing: bool) -> None:
    """The attempt is being compared with earlier results, or no more: should it end there, the next one knows."""
    path = attempt_path(out, folder)
    if attempt := read_attempt(path):
        with output_errors(out), unbroken():
            write_attempt(path, replace(attempt, comparing=comparing))


def note_timeout(out: Path, folder: str, seconds: float, writing: bool = False) -> None:
    """The attempt exceeded its time and its process was ended: whoever comes next records it so.

    Not the first time where it was being written: the next series was computed meanwhile, and may be what hangs. The
    attempt counts, and the next one has the process for itself.
    """
    path = attempt_path(out, folder)
    attempt = read_attempt(path)
    if attempt and not (writing and attempt.attempts == 1):
        with output_errors(out):
            write_attempt(path, replace(attempt, timed_out_s=seconds))


def stands(out: Path, attempt: Attempt) -> bool:
    """Whether the result that the note announces is in its place."""
    return bool(attempt.commit) and digest(out / attempt.folder / OUTCOME) == attempt.commit


def attempt_path(out: Path, folder: str) -> Path:
    """Where the note of a result's folder lies."""
    return out / PRIVATE / "attempts" / (folder.replace("/", "_") + ".json")


def is_noted(out: Path, folder: str) -> bool:
    """Whether an earlier attempt at this folder's result ended without one, and not by a stop signal."""
    return attempt_path(out, folder).exists()


def read_attempt(path: Path) -> Attempt | None:
    """The note, or None where there is none that can be read and names results only."""
    try:
        noted = json.loads(path.read_text())
        noted = {**noted, "attempts": int(noted["attempts"]), "supersedes": tuple(noted.get("supersedes", ()))}
        attempt = Attempt(**noted)
        return attempt if all(map(is_result_folder, (attempt.folder, *attempt.supersedes))) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def write_attempt(path: Path, attempt: Attempt) -> None:
    """Make or replace the note, to the disk."""
    make_folder(path.parent)
    replace_json(path, asdict(attempt))


def digest(path: Path) -> str:
    """sha256 of a small file; empty where there is none."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return ""
