"""What `covct verify` can find: the slugs with their meaning, and one defect. Data only."""

from __future__ import annotations

from dataclasses import dataclass

# Slug: what is wrong. docs/verify.md has the same table.
DEFECTS = {
    "no-outcome": "`outcome.json` is missing or makes no sense",
    "not-checked": "the check itself broke at this result: a bug",
    "missing-file": "a file that the outcome lists is not there",
    "altered-file": "a file's sha256 is not the one in the outcome",
    "unlisted-file": "a file that the outcome does not list",
    "report-invalid": "`report.json` does not follow its schema",
    "report-contradicts-itself": "figures of the report that cannot all be true",
    "wrong-identity": "a file belongs to another study, series or work key",
    "duplicate-uid": "a SOP Instance or Series UID occurs twice in the tree",
    "unreadable-dicom": "a DICOM file is cut short or cannot be parsed",
    "bad-pixels": "pixel data have the wrong length or cannot be decoded",
    "patient-differs": "patient or study attributes are not the same throughout a result, or not the source's",
    "wrong-segments": "segment numbers, labels or codes are not covct's",
    "wrong-frame-of-reference": "the SEG's Frame of Reference UID is not the report's",
    "wrong-geometry": "size, spacing or planes of a mask are not those of the report's grid",
    "wrong-source": "the SEG's source series or its number of instances is not the report's",
    "dangling-reference": "a reference to an instance or a segment that is in neither the result nor its source",
    "wrong-template": "an SR that is not a TID 1500 measurement report",
    "volume-differs": "the voxels of a mask do not make the report's mL",
    "unreadable-nifti": "a NIfTI mask cannot be read",
    "source-missing": "a referenced instance is not among the sources given",
    "source-differs": "position, orientation, spacing, size or frame of reference is not that of the source slice",
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
