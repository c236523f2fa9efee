from datetime import UTC, datetime

import cv2
import numpy as np
import pytest

from covct.results.writers import _caption
from covct.voxels.fields_of_view import lung_field_of_view
from covct.voxels.overlay import (
    BACKGROUND,
    INFECTION_RGB,
    LEFT_LUNG_RGB,
    LUNG_WINDOW_HU,
    NOTICE,
    RIGHT_LUNG_RGB,
    WIDTH,
    choose_slices,
    draw_slice,
    montage,
    write_overlay,
)
from covct.voxels.preprocess import FieldOfView

SPACING = (2.0, 2.0)


@pytest.fixture
def chest():
    """30 slices of 64 x 64: lungs in slices 5 to 24, boxes at the left (right lung) and right of the image."""
    hu = np.full((30, 64, 64), 40, np.int16)
    lungs = np.zeros(hu.shape, np.uint8)
    lungs[5:25, 20:44, 10:28] = 1
    lungs[5:25, 20:44, 36:54] = 2
    hu[lungs > 0] = -850
    infection = np.zeros(hu.shape, bool)
    infection[14, 28:36, 40:50] = True  # left lung
    hu[infection] = -500
    return hu, lungs, infection


def whole(side: int) -> FieldOfView:
    return FieldOfView((side - 1) / 2, (side - 1) / 2, side, side)


def has_colour(image: np.ndarray, colour) -> np.ndarray:
    return (image == np.array(colour, np.uint8)).all(axis=-1)


def near_colour(image: np.ndarray, colour, tolerance: int = 28) -> np.ndarray:
    """Anti-aliasing blends a line a little with what lies under it."""
    return (abs(image.astype(int) - colour) <= tolerance).all(axis=-1)


def test_outlines_have_the_lungs_colours_on_the_patients_sides(chest):
    hu, lungs, infection = (volume[14] for volume in chest)
    image = draw_slice(hu, lungs, infection, whole(64), 256)
    right, left = near_colour(image, RIGHT_LUNG_RGB), near_colour(image, LEFT_LUNG_RGB)
    # The patient's right is on the image's left; 4 pixels of the tile to one of the slice, outline just outside.
    assert np.flatnonzero(right[128]).tolist() == [38, 39, 112, 113]
    assert np.flatnonzero(left[90]).tolist() == [142, 143, 216, 217]
    assert not right[:, 128:].any() and not left[:, :128].any()


def test_outlines_leave_the_lung_itself_untouched(chest):
    hu, lungs, infection = (volume[10] for volume in chest)
    image = draw_slice(hu, lungs, infection, whole(64), 256)
    low, high = LUNG_WINDOW_HU
    lung_grey = int((-850 - low) * 255 / (high - low))
    assert image[128, 76].tolist() == [lung_grey] * 3
    assert image[100, 180].tolist() == [lung_grey] * 3


def test_infection_is_translucent_with_an_outline(chest):
    hu, lungs, infection = (volume[14] for volume in chest)
    image = draw_slice(hu, lungs, infection, whole(64), 256)
    red, green, blue = image[128, 180].astype(int)
    assert red > green + 40 and red > blue + 30
    assert near_colour(image, INFECTION_RGB, 60)[116:140, 160].all()  # its left edge, column 40
    denser = hu.copy()
    denser[infection > 0] = 0
    assert draw_slice(denser, lungs, infection, whole(64), 256)[128, 180].sum() > image[128, 180].sum()


def test_no_infection_leaves_no_red(chest):
    hu, lungs, infection = (volume[10] for volume in chest)
    image = draw_slice(hu, lungs, infection, whole(64), 256)
    assert not near_colour(image, INFECTION_RGB, 60).any()


def test_window_is_black_below_and_white_above():
    hu = np.full((64, 64), -1400, np.int16)
    hu[32:] = 400
    nothing = np.zeros(hu.shape, np.uint8)
    image = draw_slice(hu, nothing, nothing, whole(64), 128)
    assert image[10, 64].tolist() == [0, 0, 0]
    assert image[118, 64].tolist() == [255, 255, 255]


def test_slices_are_spread_over_the_lungs_and_the_infected_one_is_among_them(chest):
    _, lungs, infection = chest
    chosen = choose_slices(lungs, infection, 4)
    assert chosen == [7, 14, 17, 22]  # of 5-9, 10-14, 15-19, 20-24: the middle, but for 14


def test_most_infected_slice_of_a_stretch_is_preferred():
    lungs = np.ones((24, 8, 8), np.uint8)
    infection = np.zeros(lungs.shape, bool)
    infection[6, 0, :3] = infection[7, 0, :5] = True
    assert choose_slices(lungs, infection, 3)[0] == 7


def test_few_slices_are_all_shown():
    lungs = np.zeros((5, 8, 8), np.uint8)
    lungs[2] = 1
    assert choose_slices(lungs, lungs > 1, 12) == [0, 1, 2, 3, 4]


def test_short_lungs_in_a_long_scan_are_shown_slice_by_slice():
    lungs = np.zeros((40, 8, 8), np.uint8)
    lungs[20:23] = 1
    assert choose_slices(lungs, lungs > 1, 12) == [20, 21, 22]


def test_absent_lungs_still_give_a_picture(chest):
    hu, lungs, infection = chest
    nothing = np.zeros_like(lungs)
    assert choose_slices(nothing, infection & False, 3) == [4, 14, 24]
    assert montage(hu, nothing, infection & False, SPACING, ["no lungs"]).shape[1] == WIDTH


def test_field_of_view_is_square_in_millimetres_and_holds_the_lungs(chest):
    _, lungs, _ = chest
    view = lung_field_of_view(lungs, (2.0, 1.0))
    assert view.height * 2.0 == pytest.approx(view.width * 1.0)
    assert (view.row, view.column) == (31.5, 31.5)
    assert view.height * 2.0 == pytest.approx(24 * 2.0 + 28)  # the taller extent and the margin on both sides


def test_pixels_that_are_not_square_are_drawn_in_proportion():
    """A disc of 60 mm stays one, whatever the spacing of the rows."""
    row_mm, column_mm = np.mgrid[0:64, 0:128] * np.array([2.0, 1.0])[:, None, None]
    disc = ((row_mm - 63) ** 2 + (column_mm - 63) ** 2 < 30**2).astype(np.uint8)
    view = lung_field_of_view(disc[None], (2.0, 1.0))
    image = draw_slice(np.full(disc.shape, -850), disc, np.zeros(disc.shape, bool), view, 300)
    outline = near_colour(image, RIGHT_LUNG_RGB, 60)
    height, width = (np.ptp(np.flatnonzero(outline.any(axis=axis))) for axis in (1, 0))
    assert height == pytest.approx(width, abs=8)  # a pixel row is 7 pixels of the tile


def test_montage_is_of_one_width_whatever_it_shows(chest):
    hu, lungs, infection = chest
    heights = []
    for tiles in (1, 2, 3, 12):
        image = montage(hu, lungs, infection, SPACING, ["one line", "another"], tiles)
        assert image.dtype == np.uint8 and image.shape[1:] == (WIDTH, 3)
        heights.append(len(image))
    assert heights[2] < heights[0] <= heights[1] < heights[3]


def test_research_use_is_burnt_in_at_the_bottom(chest):
    image = montage(*chest, pixel_spacing_mm=SPACING, caption_lines=[])
    footer = image[-64:]
    assert has_colour(footer[:, WIDTH // 2 :], NOTICE).any()
    assert not has_colour(image[:-64], NOTICE).any()
    for colour in (RIGHT_LUNG_RGB, LEFT_LUNG_RGB, INFECTION_RGB):
        assert has_colour(footer[:, : WIDTH // 2], colour).any()  # the legend


def test_captions_are_drawn_and_cut_to_the_width(chest):
    bare = montage(*chest, pixel_spacing_mm=SPACING, caption_lines=[])
    image = montage(*chest, pixel_spacing_mm=SPACING, caption_lines=["lungs 12.3 % infected " * 30])
    top = len(image) - len(bare)
    header = ~has_colour(image[:top], BACKGROUND)
    assert header.any()
    assert not header[:, -8:].any()


def test_inputs_are_not_drawn_upon(chest):
    before = [volume.copy() for volume in chest]
    montage(*chest, pixel_spacing_mm=SPACING, caption_lines=["x"])
    assert all((old == new).all() for old, new in zip(before, chest, strict=True))


def test_file_is_a_png_of_the_montage_and_carries_no_text(chest, tmp_path):
    path = tmp_path / "overlay.png"
    write_overlay(path, *chest, pixel_spacing_mm=SPACING, caption_lines=["lungs 1 % infected"])
    written = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    assert (written == montage(*chest, pixel_spacing_mm=SPACING, caption_lines=["lungs 1 % infected"])).all()
    contents = path.read_bytes()
    assert contents.startswith(b"\x89PNG")
    assert not any(chunk in contents for chunk in (b"tEXt", b"iTXt", b"eXIf"))


def test_consolidation_is_hatched_and_ground_glass_is_not(chest):
    """Told apart without telling colours apart; the legend says so, unless figures by HU are denied."""
    hu, lungs, infection = chest
    glass = montage(hu, lungs, infection, SPACING, [])
    assert (glass[:-64] == montage(hu, lungs, infection, SPACING, [], bands=False)[:-64]).all()
    hu[infection] = 0
    dense, plain = (montage(hu, lungs, infection, SPACING, [], bands=bands) for bands in (True, False))
    lines = (dense != plain).any(axis=2)[:-64]
    assert lines.sum() > 300 and has_colour(dense[:-64][lines], INFECTION_RGB).all()
    assert (dense[-64:] != plain[-64:]).any(), "the legend"


def test_noise_makes_no_hatching_of_its_own(chest):
    hu, lungs, infection = chest
    hu[infection] = np.random.default_rng(0).choice([-700, -399], infection.sum(), p=(0.8, 0.2))
    montages = [montage(hu, lungs, infection, SPACING, [], bands=bands)[:-64] for bands in (True, False)]
    assert (montages[0] != montages[1]).any(axis=2).mean() < 0.001


def test_a_caption_says_what_its_interval_is_worth_and_when_it_was_computed():
    side = {"infection_percent": 12.34, "infection_percent_interval": None}
    regions = {"lungs": {**side, "infection_percent_interval": [9.87, 21.0]}, "right_lung": side, "left_lung": side}
    figures = {"infection_percent": {"level": 0.95}}
    report = {"regions": regions, "uncertainty": {"figures": figures}, "warnings": [{"slug": "partial-lungs"}]}
    first, second = _caption(report, datetime(2026, 5, 4, 22, 15, tzinfo=UTC))
    assert first.startswith("lungs 12 % opacity (10 to 21, level 95 %)   right 12.3 % opacity")
    assert second == "computed 2026-05-04 22:15   warnings: partial-lungs"
