"""Where things lie in an output tree, and which names are names of ours."""

from __future__ import annotations

from typing import Any

PRIVATE = ".covct"  # the folder of the tree's own state
OUTCOME = "outcome.json"


def is_bare_name(name: str) -> bool:
    """Whether a text is the name of a file in a folder: no path, on no file system, and nothing that one refuses."""
    return name.isprintable() and name not in ("", ".", "..") and not set(name) & set("/\\") and len(name) <= 255


def is_result_folder(folder: Any) -> bool:
    """study/series: whatever a damaged note says, nothing outside the tree's results is ever taken away."""
    parts = folder.split("/") if isinstance(folder, str) else []
    return len(parts) == 2 and all(is_bare_name(part) and not part.startswith(".") for part in parts)
