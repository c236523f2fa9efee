"""What lies in an inbox, and which studies of it have come to rest: by names, sizes and times."""

from __future__ import annotations

import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from covct.disk.sources import Problem, SourceFile, printable
from covct.intake.discover import MEDIA, Sighting, asked, candidates
from covct.intake.unread import Unread
from covct.intake.volume_header import data_file
from covct.unattended.file_status import status_of
from covct.unattended.index import Index
from covct.unattended.moved_file import ASIDE
from covct.unattended.troubles import Troubles

TAKEN, SETTLING, UNMARKED, READY = "taken", "settling", "without marker", "ready"  # a study of the inbox
SOURCE_GONE = "source-gone"
WHOLE = ".whole"  # folder of an inbox: by the folder of a study, how many instances it has once all have come
SAY_AGAIN_S = 600.0  # between two complaints of a source that is gone
LONGEST_DELAY_S = 3600.0  # between two attempts at a study whose files cannot be read


@dataclass
class Study:
    """The files of one study, and for each a mark that changes with it; `sent_again` are those that were moved before,
    and whose instances have come again since: what came last is the study's."""

    files: list[SourceFile] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    sent_again: list[Path] = field(default_factory=list)

    @property
    def fingerprint(self) -> int:
        """The same for the same files, in whatever order they were listed."""
        return sum(self.marks)


@dataclass
class Survey(Sighting):
    """Studies by the folder of their results; `aside` are files that a crash left under the name of a move. `met` is
    called with each file."""

    met: Callable[[], None] = lambda: None
    aside: list[Path] = field(default_factory=list)
    studies: dict[str, Study] = field(default_factory=lambda: defaultdict(Study))


class Roots:
    """The folders of the sources: can they be looked at? A share that is gone shows nothing, or an empty folder."""

    def __init__(self, roots: Iterable[Path]):
        self._devices = {root: device_of(root) for root in roots}
        self._said: dict[str, float] = {}

    def problems(self, now: float) -> tuple[bool, list[Problem]]:
        """Whether all can be looked at, and what is to be told: a trouble that lasts is told again now and then."""
        found = {str(root): why for root in self._devices if (why := self._why_not(root))}
        self._said = {root: said for root, said in self._said.items() if root in found}
        due = [root for root in found if now - self._said.get(root, -math.inf) >= SAY_AGAIN_S]
        self._said |= dict.fromkeys(due, now)
        return not found, [Problem(printable(root), SOURCE_GONE, found[root]) for root in due]

    def _why_not(self, root: Path) -> str:
        """Why a folder cannot be looked at; empty where it can. With files in it, it is where it lies now: a share
        that is mounted again may have another number."""
        if self._devices[root] is None or root.is_file():
            return ""
        try:
            with os.scandir(root) as listing:
                is_empty = next(listing, None) is None
            device = os.stat(root).st_dev
        except OSError as error:
            return f"the folder cannot be listed: {error.strerror}"
        if not is_empty:
            self._devices[root] = device
        if device == self._devices[root]:
            return ""
        return "the folder is empty and on a different file system than before; wanted the share mounted"


def device_of(root: Path) -> int | None:
    try:
        return os.stat(root).st_dev
    except OSError:
        return None


def survey(
    sources: Iterable[Path],
    avoid: Path | None,
    index: Index,
    alive: Callable[[], None] = lambda: None,
    met: Callable[[], None] = lambda: None,
) -> Survey:
    """Which files belong to which study; only new and changed ones are read. `met` is called with each file."""
    sources = list(sources)
    seen = Survey(alive=alive, met=met, unread=Unread(frozenset(sources)))
    add(seen, sources, avoid, index)
    return seen


def add(seen: Survey, sources: Iterable[Path], avoid: Path | None, index: Index) -> None:
    """Survey further files or directories."""
    for file in candidates(sources, avoid, seen):
        seen.met()
        if not file.member and ASIDE.fullmatch(file.file_name):
            seen.aside.append(file.path)
        if answer := asked(file, index.study_of, seen):
            name, mark = answer
            if name == MEDIA:
                seen.media.append(file)
                seen.ignored += 1
                continue
            seen.studies[name].files.append(file)
            seen.studies[name].marks.append(mark)
            if data := data_file(file):  # goes where its header goes
                seen.studies[name].files.append(data)


@dataclass
class _Taken:
    """A study as it was when it was taken, and when it is to be tried again if it could not be read."""

    marks: frozenset[int]
    due: float | None = None
    delay: float = 0.0


class Settling:
    """Since when each study has held still, and which were taken as they are.

    A study is ready when the number, sizes and modification times of its files did not change for `settle_s`, and,
    if there is a marker, once a file of that name lies in each of its folders, or in one above within the inbox. Files
    beside it with names of unfinished transfers, and files that cannot be read, count as its own. One that has as many
    files as its sender announced, as a listener noted in `WHOLE`, has nothing to wait for. Whether the times
    lie in the future or the past does not matter, nor what the wall clock does: only changes count, and `now` runs
    evenly.

    A study that was taken is not ready again because files of it went away (they are being removed, or a network drive
    shows only a part), only for a new or changed one. One that could not be read is tried again, at longer and longer
    intervals.
    """

    def __init__(self, settle_s: float, marker: str, roots: Iterable[Path]):
        self.settle_s, self.marker = settle_s, marker
        self.roots = {str(root) for root in roots}
        self.kept_back: list[dict[str, Any]] = []  # at the last look
        self.counts = {"studies": 0, "waiting": 0, "without_marker": 0}  # of the last look: studies by what keeps them
        self.settles: dict[str, float] = {"settling_files": 0, "settles_in_s": 0.0}  # how many, and for how long
        self._since: dict[str, tuple[int, float]] = {}
        self._taken: dict[str, _Taken] = {}
        self._problems: dict[str, float] = {}
        self._told: set[str] = set()

    def ready(self, seen: Survey, index: Index, now: float, troubles: Troubles | None = None) -> list[str]:
        """Names of the studies to take now."""
        troubles = troubles or Troubles(lambda event: None)
        beside = _beside(seen.arriving + seen.unreadable)
        marked: dict[str, bool] = {}
        found: dict[str, str] = {}
        for name, study in seen.studies.items():
            found[name] = SETTLING
            with troubles.of(name, "looking whether it has settled"):
                found[name] = self._state(name, study, beside, marked, index, now)
        for kept in (self._since, self._taken):
            for gone in kept.keys() - seen.studies.keys():
                del kept[gone]
        counts = Counter(found.values())
        waiting, unmarked = counts[SETTLING] + counts[UNMARKED], counts[UNMARKED]
        self.counts = {"studies": len(seen.studies), "waiting": waiting, "without_marker": unmarked}
        unsettled = [name for name, state in found.items() if state == SETTLING]
        left = (self.settle_s - (now - self._since.get(name, (0, now))[1]) for name in unsettled)
        self.settles = {
            "settling_files": sum(len(seen.studies[name].files) for name in unsettled),
            "settles_in_s": round(max([0.0, *left]), 1),
        }
        self.kept_back = [one for name, state in found.items() if (one := self._kept_back(name, state, now))]
        return [name for name, state in found.items() if state == READY]

    def _kept_back(self, name: str, state: str, now: float) -> dict[str, Any] | None:
        """Why a study is not taken, and for how long it has been so."""
        taken = self._taken.get(name)
        if state in (SETTLING, UNMARKED):
            return {"folder": name, "why": state, "age_s": now - self._since.get(name, (0, now))[1]}
        if state == TAKEN and taken and taken.due is not None:
            return {"folder": name, "why": "unreadable", "age_s": now - taken.due + taken.delay}
        return None

    def _state(
        self, name: str, study: Study, beside: dict[str, int], marked: dict[str, bool], index: Index, now: float
    ) -> str:
        signature = study.fingerprint + _sum_beside(study, beside)
        if name not in self._since or self._since[name][0] != signature:
            self._since[name] = signature, now
        if self._is_taken(name, study, now):
            return TAKEN
        if now - self._since[name][1] < self.settle_s and not self._is_whole(name, study):
            return SETTLING
        if self.marker and not all(self._is_marked(folder, marked) for folder in _folders(study)):
            return UNMARKED
        if not all(index.still(file) for file in study.files):
            self._since[name] = signature, now
            return SETTLING
        return READY

    def take(self, name: str, study: Study, unreadable: bool, now: float) -> None:
        """Note that a study was taken as it is; `unreadable` where it is worth another attempt."""
        taken = _Taken(frozenset(study.marks))
        if unreadable:
            before = self._taken.get(name)
            delay = 2 * before.delay if before and before.marks == taken.marks else 0.0
            taken.delay = min(max(delay, self.settle_s, 10.0), LONGEST_DELAY_S)
            taken.due = now + taken.delay
        self._taken[name] = taken

    def problems(self, seen: Survey, now: float) -> list[Problem]:
        """Problems to tell of: each once, and not while a file may only be half copied."""
        current = {problem.label: problem for problem in seen.problems}
        self._told &= current.keys()
        self._problems = {label: self._problems.get(label, now) for label in current}
        stand = [label for label, since in self._problems.items() if now - since >= self.settle_s]
        new = [current[label] for label in stand if label not in self._told]
        self._told.update(stand)
        return new

    def _is_taken(self, name: str, study: Study, now: float) -> bool:
        taken = self._taken.get(name)
        return taken is not None and taken.marks.issuperset(study.marks) and (taken.due is None or now < taken.due)

    def _is_whole(self, name: str, study: Study) -> bool:
        """Whether all has come that its sender announced."""
        for root in self.roots:
            with suppress(OSError, ValueError):
                return int(Path(root, WHOLE, name).read_text()) == len(study.files)
        return False

    def _is_marked(self, folder: str, known: dict[str, bool]) -> bool:
        if folder not in known:
            here = os.path.exists(os.path.join(folder, self.marker))
            above = os.path.dirname(folder)
            # A marker in the inbox itself speaks of the files that lie there, not of every folder below.
            is_end = folder in self.roots or above in self.roots or above == folder
            known[folder] = here or (not is_end and self._is_marked(above, known))
        return known[folder]


def _folders(study: Study) -> set[str]:
    return {str(file.path.parent) for file in study.files}


def _beside(files: list[SourceFile]) -> dict[str, int]:
    """By folder or archive: what changes while unfinished files in it do."""
    found: dict[str, int] = defaultdict(int)
    for file in files:
        try:
            size, modified, *_ = status_of(file.path)
        except OSError:
            continue
        found[file.place] += 1 + size + modified
    return found


def _sum_beside(study: Study, beside: dict[str, int]) -> int:
    return sum(beside[where] for where in {file.place for file in study.files} & beside.keys()) if beside else 0
