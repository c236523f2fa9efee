"""Results as DICOM objects: read, and judged by others."""

import copy
import subprocess
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pydicom

from covct.dicom.evidence import LABEL_MAP_STORAGE, Making
from support.running import tool

MAKING = Making(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "an installation")
SEG, SR, KO = "segmentation.seg.dcm", "measurements.sr.dcm", "key-slices.ko.dcm"


def without_infection(networks):
    nothing = replace(networks.infection, predict=lambda s: np.zeros(s.shape[:3], np.float32))
    return replace(networks, infection=nothing)


def judge(path):
    """dciodvfy's verdict: exit status and errors.

    It knows the label map's storage class, yet not that a reference to one may name a segment as one to any other SEG
    does: that one complaint about SRs of label maps is its own.
    """
    run = subprocess.run([tool("dciodvfy"), "-new", path], capture_output=True, text=True, check=False)
    errors = [line for line in run.stderr.splitlines() if line.startswith("Error")]
    if LABEL_MAP_STORAGE in str(pydicom.dcmread(path, stop_before_pixels=True).get("ContentSequence", "")):
        errors = [error for error in errors if "ReferencedSegmentNumber" not in error]
    return run.returncode, errors


def items(dataset):
    for item in dataset.get("ContentSequence", []):
        yield item
        yield from items(item)


def evidence(dataset):
    """Series of each SOP instance that a document says it rests on."""
    return {
        reference.ReferencedSOPInstanceUID: series.SeriesInstanceUID
        for study in dataset.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for reference in series.ReferencedSOPSequence
    }


def as_multi_frame(scan):
    """The same scan as of one enhanced instance whose frames run the other way."""
    header = copy.deepcopy(scan.headers[0])
    header.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2.2"  # Legacy Converted Enhanced CT
    header.SOPInstanceUID = f"{header.SeriesInstanceUID[:50]}.1"
    header.NumberOfFrames = len(scan.headers)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(header, keyword)
    return replace(scan, headers=(header,), frames=tuple(range(len(scan.headers), 0, -1)))
