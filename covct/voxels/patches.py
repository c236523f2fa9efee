"""The overlapping patches that a volumetric network (3D) sees a volume in."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np

SMALLEST_WEIGHT = 1e-3  # of a patch's corner: above 0 in float32, and next to nothing


def starts(length: int, patch: int) -> list[int]:
    """Where patches begin along an axis: evenly, at least half of each overlapped, the last ending with the axis."""
    if length <= patch:
        return [0]
    steps = -(-2 * (length - patch) // patch)  # rounded up
    return [round(step * (length - patch) / steps) for step in range(steps + 1)]


def blend_weights(patch: tuple[int, ...]) -> np.ndarray:
    """How much a patch's voxels count: a Gaussian, an eighth of the patch wide (Isensee 2021, nnU-Net), 1 at most.

    A network sees a patch's border with half of its surroundings missing; the patch beside it sees it whole.
    """
    out = np.ones(patch, np.float32)
    for axis, length in enumerate(patch):
        distance = (np.arange(length) - (length - 1) / 2) / (length / 8)
        shape = [-1 if other == axis else 1 for other in range(len(patch))]
        out = out * np.exp(-(distance**2) / 2).astype(np.float32).reshape(shape)
    weights: np.ndarray = np.maximum(out / out.max(), SMALLEST_WEIGHT)
    return weights


def patchwise(
    predict: Callable[[np.ndarray], np.ndarray],
    see: Callable[[np.ndarray], np.ndarray],
    chosen: np.ndarray,
    plane: tuple[int, int],
    patch: tuple[int, int, int],
) -> np.ndarray:
    """A volume through a network in overlapping patches, blended. Never holds more than two slabs beside the result.

    Parameters
    ----------
    predict : function (patches, *patch, 1) float32 -> (patches, *patch) probability
    see : function (indices (n,)) -> (n, *plane) float32
        Slices as the network sees them.
    chosen : (slices,) bool
        Slices that are asked for; patches without any are not looked at.
    plane : (rows, columns)
        Of a slice.
    patch : (slices, rows, columns)
        Where the volume has fewer of them, its last is repeated.

    Returns
    -------
    (slices, *plane) float16
        Zero where not chosen.
    """
    count, (depth, rows, columns) = len(chosen), patch
    corners = list(product(starts(plane[0], rows), starts(plane[1], columns)))
    lacking = [(0, 0), (0, max(0, rows - plane[0])), (0, max(0, columns - plane[1]))]
    padded = (plane[0] + lacking[1][1], plane[1] + lacking[2][1])
    once = blend_weights(patch)
    out = np.zeros((count, *plane), np.float16)
    total, weight = np.zeros((2, depth, *padded), np.float32)
    firsts = starts(count, depth)
    for first, following in zip(firsts, [*firsts[1:], count], strict=True):
        indices = np.arange(first, first + depth).clip(0, count - 1)
        if chosen[indices].any():
            seen = np.pad(see(indices), lacking, "edge")
            patches = np.stack([seen[:, r : r + rows, c : c + columns, None] for r, c in corners])
            for (r, c), probability in zip(corners, predict(patches), strict=True):
                total[:, r : r + rows, c : c + columns] += probability * once
                weight[:, r : r + rows, c : c + columns] += once
        done = following - first
        blended = total[:done] / np.maximum(weight[:done], SMALLEST_WEIGHT**4)
        out[first:following] = blended[:, : plane[0], : plane[1]]
        for array in (total, weight):
            array[: depth - done] = array[done:].copy()
            array[depth - done :] = 0
    out[~chosen] = 0
    return out
