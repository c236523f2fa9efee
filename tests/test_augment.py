"""Changes to training slices: small arrays, checked by their numbers."""

import json

import cv2
import numpy as np
import pytest

from covct.data.slices import Slices
from covct.errors import UsageError
from covct.training.samples import augment
from covct.training.samples.prepare import crop, preparation, show
from covct.training.samples.presets import PRESETS, augmented, deform, with_strength
from covct.training.settings import Settings
from covct.voxels.overlay import INFECTION_RGB

pytest.importorskip("keras")

from covct.training.samples.plans import Plan  # noqa: E402
from covct.training.samples.sheet import UNKNOWN_COLOUR, sheet  # noqa: E402

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


# Geometry


@pytest.mark.parametrize("elastic_px", [0.0, 4.0])
def test_neighbouring_slices_move_alike(elastic_px):
    """A stack for a network of volumes or of 2.5D, of any shape: slice by slice it is the same movement."""
    stack = np.random.default_rng(0).normal(-500, 100, (3, 40, 56)).astype(np.float32)
    stack[2] = stack[0]
    [moved] = augment.affine((stack,), ("hu",), np.random.default_rng(1), elastic_px=elastic_px)
    [alone] = augment.affine((stack[1],), ("hu",), np.random.default_rng(1), elastic_px=elastic_px)
    assert moved.shape == stack.shape
    assert np.array_equal(moved[1], alone)
    assert np.array_equal(moved[2], moved[0])
    assert not np.array_equal(moved[0], stack[0])


def test_nothing_is_turned_upside_down(chest):
    """Up-down would put the spine in front. A mark near the top stays in the upper half, whatever is drawn."""
    mark = np.zeros((SIZE, SIZE), np.uint8)
    mark[40:60, 118:138] = 1
    for seed in range(20):
        [moved] = augment.affine((mark,), ("mask",), np.random.default_rng(seed), rotation=20)
        assert np.nonzero(moved)[0].mean() < SIZE / 2


def test_left_and_right_are_exchanged_only_where_allowed():
    """A network of left and right lung would learn that either may be either."""
    mark = np.zeros((SIZE, SIZE), np.uint8)
    mark[118:138, 40:60] = 1
    columns = {
        flip: [
            np.nonzero(augment.affine((mark,), ("mask",), np.random.default_rng(seed), flip=flip)[0])[1].mean()
            for seed in range(16)
        ]
        for flip in (True, False)
    }
    assert max(columns[False]) < SIZE / 2
    assert min(columns[True]) < SIZE / 2 < max(columns[True])


def test_elastic_keeps_masks_on_their_images(chest):
    hu, lungs = chest
    for seed in range(5):
        moved, mask = augment.affine((hu, lungs), ("hu", "mask"), np.random.default_rng(seed), elastic_px=6.0)
        assert np.mean(moved[mask == 1] < -600) > 0.97
        assert np.mean(moved[mask == 0] < -600) < 0.7  # air beyond the border, and no lung


def test_elastic_of_nothing_is_the_similarity(chest):
    """Both ways of moving agree on where things go."""
    hu, _ = chest
    [plain] = augment.affine((hu,), ("hu",), np.random.default_rng(4))
    [bent] = augment.affine((hu,), ("hu",), np.random.default_rng(4), elastic_px=1e-6)
    assert np.abs(plain - bent).mean() < 1.5
    assert np.median(np.abs(plain - bent)) == 0


def test_patches_hold_what_they_shall_and_fit_their_masks():
    volume = np.arange(20 * 24 * 28, dtype=np.float32).reshape(20, 24, 28)
    mask = np.zeros(volume.shape, np.uint8)
    mask[3, 20, 5] = 1
    for seed in range(12):
        hu, found = augment.random_patch((volume, mask), (8, 10, 12), np.random.default_rng(seed), mask > 0, share=1.0)
        assert hu.shape == found.shape == (8, 10, 12)
        assert found.sum() == 1
        assert hu[found == 1] == volume[mask == 1]


def test_a_volume_smaller_than_the_patch_is_surrounded_by_air():
    hu, mask = augment.random_patch(
        (np.zeros((4, 8, 8), np.float32), np.ones((4, 8, 8), np.uint8)), (10, 8, 16), np.random.default_rng(0)
    )
    assert hu.shape == (10, 8, 16)
    assert np.array_equal(mask == 1, hu == 0)
    assert mask.sum() == 4 * 8 * 8
    assert (hu[mask == 0] == -1000).all()


# Greys


def test_gamma_bends_greys_and_keeps_both_ends(rng):
    hu = np.array([[-1024, -1000, -600, 200, 900]], np.float32)
    bent = augment.gamma(hu, rng, strongest=0.5)
    assert bent[0, [0, 1, 3, 4]] == pytest.approx(hu[0, [0, 1, 3, 4]], abs=1e-3)
    assert abs(bent[0, 2] + 600) > 5


def test_local_contrast_leaves_bone_alone_and_spreads_lung(rng):
    hu = np.random.default_rng(0).normal(-850, 30, (128, 128)).astype(np.float32)
    hu[:64] = 900
    changed = augment.local_contrast(hu, rng, strongest=1.0)
    assert np.array_equal(changed[:64], hu[:64])
    assert changed[64:].std() > 1.2 * hu[64:].std()


def test_blur_takes_detail_and_no_brightness(rng):
    hu = np.random.default_rng(0).normal(-850, 100, (128, 128)).astype(np.float32)
    soft = augment.blur(hu, rng)
    assert soft.std() < 0.95 * hu.std()
    assert soft.mean() == pytest.approx(hu.mean(), abs=2)


# Presets


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_exactly_repeatable(name, chest):
    hu, lungs = chest
    one, other = (augmented(PRESETS[name], hu, (lungs,), np.random.default_rng((5, 2))) for _ in range(2))
    assert np.array_equal(one[0], other[0])
    assert np.array_equal(one[1][0], other[1][0])


def test_presets_change_nothing_little_and_much(chest):
    hu, lungs = chest
    same, [mask] = augmented(PRESETS["none"], hu, (lungs,), np.random.default_rng(0))
    assert np.array_equal(same, hu)
    assert np.array_equal(mask, lungs)
    for name in ("light", "standard", "full"):
        changed, [mask] = augmented(PRESETS[name], hu, (lungs,), np.random.default_rng(1))
        assert changed.dtype == np.float32
        assert not np.array_equal(changed, hu)
        assert np.median(changed[mask == 1]) == pytest.approx(-850, abs=120), "the mask moved with its lungs"
    assert not PRESETS["light"].lesions
    assert PRESETS["full"].lesions


def test_a_stack_s_neighbours_keep_their_calibration(chest):
    hu, lungs = chest
    stack, [masks] = augmented(PRESETS["full"], np.stack([hu] * 3), (np.stack([lungs] * 3),), np.random.default_rng(1))
    assert stack.shape == masks.shape == (3, SIZE, SIZE)
    assert stack[0].mean() == pytest.approx(stack[2].mean(), abs=1)


def test_a_source_cropped_at_the_ribs_shrinks_under_every_preset(chest):
    """Else its lungs would stand larger in the picture than any patient's at night."""
    _, lungs = chest
    for name in ("light", "standard", "full"):
        [moved] = deform(PRESETS[name], (lungs,), ("mask",), np.random.default_rng(0), scale=(0.6, 0.7), border_hu=40.0)
        assert 0.3 < moved.sum() / lungs.sum() < 0.55


def test_clahe_of_random_strength_only_where_slices_are_seen_through_it(rng):
    assert with_strength(PRESETS["full"], "hu-window", {"low": -1000}, rng) == {"low": -1000}
    assert with_strength(PRESETS["light"], "clahe", {}, rng) == {}
    limits = [with_strength(PRESETS["full"], "clahe", {"tiles": 4}, rng)["clip_limit"] for _ in range(50)]
    assert 3 < min(limits) < 5
    assert 10 < max(limits) < 15


# What is shown to the network


def prepared(task="infection", **asked):
    return preparation(Settings(task, 1, 1, **asked))


def test_truth_is_resized_with_its_slice(chest):
    hu, lungs = chest
    how = prepared(size=224, recipe="min-max")
    seen, truth = show(how, np.stack([hu, hu]), np.stack([lungs, lungs]), np.ones((2, SIZE, SIZE)))
    assert seen.shape == (2, 224, 224, 1)
    assert truth.shape == (2, 224, 224, 2)
    assert set(np.unique(truth)) == {0, 1}
    assert np.mean((seen[..., 0] < 0.5) == (truth[..., 0] == 1)) > 0.99
    one, _ = show(how, hu, lungs, np.ones_like(hu))
    assert np.array_equal(one, seen[0]), "a slice alone is shown as in a stack"


def test_training_crops_to_the_lungs_as_inference_does(chest):
    hu, lungs = chest
    part = Slices(
        np.stack([hu, hu, hu]).astype(np.int16),
        np.stack([lungs] * 3),
        np.stack([np.where(lungs == 1, 2, 0)] * 3).astype(np.uint8),
        ("a", "a", "b"),
        "s",
    )
    cropped = crop(part, "lung-mask")
    assert np.count_nonzero(cropped.lungs) > 1.2 * np.count_nonzero(part.lungs)
    assert set(np.unique(cropped.infection)) == {0, 2}, "unknown stays unknown"
    assert np.mean((cropped.hu < -400) == (cropped.lungs == 1)) > 0.99
    assert cropped.patients == part.patients
    assert crop(part, "body") is part


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"recipe": "sharpen"}, "--recipe: no recipe 'sharpen'"),
        ({"augment": "wild"}, "--augment: got 'wild', wanted one of none, light"),
        ({"field_of_view": "whole"}, "--field-of-view: got 'whole', wanted one of body"),
        ({"size": 100}, "--size: got 100, wanted a multiple of 16"),
        ({"size": 2048}, "--size: got 2048"),
        ({"task": "lungs", "field_of_view": "lung-mask"}, "before the lungs are known"),
        ({"task": "restorer", "augment": "full"}, "its own augmentation"),
    ],
    ids=repr,
)
def test_what_cannot_be_trained_is_said_at_once(asked, complaint):
    with pytest.raises(UsageError, match=complaint):
        prepared(**asked)


# The sheet


def toy_plan(settings):
    def draw(rng, *_):
        hu = np.full((SIZE, SIZE), -800, np.float32)
        disc = np.hypot(*(np.mgrid[:SIZE, :SIZE] - rng.integers(60, 196))) < 40
        weight = np.ones(hu.shape)
        weight[:60] = 0
        return show(preparation(settings), np.where(disc, 0, hu), disc, weight, rng)

    return Plan(draw, (None, None), "dice+ce", "hu-window", "body", {}, {}, {})


def test_the_sheet_is_repeatable_and_outlines_the_truth():
    settings = Settings("infection", 1, 1, seed=3)
    drawn = sheet(toy_plan(settings), settings, 8)
    assert np.array_equal(drawn, sheet(toy_plan(settings), settings, 8))
    assert np.array_equal(drawn[64:320, 20:276], sheet(toy_plan(settings), settings, 2)[64:320, 20:276])
    other = Settings("infection", 1, 1, seed=4)
    assert not np.array_equal(drawn, sheet(toy_plan(other), other, 8))
    tile = drawn[64:320, 20:276].reshape(-1, 3).tolist()
    assert tile.count(list(INFECTION_RGB)) > 150
    assert tile.count(list(UNKNOWN_COLOUR)) > 150


def test_show_augmented_writes_a_sheet_and_trains_nothing(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from covct.cli import app
    from covct.training.samples import sheet as module

    asked = []
    monkeypatch.setattr(module.Readings, "of", lambda _, *asked_for: asked.append(asked_for))
    monkeypatch.setitem(module.PLANS, "infection", lambda reading, settings: toy_plan(settings))
    command = ["train", "infection", str(tmp_path), "-o", str(tmp_path / "out"), "--augment", "light", "--seed", "2"]
    run = CliRunner().invoke(app, [*command, "--size", "64", "--show-augmented", "7"])
    assert run.exit_code == 0, run.output
    written = tmp_path / "out" / "infection-augmented.png"
    assert json.loads(run.stdout) == {"sheet": str(written)}
    assert asked == [(tmp_path, None)]
    assert [path.name for path in (tmp_path / "out").iterdir()] == [written.name]
    assert cv2.imread(str(written)).shape == (64 + 2 * 264 + 56, 6 * 264 - 8 + 40, 3)


def test_dependent_consolidation_is_as_dense_as_tissue_and_lies_at_the_bottom_of_the_lungs(chest, rng):
    hu, lungs = chest
    sides = set()
    for _ in range(20):
        changed = augment.consolidate_dependent(hu, lungs, rng)
        dense = changed > -200
        assert not (changed != hu)[lungs == 0].any()
        filled = dense & (lungs == 1)
        rows = np.nonzero(filled)[0]
        assert rows.size and rows.mean() > 130 and filled[190:200].any()
        sides.add((bool(filled[:, :128].any()), bool(filled[:, 128:].any())))
    assert sides == {(True, True), (True, False), (False, True)}
    assert np.array_equal(augment.consolidate_dependent(hu, lungs * 0, rng), hu)
