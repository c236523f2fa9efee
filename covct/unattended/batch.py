"""Many series: skip what is finished, do the rest, record outcomes. Watching is the same pass again and again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache, partial
from typing import TYPE_CHECKING

from covct.disk import state
from covct.disk.durable import output_errors
from covct.disk.outcome import Outcome
from covct.disk.places import PRIVATE
from covct.disk.sources import Problem
from covct.intake.discover import Discovery, Series, Sighting, assemble, discover
from covct.intake.older_trees import earlier
from covct.intake.unread import SOURCES_NOT_READ
from covct.outputs import Emit
from covct.results.summary import Summary
from covct.unattended import heartbeat
from covct.unattended.inbox import Roots, Settling, Survey, add, survey
from covct.unattended.index import Index, open_index
from covct.unattended.movable import movable, move_done, sent_again
from covct.unattended.move_done import moved_before, put_back
from covct.unattended.one_pass import Hands, PassResult, closed, in_turn, one_pass, with_troubles
from covct.unattended.plan import NEVER_FINAL, Order, card_hashes, settings, standing
from covct.unattended.priors import Past
from covct.unattended.run_summary import Command
from covct.unattended.runs import Run, recorded
from covct.unattended.since_until import changed_since
from covct.unattended.troubles import Troubles

if TYPE_CHECKING:  # OpenCV is for those who have work
    from covct.networks.network import Networks

log = logging.getLogger("covct")
LONGEST_SLEEP_S = 60.0  # without a sign of life: health checks and the parent do not know the interval
INDEX_NAME = "index.sqlite"  # in the output tree's private folder


def scan(order: Order, networks: Callable[[], Networks], emit: Emit, hands: Hands | None = None) -> PassResult:
    """One pass over the sources: everything found has an outcome afterwards.

    Parameters
    ----------
    networks : function () -> Networks
        Called once, and only when there is a series to segment: importing keras takes seconds.
    emit : function (dict) -> None
        Told of every event; the caller shows or prints it.
    hands : function (Pass, list of Job), optional
        Do the work in place of this process.
    """
    hands = hands or partial(in_turn, cache(networks))
    with _tree(order, emit, "scan") as (index, emit):
        state.recover(order.out)
        with recorded(_run(order, "scan"), emit) as heard:
            summary = _summary(order)
            heard({"event": "kept-back", "studies": []})
            troubles = Troubles(heard)
            seen = _survey(order, index, troubles)
            not_read = seen.unread.by_source(seen.problems)
            troubles.tell_all([*seen.problems, *not_read])
            past = Past((order.out, *order.priors))
            tally = _studies(order, seen, list(seen.studies), index, hands, troubles, summary, past)
            if order.move_done:
                move_done(order, seen, movable(seen, tally, troubles), index, troubles)
            if not_read:
                tally.counts[SOURCES_NOT_READ] = len(not_read)
            return with_troubles(tally, troubles)


def look(order: Order) -> Discovery:
    """What is found below the sources, and of it what the order's `since` leaves."""
    return _since(order, discover(order.sources, avoid=order.out))


def _since(order: Order, found: Discovery) -> Discovery:
    return changed_since(found, order.since)[0] if order.since else found


def _run(order: Order, command: Command) -> Run:
    return Run(order.out, command, order.began or datetime.now(UTC), order.already)


def _summary(order: Order) -> Summary:
    """Table and page of this run. A page that shows identifiers nobody asks for any more does not wait for a result."""
    summary = Summary(order.out, identifiers=order.show_identifiers)
    with output_errors(order.out):
        summary.refresh()
    return summary


@contextmanager
def _tree(order: Order, emit: Emit, command: str) -> Iterator[tuple[Index, Emit]]:
    """Hold the output tree: its index, and `emit` with a sign of life."""
    private = order.out / PRIVATE
    with ExitStack() as held:
        held.enter_context(state.lock(order.out))
        beating = held.enter_context(heartbeat.kept(private, emit, command))
        alive = heartbeat.now_and_then(beating)
        yield held.enter_context(open_index(private / INDEX_NAME, alive=alive)), beating


def _survey(order: Order, index: Index, troubles: Troubles) -> Survey:
    """What lies in the sources; with what was moved away of studies of which more has come."""
    looked = {"files": 0}

    def met() -> None:
        looked["files"] += 1

    watched = heartbeat.now_and_then(troubles.emit, looked), met
    seen = survey(order.sources, order.out, index, *watched)
    if order.move_done and put_back(seen.aside, order.move_done):
        seen = survey(order.sources, order.out, index, *watched)
    if order.move_done:
        for study in list(seen.studies):
            with troubles.of(study, "looking for what was moved before"):
                for name in sorted({study, earlier(study)}):
                    moved = moved_before(order.move_done, name)
                    again = sent_again(moved, seen.studies[study].files, index)
                    seen.studies[study].sent_again += again
                    add(seen, [path for path in moved if path not in again], order.out, index)
    seen.problems += seen.unread.by_kind()
    return seen


def _studies(
    order: Order,
    seen: Survey,
    names: list[str],
    index: Index,
    hands: Hands,
    troubles: Troubles,
    summary: Summary,
    past: Past,
) -> PassResult:
    """Bring studies to their outcomes. One that is as it was when it got them is not even planned again."""
    past.look_again()
    cards = card_hashes(order.weights, order.lobes)
    select = [(keyword, pattern.pattern) for keyword, pattern in order.select]
    wishes = repr((order.series_uids, select, settings(order), sorted(cards.items())))
    before = {}
    for name in names:
        with troubles.of(name, "looking for its results"):
            if (outcomes := _as_before(order, seen, name, wishes, index)) is not None:
                before[name] = outcomes
    new = [name for name in names if name not in before]
    series, problems, lost = _assembled(seen, new, index, troubles)
    found = _since(order, Discovery(series, (*seen.problems, *problems), seen.ignored))
    tally = one_pass(order, found, hands, troubles, cards, before, summary, past)
    tally.lost |= lost
    for name in tally.studies.keys() - before.keys() - troubles.studies - tally.left:
        outcomes = tally.studies[name]
        if _is_final(outcomes):
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


def _is_final(outcomes: dict[str, Outcome]) -> bool:
    """Whether a study needs no look before it changes: not where a file could not be read, nor where only the slices of
    other studies show what its own are."""
    return not any(outcome.slug in (*NEVER_FINAL, "uid-per-slice") for outcome in outcomes.values())


def _as_before(order: Order, seen: Survey, name: str, wishes: str, index: Index) -> dict[str, Outcome] | None:
    """The outcomes of a study whose files and wishes are those it got them for, by folder; None if one must look."""
    results = None if order.force or order.since else index.finished(name, seen.studies[name].fingerprint, wishes)
    if results is None:
        return None
    outcomes = {folder: standing(order, folder, key) for folder, key in results}
    there = {folder: outcome for folder, outcome in outcomes.items() if outcome}
    return there if len(there) == len(outcomes) else None


def watch(
    order: Order,
    networks: Callable[[], Networks],
    emit: Emit,
    settle_s: float,
    interval_s: float,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
    hands: Hands | None = None,
) -> PassResult:
    """Pass over the inbox again and again until stopped. A study is taken when its files have settled.

    Polling, not inotify: events do not arrive over NFS or SMB. When a study has settled says `Settling`. A late slice
    changes the study and reopens it. Returns how the passes ended, together.
    """
    total, settling = PassResult(), Settling(settle_s, order.marker, order.sources)
    done: dict[str, int] = {}
    told: set[str] = set()
    hands = hands or partial(in_turn, cache(networks))
    roots, past = Roots(order.sources), Past((order.out, *order.priors))
    with _tree(order, emit, "watch") as (index, emit):
        state.recover(order.out)
        with recorded(_run(order, "watch"), emit) as heard:
            summary = _summary(order)
            troubles = Troubles(heard)
            while True:
                if why := closed(order, 0):
                    heard({"event": "waiting", "series": 0, "why": why})
                    return with_troubles(total, troubles)
                source_ok, complaints = roots.problems(clock())
                troubles.tell_all(complaints)
                if not source_ok:  # what was seen there is not forgotten meanwhile
                    heard({"event": "look", **settling.counts, **settling.settles, "source_ok": False})
                    _rest(interval_s, sleep, heard)
                    continue
                heard({"event": "looking"})
                before, troubles.studies = troubles.studies, set()
                seen = _survey(order, index, troubles)
                ready = settling.ready(seen, index, clock(), troubles)
                troubles.studies |= before.difference(ready)  # these are done anew: an earlier trouble may be over
                troubles.tell_all(settling.problems(seen, clock()))
                heard({"event": "kept-back", "studies": settling.kept_back})
                heard({"event": "look", **settling.counts, **settling.settles, "source_ok": True})
                if ready:
                    tally = _studies(order, replace(seen, problems=[]), ready, index, hands, troubles, summary, past)
                    total.counts.update(tally.counts)
                    for name in ready:
                        outcomes = tally.studies.get(name, {}).values()
                        unreadable = name in tally.lost or any(one.slug == "unreadable" for one in outcomes)
                        settling.take(name, seen.studies[name], unreadable, clock())
                    done |= movable(seen, tally, troubles) if order.move_done else {}
                move_done(order, seen, done, index, troubles, told)
                done = {name: fingerprint for name, fingerprint in done.items() if name in seen.studies}
                index.sweep()
                _rest(interval_s, sleep, heard)


def _rest(seconds: float, sleep: Callable[[float], None], emit: Emit) -> None:
    """Sleep with a sign of life now and then."""
    emit({"event": "alive", "rest_s": seconds})
    while seconds > LONGEST_SLEEP_S:
        sleep(LONGEST_SLEEP_S)
        emit({"event": "alive"})
        seconds -= LONGEST_SLEEP_S
    sleep(seconds)
