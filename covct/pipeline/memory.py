"""How much memory a series will need, and how much there is: what cannot be held is refused before it is read."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path

from covct.networks.control_groups import CGROUPS, PROC, control_groups
from covct.networks.devices import OPENVINO, TENSORFLOW

MIB = 1024**2
M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -8, -3, -1  # malloc.h
LARGE_BYTES = 4 * MIB
# Measured with benchmarks/memory.py: the process with its networks, by what computes them; for each voxel its HU and
# three packed bits; for each slice what is kept in the networks' space (256 x 256) and said of its frames in the SEG.
BASE_MIB = {TENSORFLOW: 1300, OPENVINO: 800}
LABEL_BYTES = 3 / 8
SLICE_MIB = 0.2


def needed_mib(
    slices: int, rows: int, columns: int, bytes_a_voxel: float = 2, beside: float = 0, runtime: str = TENSORFLOW
) -> float:
    """What a scan of such a series takes at its peak, MiB.

    Parameters
    ----------
    bytes_a_voxel : float
        Of its HU, and of what is held in proportion to them while they are read.
    beside : float
        Bytes held beside them meanwhile, whatever their number.
    runtime : str
        What computes the networks.
    """
    voxels = slices * rows * columns
    return BASE_MIB[runtime] + (voxels * (bytes_a_voxel + LABEL_BYTES) + beside) / MIB + slices * SLICE_MIB


def at_hand_mib(proc: Path = PROC, cgroups: Path = CGROUPS) -> float:
    """All memory of this machine or container, MiB: the least of the machine's and of what control groups allow.

    Not what is free at the moment: what a series comes to shall not depend on its neighbours.
    """
    limits = [_total_mib(proc), *(limit / MIB for limit in _limits(proc, cgroups))]
    return min(limits)


def _total_mib(proc: Path) -> float:
    try:
        for line in (proc / "meminfo").read_text().splitlines():
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) / 1024
    except (OSError, ValueError, IndexError):
        pass
    return float("inf")


def _limits(proc: Path, cgroups: Path) -> list[int]:
    """Limits in bytes of this process's control groups and of all above them; version 2, then 1."""
    limits = []
    for group in control_groups("memory", proc, cgroups):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with suppress(OSError, ValueError):  # not there, or "max"
                limits.append(int((group / name).read_text()))
    return limits


def steady_heap() -> None:
    """Have the C library (glibc) give memory back as soon as it is free, whichever thread took it.

    One heap serves all threads to come, where each would have one of its own; and what is large is mapped by itself,
    however much has been taken and freed before. Else a scan's peak hangs on what went before it.
    """
    with suppress(OSError, AttributeError):  # musl has no such function
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
        mallopt(M_TRIM_THRESHOLD, 4 * LARGE_BYTES)
