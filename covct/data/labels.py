"""What the values of a mask mean: lungs, their sides, infection and its classes, or what `--label` says they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from covct.data.cases import TASKS, CaseError
from covct.dicom import seg_masks
from covct.dicom.seg_masks import LabelNames
from covct.errors import UsageError

CLASSES = {seg_masks.GROUND_GLASS: 1, seg_masks.CONSOLIDATION: 2, seg_masks.EFFUSION: 3}
ALLOWED = {"lungs": {0, 1, 2}, "infection": {0, 1, 2, 3}, "both": {0, 1, 2, 3}, "classes": {0, 1, 2, 3}}

PLAIN: LabelNames = {}  # nothing is explained: masks hold what covct expects of them


def parse_labels(options: Iterable[str]) -> dict[str, frozenset[str]]:
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


def explained(array: np.ndarray, path: Path, task: str, labels: LabelNames) -> np.ndarray:
    """The voxels of a mask that `--label` says are the task's, bool.

    Raises
    ------
    CaseError
        `unexpected-labels`: a word, which no voxel holds.
    """
    wanted = labels[task]
    if words := sorted(name for name in wanted if not name.isdecimal()):
        raise CaseError(
            "unexpected-labels",
            f"{path}: --label {task}={','.join(sorted(wanted))}: got {', '.join(words)}, wanted whole numbers from 0: "
            "only segments of a DICOM SEG have names",
        )
    return np.isin(array, [int(name) for name in wanted])


def masks_in(kind: str, array: np.ndarray, path: Path, labels: LabelNames = PLAIN) -> dict[str, np.ndarray]:
    """The masks that a stored one holds, uint8, by `lungs`, `infection` and `classes`.

    Parameters
    ----------
    kind : str
        `lungs`, `infection`, `classes`, or `both` (1, 2 lungs, 3 infection).

    Raises
    ------
    CaseError
        `unexpected-labels`: it holds values that are not expected of its kind, and nobody explains them.
    """
    if kind in labels:
        return {kind: explained(array, path, kind, labels).astype(np.uint8)}
    values = _values(array)
    if set(values.tolist()) <= {0, 255}:  # as pictures store yes and no
        array = array > 0
    elif not set(values.tolist()) <= ALLOWED[kind]:
        odd = ", ".join(f"{value:g}" for value in values if value not in ALLOWED[kind])
        wanted = ", ".join(map(str, sorted(ALLOWED[kind])))
        raise CaseError("unexpected-labels", f"{path}: values {odd[:80]}; wanted {wanted} for {kind}")
    array = array.astype(np.uint8)
    if kind == "lungs":
        return {"lungs": array}
    if kind == "both":  # infection lies in a lung, whose side is then not told
        return {"lungs": (array > 0).astype(np.uint8), "infection": (array == 3).astype(np.uint8)}
    if kind == "classes" or array.max() > 1:
        return {"infection": ((array == 1) | (array == 2)).astype(np.uint8), "classes": array}
    return {"infection": array}


def _values(array: np.ndarray) -> np.ndarray:
    """The distinct values, without sorting all of them where they are small whole numbers."""
    if array.dtype.kind in "iu" and array.min() >= 0 and array.max() <= 255:
        return np.flatnonzero(np.bincount(array.ravel(), minlength=256))
    return np.unique(array)


def sided(lungs: np.ndarray) -> np.ndarray:
    """1 the patient's right lung, 2 the left, by where they lie: publishers number them either way."""
    columns = [
        float(np.mean(np.flatnonzero((lungs == value).any((0, 1))))) for value in (1, 2) if (lungs == value).any()
    ]
    return lungs if len(columns) < 2 or columns[0] <= columns[1] else np.array([0, 2, 1], np.uint8)[lungs]


def from_structures(masks: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The segments of a DICOM SEG, by `covct.dicom.seg_masks.structure`, as `lungs`, `infection` and `classes`."""
    out: dict[str, np.ndarray] = {}
    parts = [masks[name] for name in seg_masks.ANY_LUNG if name in masks]
    if parts:
        lungs = (np.maximum.reduce(parts) > 0).astype(np.uint8)
        left, right = masks.get(seg_masks.LEFT_LUNG_NAME), masks.get(seg_masks.RIGHT_LUNG_NAME)
        if left is not None and right is not None and not (lungs & (left == 0) & (right == 0)).any():
            lungs[left > 0] = 2
        out["lungs"] = lungs
    named = {CLASSES[name]: masks[name] for name in CLASSES if name in masks}
    if named:
        classes = np.zeros(next(iter(named.values())).shape, np.uint8)
        for value, mask in named.items():
            classes[mask > 0] = value
        out["classes"] = classes
    infected = [masks[name] for name in seg_masks.INFECTED if name in masks]
    if infected:
        out["infection"] = (np.maximum.reduce(infected) > 0).astype(np.uint8)
    return out
