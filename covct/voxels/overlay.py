"""The picture of a result: slices with the lungs outlined and the infection filled, for eyes on the morning after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from covct import RESEARCH_USE
from covct.terms import HU_BANDS, SEGMENTS
from covct.voxels.fields_of_view import lung_field_of_view
from covct.voxels.labels import Slices
from covct.voxels.preprocess import FieldOfView, to_model_space

Colour = tuple[int, int, int]

RIGHT_LUNG_RGB, LEFT_LUNG_RGB, INFECTION_RGB = (segment.colour_rgb for segment in SEGMENTS)
BACKGROUND: Colour = (13, 16, 21)
FRAME: Colour = (44, 51, 61)
TEXT: Colour = (232, 236, 241)
DIM_TEXT: Colour = (168, 178, 190)
NOTICE: Colour = (255, 196, 87)

RIGHT_RGB: Colour = (0, 158, 115)  # right, false and missed: told apart by the colour-blind (Okabe and Ito 2008)
FALSE_RGB: Colour = (230, 159, 0)
MISSED_RGB: Colour = (204, 121, 167)

LUNG_WINDOW_HU = (-1350, 150)
FILL = 0.38  # enough to see at thumbnail size, while ground glass can still be told from consolidation
LEGEND = (("right lung", RIGHT_LUNG_RGB), ("left lung", LEFT_LUNG_RGB), ("opacity", INFECTION_RGB))
WIDTH = 1600
MARGIN = 20
GAP = 8
PER_ROW = 4
THUMBNAIL_WIDTH, THUMBNAIL_TILES, THUMBNAIL_BYTES = 480, 8, 40_000  # shown half as wide: sharp on any screen
PRINTED_TILES = 8  # two rows of them leave room for figures on a sheet of paper
LARGEST_TILE = 776  # two fill a row; a lone slice is not blown up further
HATCH_PITCH = 6  # pixels between the lines over consolidation
CONSOLIDATION_HU = HU_BANDS["consolidation"]


def write_overlay(
    path: Path,
    hu: np.ndarray,
    lungs: Slices,
    infection: Slices,
    pixel_spacing_mm: tuple[float, float],
    caption_lines: Sequence[str],
    tiles: int = 12,
    bands: bool = True,
) -> None:
    """Write the `montage` as a PNG file. No metadata goes into it."""
    image = montage(hu, lungs, infection, pixel_spacing_mm, caption_lines, tiles, bands)
    _, png = cv2.imencode(".png", image[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 6])
    Path(path).write_bytes(png.tobytes())


def montage(
    hu: np.ndarray,
    lungs: Slices,
    infection: Slices,
    pixel_spacing_mm: tuple[float, float],
    caption_lines: Sequence[str],
    tiles: int = 12,
    bands: bool = True,
) -> np.ndarray:
    """Draw the most telling slices of one series side by side.

    Parameters
    ----------
    hu : (slices, rows, columns) number
        Axial slices in Hounsfield units, head to feet, anterior up, the patient's right on the image's left.
    lungs : (slices, rows, columns) uint8
        Label map: 0 background, 1 right lung, 2 left lung (the patient's right and left).
    infection : (slices, rows, columns) bool
    pixel_spacing_mm : (float, float)
        Distance between rows and between columns, mm.
    caption_lines : sequence of str
        Drawn above the slices, the first one larger. The caller keeps names of patients out of them.
    tiles : int
        Most slices to draw.
    bands : bool
        Hatch consolidation, by its HU; not where contrast medium or wrong units deny figures by HU.

    Returns
    -------
    (rows, columns, 3) uint8
        RGB, 1600 columns. All slices show the same square of the patient, at the same scale.
    """
    grid, pixels_per_mm = _grid(hu, lungs, infection, pixel_spacing_mm, tiles, bands)
    return np.concatenate([_header(caption_lines), grid, _footer(pixels_per_mm, bands)])


def write_thumbnail(
    path: Path, hu: np.ndarray, lungs: Slices, infection: Slices, pixel_spacing_mm: tuple[float, float]
) -> None:
    """Write the slices of the `montage`, without words, as a JPEG of at most THUMBNAIL_BYTES; parameters as there."""
    grid, _ = _grid(hu, lungs, infection, pixel_spacing_mm, THUMBNAIL_TILES)
    rows = round(len(grid) * THUMBNAIL_WIDTH / WIDTH)
    small = cv2.resize(grid[:, :, ::-1], (THUMBNAIL_WIDTH, rows), interpolation=cv2.INTER_AREA)
    for quality in (85, 70, 50, 30, 10):
        jpeg = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        if len(jpeg) <= THUMBNAIL_BYTES:
            break
    path.write_bytes(jpeg)


def printed(
    hu: np.ndarray, lungs: Slices, infection: Slices, pixel_spacing_mm: tuple[float, float], bands: bool
) -> np.ndarray:
    """The slices of the `montage`, without words and margins, for a sheet of paper; parameters as there.

    Returns
    -------
    (rows, columns, 3) uint8
        RGB.
    """
    grid, _ = _grid(hu, lungs, infection, pixel_spacing_mm, PRINTED_TILES, bands)
    drawn = np.flatnonzero((grid != np.array(BACKGROUND, np.uint8)).any(axis=(0, 2)))
    return grid[:, drawn[0] : drawn[-1] + 1]


def _grid(
    hu: np.ndarray,
    lungs: Slices,
    infection: Slices,
    pixel_spacing_mm: tuple[float, float],
    tiles: int,
    bands: bool = False,
) -> tuple[np.ndarray, float]:
    """(rows, columns, 3) uint8 RGB, and its scale in pixels a mm."""
    chosen = choose_slices(lungs, infection, tiles)
    view = lung_field_of_view(lungs, pixel_spacing_mm)
    per_row = min(PER_ROW, len(chosen))
    side = min(LARGEST_TILE, (WIDTH - 2 * MARGIN - (per_row - 1) * GAP) // per_row)
    left = (WIDTH - per_row * side - (per_row - 1) * GAP) // 2
    grid_rows = -(-len(chosen) // per_row)
    grid = _blank(grid_rows * side + (grid_rows - 1) * GAP)
    for place, index in enumerate(chosen):
        top = place // per_row * (side + GAP)
        start = left + place % per_row * (side + GAP)
        tile = draw_slice(hu[index], lungs[index], infection[index], view, side)
        if bands:
            hatch(tile, _consolidated(hu[index], infection[index], view, side))
        _annotate(tile, f"slice {index + 1}/{len(hu)}")
        grid[top : top + side, start : start + side] = tile
    return grid, side / (view.width * pixel_spacing_mm[1])


def choose_slices(lungs: Slices, infection: Slices, tiles: int = 12) -> list[int]:
    """Indices of slices evenly over the lungs, of each stretch the one with most infection, else its middle.

    All slices where there are no more than `tiles`; over the whole volume where no lung was found.
    """
    if len(lungs) <= tiles:
        return list(range(len(lungs)))
    with_lung = [index for index, one in enumerate(lungs) if one.any()]
    first, end = (with_lung[0], with_lung[-1] + 1) if with_lung else (0, len(lungs))
    bounds = np.linspace(first, end, min(tiles, end - first) + 1).round().astype(int).tolist()
    return [_most_infected(infection, start, stop) for start, stop in zip(bounds, bounds[1:], strict=False)]


def _most_infected(infection: Slices, start: int, stop: int) -> int:
    middle = (start + stop - 1) / 2
    return max(range(start, stop), key=lambda index: (np.count_nonzero(infection[index]), -abs(index - middle)))


def draw_slice(hu: np.ndarray, lungs: np.ndarray, infection: np.ndarray, view: FieldOfView, side: int) -> np.ndarray:
    """One slice in the lung window with its outlines: (rows, columns) each -> (side, side, 3) uint8 RGB."""
    masks = (cut(mask, view, side) > 0.5 for mask in (lungs == 1, lungs == 2, infection > 0))
    return paint(cut(hu, view, side), *masks)


def paint(hu: np.ndarray, right_lung: np.ndarray, left_lung: np.ndarray, infected: np.ndarray) -> np.ndarray:
    """A slice in the lung window with three masks over it: (rows, columns) each -> (rows, columns, 3) uint8 RGB."""
    low, high = LUNG_WINDOW_HU
    grey = np.clip((hu.astype(np.float32) - low) * (255 / (high - low)), 0, 255).astype(np.uint8)
    image = np.repeat(grey[:, :, None], 3, axis=2)
    tint = np.array(INFECTION_RGB, np.float32)
    image[infected] = ((1 - FILL) * image[infected] + FILL * tint).astype(np.uint8)
    # Infection last and inside its edge, the lungs outside theirs: along the pleura both stay visible.
    _outline_around(image, right_lung, RIGHT_LUNG_RGB)
    _outline_around(image, left_lung, LEFT_LUNG_RGB)
    _outline(image, infected, INFECTION_RGB)
    return image


def paint_agreement(image: np.ndarray, truth: np.ndarray, called: np.ndarray, fill_right: bool = True) -> None:
    """What is called rightly, falsely and not at all, in three colours over a slice, in place.

    image (rows, columns, 3) uint8 RGB; truth, called (rows, columns) bool. `fill_right`: else what is right is only
    outlined, so that one sees the scan within.
    """
    for mask, colour in (
        (truth & called, RIGHT_RGB),
        (called & ~truth, FALSE_RGB),
        (truth & ~called, MISSED_RGB),
    ):
        if fill_right or colour != RIGHT_RGB:
            image[mask] = ((1 - FILL) * image[mask] + FILL * np.array(colour, np.float32)).astype(np.uint8)
        _outline(image, mask, colour)


def _consolidated(hu: np.ndarray, infection: np.ndarray, view: FieldOfView, side: int) -> np.ndarray:
    """(side, side) bool: opacity that most of its surroundings, 5 pixels wide, show as consolidation: noise makes no
    pattern of its own."""
    low, high = CONSOLIDATION_HU
    infected = infection > 0
    dense = cut(infected & (hu >= low) & (hu < high), view, side)
    around = cv2.blur(dense, (5, 5)) / np.maximum(cv2.blur(cut(infected, view, side), (5, 5)), 1e-6)
    marked: np.ndarray = (cut(infected, view, side) > 0.5) & (around > 0.5)
    return marked


def hatch(image: np.ndarray, mask: np.ndarray) -> None:
    """Diagonal lines in the colour of opacity: told apart without telling colours apart."""
    rows, columns = np.indices(mask.shape)
    image[mask & ((rows + columns) % HATCH_PITCH < 2)] = INFECTION_RGB


def cut(one: np.ndarray, view: FieldOfView, side: int) -> np.ndarray:
    """A slice or mask (rows, columns) as the square of a field of view: (side, side)."""
    square: np.ndarray = to_model_space(one[None], view, side)[0]
    return square


def _outline(image: np.ndarray, mask: np.ndarray, colour: Colour) -> None:
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(image, contours, -1, colour, 1, cv2.LINE_AA)


def _outline_around(image: np.ndarray, mask: np.ndarray, colour: Colour) -> None:
    """Two pixels wide, just outside the mask."""
    grown = mask.astype(np.uint8)
    for _ in range(2):
        grown = cv2.dilate(grown, np.ones((3, 3), np.uint8))
        _outline(image, grown, colour)


def _annotate(tile: np.ndarray, label: str) -> None:
    """Slice number, the patient's right and left, a thin frame; in the corners, where no lung is."""
    side = len(tile)
    _put_on_dark(tile, label, 12, 25, 13)
    _put_on_dark(tile, "R", 12, side - 13, 16)
    _put_on_dark(tile, "L", side - 12 - text_width("L", 16), side - 13, 16)
    cv2.rectangle(tile, (0, 0), (side - 1, side - 1), FRAME, 1)


def _put_on_dark(tile: np.ndarray, text: str, x: int, baseline: int, height: int) -> None:
    """Text with the scan behind it darkened: the chest wall is as white as the letters."""
    behind = tile[baseline - height - 5 : baseline + 6, x - 6 : x + text_width(text, height) + 6]
    behind[:] = behind * 0.3
    put_text(tile, text, x, baseline, height, TEXT)


def _header(caption_lines: Sequence[str]) -> np.ndarray:
    lines = list(caption_lines)
    image = _blank(MARGIN + (34 if lines else 0) + 26 * max(0, len(lines) - 1) + (10 if lines else 0))
    baseline = MARGIN + 22
    for number, line in enumerate(lines):
        height, colour = (20, TEXT) if number == 0 else (14, DIM_TEXT)
        put_text(image, _shortened(line, height, WIDTH - 2 * MARGIN), MARGIN, baseline, height, colour)
        baseline += 30 if number == 0 else 26
    return image


def _footer(pixels_per_mm: float, bands: bool) -> np.ndarray:
    """What colours and hatching mean, the scale, the window, and that this is research."""
    image = _blank(64)
    x, baseline = MARGIN, 38
    consolidation = [("consolidation", INFECTION_RGB)] if bands else []
    for name, colour in (*LEGEND, *consolidation):
        corner, opposite = (x, baseline - 13), (x + 20, baseline + 1)
        if colour == INFECTION_RGB:
            dimmed = [round(FILL * channel + 60 * (1 - FILL)) for channel in colour]
            cv2.rectangle(image, corner, opposite, dimmed, cv2.FILLED)
        if name == "consolidation":
            box = image[corner[1] : opposite[1] + 1, corner[0] : opposite[0] + 1]
            hatch(box, np.ones(box.shape[:2], bool))
        cv2.rectangle(image, corner, opposite, colour, 2)
        put_text(image, name, x + 30, baseline, 14, TEXT)
        x += 30 + text_width(name, 14) + 28
    bar = round(50 * pixels_per_mm)
    cv2.line(image, (x, baseline - 6), (x + bar, baseline - 6), TEXT, 2)
    for end in (x, x + bar):
        cv2.line(image, (end, baseline - 11), (end, baseline - 1), TEXT, 2)
    x += bar + 10
    put_text(image, "50 mm", x, baseline, 14, TEXT)
    x += text_width("50 mm", 14) + 28
    put_text(image, f"window {LUNG_WINDOW_HU[0]} to {LUNG_WINDOW_HU[1]} HU", x, baseline, 14, DIM_TEXT)
    put_text(image, RESEARCH_USE, WIDTH - MARGIN - text_width(RESEARCH_USE, 18), baseline + 1, 18, NOTICE)
    return image


def _blank(rows: int) -> np.ndarray:
    return np.full((rows, WIDTH, 3), BACKGROUND, np.uint8)


# Hershey names draw a smooth outline font since OpenCV 5 and strokes before; sizes are the same.
FONT = cv2.FONT_HERSHEY_SIMPLEX


def put_text(image: np.ndarray, text: str, x: int, baseline: int, height: int, colour: Colour) -> None:
    """Anti-aliased text with capitals `height` pixels tall."""
    scale = cv2.getFontScaleFromHeight(FONT, height)
    cv2.putText(image, text, (x, baseline), FONT, scale, colour, 1, cv2.LINE_AA)


def text_width(text: str, height: int) -> int:
    return int(cv2.getTextSize(text, FONT, cv2.getFontScaleFromHeight(FONT, height), 1)[0][0])


def _shortened(text: str, height: int, width: int) -> str:
    if text_width(text, height) <= width:
        return text
    while text and text_width(text + "...", height) > width:
        text = text[:-1]
    return text + "..."
