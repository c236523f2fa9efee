"""The part of `evaluation.json` that says what is called slice by slice and by anatomy, and what all parts share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from covct.disk.documents import Count, Document, Share

RegionName = Literal["outline", "dome", "arch", "vessel", "outside", "apex", "dependent", "rest"]  # `anatomy.REGIONS`
Interval = Annotated[list[float], Field(min_length=2, max_length=2)]


class Figure(Document):
    value: float | None
    interval: Interval | None


class CallsWithoutTruth(Document):
    percent_of_lung: float = Field(ge=0)
    percent_of_aerated_lung: float = Field(ge=0, le=100)
    lungs: Literal["marked", "found"] = Field("marked", description="Which lungs these are percent of.")


class BySlice(Document):
    """Slices by their label, and those of them with more than 0.10 mL of infection called."""

    labelled: int = Field(ge=0, description="With infection by label.")
    found: int = Field(ge=0, description="Labelled and called.")
    clear: int = Field(ge=0, description="With lung, and without infection by label.")
    called: int = Field(ge=0, description="Clear, and called all the same.")


class PooledBySlice(BySlice):
    sensitivity: Figure
    specificity: Figure


class Region(Document):
    ml: float | None = Field(ge=0)
    percent_of_lung: float = Field(ge=0)
    share: Share | None = Field(description="Of all that is falsely called.")


class PooledRegion(Document):
    ml: float | None = Field(ge=0)
    percent_of_lung: float = Field(ge=0)
    share: Figure


class FalseCalls(Document):
    """Infection called where there is none, by rules of anatomy; mL are null where the spacing is unknown."""

    ml: float | None = Field(ge=0)
    percent_of_lung: float = Field(ge=0)
    regions: dict[RegionName, Region]


class PooledFalseCalls(Document):
    """The same, of several cases."""

    cases: int = Field(ge=1)
    ml: float | None = Field(ge=0)
    percent_of_lung: Figure
    regions: dict[RegionName, PooledRegion]


class PooledWithoutTruth(Document):
    """Infection called in people of whom nobody marked any."""

    cases: int = Field(ge=1)
    percent_of_lung: Figure
    percent_of_aerated_lung: Figure
    median_percent_of_aerated_lung: float = Field(ge=0, le=100)
    worst_percent_of_aerated_lung: float = Field(ge=0, le=100)


class Robustness(Document):
    """The scan smoothed, sharpened and at other thicknesses: how far the infected share of the lungs moves, in points.

    Keys: smooth, sharp, 1mm, 3mm, 5mm.
    """

    percent_of_lung: float = Field(ge=0, le=100, description="Of the scan as it is.")
    points: dict[str, float]


class PooledVariant(Document):
    """Change of the infected share in points."""

    cases: int = Field(ge=1)
    mean_absolute: Figure
    bias: Figure
    worst: float = Field(ge=0)


class CallsGroup(Document):
    """What is called, slice by slice and by anatomy."""

    source: str
    patients: Count
    cases: Count
    by_slice: PooledBySlice | None
    false_calls: PooledFalseCalls | None
    calls_without_truth: PooledWithoutTruth | None
    robustness: dict[str, PooledVariant] | None = None
