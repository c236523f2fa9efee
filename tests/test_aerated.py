"""Aerated lung that the network left out is called; gas, bowel and the outline that it drew stay as they are."""

import numpy as np
import pytest

from covct.pipeline.aerated import complete_aerated

SIZE = 64
LUNG = (slice(1, 9), slice(12, 52), slice(12, 40))
RECESS = (slice(9, 12), slice(40, 52), slice(12, 30))  # below the rest, hanging on to it


def body():
    """HU of lung and its recess in tissue, with room around it, outside air at the edge, and bowel beside it."""
    hu = np.full((12, SIZE, SIZE), 40.0)
    hu[:, :4] = -1000
    hu[LUNG] = hu[RECESS] = -850
    hu[4:10, 20:36, 46:58] = -800  # bowel: as dense as lung, with a wall of six pixels
    return hu


def called():
    probability = np.zeros((12, SIZE, SIZE), np.float32)
    probability[LUNG] = 0.9
    return probability


def test_the_recess_is_called_and_bowel_is_not():
    probability = called()
    complete_aerated(probability, body(), 0.5)
    added = probability > called()
    assert added[9:12, 41:51, 13:29].all()
    added[RECESS] = False
    assert not added.any()


def gas(hu):
    hu[RECESS] = -1000


def dense(hu):
    hu[RECESS] = -300


def narrow(hu):
    hu[RECESS] = 40
    hu[9:12, 40:52, 20:24] = -850


@pytest.mark.parametrize("change", [gas, dense, narrow])
def test_what_is_not_plainly_aerated_lung_stays_as_the_network_left_it(change):
    hu, probability = body(), called()
    change(hu)
    complete_aerated(probability, hu, 0.5)
    np.testing.assert_array_equal(probability, called())


@pytest.mark.parametrize("found", [0.0, 0.6])
def test_where_the_network_found_little_of_the_lung_nothing_is_made_up(found):
    probability = called()
    probability[:, :, 12 + int(28 * found) :] = 0
    before = probability.copy()
    complete_aerated(probability, body(), 0.5)
    np.testing.assert_array_equal(probability, before)
