"""Where things lie in an output tree, and which names are names of ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

PRIVATE = ".covct"  # the folder of the tree's own state
OUTCOME, REPORT_NAME = "outcome.json", "report.json"  # of a result
SUMMARY_DUE = "summary-due"  # in the private folder: results are about to change, or have since it was written


def results_in(out: Path) -> Iterator[Path]:
    """The folders of the results of an output tree, in their order; what is being staged is none."""
    for path in sorted(out.glob(f"*/*/{OUTCOME}")):
        if not any(name.startswith(".") for name in path.parts[-3:]):
            yield path.parent


def is_output_tree(out: Path) -> bool:
    """Whether covct ever wrote here. False also where that cannot be seen."""
    try:
        return (out / PRIVATE).is_dir() or next(out.glob(f"*/*/{OUTCOME}"), None) is not None
    except OSError:
        return False


def is_foreign(out: Path) -> bool:
    """Whether a folder holds something, but nothing of ours. False also where that cannot be seen.

    What a file system or its keeper puts into a fresh one is nothing.
    """
    try:
        there = (path.name for path in out.iterdir())
        return not is_output_tree(out) and any(name != "lost+found" and not name.startswith(".") for name in there)
    except OSError:
        return False


def is_bare_name(name: str) -> bool:
    """Whether a text is the name of a file in a folder: no path, on no file system, and nothing that one refuses."""
    return name.isprintable() and name not in ("", ".", "..") and not set(name) & set("/\\") and len(name) <= 255


def is_result_folder(folder: Any) -> bool:
    """study/series: whatever a damaged note says, nothing outside the tree's results is ever taken away."""
    parts = folder.split("/") if isinstance(folder, str) else []
    return len(parts) == 2 and all(is_bare_name(part) and not part.startswith(".") for part in parts)
