"""Rejection notes: key object selections by which an archive is told that objects no longer count (IHE IOCM)."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import highdicom as hd
import pydicom
from pydicom.uid import generate_uid

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
    separate_items,
)
from covct.dicom.inherited import TYPE_2
from covct.terms import REJECTED_FOR_QUALITY

IMAGES = ("Segmentation", "Secondary Capture", "Image")  # SOP classes whose names hold these are images


@dataclass(frozen=True)
class Rejected:
    """An object that no longer counts."""

    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str


def rejection_note(header: pydicom.Dataset, rejected: Sequence[Rejected], making: Making) -> bytes:
    """A key object selection "Rejected for Quality Reasons" (113001, DCM), as a file.

    Its UIDs derive from those that it rejects, and its dates are of `making`: sent again it is the same object.

    Parameters
    ----------
    header : pydicom.Dataset
        An object of the same study, of which the note takes patient and study.
    rejected : sequence of Rejected
        At least one.
    """
    key = hashlib.sha256(" ".join(sorted(one.sop_instance_uid for one in rejected)).encode()).hexdigest()
    [source] = identified([header])
    evidence = [_reference(source, one) for one in rejected]
    content = hd.ko.KeyObjectSelection(
        document_title=code(REJECTED_FOR_QUALITY),
        referenced_objects=evidence,
        observer_device_context=device_observer(making),
        description=f"Replaced by a later result of covct for the same series. {RESEARCH_USE}",
    )
    separate_items(content[0])
    with warnings.catch_warnings():  # as in `key_object`: the library quotes odd names
        warnings.simplefilter("ignore", UserWarning)
        document = hd.ko.KeyObjectSelectionDocument(
            evidence=evidence,
            content=content,
            series_instance_uid=generate_uid(entropy_srcs=[key, "rejection-series"]),
            sop_instance_uid=generate_uid(entropy_srcs=[key, "rejection-instance"]),
            series_number=SERIES_NUMBERS["ko"],
            instance_number=1,
            series_description=f"covct {__version__} rejected (research use only)",
            contributing_equipment=contributing_equipment(),
            **equipment(),
        )
        document.copy_patient_and_study_information(source)
    finish(document, header, key, making)
    with BytesIO() as file:
        document.save_as(file)
        return file.getvalue()


def _reference(source: pydicom.Dataset, one: Rejected) -> pydicom.Dataset:
    """What the library takes an instance for: the study's, with the UIDs of the one that is meant."""
    found = pydicom.Dataset()
    for keyword in ("SpecificCharacterSet", "StudyInstanceUID", *TYPE_2):
        if keyword in source:
            setattr(found, keyword, source[keyword].value)
    found.SeriesInstanceUID, found.SOPClassUID = one.series_instance_uid, pydicom.uid.UID(one.sop_class_uid)
    found.SOPInstanceUID = one.sop_instance_uid
    if any(word in found.SOPClassUID.name for word in IMAGES):
        found.Rows = found.Columns = 1  # by which the library knows an image
    return found
