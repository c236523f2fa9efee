"""Where the slices of a series lie: one even stack, with what rounding did to positions, cosines and spacing undone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from covct.dicom.header import Instance
from covct.dicom.orientation import snapped
from covct.intake.discover import Series
from covct.intake.rounding import MOST_DECIMALS, Line, decimals, even_line, gaps, units_of

UNEVEN_WARNED = 0.02
SHIFT_WARNED_MM = 0.5
COSINE_TOLERANCE = 1e-3
SPACING_TOLERANCE_MM = 1e-3
COSINE_DECIMALS = (2, 4)  # whole numbers are exact; more than four decimals change nothing that is seen
SPACING_DIFFERS = 0.005  # of the spacing, at most, by rounding: 1.8 mm over 360 mm
EXACT_COSINES = 1e-5
COSINE_ERROR = 1.25  # times their unit, rad: half a unit in each of three cosines of two vectors


@dataclass(frozen=True)
class Grid:
    """One even stack of slices.

    Attributes
    ----------
    ordered : tuple of Instance
        Along the normal.
    row, column, normal : (3,)
        Unit vectors along a row, down a column, and across the slices.
    spacing : (float, float)
        Between rows, between columns, mm.
    positions : (n, 3)
        LPS mm, in order, as the headers have them.
    line : Line or None
        The even line that the positions are rounded from; None where they are taken as they stand.
    rounded : tuple of str
        What was undone, in words.
    cosine_error : float
        How far rounding of the cosines may have turned the slices, rad.
    """

    ordered: tuple[Instance, ...]
    row: np.ndarray
    column: np.ndarray
    normal: np.ndarray
    spacing: tuple[float, float]
    positions: np.ndarray
    line: Line | None = None
    rounded: tuple[str, ...] = ()
    cosine_error: float = 0.0

    @property
    def origin(self) -> np.ndarray:
        return self.line.origin if self.line else self.positions[0]

    @property
    def step(self) -> np.ndarray:
        """From one slice to the next, LPS mm; of several slices."""
        return self.line.step if self.line else (self.positions[-1] - self.positions[0]) / (len(self.positions) - 1)

    @property
    def along(self) -> np.ndarray:
        """(n,) mm on the normal, ascending."""
        if self.line:
            return float(self.line.origin @ self.normal) + np.arange(len(self.ordered)) * float(self.step @ self.normal)
        distances: np.ndarray = self.positions @ self.normal
        return distances

    @property
    def tilt_degrees(self) -> float:
        """Angle between the way from slice to slice and the normal; 0 of one slice, or where rounding explains it."""
        length = float(np.linalg.norm(self.step)) if len(self.ordered) > 1 else 0.0
        angle = np.arccos(np.clip(abs(self.step @ self.normal) / length, 0, 1)) if length else 0.0
        return float(np.degrees(angle)) if angle > self.cosine_error else 0.0


def grid_of(series: Series) -> Grid:
    """Where the slices lie. The headers have been found to have places, and to be parallel."""
    instances = series.instances
    cosines, rounded = orientation_of(cosines_of(instances)), []
    assert cosines is not None
    row, column = cosines.reshape(2, 3)
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    ordered = tuple(
        sorted(instances, key=lambda i: (float(np.array(i.position) @ normal), i.sop_instance_uid, i.frame))
    )
    positions = np.array([i.position for i in ordered])
    spacings = np.array([i.pixel_spacing for i in ordered])
    spacing = spacing_of(spacings)
    assert spacing is not None
    line = _line(ordered, positions, normal)
    if line:
        unit = float(np.abs(normal) @ units_of(positions))
        rounded.append(f"positions to {unit:g} mm, from steps of {abs(line.step @ normal):.3f} mm")
    unit = cosine_unit(cosines_of(ordered))
    if np.ptp(cosines_of(ordered), axis=0).max() > COSINE_TOLERANCE:
        rounded.append(f"direction cosines to {unit:g}")
    if np.ptp(spacings, axis=0).max() > SPACING_TOLERANCE_MM:
        rounded.append(f"pixel spacing, from {spacing[0]:g} mm")
    turned = COSINE_ERROR * unit if _are_rounded(cosines_of(ordered)) else 0.0
    return Grid(ordered, row, column, normal, spacing, positions, line, tuple(rounded), turned)


def rounded_gaps(grid: Grid) -> list[tuple[int, int]]:
    """Where an even line of rounded positions lacks some: (index before, how many); of exact ones nothing is said."""
    steps = np.diff(grid.along)
    unit = float(np.abs(grid.normal) @ units_of(grid.positions))
    if grid.line or len(steps) < 2 or unevenness(steps) <= UNEVEN_WARNED or unit <= UNEVEN_WARNED * np.median(steps):
        return []
    return gaps(grid.positions, _numbers(grid.ordered))


def cosines_of(instances: tuple[Instance, ...]) -> np.ndarray:
    """(n, 6)"""
    return np.array([i.orientation for i in instances])


def orientation_of(cosines: np.ndarray) -> np.ndarray | None:
    """(6,) that all slices have, within rounding; None where they differ by more. cosines (n, 6)."""
    differ = np.ptp(cosines, axis=0).max()
    if differ > max(COSINE_TOLERANCE, cosine_unit(cosines) * (1 + 1e-6)):
        return None
    if differ > COSINE_TOLERANCE or _are_rounded(cosines):
        return np.array(snapped(cosines.mean(axis=0)))
    shared: np.ndarray | None = cosines[0]
    return shared


def _are_rounded(cosines: np.ndarray) -> bool:
    """Whether they have few decimals, and by that are no unit vectors."""
    lengths = np.linalg.norm(cosines.reshape(-1, 2, 3), axis=2)
    return bool(cosine_unit(cosines) and np.abs(lengths - 1).max() > EXACT_COSINES)


def cosine_unit(cosines: np.ndarray) -> float:
    """The unit of their last decimal, where it is coarse enough to matter; else 0."""
    given = decimals(cosines)
    return 10.0**-given if COSINE_DECIMALS[0] <= given <= COSINE_DECIMALS[1] else 0.0


def spacing_of(spacings: np.ndarray) -> tuple[float, float] | None:
    """The pixel spacing that all slices have, within rounding; None where they differ by more. spacings (n, 2)."""
    if np.ptp(spacings, axis=0).max() <= SPACING_TOLERANCE_MM:
        return float(spacings[0, 0]), float(spacings[0, 1])
    counted = Counter(map(tuple, spacings.tolist()))
    finest = max(counted, key=lambda spacing: (decimals(spacing), counted[spacing]))
    for spacing in counted:
        for value, fine in zip(spacing, finest, strict=True):
            if abs(value - fine) > min(half_unit(value) + 1e-9, SPACING_DIFFERS * fine):
                return None
    return finest


def half_unit(value: float) -> float:
    """Half of the unit of a number's last decimal: how far off rounding may have brought it."""
    given = decimals([value])
    return 0.5 * 10.0**-given if given < MOST_DECIMALS else 0.0


def _line(ordered: tuple[Instance, ...], positions: np.ndarray, normal: np.ndarray) -> Line | None:
    """The line that positions are rounded from, where they do not look even as they stand."""
    if len(ordered) < 3:
        return None
    along = positions @ normal
    steps = np.diff(along)
    if steps.min() < 0.01 or (unevenness(steps) <= UNEVEN_WARNED and sideways_mm(positions, along) <= SHIFT_WARNED_MM):
        return None
    return even_line(positions, normal, _numbers(ordered))


def _numbers(ordered: tuple[Instance, ...]) -> np.ndarray:
    return np.array([i.number for i in ordered], np.int64)


def unevenness(steps: np.ndarray) -> float:
    """Largest deviation of a slice step from the median step, as a share of it."""
    middle = np.median(steps)
    return float(np.abs(steps - middle).max() / middle)


def sideways_mm(positions: np.ndarray, along: np.ndarray) -> float:
    """How far a slice lies beside the straight line from the first to the last."""
    share = (along - along[0]) / (along[-1] - along[0])
    line = positions[0] + share[:, None] * (positions[-1] - positions[0])
    return float(np.linalg.norm(positions - line, axis=1).max())
