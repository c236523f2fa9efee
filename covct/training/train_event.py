"""What `train` tells with --log-format json: one event a line on stderr."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, RootModel

from covct.disk.documents import Document, json_schema
from covct.disk.versions import TRAIN_EVENT

Positive = Annotated[int, Field(ge=1)]


class Note(Document):
    """Something to know: a fold that begins, a checkpoint that is gone on with, patients on both sides of a split."""

    event: Literal["note"]
    text: str


class Started(Document):
    """A training begins, or goes on."""

    event: Literal["started"]
    task: str
    epochs: Positive
    steps: int = Field(ge=1, description="Per epoch.")
    batch_size: Positive
    parameters: Positive
    device: str


class Step(Document):
    """A step of the optimizer; one in half a minute is told. With --find-lr epoch 1 is the range test, and each further
    one a short training.
    """

    event: Literal["step"]
    epoch: Positive
    step: Positive
    loss: float
    slices_per_second: float | None = Field(None, description="null before the second step.")
    seconds_left: float | None = Field(None, description="null before the second step.")
    learning_rate: float | None = Field(None, description="With --find-lr only, in place of pace and time left.")


class Epoch(Document):
    """An epoch is over: the loss and metrics of its samples, `val_...` those of the held-out ones."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=True)
    __pydantic_extra__: dict[str, float]

    event: Literal["epoch"]
    epoch: Positive
    best_epoch: Positive
    loss: float
    learning_rate: float


class TrainEvent(RootModel[Annotated[Note | Started | Step | Epoch, Field(discriminator="event")]]):
    """An event of covct train. Kinds and fields may be added; read the ones that you know."""

    PUBLISHED_AS: ClassVar[str] = TRAIN_EVENT
    TITLE: ClassVar[str] = "covct train event"

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """As `Document.json_schema`."""
        return json_schema(cls)
