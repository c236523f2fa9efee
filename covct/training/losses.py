"""Training losses and the metric beside them. Truth carries its weights in its last channel.

Shapes, for slices; volumes have one axis more, whole slices (the empty-slice network) two less:

- truth (batch, rows, columns, 2): label, weight of the pixel; weight 0 leaves it out. The label is 0 or 1, of a softmax
  network the number of the class, 0 the background. For classes that may overlap (a sigmoid each) truth is
  (batch, rows, columns, classes + 1): a label each, and the weight.
- prediction (batch, rows, columns, outputs): probabilities. With deep supervision (..., outputs, heads): the loss is
  the mean over the heads, the metric that of their mean, which is what inference takes.

Everything is computed in float32 whatever the policy, and probabilities are kept 1e-5 away from 0 and 1: bfloat16 knows
nothing between 0.996 and 1, and its logarithm of that is 0 or infinite.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

MARGIN = 1e-5
MISSED = 0.7
SMOOTH = 1.0  # pixels; a batch without any disease has an index too
FOCUS = 0.75  # exponent, 1 / (4/3) as published

# Truth and prediction, as above, to a number: all of them symbolic where a network is compiled.
Loss = Callable[[keras.KerasTensor, keras.KerasTensor], keras.KerasTensor]


def _each_head(loss: Loss) -> Loss:
    """The mean of a loss over the heads of a network with deep supervision; the loss itself for any other."""

    def mean(truth: keras.KerasTensor, prediction: keras.KerasTensor) -> keras.KerasTensor:
        truth = ops.cast(truth, "float32")
        prediction = ops.clip(ops.cast(prediction, "float32"), MARGIN, 1 - MARGIN)
        if len(prediction.shape) == len(truth.shape):
            return loss(truth, prediction)
        heads = prediction.shape[-1]
        return sum(loss(truth, prediction[..., head]) for head in range(heads)) / heads

    mean.__name__, mean.__doc__ = loss.__name__, loss.__doc__
    return mean


def _is_exclusive(truth: keras.KerasTensor, prediction: keras.KerasTensor) -> bool:
    """Whether truth is the number of a class, the first the background: softmax."""
    return bool(truth.shape[-1] == 2 and prediction.shape[-1] > 1)


def _one_hot(truth: keras.KerasTensor, prediction: keras.KerasTensor) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """(..., outputs) labels of 0 or 1, and (..., 1) weights."""
    if _is_exclusive(truth, prediction):
        label = ops.one_hot(ops.cast(truth[..., 0], "int32"), prediction.shape[-1], dtype="float32")
    else:
        label = truth[..., :-1]
    if label.shape[-1] != prediction.shape[-1]:
        raise ValueError(f"truth has {label.shape[-1]} classes, the network {prediction.shape[-1]} outputs")
    return label, truth[..., -1:]


def _foreground(
    truth: keras.KerasTensor, prediction: keras.KerasTensor
) -> tuple[keras.KerasTensor, keras.KerasTensor, keras.KerasTensor]:
    """As `_one_hot`, with the prediction, less the background: it is large, and would drown the overlap of the rest."""
    label, weight = _one_hot(truth, prediction)
    first = 1 if _is_exclusive(truth, prediction) else 0
    return label[..., first:], prediction[..., first:], weight


def _entropy(truth: keras.KerasTensor, prediction: keras.KerasTensor) -> keras.KerasTensor:
    label, weight = _one_hot(truth, prediction)
    entropy = -label * ops.log(prediction)
    if not _is_exclusive(truth, prediction):
        entropy = entropy - (1 - label) * ops.log(1 - prediction)
    return ops.sum(entropy * weight) / (ops.sum(weight) + 1.0)


def _index(truth: keras.KerasTensor, prediction: keras.KerasTensor, missed: float) -> keras.KerasTensor:
    """Tversky's index, the mean over the classes; with `missed` 0.5 it is Dice.

    Sums go over the batch, not over each slice: a slice without infection has no Dice of its own and would teach the
    network to call nothing.
    """
    label, prediction, weight = _foreground(truth, prediction)
    axes = tuple(range(len(label.shape) - 1))
    hit = ops.sum(label * prediction * weight, axes)
    overlooked = ops.sum(label * (1 - prediction) * weight, axes)
    invented = ops.sum((1 - label) * prediction * weight, axes)
    return ops.mean((hit + SMOOTH) / (hit + missed * overlooked + (1 - missed) * invented + SMOOTH))


@_each_head
def cross_entropy(truth: keras.KerasTensor, prediction: keras.KerasTensor) -> keras.KerasTensor:
    """Weighted cross-entropy: binary, or over the classes of a softmax."""
    return _entropy(truth, prediction)


@_each_head
def dice(truth: keras.KerasTensor, prediction: keras.KerasTensor) -> keras.KerasTensor:
    """1 less soft Dice (Milletari 2016)."""
    return 1 - _dice(truth, prediction)


def _dice(truth: keras.KerasTensor, prediction: keras.KerasTensor) -> keras.KerasTensor:
    label, prediction, weight = _foreground(truth, prediction)
    axes = tuple(range(len(label.shape) - 1))
    overlap = 2 * ops.sum(label * prediction * weight, axes)
    return ops.mean((overlap + SMOOTH) / (ops.sum(label * weight, axes) + ops.sum(prediction * weight, axes) + SMOOTH))


@_each_head
def dice_plus_cross_entropy(truth: keras.KerasTensor, prediction: keras.KerasTensor) -> keras.KerasTensor:
    return 1 - _dice(truth, prediction) + _entropy(truth, prediction)


@_each_head
def tversky(truth: keras.KerasTensor, prediction: keras.KerasTensor) -> keras.KerasTensor:
    """1 less Tversky's index (Salehi 2017): a missed pixel weighs 0.7, an invented one 0.3.

    Radiologists draw around a lesion, and a network that weighs both alike calls only its core.
    """
    return 1 - _index(truth, prediction, MISSED)


@_each_head
def tversky_plus_cross_entropy(truth: keras.KerasTensor, prediction: keras.KerasTensor) -> keras.KerasTensor:
    return 1 - _index(truth, prediction, MISSED) + _entropy(truth, prediction)


@_each_head
def focal_tversky(truth: keras.KerasTensor, prediction: keras.KerasTensor) -> keras.KerasTensor:
    """Tversky's loss to the power of 3/4 (Abraham 2019): the nearer to the end, the steeper.

    The power's slope is infinite at 0; it is cut off where the loss is a hundred-thousandth.
    """
    return ops.power(ops.maximum(1 - _index(truth, prediction, MISSED), MARGIN), FOCUS)


def absolute_error(truth: keras.KerasTensor, prediction: keras.KerasTensor) -> keras.KerasTensor:
    """Mean absolute error of a restored slice, weighted by pixel; windows scaled to 0..1."""
    truth, prediction = ops.cast(truth, "float32"), ops.cast(prediction, "float32")
    if len(prediction.shape) > len(truth.shape):
        prediction = ops.mean(prediction, -1)
    target, weight = truth[..., :1], truth[..., 1:]
    return ops.sum(ops.abs(target - prediction) * weight) / (ops.sum(weight) + 1.0)


LOSSES = {
    "bce": cross_entropy,
    "dice": dice,
    "tversky": tversky,
    "focal-tversky": focal_tversky,
    "dice+ce": dice_plus_cross_entropy,
    "tversky+ce": tversky_plus_cross_entropy,
    "l1": absolute_error,
}


@keras.saving.register_keras_serializable(package="covct")
class WeightedDice(keras.metrics.Metric):  # type: ignore[misc]  # keras says no types
    """Dice of what is called, pooled over every pixel, and every class but the background, since the last reset.

    Called is what reaches the threshold; of classes that exclude each other the likeliest.
    """

    def __init__(self, threshold: float = 0.5, name: str = "dice", **kwargs: Any):
        super().__init__(name=name, **kwargs)
        self.threshold = threshold
        self.overlap = self.add_weight(name="overlap", initializer="zeros")
        self.sizes = self.add_weight(name="sizes", initializer="zeros")

    def update_state(
        self, y_true: keras.KerasTensor, y_pred: keras.KerasTensor, sample_weight: keras.KerasTensor | None = None
    ) -> None:
        truth, prediction = ops.cast(y_true, "float32"), ops.cast(y_pred, "float32")
        if len(prediction.shape) > len(truth.shape):
            prediction = ops.mean(prediction, -1)
        if _is_exclusive(truth, prediction):
            prediction = ops.one_hot(ops.argmax(prediction, -1), prediction.shape[-1], dtype="float32")
        label, prediction, weight = _foreground(truth, prediction)
        called = ops.cast(prediction >= self.threshold, "float32")
        self.overlap.assign_add(2 * ops.sum(label * called * weight))
        self.sizes.assign_add(ops.sum((label + called) * weight))

    def result(self) -> keras.KerasTensor:
        return self.overlap / ops.maximum(self.sizes, 1.0)
