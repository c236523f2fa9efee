"""What `covct verify` can find: the slugs with their meaning, and one defect. Data only."""

from __future__ import annotations

from dataclasses import dataclass

# Slug: what is wrong. docs/verify.md has the same table.
DEFECTS = {
    "no-outcome": "`outcome.json` is missing or invalid",
    "not-checked": "the check itself failed on this result: a bug",
    "missing-file": "a file listed in the outcome is missing",
    "altered-file": "a file's sha256 is not the one in the outcome",
    "unlisted-file": "a file is not listed in the outcome",
    "report-invalid": "`report.json` does not follow its schema",
    "report-contradicts-itself": "figures of the report contradict one another",
    "wrong-identity": "a file belongs to another study, series or work key",
    "duplicate-uid": "a SOP Instance or Series UID occurs twice in the tree",
    "unreadable-dicom": "a DICOM file is truncated or cannot be parsed",
    "bad-pixels": "pixel data have the wrong length or cannot be decoded",
    "bad-document": "an encapsulated document is damaged, or is not the `report.pdf` beside it",
    "patient-differs": "patient or study attributes differ within a result, or from the source's",
    "wrong-segments": "segment numbers, labels or codes are not covct's",
    "wrong-frame-of-reference": "the SEG's Frame of Reference UID is not the report's",
    "wrong-geometry": "size, spacing or planes of a mask are not those of the report's grid",
    "wrong-source": "the SEG's source series or its number of instances is not the report's",
    "dangling-reference": "a reference to an instance or a segment that is neither in the result nor in its source",
    "wrong-template": "the SR is not a TID 1500 measurement report",
    "volume-differs": "the voxels of a mask do not add up to the report's volume",
    "unreadable-nifti": "a NIfTI mask cannot be read",
    "source-missing": "a referenced instance is not among the sources given",
    "source-differs": "position, orientation, spacing, size or frame of reference is not that of the source slice",
    "figure-differs": "a figure is not what the masks and the source make (`--recompute`)",
    "not-recomputed": "a figure could not be derived anew, and why (`--recompute`)",
    "dciodvfy": "dciodvfy finds an error in a DICOM object",
    "dcentvfy": "dcentvfy finds that objects of a result disagree on patient, study, series or frame of reference",
}


@dataclass(frozen=True)
class Defect:
    """Something wrong with a result.

    Attributes
    ----------
    slug : str
        A key of DEFECTS.
    message : str
        One sentence; UIDs and figures, never a patient's name or date.
    file : str
        Name of the file in the result's folder; empty for the folder itself.
    """

    slug: str
    message: str
    file: str = ""
