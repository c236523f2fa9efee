"""DeepLabV3+ on a ResNet50, and the way of trained ResNet50 weights into it."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers

from covct.architectures.blocks import check_norm, convolution, divisible, head, within

BLOCKS = (3, 4, 6, 3)  # ResNet50
RATES = (6, 12, 18)  # for output stride 16
EPSILON = 1.001e-5  # as the published weights were trained with
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)  # taken from 0..255 pixels by what the published weights expect


def deeplabv3_plus(
    size: int = 256,
    channels: int = 1,
    outputs: int = 1,
    base_filters: int = 64,
    norm: str = "batch",
    activation: str = "sigmoid",
) -> keras.Model:
    """DeepLabV3+ (Chen 2018): ResNet50 (He 2016) with output stride 16, ASPP, and a decoder with its second level.

    Input (batch, size, size, channels) in 0..1; output (batch, size, size, outputs), probability, float32.
    `base_filters` 64 is ResNet50 itself; the rest scales with it. `norm` is that of ASPP and decoder; the backbone has
    batch normalisation, which its published weights need (`load_backbone`). Parameters: 40 million.

    Where the feature maps have fewer than 18 pixels a side, the widest rates see little but their middle.
    """
    within(
        "DeepLabV3+", size=(size, 32, 1024), channels=(channels, 1, 16), outputs=(outputs, 1, 16),
        base_filters=(base_filters, 4, 64),
    )  # fmt: skip
    divisible("DeepLabV3+", size, 16)
    check_norm(norm)
    inputs = keras.Input((size, size, channels))
    shallow, deep = resnet50(inputs, base_filters)
    filters = 4 * base_filters
    x = _pyramid(deep, filters, norm)
    x = layers.UpSampling2D(4, interpolation="bilinear")(x)
    x = layers.Concatenate()([x, convolution(shallow, base_filters * 3 // 4, 1, norm)])
    for _ in range(2):
        x = convolution(x, filters, 3, norm)
    x = layers.UpSampling2D(4, interpolation="bilinear")(x)
    return keras.Model(inputs, head(x, outputs, activation), name="deeplabv3_plus")


def _pyramid(x: keras.KerasTensor, filters: int, norm: str) -> keras.KerasTensor:
    """Atrous spatial pyramid pooling: one pixel, three rates, and the whole image."""
    side = x.shape[1]
    branches = [convolution(x, filters, 1, norm)]
    branches += [convolution(x, filters, 3, norm, dilation_rate=rate) for rate in RATES]
    whole = convolution(layers.GlobalAveragePooling2D(keepdims=True)(x), filters, 1, norm)
    branches.append(layers.UpSampling2D(side)(whole))
    return convolution(layers.Concatenate()(branches), filters, 1, norm)


def resnet50(x: keras.KerasTensor, base_filters: int = 64) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """The feature maps after the second and the last level: strides 4 and 16, 4 and 32 times `base_filters`.

    Layers are named as in keras.applications. The last level is dilated in place of its stride.
    """
    x = layers.ZeroPadding2D(3, name="conv1_pad")(x)
    x = _bn(layers.Conv2D(base_filters, 7, 2, use_bias=False, name="conv1_conv")(x), "conv1")
    x = layers.Activation("relu", name="conv1_relu")(x)
    x = layers.ZeroPadding2D(1, name="pool1_pad")(x)
    x = layers.MaxPooling2D(3, 2, name="pool1_pool")(x)
    shallow = None
    for level, count in enumerate(BLOCKS, start=2):
        for block in range(1, count + 1):
            stride = 2 if block == 1 and level in (3, 4) else 1
            x = _bottleneck(x, base_filters * 2 ** (level - 2), stride, level == 5, f"conv{level}_block{block}")
        shallow = x if level == 2 else shallow
    return shallow, x


def _bottleneck(x: keras.KerasTensor, filters: int, stride: int, dilated: bool, name: str) -> keras.KerasTensor:
    around = x
    if name.endswith("block1"):
        around = _bn(layers.Conv2D(4 * filters, 1, stride, use_bias=False, name=f"{name}_0_conv")(x), f"{name}_0")
    x = _bn(layers.Conv2D(filters, 1, stride, use_bias=False, name=f"{name}_1_conv")(x), f"{name}_1")
    x = layers.Activation("relu", name=f"{name}_1_relu")(x)
    rate = 2 if dilated else 1
    x = layers.Conv2D(filters, 3, padding="same", dilation_rate=rate, use_bias=False, name=f"{name}_2_conv")(x)
    x = layers.Activation("relu", name=f"{name}_2_relu")(_bn(x, f"{name}_2"))
    x = _bn(layers.Conv2D(4 * filters, 1, use_bias=False, name=f"{name}_3_conv")(x), f"{name}_3")
    return layers.Activation("relu", name=f"{name}_out")(layers.Add(name=f"{name}_add")([around, x]))


def _bn(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    return layers.BatchNormalization(momentum=0.9, epsilon=EPSILON, name=f"{name}_bn")(x)


def load_backbone(network: keras.Model, arrays: dict[str, np.ndarray]) -> int:
    """Put published ResNet50 weights (keras.applications, `..._notop.h5`) into a `deeplabv3_plus`.

    Our convolutions have no bias: it goes into the running mean behind them, where it comes to the same. The first
    convolution sees gray in 0..1 in place of 0..255 colours with their mean taken away: its kernel and the running
    mean take that over. Several channels share it alike.

    Parameters
    ----------
    arrays : dict of str to array
        By their place in the file, such as ``conv1_conv/conv1_conv/kernel:0`` (`weights_file.read_h5`).

    Returns
    -------
    int
        Number of layers that were given weights.

    Raises
    ------
    ValueError
        Not those of a ResNet50, or the network is no DeepLabV3+ with 64 base filters.
    """
    found = {tuple(place.removesuffix(":0").split("/")[-2:]): array for place, array in arrays.items()}
    convolutions = [layer for layer in network.layers if layer.name.startswith("conv") and layer.name.endswith("_conv")]
    if not any(layer.name == "conv1_conv" for layer in convolutions):
        raise ValueError(f"{network.name} has no ResNet50 for a backbone; wanted deeplabv3-plus")
    for layer in convolutions:
        bn_name = layer.name.removesuffix("_conv") + "_bn"
        try:
            kernel = found[layer.name, "kernel"].astype(np.float32)
            shift = found.get((layer.name, "bias"), np.zeros(kernel.shape[-1])).astype(np.float32)
            gamma, beta, mean, variance = (
                found[bn_name, part] for part in ("gamma", "beta", "moving_mean", "moving_variance")
            )
        except KeyError as error:
            raise ValueError(f"no ResNet50 weights: {'/'.join(error.args[0])} is missing") from error
        if layer.name == "conv1_conv":
            if kernel.shape[2] != 3:
                raise ValueError(f"conv1_conv has {kernel.shape[2]} input channels, wanted 3 (colour)")
            # the published network takes the colours as blue, green, red, each less its mean
            shift = shift - np.tensordot(kernel.sum((0, 1)), np.asarray(CAFFE_MEAN_BGR, np.float32), axes=(0, 0))
            channels = layer.kernel.shape[2]
            kernel = np.repeat(kernel.sum(2, keepdims=True) * (255 / channels), channels, axis=2)
        if kernel.shape != tuple(layer.kernel.shape):
            raise ValueError(f"{layer.name} is {kernel.shape} in the file, wanted {tuple(layer.kernel.shape)}")
        layer.set_weights([kernel])
        network.get_layer(bn_name).set_weights([gamma, beta, mean - shift, variance])
    return len(convolutions)
