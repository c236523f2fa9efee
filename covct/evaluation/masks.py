"""Masks from files, ours and other tools': NIfTI, DICOM SEG and PNG, on the grid of the scan that they belong to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import highdicom as hd
import numpy as np
import pydicom
import SimpleITK as sitk

from covct.dicom.read import read_dataset
from covct.dicom.seg_frames import frame_pixels, frame_places
from covct.dicom.seg_masks import ANY_LUNG, INFECTED, SEG_STORAGE, structure
from covct.errors import SeriesError, SourceDefect, UsageError, why
from covct.intake.discover import NOT_IMAGES
from covct.intake.volume_file import read_volume
from covct.intake.volume_header import format_of
from covct.voxels.volume import LARGEST_OFFSET, WORKING_ORIENTATION, Scan, voxels_apart

TASKS = ("lungs", "infection")
HEADER_BYTES = 1024**2
PLAIN_LABELS = {"lungs": {0, 1, 2}, "infection": {0, 1}}  # what a mask may hold whose labels nobody explains
MOST_LABELS = 64

Labels = dict[str, frozenset[str]]


def parse_labels(options: Iterable[str]) -> Labels:
    """`infection=2`, `lungs=1,2` or `infection=GGO,consolidation` to the labels of each task.

    Values of voxels, numbers of segments, or labels of segments as they stand in the file.
    """
    out: dict[str, set[str]] = {}
    for option in options:
        task, equals, values = option.partition("=")
        names = {value.strip().lower() for value in values.split(",") if value.strip()}
        if task not in TASKS or not equals or not names:
            raise UsageError(f"--label {option}: wanted TASK=LABEL[,LABEL...], e.g. infection=2, or lungs=1,2")
        out.setdefault(task, set()).update(names)
    return {task: frozenset(names) for task, names in out.items()}


def read_volume_mask(path: Path, task: str, labels: Labels) -> hd.Volume:
    """A mask of a volume file in working orientation, bool.

    Raises
    ------
    UsageError
        It cannot be read, or holds labels that are not explained.
    """
    try:
        volume = read_volume(path).to_patient_orientation(WORKING_ORIENTATION)
    except SeriesError as error:
        raise UsageError(f"{path}: {error.message}") from error
    return volume.with_array(chosen(volume.array, path, task, labels))


def chosen(array: np.ndarray, path: Path, task: str, labels: Labels) -> np.ndarray:
    """The voxels of an array of labels that are the task's, bool."""
    values = np.unique(array)
    if len(values) > MOST_LABELS or not np.all(values == np.rint(values)):
        raise UsageError(f"{path}: {len(values)} different values, {values[0]:g} to {values[-1]:g}; wanted a mask")
    wanted = labels.get(task)
    if wanted is None:
        # 8-bit pictures say 255 for 1
        odd = set(values.tolist()) - PLAIN_LABELS[task]
        if odd and set(values.tolist()) != {0, 255} and set(values.tolist()) != {255}:
            told = ", ".join(f"{value:g}" for value in values)
            raise UsageError(f"{path}: holds labels {told}; say which are {task}, e.g. --label {task}={values[-1]:g}")
        return array > 0
    if words := sorted(name for name in wanted if not name.isdecimal()):
        raise UsageError(
            f"{path}: --label {task}={','.join(sorted(wanted))}: got {', '.join(words)}, wanted whole numbers from 0: "
            "only segments of a DICOM SEG have names"
        )
    return np.isin(array, [int(name) for name in wanted])


def on_grid(mask: hd.Volume, path: Path, grid: hd.Volume, resample: bool = False) -> np.ndarray:
    """A mask on the grid of its scan, (slices, rows, columns) bool in working orientation.

    Parameters
    ----------
    mask, grid : highdicom.Volume
        Both in working orientation.
    resample : bool
        A mask of another grid is brought to this one (nearest neighbour) instead of being refused.

    Raises
    ------
    UsageError
        Another grid, and `resample` is false.
    """
    if difference := grid_difference(mask, grid):
        if not resample:
            raise UsageError(f"{path}: {difference} (--resample brings it to that grid)")
        return _resampled(mask, grid)
    return mask.array


def grid_difference(mask: hd.Volume, grid: hd.Volume) -> str:
    """What was got and what wanted, where two grids are not the same; else empty."""
    if mask.spatial_shape != grid.spatial_shape:
        return f"the mask has {_shape(mask)} voxels, wanted {_shape(grid)} as its scan has"
    apart = voxels_apart(grid, mask)
    if apart > LARGEST_OFFSET:
        return f"the mask lies up to {apart:.1f} voxels beside its scan; wanted the same affine"
    return ""


def _shape(volume: hd.Volume) -> str:
    return " x ".join(str(extent) for extent in volume.spatial_shape)


def _resampled(mask: hd.Volume, grid: hd.Volume) -> np.ndarray:
    image = mask.with_array(mask.array.astype(np.uint8)).to_simpleitk()
    reference = grid.with_array(np.zeros(grid.spatial_shape, np.uint8)).to_simpleitk()
    resampled = sitk.Resample(image, reference, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    out = hd.Volume.from_simpleitk(resampled, "PATIENT").match_orientation(grid)
    return out.array > 0


def read_png_mask(path: Path, task: str, labels: Labels, shape: tuple[int, ...]) -> np.ndarray:
    """A picture of a mask, (rows, columns) bool, on the pixels of its slice."""
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise UsageError(f"{path}: not a readable image")
    if image.shape != shape:
        raise UsageError(f"{path}: the mask has {image.shape} pixels, wanted {shape} as its slice has")
    return chosen(image, path, task, labels)


@dataclass(frozen=True)
class SegFile:
    """A DICOM Segmentation found in a folder, by its header.

    Attributes
    ----------
    instances : frozenset of str
        SOP Instance UIDs that it refers to.
    """

    path: Path
    series: frozenset[str]
    instances: frozenset[str]


def find_segs(folder: Path) -> list[SegFile]:
    """The DICOM Segmentations below a folder, in order of their paths. What is no DICOM file is passed over."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.name.lower()
        if not path.is_file() or format_of(name) or path.suffix.lower() in NOT_IMAGES | {".zip"}:
            continue
        try:
            with open(path, "rb") as file:
                if file.read(132)[128:] != b"DICM":
                    continue
            dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_SEG_TAGS)
            if str(dataset.get("SOPClassUID")) not in SEG_STORAGE:
                continue
            references = dataset.get("ReferencedSeriesSequence") or []
            instances = {
                str(one.ReferencedSOPInstanceUID)
                for series in references
                for one in series.get("ReferencedInstanceSequence") or []
            }
            found.append(
                SegFile(path, frozenset(str(one.SeriesInstanceUID) for one in references), frozenset(instances))
            )
        except Exception as error:  # a damaged file raises what the damage hits
            raise UsageError(f"{path}: the DICOM file cannot be read ({why(error)})") from error
    return found


_SEG_TAGS = ["SOPClassUID", "ReferencedSeriesSequence"]


def read_seg_mask(path: Path, task: str, labels: Labels, scan: Scan) -> np.ndarray | None:
    """The task's segments of a DICOM SEG on the slices that they refer to.

    Returns
    -------
    (slices, rows, columns) bool in working orientation, or None where no segment is of the task
        By `labels`, else as training takes it: by the segment's coded type or its label (`structure`).

    Raises
    ------
    UsageError
        The file is damaged, has other rows and columns than the scan, or frames that lie on none of its slices.
    """
    try:
        dataset = read_dataset(path.read_bytes())
        return _seg_mask(dataset, path, task, labels, scan)
    except UsageError:
        raise
    except Exception as error:  # a damaged file raises what the damage hits
        raise UsageError(f"{path}: the segmentation cannot be read ({why(error)})") from error


def _seg_mask(dataset: pydicom.Dataset, path: Path, task: str, labels: Labels, scan: Scan) -> np.ndarray | None:
    labelmap = dataset.SegmentationType == "LABELMAP"
    numbers = {int(s.SegmentNumber) for s in dataset.SegmentSequence if _is_of(s, task, labels.get(task))}
    if not numbers:
        return None
    if labelmap and task == "lungs" and task not in labels:  # a voxel has one segment: infected lung is lung too
        numbers |= {int(s.SegmentNumber) for s in dataset.SegmentSequence if structure(s) in INFECTED}
    size = scan.volume.shape[1:]
    if (dataset.Rows, dataset.Columns) != size:
        got = f"{dataset.Rows} x {dataset.Columns}"
        raise UsageError(f"{path}: the segmentation has {got} pixels, wanted {size[0]} x {size[1]} as its scan has")
    try:
        places = frame_places(dataset, scan)
    except SourceDefect as error:
        raise UsageError(f"{path}: {error}") from error
    out = np.zeros(scan.volume.shape, bool)
    frames = dataset.PerFrameFunctionalGroupsSequence
    for groups, index, frame in zip(frames, places, frame_pixels(dataset), strict=True):
        if labelmap:
            out[index] |= np.isin(frame, list(numbers))
        elif int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber) in numbers:
            out[index] |= frame > 0
    return scan.volume.with_array(out).to_patient_orientation(WORKING_ORIENTATION).array


def _is_of(segment: pydicom.Dataset, task: str, wanted: frozenset[str] | None) -> bool:
    if wanted is not None:
        return bool(wanted & {str(segment.SegmentNumber), str(segment.SegmentLabel).strip().lower()})
    return structure(segment) in (INFECTED if task == "infection" else ANY_LUNG)


def digest(masks: Iterable[np.ndarray]) -> str:
    """sha256 of masks, bit by bit, with their shapes."""
    out = hashlib.sha256()
    for mask in masks:
        out.update(str(mask.shape).encode() + np.packbits(mask).tobytes())
    return out.hexdigest()
