"""What goes to a worker with a series, and what comes back; both as bytes, so that nothing between them reads it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from covct import errors
from covct.disk.attempts import Attempt
from covct.disk.places import PRIVATE
from covct.errors import OutputNotWritable, RunError, UsageError
from covct.unattended.plan import Job, Order
from covct.unattended.priors import Past

if TYPE_CHECKING:  # OpenCV is for those who have work
    from covct.networks.network import Networks


@dataclass(frozen=True)
class Errand:
    """What is the same for every series of a run.

    Attributes
    ----------
    name : str
        Of the run: nobody else's.
    load : function () -> Networks
        Equal to that of another run where it loads the same: a worker keeps its networks.
    cards : dict of str to str
        The hash of each weight card, as the coordinator found them.
    folder : str
        Where relative paths begin.
    """

    name: str
    order: Order
    load: Callable[[], Networks]
    cards: dict[str, str]
    folder: str

    @property
    def mark(self) -> Path:
        """A file in the output tree while the run lasts: who sees it sees the tree."""
        return self.order.out / PRIVATE / "staging" / f"run.{self.name}"


@dataclass(frozen=True)
class Parcel:
    """One series; `offer` is where its stage is to be claimed, `past` what is known of its patient."""

    errand: Errand
    job: Job
    attempt: Attempt
    offer: Path
    past: Past

    def packed(self) -> bytes:
        return pickle.dumps(self, protocol=pickle.HIGHEST_PROTOCOL)


@dataclass(frozen=True)
class Unfit:
    """This worker cannot do any series of this run: why, and the kind of `RunError` that says so."""

    why: str
    kind: str = "UsageError"

    def error(self, worker: str) -> RunError:
        """What ends the run where no other worker is left."""
        found = getattr(errors, self.kind, UsageError)
        kind = found if isinstance(found, type) and issubclass(found, RunError) else UsageError
        return kind(f"no worker can be used; {worker}: {self.why}")


@dataclass(frozen=True)
class NotOffered:
    """The series was taken back meanwhile, or this worker was asked twice."""


@dataclass(frozen=True)
class DiskFailed:
    """The output tree took no more from this worker."""

    errno: int
    why: str

    def error(self, worker: str) -> RunError:
        return OutputNotWritable(f"no worker can be used; {worker}: {self.why}")


@dataclass(frozen=True)
class Broken:
    """An error that nobody foresaw, by kind and place."""

    why: str
