"""A sign of life in the output tree, for the health check of a container or a cron job."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

NAME = "heartbeat"
MOST_OFTEN_S = 1.0  # a rerun over thousands of finished series tells of each
WORKING, ENDED, BROKEN = "working", "ended", "broken"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Heartbeat:
    """The last beat.

    Attributes
    ----------
    state : str
        "working"; "ended", by itself or by a stop signal; "broken", by an error that ended the process.
    time : str
        UTC, for people.
    unix, since_boot : float
        Wall clock, and seconds since the machine started, which setting the clock does not change.
    boot : str
        Which start of the machine is meant; empty where the kernel does not say.
    """

    state: str
    time: str
    unix: float
    since_boot: float
    boot: str
    process: int


def beat(private: Path, state: str) -> None:
    """Note that covct lives. Where the disk does not take it, the beat grows old: that is the sign."""
    now = Heartbeat(
        state,
        datetime.now(UTC).isoformat(timespec="seconds"),
        _whole_ms(time.time()),
        _whole_ms(_since_boot()),
        _boot(),
        os.getpid(),
    )
    with suppress(OSError):
        # One name, not one a process: the caller holds the tree, and what a kill leaves is written over.
        beside = private / f".{NAME}.new"
        beside.write_text(json.dumps(asdict(now)) + "\n")
        os.replace(beside, private / NAME)


def read_beat(private: Path) -> Heartbeat | None:
    """The last beat; None where there is none, or none that makes sense."""
    try:
        return Heartbeat(**json.loads((private / NAME).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def age_s(last: Heartbeat) -> float:
    """Seconds since a beat: by the machine's running time where it has not been started anew, else by the clock."""
    if last.boot and last.boot == _boot():
        return max(0.0, _since_boot() - last.since_boot)
    return max(0.0, time.time() - last.unix)


@contextmanager
def kept(private: Path, emit: Callable[[dict[str, Any]], None]) -> Iterator[Callable[[dict[str, Any]], None]]:
    """`emit`, with a beat after each event, but not more often than once a second. The caller holds the tree."""
    beat(private, WORKING)
    last = time.monotonic()

    def beating(event: dict[str, Any]) -> None:
        nonlocal last
        emit(event)
        if time.monotonic() - last >= MOST_OFTEN_S:
            beat(private, WORKING)
            last = time.monotonic()

    try:
        yield beating
    except Exception:
        beat(private, BROKEN)
        raise
    except BaseException:  # a stop signal
        beat(private, ENDED)
        raise
    beat(private, ENDED)


def now_and_then(emit: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
    """A function for what takes long outside of a series: it tells that covct lives, once a second at most."""
    last = -math.inf

    def alive() -> None:
        nonlocal last
        if time.monotonic() - last >= MOST_OFTEN_S:
            last = time.monotonic()
            emit({"event": "alive"})

    return alive


def _whole_ms(seconds: float) -> float:
    """Rounded down: a beat is never from the future."""
    return math.floor(seconds * 1000) / 1000


def _since_boot() -> float:
    clock = getattr(time, "CLOCK_BOOTTIME", None)  # Linux only; goes on while the machine sleeps
    return time.monotonic() if clock is None else time.clock_gettime(clock)


def _boot() -> str:
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""
