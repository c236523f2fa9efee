"""The empty-slice network: slices that it calls empty are spared, and the report says so."""

from dataclasses import replace

import numpy as np
import pytest

from covct.errors import WeightsError
from covct.networks.cards import file_sha256, read_card, tasks_in, write_card
from covct.networks.network import Network, holds_infection
from covct.pipeline.series import Clock, process
from covct.unattended.batch import card_hashes
from covct.voxels.preprocess import whole_slice
from support.example_report import VALIDATOR
from support.running import change_json, read_json
from support.thresholds import call_infection, make_weights, threshold_card


def gate(predict, **changes) -> Network:
    return Network(threshold_card("empty-slices").replaced(**changes), predict)


def chosen_series(folder):
    from covct.intake.choice import choose
    from covct.intake.discover import discover

    return choose(list(discover([folder]).series), lambda series: None)


def brightness(hu):
    return np.repeat(np.asarray(hu, np.float32), 64).reshape(-1, 8, 8) * 1200 - 1000


@pytest.mark.parametrize("flip", [False, True])
def test_a_slice_is_looked_at_from_the_card_s_threshold_on(flip):
    network = gate(lambda slices: slices[:, 8, 8, 0].copy(), size=16, threshold=0.5, flip=flip)
    hu = brightness([0.1, 0.5, 0.9, 0.9])
    chosen = np.array([True, True, True, False])
    out = holds_infection(network, hu, whole_slice((8, 8), (1, 1)), chosen)
    assert out.tolist() == [False, True, True, False]


def test_slices_called_empty_are_spared_and_counted(phantom_series, networks):
    """The upper half is called empty: no infection there, fewer slices for the network, and the report tells."""
    from covct.networks.devices import Device

    asked = []

    def infection(slices):
        asked.append(len(slices))
        return call_infection(slices)

    choice = chosen_series(phantom_series)
    counted = replace(networks, infection=replace(networks.infection, predict=infection))
    whole = process(choice, lambda: counted, "0" * 64, Clock())
    with_lung = sum(asked)
    assert whole.report["networks"]["empty_slices"] is None
    assert whole.report["networks"]["skipped_slices"] == 0
    asked.clear()
    seen = iter(np.arange(with_lung) >= with_lung // 2)

    def lower_half(slices):
        return np.array([next(seen) for _ in slices], np.float32)

    gated = replace(counted, empty_slices=gate(lower_half), device=Device("cpu", "threshold"))
    spared = process(choice, lambda: gated, "0" * 64, Clock())
    assert sum(asked) == with_lung - with_lung // 2
    assert spared.report["networks"]["skipped_slices"] == with_lung // 2
    assert spared.report["networks"]["empty_slices"]["name"] == "empty-slices"
    assert 0 < spared.report["regions"]["lungs"]["infection_ml"] < whole.report["regions"]["lungs"]["infection_ml"]
    device = {"kind": "cpu", "name": "x", "batch": None, "fallbacks": [], "runtime": None, "precision": None}
    run = {"device": device, "timings_s": {}}
    assert not list(VALIDATOR.iter_errors({**spared.report, "run": {**run, "peak_memory_mib": 1.0}}))


def test_the_gate_s_card_is_part_of_the_work_key(tmp_path):
    """A folder that gets an empty-slice network, or another one, gives other results: they are computed again."""
    folder = make_weights(tmp_path / "weights")
    assert set(card_hashes(folder)) == {"lungs", "infection"}
    (folder / "empty-slices.keras").write_bytes(b"empty")
    write_card(threshold_card("empty-slices", file_sha256(folder / "empty-slices.keras")), folder)
    assert tasks_in(folder) == ("lungs", "infection", "empty-slices")
    assert set(card_hashes(folder)) == {"lungs", "infection", "empty-slices"}
    (folder / "empty-slices.keras").write_bytes(b"other")
    with pytest.raises(WeightsError, match="altered"):
        card_hashes(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"channels": 2}, "odd number"),
        ({"channels": 10**6 + 1}, "at most 15"),
        ({"channels": "3"}, 'channels is "3", wanted a whole number'),
        ({"patch": [8, 16]}, "slices, rows and columns"),
        ({"patch": [8, 16, 0]}, "slices, rows and columns"),
        ({"patch": [4096, 4096, 4096]}, "slices, rows and columns"),
        ({"patch": [8, 16, 16], "channels": 3}, "1 channel"),
        ({"patch": "all"}, 'patch is "all", wanted a list'),
        ({"classes": ["infection", "tumour"]}, "some of"),
        ({"classes": ["ground-glass", "background"]}, "background first"),
        ({"classes": ["background", "effusion"]}, "among them"),
        ({"classes": ["infection", ["infection"]]}, r"classes\[1\] is a list, wanted a text"),
        ({"classes": "infection"}, "wanted a list"),
        ({"task": "restorer", "classes": ["infection"]}, "none"),
    ],
)
def test_card_that_asks_for_input_or_classes_that_no_network_has(changes, said, tmp_path):
    folder = make_weights(tmp_path / "weights")
    change_json(folder / "infection.json", **changes)
    with pytest.raises(WeightsError, match=said):
        read_card(folder / "infection.json")


def test_cards_of_before_these_fields_are_read_as_they_were_meant(tmp_path):
    import json

    folder = make_weights(tmp_path / "weights")
    fields = read_json(folder / "lungs.json")
    for name in ("channels", "patch", "classes"):
        del fields[name]
    (folder / "lungs.json").write_text(json.dumps(fields))
    card = read_card(folder / "lungs.json")
    assert (card.channels, card.patch, card.classes) == (1, [], [])


def pixels(infected=0, unknown=0):
    """One slice of 64 x 64: so many infected pixels, and so many that nobody vouches for."""
    truth = np.zeros((64 * 64, 2), np.float32)
    truth[:infected, 0] = 1
    truth[unknown:, 1] = 1
    return truth.reshape(64, 64, 2)


def test_a_slice_is_diseased_empty_or_neither():
    from covct.training.samples.empty_slices import slice_truth

    kinds = [pixels(), pixels(infected=3), pixels(infected=40), pixels(unknown=1000), pixels(unknown=4)]
    assert slice_truth(np.stack(kinds)).tolist() == [[0, 1], [0, 0], [1, 1], [0, 0], [0, 1]]
    assert slice_truth(pixels(infected=40, unknown=38)).tolist() == [0, 0], "two known pixels are no lesion"


def test_the_gate_s_threshold_lets_99_of_100_diseased_slices_through():
    from covct.training.samples.empty_slices import choose_gate_threshold

    probability = np.concatenate([np.linspace(0.3, 1, 100), np.linspace(0, 0.6, 50), [0.9]])
    truth = np.stack([np.arange(151) < 100, np.arange(151) < 150], -1).astype(np.float32)
    slices = np.zeros((151, 16, 16, 1), np.float32)
    threshold, scores = choose_gate_threshold(gate(lambda s: probability.copy()), (slices, truth))
    assert threshold == 0.3, "at 0.31 it would be two: 0.3 and 0.307"
    assert scores == {"validation_slice_recall": 1.0, "validation_slices_spared": 0.5}


def test_empty_slices_are_learned_from_the_slices_of_infection():
    from covct.errors import UsageError
    from covct.training.samples.empty_slices import of_slices
    from covct.training.samples.plans import Plan
    from covct.training.settings import Settings

    x, y = np.zeros((2, 64, 64, 1)), np.stack([pixels(), pixels(infected=40)])
    plan = Plan(lambda rng: (x[1], y[1]), (x, y), "tversky+ce", "hu-window", "body", {}, {}, {})
    settings = Settings("empty-slices", 1, 8, architecture="slice-classifier")
    ours = of_slices(plan, settings)
    assert ours.draw(None)[1].tolist() == [1, 1]
    assert ours.validation[1].tolist() == [[0, 1], [1, 1]]
    assert ours.loss == "bce"
    with pytest.raises(UsageError, match="--architecture slice-classifier, got unet"):
        of_slices(plan, replace(settings, architecture="unet"))


def test_card_of_another_task_in_a_network_s_place_is_refused(tmp_path):
    """An infection network by the name of lungs.json would call infection lungs, all night."""
    pytest.importorskip("keras")
    import keras

    from covct.architectures import ARCHITECTURES
    from covct.networks.segment import load_keras_networks

    keras.utils.set_random_seed(0)
    ARCHITECTURES["slice-classifier"](size=16, base_filters=1, depth=1).save(tmp_path / "lungs.keras")
    card = threshold_card("empty-slices", file_sha256(tmp_path / "lungs.keras")).replaced(
        name="lungs",
        size=16,
        weights="lungs.keras",
        architecture={"name": "slice-classifier", "arguments": {"size": 16, "base_filters": 1, "depth": 1}},
    )
    write_card(card, tmp_path)
    with pytest.raises(WeightsError, match="task is 'empty-slices', wanted 'lungs'"):
        load_keras_networks(tmp_path)
