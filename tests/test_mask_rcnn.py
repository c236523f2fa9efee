"""Mask R-CNN: boxes by hand, lesions of a mask, what it learns, a training that goes on, and a scan with it."""

from dataclasses import replace

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from covct.architectures import ARCHITECTURES, boxes  # noqa: E402
from covct.architectures.mask_rcnn import FOUND, mask_rcnn  # noqa: E402
from covct.errors import Stopped, UsageError  # noqa: E402
from covct.networks.cards import Call, file_sha256  # noqa: E402
from covct.networks.segment import load_network, make_network  # noqa: E402
from covct.training import checkpoints, loop  # noqa: E402
from covct.training.detector import Detector, boxes_of, masks_of  # noqa: E402
from covct.training.losses import WeightedDice  # noqa: E402
from covct.training.samples import plans  # noqa: E402
from covct.training.samples.lesions import numbered  # noqa: E402
from support import tiny_training  # noqa: E402
from support.line import segment  # noqa: E402
from support.thresholds import make_networks, make_weights, threshold_card  # noqa: E402

SIDE = 64
TINY = {"size": SIDE, "base_filters": 4, "blocks": 1}


def as_array(x):
    return np.asarray(keras.ops.convert_to_numpy(x))


def levels_of(value, side=SIDE):
    """A pyramid whose levels hold what `value` gives for stride, rows and columns."""
    return [
        np.broadcast_to(value(s, *np.indices((side // s, side // s))), (side // s, side // s))[None, ..., None].astype(
            "f"
        )
        for s in boxes.STRIDES
    ]


# Boxes


def test_roi_align_of_four_bins_by_hand():
    """A box from 2 to 10 over features of stride 4, which count up row by row: 16 a row.

    Samples lie at pixels 3, 5, 7, 9, which are 0.25, 0.75, 1.25, 1.75 features from the first one's middle: the bins'
    means are 0.5 and 1.5. Rounded to whole features, they would be 0 or 1.
    """
    levels = levels_of(lambda stride, row, column: 16 * row + column)
    found = as_array(boxes.align(levels, np.array([[[2, 2, 10, 10]]], np.float32), 2))
    np.testing.assert_allclose(found[0, 0, ..., 0], [[8.5, 9.5], [24.5, 25.5]], atol=1e-4)


def test_a_box_is_looked_at_on_the_level_of_its_size():
    levels = levels_of(lambda stride, row, column: np.full(row.shape, stride), 256)
    sides = np.array([5, 55, 57, 111, 113, 225], np.float32)
    given = np.stack([0 * sides, 0 * sides, sides, sides], -1)[None]
    assert as_array(boxes.align(levels, given, 3)).mean((2, 3))[0, :, 0].tolist() == [4, 4, 8, 8, 16, 32]


def greedy(given, most):
    kept = []
    for n, box in enumerate(given):
        if all(as_array(boxes.overlaps(box[None, None], given[None, k : k + 1]))[0, 0, 0] <= most for k in kept):
            kept.append(n)
    return [n in kept for n in range(len(given))]


def test_suppression_is_the_greedy_one():
    """In a chain, of which the second goes because of the first, the third stays: the second is not there any more."""
    chain = np.array([[0, 0, 10, 10], [0, 4, 10, 14], [0, 8, 10, 18], [40, 40, 50, 50]], np.float32)
    assert as_array(boxes.keep_apart(chain[None], 0.4))[0].tolist() == [True, False, True, True]
    rng = np.random.default_rng(3)
    corner = rng.uniform(0, 20, (2, 30, 2))
    many = np.concatenate([corner, corner + rng.uniform(5, 15, (2, 30, 2))], -1).astype(np.float32)
    assert as_array(boxes.keep_apart(many, 0.5)).tolist() == [greedy(one, 0.5) for one in many]


def test_anchors_and_changes():
    start = boxes.anchors(SIDE)
    assert start.shape == ((256 + 64 + 16 + 4) * boxes.SHAPES, 4)
    np.testing.assert_allclose(
        start[4], [-6, -6, 10, 10], atol=1e-5
    )  # the square of four strides around the first place
    wanted = np.array([[3, 5, 20, 60]], np.float32)
    change = boxes.changes(wanted, start[4:5])
    np.testing.assert_allclose(as_array(boxes.changed(start[4:5], change, SIDE)), wanted, atol=1e-4)


def test_a_mask_fills_its_box_and_nothing_else():
    mask = np.zeros((1, 1, 4, 4), np.float32)
    mask[..., :2] = 1  # the left half
    pasted = as_array(boxes.paste(mask, np.array([[[8, 16, 24, 32]]], np.float32), SIDE))[0, 0]
    assert pasted[8:24, 16:22].min() == 1 and pasted[8:24, 27:32].max() == 0
    assert pasted[:8].max() == pasted[24:].max() == pasted[:, :16].max() == pasted[:, 32:].max() == 0
    assert 0.4 < pasted[10, 23] < 0.9  # between both halves it is interpolated


# Truth


def test_lesions_are_numbered_by_size_and_what_is_too_small_is_not_asked_for():
    label, weight = np.zeros((SIDE, SIDE), np.float32), np.ones((SIDE, SIDE), np.float32)
    label[4:8, 4:8] = label[20:30, 10:40] = label[50:52, 50:53] = 1
    weight[20:30, 30:] = 0  # nobody knows
    number = numbered(np.stack([label, weight], -1))[..., 0]
    assert (number[25, 15], number[5, 5], number[51, 51], number[25, 35], number[0, 0]) == (1, 2, FOUND + 1, 0, 0)
    found = as_array(boxes_of(number[None]))[0]
    assert found[:3].tolist() == [[20, 10, 30, 30], [4, 4, 8, 8], [0, 0, 0, 0]]
    masks = as_array(masks_of(number[None], found[None, :2] + np.array([0, 0, 0, 20], np.float32), np.array([[0, 1]])))
    assert masks.reshape(2, 28, 28)[0, :, :14].all() and not masks.reshape(2, 28, 28)[0, :, 14:].any()


def test_there_are_as_many_lesions_as_can_be_told():
    label = np.zeros((SIDE, SIDE), np.float32)
    for place in range(30):
        row, column = 1 + 10 * (place // 6), 1 + 10 * (place % 6)
        label[row : row + 3, column : column + 4] = 1
    assert np.unique(numbered(np.stack([label, label * 0 + 1], -1))[..., 0]).tolist() == list(range(FOUND + 2))


# Networks


def discs():
    """Two slices: two discs in one, one in the other. x (2, side, side, 1) and masks (2, side, side)."""
    down, across = np.indices((SIDE, SIDE))
    one = (np.hypot(down - 20, across - 18) < 9) | (np.hypot(down - 40, across - 44) < 12)
    mask = np.stack([one, np.hypot(down - 30, across - 30) < 6]).astype(np.float32)
    noise = np.random.default_rng(0).random(mask.shape, np.float32) * 0.2
    return (noise + 0.6 * mask)[..., None], mask


@pytest.fixture(scope="module")
def trained():
    """A network that has learned two slices of discs, by heart."""
    keras.utils.set_random_seed(1)
    network = mask_rcnn(**TINY)
    detector = Detector(network)
    detector.compile(keras.optimizers.Adam(3e-3, clipnorm=1.0), metrics=[WeightedDice()], jit_compile=False)
    x, mask = discs()
    truth = np.stack([numbered(np.stack([one, np.ones_like(one)], -1)) for one in mask])
    for _ in range(50):
        detector.train_on_batch(x, truth)
    network.run_eagerly = True
    return network


@pytest.mark.slow
def test_it_learns_two_discs(trained):
    x, mask = discs()
    called = trained.predict_on_batch(x)[..., 0] >= 0.5
    assert 2 * (called & (mask > 0)).sum() / (called.sum() + mask.sum()) > 0.85


@pytest.mark.slow
def test_a_scan_with_it(trained, phantom_series, tmp_path):
    """The threshold network finds the lungs, the trained one opacities, in a smaller square of its own."""
    arguments = {"name": "mask-rcnn", "arguments": TINY}
    card = threshold_card("infection").replaced(architecture=Call(**arguments), size=SIDE)
    networks = replace(make_networks(), infection=make_network(card, trained))
    weights = make_weights(tmp_path / "weights")
    report = (segment(phantom_series, tmp_path / "out", weights, networks) / "report.json").read_text()
    assert '"mask-rcnn"' in report
    assert '"infection_percent": 0.0' not in report


@pytest.mark.slow
def test_weights_come_back_by_the_card_alone(trained, tmp_path):
    trained.save(tmp_path / "infection.keras")
    card = threshold_card("infection", file_sha256(tmp_path / "infection.keras"))
    card = card.replaced(architecture=Call(name="mask-rcnn", arguments=TINY), size=SIDE)
    (tmp_path / "infection.json").write_text(card.as_json())
    again = load_network(tmp_path / "infection.json")[1]
    again.run_eagerly = True
    x, _ = discs()
    np.testing.assert_allclose(again.predict_on_batch(x), trained.predict_on_batch(x), atol=1e-5)


# Training


def invented(reading, settings):
    """The tiny training's squares, of twice its side; two slices are held out."""

    def larger(sample):
        return tuple(array.repeat(2, -3).repeat(2, -2) for array in sample)

    plan = tiny_training.tiny_plan(reading, settings)
    held_out = larger(array[:2] for array in plan.validation)
    return replace(
        plan,
        draw=lambda rng, origins=None: larger(plan.draw(rng, origins)),
        validation=held_out,
        validated=plan.validated[:2],
        size=32,
    )


SETTINGS = replace(tiny_training.SETTINGS, architecture="mask-rcnn", epochs=1, samples_per_epoch=4, batch_size=2)


@pytest.fixture
def without_graphs(monkeypatch):
    """They take longer to trace than so few steps to compute."""

    def built(**arguments):
        network = mask_rcnn(**arguments, blocks=1)
        network.run_eagerly = True
        return network

    def compiled(self, *arguments, **named):
        keras.Model.compile(self, *arguments, **named, run_eagerly=True)

    monkeypatch.setitem(ARCHITECTURES, "mask-rcnn", built)
    monkeypatch.setattr(Detector, "compile", compiled)
    monkeypatch.setitem(plans.PLANS, "lungs", invented)


@pytest.mark.slow
def test_a_training_that_is_stopped_ends_as_one_that_is_not(without_graphs, tmp_path):
    def stop(event):
        if event["event"] == "step" and event["step"] == 1:
            raise Stopped("SIGTERM")

    data, whole, twice = tiny_training.data_folder(tmp_path), tmp_path / "whole", tmp_path / "twice"
    card = loop.train(SETTINGS, data, whole)
    with pytest.raises(Stopped):
        loop.train(SETTINGS, data, twice, report=stop)
    again = loop.train(SETTINGS, data, twice, resume=True)
    assert again.scores == card.scores
    assert (card.architecture.name, card.training["loss"]) == ("mask-rcnn", "regions+boxes+masks")
    weights = (checkpoints.read_checkpoint(out / "checkpoints" / "lungs").arrays for out in (whole, twice))
    for one, other in zip(*(list(arrays.values()) for arrays in weights), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loss": "dice"}, "--loss dice: mask-rcnn has losses of its own"),
        ({"classes": True}, "--classes: mask-rcnn knows one kind of lesion"),
        ({"task": "restorer"}, "wanted infection or lungs, got restorer"),
        ({"base_filters": 65}, "base_filters 65 is too large"),
    ],
)
def test_what_it_does_not_do_is_refused(changes, said, monkeypatch, tmp_path):
    monkeypatch.setitem(plans.PLANS, "lungs", invented)
    with pytest.raises(UsageError, match=said):
        loop.prepare(replace(SETTINGS, **changes), tiny_training.data_folder(tmp_path), tmp_path, None, None)
