"""`covct prune`."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from covct.commands.console import plain, stderr, stdout
from covct.commands.options import Json
from covct.disk.signals import stoppable
from covct.errors import UsageError
from covct.outputs import FORMATS

REPORT = "report"


def prune_command(
    out: Annotated[Path, typer.Argument(help="Output tree.", show_default=False)],
    older_than: Annotated[
        str,
        typer.Option(
            help="Results first computed so long ago: 90d, 12w, 24h; or before a date, 2026-01-31.", show_default=False
        ),
    ],
    keep: Annotated[
        str, typer.Option(help=f"Formats that stay, separated by commas: {REPORT}, {', '.join(FORMATS)}.")
    ] = f"{REPORT},seg",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed, and remove nothing.")] = False,
    json_events: Json = False,
) -> None:
    """Remove formats from old results of an output tree; outcome, report and what is to be kept stay."""
    from covct.commands.results import check_tree
    from covct.disk.places import is_output_tree
    from covct.unattended.prune import prune

    check_tree(out)
    if not is_output_tree(out):  # an empty folder is none yet, and shall not become one
        raise UsageError(f"{out} is not an output tree of covct, or cannot be read")
    before, kept = _moment(older_than), _formats(keep)
    results = size = 0
    with stoppable():
        for one in prune(out, before, kept, dry_run=dry_run):
            results, size = results + 1, size + one.bytes
            if json_events:
                told = {"folder": one.folder, "formats": one.formats, "files": len(one.files), "bytes": one.bytes}
                print(json.dumps({"event": "pruned", **told, "dry_run": dry_run}), flush=True)
            else:
                line = f"{one.folder}: {', '.join(one.formats)}, {len(one.files)} files, {_megabytes(one.bytes)}"
                stdout.print(plain(line), highlight=False, soft_wrap=True)
    if json_events:
        print(json.dumps({"event": "finished", "results": results, "bytes": size, "dry_run": dry_run}))
    removed = f"{_megabytes(size)} {'would be ' if dry_run else ''}removed"
    stderr.print(f"{removed} from {results} results first computed before {before:%Y-%m-%d %H:%M}")


def _moment(text: str) -> datetime:
    from covct.unattended.since_until import parse_since

    try:
        return parse_since(text, datetime.now().astimezone())
    except (ValueError, OverflowError):
        raise UsageError(f"--older-than {text}: wanted how long ago (90d, 12w, 24h), or a date (2026-01-31)") from None


def _formats(text: str) -> set[str]:
    names = {name.strip() for name in text.split(",") if name.strip()}
    if unknown := names - {REPORT, *FORMATS}:
        raise UsageError(f"--keep names {', '.join(sorted(unknown))}; wanted {REPORT}, {', '.join(FORMATS)}")
    if not names:
        raise UsageError(f"--keep names nothing; wanted {REPORT} where nothing else is to stay")
    return names - {REPORT}


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
