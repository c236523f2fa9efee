"""A running average of the weights (Polyak and Juditsky 1992): steadier than the last step's, at no cost later."""

from __future__ import annotations

import numpy as np

EVERY = 8  # steps: on a GPU the weights have to come to the processor for it


class RunningAverage:
    """Exponential average of a network's weights, its moving statistics included, since they belong together.

    Young averages forget faster: the decay a step is at most (1 + steps) / (10 + steps).

    Parameters
    ----------
    decay : float
        A step.
    arrays : list of float array
        To begin with; also what a checkpoint keeps.
    """

    def __init__(self, decay: float, arrays: list[np.ndarray]):
        self.decay, self.arrays = decay, [np.array(array) for array in arrays]

    def is_due(self, steps: int) -> bool:
        return steps % EVERY == 0

    def take(self, weights: list[np.ndarray], steps: int) -> None:
        """Bring in the weights as they are after so many steps."""
        keep = np.float32(min(self.decay, (1 + steps) / (10 + steps)) ** EVERY)
        for average, now in zip(self.arrays, weights, strict=True):
            average *= keep
            average += (1 - keep) * now
