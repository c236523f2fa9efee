"""A DICOM series again, with UIDs where it has none that are valid: so that something can refer to its slices."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from uuid import UUID

import pydicom

from covct.dicom.evidence import contributing_equipment
from covct.dicom.header import Instance
from covct.dicom.read import read_dataset
from covct.dicom.valid import is_uid
from covct.disk.archives import LARGEST_FILE
from covct.disk.sources import SourceFile, read_all
from covct.errors import SeriesError, why
from covct.intake.discover import Series


@dataclass(frozen=True)
class Uids:
    """UIDs of a series: its own where they are valid, else derived from what tells it from others."""

    study: str
    series: str
    frame_of_reference: str
    instances: dict[str, str]  # by what the instance is known by


def uids_of(series: Series) -> Uids:
    """The same for the same series whenever it is asked; a slice that comes late changes none of the others'.

    A study or series is told from others by its folder below the output tree, an instance by its contents. A missing
    frame of reference is the series' own: nothing says that another shares it.
    """
    frame = series.instances[0].frame_of_reference_uid
    shared = ("frame-of-reference", series.study_folder, frame or series.whole_folder)
    return Uids(
        study=series.study_uid if is_uid(series.study_uid) else given("study", series.study_folder),
        series=series.series_uid if is_uid(series.series_uid) else given("series", series.whole_folder),
        frame_of_reference=frame if frame and is_uid(frame) else given(*shared),
        instances={uid: uid if is_uid(uid) else given("instance", uid) for uid in series.sop_instance_uids},
    )


def given(*what: str) -> str:
    """A UID of the root that anyone may use (2.25, PS3.5 B.2), always the same for the same words."""
    digest = sha256("\0".join(("covct", *what)).encode("utf-8", "surrogatepass")).digest()
    return f"2.25.{UUID(bytes=digest[:16], version=5).int}"


def write_with_uids(series: Series, folder: Path) -> None:
    """Write each file of the series as it is but for its UIDs, named by its SOP Instance UID.

    Pixels are not decoded, and no other attribute is changed; that covct was at work stands among the contributing
    equipment.

    Raises
    ------
    SeriesError
        `unreadable`, naming the file.
    """
    uids = uids_of(series)
    by_file: dict[SourceFile, Instance] = {}
    for instance in series.instances:  # the frames of one file share it
        by_file.setdefault(instance.file, instance)
    for file, contents in read_all(by_file, largest=LARGEST_FILE):
        try:
            dataset = _with_uids(read_dataset(contents), by_file[file], uids)
        except Exception as error:  # a damaged file raises what the damage hits
            raise SeriesError(
                "unreadable", f"{file.name} cannot be read ({why(error)}); wanted a whole slice"
            ) from error
        dataset.save_as(folder / f"{dataset.SOPInstanceUID}.dcm", enforce_file_format=True)


def _with_uids(dataset: pydicom.Dataset, instance: Instance, uids: Uids) -> pydicom.Dataset:
    for keyword, uid in {
        "StudyInstanceUID": uids.study,
        "SeriesInstanceUID": uids.series,
        "FrameOfReferenceUID": uids.frame_of_reference,
        "SOPInstanceUID": uids.instances[instance.sop_instance_uid],
    }.items():
        if keyword in dataset:
            del dataset[keyword]
        setattr(dataset, keyword, uid)
    before = list(dataset.get("ContributingEquipmentSequence") or [])
    dataset.ContributingEquipmentSequence = [*before, *contributing_equipment()]
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset
