"""Plots and pictures of an evaluation as PNG files, for papers and slides: what the page shows, on white."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from covct.evaluation.figures import Box, Plot, Square
from covct.evaluation.judge import GAP, Picture
from covct.voxels.overlay import BACKGROUND, TEXT, Colour, put_text, text_width

SCALE = 2  # of the sizes in `Plot`
WHITE: Colour = (255, 255, 255)
INK: Colour = (28, 34, 41)
DIM: Colour = (95, 105, 117)
GRID: Colour = (221, 226, 232)
BOX: Colour = (207, 224, 244)
# The page's colours by daylight, and two more for plots of many lines.
COLOURS: dict[str, Colour] = {
    "s0": (11, 107, 203), "s1": (196, 62, 0), "s2": (46, 125, 50), "s3": (138, 58, 185), "s4": (122, 98, 0),
    "s5": (0, 118, 122), "s6": (196, 0, 102), "s7": (90, 90, 90),
}  # fmt: skip
SMALL, LARGE = 12, 15  # capitals, pixels
HEAD, CAPTION = 34, 30
Legend = Sequence[tuple[str, str]]  # class, what it is


def as_png(image: np.ndarray) -> bytes:
    """(rows, columns, 3) uint8 RGB as a file."""
    _, png = cv2.imencode(".png", image[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
    return png.tobytes()


def draw_plot(plot: Plot, legend: Legend = ()) -> np.ndarray:
    """(rows, columns, 3) uint8 RGB: the title above, then the plot at twice its size, a legend where there is one."""
    image = np.full((SCALE * plot.height + HEAD + (HEAD if legend else 0), SCALE * plot.width, 3), WHITE, np.uint8)
    put_text(image, _plain(plot.title), SCALE * plot.left, 26, LARGE, INK)
    _draw_axes(image[-SCALE * plot.height :], plot)
    if legend:
        _draw_legend(image[HEAD:], SCALE * plot.left, legend)
    return image


def gallery(pictures: Sequence[Picture], title: str) -> np.ndarray:
    """Slices one above the other, each as scan, truth and call, with its Dice."""
    rows = [np.asarray(cv2.imdecode(np.frombuffer(one.png, np.uint8), 1))[:, :, ::-1] for one in pictures]
    height = sum(len(row) + CAPTION + GAP for row in rows)
    image = np.full((HEAD + height, max(row.shape[1] for row in rows), 3), BACKGROUND, np.uint8)
    put_text(image, _plain(title), GAP, 25, LARGE, TEXT)
    top = HEAD
    for one, row in zip(pictures, rows, strict=True):
        image[top : top + len(row), : row.shape[1]] = row
        top += len(row) + CAPTION + GAP
        told = f"{one.case}, slice {one.number} of {one.of}: Dice {one.dice:.3f}"
        put_text(image, _plain(told), GAP, top - GAP - 10, SMALL, TEXT)
    return image


def _draw_axes(image: np.ndarray, plot: Plot) -> None:
    left, right = SCALE * plot.left, SCALE * (plot.width - plot.right)
    foot = SCALE * (plot.height - plot.bottom)
    for tick, told in plot.y.told:
        row = _up(plot, tick)
        cv2.line(image, (left, row), (right, row), GRID, 1)
        put_text(image, _plain(told), left - 12 - text_width(_plain(told), SMALL), row + 6, SMALL, DIM)
    for tick, told in plot.x.told:
        text = _plain(told)
        put_text(image, text, _across(plot, tick) - text_width(text, SMALL) // 2, foot + 30, SMALL, DIM)
    cv2.line(image, (left, foot), (right, foot), DIM, 1)
    label = _plain(plot.x.label)
    put_text(image, label, (left + right - text_width(label, SMALL)) // 2, foot + 66, SMALL, INK)
    _put_upright(image, _plain(plot.y.label), (SCALE * plot.top + foot) // 2)
    _draw_contents(image, plot)


def _draw_contents(image: np.ndarray, plot: Plot) -> None:
    for rule in plot.rules:
        ends = (_across(plot, rule.x1), _up(plot, rule.y1)), (_across(plot, rule.x2), _up(plot, rule.y2))
        cv2.line(image, *ends, INK if rule.cls == "bias" else DIM, 1, cv2.LINE_AA)
    for square in plot.squares:
        _draw_square(image, plot, square)
    for box in plot.boxes:
        _draw_box(image, plot, box)
    for line in plot.lines:
        points = np.array([(_across(plot, x), _up(plot, y)) for x, y in line.points], np.int32).reshape(-1, 1, 2)
        thin = line.cls.endswith(" one")
        colour = _lighter(_colour(line.cls)) if thin else _colour(line.cls)
        cv2.polylines(image, [points], False, colour, 1 if thin else 3, cv2.LINE_AA)
    for dot in plot.dots:
        cv2.circle(image, (_across(plot, dot.x), _up(plot, dot.y)), 6, _colour(dot.cls), cv2.FILLED, cv2.LINE_AA)
    for words in plot.words:
        x = _across(plot, words.x) + SCALE * words.dx
        x -= text_width(_plain(words.text), SMALL) if words.cls == "end" else 0
        put_text(image, _plain(words.text), x, _up(plot, words.y) + SCALE * words.dy, SMALL, DIM)


def _draw_square(image: np.ndarray, plot: Plot, square: Square) -> None:
    corners = [(_across(plot, square.x + side / 2), _up(plot, square.y - side / 2)) for side in (-1, 1)]
    share = 0.15 + 0.7 * square.shade
    fill = tuple(round(share * own + (1 - share) * 255) for own in COLOURS["s0"])
    cv2.rectangle(image, corners[0], corners[1], fill, cv2.FILLED)
    cv2.rectangle(image, corners[0], corners[1], GRID, 1)
    across = _across(plot, square.x) - text_width(square.text, LARGE) // 2
    put_text(image, square.text, across, _up(plot, square.y) + 8, LARGE, WHITE if share > 0.5 else INK)


def _draw_box(image: np.ndarray, plot: Plot, box: Box) -> None:
    left, right, middle = (_across(plot, box.x + side) for side in (-0.36, 0.36, 0))
    cv2.line(image, (middle, _up(plot, box.least)), (middle, _up(plot, box.most)), COLOURS["s0"], 2)
    corners = (left, _up(plot, box.q3)), (right, _up(plot, box.q1))
    cv2.rectangle(image, *corners, BOX, cv2.FILLED)
    cv2.rectangle(image, *corners, COLOURS["s0"], 2)
    cv2.line(image, (left, _up(plot, box.median)), (right, _up(plot, box.median)), COLOURS["s0"], 3)


def _draw_legend(image: np.ndarray, x: int, legend: Legend) -> None:
    for cls, told in legend:
        cv2.line(image, (x, 14), (x + 24, 14), _colour(cls), 4)
        put_text(image, _plain(told), x + 32, 20, SMALL, DIM)
        x += 56 + text_width(_plain(told), SMALL)


def _put_upright(image: np.ndarray, text: str, middle: int) -> None:
    """Text that runs upwards, in the left margin."""
    line = np.full((30, text_width(text, SMALL) + 4, 3), WHITE, np.uint8)
    put_text(line, text, 0, 20, SMALL, INK)
    turned = np.rot90(line)
    top = max(0, middle - len(turned) // 2)
    room = image[top : top + len(turned), 6 : 6 + turned.shape[1]]
    room[:] = np.minimum(room, turned[: len(room)])


def _across(plot: Plot, value: float) -> int:
    return round(SCALE * plot.across(value))


def _up(plot: Plot, value: float) -> int:
    return round(SCALE * plot.up(value))


def _colour(cls: str) -> Colour:
    return COLOURS[cls.split()[0]]


def _lighter(colour: Colour) -> Colour:
    red, green, blue = (round(0.35 * own + 0.65 * 255) for own in colour)
    return red, green, blue


def _plain(text: str) -> str:
    """What the font has."""
    return text.replace("−", "-").replace("–", "-").replace("→", "->").encode("ascii", "replace").decode()
