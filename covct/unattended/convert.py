"""Series to the other format, one at a time: DICOM to NIfTI in HU, a volume file to a CT series marked as derived.

A DICOM series without valid UIDs becomes DICOM with them. Of several patients under one study UID each has a folder of
his own, as in a scan.
"""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.uid import generate_uid

from covct import RESEARCH_USE, __version__
from covct.dicom.ct_series import Storage, storage_for, write_ct_series
from covct.dicom.evidence import MANUFACTURER, contributing_equipment, mark_as_research
from covct.dicom.inherited import TYPE_2
from covct.disk import state
from covct.disk.durable import output_errors
from covct.disk.outcome import work_key
from covct.disk.sources import printable
from covct.errors import OutputNotWritable, RunError, SeriesError, UsageError, logged
from covct.intake.discover import Discovery, Series, discover
from covct.intake.gate import check_headers, check_hounsfield, header_warnings, refuse_warnings
from covct.intake.gate_geometry import default_affine, size_findings
from covct.intake.gate_rules import NOTED, WARNED, Finding
from covct.intake.gate_voxels import too_large
from covct.intake.given_uids import uids_of, write_with_uids
from covct.intake.load_dicom import load_dicom
from covct.intake.nifti import SHEAR_TOLERANCE, read_description, write_dicom_grid
from covct.intake.older_trees import earlier
from covct.intake.unread import SOURCES_NOT_READ
from covct.intake.volume_file import load_volume
from covct.intake.volume_header import FORMAT_NAMES
from covct.outputs import Emit
from covct.unattended.troubles import UNEXPECTED
from covct.unattended.whose import further_patients, note_owner, noted_owners, told_apart
from covct.voxels.volume import Scan, spacing_mm

CONVERSION_VERSION = 1  # raise it when the same input would give other files
RESEARCH = "by covct (research use only)"


@dataclass(frozen=True)
class Turn:
    """A series to convert; `trouble` is what broke unexpectedly while its study was planned."""

    series: Series
    is_there: bool = False
    trouble: str = ""


@dataclass(frozen=True)
class Conversion:
    """What a conversion was asked for.

    Attributes
    ----------
    to : str or None
        "nifti" or "dicom": only series that can become that. None: each to the other format.
    force : bool
        Convert again what is there already, and replace files that covct did not write.
    strict : bool
        Warnings refuse a series.
    """

    sources: tuple[Path, ...]
    out: Path
    to: str | None = None
    force: bool = False
    strict: bool = False


def convert(order: Conversion, emit: Emit) -> Counter[str]:
    """Convert every series that passes the input gate, not only the one that a scan of its study would choose.

    A series is there whole or not at all. What is there from the same input is kept; what covct made of an earlier
    state of the series (a late slice) is replaced.

    Returns
    -------
    Counter
        Series by what became of them: "converted", "kept", "rejected", "failed"; and "unreadable files", and of them
        "troubled", at which reading broke unexpectedly.
    """
    with output_errors(order.out):
        _check_apart(order)
        with state.lock(order.out):
            state.recover(order.out)
            return _pass(order, discover(order.sources, avoid=order.out), emit)


def _check_apart(order: Conversion) -> None:
    if any(source.is_dir() and source.resolve() == order.out.resolve() for source in order.sources):
        raise UsageError(f"{order.out} is both source and output; wanted a separate output folder")
    if next(order.out.glob("*/*/outcome.json"), None):
        raise UsageError(f"{order.out} holds the results of a scan; wanted a separate folder for converted series")


def _pass(order: Conversion, found: Discovery, emit: Emit) -> Counter[str]:
    counts = Counter({"unreadable files": len(found.problems)} if found.problems else {})
    if found.not_read:
        counts[SOURCES_NOT_READ] = len(found.not_read)
    if broke := {problem.label for problem in found.problems if problem.slug == UNEXPECTED}:
        counts["troubled"] = len(broke)
    for problem in (*found.problems, *found.not_read):
        emit({"event": "problem", "file": problem.label, "slug": problem.slug, "message": problem.message})
    turns = sorted(_turns(order, found), key=lambda turn: turn.series.folder)
    emit(_found_event(found, len(turns), sum(turn.is_there for turn in turns)))
    if not turns:
        emit({"event": "nothing", "message": _why_nothing(order, found)})
    for turn in turns:
        event = _convert(order, turn)
        counts[event["event"]] += 1
        emit(event)
    emit({"event": "finished", **counts})
    return counts


def _turns(order: Conversion, found: Discovery) -> list[Turn]:
    """The series to convert. A study or series at which planning breaks keeps its turn, and fails when it comes."""
    studies: dict[str, list[Series]] = defaultdict(list)
    for series in found.series:
        studies[series.folder.split("/")[0]].append(series)
    turns: list[Turn] = []
    further = further_patients(order.out)
    for candidates in studies.values():
        try:
            apart = [series for one in told_apart(order.out, candidates, further, noted_owners) for series in one]
        except (RunError, OSError):
            raise
        except Exception as error:
            message = logged(error)
            turns += [Turn(series, trouble=message) for series in candidates]
            continue
        turns += [turn for series in apart if (turn := _turn(order, series))]
    return turns


def _turn(order: Conversion, series: Series) -> Turn | None:
    try:
        return Turn(series, is_there=_is_there(order, series)) if _target(order, series) else None
    except (RunError, OSError):
        raise
    except Exception:  # told of when it is met again
        return Turn(series)


def _found_event(found: Discovery, wanted: int, there: int) -> dict[str, Any]:
    return {
        "event": "found",
        "candidates": len(found.series),
        "to_do": wanted - there,
        "finished_before": there,
        "problems": len(found.problems),
        "ignored_files": found.ignored,
    }


def _target(order: Conversion, series: Series) -> str | None:
    """The format that a series is brought to; None where it is that already."""
    if order.to == "dicom" and series.kind == "dicom" and series.study_uid and series.series_uid:
        return None if series.can_be_referred_to else "dicom"
    other = "nifti" if series.kind == "dicom" else "dicom"
    return other if order.to in (None, other) else None


def _is_given_uids(order: Conversion, series: Series) -> bool:
    return series.kind == "dicom" and _target(order, series) == "dicom"


def _why_nothing(order: Conversion, found: Discovery) -> str:
    where = ", ".join(printable(source) for source in order.sources)
    if found.series:
        return f"nothing to convert below {where}: what was found is already {order.to}, or cannot be converted to it"
    return f"neither a DICOM image series nor a NIfTI, MetaImage or NRRD below {where}"


def _convert(order: Conversion, turn: Turn) -> dict[str, Any]:
    """Convert one series, whatever happens short of a RunError or a stop. Returns the event to tell."""
    series = turn.series
    about: dict[str, Any] = {
        "series": series.series_uid or series.study_folder,
        "source": series.path.label if series.path else None,
        "to": None,
    }
    if turn.trouble:
        return {"event": "failed", **about, "slug": UNEXPECTED, "message": turn.trouble}
    try:
        about["to"] = _target(order, series)
        return _converted(order, series, about)
    except SeriesError as error:
        file = {"file": error.file} if error.file else {}
        return {"event": "rejected", **about, "slug": error.slug, "message": error.message, **file}
    except (RunError, OSError):
        raise
    except Exception as error:
        return {"event": "failed", **about, "slug": UNEXPECTED, "message": logged(error)}


def _converted(order: Conversion, series: Series, about: dict[str, Any]) -> dict[str, Any]:
    mended = ("missing-uids",) if _is_given_uids(order, series) else ()
    check_headers(series, order.strict, any_size=True, mended=mended)
    place = _place(order, series)
    if _is_there(order, series):
        note_owner(order.out, series)  # an earlier version made none
        return {"event": "kept", **about, "path": printable(order.out / place)}
    findings = _write(order, series, place)
    return {
        "event": "converted",
        **about,
        "path": printable(order.out / place),
        "findings": [asdict(finding) for finding in findings],
        "research_use": RESEARCH_USE,
    }


def _write(order: Conversion, series: Series, place: str) -> list[Finding]:
    write = _write_nifti if series.kind == "dicom" else _write_dicom
    if _is_given_uids(order, series):
        write = _write_again
    stage = state.new_stage(order.out, _key(series))
    try:
        staged, findings = write(series, stage)
        if order.strict:
            refuse_warnings(findings)
        note_owner(order.out, series)
        state.install(order.out, staged, place)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return findings


def _write_nifti(series: Series, stage: Path) -> tuple[Path, list[Finding]]:
    scan = load_dicom(series)
    path = stage / "volume.nii.gz"
    write_dicom_grid(scan, scan.volume, path, _description(series))
    return path, [*header_warnings(series, any_size=True)[1], *too_large(scan.working.array, spacing_mm(scan.working))]


def _write_again(series: Series, stage: Path) -> tuple[Path, list[Finding]]:
    """The series' own files, with UIDs; read as a scan reads them first, so that what comes of it can be scanned."""
    load_dicom(series)
    write_with_uids(series, stage)
    return stage, [finding for finding in header_warnings(series, any_size=True)[1] if finding.slug != "missing-uids"]


def _write_dicom(series: Series, stage: Path) -> tuple[Path, list[Finding]]:
    """Axial slices, first the one nearest to the head, whatever the axes of the file."""
    scan = load_volume(series)
    hu = scan.working.array
    check_hounsfield(hu)
    _check_rows(scan.working_affine)
    storage = storage_for(hu)
    losses = _losses(storage)
    header = _derived_header(series, losses)
    write_ct_series(
        stage, hu, scan.working_affine, header, lambda number: _uid(series, "instance", str(number)), storage
    )
    return stage, [*_doubtful(scan), *losses]


def _doubtful(scan: Scan) -> list[Finding]:
    """What a scan of it would be refused or have no figures for, by its size: a conversion only tells of it."""
    spacing = spacing_mm(scan.working)
    found = [
        *default_affine(scan.volume.affine),
        *size_findings(spacing, scan.working.shape),
        *too_large(scan.working.array, spacing),
    ]
    return [replace(finding, level=WARNED) for finding in found]


def _check_rows(affine: np.ndarray) -> None:
    """A tilted gantry pushes slices sideways; where the file's shear lies within the axial slices none can be cut."""
    row, column = (affine[:3, axis] / np.linalg.norm(affine[:3, axis]) for axis in (2, 1))
    if abs(row @ column) > SHEAR_TOLERANCE:
        raise SeriesError("no-geometry", "the file is sheared within its axial slices; wanted perpendicular rows")


def _losses(storage: Storage) -> list[Finding]:
    found = []
    if storage.clipped:
        message = f"{storage.clipped} voxels beyond -32768 to 32767 HU were clipped: 16 bits hold no more"
        found.append(Finding("clipped", message))
    if storage.rounded:
        message = f"HU were rounded to steps of {storage.slope:g}, to fit into 16 bits"
        found.append(Finding("rounded", message, NOTED))
    return found


def _derived_header(series: Series, losses: list[Finding]) -> pydicom.Dataset:
    """What all slices say of patient, study and series.

    Nothing is invented that could be taken for the patient's: a volume file says nothing of who it is of, nor of how
    the patient lay on the table, so all of that is empty.
    """
    dataset = pydicom.Dataset()
    for keyword in (*TYPE_2, "KVP", "AcquisitionNumber", "PatientPosition", "Laterality"):
        setattr(dataset, keyword, None)
    dataset.ImageType = ["DERIVED", "PRIMARY", "AXIAL"]
    dataset.StudyInstanceUID = _uid(series, "study")
    dataset.SeriesInstanceUID = _uid(series, "series")
    dataset.FrameOfReferenceUID = _uid(series, "frame-of-reference")
    dataset.SeriesNumber = 1
    dataset.ManufacturerModelName = MANUFACTURER
    what = FORMAT_NAMES[series.kind]
    converted = f"Converted from {what} {RESEARCH}"
    dataset.StudyDescription = dataset.SeriesDescription = converted
    lost = "".join(f" {loss.message}." for loss in losses)
    dataset.DerivationDescription = f"Converted by covct {__version__} from a {what} volume.{lost} {RESEARCH_USE}"
    dataset.ImageComments = f"{converted}. Derived, not as a scanner wrote it. {RESEARCH_USE}"
    dataset.ContributingEquipmentSequence = contributing_equipment()
    mark_as_research(dataset)
    return dataset


def _key(series: Series) -> str:
    """Work key: what of the input decides the files."""
    return work_key(series.content, {"convert": CONVERSION_VERSION}, {})


def _uid(series: Series, *what: str) -> str:
    """A UID from the file's contents: the same file twice is the same series for a PACS."""
    version = [] if what[0] in ("study", "frame-of-reference") else [str(CONVERSION_VERSION)]
    uid: str = generate_uid(entropy_srcs=["covct convert", *series.content, *version, *what])
    return uid


def _place(order: Conversion, series: Series) -> str:
    """Below the output folder, by UIDs or a hash of what is no UID: a file name never holds a patient's."""
    if _is_given_uids(order, series):
        uids = uids_of(series)
        further = series.folder.split("/")[0].removeprefix(series.study_folder)  # of a second patient of the study
        return f"{uids.study}{further}/{uids.series}{series.suffix}"
    if series.kind == "dicom":
        here, before = (f"{folder}.nii.gz" for folder in (series.folder, earlier(series.folder)))
        is_before = before != here and read_description(order.out / before) == _description(series)
        return before if is_before else here
    return f"{_uid(series, 'study')}/{_uid(series, 'series')}"


def _description(series: Series) -> str:
    """Says in the NIfTI's header what it was made of, so that another run can tell whether it still holds."""
    return f"covct {_key(series)[:16]} {RESEARCH_USE}"


def _is_there(order: Conversion, series: Series) -> bool:
    """Whether the same input was converted before.

    Raises
    ------
    OutputNotWritable
        A file that covct did not write has the place.
    """
    path = order.out / _place(order, series)
    if order.force or not path.exists():
        return False
    if _is_given_uids(order, series):  # its place is the same when a slice comes late
        return {file.name for file in path.iterdir()} == {f"{uid}.dcm" for uid in uids_of(series).instances.values()}
    if series.kind != "dicom":  # its place is a hash of the contents, and the folder was renamed in whole
        return True
    description = read_description(path)
    if not description.startswith("covct "):
        raise OutputNotWritable(f"{path} was not written by covct; move it, or replace it with --force")
    return description == _description(series)
