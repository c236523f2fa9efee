"""Encoder-decoders that unpool where they pooled: SegNet, and a small one of its kind."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers, ops

from covct.architectures.blocks import check_levels, convolution, head

VGG16 = (2, 2, 3, 3, 3)  # convolutions by level


def segnet(
    size: int = 256,
    channels: int = 1,
    outputs: int = 1,
    base_filters: int = 64,
    norm: str = "batch",
    activation: str = "sigmoid",
) -> keras.Model:
    """SegNet (Badrinarayanan 2017): the convolutions of VGG16, and a decoder that mirrors them.

    Input (batch, size, size, channels); output (batch, size, size, outputs), probability, float32.
    Unpooling is index-free, see `_unpooled`. Parameters: 29 million with 64 base filters, as published.
    """
    check_levels("SegNet", size, channels, outputs, base_filters, 5, 6)
    filters = [min(base_filters * 2**level, base_filters * 8) for level in range(5)]
    inputs = keras.Input((size, size, channels))
    x = _encoder_decoder(inputs, filters, VGG16, norm)
    return keras.Model(inputs, head(x, outputs, activation), name="segnet")


def smallcovid_net(
    size: int = 256,
    channels: int = 1,
    outputs: int = 1,
    base_filters: int = 24,
    depth: int = 4,
    norm: str = "batch",
    activation: str = "sigmoid",
) -> keras.Model:
    """A small network of SegNet's kind: 24 filters on every level, two convolutions each, 256 x 256 pixels.

    After SmallCovid-Net (Computacion y Sistemas), of which the kind, the filters and the size are known to us and the
    number of layers is not: that is ours. Parameters: 0.08 million.
    """
    check_levels("SmallCovid-Net", size, channels, outputs, base_filters, depth, 6)
    inputs = keras.Input((size, size, channels))
    x = _encoder_decoder(inputs, [base_filters] * depth, [2] * depth, norm)
    return keras.Model(inputs, head(x, outputs, activation), name="smallcovid_net")


def _encoder_decoder(
    x: keras.KerasTensor, filters: Sequence[int], convolutions: Sequence[int], norm: str
) -> keras.KerasTensor:
    """Down and up again; `filters` and number of `convolutions` by level."""
    places = []
    for count, wanted in zip(convolutions, filters, strict=True):
        for _ in range(count):
            x = convolution(x, wanted, 3, norm)
        pooled = layers.MaxPooling2D()(x)
        places.append(_maxima(x, pooled))
        x = pooled
    for level in reversed(range(len(filters))):
        x = _unpooled(x, places[level])
        above = filters[max(0, level - 1)]
        for last in [False] * (convolutions[level] - 1) + [True]:
            x = convolution(x, above if last else filters[level], 3, norm)
    return x


def _maxima(x: keras.KerasTensor, pooled: keras.KerasTensor) -> keras.KerasTensor:
    """Where the maxima were: 1 where a value is the largest of its 2 x 2 window, and above 0; else 0."""
    largest = layers.UpSampling2D()(pooled)
    return ops.cast(ops.logical_and(ops.equal(x, largest), ops.greater(x, 0)), x.dtype)


def _unpooled(x: keras.KerasTensor, places: keras.KerasTensor) -> keras.KerasTensor:
    """Each value back to where the maximum came from, 0 elsewhere.

    The equivalent of unpooling by indices without indices, which not every backend gives: it differs where a maximum
    is there twice (both places get the value) and where a window is 0 throughout (none does).
    """
    return layers.Multiply()([layers.UpSampling2D()(x), places])
