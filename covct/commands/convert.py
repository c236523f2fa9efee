"""`covct convert`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from covct.commands.exit_codes import ended_badly
from covct.commands.options import Json, Sources, Strict, check_there
from covct.commands.told import showing
from covct.disk.signals import stoppable


class Target(str, Enum):
    nifti = "nifti"
    dicom = "dicom"


def convert_command(
    sources: Sources,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for what is converted, of its own.")],
    to: Annotated[
        Target | None,
        typer.Option(help="Only to this format. Default: each series to the other one.", show_default=False),
    ] = None,
    strict: Strict = False,
    force: Annotated[bool, typer.Option("--force", help="Convert again, replace what is there.")] = False,
    json_events: Json = False,
) -> None:
    """Convert DICOM CT series to NIfTI in HU, and volume files to DICOM CT series that are marked as derived.

    Every series that passes the input gate, named by UIDs or a hash. What is there from the same input is kept.
    """
    from covct.disk.sources import check_apart
    from covct.unattended.convert import Conversion
    from covct.unattended.convert import convert as run

    check_there(sources)
    check_apart(out, sources, "--out")
    with showing(json_events) as emit, stoppable():
        counts = run(Conversion(tuple(sources), out, to.value if to else None, force, strict), emit)
    if ended_badly(counts, strict):
        raise typer.Exit(3)
