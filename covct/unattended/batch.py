"""Many series: skip what is finished, do the rest, record outcomes. Watching is the same pass again and again."""

from __future__ import annotations

import logging
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from covct.disk import state
from covct.disk.sources import Problem, SourceFile, printable
from covct.intake.discover import Discovery, Series, Sighting, assemble, discover, place
from covct.intake.older_trees import earlier
from covct.intake.unread import SOURCES_NOT_READ
from covct.networks.network import Networks
from covct.results.summary import Summary
from covct.unattended import heartbeat
from covct.unattended.inbox import Roots, Settling, Survey, add, survey
from covct.unattended.index import Index, open_index
from covct.unattended.move_done import move_study, moved_before, put_back
from covct.unattended.one_series import do, job_event, skipped_event
from covct.unattended.plan import NEVER_FINAL, Job, Order, card_hashes, follow, plan, settings, standing, superseded
from covct.unattended.runs import Run, recorded
from covct.unattended.since_until import changed_since
from covct.unattended.troubles import Troubles

log = logging.getLogger("covct")
Emit = Callable[[dict[str, Any]], None]
LONGEST_SLEEP_S = 60.0  # without a sign of life: health checks and the parent do not know the interval
INDEX_NAME, SUMMARY_DUE = "index.sqlite", "summary-due"  # in the output tree's private folder


@dataclass
class Tally:
    """How a pass ended, by status; the outcomes of each study that it came to the end of, by folder; and the studies
    that lost a file, which could be listed and not be read."""

    counts: Counter = field(default_factory=Counter)
    studies: dict[str, dict[str, state.Outcome]] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)

    def __getitem__(self, status: str) -> int:
        return self.counts[status]


def scan(order: Order, networks: Callable[[], Networks], emit: Emit) -> Tally:
    """One pass over the sources: everything found has an outcome afterwards.

    Parameters
    ----------
    networks : function () -> Networks
        Called once, and only when there is a series to segment: importing keras takes seconds.
    emit : function (dict) -> None
        Told of every event; the caller shows or prints it.
    """
    with _tree(order, emit, "scan") as (index, emit):
        state.recover(order.out)
        with recorded(_run(order, "scan"), emit) as heard:
            heard({"event": "kept-back", "studies": []})
            troubles = Troubles(heard)
            seen = _survey(order, index, troubles)
            not_read = seen.unread.by_source(seen.problems)
            troubles.tell_all([*seen.problems, *not_read])
            summary = Summary(order.out)
            tally = _studies(order, seen, list(seen.studies), index, cache(networks), troubles, summary)
            _move_done(order, seen, _done(seen, tally, troubles), index, troubles)
            if not_read:
                tally.counts[SOURCES_NOT_READ] = len(not_read)
            return _with_troubles(tally, troubles)


def look(order: Order) -> Discovery:
    """What is found below the sources, and of it what the order's `since` leaves."""
    return _since(order, discover(order.sources, avoid=order.out))


def _since(order: Order, found: Discovery) -> Discovery:
    return changed_since(found, order.since)[0] if order.since else found


def _run(order: Order, command: str) -> Run:
    return Run(order.out, command, order.began or datetime.now(UTC), order.already)


@contextmanager
def _tree(order: Order, emit: Emit, command: str) -> Iterator[tuple[Index, Emit]]:
    """Hold the output tree: its index, and `emit` with a sign of life."""
    private = order.out / state.PRIVATE
    with ExitStack() as held:
        held.enter_context(state.lock(order.out))
        beating = held.enter_context(heartbeat.kept(private, emit, command))
        alive = heartbeat.now_and_then(beating)
        yield held.enter_context(open_index(private / INDEX_NAME, alive=alive)), beating


def _survey(order: Order, index: Index, troubles: Troubles) -> Survey:
    """What lies in the sources; with what was moved away of studies of which more has come."""
    alive = heartbeat.now_and_then(troubles.emit)
    seen = survey(order.sources, order.out, index, alive)
    if order.move_done and put_back(seen.aside, order.move_done):
        seen = survey(order.sources, order.out, index, alive)
    if order.move_done:
        for study in list(seen.studies):
            with troubles.of(study, "looking for what was moved before"):
                for name in sorted({study, earlier(study)}):
                    add(seen, moved_before(order.move_done, name), order.out, index)
    seen.problems += seen.unread.by_kind()
    return seen


def _studies(
    order: Order,
    seen: Survey,
    names: list[str],
    index: Index,
    networks: Callable[[], Networks],
    troubles: Troubles,
    summary: Summary,
) -> Tally:
    """Bring studies to their outcomes. One that is as it was when it got them is not even planned again."""
    cards = card_hashes(order.weights)
    select = [(keyword, pattern.pattern) for keyword, pattern in order.select]
    wishes = repr((order.series_uids, select, settings(order), sorted(cards.items())))
    before = {}
    for name in names:
        with troubles.of(name, "looking for its results"):
            if (past := _as_before(order, seen, name, wishes, index)) is not None:
                before[name] = past
    new = [name for name in names if name not in before]
    series, problems, lost = _assembled(seen, new, index, troubles)
    found = _since(order, Discovery(series, (*seen.problems, *problems), seen.ignored))
    tally = _pass(order, found, networks, troubles, cards, before, summary)
    tally.lost = lost
    for name in tally.studies.keys() - before.keys() - troubles.studies:
        outcomes = tally.studies[name]
        if _is_final(tally, outcomes):
            results = [[folder, outcome.work_key] for folder, outcome in outcomes.items()]
            with troubles.of(name, "noting that it is finished"):
                index.finish(name, seen.studies[name].fingerprint, wishes, results)
    return tally


def _assembled(
    seen: Survey, names: list[str], index: Index, troubles: Troubles
) -> tuple[tuple[Series, ...], list[Problem], set[str]]:
    """The series of these studies, and what was met in making them. A study that lost a file is not finished."""
    sighting = Sighting(unreadable=list(seen.unreadable), alive=heartbeat.now_and_then(troubles.emit))
    series = assemble((file for name in names for file in seen.studies[name].files), index.facts_of, sighting)
    troubles.tell_all(sighting.problems)
    files = set(sighting.unreadable) - set(seen.unreadable)
    lost = {name for name in names if not files.isdisjoint(seen.studies[name].files)} if files else set()
    troubles.note(lost)
    return series, sighting.problems, lost


def _is_final(tally: Tally, outcomes: dict[str, state.Outcome]) -> bool:
    """Whether a study needs no look before it changes.

    Not where a file could not be read; nor where only the slices of other studies show what its own are; nor, in a
    pass that left series `waiting`, where only the rejected ones of the study may have had their turn.
    """
    if any(outcome.slug in (*NEVER_FINAL, "uid-per-slice") for outcome in outcomes.values()):
        return False
    return not tally["waiting"] or any(outcome.status == "done" for outcome in outcomes.values())


def _as_before(order: Order, seen: Survey, name: str, wishes: str, index: Index) -> dict[str, state.Outcome] | None:
    """The outcomes of a study whose files and wishes are those it got them for, by folder; None if one must look."""
    results = None if order.force or order.since else index.finished(name, seen.studies[name].fingerprint, wishes)
    if results is None:
        return None
    outcomes = {folder: standing(order, folder, key) for folder, key in results}
    there = {folder: outcome for folder, outcome in outcomes.items() if outcome}
    return there if len(there) == len(outcomes) else None


def _done(seen: Survey, tally: Tally, troubles: Troubles) -> dict[str, int]:
    """Fingerprints of the studies whose files may be moved: one series is done, and nothing is to be tried again.

    Where a file beside the series cannot be read, all stay: it may be a slice, that shall not come alone.
    """
    spoiled = {place(file) for file in seen.unreadable}
    return {
        name: seen.studies[name].fingerprint
        for name, outcomes in tally.studies.items()
        if name not in troubles.studies
        and outcomes
        and _each_study_done(outcomes)
        and not any(outcome.status == "failed" or outcome.slug in NEVER_FINAL for outcome in outcomes.values())
        and not spoiled & {place(file) for file in seen.studies[name].files}
    }


def _each_study_done(outcomes: dict[str, state.Outcome]) -> bool:
    """Whether every patient under a Study Instance UID has a result: one of them stays, all of them do."""
    studies = {folder.split("/")[0] for folder in outcomes}
    return studies == {folder.split("/")[0] for folder, outcome in outcomes.items() if outcome.status == "done"}


def _move_done(
    order: Order, seen: Survey, done: dict[str, int], index: Index, troubles: Troubles, told: set[str] | None = None
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
    spoiled |= {printable(file.path) for files in seen.unread.kinds.values() for file in files if file.member}
    media = _media(seen, ready)
    alive = heartbeat.now_and_then(troubles.emit)
    for name in sorted(ready):
        alive()
        with troubles.of(name, "moving its files"):
            mine = (*seen.studies[name].files, *media[name])
            unchanged = {file.path: status for file in mine if (status := index.still(file))}
            files = {path: s for path, s in unchanged.items() if path not in kept and printable(path) not in spoiled}
            reasons = move_study(name, files, order.sources, order.move_done, order.marker, alive)
            if reasons and name not in told:
                told.add(name)
                troubles.emit({"event": "not-moved", "study": name, "files": len(files), "message": reasons[0]})


def _media(seen: Survey, ready: set[str]) -> dict[str, list[SourceFile]]:
    """Media directories by the study that they go with: the last to go of those that lie where the directory does."""
    media = [file for file in seen.media if not file.member]
    below = _studies_below({file.path.parent for file in media}, seen)
    last = {folder: max(names) for folder, names in below.items() if names <= ready}
    found: dict[str, list[SourceFile]] = defaultdict(list)
    for file in media:
        if name := last.get(file.path.parent):
            found[name].append(file)
    return found


def _studies_below(folders: set[Path], seen: Survey) -> dict[Path, set[str]]:
    """Names of the studies by those of the folders that a file of theirs lies below. Each of their folders is asked
    once: an inbox of thousands of media has as many directories as studies."""
    found: dict[Path, set[str]] = defaultdict(set)
    for name, study in seen.studies.items() if folders else ():
        for parent in {file.path.parent for file in study.files}:
            for folder in folders.intersection((parent, *parent.parents)):
                found[folder].add(name)
    return found


def _pass(
    order: Order,
    found: Discovery,
    networks: Callable[[], Networks],
    troubles: Troubles,
    cards: dict[str, str],
    before: dict[str, dict[str, state.Outcome]],
    summary: Summary,
) -> Tally:
    """Bring everything found to an outcome. The caller holds the lock.

    `before` are the outcomes of studies that need no look.
    """
    jobs, emit = plan(order, found, cards), troubles.emit
    tally = Tally(studies={one.study_folder: {} for one in found.series} | before)
    if found.problems:
        tally.counts["unreadable files"] = len(found.problems)
    emit(_found_event(found, jobs, sum(map(len, before.values()))))
    for folder, outcome in (item for outcomes in before.values() for item in outcomes.items()):
        tally.counts[_counted(order, folder, outcome)] += 1
        emit(skipped_event(folder, outcome))
    due = order.out / state.PRIVATE / SUMMARY_DUE
    outlived = _outlived(order, jobs)
    if outlived or any(job.to_do for job in jobs):
        with state.output_errors(order.out):
            due.touch()
        state.withdraw(order.out, outlived)
    left: list[str] = []
    touched: list[str] = []
    why = ""
    started = len(order.already)
    try:
        while jobs:
            job = jobs.pop(0)
            if job.finished:
                tally.counts[_counted(order, job.series.folder, job.finished)] += 1
                tally.studies[job.series.study_folder][job.series.folder] = job.finished
                emit(job_event("skipped", job, status=job.finished.status, slug=job.finished.slug))
                continue
            if job.trouble and _has_result(order, job):
                troubles.tell(job.series.study_folder, f"{job.trouble} while planning; its result of before stays")
                continue
            why = why or _closed(order, started)
            if why:
                left.append(job.series.folder)
                continue
            started += 1
            with troubles.of(job.series.study_folder, "working on a series"):
                outcome = do(order, job, networks, emit)
                touched.append(job.series.folder)
                tally.counts[outcome.status] += 1
                tally.studies[job.series.study_folder][job.series.folder] = outcome
                if next_best := follow(order, job, outcome, cards):
                    jobs.insert(0, next_best)
        if left:
            emit({"event": "kept-back", "studies": [{"folder": one, "why": why, "age_s": 0.0} for one in left]})
            tally.counts["waiting"] = len(left)
            emit({"event": "waiting", "series": len(left), "why": why})
    except BaseException:
        with suppress(OSError):  # the page of what was finished, if the disk still takes it
            summary.write(touched)
        raise
    with state.output_errors(order.out):
        if due.exists() or not all((order.out / name).exists() for name in ("summary.csv", "index.html")):
            summary.write(touched)
            due.unlink(missing_ok=True)
    emit({"event": "finished", **_with_troubles(tally, troubles).counts})
    return tally


def _with_troubles(tally: Tally, troubles: Troubles) -> Tally:
    if troubles.count:
        tally.counts["troubled"] = troubles.count
    return tally


def _has_result(order: Order, job: Job) -> bool:
    """Whether a result of whatever state of the series stands, which no failure to plan takes away."""
    outcome = state.read_outcome(order.out / job.series.folder)
    return outcome is not None and outcome.status == "done"


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


def _outlived(order: Order, jobs: list[Job]) -> list[str]:
    """Results that a better one of their study would have superseded, had they been readable when it was made."""
    done = [job.choice for job in jobs if job.finished and job.finished.status == "done"]
    folders = [folder for choice in done for folder in superseded(choice)]
    return [folder for folder in folders if (order.out / folder).exists()]


def watch(
    order: Order,
    networks: Callable[[], Networks],
    emit: Emit,
    settle_s: float,
    interval_s: float,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Tally:
    """Pass over the inbox again and again until stopped. A study is taken when its files have settled.

    Polling, not inotify: events do not arrive over NFS or SMB. When a study has settled says `Settling`. A late slice
    changes the study and reopens it. Returns how the passes ended, together.
    """
    total = Tally()
    settling = Settling(settle_s, order.marker, order.sources)
    done: dict[str, int] = {}
    told: set[str] = set()
    loaded, summary = cache(networks), Summary(order.out)
    roots = Roots(order.sources)
    with _tree(order, emit, "watch") as (index, emit):
        state.recover(order.out)
        with recorded(_run(order, "watch"), emit) as heard:
            troubles = Troubles(heard)
            while True:
                if why := _closed(order, 0):
                    heard({"event": "waiting", "series": 0, "why": why})
                    return _with_troubles(total, troubles)
                source_ok, complaints = roots.problems(clock())
                troubles.tell_all(complaints)
                if not source_ok:  # what was seen there is not forgotten meanwhile
                    heard({"event": "look", **settling.counts, "source_ok": False})
                    _rest(interval_s, sleep, heard)
                    continue
                heard({"event": "looking"})
                before, troubles.studies = troubles.studies, set()
                seen = _survey(order, index, troubles)
                ready = settling.ready(seen, index, clock(), troubles)
                troubles.studies |= before.difference(ready)  # these are done anew: an earlier trouble may be over
                troubles.tell_all(settling.problems(seen, clock()))
                heard({"event": "kept-back", "studies": settling.kept_back})
                heard({"event": "look", **settling.counts, "source_ok": True})
                if ready:
                    tally = _studies(order, replace(seen, problems=[]), ready, index, loaded, troubles, summary)
                    total.counts.update(tally.counts)
                    for name in ready:
                        outcomes = tally.studies.get(name, {}).values()
                        unreadable = name in tally.lost or any(one.slug == "unreadable" for one in outcomes)
                        settling.take(name, seen.studies[name], unreadable, clock())
                    done |= _done(seen, tally, troubles)
                _move_done(order, seen, done, index, troubles, told)
                done = {name: fingerprint for name, fingerprint in done.items() if name in seen.studies}
                index.sweep()
                _rest(interval_s, sleep, heard)


def _rest(seconds: float, sleep: Callable[[float], None], emit: Emit) -> None:
    """Sleep with a sign of life now and then."""
    while seconds > LONGEST_SLEEP_S:
        sleep(LONGEST_SLEEP_S)
        emit({"event": "alive"})
        seconds -= LONGEST_SLEEP_S
    sleep(seconds)
