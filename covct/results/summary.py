"""Every outcome of an output tree as summary.csv and index.html."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from covct import RESEARCH_USE
from covct.disk.durable import replace_file
from covct.results.entries import Entry, damaged, read_entry, read_tree, worst_first
from covct.results.identifiers import with_identifiers
from covct.results.page import OVERLAY, SHOWS_IDENTIFIERS, THUMBNAIL, as_html
from covct.terms import FIGURES, LOBES, VALID_FOR, Figure
from covct.visible import cell

HEAD_BYTES = 4096  # of the page; what it says of itself stands before its stylesheet


def write_summary(out: Path, written: datetime | None = None, *, identifiers: bool = False) -> list[Entry]:
    """Write OUT/summary.csv and OUT/index.html, each whole or not at all.

    Parameters
    ----------
    out : Path
        The output tree.
    written : datetime, optional
        The time the page shows; now, in local time, by default.
    identifiers : bool
        The page shows what the archive knows the studies by; the table never does.

    Returns
    -------
    list of Entry
        Worst first.

    Raises
    ------
    OSError
        Where the files cannot be written. Damaged results do not raise: they are listed as failed.
    """
    return Summary(out, identifiers=identifiers).write(written=written)


@dataclass(frozen=True)
class _Shown:
    """A result as it is shown; `mark` changes with it."""

    entry: Entry
    row: str
    mark: tuple[int, ...]


class Summary:
    """The table and the page of a run that writes them again and again: what has not changed is not read again.

    What is read: everything at first; then the results that are told of, and those whose `outcome.json` is another one
    or gone. A watch over ten thousand results that does one more looks at the others, but opens none.
    """

    def __init__(self, out: Path, *, identifiers: bool = False):
        self._out, self._identifiers = out, identifiers
        self._shown: dict[str, _Shown] | None = None

    def write(self, touched: Iterable[str] = (), written: datetime | None = None) -> list[Entry]:
        """Write both files, each whole or not at all, as `write_summary` does.

        Parameters
        ----------
        touched : iterable of str
            Folders that got a result since the last time.
        """
        written = written or datetime.now().astimezone()
        shown = self._seen(touched)
        entries = worst_first(one.entry for one in shown.values())
        try:
            page = as_html(entries, written, identifiers=self._identifiers)
        except Exception:  # one of them breaks it: which?
            shown = {folder: _fit(one, written) for folder, one in shown.items()}
            entries = worst_first(one.entry for one in shown.values())
            page = as_html(entries, written, identifiers=self._identifiers)
        self._shown = shown
        rows = _header() + "".join(shown[entry.folder].row for entry in entries)
        replace_file(self._out / "summary.csv", rows.encode("utf-8", "replace"))
        replace_file(self._out / "index.html", page.encode("utf-8", "replace"))
        return entries

    def refresh(self) -> None:
        """Write both files again where the page shows identifiers and should not, or the other way round."""
        shows = page_shows_identifiers(self._out)
        if shows is not None and shows != self._identifiers:
            self.write()

    def _seen(self, touched: Iterable[str]) -> dict[str, _Shown]:
        if self._shown is None:
            return {entry.folder: self._show(entry) for entry in read_tree(self._out)}
        known = dict(self._shown)
        marks = {folder: _mark(self._out, folder) for folder in known.keys() | set(touched)}
        changed = {folder for folder, mark in marks.items() if folder not in known or known[folder].mark != mark}
        changed |= {folder for folder, one in known.items() if one.entry.since.prior in changed}  # which says of that
        for folder in changed:
            known.pop(folder, None)
            if marks[folder] and (entry := read_entry(self._out / folder)):
                known[folder] = self._show(entry, marks[folder])
        return known

    def _show(self, entry: Entry, mark: tuple[int, ...] | None = None) -> _Shown:
        mark = _mark(self._out, entry.folder) if mark is None else mark
        return _show(with_identifiers(self._out, entry) if self._identifiers else entry, mark)


def page_shows_identifiers(out: Path) -> bool | None:
    """What the page says of itself; None where there is none."""
    try:
        with open(out / "index.html", "rb") as file:
            return SHOWS_IDENTIFIERS.encode() in file.read(HEAD_BYTES)
    except OSError:
        return None


def _mark(out: Path, folder: str) -> tuple[int, ...]:
    """Another one for another `outcome.json`; empty where there is none."""
    try:
        found = os.stat(out / folder / "outcome.json")
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _show(entry: Entry, mark: tuple[int, ...]) -> _Shown:
    """The entry with its row, or what stands for it where it breaks that: the others are shown all the same."""
    try:
        return _Shown(entry, _lines([_csv_row(entry)]), mark)
    except Exception as error:
        instead = damaged(entry.folder, error)
        return _Shown(instead, _lines([_csv_row(instead)]), mark)


def _fit(shown: _Shown, written: datetime) -> _Shown:
    """The same where the page can show it."""
    try:
        as_html([shown.entry], written)
        return shown
    except Exception as error:
        return _show(damaged(shown.entry.folder, error), shown.mark)


def _header() -> str:
    names = list(_csv_row(Entry("", "done")))
    return _lines([dict(zip(names, names, strict=True))])


def _lines(rows: Iterable[dict[str, Any]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([cell(value) for value in row.values()] for row in rows)
    return out.getvalue()


def _csv_row(entry: Entry) -> dict[str, str | float | None]:
    valid_for, suspicion = dict(entry.valid_for), entry.suspicion or (None, None, None)
    return {
        "study_instance_uid": entry.study_instance_uid,
        "series_instance_uid": entry.series_instance_uid,
        "status": entry.status,
        "slug": entry.slug,
        "message": entry.message,
        **{name: value for figure in FIGURES if figure.column for name, value in _columns(entry, figure).items()},
        "called_in_view_percent": entry.called_in_view,
        "suspicion_not_a_diagnosis": suspicion[0],
        "suspicion_low": suspicion[1],
        "suspicion_high": suspicion[2],
        "low_confidence": {True: "yes", False: "no", None: ""}[entry.low_confidence],
        "severity_class": entry.severity_class,
        "lobes_score": entry.lobes_score,
        **dict(zip(("lobes_score_low", "lobes_score_high"), entry.lobes_interval or (None, None), strict=True)),
        **{name: value for lobe in LOBES for name, value in _lobe_columns(entry, lobe.name).items()},
        **{f"valid_for_{name}": {True: "yes", False: "no", None: ""}[valid_for.get(name)] for name in VALID_FOR},
        "warnings": ";".join(slug for slug, _ in entry.warnings),
        "since_mark": entry.since.mark,
        "since_days": entry.since.days,
        "since_infection_percent": entry.since.percent_then,
        "since_points": entry.since.points,
        "since_superseded": {True: "yes", False: "no", None: ""}[entry.since.is_superseded],
        "seconds": entry.seconds,
        "covct_version": entry.covct_version,
        "finished": entry.finished,
        "overlay": next((f"{entry.folder}/{name}" for name in (OVERLAY, THUMBNAIL) if name in entry.files), ""),
        "folder": entry.folder,
        "source": entry.source,
        "research_use": RESEARCH_USE,
    }


def _lobe_columns(entry: Entry, lobe: str) -> dict[str, float | None]:
    percent, score = entry.by_lobe.get(lobe, (None, None))
    return {f"{lobe}_percent": percent, f"{lobe}_score": score}


def _columns(entry: Entry, figure: Figure) -> dict[str, float | None]:
    """The cells of one figure: of both lungs, the ends of its interval, of each lung."""
    columns = {figure.column: entry.figure(figure.name)}
    if figure.column_ends:
        low, high = entry.intervals.get(figure.name) or (None, None)
        columns |= {f"{figure.column}_low": low, f"{figure.column}_high": high}
    if figure.column_sides:
        columns |= {f"{figure.column}_{side}": entry.figure(figure.name, f"{side}_lung") for side in ("right", "left")}
    return columns
