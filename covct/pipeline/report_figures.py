"""The figures of a report by region, as typed objects whose fields are made from the rows of `terms.FIGURES`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field, create_model

from covct.disk.documents import Document
from covct.terms import FIGURES, THIRDS, Figure

Text = Annotated[str, Field(min_length=1)]
Slug = Annotated[str, Field(pattern="^[a-z0-9]+(-[a-z0-9]+)*$", description="Stable reason, listed in the manual.")]
SeverityClass = Annotated[int, Field(ge=1, le=5)]
Least = Annotated[float, Field(ge=0)]


def _ordered(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError("wanted the lower end first")
    return ends


Interval = Annotated[tuple[Least, Least], AfterValidator(_ordered)]


class Measured(Document):
    """Figures by the names of their rows."""

    def figure(self, name: str) -> float | None:
        """The figure of a row of FIGURES; None where it is withheld, unknown, or of a later version."""
        value: float | None = getattr(self, name)
        return value


def _field(figure: Figure) -> Any:
    denied = " or ".join(f"valid_for.{kind}" for kind in figure.valid_for)
    otherwise = f"{figure.null}, or " if figure.null else ""
    return (
        float | None,
        Field(
            default=None if figure.later else ...,
            ge=figure.least,
            le=figure.most,
            description=f"{figure.meaning}, {figure.unit.words}. Null {otherwise}where {denied} is false.",
        ),
    )


def _interval_field(figure: Figure) -> Any:
    description = f"From and to of {figure.name}, {figure.unit.words}; see uncertainty. Null where there is no figure."
    return Interval | None, Field(None, description=description)


class _Third(Measured):
    """One third of a region, by the height of both lungs."""


if TYPE_CHECKING:
    Third = _Third
else:
    Third = create_model(
        "Third",
        __base__=_Third,
        __doc__=_Third.__doc__,
        **{figure.name: _field(figure) for figure in FIGURES if figure.in_thirds},
    )


class Thirds(Document):
    """The region in three parts from head to feet."""

    upper: Third = Field(description="Next to the head.")
    middle: Third = Field(description="Between them.")
    lower: Third = Field(description="Next to the feet.")

    def items(self) -> list[tuple[str, Third]]:
        """The thirds with their names."""
        return [(name, getattr(self, name)) for name in THIRDS]


class _Region(Measured):
    """Figures of one region, on the source grid."""

    if TYPE_CHECKING:
        thirds: Thirds

    def interval(self, name: str) -> Interval | None:
        """The interval of a figure that has one; None where there is none, as in the first version's reports."""
        value: Interval | None = getattr(self, f"{name}_interval")
        return value


if TYPE_CHECKING:
    Region = _Region
else:
    Region = create_model(
        "Region",
        __base__=_Region,
        __doc__=_Region.__doc__,
        **{figure.name: _field(figure) for figure in FIGURES},
        **{f"{figure.name}_interval": _interval_field(figure) for figure in FIGURES if figure.interval},
        thirds=(Thirds, Field(description="The region in three parts from head to feet.")),
    )


class Regions(Document):
    """Figures by region."""

    right_lung: Region = Field(description="The patient's right lung.")
    left_lung: Region = Field(description="The patient's left lung.")
    lungs: Region = Field(description="Both lungs together.")

    def items(self) -> list[tuple[str, Region]]:
        """The regions with their names."""
        return [("right_lung", self.right_lung), ("left_lung", self.left_lung), ("lungs", self.lungs)]

    def named(self, name: str) -> Region:
        """A region by its name."""
        return dict(self.items())[name]


def withheld_figures(kind: str) -> list[tuple[str, ...]]:
    """Paths in a report of the figures that are null where `valid_for` denies a kind; "*" stands for every item."""
    paths: list[tuple[str, ...]] = []
    for figure in FIGURES:
        if kind in figure.valid_for:
            paths.append(("regions", "*", figure.name))
            paths += [("regions", "*", f"{figure.name}_interval")] * figure.interval
            paths += [("regions", "*", "thirds", "*", figure.name)] * figure.in_thirds
    return paths
