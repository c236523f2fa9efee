"""Several classes: learned only where somebody told them apart, and read as the task's probability at inference."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from covct.data.published import find_sources, read_lung_slices, read_medseg_slices
from covct.data.slices import UNKNOWN_CLASS
from covct.errors import UsageError
from covct.networks.network import Network, is_of_task, probabilities
from covct.training.samples import classes
from covct.training.samples.inputs import card_fields
from covct.training.settings import Settings
from covct.voxels.preprocess import body_field_of_view
from support.chests import chest, equalised, save_medseg, save_pair, save_slices
from support.thresholds import threshold_card

SETTINGS = Settings(
    "infection", epochs=1, samples_per_epoch=8, batch_size=4, base_filters=2, split="0.34", size=32, classes=True
)


@pytest.mark.slow
def test_a_network_of_infection_classes_is_trained_and_runs_from_its_card(tmp_path):
    """No restorer is needed: the 8-bit CLAHE slices tell no classes apart, and are not read."""
    pytest.importorskip("keras")
    from covct.networks.segment import load_network, make_network
    from covct.training.loop import train

    save_medseg(tmp_path / "data" / "medseg")
    save_slices(tmp_path / "data" / "ma", ["a", "b"], equalised)
    card = train(SETTINGS, tmp_path / "data", tmp_path / "out")
    assert list(card.training["sources"]) == ["medseg"]
    assert card.classes == ["background", "ground-glass", "consolidation", "effusion"]
    assert card.architecture.arguments == {"size": 32, "outputs": 4, "activation": "softmax", "base_filters": 2}
    loaded, network = load_network(tmp_path / "out" / "infection.json")
    hu = chest(5)[0]
    view, seen = body_field_of_view(hu, (4.0, 4.0)), []
    ours = make_network(loaded.replaced(flip=False), network)

    def predict(slices):
        seen.append(slices)
        return ours.predict(slices)

    out = probabilities(Network(ours.card, predict), hu, view, np.ones(6, bool))
    said = np.asarray(network.predict_on_batch(np.concatenate(seen)))
    np.testing.assert_allclose(out, said[..., 1] + said[..., 2], atol=2e-3)


def test_right_and_left_lung_keep_their_sides_however_slices_are_changed(tmp_path):
    pytest.importorskip("keras")
    from covct.training.samples.plans import plan_lungs
    from covct.training.samples.reading import Reading

    for seed in range(3):
        save_pair(tmp_path / "clean", f"c{seed}", seed, False, ("lungs",))
    settings = replace(SETTINGS, task="lungs", augment="full")
    plan = plan_lungs(Reading(find_sources(tmp_path)), settings)
    seen = 0
    for seed in range(30):
        _, truth = plan.draw(np.random.default_rng(seed))
        columns = [np.nonzero(truth[..., 0] == side)[1] for side in (1, 2)]
        if all(one.size for one in columns):
            seen += 1
            assert columns[0].mean() < columns[1].mean(), "the patient's right is on the left of the picture"
    assert seen > 10
    assert set(np.unique(plan.validation[1][..., 0])) == {0, 1, 2}
    assert card_fields(settings)["classes"] == ["background", "right-lung", "left-lung"]


def test_slices_without_classes_are_left_out_and_said(tmp_path, caplog):
    pytest.importorskip("keras")
    from covct.training.samples.plans import plan_infection
    from covct.training.samples.reading import Reading

    part = read_medseg_slices(save_medseg(tmp_path, with_classes=(0, 2)), with_classes=True)
    with caplog.at_level(logging.WARNING):
        [kept] = classes.with_classes([part], "infection")
    assert kept.patients == ("medseg_0", "medseg_2")
    assert "1 of 3 slices of medseg: no classes" in caplog.text
    assert set(np.unique(kept.classes)) == {0, 1, 2, 3}
    with pytest.raises(UsageError, match="no slice distinguishes right-lung, left-lung"):
        classes.with_classes([part], "lungs")
    with pytest.raises(UsageError, match="no slice distinguishes ground-glass, consolidation, effusion; wanted masks"):
        plan_infection(Reading({"ma": tmp_path}), SETTINGS)
    with pytest.raises(UsageError, match="GT-multiclass"):
        classes.with_classes([read_medseg_slices(tmp_path)], "infection")


def test_of_people_without_covid_only_aerated_lung_is_known(tmp_path):
    """Their other pixels may be an effusion or a tumour: not in the loss."""
    for seed in range(2):
        save_pair(tmp_path / "clean", f"c{seed}", seed, False, ("lungs",))
    medseg = read_medseg_slices(save_medseg(tmp_path / "medseg"), with_classes=True)
    clean, _ = classes.with_classes([read_lung_slices(tmp_path / "clean"), medseg], "infection")
    assert not classes.shows_classes(clean)
    label, known = classes.truth_of_classes(clean.classes)
    assert known.any() and not label.any()
    assert np.array_equal(known, (clean.lungs == 1) & (clean.infection == 0))
    assert (clean.classes[~known] == UNKNOWN_CLASS).all()


def test_the_threshold_of_classes_is_chosen_by_what_counts_for_the_task():
    """An effusion that is called no infection is no miss."""
    pytest.importorskip("keras")
    from covct.training.threshold import choose_threshold

    card = threshold_card("infection").replaced(classes=list(classes.CLASSES["infection"]))
    label = np.random.default_rng(0).integers(0, 4, (2, 16, 16))
    assert is_of_task(card, np.arange(4)).tolist() == [False, True, True, False]
    assert is_of_task(threshold_card("infection"), np.array([0, 1.0])).tolist() == [False, True]
    perfect = Network(card, lambda slices: np.isin(slices[..., 0], (1, 2)).astype(np.float32))
    truth = np.stack([label, np.ones_like(label)], -1).astype(np.float32)
    _, scores = choose_threshold(perfect, (label[..., None].astype(np.float32), truth))
    assert scores["validation_dice"] == 1.0
