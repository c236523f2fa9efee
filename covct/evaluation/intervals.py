"""Whether the interval that a report puts around the infected share holds the true share, patient by patient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from covct.networks.network import Network
from covct.pipeline.uncertainty import Tally, calibration, percent_interval, sides_in_view, widths
from covct.voxels.preprocess import FieldOfView


@dataclass(frozen=True)
class Promise:
    """An interval of the infected share of the lungs, percent, and the share of patients whose truth it is to hold."""

    low: float
    high: float
    level: float

    def holds(self, percent: float) -> bool:
        return self.low <= percent <= self.high


def promise_of_report(report: dict[str, Any]) -> Promise | None:
    """As a report gives it for both lungs; None where the input does not allow any."""
    interval = report["regions"]["lungs"]["infection_percent_interval"]
    if interval is None:
        return None
    low, high = interval
    return Promise(low, high, report["uncertainty"]["calibration"]["infection"]["level"])


def counting(tally: Tally, lungs: np.ndarray, view: FieldOfView, size: int) -> Callable[..., None]:
    """The function that `probabilities` shows every look to, which counts it; both lungs count as one.

    lungs : (slices, rows, columns) bool
        As found.
    """

    def watch(indices: np.ndarray, looks: list[np.ndarray]) -> None:
        here = (lungs[index].astype(np.uint8) for index in indices.tolist())
        tally.add(looks, sides_in_view(here, view, size))

    return watch


def promise_of_tally(network: Network, tally: Tally, lungs: np.ndarray, infection: np.ndarray) -> Promise | None:
    """Of slices without a report: for the infected share of the lungs found, as a report would give it."""
    if not lungs.any():
        return None
    told = calibration(network.card, network.looks)
    percent = 100 * int(np.count_nonzero(infection)) / int(np.count_nonzero(lungs))
    low, high = percent_interval(percent, widths(tally), told.factor)
    return Promise(low, high, told.level)
