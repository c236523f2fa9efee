"""The night on one self-contained HTML page, worst first."""

from __future__ import annotations

import fnmatch
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import groupby
from urllib.parse import quote

from covct.html import inline_script, render
from covct.outputs import FORMATS
from covct.results.amounts import Interval, amount
from covct.results.entries import STATUSES, Entry, one_line
from covct.terms import FIGURES, MILLILITRE, NOTHING_FOUND, VALID_FOR
from covct.visible import from_to, share

WITH_PICTURE = 500  # more thumbnails than that no browser scrolls and nobody looks at
OPEN_GROUP = 25  # larger groups of rejected series are folded: a night has hundreds of localizers
OVERLAY, (STUDY, THUMBNAIL) = FORMATS["png"].file, FORMATS["page"].files


def as_html(entries: Iterable[Entry], written: datetime) -> str:
    """The page of the nights, the last one first: self-contained; pictures are linked relative to OUT.

    Its script searches, filters and sorts the rows; without it they are all there.

    Parameters
    ----------
    entries : iterable of Entry
        In the order of the page, as from `worst_first`.
    written : datetime
    """
    entries = list(entries)
    by_status = {status: [entry for entry in entries if entry.status == status] for status in STATUSES}
    times = sorted(entry.finished for entry in entries if entry.finished)
    nights = _by_night(by_status["done"], written)
    night, done = nights[0] if nights else ("", [])
    return render(
        "night.html",
        *_FILTERS,
        written=written,
        first=times[0] if times else None,
        last=times[-1] if times else None,
        total=len(entries),
        by_status=by_status,
        tally=_tally(by_status["done"]),
        night=night,
        earlier=nights[1:],
        pictured=done[:WITH_PICTURE],
        compact=done[WITH_PICTURE:],
        rejected=_by_reason(by_status["rejected"]),
        open_group=OPEN_GROUP,
        study=STUDY,
        **inline_script("night.js"),
    )


def _by_night(done: list[Entry], written: datetime) -> list[tuple[str, list[Entry]]]:
    """Date on which each night began, in the local time of `written`, and its series in their order; the last first.

    A night is from noon to noon. Of what does not say when it was finished the date is empty, and it comes last.
    """
    nights: dict[str, list[Entry]] = {}
    for entry in done:
        nights.setdefault(_night(entry.finished, written), []).append(entry)
    return sorted(nights.items(), reverse=True)


def _night(finished: str, written: datetime) -> str:
    try:
        moment = datetime.fromisoformat(finished)
    except ValueError:
        return ""
    if moment.tzinfo and written.tzinfo:
        here = written.astimezone()  # the zone of this machine knows summer time, an offset does not
        moment = moment.astimezone(None if here.utcoffset() == written.utcoffset() else written.tzinfo)
    return f"{moment - timedelta(hours=12):%Y-%m-%d}"


def _tally(done: list[Entry]) -> list[tuple[int | None, str, int]]:
    """How many series of each class, worst first; the words come from the reports, and tell 0 % apart."""
    counts = Counter((entry.severity_class, entry.severity_label) for entry in done)
    worst_first = sorted(counts, key=lambda one: (-(one[0] or 0), one[1] == NOTHING_FOUND))
    return [(cls, words, counts[cls, words]) for cls, words in worst_first]


def _by_reason(rejected: list[Entry]) -> list[tuple[str, list[Entry]]]:
    """The largest group first."""
    groups = [(slug, list(members)) for slug, members in groupby(rejected, key=lambda entry: entry.slug)]
    return sorted(groups, key=lambda group: -len(group[1]))


def _shares(entry: Entry) -> tuple[tuple[str, float | None, Interval | None], ...]:
    return (
        ("right", entry.figure("infection_percent", "right_lung"), None),
        ("left", entry.figure("infection_percent", "left_lung"), None),
        ("both", entry.infection_percent, entry.percent_interval),
    )


def _volumes(entry: Entry) -> list[tuple[str, str]]:
    """The figures that have a label, in the order of the table."""
    return [(figure.label, amount(entry.figure(figure.name), figure.unit)) for figure in FIGURES if figure.label]


def _facts(entry: Entry) -> tuple[str, ...]:
    """What rows are filtered and sorted by."""
    known = (entry.infection_percent, entry.severity_class, int(entry.low_confidence or False))
    return (*("" if one is None else str(one) for one in known), str(len(entry.warnings)), entry.finished)


def _pictures(entry: Entry) -> tuple[str, str]:
    """Addresses of the small picture, and of what it leads to; empty where there are none."""
    small, full = (
        next((f"{_address(entry)}/{name}" for name in names if name in entry.files), "")
        for names in ((THUMBNAIL, OVERLAY), (STUDY, OVERLAY))
    )
    return small, full or small


def _in_brief(entry: Entry) -> tuple[str, ...]:
    """What a series without a picture shows of itself."""
    sides = (entry.figure("infection_percent", side) for side in ("right_lung", "left_lung"))
    volumes = (amount(entry.figure(name), MILLILITRE) for name in ("volume_ml", "infection_ml"))
    interval = entry.percent_interval
    both = (share(entry.infection_percent, interval), from_to(interval) if interval else "-")
    named = (_name(entry), _time(entry.finished))
    return (*both, *map(share, sides), str(entry.severity_class or "-"), *volumes, *named)


def _identity(entry: Entry) -> list[tuple[str, str]]:
    named = (("file", entry.source), ("series", _series_name(entry)), ("study", entry.study_instance_uid))
    return [(name, value) for name, value in named if value]


def _name(entry: Entry) -> str:
    """In a table with one column for it."""
    return entry.source or _series_name(entry) or one_line(entry.folder)


def _series_name(entry: Entry) -> str:
    """The UID, with the acquisition where one series held several; a NIfTI's folder says nothing to a reader."""
    uid, leaf = entry.series_instance_uid, entry.folder.rpartition("/")[2]
    return (
        f"{uid} (acquisition {one_line(leaf).removeprefix(uid + '-')})" if uid and leaf.startswith(uid + "-") else uid
    )


def _warnings(entry: Entry) -> Iterator[tuple[bool, str]]:
    """Whether figures are denied, and the words."""
    denied = [VALID_FOR[name] for name, valid in entry.valid_for if not valid]
    if denied:
        yield True, f"no {', no '.join(denied)}"
    yield from ((False, _short(message or slug)) for slug, message in entry.warnings)


def _links(entry: Entry) -> list[tuple[str, str]]:
    """Address and label."""
    folder = _address(entry)
    return [(f"{folder}/{name}", label) for name, label in _linked(entry.files)]


@lru_cache(maxsize=256)
def _linked(files: tuple[str, ...]) -> list[tuple[str, str]]:
    """Quoted name and label, one a kind of file; the first where there are several: captures may be as many as slices.

    Remembered, since most series of a night have files of the same names.
    """
    labels, links = {"report.json": "report"}, []
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


def _time(told: str | datetime) -> str:
    """An ISO time to the minute; whatever else stands there as it is."""
    try:
        moment = datetime.fromisoformat(told) if isinstance(told, str) else told
    except ValueError:
        return _short(str(told))
    zone = moment.strftime("%z")
    offset = {"": "", "+0000": " UTC"}.get(zone, f" UTC{zone[:3]}:{zone[3:]}")
    return f"{moment:%Y-%m-%d %H:%M}{offset}"


def _short(text: str, limit: int = 400) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


_FILTERS = (
    _facts, _pictures, _shares, _volumes, _in_brief, _identity, _name, _warnings, _links, _address,
    _bar_length, share, from_to, _time, _short,
)  # fmt: skip
