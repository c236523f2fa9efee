"""The processes of a node, as its parent last saw them: for health checks. In the output tree's private folder."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from covct.disk.durable import replace_json

NAME = "node.json"
NOTE_EVERY_S = 5.0
STALE_S = 60.0  # an older note is that of a node that is gone: its watch's last beat tells more


@dataclass(frozen=True)
class PartState:
    """One process of a node.

    Attributes
    ----------
    name : str
        "listen" or "watch".
    up : bool
    restarts : int
        Since the node was started.
    exit_code : int or None
        Of the last that ended; negative: the signal that killed it.
    """

    name: str
    up: bool
    restarts: int
    exit_code: int | None


def note_parts(private: Path, states: Iterable[PartState]) -> None:
    """Note how they are. Where the disk does not take it the note grows old."""
    with suppress(OSError):
        replace_json(private / NAME, [asdict(state) for state in states], to_disk=False)


def read_parts(private: Path) -> list[PartState]:
    """How they were by the last note; none where there is no node, or it is gone."""
    path = private / NAME
    try:
        if abs(time.time() - path.stat().st_mtime) > STALE_S:
            return []
        return [PartState(**one) for one in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError):
        return []


def forget_parts(private: Path) -> None:
    """The node ends."""
    with suppress(OSError):
        (private / NAME).unlink()
