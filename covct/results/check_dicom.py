"""The DICOM objects of one result, read back: whole, consistent with the report, with one another and the source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
from pydicom.uid import EncapsulatedPDFStorage

from covct.dicom.evidence import OBJECTS, SERIES_NUMBERS, instance_uid, object_uids, telling_key
from covct.outputs import FORMATS
from covct.pipeline.report_document import Report
from covct.results.check_file import Damage, check_pixels, is_seg, quietly, read_whole
from covct.results.check_pdf import check_pdf
from covct.results.check_seg import check_seg, numbers
from covct.results.check_source import PATIENT_AND_STUDY, Sources, check_source, text_of
from covct.results.defects import Defect

# Copied with the source's patient and study modules: they name studies and procedure steps, not evidence. And what lies
# in another study, as the result that this one is compared with, which may have been superseded.
NOT_EVIDENCE = {
    "ReferencedStudySequence", "ReferencedPatientSequence", "ReferencedPerformedProcedureStepSequence",
    "ReferencedRequestSequence", "PertinentOtherEvidenceSequence",
}  # fmt: skip
MEASUREMENT_REPORT = "1500"


def check_objects(
    paths: Iterable[Path], report: Report | None, sources: Sources | None
) -> tuple[list[Defect], dict[str, pydicom.Dataset]]:
    """Check the DICOM files of one result.

    Parameters
    ----------
    paths : iterable of Path
    report : Report or None
        The result's report; None where there is none to compare with.
    sources : mapping of (SOP Instance UID, frame number or None) to Instance, or None
        Headers of the source slices, where the sources were given.

    Returns
    -------
    defects, and by file name the data sets that could be read, without their pixels
    """
    defects: list[Defect] = []
    objects: dict[str, pydicom.Dataset] = {}
    for path in paths:
        defects += _check_object(path, objects, report, sources)
    defects += _guarded("", _same_patient, objects)
    defects += _guarded("", _same_moment, _of_one_moment(objects, report))
    if report:
        defects += _guarded("", _check_identity, objects, report)
    defects += _guarded("", _check_references, objects, report)
    return defects, objects


def _check_object(
    path: Path, objects: dict[str, pydicom.Dataset], report: Report | None, sources: Sources | None
) -> list[Defect]:
    """Check one file by itself; what can be read is added to `objects`."""
    try:
        dataset = read_whole(path)
        counts = quietly(check_pixels, dataset)
    except Damage as damage:
        return [Defect(damage.slug, str(damage), path.name)]
    except FileNotFoundError:
        return [Defect("missing-file", "it disappeared while the result was read", path.name)]
    except Exception as error:  # damage makes a parser raise anything; its text may quote the patient
        return [Defect("unreadable-dicom", f"it cannot be parsed ({type(error).__name__})", path.name)]
    objects[path.name] = dataset
    if dataset.SOPClassUID == EncapsulatedPDFStorage:
        return _guarded(path.name, check_pdf, dataset, path.with_name(FORMATS["pdf"].file))
    if not is_seg(dataset):
        return _guarded(path.name, _check_template, dataset)
    found = _guarded(path.name, check_seg, dataset, counts, report)
    return found + (_guarded(path.name, check_source, dataset, sources) if sources is not None else [])


def _guarded(name: str, check: Callable[..., Iterable[Defect]], *arguments: Any) -> list[Defect]:
    """The defects of a check, under the file's name; an object that lacks what it must have is one itself."""
    found: list[Defect] = []
    try:
        for defect in check(*arguments):
            found.append(replace(defect, file=defect.file or name))
    except Exception as error:  # an attribute that is missing, empty or of the wrong kind
        found.append(Defect("unreadable-dicom", f"it lacks what its kind must have ({_reason(error)})", name))
    return found


def _reason(error: Exception) -> str:
    """Keyword of a missing attribute, else the kind of error: a text may quote the patient's."""
    keyword = getattr(error, "name", None)
    return str(keyword) if isinstance(error, AttributeError) and keyword else type(error).__name__


def _same_patient(objects: dict[str, pydicom.Dataset]) -> Iterator[Defect]:
    named = iter(objects.items())
    first = next(named, None)
    for name, dataset in named:
        assert first
        differing = [k for k in PATIENT_AND_STUDY if text_of(dataset, k) != text_of(first[1], k)]
        if differing:
            yield Defect("patient-differs", f"{', '.join(differing)} not as in {first[0]}", name)


def _same_moment(objects: dict[str, pydicom.Dataset]) -> Iterator[Defect]:
    """The objects of a result were computed at once: one with another date is of another computation."""
    named = iter(objects.items())
    first = next(named, None)
    for name, dataset in named:
        assert first
        if any(text_of(dataset, keyword) != text_of(first[1], keyword) for keyword in ("ContentDate", "ContentTime")):
            yield Defect("wrong-identity", f"its Content Date and Time are not those of {first[0]}", name)


def _of_one_moment(objects: dict[str, pydicom.Dataset], report: Report | None) -> dict[str, pydicom.Dataset]:
    """Without the documents that tell of a comparison: these may have been made later."""
    compared = report is not None and report.since is not None and report.since.comparison is not None
    return {name: one for name, one in objects.items() if not (compared and one.get("Modality") in ("SR", "DOC"))}


def _check_identity(objects: dict[str, pydicom.Dataset], report: Report) -> Iterator[Defect]:
    """UIDs derive from the report's work key: an object of another result, or of another series, is found out."""
    kinds = {number: kind for kind, number in SERIES_NUMBERS.items()}
    study, key = report.source.study_instance_uid, report.work_key
    telling = telling_key(key, report.since.model_dump() if report.since else None)
    numbers = Counter(dataset.get("SeriesNumber") for dataset in objects.values())
    for name, dataset in objects.items():
        if dataset.get("StudyInstanceUID") != study:
            yield Defect("wrong-identity", f"it belongs to study {dataset.get('StudyInstanceUID')}", name)
        possible = OBJECTS.get(kinds.get(dataset.get("SeriesNumber"), ""), ())
        series = {object_uids(key, kind)["series_instance_uid"]: kind for kind in possible}
        kind = series.get(dataset.SeriesInstanceUID)
        if not possible:
            yield Defect("wrong-identity", f"series number {dataset.get('SeriesNumber')} is none of covct's", name)
        elif kind is None:
            yield Defect("wrong-identity", "its Series Instance UID is not that of the report's work key", name)
        elif dataset.SOPInstanceUID not in {
            instance_uid(telling if kind in ("sr", "pdf") else key, kind, number)
            for number in {*range(1, numbers[dataset.SeriesNumber] + 1), int(dataset.get("InstanceNumber") or 1)}
        }:
            yield Defect("wrong-identity", "its SOP Instance UID is not that of the report's work key", name)


def _check_template(dataset: pydicom.Dataset) -> Iterator[Defect]:
    if dataset.get("Modality") != "SR":
        return
    templates = [item.get("TemplateIdentifier") for item in dataset.get("ContentTemplateSequence") or []]
    if templates != [MEASUREMENT_REPORT]:
        yield Defect("wrong-template", f"template {templates}, wanted TID {MEASUREMENT_REPORT}")


def _check_references(objects: dict[str, pydicom.Dataset], report: Report | None) -> Iterator[Defect]:
    """Every instance that an object names is in the result or in its source; every segment in the SEG it names."""
    own = {str(dataset.SOPInstanceUID): dataset for dataset in objects.values()}
    source = _source_instances(objects.values(), report)
    for name, dataset in objects.items():
        named = list(_referenced(dataset))
        if strange := sorted({uid for uid, _, _ in named} - set(own) - source):
            yield Defect("dangling-reference", f"{len(strange)} instances are unknown, first {strange[0]}", name)
        if moved := sorted({u for u, s, _ in named if s and u in own and own[u].SeriesInstanceUID != s}):
            yield Defect("dangling-reference", f"{moved[0]} is not in the series it is said to be in", name)
        for uid, _, segments in named:
            if segments and uid in own:
                there = {s.get("SegmentNumber") for s in own[uid].get("SegmentSequence") or []}
                if absent := set(segments) - there:
                    yield Defect("dangling-reference", f"segment {min(absent)} is not in {uid}", name)


def _source_instances(objects: Iterable[pydicom.Dataset], report: Report | None) -> set[str]:
    """SOP Instance UIDs of the source: as the SEG lists them; without a SEG, as the others' evidence does, and the PDF
    by itself."""
    every = list(objects)
    if segs := [dataset for dataset in every if is_seg(dataset)]:
        return {uid for dataset in segs for uid, series, _ in _referenced(dataset) if series}
    wanted = report.source.series_instance_uid if report else None
    listed = {
        uid for dataset in every for uid, series, _ in _referenced(dataset) if series and wanted in (None, series)
    }
    return listed | {str(o.ReferencedSOPInstanceUID) for d in every for o in d.get("SourceInstanceSequence") or []}


def _referenced(
    dataset: pydicom.Dataset, series: str | None = None
) -> Iterator[tuple[str, str | None, tuple[int, ...]]]:
    """Every Referenced SOP Instance UID, with the series it is listed under, if any, and referenced segments."""
    uid = dataset.get("ReferencedSOPInstanceUID")
    if uid:
        segments = tuple(n for n in numbers(dataset.get("ReferencedSegmentNumber")) if n is not None)
        yield str(uid), series, segments
    for element in dataset:
        if element.VR == "SQ" and element.keyword not in NOT_EVIDENCE:
            listed = element.keyword in ("ReferencedInstanceSequence", "ReferencedSOPSequence")
            under = str(dataset.SeriesInstanceUID) if listed and "SeriesInstanceUID" in dataset else None
            for item in element.value:
                yield from _referenced(item, under)
