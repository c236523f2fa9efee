"""DICOM Structured Report (TID 1500) of the report's figures, pointing at the segments of the DICOM SEG."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import highdicom as hd
import pydicom
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.uid import SegmentationStorage

from covct import __version__
from covct.dicom.evidence import (
    LABEL_MAP_STORAGE,
    MANUFACTURER,
    SERIES_NUMBERS,
    Making,
    code,
    contributing_equipment,
    device_observer,
    equipment,
    finish,
    identified,
    object_uids,
    separate_items,
    telling_uids,
)
from covct.dicom.requested import not_told, procedures, requests
from covct.dicom.seg import tracking_uid
from covct.dicom.sentences import remarks, why_withheld
from covct.dicom.sr_groups import Group, Measured, groups_of
from covct.dicom.sr_regions import Place, image_region, library, places
from covct.outputs import Outputs
from covct.terms import (
    ARTIFICIAL_INTELLIGENCE,
    BILATERAL,
    LUNG,
    MEASUREMENTS,
    PRIVATE_SCHEME,
    SEVERITY_CLASSES,
    SEVERITY_NAME,
    WITHHELD,
    CodedTerm,
)
from covct.version import RELEASE
from covct.voxels.volume import Masks, Scan


def write_sr(
    path: Path, scan: Scan, masks: Masks, report: dict[str, Any], key: str, outputs: Outputs, making: Making
) -> None:
    """Write the report's figures as an Imaging Measurement Report (PS3.16 TID 1500; Comprehensive 3D SR).

    Parameters
    ----------
    scan : Scan
        With its source headers.
    masks : Masks
        Their outlines are where a viewer is sent to.
    report : dict
        As `build_report` makes it. What it withholds (null) has no value but a reason, never 0.
    key : str
        Work key: all UIDs derive from it, and so does the SEG's, which the document points at.
    outputs : Outputs
        Its `seg_type` decides which segments there are.

    Notes
    -----
    Comprehensive 3D SR is the class that IHE AI Results asks for. dciodvfy (2026-09) complains of the segment number in
    a reference to a label map, whose storage class its rule does not list yet.
    """
    sources = identified(scan.headers)
    groups = groups_of(report, outputs)
    found = places(scan, masks, groups)
    with warnings.catch_warnings():  # highdicom warns of odd person names, and quotes them: no names in logs
        warnings.simplefilter("ignore", UserWarning)
        document = hd.sr.Comprehensive3DSR(
            evidence=[*sources, _segmentation(sources[0], key, outputs), *_prior(report)],
            content=_content(scan, sources[0], report, key, outputs, making, groups, found),
            series_number=SERIES_NUMBERS["sr"],
            instance_number=1,
            is_complete=all(report["valid_for"].values()),
            series_description=f"covct {__version__} measurements (research use only)",
            contributing_equipment=contributing_equipment(),
            coding_schemes=[
                CodingSchemeIdentificationItem(
                    designator=PRIVATE_SCHEME, name="covct", version=RELEASE, responsible_organization=MANUFACTURER
                )
            ],
            **telling_uids(key, "sr", report),
            **equipment(),
        )
    _complete(document, sources[0], report)
    finish(document, scan.headers[0], key, making.of_comparison)
    document.save_as(path)


def _content(
    scan: Scan,
    source: pydicom.Dataset,
    report: dict[str, Any],
    key: str,
    outputs: Outputs,
    making: Making,
    groups: list[Group],
    found: dict[str, Place],
) -> hd.sr.MeasurementReport:
    """The document's tree: each group, followed by the regions on slices of those that have one."""
    algorithm = _algorithm(report["networks"])
    encoded = [_encoded(group, source, report, key, outputs, algorithm) for group in groups]
    encoded[0][0].ContentSequence.extend(_text(name, told) for name, told in remarks(report, not_told(source)))
    regions = [_planar(group, scan, found[group.label], key) for group in groups]
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=device_observer(making)),
        procedure_reported=[code(one) for one in procedures(source)],
        imaging_measurements=[*encoded, *regions],
    )
    root = content[0].ContentSequence
    at = next(i for i, item in enumerate(root) if item.ConceptNameCodeSequence[0].CodeValue == MEASUREMENTS.value)
    root.insert(at, library(scan, source, {index for index, _ in found.values()}))
    separate_items(content[0])
    return content


def _complete(document: pydicom.Dataset, source: pydicom.Dataset, report: dict[str, Any]) -> None:
    """What the library has no argument for: absent values (it can neither write nor read them), and why some are."""
    for item in _numbers(document):
        if "NumericValueQualifierCodeSequence" in item:
            item.MeasuredValueSequence = []
    denied = [name for name, valid in report["valid_for"].items() if not valid]
    if denied:
        document.CompletionFlagDescription = f"Withheld: {', '.join(denied)}"
    if requested := requests(source):
        document.ReferencedRequestSequence = requested


def _numbers(item: pydicom.Dataset) -> Iterator[pydicom.Dataset]:
    if item.get("ValueType") == "NUM":
        yield item
    for inner in item.get("ContentSequence", []):
        yield from _numbers(inner)


def _encoded(
    group: Group,
    source: pydicom.Dataset,
    report: dict[str, Any],
    key: str,
    outputs: Outputs,
    algorithm: hd.sr.AlgorithmIdentification,
) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    """A group as TID 1411 with its segment, or as TID 1501 where it has none."""
    template: Any = hd.sr.MeasurementsAndQualitativeEvaluations
    arguments: dict[str, Any] = {}
    if group.segment is not None:
        template = hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations
        segmentation = _segmentation(source, key, outputs)
        arguments["referenced_segment"] = hd.sr.ReferencedSegment(
            sop_class_uid=segmentation.SOPClassUID,
            sop_instance_uid=segmentation.SOPInstanceUID,
            segment_number=group.segment,
            source_series=hd.sr.SourceSeriesForSegmentation(source.SeriesInstanceUID),
        )
    both_lungs = group.finding == LUNG and group.side == BILATERAL and not group.third
    if both_lungs and (number := report["severity"]["class"]) is not None:
        arguments["qualitative_evaluations"] = [
            hd.sr.QualitativeEvaluation(code(SEVERITY_NAME), code(SEVERITY_CLASSES[number]))
        ]
    encoded = template(
        **_finding(group, key),
        algorithm_id=algorithm,
        measurements=[_measurement(one) for one in group.measured],
        **arguments,
    )
    withheld = why_withheld(report)
    if withheld and any(one.withheld for one in group.measured):
        encoded[0].ContentSequence.append(_text(WITHHELD, withheld))
    return encoded


def _planar(group: Group, scan: Scan, place: Place, key: str) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    """The same finding on a slice (TID 1410): TID 1411 takes either a segment or a region, and viewers want one."""
    return hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        **_finding(group, key), referenced_region=image_region(scan, place)
    )


def _finding(group: Group, key: str) -> dict[str, Any]:
    """What a group is of, as arguments of its template."""
    return {
        "tracking_identifier": hd.sr.TrackingIdentifier(tracking_uid(key, group.label), f"covct {group.label}"),
        "finding_category": code(group.category),
        "finding_type": code(group.finding),
        "finding_sites": [
            hd.sr.FindingSite(
                code(group.site),
                code(group.side) if group.side else None,
                code(group.third) if group.third else None,
            )
        ],
    }


def _measurement(measured: Measured) -> hd.sr.Measurement:
    """A figure (TID 300) with how it was derived or measured, and its interval."""
    figure, value = measured.figure, measured.value
    return hd.sr.Measurement(
        name=code(measured.name),
        value=float(value or 0),
        unit=code(figure.unit.code),
        derivation=code(figure.derivation) if figure.derivation else None,
        method=None if figure.derivation else code(measured.method),
        properties=_uncertainty(measured, measured.reach) if measured.reach else None,
        qualifier=code(measured.why_absent) if value is None else None,  # `_complete` takes the value away
    )


def _uncertainty(measured: Measured, reach: tuple[float, float]) -> hd.sr.MeasurementProperties:
    """How far the ends of an interval lie from the value (TID 310, CID 225), in its unit: the library has none."""
    upper, lower = reach
    properties = hd.sr.MeasurementProperties(upper_measurement_uncertainty=upper, lower_measurement_uncertainty=lower)
    for item in properties:
        item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence = [code(measured.figure.unit.code)]
    return properties


def _text(name: CodedTerm, value: str) -> hd.sr.TextContentItem:
    return hd.sr.TextContentItem(code(name), value, hd.sr.RelationshipTypeValues.CONTAINS)


def _algorithm(networks: dict[str, Any]) -> hd.sr.AlgorithmIdentification:
    """covct with all its networks (TID 4019): a lung's figures are of its opacity too, and the other way round."""
    return hd.sr.AlgorithmIdentification(
        name="covct",
        version=__version__,
        manufacturer=MANUFACTURER,
        family=code(ARTIFICIAL_INTELLIGENCE),
        parameters=[
            f"{task}: {card['name']}, threshold {card['threshold']:g}, weights sha256 {card['sha256']}"
            for task, card in networks.items()
            if isinstance(card, dict)
        ],
    )


def _segmentation(source: pydicom.Dataset, key: str, outputs: Outputs) -> pydicom.Dataset:
    """What identifies the SEG of this work, known from the key before it is read."""
    uids = object_uids(key, "seg")
    header = pydicom.Dataset()
    header.SOPClassUID = LABEL_MAP_STORAGE if outputs.seg_type == "labelmap" else SegmentationStorage
    header.SOPInstanceUID = uids["sop_instance_uid"]
    header.SeriesInstanceUID = uids["series_instance_uid"]
    header.StudyInstanceUID = source.StudyInstanceUID
    return header


def _prior(report: dict[str, Any]) -> list[pydicom.Dataset]:
    """The SEG of the earlier result that this one is compared with: other pertinent evidence (PS3.3 C.17.2.3)."""
    comparison = (report.get("since") or {}).get("comparison")
    masks = comparison["prior"]["masks"] if comparison else None
    if not comparison or not masks:
        return []
    header = pydicom.Dataset()
    header.SOPClassUID, header.SOPInstanceUID = masks["sop_class_uid"], masks["sop_instance_uid"]
    header.SeriesInstanceUID = masks["series_instance_uid"]
    header.StudyInstanceUID = comparison["prior"]["study_instance_uid"]
    return [header]
