"""Two lungs from one mask, holes, specks, and the way back to the source grid."""

import numpy as np
import pytest

from covct.pipeline.postprocess import (
    mark_infection,
    remove_enclosed_air,
    remove_outside_air,
    separate_lungs,
    to_source_lungs,
    unmark_specks,
)
from covct.voxels.labels import Labels
from covct.voxels.preprocess import FieldOfView

SPACING = (3.0, 1.5, 1.5)


def two_lungs(bridge=0, slices=12):
    """Two ellipses, the patient's right on the left of the image; a bridge of so many rows joins them."""
    rows, columns = np.mgrid[:96, :128]
    right = ((rows - 48) / 34) ** 2 + ((columns - 36) / 22) ** 2 < 1
    left = ((rows - 48) / 34) ** 2 + ((columns - 92) / 20) ** 2 < 1
    mask = right | left
    if bridge:
        mask |= (abs(rows - 20) <= bridge / 2) & (columns > 30) & (columns < 96)
    return np.repeat(mask[None], slices, 0), right, left


def packed_labels(array):
    packed = Labels(array.shape)
    for index, one in enumerate(array):
        packed[index] = one
    return packed


def test_right_lung_is_on_the_images_left():
    mask, right, left = two_lungs()
    labels = separate_lungs(mask.astype(float), 0.5, SPACING)
    assert np.array_equal(labels[5] == 1, right)
    assert np.array_equal(labels[5] == 2, left)


@pytest.mark.parametrize("bridge", [1, 4, 8])
def test_lungs_that_touch_at_the_anterior_junction_are_told_apart(bridge):
    mask, right, left = two_lungs(bridge)
    labels = separate_lungs(mask.astype(float), 0.5, SPACING)
    assert np.mean(labels[5][right] == 1) > 0.98
    assert np.mean(labels[5][left] == 2) > 0.98
    assert np.array_equal(labels > 0, mask)


def test_a_single_slice_with_touching_lungs():
    mask, right, left = two_lungs(3, slices=1)
    labels = separate_lungs(mask.astype(float), 0.5, SPACING)
    assert np.mean(labels[0][right] == 1) > 0.98
    assert np.mean(labels[0][left] == 2) > 0.98


def test_one_lung_keeps_its_side():
    """After a pneumonectomy the other side is empty, not half of the lung that is left."""
    _, right, left = two_lungs()
    for lung, label in ((right, 1), (left, 2)):
        labels = separate_lungs(np.repeat(lung[None].astype(float), 8, 0), 0.5, SPACING)
        assert set(np.unique(labels)) == {0, label}


def test_vessel_inside_a_lung_belongs_to_it():
    mask, right, _ = two_lungs()
    mask[:, 40:46, 34:40] = False
    labels = separate_lungs(mask.astype(float), 0.5, SPACING)
    assert np.array_equal(labels[5] == 1, right)


def test_bowel_gas_is_no_lung():
    mask, _, _ = two_lungs()
    mask[-2:, 2:6, 60:64] = True
    labels = separate_lungs(mask.astype(float), 0.5, SPACING)
    assert not labels[:, 2:6, 60:64].any()


def test_air_outside_the_body_is_no_lung():
    hu = np.full((1, 60, 60), -1000.0)
    hu[:, 10:50, 10:50] = 40
    hu[:, 20:40, 15:45] = -850
    called = np.zeros(hu.shape, np.float32)
    called[:, 20:40, 15:45] = 1
    called[:, 2:8, 20:30] = 1
    remove_outside_air(called, hu, 0.5)
    assert called[0, 20:40, 15:45].all()
    assert not called[0, :10].any()


def test_lung_that_reaches_the_edge_of_the_field_of_view_is_kept():
    hu = np.full((1, 40, 40), 40.0)
    hu[:, 10:30, 20:] = -850
    called = (hu < -400).astype(np.float32)
    kept = called.copy()
    remove_outside_air(kept, hu, 0.5)
    assert np.array_equal(kept, called)


def test_stomach_and_trachea_are_no_lung_and_a_bulla_is():
    hu = np.full((4, 120, 120), 40.0)
    hu[:, 20:100, 10:60] = -850  # a lung
    hu[:, 40:55, 20:35] = -990  # with a bulla
    hu[:, 30:50, 80:100] = -1000  # the stomach's gas, called lung too
    called = (hu < -400).astype(np.float32)
    remove_enclosed_air(called, hu, 0.5)
    assert called[:, 20:100, 10:60].all()
    assert not called[:, :, 70:].any()


def test_lungs_dark_with_emphysema_are_kept_whole():
    hu = np.full((4, 60, 60), 40.0)
    hu[:, 10:50, 10:50] = -950
    called = (hu < -400).astype(np.float32)
    kept = called.copy()
    remove_enclosed_air(kept, hu, 0.5)
    assert np.array_equal(kept, called)


def test_no_lung_at_all():
    assert not separate_lungs(np.zeros((4, 32, 32)), 0.5, SPACING).any()


def test_back_on_the_source_grid_sides_and_area_hold():
    mask, _, _ = two_lungs(3)
    labels = separate_lungs(mask.astype(float), 0.5, SPACING)
    view = FieldOfView(row=120.0, column=150.0, height=288.0, width=384.0)
    # the field of view is three times the model grid and reaches beyond the image
    source = np.asarray(to_source_lungs(labels, mask.astype(np.float16), 0.5, view, (240, 300)).lungs)
    assert source.shape == (12, 240, 300)
    for side in (1, 2):
        visible = np.count_nonzero(source[5] == side) / 9
        assert visible == pytest.approx(np.count_nonzero(labels[5] == side), rel=0.08)
    assert np.argwhere(source[5] == 1)[:, 1].mean() < np.argwhere(source[5] == 2)[:, 1].mean()


def test_infection_outside_the_lungs_is_not_counted():
    mask, right, _ = two_lungs()
    labels = separate_lungs(mask.astype(float), 0.5, SPACING)
    view = FieldOfView(47.5, 63.5, 96.0, 128.0)
    packed = packed_labels(labels)
    mark_infection(packed, np.ones((12, 96, 128), np.float16), 0.5, view)
    infection = np.asarray(packed.infection)
    assert np.array_equal(packed.lungs, labels), "the lungs stay"
    assert np.array_equal(infection, labels > 0)
    assert not infection[5][~mask[5]].any()
    assert infection[5][right].all()


def test_specks_below_a_tenth_of_a_millilitre_are_dropped():
    infection = np.zeros((10, 40, 40), bool)
    infection[4:6, 5:8, 5:8] = True  # 18 voxels of 6.75 mm3: 121 mm3
    infection[2, 20:22, 20:22] = True  # 27 mm3
    packed = packed_labels(np.where(infection, 5, 0).astype(np.uint8))
    unmark_specks(packed, SPACING)
    kept = np.asarray(packed.infection)
    assert kept[4:6, 5:8, 5:8].all()
    assert not kept[2].any()
