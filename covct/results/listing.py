"""The page of the nights in a terminal, and for machines: the same series in the same order and the same words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from covct import RESEARCH_USE
from covct.results.amounts import amount
from covct.results.entries import Entry
from covct.results.nights import IN_VIEW, Nights, headline, name, severity, short, since, warnings
from covct.terms import MILLILITRE
from covct.visible import from_to, share

HEADS = ("share", "from to", "right", "left", "opacity", "class", "when", "series")
RIGHT = 5  # columns of figures
INDENT = "    "
LUNG_IN_VIEW = "lung in view"
LONGEST = 200  # characters of a message


def as_lines(shown: Nights) -> Iterator[str]:
    """Everything: a block for each night, the last one first, then what failed, then what was rejected, by reason."""
    if not any(shown.by_status.values()):
        yield "no series has a result yet"
    for date, entries in shown.nights:
        night = f"night of {date}" if date else "at a time that is not known"
        yield f"{night}, most affected first: {len(entries)} series"
        yield from done_lines(entries, shown)
        yield ""
    if failed := shown.by_status["failed"]:
        yield f"failed: {len(failed)} series; covct scan --retry-failed tries them again"
        yield from columns(
            [(one.slug, short(one.message, LONGEST), shown.when(one.finished), name(one)) for one in failed]
        )
        yield ""
    for slug, entries in shown.rejected:
        yield f"rejected, {slug or 'no reason given'}: {len(entries)} series"
        yield from columns([(name(one), shown.when(one.finished), short(one.message, LONGEST)) for one in entries])
        yield ""


def done_lines(entries: Sequence[Entry], shown: Nights, *, hide_files: bool = False) -> Iterator[str]:
    """A line a series below a line of heads, and its warnings below each; `hide_files`: paths of volume files, too."""
    named = bool([one for one in entries if one.identifiers])
    heads = [*HEADS, "identifiers"] if named else list(HEADS)
    lines = columns([heads, *(_cells(one, shown, hide_files) for one in entries)], right=RIGHT)
    yield next(lines)
    for entry, line in zip(entries, lines, strict=True):
        yield line
        said = ["low confidence"] if entry.low_confidence else []
        said += [since(entry)] if since(entry) else []
        said += ["done again"] if shown.made(entry) == "again" else []
        said += [short(words, LONGEST) for _, words in warnings(entry)]
        yield from (f"{INDENT}{INDENT}{words}" for words in said)
    if any(map(_is_in_view, entries)):
        yield f"{INDENT}{LUNG_IN_VIEW}: the share of the lung that the scan shows; of the lungs there is none"


def _is_in_view(entry: Entry) -> bool:
    return entry.infection_percent is None and entry.called_in_view is not None


def _cells(entry: Entry, shown: Nights, hide_files: bool) -> list[str]:
    interval = entry.percent_interval
    seen = _is_in_view(entry)
    cells = [
        headline(entry).removesuffix(IN_VIEW).strip(),
        LUNG_IN_VIEW if seen else from_to(interval) if interval else "-",
        *(share(entry.figure("infection_percent", side)) for side in ("right_lung", "left_lung")),
        amount(entry.figure("infection_ml"), MILLILITRE),
        severity(entry),
        shown.when(entry.finished),
        entry.folder if hide_files and entry.source else name(entry),
    ]
    return [*cells, " · ".join(value for _, value in entry.identifiers)] if entry.identifiers else cells


def columns(rows: Sequence[Sequence[str]], right: int = 0) -> Iterator[str]:
    """Rows of cells as lines, in columns; the first `right` of them end at one place, the others begin there."""
    widths = [max(len(row[at]) for row in rows if at < len(row)) for at in range(max(map(len, rows), default=0))]
    for row in rows:
        cells = (
            f"{cell:>{width}}" if at < right else f"{cell:<{width}}"
            for at, (cell, width) in enumerate(zip(row, widths, strict=False))
        )
        yield f"{INDENT}{'  '.join(cells)}".rstrip()


def as_document(shown: Nights) -> dict[str, Any]:
    """The same for machines, with the names that report.json has."""
    return {
        "written": shown.written.isoformat(timespec="seconds"),
        "nights": [
            {"night": date or None, "series": [series_document(one, shown) for one in entries]}
            for date, entries in shown.nights
        ],
        **{status: [_not_done(one) for one in shown.by_status[status]] for status in ("failed", "rejected")},
        "research_use": RESEARCH_USE,
    }


def series_document(entry: Entry, shown: Nights) -> dict[str, Any]:
    """One series that is done."""
    interval = entry.percent_interval
    identifiers = {"identifiers": dict(entry.identifiers)} if entry.identifiers else {}
    return {
        **_named(entry),
        "infection_percent": entry.infection_percent,
        "infection_percent_interval": list(interval) if interval else None,
        "called_in_view_percent": entry.called_in_view,
        "infection_percent_right": entry.figure("infection_percent", "right_lung"),
        "infection_percent_left": entry.figure("infection_percent", "left_lung"),
        "volume_ml": entry.figure("volume_ml"),
        "infection_ml": entry.figure("infection_ml"),
        "severity_class": entry.severity_class,
        "severity": severity(entry),
        "low_confidence": entry.low_confidence,
        "since": {
            "mark": entry.since.mark or None,
            "days": entry.since.days,
            "infection_percent": entry.since.percent_then,
            "points": entry.since.points,
            "superseded": entry.since.is_superseded,
        },
        "made": shown.made(entry) or None,
        "warnings": [{"slug": slug, "message": message} for slug, message in entry.warnings],
        "files": list(entry.files),
        **identifiers,
    }


def _not_done(entry: Entry) -> dict[str, Any]:
    return {**_named(entry), "slug": entry.slug, "message": entry.message}


def _named(entry: Entry) -> dict[str, Any]:
    return {
        "study": entry.study_instance_uid or None,
        "series": entry.series_instance_uid or None,
        "source": entry.source or None,
        "folder": entry.folder,
        "finished": entry.finished,
    }


def counted(groups: Iterable[tuple[str, Sequence[Entry]]]) -> str:
    """Reasons with how many series each has."""
    return ", ".join(f"{len(entries)} {slug or 'no reason given'}" for slug, entries in groups)
