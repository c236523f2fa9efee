"""The threshold of a network, chosen on slices of patients that it never saw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from covct.evaluation.calibration import FLAT_DICE
from covct.networks.network import Network, is_of_task, predict
from covct.training.samples.empty_slices import choose_gate_threshold
from covct.training.samples.restoration import Sample


def choose_threshold(
    network: Network, validation: Sample, sources: Sequence[str] = ()
) -> tuple[float, dict[str, float]]:
    """The probability whose pooled Dice on the validation samples is best; its scores.

    sources : the source of each sample, where the score of each is wanted, too; a score over all of them hides that a
    network is good in one look and bad in another. Where a source has nothing to find: the share that is called there.

    For infection the highest within 0.01 of the best. Chosen on held-out patients and never on others; their score is
    then a little optimistic, and the card says so.
    """
    if network.card.task == "empty-slices":
        return choose_gate_threshold(network, validation)
    slices, truth = validation
    label, known = is_of_task(network.card, truth[..., 0]), truth[..., 1] > 0
    predicted, labels = predict(network, slices), label
    probability, label = predicted[known], label[known]
    positives = max(1, int(np.count_nonzero(label)))
    scored = []
    for twentieth in range(1, 20):
        called = probability >= twentieth / 20
        hit, calls = int(np.count_nonzero(called & label)), max(1, int(np.count_nonzero(called)))
        scored.append((2 * hit / (calls + positives), twentieth / 20, hit / positives, hit / calls))
    good_enough = max(scored)[0] - FLAT_DICE.get(network.card.task, 0.0)
    dice, threshold, recall, precision = [row for row in scored if row[0] >= good_enough][-1]
    scores = {"validation_dice": dice, "validation_recall": recall, "validation_precision": precision}
    for source in dict.fromkeys(sources):
        of_it = known & (np.array(sources) == source).reshape(-1, *(1,) * (known.ndim - 1))
        scores |= _score_of(source, predicted[of_it] >= threshold, labels[of_it])
    return threshold, {name: round(float(value), 4) for name, value in scores.items()}


def _score_of(source: str, called: np.ndarray, label: np.ndarray) -> dict[str, float]:
    positives, calls = np.count_nonzero(label), np.count_nonzero(called)
    if not positives:
        return {f"validation_called_{source}": calls / max(1, called.size)}
    return {f"validation_dice_{source}": 2 * np.count_nonzero(called & label) / (calls + positives)}
