"""`covct explore`."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from covct.commands.bars import progress
from covct.commands.console import plain, stderr, stdout
from covct.commands.quiet import quiet_tensorflow
from covct.disk.durable import replace_file
from covct.disk.sources import check_apart
from covct.errors import OutputNotWritable, UsageError

MOST_ROWS = 60  # of a table on a terminal


def explore_command(
    data: Annotated[Path, typer.Argument(help="Folder with training data in any known layout.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Output folder for explore.html (plots, examples) and explore.json."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout.")] = False,
    restorer: Annotated[
        Path | None, typer.Option(help="Card of the restorer, to show 8-bit CLAHE slices in HU too.")
    ] = None,
) -> None:
    """Show what training data holds, in which intensity domain, and what is left out and why."""
    if not data.is_dir():
        raise UsageError(f"no such directory: {data}")
    if out:
        check_apart(out, [data], "--out")
    from covct.data.explore import explore

    restore = None
    with progress("looking for cases", quiet=as_json) as bar:
        if restorer:
            bar.say("loading the restorer")
            with quiet_tensorflow():
                from covct.training.samples.restoration import load_restorer

                restore = load_restorer(restorer)
        bar.say(f"reading {data}")
        found = explore(data, restore, bar.at)
    document = found.as_json()
    if out:
        from covct.data.explore_page import as_html

        _write(out, {"explore.json": _text(document), "explore.html": as_html(found, data.resolve().name)})
    if as_json:
        typer.echo(_text(document), nl=False)
    else:
        _print(document)
    if out:
        stderr.print(f"written: {plain(str(out / 'explore.html'))}, explore.json")


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1) + "\n"


def _write(out: Path, files: dict[str, str]) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            replace_file(out / name, text, to_disk=False)
    except OSError as error:
        raise OutputNotWritable(f"{out}: {error.strerror}") from error


def _print(document: dict[str, Any]) -> None:
    for source in document["sources"]:
        cases = [
            one for one in document["cases"] if (one["source"], one["domain"]) == (source["source"], source["domain"])
        ]
        stdout.print(f"[bold]{plain(source['source'])}[/]: {source['domain']}, to HU {source['to_hu']}", soft_wrap=True)
        stdout.print(
            f"  {source['cases']} cases of {source['patients']} patients, {source['slices']} slices; without lung "
            f"{_or_dash(source['without_lung'])}, without infection {_or_dash(source['without_infection'])}; infection "
            f"of lung {_percent(source['infection_share'])}; {_labels(cases)}",
            soft_wrap=True,
        )
        _print_cases(cases)
    if not document["sources"]:
        stdout.print("no usable cases")
    for one in document["alike"]:
        stdout.print(
            f"alike: {plain(' and '.join(one['cases']))}, {one['slices']} pairs of slices, "
            f"correlation {one['likeness']}: one patient, or one image, under two names?",
            soft_wrap=True,
        )
    for one in document["doubtful"]:
        stdout.print(f"doubtful: {plain(one['source'])} {plain(one['case'])}: {plain(one['message'])}", soft_wrap=True)
    _print_left_out(document["left_out"])


def _labels(cases: list[dict[str, Any]]) -> str:
    counts = Counter(", ".join(one["labels"]) + (" (negative)" if one["negative"] else "") for one in cases)
    return "; ".join(f"labels {labels}" + (f" in {n}" if len(counts) > 1 else "") for labels, n in counts.items())


def _print_cases(cases: list[dict[str, Any]]) -> None:
    """Volumes one a line; single slices would only repeat what the line above says."""
    volumes = [one for one in cases if one["shape"][0] > 1]
    if volumes:
        table = Table(box=None, padding=(0, 1))
        for name in ("  case", "shape", "mm", "intensity", "axes", "infected", "cropped"):
            table.add_column(name, no_wrap=True, justify="left" if name == "  case" else "right")
        for one in volumes[:MOST_ROWS]:
            table.add_row(
                f"  {plain(one['name'][:28])}",
                "x".join(map(str, one["shape"])),
                "x".join(f"{mm:.3g}" for mm in one["spacing_mm"]) if one["spacing_mm"] else "-",
                f"{one['intensity'][0]:.0f}..{one['intensity'][4]:.0f}",
                one["orientation"].removeprefix("anterior "),
                _percent(one["infection_share"]),
                str(one["cropped"]),
            )
        stdout.print(table)
    hidden = len(volumes) - MOST_ROWS
    if hidden > 0:
        stdout.print(f"  {hidden} more: --json, or --out DIR")
    single = [one for one in cases if one["shape"][0] == 1]
    if single:
        cropped = sum(one["cropped"] for one in single)
        stdout.print(f"  {len(single)} single slices, {cropped} of them cropped; each in --json, or --out DIR")


def _print_left_out(left_out: list[dict[str, Any]]) -> None:
    if not left_out:
        stdout.print("left out: nothing")
        return
    reasons = Counter(one["slug"] for one in left_out)
    stdout.print("left out: " + ", ".join(f"{count} {slug}" for slug, count in reasons.most_common()))
    for one in left_out[:MOST_ROWS]:
        some = f", {len(one['slices'])} slices" if one["slices"] else ""
        stdout.print(
            f"  {plain(one['source'])} {plain(one['case'])}{some}: {one['slug']}: {plain(one['message'])}",
            soft_wrap=True,
        )
    if len(left_out) > MOST_ROWS:
        stdout.print(f"  {len(left_out) - MOST_ROWS} more: --json, or --out DIR")


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
