"""Model space and back."""

import numpy as np
import pytest

from covct.voxels.preprocess import (
    FieldOfView,
    body_field_of_view,
    clahe,
    from_model_space,
    hu_window,
    to_model_space,
    whole_slice,
)


def body(rows=200, columns=240, centre=(110, 100), half=(60, 80)):
    grid = np.mgrid[:rows, :columns]
    inside = ((grid[0] - centre[0]) / half[0]) ** 2 + ((grid[1] - centre[1]) / half[1]) ** 2 < 1
    hu = np.where(inside, 40, -1000).astype(np.int16)
    hu[190:192, 20:220] = 100  # a thin table
    return np.repeat(hu[None], 6, 0)


def test_the_body_is_found_and_the_table_is_not():
    view = body_field_of_view(body(), margin=1.0)
    assert (view.row, view.column) == pytest.approx((110, 100), abs=2)
    assert view.height == view.width == pytest.approx(160, abs=5)


def test_rectangular_pixels_give_a_square_in_millimetres():
    view = body_field_of_view(body(), pixel_spacing_mm=(2.0, 1.0), margin=1.0)
    assert view.height * 2.0 == pytest.approx(view.width * 1.0)


def test_no_body_is_the_whole_slice():
    empty = np.full((3, 50, 80), -1000)
    assert body_field_of_view(empty) == whole_slice((50, 80))


def test_there_and_back_again():
    hu = body()
    view = body_field_of_view(hu)
    seen = to_model_space(hu, view, 128)
    assert seen.shape == (6, 128, 128)
    mask = (seen[0] > -480).astype(np.float32)
    back = from_model_space(mask, view, hu.shape[1:]) >= 0.5
    truth = (hu[0] > -480) & (np.arange(200) < 180)[:, None]
    overlap = 2 * np.count_nonzero(back & truth) / (np.count_nonzero(back) + np.count_nonzero(truth))
    assert overlap > 0.985


def test_beyond_the_image_there_is_air():
    seen = to_model_space(np.zeros((1, 20, 20)), FieldOfView(9.5, 9.5, 40, 40), 40)
    assert seen[0, 0, 0] == -1000
    assert seen[0, 20, 20] == 0
    back = from_model_space(np.ones((40, 40), np.float32), FieldOfView(9.5, 9.5, 40, 40), (20, 20))
    assert back.shape == (20, 20)
    assert back.min() == 1


def test_a_mask_is_not_shifted_by_half_a_pixel():
    """A square in model space comes back around the same centre, whatever the factor."""
    view = FieldOfView(63.5, 63.5, 128, 128)
    mask = np.zeros((32, 32), np.float32)
    mask[12:20, 12:20] = 1
    rows, columns = np.nonzero(from_model_space(mask, view, (128, 128)) >= 0.5)
    assert (rows.mean(), columns.mean()) == pytest.approx((63.5, 63.5))


def test_window_and_clahe_stay_in_0_to_1():
    hu = np.linspace(-2000, 3000, 64 * 64).reshape(1, 64, 64)
    assert (hu_window(hu, -1000, 200).min(), hu_window(hu, -1000, 200).max()) == (0, 1)
    equalised = clahe(hu)
    assert equalised.shape == hu.shape
    assert 0 <= equalised.min() < equalised.max() <= 1


def test_clahe_is_the_publishers_recipe(shared):
    """Healthy lung of a scan in HU comes out with the mean and median that the published slices have."""
    from covct.data.published import read_lung_volumes

    means = []
    for hu, lungs, _ in read_lung_volumes(shared / "lctsc-256").values():
        pixels = clahe(hu[40:100]) * 255
        means.append(pixels[lungs[40:100] > 0].mean())
    assert np.mean(means) == pytest.approx(63, abs=6)
