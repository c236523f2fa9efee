"""Which scans and watches run on this machine, or in this container: by the kernel's list of processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

COMMANDS = ("scan", "watch")


def output_trees(processes: Path = Path("/proc")) -> list[Path]:
    """The output trees of all that may be asked, each once; a health check need not know where they lie."""
    return sorted(set(_trees(processes)))


def _trees(processes: Path) -> Iterator[Path]:
    for process in processes.iterdir():
        if not process.name.isdecimal():
            continue
        with suppress(OSError):  # gone meanwhile, or another user's
            words = [os.fsdecode(word) for word in (process / "cmdline").read_bytes().split(b"\0")]
            if tree := _tree(words):
                yield Path(tree) if os.path.isabs(tree) else Path(os.readlink(process / "cwd")) / tree


def _tree(words: list[str]) -> str:
    """The output tree of a covct's command line; empty for other processes."""
    names = [os.path.basename(word) for word in words]
    called = [place for place, name in enumerate(names[:-1]) if name == "covct" and words[place + 1] in COMMANDS]
    for place in range(called[0] + 2, len(words)) if called else ():
        option, equals, value = words[place].partition("=")
        if option == "--out" and equals:
            return value
        if words[place] in ("-o", "--out") and place + 1 < len(words):
            return words[place + 1]
        if words[place].startswith("-o") and not words[place].startswith("--"):
            return words[place][2:].removeprefix("=")
    return ""
