"""Resident memory and seconds by step of one large series, as `covct scan` does it.

    python benchmarks/memory.py [--slices 1500] [--size 768] [--formats seg,sr,png] [--device cpu] [--keep DIR]

The default is 1500 x 768 x 768 with the shipped weights: bar 4096 MiB. On a GPU it is the same command with
`--device gpu`. The phantom is drawn with a fifth of the slices and each is written five times, a fifth of a step apart:
memory and time do not depend on what a slice shows. `--keep DIR` leaves series and results there and takes a series
that is there already.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from pydicom.uid import generate_uid

REPEATED = 5
MIB = 1024**2


def write_series(folder: Path, slices: int, size: int, lesions: str) -> None:
    """A series of `slices` x `size` x `size`, uncompressed, one file a slice."""
    from covct.dicom.ct_series import Storage, write_ct_series
    from covct.phantom.chest import make_phantom
    from covct.phantom.dicom import series_header

    phantom = make_phantom(slices=max(1, slices // REPEATED), rows=size, columns=size, lesions=lesions)
    volume = phantom.volume
    affine = volume.affine.copy()
    affine[:3, 0] /= REPEATED
    order = np.repeat(np.arange(len(volume.array)), REPEATED)[:slices]
    study, series, frame = (generate_uid(entropy_srcs=["covct benchmark", name]) for name in ("study", "series", "f"))
    write_ct_series(
        folder,
        _Repeated(volume.array, order),
        affine,
        series_header("HFS", study, series, frame),
        lambda number: generate_uid(entropy_srcs=[series, str(number)]),
        Storage(),
    )


class _Repeated:
    """An array of slices some of which come again; not one of them is copied."""

    def __init__(self, array: np.ndarray, order: np.ndarray):
        self.array, self.order = array, order
        self.shape = (len(order), *array.shape[1:])

    def __iter__(self):
        return (self.array[index] for index in self.order)


def scan(
    source: Path, out: Path, formats: str, device: str, more: list[str]
) -> tuple[dict[str, int], int, dict, float]:
    """MiB by step as sampled every 20 ms, the kernel's own peak, the report, and seconds from start to end."""
    shutil.rmtree(out, ignore_errors=True)
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "covct", "scan", str(source), "--out", str(out), "--json", "--device", device,
         "--formats", formats, *more],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    now = {"step": "start"}

    def listen() -> None:
        assert process.stdout
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "step":
                now["step"] = event["step"]
            elif event["event"] in ("rejected", "failed", "problem"):
                print(line, end="", file=sys.stderr)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    peaks: dict[str, int] = {}
    while True:
        done, code, usage = os.wait4(process.pid, os.WNOHANG)
        if done:
            break
        peaks[now["step"]] = max(peaks.get(now["step"], 0), _resident_mib(process.pid))
        time.sleep(0.02)
    listener.join()
    reports = list(out.glob("*/*/report.json"))
    if code or not reports:
        raise SystemExit(f"covct scan ended with {os.waitstatus_to_exitcode(code)}")
    report = json.loads(reports[0].read_text())
    return peaks, usage.ru_maxrss // 1024, report, time.perf_counter() - start


def _resident_mib(pid: int) -> int:
    """Of a process and of those that it started, which do the work."""
    try:
        own = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // MIB
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (OSError, IndexError):  # it has just ended
        return 0
    return own + sum(_resident_mib(int(child)) for child in children)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=1500)
    parser.add_argument("--size", type=int, default=768)
    parser.add_argument("--lesions", default="moderate")
    parser.add_argument("--formats", default="seg,sr,png")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--keep", type=Path)
    arguments, more = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        source = folder / f"{arguments.slices}x{arguments.size}-{arguments.lesions}"
        if not source.exists():
            write_series(source, arguments.slices, arguments.size, arguments.lesions)
        peaks, peak, report, seconds = scan(source, folder / "out", arguments.formats, arguments.device, more)
    print(f"{arguments.slices} x {arguments.size} x {arguments.size}, {arguments.formats}, {report['run']['device']}")
    print("| step | s | peak MiB |\n|---|---|---|")
    for step, resident in peaks.items():
        print(f"| {step} | {report['run']['timings_s'].get(step, float('nan')):.1f} | {resident} |")
    print(f"| whole process | {seconds:.1f} | {peak} |")


if __name__ == "__main__":
    main()
