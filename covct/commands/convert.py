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
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder, for converted series only.")],
    to: Annotated[
        Target | None,
        typer.Option(help="Convert to this format only. Default: each series to the other one.", show_default=False),
    ] = None,
    strict: Strict = False,
    force: Annotated[bool, typer.Option("--force", help="Convert again and replace existing files.")] = False,
    json_events: Json = False,
) -> None:
    """Convert DICOM CT series to NIfTI in HU, and volume files to DICOM CT series marked as derived.

    Every series that passes the input gate is converted; files from the same input are kept. Names are UIDs or hashes.
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
