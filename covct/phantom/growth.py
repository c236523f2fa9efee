"""What the seed decides: size of the patient, irregularities, vessels, bronchi and lesions."""

from __future__ import annotations

import numpy as np

from covct.phantom.anatomy import LATTICE_MM, Anatomy, points_at, shapes_at
from covct.phantom.shapes import Grid
from covct.voxels.arrays import Floats, Mask


def grow(seed: int, lesions: str) -> Anatomy:
    """Draw everything random about the patient."""
    rng = np.random.default_rng([seed, 1])
    lattices = {name: rng.standard_normal((64, 64, 64), dtype=np.float32) for name in LATTICE_MM}
    levels = (166 + rng.uniform(-6, 6), 178 + rng.uniform(-6, 6))
    nothing = np.zeros((0, 6), np.float32)
    scale = float(rng.uniform(0.95, 1.04))
    anatomy = Anatomy(scale, levels, lattices, nothing, nothing, nothing, nothing)
    points, depth = _lung_points(anatomy)
    trees = [_tree(points[side], hilum, rng) for side, hilum in _hila(points)]
    vessels = np.concatenate(trees)
    large = vessels[(vessels[:, 3] > 1.5) & (vessels[:, 3] < 4)]
    # a bronchus runs beside each larger artery
    bronchi = large + (large[:, [3]] * 1.9) * np.array([0.7, 0.7, 0, 0, 0.7, 0.7, 0, 0])
    bronchi[:, [3, 7]] *= 0.75
    blobs = _blobs(points, depth, lesions, np.random.default_rng([seed, 2]))
    return Anatomy(scale, levels, lattices, vessels.astype(np.float32), bronchi.astype(np.float32), *blobs)


def _lung_points(anatomy: Anatomy, step: float = 5.0) -> tuple[Floats, Floats]:
    """Points inside the lungs on a fixed raster, (n, 3) x y u, and their depths."""
    grid = Grid(60, 60, step, step, step)
    found, depths = [], []
    for u in np.arange(2.5, 250, step):
        shapes = shapes_at(*points_at(anatomy, grid, u), u, anatomy.diaphragm)
        inside = shapes.lungs > 1
        found.append(np.stack([shapes.x[inside], shapes.y[inside], np.full(inside.sum(), u)], axis=1))
        depths.append(shapes.lungs[inside])
    return np.concatenate(found), np.concatenate(depths)


def _hila(points: Floats) -> list[tuple[Mask, tuple[float, float, float]]]:
    return [(points[:, 0] < 0, (-40.0, 8.0, 126.0)), (points[:, 0] > 0, (46.0, 18.0, 120.0))]


def _tree(
    points: Floats,
    hilum: tuple[float, float, float],
    rng: np.random.Generator,
    ends: int = 1100,
    piece_mm: float = 5.0,
    smallest_mm: float = 0.6,
) -> Floats:
    """A vessel tree from the hilum to random points of one lung: every end joins the near part of the tree.

    Radii nearly follow Murray's law (1926), by which the cube of a parent's radius is the sum of its children's; an
    exponent of 2.7 is closer to what pulmonary arteries do.

    Returns
    -------
    (tubes, 8) float64
    """
    ends = min(ends, len(points))
    targets = points[rng.choice(len(points), ends, replace=False)] + rng.uniform(-2, 2, (ends, 3))
    targets = targets[np.argsort(np.linalg.norm(targets - hilum, axis=1))]
    nodes, length = np.empty((ends * 60, 3)), np.empty(ends * 60)
    nodes[0], length[0], parents = hilum, 0, [-1]
    for target in targets:
        count = len(parents)
        gap = np.linalg.norm(nodes[:count] - target, axis=1)
        # a detour over a near branch costs less than a new trunk, but not much less
        start = int(np.argmin(gap + 0.22 * length[:count]))
        pieces = max(1, round(gap[start] / piece_mm))
        t = np.arange(1, pieces + 1) / pieces
        straight = nodes[start] + t[:, None] * (target - nodes[start])
        bend = rng.normal(0, 0.06 * gap[start], 3)
        nodes[count : count + pieces] = straight + (4 * t * (1 - t))[:, None] * bend
        length[count : count + pieces] = length[start] + t * gap[start]
        parents += [start, *range(count, count + pieces - 1)]
    nodes = nodes[: len(parents)]
    powers = np.zeros(len(nodes))
    is_end = np.ones(len(nodes), bool)
    is_end[[p for p in parents if p >= 0]] = False
    powers[is_end] = smallest_mm**2.7
    for node in range(len(nodes) - 1, 0, -1):
        powers[parents[node]] += powers[node]
    radius, parent = powers ** (1 / 2.7), np.array(parents[1:])
    return np.column_stack([nodes[parent], np.minimum(radius[parent], radius[1:] * 1.25), nodes[1:], radius[1:]])


_LEFT_OF_MODERATE = (4, 1)  # of its ground glass and consolidations, in "mild"
# number and radii (mm) of ground glass and consolidations
_EXTENT = {
    "none": (0, (1, 1), 0, (1, 1)),
    "one-voxel": (0, (1, 1), 0, (1, 1)),
    "mild": (12, (15, 32), 5, (10, 17)),
    "moderate": (12, (15, 32), 5, (10, 17)),
    "severe": (26, (22, 44), 9, (12, 24)),
}


def _blobs(points: Floats, depth: Floats, lesions: str, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Ellipsoids of ground glass and of consolidation: peripheral, posterior and basal, as in COVID-19 pneumonia."""
    count, radii, dense_count, dense_radii = _EXTENT[lesions]
    weight = np.exp(-depth / 14 + points[:, 1] / 45 + points[:, 2] / 120)
    # the outermost centimetres at the very base hold no room for a lesion
    weight = weight * (points[:, 2] < 205) * (points[:, 2] > 25)

    def draw(number: int, low_high: tuple[float, float]) -> Floats:
        centres = points[rng.choice(len(points), number, replace=False, p=weight / weight.sum())]
        axes = rng.uniform(*low_high, (number, 1)) * rng.uniform(0.75, 1.2, (number, 3))
        return np.concatenate([centres, axes], axis=1).astype(np.float32)

    ground_glass, dense = draw(count, radii), draw(dense_count, dense_radii)
    # every other consolidation has formed inside ground glass
    dense[::2, :3] = ground_glass[: len(dense[::2]), :3]
    if lesions == "mild":
        return ground_glass[: _LEFT_OF_MODERATE[0]], dense[: _LEFT_OF_MODERATE[1]]
    return ground_glass, dense
