"""A small parent process that looks after the one that works.

Neither a thread nor a signal handler can interrupt a call into C that does not come back: a network on a hung driver,
a read from a dead NFS server. Only ending the process can. So `covct scan` and `covct watch` work in a child, made by
fork before anything heavy is loaded, and the parent

- ends the child when a series exceeds its timeout, notes it, and goes on with a new child, which records the series as
  ``failed: timeout``;
- passes a stop signal on, and ends the child where it has not stopped within `STOP_GRACE_S`;
- likewise where the networks do not load within `LONGEST_LOADING_S`, which counts for no series: three times, then
  the run ends as if their weights were damaged;
- likewise where it gave no sign of life for `HUNG_S` between two series, as a source does not answer: the run ends with
  exit code 14, so that a restart policy can act;
- goes on with a new child where one was killed (a segmentation fault, out of memory); at a series, the attempts noted
  in the tree end that after three; between two, it is given up after three without a series finished.

What the child is at comes over a pipe. The lock is the child's and is freed with it; if the parent dies, the kernel
ends the child. What the parent has of its own is a few MiB and no files open.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from covct.disk import signals, state
from covct.disk.attempts import MOST_ATTEMPTS, forgive_attempt, note_timeout
from covct.disk.places import PRIVATE
from covct.errors import NotEnding, OutputLocked, OutputNotWritable, WeightsError
from covct.outputs import Emit
from covct.unattended import heartbeat
from covct.unattended.logs import as_json
from covct.unattended.prometheus import end_in_place
from covct.visible import utc

STOP_GRACE_S = 3.0
KILL_GRACE_S = 20.0
TICK_S = 0.25
LONGEST_SERIES_S = 3600.0  # unless said otherwise; 1500 slices of 768 x 768 take some minutes on two cores
LONGEST_LOADING_S = 1800.0  # libraries and networks, with kernels compiled for a new GPU
HUNG_S = 3600.0  # between two series, without a sign of life
ALIVE_EVERY_S = 5.0
MOST_CRASHES = 9  # in a row, without a series finished between: it is not the series
PARENT_SIGNALS = (signal.SIGTERM, signal.SIGINT)
OUTCOMES = ("done", "rejected", "failed")


@dataclass
class Work:
    """What the parent knows of the run.

    Attributes
    ----------
    began : datetime
        Of the run, whichever child it is.
    finished : set of str
        Folders of the series that have an outcome of this run.
    out, metrics, timeout_s, log_json
        The output tree, the file of figures if there is one, the series timeout and whether logs are JSON lines, once
        the child has read its options.
    children : set of int
        The processes that have worked for this run.
    folder : str
        The series at work; empty between two.
    counting : bool
        Whether the series' time runs: from its first step on, and not while the networks are loaded. Libraries and
        networks are loaded at the first series, and are not its fault.
    writing : bool
        Whether it is computed, and written while the next one is computed.
    loading_s : float
        How long libraries and networks have been loaded for this series.
    elapsed_s : float
        Of the series. Time in which this process did not run (a paused container) is not in it.
    silent_s : float
        Since the child last said anything, at a series or between two.
    crashes : int
        Children killed since the last series was finished.
    """

    began: datetime
    finished: set[str] = field(default_factory=set)
    out: Path | None = None
    metrics: Path | None = None
    children: set[int] = field(default_factory=set)
    timeout_s: float | None = None
    log_json: bool = False
    folder: str = ""
    counting: bool = False
    writing: bool = False
    loading_s: float = 0.0
    elapsed_s: float = 0.0
    silent_s: float = 0.0
    crashes: int = 0

    def hear(self, told: dict[str, Any]) -> None:
        """What the child said."""
        self.silent_s = 0.0
        if "out" in told:
            self.out, self.timeout_s, self.log_json = Path(told["out"]), told["timeout_s"], told["log_json"]
            self.metrics = Path(told["metrics"]) if told["metrics"] else None
        elif told["event"] == "started":
            self.folder, self.counting, self.loading_s, self.elapsed_s = told["folder"], False, 0.0, 0.0
            self.writing = False
        elif told["event"] == "step":
            self.counting, self.writing = told["step"] != "networks", told["step"] == "write"
        elif told["event"] in (*OUTCOMES, "unchanged"):
            self.finished |= {told["folder"]} if told["event"] in OUTCOMES else set()
            self.folder, self.counting, self.crashes = "", False, 0

    def pass_time(self, seconds: float) -> None:
        """So much later, something is still at work."""
        self.silent_s += seconds if self.out else 0.0
        if self.counting:
            self.elapsed_s += seconds
        elif self.folder:
            self.loading_s += seconds

    @property
    def hangs(self) -> bool:
        """Between two series; at one its own time counts."""
        return not self.folder and self.silent_s > HUNG_S

    @property
    def too_long(self) -> bool:
        return bool(self.folder and self.timeout_s and self.elapsed_s > self.timeout_s)

    @property
    def loads_too_long(self) -> bool:
        """Weights or a driver that never come to an end are not the series' fault."""
        return bool(self.folder and self.loading_s > LONGEST_LOADING_S)


@dataclass(frozen=True)
class Worker:
    """The child's side: its pipe to the parent, and what was finished by children before it."""

    channel: int
    began: datetime
    finished: frozenset[str]

    def reporting(
        self,
        emit: Emit,
        out: Path,
        timeout_s: float | None,
        log_json: bool,
        metrics: Path | None = None,
        alone: bool = True,
    ) -> Emit:
        """`emit`, and the parent hears which series is at work.

        Only which has come to an end, where this process is not `alone` at work: it looks after its workers itself.
        """
        heard = ("started", "step", "unchanged", *OUTCOMES) if alone else ("unchanged", *OUTCOMES)
        figures = os.fspath(metrics.absolute()) if metrics else None
        options = {"timeout_s": timeout_s, "log_json": log_json, "metrics": figures}
        self._tell({"out": os.fspath(out.absolute()), **options})
        last = time.monotonic()

        def reported(event: dict[str, Any]) -> None:
            nonlocal last
            if event["event"] in heard and "folder" in event:
                self._tell({name: event[name] for name in ("event", "folder", "step") if name in event})
            elif time.monotonic() - last >= ALIVE_EVERY_S:
                last = time.monotonic()
                self._tell({"event": "alive"})
            emit(event)

        return reported

    def _tell(self, what: dict[str, Any]) -> None:
        os.write(self.channel, json.dumps(what).encode() + b"\n")  # below PIPE_BUF: whole or not at all


_worker: list[Worker] = []


def worker() -> Worker | None:
    """This process's line to its supervisor; None where it has none."""
    return _worker[0] if _worker else None


def supervise() -> None:
    """Return in a child process, which is to do the work. The parent stays in here and exits as the child does."""
    work, parent = Work(datetime.now(UTC)), os.getpid()
    ears, mouth = os.pipe()
    os.set_blocking(mouth, False)
    heard = (*PARENT_SIGNALS, signal.SIGCHLD)
    before = {number: signal.getsignal(number) for number in heard}
    caught = [number for number in heard if before[number] is not signal.SIG_IGN or number == signal.SIGCHLD]
    for number in caught:
        signal.signal(number, lambda number, frame: None)
    signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
    while True:
        from_child, to_parent = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, caught)  # none is lost between the fork and the child's own handlers
        child = os.fork()
        if not child:
            signal.set_wakeup_fd(-1)
            for number in caught:
                signal.signal(number, before[number])
            signals.install()
            _die_with(parent)
            for descriptor in (from_child, ears, mouth):
                os.close(descriptor)
            _worker[:] = [Worker(to_parent, work.began, frozenset(work.finished))]
            signal.pthread_sigmask(signal.SIG_UNBLOCK, caught)
            return
        signal.pthread_sigmask(signal.SIG_UNBLOCK, caught)
        work.children.add(child)
        os.close(to_parent)
        code = _attend(child, from_child, ears, work)
        os.close(from_child)
        if code is not None:
            sys.exit(code)


def _die_with(parent: int) -> None:
    """The kernel ends this process when its parent dies (Linux): nobody would look after it."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


def _attend(child: int, from_child: int, ears: int, work: Work) -> int | None:
    """Look after a child to its end. Returns the exit code, or None where another child is to go on."""
    said, stopped_by, stop_at, kill_at = b"", "", 0.0, 0.0
    last = time.monotonic()
    open_ends = [from_child, ears]
    while True:
        ready, _, _ = select.select(open_ends, [], [], TICK_S)
        now = time.monotonic()
        work.pass_time(min(now - last, 4 * TICK_S))
        last = now
        if from_child in ready:
            chunk = os.read(from_child, 65536)
            *lines, said = (said + chunk).split(b"\n")
            for line in lines:
                work.hear(json.loads(line))
            if not chunk:
                open_ends.remove(from_child)
        if ears in ready:
            for number in os.read(ears, 512):
                if number in PARENT_SIGNALS and not stopped_by:
                    stopped_by, stop_at = signal.Signals(number).name, now
                    os.kill(child, signal.SIGTERM)
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            while chunk := os.read(from_child, 65536) if from_child in open_ends else b"":
                said += chunk
            for line in said.split(b"\n")[:-1]:
                work.hear(json.loads(line))
            return _after(os.waitstatus_to_exitcode(status), bool(kill_at), stopped_by, work)
        if kill_at and now - kill_at > KILL_GRACE_S:
            _say_that_it_ended(work, heartbeat.BROKEN, "NotEnding")
            raise NotEnding(
                "the worker is not responding and cannot be killed: it is waiting for a file system or a driver"
            )
        overdue = work.too_long or work.loads_too_long or work.hangs
        if not kill_at and (overdue or (stopped_by and now - stop_at > STOP_GRACE_S)):
            kill_at = now
            os.kill(child, signal.SIGKILL)


def _after(code: int, killed: bool, stopped_by: str, work: Work) -> int | None:
    """What comes after a child: its exit code is ours, or another one goes on. A negative code is a signal's."""
    if code >= 0:
        return code
    if sys.stderr.isatty():
        sys.stderr.write("\x1b[?25h")  # the progress bar had hidden the cursor
    if stopped_by:
        _in_tree(work, lambda out: forgive_attempt(out, work.folder))
        _say_that_it_ended(work, heartbeat.ENDED)
        message = f"stopped by {stopped_by}; finished series are kept"
        _say(work, {"event": "ended", "reason": "Stopped", "message": message, "exit_code": 130}, "info")
        return 130
    if killed and work.loads_too_long:
        work.crashes += 1
        message = f"the networks did not load within {LONGEST_LOADING_S:g} s; the worker was killed"
        _say(work, {"event": "log", "message": message}, "error")
        _in_tree(work, lambda out: forgive_attempt(out, work.folder))
        if work.crashes > MOST_ATTEMPTS:
            _say_that_it_ended(work, heartbeat.BROKEN, "WeightsError")
            return WeightsError.exit_code
    elif killed and work.folder:
        message = f"a series had no result within {work.timeout_s:g} s; its worker was killed, and a new one continues"
        _say(work, {"event": "log", "message": message}, "error")
        _in_tree(work, lambda out: note_timeout(out, work.folder, work.timeout_s or 0, work.writing))
    elif killed:
        _say_that_it_ended(work, heartbeat.BROKEN, "NotEnding")
        message = f"no sign of life for {HUNG_S:g} s between two series; is the source responding?"
        _say(work, {"event": "ended", "reason": "NotEnding", "message": message, "exit_code": 14}, "error")
        return NotEnding.exit_code
    else:
        work.crashes += 1
        where = "at a series" if work.folder else "between two series"
        message = f"the worker was killed by {signal.Signals(-code).name} {where}"
        _say(work, {"event": "log", "message": message}, "error")
        if work.crashes > (MOST_CRASHES if work.folder else MOST_ATTEMPTS):
            _say_that_it_ended(work, heartbeat.BROKEN, signal.Signals(-code).name)
            return 1
    work.folder, work.counting, work.silent_s = "", False, 0.0
    return None


def _say_that_it_ended(work: Work, how: str, error: str = "") -> None:
    """In place of a child that was killed: the last beat, and figures that say so. The tree's lock is not needed.

    Unless another process has taken the tree meanwhile: what is said there is said of that one.
    """
    private = work.out / PRIVATE if work.out else None
    last = heartbeat.read_beat(private) if private else None
    is_ours = last is not None and last.process in work.children
    if private and is_ours:
        heartbeat.end_beat(private, how, error)
    if work.metrics and (is_ours or last is None or last.unix < work.began.timestamp()):
        end_in_place(work.metrics)


def _say(work: Work, event: dict[str, Any], level: str) -> None:
    """On stderr, as the child would have. Which series it was, the next child's event says: hashed, where that is
    wanted."""
    line = as_json(event, level) if work.log_json else f"{utc()}  covct: {event['message']}"
    print(line, file=sys.stderr, flush=True)


def _in_tree(work: Work, change: Callable[[Path], None]) -> None:
    """Change the note of the series that was at work, unless another process has taken the tree meanwhile."""
    if work.out and work.folder:
        with suppress(OutputLocked, OutputNotWritable), state.lock(work.out):
            change(work.out)
