"""Model space: from HU slices to what a network sees, and masks back to the source grid.

A recipe is a named function (slices, size, size) HU -> (slices, size, size) float32; the weight card names it with
its arguments, so inference has no preprocessing flags to get wrong. Series pass through in chunks, so a recipe looks
at each slice alone; what comes out lies in 0..1, except after `z_score`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

AIR_HU = -1000
BODY_HU = -400  # between lung and fat: skin and everything inside the chest wall is above it
CT_RANGE_HU = (-1024, 3071)  # 12 bit CT numbers, the range the CLAHE recipe starts from


@dataclass(frozen=True)
class FieldOfView:
    """A square region of every slice, in pixels of the source grid.

    Attributes
    ----------
    row, column : float
        Centre of the square.
    height, width : float
        Extent in rows and columns; they differ where pixels are not square.
    """

    row: float
    column: float
    height: float
    width: float


def whole_slice(shape: tuple[int, int], pixel_spacing_mm: tuple[float, float] = (1.0, 1.0)) -> FieldOfView:
    """The square that holds the whole slice."""
    side = max(shape[0] * pixel_spacing_mm[0], shape[1] * pixel_spacing_mm[1])
    return FieldOfView((shape[0] - 1) / 2, (shape[1] - 1) / 2, side / pixel_spacing_mm[0], side / pixel_spacing_mm[1])


def body_field_of_view(
    hu: np.ndarray, pixel_spacing_mm: tuple[float, float] = (1.0, 1.0), margin: float = 1.06
) -> FieldOfView:
    """The square around the body, the same for every slice of the series.

    Parameters
    ----------
    hu : (slices, rows, columns) number
        Axial slices in Hounsfield units.
    pixel_spacing_mm : (float, float)
        Distance between rows and between columns, mm.
    margin : float
        Side of the square as a multiple of the body's larger extent.

    Returns
    -------
    FieldOfView
        The whole slice where no body is found.

    Notes
    -----
    Table and clothes are thin: an opening removes them. The extents are the 10th and 90th percentile over slices,
    so that a few slices with arms do not shrink the lungs of all others.
    """
    boxes = [box for box in (_body_box(one) for one in hu[:: max(1, len(hu) // 40)]) if box]
    if not boxes:
        return whole_slice(hu.shape[1:], pixel_spacing_mm)
    top, left = np.percentile([box[:2] for box in boxes], 10, axis=0)
    bottom, right = np.percentile([box[2:] for box in boxes], 90, axis=0)
    side = margin * max((bottom - top) * pixel_spacing_mm[0], (right - left) * pixel_spacing_mm[1])
    return FieldOfView(
        (top + bottom - 1) / 2, (left + right - 1) / 2, side / pixel_spacing_mm[0], side / pixel_spacing_mm[1]
    )


def _body_box(hu_slice: np.ndarray) -> tuple[int, int, int, int] | None:
    """Top, left, bottom, right of the largest body-like component of one slice, or None."""
    step = max(1, max(hu_slice.shape) // 256)
    body = (hu_slice[::step, ::step] > BODY_HU).astype(np.uint8)
    body = cv2.morphologyEx(body, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7)))
    count, _, stats, _ = cv2.connectedComponentsWithStats(body)
    if count < 2:
        return None
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    left, top, width, height, area = (int(v) for v in stats[largest])
    if area < 0.02 * body.size:
        return None
    return top * step, left * step, (top + height) * step, (left + width) * step


def to_model_space(hu: np.ndarray, view: FieldOfView, size: int, dtype: npt.DTypeLike = np.float32) -> np.ndarray:
    """Cut the field of view out of every slice and bring it to `size` x `size`.

    Parameters
    ----------
    hu : (slices, rows, columns) number
    view : FieldOfView
    size : int
        Side of the network's input, pixels.

    Returns
    -------
    (slices, size, size), float32 unless `dtype` says otherwise
        HU; air outside the source image.
    """
    top, left, height, width = _window(view)
    out = np.empty((len(hu), size, size), dtype)
    # Averaging below half size, else fine noise folds into the network's scale.
    interpolation = cv2.INTER_AREA if height > size else cv2.INTER_LINEAR
    for index, one in enumerate(hu):
        cut = np.full((height, width), AIR_HU, np.float32)
        inside, source = _overlap(top, left, height, width, one.shape)
        cut[inside] = one[source]
        out[index] = cv2.resize(cut, (size, size), interpolation=interpolation)
    return out


def from_model_space(mask: np.ndarray, view: FieldOfView, shape: tuple[int, int]) -> np.ndarray:
    """Bring one model-space slice back to the source grid.

    mask (size, size) float32 in 0..1 -> (rows, columns) float32, zero outside the field of view.
    """
    top, left, height, width = _window(view)
    out = np.zeros(shape, np.float32)
    inside, source = _overlap(top, left, height, width, shape)
    out[source] = cv2.resize(mask, (width, height), interpolation=cv2.INTER_LINEAR)[inside]
    return out


def _window(view: FieldOfView) -> tuple[int, int, int, int]:
    height, width = max(1, round(view.height)), max(1, round(view.width))
    return round(view.row - (height - 1) / 2), round(view.column - (width - 1) / 2), height, width


def _overlap(
    top: int, left: int, height: int, width: int, shape: tuple[int, ...]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Slices of the window and of the image where the two overlap."""
    first_row, last_row = max(0, top), min(shape[0], top + height)
    first_column, last_column = max(0, left), min(shape[1], left + width)
    source = (slice(first_row, last_row), slice(first_column, last_column))
    inside = (slice(first_row - top, last_row - top), slice(first_column - left, last_column - left))
    return inside, source


def hu_window(hu: np.ndarray, low: float, high: float) -> np.ndarray:
    """HU clipped to low..high and scaled to 0..1, float32. Works on any shape."""
    _need(low < high, f"window low is {low}, high {high}, wanted low < high")
    windowed: np.ndarray = np.clip((np.asarray(hu, np.float32) - low) / (high - low), 0, 1)
    return windowed


def min_max(hu: np.ndarray, low: float = CT_RANGE_HU[0], high: float = CT_RANGE_HU[1]) -> np.ndarray:
    """HU clipped to low..high, then each slice by its own darkest and brightest pixel to 0..1.

    hu (slices, rows, columns) -> the same shape, float32. A slice of one value comes out as 0.
    What a grey means depends on what else lies in the slice (metal, contrast medium): kept for networks of others'
    recipes.
    """
    _need(low < high, f"range low is {low}, high {high}, wanted low < high")
    clipped = np.clip(np.asarray(hu, np.float32), low, high)
    darkest = clipped.min((1, 2), keepdims=True)
    extent = clipped.max((1, 2), keepdims=True) - darkest
    stretched: np.ndarray = (clipped - darkest) / np.where(extent > 0, extent, 1)
    return stretched


def z_score(
    hu: np.ndarray, low: float, high: float, mean: float | None = None, deviation: float | None = None
) -> np.ndarray:
    """HU clipped to low..high, less a mean, over a standard deviation; not in 0..1.

    hu (slices, rows, columns) -> the same shape, float32. With `mean` and `deviation` (HU, of the training set, as in
    nnU-Net, Isensee 2021) a grey means the same in every slice; without them each slice's own are taken, and a slice
    of one value comes out as 0.
    """
    _need(low < high, f"range low is {low}, high {high}, wanted low < high")
    _need((mean is None) == (deviation is None), "mean and deviation are given together or not at all")
    _need(deviation is None or deviation > 0, f"deviation is {deviation}, wanted more than 0")
    clipped = np.clip(np.asarray(hu, np.float32), low, high)
    if deviation is not None:
        return (clipped - np.float32(mean)) / np.float32(deviation)
    spread = clipped.std((1, 2), keepdims=True)
    standardised: np.ndarray = (clipped - clipped.mean((1, 2), keepdims=True)) / np.where(spread > 0, spread, 1)
    return standardised


def clahe(
    hu: np.ndarray, clip_limit: float = 7.0, tiles: int = 8, low: float | None = None, high: float | None = None
) -> np.ndarray:
    """Contrast limited adaptive histogram equalisation (Zuiderveld 1994) of 8-bit slices.

    hu (slices, rows, columns) -> the same shape, float32 in 0..1.

    Parameters
    ----------
    clip_limit : float
        Of OpenCV: the most that a bin may hold, as a multiple of an even histogram's. Higher is more contrast.
    tiles : int
        Tiles a side, each with a histogram of its own.
    low, high : float, optional
        HU window that becomes 0..255. Without them it is the recipe of the slices published by Ma et al.: each
        slice's darkest and brightest pixel within the whole CT range become 0 and 255.
    """
    _need(0 < clip_limit <= 256, f"clip_limit is {clip_limit}, wanted more than 0, at most 256")
    _need(tiles == int(tiles) and 1 <= tiles <= 64, f"tiles is {tiles}, wanted a whole number from 1 to 64")
    _need((low is None) == (high is None), "low and high are given together or not at all")
    equalise = cv2.createCLAHE(clipLimit=clip_limit, tileGridSize=(int(tiles), int(tiles)))
    out = np.empty(hu.shape, np.float32)
    for index, one in enumerate(hu):
        if low is None or high is None:
            clipped = np.clip(one, *CT_RANGE_HU)
            scaled = cv2.normalize(clipped.astype(np.float32), None, 0, 255, cv2.NORM_MINMAX)
        else:
            scaled = 255 * hu_window(one, low, high)
        out[index] = equalise.apply(scaled.astype(np.uint8)) / np.float32(255)
    return out


RECIPES: dict[str, Callable[..., np.ndarray]] = {
    "hu-window": hu_window,
    "min-max": min_max,
    "z-score": z_score,
    "clahe": clahe,
}


def bound_recipe(name: str, arguments: Mapping[str, Any]) -> Callable[[np.ndarray], np.ndarray]:
    """A recipe with its arguments, as a function (slices, rows, columns) HU -> float32 of that shape.

    Raises
    ------
    ValueError
        No recipe has this name, or it does not take these arguments. They are tried at once, on a flat slice, so that
        a card is refused before a series is read.
    """
    _need(name in RECIPES, f"no recipe {name!r}, there are {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    known = list(inspect.signature(recipe).parameters)[1:]
    if strange := sorted(set(arguments) - set(known)):
        raise ValueError(f"recipe {name} takes {', '.join(known)}, got {', '.join(strange)}")
    for argument, value in arguments.items():
        _need(
            isinstance(value, int | float) and not isinstance(value, bool),
            f"recipe {name}: {argument} is {value!r}, wanted a number",
        )
    bound = with_arguments(name, arguments)
    try:
        bound(np.zeros((1, 64, 64), np.float32))
    except (TypeError, ValueError) as error:
        raise ValueError(f"recipe {name}: {error}") from error
    return bound


def with_arguments(name: str, arguments: Mapping[str, Any]) -> Callable[[np.ndarray], np.ndarray]:
    """As `bound_recipe`, of a recipe whose arguments were tried before: what runs for each chunk tries nothing."""
    return partial(RECIPES[name], **arguments)


def parse_recipe(text: str) -> tuple[str, dict[str, float]]:
    """`NAME` or `NAME:ARGUMENT=NUMBER,...`, as on a command line, to a name and its arguments. Raises ValueError."""
    name, _, rest = text.partition(":")
    arguments: dict[str, float] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        _need(equals == "=" and math.isfinite(number), f"recipe {text!r}: got {part!r}, wanted ARGUMENT=NUMBER")
        arguments[key.strip()] = int(number) if number.is_integer() else number
    bound_recipe(name, arguments)
    return name, arguments


def _need(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)
