"""Event files for TensorBoard, written without TensorFlow, so that every backend has them.

A file is a sequence of TFRecords: length (uint64), masked CRC-32C of the length, contents, masked CRC-32C of the
contents; the contents are protocol buffers of the message Event (tensorflow/core/util/event.proto).
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from pathlib import Path

FILE = "events.out.tfevents.0000000000.covct"
POLYNOMIAL = 0x82F63B78  # Castagnoli, reflected


def write_history(folder: Path, history: dict[str, list[float]], now: Callable[[], float] = time.time) -> None:
    """Write the figures of the epochs so far, in place of what stands there."""
    folder.mkdir(parents=True, exist_ok=True)
    epochs = [dict(zip(history, row, strict=True)) for row in zip(*history.values(), strict=True)]
    records = [_record(_event(now(), 0, b"\x1a" + _bytes(b"brain.Event:2")))]
    records += [_record(_scalars(now(), number, logs)) for number, logs in enumerate(epochs, 1)]
    (folder / FILE).write_bytes(b"".join(records))


def append_epoch(folder: Path, epoch: int, logs: dict[str, float], now: Callable[[], float] = time.time) -> None:
    """Add the figures of one epoch, counted from 1, to the file."""
    with open(folder / FILE, "ab") as file:
        file.write(_record(_scalars(now(), epoch, logs)))


def _scalars(seconds: float, step: int, logs: dict[str, float]) -> bytes:
    values = (b"\x0a" + _bytes(name.encode()) + b"\x15" + struct.pack("<f", value) for name, value in logs.items())
    return _event(seconds, step, b"\x2a" + _bytes(b"".join(b"\x0a" + _bytes(value) for value in values)))


def _event(seconds: float, step: int, what: bytes) -> bytes:
    return b"\x09" + struct.pack("<d", seconds) + b"\x10" + _varint(step) + what


def _bytes(contents: bytes) -> bytes:
    return _varint(len(contents)) + contents


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _record(contents: bytes) -> bytes:
    length = struct.pack("<Q", len(contents))
    return length + struct.pack("<I", _masked(length)) + contents + struct.pack("<I", _masked(contents))


def _masked(contents: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in contents:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (POLYNOMIAL if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
