"""The document of an evaluation, `evaluation.json`: what was judged, by what, and what came of it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from covct.disk.documents import Count, Document, Sha256, Share
from covct.disk.versions import EVALUATION, EvaluationSchema
from covct.evaluation.schema_calls import (
    BySlice,
    CallsGroup,
    CallsWithoutTruth,
    FalseCalls,
    Figure,
    Robustness,
)
from covct.evaluation.schema_detection import (
    CaseAgainst,
    CaseCurves,
    Curves,
    GroupAgainst,
    LesionCounts,
    Lesions,
)

Task = Literal["lungs", "infection"]
Positive = Annotated[float, Field(gt=0)]


class Settings(Document):
    tasks: list[Task] = Field(min_length=1)
    patients: Literal["held-out", "all"]
    also_seen: bool
    threshold: float | None
    source: str | None
    labels: dict[str, list[str]]
    resample: bool
    surface_tolerance_mm: float = Field(ge=0)
    resamples: int = Field(ge=1)
    seed: int = Field(ge=0)
    level: float
    clahe: Literal["restored", "linear"] = Field(description="How 8-bit CLAHE slices came to Hounsfield units.")
    robustness: bool = False


class JudgedCard(Document):
    name: str
    sha256: Sha256
    threshold: float | None
    held_out_patients: dict[str, Count] = Field(description="How many, by source.")
    card_sha256: Sha256 | None = Field(None, description="Of the card's file; null or absent for a restorer.")


class Judged(Document):
    what: Literal["networks", "predictions"]
    cards: dict[str, JudgedCard]


class Mean(Figure):
    cases: Count
    infinite: int = Field(
        ge=0, description="Cases that are not in the mean since the distance is infinite: one side marks nothing."
    )


class Pooled(Document):
    """Of the voxels of all cases together."""

    dice: Figure
    iou: Figure
    precision: Figure
    recall: Figure
    f1: Figure
    specificity: Figure
    accuracy: Figure


class Means(Document):
    """Over the cases in which the score is defined and finite."""

    dice: Mean
    iou: Mean
    precision: Mean
    recall: Mean
    f1: Mean
    specificity: Mean
    accuracy: Mean
    hd95_mm: Mean = Field(description="95 % of each surface's area lies so near the other one.")
    surface_dice: Mean = Field(
        description="Share of both surfaces' areas within the tolerance (Nikolov 2018). Earlier evaluations counted "
        "border voxels, each alike."
    )


class Agreement(Document):
    """Bland-Altman: call minus truth; limits are bias -1.96 and +1.96 standard deviations, over patients: each counts
    once, with the mean of their cases.
    """

    cases: Count
    patients: Count = Field(0, description="Absent from earlier evaluations, in which each case counted.")
    bias: Figure
    mean_absolute_error: Figure
    standard_deviation: float | None
    lower_limit: Figure
    upper_limit: Figure


class Bin(Document):
    from_: float = Field(alias="from")
    to: float
    pixels: Count
    probability: Share | None
    frequency: Share | None


class Calibration(Document):
    expected_calibration_error: Figure
    brier_score: Figure
    bins: list[Bin] = Field(min_length=10, max_length=10)


class CurvePoint(Document):
    threshold: float
    dice: Share | None


class ByOtherPatients(Document):
    """Pooled Dice with each patient's threshold chosen on all the other patients, and the range of these thresholds."""

    dice: Share | None
    least: float
    most: float


class Thresholds(Document):
    curve: list[CurvePoint]
    by_other_patients: ByOtherPatients | None


class Folds(Document):
    """Pooled Dice of each fold of a cross-validation."""

    dice: dict[str, float | None]
    mean: float | None
    standard_deviation: float | None


class Outline(Document):
    """Slice by slice, in pixels of the grid that is judged."""

    surface_dice_1px: Figure = Field(
        description="Outline Dice: share of both outlines' pixels within 1 pixel of the other one, each counting alike."
    )
    surface_dice_2px: Figure
    dice_within_1px: Figure
    dice_within_2px: Figure = Field(
        description="Dice once a wrong pixel within 2 pixels of the other mask counts as right."
    )


class ClassChange(Document):
    """How many patients of a severity class are called which."""

    truth: int = Field(ge=1, le=5)
    called: int = Field(ge=1, le=5)
    patients: int = Field(ge=1)


class BurdenError(Document):
    """Infected share of the lungs, call minus truth in points, all volumes of a patient together."""

    patients: int = Field(ge=1)
    bias: Figure
    mean_absolute_error: Figure
    worst: float = Field(ge=0)
    classes: list[ClassChange]


class Intervals(Document):
    """How often the interval that a report gives for the infected share holds the true one."""

    cases: int = Field(ge=1)
    held: Count
    share: Figure
    level: Share = Field(description="What the intervals promise.")
    mean_width: float = Field(ge=0, description="In points of the infected share.")


class Group(Document):
    source: str
    task: Task
    patients: Count
    cases: Count
    slices: Count
    cases_both_empty: int = Field(
        ge=0, description="Cases with neither truth nor call: their Dice is undefined and in no mean."
    )
    pooled: Pooled
    mean: Means
    volume_ml: Agreement | None
    volume_error_percent: Agreement | None
    percent_of_lung: Agreement | None
    calibration: Calibration | None
    thresholds: Thresholds | None
    folds: Folds | None
    outline: Outline | None = None
    marked_inside_lungs: Figure | None = Field(
        None, description="Share of marked infection inside the lungs found; null for lungs."
    )
    lesions: Lesions | None = None
    curves: Curves | None = Field(None, description="Infection only, and where there are probabilities.")
    burden: BurdenError | None = None
    intervals: Intervals | None = None


class Counts(Document):
    hit: Count
    invented: Count
    missed: Count
    rest: Count


class Pair(Document):
    truth: float = Field(ge=0)
    called: float = Field(ge=0)


class SliceDice(Document):
    slices: int = Field(ge=1)
    least: Share | None
    p5: Share | None
    q1: Share | None
    median: Share | None
    q3: Share | None
    p95: Share | None
    most: Share | None


class CaseOutline(Document):
    surface_dice_1px: Share | None
    surface_dice_2px: Share | None
    dice_within_1px: Share | None
    dice_within_2px: Share | None


class ClassPair(Document):
    truth: int = Field(ge=1, le=5)
    called: int = Field(ge=1, le=5)


class CaseInterval(Document):
    """Of the infected share of the lungs, percent, as a report gives it."""

    low: float = Field(ge=0, le=100)
    high: float = Field(ge=0, le=100)
    level: Share
    holds_truth: bool


class CaseTask(Document):
    counts: Counts
    dice: Share | None
    iou: Share | None
    precision: Share | None
    recall: Share | None
    f1: Share | None
    specificity: Share | None
    accuracy: Share | None
    hd95_mm: Annotated[float, Field(ge=0)] | None
    surface_dice: Share | None
    hd95_infinite: bool = Field(description="Only one of truth and call is empty.")
    slice_dice: SliceDice | None
    volume_ml: Pair | None
    volume_error_percent: float | None
    percent_of_lung: Pair | None
    truth_sha256: Sha256
    called_sha256: Sha256
    outline: CaseOutline | None = None
    severity: ClassPair | None = Field(None, description="Severity class by infected share, as a report has it.")
    marked_inside_lungs: Share | None = None
    interval: CaseInterval | None = None
    lesions: LesionCounts | None = None
    curves: CaseCurves | None = None


class Case(Document):
    case: str = Field(description="As a card publishes it, or a hash.")
    patient: str
    source: str
    seen_by: list[str] = Field(description="Networks that have learned from the patient.")
    fold: str | None = Field(description="The fold of a cross-validation that held the patient out and judged them.")
    slices: int = Field(ge=1)
    spacing_mm: Annotated[list[Positive], Field(min_length=3, max_length=3)] | None
    tasks: dict[Task, CaseTask]
    calls_without_truth: CallsWithoutTruth | None
    by_slice: BySlice | None = None
    false_calls: FalseCalls | None = None
    robustness: Robustness | None = None


class LeftOut(Document):
    case: str
    source: str
    slug: str
    reason: str


class Against(Judged):
    """What was compared with, on the cases that both sides may judge."""

    groups: list[GroupAgainst]
    cases: list[CaseAgainst]
    left_out: list[LeftOut]


class Evaluation(Document):
    """What `covct evaluate` writes. Scores are 0 to 1 and null where undefined; volumes in mL, distances in mm;
    intervals by bootstrap over patients.
    """

    PUBLISHED_AS: ClassVar[str] = EVALUATION
    TITLE: ClassVar[str] = "covct evaluation"

    schema_: EvaluationSchema = Field(alias="schema")
    format: Literal[1]
    research_use: str
    covct_version: str
    software: dict[str, str | None]
    settings: Settings
    judged: Judged
    also_seen: bool = Field(description="A network has learned from a patient among these cases.")
    notes: list[str]
    groups: list[Group]
    calls: list[CallsGroup] = []
    cases: list[Case] = Field(min_length=1)
    left_out: list[LeftOut]
    against: Against | None = None
