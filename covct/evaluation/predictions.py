"""Masks of other tools: found by name or by the series that they refer to, on the pixels of the case they belong to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import numpy as np

from covct.data.cases import Case
from covct.data.dicom_cases import segs_of
from covct.data.grids import on_grid
from covct.data.labels import explained, from_structures
from covct.data.pictures import read_grey, upright
from covct.dicom.seg_masks import LabelNames, Segmentation, find_segmentations, read_masks
from covct.errors import SeriesError, SourceDefect, UsageError, why
from covct.evaluation.truth import Truth
from covct.intake.volume_file import read_volume
from covct.intake.volume_header import volume_beside
from covct.voxels.volume import WORKING_ORIENTATION, Scan

PLAIN_LABELS = {"lungs": {0, 1, 2}, "infection": {0, 1}}  # what a mask may hold whose labels nobody explains
MOST_LABELS = 64


@dataclass(frozen=True)
class Predictions:
    """A folder of another tool's masks, what their labels mean, and whether they may lie on another grid."""

    folder: Path
    segs: list[Segmentation]
    labels: LabelNames
    resample: bool = False


def find_predictions(folder: Path, labels: LabelNames, resample: bool = False) -> Predictions:
    """Raises UsageError for a DICOM file that cannot be read."""
    return Predictions(folder, find_segmentations(folder), labels, resample)


def read_predictions(calls: Predictions, case: Case, truth: Truth, tasks: Iterable[str]) -> dict[str, np.ndarray]:
    """Another tool's masks of a case, by task, (slices, rows, columns) bool.

    Raises
    ------
    UsageError
        There is none of a task, or it does not fit.
    """
    return {task: _read(calls, case, truth, task) for task in tasks}


def _read(calls: Predictions, case: Case, truth: Truth, task: str) -> np.ndarray:
    folder, labels, grid = calls.folder, calls.labels, truth.grid
    if case.series and truth.scan:
        mask = one_seg_mask(segs_of(case.series, calls.segs), task, labels, truth.scan)
        if mask is not None:
            return mask
    if grid is not None and (path := volume_prediction(folder, case, task)):
        return on_grid(read_volume_mask(path, task, labels), path, grid, calls.resample)
    if paths := png_predictions(folder, case, task):
        masks = [read_png_mask(path, task, labels) for path in paths]
        return _upright(case, masks, paths, truth.hu.shape[1:])
    raise UsageError(f"{folder}: no {task} mask of {case.name}; wanted {_wanted(case, task)}")


def _upright(case: Case, masks: list[np.ndarray], paths: list[Path], shape: tuple[int, ...]) -> np.ndarray:
    """Pictures lie as the case's pictures do, and are turned with them."""
    turned = [upright(mask[None], case.anterior, case.mirrored)[0] for mask in masks]
    for path, mask in zip(paths, turned, strict=True):
        if mask.shape != shape:
            raise UsageError(f"{path}: the mask has {mask.shape} pixels, wanted {shape} as its slice has")
    return np.stack(turned)


def _wanted(case: Case, task: str) -> str:
    if names := slice_names(case):
        return f"{task}/{names[0]} and so on, or {names[0]}"
    volume = f"{case.name}_{task}.nii.gz, {task}/{case.name}.nii.gz, {case.name}/{task}.nii.gz or {case.name}.nii.gz"
    return f"a DICOM SEG that refers to it, or {volume}" if case.series else volume


def slice_names(case: Case) -> list[str]:
    """Of pictures: under which names masks of them are looked for."""
    return [f"{path.stem}.png" for path in case.images] if case.of_pictures else []


def volume_prediction(folder: Path, case: Case, task: str) -> Path | None:
    """Another tool's mask of a case, by name: NAME_TASK, TASK/NAME, NAME/TASK or NAME, then any folder below."""
    for stem in (f"{case.name}_{task}", f"{task}/{case.name}", f"{case.name}/{task}", case.name):
        if found := volume_beside(folder / stem):
            return found
    return None


def png_predictions(folder: Path, case: Case, task: str) -> list[Path] | None:
    """Another tool's pictures of masks of a case's slices, under the slices' names in TASK/ or in the folder itself."""
    for place in (folder / task, folder):
        paths = [place / name for name in slice_names(case)]
        there = [path for path in paths if path.is_file()]
        if there and len(there) < len(paths):
            missing = next(path for path in paths if not path.is_file())
            raise UsageError(f"{missing}: no such file; {len(there)} of the case's {len(paths)} slices have a mask")
        if there:
            return paths
    return None


def read_volume_mask(path: Path, task: str, labels: LabelNames) -> hd.Volume:
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


def read_png_mask(path: Path, task: str, labels: LabelNames) -> np.ndarray:
    """A picture of a mask, (rows, columns) bool."""
    return chosen(read_grey(path), path, task, labels)


def chosen(array: np.ndarray, path: Path, task: str, labels: LabelNames) -> np.ndarray:
    """The voxels of an array of labels that are the task's, bool.

    Stricter than masks of labelled data: of another tool's nobody knows what a 2 is.
    """
    values = np.unique(array)
    if len(values) > MOST_LABELS or not np.all(values == np.rint(values)):
        raise UsageError(f"{path}: {len(values)} different values, {values[0]:g} to {values[-1]:g}; wanted a mask")
    if task in labels:
        return explained(array, path, task, labels)
    odd = set(values.tolist()) - PLAIN_LABELS[task]
    if odd and not set(values.tolist()) <= {0, 255}:  # 8-bit pictures say 255 for 1
        told = ", ".join(f"{value:g}" for value in values)
        raise UsageError(f"{path}: holds labels {told}; say which are {task}, e.g. --label {task}={values[-1]:g}")
    return array > 0


def one_seg_mask(segs: Iterable[Segmentation], task: str, labels: LabelNames, scan: Scan) -> np.ndarray | None:
    """The task's mask, from the only SEG that has one; None where none has.

    Raises
    ------
    UsageError
        Two have: which is meant?
    """
    found = [(seg, mask) for seg in segs if (mask := read_seg_mask(seg, task, labels, scan)) is not None]
    if len(found) > 1:
        (one, _), (other, _), *_ = found
        raise UsageError(f"{one.file.path} and {other.file.path} both hold {task} of one series; wanted one of them")
    return found[0][1] if found else None


def read_seg_mask(seg: Segmentation, task: str, labels: LabelNames, scan: Scan) -> np.ndarray | None:
    """The task's segments of a DICOM SEG on the slices that they refer to.

    Returns
    -------
    (slices, rows, columns) bool in working orientation, or None where no segment is of the task
        By `labels`, else as training takes it: by the segment's coded type or its label.

    Raises
    ------
    UsageError
        The file is damaged, has other rows and columns than the scan, or frames that lie on none of its slices.
    """
    path = seg.file.path
    try:
        mask = from_structures(read_masks(seg.file, scan, labels)).get(task)
    except SourceDefect as error:
        raise UsageError(f"{path}: {error}") from error
    except Exception as error:  # a damaged file raises what the damage hits
        raise UsageError(f"{path}: the segmentation cannot be read ({why(error)})") from error
    if mask is None:
        return None
    found: np.ndarray | None = scan.volume.with_array(mask > 0).to_patient_orientation(WORKING_ORIENTATION).array
    return found
