"""What an archive knows a study by, for a reader who asked to see it: read from a result's own DICOM objects, and kept
nowhere else. A series without such an object (rejected, failed, a volume file, other formats) shows none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from covct.outputs import DICOM_FORMATS, FORMATS
from covct.results.entries import Entry, one_line

NAMES = {
    "AccessionNumber": "accession number",
    "StudyDate": "study date",
    "StudyDescription": "study description",
    "PatientID": "patient ID",
}
LAST_TAG = 0x00100020  # of these; what follows in the file is not read


def with_identifiers(out: Path, entry: Entry) -> Entry:
    """The entry with its identifiers, as far as they can be read."""
    files = [name for one in DICOM_FORMATS for name in sorted(FORMATS[one].among(entry.files))]
    objects = [name for name in files if name.endswith(".dcm")]
    return replace(entry, identifiers=_read(out / entry.folder / objects[0])) if objects else entry


def _read(path: Path) -> tuple[tuple[str, str], ...]:
    from pydicom.filereader import read_partial  # only for whoever asks
    from pydicom.tag import Tag

    try:
        with open(path, "rb") as file:
            header = read_partial(file, lambda tag, vr, length: tag > LAST_TAG, specific_tags=list(map(Tag, NAMES)))
        told = {keyword: one_line(str(header.get(keyword) or "")) for keyword in NAMES}
    except Exception:  # a damaged file raises anything; the page shows the series all the same
        return ()
    told["StudyDate"] = _date(told["StudyDate"])
    return tuple((NAMES[keyword], value) for keyword, value in told.items() if value)


def _date(told: str) -> str:
    return f"{told[:4]}-{told[4:6]}-{told[6:]}" if len(told) == 8 and told.isdecimal() else told
