"""An output tree read back: one entry a series, whatever state its files are in."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from covct.disk.outcome import Outcome
from covct.disk.places import OUTCOME
from covct.errors import logged

STATUSES = ("done", "failed", "rejected")  # in the order of the page
DAMAGED = "damaged-result"
VOLUME_FOLDERS = ("nifti-", "metaimage-", "nrrd-")
LONGEST_TEXT = 4096
REGIONS = ("lungs", "right_lung", "left_lung")
VALID_FOR = {"volume": "volumes", "percent": "percentages", "hu_bands": "ground glass and consolidation"}


@dataclass(frozen=True)
class Entry:
    """One series of the output tree, as its outcome.json and report.json tell it.

    Texts are on one line and free of control characters; they are not escaped. Figures are None where the report
    has none, and for every series that is not done.

    Attributes
    ----------
    folder : str
        Its folder below the output tree, ``study/series``.
    status : str
        "done", "failed" or "rejected".
    source : str
        Of a volume file only, which has no UIDs: the path below its source. Empty for DICOM.
    files : tuple of str
        Names of its result files.
    right_percent, left_percent : float or None
        Infected share of the patient's right and left lung.
    percent_interval, infection_interval : (float, float) or None
        Interval of the infected share and of the infected mL.
    low_confidence : bool or None
        Whether the share's interval reaches another class or is wide.
    valid_for : tuple of (str, bool)
        Name of a kind of figure, and whether the input allows it.
    warnings : tuple of (str, str)
        Slug and message.
    """

    folder: str
    status: str
    slug: str = ""
    message: str = ""
    study_instance_uid: str = ""
    series_instance_uid: str = ""
    source: str = ""
    covct_version: str = ""
    finished: str = ""
    seconds: float | None = None
    files: tuple[str, ...] = ()
    lungs_ml: float | None = None
    infection_ml: float | None = None
    infection_percent: float | None = None
    right_percent: float | None = None
    left_percent: float | None = None
    percent_interval: tuple[float, float] | None = None
    infection_interval: tuple[float, float] | None = None
    low_confidence: bool | None = None
    ground_glass_ml: float | None = None
    consolidation_ml: float | None = None
    severity_class: int | None = None
    severity_label: str = ""
    valid_for: tuple[tuple[str, bool], ...] = ()
    warnings: tuple[tuple[str, str], ...] = ()


def read_tree(out: Path) -> list[Entry]:
    """Read every OUT/*/*/outcome.json, and the report.json of those done; in the order of their folders.

    A file that cannot be read or makes no sense becomes an entry with status "failed" and slug "damaged-result".
    """
    found = (read_entry(path.parent) for path in sorted(Path(out).glob(f"*/*/{OUTCOME}")) if _is_result(path))
    return [entry for entry in found if entry]


def worst_first(entries: Iterable[Entry]) -> list[Entry]:
    """Done by infected share, highest first and those without one last; then failed; then rejected."""

    def rank(entry: Entry):
        percent = entry.infection_percent
        badness = (percent is None, -(percent or 0), -(entry.infection_ml or 0))
        return STATUSES.index(entry.status), badness, entry.slug, entry.folder

    return sorted(entries, key=rank)


def _is_result(path: Path) -> bool:
    return not any(name.startswith(".") for name in path.parts[-3:])  # .covct and what is being staged


def read_entry(folder: Path) -> Entry | None:
    """One result by its folder; None where it went away meanwhile."""
    relative = f"{folder.parent.name}/{folder.name}"
    known: dict[str, Any] = {
        "study_instance_uid": one_line(folder.parent.name),
        "series_instance_uid": one_line(folder.name),
    }
    try:
        outcome = Outcome.read(folder / OUTCOME)
        known = _from_outcome(outcome, relative)
        if outcome.status != "done":
            return Entry(relative, outcome.status, **known)
        return Entry(relative, "done", **known, **_from_report(_read_object(folder / "report.json")))
    except (ValueError, OSError, RecursionError) as error:
        if not folder.exists():
            return None  # replaced by a newer result while we read
        known.update(slug=DAMAGED, message=one_line(f"the result cannot be read: {error}"))
        return Entry(relative, "failed", **known)
    except Exception as error:  # one result's trouble is not the others'
        return damaged(relative, error)


def damaged(folder: str, error: Exception) -> Entry:
    """In place of a result that breaks reading or showing it."""
    return Entry(folder, "failed", slug=DAMAGED, message=f"the result cannot be shown: {logged(error)}")


def _read_object(path: Path) -> dict[str, Any]:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{path.name} holds {constant}, which is not JSON")

    try:
        content = json.loads(path.read_bytes(), parse_constant=refuse)
    except FileNotFoundError as error:
        raise ValueError(f"{path.name} is missing") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path.name} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} does not hold an object")
    return content


def _from_outcome(outcome: Outcome, relative: str) -> dict[str, Any]:
    return {
        "slug": one_line(outcome.slug),
        "message": one_line(outcome.message),
        "study_instance_uid": one_line(outcome.study_instance_uid),
        "series_instance_uid": one_line(outcome.series_instance_uid),
        "source": one_line(outcome.source) if is_volume_folder(relative) else "",
        "covct_version": one_line(outcome.covct_version),
        "finished": one_line(outcome.finished),
        "seconds": outcome.seconds,
        "files": tuple(sorted(outcome.files)),
    }


def _from_report(report: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(_at(report, "regions", "lungs"), dict):
        raise ValueError("report.json has no figures of the lungs")
    percents = {name: _number(_at(report, "regions", name, "infection_percent")) for name in REGIONS}
    for percent in percents.values():
        if percent is not None and not 0 <= percent <= 100:
            raise ValueError(f"report.json has a share of {percent:g} %")
    severity = _number(_at(report, "severity", "class"))
    valid_for = _at(report, "valid_for")
    warnings = _at(report, "warnings")
    return {
        "lungs_ml": _number(_at(report, "regions", "lungs", "volume_ml")),
        "infection_ml": _number(_at(report, "regions", "lungs", "infection_ml")),
        "infection_percent": percents["lungs"],
        "right_percent": percents["right_lung"],
        "left_percent": percents["left_lung"],
        "percent_interval": _interval(_at(report, "regions", "lungs", "infection_percent_interval")),
        "infection_interval": _interval(_at(report, "regions", "lungs", "infection_ml_interval")),
        "low_confidence": _flag(_at(report, "uncertainty", "low_confidence")),
        "ground_glass_ml": _number(_at(report, "regions", "lungs", "ground_glass_ml")),
        "consolidation_ml": _number(_at(report, "regions", "lungs", "consolidation_ml")),
        "severity_class": int(severity) if severity in (1, 2, 3, 4, 5) else None,
        "severity_label": one_line(_at(report, "severity", "label")),
        "valid_for": tuple((name, valid_for[name] is True) for name in VALID_FOR if name in valid_for)
        if isinstance(valid_for, dict)
        else (),
        "warnings": tuple(
            (one_line(one.get("slug")), one_line(one.get("message")))
            for one in (warnings if isinstance(warnings, list) else ())
            if isinstance(one, dict)
        ),
    }


def _at(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def _interval(value: Any) -> tuple[float, float] | None:
    """None where a report has none, as those of older versions."""
    if not isinstance(value, list) or len(value) != 2:
        return None
    low, high = (_number(end) for end in value)
    return None if low is None or high is None or not 0 <= low <= high else (low, high)


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def is_volume_folder(folder: str) -> bool:
    """Whether a folder below the output tree is that of a volume file, which has no UIDs to name it by."""
    return folder.startswith(VOLUME_FOLDERS)


def one_line(value: Any) -> str:
    """One line without control, bidirectional or broken characters; empty for anything that is no text.

    No longer than the longest path.
    """
    if not isinstance(value, str):
        return ""
    return " ".join("".join(c if c.isprintable() else " " for c in value[:LONGEST_TEXT]).split())
