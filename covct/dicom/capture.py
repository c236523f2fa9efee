"""DICOM secondary capture: slices in colour with outlines and figures burned in, for a PACS that cannot show SEG.

A series of single-frame instances (Secondary Capture Image Storage) in RGB: the form that the least of viewers shows.
Multi-frame True Color would be one file; but archives too old for SEG seldom know that class, and viewers that draw it
often pass over the geometry in its functional groups, which costs reference lines and synchronised scrolling. A single
frame has position, orientation and spacing where a CT slice has them, and dciodvfy takes them there.

Compressed as RLE: twelve key slices of a 512 x 512 CT take 7.8 MB for 12.6. Others save more (JPEG lossless 5.9 MB,
JPEG-LS 4.2, JPEG 2000 2.1), but RLE every toolkit reads by itself: Aeskulap, a plain viewer with the codecs of DCMTK,
shows it and no JPEG-LS, DCMTK as it is free reads no JPEG 2000, and pydicom asks for further packages for all three.
It has no transform of colours, which is where viewers of compressed ones go wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import cv2
import highdicom as hd
import numpy as np
import pydicom
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, RLELossless
from pydicom.valuerep import DSfloat

from covct import RESEARCH_USE, __version__
from covct.dicom.evidence import (
    SERIES_NUMBERS,
    Making,
    code,
    contributing_equipment,
    encodable,
    equipment,
    finish,
    instance_uid,
    object_uids,
)
from covct.dicom.orientation import snapped
from covct.dicom.run_lengths import run_lengths
from covct.dicom.sentences import score_of_lobes
from covct.outputs import Outputs
from covct.terms import SOURCE_IMAGE
from covct.visible import share
from covct.voxels.overlay import (
    BACKGROUND,
    INFECTION_RGB,
    LEFT_LUNG_RGB,
    LUNG_WINDOW_HU,
    NOTICE,
    RIGHT_LUNG_RGB,
    TEXT,
    Colour,
    choose_slices,
    paint,
    put_text,
    text_width,
)
from covct.voxels.volume import Masks, Scan

LEAST_COLUMNS = 400  # narrower slices are enlarged: the notice shall be legible on them
COLUMNS_A_CAPITAL = 46  # capitals of 11 pixels on 512 columns: the notice then fits between the side markers
MOST_WARNING_LINES = 6
LEGEND = (("right lung", RIGHT_LUNG_RGB), ("left lung", LEFT_LUNG_RGB), ("opacity", INFECTION_RGB))
WITHHELD = "withheld: they do not hold for this scan"

Line = tuple[str, Colour]


@dataclass(frozen=True)
class Sheet:
    """What all pictures of a series share.

    Attributes
    ----------
    rows, columns : int
        Pixels that a slice is drawn on.
    capitals : int
        Height of capital letters, pixels.
    header, footer : (rows, columns, 3) uint8
        Bands above and below the slice, so that no word covers anatomy.
    """

    rows: int
    columns: int
    capitals: int
    header: np.ndarray
    footer: np.ndarray


def captures(
    scan: Scan, masks: Masks, report: dict[str, Any], key: str, outputs: Outputs, making: Making
) -> Iterator[pydicom.Dataset]:
    """Secondary captures of a result, one at a time: a series of 1500 slices is never in memory in colour.

    Parameters
    ----------
    scan : Scan
        With its source headers.
    report : dict
        Its figures, its warnings and what is withheld are burned in with every slice: a picture gets about alone.
    key : str
        Work key: all UIDs derive from it.
    outputs : Outputs
        Its `captures`: "key" draws about twelve slices over the lungs, the worst among them; "all" every slice.

    Notes
    -----
    Drawn in working orientation (head to feet, anterior up, the patient's right on the image's left) however the
    patient lay, in the source's frame of reference, and where the slices really lie, with the gantry's tilt. Each
    refers to its source slice; a slice reformatted from coronal or sagittal images refers to all of them, since each
    gave it a row or a column of its pixels.
    """
    kind = "sc" if outputs.captures == "key" else "sc-all"
    scan = replace(scan, headers=tuple(encodable(scan.headers, key, float(scan.volume.spacing[0]))))
    volume = scan.working
    sheet = _sheet(volume, report)
    chosen = choose_slices(masks.lungs, masks.infection) if outputs.captures == "key" else range(volume.shape[0])
    for number, index in enumerate(chosen, start=1):
        source = source_slice(scan, index)
        slice_ = _drawn(volume.array[index], masks.lungs[index], masks.infection[index], sheet)
        header = _labelled(sheet, _slice_label(scan, index, source))
        picture = np.concatenate([header, slice_, sheet.footer])
        dataset = _instance(picture, scan, key, kind, number, bool(report["source"]["lossy"]), making)
        _add_plane(dataset, scan, index, source, sheet)
        _add_references(dataset, scan, range(scan.volume.shape[0]) if source is None else (source,))
        yield dataset


def source_slice(scan: Scan, index: int) -> int | None:
    """The source slice that a slice in working orientation is; None where it cuts across the source's slices."""
    along = (np.linalg.inv(scan.volume.affine) @ scan.working.affine)[0]
    return round(along[0] * index + along[3]) if abs(along[0]) > 0.5 else None


def figure_lines(report: dict[str, Any]) -> list[Line]:
    """The report's figures in words, and what of them is withheld."""
    regions, valid = report["regions"], report["valid_for"]
    lungs = regions["lungs"]
    lines: list[Line] = []
    if valid["percent"]:
        names = (("lungs", "lungs"), ("right", "right_lung"), ("left", "left_lung"))
        shares = ", ".join(f"{name} {_percent(regions[region])}" for name, region in names)
        lines.append((f"Share of opacity: {shares}", TEXT))
    else:
        lines.append((f"Percentages {WITHHELD}", NOTICE))
    if valid["volume"]:
        lines.append((f"Opacity {_ml(lungs['infection_ml'])} of {_ml(lungs['volume_ml'])} of lung", TEXT))
    else:
        lines.append((f"Volumes {WITHHELD}", NOTICE))
    if valid["volume"] and valid["hu_bands"]:
        parts = ("ground_glass", "consolidation", "below_bands", "above_bands")
        ground_glass, consolidation, below, above = (lungs[f"{part}_ml"] for part in parts)
        bands = f"Ground glass {_ml(ground_glass)}, consolidation {_ml(consolidation)}, neither {_ml(below + above)}"
        lines.append((bands, TEXT))
    elif not valid["hu_bands"]:
        lines.append((f"Figures by HU {WITHHELD}", NOTICE))
    severity = report["severity"]
    if severity["class"] is not None:
        lines.append((f"{severity['scale']}: class {severity['class']}, {severity['label']}", TEXT))
    if lobes := report.get("lobes"):
        lines.append((f"{lobes['scale']}, approximate: {score_of_lobes(lobes)}", TEXT))
    return lines


def _percent(region: dict[str, Any]) -> str:
    if region["infection_percent"] is None:
        return "no lung found"  # a percentage that is withheld has a line of its own
    return share(region["infection_percent"], region["infection_percent_interval"])


def _ml(value: float) -> str:
    return f"{value:.0f} mL" if value >= 10 else f"{value:.1f} mL"


def _sheet(volume: hd.Volume, report: dict[str, Any]) -> Sheet:
    _, row_mm, column_mm = (float(mm) for mm in volume.spacing)
    rows, columns = drawn_shape((volume.shape[1], volume.shape[2]), (row_mm, column_mm))
    capitals = round(columns / COLUMNS_A_CAPITAL)
    return Sheet(rows, columns, capitals, _header(columns, capitals), _footer(columns, capitals, report))


def drawn_shape(shape: tuple[int, int], spacing_mm: tuple[float, float]) -> tuple[int, int]:
    """Rows and columns to draw a slice on: its own grid, unless that is too coarse for text or not of square pixels."""
    pixel_mm = min(spacing_mm)
    rows, columns = (count * mm / pixel_mm for count, mm in zip(shape, spacing_mm, strict=True))
    enlarged = max(1, math.ceil(LEAST_COLUMNS / columns))
    return round(rows * enlarged), round(columns * enlarged)


def _header(columns: int, capitals: int) -> np.ndarray:
    """Side markers at the ends, between them that this is research; a second line is left for the slice's number."""
    large, margin = round(1.6 * capitals), capitals
    image = _blank(round(5.4 * capitals), columns)
    baseline = margin + large
    put_text(image, "R", margin, baseline, large, TEXT)
    put_text(image, "L", columns - margin - text_width("L", large), baseline, large, TEXT)
    put_text(
        image,
        RESEARCH_USE,
        (columns - text_width(RESEARCH_USE, capitals)) // 2,
        baseline - capitals // 2,
        capitals,
        NOTICE,
    )
    return image


def _labelled(sheet: Sheet, label: str) -> np.ndarray:
    """The header with the slice's number."""
    image = sheet.header.copy()
    x = (sheet.columns - text_width(label, sheet.capitals)) // 2
    put_text(image, label, x, len(image) - sheet.capitals, sheet.capitals, TEXT)
    return image


def _slice_label(scan: Scan, index: int, source: int | None) -> str:
    label = f"slice {index + 1} of {scan.working.shape[0]} from the head"
    if source is None:
        return f"{label}, reformatted"
    if frame := scan.reference(source)[2]:
        return f"{label}, source frame {frame}"
    number = scan.headers[source].get("InstanceNumber")
    return label if number is None else f"{label}, source image {number}"


def _footer(columns: int, capitals: int, report: dict[str, Any]) -> np.ndarray:
    """What the colours mean, the figures, the warnings."""
    width, pitch = columns - 2 * capitals, round(1.8 * capitals)
    lines = [(part, colour) for text, colour in figure_lines(report) for part in wrapped(text, capitals, width)]
    warnings = [part for one in report["warnings"] for part in wrapped(f"! {one['message']}", capitals, width)]
    if len(warnings) > MOST_WARNING_LINES:
        warnings = [*warnings[: MOST_WARNING_LINES - 1], "... and more: see the report"]
    lines += [(part, NOTICE) for part in warnings]
    image = _blank(round(1.2 * capitals) + pitch * (1 + len(lines)), columns)
    x, baseline = capitals, round(2.2 * capitals)
    for name, colour in LEGEND:
        put_text(image, name, x, baseline, capitals, colour)
        x += text_width(name, capitals) + 2 * capitals
    for text, colour in lines:
        baseline += pitch
        put_text(image, text, capitals, baseline, capitals, colour)
    return image


def wrapped(text: str, height: int, width: int) -> list[str]:
    """Lines no wider than `width` pixels, broken between words. ASCII only: fonts of older OpenCV have no more."""
    lines: list[str] = []
    for word in text.replace("°", " degrees").encode("ascii", "replace").decode().split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, height) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _blank(rows: int, columns: int) -> np.ndarray:
    return np.full((rows, columns, 3), BACKGROUND, np.uint8)


def _drawn(hu: np.ndarray, lungs: np.ndarray, infection: np.ndarray, sheet: Sheet) -> np.ndarray:
    """One slice with its outlines: (rows, columns) each -> (sheet.rows, sheet.columns, 3) uint8 RGB."""
    masks = (_fitted(mask, sheet) > 0.5 for mask in (lungs == 1, lungs == 2, infection))
    return paint(_fitted(hu, sheet), *masks)


def _fitted(one: np.ndarray, sheet: Sheet) -> np.ndarray:
    one = np.ascontiguousarray(one, np.float32)
    if one.shape == (sheet.rows, sheet.columns):
        return one
    resized: np.ndarray = cv2.resize(one, (sheet.columns, sheet.rows), interpolation=cv2.INTER_LINEAR)
    return resized


def _instance(
    picture: np.ndarray, scan: Scan, key: str, kind: str, number: int, lossy: bool, making: Making
) -> pydicom.Dataset:
    """A picture (rows, columns, 3) as an instance of the source's study, without its place in the patient."""
    first = scan.headers[0]
    dataset = hd.sc.SCImage(
        pixel_array=picture,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "P"),
        study_instance_uid=first.StudyInstanceUID,
        series_instance_uid=object_uids(key, kind)["series_instance_uid"],
        series_number=SERIES_NUMBERS["sc"],
        series_description=f"covct {__version__} overlay (research use only)",
        sop_instance_uid=instance_uid(key, kind, number),
        instance_number=number,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        contributing_equipment=contributing_equipment(),
        specific_character_set="ISO_IR 192",
        **equipment(),
    )
    dataset.copy_patient_and_study_information(first)  # as the SEG has it; given as arguments odd names would be quoted
    dataset.Modality = first.Modality  # what acquired the data (PS3.3 C.7.3.1.1.1): viewers lay it out with the CT
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    dataset.ConversionType = "WSD"
    dataset.BurnedInAnnotation = "YES"
    low, high = LUNG_WINDOW_HU
    dataset.DerivationDescription = (
        f"Outlines of the lungs and of opacity found by covct {__version__}, with figures, burned into slices in a "
        f"window of {low} to {high} HU. {RESEARCH_USE}"
    )
    dataset.BodyPartExamined = "CHEST"
    dataset.FrameOfReferenceUID = first.FrameOfReferenceUID
    dataset.PositionReferenceIndicator = first.PositionReferenceIndicator
    dataset.LossyImageCompression = "01" if lossy else "00"
    for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        if lossy and first.get(keyword):
            setattr(dataset, keyword, first.get(keyword))
    _compress(dataset, picture)
    finish(dataset, first, key, making)
    return dataset


def _compress(dataset: pydicom.Dataset, picture: np.ndarray) -> None:
    """As RLE, the planes of red, green and blue one after another."""
    dataset.file_meta.TransferSyntaxUID = RLELossless
    dataset.PixelData = encapsulate([run_lengths(*np.moveaxis(picture, -1, 0))])
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True


def _add_plane(dataset: pydicom.Dataset, scan: Scan, index: int, source: int | None, sheet: Sheet) -> None:
    """Position, orientation and spacing of what is drawn, bands included (PS3.3 C.7.6.2).

    Reformatted across slices of a tilted gantry rows and columns are not perpendicular, and DICOM has no words for
    such a plane: it is left out, rather than the patient's points be told wrong.
    """
    affine = scan.working_affine
    _, rows, columns = scan.working.shape
    down, across = affine[:3, 1] * rows / sheet.rows, affine[:3, 2] * columns / sheet.columns
    spacing = float(np.linalg.norm(down)), float(np.linalg.norm(across))
    if abs(down @ across) > 1e-3 * spacing[0] * spacing[1]:
        return
    # The centre of the first pixel of an enlarged slice lies in from that of the slice's own.
    first_row, first_column = (0.5 * rows / sheet.rows - 0.5), (0.5 * columns / sheet.columns - 0.5)
    corner = (affine @ [index, first_row, first_column, 1])[:3] - len(sheet.header) * down
    dataset.PixelSpacing = [_decimal(mm) for mm in spacing]
    dataset.ImageOrientationPatient = [_decimal(v) for v in snapped([*across, *down])]
    dataset.ImagePositionPatient = [_decimal(mm) for mm in corner]
    thickness = scan.headers[0].get("SliceThickness") if source is not None else None
    dataset.SliceThickness = _decimal(thickness or scan.working.spacing[0])


def _decimal(value: float) -> DSfloat:
    """A decimal string of at most 16 characters, without the noise of arithmetic."""
    return DSfloat(round(float(value), 9) + 0.0, auto_format=True)


def _add_references(dataset: pydicom.Dataset, scan: Scan, sources: tuple[int, ...] | range) -> None:
    """Source Image Sequence and Referenced Series Sequence: the slices a picture was drawn from."""
    frames: dict[tuple[str, str], list[int]] = {}
    for source in sources:
        sop_class, uid, frame = scan.reference(source)
        frames.setdefault((sop_class, uid), []).extend([frame] if frame else [])
    dataset.SourceImageSequence = [_reference(*of, numbers) for of, numbers in frames.items()]
    for item in dataset.SourceImageSequence:
        item.PurposeOfReferenceCodeSequence = [code(SOURCE_IMAGE)]
    series = pydicom.Dataset()
    series.SeriesInstanceUID = scan.headers[0].SeriesInstanceUID
    series.ReferencedInstanceSequence = [_reference(*of, []) for of in frames]
    dataset.ReferencedSeriesSequence = [series]


def _reference(sop_class: str, uid: str, frames: list[int]) -> pydicom.Dataset:
    item = pydicom.Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
    if frames:
        item.ReferencedFrameNumber = frames
    return item
