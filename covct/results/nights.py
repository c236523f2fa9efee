"""What page, list and digest say of results: the nights, the last one first, and each series in the same words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby

from covct.results.entries import STATUSES, Entry, one_line
from covct.terms import NOTHING_FOUND, VALID_FOR
from covct.visible import days, from_to, share

IN_VIEW = "of the lung in view"
Night = tuple[str, list[Entry]]
Group = tuple[str, list[Entry]]


@dataclass(frozen=True)
class Nights:
    """A tree's results as they are shown.

    Attributes
    ----------
    written : datetime
        Now; times are shown in its zone.
    by_status : dict of str to list of Entry
        All of them, in the order of STATUSES and as they were given.
    nights : list of (str, list of Entry)
        Those that are done: the date on which each night began, the last night first, and its series. A night is from
        noon to noon. Of what does not say when it was finished the date is empty, and it comes last.
    """

    written: datetime
    by_status: dict[str, list[Entry]]
    nights: list[Night]

    @property
    def last(self) -> str:
        """The date of the last night; empty where there is none."""
        return self.nights[0][0] if self.nights else ""

    @property
    def rejected(self) -> list[Group]:
        """Reason and series, the largest group first."""
        return by_reason(self.by_status["rejected"])

    def when(self, told: str) -> str:
        """A moment of a document, to the minute in local time, with its distance from UTC; any other text as it is."""
        moment = local(told, self.written)
        return clock_time(moment) if moment else short(told)

    def made(self, entry: Entry) -> str:
        """Whether the series got its first result in the last night ("new"), or another one ("again"); else empty."""
        if not self.last or night_of(entry.finished, self.written) != self.last:
            return ""
        return "again" if entry.first and night_of(entry.first, self.written) != self.last else "new"


def nights_of(entries: Iterable[Entry], written: datetime) -> Nights:
    """Entries as they are shown, in the order in which they are given, as from `worst_first`."""
    entries = list(entries)
    by_status = {status: [entry for entry in entries if entry.status == status] for status in STATUSES}
    nights: dict[str, list[Entry]] = {}
    for entry in by_status["done"]:
        nights.setdefault(night_of(entry.finished, written), []).append(entry)
    return Nights(written, by_status, sorted(nights.items(), reverse=True))


def night_of(finished: str, written: datetime) -> str:
    """Date on which the night of a moment began, in the local time of `written`; empty where it is no moment."""
    moment = local(finished, written)
    return f"{moment - timedelta(hours=12):%Y-%m-%d}" if moment else ""


def local(told: str, written: datetime) -> datetime | None:
    """A moment of a document in the zone of `written`; None for a text that is none."""
    try:
        moment = datetime.fromisoformat(told)
    except ValueError:
        return None
    if moment.tzinfo and written.tzinfo:
        here = written.astimezone()  # the zone of this machine knows summer time, an offset does not
        return moment.astimezone(None if here.utcoffset() == written.utcoffset() else written.tzinfo)
    return moment


def clock_time(moment: datetime) -> str:
    """To the minute, with the distance from UTC where it is known."""
    zone = moment.strftime("%z")
    offset = {"": "", "+0000": " UTC"}.get(zone, f" UTC{zone[:3]}:{zone[3:]}")
    return f"{moment:%Y-%m-%d %H:%M}{offset}"


def tally(done: Iterable[Entry]) -> list[tuple[int | None, str, int]]:
    """How many series of each class, worst first; the words come from the reports, and tell 0 % apart."""
    counts = Counter((entry.severity_class, entry.severity_label) for entry in done)
    worst_first = sorted(counts, key=lambda one: (-(one[0] or 0), one[1] == NOTHING_FOUND))
    return [(cls, words, counts[cls, words]) for cls, words in worst_first]


def by_reason(entries: Iterable[Entry]) -> list[Group]:
    """Reason and series of what is not done, the largest group first."""
    by_slug = sorted(entries, key=lambda entry: entry.slug)
    groups = [(slug, list(members)) for slug, members in groupby(by_slug, key=lambda entry: entry.slug)]
    return sorted(groups, key=lambda group: -len(group[1]))


def headline(entry: Entry) -> str:
    """The share of a series in words: of the lungs, else of the lung in view, which is no share of the lungs."""
    if entry.infection_percent is None and entry.called_in_view is not None:
        return f"{share(entry.called_in_view)} {IN_VIEW}"
    return "not known" if entry.infection_percent is None else share(entry.infection_percent, entry.percent_interval)


def marked(percent: float, interval: Sequence[float] | None) -> str:
    """A share of the lungs as a heading says it."""
    words = f"{share(percent, interval)} of the lungs marked"
    return f"{words} ({from_to(interval)})" if interval else words


def severity(entry: Entry) -> str:
    """The class in words."""
    if entry.severity_class is None:
        return "no severity class"
    return f"class {entry.severity_class}" + (f" · {entry.severity_label}" if entry.severity_label else "")


def lobes(entry: Entry) -> str:
    """The score by lobes in words; empty where there is none."""
    if entry.lobes_score is None:
        return ""
    low, high = entry.lobes_interval or (entry.lobes_score, entry.lobes_score)
    return f"score by lobes {entry.lobes_score}{'' if low == high else f' ({low}–{high})'} of 25, approximate"


def name(entry: Entry) -> str:
    """Of a series, in one column: the path of a volume file, else the UID."""
    return entry.source or series_name(entry) or one_line(entry.folder)


def series_name(entry: Entry) -> str:
    """The UID, with the acquisition where one series held several; a NIfTI's folder says nothing to a reader."""
    uid, leaf = entry.series_instance_uid, entry.folder.rpartition("/")[2]
    return (
        f"{uid} (acquisition {one_line(leaf).removeprefix(uid + '-')})" if uid and leaf.startswith(uid + "-") else uid
    )


def warnings(entry: Entry) -> Iterator[tuple[bool, str]]:
    """Whether figures are denied, and the words."""
    denied = [VALID_FOR[kind] for kind, valid in entry.valid_for if not valid]
    if denied:
        yield True, f"no {', no '.join(denied)}"
    yield from ((False, short(message or slug)) for slug, message in entry.warnings)


def short(text: str, limit: int = 400) -> str:
    """A text, cut off where it is long."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


def since(entry: Entry) -> str:
    """How a series compares with the patient's last result; empty where there is none to compare with."""
    change = entry.since
    if change.days is None or change.points is None:
        return ""
    ago = f"{days(change.days)} before"
    told = f"{abs(change.points):.1f} points {'more' if change.points > 0 else 'less'} than {ago}"
    if not round(abs(change.points), 1):
        told = f"as {ago}"
    return f"{told}, by a result that was replaced" if change.is_superseded else told
