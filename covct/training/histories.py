"""What is left to look at of a training, by epoch: CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from covct.disk.durable import output_errors, replace_file


def plain(value: Any) -> Any:
    """As it comes back from JSON: lists for tuples, texts for keys."""
    return json.loads(json.dumps(value, default=float))


def write(out: Path, task: str, history: dict[str, list[float]]) -> None:
    """`out`/TASK.csv, a line an epoch, and `out`/TASK-history.json. Both whole, also where the writing is cut off."""
    table = io.StringIO()
    lines = csv.writer(table, lineterminator="\n")
    lines.writerow(["epoch", *history])
    lines.writerows([number, *row] for number, row in enumerate(zip(*history.values(), strict=True), 1))
    with output_errors(out):
        replace_file(out / f"{task}.csv", table.getvalue(), to_disk=False)
        replace_file(out / f"{task}-history.json", json.dumps(history, indent=1) + "\n", to_disk=False)
