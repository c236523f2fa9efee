"""The options that commands share, and what their texts mean."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from covct.errors import UsageError
from covct.outputs import FORMATS, Outputs
from covct.unattended.logs import LogFormat
from covct.unattended.supervisor import worker

if TYPE_CHECKING:
    from covct.outputs import Outputs
    from covct.unattended.plan import Order


class SegType(str, Enum):
    binary = "binary"
    labelmap = "labelmap"
    fractional = "fractional"


class LobesFrom(str, Enum):
    none = "none"
    atlas = "atlas"


class Captures(str, Enum):
    key = "key"
    all = "all"


class Runtime(str, Enum):
    auto = "auto"
    tensorflow = "tensorflow"
    openvino = "openvino"


_output = partial(typer.Option, rich_help_panel="Results")
_compute = partial(typer.Option, rich_help_panel="Computing")
_beside = partial(typer.Option, rich_help_panel="Many workers")
_choice = partial(typer.Option, rich_help_panel="What to process", show_default=False)
_limits = partial(typer.Option, rich_help_panel="Limits")
_logs = partial(typer.Option, rich_help_panel="Logs and metrics")

Sources = Annotated[
    list[Path],
    typer.Argument(
        help="Files or directories with DICOM, NIfTI, MetaImage or NRRD; nested, mixed or zipped.", show_default=False
    ),
]
Out = Annotated[
    Path, typer.Option("--out", "-o", help="Output tree for results, outcomes, summary.csv and index.html.")
]
Strict = Annotated[
    bool,
    typer.Option("--strict", help="Refuse series with warnings, and exit 3 if a series or a file was rejected."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON event per line to stdout.")]

LEAST_MEMORY_GIB = 0.5
DEFAULT_FORMATS = ",".join(Outputs().formats)
REPORT_ALONE = "none"
Formats = Annotated[str, _output(help=f"Output formats, separated by commas: {', '.join(FORMATS)}; or {REPORT_ALONE}.")]
SegTypeOption = Annotated[
    SegType, _output(help="Type of the SEG: overlapping masks, one label per voxel, or probabilities.")
]
AllFrames = Annotated[
    bool, _output("--all-frames", help="Write a SEG frame for every slice and segment, even if it is empty.")
]
LobesOption = Annotated[
    LobesFrom, _output(help="Divide the lungs into lobes, approximately, with the CT severity score of 0 to 25.")
]
CapturesOption = Annotated[Captures, _output(help="Slices that the secondary capture (format sc) shows.")]
PageIdentifiers = Annotated[
    bool,
    _output(
        "--show-identifiers",
        help="Show accession number, study date, description and patient ID on index.html; else none is shown.",
    ),
]
MoveDone = Annotated[
    Path | None, _output(help="Move source files to this directory once their study is done.", show_default=False)
]

SendTo = Annotated[
    list[str] | None,
    _output(
        help="Also send results: TITLE@HOST:PORT, https://HOST/PATH, or a name of covct.toml; may be repeated.",
        show_default=False,
    ),
]

SeriesUids = Annotated[
    list[str] | None, _choice("--series", help="Process only this Series Instance UID; may be repeated.")
]
Select = Annotated[
    list[str] | None,
    _choice(
        "--select", help="Process only series with 'Keyword=regex', e.g. ConvolutionKernel=B[67]; may be repeated."
    ),
]
Since = Annotated[
    str | None,
    _choice(help="Process only studies modified since 2026-01-31, 2026-01-31T18:00, or 90m, 24h or 7d ago."),
]
Priors = Annotated[
    list[Path] | None,
    _choice("--priors", help="Another results tree with earlier results of the same patients; may be repeated."),
]
Force = Annotated[bool, _choice("--force", help="Redo finished series.")]
RetryFailed = Annotated[bool, _choice("--retry-failed", help="Retry series that failed unexpectedly.")]

WeightsDir = Annotated[
    Path | None,
    typer.Option(help="Folder with weights and cards. Default: the shipped ones.", envvar="COVCT_WEIGHTS"),
]
Weights = Annotated[
    Path | None,
    _compute(
        help="Folder with weights and cards. Default: the shipped ones.", envvar="COVCT_WEIGHTS", show_default=False
    ),
]
DeviceOption = Annotated[str, _compute(help="Device that runs the networks: auto, cpu, gpu or gpu:N.")]
RuntimeOption = Annotated[
    Runtime, _compute(help="What computes the networks; auto: OpenVINO on a CPU where it can, else TensorFlow.")
]
RequireGpu = Annotated[bool, _compute("--require-gpu", help="Exit 13 if there is no GPU.")]
MemoryLimit = Annotated[
    float | None,
    _compute(help="Memory for a series, in GiB. Default: all of the machine or container.", min=0, show_default=False),
]

Workers = Annotated[
    int | None,
    _beside(help="Work in N processes side by side, with a GPU each if there are any.", min=1, show_default=False),
]
Scheduler = Annotated[
    str | None,
    _beside(
        help="Work in the covct workers of a Dask scheduler, at tcp://host:port or tls://host:port.", show_default=False
    ),
]
WorkersTls = Annotated[
    Path | None,
    _beside("--workers-tls", help="Folder with ca.crt, tls.crt and tls.key for tls://.", show_default=False),
]

Limit = Annotated[int | None, _limits(help="Process at most N series.", min=1, show_default=False)]
ExpectInput = Annotated[
    bool, _limits("--expect-input", help="Exit 3 if no series was found: an empty mount is no good night.")
]
Until = Annotated[
    str | None, _limits(help="Start no series after this local time, and exit.", metavar="HH:MM", show_default=False)
]
SeriesTimeout = Annotated[
    float, _limits(help="Seconds after which a series has failed, not counting the loading of networks.", min=1)
]

LogFormatOption = Annotated[
    LogFormat, _logs("--log-format", help="Format of stderr: text, or one JSON object per line.")
]
HashIdentifiers = Annotated[
    bool,
    _logs("--hash-identifiers", help="Hash UIDs and paths in logs and events, omit free text, hash paths in results."),
]
ShowIdentifiers = Annotated[
    bool,
    typer.Option(
        "--show-identifiers", help="Show accession number, study date, description and patient ID; else none is shown."
    ),
]
MetricsFile = Annotated[
    Path | None,
    _logs("--metrics", help="Prometheus text file to keep up to date, e.g. covct.prom.", show_default=False),
]


def check_there(sources: list[Path]) -> None:
    """Refuse sources that are not there."""
    missing = [str(source) for source in sources if not source.exists()]
    if missing:
        raise UsageError(f"no such file or directory: {', '.join(missing)}")


def check_out(out: Path, sources: Iterable[Path], option: str = "--out") -> None:
    """Nothing is written where sources are looked for, nor over what is not covct's."""
    from covct.disk.places import is_foreign
    from covct.disk.sources import check_apart

    check_apart(out, sources, option)
    taken = [name for name in ("index.html", "summary.csv") if (out / name).exists()]
    if taken and is_foreign(out):
        raise UsageError(f"{option} {out}: its {taken[0]} is not covct's and would be written over")


def check_places(order: Order) -> None:
    """Nothing is written where sources are looked for, and no source is looked for among results."""
    from covct.disk.places import is_output_tree
    from covct.unattended.move_done import check_place

    check_out(order.out, order.sources)
    for tree in order.priors:
        if not is_output_tree(tree):
            raise UsageError(f"--priors {tree}: no results tree of covct")
    if order.move_done:
        check_place(order.move_done, order.sources, order.out)


def outputs_of(formats: str, seg_type: SegType, all_frames: bool, captures: Captures) -> Outputs:
    """`--formats` and what goes with it, as `Outputs`."""
    wanted = tuple(dict.fromkeys(name.strip() for name in formats.split(",") if name.strip()))
    if not wanted:
        raise UsageError(f"--formats names no format; wanted {', '.join(FORMATS)}, or {REPORT_ALONE} (report alone)")
    if wanted == (REPORT_ALONE,):
        wanted = ()
    if unknown := set(wanted) - set(FORMATS):
        raise UsageError(f"unknown format {', '.join(sorted(unknown))}; wanted {', '.join(FORMATS)}")
    return Outputs(wanted, seg_type.value, all_frames, captures.value)


def patterns_of(select: list[str] | None) -> tuple[tuple[str, re.Pattern[str]], ...]:
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


def since_of(text: str | None, option: str = "--since") -> datetime | None:
    """`--since` as a moment; days and hours are counted back from the run's begin."""
    from covct.unattended.since_until import parse_since

    try:
        return parse_since(text, run_began().astimezone()) if text else None
    except ValueError:
        raise UsageError(f"{option} {text}: wanted a date or time such as 2026-01-31T18:00, or 90m, 24h, 7d") from None


def run_began() -> datetime:
    """By the clock on the wall. Of the run, not of this process: one that goes on at 22:00 with a run that began at
    21:00 must not take `--until 21:30` for tomorrow's."""
    watched = worker()
    return watched.began.astimezone().replace(tzinfo=None) if watched else datetime.now()


def until_of(text: str | None) -> datetime | None:
    """`--until` as a moment: the next such time of day after the run's begin."""
    from covct.unattended.since_until import parse_until

    try:
        return parse_until(text, run_began()) if text else None
    except ValueError:
        raise UsageError(f"--until {text}: wanted a time of day such as 06:30") from None


def order_of(
    sources: Iterable[Path],
    out: Path,
    outputs: Outputs,
    weights: Path | None,
    priors: Iterable[Path] | None = None,
    **wishes: Any,
) -> Order:
    """What is asked of a scan or watch, as `batch.Order`."""
    from covct.networks.cards import default_weights_folder
    from covct.unattended.plan import Order

    trees = tuple(tree for tree in priors or () if tree.absolute() != out.absolute())
    return Order(tuple(sources), out, weights or default_weights_folder(), outputs, priors=trees, **wishes)


def mib(gib: float | None) -> float | None:
    """`--memory-limit` as MiB."""
    if gib is not None and gib < LEAST_MEMORY_GIB:
        raise UsageError(f"--memory-limit {gib:g} GiB: wanted at least {LEAST_MEMORY_GIB:g}; no series fits into less")
    return None if gib is None else 1024 * gib


def check_metrics(metrics: Path | None, out: Path) -> None:
    """Refuse a metrics file that could never be written. Within `out`, its folder is made."""
    if metrics is None or metrics.absolute().is_relative_to(out.absolute()):
        return
    if not metrics.absolute().parent.is_dir():
        raise UsageError(f"--metrics {metrics}: no such directory: {metrics.parent}")
