"""Lobes of lungs that were found: each lung's fissures from its own shape, by people whose lobes are known.

Fissures are not looked for in the scan: slices of some millimetres show few of them, and dense lung none. They are put
where lungs of this shape have them. Each lung is laid into a box of its own extent; so are those of an atlas of people.
How much each of these people counts follows from how alike the lungs' shapes are (ridge regression from the share of
lung in cells of the box to the distance from each fissure), and the distances so weighted make the fissures: smooth, in
one go, without an iteration that could end elsewhere.

How wrong that is can be told from the atlas itself: each of its people, predicted by all others, leaves an error. Laid
over the fissures of a scan these errors make as many other courses of them, and every figure by lobe has its interval
from these.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO

import cv2
import numpy as np

from covct.terms import LEFT_LUNG, LOBES, RIGHT_LUNG
from covct.voxels.labels import Labels, Slices

NODES = 12  # along each side of a lung's box, where shapes and fissures are known
CELLS = 24  # the same, where voxels are counted
REACH_MM = 18.0  # no distance from a fissure is larger: what is far off says nothing of its course
RIDGE = 0.6  # of the shapes' mean square about their mean; from 0.3 to 1 leave-one-out Dice differs by 0.001
OUTLYING = 0.002  # of a lung's voxels lie outside of its box, at either end: a spur must not move the fissures
CODED = 127  # in the file: a share of 1, a distance of REACH_MM
SIDES = (RIGHT_LUNG, LEFT_LUNG)
# Channels of an atlas: both lungs' shapes; then from which fissure on which side, and what is positive.
FISSURES = ((RIGHT_LUNG, "lower"), (RIGHT_LUNG, "upper"), (LEFT_LUNG, "lower"))
CHANNELS = len(SIDES) + len(FISSURES)

Box = tuple[tuple[int, int], ...]  # first voxel and the one after the last, along slices, rows and columns


@dataclass(frozen=True)
class Atlas:
    """Lungs and fissures of people, each lung in its own box, working orientation.

    Attributes
    ----------
    shapes : (people, 2, NODES, NODES, NODES) float32
        Right and left: the share of each cell that is lung.
    fissures : (people, 3, NODES, NODES, NODES) float32
        Distance from the right oblique fissure (above 0: lower lobe), the right horizontal one (above 0: upper lobe,
        else middle) and the left oblique one (above 0: lower lobe), mm, at most REACH_MM.
    """

    shapes: np.ndarray
    fissures: np.ndarray

    @classmethod
    def of_file(cls, content: bytes, people: int) -> Atlas:
        """From a .npy file of so many people. Nothing of it is run.

        Raises
        ------
        ValueError
            It is none.
        """
        stream, wanted = BytesIO(content), (people, CHANNELS, NODES, NODES, NODES)
        if (version := np.lib.format.read_magic(stream)) != (1, 0):
            raise ValueError(f"format {version}, wanted 1.0")
        shape, by_columns, kind = np.lib.format.read_array_header_1_0(stream)
        if by_columns or kind != np.int8 or shape != wanted:
            raise ValueError(f"{shape} {kind}, wanted {wanted} int8")
        data = stream.read()
        if len(data) != math.prod(wanted):
            raise ValueError(f"{len(data)} bytes, {math.prod(wanted)} declared")
        return cls.decoded(np.frombuffer(data, np.int8).reshape(wanted))

    @classmethod
    def decoded(cls, coded: np.ndarray) -> Atlas:
        """From the array of its file, (people, CHANNELS, NODES, NODES, NODES) int8."""
        values = coded.astype(np.float32) / CODED
        return cls(values[:, : len(SIDES)], values[:, len(SIDES) :] * np.float32(REACH_MM))

    def coded(self) -> np.ndarray:
        """As the array of its file."""
        channels = np.concatenate([self.shapes, self.fissures / REACH_MM], axis=1)
        coded: np.ndarray = np.rint(np.clip(channels, -1, 1) * CODED).astype(np.int8)
        return coded

    def without(self, person: int) -> Atlas:
        """All others."""
        return Atlas(np.delete(self.shapes, person, 0), np.delete(self.fissures, person, 0))

    def predicted(self, shapes: np.ndarray) -> np.ndarray:
        """The fissures of lungs of these shapes, (2, NODES, NODES, NODES) -> (3, NODES, NODES, NODES)."""
        weights = [self._weights(place, shapes[place]) for place in range(len(SIDES))]
        mean = self.fissures.mean(0)
        courses = (
            mean[number] + np.tensordot(weights[SIDES.index(side)], self.fissures[:, number] - mean[number], 1)
            for number, (side, _) in enumerate(FISSURES)
        )
        return np.stack(list(courses))

    def _weights(self, place: int, shape: np.ndarray) -> np.ndarray:
        """(people,) how much each one's difference from the mean counts for a lung of this shape."""
        known = self.shapes[:, place].reshape(len(self.shapes), -1).astype(np.float64)
        mean = known.mean(0)
        known = known - mean
        alike = known @ known.T
        ridge = RIDGE * np.trace(alike) / len(known) * np.eye(len(known))
        found: np.ndarray = np.linalg.solve(alike + ridge, known @ (shape.ravel() - mean)).astype(np.float32)
        return found

    @cached_property
    def errors(self) -> np.ndarray:
        """(people, 3, NODES, NODES, NODES) float32: each one's fissures less what all others predict, mm."""
        others = (self.without(person).predicted(self.shapes[person]) for person in range(len(self.shapes)))
        found: np.ndarray = self.fissures - np.stack(list(others))
        return found


@dataclass(frozen=True)
class Counted:
    """Voxels of lungs and infection in the cells of each lung's box.

    Attributes
    ----------
    boxes : tuple of (Box or None)
        Right and left; None of a lung that is not there.
    lung, infected : (2, CELLS, CELLS, CELLS) float32
        Share of each cell.
    """

    boxes: tuple[Box | None, ...]
    lung: np.ndarray
    infected: np.ndarray

    @property
    def shapes(self) -> np.ndarray:
        """(2, NODES, NODES, NODES) float32: as an atlas has them."""
        each = CELLS // NODES
        found: np.ndarray = self.lung.reshape(2, NODES, each, NODES, each, NODES, each).mean((2, 4, 6))
        return found


def counted(lungs: Slices, infection: Slices) -> Counted:
    """Count lungs and infection in cells.

    Parameters
    ----------
    lungs : (slices, rows, columns) uint8
        Working orientation: 0 background, 1 right lung, 2 left lung.
    infection : (slices, rows, columns) bool
    """
    boxes = boxes_of(lungs)
    found = np.zeros((2, len(SIDES), CELLS, CELLS, CELLS), np.float32)
    for index, lung in enumerate(lungs):
        if not lung.any():
            continue
        infected = infection[index]
        for place, (side, box) in enumerate(zip(SIDES, boxes, strict=True)):
            if box is None or not box[0][0] <= index < box[0][1]:
                continue
            here = lung[box[1][0] : box[1][1], box[2][0] : box[2][1]] == side
            sick = here & infected[box[1][0] : box[1][1], box[2][0] : box[2][1]]
            within = _overlaps(index, box[0])[:, None, None]
            for kind, mask in enumerate((here, sick)):
                if mask.any():
                    found[kind, place] += within * _shrunk(mask)
    return Counted(boxes, found[0], found[1])


def boxes_of(lungs: Slices) -> tuple[Box | None, ...]:
    """Where each lung lies, but for OUTLYING of its voxels at either end of each axis."""
    slices, rows, columns = lungs.shape
    profiles = [[np.zeros(extent, np.int64) for extent in (slices, rows, columns)] for _ in SIDES]
    for index, lung in enumerate(lungs):
        if not lung.any():
            continue
        for side, (by_slice, by_row, by_column) in zip(SIDES, profiles, strict=True):
            here = (lung == side).view(np.uint8)
            along = cv2.reduce(here, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel()
            by_slice[index] = along.sum()
            by_row += along
            by_column += cv2.reduce(here, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel()
    return tuple(tuple(map(_extent, profile)) if profile[0].any() else None for profile in profiles)


def _extent(profile: np.ndarray) -> tuple[int, int]:
    below = np.cumsum(profile) / profile.sum()
    return int(np.searchsorted(below, OUTLYING, "right")), int(np.searchsorted(below, 1 - OUTLYING)) + 1


def _overlaps(index: int, extent: tuple[int, int]) -> np.ndarray:
    """(CELLS,) float32: how much of each cell along the slices one slice takes."""
    first, end = ((index + step - extent[0]) / (extent[1] - extent[0]) * CELLS for step in (0, 1))
    edges = np.arange(CELLS + 1)
    overlap = np.minimum(end, edges[1:]) - np.maximum(first, edges[:-1])
    return overlap.clip(0).astype(np.float32)


def _shrunk(mask: np.ndarray) -> np.ndarray:
    """(rows, columns) bool to (CELLS, CELLS) float32, the share of each."""
    shares: np.ndarray = cv2.resize(mask.astype(np.float32), (CELLS, CELLS), interpolation=cv2.INTER_AREA)
    return shares


def _drawn(index: int, side: int, box: Box, fissures: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(rows, columns) uint8: the lobes of one lung on a slice, as if the lung were everywhere."""
    own = [_plane(fissures[number], index, box) for number, (of, _) in enumerate(FISSURES) if of == side]
    labels = labelled(side, own).astype(np.uint8)
    (top, bottom), (left, right) = box[1:]
    whole: np.ndarray = cv2.copyMakeBorder(labels, top, shape[0] - bottom, left, shape[1] - right, cv2.BORDER_REPLICATE)
    return whole


def _plane(distance: np.ndarray, index: int, box: Box) -> np.ndarray:
    """A fissure's distance (NODES, NODES, NODES) on one slice, (rows, columns) float32 of the box."""
    (first, end), (top, bottom), (left, right) = box
    at = min(max((index + 0.5 - first) / (end - first) * NODES - 0.5, 0.0), NODES - 1.0)
    below = min(int(at), NODES - 2)
    share = np.float32(at - below)
    plane = (1 - share) * distance[below] + share * distance[below + 1]
    wide: np.ndarray = cv2.resize(plane, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
    return wide


def labelled(side: int, distances: list[np.ndarray]) -> np.ndarray:
    """Numbers of lobes, as `terms.LOBES`, from the distances of a lung's fissures; arrays of any one shape."""
    upper, *middle, lower = (lobe.number for lobe in LOBES if lobe.lung == side)
    others = np.where(distances[1] > 0, upper, middle[0]) if middle else upper
    return np.where(distances[0] > 0, lower, others)


def lobes_of(atlas: Atlas, lungs: Slices, infection: Slices) -> tuple[Labels, Counted]:
    """The lobes of lungs, and what their boxes hold; the arguments are those of `counted`.

    Returns
    -------
    lobes : Labels
        (slices, rows, columns) uint8: 0 none, else as `terms.LOBES` numbers them.
    held : Counted
    """
    held, lobes = counted(lungs, infection), Labels(lungs.shape)
    fissures = atlas.predicted(held.shapes).astype(np.float32)
    for index, lung in enumerate(lungs):
        out = np.zeros(lung.shape, np.uint8)
        for side, box in zip(SIDES, held.boxes, strict=True):
            here = lung == side
            if box is not None and here.any():
                np.copyto(out, _drawn(index, side, box, fissures, lung.shape), where=here)
        lobes[index] = out
    return lobes, held


def other_courses(atlas: Atlas, held: Counted) -> np.ndarray:
    """What lobes would hold if the fissures ran as wrong as those of each person of the atlas.

    Returns
    -------
    (people, lobes, 2) float64
        Lung and infection of each lobe in the order of `terms.LOBES`, in shares of the cells of its lung's box.
    """
    finer = _to_cells()
    courses = atlas.predicted(held.shapes) + atlas.errors
    for axis in (2, 3, 4):
        courses = np.moveaxis(np.tensordot(finer, courses, (1, axis)), 0, axis)
    people = len(courses)
    found = np.zeros((people, len(LOBES), 2))
    for place, side in enumerate(SIDES):
        own = [courses[:, number].reshape(people, -1) for number, (of, _) in enumerate(FISSURES) if of == side]
        labels = labelled(side, own)
        cells = np.stack([held.lung[place].ravel(), held.infected[place].ravel()], axis=1)
        for row, lobe in enumerate(LOBES):
            if lobe.lung == side:
                found[:, row] = (labels == lobe.number).astype(np.float32) @ cells
    return found


def _to_cells() -> np.ndarray:
    """(CELLS, NODES) float32: linear interpolation between nodes, as `cv2.resize` does it."""
    at = np.clip((np.arange(CELLS) + 0.5) * NODES / CELLS - 0.5, 0, NODES - 1)
    weights = 1 - np.abs(at[:, None] - np.arange(NODES))
    return weights.clip(0).astype(np.float32)
