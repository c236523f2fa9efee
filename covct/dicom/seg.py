"""DICOM Segmentation of the lungs and the infection, on the source's own slices."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from pydicom.uid import UID, ExplicitVRLittleEndian, RLELossless, generate_uid

from covct import RESEARCH_USE, __version__
from covct.dicom.evidence import (
    SERIES_NUMBERS,
    algorithm,
    code,
    contributing_equipment,
    encodable,
    equipment,
    finish,
    object_uids,
)
from covct.outputs import Outputs
from covct.terms import LABELMAP_SEGMENTS, LEFT_LUNG, RIGHT_LUNG, SEGMENTS, Segment
from covct.volume import Masks, Scan

TYPE_MODIFIERS = "SegmentedPropertyTypeModifierCodeSequence"
REGION_MODIFIERS = "AnatomicRegionModifierSequence"


def write_seg(path: Path, scan: Scan, masks: Masks, key: str, weights: dict[str, str], outputs: Outputs) -> None:
    """Write a segmentation with right lung, left lung and infection.

    Parameters
    ----------
    scan : Scan
        With its source headers.
    key : str
        Work key: all UIDs derive from it, so that a redo sends a PACS the same object.
    weights : dict of str to str
        sha256 of the weights by task.
    outputs : Outputs
        Its `seg_type`: "binary" has a mask a segment, which overlap, as infection lies in a lung; "labelmap" one label
        a voxel (RLE, a tenth of the size; fewer viewers show it); "fractional" the networks' probabilities.

    Notes
    -----
    An empty mask is written too: that a lung is clean is a finding (PS3.3 A.51; frames without pixels are kept
    when all are empty).
    """
    pixels, segments, syntax = CONTENTS[outputs.seg_type](scan, masks)
    sources = encodable(scan.headers, key, float(scan.volume.spacing[0]))
    if scan.frames:
        sources = [_of_frames(sources[0], scan.frames)]
    with warnings.catch_warnings():  # highdicom warns of odd person names, and quotes them: no names in logs
        warnings.simplefilter("ignore", UserWarning)
        segmentation = hd.seg.Segmentation(
            source_images=sources,
            pixel_array=pixels,
            segmentation_type=outputs.seg_type.upper(),
            segment_descriptions=[_description(segment, key, weights) for segment in segments],
            series_number=SERIES_NUMBERS["seg"],
            instance_number=1,
            content_description=RESEARCH_USE,
            content_label="COVCT",
            content_creator_name="covct^",
            transfer_syntax_uid=syntax,
            omit_empty_frames=not outputs.all_frames and bool(pixels.any()),
            contributing_equipment=contributing_equipment(),
            series_description=f"covct {__version__} lungs, infection (research use only)",
            **object_uids(key, "seg"),
            **equipment(),
        )
    if scan.frames:
        _renumber(segmentation, scan.frames)
    finish(segmentation, scan.headers[0], key)
    segmentation.save_as(path)


def _binary(scan: Scan, masks: Masks) -> tuple[np.ndarray, tuple[Segment, ...], UID]:
    """(slices, rows, columns, segments) uint8 0 or 1, in the order of the source."""
    pixels = np.empty((*scan.volume.shape, len(SEGMENTS)), np.uint8)
    lungs = scan.to_source(masks.lungs).array
    for label in (RIGHT_LUNG, LEFT_LUNG):
        np.equal(lungs, label, out=pixels[..., label - 1], casting="unsafe")
    pixels[..., 2] = scan.to_source(masks.infection).array
    return pixels, SEGMENTS, ExplicitVRLittleEndian


def _labelmap(scan: Scan, masks: Masks) -> tuple[np.ndarray, tuple[Segment, ...], UID]:
    """(slices, rows, columns) uint8: 1, 2 the lungs' healthy voxels, 3, 4 their infected ones."""
    labels = masks.lungs + np.uint8(2) * (masks.infection & (masks.lungs > 0))
    return np.ascontiguousarray(scan.to_source(labels).array), LABELMAP_SEGMENTS, RLELossless


def _fractional(scan: Scan, masks: Masks) -> tuple[np.ndarray, tuple[Segment, ...], UID]:
    """(slices, rows, columns, segments) float32 0..1: probability within what was called, and for infection all."""
    pixels = np.zeros((*masks.lungs.shape, len(SEGMENTS)), np.float32)
    for index, lungs in enumerate(masks.lungs):
        if not lungs.any():
            continue
        lung = masks.lung_probability.on_slice(index, lungs.shape)
        for label in (RIGHT_LUNG, LEFT_LUNG):
            pixels[index, ..., label - 1] = lung * (lungs == label)
        pixels[index, ..., 2] = masks.infection_probability.on_slice(index, lungs.shape) * (lungs > 0)
    parts = [scan.to_source(pixels[..., number]).array for number in range(len(SEGMENTS))]
    return np.clip(np.stack(parts, axis=-1), 0, 1), SEGMENTS, RLELossless


CONTENTS = {"binary": _binary, "labelmap": _labelmap, "fractional": _fractional}


def _of_frames(source: pydicom.Dataset, frames: tuple[int, ...]) -> pydicom.Dataset:
    """A multi-frame header with only these frames, in the order of the volume: highdicom takes no frame twice in place,
    and a stack of several may lie where another does."""
    part = copy.copy(source)
    groups = source.PerFrameFunctionalGroupsSequence
    part.PerFrameFunctionalGroupsSequence = [groups[number - 1] for number in frames]
    part.NumberOfFrames = len(frames)
    return part


def _renumber(segmentation: pydicom.Dataset, frames: tuple[int, ...]) -> None:
    """Make references to the frames of the part that `_of_frames` made refer to those of the source."""
    references = {
        id(reference): reference  # segments of one slice share theirs
        for groups in segmentation.PerFrameFunctionalGroupsSequence
        for derivation in groups.get("DerivationImageSequence", [])
        for reference in derivation.SourceImageSequence
    }
    for reference in references.values():
        numbers = reference.ReferencedFrameNumber
        several = [numbers] if isinstance(numbers, (int, str)) else numbers
        reference.ReferencedFrameNumber = [frames[int(number) - 1] for number in several]


def _description(segment: Segment, key: str, weights: dict[str, str]) -> hd.seg.SegmentDescription:
    description = hd.seg.SegmentDescription(
        segment_number=segment.number,
        segment_label=segment.label,
        segmented_property_category=code(segment.category),
        segmented_property_type=code(segment.type),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm("infection" if segment.region else "lungs", weights),
        tracking_uid=tracking_uid(key, segment.label),
        tracking_id=f"covct {segment.label}",
        anatomic_regions=[code(segment.region)] if segment.region else None,
        display_color=hd.color.CIELabColor.from_rgb(*segment.colour_rgb),
    )
    if segment.modifier:
        setattr(description.SegmentedPropertyTypeCodeSequence[0], TYPE_MODIFIERS, [code(segment.modifier)])
    if segment.side:
        setattr(description.AnatomicRegionSequence[0], REGION_MODIFIERS, [code(segment.side)])
    return description


def tracking_uid(key: str, label: str) -> str:
    """Tracking UID (0062,0021) of a finding: the same in the SEG and in the SR."""
    return generate_uid(entropy_srcs=[key, label])
