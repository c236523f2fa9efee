"""One series to its outcome, whatever happens to it; and the events that tell of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from covct import __version__
from covct.disk import state
from covct.disk.attempts import MOST_ATTEMPTS, Attempt, begin_attempt, forgive_attempt
from covct.disk.durable import output_errors, write_json
from covct.disk.outcome import Outcome, Status, content_key, key_of_replaced
from covct.errors import RunError, SeriesError, Stopped, logged, whereabouts
from covct.intake.discover import UID_PATTERN, Series
from covct.networks.cards import file_sha256
from covct.networks.network import Network, Networks
from covct.outputs import Emit, formats_for
from covct.results.entries import is_volume_folder
from covct.unattended.logs import hashed
from covct.unattended.plan import NEVER_FINAL, Job, Order, superseded
from covct.unattended.replaced import slices_digest, still_of
from covct.unattended.whose import record

if TYPE_CHECKING:  # highdicom and SimpleITK are for those who have work
    from covct.pipeline.series import Clock
    from covct.voxels.volume import Scan


@dataclass(frozen=True)
class _End:
    """How the work on a series ended; `figures` for the event of one that is done."""

    status: Status = "done"
    slug: str | None = None
    message: str | None = None
    file: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Kept:
    """A series whose result stays: it holds the same slices, or could not be compared, for a reason told by `slug`."""

    outcome: Outcome
    slug: str = ""
    message: str = ""


@dataclass
class _Read:
    """What was read of a series: a digest of its slices, and the work key that they make."""

    work_key: str
    slices: str = ""

    def take(self, job: Job, scan: Scan) -> bool:
        """Note its slices. Returns whether they are those of a result that stands if they are."""
        self.slices = slices_digest(job.series, scan)
        first = job.before.first_slices if job.before else ""
        if first and first != self.slices:
            self.work_key = key_of_replaced(job.work_key, self.slices)
        return bool(job.doubtful and job.before and job.before.slices == self.slices)


def do(order: Order, job: Job, networks: Callable[[], Networks], emit: Emit) -> Outcome | Kept:
    """Process one series to its outcome, whatever happens short of a RunError or a stop; or find that it has one."""
    start = time.perf_counter()
    folder, read = job.series.folder, _Read(job.work_key)
    emit(job_event("started", job, slices=len(job.series.instances) or None))
    with _not_an_attempt_when_stopped(order.out, folder):
        attempt = begin_attempt(order.out, folder, job.work_key)
        stage = state.new_stage(order.out, job.work_key)
        end = _given_up(job, attempt) or _worked_on(order, job, read, networks, stage, emit)
        if isinstance(end, Kept):
            state.keep(order.out, folder, stage, None if end.slug else end.outcome)
            emit(job_event("unchanged", job, status=end.outcome.status, slug=end.outcome.slug))
            return end
        if end.status != "done":
            stage = state.new_stage(order.out, job.work_key)
        outcome = _outcome(order, job, read, stage, end, time.perf_counter() - start)
        state.commit(order.out, folder, stage, outcome, superseded(job.choice) if end.status == "done" else ())
    told = {"slug": end.slug, "message": end.message, "seconds": outcome.seconds}
    emit(job_event(end.status, job, **told, **file_meant(end.file), **end.figures))
    return outcome


def _given_up(job: Job, attempt: Attempt) -> _End | None:
    """The end of a series that is not worked on: planning it broke, or attempts before this one did."""
    if job.refusal:
        return None  # it is recorded by its slug, whatever came before
    if job.trouble:
        return _End("failed", "unexpected-error", job.trouble)
    if attempt.timed_out_s is not None:
        return _End("failed", "timeout", f"no result within {attempt.timed_out_s:g} s (--series-timeout)")
    if attempt.attempts > MOST_ATTEMPTS:
        return _End("failed", "crashed-repeatedly", f"{MOST_ATTEMPTS} attempts ended without an outcome")
    return None


def _worked_on(
    order: Order, job: Job, read: _Read, networks: Callable[[], Networks], stage: Path, emit: Emit
) -> _End | Kept:
    end = _tried(order, job, read, networks, stage, emit)
    if not (job.doubtful and job.before) or isinstance(end, Kept) or read.slices:
        return end
    if end.status == "failed" or end.slug in NEVER_FINAL:  # nothing says yet that its slices are others
        return Kept(job.before, end.slug or "", end.message or "")
    return end


def _tried(
    order: Order, job: Job, read: _Read, networks: Callable[[], Networks], stage: Path, emit: Emit
) -> _End | Kept:
    try:
        if job.refusal:
            raise SeriesError(*job.refusal)
        clock = _clock(job, emit)
        scan = _load(order, job, clock)
        if read.take(job, scan) and job.before:
            return Kept(still_of(job.before, job.signature))
        return _End(figures=_figures(_segment(order, job, scan, read.work_key, networks, stage, clock, emit)))
    except SeriesError as error:
        return _End("rejected", error.slug, error.message, error.file)
    except MemoryError as error:
        return _End("failed", "out-of-memory", f"out of memory: {whereabouts(error)}")
    except Exception as error:
        if isinstance(error, (RunError, OSError)):
            raise
        return _End("failed", "unexpected-error", logged(error))  # which series: the event that follows says it


@contextmanager
def _not_an_attempt_when_stopped(out: Path, folder: str) -> Iterator[None]:
    """A stop signal or our own disk is not the series' fault."""
    try:
        with output_errors(out):
            yield
    except (Stopped, KeyboardInterrupt, RunError):
        with suppress(RunError):  # the disk may be what failed
            forgive_attempt(out, folder)
        raise


def _clock(job: Job, emit: Emit) -> Clock:
    """Tells of each step of a series."""
    from covct.pipeline.series import Clock  # highdicom and SimpleITK: only when there is work

    def told(step: str, seconds: float | None = None) -> None:
        emit(job_event("step", job, step=step, **({} if seconds is None else {"seconds": seconds})))

    return Clock(told, told)


def _load(order: Order, job: Job, clock: Clock) -> Scan:
    from covct.pipeline.series import load

    state.ensure_temporary_folder(order.out)
    return load(job.choice, clock, order.memory_mib)


def _segment(
    order: Order,
    job: Job,
    scan: Scan,
    work_key: str,
    networks: Callable[[], Networks],
    stage: Path,
    clock: Clock,
    emit: Emit,
) -> dict[str, Any]:
    """Run the pipeline and write every file of the result into the stage. Returns the report."""
    from covct.pipeline.report import finished
    from covct.pipeline.series import peak_memory_mib, process_scan
    from covct.results.writers import REPORT_NAME, WRITERS

    def asked() -> Networks:
        clock.announce("networks")
        start = time.perf_counter()
        loaded = networks()
        clock.ended("networks", round(time.perf_counter() - start, 3))
        return _signs_of_life(loaded, emit)

    result = process_scan(job.choice, scan, asked, work_key, clock, order.strict)
    with clock.step("write"):
        for name in formats_for(job.series.kind, order.outputs.formats, job.series.can_be_referred_to):
            WRITERS[name](result, stage, order.outputs)
    run = {
        "device": asdict(result.device),
        "timings_s": clock.seconds,
        "peak_memory_mib": peak_memory_mib(),
    }
    report = finished(result.report, run, _source(order, job) or None).model_dump()
    write_json(stage / REPORT_NAME, report)
    return report


def _signs_of_life(networks: Networks, emit: Emit) -> Networks:
    """The same networks, with an event after each of their calls: a long series on a CPU is no dead process."""

    def alive(network: Network) -> Network:
        def predict(slices: np.ndarray) -> np.ndarray:
            probability = network.predict(slices)
            emit({"event": "alive"})
            return probability

        return replace(network, predict=predict)

    gate = networks.empty_slices
    return replace(
        networks,
        lungs=alive(networks.lungs),
        infection=alive(networks.infection),
        empty_slices=alive(gate) if gate else None,
    )


def _source(order: Order, job: Job) -> str:
    """Where a volume's file lay, as results tell it: its folder and name may be a patient's."""
    path = job.series.path.label if job.series.path else ""
    return hashed(path, order.identifier_key) if path and order.identifier_key else path


def _outcome(order: Order, job: Job, read: _Read, stage: Path, end: _End, seconds: float) -> Outcome:
    return Outcome(
        status=end.status,
        work_key=read.work_key,
        slug=end.slug,
        message=end.message,
        files={path.name: file_sha256(path) for path in sorted(stage.iterdir())},
        covct_version=__version__,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 3),
        study_instance_uid=job.series.study_uid,
        series_instance_uid=job.series.series_uid,
        source=_source(order, job),
        patient=record(order.out, job.series),
        content=content_key(job.series.content),
        slices=read.slices,
        first_slices=(job.before.first_slices if job.before else "") or (read.slices if end.status == "done" else ""),
        signatures=[job.signature] if job.signature else [],
    )


def file_meant(file: str) -> dict[str, str]:
    """For an event: the file that a series is rejected for, if one is meant."""
    return {"file": file} if file else {}


def job_event(event: str, job: Job, **details: Any) -> dict[str, Any]:
    return {
        "event": event,
        "study": _uid(job.series.study_uid) or job.series.study_folder,
        "series": _uid(job.series.series_uid) or _series_folder(job.series),
        "folder": job.series.folder,
        **details,
    }


def skipped_event(folder: str, outcome: Outcome) -> dict[str, Any]:
    study, series = folder.split("/")
    return {
        "event": "skipped",
        "study": _uid(outcome.study_instance_uid) or study,
        "series": _uid(outcome.series_instance_uid) or (study if is_volume_folder(study) else series),
        "folder": folder,
        "status": outcome.status,
        "slug": outcome.slug,
    }


def _series_folder(series: Series) -> str:
    """Of a NIfTI the study's folder, which tells one from another."""
    study, folder = series.folder.split("/")
    return folder if series.kind == "dicom" else study


def _uid(text: str) -> str:
    """Empty for what a broken header has in place of a UID: it may be a name."""
    return text if UID_PATTERN.fullmatch(text) else ""


def _figures(report: dict[str, Any]) -> dict[str, Any]:
    """The figures a shell pipeline asks for first."""
    return {
        "infection_percent": report["regions"]["lungs"]["infection_percent"],
        "infection_percent_interval": report["regions"]["lungs"]["infection_percent_interval"],
        "severity_class": report["severity"]["class"],
        "warnings": [warning["slug"] for warning in report["warnings"]],
        "device": report["run"]["device"]["kind"],
        "research_use": report["research_use"],
    }
