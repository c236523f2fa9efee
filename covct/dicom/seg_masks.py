"""A DICOM Segmentation, of covct or of a radiologist's workstation, back as masks on the slices that it refers to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import SegmentationStorage

from covct.dicom.evidence import LABEL_MAP_STORAGE, MANUFACTURER
from covct.dicom.read import read_dataset
from covct.dicom.seg_frames import frame_pixels, frame_places, referenced_slices
from covct.disk.sources import SourceFile, read_all
from covct.errors import SourceDefect, UsageError, why
from covct.terms import LEFT, LEFT_LUNG, LOBE_SEGMENTS, LUNG, OPACITY, RIGHT, RIGHT_LUNG
from covct.voxels.labels import INFECTED as INFECTED_VOXEL
from covct.voxels.volume import Scan

SEG_STORAGE = {str(SegmentationStorage), str(LABEL_MAP_STORAGE)}
LUNGS_NAME, RIGHT_LUNG_NAME, LEFT_LUNG_NAME, INFECTION_NAME = "lungs", "right lung", "left lung", "infection"
GROUND_GLASS, CONSOLIDATION, EFFUSION = "ground glass", "consolidation", "effusion"
# Segmented property types (SNOMED CT, DCM) that name a structure without looking at the label.
TYPES = {
    LUNG.value: LUNGS_NAME,
    OPACITY.value: INFECTION_NAME,
    "112033": INFECTION_NAME,  # Abnormal opacity
    "47351003": INFECTION_NAME,  # Infiltrate: earlier versions of covct, TotalSegmentator
    "3341006": RIGHT_LUNG_NAME,
    "44029006": LEFT_LUNG_NAME,
    "112120": GROUND_GLASS,
    "95436008": CONSOLIDATION,
    "60046008": EFFUSION,
}
# By label, the first that fits: a label names a lesion and the lung it lies in, and then means the lesion.
WORDS = (
    (re.compile(r"ground.?glass|\bggo\b", re.I), GROUND_GLASS),
    (re.compile(r"consolidat", re.I), CONSOLIDATION),
    (re.compile(r"effusion", re.I), EFFUSION),
    (
        re.compile(r"(?<!un)(?<!non)(?<!non.)(?<!not.)(?<!outside.)(infect|opacit)|covid|infiltrat|pneumonia", re.I),
        INFECTION_NAME,
    ),
)
# A label means a lung only where it says nothing else: not "lung nodule", not "upper lobe of right lung".
OF_A_LUNG = {"lung", "lungs", "left", "right", "l", "r", "both", "whole", "field", "fields", "parenchyma", "mask"}
INFECTED = (INFECTION_NAME, GROUND_GLASS, CONSOLIDATION)
ANY_LUNG = (LUNGS_NAME, RIGHT_LUNG_NAME, LEFT_LUNG_NAME)
OF_TASK = {"lungs": ANY_LUNG, "infection": (*INFECTED, EFFUSION)}
# By segment number of SEGMENTS and of LABELMAP_SEGMENTS: the label of a voxel, or what it adds; a lobe nothing.
OF_SEGMENT = np.array([0, RIGHT_LUNG, LEFT_LUNG, INFECTED_VOXEL, *[0] * len(LOBE_SEGMENTS)], np.uint8)
OF_LABEL_MAP = np.array([0, RIGHT_LUNG, LEFT_LUNG, RIGHT_LUNG + INFECTED_VOXEL, LEFT_LUNG + INFECTED_VOXEL], np.uint8)
# What a user says that segments are: by task, their numbers or labels in small letters.
LabelNames = Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Segmentation:
    """What a SEG says of itself, without its pixels.

    Attributes
    ----------
    file : SourceFile
    series_uids : frozenset of str
        Referenced Series Instance UIDs.
    instance_uids : frozenset of str
        Referenced SOP Instance UIDs.
    segments : tuple of (int, str)
        Their numbers, and their labels in small letters.
    structures : tuple of str
        What its segments show, as far as covct knows it.
    automatic : bool
        Written by covct and changed by nobody: no truth to learn from.
    moment : str
        Content date and time, for telling the newer of two.
    """

    file: SourceFile
    series_uids: frozenset[str]
    instance_uids: frozenset[str]
    segments: tuple[tuple[int, str], ...]
    structures: tuple[str, ...]
    automatic: bool
    moment: str

    def tasks(self, labels: LabelNames) -> frozenset[str]:
        """ "lungs", "infection", or both: what it has segments of, by `labels` or else by what they show."""
        names = {word for number, label in self.segments for word in (str(number), label)}
        return frozenset(
            task
            for task, known in OF_TASK.items()
            if (names & labels[task] if task in labels else set(known) & set(self.structures))
        )


def find_segmentations(folder: Path) -> list[Segmentation]:
    """The DICOM Segmentations below a folder, in order of their paths. What is no DICOM file is passed over.

    Raises
    ------
    UsageError
        One cannot be read.
    """
    return list(_segmentations(folder))


def _segmentations(folder: Path) -> Iterator[Segmentation]:
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            with open(path, "rb") as file:
                if file.read(132)[128:] != b"DICM":
                    continue
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"])
            if str(header.get("SOPClassUID")) in SEG_STORAGE:
                yield read_segmentation(SourceFile(str(path)))
        except Exception as error:  # a damaged file raises what the damage hits
            raise UsageError(f"{path}: the DICOM file cannot be read ({why(error)})") from error


def read_segmentation(file: SourceFile) -> Segmentation:
    """Read what a SEG says of itself.

    Raises
    ------
    SeriesError
        The file cannot be read.
    SourceDefect
        It is no segmentation, or lacks its segments.
    """
    dataset = _read(file)
    segments = list(dataset.get("SegmentSequence") or [])
    names = [structure(segment) for segment in segments]
    series, instances = set(), set()
    for reference in dataset.get("ReferencedSeriesSequence") or []:
        series.add(str(reference.get("SeriesInstanceUID", "")))
        instances |= {str(i.ReferencedSOPInstanceUID) for i in reference.get("ReferencedInstanceSequence") or []}
    for groups in dataset.get("PerFrameFunctionalGroupsSequence") or []:
        instances |= {uid for uid, _ in referenced_slices(groups)}
    own = str(dataset.get("ManufacturerModelName") or "") == MANUFACTURER
    automatic = own and all(segment.get("SegmentAlgorithmType") == "AUTOMATIC" for segment in segments)
    moment = f"{dataset.get('ContentDate') or ''}{dataset.get('ContentTime') or ''}"
    return Segmentation(
        file,
        frozenset(series),
        frozenset(instances),
        tuple((int(s.get("SegmentNumber") or 0), _label(s).strip().lower()) for s in segments),
        tuple(name for name in names if name),
        automatic,
        moment,
    )


def _label(segment: pydicom.Dataset) -> str:
    return str(segment.get("SegmentLabel") or "")


def structure(segment: pydicom.Dataset) -> str:
    """What a segment shows, by its coded property type, else by its label; empty for anything else."""
    types = segment.get("SegmentedPropertyTypeCodeSequence") or []
    label = _label(segment)
    name = TYPES.get(str(types[0].get("CodeValue", "")), "") if types else ""
    if name == LUNGS_NAME:
        modifiers = types[0].get("SegmentedPropertyTypeModifierCodeSequence") or []
        codes = {str(modifier.get("CodeValue", "")) for modifier in modifiers}
        name = RIGHT_LUNG_NAME if RIGHT.value in codes else LEFT_LUNG_NAME if LEFT.value in codes else LUNGS_NAME
    if name not in ("", LUNGS_NAME, INFECTION_NAME):
        return name
    by_label = next((known for pattern, known in WORDS if pattern.search(label)), "") or _lung_by_label(label)
    # A general code and a more special label: the label says more.
    return by_label if not name or (name == INFECTION_NAME and by_label in (GROUND_GLASS, CONSOLIDATION)) else name


def _lung_by_label(label: str) -> str:
    words = set(re.findall("[a-z]+", re.sub("outside (infection|opacity)", "", label.lower())))  # as in our label maps
    if not words & {"lung", "lungs"} or words - OF_A_LUNG:
        return ""
    right, left = words & {"right", "r"}, words & {"left", "l"}
    return LUNGS_NAME if bool(right) == bool(left) else RIGHT_LUNG_NAME if right else LEFT_LUNG_NAME


def read_masks(file: SourceFile, scan: Scan, labels: LabelNames | None = None) -> dict[str, np.ndarray]:
    """The masks of a SEG on the slices of the scan that it refers to.

    Parameters
    ----------
    file : SourceFile
    scan : Scan
        The referenced series.
    labels : dict
        Of a task in it the segments are those named there, and none else.

    Returns
    -------
    dict of str to (slices, rows, columns) bool
        By structure, in the order of the scan's source; a structure whose segment has no frame is there, and empty.

    Raises
    ------
    SeriesError
        The file cannot be read.
    SourceDefect
        Its grid is another than the scan's; what was got and wanted.
    """
    dataset, shape = _read_for(file, scan), scan.volume.shape
    names = {int(segment.SegmentNumber): _names(segment, labels or {}) for segment in dataset.SegmentSequence}
    masks = {name: np.zeros(shape, bool) for several in names.values() for name in several}
    labelmap = dataset.SOPClassUID == LABEL_MAP_STORAGE
    frames = dataset.PerFrameFunctionalGroupsSequence
    for groups, place, pixels in zip(frames, frame_places(dataset, scan), frame_pixels(dataset), strict=True):
        shown = list(names) if labelmap else [int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber)]
        for number in shown:
            for name in names[number]:
                masks[name][place] |= pixels == number if labelmap else pixels > 0
    if labelmap and masks.keys() & set(ANY_LUNG) and "lungs" not in (labels or {}):
        _fill_lungs(masks)
    return masks


def _read_for(file: SourceFile, scan: Scan) -> pydicom.Dataset:
    """A SEG whose pixels are those of a scan's slices."""
    dataset, shape = _read(file), scan.volume.shape
    if (dataset.Rows, dataset.Columns) != shape[1:]:
        raise SourceDefect(f"the SEG has {dataset.Rows} x {dataset.Columns} pixels, its series {shape[1]} x {shape[2]}")
    return dataset


def read_labels(file: SourceFile, scan: Scan) -> np.ndarray:
    """Lungs and infection of a SEG that covct wrote as masks or as a label map.

    Returns
    -------
    (slices, rows, columns) uint8
        In the order of the scan's source: 0 background, 1 right lung, 2 left lung; 4 is added where infected.

    Raises
    ------
    SeriesError
        The file cannot be read.
    SourceDefect
        Its grid is another than the scan's; what was got and wanted.
    """
    dataset, shape = _read_for(file, scan), scan.volume.shape
    labels = np.zeros(shape, np.uint8)
    frames = dataset.PerFrameFunctionalGroupsSequence
    for groups, place, pixels in zip(frames, frame_places(dataset, scan), frame_pixels(dataset), strict=True):
        if dataset.SOPClassUID == LABEL_MAP_STORAGE:
            labels[place] = OF_LABEL_MAP[pixels]
        else:
            number = int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
            labels[place] |= (pixels > 0) * OF_SEGMENT[number]
    return labels


def _names(segment: pydicom.Dataset, labels: LabelNames) -> tuple[str, ...]:
    """The masks that a segment is part of: the tasks that somebody says it is of, else what it shows."""
    words = {str(segment.SegmentNumber), _label(segment).strip().lower()}
    told = tuple(task for task, wanted in labels.items() if words & wanted)
    known = structure(segment)
    of_told_task = any(known in OF_TASK[task] for task in labels)
    return (*told, *((known,) if known and not of_told_task else ()))


def _fill_lungs(masks: dict[str, np.ndarray]) -> None:
    """A label map has one segment a voxel: what is infected is lung too."""
    infected = [masks[name] for name in INFECTED if name in masks]
    if infected:
        masks[LUNGS_NAME] = np.logical_or.reduce([*infected, masks.get(LUNGS_NAME, np.zeros_like(infected[0]))])


def _read(file: SourceFile) -> pydicom.Dataset:
    [(_, contents)] = read_all([file])
    dataset = read_dataset(contents)
    if str(dataset.get("SOPClassUID")) not in SEG_STORAGE or not dataset.get("SegmentSequence"):
        raise SourceDefect(f"{file.name} is no DICOM Segmentation with segments")
    return dataset
