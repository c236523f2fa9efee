"""Events told: as lines or JSON, on a bar, in the night's log and the metrics; and what ended the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.console import Console

from covct import RESEARCH_USE
from covct.commands.console import plain, stamp, stderr, stdout
from covct.commands.exit_codes import meaning_of
from covct.commands.run_bar import RunBar
from covct.errors import RunError, Stopped, whereabouts
from covct.outputs import Emit
from covct.unattended.logs import QUIET, JsonLines, LogFormat
from covct.visible import from_to, json_line, share

OF_SENDING = ("sent", "not-reached", "destination")


@contextmanager
def told(
    out: Path,
    json_events: bool,
    log_format: LogFormat,
    hash_identifiers: bool,
    metrics: Path | None,
    *,
    of_series: bool = True,
) -> Iterator[Emit]:
    """A function that tells events to stdout, stderr and the metrics; what ends the process is told likewise.

    `of_series`: they tell of series, so that a bar says how far they are, and the page to open is named.
    """
    from covct.unattended import logs

    with ExitStack() as stack:
        lines = stack.enter_context(_last_words(log_format, "; finished series are kept"))
        try:
            hide = _hiding(out) if hash_identifiers else None
            figures = _figures(stack, metrics)
            shown = stack.enter_context(showing(json_events, lines, of_series=of_series))
            yield logs.tell_all(*figures, lambda event: shown(hide(event) if hide else event))
            _name_page(out, quiet=bool(lines) or hash_identifiers or not of_series)
        except RunError as error:
            if not hash_identifiers:
                raise
            _end(lines, error, meaning_of(error), error.exit_code)
        except Stopped:
            _name_page(out, quiet=bool(lines) or hash_identifiers or not of_series)
            raise


@contextmanager
def telling(
    json_events: bool, log_format: LogFormat, line_of: Callable[[dict[str, Any]], str], metrics: Path | None = None
) -> Iterator[Emit]:
    """As `told`, of what has no output tree: without a bar and a page. `line_of`: an event for a person, or nothing."""
    from covct.unattended import logs

    with ExitStack() as stack:
        lines = stack.enter_context(_last_words(log_format))
        figures = _figures(stack, metrics)
        yield logs.tell_all(*figures, lambda event: _show(event, json_events, lines, line_of, stderr))


def _figures(stack: ExitStack, metrics: Path | None) -> list[Emit]:
    from covct.unattended.prometheus import measured

    return [stack.enter_context(measured(metrics))] if metrics else []


@contextmanager
def _last_words(log_format: LogFormat, kept: str = "") -> Iterator[JsonLines | None]:
    """Where lines are JSON, what makes them; and what ends the process is then the last of them.

    `kept`: what a stop signal leaves, as the end of a sentence.
    """
    from covct.unattended import logs

    if log_format is not LogFormat.json:
        yield None
        return
    with logs.as_json_lines() as lines:
        try:
            yield lines
        except typer.Exit:
            raise
        except RunError as error:
            _end(lines, error, str(error), error.exit_code)
        except Stopped as stopped:
            _end(lines, stopped, f"stopped by {stopped}{kept}", 130)
        except Exception as error:
            _end(lines, error, whereabouts(error), 1)


def _show(
    event: dict[str, Any],
    json_events: bool,
    lines: JsonLines | None,
    line_of: Callable[[dict[str, Any]], str],
    console: Console,
) -> None:
    """An event on stdout, for programs, and on stderr, as JSON or for a person."""
    if json_events:
        print(json_line(event), flush=True)
    if lines:
        lines.tell(event)
    elif line := line_of(event):
        console.print(f"{stamp()}{line}", highlight=False, soft_wrap=True)


def _name_page(out: Path, *, quiet: bool) -> None:
    """Where to look, as the last that is said of a run; a hidden tree is not there to be looked at."""
    page = (out / "index.html").absolute()
    if not quiet and page.exists() and not out.name.startswith("."):
        stderr.print(f"{stamp()}open {plain(page)}", highlight=False, soft_wrap=True)


def _end(lines: JsonLines | None, error: BaseException, message: str, exit_code: int) -> NoReturn:
    if lines:
        event = {"event": "ended", "reason": type(error).__name__, "message": message, "exit_code": exit_code}
        lines.tell(event, "info" if exit_code == 130 else "error")
    else:
        stderr.print(f"[red]covct:[/] {plain(message)}", soft_wrap=True)
    raise typer.Exit(exit_code) from error


def identifier_key_of(out: Path) -> bytes:
    """The key that this output tree's identifiers are hashed with; made where there is none yet."""
    from covct.disk.durable import output_errors
    from covct.disk.places import PRIVATE
    from covct.unattended import logs

    with output_errors(out):
        return logs.identifier_key(out / PRIVATE)


def _hiding(out: Path) -> Callable[[dict[str, Any]], dict[str, Any]]:
    from covct.intake.gate_rules import GATE
    from covct.unattended import logs

    key = identifier_key_of(out)
    meanings = {slug: rule.about for slug, rule in GATE.items()}
    return lambda event: logs.hide_identifiers(event, key, meanings)


@contextmanager
def showing(json_events: bool, lines: JsonLines | None = None, *, of_series: bool = True) -> Iterator[Emit]:
    """A function that shows events: JSON lines on stdout, and on stderr a bar, plain lines or `lines`."""
    # Where JSON goes to the terminal, the lines are all there is: a bar would be written among them.
    drawn = of_series and stderr.is_terminal and lines is None and not (json_events and stdout.is_terminal)
    bar = RunBar(short, shown=drawn)
    with bar.progress as progress:

        def emit(event: dict[str, Any]) -> None:
            bar.hear(event)
            if event["event"] in QUIET:
                return
            line_of = _of_sending if event["event"] in OF_SENDING else _line
            _show(event, json_events, lines, line_of, progress.console)

        yield emit


def short(uid: str) -> str:
    """A UID's end, which tells one from another, where it is long."""
    return uid if len(uid) <= 16 else f"…{uid[-12:]}"


def _line(event: dict[str, Any]) -> str:
    """One event as a line for a person; empty for what is not worth a line."""
    kind, series = event["event"], plain(event.get("source") or short(str(event.get("series", ""))))
    if kind == "found":
        said = (
            f"{event['candidates']} series found, {event['to_do']} to do, {event['finished_before']} "
            f"already finished, {event['problems']} unreadable"
        )
        return said if event["candidates"] else f"{said}, {_of_other_files(event['ignored_files'])}"
    if kind == "not-moved":
        return f"[yellow]not moved[/]   study {short(event['study'])}: {plain(event['message'])}"
    if kind == "problem":
        said = "[yellow]unreadable[/]" if event["slug"] == "unreadable" else f"[red]{event['slug']}[/]"
        return f"{said}  {plain(event['file'])}: {plain(event['message'])}"
    if kind == "done":
        added = f"  added {', '.join(event['added'])}, computed nothing" if event.get("added") else ""
        return f"[green]done[/]        {series}  {_figure(event)}{added}"
    if kind == "converted":
        warned = ", ".join(finding["slug"] for finding in event["findings"])
        named = "  ".join(plain(event[name]) for name in ("source", "path") if event[name])
        return f"[green]converted[/]   {named}" + (f"  [yellow]{warned}[/]" if warned else "")
    if kind == "nothing":
        return plain(event["message"])
    if kind == "rejected":
        file = f" ({plain(event['file'])})" if event.get("file") else ""
        return f"[yellow]rejected[/]    {series}  {event['slug']}: {plain(event['message'])}{file}"
    if kind == "failed":
        return f"[red]failed[/]      {series}  {event['slug']}: {plain(event['message'])}"
    if kind == "unchanged":
        return f"unchanged   {series}  its result stays"
    if kind == "waiting":
        why = {"limit": "--limit was reached", "until": "--until has passed"}[event["why"]]
        return f"[yellow]waiting[/]     {event['series']} series left for the next run: {why}"
    if kind == "watching":
        return (
            f"watching {plain(event['inbox'])}: polling every {event['interval_s']:g} "
            f"s, settling for {event['settle_s']:g} s"
        )
    if kind == "finished":
        counts = ", ".join(f"{number} {name}" for name, number in event.items() if name != "event") or "nothing to do"
        return f"{counts}. {RESEARCH_USE}"
    return ""


def _of_sending(event: dict[str, Any]) -> str:
    if event["event"] == "destination":
        from covct.unattended.sending import sentence

        return plain(sentence(event))
    to = f"to {plain(event['destination'])}"
    if event["event"] == "not-reached":
        return f"[yellow]not reached[/] {to}: {plain(event['why'])}"
    counts = ", ".join(f"{event[state]} {state}" for state in ("delivered", "refused", "failed") if event[state])
    why = f": {plain(event['why'])}" if event["why"] else ""
    return f"[green]sent[/]        {short(event['folder'].split('/')[-1])}  {counts} {to}{why}"


def _of_other_files(number: int) -> str:
    """Of sources in which no series was found."""
    return f"{number} other files" + (" (of pictures, covct restore makes volumes)" if number else "")


def _figure(event: dict[str, Any]) -> str:
    """What came of a series that is done, how long it took, and what was warned of."""
    percent, figure = event["infection_percent"], "no percentage"
    if percent is not None:
        interval = event.get("infection_percent_interval")
        within = f" ({from_to(interval)})" if interval else ""
        figure = f"{share(percent, interval)}{within} opacity (class {event['severity_class']})"
    warned = f"  [yellow]{', '.join(event['warnings'])}[/]" if event["warnings"] else ""
    return f"{figure}  {event['seconds']:.1f} s{warned}"
