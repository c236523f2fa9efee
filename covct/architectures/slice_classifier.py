"""The empty-slice network: does this slice hold any infection?"""

from __future__ import annotations

import keras
from keras import layers

from covct.architectures.blocks import SMALLEST_SIDE, convolution, divisible, within


def slice_classifier(
    size: int = 256, channels: int = 1, base_filters: int = 16, depth: int = 4, norm: str = "batch"
) -> keras.Model:
    """A small residual network (He 2016) that gives one probability a slice.

    Input (batch, size, size, channels); output (batch, 1), float32: the probability that the slice holds infection.
    A fiftieth of a U-Net's arithmetic: it is to spare that. The largest answer anywhere counts beside the mean, since
    a lesion may be a few pixels. Parameters: 0.7 million with 16 base filters and depth 4.
    """
    within(
        "slice classifier", size=(size, SMALLEST_SIDE, 1024), channels=(channels, 1, 16),
        base_filters=(base_filters, 1, 64), depth=(depth, 1, 5),
    )  # fmt: skip
    divisible("slice classifier", size, 2**depth)
    inputs = keras.Input((size, size, channels))
    x = convolution(inputs, base_filters, 5, norm, strides=2)
    for level in range(1, depth):
        filters = base_filters * 2**level
        around = convolution(layers.AveragePooling2D(2)(x), filters, 1, norm, activate=False)
        x = convolution(x, filters, 3, norm, strides=2)
        x = convolution(x, filters, 3, norm, activate=False)
        x = layers.Activation("relu")(layers.Add()([x, around]))
    x = layers.Concatenate()([layers.GlobalMaxPooling2D()(x), layers.GlobalAveragePooling2D()(x)])
    x = layers.Dense(1, activation="sigmoid", dtype="float32", name="probability")(x)
    return keras.Model(inputs, x, name="slice_classifier")
