"""The sheet of a restoration: slices before and after, and the densities that came out beside those to be expected."""

from __future__ import annotations

import cv2
import numpy as np

from covct import RESEARCH_USE
from covct.voxels.overlay import (
    BACKGROUND,
    DIM_TEXT,
    FRAME,
    INFECTION_RGB,
    MARGIN,
    NOTICE,
    RIGHT_LUNG_RGB,
    TEXT,
    put_text,
    text_width,
)

WIDTH, GAP, PER_ROW = 1600, 8, 6
WINDOW_HU = (-1350, 150)
AXIS_HU = (-1050, 150)
PLOT_HEIGHT = 240
COLOURS = {"healthy_lung": RIGHT_LUNG_RGB, "infected_lung": INFECTION_RGB}


def draw_sheet(
    name: str,
    domain: str,
    grey: np.ndarray,
    hu: np.ndarray,
    masks: dict[str, np.ndarray],
    values: dict[str, np.ndarray],
    expected_hu: dict[str, tuple[int, int]],
) -> np.ndarray:
    """Draw up to twelve slices, each before and after, over a histogram of the tissues that masks show.

    Parameters
    ----------
    grey, hu : (slices, rows, columns) uint8 and int16
    masks : dict of str to (slices, rows, columns) bool
        Outlined on the slices.
    values : dict of str to (n,) int16
        HU by tissue.
    expected_hu : dict of str to (int, int)
        Where the literature has the median; shaded in the histogram.

    Returns
    -------
    (rows, 1600, 3) uint8
        RGB.
    """
    chosen = np.unique(np.linspace(0, len(grey) - 1, min(12, len(grey))).round().astype(int)).tolist()
    per_row = min(PER_ROW, len(chosen))
    side = min(400, (WIDTH - 2 * MARGIN - (per_row - 1) * GAP) // per_row)
    parts = [_title(name, domain, len(grey))]
    for start in range(0, len(chosen), per_row):
        for after in (False, True):
            label = "HU" if after else domain
            parts.append(_line(hu if after else grey, masks, chosen[start : start + per_row], side, label, after))
    parts.append(_histogram(values, expected_hu))
    return np.concatenate(parts)


def _line(
    images: np.ndarray, masks: dict[str, np.ndarray], chosen: list[int], side: int, label: str, after: bool
) -> np.ndarray:
    """Slices side by side, each under its number."""
    line = _blank(side + (GAP if after else 2))
    for place, index in enumerate(chosen):
        tile = _tile(images[index], {kind: mask[index] for kind, mask in masks.items()}, side, after)
        words = f"{index + 1}: {label}"
        behind = tile[4:24, 4 : 14 + text_width(words, 11)]
        behind[:] = behind * 0.3  # the chest wall is as white as the letters
        put_text(tile, words, 9, 19, 11, TEXT)
        left = MARGIN + place * (side + GAP)
        line[:side, left : left + side] = tile
    return line


def _title(name: str, domain: str, slices: int) -> np.ndarray:
    image = _blank(76)
    put_text(image, f"{name}: {slices} slice{'s' * (slices != 1)} from {domain} to HU", MARGIN, 32, 18, TEXT)
    words = (
        f"above as published, below restored, window {WINDOW_HU[0]} to {WINDOW_HU[1]} HU; masks of the source outlined"
    )
    put_text(image, words, MARGIN, 60, 12, DIM_TEXT)
    put_text(image, RESEARCH_USE, WIDTH - MARGIN - text_width(RESEARCH_USE, 14), 32, 14, NOTICE)
    return image


def _tile(one: np.ndarray, masks: dict[str, np.ndarray], side: int, after: bool) -> np.ndarray:
    """One slice in a square, outlines only over what was restored: before, nothing hides what was published."""
    shown = one.astype(np.float32)
    if after:
        shown = np.clip((shown - WINDOW_HU[0]) * (255 / (WINDOW_HU[1] - WINDOW_HU[0])), 0, 255)
    scale = side / max(one.shape)
    size = max(1, round(one.shape[1] * scale)), max(1, round(one.shape[0] * scale))
    image = np.repeat(cv2.resize(shown, size, interpolation=cv2.INTER_AREA).astype(np.uint8)[:, :, None], 3, axis=2)
    if after:
        for kind, colour in (("lungs", RIGHT_LUNG_RGB), ("infection", INFECTION_RGB)):
            if kind in masks:
                mask = cv2.resize(masks[kind].astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
                contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
                cv2.drawContours(image, contours, -1, colour, 1, cv2.LINE_AA)
    out = np.full((side, side, 3), BACKGROUND, np.uint8)
    top, left = (side - size[1]) // 2, (side - size[0]) // 2
    out[top : top + size[1], left : left + size[0]] = image
    return out


def _histogram(values: dict[str, np.ndarray], expected_hu: dict[str, tuple[int, int]]) -> np.ndarray:
    """Densities of each tissue as a line, the range of medians to be expected behind it."""
    if not values:
        image = _blank(46)
        put_text(image, "no masks: what healthy and infected lung came to is not known", MARGIN, 28, 12, DIM_TEXT)
        return image
    image = _blank(PLOT_HEIGHT + 96)
    left, right, bottom = MARGIN + 30, WIDTH - MARGIN - 30, PLOT_HEIGHT + 10

    def across(hu: float) -> int:
        return int(round(left + (np.clip(hu, *AXIS_HU) - AXIS_HU[0]) / (AXIS_HU[1] - AXIS_HU[0]) * (right - left)))

    for number, (name, found) in enumerate(values.items()):
        colour, (low, high) = COLOURS[name], expected_hu[name]
        shade = image[bottom - 14 - 12 * number : bottom - 4 - 12 * number, across(low) : across(high)]
        shade[:] = (0.45 * np.array(colour) + 0.55 * shade).astype(np.uint8)
        counts, edges = np.histogram(np.clip(found, *AXIS_HU), bins=120, range=AXIS_HU)
        heights = counts / max(1, counts.max()) * (PLOT_HEIGHT - 40)
        points = [(across((a + b) / 2), round(bottom - h)) for a, b, h in zip(edges, edges[1:], heights, strict=False)]
        cv2.polylines(image, [np.array(points, np.int32)], False, colour, 2, cv2.LINE_AA)
        median = float(np.median(found))
        cv2.line(image, (across(median), 20), (across(median), bottom), colour, 1, cv2.LINE_AA)
        words = f"{name.replace('_', ' ')}: median {median:.0f} HU, expected {low} to {high} (shaded)"
        put_text(image, words, MARGIN + 30 + 760 * number, PLOT_HEIGHT + 72, 13, colour)
    cv2.line(image, (left, bottom), (right, bottom), FRAME, 1)
    for hu in range(-1000, 101, 100):
        cv2.line(image, (across(hu), bottom), (across(hu), bottom + 5), DIM_TEXT, 1)
        put_text(image, f"{hu}", across(hu) - text_width(f"{hu}", 11) // 2, bottom + 24, 11, DIM_TEXT)
    return image


def _blank(rows: int) -> np.ndarray:
    return np.full((rows, WIDTH, 3), BACKGROUND, np.uint8)
