"""The part of a report that says what has changed since the patient's last result."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from covct.disk.documents import Count, Document, Sha256, Share
from covct.pipeline.report_figures import Least, SeverityClass, Slug, Text

Mark = Literal["first", "changed", "unchanged"]
Percent = Annotated[float, Field(ge=0, le=100)]


class EarlierResult(Document):
    """One of the patient's earlier results."""

    days_before: int = Field(ge=1, description="Days from its study to this one.")
    infection_percent: Percent | None = Field(description="Share of opacity in both lungs then.")
    infection_percent_interval: tuple[Percent, Percent] | None = Field(description="Its interval, where it had one.")
    infection_ml: Least | None = Field(description="Volume of opacity then, mL.")
    volume_ml: Least | None = Field(description="Volume of both lungs then, mL.")
    severity_class: SeverityClass | None = Field(description="Severity class then.")


class PriorMasks(Document):
    """The DICOM SEG of an earlier result."""

    sha256: Sha256 = Field(description="sha256 of its file.")
    sop_class_uid: str = Field(description="Its SOP Class UID.")
    sop_instance_uid: str = Field(description="Its SOP Instance UID.")
    series_instance_uid: str = Field(description="Its Series Instance UID.")


class Prior(Document):
    """The result that this one is compared with, as it stood then."""

    folder: Text = Field(description="Its folder below its output tree.")
    elsewhere: bool = Field(description="Whether that is another output tree (--priors).")
    study_instance_uid: str = Field(description="Its Study Instance UID.")
    series_instance_uid: str = Field(description="Its Series Instance UID.")
    work_key: Sha256 = Field(description="Its work key. Another one in its folder means that it was superseded since.")
    masks: PriorMasks | None = Field(description="Its DICOM SEG; null where it has none.")
    days_before: int = Field(ge=1, description="Days from its study to this one.")


class Between(Document):
    """One figure, then and now; null where a report withholds it."""

    then: float | None = Field(description="In the earlier report.")
    now: float | None = Field(description="In this report.")
    difference: float | None = Field(description="Now less then.")


class ChangeOfShare(Between):
    """The share of opacity in both lungs, then and now, percent; the difference in percentage points."""

    interval: tuple[float, float] | None = Field(description="Where the difference is put, percentage points.")
    level: Share | None = Field(
        description="Share of people whose true difference lies inside, at least: what both leave out is added."
    )
    reason: Text | None = Field(description="Why there is no interval; null where there is one.")


class ChangeOfClass(Document):
    """Severity class, then and now."""

    then: SeverityClass | None = Field(description="In the earlier report.")
    now: SeverityClass | None = Field(description="In this report.")


class LesionSince(Document):
    """A lesion that is in one of the scans alone."""

    volume_ml: Least = Field(description="Volume in the scan that shows it, mL.")
    centroid_lps_mm: tuple[float, float, float] = Field(
        description="Centroid in the patient in this scan, LPS mm; of a lesion that has vanished, where it would be."
    )
    side: Literal["right_lung", "left_lung"] = Field(description="The lung that holds most of it.")


class LesionsSince(Document):
    """New and vanished lesions."""

    reason: Text | None = Field(description="Why lesions were not matched; null where they were.")
    overlap: Share | None = Field(description="Dice of the lungs of both scans, laid over one another.")
    new_count: Count | None = Field(description="Lesions that no opacity of the earlier scan is near to.")
    vanished_count: Count | None = Field(description="Lesions then that no opacity of this scan is near to.")
    persisting_count: Count | None = Field(description="The other lesions of this scan.")
    new: list[LesionSince] = Field(description="The largest ten, largest first.")
    vanished: list[LesionSince] = Field(description="The largest ten, largest first.")


class Caution(Document):
    """What makes the two results less comparable."""

    slug: Slug
    message: Text = Field(description="One sentence.")


class Comparison(Document):
    """This result beside the patient's last one before it."""

    prior: Prior = Field(description="What it is compared with.")
    infection_percent: ChangeOfShare = Field(description="Share of opacity in both lungs.")
    infection_ml: Between = Field(description="Volume of opacity, mL.")
    volume_ml: Between = Field(description="Volume of both lungs, mL.")
    severity_class: ChangeOfClass = Field(description="Severity class.")
    lesions: LesionsSince = Field(description="New and vanished lesions.")
    cautions: list[Caution] = Field(description="What makes the two results less comparable.")


class Since(Document):
    """What has changed since the patient's last result, as the results stood when this one was made."""

    mark: Mark | None = Field(
        description="first: no earlier result of this patient was found. changed: the interval of the change of share "
        "does not hold 0; where there is none, the severity class or the share by 5 points or more. unchanged: "
        "neither. Null where nothing was compared, or no share could be."
    )
    reason: Text | None = Field(description="Why nothing was compared, in one sentence; null where something was.")
    sentences: list[Text] = Field(description="All that is told of it, in words.")
    earlier: list[EarlierResult] = Field(description="The patient's earlier results, the oldest first; at most 20.")
    comparison: Comparison | None = Field(description="With the last of them.")
