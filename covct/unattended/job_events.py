"""Events of one series: what each says of which it is."""

from __future__ import annotations

from typing import Any

from covct.disk.outcome import Outcome
from covct.intake.discover import UID_PATTERN, Series
from covct.results.entries import is_volume_folder
from covct.unattended.plan import Job


def file_meant(file: str) -> dict[str, str]:
    """For an event: the file that a series is rejected for, if one is meant."""
    return {"file": file} if file else {}


def job_event(event: str, job: Job, **details: Any) -> dict[str, Any]:
    return {
        "event": event,
        "study": _uid(job.series.study_uid) or job.series.study_folder,
        "series": _uid(job.series.series_uid) or _series_folder(job.series),
        "folder": job.series.folder,
        **details,
    }


def skipped_event(folder: str, outcome: Outcome) -> dict[str, Any]:
    study, series = folder.split("/")
    return {
        "event": "skipped",
        "study": _uid(outcome.study_instance_uid) or study,
        "series": _uid(outcome.series_instance_uid) or (study if is_volume_folder(study) else series),
        "folder": folder,
        "status": outcome.status,
        "slug": outcome.slug,
    }


def _series_folder(series: Series) -> str:
    """Of a NIfTI the study's folder, which tells one from another."""
    study, folder = series.folder.split("/")
    return folder if series.kind == "dicom" else study


def _uid(text: str) -> str:
    """Empty for what a broken header has in place of a UID: it may be a name."""
    return text if UID_PATTERN.fullmatch(text) else ""
