"""Keras: networks, losses, weights. The only tests besides the end-to-end one that load it."""

import json

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from covct.architectures import ARCHITECTURES  # noqa: E402
from covct.errors import UsageError, WeightsError  # noqa: E402
from covct.networks.cards import default_weights_folder, file_sha256, read_card, write_card  # noqa: E402

pytestmark = pytest.mark.slow


def small_card(folder, **changes):
    network = ARCHITECTURES["unet"](size=32, base_filters=4)
    network.save(folder / "lungs.keras")
    fields = {
        "name": "lungs", "task": "lungs",
        "architecture": {"name": "unet", "arguments": {"size": 32, "base_filters": 4}},
        "recipe": {"name": "hu-window", "arguments": {"low": -1000, "high": 200}},
        "field_of_view": "body", "size": 32, "threshold": 0.5, "weights": "lungs.keras",
        "sha256": file_sha256(folder / "lungs.keras"), "licence": "none",
    }  # fmt: skip
    (folder / "lungs.json").write_text(json.dumps({**fields, **changes}))
    return network, folder / "lungs.json"


def test_weights_come_back_as_they_were_saved(tmp_path):
    from covct.networks.segment import keras_predictor, load_network

    network, path = small_card(tmp_path)
    _, again = load_network(path)
    slices = np.random.default_rng(0).random((11, 32, 32, 1), np.float32)
    np.testing.assert_allclose(
        keras_predictor(again)(slices), np.asarray(network.predict(slices, verbose=0))[..., 0], atol=1e-5
    )


def test_a_flipping_card_averages_the_slice_and_its_mirror_image(tmp_path):
    """A network that only looks at the left edge sees both edges, and the result comes back the right way round."""
    from covct.networks.network import Network, predict

    def left_edge(slices):
        out = np.zeros(slices.shape[:3], np.float32)
        out[:, :, 0] = slices[:, :, 0, 0]
        return out

    _, path = small_card(tmp_path, flip=True)
    slices = np.zeros((1, 32, 32, 1), np.float32)
    slices[0, :, 0], slices[0, :, -1] = 0.2, 0.8
    seen = predict(Network(read_card(path), left_edge), slices)
    assert (seen[0, 0, 0], seen[0, 0, -1]) == pytest.approx((0.1, 0.4))
    slices[0, :, 0] = 0.05
    assert predict(Network(read_card(path), left_edge), slices)[0, 0, -1] == 0, "nothing doubtful, nothing mirrored"


def test_altered_weights_are_not_loaded(tmp_path):
    _, path = small_card(tmp_path)
    with open(tmp_path / "lungs.keras", "ab") as file:
        file.write(b"x")
    with pytest.raises(WeightsError, match="altered"):
        read_card(path)


def test_missing_weights_and_cards_say_what_to_do(tmp_path):
    with pytest.raises(WeightsError, match="wanted a folder"):
        read_card(tmp_path / "lungs.json")
    _, path = small_card(tmp_path)
    (tmp_path / "lungs.keras").unlink()
    with pytest.raises(WeightsError, match="wanted a folder"):
        read_card(path)


def test_a_card_cannot_point_elsewhere(tmp_path):
    _, path = small_card(tmp_path, weights="../lungs.keras")
    with pytest.raises(WeightsError, match="a bare name"):
        read_card(path)


def test_weights_that_do_not_fit_the_card(tmp_path):
    from covct.networks.segment import load_network

    _, path = small_card(tmp_path, architecture={"name": "unet", "arguments": {"size": 32, "base_filters": 8}})
    with pytest.raises(WeightsError, match="do not fit"):
        load_network(path)


@pytest.mark.parametrize("task", ["lungs", "infection", "restorer"])
def test_shipped_weights_are_whole_and_say_where_they_come_from(task):
    card = read_card(default_weights_folder() / f"{task}.json")
    assert (default_weights_folder() / card.weights).stat().st_size < 16 * 1024**2
    assert card.licence == "research, non-commercial"
    assert card.training["sources"]
    assert card.training["held_out_patients"]
    assert card.scores


def test_training_runs_keeps_patients_apart_and_writes_a_card(shared, tmp_path):
    """Two steps on a real folder of slices: enough to see the line from data to a card that loads."""
    from covct.networks.segment import load_network
    from covct.training.loop import train
    from covct.training.settings import Settings

    (tmp_path / "data").mkdir()
    for name in ("case-000", "case-002"):
        for kind in ("ct", "lungs"):
            (tmp_path / "data" / f"{name}_{kind}.nii.gz").symlink_to(shared / "lctsc-256" / f"{name}_{kind}.nii.gz")
    settings = Settings("restorer", epochs=1, samples_per_epoch=4, batch_size=2, base_filters=4)
    card = train(settings, tmp_path / "data", tmp_path / "out")
    assert card.task == "restorer"
    [held] = card.training["held_out_patients"]["lctsc"]
    assert held in ("case-000", "case-002")
    load_network(tmp_path / "out" / "restorer.json")
    assert json.loads((tmp_path / "out" / "restorer-history.json").read_text())["val_loss"]


def test_a_patient_learned_from_cannot_be_held_out_later(tmp_path):
    """Starting from other weights, or from a restorer, must not leak patients into the validation."""
    from covct.training.loop import _refuse_a_leak
    from covct.training.samples.plans import Plan

    _, path = small_card(tmp_path, training={"held_out_patients": {"ma": ["a", "b"]}})
    plan = Plan(None, (None, None), "l1", "clahe", "whole", {"ma": ["a", "b"], "medseg": ["m"]}, {}, {})
    _refuse_a_leak(plan, read_card(path), plan.held_out)
    _, path = small_card(tmp_path, training={"held_out_patients": {"ma": ["a", "c"]}})
    with pytest.raises(UsageError, match="was trained on b"):
        _refuse_a_leak(plan, read_card(path), plan.held_out)


def held_out_here(**patients):
    from covct.training.samples.plans import Plan

    return Plan(None, (None, None), "l1", "clahe", "whole", patients, {}, {})


def test_a_patient_learned_from_two_networks_ago_is_a_leak(tmp_path):
    """A learned from x, B started from A without that source, C starts from B and would be judged by x."""
    from covct.data.leakage import ancestors_of
    from covct.training.loop import _refuse_a_leak

    first = read_card(small_card(tmp_path, training={"held_out_patients": {"ma": ["a"]}})[1])
    kept = {"held_out_patients": {"lctsc": ["k"]}, "ancestors": ancestors_of(first)}
    second = first.replaced(sha256="1" * 64, training=kept)
    third = first.replaced(sha256="2" * 64, training={"held_out_patients": {}, "ancestors": ancestors_of(second)})
    assert [one["sha256"] for one in ancestors_of(third)] == ["2" * 64, "1" * 64, first.sha256]
    for later in (second, third):
        _refuse_a_leak(held_out_here(ma=["a"], lctsc=["k"]), later, ["ma", "lctsc"])
        _refuse_a_leak(held_out_here(ma=["x"]), later, [])
        with pytest.raises(UsageError, match="was trained on x, or started from a network that was"):
            _refuse_a_leak(held_out_here(ma=["a", "x"]), later, ["ma"])


def test_a_person_learned_from_in_one_source_is_not_held_out_in_another(tmp_path):
    """The same public volume as slices and as NIfTI; of cards with hashes only who is among them was learned from."""
    from covct.data.leakage import learned_patients
    from covct.training.loop import _refuse_a_leak

    held = {"ma": ["coronacases_001"]}
    old = read_card(small_card(tmp_path, training={"held_out_patients": held})[1])
    learned = learned_patients({"ma": ["coronacases_001", "radiopaedia_4_85506_1"]}, held)
    assert "radiopaedia" not in str(learned)
    new = old.replaced(training={"held_out_patients": held, "learned_patients": learned})
    for card in (old, new):
        _refuse_a_leak(held_out_here(cases=["coronacases_001", "case-004"]), card, ["cases"])
        with pytest.raises(UsageError, match="was trained on radiopaedia_4,"):
            _refuse_a_leak(held_out_here(cases=["radiopaedia_4"]), card, ["cases"])
    _refuse_a_leak(held_out_here(cases=["coronacases_003"]), new, ["cases"])
    with pytest.raises(UsageError, match="was trained on coronacases_003,"):
        _refuse_a_leak(held_out_here(cases=["coronacases_003"]), old, ["cases"])


def test_cards_without_ancestors_are_read_and_say_what_they_do_not_tell(tmp_path):
    from covct.data.leakage import ancestors_of, has_learned_from, untold

    start = {"task": "lungs", "sha256": "3" * 64, "epochs": 2}
    card = read_card(small_card(tmp_path, training={"held_out_patients": {"ma": ["a"]}, "initial": start})[1])
    assert (has_learned_from(card, "ma", "a"), has_learned_from(card, "ma", "b")) == (False, True)
    assert untold(card) == ["3" * 64]
    later = card.replaced(training={"held_out_patients": {}, "ancestors": ancestors_of(card)})
    assert untold(later) == ["3" * 64]
    _, path = small_card(tmp_path, training={"held_out_patients": {"ma": ["a"]}, "ancestors": "none"})
    with pytest.raises(WeightsError, match='training.ancestors is "none", wanted a list'):
        read_card(path)


def test_a_restorer_taught_by_hu_scans_leaks_nothing_of_them():
    """HU slices are judged as they are: a restorer that learned from a scan has no hand in how it is judged."""
    from covct.training.samples.plans import Plan

    plan = Plan(None, None, "l1", "clahe", "whole", {"ma": ["a"], "lctsc": ["x"], "lctsc-restored": ["x"]}, {}, {})
    assert plan.restored == ["ma"]


def test_whole_patients_are_held_out():
    from covct.data.slices import held_out_patients

    patients = ["a"] * 5 + ["b"] * 3 + ["c"] + ["d"] * 9
    held = held_out_patients(patients, 0.3, seed=1)
    assert len(held) == 1
    assert held == held_out_patients(patients[::-1], 0.3, seed=1)
    with pytest.raises(UsageError, match="two patients"):
        held_out_patients(["a", "a"], 0.3, seed=1)


def test_tensorflow_s_own_error_goes_down_the_ladder_to_a_network_in_the_cpu_s_memory(tmp_path):
    """A GPU that takes two slices at once, and later none: the probabilities are the same all along."""
    tensorflow = pytest.importorskip("tensorflow")
    from covct.networks.devices import Device, Ladder
    from covct.networks.segment import keras_predictor, load_network

    _, path = small_card(tmp_path)
    _, network = load_network(path)
    asked = []

    class Gpu:
        most = 2

        def predict_on_batch(self, slices):
            asked.append(len(slices))
            if len(slices) > self.most:
                raise tensorflow.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
            return network.predict_on_batch(slices)

    def on_cpu():
        asked.append("cpu")
        return load_network(path)[1]

    gpu, ladder = Gpu(), Ladder(Device("gpu", "gpu:0"), 8)
    predict = keras_predictor(gpu, ladder, on_cpu)
    slices = np.random.default_rng(0).random((5, 32, 32, 1), np.float32)
    expected = keras_predictor(network)(slices)
    np.testing.assert_allclose(predict(slices), expected, atol=1e-5)
    assert asked == [8, 4, 2, 2, 2]
    assert (ladder.used().kind, ladder.used().batch) == ("gpu", 2)
    gpu.most = 0
    np.testing.assert_allclose(predict(slices), expected, atol=1e-5)
    np.testing.assert_allclose(predict(slices), expected, atol=1e-5)
    assert asked[5:] == [2, 1, "cpu"], "and its network is built once"
    assert (ladder.used().kind, ladder.used().batch) == ("cpu", 8)


def test_gpu_without_memory_for_the_weights_leaves_them_to_the_cpu(tmp_path, monkeypatch):
    tensorflow = pytest.importorskip("tensorflow")
    from covct.networks import segment
    from covct.networks.devices import Device

    network, path = small_card(tmp_path)
    write_card(read_card(path).replaced(name="infection", task="infection"), tmp_path)
    tries = []

    def load_network(card_path):
        tries.append(card_path.stem)
        if len(tries) == 1:
            raise tensorflow.errors.ResourceExhaustedError(None, None, "failed to allocate memory")
        return read_card(card_path), network

    monkeypatch.setattr(segment, "device_in_use", lambda: Device("gpu", "gpu:0"))
    monkeypatch.setattr(segment, "load_network", load_network)
    networks = segment.load_keras_networks(tmp_path)
    assert tries == ["lungs", "lungs", "infection"]
    assert networks.device.kind == "cpu"
    assert networks.used().fallbacks == ("gpu: out of memory for the weights",)
    assert networks.lungs.predict(np.zeros((3, 32, 32, 1), np.float32)).shape == (3, 32, 32)


def test_gpus_give_memory_as_it_is_needed():
    """TensorFlow would take all of a GPU's memory, and leave nothing to a neighbour."""
    import os

    from covct.commands.quiet import quiet_tensorflow

    with quiet_tensorflow():
        pass
    assert os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
