"""Fields of view: which square of the slices a network looks at, by the name on its card; which slices tell nothing.

One square for the whole series, never one a slice: a mask then comes back by one shift, and neighbouring slices fit
together. `body` follows fixed Hounsfield units, the crops by Otsu's threshold only that air is darker than tissue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import cv2
import numpy as np

from covct.voxels.labels import Slices
from covct.voxels.preprocess import BODY_HU, FieldOfView, body_field_of_view, whole_slice

MARGIN_MM = 14.0
CONTOUR_MARGIN_MM = 25.0  # dense lung at the chest wall is outside contours of air; 14 mm cut it off in one of six
LOOKED_AT = 40  # slices, spread over the series
COARSE = 256  # pixels a side at which boxes are sought
OTSU_RANGE_HU = (-1024, 400)  # bone and metal would draw the threshold away from skin and lung
LEAST_BODY = 0.02  # of the slice
LEAST_LUNG_MM2 = 500.0  # a contour smaller than this is bowel gas or a bronchus
MODEL_PIXEL_MM = 1.6  # about, of a body's square at 256 pixels; only margins are measured by it
Box = tuple[int, int, int, int]  # top, left, bottom, right: the first beyond


def otsu_field_of_view(hu: np.ndarray, pixel_spacing_mm: tuple[float, float] = (1.0, 1.0)) -> FieldOfView:
    """The square around the largest contour above Otsu's threshold (1979): the body, in whatever grey scale.

    hu (slices, rows, columns) number. The extents are the 10th and 90th percentile over slices, as in
    `body_field_of_view`; the whole slice where no body is found.
    """
    boxes = [box for one in _spread(hu) if (box := _otsu_body_box(one))]
    if not boxes:
        return whole_slice(hu.shape[1:], pixel_spacing_mm)
    top, left = np.percentile([box[:2] for box in boxes], 10, axis=0)
    bottom, right = np.percentile([box[2:] for box in boxes], 90, axis=0)
    return _square_around((top, left, bottom, right), pixel_spacing_mm)


def contour_field_of_view(hu: np.ndarray, pixel_spacing_mm: tuple[float, float] = (1.0, 1.0)) -> FieldOfView:
    """The square around the two largest contours of air inside the body, over all slices: the lungs, without a network.

    hu (slices, rows, columns) number. Consolidation against the chest wall is outside these contours, and a margin of
    25 mm is all that is left for it; the whole slice where there is no air in the body.
    """
    boxes = [box for one in _spread(hu) if (box := _lung_contours_box(one, pixel_spacing_mm))]
    if not boxes:
        return whole_slice(hu.shape[1:], pixel_spacing_mm)
    top, left = np.min([box[:2] for box in boxes], axis=0)
    bottom, right = np.max([box[2:] for box in boxes], axis=0)
    return _square_around((top, left, bottom, right), pixel_spacing_mm, CONTOUR_MARGIN_MM)


def lung_field_of_view(lungs: Slices, pixel_spacing_mm: tuple[float, float]) -> FieldOfView:
    """The square around both lungs in all slices, with a margin of 14 mm; the whole slice without lungs."""
    found = np.zeros(lungs.shape[1:], bool)
    for one in lungs:
        found |= one > 0
    if not found.any():
        return whole_slice((lungs.shape[1], lungs.shape[2]), pixel_spacing_mm)
    rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
    return _square_around((rows[0], columns[0], rows[-1] + 1, columns[-1] + 1), pixel_spacing_mm)


# Each (hu, pixel_spacing_mm, lungs) -> FieldOfView; the names are those of cards.FIELDS_OF_VIEW.
FIELDS_OF_VIEW: dict[str, Callable[[np.ndarray, tuple[float, float], Slices | None], FieldOfView]] = {
    "body": lambda hu, spacing, lungs: body_field_of_view(hu, spacing),
    "whole": lambda hu, spacing, lungs: whole_slice(hu.shape[1:], spacing),
    "otsu-body": lambda hu, spacing, lungs: otsu_field_of_view(hu, spacing),
    "lung-contours": lambda hu, spacing, lungs: contour_field_of_view(hu, spacing),
    "lung-mask": lambda hu, spacing, lungs: (
        contour_field_of_view(hu, spacing) if lungs is None else lung_field_of_view(lungs, spacing)
    ),
}


def enclosed_air_mm2(hu: np.ndarray, pixel_spacing_mm: tuple[float, float] = (1.0, 1.0)) -> np.ndarray:
    """(slices,) area of air inside the body, mm²: where there is next to none, a slice holds no aerated lung.

    hu (slices, rows, columns) number. Infinite where the body reaches the border of the slice: there lung may lie at
    the border, too, and nothing can be said.
    """
    return np.array([_enclosed_air_mm2(one, pixel_spacing_mm) for one in hu])


def _enclosed_air_mm2(hu_slice: np.ndarray, pixel_spacing_mm: tuple[float, float]) -> float:
    step = _step(hu_slice)
    coarse = hu_slice[::step, ::step]
    body = (coarse > BODY_HU).astype(np.uint8)
    contour = _largest(_contours(body))
    if contour is None:
        return 0.0
    left, top, width, height = cv2.boundingRect(contour)
    if min(left, top) == 0 or left + width == body.shape[1] or top + height == body.shape[0]:
        return float("inf")
    air = _filled([contour], body.shape) & (body == 0)
    return float(np.count_nonzero(air) * step**2 * pixel_spacing_mm[0] * pixel_spacing_mm[1])


def inside_body(hu_slice: np.ndarray) -> np.ndarray:
    """(rows, columns) bool: within the body's contour, the air in it too; nothing where there is no body."""
    contour = _largest(_contours((hu_slice > BODY_HU).astype(np.uint8)))
    return _filled([] if contour is None else [contour], hu_slice.shape)


def _lung_contours_box(hu_slice: np.ndarray, pixel_spacing_mm: tuple[float, float]) -> Box | None:
    """The box around the two largest contours of air inside the body of one slice, or None."""
    step = _step(hu_slice)
    tissue = _above_otsu(hu_slice[::step, ::step])
    body = _largest(_contours(tissue))
    if body is None:
        return None
    air = (_filled([body], tissue.shape) & (tissue == 0)).astype(np.uint8)
    least = LEAST_LUNG_MM2 / (step**2 * pixel_spacing_mm[0] * pixel_spacing_mm[1])
    lungs = sorted((c for c in _contours(air) if cv2.contourArea(c) >= least), key=cv2.contourArea)[-2:]
    return _box(lungs, step) if lungs else None


def _otsu_body_box(hu_slice: np.ndarray) -> Box | None:
    """The box around the largest contour above Otsu's threshold of one slice, or None."""
    step = _step(hu_slice)
    tissue = _above_otsu(hu_slice[::step, ::step])
    body = _largest(_contours(tissue))
    return _box([body], step) if body is not None and cv2.contourArea(body) >= LEAST_BODY * tissue.size else None


def _above_otsu(hu_slice: np.ndarray) -> np.ndarray:
    """(rows, columns) uint8, 1 above Otsu's threshold; thin things such as the table are opened away."""
    clipped = np.clip(hu_slice, *OTSU_RANGE_HU).astype(np.float32)
    grey = cv2.normalize(clipped, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    _, tissue = cv2.threshold(grey, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    body: np.ndarray = cv2.morphologyEx(tissue, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7)))
    return body


def _contours(mask: np.ndarray) -> list[np.ndarray]:
    return list(cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0])


def _largest(contours: list[np.ndarray]) -> np.ndarray | None:
    return max(contours, key=cv2.contourArea, default=None)


def _filled(contours: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    inside: np.ndarray = cv2.drawContours(np.zeros(shape, np.uint8), contours, -1, 1, cv2.FILLED) > 0
    return inside


def _box(contours: Iterable[np.ndarray], step: int) -> Box:
    left, top, width, height = cv2.boundingRect(np.concatenate(list(contours)))
    return top * step, left * step, (top + height) * step, (left + width) * step


def _spread(hu: np.ndarray) -> np.ndarray:
    return hu[:: max(1, len(hu) // LOOKED_AT)]


def _step(hu_slice: np.ndarray) -> int:
    return int(max(1, max(hu_slice.shape) // COARSE))


def _square_around(
    box: Iterable[float], pixel_spacing_mm: tuple[float, float], margin_mm: float = MARGIN_MM
) -> FieldOfView:
    """A square in millimetres around a box (top, left, bottom, right: the first beyond), with a margin on each side."""
    top, left, bottom, right = (float(edge) for edge in box)
    side = max((bottom - top) * pixel_spacing_mm[0], (right - left) * pixel_spacing_mm[1]) + 2 * margin_mm
    return FieldOfView(
        (top + bottom - 1) / 2, (left + right - 1) / 2, side / pixel_spacing_mm[0], side / pixel_spacing_mm[1]
    )
