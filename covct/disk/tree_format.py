"""The format of an output tree: which trees this covct reads and writes, and which it refuses.

A tree carries the number of its format in `.covct/format`; trees from before there was one have format 1. A change that
an older covct would misread raises the number. New fields beside known ones do not: readers pass over what they do not
know.
"""

from __future__ import annotations

import json
from pathlib import Path

from covct import __version__
from covct.errors import UsageError

TREE_FORMAT = 1
PRIVATE, NAME = ".covct", "format"


def check_format(private: Path) -> bool:
    """Whether the tree says its format.

    Parameters
    ----------
    private : Path
        `.covct` of the output tree.

    Raises
    ------
    UsageError
        A newer covct wrote it: what it means is not known here, and nothing of it may be lost.
    """
    try:
        told = json.loads((private / NAME).read_text())
        number, version = int(told["format"]), str(told.get("covct_version", ""))[:40]
    except (OSError, ValueError, TypeError, KeyError, OverflowError):
        return False
    if number > TREE_FORMAT:
        raise UsageError(
            f"{private.parent} was written by covct {version}, in format {number}; this one, {__version__}, knows "
            f"formats up to {TREE_FORMAT}. Use that version, or another output folder"
        )
    return number == TREE_FORMAT


def own_format() -> dict[str, int | str]:
    """What a tree of this version says of itself."""
    return {"format": TREE_FORMAT, "covct_version": __version__}
