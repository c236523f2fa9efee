"""What of a result a destination is still to get, and what it has that no longer stands. Reads, and writes nothing."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

from covct.disk.attempts import attempt_path
from covct.disk.outcome import Outcome, read_outcome
from covct.disk.places import OUTCOME, PRIVATE, results_in
from covct.exchange.answers import Loaded
from covct.exchange.deliveries import Deliveries, Delivery, entered_folders, read_deliveries
from covct.exchange.destinations import Destination
from covct.exchange.rules import all_hold
from covct.outputs import DICOM_FORMATS, FORMATS
from covct.results.entries import read_entry

Signature = tuple[int, int, int] | None
HEADER = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")


@dataclass(frozen=True)
class Due:
    """A result, as far as a destination is concerned.

    Attributes
    ----------
    folder : str
        ``study/series`` below the output tree.
    outcome : Outcome or None
        None where the result has gone.
    entered : Deliveries
    to_send : tuple of (str, str)
        Name and sha256 of objects that the destination is to have, and has not.
    stands : tuple of Delivery
        What it is to have, and has.
    superseded : tuple of Delivery
        What it has, and the result has no longer: another object came in its place, or none.
    pruned : tuple of str
        Formats that were taken away before they were sent.
    """

    folder: str
    outcome: Outcome | None
    entered: Deliveries
    to_send: tuple[tuple[str, str], ...] = ()
    stands: tuple[Delivery, ...] = ()
    superseded: tuple[Delivery, ...] = ()
    pruned: tuple[str, ...] = ()

    @property
    def finished(self) -> str:
        return self.outcome.finished if self.outcome else ""


def folders_of(out: Path, destination: Destination) -> list[str]:
    """Every result there is, and every one of which the destination has something."""
    there = [f"{path.parent.name}/{path.name}" for path in results_in(out)]
    return [*there, *sorted(set(entered_folders(out, destination.folder)) - set(there))]


def signature(out: Path, folder: str) -> Signature:
    """Tells one outcome of a folder from the next, without reading it; None where there is none."""
    try:
        found = os.stat(out / folder / OUTCOME)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def due(out: Path, folder: str, destination: Destination) -> Due | None:
    """What a destination is to get of a result; None while that cannot be told, as the result is being replaced."""
    entered, outcome = read_deliveries(out, destination.folder, folder), read_outcome(out / folder)
    if outcome is None:
        if (out / folder).exists() or _is_under_way(out, folder):
            return None
        return Due(folder, None, entered, superseded=_superseded(entered, None))
    wanted = tuple(one for one in _objects(outcome) if format_of(one[0]) in destination.formats)
    if wanted and destination.rules:
        entry = read_entry(out / folder)
        wanted = wanted if entry and all_hold(destination.rules, entry) else ()
    has = {(one.file, one.sha256): one for one in entered.objects if one.state == "delivered"}
    return Due(
        folder,
        outcome,
        entered,
        tuple(one for one in wanted if one not in has),
        tuple(has[one] for one in wanted if one in has),
        _superseded(entered, outcome),
        _pruned(entered, outcome, destination),
    )


def _is_under_way(out: Path, folder: str) -> bool:
    """Whether the result is absent for a moment only: between two renames, or until a crash is recovered from."""
    return attempt_path(out, folder).exists() or (out / PRIVATE / "old" / folder).exists()


def _objects(outcome: Outcome) -> list[tuple[str, str]]:
    return [(name, digest) for name, digest in sorted(outcome.files.items()) if name.endswith(".dcm")]


def format_of(file: str) -> str:
    """The format that a file of a result is of; empty for none of ours."""
    return next((name for name in DICOM_FORMATS if FORMATS[name].among([file])), "")


def _superseded(entered: Deliveries, outcome: Outcome | None) -> tuple[Delivery, ...]:
    """What was pruned here since it was sent, still stands there."""
    there = set(_objects(outcome)) if outcome else set()

    def stands(one: Delivery) -> bool:
        pruned = outcome is not None and one.work_key == outcome.work_key and format_of(one.file) in outcome.pruned
        return (one.file, one.sha256) in there or pruned

    return tuple(one for one in entered.objects if one.state == "delivered" and not one.rejected and not stands(one))


def _pruned(entered: Deliveries, outcome: Outcome, destination: Destination) -> tuple[str, ...]:
    had = {format_of(one.file) for one in entered.objects if one.state == "delivered"}
    return tuple(name for name in outcome.pruned if name in destination.formats and name not in had)


def kinds_of(out: Path, dues: list[Due]) -> set[tuple[str, str]]:
    """SOP class and transfer syntax of all that is to be sent; what cannot be read is met when its turn comes."""
    found = set()
    for one in dues:
        for file, _ in one.to_send:
            try:
                header = _header(out / one.folder / file)
            except Exception:  # a damaged file raises anything
                continue
            found.add((header.sop_class, header.transfer_syntax))
    return found


def loaded(out: Path, one: Due) -> Iterator[tuple[tuple[str, str], Loaded | None]]:
    """Each object to be sent, whole and with the hash that the outcome has for it; None where its file is another."""
    for file, digest in one.to_send:
        try:
            content = (out / one.folder / file).read_bytes()
            whole = hashlib.sha256(content).hexdigest() == digest
            found = replace(_header(BytesIO(content)), file=file, sha256=digest, content=content) if whole else None
        except Exception:
            found = None
        yield (file, digest), found


def _header(source: Path | BytesIO) -> Loaded:
    from pydicom import dcmread

    header = dcmread(source, stop_before_pixels=True, specific_tags=list(HEADER))
    return Loaded(
        "", "", str(header.StudyInstanceUID), str(header.SeriesInstanceUID), str(header.SOPClassUID),
        str(header.SOPInstanceUID), str(header.file_meta.TransferSyntaxUID), b"",
    )  # fmt: skip
