"""`covct restore`."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from covct import RESEARCH_USE
from covct.commands.bars import Bar, progress
from covct.commands.console import plain, stderr, stdout
from covct.commands.quiet import quiet_tensorflow
from covct.disk.signals import stoppable
from covct.disk.sources import check_apart
from covct.errors import UsageError
from covct.visible import json_line


class SourceKind(str, Enum):
    clahe = "clahe"
    window = "window"


class Anterior(str, Enum):
    up = "up"
    down = "down"
    left = "left"
    right = "right"


def restore_command(
    slices: Annotated[
        Path, typer.Argument(help="8-bit picture or volume file, or a folder of them.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Output folder for NIfTI in HU, masks, sheets and restored.json.")
    ],
    restorer: Annotated[
        Path | None, typer.Option(help="Card of the restorer for CLAHE slices. Default: the shipped one.")
    ] = None,
    source_kind: Annotated[
        SourceKind | None, typer.Option(help="Kind of the slices. Default: recognised by their histogram.")
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(help="Limits of the window in HU, e.g. -1250,250. Default: found by air and soft tissue."),
    ] = None,
    spacing: Annotated[
        str | None, typer.Option(help="Spacing of pictures in mm: slices, rows, columns, e.g. 5,0.8,0.8.")
    ] = None,
    anterior: Annotated[
        Anterior | None, typer.Option(help="Side of the pictures that shows the front of the patient. Default: up.")
    ] = None,
    each: Annotated[bool, typer.Option("--each", help="Treat every picture as a volume of its own.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
    json_lines: Annotated[bool, typer.Option("--json", help="Print one JSON object per volume to stdout.")] = False,
) -> None:
    """Restore Hounsfield units of 8-bit slices (CLAHE or a lung window); exit 3 if some volumes were refused."""
    from covct.data.restore import RECORD, find_images
    from covct.networks.cards import RESTORER, default_weights_folder

    window_hu, spacing_mm = _numbers("--window", window, 2), _numbers("--spacing", spacing, 3)
    if window_hu and window_hu[0] >= window_hu[1]:
        raise UsageError(f"--window {window}: wanted the lower limit first")
    if spacing_mm and not all(0 < mm <= 100 for mm in spacing_mm):
        raise UsageError(f"--spacing {spacing}: wanted values above 0 and up to 100 mm")
    check_apart(out, [slices], "--out")
    found = find_images(slices, anterior.value if anterior else None, each)
    if not force:
        _nothing_there(found.cases, out)
    way = Restorer(restorer or default_weights_folder() / RESTORER)
    if restorer:
        way.check()
    refused = [f"{one.case}: {one.message}" for one in found.left_out]
    kind = source_kind.value if source_kind else None
    with progress(f"restoring {slices}", quiet=json_lines) as way.bar:
        for one in refused:
            _print_refused(way.bar, one)
        done = _restore_all(
            found.cases, refused, way, json_lines, out=out, kind=kind, window=window_hu, spacing=spacing_mm
        )
    if done and not json_lines:
        _show(done)
        stderr.print(plain(str(out / RECORD)), soft_wrap=True)
    if not done:
        raise UsageError(f"{slices}: none of {len(found.cases)} volumes was restored; the first: {refused[0]}")
    if refused:
        raise typer.Exit(3)


def _nothing_there(cases: Sequence[Any], out: Path) -> None:
    from covct.data.restore import output_name

    for case in cases:
        path = out / f"{output_name(case)}_ct.nii.gz"
        if path.exists():
            raise UsageError(f"{path} already exists; --force replaces it")


def _print_refused(bar: Bar, message: str) -> None:
    bar.print(f"[yellow]refused[/]  {plain(message)}")


def _restore_all(
    cases: Sequence[Any],
    refused: list[str],
    way: Restorer,
    json_lines: bool,
    *,
    out: Path,
    kind: str | None,
    window: Any,
    spacing: Any,
) -> list[Any]:
    """Every volume, one after the other; what is refused is noted, and raised where it is the only one."""
    from dataclasses import asdict

    from covct.data.restore import restore_case, write_record

    done = []
    with stoppable():
        for number, case in enumerate(cases):
            way.begin(number, len(cases))
            try:
                one = restore_case(case, out, kind, way, window, spacing)
            except UsageError as error:
                if len(cases) == 1:
                    raise
                refused.append(str(error))
                _print_refused(way.bar, str(error))
                continue
            done.append(one)
            if json_lines:
                print(json_line({"event": "restored", **asdict(one)}), flush=True)
        if done:
            card = way.card
            told = {"name": card.name, "sha256": card.sha256, "licence": card.licence} if card else None
            write_record(out, done, told)
    return done


def _numbers(option: str, text: str | None, count: int) -> Any:
    if text is None:
        return None
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if len(found) != count or not all(abs(number) < 1e5 for number in found):
        raise UsageError(f"{option} {text}: wanted {count} numbers separated by commas")
    return found


class Restorer:
    """The way back from CLAHE, loaded when the first slice needs it: windows need none, and no keras.

    It tells the bar how far it is: which volume, and of CLAHE how many of its slices.
    """

    bar: Bar

    def __init__(self, path: Path):
        self.path = path
        self.card: Any = None
        self._way: Any = None
        self._place, self._of, self._slices = 0, 0, 0

    def begin(self, number: int, count: int) -> None:
        """A volume begins, counted from 0."""
        self._place, self._of, self._slices = number, count, 0
        self.bar.at(number, count)

    def check(self) -> Any:
        """The card, once its weights are found unaltered."""
        from covct.networks.cards import read_card

        if self.card is None:
            self.card = read_card(self.path)
            if self.card.task != "restorer":
                raise UsageError(f"{self.path}: a card of task {self.card.task}, wanted one of a restorer")
        return self.card

    def __call__(self, pixels: Any) -> Any:
        if self._way is None:
            self.check()
            self.bar.say("loading the restorer")
            with quiet_tensorflow():
                from covct.training.samples.restoration import load_restorer
            self._way = load_restorer(self.path)
            self.bar.say("restoring")
        self._slices += len(pixels)
        self.bar.at(self._place, self._of, f"{self._slices} slices of volume {self._place + 1}")
        return self._way(pixels)


def _show(done: list[Any]) -> None:
    table = Table("volume", "slices", "domain", "healthy lung", "infected lung", "ground glass", caption=RESEARCH_USE)
    for one in done:
        cells = []
        for name in ("healthy_lung", "infected_lung"):
            tissue = one.tissues.get(name)
            odd = "" if tissue is None or tissue.plausible else " [yellow]odd[/]"
            cells.append("-" if tissue is None else f"{tissue.median_hu} HU{odd}")
        share = one.infected_ground_glass_percent
        cells.append("-" if share is None else f"{share:.0f} %")
        table.add_row(plain(one.name), str(one.slices), one.kind, *cells)
    stdout.print(table)
