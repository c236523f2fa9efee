"""The slices around a slice, as channels of a 2.5D network: the next ones, or what lies at distances in millimetres.

Both are mixtures of two slices a channel: their indices, and the share of each. Where nothing lies at a distance (the
end of a series, a gap, a slice published by itself) both shares are 0, and the channel is 0 all over, which no slice of
a patient is: the network is told that nothing is known there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Around:
    """What is seen with each slice, itself in the middle.

    Attributes
    ----------
    indices : (slices, channels, 2) int
        Of the two slices that a channel is mixed of.
    shares : (slices, channels, 2) float32
        Of each in it; they add up to 1, or are 0 where nothing lies.
    """

    indices: np.ndarray
    shares: np.ndarray

    @property
    def there(self) -> np.ndarray:
        """(slices, channels) bool: where anything lies."""
        return np.asarray(self.shares.any(-1))

    def chosen(self, chosen: np.ndarray | slice) -> Around:
        """Of some of the slices: by (slices,) bool, by their indices, or by a slice."""
        return Around(self.indices[chosen], self.shares[chosen])


def adjacent(count: int, channels: int, first_of_runs: Sequence[int] = ()) -> Around:
    """Each slice's next slices, whatever their distance. Where there is none, the last slice is repeated.

    Parameters
    ----------
    count : int
        Slices in all.
    channels : int
        Odd: (channels - 1) / 2 neighbours on each side.
    first_of_runs : sequence of int
        Where slices stop being adjacent (another volume, a gap): the index of the first slice of each run but slice 0.
    """
    if channels % 2 == 0:
        raise ValueError(f"{channels} channels have no middle: wanted an odd number")
    first, end = run_bounds(count, first_of_runs)
    near = (np.arange(count)[:, None] + np.arange(channels) - channels // 2).clip(first[:, None], end[:, None] - 1)
    shares = np.zeros((count, channels, 2), np.float32)
    shares[..., 0] = 1
    return Around(np.stack([near, near], -1), shares)


def at_distances(
    count: int,
    distances_mm: Sequence[float],
    slice_mm: float | np.ndarray,
    first_of_runs: Sequence[int] = (),
) -> Around:
    """What lies at these distances on either side of each slice, interpolated between the two slices nearest to there.

    Parameters
    ----------
    distances_mm : sequence of float
        Ascending, e.g. (3, 6): the channels are -6, -3, 0, 3 and 6 mm.
    slice_mm : float or (slices,) float
        From slice to slice. NaN where it is not known: there only the slice itself is seen.
    first_of_runs : sequence of int
        As of `adjacent`.
    """
    offsets = offsets_mm(distances_mm)
    steps = np.round(offsets / np.broadcast_to(slice_mm, (count,))[:, None], 4)  # 3 mm are one slice of 3.0000001
    steps[:, len(distances_mm)] = 0
    first, end = (bound[:, None] for bound in run_bounds(count, first_of_runs))
    below = np.floor(np.nan_to_num(steps))
    share = np.nan_to_num(steps) - below
    lower = np.arange(count)[:, None] + below.astype(int)
    upper = lower + (share > 0)
    there = ~np.isnan(steps) & (lower >= first) & (upper < end)
    indices = np.stack([lower, upper], -1).clip(first[..., None], end[..., None] - 1)
    return Around(indices, (np.stack([1 - share, share], -1) * there[..., None]).astype(np.float32))


def offsets_mm(distances_mm: Sequence[float]) -> np.ndarray:
    """Where the channels lie: -6, -3, 0, 3 and 6 for (3, 6)."""
    return np.array([*(-one for one in reversed(distances_mm)), 0.0, *distances_mm])


def run_bounds(count: int, first_of_runs: Sequence[int] = ()) -> tuple[np.ndarray, np.ndarray]:
    """Of each slice the first of its run, and the first beyond: (count,) int each."""
    bounds = np.array(sorted({0, *first_of_runs, count}))
    run = np.searchsorted(bounds, np.arange(count), "right") - 1
    return bounds[run], bounds[np.minimum(run + 1, len(bounds) - 1)]


def mixed(slices: np.ndarray, around: Around) -> np.ndarray:
    """(slices, rows, columns) number -> (n, channels, rows, columns): what is seen with each of the n slices.

    In Hounsfield units, as a thicker slice would have it: before a window cuts off what is bright or dark.
    """
    first, second = around.indices[..., 0], around.indices[..., 1]
    shares = around.shares[..., None, None]
    if (around.shares[..., 0] == 1).all():
        return np.asarray(slices[first])
    out: np.ndarray = shares[:, :, 0] * slices[first]
    between = around.shares[..., 1] > 0
    out[between] += shares[:, :, 1][between] * slices[second[between]]
    return out


def channels_last(stacks: np.ndarray) -> np.ndarray:
    """(n, channels, rows, columns) -> (n, rows, columns, channels), one memory block."""
    return np.ascontiguousarray(np.moveaxis(stacks, 1, -1))
