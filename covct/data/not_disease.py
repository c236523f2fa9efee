"""Where the lung of a person without COVID-19 is dense and holds no disease, by geometry alone.

Such a person's lung may be diseased in other ways (a tumour, an atelectasis, another pneumonia), and nobody marked
that. What holds air is healthy. Of the rest most has a plain reason, and is as good a negative as aerated lung:

- *Partial volume*: soft tissue in the next slices, such as a dome of the diaphragm, the arch of the aorta, the heart.
- *Thin structures*: vessels and fissures, which a grey opening takes away; a patch of ground glass it leaves.
- *Dependent density*: the lowest lung of somebody lying on his back, as far as it is no consolidation.

What is dense without any of these is `UNKNOWN`, and out of the loss.
"""

from __future__ import annotations

import cv2
import numpy as np

from covct.data.slices import UNKNOWN
from covct.voxels.fields_of_view import MODEL_PIXEL_MM

TRUSTED_HU = -700  # smoothed lung below this holds no disease
ABOVE_MEDIAN_HU = 130  # nor does lung no denser than this above the person's own: some breathe out
SOFT_HU = -300  # outside of the lungs: tissue
PARTIAL_MM, PARTIAL_MARGIN_MM = 4.0, 3.0  # above and below; and beside
THIN_MM = 8.0
DEPENDENT_MM, DEPENDENT_BELOW_HU = 12.0, -400
SMOOTHED_PX = 4.0
MODEL_MM = (3.0, MODEL_PIXEL_MM, MODEL_PIXEL_MM)  # where nobody says how far apart slices and pixels lie


def labels_without_disease(
    hu: np.ndarray, lungs: np.ndarray, spacing_mm: tuple[float, float, float] | None = None
) -> np.ndarray:
    """Infection labels of a whole volume of a person without COVID-19: 0, and `UNKNOWN` where lung may be diseased.

    Parameters
    ----------
    hu : (slices, rows, columns) number
        Adjacent axial slices, anterior up.
    lungs : (slices, rows, columns) uint8
        Above 0 inside either lung.
    spacing_mm : (float, float, float), optional
        Between slices, rows and columns.

    Returns
    -------
    (slices, rows, columns) uint8
    """
    between, down, _ = spacing_mm or MODEL_MM
    inside = lungs > 0
    healthy = inside & (hu < -500)
    median = float(np.median(hu[healthy])) if healthy.any() else -1000.0
    limit = max(TRUSTED_HU, median + ABOVE_MEDIAN_HU)
    soft = _widened((hu > SOFT_HU) & ~inside, PARTIAL_MARGIN_MM / down)
    reach = max(1, round(PARTIAL_MM / between))
    out = np.zeros(hu.shape, np.uint8)
    for index, (one, mask) in enumerate(zip(hu.astype(np.float32), inside, strict=True)):
        fine = cv2.GaussianBlur(one, (0, 0), 1.0)  # an opening of noise is dark
        opened = cv2.morphologyEx(fine, cv2.MORPH_OPEN, _disc(THIN_MM / 2 / down))
        smooth = smoothed_inside(opened, mask)
        near = [soft[k] for k in range(max(0, index - reach), min(len(hu), index + reach + 1)) if k != index]
        partial = np.any(near, axis=0) if near else np.zeros(mask.shape, bool)
        dependent = _lowest(mask, round(DEPENDENT_MM / down)) & (smooth < DEPENDENT_BELOW_HU)
        out[index][mask & (smooth > limit) & ~partial & ~dependent] = UNKNOWN
    return out


def smoothed_inside(hu: np.ndarray, mask: np.ndarray, sigma: float = SMOOTHED_PX) -> np.ndarray:
    """HU smoothed over the mask alone, so that neither a vessel nor the chest wall makes lung look dense."""
    weight = (mask > 0).astype(np.float32)
    total = cv2.GaussianBlur((hu + 1000) * weight, (0, 0), sigma)
    smooth: np.ndarray = total / np.maximum(cv2.GaussianBlur(weight, (0, 0), sigma), 1e-3) - 1000
    return smooth


def _widened(masks: np.ndarray, pixels: float) -> np.ndarray:
    disc = _disc(pixels)
    widened: np.ndarray = np.stack([cv2.dilate(one.astype(np.uint8), disc) for one in masks]) > 0
    return widened


def _disc(radius: float) -> np.ndarray:
    side = 2 * max(1, round(radius)) + 1
    disc: np.ndarray = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    return disc


def _lowest(mask: np.ndarray, rows: int) -> np.ndarray:
    """Of a mask (rows, columns) what ends within so many rows below."""
    moved = np.zeros_like(mask)
    moved[:-rows] = mask[rows:]
    lowest: np.ndarray = mask & ~moved
    return lowest
