"""`covct phantom`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Lesions(str, Enum):
    none = "none"
    one_voxel = "one-voxel"
    mild = "mild"
    moderate = "moderate"
    severe = "severe"


def phantom_command(
    folder: Annotated[Path, typer.Argument(help="Directory to write to.", show_default=False)],
    slices: Annotated[int, typer.Option(help="Number of axial slices over the whole chest.", min=1)] = 60,
    lesions: Annotated[Lesions, typer.Option(help="Extent of the infection.")] = Lesions.moderate,
    position: Annotated[
        str, typer.Option(help="Patient position: HFS, HFP, FFS, FFP, HFDR, HFDL, FFDR, FFDL.")
    ] = "HFS",
    seed: Annotated[int, typer.Option(help="Random seed; each gives another patient.")] = 0,
    day: Annotated[int, typer.Option(help="Day of the study, counted from the patient's first.", min=0)] = 0,
) -> None:
    """Write a synthetic chest CT as a DICOM series, with its true volumes in truth.json."""
    from covct.phantom.chest import make_phantom
    from covct.phantom.dicom import PATIENT_ID, write_dicom_series, write_truth

    made = make_phantom(slices=slices, slice_spacing_mm=None, lesions=lesions.value, seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    patient_id = f"{PATIENT_ID}-{seed}" if seed else PATIENT_ID
    write_dicom_series(made, folder / "dicom", orientation=position, day=day, patient_id=patient_id)
    write_truth(made, folder / "truth.json")
    typer.echo(str(folder))
