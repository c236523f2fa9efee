"""The last run in a few lines, to be sent by whatever sends: text, HTML, a mail of both, JSON. Sends nothing itself.

It leaves the house, perhaps: series are named by UIDs, volume files by their folders and not by their paths, and
identifiers stand in it only where they were asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from covct import RESEARCH_USE
from covct.html import render, small_style
from covct.results.entries import Entry, read_tree, worst_first
from covct.results.identifiers import with_identifiers
from covct.results.listing import columns, counted, done_lines, series_document
from covct.results.nights import Nights, by_reason, headline, nights_of, severity
from covct.unattended.runs import latest
from covct.unattended.status import life, run_sentences

MOST = 10  # series that are named
STATUSES = ("done", "failed", "rejected")


@dataclass(frozen=True)
class Digest:
    """What came of a run.

    Attributes
    ----------
    about : list of (str, str)
        Headings and sentences of the run, as `covct status` has them.
    shown : Nights
        The series that were finished in it, worst first.
    page : str
        Where to look further.
    """

    about: list[tuple[str, str]]
    shown: Nights
    page: str

    @property
    def counts(self) -> dict[str, int]:
        """Series by status."""
        return {status: len(self.shown.by_status[status]) for status in STATUSES}

    @property
    def subject(self) -> str:
        """One line."""
        counts = ", ".join(f"{number} {status}" for status, number in self.counts.items() if number)
        return f"covct: {counts or 'no series finished'}"

    @property
    def worst(self) -> list[Entry]:
        """The most affected."""
        return self.shown.by_status["done"][:MOST]

    @property
    def heading(self) -> str:
        """Of the most affected; empty where there are none."""
        done = self.counts["done"]
        return (
            ""
            if not done
            else f"most affected first: {done} series"
            if done <= MOST
            else f"the {MOST} most affected of {done} series"
        )


def digest(out: Path, now: datetime, *, since: datetime | None = None, identifiers: bool = False) -> Digest:
    """The last run of an output tree, or what was finished since a moment.

    Parameters
    ----------
    now : datetime
        With the zone that times are shown in.
    """
    run = latest(out, now)
    begin, end = since or now, now
    if run and not since:
        begin, end = datetime.fromisoformat(run.began), datetime.fromisoformat(run.updated)
    entries = worst_first(one for one in read_tree(out) if _is_within(one, begin, end))
    if identifiers:
        entries = [with_identifiers(out, entry) for entry in entries]
    about = run_sentences(run, life(out), now) if run else [("last run", "none was recorded here yet")]
    return Digest(about, nights_of(entries, now), str((out / "index.html").absolute()))


def _is_within(entry: Entry, begin: datetime, end: datetime) -> bool:
    try:
        finished = datetime.fromisoformat(entry.finished)
    except ValueError:
        return False
    moment = finished if finished.tzinfo else finished.replace(tzinfo=UTC)
    return begin.replace(microsecond=0) <= moment <= end + timedelta(seconds=1)


def as_text(told: Digest) -> str:
    """A page of a terminal."""
    return "\n".join(_lines(told)) + "\n"


def _lines(told: Digest) -> Iterable[str]:
    yield told.subject
    yield from columns(told.about)
    yield ""
    if told.heading:
        yield told.heading
        yield from done_lines(told.worst, told.shown, hide_files=True)
        yield ""
    for status, groups in _reasons(told):
        yield f"{status}: {counted(groups)}"
    yield f"all of it: {told.page}"
    yield RESEARCH_USE


def _reasons(told: Digest) -> list[tuple[str, list[tuple[str, list[Entry]]]]]:
    grouped = [(status, by_reason(told.shown.by_status[status])) for status in ("failed", "rejected")]
    return [(status, groups) for status, groups in grouped if groups]


def as_html(told: Digest) -> str:
    """One page without pictures, links or scripts."""
    return render(
        "digest.html",
        headline,
        severity,
        told=told,
        reasons=[(status, counted(groups)) for status, groups in _reasons(told)],
        shown=told.shown,
        names_identifiers=any(entry.identifiers for entry in told.worst),
        **small_style("digest.css"),
    )


def as_mail(told: Digest) -> str:
    """A message without sender and recipients: whoever sends it adds them before the first line."""
    message = EmailMessage()
    message["Subject"] = told.subject
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(as_text(told), cte="quoted-printable")
    message.add_alternative(as_html(told), subtype="html", cte="quoted-printable")
    return message.as_string()


def as_document(told: Digest) -> dict[str, Any]:
    """For a webhook: many show the `text` of what they are sent."""
    return {
        "text": as_text(told),
        "subject": told.subject,
        **told.counts,
        "most_affected": [_without_path(series_document(one, told.shown)) for one in told.worst],
        "reasons": {
            status: [{"slug": slug or None, "series": len(entries)} for slug, entries in groups]
            for status, groups in _reasons(told)
        },
        "research_use": RESEARCH_USE,
    }


def _without_path(series: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in series.items() if name != "source"}
