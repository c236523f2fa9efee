"""`covct export`: networks for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from covct.commands.console import plain, stdout
from covct.commands.exit_codes import EXIT_CODES
from covct.commands.quiet import quiet_tensorflow
from covct.disk.signals import stoppable
from covct.errors import DeviceMissing

export = typer.Typer(help="Write networks for other runtimes.", no_args_is_help=True)


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
