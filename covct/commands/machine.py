"""`covct health` and `covct doctor`: is a run alive, is this machine fit?"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from covct.commands import scan
from covct.commands.console import plain, stdout
from covct.commands.options import WeightsDir
from covct.errors import UsageError
from covct.visible import json_line


def health_command(
    out: Annotated[
        Path | None,
        typer.Argument(
            help="Output tree. Default: those of all scans and watches on this machine.", show_default=False
        ),
    ] = None,
    max_age: Annotated[
        float, typer.Option(help="Longest time since the last sign of life, in seconds.", min=1)
    ] = 1800.0,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")] = False,
) -> None:
    """Check that scans and watches are alive; exit 3 if one hangs, was killed, failed or lost its source."""
    from covct.disk.places import PRIVATE
    from covct.unattended.parts import read_parts
    from covct.unattended.running import output_trees
    from covct.unattended.status import life

    if out is not None and not out.is_dir():
        raise UsageError(f"no such directory: {out}")
    trees = [out] if out else output_trees()
    found = [life(tree, max_age) for tree in trees]
    down = [[part for part in read_parts(tree / PRIVATE) if not part.up] for tree in trees]
    if not found:
        typer.echo("no scan or watch is running on this machine")
    for one, parts in zip(found, down, strict=True):
        if json_output:
            told = {"healthy": one.healthy and not parts, "state": one.state, "age_s": one.age_s, "max_age_s": max_age}
            told |= {"down": [part.name for part in parts]} if parts else {}
            typer.echo(json.dumps({**told, "state": None if one.beat is None else one.state}))
        elif one.beat is None:
            typer.echo("covct has not given a sign of life here yet")
        else:
            typer.echo(f"{one.state}, {one.age_s:.0f} s ago ({one.beat.time}); wanted {max_age:g} s or less")
        for part in parts if not json_output else ():
            typer.echo(f"the node's {part.name} is down: it ended with exit code {part.exit_code}")
    if any(down) or not all(one.healthy for one in found):
        raise typer.Exit(3)


def doctor_command(
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Output tree to test by writing to it.", show_default=False)
    ] = None,
    weights: WeightsDir = None,
    networks: Annotated[
        bool, typer.Option("--networks", help="Also load both networks and look for a GPU; takes some seconds.")
    ] = False,
    require_gpu: Annotated[
        bool, typer.Option("--require-gpu", help="Exit 13 if there is no GPU; implies --networks.")
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object per check to stdout.")] = False,
) -> None:
    """Check packages, weights, device, memory, disk, locks and decoders here, with a fix for every problem."""
    from covct.networks.cards import default_weights_folder
    from covct.unattended.doctor import examine, exit_code

    folder = weights or default_weights_folder()
    load = scan.networks_of(folder, "auto", False) if networks or require_gpu else None
    found = []
    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    for check in examine(out, folder, load, require_gpu):
        found.append(check)
        if json_output:
            fields = {**asdict(check), "exit_code": check.exit_code if check.verdict == "fail" else 0}
            print(json_line(fields), flush=True)
            continue
        fix = f"\n      -> {plain(check.fix)}" if check.fix else ""
        line = f"[{colours[check.verdict]}]{check.verdict:4}[/]  {plain(check.name)}: {plain(check.message)}{fix}"
        stdout.print(line, highlight=False, soft_wrap=True)
    if code := exit_code(found):
        raise typer.Exit(code)
