"""The part of a report that says what the intervals of its figures are worth."""

from __future__ import annotations

from pydantic import Field

from covct.disk.documents import Document
from covct.pipeline.report_figures import SeverityClass, Text


class Calibration(Document):
    """What the widths of intervals were multiplied by."""

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
    calibration: Calibrations = Field(description="By network: what the widths of intervals were multiplied by.")
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
