"""What the empty-slice network learns: from pixels that are infected to slices that are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from covct.errors import UsageError
from covct.networks.network import Network, predict
from covct.training.samples.plan import Plan
from covct.training.samples.restoration import Sample
from covct.training.settings import Settings

NETWORK = "slice-classifier"
FEWEST_PIXELS = 8  # of infection in 256 x 256: a lesion of some 5 mm; fewer are neither one thing nor the other
MOST_UNKNOWN = 0.005  # share of a slice's pixels that nobody vouches for; beyond it a slice is not known to be empty
RECALL = 0.99  # of slices with infection that must not be called empty


def slice_truth(truth: np.ndarray) -> np.ndarray:
    """Pixels' labels and weights to the slice's: (..., rows, columns, 2) -> (..., 2) float32.

    1 with infection, 0 without; weight 0 where neither is sure.
    """
    known = truth[..., 1] > 0
    infected = np.count_nonzero((truth[..., 0] > 0.5) & known, axis=(-2, -1))
    unknown = np.mean(~known, axis=(-2, -1))
    holds = infected >= FEWEST_PIXELS
    sure = holds | ((infected == 0) & (unknown <= MOST_UNKNOWN))
    return np.stack([holds, sure], -1).astype(np.float32)


def of_slices(plan: Plan, settings: Settings) -> Plan:
    """The plan for infection, with slices' truth in place of pixels'.

    Raises
    ------
    UsageError
        Another network than the one that gives one probability a slice was asked for.
    """
    if settings.architecture != NETWORK:
        raise UsageError(f"empty-slices needs --architecture {NETWORK}, got {settings.architecture}")

    def draw(*arguments: Any, **named: Any) -> Sample:
        x, truth = plan.draw(*arguments, **named)
        return x, slice_truth(truth)

    validation = plan.validation and (plan.validation[0], slice_truth(plan.validation[1]))
    return replace(plan, draw=draw, validation=validation, loss="bce")


def choose_gate_threshold(
    network: Network, validation: tuple[np.ndarray, np.ndarray]
) -> tuple[float, dict[str, float]]:
    """The highest hundredth at which 99 % of the validation slices with infection are still looked at; its scores.

    A gate may let an empty slice through, which costs time; it must not hold a diseased one back. "spared" is the share
    of empty slices that the infection network need not see.
    """
    slices, truth = validation
    label, known = truth[..., 0] > 0.5, truth[..., 1] > 0
    probability, label = predict(network, slices)[known], label[known]
    diseased, empty = max(1, int(np.count_nonzero(label))), max(1, int(np.count_nonzero(~label)))
    for hundredth in range(99, 0, -1):
        looked_at = probability >= hundredth / 100
        recall = int(np.count_nonzero(looked_at & label)) / diseased
        if recall >= RECALL:
            break
    spared = int(np.count_nonzero(~looked_at & ~label)) / empty
    scores = {"validation_slice_recall": recall, "validation_slices_spared": spared}
    return hundredth / 100, {name: round(value, 4) for name, value in scores.items()}
