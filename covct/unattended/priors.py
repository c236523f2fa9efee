"""Earlier results of the same patient: found in this output tree and in others, and compared with.

Patients are looked up by the digests that outcomes hold, each tree's under its own key; who a candidate really is, and
when its study was, is read from the headers of its DICOM objects. Where anything speaks against one person, or nothing
but a number for it, nothing is compared.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covct.dicom.header import read_values
from covct.dicom.patient import PATIENT_TAGS, Patient, said_once, text_of, why_nobody, why_unsure
from covct.disk.outcome import Outcome, read_outcome
from covct.disk.places import REPORT_NAME, results_in
from covct.disk.sources import SourceFile
from covct.errors import SeriesError, logged
from covct.outputs import FORMATS
from covct.unattended.live import COMPARE
from covct.unattended.plan import Job
from covct.unattended.whose import owner_of, sealing, tree_key

if TYPE_CHECKING:  # highdicom and SimpleITK are for those who have work
    from covct.pipeline.lesions_since import Matched
    from covct.pipeline.report_document import Report
    from covct.pipeline.series import Clock, Result

STUDY_DAY = "StudyDate"
SEG = FORMATS["seg"].file
UNREADABLE = "one of them cannot be read, or holds no DICOM object"
MOST_CANDIDATES = 200  # of one patient, the last in the order of their folders


@dataclass(frozen=True)
class Candidate:
    """A result that bears the patient's number: its tree, its folder below that, and what stands in it."""

    tree: Path
    folder: str
    outcome: Outcome

    @property
    def path(self) -> Path:
        return self.tree / self.folder


@dataclass(frozen=True)
class Sure:
    """An earlier result that is surely the patient's, with its report, and the days to the study at hand."""

    candidate: Candidate
    report: Report
    days: int


@dataclass
class Past:
    """Results by patient in some output trees; read once, when first asked for, and told of those that are added.

    Attributes
    ----------
    trees : tuple of Path
        The run's own comes first.
    """

    trees: tuple[Path, ...]
    _known: dict[Path, _Numbers] = field(default_factory=dict)

    def of(self, who: Patient) -> list[Candidate]:
        """Results that bear this patient's number, as they stand now."""
        found = []
        for tree in self.trees:
            known = self._in(tree)
            for folder in sorted(known.folders.get(sealing(known.key)(who).id, ()))[-MOST_CANDIDATES:]:
                outcome = read_outcome(tree / folder)
                if outcome and outcome.status == "done":
                    found.append(Candidate(tree, folder, outcome))
        return found

    def only(self, who: Patient) -> Past:
        """What is known of this patient alone: another process need not read the trees."""
        known = {}
        for tree in self.trees:
            numbers = self._in(tree) if who.id else _Numbers(tree_key(tree), {})
            number = sealing(numbers.key)(who).id
            known[tree] = _Numbers(numbers.key, {number: set(numbers.folders.get(number, ()))})
        return Past(self.trees, known)

    def _in(self, tree: Path) -> _Numbers:
        key = tree_key(tree)
        if tree not in self._known or self._known[tree].key != key:  # a first result of ours makes one
            self._known[tree] = _numbers(tree, key)
        return self._known[tree]

    def look_again(self) -> None:
        """Forget what lies in other trees than the run's own: others write to them."""
        for tree in self.trees[1:]:
            self._known.pop(tree, None)

    def add(self, folder: str) -> None:
        """Take note of a result that came into the run's own tree."""
        if self.trees[0] in self._known:
            self._known[self.trees[0]].add(self.trees[0], folder)


@dataclass(frozen=True)
class _Numbers:
    """Folders of the results of a tree, by the Patient ID sealed with the tree's key."""

    key: bytes
    folders: dict[str, set[str]]

    def add(self, tree: Path, folder: str) -> None:
        outcome = read_outcome(tree / folder)
        if outcome and outcome.status == "done":
            owner = owner_of(tree / folder, outcome, sealing(self.key))
            if owner and owner.id:
                self.folders[owner.id].add(folder)


def _numbers(tree: Path, key: bytes) -> _Numbers:
    found = _Numbers(key, defaultdict(set))
    for folder in results_in(tree):
        found.add(tree, f"{folder.parent.name}/{folder.name}")
    return found


def since(past: Past, result: Result, clock: Clock) -> dict[str, Any]:
    """What has changed since the patient's last result: the report's block. Whatever is wrong, the result goes on."""
    from covct.pipeline.report_since import Since
    from covct.pipeline.since import not_compared

    try:
        return Since.parse(json.dumps(_since(past, result, clock)), "the block since", exact=True).model_dump()
    except Exception as error:  # the earlier result's trouble is not this one's
        return not_compared(f"looking for them failed ({logged(error)})")


def _since(past: Past, result: Result, clock: Clock) -> dict[str, Any]:
    from covct.pipeline.since import FIRST, compared, not_compared

    if not result.scan.headers:
        return not_compared("a volume file does not say whose it is")
    get = result.scan.headers[0].get
    me, day = said_once(get), _day(text_of(get, STUDY_DAY))
    if why := why_nobody(me):
        return not_compared(why)
    if day is None:
        return not_compared("the header has no Study Date")
    study = result.report["source"]["study_instance_uid"]
    candidates = [one for one in past.of(me) if one.outcome.study_instance_uid != study]
    sure, doubts = _sorted_out(candidates, me, day)
    if sure:
        with clock.step(COMPARE):
            earlier = _in_order(result, sure)
            last = earlier[-1]
            return compared(result.report, earlier, _prior(past, last), _lesions(result, last), bool(doubts))
    if doubts:
        told = "; ".join(sorted(doubts))
        return not_compared(f"there are results under this Patient ID that are not surely this patient's ({told})")
    return not_compared(FIRST.rstrip(".").lower(), "first")


def _in_order(result: Result, sure: list[Sure]) -> list[Sure]:
    """The oldest first; of one day that with the most similar slices last."""
    spacing = result.report["geometry"]["slice_spacing_mm"] or 0.0

    def rank(one: Sure) -> tuple[int, float, str]:
        other = one.report.geometry.slice_spacing_mm or 0.0
        return -one.days, -abs(other - spacing), one.candidate.folder

    return sorted(sure, key=rank)


def _sorted_out(candidates: Iterable[Candidate], me: Patient, day: date) -> tuple[list[Sure], set[str]]:
    """Those that are surely the patient's and of an earlier day; and why others are not surely the patient's."""
    sure, doubts = [], set()
    for one in candidates:
        try:
            told = _header(one)
            if doubt := why_unsure(me, said_once(told.get)):
                doubts.add(doubt)
            elif (then := _day(told[STUDY_DAY])) and then < day:
                sure.append(Sure(one, _report(one), (day - then).days))
        except (SeriesError, OSError, ValueError):
            doubts.add(UNREADABLE)
    return sure, doubts


def _header(one: Candidate) -> dict[str, str]:
    """Patient and day, from the smallest kind of DICOM object of a result."""
    objects = sorted(name for name in one.outcome.files if name.endswith(".dcm"))  # the SEG, the largest, is last
    for name in objects:
        with suppress(SeriesError):
            return read_values(SourceFile(str(one.path / name)), (*PATIENT_TAGS, STUDY_DAY))
    raise ValueError("no DICOM object")


def _report(one: Candidate) -> Report:
    from covct.pipeline.report_document import Report

    report: Report = Report.read(one.path / REPORT_NAME)
    if report.work_key != one.outcome.work_key:
        raise ValueError("another result's report")
    return report


def _day(text: str) -> date | None:
    try:
        return datetime.strptime(text.strip().replace(".", ""), "%Y%m%d").date()
    except ValueError:
        return None


def _prior(past: Past, last: Sure) -> dict[str, Any]:
    one = last.candidate
    return {
        "folder": one.folder,
        "elsewhere": one.tree != past.trees[0],
        "study_instance_uid": one.outcome.study_instance_uid,
        "series_instance_uid": one.outcome.series_instance_uid,
        "work_key": one.outcome.work_key,
        "masks": _masks(one),
        "days_before": last.days,
    }


def _masks(one: Candidate) -> dict[str, str] | None:
    """What tells its SEG from others."""
    if SEG not in one.outcome.files:
        return None
    keywords = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID")
    told = read_values(SourceFile(str(one.path / SEG)), keywords)
    names = ("sop_class_uid", "sop_instance_uid", "series_instance_uid")
    return {"sha256": one.outcome.files[SEG], **dict(zip(names, (told[word] for word in keywords), strict=True))}


def _lesions(result: Result, last: Sure) -> Matched | str:
    """New and vanished lesions, or why they are not matched."""
    from covct.pipeline.lesions_since import Marked, NotMatched, match
    from covct.pipeline.masks_of_result import read_masks

    one = last.candidate
    if SEG not in one.outcome.files:
        return "the earlier result has no DICOM SEG"
    for when, valid in (("now", result.report["valid_for"]["volume"]), ("then", last.report.valid_for.volume)):
        if not valid:
            return f"the lungs were not whole {when}"
    try:
        then = read_masks(one.path / SEG, one.outcome.files[SEG])
        now = Marked(result.masks.lungs, result.masks.infection, result.scan.working_affine)
        return match(now, then)
    except NotMatched as reason:
        return str(reason)
    except MemoryError:
        return "memory was short"
    except Exception as error:  # of a damaged SEG
        return f"the earlier result's SEG cannot be read ({logged(error)})"


# The order of the work


def by_day(jobs: list[Job]) -> list[Job]:
    """Jobs in their order, but several studies of one patient by date: the earlier is the later's prior."""
    ordered = list(jobs)
    of_patient: dict[str, list[int]] = defaultdict(list)
    for index, job in enumerate(jobs):
        if job.to_prepare and job.series.kind == "dicom" and (number := job.series.patient.id):
            of_patient[number].append(index)
    for places in of_patient.values():
        if len({jobs[index].series.study_folder for index in places}) > 1:
            by_date = sorted(places, key=lambda index: _first_day(jobs[index]))  # stable: else as they were
            for place, index in zip(places, by_date, strict=True):
                ordered[place] = jobs[index]
    return ordered


def _first_day(job: Job) -> str:
    """Study Date of a series' first slice; empty where it cannot be read, which its own turn will tell."""
    with suppress(SeriesError, OSError):
        day = _day(read_values(job.series.instances[0].file, (STUDY_DAY,))[STUDY_DAY])
        return day.isoformat() if day else ""
    return ""
