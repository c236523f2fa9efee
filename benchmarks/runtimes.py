"""TensorFlow and OpenVINO on the same scans: masks beside each other, seconds in turn, and a cold scan's peak memory.

Masks: Dice of lungs and infection, and the burden of both, of every series below the sources that can be segmented.
Seconds: of both networks with all that is computed around them, A B A B in one process. Peak: VmHWM of a process that
scans one series. For --weights in other folders: `covct export openvino` first.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from covct.commands.quiet import quiet_tensorflow
from covct.disk.sources import Problem
from covct.errors import SeriesError
from covct.intake.discover import discover
from covct.networks.cards import default_weights_folder
from covct.networks.converted import load_converted_networks
from covct.networks.network import Networks
from covct.pipeline.burden import measure_burden
from covct.pipeline.memory import at_hand_mib
from covct.pipeline.series import read, segment
from covct.voxels.labels import Labels
from covct.voxels.volume import Scan, voxel_volume_mm3


def scans(sources: list[Path]) -> Iterator[tuple[str, Scan]]:
    found = discover(tuple(sources))
    for problem in found.problems:
        assert isinstance(problem, Problem)
        print(f"not read: {problem.message}", file=sys.stderr)
    for series in found.series:
        try:
            yield series.series_uid or str(series.path), read(series, at_hand_mib())
        except SeriesError as error:
            print(f"not read: {error.message}", file=sys.stderr)


def dice(one: np.ndarray, other: np.ndarray) -> float:
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else 1.0


def burden(scan: Scan, labels: Labels) -> float | None:
    volume = scan.working
    found = measure_burden(volume.array, labels.lungs, labels.infection, voxel_volume_mm3(volume))
    return found["lungs"].infection_percent


def compare(name: str, scan: Scan, runtimes: dict[str, Networks], rounds: int) -> None:
    """A row of the table: what the two say of a scan, and how long each took, in turn."""
    seconds: dict[str, list[float]] = {runtime: [] for runtime in runtimes}
    labels = {}
    for _ in range(rounds):
        for runtime, networks in runtimes.items():
            start = time.perf_counter()
            labels[runtime] = segment(networks, scan)
            seconds[runtime].append(time.perf_counter() - start)
    a, b = (labels[runtime] for runtime in runtimes)
    lungs = dice(np.stack(list(a.lungs)) > 0, np.stack(list(b.lungs)) > 0)
    infection = dice(np.stack(list(a.infection)) > 0, np.stack(list(b.infection)) > 0)
    percent = [f"{share:.3f}" if share is not None else "–" for share in (burden(scan, a), burden(scan, b))]
    took = [f"{statistics.median(seconds[runtime]):.1f}" for runtime in runtimes]
    print(
        f"| {name[-24:]} | {len(scan.working.array)} | {lungs:.5f} | {infection:.5f} | {' | '.join(percent + took)} |"
    )


def peak_mib(source: Path, runtime: str) -> float:
    """Of a process that scans one series, from start to end."""
    with tempfile.TemporaryDirectory() as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "covct", "scan", source, "-o", out, "--device=cpu", f"--runtime={runtime}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        _, code, usage = os.wait4(process.pid, 0)
    if code:
        raise SystemExit(f"covct scan ended with {os.waitstatus_to_exitcode(code)}")
    return usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", type=Path, nargs="+")
    parser.add_argument("--weights", type=Path, default=default_weights_folder())
    parser.add_argument("--rounds", type=int, default=1, help="times that each runtime computes each scan")
    parser.add_argument("--peak", type=Path, help="a series to scan cold with either runtime")
    arguments = parser.parse_args()
    if arguments.peak:  # before this process grows: a child's peak is never below its parent's size
        for runtime in ("tensorflow", "openvino") * 2:
            print(f"peak of a cold scan, {runtime}: {peak_mib(arguments.peak, runtime):.0f} MiB", flush=True)
    with quiet_tensorflow():
        from covct.networks.segment import load_keras_networks

        runtimes = {
            "tensorflow": load_keras_networks(arguments.weights),
            "openvino": load_converted_networks(arguments.weights),
        }
    print(", ".join(networks.used().name for networks in runtimes.values()))
    print("| series | slices | Dice lungs | Dice infection | % tensorflow | % openvino | s tensorflow | s openvino |")
    print("|---|---|---|---|---|---|---|---|")
    for name, scan in scans(arguments.sources):
        try:
            compare(name, scan, runtimes, arguments.rounds)
        except SeriesError as error:
            print(f"not segmented: {error.message}", file=sys.stderr)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
