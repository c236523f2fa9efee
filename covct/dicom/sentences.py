"""What a report says of itself in sentences: texts of the DICOM SR, and the same words in the report on paper."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from covct import RESEARCH_USE
from covct.terms import BY_LOBE, COMMENT, INTERVAL, LOBES, NOT_TOLD, SINCE, VALID_FOR, WARNING, CodedTerm


def remarks(report: dict[str, Any], absent: Iterable[str]) -> Iterator[tuple[CodedTerm, str]]:
    """What a reader must know, each with its concept: research use, the report's warnings, intervals, figures by lobe,
    what has changed since the last result, what is absent.

    `absent` is what the source does not tell, by `requested.not_told`.
    """
    yield COMMENT, RESEARCH_USE
    for warned in report["warnings"]:
        yield WARNING, f"{warned['slug']}: {warned['message']}"
    yield from ((INTERVAL, f"{figure}: {worth}") for figure, worth in worth_of_intervals(report).items())
    yield from ((BY_LOBE, words) for words in worth_of_lobes(report))
    since = report.get("since") or {}
    if since.get("comparison"):
        yield from ((SINCE, words) for words in since["sentences"])
    if named := ", ".join(absent):
        yield NOT_TOLD, named


def worth_of_intervals(report: dict[str, Any]) -> dict[str, str]:
    """What the interval of each figure that has one holds, by the figure's name."""
    sure = report.get("uncertainty") or {}
    told = {}
    for figure, given in (sure.get("figures") or {}).items():
        if given["level"]:
            worth = f"interval of level {given['level']:g}, of {given['people']} people"
            if given["coverage"]:  # none of folds
                low, high = given["coverage"]
                worth += f" between {low:g} and {high:g}"
            told[figure] = f"{worth}, measured on: {sure['source']}"
    return told


def score_of_lobes(lobes: dict[str, Any]) -> str:
    """The score of all lobes in words, with its interval."""
    score, interval = lobes["score"], lobes["score_interval"]
    if score is None:
        return "withheld"
    low, high = interval
    return f"{score} of 25" + ("" if low == high else f" ({low} to {high})")


def worth_of_lobes(report: dict[str, Any]) -> list[str]:
    """What figures by lobe are worth, and which are withheld; nothing where there are none."""
    found = report.get("lobes")
    if not found:
        return []
    atlas = found["atlas"]
    agree = ", ".join(f"{lobe.short} {atlas['dice'][lobe.name]:.2f}" for lobe in LOBES)
    worth = (
        f"Approximate: lobes are put where lungs of this shape have them, by an atlas of {atlas['people']} people, and "
        f"agree with drawn ones to a Dice of {agree} (each of these people by the others). Intervals of level "
        f"{found['level']:g} tell how much that changes, and held {100 * atlas['interval_held']:.0f} % of these "
        "people's scores; what the network called too much or too little is not in them"
    )
    return [worth, *found["withheld"]]


def missing_intervals(report: dict[str, Any]) -> dict[str, str]:
    """Why there is no interval, by the name of the figure."""
    figures = (report.get("uncertainty") or {}).get("figures") or {}
    return {figure: given["reason"] for figure, given in figures.items() if not given["level"]}


def why_withheld(report: dict[str, Any]) -> str:
    """Which figures the input does not allow; empty where it allows all."""
    withheld = [VALID_FOR[name] for name, valid in report["valid_for"].items() if not valid]
    if not withheld:
        return ""
    return f"The input does not allow: {'; '.join(withheld)}. What has no value here was withheld, it is not 0."
