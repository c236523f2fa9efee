"""Image Orientation (Patient) as headers round it, and as it is meant."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def snapped(cosines: Sequence[float]) -> list[float]:
    """Orthogonal unit vectors within rounding of the header's; 1e-6 noise is no orientation of its own."""
    row, column = np.array(cosines[:3], float), np.array(cosines[3:], float)
    row /= np.linalg.norm(row)
    column -= (column @ row) * row
    column /= np.linalg.norm(column)
    both = np.concatenate([row, column])
    nearest = np.rint(both)
    return [float(v) for v in (nearest if np.abs(both - nearest).max() < 1e-4 else np.round(both, 10))]
