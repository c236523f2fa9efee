"""The document of one run, `OUT/runs/<UTC time>.json`: what it came to. No patient data."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from covct.disk.documents import Document, Moment
from covct.disk.outcome import Status
from covct.disk.versions import RUN, RunSchema

Command = Literal["scan", "watch"]
End = Literal["finished", "limit", "until", "stopped", "error"]


class Count(Document):
    status: Status
    slug: str | None
    series: int = Field(ge=1)


class LastError(Document):
    slug: str
    folder: str
    at: str


class RunSummary(Document):
    """What one run of covct scan or covct watch came to: OUT/runs/<UTC time of its beginning>.json. No patient data."""

    PUBLISHED_AS: ClassVar[str] = RUN
    TITLE: ClassVar[str] = "covct run summary"

    schema_: RunSchema = Field(alias="schema")
    research_use: str
    covct_version: str
    versions: dict[str, str] = Field(description="Of Python and the packages that decide results.")
    sequence: int = Field(
        default=0,
        ge=0,
        description="Which run of this output tree it is, counted from 1; dates depend on a clock. "
        "Absent from runs of older versions.",
    )
    command: Command
    began: Moment = Field(description="UTC, ISO 8601.")
    updated: Moment = Field(description="UTC; the end, where `end` is not null.")
    seconds: float = Field(ge=0, description="From `began` to `updated` by the clock.")
    end: End | None = Field(description="null: it runs, or was killed.")
    error: str | None = Field(description="The kind of error that ended the run.")
    device: str | None = Field(description="Of the last series done; null while none was.")
    outcomes: list[Count] = Field(description="Series finished in this run.")
    finished_before: list[Count] = Field(description="Series that this run found finished.")
    waiting: int = Field(ge=0, description="Series left for the next run by --limit or --until.")
    unreadable_files: int = Field(ge=0)
    work_seconds: float = Field(ge=0, description="Seconds of all series together.")
    series_per_hour: float | None = Field(description="Series finished in this run by the run's seconds.")
    last_error: LastError | None
