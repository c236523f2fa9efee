"""What is known of the lungs where only infection was marked: enough to teach that dense lung is lung.

Slices of very ill patients, medicalsegmentation.com's, come without lung masks. Radiologists who mark infection mark
lung; air inside the chest is lung, too; what lies well outside of both is none. The rest (vessels at the hilum, the
rim of the chest wall, effusion, small parts with air, which may be lung or airway) stays unknown and out of the loss.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from covct.data.domains import TISSUE_HU
from covct.data.slices import UNKNOWN, Slices
from covct.voxels.components import largest_part

AIR_BELOW_HU = -500
LEAST_AERATED = 1500  # pixels of 256 x 256: more than trachea and bronchi have, less than a lung
TISSUE_ABOVE_HU = -300
TABLE = 7  # pixels: a table is thinner, the body is not
MARGIN = 3  # pixels around the lungs of which nothing is said


def lungs_of_infection(hu: np.ndarray, infection: np.ndarray, at_the_ribs: bool = True) -> np.ndarray:
    """Lung labels of one slice: 1 infected or aerated lung, 0 beyond either lung's convex hull but for small parts with
    air, else `UNKNOWN`.

    hu (256, 256), infection (256, 256) with 1 where it is marked -> (256, 256) uint8. All is unknown without any lung,
    or without infection where slice and body end `at_the_ribs`: there air around the body may look like lung.
    """
    infected = infection == 1
    large, small = _air_inside(hu, at_the_ribs)
    lung = infected | large
    if not (infected.any() or (lung.any() and not at_the_ribs)):
        return np.full(hu.shape, UNKNOWN, np.uint8)
    near = np.zeros(hu.shape, np.uint8)
    for side in _sides(lung):
        points = np.argwhere(side)[:, ::-1].astype(np.int32)
        cv2.fillConvexPoly(near, cv2.convexHull(points), 1)
    near = cv2.dilate(near, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * MARGIN + 1, 2 * MARGIN + 1)))
    return np.where(lung, 1, np.where((near > 0) | small, UNKNOWN, 0)).astype(np.uint8)


def with_partial_lungs(part: Slices) -> Slices:
    """A source without lung masks with what its infection masks tell of the lungs, where they tell anything."""
    lungs = np.empty_like(part.infection)
    for index, (hu, infection) in enumerate(zip(part.hu, part.infection, strict=True)):
        lungs[index] = lungs_of_infection(hu, infection, part.ends_at_the_ribs(index))
    return replace(part, lungs=lungs).with_known_lungs()


def _air_inside(hu: np.ndarray, at_the_ribs: bool) -> tuple[np.ndarray, np.ndarray]:
    """Large and small parts with air inside the body, both (rows, columns) bool.

    The air around it holds a corner of the slice inside its padding. In full field it may lie between the table and the
    border, too: beyond the body's convex hull. The border the lungs may reach: some slices are as tight as they are.
    """
    air = (cv2.GaussianBlur(hu.astype(np.float32), (0, 0), 1.0) < AIR_BELOW_HU).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(air, connectivity=4)
    area = stats[:, cv2.CC_STAT_AREA]
    inside = np.arange(count) > 0
    if not at_the_ribs:
        inside &= 2 * np.bincount(labels[_body_hull(hu)], minlength=count) > area
    pictured = hu != TISSUE_HU
    rows, columns = np.flatnonzero(pictured.any(axis=1)), np.flatnonzero(pictured.any(axis=0))
    if len(rows):
        inside[labels[np.ix_((rows[0], rows[-1]), (columns[0], columns[-1]))].ravel()] = False
    large = area >= LEAST_AERATED
    return (inside & large)[labels], (inside & ~large)[labels]


def _body_hull(hu: np.ndarray) -> np.ndarray:
    """The convex hull of the largest part of tissue, (rows, columns) bool."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (TABLE, TABLE))
    tissue = cv2.morphologyEx((hu > TISSUE_ABOVE_HU).astype(np.uint8), cv2.MORPH_OPEN, kernel)
    body, hull = largest_part(tissue), np.zeros(hu.shape, np.uint8)
    if body.any():
        cv2.fillConvexPoly(hull, cv2.convexHull(np.argwhere(body)[:, ::-1].astype(np.int32)), 1)
    return hull > 0


def _sides(lung: np.ndarray) -> list[np.ndarray]:
    """The parts of the lungs on either side of their middle, by the centres of the parts."""
    columns = np.flatnonzero(lung.any(axis=0))
    middle = (columns[0] + columns[-1]) / 2
    _, labels, _, centres = cv2.connectedComponentsWithStats(lung.astype(np.uint8), connectivity=8)
    left = centres[:, 0] < middle
    sides = [lung & left[labels], lung & ~left[labels]]
    return [side for side in sides if side.any()]
