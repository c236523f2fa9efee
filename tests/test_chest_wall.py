"""Dense lung that touches the chest wall: what was called beyond the ribs is taken back, what lies inside stays."""

import numpy as np
import pytest

from covct.pipeline.chest_wall import remove_chest_wall

SIZE, SPACING = 160, (3.0, 2.0, 2.0)
ROWS, COLUMNS = np.mgrid[:SIZE, :SIZE]
FROM_MIDDLE = np.hypot(ROWS - 80, COLUMNS - 80)
BACK = (np.abs(COLUMNS - 80) < 16) & (ROWS > 80)


def chest(slices=9):
    """HU of a round chest: aerated lung with a consolidation behind, ribs that are closed over five slices, a skin."""
    hu = np.full((slices, SIZE, SIZE), -1000.0)
    hu[:, FROM_MIDDLE < 70] = 40
    hu[:, FROM_MIDDLE < 45] = -850
    hu[:, (FROM_MIDDLE < 45) & (ROWS > 105)] = 30
    angle = np.arctan2(ROWS - 80, COLUMNS - 80)
    for index in range(slices):  # a tenth of each rib lies in another slice
        gap = np.floor(angle / (2 * np.pi) * 20).astype(int) % 5 == index % 5
        hu[index, (FROM_MIDDLE >= 45) & (FROM_MIDDLE < 49) & ~gap] = 400
    return hu


def called(beyond):
    """A probability of lung: the whole inside of the ribs, and a leak into the muscle behind them."""
    leak = (FROM_MIDDLE >= 45) & (FROM_MIDDLE < 58) & BACK & beyond
    return np.repeat(((FROM_MIDDLE < 45) | leak)[None], 9, 0).astype(np.float32)


def test_muscle_behind_the_ribs_is_taken_back_and_consolidation_stays():
    probability = called(True)
    remove_chest_wall(probability, chest(), 0.5, SPACING)
    left = probability >= 0.5
    assert left[:, FROM_MIDDLE < 44].all(), "the consolidation is as dense as muscle"
    assert not left[:, (FROM_MIDDLE > 50) & (FROM_MIDDLE < 57) & BACK].any()


def test_without_a_leak_nothing_changes():
    probability = called(False)
    remove_chest_wall(probability, chest(), 0.5, SPACING)
    np.testing.assert_array_equal(probability, called(False))


def crop(hu):
    """The surroundings are unknown and look like tissue: there is no skin."""
    hu[:, FROM_MIDDLE >= 70] = 40


def no_air(hu):
    hu[:, FROM_MIDDLE < 45] = 30


def enhanced_vessels(hu):
    """Contrast in vessels that enclose a part of the consolidation, inside the ribs; called lung goes no further."""
    ring = np.hypot(ROWS - 118, COLUMNS - 80)
    hu[:, (ring >= 9) & (ring < 12)] = 300


def gone(hu):
    """Ribs that nobody sees, of a child or below metal."""
    hu[hu == 400] = 40


@pytest.mark.parametrize(("change", "beyond"), [(crop, True), (no_air, True), (gone, True), (enhanced_vessels, False)])
def test_where_one_cannot_tell_nothing_is_taken_back(change, beyond):
    hu, probability = chest(), called(beyond)
    change(hu)
    remove_chest_wall(probability, hu, 0.5, SPACING)
    np.testing.assert_array_equal(probability, called(beyond))


@pytest.mark.parametrize("sigma", [35, 50, 70])
def test_noise_makes_no_wall_through_a_consolidation(sigma):
    """In a slab of thin slices some pixel is bright nearly everywhere; and the skin is seen between two ribs."""
    hu = chest(19)
    hu[:, (FROM_MIDDLE >= 45) & (FROM_MIDDLE < 49) & (np.abs(COLUMNS - 80) < 8) & (ROWS > 80)] = 40
    hu[:, (FROM_MIDDLE < 45) & (ROWS > 80)] = 50
    hu += np.random.default_rng(0).normal(0, sigma, hu.shape)
    before = np.repeat((FROM_MIDDLE < 45)[None], 19, 0).astype(np.float32)
    probability = before.copy()
    remove_chest_wall(probability, hu, 0.5, (1.0, 1.4, 1.4))
    np.testing.assert_array_equal(probability, before)
