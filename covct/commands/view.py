"""`covct view`."""

from __future__ import annotations

import os
import sys
import tempfile
import webbrowser
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from covct.commands import scan
from covct.commands.bars import progress
from covct.commands.console import plain, stderr
from covct.commands.options import (
    DeviceOption,
    Runtime,
    RuntimeOption,
    Weights,
    check_places,
    check_there,
    order_of,
)
from covct.commands.restore import Anterior, Restorer, SourceKind
from covct.commands.told import showing
from covct.disk.signals import stoppable, unbroken
from covct.errors import Stopped, UsageError

if TYPE_CHECKING:
    from covct.viewer.server import Server

_server = partial(typer.Option, rich_help_panel="Server")
_correcting = partial(typer.Option, rich_help_panel="Corrections")

MASKS = ("seg",)  # of a scan that is only looked at


def view_command(
    place: Annotated[
        Path,
        typer.Argument(help="Output tree; or a scan: DICOM folder, volume file or 8-bit picture.", show_default=False),
    ],
    sources: Annotated[
        list[Path] | None,
        typer.Argument(help="Of an output tree: where its scans lie, to correct and compare.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Of a scan: output tree to keep its results in. Default: none.", show_default=False
        ),
    ] = None,
    source_kind: Annotated[
        SourceKind | None,
        typer.Option(help="Of a picture: what its grey values are. Default: told by themselves.", show_default=False),
    ] = None,
    anterior: Annotated[
        Anterior | None, typer.Option(help="Side of a picture that shows the front of the patient. Default: up.")
    ] = None,
    reader: Annotated[str, _correcting(help="Name of the reader who corrects, as the masks' creator.")] = "",
    save_to: Annotated[Path, _correcting(help="Folder for corrected masks.")] = Path("corrected"),
    with_scan: Annotated[
        bool, _correcting("--with-scan", help="Copy the scan beside its corrected masks, as covct train wants it.")
    ] = False,
    host: Annotated[str, _server(help="Address to listen on. Others than this machine reach it only if told.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, _server(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 0,
    no_browser: Annotated[bool, _server("--no-browser", help="Only print the address.")] = False,
    weights: Weights = None,
    device: DeviceOption = "auto",
    runtime: RuntimeOption = Runtime.auto,
) -> None:
    """Look at results or a scan in the browser, compare the masks with a truth, and correct them.

    A scan is segmented first. The viewer ends with Ctrl-C; nothing leaves the machine.
    """
    from covct.disk.places import is_output_tree
    from covct.viewer.answers import Viewer
    from covct.viewer.server import listening
    from covct.viewer.studies import studies_of

    check_there([place, *(sources or [])])
    is_tree = is_output_tree(place)
    trees = [tree.resolve() for tree in (place if is_tree else None, out) if tree]
    if any(map(save_to.resolve().is_relative_to, trees)) or is_output_tree(save_to):
        raise UsageError(f"--save-to {save_to} lies in an output tree, which holds results alone")
    with tempfile.TemporaryDirectory(prefix="covct-view-") as scratch, stoppable():
        if is_tree:
            if out:
                raise UsageError(f"{place} is an output tree, and --out is for a scan; wanted one of them")
            tree = place
        else:
            tree, sources = _segmented(
                [place, *(sources or [])], out, Path(scratch), weights, device, runtime, source_kind, anterior
            )
        front = (anterior or Anterior.up).value
        viewer = Viewer(studies_of(tree, sources or []), save_to, reader, with_scan, front)
        with listening(viewer, host, port) as server:
            _serve(server, no_browser)


def _segmented(
    places: Sequence[Path],
    out: Path | None,
    scratch: Path,
    weights: Path | None,
    device: str,
    runtime: Runtime,
    source_kind: SourceKind | None = None,
    anterior: Anterior | None = None,
) -> tuple[Path, list[Path]]:
    """The output tree of scans, and where they now lie: pictures are brought to HU first."""
    from covct.outputs import Outputs
    from covct.unattended import batch

    told = source_kind.value if source_kind else None, anterior.value if anterior else None
    sources = _in_hounsfield(places, scratch / "restored", weights, *told)
    outputs = Outputs() if out else Outputs(MASKS)
    order = order_of(sources, out or scratch / "results", outputs, weights)
    check_places(order)
    with showing(json_events=False) as emit:
        tally = batch.scan(order, scan.networks_of(order.weights, device, False, runtime.value), emit)
    if not tally["done"] + tally["done before"]:
        raise typer.Exit(3)
    return order.out, sources


def _in_hounsfield(
    places: Sequence[Path], folder: Path, weights: Path | None, kind: str | None, anterior: str | None
) -> list[Path]:
    from covct.data.pictures import is_picture
    from covct.data.restore import find_images, restore_case
    from covct.networks.cards import RESTORER, default_weights_folder

    restorer = Restorer((weights or default_weights_folder()) / RESTORER)
    sources = list(places)
    pictures = [number for number, place in enumerate(places) if place.is_file() and is_picture(place)]
    with progress("restoring pictures", quiet=not pictures) as restorer.bar:
        for done, number in enumerate(pictures):
            sources[number] = folder / str(number)
            restorer.begin(done, len(pictures))
            for case in find_images(places[number], anterior).cases:
                restore_case(case, sources[number], kind, restorer)
    return sources


def _serve(server: Server, no_browser: bool) -> None:
    from covct.viewer.guard import is_loopback

    guard = server.guard
    if not is_loopback(guard.host):
        stderr.print(
            f"[yellow]covct:[/] anybody who has the address below, or reads along on the way to {plain(guard.host)}, "
            "can see these scans; an SSH tunnel to 127.0.0.1 is safer",
            soft_wrap=True,
        )
    try:
        with unbroken():
            typer.echo(guard.address(guard.token))
            sys.stdout.flush()
        stderr.print("Ctrl-C ends the viewer.")
        if not no_browser and _has_screen():
            webbrowser.open(guard.address(guard.once))
        server.serve_forever()
    except Stopped:
        stderr.print("The viewer has ended.")


def _has_screen() -> bool:
    """Whether there is something to open a browser on: one for terminals would take this one over."""
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
