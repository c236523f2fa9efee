"""An output tree read back: is every result whole, and do its files, figures and references agree? Never writes."""

from __future__ import annotations

import csv
import os
import stat
from collections import ChainMap, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom

from covct.dicom.header import Instance
from covct.disk.documents import DamagedDocument
from covct.disk.outcome import Outcome
from covct.disk.places import OUTCOME
from covct.disk.sources import printable
from covct.errors import logged
from covct.intake.discover import Series, discover, safe_name
from covct.intake.older_trees import earlier
from covct.networks.cards import file_sha256
from covct.outputs import FORMATS
from covct.pipeline.report_document import Report
from covct.results.check_dicom import check_objects
from covct.results.check_figures import SUMMARY, SourceFiles, check_figures
from covct.results.check_masks import check_masks
from covct.results.check_report import check_report
from covct.results.check_source import Sources
from covct.results.defects import Defect
from covct.results.dicom3tools import Judges, ask, installed_judges

__all__ = ["Judges", "Verdict", "installed_judges", "verify"]
# By format: (folder, names of its files, report, volume files that may be the source, or None). DICOM objects are
# checked all together, since they refer to one another; of what has no checker only the hash is.
CHECKERS: dict[str, Callable[[Path, list[str], Report, list[Series] | None], Iterable[Defect]]] = {"nifti": check_masks}
MOST_LOOKS = 3  # at a result that is replaced while it is read


@dataclass(frozen=True)
class Verdict:
    """What was found in one result.

    Attributes
    ----------
    folder : str
        ``study/series`` below the output tree.
    status : str
        The outcome's, or empty where there is none.
    objects : int
        Number of DICOM objects that could be read.
    figures : int
        Number of figures that were derived anew and compared.
    """

    folder: str
    status: str
    defects: tuple[Defect, ...]
    objects: int = 0
    figures: int = 0


@dataclass(frozen=True)
class _Known:
    """The sources' slices and volume files, by what results call them."""

    slices: dict[tuple[str, int | None], Instance]
    volumes: dict[str, list[Series]]
    by_series: dict[str, dict[tuple[str, int | None], Instance]]

    def slices_of(self, series_uid: str) -> Sources:
        """Those of a series before others': exports of several people may number their instances alike."""
        return ChainMap(self.by_series.get(series_uid, {}), self.slices)


@dataclass(frozen=True)
class _Eyes:
    """What results are looked at with.

    Attributes
    ----------
    known : _Known or None
        None where no sources were given.
    rows : dict of str to dict, or None
        Of summary.csv, by folder; None where figures are not to be derived anew.
    """

    known: _Known | None
    judges: Judges
    rows: dict[str, dict[str, str]] | None


@dataclass
class _Look:
    """One look at a result: its defects, figures derived anew, and the UIDs for the whole tree's sake."""

    status: str = ""
    defects: list[Defect] = field(default_factory=list)
    objects: dict[str, pydicom.Dataset] = field(default_factory=dict)
    figures: int = 0


def verify(
    out: Path, sources: Sequence[Path] = (), judges: Judges | None = None, *, recompute: bool = False
) -> Iterator[Verdict]:
    """Check every result of an output tree, in the order of their folders.

    A result that disappears or is replaced while it is read, as `covct watch` does, is no defect.

    Parameters
    ----------
    out : Path
    sources : sequence of Path
        What was segmented; where given, every SEG is compared with the slices that it refers to.
    judges : Judges, optional
        None by default: covct's own eyes only.
    recompute : bool
        Derive every figure anew from masks and sources, and compare.
    """
    rows = _rows(out / SUMMARY) if recompute else None
    eyes = _Eyes(_known(sources, out) if sources else None, judges or Judges(), rows)
    seen: dict[str, tuple[str, ...]] = {}
    for folder in _result_folders(out):
        look = _settled(folder, eyes)
        if look:
            name = printable(f"{folder.parent.name}/{folder.name}")
            look.defects += _duplicates(name, look.objects, seen)
            yield Verdict(name, look.status, tuple(look.defects), len(look.objects), look.figures)


def _rows(table: Path) -> dict[str, dict[str, str]]:
    """Rows of summary.csv by the folder of the result; none where it is missing."""
    try:
        with table.open(encoding="utf-8", newline="") as lines:
            return {row["folder"]: row for row in csv.DictReader(lines) if row.get("folder")}
    except (OSError, UnicodeDecodeError, csv.Error):
        return {}


def _known(sources: Sequence[Path], out: Path) -> _Known:
    found = discover(sources, avoid=out).series
    by_series: dict[str, dict[tuple[str, int | None], Instance]] = defaultdict(dict)
    volumes = defaultdict(list)
    for series in found:
        by_series[series.series_uid] |= {(i.sop_instance_uid, i.frame): i for i in series.instances}
        if series.kind != "dicom":
            for folder in {series.folder, earlier(series.folder)}:
                volumes[folder].append(series)
    slices = {key: instance for one in by_series.values() for key, instance in one.items()}
    return _Known(slices, volumes, by_series)


def _result_folders(out: Path) -> Iterator[Path]:
    for study in _folders(out):
        yield from _folders(study)


def _folders(parent: Path) -> list[Path]:
    try:
        return sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))
    except FileNotFoundError:  # retired since its parent was listed
        return []
    except OSError:  # a folder that cannot be listed is looked at as a result, and has no outcome
        return [parent]


def _settled(folder: Path, eyes: _Eyes) -> _Look | None:
    """A look during which nothing moved; None for a result that is gone."""
    look = None
    for _ in range(MOST_LOOKS):
        before = _identity(folder)
        if before is None:
            return None
        try:
            look = _look(folder, eyes)
        except OSError as error:
            look = _Look(defects=[Defect("no-outcome", f"the folder cannot be read ({error.strerror})")])
        except Exception as error:  # one result's trouble is not the others'
            look = _Look(defects=[Defect("not-checked", f"the check broke: {logged(error)}")])
        if not look.defects or _identity(folder) == before:
            break
    return look


def _identity(folder: Path) -> tuple[Any, ...] | None:
    """What changes when a result is replaced."""
    try:
        here = os.stat(folder)
    except OSError:
        return None
    try:
        outcome = os.stat(folder / OUTCOME)
    except OSError:
        return here.st_ino, None, None
    return here.st_ino, outcome.st_ino, outcome.st_mtime_ns


def _look(folder: Path, eyes: _Eyes) -> _Look:
    known = eyes.known
    try:
        outcome = Outcome.read(folder / OUTCOME)
    except (OSError, DamagedDocument) as error:
        return _Look(defects=[Defect("no-outcome", _why_not(error), OUTCOME)])
    look = _Look(outcome.status, list(_check_files(folder, outcome)))
    report = None
    if outcome.status == "done":
        found, report = check_report(folder, outcome)
        look.defects += found
    paths = [folder / name for name in outcome.files if name.endswith(".dcm") and (folder / name).is_file()]
    found, look.objects = check_objects(paths, report, known.slices_of(outcome.series_instance_uid) if known else None)
    look.defects += found
    if report:
        volumes = known.volumes.get(f"{folder.parent.name}/{folder.name}", []) if known else None
        there = [name for name in outcome.files if (folder / name).is_file()]
        for format_, check in CHECKERS.items():
            look.defects += check(folder, FORMATS[format_].among(there), report, volumes)
        if eyes.rows is not None:
            found, look.figures = _derived_anew(folder, there, outcome, eyes)
            look.defects += found
    look.defects += ask(eyes.judges, [path for path in paths if path.name in look.objects])
    return look


def _derived_anew(folder: Path, there: list[str], outcome: Outcome, eyes: _Eyes) -> tuple[list[Defect], int]:
    series, name = outcome.series_instance_uid, f"{folder.parent.name}/{folder.name}"
    sources = SourceFiles({}, {}, [])
    if known := eyes.known:
        sources = SourceFiles(known.slices_of(series), known.by_series.get(series, {}), known.volumes.get(name, []))
    return check_figures(folder, there, sources, (eyes.rows or {}).get(name))


def _why_not(error: OSError | DamagedDocument) -> str:
    """Why an outcome cannot be read; a missing one is what a folder that is no result has."""
    if isinstance(error, DamagedDocument):
        return error.told
    return "it is missing" if isinstance(error, FileNotFoundError) else f"it cannot be read ({error.strerror})"


def _check_files(folder: Path, outcome: Outcome) -> Iterator[Defect]:
    for name, wanted in sorted(outcome.files.items()):
        try:
            if stat.S_IFMT(os.stat(folder / name).st_mode) != stat.S_IFREG:  # opening a FIFO would wait for ever
                yield Defect("altered-file", "it is no file", name)
            elif file_sha256(folder / name) != wanted:
                yield Defect("altered-file", "its sha256 is not the one in the outcome", name)
        except FileNotFoundError:
            yield Defect("missing-file", "the outcome lists it, and it is not there", name)
        except OSError as error:
            yield Defect("altered-file", f"it cannot be read ({error.strerror})", name)
    try:
        there = sorted(path.name for path in folder.iterdir())
    except OSError:
        there = []
    for name in there:
        if name not in outcome.files and name != OUTCOME:
            yield Defect("unlisted-file", "the outcome does not list it", printable(name))
    if not _is_place_of(folder.parent.name, outcome.study_instance_uid) or not _is_place_of(
        folder.name, outcome.series_instance_uid
    ):
        yield Defect("wrong-identity", "the outcome is of another study or series than its folder", OUTCOME)


def _is_place_of(name: str, uid: str) -> bool:
    """Folders are named by UID, an acquisition's number behind it; without a UID the name says nothing."""
    wanted = safe_name(uid)
    return not uid or any(name == one or name.startswith(f"{one}-") for one in (wanted, earlier(wanted)))


# The whole tree


def _duplicates(folder: str, objects: dict[str, pydicom.Dataset], seen: dict[str, tuple[str, ...]]) -> Iterator[Defect]:
    """An instance is in one file; a series in one result, as one kind of object. `seen` grows."""
    for name, dataset in objects.items():
        for what, uid, place in (
            ("SOP Instance UID", str(dataset.SOPInstanceUID), (folder, name)),
            ("Series Instance UID", str(dataset.SeriesInstanceUID), (folder, str(dataset.get("SeriesNumber")))),
        ):
            if seen.setdefault(uid, place) != place:
                yield Defect("duplicate-uid", f"its {what} is also that of {seen[uid][0]} ({seen[uid][1]})", name)
