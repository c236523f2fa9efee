"""What the lungs network is shown changed: dense lung inside the lungs, gas where no lung is."""

import numpy as np
import pytest

from covct.data.slices import UNKNOWN
from covct.training.samples.lung_changes import change_lungs, insert_gas
from covct.training.samples.presets import PRESETS, LungChanges

NOTHING = LungChanges(density=0, opacity=0, dependent=0)


def ellipse(row, column, height, width, side=256):
    down, across = np.mgrid[:side, :side]
    return ((down - row) / height) ** 2 + ((across - column) / width) ** 2 <= 1


@pytest.fixture
def chest():
    """HU and lung labels of a slice; a strip at its right is unknown."""
    body = ellipse(128, 128, 90, 120)
    labels = (ellipse(120, 80, 50, 30) | ellipse(120, 176, 50, 30)).astype(np.uint8)
    hu = np.where(body, 40, -1000).astype(np.float32)
    hu[labels == 1] = -850
    labels[:, 220:] = UNKNOWN
    return hu, labels


def drawn(chest, count=40):
    hu, labels = chest
    return [insert_gas(hu, labels, np.random.default_rng(seed)) for seed in range(count)]


def test_gas_lies_in_the_body_and_never_where_lung_is_or_nobody_knows(chest):
    hu, labels = chest
    for changed in drawn(chest):
        touched = np.abs(changed - hu) > 150  # the rim is blurred, as partial volume is
        assert not touched[labels == 1].any()
        assert not touched[labels == UNKNOWN].any()
        assert not touched[hu < -500].any(), "the air around the body stays"


def test_gas_is_gas_fluid_lies_below_it_and_stool_is_neither(chest):
    hu, _ = chest
    found = drawn(chest)
    assert sum((changed < -800).sum() > (hu < -800).sum() for changed in found) > 30
    with_level = [changed for changed in found if ((changed != hu) & (changed > -60) & (changed < 39)).sum() > 50]
    assert with_level, "fluid, in some"


def test_the_same_seed_puts_the_same_gas(chest):
    hu, labels = chest
    first, second = (insert_gas(hu, labels, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_slices_of_a_stack_get_the_same_pockets(chest):
    hu, labels = chest
    stack = insert_gas(np.stack([hu] * 3), np.stack([labels] * 3), np.random.default_rng(1))
    np.testing.assert_array_equal(stack[0], stack[1])
    assert (stack != hu).any()


def test_a_slice_without_room_stays_as_it_is(chest):
    hu, labels = chest
    np.testing.assert_array_equal(insert_gas(hu, np.full_like(labels, UNKNOWN), np.random.default_rng(0)), hu)


def test_lungs_become_denser_inside_only(chest):
    hu, labels = chest
    changed = change_lungs(LungChanges(0, 1, 1), hu, labels, np.random.default_rng(0), whole=True)
    assert changed[labels == 1].mean() > hu[labels == 1].mean() + 50
    outside = ellipse(128, 128, 88, 118) & (labels == 0)
    assert np.abs(changed - hu)[outside].mean() < 5


def test_no_gas_where_only_infection_was_marked(chest):
    hu, labels = chest
    chances = LungChanges(0, 0, 1, gas=1)
    np.testing.assert_array_equal(change_lungs(chances, hu, labels, np.random.default_rng(0), whole=False), hu)


def test_chances_of_nothing_change_nothing_and_presets_differ(chest):
    hu, labels = chest
    np.testing.assert_array_equal(change_lungs(NOTHING, hu, labels, np.random.default_rng(0), whole=True), hu)
    assert PRESETS["standard"].lungs == LungChanges() and PRESETS["none"].lungs is None
    assert PRESETS["clinical"].lungs.gas > 0
