"""What a source tells of its order: procedure, request, equipment. What it does not tell is not invented."""

from __future__ import annotations

import copy

import pydicom

from covct.terms import CT_OF_SOMETHING, CodedTerm

# Of a request (PS3.3 C.17.2), as items of Request Attributes Sequence have them too.
IDENTIFIERS = (
    "AccessionNumber", "PlacerOrderNumberImagingServiceRequest", "FillerOrderNumberImagingServiceRequest",
    "RequestedProcedureID",
)  # fmt: skip


def procedures(source: pydicom.Dataset) -> list[CodedTerm]:
    """Procedure Code Sequence (0008,1032) of a valid header; a CT of something (CID 100), where it has none."""
    told = [
        CodedTerm(str(item.CodeValue), str(item.CodingSchemeDesignator), str(item.CodeMeaning))
        for item in _coded_procedures(source)
    ]
    return told or [CT_OF_SOMETHING]


def _coded_procedures(source: pydicom.Dataset) -> list[pydicom.Dataset]:
    return [item for item in source.get("ProcedureCodeSequence") or [] if item.get("CodeValue")]


def requests(source: pydicom.Dataset) -> list[pydicom.Dataset]:
    """Referenced Request Sequence (0040,A370): the requests that the source's Request Attributes name by a number.

    Descriptions and reasons are left empty: they are free text, and stand in the source.
    """
    found = []
    for item in source.get("RequestAttributesSequence") or []:
        if not (item.get("RequestedProcedureID") or item.get("AccessionNumber")):
            continue
        request = pydicom.Dataset()
        request.StudyInstanceUID = str(item.get("StudyInstanceUID") or source.StudyInstanceUID)
        request.ReferencedStudySequence = []
        for keyword in IDENTIFIERS:
            setattr(request, keyword, str(item.get(keyword) or ""))
        if not request.AccessionNumber:
            request.AccessionNumber = str(source.get("AccessionNumber") or "")
        request.RequestedProcedureDescription = ""
        request.RequestedProcedureCodeSequence = copy.deepcopy(list(item.get("RequestedProcedureCodeSequence") or []))
        found.append(request)
    return found


def not_told(source: pydicom.Dataset) -> list[str]:
    """What a document would take over of the source and cannot."""
    absent = {
        "procedure": not _coded_procedures(source),
        "request": not requests(source),
        "equipment": not source.get("Manufacturer"),
    }
    return [name for name, missing in absent.items() if missing]
