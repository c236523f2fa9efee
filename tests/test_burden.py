"""Volumes, percent, bands, thirds, lesions, severity: on arrays that can be checked by eye."""

import highdicom as hd
import numpy as np
import pytest

from covct.pipeline.burden import find_lesions, measure_burden, severity

MM3 = 1000.0  # a voxel of one millilitre


def chest():
    """Six slices: right lung 4 columns, left lung 2 columns, each 5 rows."""
    lungs = np.zeros((6, 5, 10), np.uint8)
    lungs[:, :, 0:4], lungs[:, :, 6:8] = 1, 2
    infection = np.zeros(lungs.shape, bool)
    hu = np.full(lungs.shape, -850, np.int16)
    return hu, lungs, infection


def test_clean_lung_is_zero_percent():
    regions = measure_burden(*chest(), voxel_volume_mm3=MM3)
    assert regions["lungs"].infection_percent == 0.0
    assert regions["lungs"].volume_ml == 180.0
    assert regions["right_lung"].volume_ml == 120.0
    assert regions["lungs"].infection_mean_hu is None


def test_absent_lung_has_no_percentage_rather_than_zero():
    hu, lungs, infection = chest()
    lungs[lungs == 2] = 0
    regions = measure_burden(hu, lungs, infection, MM3)
    assert regions["left_lung"].infection_percent is None
    assert regions["left_lung"].volume_ml == 0.0
    assert regions["left_lung"].thirds["upper"].infection_percent is None


def test_ground_glass_and_consolidation_by_hu():
    hu, lungs, infection = chest()
    infection[0, 0, 0:3] = True
    hu[0, 0, 0], hu[0, 0, 1], hu[0, 0, 2] = -600, -100, -800
    region = measure_burden(hu, lungs, infection, MM3)["right_lung"]
    assert (region.infection_ml, region.ground_glass_ml, region.consolidation_ml) == (3.0, 1.0, 1.0)
    assert region.infection_mean_hu == pytest.approx(-500)
    assert region.infection_percent == pytest.approx(2.5)


def test_what_lies_in_no_band_is_said_and_all_of_it_is_the_infection():
    """Both ends of each band: the lower one belongs to it, the upper one to the next."""
    hu, lungs, infection = chest()
    infection[0, 0, 0:4], infection[0, 1, 0:4] = True, True
    hu[0, 0, 0:4], hu[0, 1, 0:4] = (-1024, -751, -750, -401), (-400, 99, 100, 3071)
    for region in ("right_lung", "lungs"):
        burden = measure_burden(hu, lungs, infection, MM3)[region]
        parts = (burden.below_bands_ml, burden.ground_glass_ml, burden.consolidation_ml, burden.above_bands_ml)
        assert (parts, burden.infection_ml) == ((2.0, 2.0, 2.0, 2.0), 8.0)


def test_mass_is_that_of_water_and_air_between_them():
    """-1000 HU weighs nothing, and no less than nothing below; 0 HU 1 g/mL; a voxel has 2 mL."""
    hu, lungs, infection = chest()
    infection[0, 0, 0:4], infection[0, 0, 6] = True, True
    hu[0, 0, 0:4], hu[0, 0, 6] = (-1000, -1024, 0, 100), -500
    regions = measure_burden(hu, lungs, infection, 2000.0)
    masses = [regions[name].infection_mass_g for name in ("right_lung", "left_lung", "lungs")]
    assert masses == pytest.approx([2 * (1 + 1.1), 2 * 0.5, 2 * 2.6])


def test_mean_of_a_lung_is_of_all_its_voxels_and_of_no_other():
    hu, lungs, infection = chest()
    hu[lungs == 2], hu[lungs == 0] = -700, 1000
    infection[0, 0, 0] = True
    hu[0, 0, 0] = 350  # one of the right lung's 120 voxels, 1200 HU above the others
    regions = measure_burden(hu, lungs, infection, MM3)
    assert [regions[name].mean_hu for name in ("right_lung", "left_lung", "lungs")] == [-840, -700, -2380 / 3]
    lungs[lungs == 2] = 0
    assert measure_burden(hu, lungs, infection, MM3)["left_lung"].mean_hu is None


def test_infection_outside_the_lungs_cannot_make_more_than_100_percent():
    hu, lungs, infection = chest()
    infection[:] = True
    regions = measure_burden(hu, lungs, infection, MM3)
    assert regions["lungs"].infection_percent == 100.0


def test_upper_third_is_towards_the_head():
    hu, lungs, infection = chest()
    infection[0:2, :, 0:4] = True
    thirds = measure_burden(hu, lungs, infection, MM3)["right_lung"].thirds
    assert [thirds[name].infection_percent for name in ("upper", "middle", "lower")] == [100.0, 0.0, 0.0]
    assert sum(third.volume_ml for third in thirds.values()) == 120.0


def test_thirds_of_right_and_left_add_up_to_those_of_both():
    """The right lung reaches from slice 0, the left one ends before it: the same slices divide both."""
    hu, lungs, infection = chest()
    lungs[0:2][lungs[0:2] == 2] = 0
    lungs[5][lungs[5] == 1] = 0
    infection[3] = True
    regions = measure_burden(hu, lungs, infection, MM3)
    for name, both in regions["lungs"].thirds.items():
        right, left = (regions[side].thirds[name] for side in ("right_lung", "left_lung"))
        assert (right.first, right.end) == (left.first, left.end) == (both.first, both.end)
        assert right.volume_ml + left.volume_ml == both.volume_ml
        assert right.infection_ml + left.infection_ml == both.infection_ml
    assert [third.first for third in regions["lungs"].thirds.values()] == [0, 2, 4]
    assert regions["left_lung"].thirds["upper"].infection_percent is None, "of the left lung nothing lies so high"


def test_lesions_largest_first_with_side_and_centroid_in_lps():
    _, lungs, infection = chest()
    infection[1:3, 1:3, 1:3] = True  # 8 voxels, right
    infection[4, 4, 7] = True  # 1 voxel, left
    affine = np.array([[0, 0, 2.0, -10], [0, 2.0, 0, -20], [-5.0, 0, 0, 100], [0, 0, 0, 1]])
    geometry = hd.Volume(infection.astype(np.uint8), affine, "PATIENT")
    count, [first, second] = find_lesions(infection, lungs, geometry.affine)
    assert count == 2
    assert (first.side, second.side) == ("right_lung", "left_lung")
    assert first.volume_ml == pytest.approx(8 * 0.02)
    assert first.centroid_lps_mm == pytest.approx((-10 + 2 * 1.5, -20 + 2 * 1.5, 100 - 5 * 1.5))


def test_only_ten_lesions_are_listed_but_all_are_counted():
    lungs = np.ones((3, 30, 30), np.uint8)
    infection = np.zeros(lungs.shape, bool)
    infection[1, ::5, ::5] = True
    count, listed = find_lesions(infection, lungs, np.eye(4))
    assert (count, len(listed)) == (36, 10)


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1), (4.99, 1), (5, 2), (24.9, 2), (25, 3), (50, 4), (75, 5), (100, 5), (None, None)]
)
def test_severity_class_at_its_edges(percent, expected):
    assert severity(percent)[0] == expected


def test_nothing_found_is_said_in_words_and_is_still_class_1():
    assert severity(0.0) == (1, "no opacity found")
    assert severity(0.004) == (1, "below 5 %")
