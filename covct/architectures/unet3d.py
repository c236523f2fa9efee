"""The 3D U-Net, for patches of a volume."""

from __future__ import annotations

import keras
from keras import layers

from covct.architectures.blocks import convolution, divisible, head, within

MOST_VOXELS = 2**22  # of a patch: 160 x 160 x 160 and a little more


def unet3d(
    size: int = 160,
    slices: int = 80,
    channels: int = 1,
    outputs: int = 1,
    base_filters: int = 16,
    depth: int = 4,
    norm: str = "group",
    residual: int = 0,
    activation: str = "sigmoid",
) -> keras.Model:
    """3D U-Net (Cicek 2016) for patches, transposed-convolution-free.

    Input (batch, slices, size, size, channels); output (batch, slices, size, size, outputs), probability, float32.
    Group normalisation by default: no more than one or two patches fit into a batch. Whole volumes go through it in
    overlapping patches (`context.patchwise`). Parameters: 5.7 million with 16 base filters and depth 4.
    """
    within(
        "3D U-Net", size=(size, 16, 512), slices=(slices, 8, 512), channels=(channels, 1, 4), outputs=(outputs, 1, 16),
        base_filters=(base_filters, 1, 32), depth=(depth, 1, 5), residual=(residual, 0, 1),
    )  # fmt: skip
    if slices * size * size > MOST_VOXELS:
        raise ValueError(f"patches of {slices} x {size} x {size} voxels are too large: at most {MOST_VOXELS} in all")
    divisible("3D U-Net", size, 2**depth)
    divisible("3D U-Net", slices, 2**depth)
    inputs = keras.Input((slices, size, size, channels))
    x, skips = inputs, []
    for level in range(depth):
        x = _two_convolutions(x, base_filters * 2**level, norm, residual)
        skips.append(x)
        x = layers.MaxPooling3D()(x)
    x = _two_convolutions(x, base_filters * 2**depth, norm, residual)
    for level in reversed(range(depth)):
        x = layers.UpSampling3D()(x)
        x = layers.Conv3D(base_filters * 2**level, 2, padding="same", activation="relu")(x)
        x = _two_convolutions(layers.Concatenate()([skips[level], x]), base_filters * 2**level, norm, residual)
    return keras.Model(inputs, head(x, outputs, activation, dimensions=3), name="unet3d")


def _two_convolutions(x: keras.KerasTensor, filters: int, norm: str, residual: int) -> keras.KerasTensor:
    around = x
    x = convolution(x, filters, 3, norm, dimensions=3)
    if not residual:
        return convolution(x, filters, 3, norm, dimensions=3)
    x = convolution(x, filters, 3, norm, dimensions=3, activate=False)
    around = convolution(around, filters, 1, norm, dimensions=3, activate=False)
    return layers.Activation("relu")(layers.Add()([x, around]))
