"""DICOM Encapsulated PDF: the report on paper as an object that nearly every PACS shows (PS3.3 A.45.1)."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import highdicom as hd
import pydicom
from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian

from covct import __version__
from covct.dicom.evidence import (
    SERIES_NUMBERS,
    Making,
    code,
    contributing_equipment,
    equipment,
    finish,
    identified,
    telling_uids,
)
from covct.terms import MEASUREMENT_REPORT
from covct.voxels.volume import Scan

TITLE = "Opacity in the lungs, chest CT (research use only)"
MIME_TYPE = "application/pdf"


def write_encapsulated_pdf(
    path: Path, pdf: bytes, scan: Scan, report: dict[str, Any], key: str, making: Making
) -> None:
    """Write a PDF as an instance of the source's study, with its patient.

    Parameters
    ----------
    pdf : bytes
        The document. It names no patient: Burned In Annotation is NO, and viewers show the header with it.
    scan : Scan
        With its source headers. All are what the document was derived from.
    report : dict
        What it tells; the SOP Instance UID derives from a comparison that is in it.
    key : str
        Work key: all UIDs derive from it.
    """
    [source] = identified(scan.headers[:1])
    dataset = hd.SOPClass(
        study_instance_uid=source.StudyInstanceUID,
        series_number=SERIES_NUMBERS["pdf"],
        sop_class_uid=EncapsulatedPDFStorage,
        instance_number=1,
        modality="DOC",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        series_description=f"covct {__version__} report (research use only)",
        specific_character_set="ISO_IR 192",
        **telling_uids(key, "pdf", report),
        **equipment(),
    )
    with warnings.catch_warnings():  # highdicom warns of odd person names, and quotes them: no names in logs
        warnings.simplefilter("ignore", UserWarning)
        dataset.copy_patient_and_study_information(source)
    dataset.ContributingEquipmentSequence = contributing_equipment()
    dataset.ConversionType = "WSD"
    dataset.AcquisitionDateTime = ""  # the scan tells it
    dataset.BurnedInAnnotation = "NO"
    dataset.DocumentTitle = TITLE
    dataset.ConceptNameCodeSequence = [code(MEASUREMENT_REPORT)]
    dataset.VerificationFlag = "UNVERIFIED"
    dataset.SourceInstanceSequence = [_reference(header) for header in scan.headers]
    dataset.MIMETypeOfEncapsulatedDocument = MIME_TYPE
    dataset.EncapsulatedDocument = pdf + b"\0" * (len(pdf) % 2)
    dataset.EncapsulatedDocumentLength = len(pdf)
    finish(dataset, scan.headers[0], key, making.of_comparison)
    dataset.save_as(path)


def _reference(header: pydicom.Dataset) -> pydicom.Dataset:
    """As `identified` names an instance, without looking at the rest of its header."""
    item = pydicom.Dataset()
    item.ReferencedSOPClassUID = str(header.SOPClassUID)
    item.ReferencedSOPInstanceUID = str(header.get("SOPInstanceUID") or header.file_meta.MediaStorageSOPInstanceUID)
    return item
