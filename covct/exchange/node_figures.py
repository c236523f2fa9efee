"""One metrics file for a node: the figures of its watch, what its listener received, and how its processes are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from covct.disk.durable import replace_file
from covct.unattended.parts import PartState
from covct.unattended.prometheus import METRICS

OF_LISTENER = ("covct_instances_received_total", "covct_associations_total")
OF_PARTS: dict[str, Callable[[PartState], int]] = {
    "covct_part_up": lambda state: int(state.up),
    "covct_part_restarts": lambda state: max(0, state.restarts),
}


def write_figures(file: Path, watch: Path, listen: Path, states: Iterable[PartState]) -> None:
    """Replace a file by the figures of both parts. Where the disk does not take it, it grows old: that is the sign."""
    states = list(states)
    text = _read(watch) + "".join(_family(_read(listen), name) for name in OF_LISTENER)
    for name, value in OF_PARTS.items():
        kind, about = METRICS[name]
        samples = "".join(f'{name}{{part="{state.name}"}} {value(state)}\n' for state in states)
        text += f"# HELP {name} {about}\n# TYPE {name} {kind}\n{samples}"
    with suppress(OSError):
        replace_file(file, text, to_disk=False)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""


def _family(text: str, name: str) -> str:
    """The lines of one family, with what is said of it."""
    lines = (line for line in text.splitlines() if re.match(rf"(# (HELP|TYPE) )?{name}\b", line))
    return "".join(f"{line}\n" for line in lines)
