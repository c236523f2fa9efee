"""Training of a detector: what its anchors, boxes and masks should say of a slice whose lesions are numbered.

The seam is keras' own: a network that computes its loss itself. Everything else (batches, checkpoints, validation, the
running average) is as of any network, and what is kept is the plain network with its weights.

As published (He 2017), with these differences: the sampling of anchors and boxes is replaced by what it amounts to,
those that fit and those that do not weigh the same as a whole, so that nothing is drawn and a training that is resumed
stays exact; an anchor fits from an overlap of 0.5 on, not 0.7, since lesions are small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from covct.architectures import boxes
from covct.architectures.mask_rcnn import BOX_BINS, BOX_HEAD, CHANGE, FOUND, MASK_BINS, MASK_HEAD, PYRAMID

FITS, FITS_NOT = 0.5, 0.3  # overlap of an anchor with a lesion
IS_ONE = 0.5  # overlap of a box with the lesion that it is to tell
SMOOTH_BELOW = 1.0
Tensors = dict[str, keras.KerasTensor]


class Detector(keras.Model):  # type: ignore[misc]  # keras says no types
    """A `mask_rcnn`, with its weights, as it is trained: with the losses of its parts.

    In training a call gives all that they need, by name; else the probability, as the network itself.
    """

    def __init__(self, network: keras.Model):
        super().__init__(network.input, network.output, name=network.name)
        wanted = {name: network.get_layer(name).output for name in (*PYRAMID, "anchors", "proposals")}
        parts = keras.Model(network.input, wanted | {"probability": network.output})
        # functions, not layers: keras would take what is an attribute for another part of the network
        self._parts: Callable[[Any, bool], Tensors] = lambda x, training: parts(x, training=training)
        self._heads: Callable[[Sequence[str], Any], Any] = lambda names, x: _through(network, names, x)

    def call(self, x: keras.KerasTensor, training: bool | None = None, mask: Any = None) -> Any:
        return self._parts(x, True) if training else super().call(x, training=training, mask=mask)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> keras.KerasTensor:
        seen = y_pred if isinstance(y_pred, dict) else self._parts(x, False)
        truth = ops.cast(y, "float32")
        lesions = boxes_of(truth[..., 0])
        return self._of_anchors(seen, truth, lesions) + self._of_heads(seen, truth, lesions)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        probability = y_pred["probability"] if isinstance(y_pred, dict) else y_pred
        truth = ops.cast(y, "float32")
        pixels = ops.stack([ops.cast(truth[..., 0] > 0, "float32"), truth[..., 1]], -1)
        result: dict[str, Any] = super().compute_metrics(x, pixels, probability, sample_weight)
        return result

    def _of_anchors(self, seen: Tensors, truth: keras.KerasTensor, lesions: keras.KerasTensor) -> keras.KerasTensor:
        """Which anchors fit a lesion, and by which change: the best of each lesion fit, whatever their overlap."""
        told, size = seen["anchors"], truth.shape[1]
        start = boxes.anchors(size)[None]
        shared = boxes.overlaps(ops.convert_to_tensor(start), lesions)
        best = ops.max(shared, -1)
        of_lesion = ops.max(shared, 1, keepdims=True)
        the_best = ops.any(ops.logical_and(shared >= of_lesion, of_lesion > 0), -1)
        fits = ops.logical_or(best >= FITS, the_best)
        # where nobody knows, and where a lesion is too small to be asked for, an anchor that fits nothing is right too
        rows, columns = np.clip((start[0, :, :2] + start[0, :, 2:]) / 2, 0, size - 1).astype(np.int32).T
        asked = ops.take(_asked(truth), rows * size + columns, axis=1)
        fits, fits_not = _as_weights(fits, ops.logical_and(best < FITS_NOT, ops.logical_not(fits)))
        wanted = boxes.changes(boxes.chosen(lesions, ops.argmax(shared, -1)), start)
        return _balanced(told[..., 0], fits, fits_not * asked) + _mean(_smooth(told[..., 1:] - wanted), fits)

    def _of_heads(self, seen: Tensors, truth: keras.KerasTensor, lesions: keras.KerasTensor) -> keras.KerasTensor:
        """Score, change and mask of the proposals, and of the lesions' own boxes, which are there from the start."""
        levels = [seen[name] for name in PYRAMID]
        offered = ops.stop_gradient(ops.concatenate([seen["proposals"], lesions], 1))
        shared = boxes.overlaps(offered, lesions)
        best, which = ops.max(shared, -1), ops.argmax(shared, -1)
        is_box = ops.prod(offered[..., 2:] - offered[..., :2], -1) > 1
        size = truth.shape[1]
        middle = ops.clip((offered[..., :2] + offered[..., 2:]) / 2, 0, size - 1)
        asked = _at(_asked(truth), middle[..., 0], middle[..., 1], size)
        is_one, is_none = _as_weights(best >= IS_ONE, ops.logical_and(best < IS_ONE, is_box))

        x = boxes.align(levels, offered, BOX_BINS)
        x = self._heads(BOX_HEAD, ops.reshape(x, (-1, offered.shape[1], BOX_BINS**2 * x.shape[-1])))
        score, change = self._heads(("box_score",), x)[..., 0], self._heads(("box_change",), x)
        wanted = boxes.changes(boxes.chosen(lesions, which), offered) / CHANGE
        loss = _balanced(score, is_one, is_none * asked) + _mean(_smooth(change - wanted), is_one)

        fit, masked = ops.top_k(best, FOUND)
        offered, which = boxes.chosen(offered, masked), ops.take_along_axis(which, masked, axis=1)
        x = boxes.align(levels, offered, MASK_BINS)
        x = self._heads(MASK_HEAD, ops.reshape(x, (-1, MASK_BINS, MASK_BINS, x.shape[-1])))
        logit = ops.reshape(x, (-1, FOUND, (2 * MASK_BINS) ** 2))
        error = _cross_entropy(logit, masks_of(truth[..., 0], offered, which))
        return loss + _mean(ops.mean(error, -1), _as_weights(fit >= IS_ONE)[0])


def _through(network: keras.Model, names: Sequence[str], x: keras.KerasTensor) -> keras.KerasTensor:
    for name in names:
        x = network.get_layer(name)(x)
    return x


def boxes_of(numbers: keras.KerasTensor) -> keras.KerasTensor:
    """The boxes of numbered lesions: (batch, rows, columns) -> (batch, FOUND, 4); all 0 where there is none."""
    size = numbers.shape[1]
    here = ops.equal(numbers[..., None], np.arange(1, FOUND + 1, dtype=np.float32))
    ends = []
    for axis in (2, 1):  # which rows have any of it, then which columns
        there = ops.any(here, axis)
        places = np.arange(size, dtype=np.float32)[None, :, None]
        first = ops.min(ops.where(there, places, float(size)), 1)
        last = ops.max(ops.where(there, places + 1, 0.0), 1)
        ends.append((ops.where(last > 0, first, 0.0), last))
    (top, bottom), (left, right) = ends
    return ops.stack([top, left, bottom, right], -1)


def masks_of(numbers: keras.KerasTensor, rois: keras.KerasTensor, which: keras.KerasTensor) -> keras.KerasTensor:
    """What lies in each box of the lesion that it is to tell, from 0: (batch, n, cells) float32 of 0 and 1.

    The cells of a mask, row by row, are the pixels that their centres fall into.
    """
    side, size = 2 * MASK_BINS, numbers.shape[1]
    down, across = (np.indices((side, side)).reshape(2, -1).astype(np.float32) + 0.5) / side
    top, left, bottom, right = (rois[..., end, None] for end in range(4))
    found = _at(
        ops.reshape(numbers, (-1, size * size)), top + down * (bottom - top), left + across * (right - left), size
    )
    return ops.cast(ops.equal(found, ops.cast(which[..., None] + 1, "float32")), "float32")


def _at(values: keras.KerasTensor, row: keras.KerasTensor, column: keras.KerasTensor, size: int) -> keras.KerasTensor:
    """Values of pixels, (batch, size * size), at places (batch, ...)."""
    row, column = (ops.cast(ops.clip(ops.floor(place), 0, size - 1), "int32") for place in (row, column))
    places = ops.reshape(row * size + column, (-1, int(np.prod(row.shape[1:]))))
    return ops.reshape(ops.take_along_axis(values, places, axis=1), (-1, *row.shape[1:]))


def _asked(truth: keras.KerasTensor) -> keras.KerasTensor:
    """1 where a pixel is known and of no lesion that is not asked for, else 0: (batch, size * size)."""
    known = ops.logical_and(truth[..., 1] > 0, truth[..., 0] <= FOUND)
    return ops.reshape(ops.cast(known, "float32"), (-1, truth.shape[1] * truth.shape[2]))


def _as_weights(*masks: keras.KerasTensor) -> list[keras.KerasTensor]:
    return [ops.cast(mask, "float32") for mask in masks]


def _mean(error: keras.KerasTensor, weight: keras.KerasTensor) -> keras.KerasTensor:
    return ops.sum(error * weight) / ops.maximum(ops.sum(weight), 1.0)


def _balanced(logit: keras.KerasTensor, yes: keras.KerasTensor, no: keras.KerasTensor) -> keras.KerasTensor:
    """Cross-entropy of which those that should say yes have one half, and those that should say no the other."""
    error = _cross_entropy(logit, yes)
    return (_mean(error, yes) + _mean(error, no)) / 2


def _cross_entropy(logit: keras.KerasTensor, label: keras.KerasTensor) -> keras.KerasTensor:
    logit = ops.cast(logit, "float32")
    return ops.maximum(logit, 0.0) - logit * label + ops.log1p(ops.exp(-ops.abs(logit)))


def _smooth(error: keras.KerasTensor) -> keras.KerasTensor:
    """Smooth L1 (Girshick 2015), the sum over the four numbers of a box."""
    size = ops.abs(error)
    each = ops.where(size < SMOOTH_BELOW, 0.5 * size * size / SMOOTH_BELOW, size - 0.5 * SMOOTH_BELOW)
    return ops.sum(each, -1)
