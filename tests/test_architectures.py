"""Every network, tiny: shapes, classes, bounds, and its way through a card and back."""

import h5py
import numpy as np
import pytest

keras = pytest.importorskip("keras")

from covct.architectures import ALIASES, ARCHITECTURES, architecture_name  # noqa: E402
from covct.errors import UsageError, WeightsError  # noqa: E402
from covct.networks.cards import Card, file_sha256, write_card  # noqa: E402
from covct.networks.network import input_shape  # noqa: E402
from covct.networks.segment import keras_predictor, load_network, make_network, start_from_backbone  # noqa: E402

pytestmark = pytest.mark.slow

TINY = {
    "unet": {"base_filters": 2},
    "unet-transposed": {"base_filters": 2},
    "attention-unet": {"base_filters": 2, "norm": "group"},
    "unet-plus-plus": {"base_filters": 2, "depth": 3},
    "deeplabv3-plus": {"base_filters": 4},
    "segnet": {"base_filters": 4},
    "smallcovid-net": {"base_filters": 4, "depth": 2},
    "mask-rcnn": {"base_filters": 2, "blocks": 1},
    "unet3d": {"base_filters": 2, "depth": 2, "size": 16, "slices": 8},
    "slice-classifier": {"base_filters": 2},
}
SIZE = 32


def build(name, **changes):
    keras.utils.set_random_seed(1)  # with so few filters, another start may have none alive
    return quick(ARCHITECTURES[name](**{"size": SIZE, **TINY[name], **changes}))


def quick(network):
    """Without a graph, which takes longer to trace than these networks to run."""
    network.run_eagerly = True
    return network


def unsettled(network):
    """Weights as after some training: fresh biases, means and scales are all zeros or ones, which hides a mix-up."""
    rng = np.random.default_rng(0)
    weights = network.get_weights()
    network.set_weights([w + rng.uniform(0, 0.2, w.shape) if w.ndim == 1 else w for w in weights])
    return network


def some_input(network, count=3):
    return np.random.default_rng(1).random((count, *network.input_shape[1:]), np.float32)


def save(network, folder, name, **changes):
    network.save(folder / "net.keras")
    arguments = {"size": SIZE, **TINY[name], **changes.pop("arguments", {})}
    card = Card(
        name="net",
        task="empty-slices" if name == "slice-classifier" else "infection",
        architecture={"name": name, "arguments": arguments},
        recipe={"name": "hu-window", "arguments": {"low": -1000, "high": 200}},
        field_of_view="body",
        size=SIZE,
        threshold=0.5,
        weights="net.keras",
        sha256=file_sha256(folder / "net.keras"),
        licence="none",
        **{"patch": [8, 16, 16]} if name == "unet3d" else {},
        **changes,
    )
    return write_card(card, folder)


def test_every_network_has_a_tiny_one_here():
    assert set(TINY) == set(ARCHITECTURES)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_weights_go_into_a_file_and_come_back_by_the_card(name, tmp_path):
    """The same probabilities, of every pixel (or of the slice), after building and loading by the card alone."""
    network = unsettled(build(name))
    card, again = load_network(save(network, tmp_path, name))
    seen = some_input(network)
    expected = keras_predictor(network)(seen)
    assert expected.shape == (seen.shape[:1] if name == "slice-classifier" else seen.shape[:-1])
    assert 0 <= expected.min() < expected.max() <= 1
    assert input_shape(card) == seen.shape[1:]
    np.testing.assert_allclose(make_network(card, quick(again)).predict(seen), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["smallcovid-net", "unet-plus-plus", "unet3d"])
def test_a_network_of_classes_gives_the_probability_of_its_task(name, tmp_path):
    """Softmax over background, ground glass, consolidation, effusion: ground glass and consolidation are infection."""
    arguments = {"outputs": 4, "activation": "softmax"}
    network = unsettled(build(name, **arguments))
    classes = ["background", "ground-glass", "consolidation", "effusion"]
    card, again = load_network(save(network, tmp_path, name, arguments=arguments, classes=classes))
    seen = some_input(network, 1)
    outputs = np.asarray(network(seen))
    outputs = outputs.mean(-1) if outputs.ndim > seen.ndim else outputs
    np.testing.assert_allclose(outputs.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(make_network(card, quick(again)).predict(seen), outputs[..., 1:3].sum(-1), atol=1e-5)


@pytest.mark.parametrize("name", ["unet", "slice-classifier"])
def test_a_network_sees_neighbouring_slices(name):
    network = unsettled(build(name, channels=3))
    seen = some_input(network)
    changed = seen.copy()
    changed[..., 2] = 1 - changed[..., 2]
    assert np.abs(keras_predictor(network)(seen) - keras_predictor(network)(changed)).max() > 1e-4


@pytest.mark.parametrize("name", sorted(set(ARCHITECTURES) - {"mask-rcnn"}))  # with losses of its own, tested there
def test_a_network_learns(name):
    """One step on one batch: the loss falls, so the gradient reaches what matters."""
    from covct.training.losses import LOSSES

    network = build(name, norm="batch")
    shape = network.input_shape[1:]
    x = np.random.default_rng(0).random((2, *shape), np.float32) * 0.2
    label = np.zeros(x.shape[:-1], np.float32)
    label[:, ..., 4:12, 4:12] = 1
    x += 0.8 * label[..., None]
    if name == "slice-classifier":
        label, x[1] = np.array([1, 0], np.float32), x[1] * 0.2
    network.compile(keras.optimizers.Adam(0.003), LOSSES["bce"], run_eagerly=True)
    truth = np.stack([label, np.ones_like(label)], -1)
    before, after = (float(network.train_on_batch(x, truth)) for _ in range(2))
    assert after < before


def test_group_normalisation_looks_at_no_other_slice_of_the_batch():
    """The same slice in another batch gives the same; and it keeps no running mean that could lag behind."""
    for name in ("unet", "unet3d"):
        network = unsettled(build(name, norm="group"))
        seen = some_input(network)
        alone = np.asarray(network(seen[:1], training=True))
        np.testing.assert_allclose(np.asarray(network(seen, training=True))[:1], alone, atol=1e-5)
        assert not network.non_trainable_weights


def test_unpooling_puts_values_where_the_maxima_were():
    from covct.architectures.segnet import _maxima, _unpooled

    x = np.array([[1, 5, 0, 0], [2, 3, 0, 0], [7, 1, 2, 2], [0, 0, 1, 0]], np.float32)[None, ..., None]
    places = _maxima(x, keras.layers.MaxPooling2D()(x))
    back = np.asarray(_unpooled(np.array([[10, 20], [30, 40]], np.float32)[None, ..., None], places))[0, ..., 0]
    expected = [[0, 10, 0, 0], [0, 0, 0, 0], [30, 0, 40, 40], [0, 0, 0, 0]]  # 20: a window without maximum; 40: two
    np.testing.assert_array_equal(back, expected)


def test_attention_and_residual_blocks_are_there_when_asked_for():
    plain, both = build("unet"), build("unet", residual=1, attention=1)
    assert not any(isinstance(layer, keras.layers.Multiply | keras.layers.Add) for layer in plain.layers)
    gates = [layer for layer in both.layers if isinstance(layer, keras.layers.Multiply)]
    assert len(gates) == 4, "one on each skip connection"
    assert build("attention-unet", norm="batch").count_params() == both.count_params()


def test_deep_supervision_ends_in_a_head_for_each_depth():
    supervised, plain = build("unet-plus-plus"), build("unet-plus-plus", supervision=0)
    assert supervised.output_shape == (None, SIZE, SIZE, 1, 3)
    assert plain.output_shape == (None, SIZE, SIZE, 1)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
@pytest.mark.parametrize(
    "changes", [{"base_filters": 100_000}, {"size": 99_984}, {"depth": 50}, {"channels": 1000}, {"base_filters": 4.5},
                {"size": 33}, {"norm": "none"}, {"unheard": 1}],
    ids=str,
)  # fmt: skip
def test_arguments_that_no_memory_holds_are_refused_before_anything_is_built(name, changes):
    with pytest.raises((ValueError, TypeError), match="too large|wanted|unexpected"):
        build(name, **changes)


def test_heads_of_another_kind_are_refused():
    for changes in ({"activation": "relu"}, {"activation": "softmax"}, {"outputs": 0}):
        with pytest.raises(ValueError, match="wanted"):
            build("unet", **changes)


def test_names_with_a_plus_are_understood_on_the_command_line():
    assert architecture_name("unet++") == "unet-plus-plus"
    assert architecture_name("DeepLabV3+") == "deeplabv3-plus"
    assert set(ALIASES.values()) <= set(ARCHITECTURES)
    with pytest.raises(UsageError, match="unet3d"):
        architecture_name("resnet")


@pytest.mark.parametrize(
    ("name", "changes", "wanted"),
    [
        ("smallcovid-net", {"channels": 3}, "takes"),
        ("smallcovid-net", {"patch": [8, 16, 16]}, "takes"),
        ("smallcovid-net", {"task": "empty-slices"}, "does not fit the task"),
        ("smallcovid-net", {"classes": ["background", "infection"]}, "1 outputs"),
        ("slice-classifier", {"task": "infection"}, "does not fit the task"),
        ("unet3d", {"patch": [8, 16, 32]}, "takes"),
    ],
)
def test_card_that_tells_other_shapes_than_its_network_has(name, changes, wanted, tmp_path):
    """Found at loading: in the middle of a night it would be an unexpected error of each series."""
    from covct.networks.cards import read_card

    path = save(build(name), tmp_path, name)
    write_card(read_card(path).replaced(**changes), tmp_path)
    with pytest.raises(WeightsError, match=wanted):
        load_network(path)


def published_resnet(size):
    """keras' own ResNet50 for colour, with weights as if trained: an independent reference for ours."""
    network = keras.applications.ResNet50(weights=None, include_top=False, input_shape=(size, size, 3))
    rng = np.random.default_rng(0)
    for layer in network.layers:
        weights = layer.get_weights()
        if isinstance(layer, keras.layers.BatchNormalization):
            weights = [rng.uniform(0.5, 1, w.shape) if n in (0, 3) else rng.normal(0, 0.2, w.shape)
                       for n, w in enumerate(weights)]  # fmt: skip
        elif weights:
            weights = [weights[0], rng.normal(0, 0.1, weights[1].shape)]
        layer.set_weights(weights)
    return network


def published(network, path):
    """A file as it is published for ResNet50: a group for each layer, named arrays."""
    with h5py.File(path, "w") as file:
        for layer in network.layers:
            for variable in layer.variables:
                file[f"{layer.name}/{layer.name}/{variable.name}:0"] = np.asarray(variable)
    return path


def test_published_backbone_weights_give_the_features_of_the_published_network(tmp_path):
    """A gray slice is a colour slice with three channels alike.

    Only the middle is compared: at the border the published network pads with the colours' mean, ours with black.
    """
    resnet, network = published_resnet(128), ARCHITECTURES["deeplabv3-plus"](size=128)
    assert start_from_backbone(network, published(resnet, tmp_path / "resnet.h5")) == 53
    ours = keras.Model(network.input, network.get_layer("conv3_block1_out").output)
    theirs = keras.Model(resnet.input, resnet.get_layer("conv3_block1_out").output)
    gray = np.random.default_rng(2).random((1, 128, 128, 1), np.float32)
    gray[:, :, :64] *= 0.5
    got = np.asarray(ours(gray))
    bgr = gray * 255 - np.float32([103.939, 116.779, 123.68])
    wanted = np.asarray(theirs(bgr))
    inner = (0, slice(6, 10), slice(6, 10))
    assert np.abs(wanted[inner]).max() > 1
    np.testing.assert_allclose(got[inner], wanted[inner], rtol=1e-3, atol=1e-3)


def test_files_that_hold_no_backbone_are_refused(tmp_path):
    network = build("deeplabv3-plus")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["conv1_conv/conv1_conv/kernel:0"] = np.zeros((7, 7, 3, 64), np.float32)
    with pytest.raises(WeightsError, match="conv1_bn/gamma is missing"):
        start_from_backbone(network, tmp_path / "other.h5")
    with pytest.raises(WeightsError, match="no ResNet50 for a backbone"):
        start_from_backbone(build("unet"), tmp_path / "other.h5")
    (tmp_path / "text.h5").write_text("no weights")
    with pytest.raises(WeightsError, match=r"text\.h5"):
        start_from_backbone(network, tmp_path / "text.h5")
