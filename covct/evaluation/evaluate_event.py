"""What `evaluate` tells with --json: one event a line on stdout."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, RootModel

from covct.disk.documents import Document, Share, json_schema
from covct.disk.versions import EVALUATE_EVENT
from covct.evaluation.schema import Group, LeftOut, Task


class CasesFound(Document):
    """How many cases are evaluated."""

    event: Literal["found"]
    cases: int = Field(ge=0)


class CaseLeftOut(LeftOut):
    """A case that is not judged."""

    event: Literal["left-out"]


class CaseJudged(Document):
    """A case was judged."""

    event: Literal["judged"]
    case: str = Field(description="As a card publishes it, or a hash.")
    source: str
    slices: int = Field(ge=1)
    dice: dict[Task, Share | None] = Field(description="By task; null where neither truth nor call marks anything.")
    seconds: float = Field(ge=0)


class CaseCompared(CaseJudged):
    """A case was judged by what --against names."""

    event: Literal["compared"]  # type: ignore[assignment]


class Evaluated(Document):
    """All cases are judged, and the files are written."""

    event: Literal["evaluated"]
    page: str = Field(description="The page, evaluation.html.")
    groups: list[Group] = Field(description="As in evaluation.json.")


class EvaluateEvent(
    RootModel[Annotated[CasesFound | CaseLeftOut | CaseJudged | CaseCompared | Evaluated, Field(discriminator="event")]]
):
    """An event of covct evaluate. Kinds and fields may be added; read the ones that you know."""

    PUBLISHED_AS: ClassVar[str] = EVALUATE_EVENT
    TITLE: ClassVar[str] = "covct evaluate event"

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """As `Document.json_schema`."""
        return json_schema(cls)
