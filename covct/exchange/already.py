"""What need not be pulled: series that the ledger knows, and instances that lie in the inbox."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from covct.dicom.header import Header
from covct.disk.documents import DamagedDocument
from covct.disk.outcome import read_outcome
from covct.disk.places import OUTCOME, REPORT_NAME
from covct.disk.sources import SourceFile
from covct.intake.discover import Sighting, asked, candidates, read_facts, safe_name


def in_ledger(out: Path, study_uid: str) -> set[str]:
    """Series Instance UIDs of a study that an output tree has an outcome of, or left out in favour of another."""
    found = set()
    for path in out.glob(
        f"{safe_name(study_uid)}*/*/{OUTCOME}"
    ):  # several people under one study UID have a folder each
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


def in_inbox(inbox: Path, avoid: Path | None = None) -> dict[str, set[str]]:
    """SOP Instance UIDs of what lies in an inbox, by Series Instance UID. Where files are named and filed by their
    UIDs, as pulls and listeners do it, names are believed; others are read."""
    found: dict[str, set[str]] = defaultdict(set)
    seen = Sighting()
    for file in candidates([inbox], avoid, seen):
        if named := _by_name(file):
            series, instance = named
            found[series].add(instance)
        elif isinstance(facts := asked(file, read_facts, seen), Header):
            found[facts.series_uid] |= {one.sop_instance_uid for one in facts.instances}
    return found


def _by_name(file: SourceFile) -> tuple[str, str] | None:
    """Series and instance of a file ``STUDY/SERIES/INSTANCE.dcm``."""
    study, series, name = file.path.parts[-3:] if len(file.path.parts) > 2 else ("", "", "")
    instance = name.removesuffix(".dcm")
    parts = (study, series, instance)
    is_filed = not file.member and instance != name and all("." in one and safe_name(one) == one for one in parts)
    return (series, instance) if is_filed else None
