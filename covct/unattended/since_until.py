"""What of the sources this run takes: studies changed since a time, until a time of day."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from covct.intake.discover import Discovery, Series

UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_since(text: str, now: datetime) -> datetime:
    """A date or time in ISO 8601, local where it names no zone; or how long ago: 90m, 24h, 7d, 2w.

    Raises
    ------
    ValueError
        Neither.
    """
    if ago := re.fullmatch(r"(\d{1,6})([mhdw])", text.strip()):
        return now - timedelta(**{UNITS[ago[2]]: int(ago[1])})
    return datetime.fromisoformat(text.strip()).astimezone()


def parse_until(text: str, wall: datetime) -> datetime:
    """The next time that the clock on the wall, which shows `wall` (local, without a zone), comes to HH:MM.

    Raises
    ------
    ValueError
        No time of day.
    """
    if not re.fullmatch(r"\d{1,2}:\d{2}", text.strip()):
        raise ValueError(text)
    hour, minute = (int(part) for part in text.split(":"))
    then = wall.replace(hour=hour, minute=minute, second=0, microsecond=0)
    if then <= wall:
        then += timedelta(days=1)
    return then.astimezone()


def changed_since(found: Discovery, since: datetime) -> tuple[Discovery, int]:
    """The studies of which any file was modified at `since` or later, each whole; and how many series are left out.

    Whole, since the choice among a study's series needs all of them, and a late slice makes its whole study new. The
    time is the file system's own (of an archive: the archive's); copying tools may keep an old one (`cp -p`, rsync).
    """
    fresh = {series.study_folder for series in found.series if _newest(series) >= since.timestamp()}
    kept = tuple(series for series in found.series if series.study_folder in fresh)
    return replace(found, series=kept), len(found.series) - len(kept)


def _newest(series: Series) -> float:
    slices = [instance.file.path for instance in (*series.instances, *series.aside)]
    paths = {*slices, *(twin.path for twin in series.twins), *([series.path.path] if series.path else [])}
    return max((_modified(path) for path in paths), default=0.0)


def _modified(path: Path) -> float:
    """Seconds since the epoch; a file that cannot be asked counts as new, so that reading it says what is wrong."""
    try:
        return path.stat().st_mtime
    except OSError:
        return float("inf")
