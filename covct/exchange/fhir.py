"""A result as a FHIR Bundle (R4): what its DICOM SR says, in the codes that it says it in.

Groups and measurements become Observations, covct a Device, the document a DiagnosticReport, as HL7's guide "DICOM SR
to FHIR Resource Mapping" has it. That guide is for R5; where R4 lacks a resource (ImagingSelection, BodyStructure
without a patient) its place is taken by what R4 has: the study's UID in `partOf`, a coded body site, tracking UIDs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

from covct import RESEARCH_USE
from covct.dicom.evidence import MANUFACTURER, object_uids, telling_uids
from covct.dicom.seg import tracking_uid
from covct.dicom.sentences import remarks, why_withheld, worth_of_intervals, worth_of_lobes
from covct.dicom.sr_groups import Group, Measured, groups_of
from covct.intake.given_uids import given
from covct.outputs import Outputs
from covct.terms import (
    ARTIFICIAL_INTELLIGENCE,
    BILATERAL,
    BY_LOBE,
    LEFT,
    LOBES_OF_ATLAS,
    LUNG,
    MEASUREMENT_REPORT,
    NOT_ATTEMPTED,
    PRIVATE_SCHEME,
    RIGHT,
    SEVERITY_CLASSES,
    SEVERITY_NAME,
    SINCE,
    WARNING,
    CodedTerm,
)

Resource = dict[str, Any]

OWN_CODES = f"urn:oid:{given('code system', PRIVATE_SCHEME)}"
WORK_KEYS = f"urn:oid:{given('identifiers', 'work key')}"
SYSTEMS = {
    "SCT": "http://snomed.info/sct",
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    "UCUM": "http://unitsofmeasure.org",
    "LN": "http://loinc.org",
    PRIVATE_SCHEME: OWN_CODES,
}
DICOM_UID = "urn:dicom:uid"
IDENTIFIER_TYPES = "http://hl7.org/fhir/uv/dicom-sr/CodeSystem/dicom-identifier-type"
V2_TYPES = "http://terminology.hl7.org/CodeSystem/v2-0203"
ABSENT = "http://terminology.hl7.org/CodeSystem/data-absent-reason"
STATUS = "preliminary"  # no person has looked at it

MEASUREMENT_GROUP = CodedTerm("125007", "DCM", "Measurement Group")
ALGORITHM_PARAMETERS = CodedTerm("111002", "DCM", "Algorithm Parameters")
UPPER = CodedTerm("371886008", "SCT", "+, range of upper measurement uncertainty")
LOWER = CodedTerm("371885007", "SCT", "-, range of lower measurement uncertainty")
# The SR says lung and side; an Observation has one code for its body site.
SITES = {
    RIGHT: CodedTerm("3341006", "SCT", "Right lung"),
    LEFT: CodedTerm("44029006", "SCT", "Left lung"),
    BILATERAL: CodedTerm("74101002", "SCT", "Both lungs"),
    None: LUNG,
}
LOBE_SITES: dict[tuple[str, CodedTerm | None], CodedTerm] = {
    ("45653009", RIGHT): CodedTerm("42400003", "SCT", "Upper lobe of right lung"),
    ("72481006", RIGHT): CodedTerm("72481006", "SCT", "Middle lobe of right lung"),
    ("90572001", RIGHT): CodedTerm("266005", "SCT", "Lower lobe of right lung"),
    ("45653009", LEFT): CodedTerm("44714003", "SCT", "Upper lobe of left lung"),
    ("90572001", LEFT): CodedTerm("41224006", "SCT", "Lower lobe of left lung"),
}
IMAGING = {"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "imaging"}
RADIOLOGY = {"system": "http://terminology.hl7.org/CodeSystem/v2-0074", "code": "RAD", "display": "Radiology"}
QUALITATIVE = {
    "system": "http://terminology.hl7.org/CodeSystem/umls", "code": "C0034375", "display": "Qualitative Evaluations",
}  # fmt: skip
RESEARCH = {
    "system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "HRESCH", "display": "healthcare research",
}  # fmt: skip
NAMESPACE = UUID("5ab7c1a8-7f0e-5a3b-9c55-0d6a1d3f2e10")


def bundle_of(
    report: dict[str, Any],
    held: Mapping[str, str],
    folder: str,
    computed: datetime | None = None,
    identifiers: Mapping[str, str] | None = None,
) -> Resource:
    """A result as a transaction that creates its resources on a server, or replaces those of an earlier result.

    Parameters
    ----------
    report : dict
        As `report.json` holds it, with every key.
    held : mapping of str to str
        Formats of the result, each with its kind.
    folder : str
        Of the result below its tree, ``study/series``: the resources' ids derive from it, so that a series that is
        processed again replaces what was said of it.
    computed : datetime, optional
        When the result was first computed, with its offset from UTC.
    identifiers : mapping of str to str, optional
        What an archive knows the study by, as `results.identifiers` names it. Without, nothing tells whose it is.
    """
    context = _context(report, computed, identifiers or {})
    device = _device(report)
    groups = groups_of(report, Outputs(seg_type=held.get("seg") or "binary"))
    notes = worth_of_intervals(report) | {BY_LOBE.value: " ".join(f"{one}." for one in worth_of_lobes(report))}
    observations: list[Resource] = []
    results = []
    for group in groups:
        found = [_measurement(one, group, folder, notes) for one in group.measured]
        if group.finding == LUNG and group.side == BILATERAL and group.outlined == "lungs" and not group.third:
            found.append(_severity(report, group, folder))
        whole = _group(report, group, folder, found)
        results.append(_reference(whole))
        observations += [whole, *found]
    observations = [_complete(one, context, device) for one in observations]
    document = _document(report, held, folder, context, results)
    return {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [_entry(one) for one in (document, device, *observations)],
    }


def _context(report: dict[str, Any], computed: datetime | None, identifiers: Mapping[str, str]) -> Resource:
    """What document and Observations share: whose, of which study, when."""
    shared: Resource = {}
    if number := identifiers.get("accession number"):
        kind = {"coding": [{"system": V2_TYPES, "code": "ACSN", "display": "Accession ID"}]}
        shared["basedOn"] = [{"type": "ServiceRequest", "identifier": {"type": kind, "value": number}}]
    if patient := identifiers.get("patient ID"):
        kind = {"coding": [{"system": V2_TYPES, "code": "MR", "display": "Medical record number"}]}
        shared["subject"] = {"type": "Patient", "identifier": {"type": kind, "value": patient}}
    if date := identifiers.get("study date"):
        shared["effectiveDateTime"] = date
    if computed:
        shared["issued"] = computed.isoformat(timespec="seconds")
    return shared


def _study(report: dict[str, Any]) -> list[Resource]:
    """The scan's study, by its UID; none of a volume file. An archive's own ImagingStudy is meant: none is made."""
    uid = report["source"]["study_instance_uid"]
    return [{"type": "ImagingStudy", "identifier": _uid(uid)}] if uid else []


def _document(
    report: dict[str, Any], held: Mapping[str, str], folder: str, context: Resource, results: list[Resource]
) -> Resource:
    key = report["work_key"]
    identifiers: list[Resource] = [{"system": WORK_KEYS, "value": key}]
    if "sr" in held:
        identifiers.append(_uid(telling_uids(key, "sr", report)["sop_instance_uid"], "sop-instance-uid"))
    if "seg" in held:
        identifiers.append(_uid(object_uids(key, "seg")["sop_instance_uid"], "sop-instance-uid"))
    study = _study(report)
    conclusion = " ".join(_conclusion(report))
    return {
        "resourceType": "DiagnosticReport",
        "id": _id(folder, "report"),
        "meta": {"security": [RESEARCH]},
        "identifier": identifiers,
        "status": STATUS,
        "category": [{"coding": [RADIOLOGY]}],
        "code": _concept(MEASUREMENT_REPORT),
        **context,
        "result": results,
        **({"imagingStudy": study} if study else {}),
        "conclusion": conclusion,
    }


def _conclusion(report: dict[str, Any]) -> Iterator[str]:
    """What a reader has to know beside the figures."""
    severity = report["severity"]
    yield RESEARCH_USE
    yield f"Computed by covct {report['covct_version']}; no person has looked at it."
    if severity["class"] is not None:
        yield f"{severity['scale']}: class {severity['class']}, {severity['label']}."
    if withheld := why_withheld(report):
        yield withheld
    for concept, text in remarks(report, ()):
        if concept in (WARNING, BY_LOBE, SINCE):
            yield text if text.endswith(".") else f"{text}."


def _device(report: dict[str, Any]) -> Resource:
    """covct with its networks (TID 4019); other weights are another device."""
    networks = {task: card for task, card in report["networks"].items() if isinstance(card, dict)}
    parameters = [
        f"{task}: {card['name']}, threshold {card['threshold']:g}, weights sha256 {card['sha256']}"
        for task, card in networks.items()
    ]
    return {
        "resourceType": "Device",
        "id": _id(report["covct_version"], *parameters),
        "manufacturer": MANUFACTURER,
        "deviceName": [{"name": "covct", "type": "model-name"}],
        "type": _concept(ARTIFICIAL_INTELLIGENCE),
        "version": [{"value": report["covct_version"]}],
        "property": [
            {"type": _concept(ALGORITHM_PARAMETERS), "valueCode": [{"text": one}]} for one in parameters
        ],
        "note": [{"text": RESEARCH_USE}],
    }  # fmt: skip


def _group(report: dict[str, Any], group: Group, folder: str, found: Iterable[Resource]) -> Resource:
    """A measurement group (TID 1411, 1501): its finding, and what was measured of it."""
    study = _study(report)
    return {
        "resourceType": "Observation",
        "id": _id(folder, group.label),
        "identifier": [
            _uid(tracking_uid(report["work_key"], group.label), "tracking-uid"),
            {"type": _identifier_type("tracking-id"), "value": f"covct {group.label}"},
        ],
        **({"partOf": study} if study else {}),
        "status": STATUS,
        "category": [_concept(MEASUREMENT_GROUP)],
        "code": _concept(group.category),
        "valueCodeableConcept": _concept(group.finding),
        "bodySite": _site(group),
        "hasMember": [_reference(one) for one in found],
    }


def _measurement(measured: Measured, group: Group, folder: str, notes: Mapping[str, str]) -> Resource:
    """A figure (TID 300): its value with its interval, or why there is none."""
    figure, value = measured.figure, measured.value
    told: Resource = {
        "resourceType": "Observation",
        "id": _id(folder, group.label, figure.name),
        "status": STATUS,
        "category": [{"coding": [IMAGING]}],
        "code": _concept(measured.name),
        "bodySite": _site(group),
        "method": _concept(figure.derivation or measured.method),
    }
    if value is None:
        return told | {"dataAbsentReason": _absent(measured.why_absent)}
    told["valueQuantity"] = _quantity(measured, value)
    if reach := measured.reach:
        ends = zip((UPPER, LOWER), reach, strict=True)
        told["component"] = [{"code": _concept(of), "valueQuantity": _quantity(measured, end)} for of, end in ends]
        if measured.method == LOBES_OF_ATLAS:
            told["note"] = [{"text": notes[BY_LOBE.value]}]
        elif figure.name in notes:
            told["note"] = [{"text": notes[figure.name]}]
    return told


def _severity(report: dict[str, Any], group: Group, folder: str) -> Resource:
    """The qualitative evaluation of both lungs."""
    number = report["severity"]["class"]
    told: Resource = {
        "resourceType": "Observation",
        "id": _id(folder, group.label, "severity"),
        "status": STATUS,
        "category": [{"coding": [QUALITATIVE]}],
        "code": _concept(SEVERITY_NAME),
        "bodySite": _site(group),
    }
    if number is None:
        return told | {"dataAbsentReason": _absent(NOT_ATTEMPTED)}
    return told | {"valueCodeableConcept": _concept(SEVERITY_CLASSES[number])}


def _complete(observation: Resource, context: Resource, device: Resource) -> Resource:
    return {**observation, **context, "device": _reference(device)}


def _entry(resource: Resource) -> Resource:
    place = f"{resource['resourceType']}/{resource['id']}"
    return {
        "fullUrl": f"urn:uuid:{resource['id']}",
        "resource": resource,
        "request": {"method": "PUT", "url": place},
    }


def _reference(resource: Resource) -> Resource:
    return {"reference": f"urn:uuid:{resource['id']}"}


def _id(*what: str) -> str:
    return str(uuid5(NAMESPACE, "\0".join(what)))


def _uid(uid: str, kind: str = "study-instance-uid") -> Resource:
    return {"type": _identifier_type(kind), "system": DICOM_UID, "value": f"urn:oid:{uid}"}


def _identifier_type(kind: str) -> Resource:
    return {"coding": [{"system": IDENTIFIER_TYPES, "code": kind}]}


def _concept(term: CodedTerm) -> Resource:
    return {"coding": [{"system": SYSTEMS[term.scheme], "code": term.value, "display": term.meaning}]}


def _site(group: Group) -> Resource:
    site = LOBE_SITES.get((group.site.value, group.side)) or SITES[group.side]
    return {**_concept(site), "text": group.label}


def _quantity(measured: Measured, value: float) -> Resource:
    unit = measured.figure.unit
    symbol = {"unit": unit.symbol} if unit.symbol else {}
    return {"value": value, **symbol, "system": SYSTEMS["UCUM"], "code": unit.code.value}


def _absent(why: CodedTerm) -> Resource:
    """Why there is no value, in FHIR's words and in those of the SR (PS3.16 CID 42)."""
    code = "not-performed" if why == NOT_ATTEMPTED else "unknown"
    return {"coding": [{"system": ABSENT, "code": code}, *_concept(why)["coding"]]}
