"""Which worker gets a series: by what there is of memory and GPUs, and by what each has already."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from covct.disk.attempts import Attempt
from covct.errors import SeriesError
from covct.unattended.plan import Job, Order
from covct.unattended.supervisor import Work
from covct.workers.parcel import DiskFailed, Unfit
from covct.workers.shares import GPU, series_mib

EACH = 2  # series that a worker has: one at work, and one that begins when that ends
LOOK_AHEAD = 1000  # jobs, for one that need not wait for another


@dataclass
class Flight:
    """A series that a worker has.

    Attributes
    ----------
    worker : str
        Its address.
    clock : Work
        How long it is at it, as the supervisor of a single process has it.
    alone : bool
        It needs more memory than a worker's share: nothing else runs beside it.
    future : distributed.Future or None
        Of its answer, once it was sent.
    """

    job: Job
    attempt: Attempt
    worker: str
    offer: Path
    clock: Work
    alone: bool = False
    future: Any = None

    @property
    def is_begun(self) -> bool:
        # Listed, not asked for by name: that a name was absent, an NFS client remembers for half a minute.
        return bool(self.clock.folder) or bool(os.listdir(self.offer))


@dataclass
class Places:
    """The workers of a run.

    Attributes
    ----------
    local : bool
        They share the memory of this machine.
    on_gpu : bool
        Only those with the tag GPU are used.
    memory_mib : dict of str to float
        Of those that may be used, by address: for a series.
    unfit : dict of str to Unfit or DiskFailed
        Those that are not used any more, and why.
    """

    local: bool
    on_gpu: bool = False
    memory_mib: dict[str, float] = field(default_factory=dict)
    unfit: dict[str, Unfit | DiskFailed] = field(default_factory=dict)

    def see(self, there: Mapping[str, Mapping[str, Any]]) -> None:
        """Take note of who is there, as the scheduler describes them."""
        self.memory_mib = {
            address: series_mib(told)
            for address, told in there.items()
            if address not in self.unfit and (not self.on_gpu or told["resources"].get(GPU))
        }

    def set_aside(self, worker: str, why: Unfit | DiskFailed) -> None:
        self.unfit[worker] = why
        self.memory_mib.pop(worker, None)

    def is_large(self, need_mib: float) -> bool:
        """Whether a series needs more than any worker's share of this machine, and so all of it."""
        return self.local and need_mib > max(self.memory_mib.values(), default=need_mib)

    def place(self, need_mib: float, flights: Iterable[Flight]) -> str:
        """The worker for a series that needs so much memory; empty where it has to wait.

        Elsewhere than here one that is too large for all goes to the largest, which says so.
        """
        has = _counted(flights)
        if any(flight.alone for flight in flights) or (self.is_large(need_mib) and has):
            return ""
        most = max(self.memory_mib.values(), default=0.0)
        free = (one for one, mib in self.memory_mib.items() if has[one] < EACH and mib >= min(need_mib, most))
        return min(free, key=lambda one: has[one], default="")

    def to_share(self, flights: Mapping[str, Flight]) -> str | None:
        """A flight that a worker has not begun, while another has nothing to do; None where there is none."""
        has = _counted(flights.values())
        if all(has[one] for one in self.memory_mib):
            return None
        return next((token for token, one in flights.items() if has[one.worker] == EACH and not one.is_begun), None)


def _counted(flights: Iterable[Flight]) -> Counter[str]:
    return Counter(flight.worker for flight in flights)


@dataclass
class Lanes:
    """What no two series that are done at once have in common: a study, in which one may supersede another, and a
    patient, whose results are compared with those before them."""

    _known: dict[int, tuple[Job, set[str]]] = field(default_factory=dict)  # whose a series is, all its slices say

    def of(self, job: Job) -> set[str]:
        if id(job) not in self._known:
            patient = job.series.patient.id if job.series.kind == "dicom" else ""
            self._known[id(job)] = job, {job.series.study_folder, *((f"patient {patient}",) if patient else ())}
        return self._known[id(job)][1]

    def next_free(self, waiting: deque[Job], flights: Iterable[Flight]) -> int | None:
        """Where the first job waits that has nothing in common with one before it or with one in flight."""
        taken = set().union(*(self.of(flight.job) for flight in flights))
        for at, job in enumerate(islice(waiting, LOOK_AHEAD)):
            own = self.of(job)
            if taken.isdisjoint(own):
                return at
            taken |= own
        return None


def needed_mib(job: Job, order: Order) -> float:
    """Memory that a series will take, as far as its headers say."""
    from covct.pipeline.series import counted_mib

    assert job.choice.chosen is not None
    try:
        return counted_mib(job.choice.chosen, order.runtime)
    except (SeriesError, OSError):  # its own turn will tell
        return 0.0
