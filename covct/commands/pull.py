"""`covct pull`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from covct import RESEARCH_USE
from covct.commands.configured import config_of
from covct.commands.console import plain, stdout
from covct.commands.options import Json, patterns_of, since_of
from covct.commands.send import destinations_of
from covct.commands.told import short, telling
from covct.disk.places import is_bare_name
from covct.disk.signals import stoppable
from covct.errors import UsageError
from covct.exchange.wanted import CHEST, Days
from covct.intake.choice import FEWEST_SLICES
from covct.outputs import Emit
from covct.unattended.logs import LogFormat
from covct.visible import json_line

if TYPE_CHECKING:
    from covct.exchange.archive import Archive
    from covct.exchange.destinations import Destination
    from covct.exchange.query_retrieve import MoveTo

_archive = partial(typer.Option, rich_help_panel="Archive")
_choice = partial(typer.Option, rich_help_panel="What to pull", show_default=False)
_limits = partial(typer.Option, rich_help_panel="Limits")
_secured = partial(typer.Option, rich_help_panel="TLS", show_default=False)

LAST_NIGHT = timedelta(days=1)


def pull_command(
    context: typer.Context,
    inbox: Annotated[Path, typer.Argument(help="Directory that studies go to.", show_default=False)],
    source: Annotated[
        str,
        _archive(
            "--from",
            help="The archive: TITLE@HOST:PORT, dicoms://TITLE@HOST:PORT, a DICOMweb URL or a name of covct.toml.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Output tree: what it has an outcome of is not pulled.", show_default=False),
    ] = None,
    ae_title: Annotated[
        str | None,
        _archive("--ae-title", help="AE title of ours, as the archive knows it. Default: COVCT.", show_default=False),
    ] = None,
    move_to: Annotated[
        str | None,
        _archive(
            help="Retrieve by C-MOVE to this AE title: of a listener, or TITLE@ADDRESS:PORT to listen here meanwhile.",
            show_default=False,
        ),
    ] = None,
    auth_file: Annotated[
        Path | None,
        _archive(help="Of a DICOMweb URL: file with USER:PASSWORD or a bearer token.", show_default=False),
    ] = None,
    date: Annotated[
        str | None, _choice(help="Studies of this day: 2026-01-31, today or yesterday.", metavar="DAY")
    ] = None,
    since: Annotated[
        str | None,
        _choice(help="Studies begun since 2026-01-31, 2026-01-31T18:00, or 90m, 24h or 7d ago. Default: 24h."),
    ] = None,
    until: Annotated[str | None, _choice(help="Studies begun before such a time.")] = None,
    body_part: Annotated[
        str | None,
        _choice(help="Series whose body part is empty or matches this pattern. Default: words for the chest."),
    ] = None,
    select: Annotated[
        list[str] | None,
        _choice("--select", help="Series with 'Keyword=regex', e.g. StudyDescription=thorax; may be repeated."),
    ] = None,
    series_min_slices: Annotated[
        int, _choice(help="Series of N slices or more.", min=1, show_default=True)
    ] = FEWEST_SLICES,
    limit: Annotated[int | None, _limits(help="Pull at most N studies.", min=1, show_default=False)] = None,
    pause: Annotated[float, _limits(help="Seconds to wait between two studies.", min=0)] = 1.0,
    marker: Annotated[str, _limits(help="Put a file of this name into the folder of each study that is whole.")] = "",
    tls_authorities: Annotated[
        Path | None, _secured(help="Authorities, PEM: one of them must have signed the archive's certificate.")
    ] = None,
    tls_certificate: Annotated[Path | None, _secured(help="Our certificate, PEM.")] = None,
    tls_key: Annotated[Path | None, _secured(help="Its private key, PEM, without a passphrase.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be pulled and what not, and why.")
    ] = False,
    json_events: Json = False,
) -> None:
    """Pull chest CT of some days from a PACS into an inbox: only what is not known and not there yet.

    A study appears in the inbox once it is whole. What a broken pull has brought is kept, and the next one goes on.
    """
    from covct.exchange.pull import Pull, pull
    from covct.exchange.wanted import Wanted

    if not inbox.is_dir():
        raise UsageError(f"no such directory: {inbox}")
    if marker and not is_bare_name(marker):
        raise UsageError(f"--marker {marker}: wanted the name of a file, not a path")
    days = _days(date, since, until, datetime.now().astimezone())
    wanted = Wanted(days, _pattern(body_part or CHEST), patterns_of(select), series_min_slices)
    place = _place(context, source, ae_title, auth_file, tls_authorities, tls_certificate, tls_key)
    order = Pull(inbox, out, wanted, limit, pause, marker, place.ours)
    if dry_run and move_to:
        move_to = move_to.partition("@")[0]  # nothing is sent, so nothing need listen
    with telling(json_events, LogFormat.text, _line) as tell:
        with stoppable(), _opened(inbox, place, move_to) as archive:
            if dry_run:
                _show(order, archive, json_events, tell)
                return
            tally = pull(order, archive, tell)
        tell({"event": "finished", **tally})
    if tally["incomplete"]:
        raise typer.Exit(3)


def _days(date: str | None, since: str | None, until: str | None, now: datetime) -> Days:
    """The days meant; those of the last 24 hours where nothing is said."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if date is None:
        last = since_of(until, "--until")
        return Days(since_of(since) or (None if last else now - LAST_NIGHT), last)
    if since or until:
        raise UsageError("--date: wanted without --since and --until")
    named = {"today": midnight, "yesterday": midnight - timedelta(days=1)}
    day = named.get(date)
    try:
        day = day or datetime.strptime(date, "%Y-%m-%d").astimezone()
    except ValueError:
        raise UsageError(f"--date {date}: wanted a day such as 2026-01-31, today or yesterday") from None
    return Days(day, (day.replace(tzinfo=None) + timedelta(days=1)).astimezone())


def _pattern(body_part: str) -> re.Pattern[str]:
    try:
        return re.compile(body_part, re.IGNORECASE)
    except re.error as error:
        raise UsageError(f"--body-part {body_part}: {error}") from error


def _place(
    context: typer.Context,
    source: str,
    ae_title: str | None,
    auth_file: Path | None,
    authorities: Path | None,
    certificate: Path | None,
    key: Path | None,
) -> Destination:
    """The archive that `--from` names, with what it knows us by: of the options, else of its table in covct.toml."""
    from covct.exchange.peers import title_of

    [place] = destinations_of(config_of(context), [source], "--from")
    if auth_file and place.peer:
        raise UsageError("--auth-file is for DICOMweb URLs; a DICOM peer knows us by --ae-title and --tls-certificate")
    known = place.access
    access = replace(
        known,
        auth_file=auth_file or known.auth_file,
        authorities=authorities or known.authorities,
        certificate=certificate or known.certificate,
        key=key or known.key,
    )
    return replace(place, access=access, ours=title_of(ae_title or place.ours, "--ae-title"))


@contextmanager
def _opened(inbox: Path, place: Destination, move_to: str | None) -> Iterator[Archive]:
    access = place.access
    tls = (access.authorities, access.certificate, access.key)
    if place.peer is None:
        from covct.exchange.web_archive import web_archive
        from covct.exchange.web_session import session_of

        if move_to:
            raise UsageError("--move-to is for DICOM peers, TITLE@HOST:PORT; a DICOMweb URL needs no listener")
        with session_of(place.url, *tls, credentials=access.credentials()) as session:
            yield web_archive(place.url, session)
        return
    from covct.exchange.arrivals import Arrivals
    from covct.exchange.query_retrieve import query_retrieve
    from covct.exchange.tls import client_context

    secured = client_context(*tls) if place.peer.is_secured else None
    with query_retrieve(place.peer, place.ours, Arrivals(inbox).staging, _move_to(move_to), secured) as archive:
        yield archive


def _move_to(move_to: str | None) -> MoveTo | None:
    from covct.exchange.peers import peer_of, title_of
    from covct.exchange.query_retrieve import MoveTo

    if move_to is None:
        return None
    if "@" not in move_to:
        return MoveTo(title_of(move_to, "--move-to"))
    place = peer_of(move_to, "--move-to")
    if place.is_secured:
        raise UsageError(f"--move-to {move_to}: the listener of a pull speaks no TLS; wanted covct listen for that")
    return MoveTo(place.title, place.host, place.port)


def _show(order: Any, archive: Archive, json_events: bool, tell: Emit) -> None:
    """The dry run. Nothing is written; no name, date or description is shown."""
    from covct.exchange.pull import foreseen

    table = Table("study", "series", "slices", "verdict", "why", caption=RESEARCH_USE)
    for one in foreseen(order, archive, tell):
        series = one.series
        if json_events:
            row = {"study": series.study_uid, "series": series.uid, "slices": one.count, "missing": len(one.missing)}
            print(json_line({"event": "plan", **row, "verdict": one.verdict, "why": one.why}))
        else:
            count = "" if one.count is None else str(one.count)
            table.add_row(plain(short(series.study_uid)), plain(short(series.uid)), count, one.verdict, plain(one.why))
    if not json_events:
        stdout.print(table)


def _line(event: dict[str, Any]) -> str:
    """An event for a person."""
    kind = event["event"]
    if kind == "finished":
        counts = ", ".join(f"{number} {name}" for name, number in event.items() if name != "event" and number)
        return f"studies: {counts}" if counts else "no studies of these days"
    study = plain(short(str(event["study"])))
    if kind == "incomplete":
        return f"[yellow]incomplete[/]  study {study}: {plain(event['message'])}"
    what = f"study {study}  {event['series']} series, {event['instances']} instances"
    return f"[green]pulled[/]      {what}  {event['seconds']:.1f} s" if kind == "pulled" else f"pulling     {what}"
