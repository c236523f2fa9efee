"""Scans that look like nothing learned: features of both runtimes, their distance, the warning, no interval."""

from dataclasses import replace

import numpy as np
import pytest

from covct.commands import scan
from covct.errors import WeightsError
from covct.networks.cards import default_weights_folder, file_sha256, read_card, write_card
from covct.networks.features import Learned, fitted, read_learned
from covct.networks.network import Network, looks
from covct.pipeline.likeness import FEWEST_SLICES, Likeness, unlike
from support.running import invoke, read_json
from support.thresholds import calibrated, call_infection, make_networks, make_weights, threshold_card


def samples(count=400, width=6, seed=0):
    """Features of which two always go together, and one never changes."""
    rng = np.random.default_rng(seed)
    found = rng.normal(5, 0.1, (count, width)).astype(np.float32)
    found[:, 1] = 2 * found[:, 0] + rng.normal(0, 0.001, count)
    found[:, 5] = 3
    return found


def learned_from(features, limit=2.0):
    table = fitted(features)
    return Learned(table[0], table[1:], limit)


def test_distances_are_about_one_in_training_and_large_where_what_goes_together_does_not():
    learned = learned_from(samples())
    assert np.median(learned.distances(samples(seed=1))) == pytest.approx(0.85, abs=0.15)
    usual, odd = samples(1, seed=2), samples(1, seed=2)
    usual[0, :2], odd[0, :2] = (5.1, 10.2), (5.1, 10.0)  # each as often seen, never both
    assert learned.distances(odd)[0] > 1.4 * learned.distances(usual)[0]
    assert np.isfinite(learned.distances(np.full((1, 6), 1e6))).all()


def test_few_samples_of_many_features_still_make_a_distance():
    rng = np.random.default_rng(0)
    learned = learned_from(rng.normal(size=(30, 100)))
    assert np.median(learned.distances(rng.normal(size=(50, 100)))) == pytest.approx(1, abs=0.2)


# The file beside the weights


@pytest.fixture
def folder(tmp_path):
    """A weights folder whose infection card knows what was learned."""
    folder = make_weights(tmp_path / "weights")
    np.save(folder / "infection.npy", fitted(samples()))
    name_features(folder)
    return folder


def name_features(folder, **changes):
    card = read_card(folder / "infection.json")
    told = {
        "file": "infection.npy", "sha256": file_sha256(folder / "infection.npy"), "source_sha256": card.sha256,
        "limit": 2.0, "samples": 400, "source": "a test", "ranges": {"noise-hu": (1.0, 60.0)},
    }  # fmt: skip
    write_card(card.replaced(features=told | changes), folder)


def test_what_was_fitted_is_read_again(folder):
    path = folder / "infection.json"
    learned = read_learned(path, read_card(path))
    np.testing.assert_array_equal(
        learned.distances(samples(9, seed=3)), learned_from(samples()).distances(samples(9, seed=3))
    )
    assert learned.limit == 2.0
    assert read_learned(folder / "lungs.json", read_card(folder / "lungs.json")) is None, "older cards say nothing"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "the features learned cannot be read"),
        (np.zeros((6, 6), np.float32), "one row more than columns"),
        (np.zeros((7, 6)), "float64, wanted float32"),
        (np.full((7, 6), np.nan, np.float32), "not finite"),
        (b"PK", "not a file of features"),
        (b"cut", "bytes, 168 declared"),
        (b"altered", "sha256 is .*: altered features"),
    ],
)
def test_a_file_that_is_no_such_table_is_refused(folder, content, sentence):
    path = folder / "infection.npy"
    whole = path.read_bytes()
    if content is None:
        path.unlink()
    elif isinstance(content, bytes):
        path.write_bytes({b"cut": whole[:-4], b"altered": whole + b"x"}.get(content, content))
    else:
        np.save(path, content)
    if content is not None and content != b"altered" if isinstance(content, bytes) else content is not None:
        name_features(folder)
    with pytest.raises(WeightsError, match=sentence) as raised:
        read_learned(folder / "infection.json", read_card(folder / "infection.json"))
    assert raised.value.exit_code == 10 and "\n" not in str(raised.value)


def test_features_of_other_weights_are_refused(folder):
    name_features(folder, source_sha256="0" * 64)
    with pytest.raises(WeightsError, match="measured on other weights"):
        read_learned(folder / "infection.json", read_card(folder / "infection.json"))


# A scan


def describing(apart):
    """The threshold network, describing every slice as so many times the limit away."""
    learned = Learned(np.zeros(1, np.float32), np.ones((1, 1), np.float32), 0.5)
    card = threshold_card("infection")

    def describe(slices):
        return call_infection(slices), np.full((len(slices), 1), 0.5 * apart, np.float32)

    return Network(card, call_infection, (), describe, learned)


def test_only_the_first_straight_look_is_described():
    noticed = []
    network = describing(1.0)
    network = replace(network, card=network.card.replaced(flip=True), members=(describing(2.0),))
    slices = np.full((3, 8, 8, 1), 0.4, np.float32)
    assert len(looks(network, slices, noticed.append)) == 3
    assert [one.tolist() for one in noticed] == [[[0.5]] * 3]


def test_a_scan_is_judged_by_its_middle_slice_and_a_few_slices_are_not():
    likeness = Likeness(Learned(np.zeros(1, np.float32), np.ones((1, 1), np.float32), 2.0))
    likeness.notice(np.full((FEWEST_SLICES - 1, 1), 3.0))
    assert likeness.apart is None and unlike(likeness.apart) == []
    likeness.notice(np.full((2, 1), 300.0))
    assert likeness.apart == pytest.approx(1.5)
    assert [(one.slug, one.level) for one in unlike(1.5)] == [("out-of-distribution", "warned")]
    assert unlike(1.0) == []
    silent = Likeness(None)
    silent.notice(np.zeros((20, 1)))
    assert silent.apart is None


@pytest.mark.slow
def test_a_scan_unlike_what_was_learned_is_warned_of_and_has_no_interval(
    phantom_series, tmp_path, weights, monkeypatch
):
    reports = []
    for apart in (0.9, 1.2):
        made = calibrated(replace(make_networks(), infection=describing(apart)), (-1.0,) * 10 + (1.0,) * 10)
        monkeypatch.setattr(scan, "networks_of", lambda *_, made=made: lambda: made)
        out = tmp_path / str(apart)
        assert invoke("scan", phantom_series, "--out", out, "--weights", weights, "--formats", "seg").exit_code == 0
        [path] = out.glob("*/*/report.json")
        reports.append(read_json(path))
    near, far = reports
    assert (near["uncertainty"]["unlikeness"], far["uncertainty"]["unlikeness"]) == (0.9, 1.2)
    warned = [[one["slug"] for one in report["warnings"]].count("out-of-distribution") for report in reports]
    assert warned == [0, 1]
    assert near["regions"]["lungs"]["infection_percent"] == far["regions"]["lungs"]["infection_percent"]
    assert near["regions"]["lungs"]["infection_percent_interval"] is not None
    assert far["regions"]["lungs"]["infection_percent_interval"] is None
    assert "looks like nothing" in far["uncertainty"]["figures"]["infection_percent"]["reason"]


@pytest.mark.slow
def test_both_runtimes_describe_a_slice_alike():
    pytest.importorskip("keras")
    pytest.importorskip("openvino")
    from covct.networks.converted import load_converted_networks
    from covct.networks.segment import load_keras_networks

    folder = default_weights_folder()
    card = read_card(folder / "infection.json")
    rng = np.random.default_rng(0)
    seen = rng.random((5, 24, 24, card.channels), np.float32).repeat(card.size // 24, 1).repeat(card.size // 24, 2)
    here, there = load_converted_networks(folder).infection, load_keras_networks(folder).infection
    (said, features), (exact, exactly) = here.describe(seen), there.describe(seen)
    assert features.shape == exactly.shape == (5, len(here.learned.mean))
    assert np.abs(features - exactly).max() < 0.02 * np.abs(exactly).max()
    assert here.learned.distances(features) == pytest.approx(there.learned.distances(exactly), rel=0.1)
    np.testing.assert_array_equal(here.predict(seen), said)
    np.testing.assert_allclose(there.predict(seen), exact, atol=1e-6)
    assert here.describe(seen[:0])[1].shape == there.describe(seen[:0])[1].shape == (0, features.shape[1])
