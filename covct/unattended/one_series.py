"""One series to its outcome, whatever happens to it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covct import __version__
from covct.disk import state
from covct.disk.attempts import MOST_ATTEMPTS, Attempt, begin_attempt, forgive_attempt, note_comparing
from covct.disk.durable import link_or_copy, output_errors, write_json
from covct.disk.outcome import Outcome, content_key, first_computed, read_outcome, with_moments
from covct.disk.places import PRIVATE, REPORT_NAME
from covct.errors import RunError, Stopped, UsageError
from covct.networks.cards import file_sha256
from covct.outputs import FORMATS, Emit, Event, formats_for
from covct.unattended.ahead import Line
from covct.unattended.job_events import file_meant, job_event
from covct.unattended.live import COMPARE
from covct.unattended.logs import hashed, identifier_key
from covct.unattended.plan import NEVER_FINAL, Job, Order, superseded
from covct.unattended.preparing import End, Kept, Loaded, Prepared, Read, clock_of, ends
from covct.unattended.priors import Past, since
from covct.unattended.replaced import still_of
from covct.unattended.whose import record

if TYPE_CHECKING:  # highdicom and SimpleITK are for those who have work
    from covct.pipeline.series import Clock, Result

CRASHED = "the attempts before this one ended in a crash while it was compared"


@dataclass(frozen=True)
class Worked:
    """What came of a series whose files lie in a stage, of which the ledger knows nothing yet.

    Attributes
    ----------
    seconds : float
        That it took.
    hashes : dict of str to str
        sha256 of files of the stage, by name, where they are known already.
    """

    prepared: Prepared
    end: End | Kept
    seconds: float = 0.0
    hashes: Mapping[str, str] = field(default_factory=dict)


def do(
    order: Order, job: Job, prepare: Line[Loaded, Prepared], emit: Emit, past: Past, following: Job | None = None
) -> Outcome | Kept:
    """Bring one series to its outcome, whatever happens short of a RunError or a stop; or find that it has one.

    A result is compared with those of the `past`, and added to them.

    The `following` one is prepared meanwhile. Not after an attempt that a crash ended: whose fault it was is seen when
    each works by itself.
    """
    emit(started(job))
    with not_an_attempt_when_stopped(order.out, job.series.folder):
        attempt = begin_attempt(order.out, job.series.folder, job.work_key)
        stage = state.new_stage(order.out, job.work_key)
        worked = given_up(job, attempt)
        if worked is None:
            following = None if attempt.attempts > 1 else following
            worked = work(order, job, attempt, stage, prepare, noting_comparison(order, emit), past, following)
        return conclude(order, job, stage, worked, emit, past)


def noting_comparison(order: Order, emit: Emit) -> Emit:
    """`emit`, after the ledger has noted where a comparison begins and ends."""

    def told(event: Event) -> None:
        if event["event"] == "step" and event["step"] == COMPARE:
            note_comparing(order.out, event["folder"], "seconds" not in event)
        emit(event)

    return told


def started(job: Job) -> Event:
    return job_event("started", job, slices=len(job.series.instances) or None)


def work(
    order: Order,
    job: Job,
    attempt: Attempt,
    stage: Path,
    prepare: Line[Loaded, Prepared],
    emit: Emit,
    past: Past,
    following: Job | None = None,
) -> Worked:
    """Read and compute a series and write its files into the stage. The ledger is not touched.

    It is compared with nothing where the attempts before all ended at that.
    """
    prepared = _taken(prepare, job, emit, following)
    start = time.perf_counter()
    known = past if attempt.may_be_compared else None
    end = prepared.end or _written(order, job, prepared, stage, emit, prepare.go_on, known)
    end = _kept_if_unread(job, end, prepared.read)
    return Worked(prepared, end, prepared.seconds + time.perf_counter() - start)


def conclude(order: Order, job: Job, stage: Path, worked: Worked, emit: Emit, past: Past) -> Outcome | Kept:
    """Commit what was made of a series, or the reason that nothing was; its result is added to the `past`."""
    end, folder = worked.end, job.series.folder
    if isinstance(end, Kept):
        state.keep(order.out, folder, stage, None if end.slug else end.outcome)
        emit(job_event("unchanged", job, status=end.outcome.status, slug=end.outcome.slug))
        return end
    if end.status != "done":
        stage = state.new_stage(order.out, job.work_key)
    outcome = _outcome(order, job, worked, stage, end)
    state.commit(order.out, folder, stage, outcome, superseded(job.choice) if end.status == "done" else ())
    past.add(folder)
    told = {"slug": end.slug, "message": end.message, "seconds": round(worked.seconds, 3)}
    added = {"added": list(worked.prepared.added)} if worked.prepared.added else {}
    emit(job_event(end.status, job, **told, **file_meant(end.file), **end.figures, **added))
    return outcome


def _taken(prepare: Line[Loaded, Prepared], job: Job, emit: Emit, following: Job | None) -> Prepared:
    """A series as it was prepared; once more by itself, where memory was short and others were at work."""
    prepared = prepare.take(job, emit, following)
    return prepare.take_alone(job, emit) if prepared.ran_out_of_memory and prepare.in_company else prepared


def given_up(job: Job, attempt: Attempt) -> Worked | None:
    """A series that is not read: its headers or attempts before this one tell its end, or planning it broke."""
    end, read = _unread(job, attempt), Read(job.work_key)
    return Worked(Prepared(read), _kept_if_unread(job, end, read)) if end else None


def _unread(job: Job, attempt: Attempt) -> End | Kept | None:
    if job.refusal:  # it is recorded by its slug, whatever came before
        return _kept_if_unread(job, End("rejected", *job.refusal), Read(job.work_key))
    if job.trouble:
        return End("failed", "unexpected-error", job.trouble)
    end = None
    if attempt.timed_out_s is not None:
        end = End("failed", "timeout", f"no result within {attempt.timed_out_s:g} s (--series-timeout)")
    elif attempt.attempts > MOST_ATTEMPTS:
        end = End("failed", "crashed-repeatedly", f"{MOST_ATTEMPTS} attempts ended without an outcome")
    return _kept_without(job, end) if end and job.lacking and not job.doubtful else end


def _kept_if_unread(job: Job, end: End | Kept, read: Read) -> End | Kept:
    """What was to be added to a result is no reason to lose it; nor is what may be the same slices."""
    if not job.before or not job.stays or isinstance(end, Kept) or end.status == "done":
        return end
    if job.lacking and (read.slices == job.before.slices or not (job.doubtful or read.slices)):
        return _kept_without(job, end)
    unread = job.doubtful and not read.slices  # nothing says yet that its slices are others
    return _kept_without(job, end) if unread and (end.status == "failed" or end.slug in NEVER_FINAL) else end


def _kept_without(job: Job, end: End) -> Kept:
    """The result that stands stays as it is, without what it lacks."""
    assert job.before
    without = f" ({', '.join(job.lacking)} not added)" if job.lacking else ""
    return Kept(job.before, end.slug or "", f"{end.message}{without}")


@contextmanager
def not_an_attempt_when_stopped(out: Path, folder: str) -> Iterator[None]:
    """A stop signal or our own disk is not the series' fault."""
    try:
        with output_errors(out):
            yield
    except (Stopped, KeyboardInterrupt, RunError):
        with suppress(RunError):  # the disk may be what failed
            forgive_attempt(out, folder)
        raise


def _written(
    order: Order, job: Job, prepared: Prepared, stage: Path, emit: Emit, go_on: Callable[[], None], past: Past | None
) -> End:
    """Write every file of the result into the stage. `go_on` is called once it is told that this is written.

    `past`: results that it may be compared with; None where the attempts before ended at that.
    """
    from covct.pipeline.since import not_compared

    ended = list[End]()
    with ends(ended):
        assert prepared.result is not None
        clock = clock_of(job, emit)
        if not prepared.added:  # else it stays what its report says
            block = since(past, prepared.result, clock) if past else not_compared(CRASHED)
            prepared = replace(prepared, result=_as_told(prepared.result, _source(order, job), block))
        computed = _moments(order, job, prepared)
        report = _write(order, job, prepared, stage, clock, go_on, list(computed.values()))
        return End(figures=_figures(report), computed=computed)
    return ended[0]


def _moments(order: Order, job: Job, prepared: Prepared) -> dict[str, datetime]:
    """When this was first computed, and when it was first so compared, by the keys that its objects derive from."""
    from covct.dicom.evidence import telling_key

    assert prepared.result is not None
    before, key = _standing(order, job), prepared.read.work_key
    keys = dict.fromkeys((key, telling_key(key, prepared.result.report.get("since"))))
    return {one: first_computed(before, one, now()) for one in keys}


def now() -> datetime:
    """The local time, with its offset from UTC."""
    return datetime.now().astimezone().replace(microsecond=0)


def installation(out: Path) -> str:
    """What stands for an installation: its output tree. Empty where the tree's key cannot be read."""
    try:
        return hashlib.sha256(b"installation " + identifier_key(out / PRIVATE)).hexdigest()
    except (OSError, UsageError):  # another user's, or no key: no result is lost for it
        return ""


def _standing(order: Order, job: Job) -> Outcome | None:
    """The outcome that this work will replace, whatever slices it is of."""
    return read_outcome(order.out / job.series.folder)


def _write(
    order: Order,
    job: Job,
    prepared: Prepared,
    stage: Path,
    clock: Clock,
    go_on: Callable[[], None],
    computed: list[datetime],
) -> dict[str, Any]:
    """As `_written`; `computed` as `_moments` has it. Returns the report."""
    from covct.dicom.evidence import Making
    from covct.pipeline.report import finished
    from covct.pipeline.series import peak_memory_mib
    from covct.results.writers import WRITERS

    assert prepared.result is not None and prepared.clock is not None
    result = prepared.result
    with clock.step("write"):
        go_on()
        making = Making(computed[0], installation(order.out), computed[-1])
        for name in _formats(job, prepared):
            WRITERS[name](result, stage, job.outputs, making)
    if prepared.added:
        for name in _carried(job, prepared.added):
            link_or_copy(order.out / job.series.folder / name, stage / name)
        return dict(json.loads((stage / REPORT_NAME).read_text(encoding="utf-8")))
    run = {
        "device": asdict(result.device),
        "timings_s": {**prepared.clock.seconds, **clock.seconds},
        "peak_memory_mib": peak_memory_mib(),
    }
    report = finished(result.report, run).model_dump()
    write_json(stage / REPORT_NAME, report)
    return report


def _formats(job: Job, prepared: Prepared) -> tuple[str, ...]:
    """The formats to write."""
    pruned = _pruned(job, prepared)
    wanted = formats_for(job.series.kind, job.outputs.formats, job.series.can_be_referred_to)
    return prepared.added or tuple(name for name in wanted if name not in pruned)


def _pruned(job: Job, prepared: Prepared) -> list[str]:
    """Formats that were taken away from a result, and stay away where it is only to hold others too."""
    if not job.lacking or not job.before or job.before.work_key != prepared.read.work_key:
        return []
    return [name for name in job.before.pruned if name not in job.lacking]


def _carried(job: Job, added: tuple[str, ...]) -> list[str]:
    """Files of a result that stay beside what is added."""
    assert job.before
    replaced = {one for name in added for one in FORMATS[name].among(job.before.files)}
    return [name for name in job.before.files if name not in replaced]


def _as_told(result: Result, path: str, since: dict[str, Any]) -> Result:
    """A result with the path that all its files may tell, pages too, and with what has changed since the last."""
    source = {**result.report["source"], "path": path or None}
    return replace(result, report={**result.report, "source": source, "since": since})


def _source(order: Order, job: Job) -> str:
    """Where a volume's file lay, as results tell it: its folder and name may be a patient's."""
    path = job.series.path.label if job.series.path else ""
    return hashed(path, order.identifier_key) if path and order.identifier_key else path


def _outcome(order: Order, job: Job, worked: Worked, stage: Path, end: End) -> Outcome:
    prepared, done = worked.prepared, end.status == "done"
    read = prepared.read
    if prepared.added and done:
        return _added_to(job, worked, stage, end)
    return Outcome(
        status=end.status,
        work_key=read.work_key,
        slug=end.slug,
        message=end.message,
        files=_hashes(stage, worked.hashes),
        formats={name: job.outputs.kind(name) for name in _formats(job, prepared)} if done else {},
        pruned=_pruned(job, prepared) if done else [],
        covct_version=__version__,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(worked.seconds, 3),
        study_instance_uid=job.series.study_uid,
        series_instance_uid=job.series.series_uid,
        source=_source(order, job),
        patient=record(order.out, job.series),
        content=content_key(job.series.content),
        slices=read.slices,
        first_slices=(job.before.first_slices if job.before else "") or (read.slices if done else ""),
        moments=with_moments(_standing(order, job), end.computed),
        signatures=[job.signature] if job.signature else [],
    )


def _hashes(stage: Path, known: Mapping[str, str]) -> dict[str, str]:
    return {path.name: known.get(path.name) or file_sha256(path) for path in sorted(stage.iterdir())}


def _added_to(job: Job, worked: Worked, stage: Path, end: End) -> Outcome:
    """The outcome before, with what was added: when it was computed, by which version, and the hashes of files that
    stayed are not this run's to tell."""
    assert job.before
    prepared = worked.prepared
    stayed = {name: job.before.files[name] for name in _carried(job, prepared.added)}
    formats = {**job.before.held, **{name: job.outputs.kind(name) for name in prepared.added}}
    return still_of(job.before, job.signature).model_copy(
        update={
            "files": _hashes(stage, {**worked.hashes, **stayed}),
            "formats": {name: formats[name] for name in FORMATS if name in formats},
            "pruned": _pruned(job, prepared),
            "moments": with_moments(job.before, {k: v for k, v in end.computed.items() if k != job.before.work_key}),
        }
    )


def _figures(report: dict[str, Any]) -> dict[str, Any]:
    """The figures a shell pipeline asks for first."""
    return {
        "infection_percent": report["regions"]["lungs"]["infection_percent"],
        "infection_percent_interval": report["regions"]["lungs"]["infection_percent_interval"],
        "severity_class": report["severity"]["class"],
        "warnings": [warning["slug"] for warning in report["warnings"]],
        "device": report["run"]["device"]["kind"],
        "runtime": report["run"]["device"]["runtime"],
        "precision": report["run"]["device"]["precision"],
        "research_use": report["research_use"],
    }
