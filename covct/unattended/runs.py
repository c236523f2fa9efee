"""One small file a run, `runs/<UTC time>.json` below the output tree: what it came to. No patient data.

Written at the beginning, after each series, and at the end; so a run that was killed has one too, without an end.
The format is `run_summary`. The newest `KEPT` stay.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from covct import RESEARCH_USE, __version__
from covct.disk.documents import DamagedDocument
from covct.disk.durable import output_errors, remove_halves, replace_file
from covct.disk.outcome import Status
from covct.disk.versions import RUN
from covct.errors import RunError, Stopped
from covct.outputs import Emit
from covct.unattended.run_summary import Command, Count, End, LastError, RunSummary

FOLDER = "runs"
KEPT = 100
PACKAGES = ("highdicom", "keras", "numpy", "pydicom", "tensorflow")
OUTCOMES = ("done", "rejected", "failed")


@dataclass
class Run:
    """What a run has come to so far, told by its events.

    Attributes
    ----------
    outcomes, before : Counter of (str, str)
        Series by status and slug: finished in this run, and found finished.
    waiting : int
        Series that this run leaves, and `end` says why.
    end : str or None
        finished, limit, until, stopped or error; None while it runs.
    """

    out: Path
    command: Command
    began: datetime
    own: frozenset[str] = frozenset()
    outcomes: Counter[tuple[Status, str]] = field(default_factory=Counter)
    before: Counter[tuple[Status, str]] = field(default_factory=Counter)
    problems: int = 0
    waiting: int = 0
    work_s: float = 0.0
    device: str | None = None
    last_error: LastError | None = None
    end: End | None = None
    error: str | None = None
    sequence: int = 0

    @property
    def path(self) -> Path:
        return self.out / FOLDER / _stamp(self.began)

    def hear(self, event: dict[str, Any]) -> None:
        """An event of the batch."""
        kind = event["event"]
        if kind in OUTCOMES:
            self.outcomes[kind, event.get("slug") or ""] += 1
            self.work_s += event.get("seconds") or 0.0
            self.device = event.get("device") or self.device
            if kind == "failed":
                self.last_error = LastError(slug=event["slug"], folder=event["folder"], at=_utc(datetime.now(UTC)))
        elif kind in ("skipped", "unchanged") and event["folder"] not in self.own:
            self.before[event["status"], event.get("slug") or ""] += 1
        elif kind == "problem":
            self.problems += 1
        elif kind == "waiting":
            self.waiting, self.end = event["series"], event["why"]

    def summary(self, now: datetime) -> RunSummary:
        seconds = max(0.0, (now - self.began).total_seconds())
        finished = sum(self.outcomes.values())
        return RunSummary(
            schema_=RUN,
            research_use=RESEARCH_USE,
            covct_version=__version__,
            versions=versions(),
            sequence=self.sequence,
            command=self.command,
            began=_utc(self.began),
            updated=_utc(now),
            seconds=round(seconds, 3),
            end=self.end,
            error=self.error,
            device=self.device,
            outcomes=_rows(self.outcomes),
            finished_before=_rows(self.before),
            waiting=self.waiting,
            unreadable_files=self.problems,
            work_seconds=round(self.work_s, 3),
            series_per_hour=round(3600 * finished / seconds, 1) if finished and seconds else None,
            last_error=self.last_error,
        )

    def save(self) -> None:
        """Replace the file. Not forced to the disk: the outcomes are what a power failure must not take."""
        self.path.parent.mkdir(exist_ok=True)
        replace_file(self.path, self.summary(datetime.now(UTC)).as_json(), to_disk=False)

    def resume(self) -> None:
        """Go on with what a process before this one, of the same run, had written; else be the next run of the tree."""
        noted = _read(self.path)
        if noted:
            self.outcomes.update({(row.status, row.slug or ""): row.series for row in noted.outcomes})
            self.device, self.last_error, self.work_s = noted.device, noted.last_error, noted.work_seconds
            self.sequence = noted.sequence
        self.sequence = self.sequence or 1 + max(map(_sequence, _files(self.out)), default=0)


@contextmanager
def recorded(run: Run, emit: Emit) -> Iterator[Emit]:
    """Within, the events go through the run's record, which is on the disk whatever ends the run. The caller holds the
    lock."""
    with output_errors(run.out):
        run.resume()
        run.save()
        _prune(run.path)

    def heard(event: dict[str, Any]) -> None:
        run.hear(event)
        if event["event"] in OUTCOMES:  # at once: the process may be ended at the next series, and another goes on
            with output_errors(run.out):
                run.save()
        emit(event)

    try:
        yield heard
    except BaseException as error:
        run.end = "stopped" if isinstance(error, (Stopped, KeyboardInterrupt)) else "error"
        run.error = type(error).__name__ if run.end == "error" else None
        with suppress(OSError, RunError):  # if the disk still takes it
            run.save()
        raise
    run.end = run.end or "finished"
    with output_errors(run.out):
        run.save()


def latest(out: Path, now: datetime | None = None) -> RunSummary | None:
    """The summary of the last run that can be read: by its number, as clocks are wrong at times.

    Runs of versions that gave no number come before, and of those the ones dated after `now` first.
    """
    today = _stamp(now or datetime.now(UTC))
    runs = [(run.sequence, path.name <= today, path.name, run) for path in _files(out) if (run := _read(path))]
    return max(runs, key=lambda one: one[:3])[3] if runs else None


def _files(out: Path) -> list[Path]:
    return sorted((out / FOLDER).glob("*.json"))


def _sequence(path: Path) -> int:
    run = _read(path)
    return run.sequence if run else 0


def _stamp(moment: datetime) -> str:
    return f"{moment.astimezone(UTC).strftime('%Y%m%dT%H%M%S.%f')[:-3]}Z.json"


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide results, without importing them."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _prune(mine: Path) -> None:
    """Keep the newest; this run's own whatever the clock says, and throw away what a killed process half wrote."""
    remove_halves(mine.parent)
    others = [path for path in _files(mine.parent.parent) if path != mine]
    others.sort(key=lambda path: (_sequence(path), path.name))
    for path in others[: max(0, len(others) + 1 - KEPT)]:
        path.unlink(missing_ok=True)


def _read(path: Path) -> RunSummary | None:
    try:
        return RunSummary.read(path)
    except (OSError, DamagedDocument):
        return None


def _rows(counts: Counter[tuple[Status, str]]) -> list[Count]:
    return [Count(status=status, slug=slug or None, series=number) for (status, slug), number in sorted(counts.items())]


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")
