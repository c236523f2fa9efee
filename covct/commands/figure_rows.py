"""The rows of the manual and of the conformance statement that tell of figures: ``make schemas``."""

from __future__ import annotations

import re
from pathlib import Path

from covct.terms import FIGURES, PRIVATE_SCHEME, THIRDS, CodedTerm, Figure

PAGE = Path(__file__).parents[2] / "docs" / "report.md"  # of a checkout; not in the package
STATEMENT = Path(__file__).parents[1] / "dicom" / "CONFORMANCE.md"


def field_rows() -> list[str]:
    """Of the fields of `report.json`: each figure, then their intervals, then the thirds."""
    rows = [f"| `regions.*.{figure.name}` | {_meaning(figure)} |" for figure in FIGURES]
    intervals = ", ".join(f"`regions.*.{figure.name}_interval`" for figure in FIGURES if figure.interval)
    withheld = "null for a single lung, and where too few people were measured"
    more = "[How certain a figure is](confidence.md)"
    rows.append(f"| {intervals} | their intervals, from and to; {withheld}; see {more} |")
    thirds, in_thirds = (_listed(names) for names in (THIRDS, [one.name for one in FIGURES if one.in_thirds]))
    return [*rows, f"| `regions.*.thirds` | {thirds} third, each with {in_thirds} |"]


def column_rows() -> list[str]:
    """Of the columns of `summary.csv`."""
    return [f"| {', '.join(_columns(figure))} | {_of_columns(figure)} |" for figure in FIGURES if figure.column]


def concept_rows() -> list[str]:
    """Of the SR's figures: where each stands, under which code."""
    rows = []
    for figure in FIGURES:
        codes = " | ".join(_code(figure, concept) for concept in (figure.of_lung, figure.of_infection))
        rows.append(f"| `{figure.name}` | {_words(figure)} | {codes} | {figure.unit.code.value} |")
    return rows


def with_rows(page: str) -> str:
    """The page of the report's fields with the rows of today in place of those that it has."""
    columns = "|".join(re.escape(figure.column) for figure in FIGURES if figure.column)
    return _replaced(_replaced(page, r"\| `regions\.\*\.", field_rows()), rf"\| `({columns})`", column_rows())


def with_codes(statement: str) -> str:
    """The conformance statement with the rows of today."""
    return _with_every_code(_replaced(statement, r"\| `[a-z_]+_(ml|percent|g|hu)` \|", concept_rows()))


def _replaced(page: str, old: str, rows: list[str]) -> str:
    """Rows where the first line that is like `old` stands, and no others like it."""
    lines = page.splitlines(keepends=True)
    first = next(index for index, line in enumerate(lines) if re.match(old, line))
    kept = [line for line in lines[first:] if not re.match(old, line)]
    return "".join([*lines[:first], *(f"{row}\n" for row in rows), *kept])


def _with_every_code(statement: str) -> str:
    """Codes of figures and units among all others, by scheme and value."""
    head, rule, table = statement.rpartition("|---|---|---|---|\n")
    told = dict(re.findall(r"^(\| \S+ \| `[^`]+`) (\|.*)$", table, re.M))
    concepts = [one for figure in FIGURES for one in (figure.of_lung, figure.of_infection, figure.unit.code) if one]
    for one in concepts:
        told.setdefault(f"| {one.scheme} | `{one.value}`", f"| {one.meaning} | SR |")
    rows = sorted(f"{code} {rest}\n" for code, rest in told.items())
    rest = table[table.rindex("|\n") + 2 :]
    return head + rule + "".join(rows) + rest


def _meaning(figure: Figure) -> str:
    denied = " or ".join(f"`valid_for.{kind}`" for kind in figure.valid_for)
    otherwise = f"{figure.null}, or " if figure.null else ""
    return f"{_words(figure)}, in {figure.unit.words}; null {otherwise}if {denied} is false"


def _words(figure: Figure) -> str:
    return f"{figure.meaning[0].lower()}{figure.meaning[1:]}"


def _code(figure: Figure, concept: CodedTerm | None) -> str:
    if concept is None:
        return "–"
    private = concept.scheme == PRIVATE_SCHEME
    code = f"`{concept.value}` {concept.scheme}" if private else f"{concept.value} {concept.scheme} {concept.meaning}"
    derived = figure.derivation
    return f"{code}, derivation {derived.value} {derived.scheme} {derived.meaning}" if derived else code


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
    for path, written in ((PAGE, with_rows), (STATEMENT, with_codes)):
        path.write_text(written(path.read_text()))
        print(path)
