"""A sheet of augmented samples to look at before anything is trained: what the network will see, the truth outlined."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from covct import RESEARCH_USE
from covct.disk.durable import replace_file
from covct.training.samples.inputs import check_inputs
from covct.training.samples.plan import Plan
from covct.training.samples.plans import PLANS
from covct.training.samples.reading import Readings
from covct.training.settings import Settings
from covct.voxels.overlay import (
    BACKGROUND,
    DIM_TEXT,
    FRAME,
    GAP,
    INFECTION_RGB,
    MARGIN,
    NOTICE,
    TEXT,
    put_text,
    text_width,
)

UNKNOWN_COLOUR = (122, 162, 247)
TILE = 256
PER_ROW = 6
HEADER, FOOTER = 64, 56
Watch = Callable[[int, int], None]  # how many are done, and of how many


def write_augmented(
    settings: Settings, data: Path, out: Path, restorer: Path | None, count: int, watch: Watch = lambda done, of: None
) -> Path:
    """Draw `count` samples as training would and write them as `OUT/TASK-augmented.png`; `watch` is told of each."""
    check_inputs(settings)
    plan = PLANS[settings.task](Readings().of(data, restorer), settings)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{settings.task}-augmented.png"
    _, png = cv2.imencode(".png", sheet(plan, settings, count, watch)[:, :, ::-1])
    replace_file(path, png.tobytes(), to_disk=False)
    return path


def sheet(plan: Plan, settings: Settings, count: int, watch: Watch = lambda done, of: None) -> np.ndarray:
    """(rows, columns, 3) uint8 RGB: samples in rows of six, numbered; the same settings give the same sheet.

    Sample i is drawn from the generator of (seed, i) alone, so that a larger sheet begins with the smaller one. Of the
    restorer each tile is a pair: what it is shown, and what it shall answer.
    """
    tiles = []
    for index in range(count):
        tiles.append(_tile(plan, settings, index))
        watch(index + 1, count)
    width = max(3, min(PER_ROW, count)) * (TILE + GAP) - GAP
    rows = -(-count // PER_ROW)
    image = np.full((HEADER + rows * (TILE + GAP) + FOOTER, width + 2 * MARGIN, 3), BACKGROUND, np.uint8)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, PER_ROW)
        top, left = HEADER + row * (TILE + GAP), MARGIN + column * (TILE + GAP)
        image[top : top + TILE, left : left + TILE] = tile
    put_text(image, f"{settings.task}: augment {settings.augment}, seed {settings.seed}", MARGIN, 28, 15, TEXT)
    put_text(image, f"{settings.recipe}  {settings.size} px  {settings.field_of_view}", MARGIN, 50, 11, DIM_TEXT)
    _legend(image, len(image) - 34, settings)
    put_text(image, RESEARCH_USE, MARGIN, len(image) - 12, 11, NOTICE)
    return image


def _tile(plan: Plan, settings: Settings, index: int) -> np.ndarray:
    seen, truth = plan.draw(np.random.default_rng((settings.seed, index)))
    if seen.ndim == 4:  # a patch: the slice that shows most
        shown = int(np.argmax(np.count_nonzero(truth[..., 0] * truth[..., 1] > 0.5, axis=(1, 2))))
        seen, truth = seen[shown], truth[shown]
    grey = seen[..., seen.shape[-1] // 2]
    if settings.task == "restorer":
        tile = np.hstack([scaled(grey, TILE // 2), scaled(truth[..., 0], TILE // 2)])
        tile = np.vstack([tile, np.zeros((TILE - len(tile), TILE), np.uint8)])
        image = np.repeat(tile[:, :, None], 3, 2)
    else:
        image = np.repeat(scaled(grey, TILE)[:, :, None], 3, 2)
        _mark(image, truth)
    cv2.rectangle(image, (0, 0), (TILE - 1, TILE - 1), FRAME, 1)
    corner = image[TILE - 24 : TILE - 1, 1 : 12 + text_width(str(index), 10)]
    corner[:] = corner * 0.3  # some slices are white there
    put_text(image, str(index), 6, TILE - 8, 10, TEXT)
    return image


def scaled(grey: np.ndarray, side: int) -> np.ndarray:
    """0..1 as it is; what goes beyond (z-score) by its own darkest and brightest pixel. (side, side) uint8."""
    if grey.min() < 0 or grey.max() > 1:
        grey = (grey - grey.min()) / (grey.max() - grey.min())
    sized = cv2.resize(grey.astype(np.float32), (side, side), interpolation=cv2.INTER_LINEAR)
    drawn: np.ndarray = np.rint(np.clip(sized, 0, 1) * 255).astype(np.uint8)
    return drawn


def _mark(image: np.ndarray, truth: np.ndarray) -> None:
    """Outlines, or of the whole slice (empty-slices) a frame: infection, and what is not counted."""
    marked, unknown = truth[..., 0] > 0.5, truth[..., 1] == 0
    if truth.ndim > 1:
        _outline(image, unknown, UNKNOWN_COLOUR)
        _outline(image, marked, INFECTION_RGB)
    elif unknown or marked:
        cv2.rectangle(image, (3, 3), (TILE - 4, TILE - 4), UNKNOWN_COLOUR if unknown else INFECTION_RGB, 2)


def _outline(image: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]) -> None:
    large = cv2.resize(mask.astype(np.uint8), (TILE, TILE), interpolation=cv2.INTER_NEAREST_EXACT)
    contours, _ = cv2.findContours(large, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(image, contours, -1, colour, 1)


def _legend(image: np.ndarray, baseline: int, settings: Settings) -> None:
    if settings.task == "restorer":
        put_text(image, "left: input, right: target", MARGIN, baseline, 11, DIM_TEXT)
        return
    x = MARGIN
    for name, colour in ((settings.task, INFECTION_RGB), ("not labelled: not counted", UNKNOWN_COLOUR)):
        cv2.rectangle(image, (x, baseline - 10), (x + 14, baseline), colour, 1)
        put_text(image, name, x + 20, baseline, 11, TEXT)
        x += 20 + text_width(name, 11) + 20
