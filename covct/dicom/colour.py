"""Colours as DICOM recommends them for display: CIELab under D50."""

from __future__ import annotations

import numpy as np

# Linear sRGB to XYZ under D50, the white of the profile connection space that PS3.3 C.10.7.1.1 means: sRGB's own matrix
# adapted from D65 (Bradford), as IEC 61966-2-1 profiles have it. highdicom's conversion stays at D65.
XYZ_OF_SRGB = np.array(
    [
        [0.4360747, 0.3850649, 0.1430804],
        [0.2225045, 0.7168786, 0.0606169],
        [0.0139322, 0.0971045, 0.7141733],
    ]
)
D50 = np.array([0.96422, 1.0, 0.82521])


def cielab(rgb: tuple[int, int, int]) -> tuple[float, float, float]:
    """L* (0 to 100), a* and b* of an sRGB colour (each 0 to 255)."""
    encoded = np.array(rgb) / 255
    linear = np.where(encoded > 0.04045, ((encoded + 0.055) / 1.055) ** 2.4, encoded / 12.92)
    relative = XYZ_OF_SRGB @ linear / D50
    x, y, z = np.where(relative > (6 / 29) ** 3, np.cbrt(relative), relative * (29 / 6) ** 2 / 3 + 4 / 29).tolist()
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)
