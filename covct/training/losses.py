"""Training losses. Truth carries its weights: (batch, rows, columns, 2) = label, weight of the pixel."""

from __future__ import annotations

import keras
from keras import ops


def dice_plus_cross_entropy(truth, prediction):
    """Soft Dice over the batch plus weighted binary cross-entropy.

    truth (batch, rows, columns, 2): channel 0 the label 0 or 1, channel 1 the weight (0 leaves the pixel out).
    prediction (batch, rows, columns, 1): probability. Dice over the batch, not per slice: a slice without
    infection has no Dice of its own and would teach the network to call nothing.
    """
    label, weight = truth[..., :1], truth[..., 1:]
    prediction = ops.clip(ops.cast(prediction, "float32"), 1e-5, 1 - 1e-5)
    overlap = 2 * ops.sum(label * prediction * weight)
    dice = (overlap + 1.0) / (ops.sum(label * weight) + ops.sum(prediction * weight) + 1.0)
    return 1 - dice + _cross_entropy(label, prediction, weight)


def tversky_plus_cross_entropy(truth, prediction, missed: float = 0.7):
    """As `dice_plus_cross_entropy`, with Tversky's index (Salehi 2017) in place of Dice.

    `missed` weighs false negatives against false positives (1 - missed): radiologists draw around a lesion, and a
    network that weighs both alike calls only its core.
    """
    label, weight = truth[..., :1], truth[..., 1:]
    prediction = ops.clip(ops.cast(prediction, "float32"), 1e-5, 1 - 1e-5)
    hit = ops.sum(label * prediction * weight)
    overlooked = ops.sum(label * (1 - prediction) * weight)
    invented = ops.sum((1 - label) * prediction * weight)
    index = (hit + 1.0) / (hit + missed * overlooked + (1 - missed) * invented + 1.0)
    return 1 - index + _cross_entropy(label, prediction, weight)


def _cross_entropy(label, prediction, weight):
    entropy = -(label * ops.log(prediction) + (1 - label) * ops.log(1 - prediction))
    return ops.sum(entropy * weight) / (ops.sum(weight) + 1.0)


def absolute_error(truth, prediction):
    """Mean absolute error of a restored slice, weighted by pixel; windows scaled to 0..1."""
    target, weight = truth[..., :1], truth[..., 1:]
    return ops.sum(ops.abs(target - ops.cast(prediction, "float32")) * weight) / (ops.sum(weight) + 1.0)


LOSSES = {"dice+ce": dice_plus_cross_entropy, "tversky+ce": tversky_plus_cross_entropy, "l1": absolute_error}


@keras.saving.register_keras_serializable(package="covct")
class WeightedDice(keras.metrics.Metric):
    """Dice of the thresholded prediction, pooled over every pixel seen since the last reset."""

    def __init__(self, threshold: float = 0.5, name: str = "dice", **kwargs):
        super().__init__(name=name, **kwargs)
        self.threshold = threshold
        self.overlap = self.add_weight(name="overlap", initializer="zeros")
        self.sizes = self.add_weight(name="sizes", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        label, weight = y_true[..., :1], y_true[..., 1:]
        called = ops.cast(ops.cast(y_pred, "float32") >= self.threshold, "float32")
        self.overlap.assign_add(2 * ops.sum(label * called * weight))
        self.sizes.assign_add(ops.sum((label + called) * weight))

    def result(self):
        return self.overlap / ops.maximum(self.sizes, 1.0)
