"""The options that commands share, and what their texts mean."""

from __future__ import annotations

import re
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from covct.errors import UsageError
from covct.unattended.logs import LogFormat
from covct.unattended.supervisor import worker


class SegType(str, Enum):
    binary = "binary"
    labelmap = "labelmap"
    fractional = "fractional"


class Captures(str, Enum):
    key = "key"
    all = "all"


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


def check_there(sources: list[Path]) -> None:
    """Refuse sources that are not there."""
    missing = [str(source) for source in sources if not source.exists()]
    if missing:
        raise UsageError(f"no such file or directory: {', '.join(missing)}")


def check_places(order) -> None:
    """Nothing is written where sources are looked for, and no source is looked for among results."""
    from covct.disk.sources import check_apart
    from covct.unattended.move_done import check_place

    check_apart(order.out, order.sources, "--out")
    if order.move_done:
        check_place(order.move_done, order.sources, order.out)


def outputs_of(formats: str, seg_type: SegType, all_frames: bool, captures: Captures):
    """`--formats` and what goes with it, as `Outputs`."""
    from covct.outputs import FORMATS, Outputs

    wanted = tuple(dict.fromkeys(name.strip() for name in formats.split(",") if name.strip()))
    if unknown := set(wanted) - set(FORMATS):
        raise UsageError(f"unknown format {', '.join(sorted(unknown))}; known are {', '.join(FORMATS)}")
    return Outputs(wanted, seg_type.value, all_frames, captures.value)


def patterns_of(select: list[str] | None) -> tuple[tuple[str, re.Pattern], ...]:
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


def since_of(text: str | None) -> datetime | None:
    """`--since` as a moment; days and hours are counted back from the run's begin."""
    from covct.unattended.since_until import parse_since

    try:
        return parse_since(text, run_began().astimezone()) if text else None
    except ValueError:
        raise UsageError(f"--since {text}: wanted a date or time such as 2026-01-31T18:00, or 90m, 24h, 7d") from None


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


def order_of(sources, out: Path, outputs, weights: Path | None, **wishes):
    """What is asked of a scan or watch, as `batch.Order`."""
    from covct.networks.cards import default_weights_folder
    from covct.unattended.plan import Order

    return Order(tuple(sources), out, weights or default_weights_folder(), outputs, **wishes)


def mib(gib: float | None) -> float | None:
    """GiB as MiB."""
    return None if gib is None else 1024 * gib
