"""Seconds from SIGTERM to the end of `covct scan` with the real networks, at moments all over a series.

    python benchmarks/stopping.py [SECONDS_AFTER_START ...]

Each line: when the signal came, the last step told by then, seconds to the end, exit code, notes of attempts left.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from covct.phantom.chest import make_phantom
from covct.phantom.dicom import write_dicom_series


def stopped_after(seconds: float, source: Path, out: Path) -> tuple[str, float, int, int]:
    told = out.with_suffix(".events")
    with open(told, "w") as events:
        command = [sys.executable, "-m", "covct", "scan", source, "--out", out, "--json"]
        process = subprocess.Popen(command, stdout=events, stderr=subprocess.DEVNULL, env=os.environ)
        time.sleep(seconds)
        before = [json.loads(line) for line in told.read_text().splitlines()]
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        took = time.monotonic() - begun
    attempts = len(list((out / ".covct" / "attempts").glob("*.json")))
    last = before[-1].get("step") or before[-1]["event"] if before else "starting"
    return last, took, process.returncode, attempts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    moments = [0.5, 1, 2, 4, 6, 8, 10, 12, 15, 20, 30]
    parser.add_argument("seconds", type=float, nargs="*", default=moments, help="after the start")
    moments = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as folder:
        made = make_phantom(slices=120, slice_spacing_mm=None, lesions="moderate", seed=1)
        write_dicom_series(made, Path(folder) / "in")
        for number, moment in enumerate(moments):
            last, took, code, attempts = stopped_after(moment, Path(folder) / "in", Path(folder) / f"out{number}")
            print(f"{moment:5.1f} s  {last:12}  {took:5.2f} s  exit {code}  attempts left {attempts}", flush=True)
