"""Overlap of a mask with the truth, from four counts.

Conventions where a ratio has nothing below its line, the same for one case and for pooled counts:

* truth and call both empty: Dice, IoU, recall and precision are undefined (nan) and left out of means. Counted as 1, a
  set with many clean scans would look good whatever the network does in the others; how many such cases there are is
  told instead.
* truth empty, something called: Dice, IoU and precision are 0 and count, recall is undefined.
* something there, nothing called: Dice, IoU and recall are 0 and count, precision is undefined.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SCORES = ("dice", "iou", "precision", "recall", "f1", "specificity", "accuracy")


@dataclass(frozen=True)
class Counts:
    """Voxels called rightly and wrongly, of those whose truth is known.

    Attributes
    ----------
    hit, invented, missed, rest : int
        True positives, false positives, false negatives, true negatives.
    """

    hit: int
    invented: int
    missed: int
    rest: int

    def __iter__(self) -> Iterator[int]:
        return iter((self.hit, self.invented, self.missed, self.rest))


def count(truth: np.ndarray, called: np.ndarray, known: np.ndarray | None = None) -> Counts:
    """Count a mask against the truth.

    Parameters
    ----------
    truth, called : bool, of one shape
    known : bool of the same shape, optional
        Voxels whose truth somebody vouches for; the others are left out. Default: all.
    """
    if known is not None:
        truth, called = truth & known, called & known
    hit = int(np.count_nonzero(truth & called))
    invented, missed = int(np.count_nonzero(called)) - hit, int(np.count_nonzero(truth)) - hit
    total = truth.size if known is None else int(np.count_nonzero(known))
    return Counts(hit, invented, missed, total - hit - invented - missed)


def scores(counts: Counts | np.ndarray) -> dict[str, np.ndarray]:
    """Every score of `SCORES`, nan where it is undefined.

    Parameters
    ----------
    counts : Counts, or (..., 4) array in the order of its fields
        Pooled scores are those of summed counts.

    Returns
    -------
    dict of str to (...) float array
        Recall is the sensitivity. F1 of a binary mask is its Dice; it is given by both names.
    """
    hit, invented, missed, rest = np.moveaxis(np.asarray(list(counts) if isinstance(counts, Counts) else counts), -1, 0)
    dice = ratio(2 * hit, 2 * hit + invented + missed)
    return {
        "dice": dice,
        "iou": ratio(hit, hit + invented + missed),
        "precision": ratio(hit, hit + invented),
        "recall": ratio(hit, hit + missed),
        "f1": dice,
        "specificity": ratio(rest, rest + invented),
        "accuracy": ratio(hit + rest, hit + invented + missed + rest),
    }


def ratio(above: npt.ArrayLike, below: npt.ArrayLike) -> np.ndarray:
    """above / below, nan where below is 0."""
    above, below = np.broadcast_arrays(np.asarray(above, float), np.asarray(below, float))
    shares: np.ndarray = np.divide(above, below, out=np.full(above.shape, np.nan), where=below != 0)
    return shares
