"""The processors that this process may use, and what they can do."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

from covct.networks.control_groups import CGROUPS, PROC, control_groups

# What CPUs call native arithmetic in bfloat16 (/proc/cpuinfo): vectors, and tiles. Without either it is emulated.
BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}


SHARE = "COVCT_PROCESSORS"  # of a worker among others of its machine: how many are its own


def processors_at_hand(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """How many: those of this process's affinity, or fewer where a control group (docker run --cpus) allows less time,
    or where others of covct have their share of them.

    More threads than that only wait for each other.
    """
    quotas = map(_quota_of, control_groups("cpu", proc, cgroups))
    share = os.environ.get(SHARE, "")
    shares = [int(share)] if share.isdecimal() else []
    return max(1, math.ceil(min([len(os.sched_getaffinity(0)), *shares, *quotas])))


def adds_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether every processor computes in bfloat16 by itself."""
    try:
        flags = re.findall(r"^flags\s*:(.*)$", cpuinfo.read_text(), re.MULTILINE)
    except OSError:
        return False
    return bool(flags) and all(BFLOAT16_FLAGS & set(line.split()) for line in flags)


def _quota_of(group: Path) -> float:
    """Processors' worth of time that a control group allows, of either version."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):  # not there, or "max"
        return math.inf
