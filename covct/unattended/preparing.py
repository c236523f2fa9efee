"""Reading and computing a series, before anything of it is written; and what may come of it in place of a result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from covct.disk import state
from covct.disk.attempts import is_noted
from covct.disk.outcome import Outcome, Status, key_of_replaced
from covct.errors import RunError, SeriesError, logged, whereabouts
from covct.outputs import FORMATS, Emit
from covct.pipeline.memory import steady_heap
from covct.unattended.ahead import Closed, Line, Steps
from covct.unattended.job_events import job_event
from covct.unattended.plan import Job, Order
from covct.unattended.replaced import slices_digest, still_of

if TYPE_CHECKING:  # highdicom, SimpleITK and OpenCV are for those who have work
    from covct.networks.network import Network, Networks
    from covct.pipeline.lobes import LoadLobes
    from covct.pipeline.series import Clock, Result
    from covct.results.standing import Standing
    from covct.voxels.volume import Scan

OUT_OF_MEMORY = "out-of-memory"
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class End:
    """How the work on a series ended; `figures` for the event of one that is done, and when it was first computed, by
    the keys that its objects derive from."""

    status: Status = "done"
    slug: str | None = None
    message: str | None = None
    file: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    computed: dict[str, datetime] = field(default_factory=dict)


@dataclass(frozen=True)
class Kept:
    """A series whose result stays: it holds the same slices, or could not be compared, for a reason told by `slug`."""

    outcome: Outcome
    slug: str = ""
    message: str = ""


@dataclass
class Read:
    """What was read of a series: a digest of its slices, and the work key that they make."""

    work_key: str
    slices: str = ""

    def believe(self, before: Outcome) -> None:
        """Take its files for those that were read before: sizes and times say so."""
        self.slices, self.work_key = before.slices, before.work_key

    def take(self, job: Job, scan: Scan) -> bool:
        """Note its slices. Returns whether they are those of a result that stands if they are."""
        self.slices = slices_digest(job.series, scan)
        first = job.before.first_slices if job.before else ""
        if first and first != self.slices:
            self.work_key = key_of_replaced(job.work_key, self.slices)
        return bool(job.doubtful and job.before and job.before.slices == self.slices)


@dataclass(frozen=True)
class Prepared:
    """A series of which nothing is written yet: what is to be written of it, or how it ended.

    Attributes
    ----------
    seconds : float
        That reading and computing took, while others were perhaps at work.
    added : tuple of str
        Formats to be written beside those that the result in its folder holds; empty: all of it is new.
    """

    read: Read
    clock: Clock | None = None
    result: Result | None = None
    end: End | Kept | None = None
    seconds: float = 0.0
    added: tuple[str, ...] = ()

    @property
    def ran_out_of_memory(self) -> bool:
        return isinstance(self.end, End) and self.end.slug == OUT_OF_MEMORY


@dataclass(frozen=True)
class Loaded:
    """A scan as it was read, and the clock that runs for its series.

    Attributes
    ----------
    standing : Standing or None
        The result to write further formats of; None where all is to be computed.
    headers_only : bool
        No pixel was decoded.
    """

    scan: Scan
    clock: Clock
    seconds: float
    standing: Standing | None = None
    headers_only: bool = False


def line(order: Order, networks: Callable[[], Networks]) -> Line[Loaded, Prepared]:
    """Prepares the series of an order, each as its turn comes or a little before."""
    steady_heap()  # what one thread has read and computed, another writes and frees
    return Line(Steps(partial(_load, order), partial(_prepare, order, networks), partial(_fit, order)))


@contextmanager
def ends(told: list[End]) -> Iterator[None]:
    """What a series may end with but for a result: appended to `told`. Errors of the run, and of disks, go on."""
    try:
        yield
    except SeriesError as error:
        told.append(End("rejected", error.slug, error.message, error.file))
    except MemoryError as error:
        told.append(End("failed", OUT_OF_MEMORY, f"out of memory: {whereabouts(error)}"))
    except Exception as error:
        if isinstance(error, (RunError, OSError, Closed)):
            raise
        # which series: the event that follows says it
        told.append(End("failed", "unexpected-error", logged(error)))


def _load(order: Order, job: Job, tell: Emit) -> Loaded:
    from covct.pipeline.series import load

    start = time.perf_counter()
    clock = clock_of(job, tell)
    state.ensure_temporary_folder(order.out)
    found = _standing(order, job)
    headers_only = found is not None and not job.doubtful and not any(FORMATS[name].of_pixels for name in job.lacking)
    scan = load(job.choice, clock, order.memory_mib, order.runtime, headers_only)
    return Loaded(scan, clock, time.perf_counter() - start, found, headers_only)


def _standing(order: Order, job: Job) -> Standing | None:
    """The result that further formats are to be made of, if they can be."""
    if not job.from_masks or not job.before:
        return None
    from covct.results.standing import standing

    return standing(order.out / job.series.folder, job.before)


def clock_of(job: Job, emit: Emit) -> Clock:
    """Tells of each step of a series."""
    from covct.pipeline.series import Clock  # highdicom and SimpleITK: only when there is work

    def told(step: str, seconds: float | None = None) -> None:
        emit(job_event("step", job, step=step, **({} if seconds is None else {"seconds": seconds})))

    def progress(done: int, of: int) -> None:
        emit(job_event("alive", job, done=done, of=of))

    return Clock(told, told, progress)


def _prepare(
    order: Order, networks: Callable[[], Networks], job: Job, loaded: Callable[[], Loaded], tell: Emit
) -> Prepared:
    """Segment and measure a series. Writes nothing."""
    read, ended = Read(job.work_key), list[End]()
    start = time.perf_counter()
    with ends(ended):
        scan = loaded()
        start = time.perf_counter() - scan.seconds
        same = _is_as_before(job, scan, read)
        if same and job.before and not job.lacking:
            return Prepared(read, end=Kept(still_of(job.before, job.signature)))
        added = job.lacking if same and scan.standing else ()
        if added:
            result = _read_back(order, job, scan, read.work_key)
        else:
            result = _computed(order, job, scan.scan, read.work_key, networks, scan.clock, tell)
        return Prepared(read, scan.clock, result, seconds=time.perf_counter() - start, added=added)
    return Prepared(read, end=ended[0], seconds=time.perf_counter() - start)


def _is_as_before(job: Job, loaded: Loaded, read: Read) -> bool:
    """Note what was read. Returns whether it is what the result was made of that stands if it is."""
    if loaded.headers_only and job.before:
        read.believe(job.before)
        return True
    same = read.take(job, loaded.scan)
    return same or bool(job.lacking and job.before and job.before.slices == read.slices)


def _read_back(order: Order, job: Job, loaded: Loaded, work_key: str) -> Result:
    from covct.results.standing import as_computed

    assert loaded.standing
    with loaded.clock.step("masks"):
        return as_computed(loaded.standing, job.series, loaded.scan, work_key, _atlas(order))


def _fit(order: Order, job: Job, other: Job) -> bool:
    """Whether the other series may be in memory beside this one: both fit by their headers, and it was never tried."""
    from covct.pipeline.series import fit_together

    if is_noted(order.out, other.series.folder):
        return False
    assert job.choice.chosen is not None and other.choice.chosen is not None
    return fit_together(job.choice.chosen, other.choice.chosen, order.memory_mib, order.runtime)


def _computed(
    order: Order,
    job: Job,
    scan: Scan,
    work_key: str,
    networks: Callable[[], Networks],
    clock: Clock,
    emit: Emit,
) -> Result:
    """Run the pipeline: all of the result but its files."""
    from covct.pipeline.series import process_scan

    def asked() -> Networks:
        clock.announce("networks")
        start = time.perf_counter()
        loaded = networks()
        clock.ended("networks", round(time.perf_counter() - start, 3))
        return _signs_of_life(loaded, emit)

    return process_scan(job.choice, scan, asked, work_key, clock, order.strict, _atlas(order))


def _atlas(order: Order) -> LoadLobes | None:
    """What loads the atlas of lobes; None where none are asked for."""
    if order.lobes == "none":
        return None
    from covct.networks.lobe_card import lobe_card, read_lobes

    return partial(read_lobes, lobe_card(order.weights))


def _signs_of_life(networks: Networks, emit: Emit) -> Networks:
    """The same networks, with an event after each of their calls: a long series on a CPU is no dead process."""

    def telling(call: Callable[[np.ndarray], Answer]) -> Callable[[np.ndarray], Answer]:
        def told(slices: np.ndarray) -> Answer:
            answer = call(slices)
            emit({"event": "alive"})
            return answer

        return told

    def alive(network: Network) -> Network:
        describe = telling(network.describe) if network.describe else None
        members = tuple(map(alive, network.members))
        return replace(network, predict=telling(network.predict), describe=describe, members=members)

    gate = networks.empty_slices
    return replace(
        networks,
        lungs=alive(networks.lungs),
        infection=alive(networks.infection),
        empty_slices=alive(gate) if gate else None,
    )
