"""Scanner noise, blur and sharpening by chance."""

from __future__ import annotations

import cv2
import numpy as np


def noise(hu: np.ndarray, rng: np.random.Generator, strongest: float = 70.0) -> np.ndarray:
    """Correlated scanner noise, blur or sharpening by chance: every source gets the same mixture."""
    if rng.random() < 0.25:
        hu = cv2.GaussianBlur(hu, (0, 0), rng.uniform(0.4, 1.1))
    elif rng.random() < 0.4:
        hu = hu + rng.uniform(0.3, 1.2) * (hu - cv2.GaussianBlur(hu, (0, 0), 1.0))
    if rng.random() < 0.7:
        grain = rng.standard_normal(hu.shape, dtype=np.float32)
        correlation = rng.uniform(0, 1.2)
        if correlation > 0.3:
            grain = cv2.GaussianBlur(grain, (0, 0), correlation)
            grain /= grain.std()
        hu = hu + grain * np.float32(strongest * rng.random() ** 2)
    return hu
