"""A sender beside a scan or a watch: `covct send --follow` as a process of its own, so that no archive delays the work.

It is started once there is a tree, and again where it ended; it dies with the process that started it. What it has
done, it says in the tree.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from covct.disk.places import PRIVATE
from covct.exchange.deliveries import FOLDER
from covct.exchange.destinations import Destination
from covct.outputs import Emit, Event
from covct.unattended.sending import DestinationState, as_event, read_sending

AGAIN_S = 60.0  # after it ended
LOOK_S = 5.0  # between two looks at what it has done
STALLED_S = 900.0  # without progress, after which the last attempt is over
STOP_S = 20.0  # that it may take to end what it is at
NICE = 5
DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG

log = logging.getLogger("covct")


@dataclass(frozen=True)
class Task:
    """What is sent where.

    Attributes
    ----------
    texts : tuple of str
        The destinations as the command line names them.
    config : Path or None
        The configuration file in which it names them.
    """

    out: Path
    texts: tuple[str, ...]
    destinations: tuple[Destination, ...]
    config: Path | None


@contextmanager
def beside(task: Task, emit: Emit) -> Iterator[Emit]:
    """`emit`, and meanwhile a sender that follows the tree; at the end it is stopped.

    Its destinations are told as events `sending`, for figures.
    """
    running = _Running(task)
    told = _Told(task)

    def emitting(event: Event) -> None:
        emit(event)
        running.look_after()
        for state in told.news():
            emit(as_event(state))

    try:
        yield emitting
    finally:
        running.stop()


def last_attempt(task: Task, emit: Emit, sleep: Callable[[float], None] = time.sleep) -> list[DestinationState] | None:
    """Send what is left, whatever was tried before; how the destinations stand then. None: it could not be tried."""
    process = _start(task)
    progress, since = _progress(task), time.monotonic()
    try:
        while process.poll() is None and time.monotonic() - since < STALLED_S:
            sleep(0.2)
            emit({"event": "alive"})
            if (now := _progress(task)) != progress:
                progress, since = now, time.monotonic()
    finally:
        _end(process)
    if process.returncode not in (0, 3):
        log.error("what is left could not be sent: covct send ended with exit code %d", process.returncode)
        return None
    said = read_sending(task.out)
    names = [one.name for one in task.destinations]
    return [said.state_of(name) if said else DestinationState(name=name) for name in names]


def _progress(task: Task) -> list[float]:
    """Changes with whatever is entered."""
    folders = [task.out / PRIVATE / FOLDER / one.folder for one in task.destinations]
    return [folder.stat().st_mtime for folder in folders if folder.exists()]


class _Running:
    """The process that follows, started anew where it ended."""

    def __init__(self, task: Task):
        self._task, self._started = task, 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._said: int | None = None  # the exit code that was told of

    def look_after(self) -> None:
        code = self._process.poll() if self._process else None
        if self._process and code is None:
            return
        if code is not None and code != self._said:
            log.warning("covct send beside this run ended with exit code %d; it is started again", code)
            self._said = code
        if self._process and time.monotonic() - self._started < AGAIN_S:
            return
        if (self._task.out / PRIVATE).is_dir():
            self._process, self._started = _start(self._task, "--follow"), time.monotonic()

    def stop(self) -> None:
        if self._process:
            _end(self._process)


class _Told:
    """What the sender has said, where it has said more since."""

    def __init__(self, task: Task):
        self._task, self._names = task, {one.name for one in task.destinations}
        self._looked, self._updated = 0.0, ""

    def news(self) -> list[DestinationState]:
        if time.monotonic() - self._looked < LOOK_S:
            return []
        self._looked = time.monotonic()
        said = read_sending(self._task.out)
        if said is None or said.updated == self._updated:
            return []
        self._updated = said.updated
        return [one for one in said.destinations if one.name in self._names]


def _start(task: Task, *options: str) -> subprocess.Popen[bytes]:
    """`covct send` with the tree and its destinations. What it says is in the tree; here nothing is heard of it."""
    to = [word for text in task.texts for word in ("--to", text)]
    config = ["--config", str(task.config)] if task.config else []
    process = subprocess.Popen(  # -P: what lies in the current folder is not imported
        [sys.executable, "-P", "-m", "covct", "send", str(task.out), *to, *config, *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=die_with_parent,
    )
    with suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, process.pid, NICE)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stop it; what it has not entered by then it sends once more."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _libc() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(None)
    except OSError:
        return None


_LIBC = _libc()


def die_with_parent() -> None:
    """In the child, before it becomes another program: the kernel ends it with its parent (Linux)."""
    if _LIBC is not None and hasattr(_LIBC, "prctl"):
        _LIBC.prctl(DIES_WITH_PARENT, signal.SIGKILL)
