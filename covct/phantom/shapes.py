"""Depths of simple shapes, positive inside, in millimetres from the surface; so they combine by minimum and maximum.

A grid only samples them: the patient does not depend on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from covct.voxels.arrays import Floats

CENTRE_Y_MM = 10.0  # body and table together are centred a little behind the body
_COARSE_MM = 1.5  # smooth shapes are evaluated about this fine and interpolated to the grid


@dataclass(frozen=True)
class Grid:
    """One axial slice of a grid, in the anatomy's own millimetres (patient millimetres divided by its scale)."""

    rows: int
    columns: int
    row_mm: float
    column_mm: float
    thickness_mm: float

    @property
    def steps(self) -> tuple[int, int]:
        """How many rows and columns of this grid make one of the coarse grid."""
        return max(1, round(_COARSE_MM / self.row_mm)), max(1, round(_COARSE_MM / self.column_mm))

    @property
    def origin(self) -> tuple[float, float]:
        """y and x of the first voxel."""
        return CENTRE_Y_MM - (self.rows - 1) / 2 * self.row_mm, -(self.columns - 1) / 2 * self.column_mm

    @property
    def edge_mm(self) -> float:
        """Over how many millimetres an in-plane edge spreads."""
        return max(self.row_mm, self.column_mm, 0.9)

    def coarse(self) -> Grid:
        """Every so many voxels of this grid, from the same first voxel to one beyond the last."""
        counts = [-(-(n - 1) // step) + 2 for n, step in zip((self.rows, self.columns), self.steps, strict=True)]
        return Grid(counts[0], counts[1], self.row_mm * self.steps[0], self.column_mm * self.steps[1], 1.0)

    def refine(self, coarse_values: Floats) -> Floats:
        """Values on the coarse grid, interpolated to this one. float32."""
        values = np.ascontiguousarray(coarse_values, dtype=np.float32)
        if self.steps == (1, 1):
            return values[: self.rows, : self.columns]
        matrix = np.array([[1 / self.steps[1], 0, 0], [0, 1 / self.steps[0], 0]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        size, border = (self.columns, self.rows), cv2.BORDER_REPLICATE
        fine: Floats = cv2.warpAffine(values, matrix, size, flags=flags, borderMode=border)
        return fine


def ellipse(x: Floats, y: Floats, half_x: float, half_y: float, power: float = 2.0) -> Floats:
    """Depth in a superellipse around the origin, near enough at its border."""
    rho = ((np.abs(x) / half_x) ** power + (np.abs(y) / half_y) ** power) ** (1 / power)
    # first-order distance: the value over its slope along the ray
    return (1 - rho) * np.hypot(x, y) / np.maximum(rho, 0.05) if power == 2 else (1 - rho) * min(half_x, half_y)


def ellipsoid(
    x: Floats, y: Floats, u: float, centre: Sequence[float], axes: Sequence[float], turn: float = 0.0
) -> Floats:
    """Depth in an ellipsoid whose first axis is turned from left to anterior by `turn` radians."""
    dx, dy = x - centre[0], y - centre[1]
    if turn:
        dx, dy = dx * np.cos(turn) - dy * np.sin(turn), dx * np.sin(turn) + dy * np.cos(turn)
    rho = np.sqrt((dx / axes[0]) ** 2 + (dy / axes[1]) ** 2 + ((u - centre[2]) / axes[2]) ** 2)
    return (1 - rho) * min(axes)


def tubes_depth(x: Floats, y: Floats, u: float, tubes: Floats | Sequence[Sequence[float]]) -> Floats:
    """Depth in the union of tapering tubes."""
    depth = np.full(np.broadcast_shapes(x.shape, y.shape), -99.0, np.float32)
    for ax, ay, au, ar, bx, by, bu, br in tubes:
        if not min(au, bu) - 30 < u < max(au, bu) + 30:
            continue
        vx, vy, vu = bx - ax, by - ay, bu - au
        along = np.clip(((x - ax) * vx + (y - ay) * vy + (u - au) * vu) / (vx**2 + vy**2 + vu**2), 0, 1)
        gap = np.sqrt((x - ax - along * vx) ** 2 + (y - ay - along * vy) ** 2 + (u - au - along * vu) ** 2)
        depth = np.maximum(depth, ar + (br - ar) * along - gap)
    return depth


def both(a: Floats, b: Floats, round_mm: float = 6.0) -> Floats:
    """Depth in the intersection, its corner rounded."""
    blend = np.maximum(round_mm - np.abs(a - b), 0) / round_mm
    return np.minimum(a, b) - blend * blend * (round_mm / 4)


def either(a: Floats, b: Floats, round_mm: float = 6.0) -> Floats:
    """Depth in the union, its corner filled."""
    return -both(-a, -b, round_mm)


def share_of_voxel(depth: Floats, edge_mm: float) -> Floats:
    """How much of a voxel a shape fills, 0..1."""
    share: Floats = np.clip(depth / edge_mm + 0.5, 0, 1)
    return share


def paint_tubes(grid: Grid, u: float, tubes: Floats) -> Floats:
    """Share of each voxel that small tubes fill, (rows, columns) float32. Each is painted in a window of its own."""
    picture = np.zeros(grid.rows * grid.columns, np.float32)
    reach = np.maximum(tubes[:, 3], tubes[:, 7]) + grid.edge_mm
    near = (np.minimum(tubes[:, 2], tubes[:, 6]) - reach < u) & (u < np.maximum(tubes[:, 2], tubes[:, 6]) + reach)
    tubes, reach = tubes[near], reach[near]
    y0, x0 = grid.origin
    top = np.floor((np.minimum(tubes[:, 1], tubes[:, 5]) - reach - y0) / grid.row_mm).astype(int)
    left = np.floor((np.minimum(tubes[:, 0], tubes[:, 4]) - reach - x0) / grid.column_mm).astype(int)
    high = np.ceil((np.abs(tubes[:, 1] - tubes[:, 5]) + 2 * reach) / grid.row_mm).astype(int) + 2
    wide = np.ceil((np.abs(tubes[:, 0] - tubes[:, 4]) + 2 * reach) / grid.column_mm).astype(int) + 2
    # windows of like size together: one array operation for all
    sizes = 4 * -(-np.maximum(high, wide) // 4)
    for size in np.unique(sizes):
        of_size = sizes == size
        row = top[of_size][:, None, None] + np.arange(size)[None, :, None]
        column = left[of_size][:, None, None] + np.arange(size)[None, None, :]
        ax, ay, au, ar, bx, by, bu, br = (v[:, None, None] for v in tubes[of_size].T)
        px = (x0 + column * grid.column_mm).astype(np.float32) - ax
        py = (y0 + row * grid.row_mm).astype(np.float32) - ay
        vx, vy, vu = bx - ax, by - ay, bu - au
        squared = vx**2 + vy**2 + vu**2 + np.float32(1e-6)
        along = np.clip((px * vx + py * vy + (u - au) * vu) / squared, 0, 1)
        gap = np.sqrt((px - along * vx) ** 2 + (py - along * vy) ** 2 + (u - au - along * vu) ** 2)
        radius = ar + (br - ar) * along
        # a vessel thinner than the slice shares its voxels with air
        faint = np.minimum(1, 2 * radius / (0.2 * grid.thickness_mm + 0.6 * grid.edge_mm))
        share = share_of_voxel(radius - gap, grid.edge_mm) * faint
        inside = (row >= 0) & (row < grid.rows) & (column >= 0) & (column < grid.columns) & (share > 0)
        index = (row * grid.columns + column)[inside]
        np.maximum.at(picture, index, share[inside].astype(np.float32))
    return picture.reshape(grid.rows, grid.columns)
