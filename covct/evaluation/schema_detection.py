"""The parts of `evaluation.json` on detection and on what was compared with."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from covct.disk.documents import Count, Document, Share
from covct.evaluation.schema_calls import Figure


class LesionsOfSize(Document):
    """A marked lesion counts by its own size, a called one by its own."""

    from_ml: float = Field(gt=0)
    to_ml: float | None = Field(description="null: no upper end.")
    marked: Count
    found: Count
    missed: Count
    called: Count
    right: Count
    false: Count


class PooledLesionsOfSize(LesionsOfSize):
    sensitivity: Figure
    precision: Figure


class LesionCounts(Document):
    """Lesions of whole series, as a report counts them: connected through faces, of 0.1 mL or more."""

    marked: Count
    called: Count
    found: int = Field(ge=0, description="Marked, and touched by a called one.")
    right: int = Field(ge=0, description="Called, and touching a marked one.")
    matched: int = Field(ge=0, description="Marked, and covered by one called lesion with an IoU above one half.")
    by_size: list[LesionsOfSize] = []


class Lesions(LesionCounts):
    """The same of all cases, with shares."""

    sensitivity: Figure = Field(description="Found of the marked.")
    precision: Figure = Field(description="Right of the called.")
    recognition_quality: Figure = Field(description="F1 of matched lesions (panoptic quality, Kirillov 2019).")
    by_size: list[PooledLesionsOfSize] = []  # type: ignore[assignment]


class OperatingPoint(Document):
    threshold: float = Field(gt=0, lt=1)
    recall: Share | None = Field(description="Infection outside the lungs found counts as missed.")
    precision: Share | None
    false_positive_rate: Share | None


class CaseCurves(Document):
    """Pixels inside the lungs found, by their probability."""

    average_precision: Share | None
    roc_auc: Share | None
    points: list[OperatingPoint]


class Curves(Document):
    """Pixels inside the lungs found, by their probability, all together; `mean_...` over patients, each alike."""

    average_precision: Figure
    roc_auc: Figure
    mean_average_precision: Figure
    mean_roc_auc: Figure
    points: list[OperatingPoint]


class Compared(Document):
    value: float | None
    against: float | None
    difference: Figure = Field(description="Value less against; the interval is by bootstrap over patients, paired.")


class GroupAgainst(Document):
    task: Literal["lungs", "infection"]
    source: str
    patients: Count
    cases: Count
    other_pixels: int = Field(ge=0, description="Cases that the two sides are judged on different pixels in.")
    figures: dict[str, Compared]


class CaseAgainst(Document):
    case: str
    source: str
    task: Literal["lungs", "infection"]
    dice: Share | None
    against: Share | None
