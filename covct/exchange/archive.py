"""What an archive is asked for, whatever it speaks: its studies, their series, their instances, and the files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from covct.dicom.header import CT_IMAGE, ENHANCED_CT, LEGACY_CONVERTED_CT
from covct.exchange.audit import Party

CT_IMAGES = (CT_IMAGE, ENHANCED_CT, LEGACY_CONVERTED_CT)
# Attributes of patient and study: an archive tells them at the level of the study, all others at that of the series.
OF_STUDY = {
    "AccessionNumber", "ModalitiesInStudy", "NameOfPhysiciansReadingStudy", "NumberOfStudyRelatedInstances",
    "NumberOfStudyRelatedSeries", "PatientAge", "PatientBirthDate", "PatientComments", "PatientID", "PatientName",
    "PatientSex", "PatientSize", "PatientWeight", "ReferringPhysicianName", "StudyDate", "StudyDescription", "StudyID",
    "StudyInstanceUID", "StudyTime",
}  # fmt: skip

Keep = Callable[[str, bytes], None]  # an instance by its UID, as a file holds it


@dataclass(frozen=True)
class FoundStudy:
    """A study of the archive; `told` holds what it says of it, by keyword."""

    uid: str
    told: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True)
class FoundSeries:
    """A series of the archive; `told` holds what it says of it and of its study, by keyword."""

    study_uid: str
    uid: str
    told: Mapping[str, str] = field(repr=False)

    @property
    def announced(self) -> int | None:
        """Number of Series Related Instances (0020,1209); None where the archive does not count them."""
        count = self.told.get("NumberOfSeriesRelatedInstances", "")
        return int(count) if count.isdecimal() else None


@dataclass(frozen=True)
class Fetched:
    """How a retrieval ended, by the archive's own account.

    Attributes
    ----------
    message : str
        What it said of instances that it could not send; empty where all went well.
    sent_elsewhere : int or None
        Instances that it says it sent to another listener, of which nothing is seen here; None where they came here.
    """

    message: str = ""
    sent_elsewhere: int | None = None


class Archive(Protocol):
    """What speaks to an archive. Each method raises PeerError."""

    @property
    def party(self) -> Party:
        """As the audit log names it."""

    def studies(self, dates: str, uid: str, keywords: Iterable[str]) -> Iterator[FoundStudy]:
        """CT studies whose Study Date lies in a range as DICOM writes it (``20261129-20261130``), or this one."""

    def series(self, study: FoundStudy, keywords: Iterable[str]) -> list[FoundSeries]:
        """The CT series of a study."""

    def instances(self, series: FoundSeries) -> dict[str, str]:
        """SOP Instance UIDs of the CT images in a series, each with its SOP Class UID; empty where that is not told."""

    def fetch(self, series: FoundSeries, uids: Sequence[str], whole: bool, keep: Keep) -> Fetched:
        """Retrieve instances; `whole`: they are all that the series has."""
