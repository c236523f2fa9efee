"""False calls by anatomy: shapes whose place is known, seen by the rules of `covct.evaluation.anatomy`."""

from dataclasses import replace

import numpy as np
import pytest

from covct.evaluation.anatomy import REGIONS, Chest, count_regions

SPACING = (2.0, 1.5, 1.5)  # mm
SHAPE = (60, 100, 100)


def make_chest(**changes):
    """A cylinder of lung in soft tissue, slices 5 to 54, with a dome that rises from below into it."""
    slices, rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    lungs = (np.hypot(rows - 50, columns - 50) < 40) & (slices >= 5) & (slices < 55)
    dome = np.hypot(np.hypot(rows - 50, columns - 50) * 0.75, (slices - 65)) < 25  # its top on slice 41
    lungs &= ~dome
    hu = np.where(lungs, -850, 40).astype(np.int16)
    return replace(Chest(hu, lungs, SPACING), **changes)


def called(chest, *places, size=1):
    """A mask of cubes around places (slice, row, column), within the lungs."""
    mask = np.zeros(chest.hu.shape, bool)
    for place in places:
        mask[tuple(slice(max(0, at - size), at + size + 1) for at in place)] = True
    return mask & chest.lungs


def regions_of(chest, mask):
    return {name: count for name, count in count_regions(chest, mask).items() if count}


def test_a_crescent_over_the_dome_is_the_dome_s():
    """Two slices of 2 mm are within the reach of 5 mm; the third is not."""
    chest = make_chest()
    top = int(np.flatnonzero(~chest.lungs[10:55, 50, 50])[0]) + 10
    for above, region in ((1, "dome"), (2, "dome"), (4, "rest")):
        mask = np.zeros(SHAPE, bool)
        mask[top - above, 48:53, 48:53] = True
        assert regions_of(chest, mask) == {region: 25}
        upside_down = replace(chest, hu=chest.hu[::-1], lungs=chest.lungs[::-1], whole=False)
        wanted = {"arch" if region == "dome" else region: 25}
        assert regions_of(upside_down, mask[::-1]) == wanted, "of loose slices nobody knows which way is up"


def test_a_dome_s_top_that_was_taken_for_lung_is_the_dome_s():
    """Lungs found may hold it, and it may itself be called; marked lungs do not."""
    chest = make_chest()
    top = int(np.flatnonzero(~chest.lungs[10:55, 50, 50])[0]) + 10
    found = chest.lungs.copy()
    found[top : top + 3] |= np.hypot(*np.mgrid[-50:50, -50:50]) < 30
    mask = np.zeros(SHAPE, bool)
    mask[top - 1 : top + 2, 48:53, 48:53] = True
    assert regions_of(replace(chest, lungs=found), mask) == {"dome": 75}


def test_lung_beside_a_wall_that_does_not_slope_is_not_over_soft_tissue():
    """In-plane neighbours do not count: haze on a vertical wall is not partial volume of the next slice."""
    chest = make_chest()
    mask = np.zeros(SHAPE, bool)
    mask[25, 50, 11:13] = True
    assert regions_of(chest, mask) == {"rest": 2}


def test_under_a_shelf_of_soft_tissue_is_the_arch_s_and_under_a_vessel_is_not():
    chest = make_chest()
    hu, lungs = chest.hu.copy(), chest.lungs.copy()
    hu[18:22, 40:60, 30:45], lungs[18:22, 40:60, 30:45] = 40, False  # 30 mm wide: an arch
    hu[18:22, 40:60, 70:72], lungs[18:22, 40:60, 70:72] = 40, False  # 3 mm wide
    chest = replace(chest, hu=hu, lungs=lungs)
    shelf, vessel = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    shelf[22, 45:55, 34:40], vessel[23, 45:55, 70:72] = True, True
    assert regions_of(chest, shelf) == {"arch": 60}
    assert regions_of(chest, vessel) == {"rest": 20}
    over = np.zeros(SHAPE, bool)
    over[17, 45:55, 34:40] = True
    assert regions_of(chest, over) == {"arch": 60}, "above it too, in the upper half of the lungs"


def test_thin_and_bright_is_a_vessel_wide_haze_is_not():
    chest = make_chest()
    hu = chest.hu.copy()
    hu[20:30, 44:47, 30:60] = -100  # 4.5 mm across
    hu[32:40, 35:65, 35:65] = -550  # 45 mm of ground glass
    chest = replace(chest, hu=hu)
    mask = np.zeros(SHAPE, bool)
    mask[25, 44:47, 40:50], mask[36, 40:60, 40:60] = True, True
    assert regions_of(chest, mask) == {"vessel": 30, "rest": 400}
    rim = np.zeros(SHAPE, bool)
    rim[25, 43, 40:50], rim[25, 41, 40:50] = True, True
    assert regions_of(chest, rim) == {"vessel": 10, "rest": 10}, "a pixel around it is its partial volume"


@pytest.mark.parametrize(("prone", "row"), [(False, 85), (True, 14)])
def test_dependent_is_where_the_patient_lies_on(prone, row):
    chest = make_chest(prone=prone)
    low, high = called(chest, (25, row, 50)), called(chest, (25, 99 - row, 50))
    assert set(regions_of(chest, low)) == {"dependent"}
    assert set(regions_of(chest, high)) == {"rest"}


def test_the_apex_is_the_top_of_whole_lungs():
    """20 mm are ten slices from slice 5 on; of a part of the lungs nobody knows where the top is."""
    chest = make_chest()
    mask = np.zeros(SHAPE, bool)
    mask[[9, 14, 15], 50, 50] = True
    assert regions_of(chest, mask) == {"apex": 2, "rest": 1}
    assert regions_of(replace(chest, whole=False), mask) == {"rest": 3}


def test_near_marked_infection_it_is_the_outline_s():
    marked = np.zeros(SHAPE, bool)
    marked[25, 40:50, 40:50] = True
    chest = make_chest(marked=marked)
    mask = np.zeros(SHAPE, bool)
    mask[25, 45, 50:54] = True  # 1 to 4 pixels away
    mask[26, 45, 45] = True  # on another slice
    assert regions_of(chest, mask) == {"outline": 2, "rest": 3}


def test_outside_marked_lungs_only_where_they_are_marked():
    mask = np.zeros(SHAPE, bool)
    mask[25, 50, 3:5] = True
    assert regions_of(make_chest(outlined=True), mask) == {"outside": 2}
    assert regions_of(make_chest(), mask) == {"rest": 2}


def test_lengths_are_millimetres_whatever_the_voxels():
    """The same chest on voxels of half the size: the same shares."""
    coarse = make_chest()
    fine = replace(
        coarse, spacing_mm=(1.0, 0.75, 0.75),
        **{name: np.kron(getattr(coarse, name), np.ones((2, 2, 2), getattr(coarse, name).dtype)) > 0
           for name in ("lungs",)},
    )  # fmt: skip
    fine = replace(fine, hu=np.where(fine.lungs, -850, 40).astype(np.int16))
    mask = called(coarse, (38, 50, 50), (25, 85, 50), (8, 50, 50), (25, 50, 30), size=2)
    one, other = count_regions(coarse, mask), count_regions(fine, np.kron(mask, np.ones((2, 2, 2), bool)))
    total = sum(one.values())
    assert sum(other.values()) == 8 * total
    for name in REGIONS:
        assert other[name] / 8 == pytest.approx(one[name], abs=0.06 * total), name


def test_nothing_called_and_no_lungs():
    chest = make_chest()
    assert regions_of(chest, np.zeros(SHAPE, bool)) == {}
    empty = Chest(np.full((1, 8, 8), 40, np.int16), np.zeros((1, 8, 8), bool), SPACING, outlined=True)
    assert count_regions(empty, np.ones((1, 8, 8), bool))["outside"] == 64
