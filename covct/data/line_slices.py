"""Slices as 8-bit pictures in full field, each with its own line to HU: slope * grey + intercept.

``slices.csv`` (name, slope, intercept, patient_group, perhaps quality and medseg_train_file) lies over
``img/NAME.png``, anterior up, and ``mask/NAME.png`` (1 ground glass, 2 consolidation, 3 effusion). Where the pictures
were clipped, HU stay at the end of the line. A line of quality C is doubtful: the slice is left out.

``medseg_train_file`` is the same slice in medicalsegmentation.com's training set, where it is cropped at the ribs. A
table with this column is of that set, and its patients are those that cards know by the numbers of these files.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from covct.data.cases import MEDSEG, OWN, Case, LeftOut, medseg_patient
from covct.data.domains import WINDOW
from covct.data.tables import read_table
from covct.errors import UsageError

TABLE = "slices.csv"
TWIN = "medseg_train_file"
QUALITIES = ("A", "B", "C", "")
DOUBTFUL = "doubtful-hu"
HIGHEST_GREY = 255


@dataclass(frozen=True)
class _Slice:
    """A row of the table."""

    name: str
    group: str
    window_hu: tuple[float, float]
    doubtful: bool
    twin: str  # its number in the training set of medicalsegmentation.com; empty: it has none there


def is_line_slices(folder: Path) -> bool:
    return (folder / TABLE).is_file() and (folder / "img").is_dir()


def is_of_medseg(folder: Path) -> bool:
    """Whether the table tells which slices of the training set of medicalsegmentation.com these are."""
    return any(TWIN in row for row in read_table(folder / TABLE))


def find_line_slices(folder: Path, source: str, masked: bool) -> Iterator[Case | LeftOut]:
    """The slices of a folder of this layout, each a volume of its own.

    Raises
    ------
    UsageError
        The table cannot be read, or joins people whom cards of networks know as two.
    """
    rows, known_as = _read_rows(folder), MEDSEG if is_of_medseg(folder) else OWN
    patients = _people(folder, rows) if known_as == MEDSEG else {}
    for row in rows:
        name = f"medseg_{row.twin or row.name}" if known_as == MEDSEG else row.name
        image, mask = folder / "img" / f"{row.name}.png", folder / "mask" / f"{row.name}.png"
        if row.doubtful:
            got = f"{TABLE} gives {row.name} a line to HU of quality C, which is doubtful; wanted A or B"
            yield LeftOut(source, name, DOUBTFUL, got)
        elif not image.is_file():
            yield LeftOut(source, name, "incomplete", f"{TABLE} names img/{image.name}, which is not there")
        elif masked and not mask.is_file():
            yield LeftOut(source, name, "no-mask", f"img/{image.name} has no mask/{mask.name}")
        else:
            masks = {"classes": (mask,)} if mask.is_file() else {}
            patient = patients.get(row.group, row.group)
            yield Case(
                name, source, folder, "slices-line", patient, (image,), masks, WINDOW, row.window_hu, known_as=known_as
            )


def _read_rows(folder: Path) -> list[_Slice]:
    path = folder / TABLE
    rows: dict[str, _Slice] = {}
    for line, row in enumerate(read_table(path, ("name", "slope", "intercept", "patient_group")), 2):
        where, name = f"{path}, line {line}", row["name"]
        if not name or Path(name).name != name or name in rows:
            raise UsageError(f"{where}: name is {name!r}; wanted that of a picture, each once")
        if not row["patient_group"]:
            raise UsageError(f"{where}: no patient_group; without it patients cannot be kept apart")
        if row.get("quality", "") not in QUALITIES:
            raise UsageError(f"{where}: quality is {row['quality']!r}, wanted A, B or C")
        twin = Path(row.get(TWIN, "")).stem
        if twin and (not twin.isdecimal() or twin in (one.twin for one in rows.values())):
            raise UsageError(f"{where}: {TWIN} is {row[TWIN]!r}; wanted a number such as 0.jpg, each once")
        window_hu = _window(row, where)
        rows[name] = _Slice(name, row["patient_group"], window_hu, row.get("quality") == "C", twin)
    return list(rows.values())


def _window(row: dict[str, str], where: str) -> tuple[float, float]:
    """HU of grey 0 and 255."""
    try:
        slope, intercept = float(row["slope"]), float(row["intercept"])
    except ValueError:
        slope = intercept = math.nan
    if not (0 < slope < math.inf and math.isfinite(intercept)):
        got = f"slope {row['slope']!r}, intercept {row['intercept']!r}"
        raise UsageError(f"{where}: {got}; wanted HU = slope * grey + intercept, brighter with HU")
    return intercept, HIGHEST_GREY * slope + intercept


def _people(folder: Path, rows: list[_Slice]) -> dict[str, str]:
    """By group its patient, under the name that cards have for a person of the training set, where he is in it.

    Who cards know as two people may be held out as one and learned from as the other, so no table may join them.
    """
    out: dict[str, str] = {}
    for group in dict.fromkeys(row.group for row in rows):
        files = sorted((row.twin for row in rows if row.group == group and row.twin), key=int)
        names = list(dict.fromkeys(map(medseg_patient, files)))
        if len(names) > 1:
            got = f"{group} has {' and '.join(names)}"
            raise UsageError(f"{folder / TABLE}: {got}; wanted no group of several whom cards know as several people")
        out[group] = names[0] if names else f"medseg_{group}"
    return out
