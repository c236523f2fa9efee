"""2.5D: what a network of neighbouring slices is trained on is what it is fed at inference, in the same order."""

from dataclasses import replace

import numpy as np
import pytest

from covct.data.published import find_sources, read_ma_slices, read_other_slices
from covct.data.read_case import read_case
from covct.data.slices import Slices, joined, one_volume
from covct.networks.network import Network, probabilities
from covct.training.samples import neighbours
from covct.training.settings import Settings
from covct.voxels.preprocess import body_field_of_view
from support.chests import chest, equalised, save_pair, save_slices
from support.labelled import find_cases
from support.thresholds import threshold_card

SETTINGS = Settings(
    "infection", epochs=1, samples_per_epoch=8, batch_size=4, base_filters=2, split="0.34", size=32, neighbours=1,
    augment="none",
)  # fmt: skip
DISTANCES = replace(SETTINGS, neighbours=0, neighbours_mm=(3.0, 6.0))
CARD = threshold_card("infection").replaced(size=256, channels=3)


@pytest.fixture
def data(tmp_path):
    for seed in range(3):
        save_pair(tmp_path / "data", f"p{seed}", seed)
    return tmp_path / "data"


def fed(card, data, patient):
    """What inference feeds the card's network of a patient's scan: (slices, size, size, channels)."""
    [case] = [case for case in find_cases(data) if case.name == patient]
    read, seen = read_case(case), []

    def predict(slices):
        seen.append(slices)
        return np.zeros(slices.shape[:3], np.float32)

    view = body_field_of_view(read.pixels, read.spacing_mm[1:])
    probabilities(Network(card, predict), read.pixels, view, np.ones(len(read), bool), read.spacing_mm)
    return np.concatenate(seen)


@pytest.mark.parametrize("settings", [SETTINGS, DISTANCES], ids=["adjacent", "distances"])
def test_a_slice_is_validated_and_drawn_with_the_channels_that_inference_feeds(data, settings):
    """To the rounding of HU. In draws the stack may be turned around: which end is the head is not always told."""
    pytest.importorskip("keras")
    from covct.training.samples.plans import plan_infection
    from covct.training.samples.reading import Reading

    plan = plan_infection(Reading(find_sources(data)), replace(settings, size=256))
    [held] = plan.held_out["cases"]
    card = CARD.replaced(channels=settings.channels, neighbours_mm=list(settings.neighbours_mm))
    scanned = fed(card, data, held)
    np.testing.assert_allclose(plan.validation[0], scanned[::2], atol=1e-3)
    assert np.abs(scanned[2:4, ..., 0] - scanned[2:4, ..., 2]).max() > 0.02, "neighbours differ, or nothing is tested"

    trained = np.concatenate([fed(card, data, patient) for patient in plan.patients["cases"] if patient != held])
    ways = set()
    for seed in range(12):
        x, truth = plan.draw(np.random.default_rng(seed))
        if settings.neighbours_mm and not np.delete(x, 2, -1).any():
            continue  # shown without neighbours
        gaps = [np.abs(trained[..., ::way] - x).max((1, 2, 3)) for way in (1, -1)]
        assert min(gap.min() for gap in gaps) < 1e-3
        ways.add(int(gaps[1].min() < gaps[0].min()))
        assert truth.shape == (256, 256, 2)
    assert ways == {0, 1}


@pytest.mark.slow
def test_a_network_of_three_slices_is_trained_and_runs_from_its_card(data, tmp_path):
    pytest.importorskip("keras")
    from covct.networks.segment import load_network, make_network
    from covct.training.loop import train

    card = train(replace(SETTINGS, augment="full"), data, tmp_path / "out")
    loaded, network = load_network(tmp_path / "out" / "infection.json")
    assert (loaded.channels, network.input_shape) == (3, (None, 32, 32, 3))
    assert "next slices, whatever their distance" in card.limits
    assert card.scores["validation_dice"] >= 0
    hu = chest(7)[0]
    view = body_field_of_view(hu, (4.0, 4.0))
    out = probabilities(make_network(loaded, network), hu, view, np.ones(len(hu), bool))
    hu[3:] = -1000
    changed = probabilities(make_network(loaded, network), hu, view, np.ones(len(hu), bool))
    differs = (out != changed).any((1, 2)).tolist()
    assert differs == [False, False, True, True, True, True], "slice 2 sees its neighbour, slice 1 does not"


@pytest.mark.slow
def test_a_network_of_distances_is_trained_and_runs_from_its_card(data, tmp_path):
    """Of a series whose slices lie too far apart to say anything of 3 mm but a mixture: the far slice counts less."""
    pytest.importorskip("keras")
    from covct.networks.segment import load_network, make_network
    from covct.training.loop import train

    train(replace(DISTANCES, augment="clinical"), data, tmp_path / "out")
    loaded, network = load_network(tmp_path / "out" / "infection.json")
    assert (loaded.channels, loaded.neighbours_mm, network.input_shape) == (5, [3.0, 6.0], (None, 32, 32, 5))
    hu = chest(7)[0]
    view, every = body_field_of_view(hu, (4.0, 4.0)), np.ones(len(hu), bool)
    close, far = (
        probabilities(make_network(loaded, network), hu, view, every, (mm, 4.0, 4.0)).astype(float)
        for mm in (3.0, 60.0)
    )
    assert np.abs(close - far).max() > 0, "what lies at 6 mm is another slice, or nearly this one"


def test_no_neighbour_comes_from_another_volume_or_from_beyond_a_gap(data, tmp_path):
    """Two volumes of one patient; a slice that the gate left out; slices that were published by themselves."""
    save_slices(tmp_path / "ma", ["a", "a"], equalised)
    two = read_ma_slices(tmp_path / "ma", lambda pixels: pixels.astype(np.int16) * 5 - 1000)
    seen = neighbours.with_context(two, SETTINGS).context.around.indices[..., 0]
    assert seen[4].tolist() == [3, 4, 4]
    assert seen[5].tolist() == [5, 5, 6]

    image = np.zeros((1, 256, 256), np.int16)
    single = [Slices(image, image, image, ("m",), "medseg") for _ in range(3)]
    alone = neighbours.with_context(joined(single, "medseg"), replace(SETTINGS, neighbours=2)).context.around
    assert alone.indices[..., 0].tolist() == [[i] * 5 for i in range(3)]
    alone = neighbours.with_context(joined(single, "medseg"), DISTANCES).context.around
    assert alone.there.tolist() == [[False, False, True, False, False]] * 3

    gap = replace(two, places=one_volume([0, 1, 2, 3, 5, 6, 7, 8, 9, 10]))
    assert gap.first_of_runs == (4,)


def test_a_slice_left_out_of_a_case_is_a_gap(data):
    """Two slices of one value in the middle of a case: their neighbours are no neighbours of each other."""
    from support.chests import save

    hu = chest(0)[0]
    hu[2] = 40
    save(hu, data / "p0_ct.nii.gz")
    part = read_other_slices(data, find_sources(data))
    mine = np.array(part.patients) == "p0"
    assert part.places[mine, 1].tolist() == [0, 1, 3, 4, 5]
    assert part.first_of_runs[0] == 2


def test_slices_left_out_of_the_drawing_are_still_seen_as_neighbours(data):
    """Slices without lung are not drawn; at inference they are fed all the same."""
    part = neighbours.with_context(read_other_slices(data, find_sources(data)), SETTINGS)
    drawn = part.with_lung()
    assert len(part) - len(drawn) == 3, "the slice above the lungs of each"
    hu, *_ = neighbours.stack(drawn, 0, np.random.default_rng(0))
    assert {hu[0].sum(), hu[2].sum()} == {part.hu[0].sum(), part.hu[2].sum()}


def ramp(count, slice_mm):
    """A volume whose HU say how high a slice lies, 10 a mm; the upper half is infected."""
    heights = slice_mm * np.arange(count)
    hu = np.rint(10 * heights).astype(np.int16)[:, None, None] * np.ones((1, 4, 4), np.int16)
    label = np.repeat((np.arange(count) >= count // 2).astype(np.uint8), 16).reshape(-1, 4, 4)
    spacing = np.tile((slice_mm, 1.0, 1.0), (count, 1))
    whole = Slices(
        hu, np.ones_like(label), label, ("p",) * count, "cases", None, None, one_volume(range(count)), spacing
    )
    return neighbours.with_context(whole, DISTANCES)


@pytest.mark.parametrize("slice_mm", [0.7, 2.0, 5.0])
def test_slices_made_thicker_show_what_lies_where_they_are(slice_mm):
    """The mean over any thickness of what grows evenly is what lies in the middle."""
    part, offsets = ramp(60, slice_mm), np.array([-6, -3, 0, 3, 6])
    for seed in range(60):
        hu, _, infection, there = neighbours.stack(part, 30, np.random.default_rng(seed), 10.0)
        way = 1 if hu[-1].max() >= hu[0].max() or not there[0] else -1
        expected = 10 * (30 * slice_mm + way * offsets)
        np.testing.assert_allclose(hu[there][:, 0, 0], expected[there], atol=3.0)  # 0.3 mm: slices are steps
        assert infection[2].max() == 1
    assert neighbours.stack(part, 25, np.random.default_rng(0), 0.0).infection[2].max() == 0


def test_a_thick_slice_is_infected_where_most_of_it_is_and_ends_where_the_series_ends():
    part = ramp(60, 1.0)
    indices, shares = neighbours._thick(part.context, 28, 9.0)
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-5)
    assert indices.min() >= 0 and (shares[2] > 0.01).sum() == 9
    assert neighbours._mixture(part.context.pool, indices, shares).infection[2].max() == 0
    assert neighbours._mixture(part.context.pool, *neighbours._thick(part.context, 31, 9.0)).infection[2].max() == 1
    _, shares = neighbours._thick(part.context, 1, 9.0)
    assert shares.any(1).tolist() == [False, False, True, False, False]


def test_a_slice_is_now_and_then_shown_without_neighbours():
    part = ramp(20, 2.0)
    alone = [neighbours.stack(part, 10, np.random.default_rng(seed)).there.sum() == 1 for seed in range(200)]
    assert 0.08 < np.mean(alone) < 0.25


def test_with_nobody_held_out_there_is_nothing_to_validate(data):
    pytest.importorskip("keras")
    from covct.training.samples.plans import plan_infection
    from covct.training.samples.reading import Reading

    plan = plan_infection(Reading(find_sources(data)), replace(SETTINGS, split="none"))
    assert plan.validation is None
    assert plan.draw(np.random.default_rng(0))[0].shape == (32, 32, 3)


def big_stack(seed=0):
    """Three slices of 256 x 256 with lungs, the lowest of them smaller."""
    import cv2

    hu, lungs, infection = (
        np.stack([cv2.resize(one, (256, 256), interpolation=cv2.INTER_NEAREST) for one in array[2:5]])
        for array in chest(seed)
    )
    lungs[2, :100] = 0
    return hu.astype(np.float32), (lungs > 0).astype(np.uint8), infection


def test_a_lesion_put_in_goes_through_the_stack_and_stays_in_each_slices_lungs():
    hu, lungs, _ = big_stack()
    changed, masks = neighbours.insert_opacity(hu, lungs, np.random.default_rng(3))
    assert masks[1].any()
    common = lungs.all(0)
    assert (masks[:, common] == masks[1, common]).all()
    assert (masks[lungs == 0] == 0).all()
    raised = np.stack([(changed - hu)[i][masks[i] > 0.5].mean() for i in range(3)])
    assert raised.min() > 20 and np.ptp(raised) < 0.25 * raised.mean()
    donor = [array[1] for array in big_stack(1)]
    moved, masks = neighbours.transplant_lesion(hu, lungs, *donor, rng=np.random.default_rng(0))
    assert masks[1].any() and (masks[:, common] == masks[1, common]).all()
    assert (moved[masks == 1] - hu[masks == 1]).mean() > 20


def test_a_lesion_is_taken_from_all_slices_or_from_none():
    hu, lungs, infection = big_stack()
    outcomes = set()
    for seed in range(12):
        _, label = neighbours.rescale_lesion(hu, lungs, infection, np.random.default_rng(seed))
        outcomes.add(tuple(label.any((1, 2)).tolist()))
    assert outcomes == {(True,) * 3, (False,) * 3}


def test_dependent_consolidation_fills_every_slice_of_a_stack():
    hu, lungs, _ = big_stack()
    changed = neighbours.consolidate_dependent(hu, lungs, np.random.default_rng(1))
    assert all((new - old)[inside == 1].max() > 300 for new, old, inside in zip(changed, hu, lungs, strict=True))
    assert (changed == hu)[lungs == 0].all()
