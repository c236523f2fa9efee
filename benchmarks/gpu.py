"""A host with an NVIDIA GPU, in one command: series a second, how much of the time the GPU computes, and memory.

    python benchmarks/gpu.py [--series 20] [--slices 300] [--backends tensorflow,jax] [--precisions float32,bfloat16]

Each backend and precision is one `covct scan --require-gpu` over the same series, with everything that a night has:
attempts, stages, commits, SEG, SR, report and overlay. Counted from the first series' end to the last one's, so that
imports and compiling stay out. The GPU is asked five times a second (nvidia-smi) whether it computes, and for its
memory. bfloat16 is keras' policy "mixed_bfloat16" around covct's own networks: covct has no option for it. --folder:
where to work, on the disk that is to be measured. Without a GPU nothing is measured, and the exit code is 13.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from scan_throughput import write_series

NO_GPU = 13  # as covct itself ends where a GPU is required and absent
PRECISIONS = ("float32", "bfloat16")
PROGRAM = """
import sys
from covct import cli
from covct.commands import scan

precision = sys.argv.pop(1)
networks_of = scan.networks_of


def in_precision(*arguments):
    load = networks_of(*arguments)

    def loaded():
        import keras

        keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else "float32")
        return load()

    return loaded


scan.networks_of = in_precision
cli.app()
"""


def ask_gpu() -> list[tuple[str, float, float]]:
    """Name, percent of the last moments in which it computed, and MiB in use of each GPU; none where there is none."""
    if not shutil.which("nvidia-smi"):
        return []
    asked = ["nvidia-smi", "--query-gpu=name,utilization.gpu,memory.used", "--format=csv,noheader,nounits"]
    said = subprocess.run(asked, capture_output=True, text=True, check=False)
    rows = [line.split(", ") for line in said.stdout.splitlines()] if said.returncode == 0 else []
    return [(name, _number(busy), _number(mib)) for name, busy, mib in rows]


def _number(told: str) -> float:
    """NaN where the driver does not say, as with parts of a GPU."""
    try:
        return float(told)
    except ValueError:
        return float("nan")


class Watched:
    """What the first GPU did while this context was open: (second, percent, MiB) five times a second."""

    def __enter__(self) -> Watched:
        self.samples: list[tuple[float, float, float]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.2):
            for _, busy, mib in ask_gpu()[:1]:
                self.samples.append((time.perf_counter(), busy, mib))


def measure(source: Path, out: Path, backend: str, precision: str) -> None:
    """A row of the table."""
    command = [sys.executable, "-c", PROGRAM, precision, "scan", source, "-o", out, "--json", "--require-gpu"]
    ends: list[float] = []
    device = ""
    with Watched() as watched:
        process = subprocess.Popen(
            [*map(str, command), "--runtime", "tensorflow"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, env={**os.environ, "KERAS_BACKEND": backend},
        )  # fmt: skip
        assert process.stdout
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "done":
                ends.append(time.perf_counter())
                device = json.loads((out / event["folder"] / "report.json").read_text())["run"]["device"]["name"]
        _, code, usage = os.wait4(process.pid, 0)
    if code or len(ends) < 2:
        print(f"| {backend} | {precision} | ended with {os.waitstatus_to_exitcode(code)} | | | | |", flush=True)
        return
    held = [(busy, mib) for second, busy, mib in watched.samples if ends[0] <= second <= ends[-1]]
    shares = [share for share, _ in held if share == share]
    busy = statistics.mean(shares) if shares else float("nan")
    most = max((mib for _, mib in held), default=float("nan"))
    rate = (len(ends) - 1) / (ends[-1] - ends[0])
    resident = usage.ru_maxrss / 1024
    print(f"| {backend} | {precision} | {device} | {rate:.2f} | {busy:.0f} | {most:.0f} | {resident:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=20)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--backends", default="tensorflow,jax")
    parser.add_argument("--precisions", default=",".join(PRECISIONS))
    parser.add_argument("--folder", type=Path, help="where to work")
    arguments = parser.parse_args()
    gpus = ask_gpu()
    if not gpus:
        print(
            "no GPU is at hand (nvidia-smi names none): nothing was measured, and nothing is claimed", file=sys.stderr
        )
        raise SystemExit(NO_GPU)
    print(f"{', '.join(name for name, *_ in gpus)}; {arguments.series} series of {arguments.slices} x 512 x 512, "
          f"{len(os.sched_getaffinity(0))} cores")  # fmt: skip
    print("| backend | precision | device | series/s | GPU computes, % | GPU MiB | process MiB |")
    print("|---|---|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        write_series(folder / "in", arguments.slices, arguments.series)
        for backend in arguments.backends.split(","):
            if not importlib.util.find_spec(backend):
                print(f"| {backend} | | is not installed | | | | |")
                continue
            for precision in arguments.precisions.split(","):
                measure(folder / "in", folder / f"{backend}-{precision}", backend, precision)


if __name__ == "__main__":
    main()
