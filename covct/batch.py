"""Many series: skip what is finished, do the rest, record outcomes. Watching is the same pass again and again."""

from __future__ import annotations

import logging
import re
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from typing import Any

from covct import __version__, heartbeat, state
from covct.cards import file_sha256, read_card, tasks_in
from covct.choice import NOT_CHOSEN, NOT_SELECTED, Choice, choose, selected
from covct.discover import UID_PATTERN, Discovery, Series, Sighting, assemble, discover, place
from covct.errors import RunError, SeriesError, Stopped, whereabouts
from covct.inbox import Settling, Survey, add, survey
from covct.index import Index, open_index
from covct.moving import move_study, moved_before
from covct.networks import Network, Networks
from covct.outputs import Outputs
from covct.quality import check_headers
from covct.runs import Run, recorded
from covct.sources import Problem, printable
from covct.summary import write_summary
from covct.window import changed_since

log = logging.getLogger("covct")
# A file that was still being copied has the same identity when it is whole; and memory is not the series' own.
NEVER_FINAL = ("unreadable", "too-large")
Emit = Callable[[dict[str, Any]], None]
INDEX_NAME, SUMMARY_DUE = "index.sqlite", "summary-due"  # in the output tree's private folder


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
    move_done : Path or None
        Where the source files of done studies go.
    marker : str
        `watch` takes a study once a file of this name lies in its folder. Empty: at once.
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
    move_done: Path | None = None
    marker: str = ""
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
    """How a pass ended, by status; and the outcomes of each study that it came to the end of, by folder."""

    counts: Counter = field(default_factory=Counter)
    studies: dict[str, dict[str, state.Outcome]] = field(default_factory=dict)

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
    for task in tasks_in(weights):
        card = weights / f"{task}.json"
        read_card(card)
        hashes[task] = file_sha256(card)
    return hashes


def _job(order: Order, series: Series, choice: Choice, cards: dict[str, str], refusal=None) -> Job:
    key = state.work_key(series.content, _settings(order), cards)
    return Job(series, choice, key, _standing(order, series.folder, key), refusal)


def _settings(order: Order) -> dict[str, Any]:
    return {**order.outputs.settings(), "strict": order.strict}


def _standing(order: Order, folder: str, key: str) -> state.Outcome | None:
    """The outcome that a series has, unless it is to be done again."""
    outcome = state.read_outcome(order.out / folder)
    again = folder not in order.already
    if outcome and (
        (order.force and again)
        or outcome.work_key != key
        or outcome.slug in NEVER_FINAL
        or (outcome.status == "failed" and order.retry_failed and again)
        or not state.is_whole(order.out / folder, outcome)
    ):
        return None
    return outcome


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
    with _tree(order, emit) as (index, emit):
        state.recover(order.out)
        with recorded(_run(order, "scan"), emit) as heard:
            seen = _survey(order, index)
            _emit_problems(seen.problems, heard)
            tally = _studies(order, seen, list(seen.studies), index, cache(networks), heard)
            _move_done(order, seen, _done(seen, tally), index, heard)
            return tally


def look(order: Order) -> Discovery:
    """What is found below the sources, and of it what the order's `since` leaves."""
    return _since(order, discover(order.sources, avoid=order.out))


def _since(order: Order, found: Discovery) -> Discovery:
    return changed_since(found, order.since)[0] if order.since else found


def _run(order: Order, command: str) -> Run:
    return Run(order.out, command, order.began or datetime.now(UTC), order.already)


@contextmanager
def _tree(order: Order, emit: Emit) -> Iterator[tuple[Index, Emit]]:
    """Hold the output tree: its index, and `emit` with a sign of life."""
    private = order.out / state.PRIVATE
    with state.lock(order.out), heartbeat.kept(private, emit) as alive, open_index(private / INDEX_NAME) as index:
        yield index, alive


def _survey(order: Order, index: Index) -> Survey:
    """What lies in the sources; with what was moved away of studies of which more has come."""
    seen = survey(order.sources, order.out, index)
    if order.move_done:
        moved = [path for study in list(seen.studies) for path in moved_before(order.move_done, study)]
        add(seen, moved, order.out, index)
    return seen


def _emit_problems(problems: Iterable[Problem], emit: Emit) -> None:
    for problem in problems:
        emit({"event": "problem", "file": problem.label, "slug": problem.slug, "message": problem.message})


def _studies(
    order: Order, seen: Survey, names: list[str], index: Index, networks: Callable[[], Networks], emit: Emit
) -> Tally:
    """Bring studies to their outcomes. One that is as it was when it got them is not even planned again."""
    cards = card_hashes(order.weights)
    select = [(keyword, pattern.pattern) for keyword, pattern in order.select]
    wishes = repr((order.series_uids, select, _settings(order), sorted(cards.items())))
    before = {name: past for name in names if (past := _as_before(order, seen, name, wishes, index)) is not None}
    sighting = Sighting(unreadable=list(seen.unreadable))
    files = (file for name in names if name not in before for file in seen.studies[name].files)
    series = assemble(files, index.facts_of, sighting)
    _emit_problems(sighting.problems, emit)
    problems = (*seen.problems, *sighting.problems)
    found = _since(order, Discovery(series, problems, seen.ignored))
    tally = _pass(order, found, networks, emit, cards, before)
    for name, outcomes in tally.studies.items():
        if name not in before and _is_final(tally, outcomes):
            results = [[folder, outcome.work_key] for folder, outcome in outcomes.items()]
            index.finish(name, seen.studies[name].fingerprint, wishes, results)
    return tally


def _is_final(tally: Tally, outcomes: dict[str, state.Outcome]) -> bool:
    """Whether a study needs no look before it changes.

    Not where a file could not be read; nor, in a pass that left series `waiting`, where only the rejected ones of the
    study may have had their turn.
    """
    if any(outcome.slug in NEVER_FINAL for outcome in outcomes.values()):
        return False
    return not tally["waiting"] or any(outcome.status == "done" for outcome in outcomes.values())


def _as_before(order: Order, seen: Survey, name: str, wishes: str, index: Index) -> dict[str, state.Outcome] | None:
    """The outcomes of a study whose files and wishes are those it got them for, by folder; None if one must look."""
    results = None if order.force or order.since else index.finished(name, seen.studies[name].fingerprint, wishes)
    if results is None:
        return None
    outcomes = {folder: _standing(order, folder, key) for folder, key in results}
    there = {folder: outcome for folder, outcome in outcomes.items() if outcome}
    return there if len(there) == len(outcomes) else None


def _done(seen: Survey, tally: Tally) -> dict[str, int]:
    """Fingerprints of the studies whose files may be moved: one series is done, and nothing is to be tried again.

    Where a file beside the series cannot be read, all stay: it may be a slice, that shall not come alone.
    """
    spoiled = {place(file) for file in seen.unreadable}
    return {
        name: seen.studies[name].fingerprint
        for name, outcomes in tally.studies.items()
        if any(outcome.status == "done" for outcome in outcomes.values())
        and not any(outcome.status == "failed" or outcome.slug in NEVER_FINAL for outcome in outcomes.values())
        and not spoiled & {place(file) for file in seen.studies[name].files}
    }


def _move_done(
    order: Order, seen: Survey, done: dict[str, int], index: Index, emit: Emit, told: set[str] | None = None
) -> None:
    """Move the source files of studies that are done and have not changed since. Archives: once all in them is done.

    `told` are studies of which it has been said that they cannot be moved.
    """
    if not order.move_done or not done:
        return
    told = set() if told is None else told
    ready = {name for name, study in seen.studies.items() if done.get(name) == study.fingerprint}
    kept = {file.path for name, study in seen.studies.items() if name not in ready for file in study.files}
    spoiled = {one.label[: mark.start()] for one in seen.problems for mark in re.finditer("!", one.label)}
    for name in sorted(ready):
        paths = dict.fromkeys(file.path for file in seen.studies[name].files if index.still(file))
        files = [path for path in paths if path not in kept and printable(path) not in spoiled]
        reasons = move_study(name, files, order.sources, order.move_done, order.marker)
        if reasons and name not in told:
            told.add(name)
            emit({"event": "not-moved", "study": name, "files": len(files), "message": reasons[0]})


def _pass(
    order: Order,
    found: Discovery,
    networks: Callable[[], Networks],
    emit: Emit,
    cards: dict[str, str],
    before: dict[str, dict[str, state.Outcome]],
) -> Tally:
    """Bring everything found to an outcome. The caller holds the lock.

    `before` are the outcomes of studies that need no look.
    """
    jobs = plan(order, found, cards)
    tally = Tally(studies={one.study_folder: {} for one in found.series} | before)
    if found.problems:
        tally.counts["unreadable files"] = len(found.problems)
    emit(_found_event(found, jobs, sum(map(len, before.values()))))
    for folder, outcome in (item for outcomes in before.values() for item in outcomes.items()):
        tally.counts[_counted(order, folder, outcome)] += 1
        emit(_skipped_event(folder, outcome))
    due = order.out / state.PRIVATE / SUMMARY_DUE
    outlived = _outlived(order, jobs)
    if outlived or any(job.to_do for job in jobs):
        with state.output_errors(order.out):
            due.touch()
        state.withdraw(order.out, outlived)
    left, why = 0, ""
    started = len(order.already)
    try:
        while jobs:
            job = jobs.pop(0)
            if job.finished:
                tally.counts[_counted(order, job.series.folder, job.finished)] += 1
                tally.studies[job.series.study_folder][job.series.folder] = job.finished
                emit(_job_event("skipped", job, status=job.finished.status, slug=job.finished.slug))
                continue
            why = why or _closed(order, started)
            if why:
                left += 1
                continue
            started += 1
            outcome = _do(order, job, networks, emit)
            tally.counts[outcome.status] += 1
            tally.studies[job.series.study_folder][job.series.folder] = outcome
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
        if due.exists() or not all((order.out / name).exists() for name in ("summary.csv", "index.html")):
            write_summary(order.out)
            due.unlink(missing_ok=True)
    emit({"event": "finished", **tally.counts})
    return tally


def _counted(order: Order, folder: str, outcome: state.Outcome) -> str:
    """Under which name a finished series counts: what an earlier process of this run did was not there before it."""
    return outcome.status if folder in order.already else f"{outcome.status} before"


def _closed(order: Order, started: int) -> str:
    """Why no further series is started; empty where one is."""
    if order.limit is not None and started >= order.limit:
        return "limit"
    return "until" if order.until and datetime.now(UTC) >= order.until else ""


def _found_event(found: Discovery, jobs: list[Job], before: int) -> dict[str, Any]:
    return {
        "event": "found",
        "candidates": len(found.series) + before,
        "to_do": sum(job.to_do for job in jobs),
        "finished_before": sum(not job.to_do for job in jobs) + before,
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


def _outlived(order: Order, jobs: list[Job]) -> list[str]:
    """Results that a better one of their study would have superseded, had they been readable when it was made."""
    done = [job.choice for job in jobs if job.finished and job.finished.status == "done"]
    folders = [folder for choice in done for folder in _superseded(choice)]
    return [folder for folder in folders if (order.out / folder).exists()]


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

    gate = networks.empty_slices
    return replace(
        networks,
        lungs=alive(networks.lungs),
        infection=alive(networks.infection),
        empty_slices=alive(gate) if gate else None,
    )


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


def _skipped_event(folder: str, outcome: state.Outcome) -> dict[str, Any]:
    study, series = folder.split("/")
    return {
        "event": "skipped",
        "study": _uid(outcome.study_instance_uid) or study,
        "series": _uid(outcome.series_instance_uid) or (study if study.startswith("nifti-") else series),
        "folder": folder,
        "status": outcome.status,
        "slug": outcome.slug,
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

    Polling, not inotify: events do not arrive over NFS or SMB. When a study has settled says `Settling`. A late slice
    changes the study and reopens it.
    """
    settling = Settling(settle_s, order.marker, order.sources)
    done: dict[str, int] = {}
    told: set[str] = set()
    loaded = cache(networks)
    with _tree(order, emit) as (index, emit):
        state.recover(order.out)
        with recorded(_run(order, "watch"), emit) as heard:
            while True:
                if why := _closed(order, 0):
                    heard({"event": "waiting", "series": 0, "why": why})
                    return
                seen = _survey(order, index)
                ready = settling.ready(seen, index, clock())
                _emit_problems(settling.problems(seen, clock()), heard)
                heard({"event": "look", **settling.counts})
                if ready:
                    tally = _studies(order, replace(seen, problems=[]), ready, index, loaded, heard)
                    for name in ready:
                        outcomes = tally.studies.get(name, {}).values()
                        unreadable = any(outcome.slug == "unreadable" for outcome in outcomes)
                        settling.take(name, seen.studies[name], unreadable, clock())
                    done |= _done(seen, tally)
                _move_done(order, seen, done, index, heard, told)
                done = {name: fingerprint for name, fingerprint in done.items() if name in seen.studies}
                index.sweep()
                sleep(interval_s)
