"""What the numbers of an image mean: Hounsfield units, a lung window on 8 bit, or CLAHE on 8 bit. Never mixed silently.

A domain is declared by the layout or told by the intensities, and each has one way to Hounsfield units.
"""

from __future__ import annotations

import cv2
import numpy as np

HU, WINDOW, CLAHE = "hu", "window-8bit", "clahe-8bit"
DOMAINS = (HU, WINDOW, CLAHE)
TISSUE_HU = 40  # where nobody knows what was there
AIR_BELOW_HU = -500  # an image in HU holds air
BRIGHT = 150  # grey of soft tissue on 8 bit: above it in any lung window, and after CLAHE
LEAST_BRIGHT = 0.02  # of the pixels; a min-max of the whole CT range leaves tissue at 90, and nothing here
# Of the pixels in a lung window, where chest wall and mediastinum are bright: 0.20 and more in 130 slices of as many
# scanners. CLAHE of a slice with metal is dark, its tissue piles up, and 0.17 at most are bright in ten such slices.
LEAST_BRIGHT_WINDOW = 0.2
TILES, TILE_SIDE = 8, 32
AIR_GREY = 60  # mean of a tile; darker ones are air, which says nothing
# Share of a tile's commonest five greys over the tile's spread (5th to 95th percentile as a share of 255). After CLAHE
# with clip limit 7 at most 0.19 in sixteen volumes, in lung windows 0.28 and more in fifty slices of as many scanners.
# A clip limit of 2 lies between them: then the layout has to declare the domain.
CLAHE_BELOW, WINDOW_ABOVE = 0.22, 0.26


def detect_domain(pixels: np.ndarray) -> tuple[str, str]:
    """The domain of an image by its intensities.

    Parameters
    ----------
    pixels : (slices, rows, columns) number
        As stored, or 0..1.

    Returns
    -------
    (domain, reason)
        The domain is one of `DOMAINS`, or empty where the intensities do not tell; the reason says what was seen.
    """
    low, high = float(np.min(pixels)), float(np.max(pixels))
    seen = f"intensities {low:g}..{high:g}"
    if low <= AIR_BELOW_HU:
        return HU, seen
    if low < 0 or high > 255:
        return "", f"{seen}: wanted HU with air (-1000), 0..255 or 0..1"
    grey = as_grey(pixels)
    bright = float(np.mean(grey >= BRIGHT))
    if bright < LEAST_BRIGHT:
        return "", f"{seen}, {100 * bright:.1f} % of them above {BRIGHT}: no soft tissue as in a lung window or CLAHE"
    sharpness = tile_sharpness(grey)
    seen = f"{seen}, sharpness of tiles {sharpness:.2f}"
    if sharpness <= CLAHE_BELOW:
        return CLAHE, seen
    if sharpness >= WINDOW_ABOVE and bright >= LEAST_BRIGHT_WINDOW:
        return WINDOW, seen
    if sharpness >= WINDOW_ABOVE:
        return "", (
            f"{seen} as in a lung window, but only {100 * bright:.0f} % of the pixels are as bright as soft tissue in "
            f"one, wanted {100 * LEAST_BRIGHT_WINDOW:.0f} %: dark CLAHE slices (metal, bright bone) look like that too"
        )
    return "", f"{seen}: between CLAHE (up to {CLAHE_BELOW}) and a window ({WINDOW_ABOVE} and more)"


def as_grey(pixels: np.ndarray) -> np.ndarray:
    """Pixels of an 8-bit domain as uint8, where 0..1 becomes 0..255."""
    if pixels.dtype == np.uint8:
        return pixels
    scale = 255 if float(np.max(pixels)) <= 1 else 1
    return np.clip(np.rint(np.asarray(pixels, np.float32) * scale), 0, 255).astype(np.uint8)


def tile_sharpness(grey: np.ndarray) -> float:
    """How much the greys of a tile pile up: CLAHE spreads those of each tile evenly, a window leaves tissue its peak.

    grey (slices, rows, columns) uint8 -> median over the tiles with tissue; 0 without any.
    """
    found = []
    side = TILES * TILE_SIDE
    for one in grey[:: max(1, len(grey) // 12)]:
        small = cv2.resize(one, (side, side), interpolation=cv2.INTER_AREA)
        tiles = small.reshape(TILES, TILE_SIDE, TILES, TILE_SIDE).swapaxes(1, 2).reshape(TILES * TILES, -1)
        for tile in tiles[tiles.mean(axis=1) > AIR_GREY]:
            counts = np.bincount(tile, minlength=256)
            commonest = np.convolve(counts, np.ones(5)).max() / tile.size
            found.append((commonest, np.subtract(*np.percentile(tile, [95, 5]))))
    if not found:
        return 0.0
    commonest, spread = np.array(found).T
    return float(np.median(commonest) * 255 / max(1.0, float(np.percentile(spread, 10))))


def hu_of_window(grey: np.ndarray, window_hu: tuple[float, float]) -> np.ndarray:
    """8-bit pixels of a known window in HU, float32. What the window cut off stays at its ends."""
    low, high = window_hu
    return np.asarray(grey, np.float32) * ((high - low) / 255) + low


def hu_by_anchors(grey: np.ndarray) -> np.ndarray:
    """8-bit pixels of an untold lung window in HU, float32, by two anchors of their own histogram.

    The darkest two percent are air (-960 HU on average with some lung among it), the commonest bright value is soft
    tissue (40 HU). Where it is saturated, so is HU. For slices cropped at the ribs: black outside would be the air.
    """
    grey = np.asarray(grey, np.float32)
    air = float(np.percentile(grey, 2))
    counts = np.bincount(grey.astype(np.uint8).ravel(), minlength=256)[BRIGHT:]
    tissue = BRIGHT + int(np.argmax(np.convolve(counts, np.ones(9), "same")))
    hu: np.ndarray = (grey - air) / np.maximum(1.0, tissue - air) * 1000 - 960
    return hu
