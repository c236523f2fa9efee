"""A synthetic chest CT whose lung and lesion volumes are known; `phantom_dicom` writes it. Never loads keras.

The anatomy is a set of depth functions of the point (x, y, u): x to the patient's left, y to posterior, u downwards
from the lung apices, in millimetres. A depth is positive inside, in millimetres from the surface, so shapes combine
by minimum and maximum, masks are `depth > 0` and a voxel's share of a tissue is the depth clipped over one voxel.
A grid only samples these functions: the patient does not depend on it, scanner noise does. Shapes were drawn after
textbook anatomy and compared with real scans by eye; no patient's data is in here.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import highdicom as hd
import numpy as np
from pydicom.uid import generate_uid

from covct.errors import UsageError

COVERAGE_MM = 300.0
FIELD_OF_VIEW_MM = 384.0
RIGHT, LEFT = 1, 2
LESIONS = ("none", "one-voxel", "moderate", "severe")

_LUNGS_NEED_MM = (270.0, 225.0, 290.0)
_ABOVE_APEX_MM = 30.0  # of the 300 mm covered, lungs take the 240 from here on
_CENTRE_Y_MM = 10.0  # body and table together are centred a little behind the body
# Outermost layer of the lung that looks like soft tissue. 0.9 mm would give the outermost voxels the mean that
# radiologists' contours have in six LCTSC scans (-387 HU); the shipped network, which follows half-maximum edges more
# closely than those contours, then reads 2.5 % low, so the layer is thinner.
_PLEURA_MM = 0.4
_COARSE_MM = 1.5  # smooth shapes are evaluated about this fine and interpolated to the grid


@dataclass(frozen=True)
class Phantom:
    """A synthetic chest CT and its truth.

    Attributes
    ----------
    volume : highdicom.Volume
        HU, int16, (slices, rows, columns) towards feet, posterior and left ("FPL"), LPS millimetres.
    lungs : (slices, rows, columns) uint8
        0 background, 1 right lung, 2 left lung. Lesions and intrapulmonary vessels are lung; trachea, main bronchi
        and hila are not.
    infection : (slices, rows, columns) bool
        Ground glass and consolidation, all inside `lungs`.
    consolidation : (slices, rows, columns) bool
        The consolidated part of `infection`; the rest is ground glass.
    lesions : str
        One of `LESIONS`.
    seed : int
    """

    volume: hd.Volume
    lungs: np.ndarray
    infection: np.ndarray
    consolidation: np.ndarray
    lesions: str
    seed: int

    def truth(self) -> dict[str, float]:
        """Volumes in mL, counted voxel by voxel; lesion volumes of the right, the left and both lungs."""
        millilitre = float(self.volume.voxel_volume) / 1000

        def volume_ml(mask):
            return round(int(np.count_nonzero(mask)) * millilitre, 6)

        return {
            "right_lung_ml": volume_ml(self.lungs == RIGHT),
            "left_lung_ml": volume_ml(self.lungs == LEFT),
            "lungs_ml": volume_ml(self.lungs),
            "right_lung_infection_ml": volume_ml(self.infection & (self.lungs == RIGHT)),
            "left_lung_infection_ml": volume_ml(self.infection & (self.lungs == LEFT)),
            "infection_ml": volume_ml(self.infection),
            "ground_glass_ml": volume_ml(self.infection & ~self.consolidation),
            "consolidation_ml": volume_ml(self.consolidation),
        }


def make_phantom(
    slices: int = 60,
    rows: int = 512,
    columns: int = 512,
    slice_spacing_mm: float | None = None,
    pixel_spacing_mm: tuple[float, float] | None = None,
    lesions: str = "moderate",
    seed: int = 0,
) -> Phantom:
    """Make a synthetic chest CT. The same arguments give the same voxels.

    Parameters
    ----------
    slices, rows, columns : int
    slice_spacing_mm : float, optional
        Default: 300 mm divided by `slices`, 5 mm for 60.
    pixel_spacing_mm : (float, float), optional
        Between rows and between columns. Default: 384 mm divided by rows and columns, 0.75 mm for 512.
    lesions : str
        "none", "one-voxel" (a single voxel in the right lung), "moderate" (about an eighth of the lungs) or "severe"
        (nearly a half).
    seed : int
        Chooses size of the patient, vessels, lesions and noise.

    Raises
    ------
    UsageError
        An unknown kind of lesions, or a grid that would cut the lungs off.
    """
    if lesions not in LESIONS:
        raise UsageError(f"unknown lesions {lesions!r}; choose from {', '.join(LESIONS)}")
    if min(slices, rows, columns) < 1:
        raise UsageError(f"a phantom needs at least one slice, row and column, got {slices} x {rows} x {columns}")
    spacing_z = COVERAGE_MM / slices if slice_spacing_mm is None else slice_spacing_mm
    spacing_y, spacing_x = pixel_spacing_mm or (FIELD_OF_VIEW_MM / rows, FIELD_OF_VIEW_MM / columns)
    extent = (slices * spacing_z, rows * spacing_y, columns * spacing_x)
    if any(got < wanted for got, wanted in zip(extent, _LUNGS_NEED_MM, strict=True)):
        got, wanted = (" x ".join(f"{mm:.0f}" for mm in sizes) for sizes in (extent, _LUNGS_NEED_MM))
        raise UsageError(f"the grid covers {got} mm (slices, rows, columns); the lungs need {wanted} mm")

    anatomy = _grow(seed, lesions)
    spacing = (spacing_z, spacing_y, spacing_x)
    hu = np.empty((slices, rows, columns), np.int16)
    lungs = np.zeros(hu.shape, np.uint8)
    consolidation = np.zeros(hu.shape, bool)
    infection = np.zeros(hu.shape, bool)
    grid = _Grid(rows, columns, spacing_y / anatomy.scale, spacing_x / anatomy.scale, spacing_z / anatomy.scale)
    # More than 300 mm lengthen abdomen and neck alike.
    first_u = -_ABOVE_APEX_MM - (extent[0] - COVERAGE_MM) / 2 + spacing_z / 2
    for index in range(slices):
        u = (first_u + index * spacing_z) / anatomy.scale
        hu[index], lungs[index], infection[index], consolidation[index] = _render(anatomy, grid, u, (seed, index))
    volume = hd.Volume.from_components(
        hu,
        spacing=spacing,
        coordinate_system="PATIENT",
        patient_orientation="FPL",
        center_position=(0.0, _CENTRE_Y_MM, -(first_u + (slices - 1) / 2 * spacing_z)),
        frame_of_reference_uid=generate_uid(entropy_srcs=["covct phantom frame of reference", str(seed)]),
    )
    if lesions == "one-voxel":
        chosen = _healthy_voxel(volume, lungs == RIGHT)
        infection[chosen], hu[chosen] = True, -550
        volume = volume.with_array(hu)
    return Phantom(volume, lungs, infection, consolidation, lesions, seed)


def _healthy_voxel(volume: hd.Volume, right_lung: np.ndarray) -> tuple[int, ...]:
    """The aerated voxel nearest to a point in the posterior right lower lobe."""
    index = volume.map_reference_to_indices(np.array([[-70.0, 55.0, -175.0]]))[0]
    candidates = np.argwhere(right_lung & (volume.array < -700))
    distance = ((candidates - index) * np.array(volume.spacing)) ** 2
    return tuple(int(i) for i in candidates[np.argmin(distance.sum(axis=1))])


# The patient


@dataclass(frozen=True)
class _Grid:
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
        return _CENTRE_Y_MM - (self.rows - 1) / 2 * self.row_mm, -(self.columns - 1) / 2 * self.column_mm

    @property
    def edge_mm(self) -> float:
        """Over how many millimetres an in-plane edge spreads."""
        return max(self.row_mm, self.column_mm, 0.9)

    def coarse(self) -> _Grid:
        """Every so many voxels of this grid, from the same first voxel to one beyond the last."""
        counts = [-(-(n - 1) // step) + 2 for n, step in zip((self.rows, self.columns), self.steps, strict=True)]
        return _Grid(counts[0], counts[1], self.row_mm * self.steps[0], self.column_mm * self.steps[1], 1.0)

    def refine(self, coarse_values: np.ndarray) -> np.ndarray:
        """Values on the coarse grid, interpolated to this one. float32."""
        values = np.ascontiguousarray(coarse_values, dtype=np.float32)
        if self.steps == (1, 1):
            return values[: self.rows, : self.columns]
        matrix = np.array([[1 / self.steps[1], 0, 0], [0, 1 / self.steps[0], 0]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(values, matrix, (self.columns, self.rows), flags=flags, borderMode=cv2.BORDER_REPLICATE)


@dataclass(frozen=True)
class _Anatomy:
    """What the seed decides: size, irregularities, vessels, lesions.

    Attributes
    ----------
    scale : float
        Patient millimetres per anatomy millimetre.
    lattices : dict of str to (64, 64, 64) float32
        Random values at the nodes of a periodic lattice, see `_field`.
    vessels, bronchi : (tubes, 8) float32
        x, y, u and radius of both ends.
    ground_glass, consolidations : (blobs, 6) float32
        Centre x, y, u and semi-axes of ellipsoids, made ragged when they are rendered.
    """

    scale: float
    diaphragm: tuple[float, float]
    lattices: dict[str, np.ndarray]
    vessels: np.ndarray
    bronchi: np.ndarray
    ground_glass: np.ndarray
    consolidations: np.ndarray


_LATTICE_MM = {"warp-x": 45.0, "warp-y": 45.0, "fascia": 17.0, "grain": 3.0, "patches": 14.0, "rag": 7.0}


def _field(anatomy: _Anatomy, name: str, grid: _Grid, u: float) -> np.ndarray:
    """Smooth noise at the points of a slice, about zero mean and unit deviation. The same point has the same value."""
    lattice, mm = anatomy.lattices[name], _LATTICE_MM[name]
    below = int(np.floor(u / mm))
    share = u / mm - below
    plane = (1 - share) * lattice[below % 64] + share * lattice[(below + 1) % 64]
    plane = plane / np.hypot(1 - share, share)
    (y, x), flags = grid.origin, cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    matrix = np.array([[grid.column_mm / mm, 0, x / mm + 32], [0, grid.row_mm / mm, y / mm + 32]])
    smooth = cv2.warpAffine(plane, matrix, (grid.columns, grid.rows), flags=flags, borderMode=cv2.BORDER_WRAP)
    return smooth * np.float32(1.2)


# Sections of the trunk by height. Columns: u, half width and half depth of the body, its centre's y, then the same for
# the inside of the rib cage, y of the vertebral bodies, half width of the mediastinum before, at and behind the great
# vessels.
_SECTIONS = np.array(
    [
        (-140, 100, 60, 20, 20, 20, 20, 36, 40, 40, 40),
        (-60, 168, 60, 30, 24, 22, 22, 38, 40, 40, 40),
        (-30, 175, 70, 24, 36, 30, 20, 44, 34, 32, 30),
        (0, 177, 84, 18, 56, 42, 17, 50, 26, 25, 22),
        (20, 175, 95, 13, 82, 57, 13, 53, 15, 26, 20),
        (40, 171, 103, 11, 98, 68, 9, 56, 9, 28, 18),
        (70, 166, 110, 9, 113, 78, 5, 59, 5, 31, 16),
        (100, 163, 115, 7, 122, 84, 3, 60, 4, 30, 15),
        (140, 163, 119, 5, 130, 88, 1, 60, 8, 26, 15),
        (180, 163, 121, 3, 134, 91, 0, 57, 20, 28, 17),
        (220, 161, 122, 2, 135, 92, -1, 53, 30, 32, 24),
        (260, 157, 122, 1, 132, 91, -2, 47, 34, 36, 30),
        (300, 153, 120, 0, 128, 88, -3, 42, 34, 36, 30),
        (400, 153, 120, 0, 128, 88, -3, 38, 34, 36, 30),
    ],
    float,
)


def _section(u: float) -> np.ndarray:
    """The row of `_SECTIONS` at this height, smoothed so that no edge shows where two stretches meet."""
    heights = u + np.array([-10.0, -5.0, 0.0, 5.0, 10.0])
    weights = (1, 2, 3, 2, 1)
    return np.array(
        [np.average(np.interp(heights, _SECTIONS[:, 0], column), weights=weights) for column in _SECTIONS.T]
    )


# Tubes of the mediastinum: x, y, u, radius at both ends.
_ARTERIES = np.array(
    [
        (-10, -26, 135, 16, -12, -24, 88, 15),  # ascending aorta
        (-12, -24, 88, 15, 4, -4, 72, 13),  # arch
        (4, -4, 72, 13, 22, 32, 80, 12.5),
        (22, 32, 80, 12.5, 25, 45, 110, 12),  # descending aorta
        (25, 45, 110, 12, 22, 42, 190, 11),
        (22, 42, 190, 11, 10, 24, 300, 10),
        (-28, -18, 150, 9, -28, -20, 52, 9),  # superior vena cava
        (-28, -20, 52, 8, -26, -22, 0, 7),
        (-26, -22, 48, 7, 22, -26, 30, 6),  # left brachiocephalic vein
        (22, -26, 30, 6, 30, -16, -10, 6),
        (-24, 4, 150, 11, -24, 6, 300, 12),  # inferior vena cava
        (-10, -12, 70, 6, -20, -8, 10, 5.5),  # brachiocephalic trunk, carotids, subclavian
        (-20, -8, 10, 4.5, -24, -4, -120, 4),
        (6, -4, 68, 4, 18, -6, -120, 4),
        (20, 8, 74, 5, 22, 12, 10, 4.5),
        (22, 12, 10, 4.5, 100, -6, 6, 4.5),
        (-20, -4, 12, 4.5, -100, -6, 6, 4.5),
        (-36, 2, 118, 9, -51, 16, 138, 7),  # interlobar arteries
        (-51, 16, 138, 7, -53, 26, 152, 5),
        (46, 14, 104, 9, 58, 34, 125, 7.5),
        (58, 34, 125, 7.5, 58, 41, 148, 5),
        (14, -42, 135, 14, 24, -16, 110, 13),  # pulmonary trunk
        (24, -16, 110, 12, 46, 14, 104, 10),  # left and right pulmonary artery
        (20, -10, 114, 11, -36, 2, 118, 10),
        (10, 8, 140, 15, -14, 8, 142, 15),  # left atrium and its veins
        (-14, 8, 142, 9, -44, 6, 150, 7),
        (10, 8, 140, 9, 50, 16, 148, 7),
    ],
    float,
)
_AIRWAYS = np.array(
    [
        (-1, -4, -140, 8.5, -2, 2, 0, 9),
        (-2, 2, 0, 9, -3, 16, 92, 9),
        (-3, 16, 92, 8.5, -34, 20, 114, 7),  # right main bronchus, bronchus intermedius
        (-34, 20, 114, 6, -42, 20, 144, 5),
        (-3, 16, 92, 8, 40, 24, 124, 6),  # left main bronchus
        (40, 24, 124, 5, 50, 28, 140, 4.5),
    ],
    float,
)
_BONY_TUBES = np.array(
    [
        (-28, -62, 22, 8, -75, -58, 6, 6),  # clavicles
        (-75, -58, 6, 6, -140, -20, -14, 7),
        (28, -62, 22, 8, 75, -58, 6, 6),
        (75, -58, 6, 6, 140, -20, -14, 7),
        (-145, 8, 4, 21, -146, 4, -60, 12),  # heads of the humeri
        (145, 8, 4, 21, 146, 4, -60, 12),
        (-138, 40, 20, 8, -122, 34, 26, 10),  # necks of the scapulae
        (138, 40, 20, 8, 122, 34, 26, 10),
    ],
    float,
)


def _ellipse(x, y, half_x, half_y, power=2.0):
    """Depth in a superellipse around the origin, near enough at its border."""
    rho = ((np.abs(x) / half_x) ** power + (np.abs(y) / half_y) ** power) ** (1 / power)
    # first-order distance: the value over its slope along the ray
    return (1 - rho) * np.hypot(x, y) / np.maximum(rho, 0.05) if power == 2 else (1 - rho) * min(half_x, half_y)


def _ellipsoid(x, y, u, centre, axes, turn=0.0):
    """Depth in an ellipsoid whose first axis is turned from left to anterior by `turn` radians."""
    dx, dy = x - centre[0], y - centre[1]
    if turn:
        dx, dy = dx * np.cos(turn) - dy * np.sin(turn), dx * np.sin(turn) + dy * np.cos(turn)
    rho = np.sqrt((dx / axes[0]) ** 2 + (dy / axes[1]) ** 2 + ((u - centre[2]) / axes[2]) ** 2)
    return (1 - rho) * min(axes)


def _tubes(x, y, u, tubes):
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


def _both(a, b, round_mm=6.0):
    """Depth in the intersection, its corner rounded."""
    blend = np.maximum(round_mm - np.abs(a - b), 0) / round_mm
    return np.minimum(a, b) - blend * blend * (round_mm / 4)


def _either(a, b, round_mm=6.0):
    """Depth in the union, its corner filled."""
    return -_both(-a, -b, round_mm)


def _share(depth, edge_mm):
    """How much of a voxel a shape fills, 0..1."""
    return np.clip(depth / edge_mm + 0.5, 0, 1)


def _diaphragm(x, y, levels):
    """Height u of the diaphragm and the length of (1, slope): the right dome is the higher."""
    right, left = levels
    centre = np.where(x < 0, -62.0, 66.0)
    wide = np.where(x < 0, 78.0, 74.0)
    rho2 = ((x - centre) / wide) ** 2 + ((y + 4) / 88) ** 2
    height = np.where(x < 0, right, left) + 56 * rho2 + 0.12 * y
    slope = np.hypot(112 * (x - centre) / wide**2, 112 * (y + 4) / 88**2 + 0.12)
    return height, np.sqrt(1 + slope**2)


@dataclass(frozen=True)
class _Shapes:
    """Depths of the shapes that bound others, at the points of one slice."""

    x: np.ndarray
    y: np.ndarray
    cage: np.ndarray
    lungs: np.ndarray
    heart: np.ndarray
    arteries: np.ndarray
    airways: np.ndarray
    below_diaphragm: np.ndarray


def _shapes(x, y, u, levels) -> _Shapes:
    """Rib cage, lungs and mediastinum at the points of one slice."""
    _, _, _, _, half_x, half_y, centre_y, spine_y, before, vessels, behind = _section(u)
    cage = _ellipse(x, y - centre_y, half_x, half_y, 2.3)
    heart = _ellipsoid(x, y, u, (22, -27, 158), (62, 46, 60), 0.6)
    arteries, airways = _tubes(x, y, u, _ARTERIES), _tubes(x, y, u, _AIRWAYS)
    at_y = (-95, -60, -35, 8, 30, spine_y - 10, spine_y + 8, spine_y + 34)
    widths = (before, before, vessels, vessels, behind, 22, 24, 46)
    width = (np.interp(y - 9, at_y, widths) + np.interp(y, at_y, widths) + np.interp(y + 9, at_y, widths)) / 3
    middle = _either(width - np.abs(x - 1), heart + 3)
    middle = _either(middle, np.maximum(arteries, airways) + 2, 8)
    height, slope = _diaphragm(x, y, levels)
    above = (height - u) / slope
    apex_x, apex_u = np.where(x < 0, -46, 47), np.where(x < 0, 4.0, 0.0)
    off_x, off_y = x - apex_x, y - centre_y - 4
    apex = (u - apex_u - (off_x**2 + off_y**2) / 64) / np.sqrt(1 + (off_x**2 + off_y**2) / 1024)
    lungs = _both(_both(cage, -middle, 12), _both(above, apex), 4)
    return _Shapes(x, y, cage, lungs, heart, arteries, airways, -above)


def _points(anatomy: _Anatomy, grid: _Grid, u: float) -> tuple[np.ndarray, np.ndarray]:
    """x and y of a slice's points, bent a little so that no border is an ideal curve. Same shape, float32."""
    y0, x0 = grid.origin
    x = (x0 + grid.column_mm * np.arange(grid.columns, dtype=np.float32))[None, :]
    y = (y0 + grid.row_mm * np.arange(grid.rows, dtype=np.float32))[:, None]
    return x + 2.0 * _field(anatomy, "warp-x", grid, u), y + 2.0 * _field(anatomy, "warp-y", grid, u)


# Vessels and lesions


def _grow(seed: int, lesions: str) -> _Anatomy:
    """Draw everything random about the patient."""
    rng = np.random.default_rng([seed, 1])
    lattices = {name: rng.standard_normal((64, 64, 64), dtype=np.float32) for name in _LATTICE_MM}
    levels = (166 + rng.uniform(-6, 6), 178 + rng.uniform(-6, 6))
    nothing = np.zeros((0, 6), np.float32)
    scale = float(rng.uniform(0.95, 1.04))
    anatomy = _Anatomy(scale, levels, lattices, nothing, nothing, nothing, nothing)
    points, depth = _lung_points(anatomy)
    trees = [_tree(points[side], hilum, rng) for side, hilum in _hila(points)]
    vessels = np.concatenate(trees)
    large = vessels[(vessels[:, 3] > 1.5) & (vessels[:, 3] < 4)]
    # a bronchus runs beside each larger artery
    bronchi = large + (large[:, [3]] * 1.9) * np.array([0.7, 0.7, 0, 0, 0.7, 0.7, 0, 0])
    bronchi[:, [3, 7]] *= 0.75
    blobs = _blobs(points, depth, lesions, np.random.default_rng([seed, 2]))
    return _Anatomy(scale, levels, lattices, vessels.astype(np.float32), bronchi.astype(np.float32), *blobs)


def _lung_points(anatomy, step=5.0):
    """Points inside the lungs on a fixed raster, (n, 3) x y u, and their depths."""
    grid = _Grid(60, 60, step, step, step)
    found, depths = [], []
    for u in np.arange(2.5, 250, step):
        shapes = _shapes(*_points(anatomy, grid, u), u, anatomy.diaphragm)
        inside = shapes.lungs > 1
        found.append(np.stack([shapes.x[inside], shapes.y[inside], np.full(inside.sum(), u)], axis=1))
        depths.append(shapes.lungs[inside])
    return np.concatenate(found), np.concatenate(depths)


def _hila(points):
    return [(points[:, 0] < 0, (-40.0, 8.0, 126.0)), (points[:, 0] > 0, (46.0, 18.0, 120.0))]


def _tree(points, hilum, rng, ends=1100, piece_mm=5.0, smallest_mm=0.6):
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


# number and radii (mm) of ground glass and consolidations
_EXTENT = {
    "none": (0, (1, 1), 0, (1, 1)),
    "one-voxel": (0, (1, 1), 0, (1, 1)),
    "moderate": (12, (15, 32), 5, (10, 17)),
    "severe": (26, (22, 44), 9, (12, 24)),
}


def _blobs(points, depth, lesions, rng):
    """Ellipsoids of ground glass and of consolidation: peripheral, posterior and basal, as in COVID-19 pneumonia."""
    count, radii, dense_count, dense_radii = _EXTENT[lesions]
    weight = np.exp(-depth / 14 + points[:, 1] / 45 + points[:, 2] / 120)
    # the outermost centimetres at the very base hold no room for a lesion
    weight = weight * (points[:, 2] < 205) * (points[:, 2] > 25)

    def draw(number, low_high):
        centres = points[rng.choice(len(points), number, replace=False, p=weight / weight.sum())]
        axes = rng.uniform(*low_high, (number, 1)) * rng.uniform(0.75, 1.2, (number, 3))
        return np.concatenate([centres, axes], axis=1).astype(np.float32)

    ground_glass, dense = draw(count, radii), draw(dense_count, dense_radii)
    # every other consolidation has formed inside ground glass
    dense[::2, :3] = ground_glass[: len(dense[::2]), :3]
    return ground_glass, dense


def _blob_depth(x, y, u, blobs):
    depth = np.full(x.shape, -60.0, np.float32)
    for cx, cy, cu, *axes in blobs:
        if abs(u - cu) < 1.6 * axes[2]:
            depth = np.maximum(depth, _ellipsoid(x, y, u, (cx, cy, cu), axes))
    return depth


def _paint_tubes(grid: _Grid, u: float, tubes: np.ndarray) -> np.ndarray:
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
        share = _share(radius - gap, grid.edge_mm) * faint
        inside = (row >= 0) & (row < grid.rows) & (column >= 0) & (column < grid.columns) & (share > 0)
        index = (row * grid.columns + column)[inside]
        np.maximum.at(picture, index, share[inside].astype(np.float32))
    return picture.reshape(grid.rows, grid.columns)


# Rendering


def _render(anatomy: _Anatomy, grid: _Grid, u: float, seed: tuple[int, int]):
    """One slice at height u.

    Returns
    -------
    hu : (rows, columns) int16
    lungs : (rows, columns) uint8
    infection, consolidation : (rows, columns) bool
    """
    coarse = grid.coarse()
    shapes = _shapes(*_points(anatomy, coarse, u), u, anatomy.diaphragm)
    tissue, bone, body = _soft_tissue(anatomy, coarse, u, shapes), _bone(shapes, u), _body(shapes, u)
    hu = grid.refine(tissue)
    hu += (grid.refine(_bone_hu(bone, anatomy, coarse, u)) - hu) * _share(grid.refine(bone), grid.edge_mm)
    table = _table(grid)
    hu = table + (hu - table) * _share(grid.refine(body), grid.edge_mm)

    lung = grid.refine(shapes.lungs)
    lungs = np.where(lung > 0, np.where(grid.refine(shapes.x) < 1, RIGHT, LEFT), 0).astype(np.uint8)
    infection = consolidation = np.zeros(hu.shape, bool)
    if lungs.any():
        parenchyma, infection, consolidation = _parenchyma(anatomy, grid, u, shapes)
        hu += (parenchyma - hu) * _share(lung - _PLEURA_MM, grid.edge_mm)
        infection, consolidation = infection & (lungs > 0), consolidation & (lungs > 0)
    airways = grid.refine(shapes.airways)
    hu += (20 - hu) * _share(airways + 1.2, grid.edge_mm)
    hu += (-990 - hu) * _share(airways, grid.edge_mm)
    return _scan(hu, grid, u, seed), lungs, infection, consolidation


def _body(shapes: _Shapes, u: float) -> np.ndarray:
    """Depth below the skin."""
    _, half_x, half_y, centre_y, *_ = _section(u)
    x, y = shapes.x, shapes.y
    trunk = _ellipse(x, y - centre_y, half_x, half_y, 2.5)
    if u < 40:
        trunk = _either(trunk, _ellipse(x, y - 4, 58, 62) - 0.5 * max(0.0, u), 25)
    return _both(trunk, _table_top(x) - 1 - y, 20)


def _table_top(x):
    """y of the table, which bends up at both sides."""
    return 127 - 0.0006 * x * x


def _table(grid: _Grid) -> np.ndarray:
    """HU of the air around the patient and of the table: two carbon-fibre shells with foam between."""
    y0, x0 = grid.origin
    x = (x0 + grid.column_mm * np.arange(grid.columns, dtype=np.float32))[None, :]
    below = (y0 + grid.row_mm * np.arange(grid.rows, dtype=np.float32))[:, None] - _table_top(x)
    thick = 24 + 0.0009 * x * x
    hu = np.where((below > 0) & (below < thick), np.float32(-965), np.float32(-1000))
    for shell, dense in ((2, 480), (thick, 650)):
        hu = np.maximum(hu, -1000 + dense * np.clip(1.5 - np.abs(below - shell) / max(1.2, grid.row_mm), 0, 1))
    return np.where(np.abs(x) < 188, hu, np.float32(-1000))


def _soft_tissue(anatomy: _Anatomy, grid: _Grid, u: float, shapes: _Shapes) -> np.ndarray:
    """HU of everything but bone, lungs and airways, on the coarse grid. Outermost first, what is laid over it later."""
    x, y, edge = shapes.x, shapes.y, max(1.2, grid.row_mm, grid.column_mm)
    fascia, patches = _field(anatomy, "fascia", grid, u), _field(anatomy, "patches", grid, u)
    skin = _body(shapes, u)
    streaks = np.clip(1 - np.abs(fascia) / 0.16, 0, 1)
    fat = -102 + 6 * patches + 60 * np.clip(1 - np.abs(fascia - 0.4) / 0.08, 0, 1)
    muscle = 54 + 5 * patches - 85 * streaks
    hu = fat + (20 - fat) * _share(1.8 - skin, edge)

    def lay(value, depth, width=edge):
        nonlocal hu
        hu = hu + (value - hu) * _share(depth, width)

    belt = 11 + 3 * patches + 7 * np.clip((np.abs(x) - 40) / 70, 0, 1) * (y < 20) + 3 * (u > 200)
    lay(muscle, skin - belt, 3)
    for side in (-1, 1):
        lay(
            -100 + 60 * np.clip(fascia - 0.9, 0, 1),
            _ellipsoid(x, y, u, (side * 122, -4, 50), (17, 34, 55)) + patches,
            3,
        )
    outside = -shapes.cage
    lay(45.0, 9 - outside)  # intercostal muscles
    inner = _either(shapes.cage + 1, shapes.lungs + 2.5)
    lay(-95 + 8 * patches + 100 * np.clip(fascia - 1.0, 0, 1), inner - 1.5)  # fat of mediastinum and abdomen
    if u < 10:
        lay(muscle, _both(skin - belt - 2, np.hypot(x, 1.2 * (y - 2)) - 24), 8)  # above the lungs
    abdomen = _both(shapes.below_diaphragm, shapes.cage)
    lay(50.0, abdomen)  # the diaphragm itself, organs or fat inside it
    inside = abdomen - 3.0
    lay(-100 + 8 * patches + 120 * np.clip(fascia - 0.7, 0, 1), inside)
    lay(58 + 3 * patches, _both(inside, 34 - 0.75 * (y + 10) - x - 0.25 * max(0.0, u - 215)) + 0.3 * patches)
    lay(52 + 2 * patches, _both(inside - 1, _ellipsoid(x, y, u, (98, 38, 225), (34, 46, 48))))
    for side in (-1, 1):
        lay(33.0, _ellipsoid(x, y, u, (side * 62, 44, 295), (27, 24, 46)))
    stomach = _both(inside - 1, _ellipsoid(x, y, u, (58, -22, 226), (44, 46, 44)))
    lay(38 + 12 * patches, stomach)
    lay(-940.0, _both(stomach - 4, -32 - y, 3))
    lay(46 + 2 * patches, shapes.heart)
    lay(46.0, shapes.arteries)
    lay(40.0, _tubes(x, y, u, [(4, 20, -140, 7, 6, 34, 120, 7), (6, 34, 120, 7, 12, 22, 205, 8)]))  # oesophagus
    lay(70.0, _tubes(x, y, u, [(0, -16, -20, 16, 0, -18, 2, 8)]))  # thyroid
    lay(95.0, _ribs(shapes, u, cartilage=True))
    return hu.astype(np.float32)


def _bone(shapes: _Shapes, u: float) -> np.ndarray:
    """Depth in bone: ribs, sternum, spine, shoulder girdle."""
    x, y = shapes.x, shapes.y
    depth = np.maximum(_ribs(shapes, u), _spine(x, y, u))
    front = _section(u)[6] - _section(u)[5]
    if 18 < u < 190:
        wide = np.interp(u, (18, 30, 60, 80, 150, 190), (8, 30, 26, 17, 18, 6))
        depth = np.maximum(depth, _ellipse(x, y - front + 9, wide, 6.5, 2.6))
    depth = np.maximum(depth, _tubes(x, y, u, _BONY_TUBES))
    if 8 < u < 165:  # shoulder blades, slanting plates that narrow downwards
        share = (u - 8) / 157
        outer = np.array((140 - 30 * share, 42 + 42 * share))
        inner = np.array((72 + 22 * share, 88 + 12 * share))
        for side in (-1, 1):
            plate = [(side * outer[0], outer[1], u, 4.2, side * inner[0], inner[1], u, 2.4)]
            depth = np.maximum(depth, _tubes(x, y, u, plate))
            if u < 45:  # the spine of the blade
                middle = 0.5 * (outer + inner)
                spur = [(side * middle[0], middle[1], u, 3, side * (middle[0] + 9), middle[1] + 13, u, 2.5)]
                depth = np.maximum(depth, _tubes(x, y, u, spur))
    return depth


_RIB_PITCH_MM = 23.0
_RIBS = 12


def _ribs(shapes: _Shapes, u: float, cartilage: bool = False) -> np.ndarray:
    """Depth in the ribs, which fall from the spine forward and end in cartilage."""
    angle = np.arctan2(np.abs(shapes.x), shapes.y - _section(u)[6])  # 0 posterior, pi anterior
    start = u - 90 * np.sin(np.clip(angle / 2.4, 0, 1) * np.pi / 2) - 4
    nearest = np.clip(np.round(start / _RIB_PITCH_MM), 0, _RIBS - 1)
    above = (start - nearest * _RIB_PITCH_MM) / 6.0
    across = (-shapes.cage - 6) / 4.0
    depth = (1 - np.hypot(above, across)) * 4.0
    bony_until = np.where(nearest < 7, 2.45, 2.45 - 0.3 * (nearest - 6))
    if cartilage:
        return _both(depth, np.where(nearest < 10, (angle - bony_until) * 100, -99.0), 1)
    return _both(depth, (bony_until - angle) * 100, 1)


def _spine(x, y, u):
    """Depth in the vertebrae: body, arch around the canal, processes; discs between."""
    centre_y = _section(u)[7]
    phase = (u + 6) % 23.0
    wide = np.interp(u, (-60, 60, 260), (14, 16, 21))
    depth = np.full(x.shape, -99.0, np.float32)
    if phase > 4.5:
        depth = _ellipse(x, y - centre_y, wide, 0.85 * wide, 2.4)
    canal = _ellipse(x, y - centre_y - 0.85 * wide - 8, 10, 8.5)
    arch = np.minimum(canal + 4.5, -canal)
    if phase > 15:
        arch = np.minimum(arch, np.abs(x) - 5)  # pedicles and joints only
    depth = np.maximum(depth, arch)
    back = centre_y + 0.85 * wide
    if 6 < phase < 17:
        for side in (-1, 1):
            process = [(side * 11, back + 8, u, 5, side * 31, back + 15, u, 3.5)]
            depth = np.maximum(depth, _tubes(x, y, u, process))
    spinous = [(0, back + 18, u, 4, 0, back + 24 + 0.9 * phase, u, 3)]
    depth = np.maximum(depth, _tubes(x, y, u, spinous))
    return np.minimum(depth, np.maximum(-canal, -99))


def _bone_hu(bone, anatomy: _Anatomy, grid: _Grid, u: float):
    """Bright cortex of about 2 mm around spongy bone."""
    marrow = 170 + 45 * _field(anatomy, "grain", grid, u)
    return marrow + (780 - marrow) * np.exp(-(((bone - 0.8) / 1.3) ** 2))


def _parenchyma(anatomy: _Anatomy, grid: _Grid, u: float, shapes: _Shapes):
    """HU inside the lungs with vessels, bronchi and lesions, and the masks of infection and consolidation."""
    coarse = grid.coarse()
    grain, rag = _field(anatomy, "grain", coarse, u), _field(anatomy, "rag", coarse, u)
    patches = _field(anatomy, "patches", coarse, u)
    # dependent lung holds more blood
    coarse_hu = -872 + 0.33 * shapes.y + 16 * grain + 10 * patches + 22 * np.exp(-np.maximum(shapes.lungs, 0) / 6)
    hu = grid.refine(coarse_hu)
    bronchi = _paint_tubes(grid, u, anatomy.bronchi)
    walls = anatomy.bronchi + np.array([0, 0, 0, 0.9, 0, 0, 0, 0.9], np.float32)
    hu += (0 - hu) * 0.6 * _paint_tubes(grid, u, walls)
    hu += (-960 - hu) * bronchi
    hu += (38 - hu) * _paint_tubes(grid, u, anatomy.vessels)

    ragged = 3.2 * rag + 1.2 * grain + 2.5 * patches
    hazy = grid.refine(_blob_depth(shapes.x, shapes.y, u, anatomy.ground_glass) + ragged)
    dense = grid.refine(_blob_depth(shapes.x, shapes.y, u, anatomy.consolidations) + 0.6 * ragged)
    # A lesion takes the place of air, so vessels stay visible in ground glass.
    haze = _share(hazy, 6.0) * grid.refine(np.clip(0.36 + 0.05 * patches + 0.05 * rag, 0.24, 0.48))
    hu += (40 - hu) * haze
    hu += (20 - hu) * np.float32(0.98) * _share(dense, 2.0)
    return hu, (hazy > 0) | (dense > 0), dense > 0


def _scan(hu: np.ndarray, grid: _Grid, u: float, seed: tuple[int, int]) -> np.ndarray:
    """What the scanner adds: a little blur and correlated noise, more of it and streaky through the shoulders."""
    rng = np.random.default_rng([seed[0], 3, seed[1]])
    sigmas = 0.55 / grid.column_mm, 0.55 / grid.row_mm
    hu = cv2.GaussianBlur(hu.astype(np.float32), (0, 0), sigmas[0], sigmaY=sigmas[1])
    white = rng.standard_normal(hu.shape, dtype=np.float32)
    grain = cv2.GaussianBlur(white, (0, 0), 0.75) - 0.7 * cv2.GaussianBlur(white, (0, 0), 2.0)
    streaks = cv2.GaussianBlur(white, (0, 0), 6.0, sigmaY=0.7)
    shoulders = float(np.exp(-(((u + 5) / 35) ** 2)))
    inside = cv2.blur((hu > -700).astype(np.float32), (41, 41)) * 0.6 + 0.4
    noise = (19 + 12 * shoulders) / grain.std() * grain + 14 * shoulders / streaks.std() * streaks
    return np.clip(np.rint(hu + noise * inside), -1024, 3071).astype(np.int16)


# Files
