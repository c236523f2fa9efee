"""Words, tables and pictures on pages of A4: what `paper` writes with. Lengths are mm, from the upper left corner.

ReportLab draws: BSD licensed, pure Python, 0.06 s to import. fpdf2 is LGPL, and brings fonttools: 0.3 s and 30 MB.
Its letters, Bitstream Vera Sans, go into the document, since a browser in whose machine Helvetica is missing takes
wider ones, and columns run into one another. What they have not is written as its escape.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from reportlab import rl_config
from reportlab.lib.pagesizes import A4
from reportlab.lib.units import mm
from reportlab.lib.utils import ImageReader, simpleSplit
from reportlab.pdfbase.pdfmetrics import registerFont, stringWidth
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas

from covct.visible import visible

rl_config.useA85 = 0  # streams as they are, not in ASCII: a fifth less
MM = float(mm)  # points
PAGE_WIDTH, PAGE_HEIGHT = (float(length) / MM for length in A4)
LEFT, TOP, BOTTOM = 14.0, 14.0, 280.0  # of what is written on; below it stands the foot
WIDTH = PAGE_WIDTH - 2 * LEFT
SIZE, SMALL, LARGE = 8.0, 7.0, 14.0  # of letters, points
PLAIN, BOLD = "Vera", "VeraBd"
LETTERS = TTFont(PLAIN, f"{PLAIN}.ttf")
registerFont(LETTERS)
registerFont(TTFont(BOLD, f"{BOLD}.ttf"))
INK, DIM, NOTICE = (0.08, 0.09, 0.11), (0.38, 0.41, 0.45), (0.62, 0.27, 0.0)
LEADING = 1.22  # from line to line, of the size
MORE = "... and more: see report.json"

Colour = tuple[float, float, float]


def blank(title: str, subject: str, author: str, computed: datetime) -> tuple[Canvas, io.BytesIO]:
    """An empty document of that date, and where it is written to; the same bytes whenever it is made of the same."""
    file = io.BytesIO()
    canvas = Canvas(file, pagesize=A4, invariant=1, pageCompression=1, lang="en", initialFontName=PLAIN)
    moment = computed.astimezone(UTC).strftime("D:%Y%m%d%H%M%SZ")
    canvas.setDateFormatter(lambda *of_the_library: moment)
    canvas.setTitle(title)
    canvas.setSubject(subject)
    canvas.setAuthor(author)
    canvas.setCreator(author)
    return canvas, file


def writable(words: str) -> str:
    """On one line, in letters that the font has, those of Western Europe; others as escapes."""
    has = LETTERS.face.charToGlyph
    return "".join(c if ord(c) in has else c.encode("unicode_escape").decode() for c in visible(words))


def write(
    canvas: Canvas,
    words: str,
    top: float,
    left: float = LEFT,
    width: float = WIDTH,
    size: float = SIZE,
    font: str = PLAIN,
    colour: Colour = INK,
    most: int = 99,
) -> float:
    """A paragraph of at most so many lines. Returns where it ends."""
    lines = _lines(words, width, size, font)
    if len(lines) > most:
        lines = [*lines[: most - 1], MORE]
    pitch = size * LEADING / MM
    canvas.setFont(font, size)
    canvas.setFillColorRGB(*colour)
    for number, line in enumerate(lines):
        canvas.drawString(left * MM, _up(top + number * pitch + 0.8 * size / MM), line)
    return top + len(lines) * pitch


def lines_of(words: str, width: float = WIDTH, size: float = SIZE) -> int:
    """How many lines a paragraph takes."""
    return len(_lines(words, width, size))


def _lines(words: str, width: float, size: float, font: str = PLAIN) -> list[str]:
    """Broken between words, and within those that are longer than a line."""
    room, whole = width * MM, []
    for word in writable(words).split():
        most = max(1, int(0.8 * room / size))  # letters are as wide as high at the most; these are mostly half of it
        long = stringWidth(word, font, size) > room
        whole += [word[at : at + most] for at in range(0, len(word), most)] if long else [word]
    return list(simpleSplit(" ".join(whole), font, size, room))


def head(canvas: Canvas, words: str, top: float, left: float = LEFT, width: float = WIDTH) -> float:
    """The heading of a section, with a line below it."""
    end = write(canvas, words, top + 2.6, left, width, 9, BOLD, most=1)
    _line(canvas, left, left + width, end + 0.3, INK)
    return end + 1.3


def table(
    canvas: Canvas,
    top: float,
    names: Sequence[str],
    rows: Iterable[tuple[str, Sequence[str]]],
    left: float = LEFT,
    width: float = WIDTH,
    first: float = 0.4,
) -> float:
    """Rows of a name and its cells, below the names of the columns. `first` is the share of the first column."""
    columns = [left + width * (first + (1 - first) * number / len(names)) for number in range(len(names))]
    room = width * (1 - first) / len(names) - 0.5
    for place, name in zip(columns, names, strict=True):
        end = write(canvas, name, top, place, room, SMALL, BOLD, most=1)
    top = end + 0.6
    for name, cells in rows:
        _line(canvas, left, left + width, top, DIM)
        ends = [write(canvas, name, top + 0.7, left, width * first - 1.4, SMALL, most=2)]
        ends += [
            write(canvas, cell, top + 0.7, place, room, SMALL, most=2)
            for place, cell in zip(columns, cells, strict=True)
        ]
        top = max(ends) + 0.5
    return top


def picture(canvas: Canvas, jpeg: bytes, top: float, most_height: float) -> float:
    """A JPEG as wide as what is written, or so that it is no higher than that; in the middle."""
    image = ImageReader(io.BytesIO(jpeg))
    columns, rows = map(float, image.getSize())
    height = min(most_height, WIDTH * rows / columns)
    width = height * columns / rows
    left = LEFT + (WIDTH - width) / 2
    canvas.drawImage(image, left * MM, _up(top + height), width * MM, height * MM)
    return top + height


def swatch(canvas: Canvas, colour: tuple[int, int, int], words: str, top: float, left: float) -> float:
    """A square of a colour, and what it stands for. Returns where the words end, from the left."""
    canvas.setFillColorRGB(*(channel / 255 for channel in colour))
    canvas.rect(left * MM, _up(top + 2.6), 2.6 * MM, 2.6 * MM, stroke=0, fill=1)
    write(canvas, words, top, left + 3.6, 60, SMALL, colour=DIM)
    return left + 8.6 + _wide(canvas, words)


def foot(canvas: Canvas, left: str, right: str) -> None:
    """At both ends of the foot of a page."""
    top = PAGE_HEIGHT - 12
    write(canvas, left, top, font=BOLD, colour=NOTICE)
    wide = _wide(canvas, right)
    write(canvas, right, top, LEFT + WIDTH - wide, wide + 1, SMALL, colour=DIM)


def _wide(canvas: Canvas, words: str) -> float:
    """Of small letters."""
    return float(canvas.stringWidth(writable(words), PLAIN, SMALL)) / MM


def _line(canvas: Canvas, left: float, right: float, top: float, colour: Colour) -> None:
    canvas.setStrokeColorRGB(*colour)
    canvas.setLineWidth(0.3)
    canvas.line(left * MM, _up(top), right * MM, _up(top))


def _up(top: float) -> float:
    """Points from the lower edge."""
    return (PAGE_HEIGHT - top) * MM
