"""How a slice may look: as a scanner made it, or as a publisher's 8-bit CLAHE made it. So that a look tells no label.

The infection truth of Ma et al. lies on CLAHE slices. Restored to HU (`restoration`) their ground glass comes back
fainter than it was, and a network trained on them alone misses it; taken as they are, they teach that disease has the
look of CLAHE. So every source is shown in both looks, and a network learns both: CLAHE grey is read linearly as HU of
the networks' window, and HU slices go through the publisher's recipe by chance, with and without lesions.
"""

from __future__ import annotations

import numpy as np

from covct.data.domains import hu_of_window
from covct.data.model_space import recipe_pixels

WINDOW = {"low": -1000, "high": 200}  # of the networks, HU


def as_hounsfield(pixels: np.ndarray) -> np.ndarray:
    """8-bit grey read linearly as the window's HU: what `hu-window` makes of it is grey / 255.

    pixels (slices, rows, columns) uint8 -> (slices, rows, columns) int16 HU. No restoration: CLAHE's look stays.
    """
    seen: np.ndarray = np.rint(hu_of_window(pixels, (WINDOW["low"], WINDOW["high"]))).astype(np.int16)
    return seen


def equalised(hu: np.ndarray) -> np.ndarray:
    """HU in the look of the published slices: (rows, columns) or a stack of them -> float32 HU of the window."""
    return as_hounsfield(recipe_pixels(hu.reshape(-1, *hu.shape[-2:]))).reshape(hu.shape).astype(np.float32)
