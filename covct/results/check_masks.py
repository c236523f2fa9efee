"""The NIfTI masks of one result: volumes and grid are the report's, and the source's where that is given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from covct.errors import SeriesError
from covct.intake.discover import Series
from covct.intake.nifti import read_mask
from covct.intake.volume_file import load_volume
from covct.outputs import NIFTI_LOBES, NIFTI_PAIR
from covct.pipeline.report_document import Report
from covct.results.defects import Defect
from covct.terms import LEFT_LUNG, LOBES, RIGHT_LUNG

MASKS = NIFTI_PAIR
SPACING_TOLERANCE_MM, VOXEL_TOLERANCE = 1e-3, 1e-4  # NIfTI holds single precision, the report four digits
AXES = {"F": "slice", "H": "slice", "A": "row", "P": "row", "L": "column", "R": "column"}
SIZES = {"slice": "slices", "row": "rows", "column": "columns"}


def check_masks(folder: Path, names: Sequence[str], report: Report, volumes: list[Series] | None) -> Iterator[Defect]:
    """Volumes and grid of both masks, and of lobes if any; of a volume file's result also the grid of its source.

    Parameters
    ----------
    folder : Path
        Of the result.
    names : sequence of str
        Of its masks; one alone is not looked at.
    volumes : list of Series, or None
        Volume files among the sources that may be this result's; None where no sources were given.
    """
    masks = []
    there = (*MASKS, *(name for name in names if name == NIFTI_LOBES))
    for name in there if set(MASKS) <= set(names) else ():
        try:
            masks.append(_in_source_order(*read_mask(folder / name), report))
        except SeriesError as error:
            yield Defect("unreadable-nifti", error.message.split(":")[0], name)
            return
    if not masks:
        return
    if misplaced := next(_misplaced(there, masks, report), None):
        yield misplaced
        return
    (lungs, affine), (infection, _), *others = masks
    yield from _voxels(lungs, infection, report)
    for lobes, _ in others:
        voxels = {lobe.name: int(np.count_nonzero(lobes == lobe.number)) for lobe in LOBES}
        for defect in compare_lobes(voxels, report):
            yield Defect(defect.slug, defect.message, NIFTI_LOBES)
    if volumes is not None and report.source.format != "dicom":
        yield from _check_volume(_named(volumes, report), lungs, affine)


def _misplaced(
    names: Sequence[str], masks: Sequence[tuple[np.ndarray, np.ndarray]], report: Report
) -> Iterator[Defect]:
    """Masks whose grid is not the report's."""
    sizes, spacings = source_grid(report)
    wanted = report.geometry.voxel_volume_mm3
    for name, (mask, place) in zip(names, masks, strict=True):
        voxel = abs(np.linalg.det(place[:3, :3]))  # also where a tilted gantry shears it
        pixel = np.linalg.norm(place[:3, 1:3], axis=0)
        if list(mask.shape) != sizes or np.abs(pixel - spacings[1:]).max() > SPACING_TOLERANCE_MM:
            message = f"{_grid(mask.shape, pixel)}, the report says {_grid(sizes, spacings[1:])}"
            yield Defect("wrong-geometry", message, name)
        elif wanted and abs(voxel - wanted) > VOXEL_TOLERANCE * wanted:
            yield Defect("wrong-geometry", f"a voxel has {voxel:.4f} mm³, the report says {wanted:.4f}", name)


def _voxels(lungs: np.ndarray, infection: np.ndarray, report: Report) -> Iterator[Defect]:
    """Voxels of both masks against the report's mL."""
    voxels: dict[tuple[str, str], int] = {}
    for region, label in (("right_lung", RIGHT_LUNG), ("left_lung", LEFT_LUNG)):
        inside = lungs == label
        voxels[region, "volume_ml"] = int(np.count_nonzero(inside))
        voxels[region, "infection_ml"] = int(np.count_nonzero(infection[inside]))
    for defect in compare_volumes(voxels, report):
        yield Defect(defect.slug, defect.message, MASKS["infection" in defect.message])
    inside_lungs = voxels["right_lung", "infection_ml"] + voxels["left_lung", "infection_ml"]
    if outside := int(np.count_nonzero(infection)) - inside_lungs:
        yield Defect("volume-differs", f"{outside} voxels of opacity lie outside of the lungs", MASKS[1])


def _in_source_order(mask: np.ndarray, affine: np.ndarray, report: Report) -> tuple[np.ndarray, np.ndarray]:
    """Masks of a DICOM series are written as columns, rows, slices; its grid is slices, rows, columns."""
    if report.source.format != "dicom":
        return mask, affine
    return mask.transpose(), affine[:, [2, 1, 0, 3]]


def _grid(sizes: Sequence[int], pixel_mm: Sequence[float]) -> str:
    return f"{' x '.join(map(str, sizes))} voxels, pixels of {' x '.join(f'{mm:.3f}' for mm in pixel_mm)} mm"


def _named(candidates: list[Series], report: Report) -> Series | None:
    """The source by its path where, in a tree of an earlier version, two bear the same few digits of a hash."""
    path = report.source.path
    same = [one for one in candidates if one.path and path in [file.label for file in (one.path, *one.twins)]]
    return next(iter(same or candidates), None)


def _check_volume(series: Series | None, mask: np.ndarray, affine: np.ndarray) -> Iterator[Defect]:
    if series is None:
        yield Defect("source-missing", "no file among the sources has these contents", MASKS[0])
        return
    try:
        source = load_volume(series)
    except SeriesError as error:
        yield Defect("source-missing", error.message.split(":")[0], MASKS[0])
        return
    if mask.shape != source.volume.shape or np.abs(affine - source.affine).max() > SPACING_TOLERANCE_MM:
        yield Defect("source-differs", "grid or affine is not that of the source", MASKS[0])


def source_grid(report: Report) -> tuple[list[int], list[float]]:
    """Size and spacing, mm, along slices, rows and columns of the *source*; the report has them head to feet first."""
    geometry = dict(report.geometry)
    axes = [AXES[letter] for letter in report.geometry.patient_orientation]
    return [geometry[SIZES[axis]] for axis in axes], [geometry[f"{axis}_spacing_mm"] or 0.0 for axis in axes]


def compare_lobes(voxels: Mapping[str, int], report: Report) -> Iterator[Defect]:
    """Voxels by lobe likewise."""
    if report.lobes is None:
        yield Defect("volume-differs", "there are masks of lobes, of which the report says nothing")
        return
    for name, lobe in report.lobes.by_lobe.items():
        yield from _compared(f"{name} volume_ml", voxels[name], lobe.volume_ml, report)


def compare_volumes(voxels: Mapping[tuple[str, str], int], report: Report) -> Iterator[Defect]:
    """Voxels by region and figure against the report's mL, within the rounding of both the mL and the voxel volume."""
    for (region, figure), number in voxels.items():
        yield from _compared(f"{region} {figure}", number, report.regions.named(region).figure(figure), report)


def _compared(name: str, number: int, told: float | None, report: Report) -> Iterator[Defect]:
    voxel_mm3 = report.geometry.voxel_volume_mm3
    if told is None or not voxel_mm3:
        return
    volume = number * voxel_mm3 / 1000
    if abs(volume - told) > 0.0005 + number * 5e-10 + 1e-6:
        yield Defect("volume-differs", f"{name}: the mask has {volume:.3f} mL, the report {told:.3f}")
