"""How training slices are changed for the lungs network: what is dense inside the lungs is lung, gas elsewhere is not.

All functions take a slice (rows, columns) or a stack of neighbours (channels, rows, columns), in HU, float32.
"""

from __future__ import annotations

import cv2
import numpy as np

from covct.training.samples import augment, neighbours
from covct.training.samples.presets import LungChanges
from covct.voxels.components import largest_part

GAS_HU = (-1000.0, -880.0)
STOOL_HU = (-700.0, 0.0)
FLUID_HU = (-10.0, 50.0)
BODY_ABOVE_HU = -300.0
LEAST_PLACES = 400  # pixels of 256 x 256 of the body outside the lungs
LUNG_MARGIN = 2.0  # pixels from the lungs: a diaphragm and a wall of the bowel


def change_lungs(
    chances: LungChanges, hu: np.ndarray, labels: np.ndarray, rng: np.random.Generator, whole: bool
) -> np.ndarray:
    """HU of a sample as changed by chance; which pixels are lung stays.

    Parameters
    ----------
    labels : as hu, uint8
        1 lung, 0 none, `UNKNOWN`.
    whole : bool
        Whether all of the lungs is marked, not only infection.
    """
    lungs = (labels == 1).astype(np.uint8)
    if rng.random() < chances.density:
        hu = neighbours.lung_density(hu, lungs, rng)
    if rng.random() < chances.opacity:
        hu, _ = neighbours.insert_opacity(hu, lungs, rng)
    if whole and rng.random() < chances.dependent:
        hu = neighbours.consolidate_dependent(hu, lungs, rng)
    if chances.gas and whole and rng.random() < chances.gas:
        hu = insert_gas(hu, labels, rng)
    return hu


def insert_gas(hu: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One to four pockets of gas where the body is labelled as no lung, as stomach and bowel hold it.

    Some hold fluid below a level, some stool. In a stack every slice gets the same pockets, as far as its own body and
    lungs leave room.
    """
    stack, inside = (hu, labels != 0) if hu.ndim == 3 else (hu[None], labels[None] != 0)
    room = _room(stack[len(stack) // 2], inside.any(0))
    pockets = _pockets(room, rng)
    if pockets is None:
        return hu
    filled = _contents(stack.shape[1:], pockets, rng)
    out = stack.astype(np.float32)
    for index, mine in enumerate(inside):
        clear = cv2.dilate(mine.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0
        share = cv2.GaussianBlur(pockets * (clear & (stack[index] > BODY_ABOVE_HU)), (0, 0), 0.7)
        out[index] += share * (filled - out[index])
    return out.reshape(hu.shape)


def _room(hu: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Where in a slice gas may lie: inside the body, apart from what is taken and a rim. (rows, columns) bool."""
    body = (hu > BODY_ABOVE_HU) | taken
    body = cv2.morphologyEx(body.astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    depth = cv2.distanceTransform(largest_part(body).astype(np.uint8), cv2.DIST_L2, 3)
    from_lungs = cv2.distanceTransform((~taken).astype(np.uint8), cv2.DIST_L2, 3)
    room: np.ndarray = (depth > 12) & (from_lungs > LUNG_MARGIN) & (hu > BODY_ABOVE_HU)
    return room


def _pockets(room: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """Round and long pockets, (rows, columns) float32 in 0..1; None where there is no room."""
    places = np.flatnonzero(room)
    if len(places) < LEAST_PLACES:
        return None
    level = np.full(room.shape, -9.0, np.float32)
    for _ in range(int(rng.integers(1, 5))):
        centre, radius = int(rng.choice(places)), np.exp(rng.uniform(np.log(3), np.log(30)))
        augment.raise_ellipse(level, centre, radius, rng.uniform(0.4, 1), np.pi / 2 - rng.uniform(0, np.pi))
    level += np.float32(rng.uniform(0, 0.15)) * augment.smooth_field(rng, rng.uniform(6, 20))
    pockets: np.ndarray = np.clip(level / 0.08 + 0.5, 0, 1).astype(np.float32) * room
    return pockets


def _contents(shape: tuple[int, ...], pockets: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """HU of what the pockets hold, (rows, columns) float32: gas, gas above fluid, or stool."""
    gas = np.full(shape, rng.uniform(*GAS_HU), np.float32)
    kind = rng.random()
    if kind < 0.35:  # fluid sinks to the spine
        level = np.quantile(np.nonzero(pockets > 0.5)[0], rng.uniform(0.2, 0.9)) if (pockets > 0.5).any() else 0
        gas[int(level) :] = rng.uniform(*FLUID_HU)
    elif kind < 0.6:
        stool = rng.uniform(*STOOL_HU)
        gas += (stool - gas) * np.clip(0.6 + 0.4 * augment.smooth_field(rng, rng.uniform(30, 90)), 0, 1)
    return gas + 15 * rng.standard_normal(shape, dtype=np.float32)
