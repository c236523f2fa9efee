"""A node: covct's commands as processes of one parent, which starts again what died, and ends them in order.

Each part is a command of its own, with its own restarts and locks, so that what one meets (a crash in a decoder, a dead
archive) is not the other's. The parent holds nothing: whatever it is killed at, its parts die with it, and the next
start finds inbox, results and deliveries as they were.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from covct.errors import DeviceMissing, UsageError, WeightsError
from covct.exchange.beside import die_with_parent
from covct.outputs import Emit
from covct.unattended.parts import NOTE_EVERY_S, PartState

TICK_S = 0.25
FIRST_DELAY_S, LONGEST_DELAY_S = 1.0, 60.0  # before a part that died is started again
WELL_S = 60.0  # a part that ran so long starts again without delay
STOP_GRACE_S = 8.0  # for all parts: a container is killed ten seconds after its signal
# What another start cannot mend: somebody has to.
LASTING = {UsageError.exit_code, WeightsError.exit_code, DeviceMissing.exit_code}


@dataclass(frozen=True)
class Part:
    """A command of a node: its name and the words after it."""

    name: str
    words: tuple[str, ...]


@dataclass
class _Running:
    """A part, and the process that it is now."""

    part: Part
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    due: float = 0.0
    delay: float = 0.0
    state: PartState = field(init=False)

    def __post_init__(self) -> None:
        self.state = PartState(self.part.name, False, -1, None)

    def start(self, program: Sequence[str], now: float) -> None:
        # A session of its own: Ctrl-C reaches the parent, which ends the parts in their order.
        self.process = subprocess.Popen(
            [*program, self.part.name, *self.part.words],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=die_with_parent,
            env={**os.environ, "TTY_COMPATIBLE": "0"},  # no bar of one part among the lines of another
        )
        self.began = now
        self.state = PartState(self.part.name, True, self.state.restarts + 1, self.state.exit_code)

    def ended(self, now: float) -> int | None:
        """The exit code of a process that has ended since the last look; it is due again after a while."""
        code = self.process.poll() if self.process else None
        if code is None:
            return None
        self.process = None
        self.delay = 0.0 if now - self.began > WELL_S else min(max(2 * self.delay, FIRST_DELAY_S), LONGEST_DELAY_S)
        self.due = now + self.delay
        self.state = PartState(self.part.name, False, self.state.restarts, code)
        return code


def run(parts: Sequence[Part], emit: Emit, note: Callable[[list[PartState]], None]) -> int:
    """Run the parts until a stop signal (`Stopped`); end them in the order given.

    Parameters
    ----------
    note : function (list of PartState)
        Told how they are, every `NOTE_EVERY_S` and when that changes.

    Returns
    -------
    int
        The exit code of a part that ended with an error that another start cannot mend.
    """
    program, running = _program(), [_Running(part) for part in parts]
    noted = 0.0
    try:
        while True:
            now = time.monotonic()
            for one in running:
                if (code := one.ended(now)) is not None:
                    emit({"event": "part-ended", "part": one.part.name, "exit_code": code, "again_in_s": one.delay})
                    noted = 0.0
                    if code in LASTING:
                        return code
                if one.process is None and now >= one.due:
                    one.start(program, now)
                    noted = 0.0
            if now - noted >= NOTE_EVERY_S or not noted:
                note([one.state for one in running])
                noted = now
            time.sleep(TICK_S)
    finally:
        _end(running)


def _program() -> list[str]:
    """How this process was started, up to the name of its command: its parts are started likewise."""
    words = len(sys.orig_argv) - len(sys.argv[1:])
    return [sys.executable, *sys.orig_argv[1:words]]


def _end(running: Sequence[_Running]) -> None:
    """Each is told to stop once the one before has ended; who takes too long is killed."""
    end = time.monotonic() + STOP_GRACE_S
    alive = [one.process for one in running if one.process and one.process.poll() is None]
    for left, process in zip(range(len(alive), 0, -1), alive, strict=True):
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(max(0.0, end - time.monotonic()) / left)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
