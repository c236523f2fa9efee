"""Changes to training slices: small arrays, checked by their numbers."""

import numpy as np
import pytest

from covct.training import augment

SIZE = augment.SIZE


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.fixture
def chest():
    """Tissue with two square lungs at -850 HU."""
    hu = np.full((SIZE, SIZE), 40, np.float32)
    lungs = np.zeros((SIZE, SIZE), np.uint8)
    lungs[60:200, 40:110] = lungs[60:200, 146:216] = 1
    hu[lungs == 1] = -850
    return hu, lungs


def test_image_and_masks_move_together(chest, rng):
    hu, lungs = chest
    for _ in range(5):
        moved, mask = augment.affine((hu, lungs), ("hu", "mask"), rng)
        assert np.mean(moved[mask == 1] < -600) > 0.97
        assert set(np.unique(mask)) <= {0, 1}


def test_inserted_opacity_lies_in_the_lungs_and_is_denser(chest, rng):
    hu, lungs = chest
    for _ in range(5):
        changed, mask = augment.insert_opacity(hu, lungs, rng)
        assert not (changed != hu)[lungs == 0].any()
        assert (changed >= hu - 1e-3).all()
        assert 0 <= mask.min() <= mask.max() <= 1


def test_fill_air_brings_the_median_to_the_target(chest, rng):
    hu, lungs = chest
    changed = augment.fill_air(hu, (lungs == 1).astype(np.float32), -500, rng, texture=0.05)
    assert np.median(changed[lungs == 1]) == pytest.approx(-500, abs=15)


def test_a_lung_too_small_stays_as_it_is(chest, rng):
    hu, _ = chest
    changed, mask = augment.insert_opacity(hu, np.zeros_like(hu, np.uint8), rng)
    assert np.array_equal(changed, hu)
    assert not mask.any()


def test_a_lesion_that_is_taken_away_takes_its_label_along(chest, rng):
    hu, lungs = chest
    infection = np.zeros_like(lungs)
    infection[100:140, 50:90] = 1
    hu[infection == 1] = -400
    changed, label = augment.rescale_lesion(hu, lungs, infection, rng, remove=1.0)
    assert not label.any()
    assert np.median(changed[infection == 1]) < -800


def test_a_faint_lesion_is_never_declared_healthy(chest, rng):
    hu, lungs = chest
    infection = np.zeros_like(lungs)
    infection[100:140, 50:90] = 1
    hu[infection == 1] = -770
    for _ in range(20):
        _, label = augment.rescale_lesion(hu, lungs, infection, rng, remove=1.0)
        assert label.any()


def test_transplanted_lesion_stays_inside_the_host(chest, rng):
    hu, lungs = chest
    donor, infection = hu.copy(), np.zeros_like(lungs)
    infection[90:160, 50:100] = 1
    donor[infection == 1] = -300
    changed, mask = augment.transplant_lesion(hu, lungs, donor, lungs, infection, rng)
    assert mask.any()
    assert not mask[lungs == 0].any()
    assert np.array_equal(changed[lungs == 0], hu[lungs == 0])
    assert changed[mask > 0].mean() > -800


def test_the_same_seed_gives_the_same_slice(chest):
    hu, lungs = chest
    one, other = (augment.insert_opacity(hu, lungs, np.random.default_rng(9))[0] for _ in range(2))
    assert np.array_equal(one, other)
