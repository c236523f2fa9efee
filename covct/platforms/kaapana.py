"""Kaapana's contract for processing containers: a folder for each element of a batch, named by environment variables.

https://kaapana.readthedocs.io/en/latest/development_guide/. Each element is scanned by itself: in a batch every series
was chosen by a person, also two of one study.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from covct.errors import UsageError
from covct.platforms.assignment import Assignment, Platform, Results, Wishes
from covct.platforms.deliver import as_received, lay_out, tell
from covct.results.entries import Entry

VARIABLES = ("WORKFLOW_DIR", "BATCH_NAME", "OPERATOR_IN_DIR", "OPERATOR_OUT_DIR")


def is_here(environment: Mapping[str, str], wishes: Wishes) -> bool:
    return all(environment.get(name) for name in VARIABLES)


def assignments(environment: Mapping[str, str], wishes: Wishes) -> Iterable[Assignment]:
    """One for each element of the batch that has the input."""
    if missing := [name for name in VARIABLES if not environment.get(name)]:
        raise UsageError(f"{', '.join(missing)} not set; Kaapana sets {', '.join(VARIABLES)}")
    workflow, batch, source, out = (environment[name].strip("/") for name in VARIABLES)
    place = wishes.path(workflow)
    elements = sorted(one for one in (place / batch).glob("*") if (one / source).is_dir())
    if not elements and (place / source).is_dir():  # the input of a workflow without a batch
        elements = [place]
    if not elements:
        raise UsageError(
            f"no {source} in {place} or in an element of {place / batch}; wanted the input of the operator"
        )
    for element in elements:
        yield _assignment(element / source, element / out)


def _assignment(source: Path, out: Path) -> Assignment:
    def deliver(results: Results) -> None:
        name = _own_name if len(results.done) == 1 else as_received
        tell(results, out, lay_out(results, out, name))

    return Assignment(source, out, deliver)


def _own_name(entry: Entry, path: Path) -> str:
    return path.name


KAAPANA = Platform("Kaapana", ", ".join(VARIABLES), is_here, assignments)
