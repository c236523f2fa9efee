"""Does a scan look like anything that the infection network learned? By its own features, see `networks.features`."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from covct.intake.gate_rules import Finding
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
