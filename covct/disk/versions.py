"""Versions of all that lies on disk, and which of it this covct reads. No other module decides that.

- A field that is new beside known ones raises no version. Readers pass over what they do not know, and a field with a
  default may be absent from what an earlier version wrote.
- A change that an older covct would misread raises the version of the document, and of the tree where it lies in one.
- Older trees and weights are read. Newer trees, and cards of another format, are refused with a sentence.
- A result whose `RESULT_VERSION` is another one is whole and valid; a scan does it again, since its work key differs.

A tree carries the number of its format in `.covct/format`; trees from before there was one have format 1.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from covct import __version__
from covct.errors import UsageError

RESULT_VERSION = 9  # part of each work key: raise it when the same input would give another result
TREE_FORMAT = 1
CARD_FORMAT: Literal[1] = 1
EVALUATION_FORMAT: Literal[1] = 1
NAME = "format"  # of the file in the tree's private folder

# What a document says of itself: its name, and the version of its format.
ReportSchema = Literal["covct-report-1"]
RunSchema = Literal["covct-run-1"]
EvaluationSchema = Literal["covct-evaluation-1"]
REPORT: ReportSchema = "covct-report-1"
RUN: RunSchema = "covct-run-1"
EVALUATION: EvaluationSchema = "covct-evaluation-1"
# What documents that bear no such name are published as.
OUTCOME = "covct-outcome-1"
EVENT = "covct-event-1"
CONVERT_EVENT = "covct-convert-event-1"
PULL_EVENT = "covct-pull-event-1"
TRAIN_EVENT = "covct-train-event-1"
EVALUATE_EVENT = "covct-evaluate-event-1"
CARD = f"covct-card-{CARD_FORMAT}"


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
