"""The event file for TensorBoard: one a training, by tensorboardX, so that every backend has it.

tensorboardX's `SummaryWriter` is left aside: it writes in a thread from a queue, which takes shared memory and tells
nobody of a full disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

FILE = "events.out.tfevents.0000000000.covct"


class EpochEvents:
    """The figures of the epochs, on the disk after each.

    Parameters
    ----------
    folder : Path
        Its event file is replaced: a training that goes on has no step twice.
    history : dict of str to list of float
        The figures of the epochs so far.
    now : function () -> float
        Unix time.

    Raises
    ------
    OSError
        Here and from `add`.
    """

    def __init__(self, folder: Path, history: dict[str, list[float]], now: Callable[[], float] = time.time):
        from tensorboardX import RecordWriter
        from tensorboardX.proto.event_pb2 import Event

        folder.mkdir(parents=True, exist_ok=True)
        self._now = now
        self._file = RecordWriter(str(folder / FILE))
        self._file.write(Event(wall_time=now(), file_version="brain.Event:2").SerializeToString())
        for number, row in enumerate(zip(*history.values(), strict=True), 1):
            self._write(number, dict(zip(history, row, strict=True)))
        self._file.flush()

    def add(self, epoch: int, logs: dict[str, float]) -> None:
        """One epoch more, counted from 1."""
        self._write(epoch, logs)
        self._file.flush()

    def close(self) -> None:
        """`add` left nothing to write: on a full disk the error is the one that it raised."""
        with suppress(OSError):
            self._file.close()

    def _write(self, epoch: int, logs: dict[str, float]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in logs.items()])
        self._file.write(Event(wall_time=self._now(), step=epoch, summary=summary).SerializeToString())
