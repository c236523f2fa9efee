"""Seconds per step and peak memory of synthetic DICOM series of n x 512 x 512, cold and resident.

    python benchmarks/scan_throughput.py [--slices 300] [--series 3] [--cores 2]
    python benchmarks/scan_throughput.py --slices 50 300 1500 --series 3 30 --cores 1 2 --runs 1

Cold: one process from start to outcome, imports and weights included. Resident: the second series of a process, and
those after it. Of several values every combination is a row. Run on a quiet machine; the medians of --runs are printed
and appended to nothing: copy them to RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import pydicom


def write_series(folder: Path, slices: int, count: int) -> None:
    """`count` studies of one phantom, each with UIDs of its own, so that none is a duplicate."""
    from covct.phantom.chest import make_phantom
    from covct.phantom.dicom import write_dicom_series

    phantom = make_phantom(slices=slices, seed=0)
    for index in range(count):
        uid = pydicom.uid.generate_uid(entropy_srcs=["benchmark", str(index)])
        write_dicom_series(phantom, folder / str(index), study_uid=uid, series_uid=f"{uid[:58]}.{index}")
        for number, path in enumerate(sorted((folder / str(index)).iterdir())):
            dataset = pydicom.dcmread(path)
            dataset.SOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[uid, str(number)])
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            dataset.save_as(path)


def scan(sources: list[Path], out: Path) -> tuple[float, float, list[dict]]:
    """Wall seconds and peak MiB of one `covct scan` process, and its events."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "covct", "scan", *map(str, sources), "--out", str(out), "--json", "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    output = process.stdout.read()
    _, code, usage = os.wait4(process.pid, 0)
    if code:
        raise SystemExit(f"covct scan ended with {os.waitstatus_to_exitcode(code)}")
    events = [json.loads(line) for line in output.splitlines()]
    return time.perf_counter() - start, usage.ru_maxrss / 1024, events


@dataclass
class Measured:
    """Of the runs with one number of slices, series and cores; `steps` a dict a series, as its report has it."""

    cold: list[float] = field(default_factory=list)
    resident: list[float] = field(default_factory=list)
    an_hour: list[float] = field(default_factory=list)
    peak_mib: list[float] = field(default_factory=list)
    rerun: list[float] = field(default_factory=list)
    steps: list[dict[str, float]] = field(default_factory=list)


def measure(folder: Path, slices: int, series: int, runs: int) -> Measured:
    found = Measured()
    write_series(folder / "in", slices, series)
    for run in range(runs):
        found.cold.append(scan([folder / "in" / "0"], folder / f"cold{run}")[0])
        out = folder / f"out{run}"
        whole, peak, events = scan([folder / "in"], out)
        done = [event for event in events if event["event"] == "done"]
        if len(done) < series:
            raise SystemExit(f"{len(done)} of {series} series of {slices} slices were done: a chest has 24 at least")
        found.resident += [event["seconds"] for event in done[1:]]
        found.an_hour.append(3600 * series / whole)
        found.peak_mib.append(peak)
        found.steps += [_timings(out / event["folder"]) for event in done[1:]]
        found.rerun.append(scan([folder / "in"], out)[0])
    return found


def _timings(folder: Path) -> dict[str, float]:
    timings: dict[str, float] = json.loads((folder / "report.json").read_text())["run"]["timings_s"]
    return timings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, nargs="+", default=[300])
    parser.add_argument("--series", type=int, nargs="+", default=[3], help="2 at least")
    parser.add_argument("--cores", type=int, nargs="+", help="of those this process may use; default: all of them")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to work: 0.5 MiB a slice")
    arguments = parser.parse_args()
    at_hand = sorted(os.sched_getaffinity(0))
    print(f"n x 512 x 512, {platform.processor() or platform.machine()}, medians of {arguments.runs}")
    print("| slices | series | cores | cold, s | resident, s | an hour, start to end | peak MiB | rerun, s |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    steps = []
    for slices, series, cores in product(arguments.slices, arguments.series, arguments.cores or [len(at_hand)]):
        os.sched_setaffinity(0, at_hand[:cores])  # the processes to be measured inherit it
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            found = measure(Path(name), slices, series, arguments.runs)
        columns = (found.cold, found.resident, found.an_hour, found.peak_mib, found.rerun)
        cold, resident, an_hour, peak, rerun = map(median, columns)
        row = f"{cold:.1f} | {resident:.1f} | {an_hour:.0f} | {peak:.0f} | {rerun:.2f}"
        print(f"| {slices} | {series} | {cores} | {row} |", flush=True)
        steps += found.steps
    print("\n| step | s |\n|---|---:|")
    for step in steps[0] if steps else ():
        print(f"| {step} | {median([one[step] for one in steps]):.2f} |")


def median(values: list[float]) -> float:
    return statistics.median(values) if values else float("nan")


if __name__ == "__main__":
    main()
