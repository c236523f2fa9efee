"""The output tree is the ledger: one writer per tree, staging, commit, and what follows a crash.

Files of a result are staged on the same file system and the folder is renamed in whole, `outcome.json` in it; so a
result is there with its outcome or not at all. A note of the attempt is written before the work, says before the
renames what is about to be committed and which results that supersedes, and is removed last: what a crash leaves
between any two of these is put right by `recover`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING
from uuid import uuid4

from covct.disk import lockfile, versions
from covct.disk.attempts import (
    Attempt,
    attempt_path,
    digest,
    forgive_attempt,
    read_attempt,
    stands,
    write_attempt,
)
from covct.disk.durable import (
    bring_to_disk,
    make_folder,
    output_errors,
    remove_halves,
    rename,
    replace_json,
    write_json,
)
from covct.disk.places import OUTCOME, PRIVATE
from covct.disk.signals import unbroken
from covct.disk.versions import check_format
from covct.errors import OutputLocked

if TYPE_CHECKING:  # pydantic is for those who read outcomes
    from covct.disk.outcome import Outcome

LOCK, OWNER = "lock", "lock.owner"
NO_LOCKS = (errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)  # of a file system that has none
LOCK_PATIENCE_S = 1.0  # a killed process needs a moment to die and free its lock
DERIVED = ("summary.csv", "index.html")  # made again from the outcomes; half-written ones may be thrown away


@contextmanager
def lock(out: Path) -> Iterator[None]:
    """Hold the output tree: by `flock`, which the kernel frees with the process, and by the lock file beside it.

    The file is for whoever `flock` does not keep out: another host that mounts the tree with locks of its own (NFS
    `nolock`), or a file system without them. See `lockfile`.

    Raises
    ------
    OutputLocked
        Another process holds it; the message says which. Also at the end, where another one took it meanwhile.
    OutputNotWritable
        Another reason: the disk is full, or the file system's lock service is not responding.
    UsageError
        A newer covct wrote the tree.
    """
    with output_errors(out):
        private = out / PRIVATE
        make_folder(private)
        # Held as long as the lock. Unbuffered: what a full disk did not take must not come up again when it is closed.
        handle = open(private / LOCK, "a+b", buffering=0)  # noqa: SIM115
    try:
        with ExitStack() as held:
            with output_errors(out):
                taken, broken = flocked(handle, f"{out}: another covct is writing here")
                held.enter_context(lockfile.held(private / OWNER, taken))
                if broken:  # said only now: where another covct is at work here, that is what counts
                    raise OSError(broken.errno, f"the file system's locks are not responding ({broken.strerror})")
                if taken:
                    handle.truncate(0)
                    handle.write(
                        f"process {os.getpid()}, started by {os.getppid()}, on {socket.gethostname()}\n".encode()
                    )
                if not check_format(private):
                    replace_json(private / versions.NAME, versions.own_format())
            yield
    finally:
        handle.close()


def is_held(out: Path) -> bool | None:
    """Whether a process holds the tree; None where that cannot be told from here. Only looks."""
    try:
        descriptor = os.open(out / PRIVATE / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # freed at once: a newcomer waits longer than that
    except BlockingIOError:
        return True
    except OSError:
        pass
    finally:
        os.close(descriptor)
    return lockfile.is_held(out / PRIVATE / OWNER)


def holder(out: Path) -> str:
    """Which process holds the tree, by its lock file; empty where that does not say."""
    return lockfile.holder(out / PRIVATE / OWNER)


def ensure_temporary_folder(out: Path) -> None:
    """One in the output tree where no other can be written: libraries want it even to be imported."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        folder = out / PRIVATE / "tmp"
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)


def flocked(handle: IO[bytes], busy: str) -> tuple[bool, OSError | None]:
    """Lock the file: whether it is locked, and why not where that is no answer. `busy` is said where another has it.

    A file system without locks says so. Anything else (a lock service that is down, for one) may be so for this process
    only, while another holds the lock.
    """
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True, None
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                handle.seek(0)
                holder = handle.read().decode(errors="replace").strip() or "unknown"
                raise OutputLocked(f"{busy} ({holder})") from error
            time.sleep(0.05)
        except OSError as error:
            return False, None if error.errno in NO_LOCKS else error


def recover(out: Path) -> None:
    """Put right what a killed process left. The caller holds the lock. May itself be killed and done again.

    An old result without its successor goes back. A commit that took place is ended: what it supersedes goes, its
    attempt's note too. Everything else is rubbish.
    """
    with output_errors(out), unbroken():
        private = out / PRIVATE
        for old in sorted((private / "old").glob("*/*")):
            place = out / old.parent.name / old.name
            if not place.exists():
                make_folder(place.parent)
                rename(old, place)
        for note in sorted((private / "attempts").glob("*.json")):
            attempt = read_attempt(note)
            if attempt:
                _end_commit(out, note, attempt)
                _forgive_unclaimed(out, note, attempt)
        for rubbish in ("old", "staging", "rubbish"):
            shutil.rmtree(private / rubbish, ignore_errors=True)
        for name in DERIVED:
            remove_halves(out, name)
        for folder in (private, *private.glob("*/")):
            remove_halves(folder)
        for half in (*private.glob(".heartbeat.*"), *private.glob(f"{OWNER}.*")):
            half.unlink(missing_ok=True)


def _end_commit(out: Path, note: Path, attempt: Attempt) -> None:
    """If the result that the note announces is in its place: take away what it supersedes, and then the note."""
    if not stands(out, attempt):
        return
    for folder in attempt.supersedes:
        _discard(out, out / folder)
    note.unlink(missing_ok=True)


def _forgive_unclaimed(out: Path, note: Path, attempt: Attempt) -> None:
    """An attempt that no worker had begun does not count. Its offer goes first: what is done again must not count it
    twice."""
    offers = list((out / PRIVATE / "staging").glob(f"{attempt.work_key[:16]}.*"))
    if offers and note.exists() and all([take_back(offer) for offer in offers]):
        forgive_attempt(out, attempt.folder)


def new_stage(out: Path, key: str) -> Path:
    """An empty folder on the output's own file system to write a result into."""
    with output_errors(out):
        stage = out / PRIVATE / "staging" / key[:16]
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir(parents=True)
        return stage


def offer_stage(out: Path, key: str) -> Path:
    """As `new_stage`, for another process to `claim`: under a name of its own, whoever else works on the series."""
    with output_errors(out):
        offer = out / PRIVATE / "staging" / f"{key[:16]}.{uuid4().hex}"
        offer.mkdir(parents=True)
        return offer


def claim(offer: Path) -> Path:
    """The stage of an offer, for whoever comes first.

    Raises
    ------
    FileExistsError
        Somebody has claimed it.
    FileNotFoundError
        It was taken back.
    """
    stage = claimed(offer)
    stage.mkdir()
    return stage


def claimed(offer: Path) -> Path:
    """Where the stage of an offer lies once it is claimed."""
    return offer / "stage"


def take_back(offer: Path) -> bool:
    """End an offer. Returns whether nobody had claimed it; from now on nobody can."""
    try:
        offer.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        shutil.rmtree(offer, ignore_errors=True)
        return False
    return True


def commit(out: Path, folder: str, stage: Path, outcome: Outcome, supersedes: Iterable[str] = ()) -> None:
    """Write `outcome.json` into the stage, bring everything to the disk, and rename the stage to its place.

    Then the results in the folders of `supersedes` go, and the attempt's note. A stop signal waits until all is done;
    after a crash `recover` does the rest, or brings back what was there.
    """
    with output_errors(out):
        write_json(stage / OUTCOME, outcome.model_dump())
        bring_to_disk(stage)
        note = attempt_path(out, folder)
        attempt = read_attempt(note) or Attempt(folder, outcome.work_key, 1)
        attempt = replace(attempt, commit=digest(stage / OUTCOME), supersedes=tuple(supersedes))
        with unbroken():
            lockfile.check(out / PRIVATE / OWNER)
            write_attempt(note, attempt)
            _put_in_place(out, stage, folder)
            _end_commit(out, note, attempt)


def keep(out: Path, folder: str, stage: Path, outcome: Outcome | None = None) -> None:
    """End an attempt that leaves the result as it is. With an outcome, that takes the place of the one before: it says
    the same of the same files. May be killed and done again."""
    with output_errors(out):
        if outcome:
            write_json(stage / OUTCOME, outcome.model_dump())
        with unbroken():
            lockfile.check(out / PRIVATE / OWNER)
            if outcome:
                rename(stage / OUTCOME, out / folder / OUTCOME)
            attempt_path(out, folder).unlink(missing_ok=True)
        shutil.rmtree(stage, ignore_errors=True)


def withdraw(out: Path, folders: Iterable[str]) -> None:
    """Take results away that no longer count. May be killed and done again."""
    with output_errors(out), unbroken():
        for folder in folders:
            _discard(out, out / folder)


def install(out: Path, staged: Path, place: str) -> None:
    """Bring a staged file or folder to the disk, and rename it to its place below the tree.

    What was there stays whole until the new one is complete: a file is replaced; a folder is moved aside, and back by
    `recover` where the process dies between the two renames.
    """
    with output_errors(out):
        bring_to_disk(staged)
        with unbroken():
            _put_in_place(out, staged, place)


def _put_in_place(out: Path, staged: Path, place: str) -> None:
    target, old = out / place, out / PRIVATE / "old" / place
    make_folder(target.parent)
    if target.is_dir():
        make_folder(old.parent)
        _discard(out, old)
        rename(target, old)
    try:
        rename(staged, target)
    except OSError:
        if old.exists() and not target.exists():  # our disk failed just now: what was there is better than nothing
            os.rename(old, target)
        raise
    _discard(out, old)


def _discard(out: Path, path: Path) -> None:
    """Take a file or folder away at once and whole: half a result never lies in its place, nor among the old ones."""
    rubbish = out / PRIVATE / "rubbish"
    if not path.exists():
        return
    rubbish.mkdir(parents=True, exist_ok=True)
    aside = rubbish / uuid4().hex
    rename(path, aside)
    shutil.rmtree(aside, ignore_errors=True)
