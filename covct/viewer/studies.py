"""The results of an output tree, each with the series that it was made of, where that is at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from covct.disk.outcome import content_key, read_outcome
from covct.intake.discover import Series, discover
from covct.results.entries import Entry, read_tree, worst_first


@dataclass(frozen=True)
class Study:
    """One result.

    Attributes
    ----------
    entry : Entry
        As the morning page has it.
    folder : Path
    series : Series or None
        What it was made of; None where the sources do not hold it.
    """

    entry: Entry
    folder: Path
    series: Series | None

    @property
    def done(self) -> bool:
        """Whether there are masks and figures to look at."""
        return self.entry.status == "done"


def studies_of(out: Path, sources: Sequence[Path]) -> list[Study]:
    """Every result of a tree, those with most opacity first.

    A source belongs to a result by its contents: the SOP Instance UIDs of its slices, or the hash of its file. Results
    of versions that did not note them go by the name of the folder.

    Parameters
    ----------
    sources : sequence of Path
        Where the scans may lie.
    """
    found = discover(sources, avoid=out).series if sources else ()
    by_content = {content_key(series.content): series for series in found}
    by_folder = {series.folder: series for series in found}
    studies = []
    for entry in worst_first(read_tree(out)):
        outcome = read_outcome(out / entry.folder)
        content = outcome.content if outcome else ""
        series = by_content.get(content) if content else by_folder.get(entry.folder)
        studies.append(Study(entry, out / entry.folder, series))
    return studies
