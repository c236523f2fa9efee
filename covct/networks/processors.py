"""The processors that this process may use, and what they can do."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

# What CPUs call native arithmetic in bfloat16 (/proc/cpuinfo): vectors, and tiles. Without either it is emulated.
BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}


def processors_at_hand(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """How many: those of this process's affinity, or fewer where a control group (docker run --cpus) allows less time.

    More threads than that only wait for each other.
    """
    return max(1, math.ceil(min(len(os.sched_getaffinity(0)), _quota(proc, cgroups))))


def adds_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether every processor computes in bfloat16 by itself."""
    try:
        flags = re.findall(r"^flags\s*:(.*)$", cpuinfo.read_text(), re.MULTILINE)
    except OSError:
        return False
    return bool(flags) and all(BFLOAT16_FLAGS & set(line.split()) for line in flags)


def _quota(proc: Path, cgroups: Path) -> float:
    """Processors' worth of time that this process's control groups and those above them allow; version 2, then 1."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return math.inf
    least = math.inf
    for line in lines:
        _, controllers, path = line.split(":", 2)
        root = cgroups if not controllers else cgroups / "cpu"
        if controllers and "cpu" not in controllers.split(","):
            continue
        group = root / path.lstrip("/")
        # In a container the path may be that on the host, and the group's files lie at the root.
        for place in dict.fromkeys([group, *(p for p in group.parents if p.is_relative_to(root)), root]):
            least = min(least, _quota_of(place))
    return least


def _quota_of(group: Path) -> float:
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):  # not there, or "max"
        return math.inf
