"""One pass over what was found: what is finished is skipped, the rest done in turn, and the summary written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from covct.disk import state
from covct.disk.durable import output_errors
from covct.disk.outcome import Outcome, read_outcome
from covct.disk.places import PRIVATE, SUMMARY_DUE
from covct.intake.discover import Discovery
from covct.outputs import Emit
from covct.results.summary import Summary
from covct.unattended.job_events import job_event, skipped_event
from covct.unattended.live import UNKNOWN_SLICES
from covct.unattended.one_series import do
from covct.unattended.plan import Job, Order, follow, plan, superseded
from covct.unattended.preparing import Kept, line
from covct.unattended.priors import Past, by_day
from covct.unattended.troubles import Troubles

if TYPE_CHECKING:  # OpenCV is for those who have work
    from covct.networks.network import Networks


@dataclass
class PassResult:
    """How a pass ended, by status; the outcomes of each study that it came to the end of, by folder; the studies that
    lost a file, which could be listed and not be read; and those of which a series was left for the next run."""

    counts: Counter[str] = field(default_factory=Counter)
    studies: dict[str, dict[str, Outcome]] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)

    def __getitem__(self, status: str) -> int:
        return self.counts[status]

    @property
    def series(self) -> int:
        """How many there were, whatever came of them and whenever."""
        finished = ("done", "rejected", "failed")
        return sum(self[status] + self[f"{status} before"] for status in finished) + self["waiting"]


@dataclass
class Pass:
    """A pass under way: what is asked for, and what came of it so far.

    Attributes
    ----------
    cards : dict of str to str
        The hash of each weight card.
    past : Past
        Results that others are compared with.
    started : int
        Series that this run has begun.
    touched : list of str
        Folders of those that were done, at once: whatever ends the work, the summary knows of them.
    left : list of str
        Folders of those that no time was left for.
    why : str
        Why they were left.
    """

    order: Order
    cards: dict[str, str]
    troubles: Troubles
    past: Past
    tally: PassResult
    started: int
    touched: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    why: str = ""

    @property
    def emit(self) -> Emit:
        return self.troubles.emit

    def begins(self, job: Job) -> bool:
        """Whether a job is to be done now. One that is not is counted, told of, or left for the next run."""
        if not _is_due(self.order, job, self.troubles, self.tally):
            return False
        self.why = self.why or closed(self.order, self.started)
        if self.why:
            self.left.append(job.series.folder)
            self.tally.left.add(job.series.study_folder)
        return not self.why

    def take(self, job: Job, ended: Outcome | Kept) -> Job | None:
        """Count how a job ended. Returns the next best series of its study, where that is to be done now."""
        if isinstance(ended, Kept):
            self.started -= 1  # it gets no outcome in this run
            outcome = _kept(self.order, job, ended, self.troubles, self.tally)
        else:
            outcome = ended
            self.touched.append(job.series.folder)
            self.tally.counts[outcome.status] += 1
        self.tally.studies[job.series.study_folder][job.series.folder] = outcome
        return follow(self.order, job, outcome, self.cards)


Hands = Callable[[Pass, list[Job]], None]  # what does the jobs of a pass


def one_pass(
    order: Order,
    found: Discovery,
    hands: Hands,
    troubles: Troubles,
    cards: dict[str, str],
    before: dict[str, dict[str, Outcome]],
    summary: Summary,
    past: Past,
) -> PassResult:
    """Bring everything found to an outcome. The caller holds the lock.

    `hands` do the work: `in_turn`, or workers side by side. `before` are the outcomes of studies that need no look,
    `past` the results that others are compared with.
    """
    jobs, emit = by_day(plan(order, found, cards)), troubles.emit
    tally = PassResult(studies={one.study_folder: {} for one in found.series} | before)
    if found.problems:
        tally.counts["unreadable files"] = len(found.problems)
    emit(_found_event(found, jobs, sum(map(len, before.values()))))
    for folder, outcome in (item for outcomes in before.values() for item in outcomes.items()):
        tally.counts[_counted(order, folder, outcome)] += 1
        emit(skipped_event(folder, outcome))
    due = order.out / PRIVATE / SUMMARY_DUE
    outlived = _outlived(order, jobs)
    if outlived or any(job.to_do for job in jobs):
        with output_errors(order.out):
            due.touch()
        state.withdraw(order.out, outlived)
    work = Pass(order, cards, troubles, past, tally, len(order.already))
    try:
        hands(work, jobs)
        if left := work.left:
            emit({"event": "kept-back", "studies": [{"folder": one, "why": work.why, "age_s": 0.0} for one in left]})
            tally.counts["waiting"] = len(left)
            emit({"event": "waiting", "series": len(left), "why": work.why})
    except BaseException:
        with suppress(OSError):  # the page of what was finished, if the disk still takes it
            summary.write(work.touched)
        raise
    with output_errors(order.out):
        if due.exists() or not all((order.out / name).exists() for name in ("summary.csv", "index.html")):
            emit({"event": "alive", "step": "page"})
            summary.write(work.touched)
            due.unlink(missing_ok=True)
    emit({"event": "finished", **with_troubles(tally, troubles).counts})
    return tally


def in_turn(networks: Callable[[], Networks], work: Pass, jobs: list[Job]) -> None:
    """Do the jobs one after the other in this process."""
    order = work.order
    with line(order, networks) as prepare:
        while jobs:
            job = jobs.pop(0)
            if not work.begins(job):
                continue
            work.started += 1
            following = None if closed(order, work.started) else next((one for one in jobs if one.to_prepare), None)
            with work.troubles.of(job.series.study_folder, "working on a series"):
                ended = do(order, job, prepare, work.emit, work.past, following)
                if next_best := work.take(job, ended):
                    jobs.insert(0, next_best)


def _is_due(order: Order, job: Job, troubles: Troubles, tally: PassResult) -> bool:
    """Whether a job is to be done; one that is finished is counted, one that could not be planned is told of."""
    if job.finished:
        tally.counts[_counted(order, job.series.folder, job.finished)] += 1
        tally.studies[job.series.study_folder][job.series.folder] = job.finished
        troubles.emit(job_event("skipped", job, status=job.finished.status, slug=job.finished.slug))
        return False
    if job.trouble and _has_result(order, job):
        troubles.tell(job.series.study_folder, f"{job.trouble} while planning; its earlier result stays")
        return False
    return True


def _kept(order: Order, job: Job, kept: Kept, troubles: Troubles, tally: PassResult) -> Outcome:
    """Count a series whose result stays. One that could not be compared is a trouble, and its study is tried again."""
    study, folder = job.series.study_folder, job.series.folder
    tally.counts[_counted(order, folder, kept.outcome)] += 1
    if kept.slug:
        tally.lost.add(study)
        troubles.tell(study, f"{kept.message}; its earlier result stays", kept.slug)
    else:
        state.withdraw(order.out, superseded(job.choice))
    return kept.outcome


def with_troubles(tally: PassResult, troubles: Troubles) -> PassResult:
    if troubles.count:
        tally.counts["troubled"] = troubles.count
    return tally


def _has_result(order: Order, job: Job) -> bool:
    """Whether a result of whatever state of the series stands, which no failure to plan takes away."""
    outcome = read_outcome(order.out / job.series.folder)
    return outcome is not None and outcome.status == "done"


def _counted(order: Order, folder: str, outcome: Outcome) -> str:
    """Under which name a finished series counts: what an earlier process of this run did was not there before it."""
    return outcome.status if folder in order.already else f"{outcome.status} before"


def closed(order: Order, started: int) -> str:
    """Why no further series is started; empty where one is."""
    if order.limit is not None and started >= order.limit:
        return "limit"
    return "until" if order.until and datetime.now(UTC) >= order.until else ""


def _found_event(found: Discovery, jobs: list[Job], before: int) -> dict[str, Any]:
    return {
        "event": "found",
        "candidates": len(found.series) + before,
        "to_do": sum(job.to_do for job in jobs),
        "finished_before": sum(not job.to_do for job in jobs) + before,
        "slices_to_do": sum(len(job.series.instances) or UNKNOWN_SLICES for job in jobs if job.to_do),
        "problems": len(found.problems),
        "ignored_files": found.ignored,
    }


def _outlived(order: Order, jobs: list[Job]) -> list[str]:
    """Results that a better one of their study would have superseded, had they been readable when it was made."""
    done = [job.choice for job in jobs if job.finished and job.finished.status == "done"]
    folders = [folder for choice in done for folder in superseded(choice)]
    return [folder for folder in folders if (order.out / folder).exists()]
