"""Which source files go once their studies are done, and their moving: of archives and media with the last study."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from covct.dicom.header import Header
from covct.dicom.patient import Patient
from covct.disk.outcome import Outcome
from covct.disk.sources import SourceFile, printable
from covct.errors import SeriesError
from covct.unattended import heartbeat
from covct.unattended.inbox import Survey
from covct.unattended.index import Index
from covct.unattended.move_done import move_study
from covct.unattended.one_pass import PassResult
from covct.unattended.plan import NEVER_FINAL, Order
from covct.unattended.troubles import Troubles


def movable(seen: Survey, tally: PassResult, troubles: Troubles) -> dict[str, int]:
    """Fingerprints of the studies whose files may be moved: one series is done, and nothing is to be tried again.

    Where a file beside the series cannot be read, all stay: it may be a slice, that shall not come alone.
    """
    spoiled = {file.place for file in seen.unreadable}
    return {
        name: seen.studies[name].fingerprint
        for name, outcomes in tally.studies.items()
        if name not in troubles.studies | tally.left
        and outcomes
        and _each_study_done(outcomes)
        and not any(outcome.status == "failed" or outcome.slug in NEVER_FINAL for outcome in outcomes.values())
        and not spoiled & {file.place for file in seen.studies[name].files}
    }


def _each_study_done(outcomes: dict[str, Outcome]) -> bool:
    """Whether every patient under a Study Instance UID has a result: one of them stays, all of them do."""
    studies = {folder.split("/")[0] for folder in outcomes}
    return studies == {folder.split("/")[0] for folder, outcome in outcomes.items() if outcome.status == "done"}


def move_done(
    order: Order, seen: Survey, done: dict[str, int], index: Index, troubles: Troubles, told: set[str] | None = None
) -> None:
    """Move the source files of studies that are done and have not changed since. Archives: once all in them is done.

    `told` are studies of which it has been said that they cannot be moved.
    """
    if not order.move_done or not done:
        return
    told = set() if told is None else told
    ready = {name for name, study in seen.studies.items() if done.get(name) == study.fingerprint}
    kept = {file.path for name, study in seen.studies.items() if name not in ready for file in study.files}
    spoiled = {one.label[: mark.start()] for one in seen.problems for mark in re.finditer("!", one.label)}
    spoiled |= {printable(file.path) for files in seen.unread.kinds.values() for file in files if file.member}
    media = media_of(seen, ready)
    alive = heartbeat.now_and_then(troubles.emit)
    for name in sorted(ready):
        alive()
        with troubles.of(name, "moving its files"):
            mine = (*seen.studies[name].files, *media[name])
            unchanged = {file.path: status for file in mine if (status := index.still(file))}
            files = {path: s for path, s in unchanged.items() if path not in kept and printable(path) not in spoiled}
            gone = seen.studies[name].sent_again
            reasons = move_study(name, files, order.sources, order.move_done, order.marker, alive, gone)
            if reasons and name not in told:
                told.add(name)
                troubles.emit({"event": "not-moved", "study": name, "files": len(files), "message": reasons[0]})


def sent_again(moved: Iterable[Path], files: Iterable[SourceFile], index: Index) -> list[Path]:
    """Of files that were moved before, those whose instances lie among these files again, under the same patient."""
    moved = list(moved)
    there = {who for file in files for who in _instances(file, index)} if moved else set()
    return [path for path in moved if (mine := _instances(SourceFile(str(path)), index)) and mine <= there]


def _instances(file: SourceFile, index: Index) -> set[tuple[str, Patient]]:
    try:
        facts = index.facts_of(file)
    except SeriesError:
        return set()
    return {(one.sop_instance_uid, one.patient) for one in facts.instances} if isinstance(facts, Header) else set()


def media_of(seen: Survey, ready: set[str]) -> dict[str, list[SourceFile]]:
    """Media directories by the study that they go with: the last to go of those that lie where the directory does."""
    media = [file for file in seen.media if not file.member]
    below = _studies_below({file.path.parent for file in media}, seen)
    last = {folder: max(names) for folder, names in below.items() if names <= ready}
    found: dict[str, list[SourceFile]] = defaultdict(list)
    for file in media:
        if name := last.get(file.path.parent):
            found[name].append(file)
    return found


def _studies_below(folders: set[Path], seen: Survey) -> dict[Path, set[str]]:
    """Names of the studies by those of the folders that a file of theirs lies below. Each of their folders is asked
    once: an inbox of thousands of media has as many directories as studies."""
    found: dict[Path, set[str]] = defaultdict(set)
    for name, study in seen.studies.items() if folders else ():
        for parent in {file.path.parent for file in study.files}:
            for folder in folders.intersection((parent, *parent.parents)):
                found[folder].add(name)
    return found
