"""Losses: values worked out by hand, and the way they push."""

from math import log

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from keras import ops  # noqa: E402

from covct.training.losses import LOSSES, WeightedDice  # noqa: E402

REGION = sorted(set(LOSSES) - {"l1"})


def truth(label, weight=None):
    label = np.asarray(label, np.float32)
    return np.stack([label, np.ones_like(label) if weight is None else np.asarray(weight, np.float32)], -1)


def value(name, label, prediction, weight=None):
    return float(LOSSES[name](truth(label, weight), np.asarray(prediction, np.float32)[..., None]))


# One slice of 2 x 2: two pixels of disease, of which one is half seen; half a pixel is invented.
LABEL = [[[1, 1], [0, 0]]]
SEEN = [[[1, 0.5], [0.5, 0]]]
HALVES = 2 * log(2)  # cross-entropy of the two pixels at 0.5; the others cost next to nothing


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        ("bce", HALVES / 5),  # four pixels, and one that keeps it finite
        ("dice", 1 - (2 * 1.5 + 1) / (2 + 2 + 1)),
        ("tversky", 1 - (1.5 + 1) / (1.5 + 0.7 * 0.5 + 0.3 * 0.5 + 1)),
        ("focal-tversky", (1 - 2.5 / 3) ** 0.75),
        ("dice+ce", 1 - 4 / 5 + HALVES / 5),
        ("tversky+ce", 1 - 2.5 / 3 + HALVES / 5),
        ("l1", 1 / 5),
    ],
)
def test_value_by_hand(name, by_hand):
    assert value(name, LABEL, SEEN) == pytest.approx(by_hand, abs=1e-4)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_pixels_nobody_vouches_for_are_left_out(name):
    """A pixel of weight 0 changes nothing, whatever is said of it."""
    label, prediction = np.array([[[1, 1, 1], [0, 0, 0]]]), np.array([[[1, 0.5, 0], [0.5, 0, 1]]])
    weight = [[[1, 1, 0], [1, 1, 0]]]
    assert value(name, label, prediction, weight) == pytest.approx(value(name, LABEL, SEEN), abs=1e-4)


def slope(name, label, prediction):
    """d loss / d prediction, by differences: works on every backend."""
    prediction = np.asarray(prediction, np.float64)
    out = np.zeros_like(prediction)
    for place in np.ndindex(prediction.shape):
        step = np.zeros_like(prediction)
        step[place] = 0.01
        out[place] = value(name, label, prediction + step) - value(name, label, prediction - step)
    return out


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_gradient_pulls_disease_up_and_the_rest_down(name):
    gradient = slope(name, LABEL, np.full((1, 2, 2), 0.4))
    assert (gradient[0, 0] < 0).all()
    assert (gradient[0, 1] > 0).all()


@pytest.mark.parametrize("name", ["tversky", "tversky+ce", "focal-tversky"])
def test_tversky_charges_more_for_what_is_missed_than_for_what_is_invented(name):
    label = np.zeros((1, 8, 8))
    label[0, 2:6, 2:6] = 1
    missed, invented = label.copy(), label.copy()
    missed[0, 2:4, 2:6] = 0
    invented[0, 6:8, 2:6] = 1
    assert value(name, label, missed) > value(name, label, invented)


@pytest.mark.parametrize("name", REGION)
def test_the_truth_costs_little_and_its_opposite_much(name):
    label = np.zeros((1, 8, 8))
    label[0, 2:5, 2:5] = 1
    assert value(name, label, label) < 0.01
    assert value(name, label, 1 - label) > 0.8


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", sorted(LOSSES))
def test_sure_and_wrong_is_finite_in_every_precision(name, dtype):
    for label in (np.ones((1, 4, 4)), np.zeros((1, 4, 4))):
        for prediction in (0.0, 1.0):
            y = ops.cast(truth(label), dtype)
            loss = LOSSES[name](y, ops.cast(np.full((1, 4, 4, 1), prediction), dtype))
            assert keras.backend.standardize_dtype(loss.dtype) == "float32"
            assert np.isfinite(float(loss))


@pytest.mark.parametrize("name", REGION)
def test_gradient_of_the_right_answer_is_finite(name):
    """Through a real network step: focal Tversky's slope is infinite at 0, and a NaN there would end the training."""
    inputs = keras.Input((4, 4, 1))
    network = keras.Model(inputs, keras.layers.Conv2D(1, 1, activation="sigmoid")(inputs))
    network.layers[1].set_weights([np.full((1, 1, 1, 1), 1000, np.float32), np.array([-500], np.float32)])
    network.compile(keras.optimizers.SGD(0.01), LOSSES[name])
    x = np.zeros((1, 4, 4, 1), np.float32)
    x[0, 1:3, 1:3] = 1
    network.train_on_batch(x, truth(x[..., 0]))
    assert all(np.isfinite(weight).all() for weight in network.get_weights())


def test_softmax_classes_by_hand():
    """Background, ground glass, consolidation: truth is the number of the class; the background has no Dice."""
    label = np.array([[[0, 1], [2, 2]]])
    prediction = np.array([[[[0.8, 0.2, 0], [0.5, 0.5, 0]], [[0, 0, 1], [0, 0.5, 0.5]]]], np.float32)
    entropy = -(log(0.8) + log(0.5) + log(0.5)) / 5
    ground_glass = (2 * 0.5 + 1) / (1 + 1.2 + 1)
    consolidation = (2 * 1.5 + 1) / (2 + 1.5 + 1)
    expected = {"bce": entropy, "dice": 1 - (ground_glass + consolidation) / 2}
    expected["dice+ce"] = expected["bce"] + expected["dice"]
    index = (1.5 / (0.5 + 0.7 * 0.5 + 0.3 * 0.7 + 1) + 2.5 / (1.5 + 0.7 * 0.5 + 1)) / 2
    expected |= {"tversky": 1 - index, "tversky+ce": 1 - index + entropy, "focal-tversky": (1 - index) ** 0.75}
    for name, by_hand in expected.items():
        assert float(LOSSES[name](truth(label), prediction)) == pytest.approx(by_hand, abs=1e-4), name


def test_classes_that_overlap_have_a_label_each():
    """Two sigmoids: each is judged like a network of its own, the region terms as their mean."""
    first, second = np.array([[[1, 0], [1, 0]]]), np.array([[[1, 1], [0, 0]]])
    both = np.stack([first, second, np.ones_like(first)], -1).astype(np.float32)
    one, other = np.array([[[0.9, 0.2], [0.6, 0.1]]]), np.array([[[0.3, 0.8], [0.1, 0.4]]])
    prediction = np.stack([one, other], -1).astype(np.float32)
    apart = [value(name, a, b) for name in ("dice", "bce") for a, b in ((first, one), (second, other))]
    assert float(LOSSES["dice"](both, prediction)) == pytest.approx((apart[0] + apart[1]) / 2, abs=1e-5)
    assert float(LOSSES["bce"](both, prediction)) == pytest.approx(apart[2] + apart[3], abs=1e-5)


def test_truth_of_other_classes_than_the_network_s_is_refused():
    with pytest.raises(ValueError, match="3 classes, the network 2 outputs"):
        LOSSES["dice"](np.zeros((1, 4, 4, 4), np.float32), np.zeros((1, 4, 4, 2), np.float32))


@pytest.mark.parametrize("name", REGION)
def test_deep_supervision_is_the_mean_over_the_heads(name):
    other = np.full((1, 2, 2), 0.3)
    heads = np.stack([np.asarray(SEEN), other], -1)[..., None, :].astype(np.float32)
    mean = (value(name, LABEL, SEEN) + value(name, LABEL, other)) / 2
    assert float(LOSSES[name](truth(LABEL), heads)) == pytest.approx(mean, abs=1e-5)
    metric = WeightedDice()
    metric.update_state(truth(LABEL), heads)  # mean of the heads: 0.65, 0.4, 0.4, 0.15
    assert float(metric.result()) == pytest.approx(2 / 3)


def test_volumes_and_whole_slices_have_losses_too():
    volume = np.zeros((1, 2, 4, 4))
    volume[0, 0, 1:3] = 1
    flat = volume.reshape(1, 8, 4)
    for name in REGION:
        assert value(name, volume, volume * 0.9) == pytest.approx(value(name, flat, flat * 0.9), abs=1e-5)
    assert value("bce", [1, 0], [0.5, 0.5]) == pytest.approx(2 * log(2) / 3, abs=1e-4)


def test_dice_is_pooled_over_batches():
    metric = WeightedDice()
    one = np.ones((1, 4, 4))
    metric.update_state(truth(one), one[..., None])
    metric.update_state(truth(one), 0 * one[..., None])
    assert float(metric.result()) == pytest.approx(2 / 3)


def test_dice_leaves_out_what_nobody_vouches_for():
    label, weight = np.zeros((1, 8, 8)), np.ones((1, 8, 8))
    weight[0, :4] = 0
    prediction = np.zeros((1, 8, 8, 1))
    prediction[0, :4] = 1
    metric = WeightedDice()
    metric.update_state(truth(label, weight), prediction)
    assert float(metric.result()) == 0


def test_dice_of_classes_is_pooled_over_them():
    """Consolidation called ground glass is a miss and an invention."""
    label = np.array([[[0, 1], [2, 2]]])
    prediction = np.eye(3, dtype=np.float32)[[[[0, 1], [1, 2]]]]
    metric = WeightedDice()
    metric.update_state(truth(label), prediction)
    assert float(metric.result()) == pytest.approx(2 * 2 / (3 + 3))
