"""The tables that lie beside labelled data, read and checked: which columns they must have, and what these may say."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path, PurePosixPath

from covct.data.cases import person_of
from covct.data.domains import DOMAINS
from covct.errors import UsageError

ROWS_RUN = ("up", "down")  # of volumes.csv: "down" is mirrored, the first row is the patient's back


def read_table(path: Path, wanted: Iterable[str] = ()) -> list[dict[str, str]]:
    """The rows of a CSV file.

    Raises
    ------
    UsageError
        It cannot be read, or lacks a wanted column; which.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeError, csv.Error) as error:
        raise UsageError(f"{path}: not a readable table ({type(error).__name__})") from error
    missing = [name for name in wanted if not rows or name not in rows[0]]
    if missing:
        got = ", ".join(name or "?" for name in rows[0]) if rows else "no rows"
        raise UsageError(f"{path}: no column {', '.join(missing)}; got {got}")
    return [{name: (value or "").strip() for name, value in row.items() if isinstance(name, str)} for row in rows]


def resolve_foreign(folder: Path, written: str) -> Path | None:
    """A path as somebody else wrote it, by the longest trailing part that exists below the folder."""
    parts = [part for part in PurePosixPath(written.replace("\\", "/")).parts if part not in ("/", ".", "..")]
    for start in range(len(parts)):
        path = folder.joinpath(*parts[start:])
        for candidate in (path, path.with_name(path.name + ".gz")):
            if candidate.is_file():
                return candidate
            nested = candidate / candidate.name  # some archives unpack each file into a folder of its own name
            if nested.is_file():
                return nested
    return None


def declared(folder: Path) -> dict[str, dict[str, str]]:
    """The rows of a folder's cases.csv by the names of their volumes; none where there is no such file.

    Raises
    ------
    UsageError
        It cannot be read, or says what nobody understands.
    """
    path = folder / "cases.csv"
    if not path.is_file():
        return {}
    rows = read_table(path, ("name",))
    allowed = {"domain": ("", *DOMAINS), "infection": ("", "none", "unknown"), "geometry": ("", "by-index")}
    for row in rows:
        for column, values in allowed.items():
            if row.get(column, "") not in values:
                wanted = ", ".join(value for value in values if value)
                raise UsageError(f"{path}: {row['name']} has {column} {row[column]!r}; wanted {wanted} or nothing")
    return {row["name"]: row for row in rows}


def patient_of(name: str, said: Mapping[str, str]) -> str:
    """Whose volume it is: as its row of cases.csv says, else the person that a public set's name tells, else its own.

    The one rule for volumes: under two names a patient would be two.
    """
    return said.get("patient") or person_of(name)


def read_volume_rows(folder: Path) -> list[dict[str, str]]:
    """The rows of volumes.csv: first and last are numbers, `anterior` is up or down, the domain if any is known.

    Raises
    ------
    UsageError
        They are not, or two rows claim one slice, which then would be of two patients.
    """
    path = folder / "volumes.csv"
    rows = read_table(path, ("first", "last", "patient_group", "anterior"))
    for number, row in enumerate(rows, 2):
        if not (row["first"].isdigit() and row["last"].isdigit() and int(row["first"]) <= int(row["last"])):
            raise UsageError(f"{path}, line {number}: first {row['first']!r}, last {row['last']!r}; wanted two numbers")
        if row["anterior"] not in ROWS_RUN:
            raise UsageError(f"{path}, line {number}: anterior is {row['anterior']!r}, wanted {' or '.join(ROWS_RUN)}")
        if row.get("domain", "") not in ("", *DOMAINS):
            raise UsageError(f"{path}, line {number}: domain is {row['domain']!r}, wanted {', '.join(DOMAINS)}")
        if not row["patient_group"]:
            raise UsageError(f"{path}, line {number}: no patient_group; without it patients cannot be kept apart")
    claimed = sorted((int(row["first"]), int(row["last"])) for row in rows)
    for (first, last), (again, _) in pairwise(claimed):
        if again <= last:
            raise UsageError(f"{path}: two rows claim slice {again:04d}, one {first:04d} to {last:04d}; wanted one row")
    return rows


def named_volumes(rows: list[dict[str, str]]) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of volumes.csv under the names of their patients; two volumes of one patient are numbered."""
    volumes, numbers = Counter(row["patient_group"] for row in rows), Counter[str]()
    for row in rows:
        patient = row["patient_group"]
        numbers[patient] += 1
        yield patient if volumes[patient] == 1 else f"{patient}-{numbers[patient]}", row
