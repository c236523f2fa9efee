"""3D: volumes put together from slices, patches drawn and covered, a network of them trained and run from its card."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from covct.data.published import find_sources, read_ma_slices, read_other_slices
from covct.data.read_case import read_case
from covct.errors import UsageError
from covct.networks.network import Network, probabilities
from covct.training.samples import volumes
from covct.training.samples.inputs import limits_of
from covct.training.samples.prepare import preparation
from covct.training.settings import Settings
from covct.voxels.preprocess import body_field_of_view
from support.chests import SPACING, chest, equalised, save, save_slices
from support.labelled import find_cases
from support.thresholds import threshold_card

PATCH = (16, 32, 32)
SETTINGS = Settings(
    "infection", epochs=1, samples_per_epoch=4, batch_size=2, base_filters=2, architecture="unet3d", split="0.34",
    patch=PATCH, size=48, augment="none",
)  # fmt: skip


def tall(seed):
    """20 slices of a chest, no two alike: infection only in the lower half, so that up and down differ."""
    hu, lungs, infection = chest(seed)
    healthy = chest(seed, infected=False)[0]
    rng = np.random.default_rng(seed)
    stack = np.stack([(healthy if number < 10 else hu)[3] + rng.normal(0, 12, hu[0].shape) for number in range(20)])
    sick = np.stack([infection[3] * (number >= 10) for number in range(20)]).astype(np.uint8)
    return np.rint(stack).astype(np.int16), np.repeat(lungs[3:4], 20, 0), sick


@pytest.fixture
def data(tmp_path):
    for seed in range(3):
        for kind, array in zip(("ct", "lungs", "infection"), tall(seed), strict=True):
            save(array, tmp_path / "data" / f"p{seed}_{kind}.nii.gz")
    return tmp_path / "data"


def fed(card, data, patient):
    """The patches that inference feeds the card's network of a patient's scan."""
    [case] = [case for case in find_cases(data) if case.name == patient]
    read, seen = read_case(case), []

    def predict(patches):
        seen.append(patches)
        return np.zeros(patches.shape[:-1], np.float32)

    view = body_field_of_view(read.pixels, read.spacing_mm[1:])
    probabilities(Network(card, predict), read.pixels, view, np.ones(len(read), bool), read.spacing_mm)
    return np.concatenate(seen)[..., 0]


def validated(data, settings):
    from covct.training.samples.plans import plan_infection
    from covct.training.samples.reading import Reading

    plan = plan_infection(Reading(find_sources(data)), settings)
    return plan, plan.held_out["cases"][0]


def test_patches_are_what_inference_cuts_from_the_same_scan(data):
    pytest.importorskip("keras")
    settings = replace(SETTINGS, size=256, patch=(16, 256, 256))
    plan, held = validated(data, settings)
    card = threshold_card("infection").replaced(size=256, patch=[16, 256, 256])
    scanned, (x, truth) = fed(card, data, held), plan.validation
    assert len(x) == 2, "20 slices, 16 at once"
    np.testing.assert_allclose(x[0, ..., 0], scanned[0], atol=1e-3)
    np.testing.assert_allclose(x[1, ..., 0], scanned[-1], atol=1e-3)
    assert truth[..., 1].sum() == 20 * 256 * 256, "every voxel is counted once"
    assert not truth[0, :10, ..., 0].any() and truth[0, 10:, ..., 0].any()


def test_resampled_patches_are_where_inference_has_them(data):
    """Training resamples body-cropped slices, inference the scan itself: alike but for that second interpolation."""
    pytest.importorskip("keras")
    settings = replace(SETTINGS, patch=(32, 48, 48), spacing_mm=(3.0, 5.0, 5.0))
    plan, held = validated(data, settings)
    card = threshold_card("infection").replaced(size=48, patch=[32, 48, 48], spacing_mm=[3.0, 5.0, 5.0])
    scanned, (x, truth) = fed(card, data, held)[0], plan.validation
    depth = int(np.ceil(20 * SPACING[0] / 3.0))
    rows = int(truth[0, 0, :, 0, 1].sum())
    assert depth > 32 and rows < 48
    gap = np.abs(x[0, :, :rows, :rows, 0] - scanned[:, :rows, :rows])
    assert gap.mean() < 0.03
    assert gap.mean() < 0.2 * np.abs(x[0, ::-1, :rows, :rows, 0] - scanned[:, :rows, :rows]).mean() + 0.02
    from covct.training.samples.sheet import sheet

    assert sheet(plan, settings, 2).ndim == 3, "there is something to look at of volumes, too"
    sick = truth[0, ..., 0].any((1, 2))
    assert np.flatnonzero(sick)[0] == pytest.approx(10 * SPACING[0] / 3.0, abs=1.5)


@pytest.mark.slow
def test_a_network_of_volumes_is_trained_and_runs_from_its_card(data, tmp_path):
    pytest.importorskip("keras")
    from covct.networks.segment import load_network, make_network
    from covct.training.loop import train

    settings = replace(SETTINGS, task="lungs", augment="full", spacing_mm=(5.0, 5.0, 5.0))
    card = train(settings, data, tmp_path / "out")
    loaded, network = load_network(tmp_path / "out" / "lungs.json")
    assert (loaded.patch, loaded.spacing_mm) == (list(PATCH), [5.0, 5.0, 5.0])
    assert network.input_shape == (None, *PATCH, 1)
    assert card.scores["validation_dice"] >= 0
    hu = tall(7)[0]
    view = body_field_of_view(hu, (4.0, 4.0))
    out = probabilities(make_network(loaded, network), hu, view, np.ones(20, bool), SPACING)
    assert out.shape == (20, 48, 48) and 0 < out.max() <= 1


def test_a_network_of_millimetres_is_not_judged_on_slices_without_any(data):
    from covct.evaluation.judge import _probability
    from covct.evaluation.truth import Truth

    card = threshold_card("lungs").replaced(patch=list(PATCH), spacing_mm=[5.0, 5.0, 5.0])
    with pytest.raises(UsageError, match="got slices whose distance is not known, wanted whole series"):
        _probability(Network(card, lambda patches: patches[..., 0]), Truth(np.zeros((2, 256, 256)), {}))


def test_a_network_of_slices_of_unknown_distance_says_so():
    assert "distance is not known" in limits_of(SETTINGS)[0]
    assert limits_of(replace(SETTINGS, spacing_mm=(5.0, 5.0, 5.0))) == []


def drawn(data, count, **changes):
    settings = replace(SETTINGS, size=256, **changes)
    part, how = read_other_slices(data, find_sources(data)), preparation(settings)
    known = np.ones(part.hu.shape, bool)
    [first, *_] = volumes.volumes_of(part, part.infection == 1, known, how, settings, settings.patch)
    return [volumes.draw_patch(first, how, settings.patch, np.random.default_rng(seed)) for seed in range(count)]


def test_half_of_the_patches_are_drawn_around_disease(data):
    """A patch of 16 x 32 x 32 in 20 x 256 x 256 hits a lesion seldom by chance."""
    patches = drawn(data, 40)
    assert 0.45 < np.mean([truth[..., 0].any() for _, truth in patches]) < 0.85
    x, truth = (np.stack(arrays) for arrays in zip(*patches, strict=True))
    assert (x.shape, truth.shape) == ((40, *PATCH, 1), (40, *PATCH, 2))
    assert np.median(x[..., 0][truth[..., 0] > 0]) == pytest.approx(550 / 1200, abs=0.03), "its HU are -450"
    assert {bool(one[0].any()) for one in truth[..., 0] if one.any()} == {True, False}, "slices run either way"


def test_moved_patches_leave_out_of_the_loss_what_lies_beyond_the_slice(data):
    [(x, truth)] = drawn(data, 1, augment="full", patch=(16, 256, 256))
    beyond = truth[..., 1] == 0
    assert 0.002 < beyond.mean() < 0.5
    assert x[beyond].mean() < 0.1, "air"
    assert not truth[..., 0][beyond].any()


def test_single_slices_and_volumes_of_unknown_spacing_are_left_out_and_said(data, tmp_path, caplog):
    save_slices(tmp_path / "ma", ["a", "b"], equalised)
    ma = read_ma_slices(tmp_path / "ma", lambda pixels: pixels.astype(np.int16) * 5 - 1000)
    cases = read_other_slices(data, find_sources(data))
    with caplog.at_level(logging.WARNING):
        kept = volumes.can_be_volumes([ma, replace(cases, source="singles", places=None)], SETTINGS)
    assert [part.source for part in kept] == ["ma"]
    assert "60 of 60 slices of singles: they are single slices" in caplog.text
    spaced = replace(SETTINGS, spacing_mm=(5.0, 5.0, 5.0))
    with caplog.at_level(logging.WARNING):
        assert [part.source for part in volumes.can_be_volumes([ma, cases], spaced)] == ["cases"]
    assert "10 of 10 slices of ma: --spacing, and theirs is unknown" in caplog.text
    with pytest.raises(UsageError, match="volumes of known spacing"):
        volumes.can_be_volumes([ma], spaced)


@pytest.mark.parametrize(("length", "patch"), [(16, 16), (20, 16), (33, 16), (100, 32)])
def test_the_fewest_patches_cover_an_axis(length, patch):
    first = volumes._covering(length, patch)
    assert len(first) == -(-length // patch)
    covered = np.zeros(length, bool)
    for one in first:
        assert 0 <= one <= length - patch
        covered[one : one + patch] = True
    assert covered.all()
