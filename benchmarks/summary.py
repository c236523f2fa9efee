"""Seconds to write summary.csv and index.html of a large output tree: from all results, and with one more.

The results are copies of one report; made here, since segmenting 10,000 series would take days. Copy the table to
RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.example_report import example_report  # noqa: E402


def write_result(out: Path, number: int) -> str:
    """A done result with a whole report. Returns its folder."""
    folder = f"1.2.3.{number}/1.2.3.{number}.1"
    (out / folder).mkdir(parents=True)
    report = example_report(regions__lungs__infection_percent=float(number % 100), severity__class=1 + number % 5)
    study, series = folder.split("/")
    outcome = {
        "status": "done", "work_key": f"{number:064}", "files": {"report.json": "0" * 64, "overlay.png": "0" * 64},
        "covct_version": "0", "finished": "2026-01-31T22:00:00+00:00", "seconds": 12.0,
        "study_instance_uid": study, "series_instance_uid": series,
    }  # fmt: skip
    (out / folder / "report.json").write_text(json.dumps(report))
    (out / folder / "outcome.json").write_text(json.dumps(outcome))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="where to work; on the file system to be measured")
    arguments = parser.parse_args()
    from covct.results.summary import Summary, write_summary
    from covct.unattended.status import tree_status

    def timed(what: str, function) -> None:
        start, used = time.perf_counter(), time.process_time()
        function()
        wall, cpu = time.perf_counter() - start, time.process_time() - used
        print(f"{what:44} {wall:8.3f} s {cpu:8.3f} s CPU", flush=True)

    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        out = Path(name)
        for number in range(arguments.results):
            write_result(out, number)
        timed(f"{arguments.results} results, all read", lambda: write_summary(out))
        timed("covct status", lambda: tree_status(out, datetime.now(UTC)))
        summary = Summary(out)
        timed("first pass of a run: all read", summary.write)
        one = write_result(out, arguments.results)
        timed("next pass: one more", lambda: summary.write([one]))
        timed("next pass: one replaced", lambda: summary.write([one]))


if __name__ == "__main__":
    main()
