"""Kinds of arrays by what they hold. Their shapes stand in the docstrings of what takes and returns them."""

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]  # float32 or float64
Mask = npt.NDArray[np.bool_]
LabelMap = npt.NDArray[np.uint8]  # 0 background
Hounsfield = npt.NDArray[np.int16]
