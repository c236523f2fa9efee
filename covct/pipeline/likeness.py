"""What a scan looks like to the infection network, by its own features (`networks.features`): like anything that it
learned? And, where a folder has heads for that, like pictures of COVID-19 (`networks.diagnosis`)?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from covct.intake.gate_rules import Finding
from covct.networks.diagnosis import NOTICE, Diagnosis
from covct.networks.features import Learned

OUT_OF_DISTRIBUTION = "out-of-distribution"
FEWEST_SLICES = 10  # looked at: a slice or two of any scan may look odd, the middle one of ten does not


@dataclass
class Likeness:
    """What the infection network makes of a scan's slices, as they are looked at.

    Attributes
    ----------
    learned : Learned or None
        None: nothing is said.
    """

    learned: Learned | None
    _features: list[np.ndarray] = field(default_factory=list)

    def notice(self, features: np.ndarray) -> None:
        """Count some slices. features (slices, features)."""
        self._features.append(features)

    @property
    def features(self) -> np.ndarray | None:
        """Of all slices that were looked at, (slices, features); None of none."""
        return np.concatenate(self._features) if self._features else None

    @property
    def apart(self) -> float | None:
        """The median of the slices' distances, where 1 is the limit. None where nothing was learned, or too few."""
        if not self.learned or sum(map(len, self._features)) < FEWEST_SLICES:
            return None
        return float(np.median(self.learned.distances(np.concatenate(self._features)))) / self.learned.limit


def unlike(apart: float | None) -> list[Finding]:
    """The warning of a scan beyond the limit."""
    if apart is None or apart <= 1:
        return []
    message = (
        f"the scan looks like nothing that the infection network learned ({apart:.1f} times as far as is allowed): "
        "its noise, kernel, contrast or patient is unusual; its figures have no interval"
    )
    return [Finding(OUT_OF_DISTRIBUTION, message)]


def suspicion_of(diagnosis: Diagnosis | None, likeness: Likeness) -> dict[str, Any] | None:
    """None without heads, and of a scan that looks like nothing that was learned or of which that cannot be told."""
    features, apart = likeness.features, likeness.apart
    if diagnosis is None or features is None or apart is None or apart > 1:
        return None
    covid, interval = diagnosis.of(features)
    card = diagnosis.card
    return {
        "notice": NOTICE,
        "covid": round(covid, 3),
        "interval": [round(end, 3) for end in interval],
        "level": card.level,
        "auc": card.scores["auc_whole"],
        "auc_borders": card.scores["auc_borders"],
        "sha256": diagnosis.sha256,
        "limits": card.limits,
    }
