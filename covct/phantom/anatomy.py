"""The phantom's anatomy: depths of its body, bones, lungs and mediastinum at the point (x, y, u).

x to the patient's left, y to posterior, u downwards from the lung apices, in millimetres. Shapes were drawn after
textbook anatomy and compared with real scans by eye; no patient's data is in here.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from covct.phantom.shapes import Grid, both, either, ellipse, ellipsoid, tubes_depth
from covct.voxels.arrays import Floats


@dataclass(frozen=True)
class Anatomy:
    """What the seed decides: size, irregularities, vessels, lesions.

    Attributes
    ----------
    scale : float
        Patient millimetres per anatomy millimetre.
    lattices : dict of str to (64, 64, 64) float32
        Random values at the nodes of a periodic lattice, see `field`.
    vessels, bronchi : (tubes, 8) float32
        x, y, u and radius of both ends.
    ground_glass, consolidations : (blobs, 6) float32
        Centre x, y, u and semi-axes of ellipsoids, made ragged when they are rendered.
    """

    scale: float
    diaphragm: tuple[float, float]
    lattices: dict[str, Floats]
    vessels: Floats
    bronchi: Floats
    ground_glass: Floats
    consolidations: Floats


LATTICE_MM = {"warp-x": 45.0, "warp-y": 45.0, "fascia": 17.0, "grain": 3.0, "patches": 14.0, "rag": 7.0}


def field(anatomy: Anatomy, name: str, grid: Grid, u: float) -> Floats:
    """Smooth noise at the points of a slice, about zero mean and unit deviation. The same point has the same value."""
    lattice, mm = anatomy.lattices[name], LATTICE_MM[name]
    below = int(np.floor(u / mm))
    share = u / mm - below
    plane = (1 - share) * lattice[below % 64] + share * lattice[(below + 1) % 64]
    plane = plane / np.hypot(1 - share, share)
    (y, x), flags = grid.origin, cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    matrix = np.array([[grid.column_mm / mm, 0, x / mm + 32], [0, grid.row_mm / mm, y / mm + 32]])
    smooth: Floats = cv2.warpAffine(plane, matrix, (grid.columns, grid.rows), flags=flags, borderMode=cv2.BORDER_WRAP)
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


def section(u: float) -> Floats:
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


@dataclass(frozen=True)
class Shapes:
    """Depths of the shapes that bound others, at the points of one slice."""

    x: Floats
    y: Floats
    cage: Floats
    lungs: Floats
    heart: Floats
    arteries: Floats
    airways: Floats
    below_diaphragm: Floats


def shapes_at(x: Floats, y: Floats, u: float, levels: tuple[float, float]) -> Shapes:
    """Rib cage, lungs and mediastinum at the points of one slice."""
    _, _, _, _, half_x, half_y, centre_y, spine_y, before, vessels, behind = section(u)
    cage = ellipse(x, y - centre_y, half_x, half_y, 2.3)
    heart = ellipsoid(x, y, u, (22, -27, 158), (62, 46, 60), 0.6)
    arteries, airways = tubes_depth(x, y, u, _ARTERIES), tubes_depth(x, y, u, _AIRWAYS)
    at_y = (-95, -60, -35, 8, 30, spine_y - 10, spine_y + 8, spine_y + 34)
    widths = (before, before, vessels, vessels, behind, 22, 24, 46)
    width = (np.interp(y - 9, at_y, widths) + np.interp(y, at_y, widths) + np.interp(y + 9, at_y, widths)) / 3
    middle = either(width - np.abs(x - 1), heart + 3)
    middle = either(middle, np.maximum(arteries, airways) + 2, 8)
    height, slope = _diaphragm(x, y, levels)
    above = (height - u) / slope
    apex_x, apex_u = np.where(x < 0, -46, 47), np.where(x < 0, 4.0, 0.0)
    off_x, off_y = x - apex_x, y - centre_y - 4
    apex = (u - apex_u - (off_x**2 + off_y**2) / 64) / np.sqrt(1 + (off_x**2 + off_y**2) / 1024)
    lungs = both(both(cage, -middle, 12), both(above, apex), 4)
    return Shapes(x, y, cage, lungs, heart, arteries, airways, -above)


def _diaphragm(x: Floats, y: Floats, levels: tuple[float, float]) -> tuple[Floats, Floats]:
    """Height u of the diaphragm and the length of (1, slope): the right dome is the higher."""
    right, left = levels
    centre = np.where(x < 0, -62.0, 66.0)
    wide = np.where(x < 0, 78.0, 74.0)
    rho2 = ((x - centre) / wide) ** 2 + ((y + 4) / 88) ** 2
    height = np.where(x < 0, right, left) + 56 * rho2 + 0.12 * y
    slope = np.hypot(112 * (x - centre) / wide**2, 112 * (y + 4) / 88**2 + 0.12)
    return height, np.sqrt(1 + slope**2)


def points_at(anatomy: Anatomy, grid: Grid, u: float) -> tuple[Floats, Floats]:
    """x and y of a slice's points, bent a little so that no border is an ideal curve. Same shape, float32."""
    y0, x0 = grid.origin
    x = (x0 + grid.column_mm * np.arange(grid.columns, dtype=np.float32))[None, :]
    y = (y0 + grid.row_mm * np.arange(grid.rows, dtype=np.float32))[:, None]
    return x + 2.0 * field(anatomy, "warp-x", grid, u), y + 2.0 * field(anatomy, "warp-y", grid, u)


def body_depth(shapes: Shapes, u: float) -> Floats:
    """Depth below the skin."""
    _, half_x, half_y, centre_y, *_ = section(u)
    x, y = shapes.x, shapes.y
    trunk = ellipse(x, y - centre_y, half_x, half_y, 2.5)
    if u < 40:
        trunk = either(trunk, ellipse(x, y - 4, 58, 62) - 0.5 * max(0.0, u), 25)
    return both(trunk, table_top(x) - 1 - y, 20)


def table_top(x: Floats) -> Floats:
    """y of the table, which bends up at both sides."""
    return 127 - 0.0006 * x * x


def bone_depth(shapes: Shapes, u: float) -> Floats:
    """Depth in bone: ribs, sternum, spine, shoulder girdle."""
    x, y = shapes.x, shapes.y
    depth = np.maximum(ribs_depth(shapes, u), _spine_depth(x, y, u))
    front = section(u)[6] - section(u)[5]
    if 18 < u < 190:
        wide = np.interp(u, (18, 30, 60, 80, 150, 190), (8, 30, 26, 17, 18, 6))
        depth = np.maximum(depth, ellipse(x, y - front + 9, wide, 6.5, 2.6))
    depth = np.maximum(depth, tubes_depth(x, y, u, _BONY_TUBES))
    if 8 < u < 165:  # shoulder blades, slanting plates that narrow downwards
        share = (u - 8) / 157
        outer = np.array((140 - 30 * share, 42 + 42 * share))
        inner = np.array((72 + 22 * share, 88 + 12 * share))
        for side in (-1, 1):
            plate = [(side * outer[0], outer[1], u, 4.2, side * inner[0], inner[1], u, 2.4)]
            depth = np.maximum(depth, tubes_depth(x, y, u, plate))
            if u < 45:  # the spine of the blade
                middle = 0.5 * (outer + inner)
                spur = [(side * middle[0], middle[1], u, 3, side * (middle[0] + 9), middle[1] + 13, u, 2.5)]
                depth = np.maximum(depth, tubes_depth(x, y, u, spur))
    return depth


_RIB_PITCH_MM = 23.0
_RIBS = 12


def ribs_depth(shapes: Shapes, u: float, cartilage: bool = False) -> Floats:
    """Depth in the ribs, which fall from the spine forward and end in cartilage."""
    angle = np.arctan2(np.abs(shapes.x), shapes.y - section(u)[6])  # 0 posterior, pi anterior
    start = u - 90 * np.sin(np.clip(angle / 2.4, 0, 1) * np.pi / 2) - 4
    nearest = np.clip(np.round(start / _RIB_PITCH_MM), 0, _RIBS - 1)
    above = (start - nearest * _RIB_PITCH_MM) / 6.0
    across = (-shapes.cage - 6) / 4.0
    depth = (1 - np.hypot(above, across)) * 4.0
    bony_until = np.where(nearest < 7, 2.45, 2.45 - 0.3 * (nearest - 6))
    if cartilage:
        return both(depth, np.where(nearest < 10, (angle - bony_until) * 100, -99.0), 1)
    return both(depth, (bony_until - angle) * 100, 1)


def _spine_depth(x: Floats, y: Floats, u: float) -> Floats:
    """Depth in the vertebrae: body, arch around the canal, processes; discs between."""
    centre_y = section(u)[7]
    phase = (u + 6) % 23.0
    wide = np.interp(u, (-60, 60, 260), (14, 16, 21))
    depth = np.full(x.shape, -99.0, np.float32)
    if phase > 4.5:
        depth = ellipse(x, y - centre_y, wide, 0.85 * wide, 2.4)
    canal = ellipse(x, y - centre_y - 0.85 * wide - 8, 10, 8.5)
    arch = np.minimum(canal + 4.5, -canal)
    if phase > 15:
        arch = np.minimum(arch, np.abs(x) - 5)  # pedicles and joints only
    depth = np.maximum(depth, arch)
    back = centre_y + 0.85 * wide
    if 6 < phase < 17:
        for side in (-1, 1):
            process = [(side * 11, back + 8, u, 5, side * 31, back + 15, u, 3.5)]
            depth = np.maximum(depth, tubes_depth(x, y, u, process))
    spinous = [(0, back + 18, u, 4, 0, back + 24 + 0.9 * phase, u, 3)]
    depth = np.maximum(depth, tubes_depth(x, y, u, spinous))
    bone: Floats = np.minimum(depth, np.maximum(-canal, -99))
    return bone
