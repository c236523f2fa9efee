"""The documents of an output tree that cannot be read: which file, which field, what was got and what was wanted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from covct.disk.documents import DamagedDocument, Document
from covct.disk.outcome import Outcome
from covct.disk.places import OUTCOME
from covct.disk.sources import printable
from covct.unattended.run_summary import RunSummary
from covct.unattended.runs import FOLDER

DOCUMENTS: tuple[tuple[str, type[Document]], ...] = ((f"*/*/{OUTCOME}", Outcome), (f"{FOLDER}/*.json", RunSummary))


def damage(out: Path) -> Iterator[str]:
    """Of every outcome and every run's summary of a tree, in their order: a sentence, or nothing where it is whole."""
    for pattern, kind in DOCUMENTS:
        for path in sorted(out.glob(pattern)):
            try:
                kind.read(path)
                yield ""
            except DamagedDocument as error:
                yield f"{printable(path.parent.relative_to(out))}/{error}"
            except OSError as error:
                yield f"{printable(path.relative_to(out))}: it cannot be read ({error.strerror})"
