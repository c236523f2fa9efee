"""Probabilities as halves: what NumPy makes of them, bit for bit."""

import numpy as np

from covct.voxels.half import to_half


def test_every_half_and_what_lies_between_two_is_rounded_as_numpy_rounds():
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)  # all from 0 up
    between = (halves[1:] + halves[:-1]) / 2  # ties go to the even one
    values = np.concatenate([halves, between, np.nextafter(between, 0), np.nextafter(between, 1e9)])
    values = np.append(values, np.float32([1e-30, 1e-45, 2.0**-25, 2.0**-26])).reshape(1, -1)
    assert (to_half(values).view(np.uint16) == values.astype(np.float16).view(np.uint16)).all()


def test_shape_and_values_given_stay_as_they_are():
    values = np.random.default_rng(0).random((2, 3, 4), np.float32) * 1e-4
    kept = values.copy()
    assert to_half(values).shape == (2, 3, 4)
    assert (values == kept).all()
