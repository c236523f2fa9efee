"""`covct platform`: the ordinary scan as a platform wants it that started this container."""

from __future__ import annotations

import os
import shutil
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from covct.commands.config_file import annotation, is_of, parameters, wanted
from covct.commands.console import plain, stderr
from covct.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from covct.platforms.assignment import Assignment, Results

_sockets = partial(typer.Option, rich_help_panel="Sockets of Grand-challenge")
_package = partial(typer.Option, rich_help_panel="Manifests of Holoscan")
# Options of a scan that are no setting: they say where things lie, or what this command decides.
DECIDED = {"sources", "out", "dry-run", "json", "move-done", "expect-input", "config"}


class Name(str, Enum):
    auto = "auto"
    mercure = "mercure"
    kaapana = "kaapana"
    holoscan = "holoscan"
    grand_challenge = "grand-challenge"


def platform_command(
    context: typer.Context,
    name: Annotated[Name, typer.Argument(help="The platform; auto: the one whose environment or folders are here.")],
    root: Annotated[Path, typer.Option(help="Folder that stands for /, to try a platform's folders.")] = Path("/"),
    image_socket: Annotated[str, _sockets(help="Path of the CT below /input.")] = "images/ct",
    lungs_socket: Annotated[
        str, _sockets(help="Path of the lung mask below /output: 1 right, 2 left.")
    ] = "images/lung-segmentation",
    infection_socket: Annotated[
        str, _sockets(help="Path of the mask of opacity below /output.")
    ] = "images/covid-19-lesion-segmentation",
    manifests: Annotated[
        Path | None, _package(help="Write app.json and pkg.json there, and do nothing else.", show_default=False)
    ] = None,
    gpu: Annotated[bool, _package("--gpu", help="The package asks for a GPU.")] = False,
) -> None:
    """Scan as the platform wants it that started this container, and write results in its form; exit 0 only if done."""
    from covct.platforms.assignment import Wishes
    from covct.platforms.recognise import named, recognise

    if manifests is not None:
        _write_manifests(name, manifests, gpu)
        return
    wishes = Wishes(root, image_socket, lungs_socket, infection_socket)
    found = recognise(os.environ, wishes) if name is Name.auto else named(name.value, os.environ, wishes)
    stderr.print(f"covct platform: {found.title}", highlight=False)
    outcomes = [_carry_out(context, assignment) for assignment in found.assignments(os.environ, wishes)]
    if not any(results.done for _, results in outcomes):
        stderr.print(f"[red]covct:[/] no series was segmented; {found.title} gets no result", soft_wrap=True)
        raise typer.Exit(3)
    if code := max(code for code, _ in outcomes):
        raise typer.Exit(code)


def _write_manifests(name: Name, folder: Path, gpu: bool) -> None:
    from covct.platforms.holoscan import write_manifests

    if name is not Name.holoscan:
        raise UsageError(f"--manifests with {name.value}: only holoscan has manifests")
    write_manifests(folder, gpu)


def _carry_out(context: typer.Context, assignment: Assignment) -> tuple[int, Results]:
    """Scan, hand over and clear up. What a killed container leaves, the next one goes on with.

    Returns
    -------
    int
        The scan's exit code, where it ended by itself: 0, or 3 where series failed or there was none.
    Results
        What was handed over; its tree is gone.
    """
    from covct.disk.durable import make_folder, output_errors
    from covct.platforms.assignment import Results
    from covct.results.entries import read_tree

    scan = context.parent.command.named("scan")  # type: ignore[union-attr]  # covct's own group
    with output_errors(assignment.out):
        make_folder(assignment.out)
    options = arguments_of(assignment, scan)
    line = [os.fspath(assignment.source), "--out", os.fspath(assignment.tree), "--expect-input", *options]
    code = scan.main(line, prog_name="covct scan", standalone_mode=False, parent=context.parent) or 0
    results = Results(assignment.tree, read_tree(assignment.tree))
    with output_errors(assignment.out):
        assignment.deliver(results)
        shutil.rmtree(assignment.tree)
    return code, results


def arguments_of(assignment: Assignment, scan: Any) -> list[str]:
    """The settings of an assignment as a command line.

    Raises
    ------
    UsageError
        One that no option of the scan has, with a near one, or a value that the option does not take.
    """
    known = {name: param for name, param in parameters(scan).items() if name not in DECIDED}
    line: list[str] = []
    for key, value in assignment.settings.items():
        name = key.replace("_", "-")
        if name not in known:
            near = did_you_mean(name, [*known, *assignment.own])
            raise UsageError(
                f"{assignment.given_in}: {plain(key)}: there is no such setting" + (f"; {near}" if near else "")
            )
        kind = annotation(scan, known[name])
        if not is_of(kind, value):
            raise UsageError(f"{assignment.given_in}: {name}: got {value!r}, wanted {wanted(kind)}")
        if value is not False:
            values = value if isinstance(value, list) else [value]
            line += [word for one in values for word in ((f"--{name}",) if one is True else (f"--{name}", str(one)))]
    return line
