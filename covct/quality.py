"""The input gate: what of a series can be trusted. Two tolerances each: refuse beyond one, warn beyond the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from covct.discover import CT_IMAGE, ENHANCED_CT, Series
from covct.errors import SeriesError

COSINE_TOLERANCE = 1e-3  # 0.06 degrees: headers round to 6 digits, patients do not turn between slices
TILT_REFUSED_DEGREES = 1.0  # at 1 degree a 300 mm chest is sheared by 5 mm
GAP_FACTOR = 1.5  # a step this much larger than the median is a missing slice, not jitter
UNEVEN_REFUSED, UNEVEN_WARNED = 0.10, 0.02  # of the median step; volumes are wrong by about as much
CUT_WARNED = 0.10  # lung area on the outermost slice, of the largest: beyond it more than some 2 % is missing
FEW_SLICES = 10  # fewer cannot hold both lungs
SECONDARY_TYPES = {"MIP", "MINIP", "MPR", "REFORMATTED", "PROJECTION IMAGE", "SECONDARY", "SCREEN SAVE", "CSA MPR"}
LEAST_LUNG_ML = 300.0  # one badly collapsed adult lung still holds more; bowel gas seldom does
LEAST_LUNG_CM2 = 40.0  # mean over the slices; a chest has 100 and more, an upper abdomen next to none
HOUNSFIELD_TYPES = {"", "HU", "HU_MOD", "US"}  # US: unspecified, as many archives write
AIR_HU, LEAST_AIR_SHARE = -500, 0.002  # a chest CT holds air; so does nearly every other CT


@dataclass(frozen=True)
class Warned:
    """A finding that does not stop the series."""

    slug: str
    message: str


@dataclass(frozen=True)
class ValidFor:
    """Which figures of the report hold."""

    volume: bool = True
    percent: bool = True
    hu_bands: bool = True


def check_headers(series: Series) -> None:
    """Refuse what cannot be segmented, from headers alone.

    Raises
    ------
    SeriesError
        With one of the slugs of README's table, naming what was got and what was wanted.
    """
    if series.kind == "nifti":
        return
    if not series.study_uid or not series.series_uid:
        raise SeriesError(
            "no-identifiers",
            f"{len(series.instances)} files without StudyInstanceUID or SeriesInstanceUID; wanted both, since a result "
            "could not be attached to its series",
        )
    for instance in series.instances:
        if instance.modality != "CT":
            raise SeriesError("not-ct", f"modality is {instance.modality or 'missing'}, wanted CT")
        if instance.sop_class_uid == ENHANCED_CT:
            raise SeriesError("enhanced-multiframe", "an enhanced multi-frame CT; single-frame CT images are wanted")
        if instance.sop_class_uid != CT_IMAGE:
            raise SeriesError("not-ct", f"SOP class is {instance.sop_class_uid}, wanted CT Image Storage")
        if instance.rescale_type.upper() not in HOUNSFIELD_TYPES:
            raise SeriesError("not-hounsfield", f"RescaleType is {instance.rescale_type}, wanted HU")
        if "LOCALIZER" in instance.image_type:
            raise SeriesError("localizer", "a localizer (scout) image, not an axial series")
        if SECONDARY_TYPES & set(instance.image_type) or (
            instance.image_type[:1] == ("DERIVED",) and "AXIAL" not in instance.image_type
        ):
            raise SeriesError("derived", f"image type is {'/'.join(instance.image_type)}, wanted original axial slices")
    _check_geometry(series)


def _check_geometry(series: Series) -> None:
    first = series.instances[0]
    for instance in series.instances:
        if instance.position is None or instance.orientation is None or instance.pixel_spacing is None:
            raise SeriesError(
                "no-geometry",
                f"{instance.file.name} lacks ImagePositionPatient, ImageOrientationPatient or PixelSpacing",
            )
    if min(first.pixel_spacing or (0.0,)) <= 0:
        raise SeriesError("no-geometry", f"PixelSpacing is {_list(first.pixel_spacing)}, wanted millimetres above 0")
    if len({i.frame_of_reference_uid for i in series.instances}) > 1:
        raise SeriesError("mixed-geometry", "slices belong to several frames of reference; wanted one")
    shapes = sorted({i.shape for i in series.instances})
    spacings = np.array([i.pixel_spacing for i in series.instances])
    orientations = np.array([i.orientation for i in series.instances])
    if len(shapes) > 1 or np.ptp(spacings, axis=0).max() > 1e-3:
        raise SeriesError(
            "mixed-geometry", f"slices differ in size or pixel spacing ({_list(shapes)}); wanted one grid"
        )
    if np.ptp(orientations, axis=0).max() > COSINE_TOLERANCE:
        raise SeriesError("mixed-geometry", "slices differ in orientation; wanted parallel slices")
    row, column = orientations[0][:3], orientations[0][3:]
    if abs(np.linalg.norm(row) - 1) > 0.01 or abs(np.linalg.norm(column) - 1) > 0.01 or abs(row @ column) > 0.01:
        raise SeriesError(
            "no-geometry", f"ImageOrientationPatient {_list(first.orientation)} is no pair of unit vectors"
        )
    if len(series.instances) > 1:
        _check_positions(_positions(series), _normal(series))


def _check_positions(positions: np.ndarray, normal: np.ndarray) -> None:
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    along, positions = along[order], positions[order]
    steps = np.diff(along)
    if steps.min() < 0.01:
        at = along[np.argmin(steps)]
        raise SeriesError(
            "duplicate-slices", f"two different slices lie at the same position ({at:.1f} mm); wanted one each"
        )
    middle = float(np.median(steps))
    gaps = [(a, a + s) for a, s in zip(along, steps, strict=False) if s > GAP_FACTOR * middle]
    uneven = _unevenness(steps)
    tilt = _tilt_degrees(positions, normal)
    if gaps:
        whole = all(abs((b - a) / middle - round((b - a) / middle)) < UNEVEN_REFUSED for a, b in gaps)
        where = ", ".join(f"between {a:.1f} and {b:.1f} mm" for a, b in gaps[:5])
        if whole:
            count = sum(round((b - a) / middle) - 1 for a, b in gaps)
            raise SeriesError("missing-slices", f"{count} slices are missing {where} (slice step {middle:g} mm)")
    if tilt > TILT_REFUSED_DEGREES:
        also = (
            f"; the spacing is uneven too ({steps.min():.2f} to {steps.max():.2f} mm)"
            if uneven > UNEVEN_REFUSED
            else ""
        )
        raise SeriesError(
            "gantry-tilt", f"the gantry was tilted by {tilt:.1f}°, wanted slices stacked along their normal{also}"
        )
    if uneven > UNEVEN_REFUSED:
        raise SeriesError(
            "uneven-spacing", f"slice steps run from {steps.min():.2f} to {steps.max():.2f} mm; wanted one spacing"
        )


def _tilt_degrees(positions: np.ndarray, normal: np.ndarray) -> float:
    along = positions[-1] - positions[0]
    return float(np.degrees(np.arccos(np.clip(abs(along @ normal) / np.linalg.norm(along), 0, 1))))


def header_warnings(series: Series) -> tuple[ValidFor, list[Warned]]:
    """Findings of the headers worth telling, and what they leave valid."""
    found = []
    calibrated = all(i.has_rescale for i in series.instances)
    if series.kind == "nifti":
        found.append(Warned("no-seg", "NIfTI has no DICOM instances to reference: masks and report, no DICOM SEG"))
    if series.duplicates:
        found.append(
            Warned("duplicate-files", f"{series.duplicates} files repeat an instance already there; each is used once")
        )
    if series.kind == "dicom":
        if not calibrated:
            message = "RescaleSlope or RescaleIntercept is missing; 1 and 0 were taken, figures by HU are withheld"
            found.append(Warned("no-rescale", message))
        if series.unreadable_beside:
            message = f"{series.unreadable_beside} files beside it cannot be read: slices may be missing at an end"
            found.append(Warned("unreadable-beside", message))
        if any(i.lossy for i in series.instances):
            found.append(Warned("lossy", "the images were compressed with loss"))
        if any(i.frame_of_reference_uid is None for i in series.instances):
            found.append(
                Warned("no-frame-of-reference", "FrameOfReferenceUID is missing; one was derived from the series")
            )
        if any(not i.thickness for i in series.instances):
            found.append(Warned("no-slice-thickness", "SliceThickness is missing; the SEG carries the slice spacing"))
        if len(series.instances) > 2:
            uneven = _unevenness(np.diff(np.sort(_positions(series) @ _normal(series))))
            if uneven > UNEVEN_WARNED:
                found.append(Warned("uneven-spacing", f"slice steps differ by up to {100 * uneven:.0f} %"))
    return ValidFor(hu_bands=calibrated), found


def _positions(series: Series) -> np.ndarray:
    """(slices, 3) LPS mm, in the order of the instances."""
    return np.array([i.position for i in series.instances])


def _normal(series: Series) -> np.ndarray:
    """Unit vector across the slices."""
    orientation = np.array(series.instances[0].orientation)
    return np.cross(orientation[:3], orientation[3:])


def _unevenness(steps: np.ndarray) -> float:
    """Largest deviation of a slice step from the median step, as a share of it."""
    middle = np.median(steps)
    return float(np.abs(steps - middle).max() / middle)


def check_hounsfield(hu: np.ndarray) -> None:
    """Refuse voxels that are not Hounsfield units. hu (slices, rows, columns).

    Raises
    ------
    SeriesError
        `not-hounsfield`: 0..255 or 0..4095 grey values, or nothing as dark as air.
    """
    sample = hu[:: max(1, len(hu) // 30), ::4, ::4]
    low, high = float(sample.min()), float(sample.max())
    wanted = "wanted Hounsfield units (air -1000, water 0)"
    if low >= 0 and high <= 10:
        raise SeriesError("not-hounsfield", f"values run from {low:g} to {high:g}, as in a mask; {wanted}")
    if low >= 0 and high <= 255:
        raise SeriesError("not-hounsfield", f"values run from {low:g} to {high:g}, an 8-bit grey scale; {wanted}")
    if low >= -10:
        raise SeriesError("not-hounsfield", f"values run from {low:g} to {high:g} without air; {wanted}")
    if np.mean(sample < AIR_HU) < LEAST_AIR_SHARE:
        raise SeriesError("not-hounsfield", f"values run from {low:g} to {high:g} with next to no air; {wanted}")


def coverage(lung_areas: np.ndarray, volume_ml: float, extent_mm: float) -> tuple[ValidFor, list[Warned]]:
    """Whether the series holds whole lungs.

    Parameters
    ----------
    lung_areas : (slices,) int
        Lung voxels of each slice, head to feet.
    volume_ml : float
        Lung volume found.
    extent_mm : float
        Head-to-feet extent of the series: a short one may hold little lung and still be of the chest.

    Raises
    ------
    SeriesError
        `no-lungs`: not a chest.
    """
    slices = len(lung_areas)
    area_cm2 = volume_ml / (extent_mm / 10)
    if volume_ml < LEAST_LUNG_ML and area_cm2 < LEAST_LUNG_CM2:
        raise SeriesError(
            "no-lungs",
            f"{volume_ml:.0f} mL of lung found over {extent_mm:.0f} mm; wanted a chest CT ({LEAST_LUNG_ML:g} mL)",
        )
    if slices < FEW_SLICES:
        message = f"{slices} slice{'s' * (slices > 1)}: the figures describe what is shown, not the lungs"
        return ValidFor(volume=False, percent=False), [Warned("few-slices", message)]
    ends = {name: lung_areas[at] / lung_areas.max() for name, at in (("first", 0), ("last", -1)) if lung_areas[at]}
    if not ends:
        return ValidFor(), []
    message = f"the lungs reach the {' and the '.join(ends)} slice: a part of them was not scanned"
    whole = bool(max(ends.values()) < CUT_WARNED)
    return ValidFor(volume=whole, percent=whole), [Warned("partial-lungs", message)]


def _list(values) -> str:
    return ", ".join(str(v) for v in values)
