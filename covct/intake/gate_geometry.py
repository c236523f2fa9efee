"""The input gate on geometry: whether slices are one even grid, how they lie in the patient, how large the image is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from covct.dicom.quotable import quoted_uid
from covct.errors import SeriesError
from covct.intake.discover import Series
from covct.intake.gate_rules import (
    FEW_SLICES,
    GAP_FACTOR,
    IN_PLANE_MM_REFUSED,
    IN_PLANE_MM_WARNED,
    LONG_MM_REFUSED,
    LONG_MM_WARNED,
    NOTED,
    OBLIQUE_REFUSED_DEGREES,
    OBLIQUE_WARNED_DEGREES,
    PIXEL_MM,
    PIXEL_RATIO,
    REFUSED,
    SHIFT_REFUSED_MM,
    STEP_REFUSED_MM,
    STEP_WARNED_MM,
    TILT_REFUSED_DEGREES,
    TILT_WARNED_DEGREES,
    TILTED_MASKS,
    UNEVEN_REFUSED,
    WARNED,
    Finding,
    refusal,
)
from covct.intake.grid import (
    SHIFT_WARNED_MM,
    UNEVEN_WARNED,
    Grid,
    cosine_unit,
    grid_of,
    orientation_of,
    rounded_gaps,
    sideways_mm,
    spacing_of,
    unevenness,
)
from covct.intake.rounding import units_of
from covct.intake.split import MOSTLY, differing


def on_one_grid(series: Series) -> Iterator[Finding]:
    """Whether the slices are parallel planes of one grid."""
    for instance in series.instances:
        if instance.position is None or instance.orientation is None or instance.pixel_spacing is None:
            yield refusal(
                "no-geometry",
                f"instance {quoted_uid(instance.sop_instance_uid)} lacks ImagePositionPatient, ImageOrientationPatient "
                "or PixelSpacing",
            )
            return
    spacings = np.array([i.pixel_spacing for i in series.instances])
    orientations = np.array([i.orientation for i in series.instances])
    shapes = sorted({i.shape for i in series.instances})
    low, high = spacings.min(), spacings.max()
    if low < PIXEL_MM[0] or high > PIXEL_MM[1] or high > PIXEL_RATIO * low:
        wanted = f"{PIXEL_MM[0]:g} to {PIXEL_MM[1]:g} mm, nearly square"
        yield refusal("no-geometry", f"PixelSpacing is {_list(spacings[0])} mm; wanted {wanted}")
    if min(map(min, shapes)) < 2:
        yield refusal("no-geometry", f"slices have {_list(shapes[0])} rows and columns")
    if np.abs(np.array([i.position for i in series.instances])).max() > 1e5:
        yield refusal("no-geometry", "ImagePositionPatient is more than 100 m from the origin")
    frames = {i.frame_of_reference_uid for i in series.instances}
    if len(frames) == len(series.instances) > 2:
        yield uid_per_slice(series, "a FrameOfReferenceUID")
    elif len(frames) > 1:
        yield refusal("mixed-geometry", "slices belong to several frames of reference; wanted one")
    if len(shapes) > 1 or spacing_of(spacings) is None:
        yield refusal("mixed-geometry", f"slices differ in size or pixel spacing ({_list(shapes)}); wanted one grid")
    if orientation_of(orientations) is None:
        yield refusal("mixed-geometry", "slices differ in orientation; wanted parallel slices")
    row, column = orientations[0][:3], orientations[0][3:]
    off = max(0.01, 2 * cosine_unit(orientations))
    if abs(np.linalg.norm(row) - 1) > off or abs(np.linalg.norm(column) - 1) > off or abs(row @ column) > off:
        text = _list(series.instances[0].orientation or ())
        yield refusal("no-geometry", f"ImageOrientationPatient {text} is not a pair of perpendicular unit vectors")


def in_space(series: Series) -> Iterator[Finding]:
    """Whether the slices follow one another in even steps along one line, and how they lie in the patient."""
    grid = grid_of(series)
    yield from _oblique(_oblique_degrees(np.array([grid.row, grid.column, grid.normal])))
    axial = int(np.argmax(np.abs(grid.normal))) == 2
    if not axial:
        name = ("sagittal", "coronal")[int(np.argmax(np.abs(grid.normal)))]
        if len(series.instances) < FEW_SLICES:
            count = len(series.instances)
            yield refusal("too-few-slices", f"{count} {name} slices; wanted axial ones, or at least {FEW_SLICES}")
        yield Finding("not-axial", f"acquired in {name} slices and reformatted to axial ones")
    if len(series.instances) < 2:
        return
    along = grid.along
    steps = np.diff(along)
    if steps.min() < 0.01:
        yield _doubled(series, along, steps)
        return
    if grid.rounded:
        yield Finding("rounded-headers", f"rounded in the headers: {'; '.join(grid.rounded)}", NOTED)
    middle = float(np.median(steps))
    uneven = unevenness(steps)
    yield from _gaps(grid, steps, middle)
    tilt = grid.tilt_degrees
    spread = f"{steps.min():.2f} to {steps.max():.2f} mm"
    if tilt > TILT_REFUSED_DEGREES:
        yield refusal("gantry-tilt", f"the slices are sheared by {tilt:.1f}°, more than a gantry can tilt")
    if uneven > UNEVEN_REFUSED:
        also = f"; the gantry was tilted by {tilt:.1f}° too" if tilt > TILT_WARNED_DEGREES else ""
        yield refusal("uneven-spacing", f"slice spacing ranges from {spread}; wanted one spacing{also}")
    elif uneven > UNEVEN_WARNED:
        yield Finding("uneven-spacing", f"slice spacing varies by up to {100 * uneven:.0f} % ({spread})")
    yield from _thick(middle)
    if tilt > TILT_WARNED_DEGREES:
        message = f"the gantry was tilted by {tilt:.1f}°: {TILTED_MASKS}"
        yield Finding("gantry-tilt", message)
    shift = 0.0 if grid.line else sideways_mm(grid.positions, along)
    if shift > SHIFT_WARNED_MM:
        level = REFUSED if shift > SHIFT_REFUSED_MM else WARNED
        yield Finding(
            "mixed-geometry", f"slices are shifted sideways by up to {shift:.1f} mm; wanted aligned slices", level
        )


def _oblique(degrees: float) -> Iterator[Finding]:
    if degrees > OBLIQUE_WARNED_DEGREES:
        level = REFUSED if degrees > OBLIQUE_REFUSED_DEGREES else WARNED
        yield Finding("oblique", f"the slices are rotated by {degrees:.0f}° from the patient's axes", level)


def _thick(step_mm: float) -> Iterator[Finding]:
    if step_mm > STEP_WARNED_MM:
        level = REFUSED if step_mm > STEP_REFUSED_MM else WARNED
        yield Finding("thick-slices", f"slices are {step_mm:g} mm apart; lesions between them are missed", level)


def nifti_geometry(affine: np.ndarray, shape: tuple[int, int, int]) -> list[Finding]:
    """What the headers' part of the gate says of a DICOM series, of a volume file once it is read.

    `affine` (4, 4) brings indices in working orientation to LPS mm; its slices are axial ones. `shape` counts slices,
    rows and columns.

    Raises
    ------
    SeriesError
        `no-geometry`, `oblique`, `thick-slices`, `implausible-size`: as for DICOM.
    """
    slices, rows, columns = (float(v) for v in np.linalg.norm(affine[:3, :3], axis=0))
    low, high = min(rows, columns), max(rows, columns)
    if low < PIXEL_MM[0] or high > PIXEL_MM[1]:
        wanted = f"{PIXEL_MM[0]:g} to {PIXEL_MM[1]:g} mm"
        raise SeriesError("no-geometry", f"voxels of an axial slice are {rows:g} x {columns:g} mm; wanted {wanted}")
    found = [
        *_oblique(_oblique_degrees(affine[:3, :3].T)),
        *_thick(round(slices, 3)),
        *size_findings((slices, rows, columns), shape),
    ]
    for finding in found:
        if finding.level == REFUSED:
            raise SeriesError(finding.slug, finding.message)
    return found


def _size(long_mm: float, *in_plane_mm: float) -> Iterator[Finding]:
    """The extent of the image, from head to feet and of an axial slice."""
    small, large = min(in_plane_mm), max(in_plane_mm)
    within = (small >= IN_PLANE_MM_WARNED[0], large <= IN_PLANE_MM_WARNED[1], long_mm <= LONG_MM_WARNED)
    if all(within):
        return
    far = small < IN_PLANE_MM_REFUSED[0] or large > IN_PLANE_MM_REFUSED[1] or long_mm > LONG_MM_REFUSED
    across = " x ".join(f"{mm:.0f}" for mm in in_plane_mm)
    message = (
        f"the image covers {across} mm across the patient and {long_mm:.0f} mm along "
        "the patient; no chest scan has this size"
    )
    yield Finding("implausible-size", message, REFUSED if far else WARNED)


def size_findings(spacing_mm: tuple[float, float, float], shape: tuple[int, ...]) -> list[Finding]:
    """Whether an image of axial slices, rows and columns has a size that chests are scanned in."""
    return list(_size(*(mm * extent for mm, extent in zip(spacing_mm, shape, strict=True))))


def extents(series: Series) -> Iterator[Finding]:
    """The same of a DICOM series."""
    first = series.instances[0]
    assert first.pixel_spacing and first.orientation
    image = [mm * count for mm, count in zip(first.pixel_spacing, first.shape, strict=True)]  # down, along the rows
    axes = [int(np.argmax(np.abs(cosines))) for cosines in (first.orientation[3:], first.orientation[:3])]
    along = grid_of(series).along
    stack = float(np.ptp(along)) * len(along) / max(1, len(along) - 1)
    long = next((mm for mm, axis in zip(image, axes, strict=True) if axis == 2), stack)
    yield from _size(long, *(mm for mm, axis in zip(image, axes, strict=True) if axis != 2))


def default_affine(affine: np.ndarray) -> list[Finding]:
    """A warning where a file's affine (4, 4) is what libraries write unasked: steps of 1 mm along the axes, from 0."""
    if not np.allclose(np.abs(affine[:3, :3]), np.eye(3), atol=1e-6) or np.abs(affine[:3, 3]).max() > 1e-6:
        return []
    message = "the affine is the identity, as if never set: voxel size, right and left are unknown"
    return [Finding("default-affine", message)]


def _doubled(series: Series, along: np.ndarray, steps: np.ndarray) -> Finding:
    doubled = int(np.count_nonzero(steps < 0.01))
    if doubled >= MOSTLY * (len(along) - doubled):
        message = f"{doubled} of {len(along)} slices share a position with another one: several scans in one series"
        if told := differing(series.instances):
            words = "; ".join(told)
            return refusal("mixed-acquisitions", f"{message} ({words}), and split accordingly they are incomplete")
        message += ", and nothing in the headers distinguishes them"
        unit = float(units_of(np.array([i.position for i in series.instances])).max())
        if 0.01 < steps.max() <= unit * (1 + 1e-6):
            message += f"; or positions rounded to {unit:g} mm, coarser than the slice spacing"
        return refusal("mixed-acquisitions", message)
    at = along[np.argmin(steps)]
    return refusal(
        "duplicate-slices",
        f"two different slices lie at the same position ({at:.1f} mm); wanted one slice per position",
    )


def _gaps(grid: Grid, steps: np.ndarray, middle: float) -> Iterator[Finding]:
    """Steps of twice the others' length and more; of rounded positions, what an even line of them lacks."""
    along = grid.along
    if lacking := rounded_gaps(grid):
        where = ", ".join(f"between {along[at]:.1f} and {along[at + 1]:.1f} mm" for at, _ in lacking[:5])
        count = sum(number for _, number in lacking)
        message = f"{_are_missing(count)} {where} (positions are rounded in the headers)"
        yield refusal("missing-slices", message)
        return
    gaps = [(a, a + step) for a, step in zip(along, steps, strict=False) if step > GAP_FACTOR * middle]
    if gaps and all(abs((b - a) / middle - round((b - a) / middle)) < UNEVEN_REFUSED for a, b in gaps):
        where = ", ".join(f"between {a:.1f} and {b:.1f} mm" for a, b in gaps[:5])
        count = sum(round((b - a) / middle) - 1 for a, b in gaps)
        yield refusal("missing-slices", f"{_are_missing(count)} {where} (slice step {middle:g} mm)")


def _are_missing(count: int) -> str:
    return "1 slice is missing" if count == 1 else f"{count} slices are missing"


def _oblique_degrees(axes: np.ndarray) -> float:
    """How far three axes, one a row, of any length, are turned against the patient's."""
    nearest = np.abs(axes).max(axis=1) / np.linalg.norm(axes, axis=1)
    return float(np.degrees(np.arccos(np.clip(nearest.min(), 0, 1))))


def _list(values: Iterable[Any]) -> str:
    return ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values)


def uid_per_slice(series: Series, what: str) -> Finding:
    """What is said of a series in which every slice has `what` of its own."""
    count = len(series.instances)
    return refusal(
        "uid-per-slice",
        f"each of the {count} slices of one scan has {what} of its own, from a faulty anonymiser; wanted one",
    )
