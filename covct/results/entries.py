"""An output tree read back: one entry a series, whatever state its files are in."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from covct.disk.outcome import Outcome, read_outcome
from covct.disk.places import OUTCOME, REPORT_NAME, results_in
from covct.errors import logged
from covct.pipeline.report_document import Report
from covct.pipeline.report_figures import Interval, Regions
from covct.pipeline.report_lobes import Lobes
from covct.terms import FIGURES

STATUSES = ("done", "failed", "rejected")  # in the order of the page
DAMAGED = "damaged-result"
VOLUME_FOLDERS = ("nifti-", "metaimage-", "nrrd-")
LONGEST_TEXT = 4096
# What is shown of a report: figures of both lungs, and some of each lung.
SHOWN = tuple(
    (figure.name, region)
    for figure in FIGURES
    for region in ("lungs", *(("right_lung", "left_lung") if figure.column_sides else ()))
)


@dataclass(frozen=True)
class Change:
    """What a report says has changed since the patient's last result; empty or None where it says nothing.

    Attributes
    ----------
    mark : str
        "first", "changed", "unchanged".
    days : int or None
        Between the two studies.
    percent_then, points : float or None
        Infected share of both lungs then, and by how many percentage points it is more now.
    is_superseded : bool or None
        Whether another result lies where that one lay; None where it was of another tree.
    sentences : tuple of str
    prior : str
        Folder of that result, where it lies in this tree.
    """

    mark: str = ""
    days: int | None = None
    percent_then: float | None = None
    points: float | None = None
    is_superseded: bool | None = None
    sentences: tuple[str, ...] = ()
    prior: str = ""


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
    figures : dict of (str, str) to (float or None)
        By name of a row of FIGURES and region: those of SHOWN.
    intervals : dict of str to ((float, float) or None)
        Of both lungs, by name of the figure.
    called_in_view : float or None
        Where the scan does not allow the share of the lungs: what was called of the lung that it shows, percent.
    suspicion : (float, float, float) or None
        How much it looks like COVID-19, 0 to 1, and its interval; not a diagnosis.
    low_confidence : bool or None
        Whether the share's interval reaches another class or is wide.
    first : str
        When the series first had a result; empty where that is not known.
    valid_for : tuple of (str, bool)
        Name of a kind of figure, and whether the input allows it.
    warnings : tuple of (str, str)
        Slug and message.
    identifiers : tuple of (str, str)
        Name and value of what the archive knows the study by; empty unless a reader asked for it.
    since : Change
    lobes_score : int or None
        CT severity score of all lobes; with its interval.
    by_lobe : dict of str to (float or None, int or None)
        By name of a lobe: share of opacity, percent, and score. Empty where lobes were not asked for.
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
    first: str = ""
    seconds: float | None = None
    files: tuple[str, ...] = ()
    figures: dict[tuple[str, str], float | None] = field(default_factory=dict)
    intervals: dict[str, Interval | None] = field(default_factory=dict)
    called_in_view: float | None = None
    suspicion: tuple[float, float, float] | None = None
    low_confidence: bool | None = None
    severity_class: int | None = None
    severity_label: str = ""
    valid_for: tuple[tuple[str, bool], ...] = ()
    warnings: tuple[tuple[str, str], ...] = ()
    identifiers: tuple[tuple[str, str], ...] = ()
    since: Change = Change()
    lobes_score: int | None = None
    lobes_interval: tuple[int, int] | None = None
    by_lobe: dict[str, tuple[float | None, int | None]] = field(default_factory=dict)

    def figure(self, name: str, region: str = "lungs") -> float | None:
        """A figure of SHOWN; None where the report has none."""
        return self.figures.get((name, region))

    @property
    def infection_percent(self) -> float | None:
        """Infected share of both lungs."""
        return self.figure("infection_percent")

    @property
    def place_percent(self) -> float | None:
        """What the series is placed by among the others: the infected share of both lungs, else of the lung in view."""
        return self.called_in_view if self.infection_percent is None else self.infection_percent

    @property
    def percent_interval(self) -> Interval | None:
        """Where the infected share of both lungs is put."""
        return self.intervals.get("infection_percent")


def read_tree(out: Path) -> list[Entry]:
    """Read every OUT/*/*/outcome.json, and the report.json of those done; in the order of their folders.

    A file that cannot be read or makes no sense becomes an entry with status "failed" and slug "damaged-result".
    """
    return [entry for folder in results_in(Path(out)) if (entry := read_entry(folder))]


def worst_first(entries: Iterable[Entry]) -> list[Entry]:
    """Done by infected share, highest first: of the lungs, else of the lung in view. Those without one come last; then
    failed; then rejected."""

    def rank(entry: Entry) -> tuple[Any, ...]:
        percent = entry.place_percent
        badness = (percent is None, -(percent or 0), -(entry.figure("infection_ml") or 0))
        return STATUSES.index(entry.status), badness, entry.slug, entry.folder

    return sorted(entries, key=rank)


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
        report = _read_report(folder)
        return Entry(relative, "done", **known, **_from_report(report), since=_since(report, folder.parent.parent))
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


def _from_outcome(outcome: Outcome, relative: str) -> dict[str, Any]:
    return {
        "slug": one_line(outcome.slug),
        "message": one_line(outcome.message),
        "study_instance_uid": one_line(outcome.study_instance_uid),
        "series_instance_uid": one_line(outcome.series_instance_uid),
        "source": one_line(outcome.source) if is_volume_folder(relative) else "",
        "covct_version": one_line(outcome.covct_version),
        "finished": one_line(outcome.finished),
        "first": _first(outcome),
        "seconds": outcome.seconds,
        "files": tuple(sorted(outcome.files)),
    }


def _first(outcome: Outcome) -> str:
    """The earliest of its moments that is one; those of an outcome are local times, each with its distance from UTC."""
    moments = []
    for told in outcome.moments.values():
        with suppress(ValueError):
            moments.append(datetime.fromisoformat(told).astimezone(UTC))
    return min(moments).isoformat(timespec="seconds") if moments else ""


def _read_report(folder: Path) -> Report:
    try:
        return Report.read(folder / REPORT_NAME)
    except FileNotFoundError as error:
        raise ValueError("report.json is missing") from error


def _from_report(report: Report) -> dict[str, Any]:
    sure = report.uncertainty
    return {
        "figures": {(name, region): report.regions.named(region).figure(name) for name, region in SHOWN},
        "intervals": _intervals(report.regions),
        "called_in_view": report.in_view.called_percent if report.in_view else None,
        "suspicion": (report.suspicion.covid, *report.suspicion.interval) if report.suspicion else None,
        "low_confidence": sure.low_confidence if sure else None,
        "severity_class": report.severity.class_,
        "severity_label": one_line(report.severity.label),
        "valid_for": tuple(report.valid_for),
        "warnings": tuple((warned.slug, one_line(warned.message)) for warned in report.warnings),
        **(_by_lobe(report.lobes) if report.lobes else {}),
    }


def _by_lobe(lobes: Lobes) -> dict[str, Any]:
    return {
        "lobes_score": lobes.score,
        "lobes_interval": lobes.score_interval,
        "by_lobe": {name: (lobe.infection_percent, lobe.score) for name, lobe in lobes.by_lobe.items()},
    }


def _since(report: Report, out: Path) -> Change:
    told = report.since
    if told is None:
        return Change()
    sentences = tuple(one_line(one) for one in told.sentences)
    if told.comparison is None:
        return Change(told.mark or "", sentences=sentences)
    prior, percent = told.comparison.prior, told.comparison.infection_percent
    superseded, folder = None, "" if prior.elsewhere else prior.folder
    if folder:
        there = read_outcome(out / prior.folder)
        superseded = there is None or there.work_key != prior.work_key
    return Change(told.mark or "", prior.days_before, percent.then, percent.difference, superseded, sentences, folder)


def _intervals(regions: Regions) -> dict[str, Interval | None]:
    return {figure.name: regions.lungs.interval(figure.name) for figure in FIGURES if figure.interval}


def is_volume_folder(folder: str) -> bool:
    """Whether a folder below the output tree is that of a volume file, which has no UIDs to name it by."""
    return folder.startswith(VOLUME_FOLDERS)


def one_line(value: Any) -> str:
    """One line without control, bidirectional or broken characters; empty for anything that is no text.

    No longer than the longest path.
    """
    if not isinstance(value, str):
        return ""
    text = value[:LONGEST_TEXT]
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(text.split())
