"""Pictures and scans with a class each, COVID-19 or other, and where they come from: `pictures.csv`."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from covct.errors import UsageError

TABLE = "pictures.csv"
COLUMNS = ("picture", "class", "source_group")
CLASSES = ("covid", "other")
VOLUMES = (".nii", ".nii.gz")


@dataclass(frozen=True)
class Classified:
    """One picture of a slice, or a volume in HU; `group` is the paper or the hospital that it comes from."""

    path: Path
    is_covid: bool
    group: str

    @property
    def is_volume(self) -> bool:
        return self.path.name.lower().endswith(VOLUMES)


def read_classified(data: Path) -> list[Classified]:
    """The pictures that tables in `data`, or in its folders, name.

    Raises
    ------
    UsageError
        No table; a column, a file or a class is missing; or one class only.
    """
    tables = sorted({data / TABLE, *data.glob(f"*/{TABLE}")})
    found = [one for table in tables if table.is_file() for one in _rows(table)]
    if not found:
        raise UsageError(f"{data}: no {TABLE} with the columns {', '.join(COLUMNS)}")
    for is_covid, name in zip((True, False), CLASSES, strict=True):
        groups = len({one.group for one in found if one.is_covid == is_covid})
        if groups < 2:
            raise UsageError(f"{data}: {groups} source groups of the class {name}; wanted two or more of each")
    return found


def _rows(table: Path) -> Iterator[Classified]:
    with open(table, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
            raise UsageError(f"{table}: the column {missing[0]} is missing; wanted {', '.join(COLUMNS)}")
        for number, row in enumerate(reader, 2):
            path = table.parent / (row["picture"] or "")
            if row["class"] not in CLASSES:
                raise UsageError(f"{table}, line {number}: the class is none of {', '.join(CLASSES)}")
            if not path.is_file():
                raise UsageError(f"{table}, line {number}: the picture it names is not there")
            yield Classified(path, row["class"] == "covid", row["source_group"] or "")


def read_picture(path: Path, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture in the middle of a square: (size, size) float32 in 0..1, and where it lies, bool.

    Raises UsageError of what is no picture.
    """
    grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if grey is None:
        raise UsageError(f"{path}: not a picture that can be read")
    share = size / max(grey.shape)
    rows, columns = (max(1, round(side * share)) for side in grey.shape)
    sized = cv2.resize(grey, (columns, rows), interpolation=cv2.INTER_AREA if share < 1 else cv2.INTER_LINEAR)
    out, there = np.zeros((size, size), np.float32), np.zeros((size, size), bool)
    top, left = (size - rows) // 2, (size - columns) // 2
    out[top : top + rows, left : left + columns] = sized / np.float32(255)
    there[top : top + rows, left : left + columns] = True
    return out, there
