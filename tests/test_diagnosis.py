"""COVID-19 or other: by source group, beside what shows no disease; and how a scan tells it. It is not a diagnosis."""

import csv
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from covct.commands.train_options import Asked, Task
from covct.commands.training import check
from covct.data.classified import read_classified, read_picture
from covct.errors import UsageError, WeightsError
from covct.networks.cards import read_card
from covct.networks.diagnosis import NOTICE, Diagnosis, DiagnosisCard, Head, read_diagnosis
from covct.networks.features import Learned
from covct.pipeline.likeness import Likeness, suspicion_of
from covct.results.summary import write_summary
from covct.unattended.plan import card_hashes
from support.line import night, segment
from support.thresholds import call_infection, make_networks, make_weights

SHA = "0" * 64


def heads(encoder=SHA, **changes):
    """Two features of mean 1 and 2: the first head doubles the first, the others lean to either side."""
    given = {
        "encoder_sha256": encoder, "mean": [1.0, 2.0], "scale": [2.0, 1.0], "slope": 1.0, "offset": 0.0, "level": 0.9,
        "heads": [Head(coefficients=[2.0, 0.0], intercept=lean) for lean in (0.0, -1.0, 1.0)],
        "scores": {"auc_whole": 0.8, "auc_borders": 0.75}, "training": {}, "licence": "none", "limits": "few sources",
    }  # fmt: skip
    return DiagnosisCard(**{**given, **changes})


def table(folder, rows, columns="picture,class,source_group"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pictures.csv").write_text("\n".join([columns, *rows]) + "\n")
    return folder


def pictures(folder, lettered=True, count=24):
    """Noise; a white letter stands in the corner of the class covid, if at all. Four pictures a group."""
    rng, rows = np.random.default_rng(0), []
    folder.mkdir(parents=True)
    for number in range(count):
        name, picture = ("covid", "other")[number % 2], rng.integers(40, 90, (40, 48)).astype(np.uint8)
        if lettered and name == "covid":
            picture[1:4, 1:6] = 255
        cv2.imwrite(str(folder / f"{number}.png"), picture)
        rows.append(f"{number}.png,{name},{name}{number // 8}")
    return table(folder, rows)


# Pictures


def test_a_picture_lies_in_the_middle_of_a_square(tmp_path):
    cv2.imwrite(str(tmp_path / "one.png"), np.full((10, 20), 255, np.uint8))
    picture, there = read_picture(tmp_path / "one.png", 16)
    assert there[4:12].all() and there.sum() == 8 * 16
    assert (picture[there].min(), picture[~there].max()) == (1, 0)


@pytest.mark.parametrize(
    ("rows", "columns", "said"),
    [
        ([], "picture,class,source_group", "no pictures.csv"),
        (["a.png,covid,1"], "picture,class,paper", "the column source_group is missing"),
        (["a.png,flu,1"], "picture,class,source_group", "line 2: the class is none of covid, other"),
        (["b.png,covid,1"], "picture,class,source_group", "line 2: the picture it names is not there"),
        (["a.png,covid,1", "a.png,covid,2"], "picture,class,source_group", "0 source groups of the class other"),
    ],
)
def test_a_table_that_cannot_be_learned_from_is_refused(rows, columns, said, tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(UsageError, match=said):
        read_classified(table(tmp_path, rows, columns))


# Heads


def test_heads_tell_a_probability_and_where_others_put_it():
    """Features 3 and 2 are one deviation above and 0: a logit of 2."""
    covid, (low, high) = Diagnosis(heads(), SHA).of(np.array([[2.0, 9.0], [4.0, -5.0]]))
    assert covid == pytest.approx(1 / (1 + np.exp(-2)))
    assert 1 / (1 + np.exp(-1)) < low < covid < high < 1 / (1 + np.exp(-3))


def test_heads_of_another_network_are_refused(tmp_path):
    card = read_card(make_weights(tmp_path / "weights") / "infection.json")
    assert read_diagnosis(tmp_path, card) is None
    for given, said in [
        (heads(), "fitted to another infection network"),
        (heads(card.sha256, scale=[1.0]), "do not fit each other"),
        (heads(card.sha256, scale=[1.0, 0.0]), "do not fit each other"),
        (heads(card.sha256, scores={"auc_whole": 0.8}), "wanted auc_whole and auc_borders of 0 to 1"),
    ]:
        (tmp_path / "diagnosis.json").write_text(given.as_json())
        with pytest.raises(WeightsError, match=said):
            read_diagnosis(tmp_path, card)
    (tmp_path / "diagnosis.json").write_text("{}")
    with pytest.raises(WeightsError, match="not what covct train diagnosis writes: encoder_sha256 is missing"):
        read_diagnosis(tmp_path, card)


# Training


@pytest.fixture
def training():
    pytest.importorskip("keras")
    from covct.training import diagnosis

    return diagnosis


def test_source_groups_stay_together_and_weigh_the_same(training):
    label = np.array([True] * 6 + [False] * 4)
    groups = np.array([*"aaaabc", *"xxyz"])
    fold = training.folds_of(label, groups, 0)
    assert all(len(set(fold[groups == group].tolist())) == 1 for group in "abcxyz")
    weight = training.weights_of(label, groups)
    assert {group: weight[groups == group].sum().round(9) for group in "abcxyz"} == dict.fromkeys("abcxyz", 1.666666667)


def test_newton_finds_the_logistic_regression(training):
    rng = np.random.default_rng(0)
    seen, weight = rng.normal(size=(300, 3)), rng.uniform(0.5, 2, 300)
    label = (rng.random(300) < 1 / (1 + np.exp(-seen[:, 0]))).astype(float)
    theta = training.logistic(seen, label, weight, 2.0)
    error = weight * (1 / (1 + np.exp(-(seen @ theta[:3] + theta[3]))) - label)
    np.testing.assert_allclose(seen.T @ error + 2.0 * theta[:3], 0, atol=1e-6)
    assert error.sum() == pytest.approx(0, abs=1e-4)


def test_auc_counts_ties_by_half(training):
    label = np.array([True, True, False, False])
    assert training.auc(np.array([3.0, 1.0, 1.0, 0.0]), label) == 0.875
    assert training.auc(np.array([3.0, 1.0, 1.0, 0.0]), label, np.array([2.0, 0.0, 1.0, 1.0])) == 1


@pytest.mark.slow
def test_letters_in_the_borders_are_found_out(training, tmp_path):
    """The only difference lies in a corner: what is told of the whole picture is owed to it, and the scores say so."""
    import keras

    from covct.architectures import ARCHITECTURES
    from covct.networks.cards import file_sha256, write_card
    from support.thresholds import threshold_card

    keras.utils.set_random_seed(1)
    arguments = {"size": 32, "base_filters": 4, "depth": 2}
    ARCHITECTURES["unet"](**arguments).save(tmp_path / "infection.keras")
    card = threshold_card("infection", file_sha256(tmp_path / "infection.keras"))
    card = card.replaced(architecture={"name": "unet", "arguments": arguments}, size=32)
    path, out = write_card(card, tmp_path), tmp_path / "out"
    told = training.train_diagnosis(pictures(tmp_path / "data"), out, path)
    assert told.scores["auc_whole"] > 0.9 and told.scores["auc_borders"] > 0.9
    again = read_diagnosis(out, card)
    assert (again.card, len(again.card.mean), told.training["covid_groups"]) == (told, 4 + 8, 3)


# Scans


def describing(networks, diagnosis):
    """The threshold network, with two features that are always the same, as they were learned."""

    def describe(slices):
        return call_infection(slices), np.tile([3.0, 2.0], (len(slices), 1))

    learned = Learned(np.array([3.0, 2.0]), np.eye(2), 1.0)
    seeing = replace(networks.infection, describe=describe, learned=learned)
    return replace(networks, infection=seeing, diagnosis=diagnosis)


def test_a_scan_tells_its_suspicion_and_that_it_is_no_diagnosis(phantom_series, tmp_path):
    networks = describing(make_networks(), Diagnosis(heads(), SHA))
    out = tmp_path / "out"
    folder = segment(phantom_series, out, make_weights(tmp_path / "weights"), networks, ("page",))
    told = json.loads((folder / "report.json").read_text())["suspicion"]
    assert (told["covid"], told["auc_borders"], told["notice"]) == (0.881, 0.75, NOTICE)
    assert told["interval"][0] < 0.881 < told["interval"][1]
    page = (folder / "study.html").read_text()
    assert f"{NOTICE} Like published pictures of COVID-19: 0.88 of 1" in page
    write_summary(out)
    [row] = csv.DictReader((out / "summary.csv").open())
    assert float(row["suspicion_not_a_diagnosis"]) == 0.881


@pytest.mark.parametrize(("slices", "at", "told"), [(10, 3.0, True), (10, 9.0, False), (9, 3.0, False)])
def test_a_scan_that_may_look_like_nothing_learned_tells_nothing(slices, at, told):
    likeness = Likeness(Learned(np.array([3.0, 2.0]), np.eye(2), 1.0))
    likeness.notice(np.tile([at, 2.0], (slices, 1)))
    assert (suspicion_of(Diagnosis(heads(), SHA), likeness) is not None) == told
    unknown = Likeness(None)
    unknown.notice(np.tile([3.0, 2.0], (slices, 1)))
    assert suspicion_of(Diagnosis(heads(), SHA), unknown) is None


def test_other_options_of_training_are_refused_not_ignored(tmp_path):
    asked = Asked(Task.diagnosis, tmp_path, tmp_path / "out", seed=1)
    check(asked)
    with pytest.raises(UsageError, match="--epochs means nothing to it"):
        check(replace(asked, epochs=3))


def test_a_scan_without_such_weights_tells_nothing(phantom_series):
    done = night(phantom_series, networks=describing(make_networks(), None), formats=("page",))
    [report] = done.out.glob("*/*/report.json")
    assert json.loads(report.read_text())["suspicion"] is None
    assert NOTICE not in (report.parent / "study.html").read_text()


def test_the_heads_are_part_of_the_work_key_and_nothing_is_where_there_are_none(tmp_path):
    folder = make_weights(tmp_path / "weights")
    before = card_hashes(folder)
    assert set(before) == {"lungs", "infection"}
    (folder / "diagnosis.json").write_text(heads().as_json())
    assert set(card_hashes(folder)) - set(before) == {"diagnosis"}
