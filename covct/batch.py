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

from covct import __version__, heartbeat, state
from covct.cards import file_sha256, read_card
from covct.choice import NOT_CHOSEN, NOT_SELECTED, Choice, choose, selected
from covct.discover import UID_PATTERN, Discovery, Series, discover
from covct.errors import RunError, SeriesError, Stopped, whereabouts
from covct.networks import Network, Networks
from covct.outputs import Outputs
from covct.quality import check_headers
from covct.runs import Run, recorded
from covct.summary import write_summary
from covct.window import changed_since

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
    since : datetime or None
        Only studies of which a file was modified then or later.
    until : datetime or None
        No series is started then or later.
    limit : int or None
        At most as many series get an outcome in this run.
    began : datetime or None
        The run's beginning, where a process before this one began it.
    already : frozenset of str
        Folders that have an outcome of this run from a process before: neither forced nor retried.
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
    since: datetime | None = None
    until: datetime | None = None
    limit: int | None = None
    began: datetime | None = None
    already: frozenset[str] = frozenset()


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
    again = series.folder not in order.already
    if outcome and (
        (order.force and again)
        or outcome.work_key != key
        or outcome.slug in NEVER_FINAL
        or (outcome.status == "failed" and order.retry_failed and again)
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
    with state.lock(order.out), heartbeat.kept(order.out / state.PRIVATE, emit) as emit:
        state.recover(order.out)
        with recorded(_run(order, "scan"), emit) as heard:
            found = look(order)
            _emit_problems(found, heard)
            return _pass(order, found, cache(networks), heard)


def look(order: Order) -> Discovery:
    """What is found below the sources, and of it what the order's `since` leaves."""
    found = discover(order.sources, avoid=order.out)
    return changed_since(found, order.since)[0] if order.since else found


def _run(order: Order, command: str) -> Run:
    return Run(order.out, command, order.began or datetime.now(UTC), order.already)


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
    left, why = 0, ""
    started = len(order.already)
    try:
        while jobs:
            job = jobs.pop(0)
            if job.finished:
                tally.counts[f"{job.finished.status} before"] += 1
                emit(_job_event("skipped", job, status=job.finished.status, slug=job.finished.slug))
                continue
            why = why or _closed(order, started)
            if why:
                left += 1
                continue
            started += 1
            outcome = _do(order, job, networks, emit)
            tally.counts[outcome.status] += 1
            if next_best := _follow(order, job, outcome, cards):
                jobs.insert(0, next_best)
        if left:
            tally.counts["waiting"] = left
            emit({"event": "waiting", "series": left, "why": why})
    except BaseException:
        with suppress(OSError):  # the page of what was finished, if the disk still takes it
            write_summary(order.out)
        raise
    with state.output_errors(order.out):
        write_summary(order.out)
    emit({"event": "finished", **tally.counts})
    return tally


def _closed(order: Order, started: int) -> str:
    """Why no further series is started; empty where one is."""
    if order.limit is not None and started >= order.limit:
        return "limit"
    return "until" if order.until and datetime.now(UTC) >= order.until else ""


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
    status, slug, message = "done", None, None
    figures: dict[str, Any] = {}
    with _not_an_attempt_when_stopped(order.out, folder):
        attempt = state.begin_attempt(order.out, folder, job.work_key)
        stage = state.new_stage(order.out, job.work_key)
        try:
            if job.refusal:
                raise SeriesError(*job.refusal)
            if attempt.timed_out_s is not None:
                status, slug = "failed", "timeout"
                message = f"no result within {attempt.timed_out_s:g} s (--series-timeout)"
            elif attempt.attempts > state.MOST_ATTEMPTS:
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
            # which series: the event that follows says it
            log.error("%s\n%s", message, "".join(traceback.format_tb(error.__traceback__)))
        if status != "done":
            stage = state.new_stage(order.out, job.work_key)
        outcome = _outcome(job, stage, status, slug, message, time.perf_counter() - start)
        state.commit(order.out, folder, stage, outcome, _superseded(job.choice) if status == "done" else ())
    details = {"slug": slug, "message": message, "seconds": outcome.seconds, **figures}
    emit(_job_event(status, job, **details))
    return outcome


def _superseded(choice: Choice) -> list[str]:
    """A better series came later: the result of the one chosen before must not count the patient twice."""
    return [series.folder for series, slug, _ in choice.left_out if slug == NOT_CHOSEN]


@contextmanager
def _not_an_attempt_when_stopped(out: Path, folder: str) -> Iterator[None]:
    """A stop signal or our own disk is not the series' fault."""
    try:
        with state.output_errors(out):
            yield
    except (Stopped, KeyboardInterrupt, RunError):
        with suppress(RunError):  # the disk may be what failed
            state.forgive_attempt(out, folder)
        raise


def _segment(order: Order, job: Job, networks: Callable[[], Networks], stage: Path, emit: Emit) -> dict[str, Any]:
    """Run the pipeline and write every file of the result into the stage. Returns the report."""
    from covct.pipeline import Clock, peak_memory_mib, process  # highdicom and SimpleITK: only when there is work
    from covct.writers import REPORT_NAME, WRITERS, formats_for

    state.ensure_temporary_folder(order.out)

    def told(step: str, seconds: float | None = None) -> None:
        emit(_job_event("step", job, step=step, **({} if seconds is None else {"seconds": seconds})))

    clock = Clock(told, told)

    def asked() -> Networks:
        told("networks")
        start = time.perf_counter()
        loaded = networks()
        told("networks", round(time.perf_counter() - start, 3))
        return _signs_of_life(loaded, emit)

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


def _signs_of_life(networks: Networks, emit: Emit) -> Networks:
    """The same networks, with an event after each of their calls: a long series on a CPU is no dead process."""

    def alive(network: Network) -> Network:
        def predict(slices):
            probability = network.predict(slices)
            emit({"event": "alive"})
            return probability

        return replace(network, predict=predict)

    return replace(networks, lungs=alive(networks.lungs), infection=alive(networks.infection))


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
        "study": _uid(job.series.study_uid) or job.series.study_folder,
        "series": _uid(job.series.series_uid) or _series_folder(job.series),
        "folder": job.series.folder,
        **details,
    }


def _series_folder(series: Series) -> str:
    """Of a NIfTI the study's folder, which tells one from another."""
    return series.study_folder if series.kind == "nifti" else series.folder.split("/")[1]


def _uid(text: str) -> str:
    """Empty for what a broken header has in place of a UID: it may be a name."""
    return text if UID_PATTERN.fullmatch(text) else ""


def _figures(report: dict[str, Any]) -> dict[str, Any]:
    """The figures a shell pipeline asks for first."""
    return {
        "infection_percent": report["regions"]["lungs"]["infection_percent"],
        "severity_class": report["severity"]["class"],
        "warnings": [warning["slug"] for warning in report["warnings"]],
        "device": report["run"]["device"]["kind"],
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
    with state.lock(order.out), heartbeat.kept(order.out / state.PRIVATE, emit) as emit:
        state.recover(order.out)
        with recorded(_run(order, "watch"), emit) as heard:
            while True:
                if why := _closed(order, 0):
                    heard({"event": "waiting", "series": 0, "why": why})
                    return
                found = discover(order.sources, avoid=order.out)
                _emit_problems(found, heard, told)
                settled = _settled(found, seen, clock(), settle_s)
                heard({"event": "look", "waiting": len({one.study_folder for one in found.series}) - len(settled)})
                fresh = {(study, seen[study][0]) for study in settled} - done_before
                if fresh:
                    studies = {study for study, _ in fresh}
                    part = tuple(series for series in found.series if series.study_folder in studies)
                    _pass(order, Discovery(part, (), found.ignored), loaded, heard)
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
