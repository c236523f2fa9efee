"""What infection masks tell of the lungs, on a drawn chest."""

import cv2
import numpy as np
import pytest

from covct.data.domains import TISSUE_HU
from covct.data.slices import UNKNOWN, Slices
from covct.training.samples.partial_lungs import lungs_of_infection, with_partial_lungs
from covct.training.settings import Settings

pytest.importorskip("keras")

from covct.training.samples.plans import plan_lungs  # noqa: E402
from covct.training.samples.reading import Reading  # noqa: E402

SIZE = 256


def ellipse(row, column, height, width) -> np.ndarray:
    rows, columns = np.ogrid[:SIZE, :SIZE]
    return ((rows - row) / height) ** 2 + ((columns - column) / width) ** 2 <= 1


RIGHT, LEFT, TRACHEA = ellipse(130, 80, 70, 35), ellipse(130, 176, 70, 35), ellipse(90, 128, 8, 8)
DENSE = RIGHT & (np.arange(SIZE)[:, None] > 160)
PADDING = 20


def cropped_slice() -> tuple[np.ndarray, np.ndarray]:
    """Two lungs, a trachea, dense lung at the back on the right; padded above and below, air in the slice's corners."""
    hu = np.full((SIZE, SIZE), 60, np.int16)
    hu[RIGHT | LEFT | TRACHEA] = -850
    hu[DENSE] = 50
    hu[PADDING:70, :50] = hu[PADDING:70, -50:] = -1000
    hu[:PADDING] = hu[-PADDING:] = TISSUE_HU
    return hu, DENSE.astype(np.uint8)


def test_dense_lung_that_was_marked_and_air_in_the_chest_are_lung():
    lungs = lungs_of_infection(*cropped_slice())
    assert (lungs[DENSE] == 1).all()
    assert (lungs[cv2.erode(LEFT.astype(np.uint8), np.ones((5, 5))) > 0] == 1).all()
    assert not (lungs == 1)[TRACHEA].any()


def test_what_lies_well_beyond_is_none_and_the_rest_is_unknown():
    lungs = lungs_of_infection(*cropped_slice())
    assert not lungs[:PADDING].any() and not lungs[:, :20].any()  # padding, and the air at the corners
    wide, narrow = (cv2.dilate(LEFT.astype(np.uint8), np.ones((side, side))) > 0 for side in (5, 3))
    assert (lungs[wide & ~narrow] == UNKNOWN).mean() > 0.98  # all but the corners of the squares
    assert not lungs[130, 128]  # between the lungs


def test_a_lung_as_large_as_its_slice_is_no_air_around_the_body():
    hu, infection = cropped_slice()
    touching = np.roll(hu, -int(np.flatnonzero((RIGHT | LEFT).any(0))[0]), axis=1)
    lungs = lungs_of_infection(touching, np.roll(infection, -45, axis=1))
    assert lungs[130, 0] == 1


def full_field() -> tuple[np.ndarray, np.ndarray]:
    """The same chest whole, in air, with a table below it and air between table and border."""
    hu = np.full((SIZE, SIZE), -1000, np.int16)
    hu[ellipse(130, 128, 90, 120)] = 60
    hu[RIGHT | LEFT | TRACHEA] = -850
    hu[DENSE] = 50
    hu[225:228] = 100
    return hu, DENSE.astype(np.uint8)


def test_air_beyond_the_body_is_no_lung_in_full_field():
    """Below the table it holds no corner where the table ends at the lower corners."""
    hu, infection = full_field()
    hu[-8:, :8] = hu[-8:, -8:] = 100
    lungs = lungs_of_infection(hu, infection, at_the_ribs=False)
    assert not lungs[228:].any()
    assert (lungs[cv2.erode(LEFT.astype(np.uint8), np.ones((5, 5))) > 0] == 1).all()
    assert (lungs_of_infection(hu, infection)[230:245] == 1).any(), "as it would be of a slice cropped at the ribs"


def test_small_parts_with_air_may_be_lung():
    hu, infection = cropped_slice()
    hu[ellipse(215, 128, 12, 12)] = -850
    assert (lungs_of_infection(hu, infection)[ellipse(215, 128, 9, 9)] == UNKNOWN).all()


def test_slices_without_any_mark_tell_nothing_and_are_left_out():
    hu, infection = cropped_slice()
    nothing = np.zeros_like(infection)
    assert (lungs_of_infection(hu, nothing) == UNKNOWN).all()
    unknown = np.full((2, SIZE, SIZE), UNKNOWN, np.uint8)
    images, marks, ends = np.stack([hu, hu]), np.stack([nothing, infection]), np.ones(2, bool)
    part = Slices(images, unknown, marks, ("a", "b"), "medseg", at_the_ribs=ends)
    assert with_partial_lungs(part).patients == ("b",)
    assert not len(with_partial_lungs(part.of(frozenset("a"))))


def test_healthy_lungs_in_full_field_are_lung_without_any_mark():
    """Who is in the infection's data must be in the lungs', too, lest each network holds out others."""
    hu, infection = full_field()
    lungs = lungs_of_infection(hu, np.zeros_like(infection), at_the_ribs=False)
    assert (lungs[cv2.erode(LEFT.astype(np.uint8), np.ones((5, 5))) > 0] == 1).all() and not (lungs == 1)[DENSE].any()
    part = Slices(hu[None], np.full((1, SIZE, SIZE), UNKNOWN, np.uint8), 0 * infection[None], ("a",), "medseg")
    assert with_partial_lungs(part).patients == ("a",)


def test_the_lungs_learn_from_them_what_is_known_alone(tmp_path):
    hu, infection = cropped_slice()
    for kind, image in (("Imgs", np.clip((hu + 1000) / 4.4, 0, 255)), ("GT", infection * 255)):
        (tmp_path / kind).mkdir()
        for name in ("0.jpg", "1.jpg", "2.jpg") if kind == "Imgs" else ("0.png", "1.png", "2.png"):
            cv2.imwrite(str(tmp_path / kind / name), np.rot90(image.astype(np.uint8)))
    plan = plan_lungs(Reading({"medseg": tmp_path}), Settings("lungs", 1, 8, augment="none"))
    x, truth = plan.draw(np.random.default_rng(0))
    label, known = truth[..., 0] == 1, truth[..., 1] == 1
    assert label.any() and known[label].all() and not known.all()
    assert x[..., 0][label].max() > 0.7  # dense lung
    assert plan.validation is not None and not plan.validation[1][..., 1].all()
