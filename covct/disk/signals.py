"""Stop signals: raised as `Stopped` wherever the work is, but never in the middle of what must not be cut in two."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from covct.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass
class _Stop:
    """The process's one stop: a signal's name once it came, whether it was raised, and how deep in `unbroken` we are.

    A mask of signals would not do: the kernel hands a signal to any thread that takes it, and networks have threads.
    """

    signal: str = ""
    raised: bool = False
    depth: int = 0

    def came(self, number: int, frame: FrameType | None) -> None:
        """The handler. Only the first signal is raised: a second must not break the cleaning up after it."""
        self.signal = self.signal or signal.Signals(number).name
        self.raise_when_due()

    def raise_when_due(self) -> None:
        if self.signal and not self.depth and not self.raised:
            self.raised = True
            raise Stopped(self.signal)


_stop = _Stop()


def install() -> dict[signal.Signals, Any]:
    """SIGTERM and SIGINT become `Stopped`, raised between two instructions of Python. Returns the handlers before."""
    _stop.signal, _stop.raised = "", False
    return {number: signal.signal(number, _stop.came) for number in SIGNALS}


@contextmanager
def stoppable() -> Iterator[None]:
    """Within, SIGTERM and SIGINT become `Stopped`."""
    before = install()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def unbroken() -> Iterator[None]:
    """What is within is not cut in two by a stop signal: `Stopped` is raised at its end. For moments, not for work."""
    _stop.depth += 1
    try:
        yield
    finally:
        _stop.depth -= 1
    _stop.raise_when_due()
