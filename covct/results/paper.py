"""The report on paper: two pages of A4, in the words of the DICOM SR, with the slices that tell most."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import cv2
import numpy as np
from reportlab.pdfgen.canvas import Canvas

from covct import RESEARCH_USE
from covct.dicom.capture import figure_lines
from covct.dicom.evidence import identified
from covct.dicom.requested import not_told
from covct.dicom.sentences import (
    missing_intervals,
    remarks,
    score_of_lobes,
    why_withheld,
    worth_of_intervals,
    worth_of_lobes,
)
from covct.dicom.sr_groups import SIDES, Group, Measured, groups_of
from covct.outputs import Outputs
from covct.pipeline.series import Result
from covct.results.amounts import amount, ends
from covct.results.sheet import (
    BOLD,
    BOTTOM,
    DIM,
    LARGE,
    LEFT,
    MORE,
    NOTICE,
    SMALL,
    TOP,
    WIDTH,
    blank,
    foot,
    head,
    lines_of,
    picture,
    swatch,
    table,
    write,
)
from covct.results.study_page import LIMITS, heading, lobe_rows, provenance
from covct.terms import (
    CALLED,
    FIGURES,
    INTERVAL,
    LUNG,
    NOT_TOLD,
    OPACITY,
    PERCENT,
    SEGMENTS,
    SINCE,
    THIRDS,
    WARNING,
    CodedTerm,
)
from covct.visible import from_to, share, utc
from covct.voxels.overlay import LUNG_WINDOW_HU, printed
from covct.voxels.volume import Scan, spacing_mm

PAGES = 2
JPEG = (
    cv2.IMWRITE_JPEG_QUALITY, 85,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,  # outlines are thin, and of bright colours
)  # fmt: skip
MOST_WARNING_LINES, MOST_SINCE_LINES = 12, 4
LEAST_PICTURE_MM = 60.0
# Words for the side of a group of the SR.
SIDE_OF: dict[CodedTerm | None, str] = {None: SIDES["lungs"][1], **{side: words for side, words in SIDES.values()}}


def report_pdf(result: Result, computed: datetime) -> bytes:
    """The report as PDF; no name, date or identifier of a patient is on it, nor where a file lay.

    Parameters
    ----------
    result : Result
    computed : datetime
        When it was computed the first time: the date of the document. So it is the same bytes whenever it is made.
    """
    report = result.report
    canvas, file = blank("Opacity in the lungs, chest CT", RESEARCH_USE, f"covct {report['covct_version']}", computed)
    told = list(remarks(report, _absent(result.scan)))
    groups = groups_of(report, Outputs(("sr",)))  # of the binary SEG: a label map's have figures that are sums of these
    warnings, since = ([words for name, words in told if name == wanted] for wanted in (WARNING, SINCE))
    _first_page(canvas, result, computed, warnings, since, groups)
    canvas.showPage()
    _second_page(canvas, result, groups, [words for name, words in told if name == NOT_TOLD])
    canvas.showPage()
    canvas.save()
    return file.getvalue()


def _absent(scan: Scan) -> list[str]:
    return not_told(identified(scan.headers[:1])[0]) if scan.headers else []


def _first_page(
    canvas: Canvas, result: Result, computed: datetime, warnings: list[str], since: list[str], groups: list[Group]
) -> None:
    """What was found, what to mind, the figures by side, and pictures as large as there is room for."""
    report = result.report
    top = write(canvas, f"Chest CT: {heading(report)}", TOP, size=LARGE, font=BOLD, most=2)
    top = write(canvas, f"{RESEARCH_USE} {LIMITS}", top + 1, font=BOLD, colour=NOTICE)
    top = write(canvas, f"Computed by covct {report['covct_version']}, {utc(computed)}", top + 0.5, colour=DIM)
    top = head(canvas, "Findings", top)
    for words, _ in figure_lines(report):
        top = write(canvas, words, top)
    if since:
        top = write(canvas, " ".join(since), head(canvas, SINCE.meaning, top), most=MOST_SINCE_LINES)
    top = _warnings(canvas, warnings, top, MOST_WARNING_LINES - (MOST_SINCE_LINES + 2 if since else 0))
    lungs = [one for one in groups if one.finding == LUNG and not one.third]
    opacity = [one for one in groups if one.finding == OPACITY and one.centre_mm is None]
    top = _by_side(canvas, lungs, head(canvas, "Lungs", top))
    top = _by_side(canvas, opacity, head(canvas, CALLED, top))
    top = head(canvas, "Slices over the lungs, of each stretch the one with most opacity", top) + 0.7
    top = picture(canvas, _slices(result), top, max(BOTTOM - 7 - top, LEAST_PICTURE_MM)) + 1
    left = LEFT
    for segment in SEGMENTS:
        left = swatch(canvas, segment.colour_rgb, segment.label, top, left)
    low, high = LUNG_WINDOW_HU
    hatched = "Hatched: consolidation. " if report["valid_for"]["hu_bands"] else ""
    words = f"{hatched}R, L: the patient's sides. Window {low} to {high} HU. Compressed with loss."
    write(canvas, words, top, left, LEFT + WIDTH - left, SMALL, colour=DIM)
    _foot(canvas, report, 1)


def _warnings(canvas: Canvas, warnings: list[str], top: float, left: int) -> float:
    """As sentences, as many as there is room for in so many lines."""
    if not warnings:
        return top
    top = head(canvas, "Warnings", top)
    for words in warnings:
        left -= lines_of(words)
        if left < 0:
            return write(canvas, MORE, top, colour=NOTICE)
        top = write(canvas, words, top, colour=NOTICE)
    return top


def _slices(result: Result) -> bytes:
    volume, masks = result.scan.working, result.masks
    bands = bool(result.report["valid_for"]["hu_bands"])
    image = printed(volume.array, masks.lungs, masks.infection, spacing_mm(volume)[1:], bands)
    return bytes(cv2.imencode(".jpg", np.ascontiguousarray(image[:, :, ::-1]), list(JPEG))[1])


def _second_page(canvas: Canvas, result: Result, groups: list[Group], absent: list[str]) -> None:
    """The figures by place, what all are worth, and where they come from."""
    report = result.report
    top = _thirds_and_lesions(canvas, result, groups, TOP - 2)
    top = _lobes(canvas, report, top)
    if withheld := why_withheld(report):
        top = write(canvas, withheld, top + 1, colour=NOTICE, most=3)
    top = head(canvas, INTERVAL.meaning, top)
    for words in _about_intervals(report):
        top = write(canvas, words, top, most=3)
    top = head(canvas, "Limits", top)
    for words in _limits(report):
        top = write(canvas, words, top, most=7)
    top = head(canvas, "Where this comes from", top)
    for name, words in _provenance(report, absent):
        write(canvas, name, top, width=34, size=SMALL, colour=DIM, most=1)
        top = write(canvas, words, top, LEFT + 36, WIDTH - 36, SMALL, most=2)
    _foot(canvas, report, 2)


def _by_side(canvas: Canvas, groups: list[Group], top: float) -> float:
    """Groups of the SR beside one another, a row a figure."""
    found = [{_named(one): one for one in group.measured} for group in groups]
    names = list(dict.fromkeys(name for cells in found for name in cells))
    rows = [(name, [_cell(cells[name]) if name in cells else "-" for cells in found]) for name in names]
    return table(canvas, top, [SIDE_OF[group.side] for group in groups], rows)


def _named(measured: Measured) -> str:
    how = measured.figure.derivation
    return f"{measured.name.meaning}, {how.meaning.lower()}" if how else measured.name.meaning


def _cell(measured: Measured) -> str:
    """A figure with its interval; without a value, why there is none."""
    value, interval, unit = measured.value, measured.interval, measured.figure.unit
    if value is None:
        return measured.why_absent.meaning
    if unit is PERCENT:
        return share(value, interval) + (f" ({from_to(interval)})" if interval else "")
    return amount(value, unit, interval) + (f" ({ends(interval)})" if interval else "")


def _thirds_and_lesions(canvas: Canvas, result: Result, groups: list[Group], top: float) -> float:
    """Beside one another."""
    width = 0.64 * WIDTH
    below = head(canvas, "Thirds from head to feet: share and volume of opacity", top, width=width)
    by_side = {words: [one for one in groups if one.third and one.side == side] for side, words in SIDES.values()}
    rows = [
        (third, [_share_and_volume(thirds[number]) if thirds else "-" for thirds in by_side.values()])
        for number, third in enumerate(THIRDS)
    ]
    end = table(canvas, below, list(by_side), rows, width=width, first=0.13)
    place, width = LEFT + width + 6, WIDTH - width - 6
    lesions = [one for one in groups if one.centre_mm]
    count = result.report["lesions"]["count"]
    told = f"Lesions: {count}" + (f", the {len(lesions)} largest" if count > len(lesions) else "")
    below = head(canvas, told, top, place, width)
    for group in lesions:
        [size] = group.measured
        words = f"{group.label}: {_cell(size)}, {_lies(result.scan, group)}"
        below = write(canvas, words, below, place, width, SMALL, most=2)
    return max(end, below)


def _lobes(canvas: Canvas, report: dict[str, Any], top: float) -> float:
    """Nothing where lobes were not asked for."""
    rows = lobe_rows(report)
    if not rows:
        return top
    below = head(canvas, f"{report['lobes']['scale']}, approximate: {score_of_lobes(report['lobes'])}", top)
    cells = [(name, [f"{value} ({ends})" if ends else value for value, ends in told]) for name, told in rows]
    below = table(canvas, below, ["volume", "opacity", "share", "score, 0 to 5"], cells)
    for words in worth_of_lobes(report):
        below = write(canvas, f"{words}.", below, size=SMALL, most=4)
    return below


def _share_and_volume(group: Group) -> str:
    of = {one.figure.name: one for one in group.measured}
    percent, volume = of["infection_percent"], of["infection_ml"]
    if percent.value is None and volume.value is None:
        return percent.why_absent.meaning
    return f"{_cell(percent)}, {_cell(volume)}" if volume.value is not None else _cell(percent)


def _lies(scan: Scan, group: Group) -> str:
    """The side of a lesion, and the slice of its centre, counted from the head."""
    at = np.linalg.inv(scan.working_affine) @ [*(group.centre_mm or ()), 1]
    index = int(np.clip(round(float(at[0])), 0, scan.working.shape[0] - 1))
    return f"{SIDE_OF[group.side].lower()}, slice {index + 1}"


def _about_intervals(report: dict[str, Any]) -> Iterable[str]:
    """What each holds, and why there is none; of figures that have the same to say once."""
    if not report.get("uncertainty"):
        yield "This result has no intervals."
    worth, missing = worth_of_intervals(report), missing_intervals(report)
    meanings = {one.name: one.meaning for one in FIGURES}
    said = {**worth, **{name: f"no interval ({why})" for name, why in missing.items()}}
    for words in dict.fromkeys(said.values()):
        yield f"{'; '.join(meanings[name] for name in said if said[name] == words)}: {words}."


def _limits(report: dict[str, Any]) -> Iterable[str]:
    yield f"{LIMITS} Ground glass and consolidation are bands of HU, not a reader's finding."
    for task in ("lungs", "infection"):
        if limits := report["networks"][task]["limits"]:
            yield f"Network for {'opacity' if task == 'infection' else task}: {limits}"


def _provenance(report: dict[str, Any], absent: list[str]) -> Iterable[tuple[str, str]]:
    """As the study's page has it, but without the path of a file: a folder may be named after its patient."""
    without_path = {**report, "source": {**report["source"], "path": None}}
    yield from ((name, words) for name, words in provenance(without_path) if name != "what it does badly")
    yield "work key", report["work_key"]
    yield from ((NOT_TOLD.meaning.lower(), words) for words in absent)
    if left_out := report["selection"]["left_out"]:
        yield (
            "not segmented",
            f"{len(left_out)} other series of the study: {'; '.join(one['message'] for one in left_out)}",
        )


def _foot(canvas: Canvas, report: dict[str, Any], page: int) -> None:
    """On each page: sheets come apart."""
    foot(canvas, RESEARCH_USE, f"covct {report['covct_version']}, page {page} of {PAGES}")
