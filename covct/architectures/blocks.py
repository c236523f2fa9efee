"""What several networks are made of, and the bounds of what a weight card may ask for."""

from __future__ import annotations

from math import gcd
from typing import Any

import keras
from keras import layers

SMALLEST_SIDE, LARGEST_SIDE = 16, 1024


def within(network: str, **bounds: tuple[float, int, int]) -> None:
    """Refuse arguments beyond what fits into any memory: they come from a weight card, which comes from outside.

    bounds : for each argument its value and the least and the largest integer allowed.

    Raises
    ------
    ValueError
        Names the network, the argument, what was got and what is wanted.
    """
    for name, (value, least, largest) in bounds.items():
        if not isinstance(value, int) or not least <= value <= largest:
            fault = "too large" if isinstance(value, int) and value > largest else "not allowed"
            raise ValueError(f"a {network} with {name} {value!r} is {fault}: wanted {least} to {largest}, an integer")


def divisible(network: str, size: int, by: int) -> None:
    if size % by:
        raise ValueError(f"a {network} of side {size}: wanted a multiple of {by}, since it is halved on the way down")


def check_levels(
    network: str, size: int, channels: int, outputs: int, base_filters: int, depth: int, deepest: int
) -> None:
    """What a network of slices that halves them `depth` times may be asked for. Raises ValueError."""
    within(
        network, size=(size, SMALLEST_SIDE, LARGEST_SIDE), channels=(channels, 1, 16), outputs=(outputs, 1, 16),
        base_filters=(base_filters, 1, 64), depth=(depth, 1, deepest),
    )  # fmt: skip
    divisible(network, size, 2**depth)


def convolution(
    x: keras.KerasTensor,
    filters: int,
    width: int,
    norm: str,
    dimensions: int = 2,
    activate: bool = True,
    **options: Any,
) -> keras.KerasTensor:
    """Convolution without bias, normalisation, and relu unless told not to."""
    layer = layers.Conv3D if dimensions == 3 else layers.Conv2D
    options = {"padding": "same", "use_bias": False, "kernel_initializer": "he_normal"} | options
    x = normalised(layer(filters, width, **options)(x), norm)
    return layers.Activation("relu")(x) if activate else x


def normalised(x: keras.KerasTensor, norm: str) -> keras.KerasTensor:
    """Batch normalisation, or group normalisation (Wu 2018) with 8 groups: no batch, and no memory of one.

    Two intensity domains in one batch make long running averages lag behind: a short memory.
    """
    check_norm(norm)
    if norm == "group":
        return layers.GroupNormalization(groups=gcd(8, x.shape[-1]))(x)
    return layers.BatchNormalization(momentum=0.9)(x)


def check_norm(norm: str) -> None:
    if norm not in ("batch", "group"):
        raise ValueError(f"norm is {norm!r}, wanted batch or group")


def head(
    x: keras.KerasTensor, outputs: int, activation: str, dimensions: int = 2, name: str = "probability"
) -> keras.KerasTensor:
    """Probabilities by a 1-wide convolution.

    activation : "sigmoid", each output by itself; or "softmax", outputs that exclude each other, the first of them
    the background. float32 whatever the policy: a sigmoid in bfloat16 has steps of 1/256.
    """
    if activation not in ("sigmoid", "softmax") or (activation == "softmax" and outputs < 2):
        raise ValueError(f"{outputs} outputs with activation {activation!r}: wanted sigmoid, or softmax of 2 or more")
    layer = layers.Conv3D if dimensions == 3 else layers.Conv2D
    return layer(outputs, 1, activation=activation, dtype="float32", name=name)(x)
