"""Series are prepared before their turn: the next one is read while one is computed, and computed while it is written.

Nothing of a series is noted, written or told before its turn: the ledger, the supervisor and whoever reads the events
see one series after the other, as if each had been begun when the last was finished. Two are in memory at most, and
only where both fit. One thread reads, another computes, in the order of the turns: networks never run twice at once.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from types import TracebackType
from typing import Any, Generic, TypeVar

from covct.outputs import Emit, Event
from covct.unattended.plan import Job

Loaded = TypeVar("Loaded")
Prepared = TypeVar("Prepared")

CLOSING_S = 2.0  # for a call of a network to come to its end


class Closed(Exception):
    """Nobody waits any more for what is being prepared."""


@dataclass(frozen=True)
class Steps(Generic[Loaded, Prepared]):
    """How a series is prepared.

    Attributes
    ----------
    read : function (job, tell) -> loaded
    compute : function (job, loaded, tell) -> prepared
        `loaded` is a function that gives what was read, or raises what reading raised.
    fit : function (job, job) -> bool
        Whether two series may be in memory together.
    """

    read: Callable[[Job, Emit], Loaded]
    compute: Callable[[Job, Callable[[], Loaded], Emit], Prepared]
    fit: Callable[[Job, Job], bool]


@dataclass
class _Early(Generic[Loaded, Prepared]):
    """A series on its way.

    What it tells is kept until its turn; from then on it is told at once, by the thread at work: a call that never
    comes back may hold the interpreter, and who looks after this process has to know what it was at.
    """

    job: Job
    loaded: Future[Loaded]
    prepared: Future[Prepared] | None = None
    _kept: list[Event] = field(default_factory=list)
    _emit: Emit | None = None
    _lock: Lock = field(default_factory=Lock)

    @property
    def last(self) -> Future[Any]:
        """What comes last of what was begun."""
        return self.prepared or self.loaded

    def tell(self, event: Event) -> None:
        with self._lock:
            if self._emit:
                self._emit(event)
            else:
                self._kept.append(event)

    def turn_comes(self, emit: Emit) -> None:
        """Tell what was kept, and all that follows."""
        with self._lock:
            for event in self._kept:
                emit(event)
            self._emit = emit


@dataclass
class Line(Generic[Loaded, Prepared]):
    """Prepares series in the order of their turns, and at most one before its turn. To be used as a context.

    Attributes
    ----------
    in_company : bool
        Whether the series last taken was in memory together with another one.
    """

    steps: Steps[Loaded, Prepared]
    in_company: bool = field(default=False, init=False)
    _early: list[_Early[Loaded, Prepared]] = field(default_factory=list)
    _closed: bool = False

    def __enter__(self) -> Line[Loaded, Prepared]:
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="covct-read")
        self._computer = ThreadPoolExecutor(1, thread_name_prefix="covct-compute")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._closed = True
        for pool in (self._reader, self._computer):
            pool.shutdown(wait=False, cancel_futures=True)
        wait([one.last for one in self._early], CLOSING_S)
        self._early.clear()

    def take(self, job: Job, emit: Emit, following: Job | None) -> Prepared:
        """What was prepared of a series whose turn it is; `emit` is told what it told, as it tells it.

        Meanwhile the `following` one is read, if both fit into memory. It is computed after `go_on`.

        Raises
        ------
        Exception
            What reading or computing raised.
        """
        mine = next((one for one in self._early if one.job is job), None)
        self.in_company = mine is not None
        if mine is None:
            self._let_go()
            mine = self._read(job)
        mine.turn_comes(emit)
        prepared = self._compute(mine)
        if following and self.steps.fit(job, following):
            self._read(following)
            self.in_company = True
        try:
            return prepared.result()
        finally:
            self._early.remove(mine)

    def take_alone(self, job: Job, emit: Emit) -> Prepared:
        """As `take`, with no other series in memory."""
        self._let_go()
        return self.take(job, emit, None)

    def go_on(self) -> None:
        """Compute what was read for the next turn: what was taken is about to be written, as everybody was told."""
        for one in self._early:
            self._compute(one)

    def _let_go(self) -> None:
        """Of what was prepared for a turn that is not the next: another series was put before it."""
        for one in self._early:
            one.last.cancel()
            wait([one.last])
        self._early.clear()

    def _read(self, job: Job) -> _Early[Loaded, Prepared]:
        early = _Early[Loaded, Prepared](job, Future())
        early.loaded = self._reader.submit(self.steps.read, job, partial(self._told, early))
        self._early.append(early)
        return early

    def _compute(self, one: _Early[Loaded, Prepared]) -> Future[Prepared]:
        if one.prepared is None:
            tell = partial(self._told, one)
            one.prepared = self._computer.submit(self.steps.compute, one.job, one.loaded.result, tell)
        return one.prepared

    def _told(self, one: _Early[Loaded, Prepared], event: Event) -> None:
        if self._closed:
            raise Closed
        one.tell(event)
