"""What a call costs, measured in a child of its own: the kernel's peak of resident memory, and the processors' time."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MIB = 1024**2


@dataclass(frozen=True)
class Cost:
    """MiB beyond what the process held before, seconds of all its threads, and what the call said."""

    mib: float
    cpu_s: float
    said: str


def cost(call: Callable[[], object], limit_mib: int = 1024, seconds: int = 120) -> Cost:
    """Call in a forked child that gets no more memory than this, and is killed after so many seconds of computing.

    Raises
    ------
    AssertionError
        The child died: killed, starved or crashed.
    """
    ears, mouth = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(ears)
            os.write(mouth, json.dumps(_measured(call, limit_mib, seconds)).encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(mouth)
    with open(ears, "rb") as stream:
        told = stream.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0, f"the call ended its process: {status}"
    return Cost(*json.loads(told))


def _measured(call: Callable[[], object], limit_mib: int, seconds: int) -> tuple[float, float, str]:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ceiling = status("VmSize") + limit_mib * MIB
    resource.setrlimit(resource.RLIMIT_AS, (ceiling, ceiling))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before is not to be taken again unseen
    Path("/proc/self/clear_refs").write_text("5")  # the high water mark begins anew
    before, of_files, start = status("VmRSS"), status("RssFile"), time.process_time()
    said = str(call())[:1000]
    touched = max(0, status("RssFile") - of_files)  # libraries: a forked child maps their pages anew
    return (status("VmHWM") - before - touched) / MIB, time.process_time() - start, said


def status(name: str) -> int:
    """Bytes, by the kernel's name for them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
