"""The nights on one self-contained HTML page, the last one first, worst first."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from urllib.parse import quote

from covct.disk.places import REPORT_NAME
from covct.html import inline_script, render
from covct.outputs import FORMATS
from covct.results.amounts import Interval, amount
from covct.results.entries import Entry
from covct.results.nights import (
    IN_VIEW,
    Nights,
    clock_time,
    headline,
    lobes,
    name,
    nights_of,
    series_name,
    short,
    since,
    tally,
    warnings,
)
from covct.terms import FIGURES, MILLILITRE
from covct.visible import from_to, share

WITH_PICTURE = 200  # more thumbnails than that no browser scrolls and nobody looks at
OPEN_GROUP = 25  # larger groups are folded, and made by the script once opened: a night has hundreds of localizers
AT_ONCE = 100  # failed series
SHOWS_IDENTIFIERS = "covct-identifiers"  # the name under which the page says so of itself
OVERLAY, (STUDY, THUMBNAIL) = FORMATS["png"].file, FORMATS["page"].files


def as_html(entries: Iterable[Entry], written: datetime, *, identifiers: bool = False) -> str:
    """The page of the nights, the last one first: self-contained; pictures are linked relative to OUT.

    Its script searches, filters and sorts the rows; without it they are all there.

    Parameters
    ----------
    entries : iterable of Entry
        In the order of the page, as from `worst_first`.
    written : datetime
    identifiers : bool
        The page says that it shows the identifiers of its entries.
    """
    shown = nights_of(entries, written)
    everything = [entry for of_status in shown.by_status.values() for entry in of_status]
    times = sorted(entry.finished for entry in everything if entry.finished)
    done = shown.nights[0][1] if shown.nights else []
    return render(
        "night.html",
        *_FILTERS,
        shown=shown,
        written=written,
        shows_identifiers=SHOWS_IDENTIFIERS if identifiers else "",
        first=shown.when(times[0]) if times else None,
        last=shown.when(times[-1]) if times else None,
        total=len(everything),
        by_status=shown.by_status,
        tally=tally(shown.by_status["done"]),
        night=shown.last,
        earlier=shown.nights[1:],
        pictured=done[:WITH_PICTURE],
        compact=done[WITH_PICTURE:],
        rejected=shown.rejected,
        open_group=OPEN_GROUP,
        at_once=AT_ONCE,
        study=STUDY,
        in_view=IN_VIEW,
        **inline_script("night.js"),
    )


def _shares(entry: Entry) -> tuple[tuple[str, float | None, Interval | None], ...]:
    return (
        ("right", entry.figure("infection_percent", "right_lung"), None),
        ("left", entry.figure("infection_percent", "left_lung"), None),
        ("both", entry.infection_percent, entry.percent_interval),
    )


def _volumes(entry: Entry) -> list[tuple[str, str]]:
    """The figures that have a label, in the order of the table."""
    return [(figure.label, amount(entry.figure(figure.name), figure.unit)) for figure in FIGURES if figure.label]


def _facts(entry: Entry, shown: Nights) -> tuple[str, ...]:
    """What rows are filtered and sorted by."""
    known = (entry.infection_percent, entry.place_percent, entry.severity_class, int(entry.low_confidence or False))
    told = ("" if one is None else str(one) for one in known)
    return (*told, str(len(entry.warnings)), shown.made(entry), entry.finished, entry.since.mark)


def _pictures(entry: Entry) -> tuple[str, str]:
    """Addresses of the small picture, and of what it leads to; empty where there are none."""
    small, full = (
        next((f"{_address(entry)}/{file}" for file in names if file in entry.files), "")
        for names in ((THUMBNAIL, OVERLAY), (STUDY, OVERLAY))
    )
    return small, full or small


def _in_brief(entry: Entry, shown: Nights) -> tuple[str, ...]:
    """What a series without a picture shows of itself."""
    sides = (entry.figure("infection_percent", side) for side in ("right_lung", "left_lung"))
    volumes = (amount(entry.figure(name), MILLILITRE) for name in ("volume_ml", "infection_ml"))
    interval = entry.percent_interval
    both = (headline(entry), from_to(interval) if interval else "-")
    named = (" · ".join([*(value for _, value in entry.identifiers), name(entry)]), shown.when(entry.finished))
    return (*both, *map(share, sides), str(entry.severity_class or "-"), *volumes, *named)


def _identity(entry: Entry) -> list[tuple[str, str]]:
    named = (("file", entry.source), ("series", series_name(entry)), ("study", entry.study_instance_uid))
    return [(what, value) for what, value in named if value]


def _links(entry: Entry) -> list[tuple[str, str]]:
    """Address and label."""
    folder = _address(entry)
    return [(f"{folder}/{file}", label) for file, label in _linked(entry.files)]


@lru_cache(maxsize=256)
def _linked(files: tuple[str, ...]) -> list[tuple[str, str]]:
    """Quoted name and label, one a kind of file; the first where there are several: captures may be as many as slices.

    Remembered, since most series of a night have files of the same names.
    """
    labels, links = {REPORT_NAME: "report"}, []
    for one in FORMATS.values():
        labels |= one.files
    for pattern, label in labels.items():
        if label and (found := fnmatch.filter(files, pattern)):
            links.append((quote(min(found)), f"{label} 1 of {len(found)}" if "*" in pattern else label))
    return links


def _address(entry: Entry) -> str:
    """Of its folder, relative to the page."""
    return quote(os.fsencode(entry.folder))


def _bar_length(percent: float | None) -> str:
    """Of a bar from 0 to 100 %."""
    return f"{min(100.0, max(0.0, percent or 0.0)):.2f}"


_FILTERS = (
    _facts, _pictures, _shares, _volumes, _in_brief, _identity, _links, _address, _bar_length,
    clock_time, from_to, headline, lobes, name, share, short, since, warnings,
)  # fmt: skip
