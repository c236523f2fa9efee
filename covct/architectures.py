"""Networks, as functions that build Keras models. `ARCHITECTURES` is the list to choose from."""

from __future__ import annotations

import keras
from keras import layers


def unet(size: int = 256, channels: int = 1, outputs: int = 1, base_filters: int = 16, depth: int = 4) -> keras.Model:
    """2D U-Net (Ronneberger 2015) with batch normalisation and transposed-convolution-free upsampling.

    Input (batch, size, size, channels); output (batch, size, size, outputs), sigmoid, float32.
    Parameters: 1.9 million with 16 base filters and depth 4.

    Raises
    ------
    ValueError
        Beyond what fits into any memory: a weight card's arguments come from outside.
    """
    if size > 1024 or base_filters > 64 or depth > 5 or max(channels, outputs) > 16:
        raise ValueError(f"a U-Net of size {size}, {base_filters} base filters and depth {depth} is too large")
    inputs = keras.Input((size, size, channels))
    x, skips = inputs, []
    for level in range(depth):
        x = _two_convolutions(x, base_filters * 2**level)
        skips.append(x)
        x = layers.MaxPooling2D()(x)
    x = _two_convolutions(x, base_filters * 2**depth)
    for level in reversed(range(depth)):
        x = layers.UpSampling2D()(x)
        x = layers.Conv2D(base_filters * 2**level, 2, padding="same", activation="relu")(x)
        x = layers.Concatenate()([skips[level], x])
        x = _two_convolutions(x, base_filters * 2**level)
    # float32 whatever the policy: a sigmoid in bfloat16 has steps of 1/256
    x = layers.Conv2D(outputs, 1, activation="sigmoid", dtype="float32", name="probability")(x)
    return keras.Model(inputs, x, name="unet")


def _two_convolutions(x, filters):
    for _ in range(2):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False, kernel_initializer="he_normal")(x)
        # Two intensity domains in one batch make long running averages lag behind: a short memory.
        x = layers.BatchNormalization(momentum=0.9)(x)
        x = layers.Activation("relu")(x)
    return x


ARCHITECTURES = {"unet": unet}
