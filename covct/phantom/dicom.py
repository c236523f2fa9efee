"""A phantom, or any volume in HU, as a DICOM series in any patient position; and its truth as JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
from pydicom.uid import generate_uid

from covct import RESEARCH_USE, __version__
from covct.dicom.ct_series import storage_for, write_ct_series
from covct.errors import UsageError
from covct.phantom.chest import Phantom

# Slices, rows and columns of the series towards ... of the patient, as a scanner gives them: the first slice is the
# one that enters the gantry first, rows run down to the table, columns to the right of one who stands at the table.
PATIENT_POSITIONS = {
    "HFS": "FPL",
    "HFP": "FAR",
    "HFDR": "FRP",
    "HFDL": "FLA",
    "FFS": "HPR",
    "FFP": "HAL",
    "FFDR": "HRA",
    "FFDL": "HLP",
}
FIRST_DAY = date(2020, 1, 1)
DATES = ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")
PATIENT_ID = "COVCT-PHANTOM"


def write_dicom_series(
    phantom_or_volume: Phantom | hd.Volume,
    folder: Path,
    orientation: str = "HFS",
    orientation_cosines: Sequence[float] | None = None,
    study_uid: str | None = None,
    series_uid: str | None = None,
    day: int = 0,
    patient_id: str = PATIENT_ID,
) -> list[Path]:
    """Write a volume as CT Image Storage, one file per slice named by instance number.

    Parameters
    ----------
    phantom_or_volume : Phantom or highdicom.Volume
        HU.
    folder : Path
        Made if absent.
    orientation : str
        Patient Position, a key of `PATIENT_POSITIONS`. Voxels are permuted and flipped with their affine, so every
        position shows the same patient at the same LPS millimetres.
    orientation_cosines : sequence of 6 float, optional
        Image Orientation (Patient) in place of the position's own. Along the axes: the same patient, cut otherwise
        (coronal, sagittal). Oblique: the patient turns with the planes around the volume's centre.
    study_uid, series_uid : str, optional
        Default: derived from the phantom's seed and arguments, or from the voxels of a bare volume.
    day : int
        Of the study, counted from the patient's first: another day, another study.
    patient_id : str

    Returns
    -------
    list of Path
        In order of instance number.

    Raises
    ------
    UsageError
        Unknown position, or cosines that are not two perpendicular unit vectors.
    """
    if orientation not in PATIENT_POSITIONS:
        raise UsageError(f"unknown patient position {orientation!r}; choose from {', '.join(PATIENT_POSITIONS)}")
    source = phantom_or_volume.volume if isinstance(phantom_or_volume, Phantom) else phantom_or_volume
    identity = [*_identity(phantom_or_volume), *([f"day {day}"] if day else [])]
    volume = _oriented(source, PATIENT_POSITIONS[orientation], orientation_cosines)
    study_uid = study_uid or generate_uid(entropy_srcs=["covct phantom study", *identity])
    cosines = [f"{value:.6f}" for value in np.concatenate(_image_orientation(volume))]
    series_uid = series_uid or generate_uid(entropy_srcs=["covct phantom series", *identity, orientation, *cosines])
    frame_uid = volume.frame_of_reference_uid or generate_uid(entropy_srcs=["covct phantom frame", *identity])
    header = series_header(orientation, study_uid, series_uid, frame_uid)
    header.PatientID = patient_id
    for name in DATES:
        setattr(header, name, (FIRST_DAY + timedelta(days=day)).strftime("%Y%m%d"))
    return write_ct_series(
        folder,
        volume.array,
        volume.affine,
        header,
        lambda number: generate_uid(entropy_srcs=["covct phantom instance", series_uid, str(number - 1)]),
        storage_for(volume.array),
    )


def write_truth(phantom: Phantom, path: Path) -> Path:
    """Write the phantom's volumes as JSON."""
    content: dict[str, Any] = {
        "schema": "covct-phantom-truth-1",
        "note": "Synthetic chest CT made by covct; no patient.",
        "research_use": RESEARCH_USE,
        "covct_version": __version__,
        "seed": phantom.seed,
        "lesions": phantom.lesions,
        "shape": list(phantom.volume.shape),
        "spacing_mm": [float(mm) for mm in phantom.volume.spacing],
        "volumes": phantom.truth(),
    }
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path


def _identity(phantom_or_volume: Phantom | hd.Volume) -> list[str]:
    """What UIDs are derived from: the same series written twice gets the same UIDs."""
    if isinstance(phantom_or_volume, Phantom):
        volume = phantom_or_volume.volume
        return [str(phantom_or_volume.seed), phantom_or_volume.lesions, str(volume.shape), str(volume.spacing)]
    digest = hashlib.sha256(np.ascontiguousarray(phantom_or_volume.array).tobytes())
    digest.update(np.ascontiguousarray(phantom_or_volume.affine).tobytes())
    return [digest.hexdigest()]


def _oriented(volume: hd.Volume, position: str, cosines: Sequence[float] | None) -> hd.Volume:
    """Permute and flip to a patient position, or to the axes nearest to the cosines and then turn to them."""
    if cosines is None:
        return volume.to_patient_orientation(position)
    row, column = np.array(cosines[:3], float), np.array(cosines[3:], float)
    if len(cosines) != 6 or not np.allclose([row @ row, column @ column, row @ column], [1, 1, 0], atol=1e-4):
        raise UsageError(f"orientation cosines must be two perpendicular unit vectors, got {list(cosines)}")
    # slices keep to head-to-feet or feet-to-head as the position says, and to the anterior or right side else
    normal = np.cross(row, column)
    main_axis = int(np.argmax(np.abs(normal)))
    wanted = {"F": -1.0, "H": 1.0}[position[0]] if main_axis == 2 else 1.0
    normal = normal * np.sign(normal[main_axis]) * wanted
    letters = ("LR", "PA", "HF")
    axes = [int(np.argmax(np.abs(vector))) for vector in (normal, column, row)]
    code = "".join(
        letters[axis][0 if vector[axis] > 0 else 1] for axis, vector in zip(axes, (normal, column, row), strict=True)
    )
    nearest = volume.to_patient_orientation(code)
    return hd.Volume.from_components(
        nearest.array,
        spacing=nearest.spacing,
        coordinate_system="PATIENT",
        direction=np.stack([normal, column, row], axis=1),
        center_position=nearest.center_position,
        frame_of_reference_uid=nearest.frame_of_reference_uid,
    )


def _image_orientation(volume: hd.Volume) -> tuple[np.ndarray, np.ndarray]:
    """Direction cosines along a row (over columns) and down a column (over rows)."""
    direction = volume.direction
    return direction[:, 2], direction[:, 1]


def series_header(position: str, study_uid: str, series_uid: str, frame_uid: str) -> pydicom.Dataset:
    """What all slices say of patient, study and series."""
    dataset = pydicom.Dataset()
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    for name in DATES:
        setattr(dataset, name, FIRST_DAY.strftime("%Y%m%d"))
    for name in ("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime"):
        setattr(dataset, name, "120000")
    dataset.AccessionNumber = ""
    dataset.ManufacturerModelName = "phantom"
    dataset.ReferringPhysicianName = ""
    dataset.StudyDescription = "Synthetic chest CT"
    dataset.SeriesDescription = "Synthetic chest CT"
    dataset.PatientName = "Phantom^Covct"
    dataset.PatientID = PATIENT_ID
    dataset.PatientBirthDate = ""
    dataset.PatientSex = ""
    dataset.BodyPartExamined = "CHEST"
    dataset.KVP = "120"
    dataset.ConvolutionKernel = "STANDARD"
    dataset.PatientPosition = position
    dataset.StudyInstanceUID = study_uid
    dataset.SeriesInstanceUID = series_uid
    dataset.StudyID = "1"
    dataset.SeriesNumber = 1
    dataset.AcquisitionNumber = 1
    dataset.FrameOfReferenceUID = frame_uid
    dataset.ImageComments = f"Synthetic phantom, no patient. {RESEARCH_USE}"
    return dataset
