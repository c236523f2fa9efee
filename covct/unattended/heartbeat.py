"""A sign of life in the output tree: is covct alive, and what is it doing? For health checks and `covct status`.

The file is made once, and overwritten in place: a full disk, or one without inodes, cannot silence it (but on file
systems that copy on write). What keeps studies waiting stands in a file beside it. Neither holds patient data: series
and studies are named by their folders.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from covct.disk.durable import replace_file
from covct.errors import OutputLocked
from covct.outputs import Emit

NAME, WAITING_NAME = "heartbeat", "waiting.json"
SIZE = 4096  # bytes, the same in each beat
MOST_OFTEN_S = 1.0  # a rerun over thousands of finished series tells of each
WAITING_EVERY_S = 30.0  # how old a study has become may be told later
MOST_WAITING = 10_000  # studies that are named
WORKING, ENDED, BROKEN = "working", "ended", "broken"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
LOOKING, IDLE = "looking for studies", "waiting for the next look"


@dataclass(frozen=True)
class Doing:
    """What a run is at, told by its events. Moments are seconds since the machine started.

    Attributes
    ----------
    folder, step : str
        The series at work and its step, of several the last that began; without a series, what covct does between two.
    at_work : int
        How many there are.
    begun : tuple of str
        Their folders, which a beat has no room for. One that was begun again, since its worker died, is one.
    since, series_since : float
        When the step began, and the series.
    pass_began : float
        When the pass had found what is to do.
    to_do, finished, failed : int
        Series of this pass: left, with an outcome, failed ones among these.
    studies, waiting, without_marker : int
        Of the inbox at the last look.
    problems : int
        Files and studies that made trouble in this run.
    source_ok : bool
        Whether the inbox could be looked at.
    error : str
        The kind of error that ended it.
    """

    command: str = ""
    folder: str = ""
    step: str = LOOKING
    at_work: int = 0
    begun: tuple[str, ...] = ()
    since: float = 0.0
    series_since: float = 0.0
    pass_began: float = 0.0
    to_do: int = 0
    finished: int = 0
    failed: int = 0
    studies: int = 0
    waiting: int = 0
    without_marker: int = 0
    problems: int = 0
    source_ok: bool = True
    error: str = ""

    def after(self, event: dict[str, Any], now: float) -> Doing:
        """What it is at after this event."""
        kind = event["event"]
        if kind == "found":
            return replace(self, to_do=event["to_do"], finished=0, failed=0, pass_began=now, step="", since=now)
        if kind == "started":
            begun = (*_others(self.begun, event["folder"]), event["folder"])
            told = replace(self, begun=begun, at_work=len(begun))
            return replace(told, folder=event["folder"], step="", since=now, series_since=now)
        if kind == "step" and event.get("folder", self.folder) != self.folder:
            return self
        if kind == "step":
            return self if event["step"] == self.step else replace(self, step=event["step"], since=now)
        if kind in ("done", "rejected", "failed"):
            failed = self.failed + (kind == "failed")
            return replace(self._without(event["folder"], now), finished=self.finished + 1, failed=failed)
        if kind == "unchanged":
            return self._without(event["folder"], now)
        if kind == "look":
            seen = {name: event[name] for name in ("studies", "waiting", "without_marker", "source_ok")}
            return replace(self, **seen, step=IDLE, since=now if self.step != IDLE else self.since)
        if kind == "looking":
            return replace(self, step=LOOKING, since=now)
        if kind == "finished":
            return replace(self, folder="", step="", begun=(), at_work=0, since=now, to_do=0)
        return replace(self, problems=self.problems + 1) if kind == "problem" else self

    def _without(self, folder: str, now: float) -> Doing:
        """After a series came to its end, whether or not it is the one that is told of."""
        begun = _others(self.begun, folder)
        less = replace(self, begun=begun, at_work=len(begun), to_do=max(0, self.to_do - 1))
        return replace(less, folder="", step="", since=now) if folder == self.folder else less


def _others(begun: tuple[str, ...], folder: str) -> tuple[str, ...]:
    return tuple(one for one in begun if one != folder)


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
    doing: Doing = field(default_factory=Doing)


def beat(private: Path, state: str, doing: Doing | None = None) -> None:
    """Note that covct lives. Where the disk does not take it, the beat grows old: that is the sign."""
    now = Heartbeat(
        state,
        datetime.now(UTC).isoformat(timespec="seconds"),
        _whole_ms(time.time()),
        _whole_ms(since_boot()),
        _boot(),
        os.getpid(),
        doing or Doing(),
    )
    with suppress(OSError):
        descriptor = os.open(private / NAME, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            # In one write of one page: whoever reads meets the beat before or this one.
            os.pwrite(descriptor, json.dumps(_told(now)).encode().ljust(SIZE - 1) + b"\n", 0)
        finally:
            os.close(descriptor)


def _told(last: Heartbeat) -> dict[str, Any]:
    told = asdict(last)
    del told["doing"]["begun"]
    return told


def read_beat(private: Path) -> Heartbeat | None:
    """The last beat, of whatever version; None where there is none, or none that makes sense."""
    try:
        said = json.loads((private / NAME).read_text())
        known = _known(Heartbeat, said)
        return Heartbeat(**{**known, "doing": Doing(**_known(Doing, said.get("doing") or {}))})
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _known(of: type, said: dict[str, Any]) -> dict[str, Any]:
    return {one.name: said[one.name] for one in fields(of) if one.name in said}


def end_beat(private: Path, state: str, error: str) -> None:
    """The last beat of a process that could not beat itself: what it was at stays."""
    last = read_beat(private)
    beat(private, state, replace(last.doing if last else Doing(), error=error))


def read_waiting(private: Path) -> list[dict[str, Any]]:
    """What keeps studies waiting, by the last look: `folder`, `why`, and `since` in seconds since the epoch."""
    try:
        said = json.loads((private / WAITING_NAME).read_text())
        return [one for one in said if isinstance(one, dict) and {"folder", "why", "since"} <= one.keys()]
    except (OSError, ValueError, TypeError):
        return []


def age_s(last: Heartbeat) -> float:
    """Seconds since a beat: by the machine's running time where it has not been started anew, else by the clock."""
    if last.boot and last.boot == _boot():
        return max(0.0, since_boot() - last.since_boot)
    return max(0.0, time.time() - last.unix)


@contextmanager
def kept(private: Path, emit: Emit, command: str = "") -> Iterator[Emit]:
    """`emit`, with a beat after each event, but only what it is at is told more often than once a second.

    The caller holds the tree; where another process has taken it, the beat is that one's.
    """
    doing = Doing(command, since=_whole_ms(since_boot()))
    beat(private, WORKING, doing)
    last = time.monotonic()
    waiting = _Waiting(private)

    def beating(event: dict[str, Any]) -> None:
        nonlocal last, doing
        emit(event)
        waiting.hear(event)
        before, doing = doing, doing.after(event, _whole_ms(since_boot()))
        moved = (before.folder, before.step) != (doing.folder, doing.step)
        if moved or time.monotonic() - last >= MOST_OFTEN_S:
            beat(private, WORKING, doing)
            last = time.monotonic()

    try:
        yield beating
    except OutputLocked:
        raise
    except Exception as error:
        beat(private, BROKEN, replace(doing, error=type(error).__name__))
        raise
    except BaseException:  # a stop signal
        beat(private, ENDED, doing)
        raise
    beat(private, ENDED, doing)


class _Waiting:
    """The file that says what waits: written when other studies wait, or wait for something else."""

    def __init__(self, private: Path):
        self._file, self._at = private / WAITING_NAME, 0.0
        self._said: list[tuple[str, str]] | None = None

    def hear(self, event: dict[str, Any]) -> None:
        if event["event"] != "kept-back":
            return
        studies, now = event["studies"][:MOST_WAITING], time.monotonic()
        said = [(one["folder"], one["why"]) for one in studies]
        if said == self._said and (not said or now - self._at < WAITING_EVERY_S):
            return
        rows = [{**one, "since": round(time.time() - one["age_s"])} for one in studies]
        with suppress(OSError):
            replace_file(self._file, json.dumps(rows), to_disk=False)
            self._said, self._at = said, now


def now_and_then(emit: Emit, about: Mapping[str, int] | None = None) -> Callable[[], None]:
    """A function for what takes long outside of a series: it tells that covct lives, once a second at most.

    `about` is told too, as it stands then.
    """
    last = -math.inf

    def alive() -> None:
        nonlocal last
        if time.monotonic() - last >= MOST_OFTEN_S:
            last = time.monotonic()
            emit({"event": "alive", **(about or {})})

    return alive


def _whole_ms(seconds: float) -> float:
    """Rounded down: a beat is never from the future."""
    return math.floor(seconds * 1000) / 1000


def since_boot() -> float:
    clock = getattr(time, "CLOCK_BOOTTIME", None)  # Linux only; goes on while the machine sleeps
    return time.monotonic() if clock is None else time.clock_gettime(clock)


def _boot() -> str:
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""
