"""What `scan` and `watch` tell: with --json one event a line on stdout, with --log-format json one a line on stderr."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, RootModel

from covct.disk.documents import Count, Document, json_schema
from covct.disk.outcome import Status
from covct.disk.versions import EVENT
from covct.unattended.sending import Kind

Seconds = Annotated[float, Field(ge=0)]
Interval = Annotated[list[float], Field(min_length=2, max_length=2)]


class Told(Document):
    """Every event; with --log-format json also when, and how grave it is."""

    time: str | None = Field(None, description="UTC, ISO 8601; on stderr only.")
    level: Literal["info", "warning", "error"] | None = Field(None, description="On stderr only.")


class Watching(Told):
    """A watch begins."""

    event: Literal["watching"]
    inbox: str
    settle_s: Seconds
    interval_s: Seconds


class Found(Told):
    """What a pass has before it."""

    event: Literal["found"]
    candidates: Count
    to_do: Count
    finished_before: Count
    slices_to_do: Count | None = Field(None, description="Slices of the series to do; a volume file counts as 150.")
    problems: Count = Field(description="Files that cannot be read.")
    ignored_files: Count = Field(description="Files that are no images.")


class Problem(Told):
    """A file that cannot be read, or a file or study that broke a step and is left for the next run."""

    event: Literal["problem"]
    file: str
    slug: str
    message: str


class OfSeries(Told):
    study: str = Field(description="Study Instance UID; where there is none, the study's folder.")
    series: str = Field(description="Series Instance UID; where there is none, the series' folder.")
    folder: str = Field(description="Of the result, below the output tree.")


class Skipped(OfSeries):
    """A series that was finished before."""

    event: Literal["skipped"]
    status: Status
    slug: str | None


class Unchanged(OfSeries):
    """A series whose result stays as it is: its files have changed and its slices are the same, or, as a problem says,
    they cannot be read or nothing could be added to it."""

    event: Literal["unchanged"]
    status: Status
    slug: str | None


class Started(OfSeries):
    """A series begins."""

    event: Literal["started"]
    slices: int | None = Field(description="null for a volume file.")


class Step(OfSeries):
    """A step of a series begins; told again with `seconds` when it ends."""

    event: Literal["step"]
    step: str
    seconds: Seconds | None = None


class Done(OfSeries):
    """A series has its result."""

    event: Literal["done"]
    slug: None
    message: None
    seconds: Seconds
    infection_percent: float | None
    infection_percent_interval: Interval | None
    severity_class: int | None
    warnings: list[str] = Field(description="Slugs.")
    device: str
    runtime: str | None = Field(None, description="What computed the networks: openvino, tensorflow or jax.")
    precision: str | None = Field(None, description="Numbers they were computed in: bfloat16 or float32.")
    added: list[str] | None = Field(
        None, description="Formats written beside what its result holds; absent where all was computed."
    )
    research_use: str


class NotDone(OfSeries):
    """A series has its outcome: rejected, the input is not for covct; failed, something unexpected."""

    event: Literal["rejected", "failed"]
    slug: str
    message: str
    seconds: Seconds
    file: str | None = Field(None, description="The file meant, if one is.")


class NotMoved(Told):
    """With --move-done: files of a study stay where they are."""

    event: Literal["not-moved"]
    study: str
    files: Count
    message: str


class Waiting(Told):
    """Series that this run leaves for the next one."""

    event: Literal["waiting"]
    series: Count
    why: Literal["limit", "until"]


class NotThere(Document):
    """Objects that a destination has not, or should no longer have, and why."""

    kind: Kind
    why: str
    objects: Count
    results: Count
    oldest_s: Count


class Destination(Told):
    """With --send-to, at the end: how a destination stands."""

    event: Literal["destination"]
    name: str
    address: str
    delivered: Count = Field(description="Objects that it has, of all results of the tree.")
    waiting: Count = Field(description="Objects still to be sent.")
    refused: Count = Field(description="Objects that it does not take.")
    pruned: Count = Field(description="Formats that covct prune took away before they were sent.")
    superseded: Count = Field(description="Objects that it has, and that were replaced here.")
    reasons: list[NotThere]
    failures: Count = Field(description="Attempts in a row that did not reach it.")
    error: str = Field(description="Why it was not reached; empty where it was.")
    next_attempt_s: int | None = Field(description="Seconds until a resident sender tries it again.")
    last_delivered: str = Field(description="UTC, ISO 8601; empty before the first.")


class Finished(Told):
    """A pass is over: how many series, by what became of them; files and studies in trouble."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Count]

    event: Literal["finished"]


class Plan(Told):
    """With --dry-run: what would be done with a series, or with a file that cannot be read."""

    event: Literal["plan"]
    series: str
    slices: int | None
    verdict: Literal["segment", "add", "finished", "reject", "leave out", "unreadable", "fail", "compare"]
    why: str
    warned: str | None = None


class Log(Told):
    """Anything else, such as the place of an unexpected error. On stderr only."""

    event: Literal["log"]
    message: str


class LibraryWarning(Told):
    """A library warned: where, not what. On stderr only."""

    event: Literal["warning"]
    logger: str
    at: str


class Ended(Told):
    """An error or a stop signal ended the process. On stderr only."""

    event: Literal["ended"]
    reason: str
    message: str
    exit_code: Count


OfStdout = (
    Watching
    | Found
    | Problem
    | Skipped
    | Unchanged
    | Started
    | Step
    | Done
    | NotDone
    | NotMoved
    | Waiting
    | Destination
    | Finished
    | Plan
)
OfStderr = Log | LibraryWarning | Ended


class Event(RootModel[Annotated[OfStdout | OfStderr, Field(discriminator="event")]]):
    """An event of covct scan or covct watch. Kinds and fields may be added; read the ones that you know."""

    PUBLISHED_AS: ClassVar[str] = EVENT
    TITLE: ClassVar[str] = "covct event"

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """As `Document.json_schema`."""
        return json_schema(cls)
