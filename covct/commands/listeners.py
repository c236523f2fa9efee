"""Standard output and error as listeners, whose loss ends nothing.

A reader that goes away (``--json | head``), a terminal that is closed, a log on a full disk, a descriptor that was
never open: the night goes on, and what cannot be told is dropped. Results lie on the disk; here they are only told of.
"""

from __future__ import annotations

import errno
import io
import os
import select
import signal
import sys
import time
from typing import Any, TextIO

PATIENCE_S = 60.0
PIECE = 4096  # bytes; a pipe that is ready takes so many without waiting (PIPE_BUF)
GONE = {errno.EPIPE, errno.EBADF, errno.ENXIO}  # nobody listens any more, by the listener's own choice


class Listener(io.RawIOBase):
    """A descriptor that is written to as long as somebody takes what is written. Writing never fails.

    Attributes
    ----------
    lost : OSError or None
        Why something could not be written.
    """

    def __init__(self, descriptor: int, patience_s: float = PATIENCE_S):
        self.descriptor, self.patience_s = descriptor, patience_s
        self.lost: OSError | None = None
        self._cut = False  # the last line was written in part
        self._stalled = False  # the reader has stopped reading
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.descriptor

    def isatty(self) -> bool:
        return os.isatty(self.descriptor)

    def write(self, data: Any) -> int:
        whole = bytes(data)
        self._deliver(b"\n" + whole if self._cut else whole)
        return len(whole)

    def _deliver(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                self._wait()
                rest = rest[os.write(self.descriptor, rest[:PIECE]) :]
                self._cut = False
            except BlockingIOError:
                continue
            except OSError as error:
                self._cut = self._cut or 0 < len(rest) < len(data)
                self.lost = error
                return

    def _wait(self) -> None:
        """Until it can be written; a reader that stopped reading is waited for once, and then only looked at."""
        end = time.monotonic() + (0.0 if self._stalled else self.patience_s)
        while not self._poll.poll(max(0.0, 1000 * (end - time.monotonic()))):
            if time.monotonic() >= end:
                self._stalled = True
                raise TimeoutError(errno.ETIMEDOUT, "the reader has stopped reading")
        self._stalled = False


def listen() -> None:
    """Make this process's standard streams such that losing them ends nothing; once, at its start.

    Descriptors 0 to 2 that are closed are opened to nowhere: the next file that is opened would bear their number, and
    what is printed would go into it. A terminal that hangs up takes only itself away.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free descriptor: this one
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if sys.stdout is sys.__stdout__:  # else somebody has put another in its place
        sys.stdout = _stream(1)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _stream(2)


def _stream(descriptor: int) -> TextIO:
    buffered = io.BufferedWriter(Listener(descriptor))
    # By UTF-8 whatever the locale says; what cannot be encoded is shown as an escape.
    return io.TextIOWrapper(buffered, "utf-8", "backslashreplace", line_buffering=True)


def unheard() -> OSError | None:
    """Why results could not be told on standard output, where nobody chose that: a full disk, and not a closed pipe."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    lost = raw.lost if isinstance(raw, Listener) else None
    return None if lost is None or lost.errno in GONE else lost
