"""What DICOM objects of ours take over of their source's header: what follows the standard, at any depth."""

from __future__ import annotations

import copy

import pydicom
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.tag import BaseTag

from covct.dicom.valid import is_valid

# Type 2 attributes of patient and study: a de-identified source may lack them; empty says "unknown".
TYPE_2 = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber", "StudyDate",
    "StudyTime", "ReferringPhysicianName", "PositionReferenceIndicator",
)  # fmt: skip
# What the library copies of patient, study, equipment and image. The gate has seen to the place of the slices and to
# their identity.
INHERITED_GROUPS = (0x0008, 0x0010, 0x0012, 0x0020, 0x0032, 0x0040)
INHERITED_TAGS = {  # sets and bounds: pydicom compares tags one by one in Python, and there are many
    0x00180088, 0x00181000, 0x00181020, 0x00280301, 0x00280302, 0x00282110, 0x00282112, 0x00282114
}  # fmt: skip
SEEN_BY_THE_GATE = {0x00080016, 0x00080018, 0x0020000D, 0x0020000E, 0x00200032, 0x00200037, 0x00200052}
# What else of patient, visit and specimen the library would copy. No reader of our objects needs it: it stands in the
# source, and what is told once more may be told to more people.
NOT_INHERITED = (
    "OtherPatientNames", "OtherPatientIDsSequence", "PatientBirthTime", "PatientBirthDateInAlternativeCalendar",
    "PatientDeathDateInAlternativeCalendar", "PatientAlternativeCalendar", "EthnicGroupCodeSequence",
    "ReferencedPatientPhotoSequence", "ResponsiblePerson", "ResponsiblePersonRole", "ResponsibleOrganization",
    "PatientComments", "StrainDescription", "StrainNomenclature", "StrainStockSequence", "StrainAdditionalInformation",
    "StrainCodeSequence", "GeneticModificationsSequence", "BreedRegistrationSequence", "PatientBreedDescription",
    "PatientBreedCodeSequence", "PatientSpeciesDescription", "PatientSpeciesCodeSequence",
    "SourcePatientGroupIdentificationSequence", "GroupOfPatientsIdentificationSequence", "ConsultingPhysicianName",
    "ConsultingPhysicianIdentificationSequence", "ReferringPhysicianIdentificationSequence", "PhysiciansOfRecord",
    "PhysiciansOfRecordIdentificationSequence", "NameOfPhysiciansReadingStudy",
    "PhysiciansReadingStudyIdentificationSequence", "RequestingService", "RequestingServiceCodeSequence",
    "ReasonForPerformedProcedureCodeSequence", "AdmittingDiagnosesDescription", "AdmittingDiagnosesCodeSequence",
    "MedicalAlerts", "Allergies", "Occupation", "SmokingStatus", "AdditionalPatientHistory", "PregnancyStatus",
    "LastMenstrualDate", "PatientSexNeutered", "ReasonForVisit", "ReasonForVisitCodeSequence", "AdmissionID",
    "IssuerOfAdmissionIDSequence", "ServiceEpisodeID", "ServiceEpisodeDescription",
    "IssuerOfServiceEpisodeIDSequence", "PatientState", "ContainerIdentifier", "ContainerDescription",
    "IssuerOfTheContainerIdentifierSequence", "AlternateContainerIdentifierSequence", "ContainerTypeCodeSequence",
    "ContainerComponentSequence", "SpecimenDescriptionSequence", "ConsentForClinicalTrialUseSequence",
)  # fmt: skip
CODE = ("CodeValue", "LongCodeValue", "URNCodeValue", "CodingSchemeDesignator", "CodingSchemeVersion", "CodeMeaning")
# What items of inherited sequences must have: their type 1.
NEEDED_IN_ITEMS = {
    "ReferencedPatientSequence": ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID"),
    "ReferencedStudySequence": ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID"),
    "OtherClinicalTrialProtocolIDsSequence": ("ClinicalTrialProtocolID", "IssuerOfClinicalTrialProtocolID"),
}
ISSUERS = ("IssuerOfAccessionNumberSequence", "AssigningFacilitySequence")
# The modules of a clinical trial: tags, and what they must have where they are there at all, with a value or without.
TRIAL_SUBJECT = range(0x00120010, 0x00120050)
TRIAL_STUDY = range(0x00120050, 0x00120060)
TRIAL_WITH_VALUE = ("ClinicalTrialSponsorName", "ClinicalTrialProtocolID")
TRIAL_SUBJECT_IDS = ("ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID")
TRIAL_EVENT = ("LongitudinalTemporalOffsetFromEvent", "LongitudinalTemporalEventType")
TYPE_1C = (
    "DeidentificationMethod", "ClinicalTrialProtocolEthicsCommitteeName", "LossyImageCompression",
    "LossyImageCompressionRatio", "LossyImageCompressionMethod", *TRIAL_SUBJECT_IDS, *TRIAL_EVENT
)  # fmt: skip
TRIAL_TYPE_2 = ("ClinicalTrialProtocolName", "ClinicalTrialSiteID", "ClinicalTrialSiteName")


Valid = set[tuple[int, str | None, bytes | None, bool]]  # elements as in a file: tag, VR, value, little endian


def leave_out(header: pydicom.Dataset, valid: Valid | None = None) -> list[str]:
    """Take away what is not inherited, and of the rest what is not valid: elements, items, or elements of items.

    Parameters
    ----------
    header : pydicom.Dataset
        A copy with elements of its own (`copied`), which is changed.
    valid : set, optional
        Elements that were found valid before, in headers of the same character set; further ones are added. The slices
        of a series share most of theirs.

    Returns
    -------
    list of str
        A phrase for each attribute that was not valid, without its value. Those of TYPE_2 are missing now.
    """
    for keyword in NOT_INHERITED:
        if keyword in header:
            del header[keyword]
    told: list[str] = []
    for tag in list(header.keys()):
        if (tag.group in INHERITED_GROUPS or tag in INHERITED_TAGS) and tag not in SEEN_BY_THE_GATE:
            told += _mend(header, tag, valid=valid)
    for keyword in TYPE_1C:
        if keyword in header and header[keyword].is_empty:
            del header[keyword]
    told += _mend_trial(header)
    if header.get("PatientIdentityRemoved") == "YES" and not any(
        header.get(keyword) for keyword in ("DeidentificationMethod", "DeidentificationMethodCodeSequence")
    ):
        header.DeidentificationMethod = "not stated"  # it must be, and nobody shall think that nothing was removed
        told.append("DeidentificationMethod: missing, said to be not stated")
    return told


def copied(header: pydicom.Dataset) -> pydicom.Dataset:
    """A copy with elements of its own: pydicom's shares them, and what is set in one is set in the other."""
    good = copy.copy(header)
    good._dict = {
        tag: copy.copy(element) if isinstance(element, DataElement) else element
        for tag, element in header._dict.items()
    }
    return good


def can_be_written(header: pydicom.Dataset, tag: BaseTag) -> bool:
    """Whether an element can be parsed, is valid, and can be written as UTF-8.

    Values are parsed on access, and encoded on writing: damage and unknown character sets raise anything in both.
    """
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, False
    try:
        element = header[tag]
        write_data_element(stream, element, ["utf8"])
        return is_valid(element)
    except Exception:
        return False


def _mend(dataset: pydicom.Dataset, tag: BaseTag, within: str = "", valid: Valid | None = None) -> list[str]:
    """Take an element away that is not valid, or what in its items is not."""
    raw = dataset.get_item(tag)
    stored = (int(tag), raw.VR, raw.value, raw.is_little_endian) if isinstance(raw, RawDataElement) else None
    if stored and valid and stored in valid:
        return []
    name = f"{within}{keyword_for_tag(tag) or tag}"
    told = _mend_items(dataset, tag, name) if _is_sequence(dataset, tag) else []
    if tag in dataset and not can_be_written(dataset, tag):
        del dataset[tag]
        told.append(f"{name}: not valid, left out")
    elif stored and valid is not None and tag in dataset and not _is_sequence(dataset, tag):
        valid.add(stored)
    return told


def _is_sequence(dataset: pydicom.Dataset, tag: BaseTag) -> bool:
    try:
        return bool(dataset[tag].VR == "SQ")
    except Exception:  # a damaged one
        return False


def _mend_items(dataset: pydicom.Dataset, tag: BaseTag, name: str) -> list[str]:
    told, kept = [], []
    keyword = keyword_for_tag(tag)
    for original in dataset[tag].value:
        item = copied(original)
        for inner in list(item.keys()):
            if inner.is_private or (keyword.endswith("CodeSequence") and keyword_for_tag(inner) not in CODE):
                del item[inner]
                continue
            told += _mend(item, inner, f"{name}, ")
            if inner in item and item[inner].is_empty:  # what must have a value where it is there (type 1C)
                del item[inner]
        if _is_complete(keyword, item):
            kept.append(item)
        else:
            told.append(f"{name}: an item lacks what it must have, left out")
    del dataset[tag]
    if kept:
        dataset.add(DataElement(tag, "SQ", kept))
    return told


def _is_complete(keyword: str, item: pydicom.Dataset) -> bool:
    """Whether an item of a sequence, by keyword, has what items of that one must have."""
    if keyword.endswith("CodeSequence"):
        values = [one for one in ("CodeValue", "LongCodeValue", "URNCodeValue") if item.get(one)]
        has_scheme = bool(item.get("CodingSchemeDesignator")) or values == ["URNCodeValue"]
        return len(values) == 1 and has_scheme and bool(item.get("CodeMeaning"))
    universal = bool(item.get("UniversalEntityID"))
    if universal != bool(item.get("UniversalEntityIDType")):
        return False
    if keyword in ISSUERS:
        return universal or bool(item.get("LocalNamespaceEntityID"))
    return len(item) > 0 and all(item.get(needed) for needed in NEEDED_IN_ITEMS.get(keyword, ()))


def _mend_trial(header: pydicom.Dataset) -> list[str]:
    """Complete the modules of a clinical trial where that can be with empty values, else leave the subject's out."""
    told = []
    tags = [int(tag) for tag in header.keys()]  # noqa: SIM118 - iterating a Dataset parses the elements
    if any(tag in TRIAL_SUBJECT for tag in tags):
        lacking = [keyword for keyword in TRIAL_WITH_VALUE if not header.get(keyword)]
        if not any(header.get(keyword) for keyword in TRIAL_SUBJECT_IDS):
            lacking.append(TRIAL_SUBJECT_IDS[0])
        if lacking:
            for tag in tags:
                if tag in TRIAL_SUBJECT:
                    del header[tag]
            told.append(f"{', '.join(lacking)}: missing, the clinical trial's subject is left out")
        else:
            _complete(header, TRIAL_TYPE_2)
    if bool(header.get(TRIAL_EVENT[0])) != bool(header.get(TRIAL_EVENT[1])):
        for keyword in TRIAL_EVENT:
            if keyword in header:
                del header[keyword]
                told.append(f"{keyword}: left out, as one of the two that tell of a moment is missing")
    if any(tag in TRIAL_STUDY for tag in tags):
        _complete(header, ("ClinicalTrialTimePointID",))
    return told


def _complete(header: pydicom.Dataset, keywords: tuple[str, ...]) -> None:
    for keyword in keywords:
        if keyword not in header:
            setattr(header, keyword, "")
