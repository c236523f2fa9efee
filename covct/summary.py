"""Every outcome of an output tree as summary.csv and index.html. Standard library only."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from covct import RESEARCH_USE
from covct.page import as_html
from covct.results import VALID_FOR, Entry, damaged, read_tree, worst_first


def write_summary(out: Path, written: datetime | None = None) -> list[Entry]:
    """Write OUT/summary.csv and OUT/index.html, each whole or not at all.

    Parameters
    ----------
    out : Path
        The output tree.
    written : datetime, optional
        The time the page shows; now, in local time, by default.

    Returns
    -------
    list of Entry
        Worst first.

    Raises
    ------
    OSError
        Where the files cannot be written. Damaged results do not raise: they are listed as failed.
    """
    written = written or datetime.now().astimezone()
    entries = worst_first(read_tree(out))
    try:
        table, page = as_csv(entries), as_html(entries, written)
    except Exception:  # one of them breaks it: which?
        entries = worst_first(_showable(entry, written) for entry in entries)
        table, page = as_csv(entries), as_html(entries, written)
    _replace(out / "summary.csv", table)
    _replace(out / "index.html", page)
    return entries


def _showable(entry: Entry, written: datetime) -> Entry:
    """The entry, or what stands for it where it breaks table or page: the others are shown all the same."""
    try:
        as_csv([entry])
        as_html([entry], written)
        return entry
    except Exception as error:
        return damaged(entry.folder, error)


def as_csv(entries: Iterable[Entry]) -> str:
    """One row a series, a header row first; an empty cell where there is no figure."""
    out = io.StringIO()
    rows = [_csv_row(entry) for entry in entries]
    writer = csv.DictWriter(out, list(rows[0] if rows else _csv_row(Entry("", "done"))), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return out.getvalue()


def _csv_row(entry: Entry) -> dict[str, str | float | None]:
    valid_for = dict(entry.valid_for)
    return {
        "study_instance_uid": entry.study_instance_uid,
        "series_instance_uid": entry.series_instance_uid,
        "status": entry.status,
        "slug": entry.slug,
        "message": entry.message,
        "lungs_volume_ml": entry.lungs_ml,
        "infection_ml": entry.infection_ml,
        "infection_ml_low": _end(entry.infection_interval, 0),
        "infection_ml_high": _end(entry.infection_interval, 1),
        "infection_percent": entry.infection_percent,
        "infection_percent_low": _end(entry.percent_interval, 0),
        "infection_percent_high": _end(entry.percent_interval, 1),
        "low_confidence": {True: "yes", False: "no", None: ""}[entry.low_confidence],
        "infection_percent_right": entry.right_percent,
        "infection_percent_left": entry.left_percent,
        "ground_glass_ml": entry.ground_glass_ml,
        "consolidation_ml": entry.consolidation_ml,
        "severity_class": entry.severity_class,
        **{f"valid_for_{name}": {True: "yes", False: "no", None: ""}[valid_for.get(name)] for name in VALID_FOR},
        "warnings": ";".join(slug for slug, _ in entry.warnings),
        "seconds": entry.seconds,
        "covct_version": entry.covct_version,
        "finished": entry.finished,
        "overlay": f"{entry.folder}/overlay.png" if "overlay.png" in entry.files else "",
        "folder": entry.folder,
        "source": entry.source,
        "research_use": RESEARCH_USE,
    }


def _end(interval: tuple[float, float] | None, which: int) -> float | None:
    return interval[which] if interval else None


def _cell(value: str | float | None) -> str | float | None:
    """A value as a spreadsheet may open it: text that would be run as a formula gets an apostrophe in front.

    After a semicolon too, where spreadsheets of half of Europe begin a new cell.
    """
    if isinstance(value, str):
        return re.sub(r"(^|;)(\s*)(?=[=+\-@\uff1d\uff0b\uff0d\uff20])", r"\1\2'", value)
    return round(value, 3) if isinstance(value, float) else value


def _replace(path: Path, content: str) -> None:
    """Write beside and rename: a reader, or a crash, never meets half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode("utf-8", "replace"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
