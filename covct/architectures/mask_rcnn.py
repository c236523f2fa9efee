"""Mask R-CNN (He 2017) for one class: lesions one by one, each with a box, a score and a mask, merged to one map.

It is trained by `covct.training.detector`, which has its targets and losses and finds its layers by their names.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from covct.architectures.blocks import SMALLEST_SIDE, convolution, divisible, within
from covct.architectures.boxes import SHAPES, STRIDES, align, anchors, changed, chosen, keep_apart, paste

PYRAMID = tuple(f"level_{stride}" for stride in STRIDES)
LOOKED_AT, PROPOSED, FOUND = 192, 48, 24  # anchors, proposals and lesions of a slice; 24 are the most published
SAME_PROPOSAL, SAME_LESION = 0.7, 0.5  # overlap above which the lower of two is dropped, as published
BOX_BINS, MASK_BINS = 7, 14
BOX_HEAD = ("box_dense_1", "box_dense_2")
MASK_HEAD = ("mask_1", "mask_2", "mask_3", "mask_4", "mask_enlarged", "mask_logit")
CHANGE = np.array([0.1, 0.1, 0.2, 0.2], np.float32)  # the head of boxes tells changes in these units, as published


def mask_rcnn(
    size: int = 256, channels: int = 1, base_filters: int = 16, norm: str = "batch", blocks: int = 2
) -> keras.Model:
    """Mask R-CNN with a small residual network and a feature pyramid (Lin 2017).

    Input (batch, size, size, channels); output (batch, size, size, 1), probability, float32: of all lesions found the
    largest score times mask. Parameters: 4.0 million with 16 base filters.

    Smaller than published, since a lesion is 5 to 90 pixels and there are hundreds of slices, not a hundred thousand
    pictures: 24 lesions a slice, 64 channels of the pyramid, two blocks a level, anchors of 11 to 128 pixels.
    """
    within(
        "Mask R-CNN", size=(size, 2 * SMALLEST_SIDE, 1024), channels=(channels, 1, 16),
        base_filters=(base_filters, 1, 64), blocks=(blocks, 1, 6),
    )  # fmt: skip
    divisible("Mask R-CNN", size, STRIDES[-1])
    width = 4 * base_filters
    inputs = keras.Input((size, size, channels))
    levels = _pyramid(_backbone(inputs, base_filters, norm, blocks), width)
    proposals = _Proposals(size, name="proposals")(_region_proposals(levels, width))

    seen = _Align(BOX_BINS)([*levels, proposals])
    x = layers.Reshape((PROPOSED, BOX_BINS**2 * width))(seen)
    for name in BOX_HEAD:
        x = layers.Dense(2 * width, activation="relu", name=name)(x)
    score = layers.Dense(1, kernel_initializer=_small(0.01), dtype="float32", name="box_score")(x)
    change = layers.Dense(4, kernel_initializer=_small(0.001), dtype="float32", name="box_change")(x)
    found = _Lesions(size, name="lesions")([proposals, score, change])

    seen = _Align(MASK_BINS)([*levels, found])
    x = ops.reshape(seen, (-1, MASK_BINS, MASK_BINS, width))
    for name in MASK_HEAD[:-2]:
        x = layers.Conv2D(width, 3, padding="same", activation="relu", name=name)(x)
    x = layers.Conv2DTranspose(width, 2, strides=2, activation="relu", name=MASK_HEAD[-2])(x)
    logit = layers.Conv2D(1, 1, dtype="float32", name=MASK_HEAD[-1])(x)
    return keras.Model(inputs, _Merge(size, name="probability")([logit, found]), name="mask_rcnn")


def _backbone(x: keras.KerasTensor, base_filters: int, norm: str, blocks: int) -> list[keras.KerasTensor]:
    """Features by `STRIDES`, of twice the channels a level."""
    x = convolution(x, base_filters, 5, norm, strides=2)
    x = layers.MaxPooling2D()(convolution(x, base_filters, 3, norm))
    out = []
    for level in range(len(STRIDES)):
        filters = base_filters * 2 ** (level + 1)
        for block in range(blocks):
            strides = 2 if level and not block else 1
            around = x if block else convolution(x, filters, 1, norm, activate=False, strides=strides)
            x = convolution(x, filters, 3, norm, strides=strides)
            x = convolution(x, filters, 3, norm, activate=False)
            x = layers.Activation("relu")(layers.Add()([x, around]))
        out.append(x)
    return out


def _pyramid(features: list[keras.KerasTensor], width: int) -> list[keras.KerasTensor]:
    """The same levels, each of `width` channels and knowing what those below it know."""
    above, out = None, []
    for x, name in zip(reversed(features), reversed(PYRAMID), strict=True):
        x = layers.Conv2D(width, 1)(x)
        above = x if above is None else layers.Add()([x, layers.UpSampling2D()(above)])
        out.append(layers.Conv2D(width, 3, padding="same", name=name)(above))
    return out[::-1]


def _region_proposals(levels: list[keras.KerasTensor], width: int) -> keras.KerasTensor:
    """Of each anchor the logit of being a lesion, and its change: (batch, anchors, 5). One head for all levels."""
    shared = layers.Conv2D(width, 3, padding="same", activation="relu")
    told = layers.Conv2D(5 * SHAPES, 1, kernel_initializer=_small(0.01), dtype="float32")
    each = [layers.Reshape((-1, 5))(told(shared(level))) for level in levels]
    return layers.Concatenate(axis=1, dtype="float32", name="anchors")(each)


def _small(deviation: float) -> keras.initializers.Initializer:
    """At first a box is its anchor, and whether it is a lesion open."""
    return keras.initializers.RandomNormal(stddev=deviation)


class _OfBoxes(layers.Layer):  # type: ignore[misc]  # keras says no types
    """A layer without weights, float32 whatever the policy: in bfloat16 a place of 200 is one of 199 to 201."""

    def __init__(self, side: int, **options: Any):
        super().__init__(**{**options, "dtype": "float32"})
        self.side = side

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "side": self.side}


class _Proposals(_OfBoxes):
    """Anchors with what is told of them, (batch, anchors, 5), to the best that lie apart: (batch, PROPOSED, 4)."""

    def call(self, told: keras.KerasTensor) -> keras.KerasTensor:
        told = ops.stop_gradient(told)
        score, best = ops.top_k(told[..., 0], LOOKED_AT)
        start = ops.take(anchors(self.side), best, axis=0)
        box = changed(start, chosen(told[..., 1:], best), self.side)
        rank = ops.where(keep_apart(box, SAME_PROPOSAL), score, score - 1e6)
        return chosen(box, ops.top_k(rank, PROPOSED)[1])

    def compute_output_shape(self, told: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (told[0], PROPOSED, 4)


class _Lesions(_OfBoxes):
    """Proposals, their scores (logits) and changes to lesions, (batch, FOUND, 5): box, and score, 0 of what is none."""

    def call(self, given: list[keras.KerasTensor]) -> keras.KerasTensor:
        proposals, logit, change = map(ops.stop_gradient, given)
        score, best = ops.top_k(ops.sigmoid(logit[..., 0]), PROPOSED)
        box = chosen(changed(proposals, change * CHANGE, self.side), best)
        score = score * ops.cast(keep_apart(box, SAME_LESION), "float32")
        score, best = ops.top_k(score, FOUND)
        return ops.concatenate([chosen(box, best), score[..., None]], -1)

    def compute_output_shape(self, given: list[tuple[int | None, ...]]) -> tuple[int | None, ...]:
        return (given[0][0], FOUND, 5)


class _Align(_OfBoxes):
    """Levels of the pyramid and boxes to what lies in them; `side` bins. See `boxes.align`."""

    def call(self, given: list[keras.KerasTensor]) -> keras.KerasTensor:
        return align(given[:-1], given[-1][..., :4], self.side)

    def compute_output_shape(self, given: list[tuple[int | None, ...]]) -> tuple[int | None, ...]:
        return (given[0][0], given[-1][1], self.side, self.side, given[0][-1])


class _Merge(_OfBoxes):
    """Masks (logits) and lesions to the probability of each pixel of a slice: the largest score times mask."""

    def call(self, given: list[keras.KerasTensor]) -> keras.KerasTensor:
        logit, found = given
        masks = ops.reshape(ops.sigmoid(logit), (-1, FOUND, *logit.shape[1:3]))
        pasted = paste(masks, found[..., :4], self.side) * found[..., 4][..., None, None]
        return ops.max(pasted, 1)[..., None]

    def compute_output_shape(self, given: list[tuple[int | None, ...]]) -> tuple[int | None, ...]:
        return (given[1][0], self.side, self.side, 1)
