"""The curves of a training as one picture, drawn anew after each epoch: loss, Dice and learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from covct.disk.durable import output_errors, replace_file
from covct.voxels.overlay import (
    BACKGROUND,
    DIM_TEXT,
    FRAME,
    MARGIN,
    NOTICE,
    TEXT,
    Colour,
    put_text,
    text_width,
)

FILE = "progress.png"
WIDTH, HEIGHT = 520, 400  # of a panel
LEFT, TOP, BOTTOM = 64, 58, 56  # of its axes
HEAD = 48
TRAINED: Colour = (86, 180, 233)  # told apart by the colour-blind (Okabe and Ito 2008)
HELD_OUT: Colour = (230, 159, 0)
BY_SOURCE: Sequence[Colour] = ((0, 158, 115), (204, 121, 167), (240, 228, 66), (213, 94, 0))
Curve = tuple[str, Colour, Sequence[float]]


def write_progress(out: Path, task: str, history: dict[str, list[float]], best: int | None, epochs: int) -> None:
    """Replace `out`/progress.png; parameters as of `draw_progress`."""
    _, png = cv2.imencode(".png", draw_progress(task, history, best, epochs)[:, :, ::-1])
    with output_errors(out):
        replace_file(out / FILE, png.tobytes(), to_disk=False)


def draw_progress(task: str, history: dict[str, list[float]], best: int | None, epochs: int) -> np.ndarray:
    """(rows, columns, 3) uint8 RGB.

    Parameters
    ----------
    history : dict of str to list of float
        By epoch; what is no number is left out of its curve.
    best : int or None
        The best epoch so far, counted from 0.
    epochs : int
        How many there will be: the width of the axes.
    """
    panels = [panel for panel in _panels(history) if panel[1]]
    image = np.full((HEAD + HEIGHT, 2 * MARGIN + WIDTH * len(panels), 3), BACKGROUND, np.uint8)
    done = max(map(len, history.values()), default=0)
    put_text(image, f"{task}: epoch {done} of {epochs}", MARGIN, 34, 16, TEXT)
    if best is not None:
        told = f"best epoch {best + 1}"
        put_text(image, told, len(image[0]) - MARGIN - text_width(told, 13), 34, 13, NOTICE)
    for number, (title, curves) in enumerate(panels):
        _draw(image[HEAD:, MARGIN + number * WIDTH :][:, :WIDTH], title, curves, best, epochs)
    return image


def _panels(history: dict[str, list[float]]) -> Iterator[tuple[str, list[Curve]]]:
    by_source = [name for name in history if name.startswith("val_dice_")]
    wanted = {
        "loss": [("training", TRAINED, "loss"), ("validation", HELD_OUT, "val_loss")],
        "Dice": [
            ("training", TRAINED, "dice"),
            ("validation", HELD_OUT, "val_dice"),
            *(
                (name.removeprefix("val_dice_"), BY_SOURCE[k % len(BY_SOURCE)], name)
                for k, name in enumerate(by_source)
            ),
        ],
        "learning rate": [("", TRAINED, "learning_rate")],
    }
    for title, lines in wanted.items():
        yield title, [(label, colour, history[key]) for label, colour, key in lines if history.get(key)]


def _draw(image: np.ndarray, title: str, curves: Sequence[Curve], best: int | None, epochs: int) -> None:
    """One panel, in place."""
    low, high = _range([value for *_, values in curves for value in values], title)
    right, foot = WIDTH - MARGIN, HEIGHT - BOTTOM

    def place(epoch: float, value: float) -> tuple[int, int]:
        across = (epoch - 1) / max(1, epochs - 1)
        return round(LEFT + across * (right - LEFT)), round(foot - (value - low) / (high - low) * (foot - TOP))

    put_text(image, title, LEFT, 18, 13, TEXT)
    for value in np.linspace(low, high, 5):
        row = place(1, value)[1]
        cv2.line(image, (LEFT, row), (right, row), FRAME, 1)
        told = f"{value:.3g}"
        put_text(image, told, LEFT - 8 - text_width(told, 10), row + 5, 10, DIM_TEXT)
    for epoch in sorted({1, (1 + epochs) // 2, epochs}):
        put_text(image, str(epoch), place(epoch, low)[0] - text_width(str(epoch), 10) // 2, foot + 20, 10, DIM_TEXT)
    put_text(image, "epoch", (LEFT + right - text_width("epoch", 10)) // 2, foot + 42, 10, DIM_TEXT)
    if best is not None:
        for row in range(TOP, foot, 10):
            cv2.line(image, (place(best + 1, low)[0], row), (place(best + 1, low)[0], row + 4), NOTICE, 1)
    _legend(image, curves)
    for _, colour, values in curves:
        _curve(image, [place(k, v) if math.isfinite(v) else None for k, v in enumerate(values, 1)], colour)


def _range(values: Sequence[float], title: str) -> tuple[float, float]:
    """Dice from 0 to 1, the learning rate from 0, the loss from its least value."""
    finite = [value for value in values if math.isfinite(value)]
    if title == "Dice" or not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    if title == "learning rate":
        return 0.0, high or 1.0
    return (low, high) if high > low else (low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1))


def _curve(image: np.ndarray, points: Sequence[tuple[int, int] | None], colour: Colour) -> None:
    """A line through the points, broken where there is none; each has a dot while they are few."""
    for one, other in zip(points, points[1:], strict=False):
        if one and other:
            cv2.line(image, one, other, colour, 2, cv2.LINE_AA)
    for point in points:
        if point and len(points) <= 30:
            cv2.circle(image, point, 3, colour, cv2.FILLED, cv2.LINE_AA)


def _legend(image: np.ndarray, curves: Sequence[Curve]) -> None:
    x = LEFT
    for label, colour, _ in curves:
        if label:
            cv2.line(image, (x, 38), (x + 16, 38), colour, 2)
            put_text(image, label, x + 22, 43, 10, DIM_TEXT)
            x += 22 + text_width(label, 10) + 16
