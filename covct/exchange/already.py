"""What need not be pulled: series that the ledger knows, and instances that lie in the inbox."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from covct.dicom.header import Header
from covct.disk.documents import DamagedDocument
from covct.disk.outcome import read_outcome
from covct.disk.places import OUTCOME, REPORT_NAME
from covct.intake.discover import Sighting, asked, candidates, read_facts, safe_name


def in_ledger(out: Path, study_uid: str) -> set[str]:
    """Series Instance UIDs of a study that an output tree has an outcome of, or left out in favour of another."""
    found = set()
    # several people under one study UID have a folder each
    for path in out.glob(f"{safe_name(study_uid)}*/*/{OUTCOME}"):
        outcome = read_outcome(path.parent)
        if outcome and outcome.study_instance_uid == study_uid:
            found |= {outcome.series_instance_uid, *_left_out(path.with_name(REPORT_NAME))}
    return found


def _left_out(report: Path) -> Iterator[str]:
    from covct.pipeline.report_document import Report

    with suppress(OSError, DamagedDocument):  # a rejected series has no report
        for one in Report.read(report).selection.left_out:
            if one.series_instance_uid:
                yield one.series_instance_uid


def in_inbox(inbox: Path, avoid: Path | None = None) -> set[str]:
    """SOP Instance UIDs of what lies in an inbox. Where files are named by UIDs, in folders that are too (pulls and
    listeners do so), names are believed; others are read."""
    found: set[str] = set()
    seen = Sighting()
    for file in candidates([inbox], avoid, seen):
        path, name = file.path, file.path.name.removesuffix(".dcm")
        if path.suffix == ".dcm" and _is_uid(name) and _is_uid(path.parent.name):
            found.add(name)
        elif isinstance(facts := asked(file, read_facts, seen), Header):
            found |= {one.sop_instance_uid for one in facts.instances}
    return found


def _is_uid(name: str) -> bool:
    return "." in name and safe_name(name) == name
