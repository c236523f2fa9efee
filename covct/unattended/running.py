"""Which scans and watches run on this machine, or in this container: by the kernel's list of processes.

A scan for a platform has no output tree on its command line; its process holds the tree's lock open.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from covct.disk.places import PRIVATE
from covct.disk.state import LOCK

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
            if _called(words, ("platform",)):
                yield from _held(process / "fd")
            elif tree := _tree(words):
                yield Path(tree) if os.path.isabs(tree) else Path(os.readlink(process / "cwd")) / tree


def _called(words: list[str], commands: Collection[str]) -> list[int]:
    """Where a command line names covct, with one of these commands behind it."""
    names = [os.path.basename(word) for word in words]
    return [place for place, name in enumerate(names[:-1]) if name == "covct" and words[place + 1] in commands]


def _held(descriptors: Path) -> Iterator[Path]:
    """The output trees whose locks a process has open."""
    for one in descriptors.iterdir():
        with suppress(OSError):
            opened = Path(os.readlink(one))
            if opened.name == LOCK and opened.parent.name == PRIVATE:
                yield opened.parent.parent


def _tree(words: list[str]) -> str:
    """The output tree of a covct's command line; empty for other processes."""
    called = _called(words, COMMANDS)
    for place in range(called[0] + 2, len(words)) if called else ():
        option, equals, value = words[place].partition("=")
        if option == "--out" and equals:
            return value
        if words[place] in ("-o", "--out") and place + 1 < len(words):
            return words[place + 1]
        if words[place].startswith("-o") and not words[place].startswith("--"):
            return words[place][2:].removeprefix("=")
    return ""
