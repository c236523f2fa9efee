"""Where voxels lie: the even grid of a stack of slices, or of a volume file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np

from covct.recompute.planes import Plane

UNEVEN = 1e-3  # of a step: positions that are further off may have been rounded to their digits
SHEARED = 0.01  # of a direction cosine: less is what a volume file's rounded affine makes
TILTED_DEGREES = 0.1  # less is rounding
LETTERS = ("RL", "AP", "FH")  # towards lower and higher x, y, z


@dataclass(frozen=True)
class Lattice:
    """A grid of voxels.

    Attributes
    ----------
    shape : (int, int, int)
    affine : (4, 4)
        Index to LPS mm, as the slices really lie.
    spacing_mm : (float, float, float)
        By axis; where a tilted gantry shears the slices, along their normal.
    voxel_mm3 : float or None
        None of a single slice, which has no known height.
    inexact : float
        By what share rounded headers leave the volume of a voxel unknown.
    inexact_mm : float
        By how much they leave the place of a voxel unknown.
    whole : bool
        Whether the grid is the source's; else it ends with the slices that hold something.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    spacing_mm: tuple[float, float, float]
    voxel_mm3: float | None
    inexact: float = 0.0
    inexact_mm: float = 0.0
    whole: bool = True

    @property
    def axes(self) -> tuple[int, int, int]:
        """Which axis runs between feet and head, which between front and back, which between right and left."""
        along = np.abs(self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0))
        ways = permutations(range(3))
        best = max(ways, key=lambda way: float(along[2, way[0]] + along[1, way[1]] + along[0, way[2]]))
        return best[0], best[1], best[2]

    @property
    def head_first(self) -> bool:
        """Whether indices between feet and head begin at the head."""
        return bool(self.affine[2, self.axes[0]] < 0)

    @property
    def orientation(self) -> str:
        """Where slice, row and column index point in the patient, a letter each."""
        coordinate = {axis: 2 - place for place, axis in enumerate(self.axes)}
        return "".join(LETTERS[coordinate[k]][int(self.affine[coordinate[k], k] > 0)] for k in range(3))

    @property
    def tilt_degrees(self) -> float:
        """Angle between the way from slice to slice and the slices' normal; 0 for what rounding makes."""
        ways = self.affine[:3, :3]
        normals = np.linalg.inv(ways).T  # each perpendicular to the two other axes
        lengths = np.linalg.norm(ways, axis=0) * np.linalg.norm(normals, axis=0)
        angle = float(np.degrees(np.arccos(np.clip(1 / lengths, -1, 1))).max())
        return angle if angle > TILTED_DEGREES else 0.0


@dataclass(frozen=True)
class Stack:
    """Slices in order along their normal, each with its index in the grid."""

    lattice: Lattice
    planes: tuple[Plane, ...]
    indices: tuple[int, ...]


def stack_of(planes: Sequence[Plane], *, whole: bool = True) -> Stack:
    """The grid of some slices: one even step from the first to the last, counted in steps of the median one."""
    row, column = (np.mean([getattr(p, name) for p in planes], axis=0) for name in ("row", "column"))
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    stack = sorted(planes, key=lambda plane: float(plane.position @ normal))
    positions = np.array([p.position for p in stack])
    steps = np.diff(positions @ normal)
    counts = np.rint(steps / (np.median(steps) or 1.0)).astype(int) if len(steps) else np.zeros(0, int)
    spacing = np.median([p.spacing for p in stack], axis=0)
    affine = np.eye(4)
    affine[:3, 0] = step = (positions[-1] - positions[0]) / max(1, counts.sum()) if len(steps) else normal
    affine[:3, 1] = column / np.linalg.norm(column) * spacing[0]
    affine[:3, 2] = row / np.linalg.norm(row) * spacing[1]
    affine[:3, 3] = stack[0].position
    edges = float(step @ normal), float(spacing[0]), float(spacing[1])
    lattice = Lattice(
        (int(counts.sum()) + 1, *stack[0].shape),
        affine,
        edges,
        float(np.prod(edges)) if len(steps) else None,
        *(_inexact(stack, positions, normal) if counts.all() and len(steps) else (0.0, 0.0)),
        whole,
    )
    return Stack(lattice, tuple(stack), (0, *np.cumsum(counts).tolist()))


def is_even(stack: Stack) -> bool:
    """Whether each slice is one step from the next, as those of one scan are."""
    return stack.indices == tuple(range(len(stack.planes)))


def _inexact(stack: Sequence[Plane], positions: np.ndarray, normal: np.ndarray) -> tuple[float, float]:
    """What rounding of positions, cosines and spacing may make of a voxel: share of its volume, mm of its place."""
    along = positions @ normal
    steps = np.diff(along)
    uneven = np.abs(steps - np.median(steps)).max() > UNEVEN * np.median(steps)
    unit = _unit(positions) if uneven else 0.0
    share = 2 * unit * float(np.abs(normal).sum() / (along[-1] - along[0]))
    turned = max(float(np.ptp([getattr(p, name) for p in stack], axis=0).max()) for name in ("row", "column"))
    way = positions[-1] - positions[0]
    share += turned * (float(np.linalg.norm(np.cross(way, normal)) / abs(way @ normal)) + turned)
    spacings = np.array([p.spacing for p in stack])
    return share + float((np.ptp(spacings, axis=0) / spacings.min(axis=0)).sum()), 2 * unit


def _unit(values: np.ndarray) -> float:
    """Of the last decimal that the values need, at the finest 1e-6."""
    return next((10.0**-d for d in range(6) if np.allclose(values, np.round(values, d), rtol=0, atol=1e-9)), 1e-6)


def lattice_of(shape: tuple[int, int, int], affine: np.ndarray) -> Lattice:
    """The grid of a volume file by its affine to LPS mm.

    Axes that are perpendicular but for what a header rounds are made so; else the slices of a tilted gantry are
    sheared, and the edge from slice to slice is measured along their normal.
    """
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    cosines = affine[:3, :3] / edges
    left, _, right = np.linalg.svd(cosines)
    straight = Lattice(shape, affine.copy(), (edges[0], edges[1], edges[2]), float(np.prod(edges)))
    if np.abs(left @ right - cosines).max() <= SHEARED:
        straight.affine[:3, :3] = left @ right * edges
        return straight
    # Two axes that are perpendicular lie in a slice; the last that is none of them leads from slice to slice.
    way = next(k for k in (2, 1, 0) if abs(cosines[:, (k + 1) % 3] @ cosines[:, (k + 2) % 3]) <= SHEARED)
    edges[way] = abs(float(np.linalg.det(affine[:3, :3]))) / float(np.prod(np.delete(edges, way)))
    return replace(straight, spacing_mm=(edges[0], edges[1], edges[2]), voxel_mm3=float(np.prod(edges)))
