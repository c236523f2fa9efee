"""One result in memory: its scan, and its masks as a reader leaves them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from covct.disk.documents import DamagedDocument
from covct.disk.places import REPORT_NAME
from covct.errors import SeriesError, UsageError, why
from covct.evaluation.scores import count, scores
from covct.intake.discover import Series
from covct.intake.nifti import read_mask
from covct.networks.devices import Device
from covct.outputs import FORMATS, NIFTI_PAIR
from covct.pipeline.memory import at_hand_mib
from covct.pipeline.report_document import Report
from covct.pipeline.series import Result, read
from covct.recompute.masks import NoMasks, read_seg
from covct.results.standing import NOT_KEPT, packed
from covct.viewer.marks import from_runs, to_runs
from covct.viewer.studies import Study
from covct.voxels.labels import INFECTED, LUNG_BITS, Labels
from covct.voxels.volume import Masks, Scan, voxel_volume_mm3

SEG, NIFTI = FORMATS["seg"].file, NIFTI_PAIR
UNSET = "default-affine"  # the warning that no program set voxel sizes
BESIDE = 1e-2  # mm: corners of masks and scan lie no further apart, as NIfTI holds single precision


@dataclass
class Opened:
    """A result with its scan.

    Attributes
    ----------
    series : Series
    result : Result
        Its masks are a view of `labels`.
    labels : Labels
        As in the result, then as last saved.
    truths : dict of str to (slices, rows, columns) bool
        What somebody brought to compare with, by task.
    """

    series: Series
    result: Result
    labels: Labels
    truths: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def scan(self) -> Scan:
        """The series, read."""
        return self.result.scan

    def mask(self, task: str) -> np.ndarray:
        """`lungs` or `infection`, (slices, rows, columns) bool."""
        return np.asarray(getattr(self.labels, task), bool)

    def correct(self, slices: Any) -> dict[int, np.ndarray]:
        """Take marks of slices from the browser: all of them, or none where one is not as wanted (UsageError).

        Returns the marks of these slices before, for `put_back`.
        """
        if not isinstance(slices, dict) or not all(key.isdecimal() and int(key) < len(self.labels) for key in slices):
            raise UsageError(f"marks of slices that are not there; wanted slices 0 to {len(self.labels) - 1}")
        shape = self.labels.shape[1:]
        marked = {int(key): from_runs(runs, shape) for key, runs in slices.items()}
        before = {index: self.labels[index].copy() for index in marked}
        self.put_back(marked)
        return before

    def put_back(self, marks: dict[int, np.ndarray]) -> None:
        """Set the marks of slices."""
        for index, one in marks.items():
            self.labels[index] = one

    def compared(self, task: str) -> dict[str, Any]:
        """The masks against a truth: overlap, volumes (None where the spacing is unknown), where they differ most."""
        truth, mine = self.truths[task], self.mask(task)
        counts = count(truth, mine)
        found = {name: float(value) for name, value in scores(counts).items() if name in ("dice", "iou")}
        ml = voxel_volume_mm3(self.scan.working) / 1000 if self._has_sizes() else None
        return {
            "task": task,
            **{name: None if np.isnan(value) else value for name, value in found.items()},
            "missed_ml": None if ml is None else counts.missed * ml,
            "beyond_ml": None if ml is None else counts.invented * ml,
            "most": int(np.argmax([np.count_nonzero(one ^ other) for one, other in zip(truth, mine, strict=True)])),
        }

    def _has_sizes(self) -> bool:
        """Whether somebody knows the size of a voxel; of a picture nobody does."""
        report = self.result.report
        unset = any(warned["slug"] == UNSET for warned in report["warnings"])
        return report["geometry"]["voxel_volume_mm3"] is not None and not unset

    def truth_runs(self, task: str) -> list[list[int]]:
        """A truth slice by slice, for the browser."""
        return [to_runs(one) for one in self.truths[task]]


def open_study(study: Study) -> Opened:
    """Read a result and its scan.

    Raises
    ------
    UsageError
        In one sentence: the source is not at hand or cannot be read, or the result has no masks that fit it.
    """
    if study.series is None:
        raise UsageError("the scan is not among the sources")
    try:
        report = json.loads(Report.read(study.folder / REPORT_NAME).as_json())
        scan = read(study.series, at_hand_mib())
    except SeriesError as error:
        raise UsageError(f"the scan cannot be read: {error.message}") from error
    except (DamagedDocument, OSError) as error:
        raise UsageError("the report of this result cannot be read") from error
    labels = _labels(study, scan)
    masks = Masks(labels.lungs, labels.infection, NOT_KEPT, NOT_KEPT)
    return Opened(study.series, Result(study.series, scan, masks, report, report["work_key"], Device("", "")), labels)


def _labels(study: Study, scan: Scan) -> Labels:
    """The masks of a result on its scan. NIfTI first: of a fractional SEG nobody knows what was called."""
    there = set(study.entry.files)
    try:
        if set(NIFTI) <= there:
            array = _of_nifti(study, scan)
        elif SEG in there:
            array = _of_seg(study.folder / SEG, scan)
        else:
            raise NoMasks("it was written without masks; scan with --formats seg or nifti")
    except (NoMasks, UsageError) as error:
        raise UsageError(f"the result has no masks to look at: {error}") from error
    except Exception as error:  # a damaged file raises what the damage hits
        raise UsageError(f"the masks of the result cannot be read ({why(error)})") from error
    return packed(scan, array)


def _of_nifti(study: Study, scan: Scan) -> np.ndarray:
    (lungs, affine), (infection, _) = (read_mask(study.folder / name) for name in NIFTI)
    array = _marked(lungs, infection > 0)
    if study.series and study.series.kind == "dicom":  # columns, rows, slices
        array, affine = array.transpose(), affine[:, [2, 1, 0, 3]]
    if array.shape != scan.volume.shape or np.abs(affine - scan.affine).max() > BESIDE:
        raise UsageError("they lie on another grid than the scan")
    return array


def _of_seg(path: Path, scan: Scan) -> np.ndarray:
    seg = read_seg(path)
    array = np.zeros(scan.volume.shape, np.uint8)
    references = [scan.reference(index)[1:] for index in range(len(array))]
    if {uid for uid, _ in references} != seg.instances:
        raise UsageError("they refer to other slices than those of the scan")
    for index, (uid, frame) in enumerate(references):
        array[index] = _marked(*seg.slice_of(str(uid), frame))
    return array


def _marked(lungs: np.ndarray, infection: np.ndarray) -> np.ndarray:
    return (lungs.astype(np.uint8) & np.uint8(LUNG_BITS)) + np.uint8(INFECTED) * infection.astype(np.uint8)
