"""A result that stands, read back so that more formats can be made of it: its report, and its masks on their scan.

What is made of them is byte for byte what a scan would have written that asked for all at once: masks are exact, and
figures, moments and UIDs are those of the report and the outcome.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from covct.dicom.seg_masks import read_labels
from covct.disk.outcome import Outcome
from covct.disk.places import REPORT_NAME
from covct.disk.sources import SourceFile
from covct.intake.discover import Series
from covct.intake.nifti import read_mask
from covct.networks.cards import file_sha256
from covct.networks.devices import Device
from covct.outputs import FORMATS, NIFTI_PAIR, hold_masks
from covct.pipeline.lobes import LoadLobes
from covct.pipeline.series import Result
from covct.voxels.labels import INFECTED, Labels
from covct.voxels.lobes import lobes_of
from covct.voxels.preprocess import FieldOfView
from covct.voxels.volume import WORKING_ORIENTATION, Masks, Probability, Scan

NOT_KEPT = Probability(np.zeros((0, 0, 0), np.float16), FieldOfView(0, 0, 0, 0))


@dataclass(frozen=True)
class Standing:
    """A result that is as its outcome says.

    Attributes
    ----------
    folder : Path
    report : dict
        Its report.json.
    masks : tuple of str
        Names of the files that hold its masks: a SEG, or lungs and infection as NIfTI.
    """

    folder: Path
    report: dict[str, Any]
    masks: tuple[str, ...]


def standing(folder: Path, outcome: Outcome) -> Standing | None:
    """The result in a folder, or None where its report or its masks are not those of its outcome, or it has none."""
    held = outcome.held
    if not hold_masks(held):
        return None
    masks = (FORMATS["seg"].file,) if hold_masks({"seg": held.get("seg", "")}) else NIFTI_PAIR
    try:
        if any(file_sha256(folder / name) != outcome.files.get(name) for name in (REPORT_NAME, *masks)):
            return None
        return Standing(folder, json.loads((folder / REPORT_NAME).read_text(encoding="utf-8")), masks)
    except OSError:
        return None


def as_computed(
    found: Standing, series: Series, scan: Scan, work_key: str, load_lobes: LoadLobes | None = None
) -> Result:
    """The result as it was when it was computed, but for the networks' probabilities, which are kept nowhere.

    Parameters
    ----------
    scan : Scan
        The slices that the result was made of; its headers alone, where what is to be written shows no pixel.
    load_lobes : function () -> (LobeCard, Atlas), optional
        The atlas that the result has its lobes from: the same lungs make the same lobes.

    Raises
    ------
    SeriesError, SourceDefect
        The masks cannot be read, or do not lie on this scan.
    """
    labels = _labels(found, scan)
    device = found.report["run"]["device"]
    report = {name: part for name, part in found.report.items() if name != "run"}
    lobes = lobes_of(load_lobes()[1], labels.lungs, labels.infection)[0] if load_lobes else None
    masks = Masks(labels.lungs, labels.infection, NOT_KEPT, NOT_KEPT, lobes)
    return Result(series, scan, masks, report, work_key, Device(device["kind"], device["name"]))


def _labels(found: Standing, scan: Scan) -> Labels:
    first, *second = (found.folder / name for name in found.masks)
    return packed(scan, _of_pair(first, second[0], scan) if second else read_labels(SourceFile(str(first)), scan))


def packed(scan: Scan, in_source: np.ndarray) -> Labels:
    """Marks (slices, rows, columns) in the order of the source, packed slice by slice in working orientation."""
    working = scan.volume.with_array(in_source).to_patient_orientation(WORKING_ORIENTATION).array
    labels = Labels(working.shape)
    for index, one in enumerate(working):
        labels[index] = np.ascontiguousarray(one)
    return labels


def _of_pair(lungs: Path, infection: Path, scan: Scan) -> np.ndarray:
    """Labels of NIfTI masks: on the grid of a volume file; of a DICOM series as columns, rows and slices."""
    labels, infected = (read_mask(path)[0] for path in (lungs, infection))
    labels = labels.astype(np.uint8) + np.uint8(INFECTED) * (infected > 0)
    return labels.transpose() if scan.headers else labels
