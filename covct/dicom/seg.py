"""DICOM Segmentation of the lungs and the infection, on the source's own slices."""

from __future__ import annotations

import copy
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import highdicom as hd
import numpy as np
import pydicom
from pydicom.dataelem import DataElement
from pydicom.uid import UID, ExplicitVRLittleEndian, RLELossless, generate_uid

from covct import RESEARCH_USE, __version__
from covct.dicom.colour import cielab
from covct.dicom.evidence import (
    SERIES_NUMBERS,
    Making,
    algorithm,
    code,
    contributing_equipment,
    encodable,
    equipment,
    finish,
    object_uids,
)
from covct.dicom.run_lengths import run_lengths
from covct.outputs import Outputs
from covct.terms import LABELMAP_SEGMENTS, LEFT_LUNG, LOBE_SEGMENTS, LOBES, RIGHT_LUNG, SEGMENTS, Segment
from covct.voxels.labels import Labels
from covct.voxels.volume import Masks, Probability, Scan

TYPE_MODIFIERS = "SegmentedPropertyTypeModifierCodeSequence"
REGION_MODIFIERS = "AnatomicRegionModifierSequence"
PIXEL_DATA, ITEM, END_OF_ITEMS = b"\xe0\x7f\x10\x00", b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
UNDEFINED_LENGTH = 0xFFFFFFFF


@dataclass(frozen=True)
class Content:
    """What the frames of a segmentation hold.

    Attributes
    ----------
    segments : tuple of Segment
    syntax : UID
        Transfer syntax: native one bit a pixel, or RLE of one byte a pixel.
    layers : tuple of function (int) -> (rows, columns) uint8
        One for each segment, or a single one for a label map: a slice in working orientation as it is stored.
    overlap : str
        Segments Overlap (0062,0013).
    """

    segments: tuple[Segment, ...]
    syntax: UID
    layers: tuple[Callable[[int], np.ndarray], ...]
    overlap: str


def write_seg(
    path: Path,
    scan: Scan,
    masks: Masks,
    key: str,
    networks: dict[str, Any],
    outputs: Outputs,
    making: Making,
    reader: str = "",
) -> None:
    """Write a segmentation with right lung, left lung and infection; as overlapping masks also with lobes, if any.

    Parameters
    ----------
    scan : Scan
        With its source headers.
    key : str
        Work key: all UIDs derive from it, so that a redo sends a PACS the same object.
    networks : dict
        As the report has them: by task `threshold` and `sha256` of the weights; with lobes that of their atlas.
    outputs : Outputs
        Its `seg_type`: "binary" has a mask a segment, which overlap, as infection lies in a lung; "labelmap" one label
        a voxel (RLE, a tenth of the size; fewer viewers show it); "fractional" the networks' probabilities.
    reader : str
        Who corrected the masks, as a person's name; empty: nobody did. What a reader corrected is SEMIAUTOMATIC.

    Notes
    -----
    An empty mask is written too: that a lung is clean is a finding (PS3.3 A.51; frames without pixels are kept
    when all are empty).
    """
    content = CONTENTS[outputs.seg_type](masks)
    held = np.stack([_held(scan, layer) for layer in content.layers], axis=-1)
    sources = _sources_of_one_pixel(scan, key)
    with warnings.catch_warnings():  # highdicom warns of odd person names, and quotes them: no names in logs
        warnings.simplefilter("ignore", UserWarning)
        segmentation = hd.seg.Segmentation(
            source_images=sources,
            pixel_array=_one_pixel_a_slice(held, outputs.seg_type),
            segmentation_type=outputs.seg_type.upper(),
            segment_descriptions=[
                _description(segment, key, networks, outputs.seg_type, reader) for segment in content.segments
            ],
            series_number=SERIES_NUMBERS["seg"],
            instance_number=1,
            content_description=RESEARCH_USE,
            transfer_syntax_uid=ExplicitVRLittleEndian,
            omit_empty_frames=not outputs.all_frames and bool(held.any()),
            contributing_equipment=contributing_equipment(),
            **_made_by(reader),
            **object_uids(key, "seg"),
            **equipment(),
        )
    places = _places(segmentation, sources, len(content.layers))
    if scan.frames:
        _renumber(segmentation, scan.frames)
    finish(segmentation, scan.headers[0], key, making)
    segmentation.file_meta.TransferSyntaxUID = content.syntax
    segmentation.SegmentsOverlap = content.overlap
    segmentation.DimensionOrganizationType = "3D"  # parallel planes (PS3.3 C.7.6.17)
    segmentation.Rows, segmentation.Columns = scan.volume.shape[1:]
    del segmentation.PixelData
    segmentation.save_as(path)
    frames = (
        frame for layer, wanted in zip(content.layers, places, strict=True) for frame in _frames(scan, layer, wanted)
    )
    _append_pixels(path, frames, sum(map(len, places)), content.syntax)


def _made_by(reader: str) -> dict[str, str]:
    """How it is labelled and who made it, as highdicom's arguments."""
    return {
        "content_label": "CORRECTED" if reader else "COVCT",
        "content_creator_name": reader or "covct^",
        "series_description": "covct lungs, opacity, corrected by a reader (research use only)"
        if reader
        else f"covct {__version__} lungs, opacity (research use only)",
    }


def _sources_of_one_pixel(scan: Scan, key: str) -> list[pydicom.Dataset]:
    """The headers to encode against, as if each slice had one pixel (see `_one_pixel_a_slice`)."""
    sources = encodable(scan.headers, key, float(scan.volume.spacing[0]))
    if scan.frames:
        sources = [_of_frames(sources[0], scan.frames)]
    for source in sources:
        for keyword in ("Rows", "Columns"):  # a new element: setting the value would change the scan's own header
            source[keyword] = DataElement(keyword, "US", 1)
    return sources


def _places(segmentation: pydicom.Dataset, sources: list[pydicom.Dataset], layers: int) -> list[list[int]]:
    """The source slice of each frame, layer by layer: highdicom orders them by x, then y, then z."""
    index_of = {source.SOPInstanceUID: index for index, source in enumerate(sources)}
    places: list[list[int]] = [[] for _ in range(layers)]
    for groups in segmentation.PerFrameFunctionalGroupsSequence:
        source = groups.DerivationImageSequence[0].SourceImageSequence[0]
        frame = source.get("ReferencedFrameNumber")
        index = index_of[source.ReferencedSOPInstanceUID] if frame is None else int(frame) - 1
        segment = groups.get("SegmentIdentificationSequence")
        places[int(segment[0].ReferencedSegmentNumber) - 1 if segment else 0].append(index)
    return places


def _frames(scan: Scan, layer: Callable[[int], np.ndarray], wanted: list[int]) -> Iterator[np.ndarray]:
    """A layer's pixels on the source slices wanted, (rows, columns) uint8 each, in their order."""
    count, backwards = scan.volume.shape[0], wanted[:1] > wanted[-1:]
    order = reversed(range(count)) if backwards else range(count)
    kept = set(wanted)
    planes = (
        (index, plane)
        for index, plane in zip(order, scan.planes_of_source(layer, backwards=backwards), strict=True)
        if index in kept
    )
    if wanted == sorted(wanted, reverse=backwards):
        yield from (plane for _, plane in planes)
        return
    # Slices that are shifted sideways against one another: in the file they go to and fro.
    shelf = {index: zlib.compress(plane.tobytes(), 1) for index, plane in planes}
    for index in wanted:
        yield np.frombuffer(zlib.decompress(shelf[index]), np.uint8).reshape(scan.volume.shape[1:])


def _held(scan: Scan, layer: Callable[[int], np.ndarray]) -> np.ndarray:
    """(slices,) bool: which slices of the source a layer holds something on."""
    return np.array([plane.any() for plane in scan.planes_of_source(layer)])


def _one_pixel_a_slice(held: np.ndarray, seg_type: str) -> np.ndarray:
    """A segmentation of one pixel a slice, for highdicom to make everything of but the pixels.

    It would want all of them at once, with segments side by side, and eight bytes for each to find whether they
    overlap: 10 GiB for 1500 slices of 768 x 768. One pixel says as well which frames there are.
    """
    pixels = held[:, None, None, :].astype(np.float32 if seg_type == "fractional" else np.uint8)
    return pixels[..., 0] if seg_type == "labelmap" else pixels


def _append_pixels(path: Path, frames: Iterator[np.ndarray], count: int, syntax: UID) -> None:
    """Pixel Data, the last element of a data set, frame by frame to the end of a file."""
    with open(path, "r+b") as file:
        file.seek(0, 2)
        if syntax == RLELossless:
            _append_encapsulated(file, frames, count)
        else:
            _append_bits(file, frames)


def _append_bits(file: BinaryIO, frames: Iterator[np.ndarray]) -> None:
    """One bit a pixel, frame after frame without a gap (PS3.5 8.1.1), padded to an even length."""
    start = file.tell()
    file.write(PIXEL_DATA + b"OB\0\0" + struct.pack("<L", 0))
    rest, length = np.zeros(0, np.uint8), 0
    for frame in frames:
        pixels = np.concatenate([rest, frame.ravel()])
        whole = len(pixels) // 8 * 8
        length += file.write(np.packbits(pixels[:whole], bitorder="little").tobytes())
        rest = pixels[whole:]
    length += file.write(np.packbits(rest, bitorder="little").tobytes())
    length += file.write(b"\0" * (length % 2))
    file.seek(start + 8)
    file.write(struct.pack("<L", length))


def _append_encapsulated(file: BinaryIO, frames: Iterator[np.ndarray], count: int) -> None:
    """A fragment a frame (PS3.5 A.4), with a Basic Offset Table."""
    file.write(PIXEL_DATA + b"OB\0\0" + struct.pack("<L", UNDEFINED_LENGTH))
    file.write(ITEM + struct.pack("<L", 4 * count))
    table = file.tell()
    file.write(bytes(4 * count))
    start, offsets = file.tell(), []
    for frame in frames:
        offsets.append(file.tell() - start)
        encoded = run_lengths(frame)
        file.write(ITEM + struct.pack("<L", len(encoded)) + encoded)
    file.write(END_OF_ITEMS + struct.pack("<L", 0))
    file.seek(table)
    file.write(struct.pack(f"<{count}L", *offsets))


def _binary(masks: Masks) -> Content:
    """Masks of 0 and 1; infection lies in a lung, and so does a lobe."""
    layers: tuple[Callable[[int], np.ndarray], ...] = (
        lambda index: (masks.lungs[index] == RIGHT_LUNG).view(np.uint8),
        lambda index: (masks.lungs[index] == LEFT_LUNG).view(np.uint8),
        lambda index: masks.infection[index].view(np.uint8),
    )
    infected = any(one.any() for one in masks.infection)
    lobes = masks.lobes
    if lobes is None:
        return Content(SEGMENTS, ExplicitVRLittleEndian, layers, "YES" if infected else "NO")
    of_lobes = (partial(_of_lobe, lobes, lobe.number) for lobe in LOBES)
    return Content((*SEGMENTS, *LOBE_SEGMENTS), ExplicitVRLittleEndian, (*layers, *of_lobes), "YES")


def _of_lobe(lobes: Labels, number: int, index: int) -> np.ndarray:
    mask: np.ndarray = (lobes[index] == number).view(np.uint8)
    return mask


def _labelmap(masks: Masks) -> Content:
    """1, 2 the lungs' healthy voxels, 3, 4 their infected ones."""

    def labels(index: int) -> np.ndarray:
        lungs = masks.lungs[index]
        return lungs + np.uint8(2) * (masks.infection[index] & (lungs > 0))

    return Content(LABELMAP_SEGMENTS, RLELossless, (labels,), "NO")


def _fractional(masks: Masks) -> Content:
    """Probability within what was called, and for infection in all of the lungs; 255 is 1."""

    def stored(index: int, probability: Probability, label: int | None) -> np.ndarray:
        lungs = masks.lungs[index]
        inside = lungs > 0 if label is None else lungs == label
        if not inside.any():
            return np.zeros(lungs.shape, np.uint8)
        shares = np.clip(probability.on_slice(index, lungs.shape) * inside, 0, 1)
        fractions: np.ndarray = np.around(shares * 255.0).astype(np.uint8)
        return fractions

    layers = (
        partial(stored, probability=masks.lung_probability, label=RIGHT_LUNG),
        partial(stored, probability=masks.lung_probability, label=LEFT_LUNG),
        partial(stored, probability=masks.infection_probability, label=None),
    )
    return Content(SEGMENTS, RLELossless, layers, "UNDEFINED")


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


def _description(
    segment: Segment, key: str, networks: dict[str, Any], seg_type: str, reader: str = ""
) -> hd.seg.SegmentDescription:
    drawn_by = hd.seg.SegmentAlgorithmTypeValues
    description = hd.seg.SegmentDescription(
        segment_number=segment.number,
        segment_label=segment.label,
        segmented_property_category=code(segment.category),
        segmented_property_type=code(segment.type),
        algorithm_type=drawn_by.SEMIAUTOMATIC if reader else drawn_by.AUTOMATIC,
        algorithm_identification=algorithm(segment.task, networks),
        tracking_uid=tracking_uid(key, segment.label),
        tracking_id=f"covct {segment.label}",
        anatomic_regions=[code(segment.region)],
        display_color=hd.color.CIELabColor(*cielab(segment.colour_rgb)),
    )
    if seg_type == "fractional":
        threshold = networks[segment.task]["threshold"]
        description.SegmentDescription = f"Probability; volumes are of what is called, from {threshold:g} on."
    if segment.modifier:
        setattr(description.SegmentedPropertyTypeCodeSequence[0], TYPE_MODIFIERS, [code(segment.modifier)])
    if segment.side:
        setattr(description.AnatomicRegionSequence[0], REGION_MODIFIERS, [code(segment.side)])
    return description


def tracking_uid(key: str, label: str) -> str:
    """Tracking UID (0062,0021) of a finding: the same in the SEG and in the SR."""
    uid: str = generate_uid(entropy_srcs=[key, label])
    return uid
