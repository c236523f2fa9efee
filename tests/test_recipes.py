"""Recipes, fields of view and resampling: what a card asks for is done at inference, from the card alone."""

import numpy as np
import pytest

from covct.errors import WeightsError
from covct.networks.cards import FIELDS_OF_VIEW, read_card, write_card
from covct.networks.network import Network, field_of_view, probabilities
from covct.voxels.fields_of_view import FIELDS_OF_VIEW as CROPS
from covct.voxels.fields_of_view import contour_field_of_view, enclosed_air_mm2, lung_field_of_view, otsu_field_of_view
from covct.voxels.patches import starts
from covct.voxels.preprocess import (
    RECIPES,
    FieldOfView,
    bound_recipe,
    clahe,
    min_max,
    parse_recipe,
    to_model_space,
    whole_slice,
    z_score,
)
from covct.voxels.resample import from_volume_space, plan_grid, to_volume_space
from support.chests import SMALL
from support.running import change_json
from support.thresholds import threshold_card

PUBLISHED_MM = (2.70, 1.58, 1.58)  # MIScnn's grid


# Intensities


def test_min_max_looks_at_each_slice_alone():
    """Series pass in chunks: a slice must come out the same whichever others it is with."""
    hu = np.array([[[-1000, 0], [0, 200]], [[-500, 0], [0, 3000]]])
    together, alone = min_max(hu), min_max(hu[:1])
    assert np.array_equal(together[:1], alone)
    assert alone.ravel() == pytest.approx([0, 1000 / 1200, 1000 / 1200, 1])
    assert not min_max(np.full((1, 4, 4), 7)).any(), "a slice of one value is nothing, and no division by nothing"


def test_z_score_by_the_training_set_s_figures():
    hu = np.array([[[-2000, -600], [0, 900]]])
    assert z_score(hu, -1250, 250, mean=-600, deviation=300).ravel() == pytest.approx([-650 / 300, 0, 2, 850 / 300])


def test_z_score_by_the_slice_s_own():
    hu = np.random.default_rng(0).normal(-500, 100, (2, 32, 32))
    scored = z_score(hu, -1250, 250)
    assert scored.mean((1, 2)) == pytest.approx([0, 0], abs=1e-4)
    assert scored.std((1, 2)) == pytest.approx([1, 1], abs=1e-4)
    assert not z_score(np.full((1, 4, 4), 7), -1250, 250).any()


def test_clahe_on_a_window_does_not_hang_on_metal_elsewhere():
    """On the whole CT range one bright pixel flattens the lungs; within a window it is only white."""
    hu = np.random.default_rng(0).normal(-800, 60, (1, 64, 64))
    metal = hu.copy()
    metal[0, 0, 0] = 3000
    inside = (slice(None), slice(32, None), slice(32, None))
    windowed = [clahe(one, 2, 2, -1000, 200)[inside] for one in (hu, metal)]
    ranged = [clahe(one, 2, 2)[inside] for one in (hu, metal)]
    assert np.array_equal(*windowed)
    assert not np.allclose(*ranged, atol=0.2)


def test_a_higher_clip_limit_is_more_contrast():
    hu = np.random.default_rng(0).normal(-800, 20, (1, 64, 64))
    spread = [clahe(hu, limit, 2, -1000, 200).std() for limit in (1, 4, 16)]
    assert spread == sorted(spread)
    assert spread[2] > 1.5 * spread[0]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("histogram", "there are hu-window, min-max, z-score, clahe"),
        ("hu-window", "missing"),
        ("hu-window:low=200,high=-1000", "wanted low < high"),
        ("hu-window:low=-1000,high=200,gamma=2", "takes low, high, got gamma"),
        ("hu-window:low=-1000,high", "got 'high', wanted ARGUMENT=NUMBER"),
        ("hu-window:low=nan,high=0", "wanted ARGUMENT=NUMBER"),
        ("clahe:tiles=0", "wanted a whole number from 1 to 64"),
        ("clahe:clip_limit=-1", "wanted more than 0"),
        ("clahe:low=-1000", "together or not at all"),
        ("z-score:low=-1250,high=250,mean=-600", "together or not at all"),
        ("z-score:low=-1250,high=250,mean=-600,deviation=0", "wanted more than 0"),
    ],
)
def test_a_recipe_that_none_is(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse_recipe(text)


def test_a_recipe_from_the_command_line_is_the_one_of_a_card():
    name, arguments = parse_recipe("clahe:clip_limit=2.5,tiles=4,low=-1000,high=200")
    assert (name, arguments) == ("clahe", {"clip_limit": 2.5, "tiles": 4, "low": -1000, "high": 200})
    hu = np.random.default_rng(0).normal(-600, 200, (2, 32, 32))
    assert np.array_equal(bound_recipe(name, arguments)(hu), RECIPES[name](hu, **arguments))


# Fields of view


def chest(rows=200, columns=240, spacing=1.0):
    """An elliptic body with two lungs, an airy stomach, and a table under it. Returns hu, lungs; (6, rows, columns)."""
    grid = np.mgrid[:rows, :columns] * spacing
    hu = np.full((rows, columns), -1000, np.int16)
    hu[((grid[0] - 100) / 75) ** 2 + ((grid[1] - 120) / 100) ** 2 < 1] = 40
    lungs = np.zeros((rows, columns), np.uint8)
    for label, column in ((1, 75), (2, 165)):
        lungs[((grid[0] - 95) / 45) ** 2 + ((grid[1] - column) / 30) ** 2 < 1] = label
    hu[lungs > 0] = -850
    hu[(grid[0] > 150) & (grid[0] < 160) & (grid[1] > 115) & (grid[1] < 125)] = -1000
    hu[(grid[0] > 190) & (grid[0] < 192)] = 100
    return np.repeat(hu[None], 6, 0), np.repeat(lungs[None], 6, 0)


def test_otsu_finds_the_body_and_no_table():
    hu, _ = chest()
    view = otsu_field_of_view(hu)
    assert (view.row, view.column) == pytest.approx((100, 120), abs=2)
    assert view.width == pytest.approx(200 + 28, abs=4)


def test_otsu_finds_the_body_in_another_grey_scale():
    """8-bit pixels where HU are awaited: fixed thresholds would see tissue everywhere."""
    hu, _ = chest()
    grey = np.rint((np.clip(hu, -1000, 200) + 1000.0) * 255 / 1200)
    assert otsu_field_of_view(grey) == otsu_field_of_view(hu)


def test_the_two_largest_contours_are_the_lungs():
    hu, lungs = chest()
    found, wanted = contour_field_of_view(hu), lung_field_of_view(lungs, (1.0, 1.0))
    assert (found.row, found.column) == pytest.approx((wanted.row, wanted.column), abs=3)
    assert found.width == pytest.approx(wanted.width + 22, abs=8)


@pytest.mark.parametrize("name", FIELDS_OF_VIEW)
def test_every_field_of_view_is_a_square_in_millimetres(name):
    hu, lungs = chest()
    view = CROPS[name](hu[:, ::2], (2.0, 1.0), lungs[:, ::2])
    assert view.height * 2.0 == pytest.approx(view.width)


@pytest.mark.parametrize("name", FIELDS_OF_VIEW)
def test_air_alone_is_the_whole_slice(name):
    empty = np.full((3, 50, 80), -1000)
    assert CROPS[name](empty, (1.0, 1.0), np.zeros(empty.shape, np.uint8)) == whole_slice((50, 80))


def test_the_names_of_cards_are_those_of_the_functions():
    assert set(FIELDS_OF_VIEW) == set(CROPS)


def test_an_infection_network_looks_at_the_lungs_that_were_found():
    hu, lungs = chest()
    card = threshold_card("infection").replaced(field_of_view="lung-mask")
    lungs[:, :, :120] = 0
    assert field_of_view(card, hu, (1.0, 1.0), lungs).column == pytest.approx(165, abs=2), "only the left one was found"
    assert field_of_view(card, hu, (1.0, 1.0)) == contour_field_of_view(hu), "nothing found before: by contours"


def test_a_lungs_network_cannot_be_shown_the_lungs_that_it_is_to_find(weights):
    """What air shows of them it can be shown."""
    write_card(read_card(weights / "infection.json").replaced(field_of_view="lung-mask"), weights)
    assert read_card(weights / "infection.json").field_of_view == "lung-mask"
    change_json(weights / "lungs.json", field_of_view="lung-contours")
    assert read_card(weights / "lungs.json").field_of_view == "lung-contours"
    change_json(weights / "lungs.json", field_of_view="lung-mask")
    with pytest.raises(WeightsError, match=r"lungs\.json.*before the lungs are known"):
        read_card(weights / "lungs.json")


def real_lungs(shared, cases):
    from covct.intake.volume_file import read_volume

    for case in cases:
        ct, lungs = (
            read_volume(shared / "lctsc-256" / f"{case}_{kind}.nii.gz").to_patient_orientation("FPL")
            for kind in ("ct", "lungs")
        )
        yield ct.array, lungs.array, (float(ct.spacing[1]), float(ct.spacing[2]))


def test_real_lungs_lie_inside_their_crops(shared):
    """Contours see aerated lung only; the square around them and its margin must hold nearly all that a reader drew."""
    for hu, lungs, spacing in real_lungs(shared, ("case-000", "case-008")):
        for name in ("otsu-body", "lung-contours"):
            view = CROPS[name](hu, spacing, None)
            rows, columns = np.nonzero(lungs.any(0))
            within = (abs(rows - view.row) <= view.height / 2) & (abs(columns - view.column) <= view.width / 2)
            assert within.mean() > 0.999
        assert view.width < 0.97 * CROPS["otsu-body"](hu, spacing, None).width


# Slices that tell nothing


def test_slices_without_air_inside_the_body_tell_nothing():
    hu, lungs = chest()
    hu[0][lungs[0] > 0] = 40  # the abdomen
    air = enclosed_air_mm2(hu, (2.0, 2.0))
    assert air[0] == pytest.approx(4 * 81, rel=0.2), "the stomach"
    assert air[1] == pytest.approx(4 * (np.count_nonzero(lungs[1]) + 81), rel=0.05)


def test_a_body_that_reaches_the_border_is_always_looked_at():
    hu, _ = chest()
    assert np.isinf(enclosed_air_mm2(hu[:, 60:140, 60:180])).all()


def test_uninformative_slices_are_not_shown_to_the_network():
    hu, lungs = chest()
    hu[:2][lungs[:2] > 0] = 40
    seen = []

    def network(slices):
        seen.append(len(slices))
        return np.ones(slices.shape[:3], np.float32)

    card = threshold_card("lungs").replaced(size=32, least_air_mm2=1000.0)
    out = probabilities(Network(card, network), hu, whole_slice(hu.shape[1:]), np.ones(6, bool), (3.0, 1.0, 1.0))
    assert seen == [4]
    assert out.any((1, 2)).tolist() == [False, False, True, True, True, True]


def test_no_slice_with_aerated_lung_is_uninformative(shared):
    """At 3 cm2 of air no slice of real lung is lost but the last tips."""
    for hu, lungs, (down, across) in real_lungs(shared, ("case-003",)):
        drawn = np.count_nonzero(lungs, axis=(1, 2)) * down * across
        skipped = enclosed_air_mm2(hu, (down, across)) < 300
        assert drawn[skipped].sum() < 0.002 * drawn.sum()


# One spacing for volumes, there and back


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((40, 32, 32), (1.25, 3.1, 3.1)), ((12, 64, 48), (5.0, 1.2, 1.2)), ((17, 64, 48), (2.7, 1.0, 1.7))],
)
@pytest.mark.parametrize("point", [(0.45, 0.3, 0.4), (0.55, 0.6, 0.35)])
def test_a_point_of_the_patient_stays_where_it_is(shape, spacing, point):
    """A blob's centre of mass, in millimetres, on the source, on the grid of the network and back on the source."""
    view = whole_slice(shape[1:], spacing[1:])
    mm = [share * n * step for share, n, step in zip(point, shape, spacing, strict=True)]
    axes = np.meshgrid(*(np.arange(n) * step for n, step in zip(shape, spacing, strict=True)), indexing="ij")
    blob = np.exp(-sum((axis - where) ** 2 for axis, where in zip(axes, mm, strict=True)) / (2 * 6.0**2))
    source_centre = [float((axis * blob).sum() / blob.sum()) for axis in axes]

    volume, grid = to_volume_space(blob * 1000 - 1000, view, spacing, PUBLISHED_MM)
    assert volume.shape == grid.shape
    weight = (volume + 1000) / 1000
    for number, axis in enumerate(grid.axes):
        profile = weight.sum(tuple({0, 1, 2} - {number}))
        there = axis.source_index((np.arange(axis.count) * profile).sum() / profile.sum()) * spacing[number]
        assert there == pytest.approx(source_centre[number], abs=0.15)

    size = 64
    back = from_volume_space(weight, grid, size)
    straight = to_model_space(blob * 1000 - 1000, view, size) / 1000 + 1
    for number in range(3):
        profiles = [one.sum(tuple({0, 1, 2} - {number})) for one in (back, straight)]
        centres = [(np.arange(len(p)) * p).sum() / p.sum() for p in profiles]
        assert centres[0] == pytest.approx(centres[1], abs=0.06), "pixels of what a network of slices would have seen"


def test_every_voxel_of_the_grid_and_back_is_the_same_index():
    grid = plan_grid((50, 100, 90), FieldOfView(44.5, 50, 70.3, 60.1), (1.0, 0.8, 0.9), PUBLISHED_MM)
    for axis in grid.axes:
        where = np.linspace(-3, axis.count + 3, 11)
        assert axis.index(axis.source_index(where)) == pytest.approx(where)
        assert axis.source_index(1) - axis.source_index(0) == pytest.approx(axis.spacing_mm / axis.source_spacing_mm)
    assert grid.axes[1].count == int(np.ceil(70.3 * 0.8 / 1.58))


def test_a_mask_comes_back_from_the_grid_as_it_went():
    _, lungs = chest()
    lungs = (lungs > 0).astype(np.float32)
    view = whole_slice(lungs.shape[1:])
    volume, grid = to_volume_space(lungs * 1000 - 1000, view, (5.0, 1.0, 1.0), PUBLISHED_MM)
    back = from_volume_space((volume + 1000) / 1000, grid, 240) > 0.5
    truth = to_model_space(lungs * 1000 - 1000, view, 240) > -500
    assert 2 * np.count_nonzero(back & truth) / (np.count_nonzero(back) + np.count_nonzero(truth)) > 0.98


def test_beyond_the_source_lies_air_and_the_last_slice_again():
    hu = np.zeros((3, 20, 20), np.int16)
    volume, _ = to_volume_space(hu, FieldOfView(9.5, 9.5, 40, 40), (10.0, 1.0, 1.0), (2.0, 2.0, 2.0))
    assert volume.shape == (15, 20, 20)
    assert volume[:, 0, 0] == pytest.approx(np.full(15, -1000))
    assert volume[:, 10, 10] == pytest.approx(np.zeros(15), abs=1e-3)


def test_a_grid_too_fine_is_refused():
    with pytest.raises(ValueError, match="at most 2048"):
        plan_grid((10, 512, 512), whole_slice((512, 512)), (1.0, 2.0, 2.0), (1.0, 0.3, 0.3))


def test_a_network_of_volumes_is_fed_from_the_card_alone(phantom):
    """The threshold network, asked for patches of a 1.58 x 1.58 x 2.70 mm grid, finds what it finds on slices."""
    hu = phantom.volume.to_patient_orientation("FPL").array
    spacing = tuple(float(v) for v in phantom.volume.spacing)
    shapes = []

    def patches(asked):
        shapes.append(asked.shape)
        return np.stack([(one[..., 0] < 0.5).astype(np.float32) for one in asked])

    slices = threshold_card("lungs").replaced(size=SMALL["rows"])
    view = field_of_view(slices, hu, spacing[1:])
    chosen = np.ones(len(hu), bool)
    dark = Network(slices, lambda seen: (seen[..., 0] < 0.5).astype(np.float32))
    flat = probabilities(dark, hu, view, chosen, spacing)
    card = slices.replaced(spacing_mm=list(PUBLISHED_MM), patch=[16, 96, 96])
    whole = probabilities(Network(card, patches), hu, view, chosen, spacing)
    assert {shape[1:] for shape in shapes} == {(16, 96, 96, 1)}
    side = max(plan_grid(hu.shape, view, spacing, PUBLISHED_MM).shape[1:])
    assert {shape[0] for shape in shapes} == {len(starts(side, 96)) ** 2}
    assert whole.shape == flat.shape
    one, other = whole >= 0.5, flat >= 0.5
    assert 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other)) > 0.97


@pytest.mark.parametrize("size", [224, 256, 100])
def test_any_size(size):
    hu, _ = chest()
    card = threshold_card("lungs").replaced(size=size, recipe={"name": "min-max", "arguments": {}})
    network = Network(card, lambda slices: slices[..., 0])
    assert probabilities(network, hu, whole_slice(hu.shape[1:]), np.ones(6, bool)).shape == (6, size, size)


@pytest.mark.parametrize(
    "changes",
    [
        {"spacing_mm": [1.0, 1.0, 1.0]},
        {"spacing_mm": [1, 2]}, {"spacing_mm": 2.0}, {"spacing_mm": [0.01, 1, 1]}, {"spacing_mm": ["1", 1, 1]},
        {"spacing_mm": [float("nan"), 1, 1]}, {"least_air_mm2": -1}, {"least_air_mm2": "3"},
        {"least_air_mm2": float("nan")}, {"field_of_view": "lungs"}, {"field_of_view": None},
    ],
    ids=repr,
)  # fmt: skip
def test_card_with_a_geometry_that_none_has(changes, weights):
    change_json(weights / "infection.json", **changes)
    with pytest.raises(WeightsError):
        read_card(weights / "infection.json")


def test_a_card_whose_recipe_does_not_exist_is_refused_before_its_network_is_built(weights):
    pytest.importorskip("keras")
    from covct.networks.segment import load_network

    write_card(read_card(weights / "lungs.json").replaced(recipe={"name": "sharpen", "arguments": {}}), weights)
    with pytest.raises(WeightsError, match=r"lungs\.json: no recipe 'sharpen'"):
        load_network(weights / "lungs.json")
