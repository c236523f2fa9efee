"""`covct scan` and `covct watch`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from covct import RESEARCH_USE
from covct.commands.console import plain, stdout
from covct.commands.crews import crew_of, hands_of
from covct.commands.exit_codes import ended_badly
from covct.commands.options import (
    DEFAULT_FORMATS,
    AllFrames,
    Captures,
    CapturesOption,
    DeviceOption,
    ExpectInput,
    Force,
    Formats,
    HashIdentifiers,
    Json,
    Limit,
    LobesFrom,
    LobesOption,
    LogFormatOption,
    MemoryLimit,
    MetricsFile,
    MoveDone,
    Out,
    PageIdentifiers,
    Priors,
    RequireGpu,
    RetryFailed,
    Runtime,
    RuntimeOption,
    Scheduler,
    SegType,
    SegTypeOption,
    Select,
    SendTo,
    SeriesTimeout,
    SeriesUids,
    Since,
    Sources,
    Strict,
    Until,
    Weights,
    Workers,
    WorkersTls,
    check_metrics,
    check_places,
    check_there,
    mib,
    order_of,
    outputs_of,
    patterns_of,
    since_of,
    until_of,
)
from covct.commands.quiet import quiet_tensorflow
from covct.commands.send import sending_of
from covct.commands.told import identifier_key_of, short, told
from covct.disk.signals import stoppable
from covct.errors import SeriesError, UsageError
from covct.unattended.logs import LogFormat
from covct.unattended.supervisor import LONGEST_SERIES_S, worker
from covct.visible import json_line

if TYPE_CHECKING:
    from covct.intake.discover import Series
    from covct.networks.network import Networks
    from covct.outputs import Emit
    from covct.unattended.plan import Job, Order

_inbox = partial(typer.Option, rich_help_panel="Inbox")


def scan_command(
    context: typer.Context,
    sources: Sources,
    out: Out,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be processed and what not, and why.")
    ] = False,
    formats: Formats = DEFAULT_FORMATS,
    seg_type: SegTypeOption = SegType.binary,
    all_frames: AllFrames = False,
    captures: CapturesOption = Captures.key,
    lobes: LobesOption = LobesFrom.none,
    show_identifiers: PageIdentifiers = False,
    weights: Weights = None,
    device: DeviceOption = "auto",
    runtime: RuntimeOption = Runtime.auto,
    require_gpu: RequireGpu = False,
    memory_limit: MemoryLimit = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    workers_tls: WorkersTls = None,
    strict: Strict = False,
    series: SeriesUids = None,
    select: Select = None,
    force: Force = False,
    retry_failed: RetryFailed = False,
    priors: Priors = None,
    move_done: MoveDone = None,
    send_to: SendTo = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = None,
    expect_input: ExpectInput = False,
    series_timeout: SeriesTimeout = LONGEST_SERIES_S,
    json_events: Json = False,
    log_format: LogFormatOption = LogFormat.text,
    hash_identifiers: HashIdentifiers = False,
    metrics: MetricsFile = None,
) -> None:
    """Segment every study in the sources and write DICOM SEG and report; finished series are not redone."""
    from covct.unattended import batch

    outputs = outputs_of(formats, seg_type, all_frames, captures)
    order = order_of(
        sources, out, outputs, weights, priors, force=force, retry_failed=retry_failed, strict=strict,
        series_uids=tuple(series or ()), select=patterns_of(select), move_done=move_done, memory_mib=mib(memory_limit),
        since=since_of(since), until=until_of(until), limit=limit,
        show_identifiers=show_identifiers, lobes=lobes.value,
    )  # fmt: skip
    order = _with_runtime(order, device, require_gpu, runtime.value)
    check_there(sources)
    check_places(order)
    if dry_run:
        if hash_identifiers:
            raise UsageError("--dry-run shows identifiers and writes nothing, not even a key to hash them with")
        _show_plan(order, json_events)
        return
    crew = crew_of(order, workers, scheduler, workers_tls, device, require_gpu)
    load = networks_of(order.weights, device, require_gpu, runtime.value)
    told_how = (json_events, log_format, hash_identifiers, metrics)
    sending = sending_of(context, out, send_to)
    with (
        _under_way(order, series_timeout, *told_how, alone=crew is None) as (emit, order),
        hands_of(crew, load, series_timeout, device, require_gpu) as hands,
    ):
        with sending(emit) as sent:
            tally = batch.scan(order, load, sent.emit, hands)
        arrived = sent.all_there()
    if ended_badly(tally, strict) or not arrived or ((expect_input or series) and not tally.series):
        raise typer.Exit(3)


def watch_command(
    context: typer.Context,
    inbox: Annotated[Path, typer.Argument(help="Directory in which studies arrive.", show_default=False)],
    out: Out,
    settle: Annotated[float, _inbox(help="Process a study once it has not changed for N seconds.", min=0)] = 30.0,
    interval: Annotated[float, _inbox(help="Poll the inbox every N seconds.", min=0.1)] = 10.0,
    formats: Formats = DEFAULT_FORMATS,
    seg_type: SegTypeOption = SegType.binary,
    all_frames: AllFrames = False,
    captures: CapturesOption = Captures.key,
    lobes: LobesOption = LobesFrom.none,
    show_identifiers: PageIdentifiers = False,
    weights: Weights = None,
    device: DeviceOption = "auto",
    runtime: RuntimeOption = Runtime.auto,
    require_gpu: RequireGpu = False,
    memory_limit: MemoryLimit = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    workers_tls: WorkersTls = None,
    strict: Strict = False,
    select: Select = None,
    retry_failed: RetryFailed = False,
    priors: Priors = None,
    marker: Annotated[str, _inbox(help="Wait for a file of this name in the study's folder.")] = "",
    move_done: MoveDone = None,
    send_to: SendTo = None,
    until: Until = None,
    series_timeout: SeriesTimeout = LONGEST_SERIES_S,
    json_events: Json = False,
    log_format: LogFormatOption = LogFormat.text,
    hash_identifiers: HashIdentifiers = False,
    metrics: MetricsFile = None,
) -> None:
    """Poll an inbox and segment each study once it is complete, until stopped by SIGTERM or SIGINT (exit 130)."""
    from covct.unattended import batch

    if not inbox.is_dir():
        raise UsageError(f"no such directory: {inbox}")
    outputs = outputs_of(formats, seg_type, all_frames, captures)
    order = order_of(
        [inbox], out, outputs, weights, priors, retry_failed=retry_failed, strict=strict, select=patterns_of(select),
        memory_mib=mib(memory_limit), until=until_of(until), marker=marker, move_done=move_done,
        show_identifiers=show_identifiers, lobes=lobes.value,
    )  # fmt: skip
    order = _with_runtime(order, device, require_gpu, runtime.value)
    check_places(order)
    if os.path.basename(marker) != marker:
        raise UsageError(f"--marker {marker}: wanted the name of a file, not a path")
    crew = crew_of(order, workers, scheduler, workers_tls, device, require_gpu)
    load = networks_of(order.weights, device, require_gpu, runtime.value)
    told_how = (json_events, log_format, hash_identifiers, metrics)
    sending = sending_of(context, out, send_to)
    with (
        _under_way(order, series_timeout, *told_how, alone=crew is None) as (emit, order),
        hands_of(crew, load, series_timeout, device, require_gpu) as hands,
    ):
        emit({"event": "watching", "inbox": str(inbox), "settle_s": settle, "interval_s": interval})
        with sending(emit) as sent:
            tally = batch.watch(order, load, sent.emit, settle, interval, hands=hands)
        arrived = sent.all_there()
    if ended_badly(tally, strict) or not arrived:
        raise typer.Exit(3)


def networks_of(
    weights: Path, device: str, require_gpu: bool, runtime: str = "auto", rest: Path | None = None
) -> Callable[[], Networks]:
    """What loads the networks onto the device asked for, for every command that runs them; tests replace it here.

    `rest`: where the network of a task lies that the folder of weights lacks.
    """
    from covct.networks import devices, runtimes

    runtimes.check(runtime, devices.parse_wish(device), require_gpu)
    return _Loading(weights, device, require_gpu, runtime, rest)


@dataclass(frozen=True)
class _Loading:
    """What loads the networks: also in another process, and equal to another one that loads the same."""

    weights: Path
    device: str
    require_gpu: bool
    runtime: str
    rest: Path | None

    def __call__(self) -> Networks:
        from covct.networks import devices, runtimes

        wish, weights, rest = devices.parse_wish(self.device), self.weights, self.rest
        visible = dict(os.environ)
        devices.select(wish, os.environ)  # before tensorflow looks
        may_be_gpu = self.require_gpu or runtimes.may_have_gpu(wish, os.environ)
        choice = runtimes.choose(self.runtime, weights, may_be_gpu, rest)
        if choice.runtime == devices.TENSORFLOW:
            with quiet_tensorflow():
                from covct.networks.segment import device_in_use, load_keras_networks

            on_gpu = device_in_use().kind == "gpu"
            if not on_gpu and (self.require_gpu or wish.kind == "gpu"):
                raise devices.missing(wish, visible)
            if not on_gpu:  # there is a driver, but keras cannot use it
                choice = runtimes.choose(self.runtime, weights, on_gpu=False, rest=rest)
            if choice.runtime == devices.TENSORFLOW:
                return load_keras_networks(weights, (choice.fallback,) if choice.fallback else (), rest)
        from covct.networks.converted import load_converted_networks

        return load_converted_networks(weights, rest)


def _with_runtime(order: Order, device: str, require_gpu: bool, runtime: str) -> Order:
    """The order with what will compute, by which memory is counted."""
    from covct.networks import devices, runtimes

    return replace(order, runtime=runtimes.foreseen(runtime, order.weights, devices.parse_wish(device), require_gpu))


@contextmanager
def _under_way(
    order: Order,
    series_timeout: float,
    json_events: bool,
    log_format: LogFormat,
    hash_identifiers: bool,
    metrics: Path | None,
    *,
    alone: bool,
) -> Iterator[tuple[Emit, Order]]:
    """A run that can be stopped, is told of and looked after: where its events go, and the order as it now stands.

    `alone`: this process does the work, and may hang at a series.
    """
    check_metrics(metrics, order.out)
    with told(order.out, json_events, log_format, hash_identifiers, metrics) as emit, stoppable():
        emit, order = _looked_after(emit, order, series_timeout, log_format, metrics, alone)
        yield emit, replace(order, identifier_key=identifier_key_of(order.out) if hash_identifiers else None)


def _looked_after(
    emit: Emit, order: Order, series_timeout: float, log_format: LogFormat, metrics: Path | None, alone: bool
) -> tuple[Emit, Order]:
    """Events also to the process that looks after this one, and of this run what it had done before."""
    watched = worker()
    if watched is None:
        return emit, order
    emit = watched.reporting(emit, order.out, series_timeout, log_format is LogFormat.json, metrics, alone)
    return emit, replace(order, began=watched.began, already=watched.finished)


def _show_plan(order: Order, json_events: bool) -> None:
    """The dry run: what would be done, what is finished, what is left out and why. Nothing is written."""
    from covct.unattended.batch import look
    from covct.unattended.plan import card_hashes, plan

    found = look(order)
    rows: list[dict[str, Any]] = []
    for job in plan(order, found, card_hashes(order.weights, order.lobes)):
        series = job.series
        told = {"series": series.series_uid or series.folder, "slices": len(series.instances) or None}
        rows.append({**told, **_verdict(job, order.strict)})
        if not job.refusal:
            rows += [
                {
                    "series": s.series_uid,
                    "slices": len(s.instances),
                    "verdict": "leave out",
                    "why": f"{slug}: {message}",
                }
                for s, slug, message in job.choice.left_out
            ]
    for problem in (*found.problems, *found.not_read):
        broke = problem.slug == "unexpected-error"
        why = f"{problem.slug}: {problem.message}" if broke else problem.message
        rows.append({"series": problem.label, "slices": None, "verdict": "fail" if broke else "unreadable", "why": why})
    _show_rows(rows, json_events)
    if found.not_read or any(row["verdict"] == "fail" for row in rows):
        raise typer.Exit(3)


def _verdict(job: Job, strict: bool) -> dict[str, str]:
    """What would become of a series, and why."""
    made = "computes nothing" if job.from_masks else "computes it again, as it holds no masks to make that of"
    addition = f"adds {', '.join(job.lacking)} to its result; {made}"
    if job.finished:
        return {"verdict": "finished", "why": job.finished.slug or job.finished.status}
    if job.doubtful:
        why = "its files have changed; processed again if its slices have"
        return {"verdict": "compare", "why": f"{why}, else {addition}" if job.lacking else why}
    if job.lacking:
        return {"verdict": "add" if job.from_masks else "segment", "why": addition}
    if job.trouble:
        return {"verdict": "fail", "why": f"unexpected-error: {job.trouble}"}
    if job.refusal:
        return {"verdict": "reject", "why": ": ".join(job.refusal)}
    return _foreseen(job.series, job.choice.reasons, strict)


def _foreseen(series: Series, reasons: tuple[str, ...], strict: bool) -> dict[str, str]:
    """The verdict on a series that passed so far, with what its headers will be warned of or refused for."""
    from covct.intake.gate import header_warnings, refuse_warnings
    from covct.intake.gate_rules import WARNED
    from covct.intake.volume_file import declared_findings

    try:
        found = header_warnings(series)[1] if series.kind == "dicom" else declared_findings(series)
        if strict:
            refuse_warnings(found)
    except SeriesError as error:
        return {"verdict": "reject", "why": f"{error.slug}: {error.message}"}
    warned = "; ".join(f"{one.slug}: {one.message}" for one in found if one.level == WARNED)
    return {"verdict": "segment", "why": "; ".join(reasons), **({"warned": warned} if warned else {})}


def _show_rows(rows: list[dict[str, Any]], json_events: bool) -> None:
    if json_events:
        for row in rows:
            print(json_line({"event": "plan", **row}))
        return
    table = Table("series", "slices", "verdict", "why", caption=RESEARCH_USE)
    for row in rows:
        why = row["why"] + (f"; with a warning: {row['warned']}" if "warned" in row else "")
        table.add_row(plain(short(row["series"])), str(row["slices"] or ""), row["verdict"], plain(why))
    stdout.print(table)
    for what, number in sorted(Counter(row["why"] for row in rows if row["verdict"] == "add").items()):
        results = "1 result" if number == 1 else f"{number} results"
        stdout.print(what.replace("its result", results))
