"""The rows of the manual that tell of figures, written from the table of figures: ``make schemas``."""

from __future__ import annotations

import re
from pathlib import Path

from covct.terms import FIGURES, THIRDS, Figure

PAGE = Path(__file__).parents[2] / "docs" / "report.md"  # of a checkout; not in the package


def field_rows() -> list[str]:
    """Of the fields of `report.json`: each figure, then their intervals, then the thirds."""
    rows = [f"| `regions.*.{figure.name}` | {_meaning(figure)} |" for figure in FIGURES]
    intervals = ", ".join(f"`regions.*.{figure.name}_interval`" for figure in FIGURES if figure.interval)
    rows.append(f"| {intervals} | their intervals, from and to; see [How certain a figure is](confidence.md) |")
    thirds, in_thirds = (_listed(names) for names in (THIRDS, [one.name for one in FIGURES if one.in_thirds]))
    return [*rows, f"| `regions.*.thirds` | {thirds} third, each with {in_thirds} |"]


def column_rows() -> list[str]:
    """Of the columns of `summary.csv`."""
    return [f"| {', '.join(_columns(figure))} | {_of_columns(figure)} |" for figure in FIGURES if figure.column]


def with_rows(page: str) -> str:
    """The page with the rows of today in place of those that it has."""
    columns = "|".join(re.escape(figure.column) for figure in FIGURES if figure.column)
    for old, rows in ((r"\| `regions\.\*\.", field_rows()), (rf"\| `({columns})`", column_rows())):
        lines = page.splitlines(keepends=True)
        first = next(index for index, line in enumerate(lines) if re.match(old, line))
        kept = [line for line in lines[first:] if not re.match(old, line)]
        page = "".join([*lines[:first], *(f"{row}\n" for row in rows), *kept])
    return page


def _meaning(figure: Figure) -> str:
    denied = " or ".join(f"`valid_for.{kind}`" for kind in figure.valid_for)
    words = f"{figure.meaning[0].lower()}{figure.meaning[1:]}"
    otherwise = f"{figure.null}, or " if figure.null else ""
    return f"{words}, in {figure.unit.words}; null {otherwise}if {denied} is false"


def _columns(figure: Figure) -> list[str]:
    ends = ("_low", "_high") if figure.column_ends else ()
    sides = ("_right", "_left") if figure.column_sides else ()
    return [f"`{figure.column}{suffix}`" for suffix in ("", *ends, *sides)]


def _of_columns(figure: Figure) -> str:
    parts = [f"`regions.lungs.{figure.name}`"]
    parts += ["the ends of its interval"] * figure.column_ends
    parts += ["the same of the right and the left lung"] * figure.column_sides
    return "; ".join(parts)


def _listed(names: tuple[str, ...] | list[str]) -> str:
    told = [f"`{name}`" for name in names]
    return f"{', '.join(told[:-1])} and {told[-1]}"


if __name__ == "__main__":
    PAGE.write_text(with_rows(PAGE.read_text()))
    print(PAGE)
