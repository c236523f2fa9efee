"""DICOM Key Object Selection: the source slices to look at first."""

from __future__ import annotations

import warnings
from pathlib import Path

import highdicom as hd
import numpy as np

from covct import RESEARCH_USE, __version__
from covct.dicom.evidence import (
    SERIES_NUMBERS,
    Making,
    code,
    contributing_equipment,
    device_observer,
    equipment,
    finish,
    identified,
    object_uids,
    separate_items,
)
from covct.terms import OF_INTEREST
from covct.voxels.labels import Slices, per_slice
from covct.voxels.volume import Masks, Scan

MOST_SLICES = 5
APART_MM = 15.0  # neighbours of thin slices show the same lesion five times


def write_key_object(path: Path, scan: Scan, masks: Masks, key: str, making: Making) -> None:
    """Write a selection "Of Interest" (PS3.16 TID 2010) of the slices with most infection, most first.

    A clean lung has no such slice, and a selection cannot be empty: it then shows the slice with most lung, and its
    description begins with "No opacity was called".

    Parameters
    ----------
    scan : Scan
        With its source headers. Of a multi-frame instance the frames are referenced.
    masks : Masks
    key : str
        Work key: all UIDs derive from it.
    """
    infected = _per_slice(scan, masks.infection)
    chosen = key_slices(infected, float(scan.volume.spacing[0]))
    if chosen:
        share = f"{len(chosen)} of {len(infected)} source slices"
        description = f"{share}: those with most opacity called, most first, {APART_MM:g} mm apart or more."
    else:
        chosen = [int(_per_slice(scan, masks.lungs).argmax())]
        description = "No opacity was called. The slice shown is the one with most lung."
    instances = identified([scan.headers[0]] if scan.frames else [scan.headers[index] for index in chosen])
    content = hd.ko.KeyObjectSelection(
        document_title=code(OF_INTEREST),
        referenced_objects=instances,
        observer_device_context=device_observer(making),
        description=f"{description} {RESEARCH_USE}",
    )
    if scan.frames:
        [reference] = content.get_references()
        reference.ReferencedSOPSequence[0].ReferencedFrameNumber = [scan.frames[index] for index in chosen]
    separate_items(content[0])
    with warnings.catch_warnings():  # highdicom warns of odd person names, and quotes them: no names in logs
        warnings.simplefilter("ignore", UserWarning)
        document = hd.ko.KeyObjectSelectionDocument(
            evidence=instances,
            content=content,
            series_number=SERIES_NUMBERS["ko"],
            instance_number=1,
            series_description=f"covct {__version__} key slices (research use only)",
            contributing_equipment=contributing_equipment(),
            **object_uids(key, "ko"),
            **equipment(),
        )
        # As the SEG and the SR have it from the library, of the first slice: others may say something else.
        document.copy_patient_and_study_information(identified(scan.headers[:1])[0])
    finish(document, scan.headers[0], key, making)
    document.save_as(path)


def key_slices(infected: np.ndarray, spacing_mm: float) -> list[int]:
    """Indices of up to 5 slices with most infection, most first, 15 mm apart or more.

    infected (slices,) is the infected area of each slice in any unit; none where nothing is infected.
    """
    chosen: list[int] = []
    for index in np.argsort(-infected, kind="stable").tolist():
        if not infected[index] or len(chosen) == MOST_SLICES:
            break
        if all(abs(index - other) * spacing_mm >= APART_MM for other in chosen):
            chosen.append(index)
    return chosen


def _per_slice(scan: Scan, mask: Slices) -> np.ndarray:
    """(slices,) marked voxels in each slice of the source."""
    return per_slice(scan.planes_of_source(mask.__getitem__))
