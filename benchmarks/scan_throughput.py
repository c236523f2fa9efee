"""Seconds per step and peak memory of a synthetic 300 x 512 x 512 DICOM series, cold and resident.

Cold: one process from start to outcome, imports and weights included. Resident: the second series of a process.
Run on a quiet machine; the medians of --runs are printed as a table and appended to nothing: copy them to RESULTS.md.
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    cold, resident, memory, steps, rerun = [], [], [], [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_series(folder / "in", arguments.slices, 3)
        for run in range(arguments.runs):
            seconds, _, _ = scan([folder / "in" / "0"], folder / f"cold{run}")
            cold.append(seconds)
            out = folder / f"out{run}"
            _, peak, events = scan([folder / "in"], out)
            done = [event["seconds"] for event in events if event["event"] == "done"]
            resident += done[1:]
            memory.append(peak)
            for event in [event for event in events if event["event"] == "done"][1:]:
                steps.append(json.loads((out / event["folder"] / "report.json").read_text())["run"]["timings_s"])
            rerun.append(scan([folder / "in"], out)[0])
    print(
        f"{arguments.slices} x 512 x 512, {os.cpu_count()} cores, {platform.processor() or platform.machine()}, medians"
    )
    print(f"cold, start to outcome     {statistics.median(cold):7.1f} s")
    print(f"resident, one series       {statistics.median(resident):7.1f} s")
    print(f"series an hour, resident   {3600 / statistics.median(resident):7.0f}")
    print(f"peak RSS                   {statistics.median(memory):7.0f} MiB")
    print(f"rerun, nothing to do       {statistics.median(rerun):7.2f} s (3 series)")
    for step in steps[0]:
        print(f"  {step:24} {statistics.median(s[step] for s in steps):7.2f} s")


if __name__ == "__main__":
    main()
