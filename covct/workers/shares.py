"""The machine divided among workers: a GPU each where there are GPUs, and its part of processors and memory."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from covct.errors import DeviceMissing, UsageError
from covct.networks.devices import Wish, visible_gpus
from covct.networks.processors import SHARE, processors_at_hand
from covct.pipeline.memory import BASE_MIB, MIB, at_hand_mib

GPU, MEMORY = "GPU", "MEMORY"  # Dask's resources: how many GPUs a worker has, and MiB of memory for its series
LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


@dataclass(frozen=True)
class Share:
    """What one worker has of its machine; `gpu` as CUDA_VISIBLE_DEVICES names it, empty where it has none."""

    processors: int
    memory_mib: float
    gpu: str = ""

    @property
    def environment(self) -> dict[str, str]:
        """No library starts more threads than the worker has processors."""
        threads = dict.fromkeys((*LIBRARIES, SHARE), str(self.processors))
        return {**threads, **({"CUDA_VISIBLE_DEVICES": self.gpu} if self.gpu else {})}

    @property
    def resources(self) -> dict[str, float]:
        """The tags that Dask knows a worker by."""
        return {MEMORY: round(self.memory_mib), **({GPU: 1.0} if self.gpu else {})}


def divide(
    workers: int,
    wish: Wish,
    runtime: str,
    memory_mib: float | None = None,
    require_gpu: bool = False,
    environment: Mapping[str, str] = os.environ,
) -> list[Share]:
    """The share of each worker.

    Raises
    ------
    UsageError
        There are not as many GPUs, or memory would not even hold the networks of each.
    DeviceMissing
        GPUs are required, and there are none.
    """
    gpus = [] if wish.kind == "cpu" else visible_gpus(environment)
    if not gpus and (require_gpu or wish.kind == "gpu"):
        raise DeviceMissing("GPUs are required for the workers, and the driver lists none")
    if wish.number is not None:
        raise UsageError(f"--device gpu:{wish.number} is one GPU; each worker is given one by itself: use --device gpu")
    if gpus and workers > len(gpus):
        has = "1 GPU" if len(gpus) == 1 else f"{len(gpus)} GPUs"
        raise UsageError(f"--workers {workers}: each has a GPU of its own, and there are {has}; or use --device cpu")
    memory = at_hand_mib() if memory_mib is None else memory_mib
    if memory < workers * BASE_MIB[runtime]:
        raise UsageError(
            f"--workers {workers}: networks and libraries take {BASE_MIB[runtime] / 1024:.1f} GiB in each; "
            f"{memory / 1024:.1f} GiB are at hand"
        )
    processors = max(1, processors_at_hand() // workers)
    return [Share(processors, memory / workers, gpu) for gpu in (gpus or [""] * workers)[:workers]]


def nanny_options(share: Share, name: object) -> dict[str, Any]:
    """A worker process as Dask's `Nanny` starts it, and starts it again when it dies. Its memory is counted by covct,
    series by series, before they are read."""
    return {
        "name": name,
        "nthreads": 1,
        "memory_limit": 0,
        "resources": share.resources,
        "env": share.environment,
        "local_directory": tempfile.gettempdir(),
        "preload": ["covct.workers.at_work"],
        "dashboard": False,
        "dashboard_address": None,
        "silence_logs": logging.CRITICAL,
    }


def series_mib(worker: Mapping[str, Any]) -> float:
    """Memory that a series may take in a worker, by the scheduler's description; no limit where that has none."""
    told = worker["resources"].get(MEMORY) or worker["memory_limit"] / MIB
    return float(told) or float("inf")
