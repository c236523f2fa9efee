"""What `pull` tells with --json: one event a line on stdout."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, RootModel

from covct.disk.documents import Count, Document, json_schema
from covct.disk.versions import PULL_EVENT


class OfStudy(Document):
    study: str = Field(description="Study Instance UID.")


class Pulling(OfStudy):
    """A study begins."""

    event: Literal["pulling"]
    series: Count
    instances: Count = Field(description="To be retrieved: those that are not here yet.")


class Pulled(OfStudy):
    """A study is whole, and in the inbox."""

    event: Literal["pulled"]
    series: Count
    instances: Count
    seconds: float = Field(ge=0)


class Incomplete(OfStudy):
    """Not all of a study came. What did is kept aside, and the next pull asks for the rest."""

    event: Literal["incomplete"]
    missing: int | None = Field(description="Instances; null where the archive has lost the study.")
    message: str


class Plan(OfStudy):
    """With --dry-run: what would be done with a series."""

    event: Literal["plan"]
    series: str = Field(description="Series Instance UID.")
    slices: int | None = Field(description="That the archive has; null where it does not count them.")
    missing: Count = Field(description="Of these, what would be retrieved.")
    verdict: Literal["pull", "here", "known", "leave out"]
    why: str


class Finished(Document):
    """All is over: how many studies, by what became of them."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Count]

    event: Literal["finished"]


class PullEvent(RootModel[Annotated[Pulling | Pulled | Incomplete | Plan | Finished, Field(discriminator="event")]]):
    """An event of covct pull. Kinds and fields may be added; read the ones that you know."""

    PUBLISHED_AS: ClassVar[str] = PULL_EVENT
    TITLE: ClassVar[str] = "covct pull event"

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """As `Document.json_schema`."""
        return json_schema(cls)
