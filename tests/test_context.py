"""Neighbouring slices and overlapping patches, on arrays that can be checked by eye."""

import numpy as np
import pytest

from covct.networks.devices import Device, Ladder
from covct.networks.network import Network, input_shape, probabilities, task_probability
from covct.voxels.around import adjacent, at_distances, channels_last, mixed
from covct.voxels.patches import blend_weights, patchwise, starts
from covct.voxels.preprocess import whole_slice
from support.thresholds import threshold_card


def indices(around):
    """Of channels that are one slice each."""
    assert (around.shares == (1, 0)).all()
    return around.indices[..., 0].tolist()


def test_edge_slices_are_repeated():
    assert indices(adjacent(4, 3)) == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 3]]
    assert indices(adjacent(1, 5)) == [[0, 0, 0, 0, 0]]
    assert indices(adjacent(3, 1)) == [[0], [1], [2]]


def test_slices_on_both_sides_of_a_gap_are_no_neighbours():
    assert indices(adjacent(4, 3, first_of_runs=(2,))) == [[0, 0, 1], [0, 1, 1], [2, 2, 3], [2, 3, 3]]


def test_an_even_number_of_channels_has_no_middle():
    with pytest.raises(ValueError, match="odd"):
        adjacent(4, 2)


def heights(count, slice_mm):
    """Slices whose pixels say how high they lie, mm."""
    return (slice_mm * np.arange(count, dtype=np.float32))[:, None, None] * np.ones((1, 2, 2), np.float32)


def test_neighbours_become_channels_with_the_slice_itself_in_the_middle():
    seen = channels_last(mixed(heights(4, 1.0), adjacent(4, 3)))
    assert seen.shape == (4, 2, 2, 3)
    assert seen[1, 0, 0].tolist() == [0, 1, 2]
    assert seen.flags["C_CONTIGUOUS"]


@pytest.mark.parametrize("slice_mm", [0.6, 1.0, 2.5, 3.0000001, 5.0, 7.5])
def test_a_channel_is_what_lies_at_its_distance_whatever_the_slices(slice_mm):
    around = at_distances(40, (3, 6), slice_mm)
    seen = mixed(heights(40, slice_mm), around)[..., 0, 0]
    offsets = np.array([-6, -3, 0, 3, 6])
    height = slice_mm * np.arange(40)[:, None] + offsets
    inside = (height > -1e-3) & (height < 39 * slice_mm + 1e-3)
    np.testing.assert_allclose(seen, np.where(inside, height, 0), atol=2e-3)
    assert (around.there == inside).all()


def test_nothing_lies_beyond_a_gap_or_where_the_distance_is_not_known():
    around = at_distances(6, (3,), np.array([3, 3, 3, 1.5, 1.5, np.nan]), first_of_runs=(3, 5))
    assert around.there.tolist() == [
        [False, True, True], [True, True, True], [True, True, False],
        [False, True, False], [False, True, False], [False, True, False],
    ]  # fmt: skip


@pytest.mark.parametrize("length", [5, 8, 9, 12, 31, 100])
def test_patches_cover_an_axis_and_overlap_by_half(length):
    first = starts(length, 8)
    assert first[0] == 0
    assert first[-1] == max(0, length - 8)
    assert all(b - a <= 4 for a, b in zip(first, first[1:], strict=False))


def test_the_middle_of_a_patch_counts_most_and_no_voxel_nothing():
    weights = blend_weights((8, 16, 16))
    assert weights.max() == 1
    assert weights[3:5, 7:9, 7:9].min() == 1
    assert 0 < weights[0, 0, 0] < 0.01


@pytest.mark.parametrize("shape", [(3, 24, 24), (8, 24, 24), (21, 16, 31), (9, 10, 24), (4, 5, 6)], ids=str)
def test_a_volume_comes_back_as_it_was(shape):
    """A network that gives back what it sees: every voxel is where it was, also of a volume smaller than a patch."""
    volume = np.random.default_rng(0).random(shape).astype(np.float32)
    shapes = set()

    def same(patches):
        shapes.add(patches.shape[1:])
        return patches[..., 0]

    out = patchwise(same, lambda indices: volume[indices], np.ones(len(volume), bool), shape[1:], (8, 16, 16))
    np.testing.assert_allclose(out, volume, atol=1e-3)  # float16
    assert shapes == {(8, 16, 16, 1)}


def test_seams_are_blended():
    """A network that is sure in the middle of its patch and wrong at the border: the middle wins."""

    def wrong_at_the_border(patches):
        out = np.zeros(patches.shape[:-1], np.float32)
        out[:, 1:-1, 2:-2, 2:-2] = 1
        return out

    out = patchwise(wrong_at_the_border, lambda i: np.zeros((len(i), 32, 32)), np.ones(20, bool), (32, 32), (8, 16, 16))
    assert out[4:-4, 8:-8, 8:-8].min() > 0.9


def test_patches_without_a_chosen_slice_are_not_looked_at():
    chosen = np.zeros(40, bool)
    chosen[30:33] = True
    seen = []

    def see(indices):
        seen.append((indices[0], indices[-1]))
        return np.ones((len(indices), 16, 16), np.float32)

    out = patchwise(lambda patches: patches[..., 0], see, chosen, (16, 16), (8, 16, 16))
    assert all(last >= 30 and first <= 32 for first, last in seen)
    assert out[chosen].min() > 0.99
    assert out[~chosen].max() == 0


def hu_of(brightness):
    """Slices of (slices, 32, 32) HU that the window of the tests' cards brings to this brightness, 0 to 1."""
    return np.repeat(np.asarray(brightness, np.float32), 32 * 32).reshape(-1, 32, 32) * 1200 - 1000


def test_a_network_of_three_slices_is_fed_the_neighbours_of_each_chosen_slice():
    """Also those that are not chosen themselves; 70 slices, so that neighbours lie in another chunk."""
    card = threshold_card("infection").replaced(size=32, channels=3)
    below_me = Network(card, lambda slices: slices[..., 0])
    brightness = np.linspace(0, 1, 70)
    chosen = np.ones(70, bool)
    chosen[10] = False
    out = probabilities(below_me, hu_of(brightness), whole_slice((32, 32), (1, 1)), chosen)
    expected = np.concatenate([brightness[:1], brightness[:-1]])
    expected[10] = 0
    np.testing.assert_allclose(out[:, 16, 16], expected, atol=2e-3)


def test_a_network_of_distances_is_fed_what_lies_there_and_nothing_beyond_the_ends():
    """Slices of 2 mm: 3 mm lie between the first and the second; seen as a thicker slice would have it, in HU."""
    card = threshold_card("infection").replaced(size=32, channels=3, neighbours_mm=[3.0])
    seen = []
    network = Network(card, lambda slices: seen.append(slices) or slices[..., 1])
    brightness = np.linspace(0.2, 2.0, 40)  # the window ends at 1
    view = whole_slice((32, 32), (1, 1))
    probabilities(network, hu_of(brightness), view, np.ones(40, bool), (2.0, 1.0, 1.0))
    fed = np.concatenate(seen)[:, 16, 16]
    above = np.clip(np.interp(np.arange(40) - 1.5, np.arange(40), brightness), 0, 1)
    np.testing.assert_allclose(fed[2:, 0], above[2:], atol=2e-3)
    np.testing.assert_allclose(fed[:, 1], np.clip(brightness, 0, 1), atol=2e-3)
    assert (fed[:2, 0] == 0).all() and (fed[-2:, 2] == 0).all() and (fed[:-2, 2] > 0).all()


def test_a_mirrored_look_keeps_the_order_of_slices_and_channels():
    card = threshold_card("infection").replaced(size=32, channels=3, flip=True)
    hu = hu_of(np.linspace(0.2, 1, 5))
    hu[:, :, :8] = -1000
    out = probabilities(Network(card, lambda s: s[..., 1]), hu, whole_slice((32, 32), (1, 1)), np.ones(5, bool))
    np.testing.assert_allclose(out[:, 0, 20], np.linspace(0.2, 1, 5), atol=2e-3)
    assert out[:, :, :8].max() == 0


@pytest.mark.parametrize("flip", [False, True])
def test_a_volumetric_network_sees_patches_and_its_probabilities_come_back_in_place(flip):
    card = threshold_card("infection").replaced(size=32, patch=[8, 16, 16], flip=flip)
    shapes = set()

    def predict(patches):
        shapes.add(patches.shape[1:])
        return patches[..., 0].copy()

    hu = np.random.default_rng(0).uniform(-1000, 200, (20, 32, 32)).astype(np.float32)
    out = probabilities(Network(card, predict), hu, whole_slice((32, 32), (1, 1)), np.ones(20, bool))
    np.testing.assert_allclose(out, (hu + 1000) / 1200, atol=2e-3)
    assert shapes == {input_shape(card)}


def test_patches_go_one_by_one_and_down_the_ladder_to_the_cpu():
    """A GPU without memory for one patch: nothing smaller is left there to try."""
    tried = []

    def compute(patches, kind):
        tried.append((kind, len(patches)))
        if kind == "gpu":
            raise MemoryError("out of memory")
        return patches[..., 0]

    ladder = Ladder(Device("gpu", "gpu:0"), 8)
    patches = np.random.default_rng(0).random((3, 2, 4, 4, 1)).astype(np.float32)
    np.testing.assert_array_equal(ladder.run(compute, patches, most=1), patches[..., 0])
    assert tried == [("gpu", 1), ("cpu", 1), ("cpu", 1), ("cpu", 1)]
    assert ladder.used().fallbacks == ("gpu: out of memory with 1 slice at once",)


def test_classes_that_exclude_each_other_add_up_and_others_do_not():
    """0.3 ground glass and 0.4 consolidation: 0.7 infection of a softmax; at least 0.4 of two sigmoids."""
    exclusive = threshold_card("infection").replaced(
        classes=["background", "ground-glass", "consolidation", "effusion"]
    )
    outputs = np.array([[0.1, 0.3, 0.4, 0.2]])
    assert task_probability(exclusive, outputs) == pytest.approx([0.7])
    apart = exclusive.replaced(classes=["ground-glass", "consolidation", "effusion"])
    assert task_probability(apart, outputs[:, 1:]) == pytest.approx([0.4])
    sides = threshold_card("lungs").replaced(classes=["background", "right-lung", "left-lung"])
    assert task_probability(sides, np.array([[0.2, 0.5, 0.3]])) == pytest.approx([0.8])
    with pytest.raises(ValueError, match="4 classes, its card names 3"):
        task_probability(apart, outputs)
