"""What `convert` tells with --json: one event a line on stdout."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, RootModel

from covct.disk.documents import Count, Document, json_schema
from covct.disk.versions import CONVERT_EVENT

Format = Literal["nifti", "dicom"]


class Problem(Document):
    """A file that cannot be read, or a source of which nothing was."""

    event: Literal["problem"]
    file: str
    slug: str
    message: str


class Found(Document):
    """What there is to convert."""

    event: Literal["found"]
    candidates: Count
    to_do: Count
    finished_before: Count
    problems: Count = Field(description="Files that cannot be read.")
    ignored_files: Count = Field(description="Files that are no images.")


class Nothing(Document):
    """No series is to be converted."""

    event: Literal["nothing"]
    message: str = Field(description="Why.")


class OfSeries(Document):
    series: str = Field(description="Series Instance UID; where there is none, the study's folder.")
    source: str | None = Field(description="A volume file; null for a DICOM series.")


class Finding(Document):
    """What the input gate found."""

    slug: str
    message: str
    level: Literal["refused", "warned", "noted"]


class Converted(OfSeries):
    """A series was written in the other format."""

    event: Literal["converted"]
    to: Format
    path: str = Field(description="The file or the folder that was written.")
    findings: list[Finding]
    research_use: str


class Kept(OfSeries):
    """A series was converted from the same input before."""

    event: Literal["kept"]
    to: Format
    path: str = Field(description="The file or the folder that stays.")


class NotConverted(OfSeries):
    """Nothing was written of a series: rejected, the input is not for covct; failed, something unexpected."""

    event: Literal["rejected", "failed"]
    to: Format | None = Field(description="null if it was not yet known.")
    slug: str
    message: str
    file: str | None = Field(None, description="The file meant, if one is.")


class Finished(Document):
    """All is over: how many series, by what became of them; files and sources in trouble."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Count]

    event: Literal["finished"]


class ConvertEvent(
    RootModel[
        Annotated[Problem | Found | Nothing | Converted | Kept | NotConverted | Finished, Field(discriminator="event")]
    ]
):
    """An event of covct convert. Kinds and fields may be added; read the ones that you know."""

    PUBLISHED_AS: ClassVar[str] = CONVERT_EVENT
    TITLE: ClassVar[str] = "covct convert event"

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """As `Document.json_schema`."""
        return json_schema(cls)
