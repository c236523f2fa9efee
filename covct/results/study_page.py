"""A page of one series: every slice to scroll through, its marks, and all that the report says of it."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

import numpy as np

from covct.dicom.sentences import score_of_lobes, worth_of_lobes
from covct.html import inline_script, render
from covct.pipeline.series import Result
from covct.results.amounts import amount, ends
from covct.results.nights import IN_VIEW, marked
from covct.results.over_time import line_of
from covct.results.study_pictures import HU_A_GREY, LOWEST_HU, Encoding, Picture, fitting, pictures
from covct.terms import FIGURES, LOBES, PERCENT, SEGMENTS, Figure
from covct.visible import from_to, share
from covct.voxels.volume import Scan, spacing_mm

SIDES = {"lungs": "both lungs", "right_lung": "right lung", "left_lung": "left lung"}
LIMITS = "The marks are a network's: how much it marked, not whether it is COVID-19."


def study_page(result: Result) -> str:
    """A self-contained page that fetches nothing; no name, date or identifier of a patient is on it."""
    return page_of(result, fitting(result.scan.working.array), "study.html")


def page_of(result: Result, encoding: Encoding, template: str, **more: Any) -> str:
    """The same by another template on top of it, and with slices in another encoding; `more` is what that asks for."""
    scan, report = result.scan, result.report
    drawn = list(pictures(scan.working.array, result.masks.lungs, result.masks.infection, encoding))
    first = _first(drawn)
    return render(
        template,
        heading=heading(report),
        limits=LIMITS,
        warnings=[(one["slug"], one["message"]) for one in report["warnings"]],
        infection=SEGMENTS[2].label,
        made_smaller=_made_smaller(scan, encoding),
        sides=list(SIDES.values()),
        figures=[(figure.meaning, _cells(report, figure)) for figure in FIGURES],
        about_intervals=_about_intervals(report),
        suspicion=_suspicion(report),
        thirds=_thirds(report),
        lobes=lobe_rows(report),
        score_of_lobes=score_of_lobes(report["lobes"]) if report.get("lobes") else "",
        worth_of_lobes=worth_of_lobes(report),
        lesion_count=_lesion_count(report),
        lesions=_lesions(scan, report["lesions"]["largest"], encoding),
        since=(report.get("since") or {}).get("sentences", []),
        over_time=line_of(report),
        come_and_gone=_come_and_gone(scan, report, encoding),
        provenance=provenance(report),
        left_out=[(one["series_instance_uid"], one["message"]) for one in report["selection"]["left_out"]],
        scan=_for_script(scan, drawn, first, encoding),
        first_slice=_as_scripts([(first, drawn[first])]),
        later_slices=_as_scripts((index, one) for index, one in enumerate(drawn) if index != first),
        **inline_script("study.js"),
        **more,
    )


def _first(drawn: list[Picture]) -> int:
    """The slice that is shown first: with most infection, else with most lung."""
    return max(range(len(drawn)), key=lambda index: (drawn[index].infected, drawn[index].lung))


def _as_scripts(drawn: Iterable[tuple[int, Picture]]) -> str:
    """Data, which a browser does not run: JPEG and PNG in base64, which needs no escaping."""
    return "\n".join(
        f'<script type="text/plain" data-slice="{index}">{_text(one.grey)},{_text(one.marks)}</script>'
        for index, one in drawn
    )


def _text(picture: bytes) -> str:
    return base64.b64encode(picture).decode()


def _for_script(scan: Scan, drawn: list[Picture], first: int, encoding: Encoding) -> dict[str, Any]:
    slices, rows, columns = scan.working.array.shape
    depth, row_mm, column_mm = spacing_mm(scan.working)
    return {
        "slices": slices,
        "rows": encoding.rows,
        "columns": encoding.columns,
        "spacing": [depth, row_mm * rows / encoding.rows, column_mm * columns / encoding.columns],
        "lowest_hu": LOWEST_HU,
        "hu_a_grey": HU_A_GREY,
        "colours": [list(segment.colour_rgb) for segment in SEGMENTS],
        "first": first,
        "lung": [one.lung for one in drawn],
        "infected": [one.infected for one in drawn],
    }


def _made_smaller(scan: Scan, encoding: Encoding) -> str:
    _, rows, columns = scan.working.array.shape
    text = f"For looking, the slices are compressed with loss, in steps of {HU_A_GREY} HU"
    if (encoding.rows, encoding.columns) == (rows, columns):
        return f"{text}."
    return f"{text}, and {encoding.rows} x {encoding.columns} pixels instead of {rows} x {columns}."


def heading(report: dict[str, Any]) -> str:
    both = report["regions"]["lungs"]
    if both["infection_percent"] is None:
        seen = report.get("in_view")
        return "no percentage" + (f"; {share(seen['called_percent'])} {IN_VIEW} marked" if seen else "")
    return marked(both["infection_percent"], both["infection_percent_interval"])


def _cells(report: dict[str, Any], figure: Figure) -> list[tuple[str, str]]:
    """Value and interval by side."""
    cells = []
    for side in SIDES:
        region = report["regions"][side]
        value, interval = region[figure.name], region.get(f"{figure.name}_interval")
        if figure.unit is PERCENT:
            cells.append((share(value, interval), from_to(interval) if interval else ""))
        else:
            cells.append((amount(value, figure.unit, interval), ends(interval) if interval else ""))
    return cells


def _suspicion(report: dict[str, Any]) -> str:
    told = report.get("suspicion")
    if not told:
        return ""
    low, high = told["interval"]
    return (
        f"{told['notice']} Like published pictures of COVID-19: {told['covid']:.2f} of 1 ({low:.2f} to {high:.2f}). "
        f"On pictures of other sources its AUC is {told['auc']:.2f}; their borders alone, which show no disease, reach "
        f"{told['auc_borders']:.2f}."
    )


def _about_intervals(report: dict[str, Any]) -> str:
    sure = report.get("uncertainty")
    if not sure:
        return "This result has no intervals."
    if not sure["figures"]:
        return "How often its intervals hold the truth was not measured by the version that wrote them."
    made = sure["figures"]["infection_percent"]
    if made["level"] is None:
        return f"The share has no interval: {made['reason']}."
    held = ""
    if made["coverage"]:  # none of folds
        low, high = (100 * end for end in made["coverage"])
        held = f", {low:.0f} to {high:.0f} %"
    return (
        f"Below figures of both lungs their intervals, at a level of {100 * made['level']:.0f} % (for people like the "
        f"{made['people']} measured{held}). Measured on: {sure['source']}."
    )


def _thirds(report: dict[str, Any]) -> list[tuple[str, list[str]]]:
    names = report["regions"]["lungs"]["thirds"]
    return [
        (name, [share(report["regions"][side]["thirds"][name]["infection_percent"]) for side in SIDES])
        for name in names
    ]


def lobe_rows(report: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Of each lobe volume, opacity, share and score, the last two with their intervals; none where there are none."""
    found = report.get("lobes")
    if not found:
        return []
    named = {figure.name: figure for figure in FIGURES}
    rows = []
    for lobe in LOBES:
        one = found["by_lobe"][lobe.name]
        share_ends, score_ends = one["infection_percent_interval"], one["score_interval"]
        cells = [(amount(one[name], named[name].unit), "") for name in ("volume_ml", "infection_ml")]
        cells.append((share(one["infection_percent"], share_ends), from_to(share_ends) if share_ends else ""))
        score = "-" if one["score"] is None else str(one["score"])
        cells.append(
            (score, "" if not score_ends or score_ends[0] == score_ends[1] else "–".join(map(str, score_ends)))
        )
        rows.append((lobe.words, cells))
    return rows


def _lesion_count(report: dict[str, Any]) -> str:
    lesions = report["lesions"]
    shown = len(lesions["largest"])
    return f"{lesions['count']} in all" + (f", the {shown} largest" if lesions["count"] > shown else "")


def _come_and_gone(
    scan: Scan, report: dict[str, Any], encoding: Encoding
) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """New and vanished lesions, with where they are or were."""
    lesions = ((report.get("since") or {}).get("comparison") or {}).get("lesions") or {}
    named = (("New lesions", lesions.get("new")), ("Vanished lesions", lesions.get("vanished")))
    return [(name, _lesions(scan, found, encoding)) for name, found in named if found]


def _lesions(scan: Scan, lesions: Iterable[dict[str, Any]], encoding: Encoding) -> list[tuple[str, str, str]]:
    """Size, side, and where: slice, row and column of the pictures."""
    to_index = np.linalg.inv(scan.working_affine)
    shape = scan.working.array.shape
    sizes = np.array([1, encoding.rows / shape[1], encoding.columns / shape[2]])
    most = np.array([shape[0], encoding.rows, encoding.columns]) - 1
    shown = []
    for lesion in lesions:
        at = (to_index @ [*lesion["centroid_lps_mm"], 1])[:3] * sizes
        place = np.clip(at.round(), 0, most).astype(int)
        size = "size unknown" if lesion["volume_ml"] is None else f"{lesion['volume_ml']:.1f} mL"
        shown.append((size, SIDES[lesion["side"]], " ".join(map(str, place))))
    return shown


def provenance(report: dict[str, Any]) -> list[tuple[str, str]]:
    source, geometry, networks = report["source"], report["geometry"], report["networks"]
    said = [
        ("chosen because", "; ".join(report["selection"]["reasons"])),
        ("study", source["study_instance_uid"]),
        ("series", source["series_instance_uid"]),
        ("file", source["path"]),
        ("slices", f"{geometry['slices']} of {geometry['rows']} x {geometry['columns']} pixels"),
        ("slice spacing", geometry["slice_spacing_mm"] and f"{geometry['slice_spacing_mm']:g} mm"),
        ("lungs network", _network(networks["lungs"])),
        ("infection network", _network(networks["infection"])),
        ("atlas of lobes", _atlas(report.get("lobes"))),
        ("what it does badly", networks["infection"]["limits"]),
        ("program", f"covct {report['covct_version']}"),
    ]
    return [(name, str(value)) for name, value in said if value]


def _atlas(lobes: dict[str, Any] | None) -> str:
    if not lobes:
        return ""
    atlas = lobes["atlas"]
    return f"{atlas['name']}, {atlas['people']} people, sha256 {atlas['sha256'][:12]}, {atlas['licence']}"


def _network(network: dict[str, Any]) -> str:
    return f"{network['name']}, threshold {network['threshold']:g}, sha256 {network['sha256'][:12]}"
