"""The event file for TensorBoard: one a training, by tensorboardX, so that every backend has it.

tensorboardX's `SummaryWriter` is left aside: it writes in a thread from a queue, which takes shared memory and tells
nobody of a full disk.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

FILE = "events.out.tfevents.0000000000.covct"
EXAMPLES = "examples"  # the tag of the pictures


class EpochEvents:
    """The figures of the epochs and a picture of each, on the disk after each.

    Parameters
    ----------
    folder : Path
        Its event file is replaced: a training that goes on has no step twice. Pictures of the epochs of `history` are
        taken from the one before.
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
        before = dict(_pictures(folder / FILE)) if history else {}
        self._now = now
        self._file = RecordWriter(str(folder / FILE))
        self._file.write(Event(wall_time=now(), file_version="brain.Event:2").SerializeToString())
        for number, row in enumerate(zip(*history.values(), strict=True), 1):
            self._write(number, dict(zip(history, row, strict=True)), before.get(number))
        self._file.flush()

    def add(self, epoch: int, logs: dict[str, float], picture: bytes | None = None) -> None:
        """One epoch more, counted from 1; the picture is a PNG."""
        self._write(epoch, logs, picture)
        self._file.flush()

    def close(self) -> None:
        """`add` left nothing to write: on a full disk the error is the one that it raised."""
        with suppress(OSError):
            self._file.close()

    def _write(self, epoch: int, logs: dict[str, float], picture: bytes | None) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in logs.items()]
        if picture:
            columns, rows = struct.unpack(">II", picture[16:24])  # of a PNG's header
            image = Summary.Image(height=rows, width=columns, colorspace=3, encoded_image_string=picture)
            values.append(Summary.Value(tag=EXAMPLES, image=image))
        event = Event(wall_time=self._now(), step=epoch, summary=Summary(value=values))
        self._file.write(event.SerializeToString())


def _pictures(path: Path) -> Iterator[tuple[int, bytes]]:
    """The pictures of an event file by epoch, as far as it is whole."""
    from tensorboardX.proto.event_pb2 import Event

    for record in _records(path):
        try:
            event: Any = Event.FromString(record)
        except Exception:  # protobuf's own; a damaged file is written anew
            return
        for value in event.summary.value:
            if value.tag == EXAMPLES:
                yield event.step, value.image.encoded_image_string


def _records(path: Path) -> Iterator[bytes]:
    """A length, its checksum, so many bytes, their checksum (TFRecord)."""
    content = path.read_bytes() if path.is_file() else b""
    place = 0
    while place + 12 <= len(content):
        (length,) = struct.unpack("<Q", content[place : place + 8])
        end = place + 12 + length + 4
        if end > len(content):
            return
        yield content[place + 12 : end - 4]
        place = end
