"""What is known of the lungs where only infection was marked: enough to teach that dense lung is lung.

Slices of very ill patients, medicalsegmentation.com's, come without lung masks. Radiologists who mark infection mark
lung; air inside the chest is lung, too; what lies well outside of both is none. The rest (vessels at the hilum, the
rim of the chest wall, effusion) stays unknown and out of the loss.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from covct.data.domains import TISSUE_HU
from covct.data.slices import UNKNOWN, Slices

AIR_BELOW_HU = -500
LEAST_AERATED = 1500  # pixels of 256 x 256: more than trachea and bronchi have, less than a lung
MARGIN = 3  # pixels around the lungs of which nothing is said


def lungs_of_infection(hu: np.ndarray, infection: np.ndarray) -> np.ndarray:
    """Lung labels of one slice: 1 infected or aerated lung, 0 beyond either lung's convex hull, else `UNKNOWN`.

    hu (256, 256), infection (256, 256) with 1 where it is marked -> (256, 256) uint8. Without infection all is unknown.
    """
    infected = infection == 1
    if not infected.any():
        return np.full(hu.shape, UNKNOWN, np.uint8)
    lung = infected | _aerated(hu)
    near = np.zeros(hu.shape, np.uint8)
    for side in _sides(lung):
        points = np.argwhere(side)[:, ::-1].astype(np.int32)
        cv2.fillConvexPoly(near, cv2.convexHull(points), 1)
    near = cv2.dilate(near, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * MARGIN + 1, 2 * MARGIN + 1)))
    return np.where(lung, 1, np.where(near, UNKNOWN, 0)).astype(np.uint8)


def with_partial_lungs(part: Slices) -> Slices:
    """A source without lung masks with what its infection masks tell of the lungs, where they tell anything."""
    marked = part.chosen((part.infection == 1).any(axis=(1, 2)))
    lungs = [lungs_of_infection(hu, infection) for hu, infection in zip(marked.hu, marked.infection, strict=True)]
    return replace(marked, lungs=np.stack(lungs)) if lungs else marked


def _aerated(hu: np.ndarray) -> np.ndarray:
    """Large parts with air that hold no corner of the slice inside its padding, as the air around the body does.

    Their border they may reach: some slices are cropped as tight as the lungs.
    """
    air = (cv2.GaussianBlur(hu.astype(np.float32), (0, 0), 1.0) < AIR_BELOW_HU).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(air, connectivity=4)
    pictured = hu != TISSUE_HU
    rows, columns = np.flatnonzero(pictured.any(axis=1)), np.flatnonzero(pictured.any(axis=0))
    large = stats[:, cv2.CC_STAT_AREA] >= LEAST_AERATED
    large[0] = False
    if len(rows):
        large[labels[np.ix_((rows[0], rows[-1]), (columns[0], columns[-1]))].ravel()] = False
    large_ones: np.ndarray = large[labels]
    return large_ones


def _sides(lung: np.ndarray) -> list[np.ndarray]:
    """The parts of the lungs on either side of their middle, by the centres of the parts."""
    columns = np.flatnonzero(lung.any(axis=0))
    middle = (columns[0] + columns[-1]) / 2
    _, labels, _, centres = cv2.connectedComponentsWithStats(lung.astype(np.uint8), connectivity=8)
    left = centres[:, 0] < middle
    sides = [lung & left[labels], lung & ~left[labels]]
    return [side for side in sides if side.any()]
