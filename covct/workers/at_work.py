"""What a worker does: one series at a time, from its files to a whole stage on the shared file system.

It commits nothing. The stage is claimed by making a folder, which only one process can do, and only as long as the
coordinator has not taken the offer back; so a worker that comes back late finds nothing to write into, and nothing of
what it writes is ever renamed into the tree.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache, partial
from threading import Event as ThreadEvent
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any

from covct import __version__
from covct.disk import state
from covct.disk.durable import bring_to_disk
from covct.errors import OutputNotWritable, RunError, UsageError, WeightsError, logged
from covct.networks.cards import file_sha256
from covct.outputs import Event
from covct.unattended.logs import install
from covct.unattended.one_series import Worked, work
from covct.unattended.plan import card_hashes
from covct.unattended.preparing import End, line
from covct.workers.parcel import Broken, DiskFailed, Errand, NotOffered, Parcel, Unfit

if TYPE_CHECKING:
    from covct.networks.network import Networks

TELL_EVERY_S = 0.25
TAKEN_UP = "taken-up"  # from here on the worker's time counts: also a look at files may never come to an end
Answer = Worked | Unfit | NotOffered | DiskFailed | Broken

_alone = Lock()  # a worker may have several threads; a series has all of its memory and processors
_errands: set[str] = set()  # names of those that this process was found fit for


def dask_setup(worker: object) -> None:
    """Called by Dask when a worker starts that preloads this module, in its main thread. A terminal's Ctrl-C goes to
    all processes; when workers end is the coordinator's to say."""
    with suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def take_up(version: str, packed: bytes, topic: str, token: str) -> None:
    """Work on the series of a parcel, and tell an `Answer`. Never raises: Dask would log what it was called with.

    Parameters
    ----------
    version : str
        Of the coordinator. Another one may not even read the parcel.
    topic, token : str
        Of Dask's events, and what tells this call from others there.
    """
    with _alone, _Told(topic, token) as told:
        told.answer(pickle.dumps(_answer(version, packed, told)))


def _answer(version: str, packed: bytes, tell: Callable[[Event], None]) -> Answer:
    if version != __version__:
        return Unfit(f"covct {__version__} is installed there, {version} here")
    try:
        parcel: Parcel = pickle.loads(packed)
        tell({"event": TAKEN_UP})
        _check(parcel.errand)
        return _worked(parcel, tell)
    except RunError as error:
        return Unfit(str(error), type(error).__name__)
    except OSError as error:
        return DiskFailed(error.errno or 0, error.strerror or type(error).__name__)
    except Exception as error:
        return Broken(logged(error))


def _worked(parcel: Parcel, tell: Callable[[Event], None]) -> Answer:
    errand = parcel.errand
    try:
        stage = state.claim(parcel.offer)
    except FileExistsError:
        return NotOffered()
    except FileNotFoundError:
        _check_tree(errand)
        return NotOffered()
    tell({"event": "claimed"})
    load = partial(_networks, errand.load, tuple(sorted(errand.cards.items())))
    with line(errand.order, load) as prepare:
        worked = work(errand.order, parcel.job, parcel.attempt, stage, prepare, tell, parcel.past)
    if isinstance(worked.end, End) and worked.end.slug == "unreadable":
        _check_sources(errand)  # a share that this worker lost is not the series' fault
    bring_to_disk(stage)
    hashes = {path.name: file_sha256(path) for path in stage.iterdir()}
    return replace(worked, prepared=replace(worked.prepared, clock=None, result=None), hashes=hashes)


@lru_cache(1)
def _networks(load: Callable[[], Networks], cards: tuple[tuple[str, str], ...]) -> Networks:
    """Loaded once in a process, as long as the cards are the same."""
    return load()


def _check(errand: Errand) -> None:
    """Refuse a run that this process cannot do as the coordinator would; once for each run."""
    if errand.name in _errands:
        return
    install(_Forwarded())
    if not all(path.is_absolute() for path in (errand.order.out, *errand.order.sources)):
        try:
            os.chdir(errand.folder)
        except OSError as error:
            raise UsageError(f"paths are relative to {errand.folder}, which is not there") from error
    _check_tree(errand)
    _check_sources(errand)
    if (cards := card_hashes(errand.order.weights, errand.order.lobes)) != errand.cards:
        other = sorted(name for name, sha256 in errand.cards.items() if cards.get(name) != sha256) or sorted(cards)
        raise WeightsError(f"the weights in {errand.order.weights} are others there than here: {', '.join(other)}")
    _errands.add(errand.name)


def _check_tree(errand: Errand) -> None:
    if not errand.mark.exists():
        raise OutputNotWritable(f"{errand.order.out} is not there, or another folder than here")


def _check_sources(errand: Errand) -> None:
    for path in (*errand.order.sources, *errand.order.priors):
        if not path.exists():
            raise UsageError(f"{path} is not there")


class _Told:
    """What the coordinator is told: the answer at once, with all that came before it; else, now and then, what came.

    A thread of its own sends it: where a series hangs, its last step is told all the same.
    """

    def __init__(self, topic: str, token: str):
        from distributed import get_worker

        self._worker = get_worker()  # which only the thread that Dask calls in can ask
        self._topic, self._token = topic, token
        self._kept: list[Event] = []
        self._lock, self._over = Lock(), ThreadEvent()

    def __enter__(self) -> _Told:
        _listening[:] = [self]
        Thread(target=self._now_and_then, name="covct-tell", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        _listening.clear()

    def __call__(self, event: Event) -> None:
        with self._lock:
            self._kept.append(event)

    def answer(self, packed: bytes) -> None:
        self._send(packed)

    def _now_and_then(self) -> None:
        while not self._over.wait(TELL_EVERY_S):
            self._send()

    def _send(self, answer: bytes = b"") -> None:
        with self._lock:
            if self._kept or answer:
                told, self._kept = json.dumps(self._kept), []
                self._worker.log_event(self._topic, {"token": self._token, "events": told, "answer": answer})


_listening: list[_Told] = []


class _Forwarded(logging.Handler):
    """What is logged or warned of in a worker is told with the coordinator's own."""

    def emit(self, record: logging.LogRecord) -> None:
        told: dict[str, Any] = {"event": "log", "level": record.levelno, "message": record.getMessage()}
        for one in _listening:
            one(told)
