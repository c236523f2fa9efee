"""Whether the interval that a report puts around the share of opacity holds the true share, patient by patient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Promise:
    """An interval of the share of opacity in the lungs, percent, and the share of patients it is to hold."""

    low: float
    high: float
    level: float

    def holds(self, percent: float) -> bool:
        return self.low <= percent <= self.high


def promise_of_report(report: dict[str, Any]) -> Promise | None:
    """As a report gives it for both lungs; None where it gives none."""
    interval = report["regions"]["lungs"]["infection_percent_interval"]
    if interval is None:
        return None
    low, high = interval
    return Promise(low, high, report["uncertainty"]["figures"]["infection_percent"]["level"])
