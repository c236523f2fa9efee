"""From depths to HU: the density of each tissue, and what the scanner adds."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from covct.phantom.anatomy import (
    Anatomy,
    Shapes,
    body_depth,
    bone_depth,
    field,
    points_at,
    ribs_depth,
    shapes_at,
    table_top,
)
from covct.phantom.shapes import Grid, both, either, ellipsoid, paint_tubes, share_of_voxel, tubes_depth
from covct.terms import LEFT_LUNG, RIGHT_LUNG
from covct.voxels.arrays import Floats, Hounsfield, LabelMap, Mask

# Outermost layer of the lung that looks like soft tissue. 0.9 mm would give the outermost voxels the mean that
# radiologists' contours have in six LCTSC scans (-387 HU); the shipped network, which follows half-maximum edges more
# closely than those contours, then reads 2.5 % low, so the layer is thinner.
_PLEURA_MM = 0.4


def render(anatomy: Anatomy, grid: Grid, u: float, seed: tuple[int, int]) -> tuple[Hounsfield, LabelMap, Mask, Mask]:
    """One slice at height u.

    Returns
    -------
    hu : (rows, columns) int16
    lungs : (rows, columns) uint8
    infection, consolidation : (rows, columns) bool
    """
    coarse = grid.coarse()
    shapes = shapes_at(*points_at(anatomy, coarse, u), u, anatomy.diaphragm)
    tissue, bone, body = _soft_tissue(anatomy, coarse, u, shapes), bone_depth(shapes, u), body_depth(shapes, u)
    hu = grid.refine(tissue)
    hu += (grid.refine(_bone_hu(bone, anatomy, coarse, u)) - hu) * share_of_voxel(grid.refine(bone), grid.edge_mm)
    table = _table(grid)
    hu = table + (hu - table) * share_of_voxel(grid.refine(body), grid.edge_mm)

    lung = grid.refine(shapes.lungs)
    lungs = np.where(lung > 0, np.where(grid.refine(shapes.x) < 1, RIGHT_LUNG, LEFT_LUNG), 0).astype(np.uint8)
    infection: Mask = np.zeros(hu.shape, bool)
    consolidation = infection
    if lungs.any():
        parenchyma, infection, consolidation = _parenchyma(anatomy, grid, u, shapes)
        hu += (parenchyma - hu) * share_of_voxel(lung - _PLEURA_MM, grid.edge_mm)
        infection, consolidation = infection & (lungs > 0), consolidation & (lungs > 0)
    airways = grid.refine(shapes.airways)
    hu += (20 - hu) * share_of_voxel(airways + 1.2, grid.edge_mm)
    hu += (-990 - hu) * share_of_voxel(airways, grid.edge_mm)
    return _scan(hu, grid, u, seed), lungs, infection, consolidation


def _table(grid: Grid) -> Floats:
    """HU of the air around the patient and of the table: two carbon-fibre shells with foam between."""
    y0, x0 = grid.origin
    x = (x0 + grid.column_mm * np.arange(grid.columns, dtype=np.float32))[None, :]
    below = (y0 + grid.row_mm * np.arange(grid.rows, dtype=np.float32))[:, None] - table_top(x)
    thick = 24 + 0.0009 * x * x
    hu = np.where((below > 0) & (below < thick), np.float32(-965), np.float32(-1000))
    for shell, dense in ((2, 480), (thick, 650)):
        hu = np.maximum(hu, -1000 + dense * np.clip(1.5 - np.abs(below - shell) / max(1.2, grid.row_mm), 0, 1))
    return np.where(np.abs(x) < 188, hu, np.float32(-1000))


def _soft_tissue(anatomy: Anatomy, grid: Grid, u: float, shapes: Shapes) -> Floats:
    """HU of everything but bone, lungs and airways, on the coarse grid. Outermost first, what is laid over it later."""
    edge = max(1.2, grid.row_mm, grid.column_mm)
    fascia, patches = field(anatomy, "fascia", grid, u), field(anatomy, "patches", grid, u)
    fat = -102 + 6 * patches + 60 * np.clip(1 - np.abs(fascia - 0.4) / 0.08, 0, 1)
    hu: Floats = fat + (20 - fat) * share_of_voxel(1.8 - body_depth(shapes, u), edge)
    for layers in (
        _wall(shapes, u, fascia, patches),
        _abdomen(shapes, u, fascia, patches),
        _mediastinum(shapes, u, patches),
    ):
        for value, depth, width in layers:
            hu = hu + (value - hu) * share_of_voxel(depth, width or edge)
    return hu.astype(np.float32)


# HU, depth of what has it, and over how many millimetres its edge spreads: 0 for as many as the grid's voxels have.
_Layer = tuple[float | Floats, Floats, float]


def _wall(shapes: Shapes, u: float, fascia: Floats, patches: Floats) -> Iterator[_Layer]:
    """Muscles, armpits, and the fat that lines the rib cage."""
    x, y, skin = shapes.x, shapes.y, body_depth(shapes, u)
    muscle = 54 + 5 * patches - 85 * np.clip(1 - np.abs(fascia) / 0.16, 0, 1)
    belt = 11 + 3 * patches + 7 * np.clip((np.abs(x) - 40) / 70, 0, 1) * (y < 20) + 3 * (u > 200)
    yield muscle, skin - belt, 3
    for side in (-1, 1):
        armpit = ellipsoid(x, y, u, (side * 122, -4, 50), (17, 34, 55)) + patches
        yield -100 + 60 * np.clip(fascia - 0.9, 0, 1), armpit, 3
    outside = -shapes.cage
    yield 45.0, 9 - outside, 0  # intercostal muscles
    inner = either(shapes.cage + 1, shapes.lungs + 2.5)
    yield -95 + 8 * patches + 100 * np.clip(fascia - 1.0, 0, 1), inner - 1.5, 0  # fat of mediastinum and abdomen
    if u < 10:
        yield muscle, both(skin - belt - 2, np.hypot(x, 1.2 * (y - 2)) - 24), 8  # above the lungs


def _abdomen(shapes: Shapes, u: float, fascia: Floats, patches: Floats) -> Iterator[_Layer]:
    x, y = shapes.x, shapes.y
    abdomen = both(shapes.below_diaphragm, shapes.cage)
    yield 50.0, abdomen, 0  # the diaphragm itself, organs or fat inside it
    inside = abdomen - 3.0
    yield -100 + 8 * patches + 120 * np.clip(fascia - 0.7, 0, 1), inside, 0
    liver = both(inside, 34 - 0.75 * (y + 10) - x - 0.25 * max(0.0, u - 215)) + 0.3 * patches
    yield 58 + 3 * patches, liver, 0
    yield 52 + 2 * patches, both(inside - 1, ellipsoid(x, y, u, (98, 38, 225), (34, 46, 48))), 0  # spleen
    for side in (-1, 1):
        yield 33.0, ellipsoid(x, y, u, (side * 62, 44, 295), (27, 24, 46)), 0  # kidneys
    stomach = both(inside - 1, ellipsoid(x, y, u, (58, -22, 226), (44, 46, 44)))
    yield 38 + 12 * patches, stomach, 0
    yield -940.0, both(stomach - 4, -32 - y, 3), 0  # its bubble of air


def _mediastinum(shapes: Shapes, u: float, patches: Floats) -> Iterator[_Layer]:
    x, y = shapes.x, shapes.y
    yield 46 + 2 * patches, shapes.heart, 0
    yield 46.0, shapes.arteries, 0
    oesophagus = tubes_depth(x, y, u, [(4, 20, -140, 7, 6, 34, 120, 7), (6, 34, 120, 7, 12, 22, 205, 8)])
    yield 40.0, oesophagus, 0
    yield 70.0, tubes_depth(x, y, u, [(0, -16, -20, 16, 0, -18, 2, 8)]), 0  # thyroid
    yield 95.0, ribs_depth(shapes, u, cartilage=True), 0


def _bone_hu(bone: Floats, anatomy: Anatomy, grid: Grid, u: float) -> Floats:
    """Bright cortex of about 2 mm around spongy bone."""
    marrow = 170 + 45 * field(anatomy, "grain", grid, u)
    hu: Floats = marrow + (780 - marrow) * np.exp(-(((bone - 0.8) / 1.3) ** 2))
    return hu


def _parenchyma(anatomy: Anatomy, grid: Grid, u: float, shapes: Shapes) -> tuple[Floats, Mask, Mask]:
    """HU inside the lungs with vessels, bronchi and lesions, and the masks of infection and consolidation."""
    coarse = grid.coarse()
    grain, rag = field(anatomy, "grain", coarse, u), field(anatomy, "rag", coarse, u)
    patches = field(anatomy, "patches", coarse, u)
    # dependent lung holds more blood
    coarse_hu = -872 + 0.33 * shapes.y + 16 * grain + 10 * patches + 22 * np.exp(-np.maximum(shapes.lungs, 0) / 6)
    hu = grid.refine(coarse_hu)
    bronchi = paint_tubes(grid, u, anatomy.bronchi)
    walls = anatomy.bronchi + np.array([0, 0, 0, 0.9, 0, 0, 0, 0.9], np.float32)
    hu += (0 - hu) * 0.6 * paint_tubes(grid, u, walls)
    hu += (-960 - hu) * bronchi
    hu += (38 - hu) * paint_tubes(grid, u, anatomy.vessels)

    ragged = 3.2 * rag + 1.2 * grain + 2.5 * patches
    hazy = grid.refine(_blob_depth(shapes.x, shapes.y, u, anatomy.ground_glass) + ragged)
    dense = grid.refine(_blob_depth(shapes.x, shapes.y, u, anatomy.consolidations) + 0.6 * ragged)
    # A lesion takes the place of air, so vessels stay visible in ground glass.
    haze = share_of_voxel(hazy, 6.0) * grid.refine(np.clip(0.36 + 0.05 * patches + 0.05 * rag, 0.24, 0.48))
    hu += (40 - hu) * haze
    hu += (20 - hu) * np.float32(0.98) * share_of_voxel(dense, 2.0)
    return hu, (hazy > 0) | (dense > 0), dense > 0


def _blob_depth(x: Floats, y: Floats, u: float, blobs: Floats) -> Floats:
    depth = np.full(x.shape, -60.0, np.float32)
    for cx, cy, cu, *axes in blobs:
        if abs(u - cu) < 1.6 * axes[2]:
            depth = np.maximum(depth, ellipsoid(x, y, u, (cx, cy, cu), axes))
    return depth


def _scan(hu: Floats, grid: Grid, u: float, seed: tuple[int, int]) -> Hounsfield:
    """What the scanner adds: a little blur and correlated noise, more of it and streaky through the shoulders."""
    rng = np.random.default_rng([seed[0], 3, seed[1]])
    sigmas = 0.55 / grid.column_mm, 0.55 / grid.row_mm
    blurred: Floats = cv2.GaussianBlur(hu.astype(np.float32), (0, 0), sigmas[0], sigmaY=sigmas[1])
    white = rng.standard_normal(blurred.shape, dtype=np.float32)
    grain = cv2.GaussianBlur(white, (0, 0), 0.75) - 0.7 * cv2.GaussianBlur(white, (0, 0), 2.0)
    streaks = cv2.GaussianBlur(white, (0, 0), 6.0, sigmaY=0.7)
    shoulders = float(np.exp(-(((u + 5) / 35) ** 2)))
    inside = cv2.blur((blurred > -700).astype(np.float32), (41, 41)) * 0.6 + 0.4
    noise = (19 + 12 * shoulders) / grain.std() * grain + 14 * shoulders / streaks.std() * streaks
    scanned: Hounsfield = np.clip(np.rint(blurred + noise * inside), -1024, 3071).astype(np.int16)
    return scanned
