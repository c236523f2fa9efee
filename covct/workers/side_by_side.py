"""The jobs of a pass, several at a time: the coordinator hands them out, hears of them, and commits what comes back.

It holds the ledger alone: attempts are noted and results committed by this thread. What a result may depend on is done
in order (`places.Lanes`). So the tree does not depend on how many workers there are, or on which of them is faster.
"""

from __future__ import annotations

import errno
import logging
import os
import pickle
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from queue import Empty
from typing import TYPE_CHECKING
from uuid import uuid4

from covct import __version__
from covct.disk import state
from covct.disk.attempts import MOST_ATTEMPTS, begin_attempt, forgive_attempt, note_timeout
from covct.disk.durable import output_errors
from covct.disk.outcome import Outcome
from covct.errors import OutputNotWritable, RunError, WorkersLost
from covct.outputs import Event
from covct.unattended.one_pass import Pass, closed
from covct.unattended.one_series import (
    Worked,
    conclude,
    given_up,
    not_an_attempt_when_stopped,
    noting_comparison,
    started,
)
from covct.unattended.plan import Job, Order
from covct.unattended.preparing import Kept
from covct.unattended.supervisor import Work
from covct.workers.at_work import TAKEN_UP, Answer, take_up
from covct.workers.crew import ANSWERED, LONGEST_PAUSE_S, PATIENCE_S, TOLD, Crew
from covct.workers.parcel import Broken, DiskFailed, Errand, NotOffered, Parcel, Unfit
from covct.workers.places import Flight, Lanes, Places, needed_mib

if TYPE_CHECKING:
    from covct.networks.network import Networks

log = logging.getLogger("covct")
TICK_S = 0.25
LOOK_S = 1.0  # between two looks at who is there
MOST_MISSES = 10  # workers in a row that were lost before they had begun a series
WITH_THE_SCHEDULER = ("cancelled", "lost")  # how calls end of which it knows nothing any more
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass
class Team:
    """Workers that do the jobs of passes.

    Attributes
    ----------
    load : function () -> Networks
        Loads the networks in a worker. Equal to another that loads the same.
    timeout_s : float
        Of a series.
    """

    crew: Crew
    load: Callable[[], Networks]
    timeout_s: float
    places: Places
    name: str = field(default_factory=lambda: uuid4().hex)
    is_opened: bool = False

    def hands(self, work: Pass, jobs: list[Job]) -> None:
        """Do the jobs of a pass. The crew is opened when the first of them needs a worker."""
        turn = _Turn(self, work, deque(jobs))
        try:
            turn.go()
        except BaseException:
            turn.forgive_all()  # whatever ends the run is no series' fault
            raise

    def errand(self, work: Pass) -> Errand:
        order = replace(work.order, already=frozenset())
        return Errand(self.name, order, self.load, work.cards, os.getcwd())

    def open(self, work: Pass) -> None:
        """Start workers or connect, with a mark in the output tree by which workers know it."""
        out, mark = work.order.out, self.errand(work).mark
        with output_errors(out):
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        state.ensure_temporary_folder(out)
        self.crew.topic = f"covct-{self.name}"
        self.crew.open()
        self.is_opened = True


@contextmanager
def team(crew: Crew, load: Callable[[], Networks], timeout_s: float, on_gpu: bool) -> Iterator[Team]:
    """Workers for as long as the context lasts."""
    try:
        yield Team(crew, load, timeout_s, Places(crew.is_local, on_gpu))
    finally:
        crew.close()


@dataclass
class _Turn:
    """One pass under way; `flights` by the token of each."""

    team: Team
    work: Pass
    waiting: deque[Job]
    flights: dict[str, Flight] = field(default_factory=dict)
    misses: int = 0
    not_ready: int = 0  # workers in a row that did not come to begin a series, or to load their networks
    _lanes: Lanes = field(default_factory=Lanes)
    _asked: tuple[Job, float] | None = None  # the job that was last placed or has to wait, and the memory it needs
    _looked: float = 0.0
    _ticked: float = field(default_factory=time.monotonic)
    _nobody_since: float | None = None

    @property
    def order(self) -> Order:
        return self.work.order

    @property
    def crew(self) -> Crew:
        return self.team.crew

    @property
    def places(self) -> Places:
        return self.team.places

    def go(self) -> None:
        while True:
            self._hand_out()
            if not (self.waiting or self.flights):
                return
            self._hear()
            self._look_at_clocks()
            if self.team.is_opened and time.monotonic() - self._looked > LOOK_S:
                self._look_at_workers()

    def forgive_all(self) -> None:
        while self.flights:
            _, flight = self.flights.popitem()
            with suppress(RunError):
                state.take_back(flight.offer)  # first: what `recover` finds unclaimed, it forgives again
                forgive_attempt(self.order.out, flight.job.series.folder)

    # Handing out

    def _hand_out(self) -> None:
        while (at := self._lanes.next_free(self.waiting, self.flights.values())) is not None:
            job = self.waiting[at]
            if self.flights and closed(self.order, self.work.started) == "limit":
                return  # one of them may turn out to need no result
            if not self.work.begins(job):
                del self.waiting[at]
                continue
            need, worker = 0.0, ""
            if job.to_prepare:
                if not self.team.is_opened:
                    self.team.open(self.work)
                    self._look_at_workers()
                need = self._needed(job)
                worker = self.places.place(need, self.flights.values())
                if not worker:
                    return
            del self.waiting[at]
            self.work.started += 1
            with self.work.troubles.of(job.series.study_folder, "working on a series"):
                self._begin(job, worker, need)

    def _needed(self, job: Job) -> float:
        """MiB. Asked once for a job that waits: it looks at each of its files."""
        if self._asked is None or self._asked[0] is not job:
            self._asked = job, needed_mib(job, self.order)
        return self._asked[1]

    def _begin(self, job: Job, worker: str, need_mib: float) -> None:
        """Note the attempt, and send the series to the worker; or end it, where it need not be read."""
        with not_an_attempt_when_stopped(self.order.out, job.series.folder):
            attempt = begin_attempt(self.order.out, job.series.folder, job.work_key)
            if worked := given_up(job, attempt):
                self.work.emit(started(job))
                stage = state.new_stage(self.order.out, job.work_key)
                self._take(job, conclude(self.order, job, stage, worked, self.work.emit, self.work.past))
                return
            offer = state.offer_stage(self.order.out, job.work_key)
        clock = Work(datetime.now(UTC), timeout_s=self.team.timeout_s)
        flight = Flight(job, attempt, worker, offer, clock, self.places.is_large(need_mib))
        self.flights[offer.name] = flight
        try:
            flight.future = self._send(flight)
        except Exception:
            self._drop(offer.name, again=not self.crew.is_open, forgiven=True)
            if self.crew.is_open:  # else the scheduler has gone just now, which is seen to by itself
                raise

    def _send(self, flight: Flight) -> object:
        errand, mib = self.team.errand(self.work), self.places.memory_mib[flight.worker]
        if not self.crew.is_local and mib < (self.order.memory_mib or float("inf")):
            errand = replace(errand, order=replace(errand.order, memory_mib=mib))  # here it is all of the machine's
        past = self.work.past.only(flight.job.series.patient)
        parcel = Parcel(errand, flight.job, flight.attempt, flight.offer, past)
        return self.crew.submit(take_up, flight.offer.name, flight.worker, __version__, parcel.packed())

    # Hearing

    def _hear(self) -> None:
        """What workers tell, until there is nothing more; waits a moment for the first."""
        wait = TICK_S
        with suppress(Empty):
            while True:
                kind, token, told = self.crew.heard.get(timeout=wait)
                wait = 0.001
                flight = self.flights.get(token)
                if flight and kind == TOLD:
                    for event in told:
                        self._told(flight, event)
                elif flight and told in WITH_THE_SCHEDULER:
                    self._drop(token, forgiven=True)
                elif flight:
                    answer = pickle.loads(told) if kind == ANSWERED else self._no_answer(flight, told)
                    self._answered(token, flight, answer)
                    self._hand_out()  # that worker has one less

    def _told(self, flight: Flight, event: Event) -> None:
        if event["event"] == "log":
            log.log(event["level"], "%s", event["message"])
            return
        if event["event"] == TAKEN_UP:
            flight.clock.hear(started(flight.job))
            return
        if event["event"] == "claimed":
            event = started(flight.job)
        if event["event"] in ("started", "step"):
            flight.clock.hear(event)
        noting_comparison(self.order, self.work.emit)(event)

    def _no_answer(self, flight: Flight, why: str) -> Answer:
        """Of Dask: the worker died, was asked twice, or could not make anything of it."""
        if why in ("ImportError", "ModuleNotFoundError"):
            return Unfit("covct, or something that it needs, is not installed there")
        if why == "RuntimeError":
            raise WorkersLost(
                f"the scheduler {self.crew.address} cannot read its tasks: covct has to be installed there"
            )
        log.warning("a series was lost with the worker %s (%s)", flight.worker, why)
        return NotOffered()

    def _answered(self, token: str, flight: Flight, answer: Answer) -> None:
        if not self.crew.is_open and not isinstance(answer, Worked):
            return  # the scheduler is gone: that is seen to by itself
        if isinstance(answer, Worked):
            self._commit(token, flight, answer)
        elif isinstance(answer, Broken):
            self._drop(token, again=False)
            self.work.troubles.tell(flight.job.series.study_folder, f"{answer.why} while working on a series")
        elif isinstance(answer, DiskFailed) and answer.errno in DISK_FULL:
            raise OutputNotWritable(f"{self.order.out}: {answer.why} (in the worker {flight.worker})")
        else:
            self._drop(token, forgiven=isinstance(answer, Unfit))
            if isinstance(answer, Unfit | DiskFailed):
                self._set_aside(flight.worker, answer)

    def _commit(self, token: str, flight: Flight, worked: Worked) -> None:
        del self.flights[token]
        job, stage = flight.job, state.claimed(flight.offer)
        if not flight.clock.folder:
            self.work.emit(started(job))
        with self.work.troubles.of(job.series.study_folder, "working on a series"):
            with not_an_attempt_when_stopped(self.order.out, job.series.folder):
                if {path.name for path in stage.iterdir()} != set(worked.hashes):
                    raise OSError(errno.ESTALE, f"what the worker {flight.worker} wrote cannot be seen from here")
                ended = conclude(self.order, job, stage, worked, self.work.emit, self.work.past)
            self._take(job, ended)
        self.misses = self.not_ready = 0
        state.take_back(flight.offer)

    def _take(self, job: Job, ended: Outcome | Kept) -> None:
        if next_best := self.work.take(job, ended):
            self.waiting.appendleft(next_best)

    # When something goes wrong

    def _drop(self, token: str, *, again: bool = True, forgiven: bool = False) -> None:
        """Let go of a series; its attempt counts if it was begun, unless it is forgiven."""
        flight = self.flights.pop(token)
        with suppress(Exception):
            if flight.future is not None:
                flight.future.cancel()
        is_begun = not state.take_back(flight.offer)
        self.misses = 0 if is_begun or forgiven else self.misses + 1
        if forgiven or not is_begun:
            forgive_attempt(self.order.out, flight.job.series.folder)
        if again:
            self.work.started -= 1
            self.waiting.appendleft(flight.job)
        if self.misses > MOST_MISSES:
            raise WorkersLost(f"{self.misses} workers in a row were lost before they had begun a series")

    def _drop_all_of(self, worker: str, forgiven: bool = False) -> None:
        for token in [token for token, flight in self.flights.items() if flight.worker == worker]:
            self._drop(token, forgiven=forgiven)

    def _set_aside(self, worker: str, why: Unfit | DiskFailed) -> None:
        """A worker gets nothing more to do in this run."""
        if worker not in self.places.unfit:
            log.warning("the worker %s is not used: %s", worker, why.why)
        self.places.set_aside(worker, why)
        self._drop_all_of(worker, isinstance(why, Unfit))
        if not self.places.memory_mib and not self.flights:
            raise why.error(worker)

    def _look_at_clocks(self) -> None:
        now = time.monotonic()
        passed, self._ticked = min(now - self._ticked, 4 * TICK_S), now
        for token, flight in list(self.flights.items()):
            flight.clock.pass_time(passed)
            if token in self.flights and (flight.clock.too_long or flight.clock.loads_too_long):
                self._end_worker(flight)

    def _end_worker(self, flight: Flight) -> None:
        """Kill one that does not come to an end with a series, and let go of all that it has.

        Files that do not answer and networks that do not load are no series' fault, as in a single process.
        """
        too_long = flight.clock.too_long
        if too_long:
            note_timeout(self.order.out, flight.job.series.folder, self.team.timeout_s)
        what = "a series had no result" if too_long else "files were not read, or networks not loaded,"
        log.error("%s in time; the worker %s is killed", what, flight.worker)
        self.places.set_aside(flight.worker, Unfit("it was killed"))  # whoever comes in its place has another address
        self.crew.end(flight.worker)
        self._drop_all_of(flight.worker, forgiven=not too_long)
        self.not_ready += not too_long
        if self.not_ready > MOST_ATTEMPTS:
            raise WorkersLost(f"{self.not_ready} workers in a row did not read files or load networks in time")

    def _look_at_workers(self) -> None:
        """Who is there; series of those that are gone are let go. A sign of life."""
        self._looked = time.monotonic()
        self.work.emit({"event": "alive"})
        try:
            there = self.crew.workers()
        except OSError:
            self._scheduler_lost()
            return
        self.places.see(there)
        for worker in {flight.worker for flight in self.flights.values()} - self.places.memory_mib.keys():
            log.warning("the worker %s is gone", worker)
            self._drop_all_of(worker)
        if not self.waiting and (token := self.places.to_share(self.flights)):
            self._drop(token, forgiven=True)
        self._be_patient(bool(self.places.memory_mib))

    def _be_patient(self, well: bool) -> None:
        now = time.monotonic()
        self._nobody_since = None if well else self._nobody_since or now
        if self._nobody_since and now - self._nobody_since > PATIENCE_S:
            wanted = "no worker with the tag GPU" if self.places.on_gpu else "no worker"
            raise WorkersLost(f"{wanted} has joined within {PATIENCE_S:g} s ({self.crew.address or 'here'})")

    def _scheduler_lost(self) -> None:
        """Let go of everything, at no series' cost, and connect again: after a second, two, up to half a minute."""
        log.error("the scheduler %s is gone; trying to reach it again", self.crew.address)
        for token in list(self.flights):
            self._drop(token, forgiven=True)
        pause, deadline = 1.0, time.monotonic() + PATIENCE_S
        while True:
            self.crew.close()
            self.work.emit({"event": "alive"})
            time.sleep(pause)
            try:
                self.crew.open()
                log.warning("the scheduler is back")
                return
            except WorkersLost:
                if time.monotonic() > deadline:
                    raise
            pause = min(2 * pause, LONGEST_PAUSE_S)
