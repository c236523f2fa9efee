"""The note that rejects at a destination what was replaced here, of the objects that the study still has."""

from __future__ import annotations

from datetime import datetime
from io import BytesIO
from pathlib import Path

from covct.dicom.syntaxes import EXPLICIT_LITTLE_ENDIAN
from covct.disk.outcome import moment_of, read_outcome
from covct.disk.places import OUTCOME
from covct.exchange.answers import Loaded
from covct.exchange.outgoing import Due

KEY_OBJECT = "1.2.840.10008.5.1.4.1.1.88.59"


def note_of(out: Path, one: Due) -> Loaded | None:
    """The rejection of what a result no longer holds; None where the study has no object left to tell whose it is."""
    found = _object_of_study(out, one)
    if found is None:
        return None
    from pydicom import dcmread

    from covct.dicom.evidence import Making
    from covct.dicom.rejection import Rejected, rejection_note
    from covct.unattended.one_series import installation

    path, moment = found
    header = dcmread(path, stop_before_pixels=True)
    rejected = [
        Rejected(each.series_instance_uid, each.sop_class_uid, each.sop_instance_uid) for each in one.superseded
    ]
    content = rejection_note(header, rejected, Making(moment, installation(out)))
    note = dcmread(BytesIO(content), stop_before_pixels=True)
    return Loaded(
        "", "", str(note.StudyInstanceUID), str(note.SeriesInstanceUID), KEY_OBJECT, str(note.SOPInstanceUID),
        EXPLICIT_LITTLE_ENDIAN, content,
    )  # fmt: skip


def _object_of_study(out: Path, one: Due) -> tuple[Path, datetime] | None:
    """A DICOM object of the same study, and when its result was computed: of this result, or of another one."""
    study = (out / one.folder).parent
    for folder in [out / one.folder, *(path.parent for path in sorted(study.glob(f"*/{OUTCOME}")))]:
        outcome = read_outcome(folder)
        moment = moment_of(outcome) if outcome else None
        if outcome and moment:
            for name in sorted(outcome.files):
                if name.endswith(".dcm") and (folder / name).exists():
                    return folder / name, moment
    return None
