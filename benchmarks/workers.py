"""Many workers on one output tree: seconds, efficiency and what the coordinator adds to each series.

    python benchmarks/workers.py [--series 200] [--workers 0 1 2 4] [--folder DIR]
    python benchmarks/workers.py --real SOURCE [--workers 0 1 2]

Series of 4 slices with networks that are thresholds, so that nearly all is overhead; or, with --real, whatever lies in
SOURCE with the shipped networks. 0 workers: the one process. Start-up is counted by itself: from the program's start to
the first result; the rest is divided among the results after the first. Processor milliseconds are of the coordinator,
and of it with all workers: on a busy machine only these say much, and what the latter has more than the single process
is what workers cost. The trees of all rows are compared byte for byte, but for the moments in outcomes and reports.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parent.parent / "tests"
HOLD_TIMES = ("outcome.json", "report.json")
# Another process than this one: scan.networks_of is replaced before the command line is read.
PROGRAM = """
import sys
from datetime import UTC, datetime
from covct import cli
from covct.commands import scan
from support import teams
if __name__ == "__main__":
    scan.networks_of = lambda *_: teams.at_one_moment
    teams.at_one_moment()
    cli.main()
"""


@dataclass(frozen=True)
class Row:
    workers: int
    start_s: float
    each_s: float
    series: int
    coordinator_ms: float
    all_ms: float
    tree: str


def sources(folder: Path, series: int) -> Path:
    """As many studies of a tiny phantom, each somebody else's."""
    import pydicom

    from covct.phantom.chest import make_phantom
    from covct.phantom.dicom import write_dicom_series
    from support.series import anew, each_slice

    phantom = make_phantom(
        slices=30, rows=64, columns=64, slice_spacing_mm=None, pixel_spacing_mm=(6.0, 6.0), lesions="severe", seed=1
    )
    write_dicom_series(phantom, folder / "chest")
    for number, path in enumerate(sorted((folder / "chest").iterdir())):
        if not 12 <= number < 16:
            path.unlink()
    with pydicom.config.disable_value_validation():
        for study in range(1, series + 1):
            one = Path(shutil.copytree(folder / "chest", folder / "in" / str(study)))
            for dataset in each_slice(anew(one, f"1.2.{study}.1")):
                dataset.StudyInstanceUID, dataset.PatientID = f"1.2.{study}", f"P{study}"
    return folder / "in"


def measured(source: Path, out: Path, weights: Path | None, workers: int, base: Path, formats: str) -> Row:
    """One scan, from nothing."""
    program, options = [sys.executable, "-m", "covct"], []
    if weights:
        script = base / "covct_of_thresholds.py"
        script.write_text(PROGRAM)
        program, options = [sys.executable, str(script)], ["--weights", str(weights), "--formats", formats]
    options += ["--workers", str(workers)] if workers else []
    start = time.monotonic()
    process = subprocess.Popen(
        [*program, "scan", str(source), "-o", str(out), "--json", "--device", "cpu", *options],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    ends = []
    for line in process.stdout:
        if json.loads(line)["event"] == "done":
            [child] = _children(process.pid)
            ends.append((time.monotonic(), _cpu_s(child), _cpu_s(child) + sum(map(_cpu_s, _below(child)))))
    if process.wait():
        raise SystemExit(f"covct scan ended with {process.returncode}")
    (first, *before), (last, *after) = ends[0], ends[-1]
    more = max(1, len(ends) - 1)
    own, everyone = ((now - then) * 1000 / more for then, now in zip(before, after, strict=True))
    return Row(workers, first - start, (last - first) / more, len(ends), own, everyone, digest(out))


def _below(process: int) -> list[int]:
    children = _children(process)
    return children + [one for child in children for one in _below(child)]


def _children(process: int) -> list[int]:
    """Of whichever of its threads."""
    found = []
    for thread in Path(f"/proc/{process}/task").glob("*/children"):
        found += [int(one) for one in thread.read_text().split()]
    return found


def _cpu_s(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def digest(out: Path) -> str:
    """Of every file of every result that holds no moment."""
    digest = hashlib.sha256()
    for path in sorted(out.glob("[!.]*/*/*")):
        if path.name not in HOLD_TIMES:
            digest.update(f"{path.relative_to(out)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:12]


def show(rows: list[Row], real: bool) -> None:
    print("| workers | first result s | series | s a series | speed-up | coordinator ms | all processes ms | tree |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        tree = row.tree if real else ("the same" if row.tree == rows[0].tree else "OTHER")
        print(
            f"| {row.workers or 'none'} | {row.start_s:.1f} | {row.series} | {row.each_s:.3f} | "
            f"{rows[0].each_s / row.each_s:.2f} | {row.coordinator_ms:.0f} | {row.all_ms:.0f} | {tree} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--series", type=int, default=200)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--real", type=Path, help="scans to work on with the shipped networks")
    parser.add_argument("--formats", default="none", help="of the tiny series; default: the report alone")
    parser.add_argument("--folder", type=Path, help="where to work; on the file system to be tried")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="covct-workers-") as name:
        base, weights = Path(name), None
        if not arguments.real:
            from support.thresholds import make_weights

            weights = make_weights(base / "weights")
        source = arguments.real or sources(base, arguments.series)
        rows = [measured(source, base / f"out-{n}", weights, n, base, arguments.formats) for n in arguments.workers]
    show(rows, bool(arguments.real))


if __name__ == "__main__":
    sys.path[:0] = [str(TESTS.parent), str(TESTS)]
    main()
