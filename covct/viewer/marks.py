"""Marks of a slice as they cross to the browser and back: value and length of each run, row by row."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from covct.errors import UsageError

VALUES = {0, 1, 2, 4, 5, 6}  # 1 right lung, 2 left lung, 4 added where infected, as `voxels.labels` has them


def to_runs(marks: np.ndarray) -> list[int]:
    """(rows, columns) of small whole numbers, or bool -> value, length, value, length and so on."""
    flat = marks.ravel().astype(np.uint8)
    starts = np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1])
    lengths = np.diff(np.append(starts, flat.size))
    return [int(number) for number in np.column_stack([flat[starts], lengths]).ravel()]


def from_runs(runs: Any, shape: tuple[int, int], allowed: Iterable[int] = VALUES) -> np.ndarray:
    """The marks of a slice, (rows, columns) uint8.

    Parameters
    ----------
    runs : anything
        As `to_runs` makes them; what comes from outside is not believed.

    Raises
    ------
    UsageError
        They are not the runs of a slice of this shape.
    """
    wanted = f"wanted marks of {shape[0]} x {shape[1]} pixels"
    if not isinstance(runs, list) or len(runs) % 2 or not all(type(number) is int for number in runs):
        raise UsageError(f"marks that are no runs of values; {wanted}")
    values, lengths = runs[::2], runs[1::2]
    total = shape[0] * shape[1]
    if sum(lengths) != total or not all(0 < length <= total for length in lengths):
        raise UsageError(f"the marks lie on another grid, {sum(lengths)} pixels a slice; {wanted}")
    if odd := set(values) - set(allowed):
        raise UsageError(f"marks hold the value {min(odd)}; wanted lungs and opacity alone")
    return np.repeat(np.array(values, np.uint8), lengths).reshape(shape)
