"""DICOM Segmentation of the lungs and the infection, on the source's own slices."""

from __future__ import annotations

import copy
import re
import warnings
from datetime import date
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from covct import RESEARCH_USE, __version__
from covct.terms import ARTIFICIAL_INTELLIGENCE, SEGMENTS, CodedTerm, Segment
from covct.volume import Scan

# Type 2 attributes of patient and study: a de-identified source may lack them; empty says "unknown".
TYPE_2 = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber", "StudyDate",
    "StudyTime", "ReferringPhysicianName", "PositionReferenceIndicator",
)  # fmt: skip
SERIES_NUMBER = 9200
CODE_MODIFIERS = "SegmentedPropertyTypeModifierCodeSequence"


def write_seg(
    path: Path, scan: Scan, lungs: np.ndarray, infection: np.ndarray, key: str, weights: dict[str, str]
) -> None:
    """Write a BINARY segmentation with right lung, left lung and infection.

    Parameters
    ----------
    scan : Scan
        With its source headers.
    lungs : (slices, rows, columns) uint8, infection : (slices, rows, columns) bool
        In working orientation.
    key : str
        Work key: all UIDs derive from it, so that a redo sends a PACS the same object.
    weights : dict of str to str
        sha256 of the weights by task.

    Notes
    -----
    An empty mask is written too: that a lung is clean is a finding (PS3.3 A.51; frames without pixels are kept
    when all are empty).
    """
    pixels = np.empty((*scan.volume.shape, len(SEGMENTS)), np.uint8)
    lungs = scan.to_source(lungs).array
    for label in (1, 2):
        np.equal(lungs, label, out=pixels[..., label - 1], casting="unsafe")
    pixels[..., 2] = scan.to_source(infection).array
    sources = encodable(scan.headers, key, float(scan.volume.spacing[0]))
    with warnings.catch_warnings():  # highdicom warns of odd person names, and quotes them: no names in logs
        warnings.simplefilter("ignore", UserWarning)
        segmentation = _segmentation(sources, pixels, key, weights)
    segmentation.save_as(path)


def _segmentation(sources, pixels: np.ndarray, key: str, weights: dict[str, str]) -> hd.seg.Segmentation:
    uids = {name: generate_uid(entropy_srcs=[key, name]) for name in ("seg-series", "seg-instance")}
    return hd.seg.Segmentation(
        source_images=sources,
        pixel_array=pixels,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_description(segment, key, weights) for segment in SEGMENTS],
        series_instance_uid=uids["seg-series"],
        series_number=SERIES_NUMBER,
        sop_instance_uid=uids["seg-instance"],
        instance_number=1,
        manufacturer="covct",
        manufacturer_model_name="covct",
        software_versions=__version__,
        device_serial_number="0",
        content_description=RESEARCH_USE,
        content_label="COVCT",
        content_creator_name="covct^",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        omit_empty_frames=bool(pixels.any()),
        series_description=f"covct {__version__} lungs, infection (research use only)",
    )


def encodable(headers: tuple[pydicom.Dataset, ...], key: str, spacing_mm: float) -> list[pydicom.Dataset]:
    """Copies of the source headers that can be encoded against: type 2 attributes present, one orientation.

    Nothing is invented that could be taken for the patient's: what is missing is empty; a missing frame of
    reference is derived from the work, a missing slice thickness (which the object must have) is the slice spacing.
    """
    orientation = _snapped(headers[0].ImageOrientationPatient)
    out = []
    for header in headers:
        filled = copy.copy(header)
        for keyword in TYPE_2:
            if keyword not in filled or not _encodes(keyword, filled.get(keyword)):
                setattr(filled, keyword, "" if keyword != "PatientName" else None)
        # Names are decoded by the source's character set on access, whatever it is, and written as UTF-8.
        filled.PatientName = str(filled.PatientName or "") or None
        filled.SpecificCharacterSet = "ISO_IR 192"
        if not filled.get("SOPInstanceUID"):
            filled.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID
        if not filled.get("FrameOfReferenceUID"):
            filled.FrameOfReferenceUID = generate_uid(entropy_srcs=[key, "frame-of-reference"])
        if not filled.get("SliceThickness"):
            filled.SliceThickness = float(round(spacing_mm, 6))
        filled.ImageOrientationPatient = orientation
        out.append(filled)
    return out


PATTERNS = {
    "PatientBirthDate": re.compile(r"\d{8}"),
    "StudyDate": re.compile(r"\d{8}"),
    "StudyTime": re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?"),
    "PatientSex": re.compile(r"[MFO]"),
}


def _encodes(keyword: str, value) -> bool:
    """Whether a value follows its value representation; what does not is left empty rather than passed on."""
    text = str(value or "").strip()
    pattern = PATTERNS.get(keyword)
    if not pattern or not text:
        return True
    if not pattern.fullmatch(text):
        return False
    try:
        return not keyword.endswith("Date") or bool(date(int(text[:4]), int(text[4:6]), int(text[6:])))
    except ValueError:
        return False


def _snapped(cosines) -> list[float]:
    """Orthogonal unit vectors within rounding of the header's; 1e-6 noise is no orientation of its own."""
    row, column = np.array(cosines[:3], float), np.array(cosines[3:], float)
    row /= np.linalg.norm(row)
    column -= (column @ row) * row
    column /= np.linalg.norm(column)
    both = np.concatenate([row, column])
    nearest = np.rint(both)
    return [float(v) for v in (nearest if np.abs(both - nearest).max() < 1e-4 else np.round(both, 10))]


def _description(segment: Segment, key: str, weights: dict[str, str]) -> hd.seg.SegmentDescription:
    task = "infection" if segment.region else "lungs"
    description = hd.seg.SegmentDescription(
        segment_number=segment.number,
        segment_label=segment.label,
        segmented_property_category=_code(segment.category),
        segmented_property_type=_code(segment.type),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name="covct",
            version=__version__,
            family=_code(ARTIFICIAL_INTELLIGENCE),
            parameters={"weights": weights[task][:16], "task": task},
        ),
        tracking_uid=generate_uid(entropy_srcs=[key, segment.label]),
        tracking_id=f"covct {segment.label}",
        anatomic_regions=[_code(segment.region)] if segment.region else None,
        display_color=hd.color.CIELabColor.from_rgb(*segment.colour_rgb),
    )
    if segment.modifier:
        setattr(description.SegmentedPropertyTypeCodeSequence[0], CODE_MODIFIERS, [_code(segment.modifier)])
    return description


def _code(term: CodedTerm) -> hd.sr.CodedConcept:
    return hd.sr.CodedConcept(term.value, term.scheme, term.meaning)
