"""Optimizers by name. Their learning rate is a variable: the loop sets it before each step."""

from __future__ import annotations

from collections.abc import Callable

import keras

WEIGHT_DECAY = 1e-4
MOMENTUM = 0.9


def adam(clip_norm: float | None) -> keras.optimizers.Optimizer:
    """Adam (Kingma and Ba 2015)."""
    return keras.optimizers.Adam(1e-3, clipnorm=clip_norm)


def adamw(clip_norm: float | None) -> keras.optimizers.Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), 1e-4."""
    return keras.optimizers.AdamW(1e-3, weight_decay=WEIGHT_DECAY, clipnorm=clip_norm)


def sgd(clip_norm: float | None) -> keras.optimizers.Optimizer:
    """Gradient descent with Nesterov's momentum 0.9."""
    return keras.optimizers.SGD(1e-3, momentum=MOMENTUM, nesterov=True, clipnorm=clip_norm)


OPTIMIZERS: dict[str, Callable[[float | None], keras.optimizers.Optimizer]] = {
    "adam": adam,
    "adamw": adamw,
    "sgd": sgd,
}
