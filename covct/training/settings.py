"""What `covct train` is asked for."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Settings:
    """What `covct train` was asked for: all that decides the weights. A training is resumed with the same only.

    Attributes
    ----------
    base_filters : int or None
        None is the architecture's own number.
    norm : str or None
        "batch" or "group" normalisation; None is the architecture's own.
    loss : str or None
        A key of LOSSES; None is the task's own.
    schedule : str
        A key of SCHEDULES, or "plateau".
    clip_norm : float
        Each variable's gradient is scaled down to this L2 norm; 0 leaves it.
    patience : int
        Epochs without a better validation after which training ends; 0 trains them all.
    ema : float
        Decay a step of the running average of the weights that is validated and kept; 0 keeps the weights as they are.
    split : str
        What is held out, per source: "90/10", "70/30" or a share ("0.2") of the patients, "72/18/10" with a tenth of
        them left out for a test, "slice" or "slice:70/30" of the slices, "none".
    folds, fold : int
        Cross-validation by patient: so many folds, and the one that is held out; 0 folds is `split`.
    threshold : float or None
        The card's; None chooses it on the validation patients.
    leave_out : tuple of str
        Patients that are neither trained nor validated on, to be judged afterwards; the card lists them as held out.
    neighbours : int
        2.5D: so many slices on either side are seen with a slice.
    neighbours_mm : tuple of float
        2.5D: what lies at these distances on either side is seen with a slice.
    patch : tuple of int
        Of a network of volumes: slices, rows and columns that it sees at once; empty: 80, 160, 160.
    spacing_mm : tuple of float
        Volumes are brought to this distance of slices, rows and columns; empty: they stay on the grid of their slices.
    classes : bool
        A softmax over the task's classes in place of one probability.
    """

    task: str
    epochs: int
    samples_per_epoch: int
    batch_size: int = 8
    learning_rate: float = 1e-3
    base_filters: int | None = None
    architecture: str = "unet"
    loss: str | None = None
    optimizer: str = "adamw"
    schedule: str = "cosine"
    clip_norm: float = 1.0
    patience: int = 0
    ema: float = 0.0
    split: str = "70/30"
    folds: int = 0
    fold: int = 0
    threshold: float | None = None
    seed: int = 0
    mixed_precision: bool = False
    augment: str = "standard"
    recipe: str = "hu-window:low=-1000,high=200"
    field_of_view: str = "body"
    size: int = 256
    leave_out: tuple[str, ...] = ()
    neighbours: int = 0
    patch: tuple[int, ...] = ()
    spacing_mm: tuple[float, ...] = ()
    classes: bool = False
    norm: str | None = None
    neighbours_mm: tuple[float, ...] = ()

    @property
    def channels(self) -> int:
        """What is seen at once of a slice and around it."""
        return 2 * (self.neighbours or len(self.neighbours_mm)) + 1

    @property
    def steps_per_epoch(self) -> int:
        return self.samples_per_epoch // self.batch_size

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch


def with_defaults(stored: dict[str, Any]) -> dict[str, Any]:
    """Settings as a checkpoint holds them, with the defaults of what there was not yet when it was written."""
    return {one.name: one.default for one in fields(Settings) if one.default is not MISSING} | stored
