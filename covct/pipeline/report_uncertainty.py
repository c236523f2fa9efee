"""The part of a report that says what the intervals of its figures are worth."""

from __future__ import annotations

from pydantic import Field

from covct.disk.documents import Count, Document, Share
from covct.pipeline.report_figures import SeverityClass, Text


class Calibration(Document):
    """What the widths of intervals were multiplied by, in reports of earlier versions."""

    factor: float = Field(gt=0, description="The multiple of the networks' own spread that held the true values.")
    level: float = Field(
        gt=0,
        lt=1,
        description="Share of patients like those of source whose true value lies inside the interval.",
    )
    source: Text = Field(description="Where the factor was measured, or that it is a default.")


class Calibrations(Document):
    """By network."""

    lungs: Calibration = Field(description="For volumes of lung.")
    infection: Calibration = Field(description="For all opacity.")


class GuaranteeGiven(Document):
    """What the interval of a figure is worth. Each of its ends holds the truth in 95 % of people."""

    people: Count = Field(description="People with truth who were measured, each once; the networks had seen none.")
    people_without: Count = Field(description="Those of them without any infection. 0 where a figure is of everybody.")
    level: float | None = Field(
        gt=0, lt=1, description="Share of people whose true value lies inside. Null where there is no interval."
    )
    guaranteed: float | None = Field(
        gt=0,
        lt=1,
        description="What that share cannot fall below on average: less than level where folds were used, and then "
        "null for figures in mL, of which nothing is proven.",
    )
    coverage: tuple[Share, Share] | None = Field(
        description="From and to: where that share lies for people like those measured, in 9 of 10 draws of so many. "
        "Null where folds were used."
    )
    reason: Text | None = Field(description="Why there is no interval; null where there is one.")


class Guarantees(Document):
    """By figure of both lungs; a single lung has no interval."""

    volume_ml: GuaranteeGiven = Field(description="Of the volume, mL.")
    infection_ml: GuaranteeGiven = Field(description="Of the volume of opacity, mL.")
    infection_percent: GuaranteeGiven = Field(description="Of the share of opacity.")

    def named(self, figure: str) -> GuaranteeGiven:
        """That of a figure with an interval."""
        given: GuaranteeGiven = getattr(self, figure)
        return given


class NearestClass(Document):
    """The severity class that takes least to reach."""

    class_: SeverityClass = Field(alias="class", description="Its number.")
    boundary_percent: float = Field(
        ge=0, le=100, description="Share of opacity between it and the severity class of this report."
    )
    distance_percent: float = Field(
        ge=0, le=100, description="How far the share of opacity is from that, percentage points."
    )


class Uncertainty(Document):
    """What the intervals of the regions are worth.

    They speak of scans like those that they were measured on, and of how much is marked, not of whether it is COVID-19.
    """

    looks: int = Field(
        ge=1, description="How many times a slice was looked at for infection: straight and mirrored, by each network."
    )
    calibration: Calibrations | None = Field(
        description="Of reports of earlier versions: what the widths of intervals were multiplied by. Null since."
    )
    source: Text | None = Field(None, description="Where people were measured. Null where none were.")
    figures: Guarantees | None = Field(None, description="What each interval is worth, or why there is none.")
    lowest_class: SeverityClass | None = Field(
        description="Severity class at the lower end of the interval of both lungs; null where there is none."
    )
    highest_class: SeverityClass | None = Field(
        description="Severity class at its upper end; null where there is none."
    )
    nearest_class: NearestClass | None = Field(
        description="The severity class that takes least to reach; null where there is no percentage."
    )
    low_confidence: bool | None = Field(
        description="Whether the interval of both lungs reaches another severity class or is wide; null where there is "
        "none."
    )
    unlikeness: float | None = Field(
        None,
        ge=0,
        description="How far the scan's look lies from what the infection network learned, 1 being the limit of the "
        "warning out-of-distribution; null for fewer than ten slices, or where its card does not say.",
    )
