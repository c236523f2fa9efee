"""Results in trees of earlier versions, whose folders bear fewer digits of a hash: found where they lie."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from covct.disk.outcome import Outcome, read_outcome
from covct.intake.discover import HASH_DIGITS, Series

EARLIER_DIGITS = {"nifti-": 12, "uid-": 24}  # 48 and 96 bits: pairs that collide can be made


def earlier(folder: str) -> str:
    """The name that a folder below the tree, or a part of it, had in earlier versions; its own where it is a UID."""
    return "/".join(_earlier_part(part) for part in folder.split("/"))


def _earlier_part(part: str) -> str:
    if found := re.match(rf"(nifti-|uid-)([0-9a-f]{{{HASH_DIGITS}}})", part):
        prefix, digits = found.groups()
        return f"{prefix}{digits[: EARLIER_DIGITS[prefix]]}{part[found.end() :]}"
    return part


def where_it_lies(out: Path, series: Series, key: Callable[[Series], str]) -> Series:
    """The series with the folder that an earlier version gave its result, where that holds a result of this input.

    That it does is told by the work key, which has the whole hash; where other settings or another version made
    another key, by the series' UIDs or the NIfTI's path. A folder whose result is of another input, as fewer digits
    allow, stays as it is. A series without a result joins those of its study there: else it would be a second study.

    Parameters
    ----------
    key : function (Series) -> str
        Its work key.
    """
    folder = earlier(series.folder)
    if folder == series.folder or (out / series.folder).exists():
        return series
    outcome = read_outcome(out / folder)
    if outcome is None and ((out / folder).exists() or not _study_lies_in(out / folder.split("/")[0], series)):
        return series
    if outcome is not None and not (outcome.work_key == key(series) or _is_of(outcome, series)):
        return series
    return replace(series, folder=folder, study=series.study_folder)


def _study_lies_in(folder: Path, series: Series) -> bool:
    outcomes = (read_outcome(path.parent) for path in folder.glob("*/outcome.json"))
    return series.kind == "dicom" and any(one and one.study_instance_uid == series.study_uid != "" for one in outcomes)


def _is_of(outcome: Outcome, series: Series) -> bool:
    if series.kind == "dicom":
        uids = outcome.study_instance_uid, outcome.series_instance_uid
        return all(uids) and uids == (series.study_uid, series.series_uid)
    return series.path is not None and outcome.source in [file.label for file in (series.path, *series.twins)]
