"""The 2D U-Net and what was made of it: residual blocks, attention gates, nested skip connections."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from covct.architectures.blocks import check_levels, convolution, head, within


def unet(
    size: int = 256,
    channels: int = 1,
    outputs: int = 1,
    base_filters: int = 16,
    depth: int = 4,
    norm: str = "batch",
    residual: int = 0,
    attention: int = 0,
    transposed: int = 0,
    activation: str = "sigmoid",
) -> keras.Model:
    """2D U-Net (Ronneberger 2015) with normalisation; upsampling is free of transposed convolutions unless asked for.

    Input (batch, size, size, channels); output (batch, size, size, outputs), probability, float32.
    Parameters: 1.9 million with 16 base filters and depth 4.

    Parameters
    ----------
    channels : int
        1, or an odd number of neighbouring slices, the middle one the one that is segmented (2.5D).
    norm : str
        "batch" or "group".
    residual : int
        1: each pair of convolutions has a way around it (Zhang 2018, deep residual U-Net).
    attention : int
        1: gates on the skip connections (Oktay 2018), which let through what the deeper level asks for.
    transposed : int
        1: transposed convolutions on the way up, which may leave a pattern of squares (Odena 2016).
    activation : str
        "sigmoid" or "softmax", see `blocks.head`.

    Raises
    ------
    ValueError
        Beyond what fits into any memory: a weight card's arguments come from outside.
    """
    check_levels("U-Net", size, channels, outputs, base_filters, depth, 5)
    within("U-Net", residual=(residual, 0, 1), attention=(attention, 0, 1), transposed=(transposed, 0, 1))
    inputs = keras.Input((size, size, channels))
    x, skips = inputs, []
    for level in range(depth):
        x = _two_convolutions(x, base_filters * 2**level, norm, residual)
        skips.append(x)
        x = layers.MaxPooling2D()(x)
    x = _two_convolutions(x, base_filters * 2**depth, norm, residual)
    for level in reversed(range(depth)):
        x = _twice_as_large(x, base_filters * 2**level, transposed)
        skip = _gated(skips[level], x) if attention else skips[level]
        x = layers.Concatenate()([skip, x])
        x = _two_convolutions(x, base_filters * 2**level, norm, residual)
    return keras.Model(inputs, head(x, outputs, activation), name="unet")


def unet_transposed(**arguments: Any) -> keras.Model:
    """`unet` with transposed convolutions on the way up; the same arguments."""
    return unet(**{"transposed": 1, **arguments})


def attention_unet(**arguments: Any) -> keras.Model:
    """`unet` with attention gates and residual blocks; the same arguments."""
    return unet(**{"residual": 1, "attention": 1, **arguments})


def unet_plus_plus(
    size: int = 256,
    channels: int = 1,
    outputs: int = 1,
    base_filters: int = 16,
    depth: int = 4,
    norm: str = "batch",
    supervision: int = 1,
    activation: str = "sigmoid",
) -> keras.Model:
    """U-Net++ (Zhou 2018): a triangle of nodes between encoder and decoder, each fed by all before it on its level.

    Input (batch, size, size, channels). With `supervision` the output is (batch, size, size, outputs, depth): what
    each of the top level's nodes makes of the slice, the least deep first. Losses and metrics take the mean over the
    last axis, and so does inference ("accurate mode"). Without: (batch, size, size, outputs), of the deepest alone.
    Parameters: 2.3 million with 16 base filters and depth 4.
    """
    check_levels("U-Net++", size, channels, outputs, base_filters, depth, 5)
    within("U-Net++", supervision=(supervision, 0, 1))
    inputs = keras.Input((size, size, channels))
    x, rows = inputs, []
    for level in range(depth + 1):
        x = _two_convolutions(x if level == 0 else layers.MaxPooling2D()(x), base_filters * 2**level, norm, 0)
        rows.append([x])
        # the diagonal that has become possible: node (above, along) of everything before it and the one below
        for along in range(1, level + 1):
            above = level - along
            below = layers.UpSampling2D()(rows[above + 1][-1])
            node = layers.Concatenate()([*rows[above], below])
            rows[above].append(_two_convolutions(node, base_filters * 2**above, norm, 0))
    if not supervision or depth == 1:
        return keras.Model(inputs, head(rows[0][-1], outputs, activation), name="unet_plus_plus")
    heads = [head(node, outputs, activation, name=f"probability_{n}") for n, node in enumerate(rows[0][1:], 1)]
    return keras.Model(inputs, ops.stack(heads, -1), name="unet_plus_plus")


def _twice_as_large(x: keras.KerasTensor, filters: int, transposed: int) -> keras.KerasTensor:
    if transposed:
        return layers.Conv2DTranspose(filters, 2, strides=2, activation="relu")(x)
    return layers.Conv2D(filters, 2, padding="same", activation="relu")(layers.UpSampling2D()(x))


def _two_convolutions(x: keras.KerasTensor, filters: int, norm: str, residual: int) -> keras.KerasTensor:
    around = x
    x = convolution(x, filters, 3, norm)
    if not residual:
        return convolution(x, filters, 3, norm)
    x = convolution(x, filters, 3, norm, activate=False)
    return layers.Activation("relu")(layers.Add()([x, convolution(around, filters, 1, norm, activate=False)]))


def _gated(skip: keras.KerasTensor, wanted: keras.KerasTensor) -> keras.KerasTensor:
    """An additive attention gate: (batch, rows, columns, 1) in 0..1 times the skip connection."""
    filters = max(1, skip.shape[-1] // 2)
    both = layers.Add()([layers.Conv2D(filters, 1, use_bias=False)(skip), layers.Conv2D(filters, 1)(wanted)])
    gate = layers.Conv2D(1, 1, activation="sigmoid")(layers.Activation("relu")(both))
    return layers.Multiply()([skip, gate])
