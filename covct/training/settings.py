"""What `covct train` is asked for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """What `covct train` was asked for; stored in the card."""

    task: str
    epochs: int
    samples_per_epoch: int
    batch_size: int = 8
    learning_rate: float = 1e-3
    base_filters: int = 16
    architecture: str = "unet"
    validation_share: float = 0.3
    seed: int = 0
    mixed_precision: bool = False
    augment: str = "standard"
    recipe: str = "hu-window:low=-1000,high=200"
    field_of_view: str = "body"
    size: int = 256
