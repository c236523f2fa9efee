"""Slices that lie closer than anything changes: which of them are looked at, and what the others get."""

import numpy as np
import pytest

from covct.networks.network import Network
from covct.phantom.chest import make_phantom
from covct.pipeline import series
from covct.voxels.between import every, fill_between
from covct.voxels.volume import Scan
from support.thresholds import call_lungs, threshold_card


@pytest.mark.parametrize(
    ("slice_mm", "step"),
    [(0.5, 4), (0.625, 3), (1.0, 2), (0.9999, 2), (1.0001, 2), (1.25, 1), (2.0, 1), (5.0, 1), (float("nan"), 1)],
)
def test_slices_looked_at_are_two_millimetres_apart_at_most(slice_mm, step):
    chosen = every(30, slice_mm, 2.0)
    assert chosen[0] and chosen[-1]
    assert np.diff(np.flatnonzero(chosen)).max() == step


def test_a_single_slice_is_looked_at():
    assert every(1, 1.0, 2.0).tolist() == [True]


def test_between_two_slices_lies_what_lies_between_them():
    probability = np.zeros((7, 1, 2), np.float16)
    probability[0], probability[3], probability[6] = [[1, 0]], [[0.25, 0.75]], [[0.25, 0.75]]
    known = np.zeros(7, bool)
    known[[0, 3, 6]] = True
    fill_between(probability, known)
    np.testing.assert_allclose(probability[1:3, 0], [[0.75, 0.25], [0.5, 0.5]], atol=1e-3)
    np.testing.assert_allclose(probability[4:6, 0], [[0.25, 0.75]] * 2)


def test_lungs_of_thin_slices_cost_half_and_come_out_alike(monkeypatch):
    looked, scan = [], Scan(make_phantom(300, 128, 128, lesions="none").volume)

    def predict(slices):
        looked.append(len(slices))
        return call_lungs(slices)

    network = Network(threshold_card("lungs"), predict)
    found = []
    for apart in (0.001, 2.0):
        monkeypatch.setattr(series, "LUNGS_APART_MM", apart)
        looked.clear()
        labels = series._find_lungs(network, scan).labels
        masks = np.stack([np.asarray(one) > 0 for one in labels.lungs])
        found.append((sum(looked), masks))
    (all_slices, whole), (some, half) = found
    assert all_slices == len(whole) and some == len(whole) // 2 + 1
    both = int((whole & half).sum())
    assert 2 * both / int(whole.sum() + half.sum()) > 0.97  # a threshold takes each voxel of noise by itself
