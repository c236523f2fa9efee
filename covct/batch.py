"""Many series: skip what is finished, do the rest, record outcomes. Watching is the same pass again and again."""

from __future__ import annotations

import logging
import re
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from typing import Any

from covct import __version__, state
from covct.cards import file_sha256, read_card
from covct.choice import NOT_CHOSEN, NOT_SELECTED, Choice, choose, selected
from covct.discover import Discovery, Series, discover
from covct.errors import RunError, SeriesError, Stopped, whereabouts
from covct.networks import Networks
from covct.outputs import Outputs
from covct.quality import check_headers
from covct.summary import write_summary

log = logging.getLogger("covct")
# A file that was still being copied has the same identity when it is whole; and memory is not the series' own.
NEVER_FINAL = ("unreadable", "too-large")
Emit = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Order:
    """What a scan was asked for.

    Attributes
    ----------
    outputs : Outputs
    force, retry_failed : bool
        Redo everything; redo what failed unexpectedly.
    strict : bool
        Warnings refuse a series.
    series_uids : tuple of str
        Only these series; empty: the rule chooses.
    select : tuple of (str, re.Pattern)
        Only series whose first slice has this in an attribute, by keyword.
    memory_mib : float or None
        Memory that a series may need; None: all that the machine or the container has.
    """

    sources: tuple[Path, ...]
    out: Path
    weights: Path
    outputs: Outputs = Outputs()
    force: bool = False
    retry_failed: bool = False
    strict: bool = False
    series_uids: tuple[str, ...] = ()
    select: tuple[tuple[str, re.Pattern], ...] = ()
    memory_mib: float | None = None


@dataclass(frozen=True)
class Job:
    """One series with its study's choice, or one that is rejected by its headers (`refusal`)."""

    series: Series
    choice: Choice
    work_key: str
    finished: state.Outcome | None
    refusal: tuple[str, str] | None = None

    @property
    def to_do(self) -> bool:
        return self.finished is None


@dataclass
class Tally:
    """How a pass ended, by status."""

    counts: Counter = field(default_factory=Counter)

    def __getitem__(self, status: str) -> int:
        return self.counts[status]


def plan(order: Order, found: Discovery, cards: dict[str, str]) -> list[Job]:
    """Every series that gets an outcome: the chosen one of each study, or all of a study where none qualifies.

    `cards` holds the hash of each weight card, from `card_hashes`.
    """
    jobs = []
    for _, candidates in _by_study(found):
        wanted = [series for series in candidates if selected(series, order.series_uids, order.select)]
        if not wanted:
            continue
        choice = choose(wanted, partial(check_headers, strict=order.strict))
        choice = replace(choice, left_out=(*choice.left_out, *_not_selected(candidates, wanted)))
        if choice.chosen:
            job: Job | None = _job(order, choice.chosen, choice, cards)
            while job:
                jobs.append(job)
                job = _follow(order, job, job.finished, cards)
        else:
            jobs += [
                _job(order, series, choice, cards, (slug, message))
                for series, slug, message in choice.left_out
                if slug != NOT_SELECTED
            ]
    return jobs


def _not_selected(candidates: list[Series], wanted: list[Series]) -> list[tuple[Series, str, str]]:
    message = "not among the series asked for by --series or --select"
    return [(series, NOT_SELECTED, message) for series in candidates if series not in wanted]


def _by_study(found: Discovery) -> Iterator[tuple[str, list[Series]]]:
    """Each study's folder with its series, in a fixed order."""
    ordered = sorted(found.series, key=lambda series: series.folder)
    for study, group in groupby(ordered, key=lambda series: series.study_folder):
        yield study, list(group)


def card_hashes(weights: Path) -> dict[str, str]:
    """sha256 of each card, once its weights are found unaltered."""
    hashes = {}
    for task in ("lungs", "infection"):
        card = weights / f"{task}.json"
        read_card(card)
        hashes[task] = file_sha256(card)
    return hashes


def _job(order: Order, series: Series, choice: Choice, cards: dict[str, str], refusal=None) -> Job:
    settings = {**order.outputs.settings(), "strict": order.strict}
    key = state.work_key(series.content, settings, cards)
    folder = order.out / series.folder
    outcome = state.read_outcome(folder)
    if outcome and (
        order.force
        or outcome.work_key != key
        or outcome.slug in NEVER_FINAL
        or (outcome.status == "failed" and order.retry_failed)
        or not state.is_whole(folder, outcome)
    ):
        outcome = None
    return Job(series, choice, key, outcome, refusal)


def _follow(order: Order, job: Job, outcome: state.Outcome | None, cards: dict[str, str]) -> Job | None:
    """The next best series of the study, where the chosen one was rejected for what it holds."""
    if not outcome or outcome.status != "rejected" or job.refusal:
        return None
    choice = job.choice.without_chosen(outcome.slug or "", outcome.message or "")
    return _job(order, choice.chosen, choice, cards) if choice and choice.chosen else None


def scan(order: Order, networks: Callable[[], Networks], emit: Emit) -> Tally:
    """One pass over the sources: everything found has an outcome afterwards.

    Parameters
    ----------
    networks : function () -> Networks
        Called once, and only when there is a series to segment: importing keras takes seconds.
    emit : function (dict) -> None
        Told of every event; the caller shows or prints it.
    """
    with state.lock(order.out):
        state.recover(order.out)
        found = discover(order.sources, avoid=order.out)
        _emit_problems(found, emit)
        return _pass(order, found, cache(networks), emit)


def _emit_problems(found: Discovery, emit: Emit, told: set[str] | None = None) -> None:
    for problem in found.problems:
        if told is None or problem.label not in told:
            emit({"event": "problem", "file": problem.label, "slug": problem.slug, "message": problem.message})
            if told is not None:
                told.add(problem.label)


def _pass(order: Order, found: Discovery, networks: Callable[[], Networks], emit: Emit) -> Tally:
    """Bring everything found to an outcome. The caller holds the lock."""
    cards = card_hashes(order.weights)
    jobs = plan(order, found, cards)
    tally = Tally()
    if found.problems:
        tally.counts["unreadable files"] = len(found.problems)
    emit(_found_event(found, jobs))
    try:
        while jobs:
            job = jobs.pop(0)
            if job.finished:
                tally.counts[f"{job.finished.status} before"] += 1
                emit(_job_event("skipped", job, status=job.finished.status, slug=job.finished.slug))
                continue
            outcome = _do(order, job, networks, emit)
            tally.counts[outcome.status] += 1
            if next_best := _follow(order, job, outcome, cards):
                jobs.insert(0, next_best)
    except BaseException:
        with suppress(OSError):  # the page of what was finished, if the disk still takes it
            write_summary(order.out)
        raise
    with state.output_errors(order.out):
        write_summary(order.out)
    emit({"event": "finished", **tally.counts})
    return tally


def _found_event(found: Discovery, jobs: list[Job]) -> dict[str, Any]:
    return {
        "event": "found",
        "candidates": len(found.series),
        "to_do": sum(job.to_do for job in jobs),
        "finished_before": sum(not job.to_do for job in jobs),
        "problems": len(found.problems),
        "ignored_files": found.ignored,
    }


def _do(order: Order, job: Job, networks: Callable[[], Networks], emit: Emit) -> state.Outcome:
    """Process one series to its outcome, whatever happens short of a RunError or a stop."""
    start = time.perf_counter()
    folder = job.series.folder
    emit(_job_event("started", job, slices=len(job.series.instances) or None))
    attempts = state.begin_attempt(order.out, folder, job.work_key)
    stage = state.new_stage(order.out, job.work_key)
    status, slug, message = "done", None, None
    figures: dict[str, Any] = {}
    with _not_an_attempt_when_stopped(order.out, folder):
        try:
            if job.refusal:
                raise SeriesError(*job.refusal)
            if attempts > state.MOST_ATTEMPTS:
                status, slug = "failed", "crashed-repeatedly"
                message = f"{state.MOST_ATTEMPTS} attempts left no outcome"
            else:
                figures = _figures(_segment(order, job, networks, stage, emit))
        except SeriesError as error:
            status, slug, message = "rejected", error.slug, error.message
        except MemoryError as error:
            status, slug, message = "failed", "out-of-memory", f"no memory left: {whereabouts(error)}"
        except Exception as error:
            if isinstance(error, (RunError, OSError)):
                raise
            status, slug, message = "failed", "unexpected-error", whereabouts(error)
            log.error("%s: %s\n%s", folder, message, "".join(traceback.format_tb(error.__traceback__)))
        if status != "done":
            stage = state.new_stage(order.out, job.work_key)
        outcome = _outcome(job, stage, status, slug, message, time.perf_counter() - start)
        state.commit(order.out, folder, stage, outcome)
        state.end_attempt(order.out, folder)
        if status == "done":
            _retire_others(order.out, job.choice)
    details = {"slug": slug, "message": message, "seconds": outcome.seconds, **figures}
    emit(_job_event(status, job, **details))
    return outcome


def _retire_others(out: Path, choice: Choice) -> None:
    """A better series came later: the result of the one chosen before must not count the patient twice."""
    for series, slug, _ in choice.left_out:
        if slug == NOT_CHOSEN:
            state.retire(out, series.folder)


@contextmanager
def _not_an_attempt_when_stopped(out: Path, folder: str) -> Iterator[None]:
    """A stop signal or our own disk is not the series' fault."""
    try:
        with state.output_errors(out):
            yield
    except (Stopped, KeyboardInterrupt, RunError):
        state.end_attempt(out, folder)
        raise


def _segment(order: Order, job: Job, networks: Callable[[], Networks], stage: Path, emit: Emit) -> dict[str, Any]:
    """Run the pipeline and write every file of the result into the stage. Returns the report."""
    from covct.pipeline import Clock, peak_memory_mib, process  # highdicom and SimpleITK: only when there is work
    from covct.writers import REPORT_NAME, WRITERS, formats_for

    state.ensure_temporary_folder(order.out)
    clock = Clock(lambda step: emit(_job_event("step", job, step=step)))

    def asked() -> Networks:
        emit(_job_event("step", job, step="networks"))
        return networks()

    result = process(job.choice, asked, job.work_key, clock, order.strict, order.memory_mib)
    with clock.step("write"):
        for name in formats_for(job.series.kind, order.outputs.formats):
            WRITERS[name](result, stage, order.outputs)
    run = {
        "device": asdict(result.device),
        "timings_s": clock.seconds,
        "peak_memory_mib": peak_memory_mib(),
    }
    report = {**result.report, "run": run}
    state.write_json(stage / REPORT_NAME, report)
    return report


def _outcome(job: Job, stage: Path, status: str, slug, message, seconds: float) -> state.Outcome:
    return state.Outcome(
        status=status,
        work_key=job.work_key,
        slug=slug,
        message=message,
        files={path.name: file_sha256(path) for path in sorted(stage.iterdir())},
        covct_version=__version__,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 3),
        study_instance_uid=job.series.study_uid,
        series_instance_uid=job.series.series_uid,
        source=job.series.path.label if job.series.path else "",
    )


def _job_event(event: str, job: Job, **details: Any) -> dict[str, Any]:
    return {
        "event": event,
        "study": job.series.study_uid or job.series.study_folder,
        "series": job.series.series_uid or job.series.study_folder,
        "folder": job.series.folder,
        **details,
    }


def _figures(report: dict[str, Any]) -> dict[str, Any]:
    """The figures a shell pipeline asks for first."""
    return {
        "infection_percent": report["regions"]["lungs"]["infection_percent"],
        "severity_class": report["severity"]["class"],
        "warnings": [warning["slug"] for warning in report["warnings"]],
        "research_use": report["research_use"],
    }


def watch(
    order: Order,
    networks: Callable[[], Networks],
    emit: Emit,
    settle_s: float,
    interval_s: float,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Pass over the inbox again and again until stopped. A study is taken when its files have settled.

    Settled: count, size and newest modification time did not change for `settle_s` seconds. Polling, not
    inotify: events do not arrive over NFS or SMB. A late slice changes the study and reopens it.
    """
    seen: dict[str, tuple[tuple, float]] = {}
    told: set[str] = set()
    done_before: set[tuple[str, tuple]] = set()
    loaded = cache(networks)
    with state.lock(order.out):
        state.recover(order.out)
        while True:
            found = discover(order.sources, avoid=order.out)
            _emit_problems(found, emit, told)
            settled = _settled(found, seen, clock(), settle_s)
            fresh = {(study, seen[study][0]) for study in settled} - done_before
            if fresh:
                studies = {study for study, _ in fresh}
                part = tuple(series for series in found.series if series.study_folder in studies)
                _pass(order, Discovery(part, (), found.ignored), loaded, emit)
                done_before |= fresh
            sleep(interval_s)


def _settled(found: Discovery, seen: dict[str, tuple[tuple, float]], now: float, settle_s: float) -> list[str]:
    """Studies unchanged for `settle_s`; `seen` keeps each study's signature and since when it holds."""
    settled = []
    for study, group in _by_study(found):
        signature = _signature(group)
        if study not in seen or seen[study][0] != signature:
            seen[study] = (signature, now)
        if now - seen[study][1] >= settle_s:
            settled.append(study)
    return settled


def _signature(series: list[Series]) -> tuple:
    paths = {i.file.path for one in series for i in one.instances} | {one.path.path for one in series if one.path}
    sizes, newest = [], 0.0
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            continue
        sizes.append(status.st_size)
        newest = max(newest, status.st_mtime)
    instances = sum(len(one.instances) for one in series)
    return len(sizes), instances, sum(sizes), newest
