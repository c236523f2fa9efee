"""The results of an output tree as FHIR Bundles, and the files they are written to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from covct.disk.documents import DamagedDocument
from covct.disk.durable import as_json, make_folder, output_errors, replace_file
from covct.disk.outcome import Outcome, moment_of
from covct.disk.places import OUTCOME, REPORT_NAME, results_in
from covct.exchange.fhir import Resource, bundle_of
from covct.pipeline.report_document import Report
from covct.results.entries import read_entry
from covct.results.identifiers import with_identifiers


def bundles(out: Path, show_identifiers: bool) -> Iterator[tuple[str, Resource | str]]:
    """The Bundle of each series that is done, with the folder of its result; in its place the reason why there is none,
    where the result is damaged."""
    for place in results_in(out):
        folder = f"{place.parent.name}/{place.name}"
        try:
            outcome = Outcome.read(place / OUTCOME)
            if outcome.status != "done":
                continue
            report = Report.read(place / REPORT_NAME).model_dump(mode="json", by_alias=True)
        except DamagedDocument as damaged:
            yield folder, str(damaged)
        except OSError as error:
            if place.exists():  # else a newer result takes its place just now
                yield folder, f"it cannot be read: {error.strerror}"
        else:
            known = _identifiers(out, place) if show_identifiers else {}
            yield folder, bundle_of(report, outcome.held, folder, moment_of(outcome), known)


def _identifiers(out: Path, place: Path) -> dict[str, str]:
    entry = read_entry(place)
    return dict(with_identifiers(out, entry).identifiers) if entry else {}


def write_bundle(to: Path, folder: str, bundle: dict[str, Any]) -> bool:
    """Write a Bundle as ``STUDY/SERIES.json``; False where this very file is there.

    Raises
    ------
    OutputNotWritable
    """
    path, content = to / f"{folder}.json", as_json(bundle).encode()
    with output_errors(to):
        with suppress(FileNotFoundError):
            if path.read_bytes() == content:
                return False
        make_folder(path.parent)
        replace_file(path, content)
    return True
