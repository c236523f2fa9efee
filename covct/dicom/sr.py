"""DICOM Structured Report (TID 1500) of the report's figures, pointing at the segments of the DICOM SEG."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highdicom as hd
import pydicom
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.uid import SegmentationStorage

from covct import RESEARCH_USE, __version__
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
)
from covct.dicom.seg import tracking_uid
from covct.outputs import Outputs
from covct.terms import (
    ANATOMICAL_STRUCTURE,
    ARTIFICIAL_INTELLIGENCE,
    BILATERAL,
    COMMENT,
    CT_CHEST,
    FIGURES,
    LABELMAP_SEGMENTS,
    LEFT,
    LUNG,
    PRIVATE_SCHEME,
    RIGHT,
    SEGMENTS,
    SEVERITY_CLASSES,
    SEVERITY_NAME,
    VALID_FOR,
    WARNING,
    WITHHELD,
    CodedTerm,
    Figure,
    Segment,
)
from covct.version import RELEASE
from covct.voxels.volume import Scan

REGION_OF = {RIGHT: "right_lung", LEFT: "left_lung", BILATERAL: "lungs", None: "lungs"}


@dataclass(frozen=True)
class Measured:
    """A figure of the report under the name that it has in a group; without a value it is left out of the document."""

    figure: Figure
    name: CodedTerm
    value: float | None


@dataclass(frozen=True)
class Group:
    """What is measured together.

    Attributes
    ----------
    label : str
        Names the tracking identifier, as in the SEG.
    category, finding : CodedTerm
    side : CodedTerm or None
        None: of infection wherever it lies, which may be one side only.
    measured : tuple of Measured
    segment : int or None
        Its number in the SEG; None where the region is no single segment.
    """

    label: str
    category: CodedTerm
    finding: CodedTerm
    side: CodedTerm | None
    measured: tuple[Measured, ...]
    segment: int | None = None


def write_sr(path: Path, scan: Scan, report: dict[str, Any], key: str, outputs: Outputs, making: Making) -> None:
    """Write the report's figures as an Imaging Measurement Report (PS3.16 TID 1500; Comprehensive 3D SR).

    Parameters
    ----------
    scan : Scan
        With its source headers.
    report : dict
        As `build_report` makes it. What it withholds (null) is left out, never 0, and each group says so in words.
    key : str
        Work key: all UIDs derive from it, and so does the SEG's, which the document points at.
    outputs : Outputs
        Its `seg_type` decides which segments there are.

    Notes
    -----
    Comprehensive 3D SR is the class that IHE AI Results asks for. There is no image library (TID 1600): the evidence
    lists the source instances, and their descriptors stand in the images themselves. dciodvfy (2026-09) complains
    of the segment number in a reference to a label map, whose storage class its rule does not list yet.
    """
    sources = identified(scan.headers)
    algorithm = _algorithm(report["networks"])
    context = hd.sr.ObservationContext(observer_device_context=device_observer(making))
    groups = [_encoded(group, sources[0], report, key, outputs, algorithm) for group in _groups(report, outputs)]
    groups[0][0].ContentSequence.extend(_remarks(report))
    content = hd.sr.MeasurementReport(
        observation_context=context, procedure_reported=code(CT_CHEST), imaging_measurements=groups
    )
    separate_items(content[0])
    with warnings.catch_warnings():  # highdicom warns of odd person names, and quotes them: no names in logs
        warnings.simplefilter("ignore", UserWarning)
        document = hd.sr.Comprehensive3DSR(
            evidence=[*sources, _segmentation(sources[0], key, outputs)],
            content=content,
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
            **object_uids(key, "sr"),
            **equipment(),
        )
    finish(document, scan.headers[0], key, making)
    document.save_as(path)


def _groups(report: dict[str, Any], outputs: Outputs) -> list[Group]:
    """Both lungs first, then the segments. Of a label map each lung is two segments: it gets a group of its own."""
    regions = report["regions"]
    split = outputs.seg_type == "labelmap"
    lungs = {"Both lungs": BILATERAL, **({"Right lung": RIGHT, "Left lung": LEFT} if split else {})}
    segments = LABELMAP_SEGMENTS if split else SEGMENTS
    return [
        *(_of_lung(label, side, regions[REGION_OF[side]]) for label, side in lungs.items()),
        *(_of_segment(segment, regions, split) for segment in segments),
    ]


def _of_lung(label: str, side: CodedTerm | None, region: dict[str, Any], segment: int | None = None) -> Group:
    measured = tuple(Measured(one, one.of_lung, region[one.name]) for one in FIGURES if one.of_lung)
    return Group(label, ANATOMICAL_STRUCTURE, LUNG, side, measured, segment)


def _of_segment(segment: Segment, regions: dict[str, Any], split: bool) -> Group:
    side = segment.side
    region = regions[REGION_OF[side]]
    if segment.task == "lungs" and not split:
        return _of_lung(segment.label, side, region, segment.number)
    if segment.task == "lungs":
        measured = _outside_infection(region)
    else:
        measured = tuple(Measured(one, one.of_infection, region[one.name]) for one in FIGURES if one.of_infection)
    return Group(segment.label, segment.category, segment.type, side, measured, segment.number)


def _outside_infection(region: dict[str, Any]) -> tuple[Measured, ...]:
    """The volume of a label map's lung segment: what is infected lies in another one."""
    [(figure, name)] = [(one, one.of_lung) for one in FIGURES if one.name == "volume_ml" and one.of_lung]
    whole, infected = region["volume_ml"], region["infection_ml"]
    return (Measured(figure, name, None if whole is None else round(whole - infected, figure.digits)),)


def _encoded(
    group: Group,
    source: pydicom.Dataset,
    report: dict[str, Any],
    key: str,
    outputs: Outputs,
    algorithm: hd.sr.AlgorithmIdentification,
) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    """A group as TID 1411 with its segment, or as TID 1501 where it has none."""
    template = hd.sr.MeasurementsAndQualitativeEvaluations
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
    number = report["severity"]["class"] if group.side == BILATERAL else None
    if number is not None:
        arguments["qualitative_evaluations"] = [
            hd.sr.QualitativeEvaluation(code(SEVERITY_NAME), code(SEVERITY_CLASSES[number]))
        ]
    encoded = template(
        tracking_identifier=hd.sr.TrackingIdentifier(tracking_uid(key, group.label), f"covct {group.label}"),
        finding_category=code(group.category),
        finding_type=code(group.finding),
        finding_sites=[hd.sr.FindingSite(code(LUNG), code(group.side) if group.side else None)],
        algorithm_id=algorithm,
        measurements=[_measurement(one) for one in group.measured if one.value is not None],
        **arguments,
    )
    withheld = [VALID_FOR[name] for name, valid in report["valid_for"].items() if not valid]
    if withheld:
        text = f"The input does not allow: {'; '.join(withheld)}. What is missing here was withheld, it is not 0."
        encoded[0].ContentSequence.append(_text(WITHHELD, text))
    return encoded


def _measurement(measured: Measured) -> hd.sr.Measurement:
    derivation = measured.figure.derivation
    return hd.sr.Measurement(
        name=code(measured.name),
        value=float(measured.value or 0),
        unit=code(measured.figure.unit.code),
        derivation=code(derivation) if derivation else None,
    )


def _remarks(report: dict[str, Any]) -> list[hd.sr.TextContentItem]:
    """What a reader must know, as texts of the first group: research use, and the report's warnings."""
    return [
        _text(COMMENT, RESEARCH_USE),
        *(_text(WARNING, f"{warned['slug']}: {warned['message']}") for warned in report["warnings"]),
    ]


def _text(name: CodedTerm, value: str) -> hd.sr.TextContentItem:
    return hd.sr.TextContentItem(code(name), value, hd.sr.RelationshipTypeValues.CONTAINS)


def _algorithm(networks: dict[str, Any]) -> hd.sr.AlgorithmIdentification:
    """covct with all its networks (TID 4019): a lung's figures are of its infection too, and the other way round."""
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
