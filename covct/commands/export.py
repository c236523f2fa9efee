"""`covct export`: results for reporting systems, networks for other runtimes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from covct import RESEARCH_USE
from covct.commands.console import plain, stderr, stdout
from covct.commands.exit_codes import EXIT_CODES
from covct.commands.quiet import quiet_tensorflow
from covct.disk.signals import stoppable
from covct.errors import DeviceMissing, UsageError

export = typer.Typer(help="Write results for reporting systems, and networks for other runtimes.", no_args_is_help=True)


@export.command("openvino", epilog=EXIT_CODES)
def openvino_command(
    weights: Annotated[
        Path, typer.Argument(help="Folder with weights and cards, such as covct train writes.", show_default=False)
    ],
) -> None:
    """Convert the networks of a folder for OpenVINO, which computes on CPUs, and name them on their cards.

    What is converted already is left as it is. A scan does finished series again, since the cards have changed.
    """
    from covct.networks.runtimes import is_installed

    if not is_installed("openvino"):
        raise DeviceMissing("this needs OpenVINO, which is not installed: pip install 'covct[cpu]'")
    with quiet_tensorflow():
        from covct.networks.to_openvino import convert_folder
    with stoppable():
        for path, card in convert_folder(weights).items():
            assert card.openvino is not None
            names = f"{card.openvino.graph}, {card.openvino.arrays}"
            stdout.print(plain(f"{path}: {names} (OpenVINO {card.openvino.version})"), soft_wrap=True, highlight=False)


@export.command("fhir", epilog=EXIT_CODES)
def fhir_command(
    out: Annotated[Path, typer.Argument(help="Output tree.", show_default=False)],
    to: Annotated[
        Path | None,
        typer.Option(help="Folder for a file a series. Default: standard output, a line a series.", show_default=False),
    ] = None,
    show_identifiers: Annotated[
        bool,
        typer.Option(
            "--show-identifiers",
            help="Say whose it is: patient ID, accession number and study date; else it is left out.",
        ),
    ] = False,
) -> None:
    """Write each result as a FHIR R4 Bundle: a preliminary DiagnosticReport with its Observations, in the SR's codes.

    Nothing is sent. Files whose contents are the same are left as they are.
    """
    from covct.disk.places import is_output_tree
    from covct.disk.sources import check_apart
    from covct.exchange.fhir_tree import bundles, write_bundle
    from covct.visible import json_line

    if not is_output_tree(out):
        raise UsageError(f"{out}: no results tree of covct")
    if to:
        check_apart(to, [out], "--to")
    counts: Counter[str] = Counter()
    with stoppable():
        for folder, made in bundles(out, show_identifiers):
            if isinstance(made, str):
                stderr.print(f"[red]not exported[/]  {plain(folder)}: {plain(made)}", soft_wrap=True, highlight=False)
                counts["not exported"] += 1
            elif to:
                counts["written" if write_bundle(to, folder, made) else "unchanged"] += 1
            else:
                print(json_line(made), flush=True)
                counts["written"] += 1
    told = ", ".join(f"{number} {what}" for what, number in counts.items()) or "no results"
    stderr.print(f"{told}. {RESEARCH_USE}", soft_wrap=True, highlight=False)
    if counts["not exported"]:
        raise typer.Exit(3)
