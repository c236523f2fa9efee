"""Files that could not be read, or ended the process that read them: when each is worth another attempt.

A file that is refused at every look for what it holds costs its reading each time: it waits, longer and longer, as
long as its status stays. One that fills the memory, or crashes a decoder, takes the process with it, and the next one
would begin with the same file: whoever is ended twice by one leaves it alone.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from covct.disk.durable import replace_file
from covct.errors import SeriesError
from covct.unattended.file_status import Status

FIRST_DELAY_S, LONGEST_DELAY_S = 60.0, 3600.0
MOST_DEATHS = 2  # of processes, at one file: a third one leaves it
DAYS_KEPT = 30
MARK_BYTES = 16


@dataclass(frozen=True)
class _Refusal:
    status: Status
    error: SeriesError
    delay: float
    due: float


class Refusals:
    """Of the files of one output tree.

    Parameters
    ----------
    folder : Path
        The tree's private folder: which file is being read is noted there, as a hash, outside of any database.
    """

    def __init__(self, folder: Path, now: Callable[[], float] = time.monotonic, today: Callable[[], int] | None = None):
        self._now, self._today = now, today or (lambda: int(time.time() // 86400))
        self._known: dict[bytes, _Refusal] = {}
        self._deadly: dict[str, list[int]] = {}  # by mark: deaths, and the day of the last
        self._reading, self._suspects = folder / "reading", folder / "suspects.json"
        with suppress(OSError, ValueError, TypeError, AttributeError):
            found = json.loads(self._suspects.read_text())
            self._deadly = {k: [*map(int, v)] for k, v in found.items() if abs(self._today() - int(v[1])) <= DAYS_KEPT}
        self._descriptor: int | None = None
        with suppress(OSError):
            self._descriptor = os.open(self._reading, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._accuse(os.pread(self._descriptor, MARK_BYTES, 0))

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @contextmanager
    def watched(self, key: bytes, status: Status, label: str) -> Iterator[None]:
        """Read a file in here.

        Raises
        ------
        SeriesError
            `unreadable`, as the last time, where it is too early for another attempt; else what reading it raises.
        """
        mark = blake2b(repr((key, status)).encode(), digest_size=MARK_BYTES).digest()
        self._check(key, status, mark, label)
        self._note(mark)
        try:
            yield
            self._known.pop(key, None)
        except SeriesError as error:
            if not isinstance(error.__cause__, OSError):  # a network, a mode: the file may be well
                self._refuse(key, status, error)
            raise
        finally:
            self._note(bytes(MARK_BYTES))

    def sweep(self, met: Iterable[bytes]) -> None:
        """Forget what is not there any more."""
        for gone in self._known.keys() - set(met):
            del self._known[gone]

    def _check(self, key: bytes, status: Status, mark: bytes, label: str) -> None:
        deaths, _ = self._deadly.get(mark.hex(), (0, 0))
        if deaths >= MOST_DEATHS:
            message = f"{deaths} processes died while reading it; it is skipped until it changes"
            raise SeriesError("unreadable", message, label)
        refusal = self._known.get(key)
        if refusal and refusal.status == status and self._now() < refusal.due:
            raise SeriesError(refusal.error.slug, refusal.error.message, label)

    def _refuse(self, key: bytes, status: Status, error: SeriesError) -> None:
        before = self._known.get(key)
        again = before is not None and before.status == status
        delay = min(2 * before.delay, LONGEST_DELAY_S) if before and again else FIRST_DELAY_S
        kept = SeriesError(error.slug, error.message)  # without the traceback, which holds the file's contents
        self._known[key] = _Refusal(status, kept, delay, self._now() + delay)

    def _note(self, mark: bytes) -> None:
        """Not flushed: the page cache outlives a process that is killed."""
        if self._descriptor is not None:
            with suppress(OSError):
                os.pwrite(self._descriptor, mark, 0)

    def _accuse(self, mark: bytes) -> None:
        """Count the death of a process that was reading this."""
        if len(mark) < MARK_BYTES or not any(mark):
            return
        deaths, _ = self._deadly.get(mark.hex(), (0, 0))
        self._deadly[mark.hex()] = [deaths + 1, self._today()]
        replace_file(self._suspects, json.dumps(self._deadly), to_disk=False)
        self._note(bytes(MARK_BYTES))
