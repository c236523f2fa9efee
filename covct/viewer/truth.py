"""A truth that somebody brings to compare with: a DICOM SEG, a volume file, or of one slice a picture."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import numpy as np

from covct.data.grids import on_grid
from covct.data.pictures import is_picture, upright
from covct.dicom.seg_masks import LabelNames, read_segmentation
from covct.disk.sources import SourceFile
from covct.errors import SeriesError, SourceDefect, UsageError
from covct.evaluation.predictions import read_png_mask, read_seg_mask, read_volume_mask
from covct.intake.volume_header import format_of
from covct.voxels.volume import Scan

HINT = re.compile(r", e\.g\. --label .*| \(--resample brings it to that grid\)")  # of a command line


def read_truth(contents: bytes, name: str, task: str, labels: str, scan: Scan, anterior: str = "up") -> np.ndarray:
    """A mask on the voxels of the scan, (slices, rows, columns) bool in working orientation.

    Parameters
    ----------
    contents : bytes
    name : str
        Of the file, for its ending.
    task : str
        `lungs` or `infection`.
    labels : str
        Which of its labels mean that, separated by commas; empty: as `covct evaluate` takes them.
    anterior : str
        Where the front of the patient is in a picture, as in that of the scan.

    Raises
    ------
    UsageError
        One sentence: it cannot be read, holds other labels, or lies on another grid.
    """
    wanted = frozenset(label.strip().lower() for label in labels.split(",") if label.strip())
    names: LabelNames = {task: wanted} if wanted else {}
    # NIfTI, MetaImage, NRRD and pictures by their endings; whatever else, DICOM. Nothing else of a name is kept.
    ending = next((end for end in (".nii.gz", ".mhd") if name.lower().endswith(end)), Path(name).suffix.lower()[:8])
    with tempfile.TemporaryDirectory(prefix="covct-truth-") as folder:
        path = Path(folder, f"covct-truth{ending}")
        path.write_bytes(contents)
        try:
            if is_picture(path):
                return _of_picture(path, task, names, scan, anterior)
            return _read(path, task, names, scan)
        except UsageError as error:
            told = HINT.sub("", str(error).replace(f"{folder}/", "the "))
            raise UsageError(told.replace(path.name, "file")) from error


def _read(path: Path, task: str, labels: LabelNames, scan: Scan) -> np.ndarray:
    if format_of(path.name):
        return on_grid(read_volume_mask(path, task, labels), path, scan.working)
    try:
        seg = read_segmentation(SourceFile(str(path)))
    except (SeriesError, SourceDefect, AttributeError, KeyError, ValueError) as error:
        raise UsageError("the file is no mask: wanted a DICOM SEG, a NIfTI, or of one slice a picture") from error
    if not scan.headers:
        raise UsageError("a DICOM SEG refers to DICOM slices, and this scan is a volume file; wanted a volume file")
    mask = read_seg_mask(seg, task, labels, scan)
    if mask is None:
        raise UsageError(f"the SEG has no segment of {task}")
    return mask


def _of_picture(path: Path, task: str, labels: LabelNames, scan: Scan, anterior: str) -> np.ndarray:
    mask = upright(read_png_mask(path, task, labels)[None], anterior)
    slices, rows, columns = scan.working.shape
    if mask.shape != (slices, rows, columns):
        got = " x ".join(map(str, mask.shape[1:]))
        raise UsageError(f"the picture has {got} pixels; wanted {slices} x {rows} x {columns} as its scan has")
    return mask
