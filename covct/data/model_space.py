"""Labelled cases in model space: Hounsfield units by the one way of their domain, cut to the body, 256 x 256 pixels.

Domains are never mixed silently: 8-bit CLAHE reaches Hounsfield units only through a restoration network (`covct train
restorer`), slices cropped at the ribs through two anchors of their own histogram.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np

from covct.data.cases import Case, Labelled
from covct.data.domains import CLAHE, HU, TISSUE_HU, as_grey, hu_by_anchors, hu_of_window
from covct.data.not_disease import labels_without_disease
from covct.data.read_case import read_case
from covct.data.slices import SIZE, UNKNOWN, Slices, one_volume
from covct.errors import UsageError
from covct.voxels.preprocess import FieldOfView, body_field_of_view, clahe, to_model_space, whole_slice

AERATED_HU = -640  # smoothed lung below this holds no infection; above it a cancer patient's lung may
Restore = Callable[[np.ndarray], np.ndarray]


def read_slices(case: Case, restore: Restore | None = None) -> Slices:
    """A case of any layout in model space, in Hounsfield units, as a source of its own.

    Parameters
    ----------
    case : Case
    restore : function, optional
        (slices, 256, 256) uint8 -> HU; 8-bit CLAHE slices need it.

    Raises
    ------
    CaseError
        As `read_case`.
    UsageError
        A restorer is needed and not given.
    """
    return slices_of(read_case(case), restore)


def slices_of(labelled: Labelled, restore: Restore | None = None) -> Slices:
    """A case that was read, in model space; see `read_slices`."""
    part = _at_the_ribs(labelled) if labelled.case.layout == "medseg" else _around_the_body(labelled, restore)
    if labelled.case.negative:
        spacing = None if part.spacing_mm is None else tuple(part.spacing_mm[0].tolist())
        part = replace(part, infection=labels_without_disease(part.hu, part.lungs, spacing))
    elif labelled.infection is None:
        part = replace(part, infection=np.where(part.lungs > 0, UNKNOWN, 0).astype(np.uint8))
    return part if labelled.lungs is not None else replace(part, lungs=np.full(part.hu.shape, UNKNOWN, np.uint8))


def _at_the_ribs(labelled: Labelled) -> Slices:
    """One slice that its publisher cropped at the ribs, of which only infection is marked."""
    assert labelled.infection is not None
    hu, infection = _cropped_in_model_space(hu_by_anchors(as_grey(labelled.pixels)[0]), labelled.infection[0] > 0)
    classes = None if labelled.classes is None else _cropped_classes(labelled.classes[0])
    lungs = np.zeros(hu.shape, np.uint8)
    part = _part(labelled, hu, lungs, infection, classes, None, None)
    return replace(part, at_the_ribs=np.ones(len(part), bool))


def _around_the_body(labelled: Labelled, restore: Restore | None) -> Slices:
    shape = labelled.pixels.shape
    lungs = np.zeros(shape, np.uint8) if labelled.lungs is None else (labelled.lungs > 0).astype(np.uint8)
    infection = np.zeros(shape, np.uint8) if labelled.infection is None else labelled.infection
    classes, sides, spacing = labelled.classes, labelled.lungs if labelled.sides else None, None
    hu, view = _hounsfield(labelled, lungs, restore)
    if hu.shape != shape:  # the restorer has a size of its own
        lungs, infection = (nearest(mask, SIZE) for mask in (lungs, infection))
        classes = None if classes is None else nearest(classes, SIZE)
        sides = None if sides is None else nearest(sides, SIZE)
        view = _view_around_lungs(lungs) if lungs.any() else whole_slice((SIZE, SIZE))
    classes = None if classes is None else _model_labels(classes, view, (1, 2, 3))
    sides = None if sides is None else _model_labels(sides, view, (1, 2))
    if labelled.spacing_mm:
        between, down, across = labelled.spacing_mm
        pixel = (down * shape[1] / hu.shape[1], across * shape[2] / hu.shape[2])
        spacing = _model_spacing(len(hu), (between, *pixel), view)
    hu, lungs, infection = _model_space(hu, lungs, infection, view)
    if labelled.unknown is not None:
        unknown = _model_mask(~labelled.unknown, view) == 0
        hu[unknown], lungs[unknown], infection[unknown] = TISSUE_HU, UNKNOWN, UNKNOWN
    return _part(labelled, hu, lungs, infection, classes, sides, spacing)


def _part(
    labelled: Labelled,
    hu: np.ndarray,
    lungs: np.ndarray,
    infection: np.ndarray,
    classes: np.ndarray | None,
    sides: np.ndarray | None,
    spacing: np.ndarray | None,
) -> Slices:
    case = labelled.case
    places = one_volume(range(len(labelled)) if labelled.numbers is None else labelled.numbers)
    return Slices(hu, lungs, infection, (case.patient,) * len(hu), case.source, classes, sides, places, spacing)


def to_hounsfield(labelled: Labelled, restore: Restore | None = None) -> np.ndarray:
    """The pixels of a case in HU, by the one way of its domain; (slices, rows, columns), CLAHE at 256 x 256.

    Raises
    ------
    UsageError
        8-bit CLAHE without a restorer, naming the file.
    """
    if labelled.domain == HU:
        return labelled.pixels
    grey = as_grey(labelled.pixels)
    if labelled.domain == CLAHE:
        if restore is None:
            where = labelled.case.images[0] if labelled.case.images else labelled.case.where
            raise UsageError(f"{where}: 8-bit CLAHE slices need a restorer: --restorer CARD (covct train restorer)")
        if grey.shape[1:] != (SIZE, SIZE):
            grey = np.stack([cv2.resize(one, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for one in grey])
        return restore(grey)
    if labelled.case.window_hu:
        return hu_of_window(grey, labelled.case.window_hu)
    return hu_by_anchors(grey)  # one window for all slices of a volume


def _hounsfield(labelled: Labelled, lungs: np.ndarray, restore: Restore | None) -> tuple[np.ndarray, FieldOfView]:
    hu = to_hounsfield(labelled, restore)
    if labelled.domain == CLAHE or labelled.unknown is not None:  # where the body ends cannot be seen
        return hu, _view_around_lungs(lungs) if lungs.any() else whole_slice(hu.shape[1:])
    spacing = labelled.spacing_mm[1:] if labelled.spacing_mm else (1.0, 1.0)
    return hu, body_field_of_view(hu, spacing)


def nearest(mask: np.ndarray, size: int) -> np.ndarray:
    return np.stack([cv2.resize(one, (size, size), interpolation=cv2.INTER_NEAREST) for one in mask])


def _cropped_classes(classes: np.ndarray) -> np.ndarray:
    """As `_cropped_in_model_space`, for labels (rows, columns) -> (1, 256, 256) uint8."""
    empty = np.zeros(classes.shape, np.float32)
    cropped: np.ndarray = np.maximum.reduce(
        [np.uint8(value) * _cropped_in_model_space(empty, classes == value)[1] for value in (1, 2, 3)], dtype=np.uint8
    )
    return cropped


def _cropped_in_model_space(hu: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A slice cropped at the ribs, (rows, columns) float and bool, padded: (1, 256, 256) int16 and uint8."""
    view = whole_slice((max(hu.shape), max(hu.shape)))
    square = to_model_space(_square(hu, TISSUE_HU)[None], view, SIZE)
    marked = to_model_space(_square(mask.astype(np.float32), 0)[None], view, SIZE) > 0.5
    return np.clip(square, -1100, 3071).astype(np.int16), marked.astype(np.uint8)


def _square(image: np.ndarray, fill: float) -> np.ndarray:
    """Pad (rows, columns) to a square: what lies beyond a slice cropped at the ribs is chest wall, not air."""
    side = max(image.shape)
    above, left = (side - image.shape[0]) // 2, (side - image.shape[1]) // 2
    below, right = side - image.shape[0] - above, side - image.shape[1] - left
    framed: np.ndarray = cv2.copyMakeBorder(image, above, below, left, right, cv2.BORDER_CONSTANT, value=fill)
    return framed


def recipe_pixels(hu: np.ndarray) -> np.ndarray:
    """HU slices as the publisher of `ma-slices` would have made them: (slices, 256, 256) uint8."""
    pixels: np.ndarray = np.rint(clahe(hu) * 255).astype(np.uint8)
    return pixels


def _model_spacing(count: int, spacing_mm: tuple[float, float, float], view: FieldOfView) -> np.ndarray:
    """The spacing of slices once a field of view of them is 256 x 256: (count, 3) float."""
    between, down, across = spacing_mm
    return np.tile((between, down * view.height / SIZE, across * view.width / SIZE), (count, 1))


def _view_around_lungs(lungs: np.ndarray) -> FieldOfView:
    """A square as large as the body's would be: restored air outside the body is not to be trusted.

    lungs (slices, rows, columns) uint8. In the LCTSC volumes the body's square is 1.5 times as wide as the lungs.
    """
    rows, columns = np.flatnonzero(lungs.any((0, 2))), np.flatnonzero(lungs.any((0, 1)))
    side = 1.5 * (columns[-1] - columns[0] + 1)
    return FieldOfView((rows[0] + rows[-1]) / 2, (columns[0] + columns[-1]) / 2, side, side)


def _model_space(
    hu: np.ndarray, lungs: np.ndarray, infection: np.ndarray, view: FieldOfView
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    masks = [_model_mask(mask, view) for mask in (lungs, infection)]
    return np.clip(np.rint(to_model_space(hu, view, SIZE)), -1100, 3071).astype(np.int16), *masks


def _model_mask(mask: np.ndarray, view: FieldOfView) -> np.ndarray:
    return (to_model_space(mask.astype(np.float32) * 1000 + -1000, view, SIZE) > -500).astype(np.uint8)


def _model_labels(labels: np.ndarray, view: FieldOfView, values: tuple[int, ...]) -> np.ndarray:
    """As `_model_mask`, of labels; where two meet in one pixel the higher."""
    cut: np.ndarray = np.maximum.reduce([np.uint8(v) * _model_mask(labels == v, view) for v in values], dtype=np.uint8)
    return cut
