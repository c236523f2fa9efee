"""Boxes of a detector, in keras.ops alone: anchors, overlap, suppression, and the way from features to a box and back.

A box is (top, left, bottom, right) in pixels of the input, float32; pixel i reaches from i to i + 1. Shapes are
fixed, so that every backend compiles them: what is not a box any more keeps its place, and a score of 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

STRIDES = (4, 8, 16, 32)  # of the levels of a pyramid
SIDES = (2 * 2**0.5, 4.0)  # of anchors, in strides: 11 to 128 pixels
RATIOS = (0.5, 1.0, 2.0)
SHAPES = len(SIDES) * len(RATIOS)  # anchors at each place
LEAST_ON_NEXT = 56.0  # pixels: a box of this side is looked at on the second level, of twice that on the third, ...
FINEST = 1e-3  # pixels, so that nothing is divided by 0
LARGEST_CHANGE = 4.0  # of the logarithm of a side


def anchors(size: int) -> np.ndarray:
    """The boxes that a detector starts from: (anchors, 4) float32, level by level, row by row, `SHAPES` at a place."""
    out = []
    for stride in STRIDES:
        places = (np.arange(size // stride) + 0.5) * stride
        centre = np.stack(np.meshgrid(places, places, indexing="ij"), -1)[:, :, None, :]
        sides = [[side * stride * ratio**0.5, side * stride / ratio**0.5] for side in SIDES for ratio in RATIOS]
        half = np.array(sides) / 2
        out.append(np.concatenate([centre - half, centre + half], -1).reshape(-1, 4))
    return np.concatenate(out).astype(np.float32)


def overlaps(boxes: keras.KerasTensor, others: keras.KerasTensor) -> keras.KerasTensor:
    """Intersection over union of each with each: (batch, n, 4), (batch, m, 4) -> (batch, n, m)."""
    one, other = boxes[:, :, None, :], others[:, None, :, :]
    sides = ops.minimum(one[..., 2:], other[..., 2:]) - ops.maximum(one[..., :2], other[..., :2])
    shared = ops.prod(ops.maximum(sides, 0.0), -1)
    union = _area(one) + _area(other) - shared
    return shared / ops.maximum(union, FINEST)


def _area(boxes: keras.KerasTensor) -> keras.KerasTensor:
    return ops.prod(ops.maximum(boxes[..., 2:] - boxes[..., :2], 0.0), -1)


def changes(boxes: keras.KerasTensor, start: keras.KerasTensor) -> keras.KerasTensor:
    """What makes `boxes` of `start`: shift of the centre in sides, logarithm of the sides' ratio. (..., 4) each."""
    side, wanted = _sides(start), _sides(boxes)
    shift = (boxes[..., :2] + boxes[..., 2:] - start[..., :2] - start[..., 2:]) / 2 / side
    return ops.concatenate([shift, ops.log(wanted / side)], -1)


def changed(start: keras.KerasTensor, change: keras.KerasTensor, size: int) -> keras.KerasTensor:
    """The way back from `changes`, cut off at the borders of the slice."""
    side = _sides(start)
    centre = (start[..., :2] + start[..., 2:]) / 2 + change[..., :2] * side
    half = side * ops.exp(ops.clip(change[..., 2:], -LARGEST_CHANGE, LARGEST_CHANGE)) / 2
    return ops.clip(ops.concatenate([centre - half, centre + half], -1), 0.0, float(size))


def _sides(boxes: keras.KerasTensor) -> keras.KerasTensor:
    return ops.maximum(boxes[..., 2:] - boxes[..., :2], FINEST)


def keep_apart(boxes: keras.KerasTensor, most: float) -> keras.KerasTensor:
    """Non-maximum suppression: whether no better box that is kept itself overlaps by more than `most`.

    boxes (batch, n, 4), the best first -> (batch, n) bool. Each round is right about one box more, from the best on,
    and mostly about all of them after a few: the rounds end when one changes nothing.
    """
    count = boxes.shape[1]
    better = np.arange(count)[:, None] < np.arange(count)[None, :]
    in_the_way = ops.cast(ops.logical_and(overlaps(boxes, boxes) > most, better), "float32")

    def round_of(kept: keras.KerasTensor, _: keras.KerasTensor) -> tuple[keras.KerasTensor, keras.KerasTensor]:
        now = 1.0 - ops.max(in_the_way * kept[:, :, None], 1)
        return now, ops.any(ops.not_equal(now, kept))

    start = ops.ones_like(boxes[..., 0]), ops.any(ops.ones((1,), bool))
    kept, _ = ops.while_loop(lambda _, moved: moved, round_of, start, maximum_iterations=count)
    return kept > 0.5


def chosen(values: keras.KerasTensor, indices: keras.KerasTensor) -> keras.KerasTensor:
    """(batch, n, k) and (batch, m) indices -> (batch, m, k)."""
    return ops.take_along_axis(values, indices[..., None], axis=1)


def align(levels: Sequence[keras.KerasTensor], boxes: keras.KerasTensor, bins: int) -> keras.KerasTensor:
    """ROIAlign (He 2017): what lies in each box, `bins` x `bins`, without rounding a box to pixels of the features.

    Four samples a bin, interpolated linearly, and their mean. All of it is linear and separable, so that it is two
    products of matrices, of rows and of columns; gathering is slower, and slower still on the way back.

    Parameters
    ----------
    levels : sequence of (batch, size / stride, size / stride, channels)
        By `STRIDES`. A box is looked at on the one level that suits its size.
    boxes : (batch, n, 4)

    Returns
    -------
    (batch, n, bins, bins, channels) float32
    """
    side = ops.sqrt(ops.prod(_sides(boxes), -1))
    wanted = ops.clip(ops.floor(ops.log(side / LEAST_ON_NEXT) / np.log(2.0)) + 1, 0, len(STRIDES) - 1)
    found = 0.0
    for number, (features, stride) in enumerate(zip(levels, STRIDES, strict=True)):
        here = ops.cast(ops.equal(wanted, number), "float32")[..., None, None]
        rows, columns = (_bins(boxes, axis, stride, features.shape[1], bins) for axis in (0, 1))
        lines = ops.einsum("bnsh,bhwc->bnswc", rows * here, ops.cast(features, "float32"))
        found = found + ops.einsum("bntw,bnswc->bnstc", columns, lines)
    return found


def _bins(boxes: keras.KerasTensor, axis: int, stride: int, count: int, bins: int) -> keras.KerasTensor:
    """The weight of each of `count` rows (or columns) of features in each bin of each box: (batch, n, bins, count)."""
    share = (np.arange(2 * bins, dtype=np.float32) + 0.5) / (2 * bins)
    first, last = boxes[..., axis, None], boxes[..., axis + 2, None]
    at = ops.clip((first + share * (last - first)) / stride - 0.5, 0.0, count - 1.0)
    weights = _between(at, count)
    return ops.mean(ops.reshape(weights, (-1, boxes.shape[1], bins, 2, count)), 3)


def _between(at: keras.KerasTensor, count: int) -> keras.KerasTensor:
    """Linear interpolation: the weight of each of `count` values at a place among them. (...,) -> (..., count)."""
    return ops.maximum(1.0 - ops.abs(at[..., None] - np.arange(count, dtype=np.float32)), 0.0)


def paste(masks: keras.KerasTensor, boxes: keras.KerasTensor, size: int) -> keras.KerasTensor:
    """Masks of boxes back in the slice, interpolated; 0 outside their boxes.

    (batch, n, side, side), (batch, n, 4) -> (batch, n, size, size)
    """
    side = masks.shape[-1]
    pixels = np.arange(size, dtype=np.float32) + 0.5

    def weights(axis: int) -> keras.KerasTensor:
        first, last = boxes[..., axis, None], boxes[..., axis + 2, None]
        inside = ops.cast(ops.logical_and(pixels >= first, pixels <= last), "float32")
        at = (pixels - first) / ops.maximum(last - first, FINEST) * side - 0.5
        return _between(ops.clip(at, 0.0, side - 1.0), side) * inside[..., None]

    lines = ops.einsum("bnik,bnkl->bnil", weights(0), masks)
    return ops.einsum("bnjl,bnil->bnij", weights(1), lines)
