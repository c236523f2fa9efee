"""Intervals beside figures: made of the networks' own hesitation, scaled by what patients with truth taught."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from covct.commands import scan
from covct.dicom.sentences import remarks
from covct.errors import WeightsError
from covct.networks.cards import Card, ensemble, file_sha256, read_card, write_card
from covct.networks.network import Network, looks, predict, probabilities
from covct.phantom.chest import make_phantom
from covct.phantom.dicom import write_dicom_series
from covct.pipeline.burden import measure_burden, severity
from covct.pipeline.conformal import LEVEL, Stated
from covct.pipeline.uncertainty import (
    FLOOR_ML,
    FLOOR_PERCENT,
    Tally,
    band,
    classes,
    doubts,
    next_class,
    settings_of,
    sides_in_view,
    stated_figures,
    tally_lungs,
    uncertainty,
    widths,
)
from covct.results import study_page
from covct.unattended.plan import card_hashes
from covct.voxels.preprocess import FieldOfView
from support.example_report import SCHEMA
from support.running import invoke, read_json
from support.thresholds import FIGURES, calibrated, call_infection, make_networks, make_weights, threshold_card

OLDER = {"factor": 2.0, "level": 0.8, "looks": 1, "source": "eleven patients of a test"}


def some_lungs():
    """One slice: right lung in the left four columns, left lung in the right four. (1, 8, 8) uint8."""
    sides = np.ones((1, 8, 8), np.uint8)
    sides[:, :, 4:] = 2
    return sides


def test_the_band_lies_around_the_threshold_on_the_scale_of_odds():
    assert band(0.5) == pytest.approx((1 / (1 + math.e), math.e / (1 + math.e)))
    low, high = band(0.9)
    assert low < 0.9 < high < 1
    assert 0.9 - low > high - 0.9, "near certainty the scale is finer"


def test_a_network_that_does_not_hesitate_has_no_width():
    tally = Tally.empty(0.5)
    sure = np.zeros((1, 8, 8))
    sure[0, :2] = 1.0
    tally.add([sure, sure], some_lungs())
    assert (tally.lungs.tolist(), tally.called.tolist()) == ([32, 32], [8, 8])
    assert widths(tally) == (0, 0)


def test_pixels_near_the_threshold_widen_the_side_they_are_on():
    tally = Tally.empty(0.5)
    one = np.zeros((1, 8, 8))
    one[0, 0] = 0.9  # sure
    one[0, 1] = 0.6  # called, and could be left out: 8 pixels
    one[0, 2, :4] = 0.4  # not called, and could be: 4 pixels, in the right lung alone
    tally.add([one], some_lungs())
    below, above = widths(tally)
    assert (below, above) == pytest.approx((100 * 8 / 64, 100 * 4 / 64))
    assert widths(tally, "left_lung") == pytest.approx((100 * 4 / 32, 0))


def test_looks_that_disagree_widen_both_sides():
    """One look calls 8 pixels, the other 16: a standard deviation of 8 / sqrt(2) pixels."""
    tally = Tally.empty(0.5)
    first, second = np.zeros((1, 8, 8)), np.zeros((1, 8, 8))
    first[0, :1], second[0, :2] = 1, 1
    tally.add([first, second], some_lungs())
    assert tally.by_look.sum(1).tolist() == [8, 16]
    below, above = widths(tally)
    assert above == pytest.approx(100 * 8 / math.sqrt(2) / 64)
    assert below == pytest.approx(100 * math.hypot(8, 8 / math.sqrt(2)) / 64), "half of it is near the threshold too"


def test_chunks_count_like_the_whole():
    rng = np.random.default_rng(0)
    all_looks = [rng.random((6, 8, 8)) for _ in range(3)]
    sides = np.repeat(some_lungs(), 6, axis=0)
    whole, parts = Tally.empty(0.55), Tally.empty(0.55)
    whole.add(all_looks, sides)
    for start in (0, 2, 5):
        stop = {0: 2, 2: 5, 5: 6}[start]
        parts.add([look[start:stop] for look in all_looks], sides[start:stop])
    assert widths(whole) == widths(parts)


def test_lungs_hesitate_at_their_border_and_not_at_their_vessels():
    sides, probability = np.zeros((1, 32, 32), np.uint8), np.zeros((1, 32, 32), np.float32)
    sides[0, 8:24, 8:24] = 1
    probability[0, 8:24, 8:24] = 0.95
    probability[0, 14:18, 14:18] = 0.1  # a vessel, filled by the postprocessing
    probability[0, 8] = np.where(sides[0, 8] > 0, 0.6, 0)  # 16 pixels of border that could be out
    probability[0, 24, 8:24] = 0.4  # 16 beyond it that could be in
    probability[0, 30, 30] = 0.4  # far away from any lung
    tally = tally_lungs(sides, probability, 0.5)
    assert widths(tally, "right_lung") == pytest.approx((100 * 16 / 256, 100 * 16 / 256))
    assert tally.lungs.tolist() == [256, 0]


def test_sides_come_to_the_network_s_pixels_without_a_third_label():
    lungs = np.zeros((2, 20, 20), np.uint8)
    lungs[:, :, :10], lungs[:, :, 10:] = 1, 2
    sides = sides_in_view(lungs, FieldOfView(9.5, 9.5, 30, 30), 15)
    assert sides.shape == (2, 15, 15)
    assert set(np.unique(sides)) == {0, 1, 2}
    assert (sides[0, 7, 3], sides[0, 7, 11], sides[0, 0, 0]) == (1, 2, 0)


def measured(networks, called_rows=2, folds=0):
    """Two slices of 64 voxels of lung a side, of which some rows are called, one of them in doubt."""
    lungs = np.repeat(some_lungs(), 2, axis=0)
    probability = np.zeros(lungs.shape)
    probability[:, :called_rows], probability[:, called_rows : called_rows + 1] = 0.9, 0.4
    tally = Tally.empty(0.5)
    tally.add([probability], lungs)
    burden = measure_burden(np.full(lungs.shape, -800), lungs, probability >= 0.5, 1000.0)
    border = tally_lungs(lungs, (lungs > 0).astype(np.float32), 0.5)
    return uncertainty(burden, border, [tally] * (1 + folds), networks)


def test_no_network_that_was_not_measured_has_an_interval(networks):
    sure = measured(networks)
    assert sure.intervals == dict.fromkeys(FIGURES)
    assert sure.guarantees["infection_percent"].reason == (
        "people measured with truth that the networks have not learned: 0 with opacity, 0 without; wanted 19 of each"
    )
    assert sure.guarantees["volume_ml"].reason.endswith("wanted 19")


def test_eighteen_people_are_too_few_and_nineteen_are_not(networks):
    errors = [error / 3 for error in range(-9, 10)]
    few, enough = (measured(calibrated(networks, some)) for some in (errors[:-1], errors))
    assert few.intervals["infection_percent"] is None
    assert few.guarantees["infection_percent"].people == 36
    assert few.intervals["volume_ml"] is not None, "a lung is there in everybody: 36 people"
    low, high = enough.intervals["infection_percent"]
    assert (low, high) == pytest.approx((25 - 3 * FLOOR_PERCENT, 25 + 3 * (12.5 + FLOOR_PERCENT)))
    made = enough.guarantees["infection_percent"]
    assert (made.level, made.guaranteed, made.people, made.people_without) == (0.9, 0.9, 38, 19)
    assert made.coverage == pytest.approx((0.774, 0.981), abs=0.001)
    ml = enough.intervals["infection_ml"]
    assert ml[1] == pytest.approx(32 + 3 * (1.28 * (12.5 + FLOOR_PERCENT) + FLOOR_ML)), "of errors in mL"


def test_folds_promise_nothing_of_figures_in_ml(networks):
    """The ensemble's volume is in them, beside errors of a fold's."""
    one = networks.infection
    folds = replace(networks, infection=replace(one, members=(Network(one.card, one.predict),)))
    made = measured(calibrated(folds, by_folds=True), folds=2).guarantees
    assert {name: told.level for name, told in made.items()} == dict.fromkeys(FIGURES, LEVEL)
    promised = [made[name].guaranteed for name in ("volume_ml", "infection_ml", "infection_percent")]
    assert promised == [None, None, 0.8]
    assert {told.coverage for told in made.values()} == {None}


def test_intervals_of_folds_are_told_without_a_band_of_coverage():
    given = {"level": 0.9, "people": 38, "coverage": None}
    report = {"warnings": [], "uncertainty": {"figures": {"infection_percent": given}, "source": "a test"}}
    told = [words for _, words in remarks(report, [])]
    assert "infection_percent: interval of level 0.9, of 38 people, measured on: a test" in told
    assert "(for people like the 38 measured). Measured on: a test." in study_page._about_intervals(report)


def test_each_figure_is_wrong_in_its_own_widths():
    lungs = np.repeat(some_lungs(), 2, axis=0)
    burden = measure_burden(np.full(lungs.shape, -800), lungs, lungs == 1, 1000.0)
    tally = Tally.empty(0.5)
    tally.add([(lungs == 1).astype(float)], lungs)
    stated = stated_figures(burden["lungs"], tally_lungs(lungs, (lungs > 0).astype(np.float32), 0.5), [tally])
    assert [stated[name][0].value for name in FIGURES] == [128, 64, 50]
    assert stated["infection_percent"][0] == Stated(50, FLOOR_PERCENT, FLOOR_PERCENT)


def test_networks_of_an_ensemble_say_their_own_share():
    """The mean calls two rows of eight, the first network one, the second three."""
    lungs = np.repeat(some_lungs(), 2, axis=0)
    burden = measure_burden(np.full(lungs.shape, -800), lungs, np.zeros_like(lungs, bool), 1000.0)
    burden = {"lungs": replace(burden["lungs"], infection_percent=26.0)}
    tallies = []
    for rows in (2, 1, 3):
        tallies.append(Tally.empty(0.5))
        probability = np.zeros(lungs.shape)
        probability[:, :rows] = 1
        tallies[-1].add([probability], lungs)
    stated = stated_figures(burden["lungs"], Tally.empty(0.5), tallies)
    assert [one.value for one in stated["infection_percent"]] == [26.0, 13.5, 38.5]


@pytest.mark.parametrize(
    "changes",
    [{"networks": ["1" * 64, "2" * 64]}, {"thresholds": [0.5, 0.31]}, {"by_folds": True}],
    ids=["other networks", "another threshold", "folds that are not there"],
)
def test_people_measured_with_other_networks_say_nothing(networks, changes):
    sure = measured(calibrated(networks, **changes))
    assert sure.intervals == dict.fromkeys(FIGURES)
    assert "people were measured with other" in sure.guarantees["infection_percent"].reason


@pytest.mark.parametrize(
    "changes",
    [
        {"flip": True},
        {"recipe": {"name": "hu-window", "arguments": {"low": -1000, "high": 300}}},
        {"field_of_view": "whole"},
        {"least_air_mm2": 900.0},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_people_measured_by_other_settings_say_nothing(networks, changes):
    """The same weights at the same threshold, which call something else."""
    card = calibrated(networks).infection.card
    sure = measured(replace(networks, infection=replace(networks.infection, card=card.replaced(**changes))))
    assert sure.intervals == dict.fromkeys(FIGURES)
    assert "people were measured with other settings" in sure.guarantees["volume_ml"].reason


def test_people_measured_with_another_empty_slice_network_say_nothing(networks):
    gate = Network(threshold_card("empty-slices"), len)
    with_it = calibrated(replace(networks, empty_slices=gate))
    other = replace(gate, card=gate.card.replaced(threshold=0.7))
    for changed in (None, other):
        assert measured(replace(with_it, empty_slices=changed)).intervals == dict.fromkeys(FIGURES)
    assert None not in measured(with_it).intervals.values()
    assert None not in measured(calibrated(networks, settings=None)).intervals.values(), "of an earlier version"


def test_the_shipped_people_are_those_of_the_shipped_cards():
    folder = Path(__file__).parents[1] / "weights"
    lungs, infection = (read_card(folder / f"{task}.json") for task in ("lungs", "infection"))
    assert infection.calibration.settings == settings_of(lungs, infection, None)


def test_an_older_factor_is_read_and_promises_nothing(tmp_path, networks):
    """It held less than it said."""
    make_weights(tmp_path / "weights")
    path = tmp_path / "weights" / "infection.json"
    told = read_json(path)
    del told["calibration"]
    path.write_text(json.dumps({**told, "uncertainty": OLDER}))
    card = read_card(path)
    assert (card.uncertainty.factor, card.calibration) == (2.0, None)
    older = replace(networks, infection=replace(networks.infection, card=card))
    assert measured(older).intervals == dict.fromkeys(FIGURES)


def test_nearest_class_and_the_way_to_it():
    near = next_class(4.0)
    assert (near.number, near.boundary_percent, near.distance_percent) == (2, 5, pytest.approx(1))
    near = next_class(26.0)
    assert (near.number, near.boundary_percent, near.distance_percent) == (2, 25, pytest.approx(1))
    for percent in (0.0, 5.0, 24.99, 25.0, 60.0, 75.0, 100.0):
        assert abs(next_class(percent).number - severity(percent)[0]) == 1


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        ((1.0, 4.9), None),
        ((4.0, 6.0), "severity class 1 to 2"),
        ((30.0, 49.0), None),
        ((26.0, 47.0), "between 26.0 and 47.0 %"),
        ((10.0, 80.0), "severity class 2 to 5"),
        (None, None),
    ],
)
def test_confidence_is_low_across_a_boundary_or_where_the_interval_is_wide(interval, said):
    found = doubts(interval)
    assert [one.slug for one in found] == ([] if said is None else ["low-confidence"])
    if said:
        assert said in found[0].message
        assert "90 % interval" in found[0].message


@pytest.mark.parametrize(
    "wrong",
    [
        {"uncertainty": {"factor": 2}},
        {"uncertainty": 3},
        {"calibration": {"people": []}},
        {
            "calibration": {
                "networks": [],
                "thresholds": [],
                "by_folds": False,
                "source": "x",
                "people": [{"errors": {}}],
            }
        },
        {"calibration": [1]},
    ],
)
def test_a_card_with_an_odd_calibration_is_refused(tmp_path, wrong):
    make_weights(tmp_path / "weights")
    path = tmp_path / "weights" / "infection.json"
    path.write_text(json.dumps({**read_json(path), **wrong}))
    with pytest.raises(WeightsError, match=next(iter(wrong))):
        read_card(path)


def halves(value):
    """A network that calls the given probability everywhere in the upper half of the slice."""

    def called(slices):
        out = np.zeros(slices.shape[:3], np.float32)
        out[:, : slices.shape[1] // 2] = value
        return out

    return called


def test_members_and_mirrors_are_looks_and_their_mean_is_the_probability():
    card = threshold_card("infection").replaced(size=16)
    network = Network(card.replaced(flip=True), halves(0.8), (Network(card, halves(0.2)),))
    assert network.looks == 3
    slices = np.ones((2, 16, 16, 1), np.float32)
    seen = looks(network, slices)
    assert [round(float(one.max()), 3) for one in seen] == [0.8, 0.8, 0.2]
    assert predict(network, slices).max() == pytest.approx(0.6)
    told = []
    mean = probabilities(
        network, np.zeros((3, 16, 16)), FieldOfView(7.5, 7.5, 16, 16), np.array([True, False, True]),
        watch=lambda indices, all_looks: told.append((indices.tolist(), len(all_looks))),
    )  # fmt: skip
    assert told == [([0, 2], 3)]
    assert mean[:, 0, 0].tolist() == pytest.approx([0.6, 0, 0.6], abs=1e-3)


def test_members_are_found_in_the_order_of_their_numbers(tmp_path):
    folder = make_weights(tmp_path / "weights")
    for name in ("infection-fold-10", "infection-fold-2", "infection-fold-x", "lungs-fold-1"):
        (folder / f"{name}.json").write_text("{}")
    assert [path.stem for path in ensemble(folder, "infection")] == [
        "infection",
        "infection-fold-2",
        "infection-fold-10",
    ]


def test_another_fold_is_another_work_key(tmp_path):
    folder = make_weights(tmp_path / "weights")
    before = card_hashes(folder)
    (folder / "infection-fold-1.keras").write_bytes(b"fold")
    sha256 = file_sha256(folder / "infection-fold-1.keras")
    card = threshold_card("infection", sha256).replaced(name="infection-fold-1", weights="infection-fold-1.keras")
    write_card(card, folder)
    assert set(card_hashes(folder)) - set(before) == {"infection-fold-1"}


@pytest.mark.slow
def test_an_ensemble_of_real_networks_loads_and_a_foreign_member_is_refused(tmp_path):
    from covct.architectures import ARCHITECTURES
    from covct.networks.segment import load_keras_networks

    arguments = {"size": 16, "base_filters": 2}
    for name in ("lungs", "infection", "infection-fold-1"):
        ARCHITECTURES["unet"](**arguments).save(tmp_path / f"{name}.keras")
        card = Card(
            name=name, task=name.split("-")[0], architecture={"name": "unet", "arguments": arguments},
            recipe={"name": "hu-window", "arguments": {"low": -1000, "high": 200}}, field_of_view="body", size=16,
            threshold=0.5, weights=f"{name}.keras", sha256=file_sha256(tmp_path / f"{name}.keras"), licence="none",
        )  # fmt: skip
        write_card(card, tmp_path)
    networks = load_keras_networks(tmp_path)
    assert (networks.lungs.looks, networks.infection.looks) == (1, 2)
    slices = np.random.default_rng(0).random((2, 16, 16, 1), np.float32)
    first, second = looks(networks.infection, slices)
    assert np.abs(first - second).max() > 1e-4, "two networks, not one twice"
    np.testing.assert_allclose(predict(networks.infection, slices), (first + second) / 2, atol=1e-6)
    write_card(card.replaced(recipe={"name": "clahe", "arguments": {}}), tmp_path)
    with pytest.raises(WeightsError, match=r"infection-fold-1\.json: recipe"):
        load_keras_networks(tmp_path)


def hesitant(slices):
    """The threshold network with half of its calls in doubt: those of the upper half of the slice."""
    out = call_infection(slices)
    out[:, : out.shape[1] // 2] *= 0.6
    return out


@pytest.fixture
def doubtful_report(phantom_series, tmp_path, weights, monkeypatch):
    """A scan through the command line: the report, and what the terminal said."""
    made = make_networks()
    made = calibrated(
        replace(made, infection=Network(made.infection.card, hesitant)), errors=(-1.0,) * 10 + (1.0,) * 10
    )
    monkeypatch.setattr(scan, "networks_of", lambda *_: lambda: made)
    result = invoke("scan", phantom_series, "--out", tmp_path / "out", "--weights", weights)
    assert result.exit_code == 0, result.output
    [path] = (tmp_path / "out").glob("*/*/report.json")
    return read_json(path), result.stderr


@pytest.mark.slow
def test_the_report_puts_intervals_beside_its_figures_and_says_what_they_are_worth(doubtful_report):
    report, terminal = doubtful_report
    assert not list(Draft202012Validator(SCHEMA).iter_errors(report))
    region = report["regions"]["lungs"]
    for figure in FIGURES:
        low, high = region[f"{figure}_interval"]
        assert low <= region[figure] <= high
        assert report["regions"]["left_lung"][f"{figure}_interval"] is None, "nobody measured it"
    low, high = region["infection_percent_interval"]
    assert region["infection_percent"] - low > 10 * (high - region["infection_percent"]), "it could only be less"
    sure = report["uncertainty"]
    assert sure["looks"] == 1
    assert (sure["calibration"], sure["source"]) == (None, "people of a test")
    made = sure["figures"]["infection_percent"]
    assert (made["people"], made["people_without"], made["level"], made["reason"]) == (40, 20, LEVEL, None)
    assert (sure["lowest_class"], sure["highest_class"]) == classes((low, high))
    assert sure["low_confidence"] is ("low-confidence" in [warning["slug"] for warning in report["warnings"]])
    percent = region["infection_percent"]
    digits = 0 if high - low >= 10 else 1
    assert f"{percent:.{digits}f} % ({low:.{digits}f}–{high:.{digits}f}) opacity" in terminal


@pytest.mark.slow
def test_doubt_about_the_result_refuses_nothing_even_when_strict(tmp_path, weights, monkeypatch):
    """`--strict` judges the input. Else a patient at 4.9 % would never get a result."""
    thin = make_phantom(60, 96, 96, pixel_spacing_mm=(4.0, 4.0), seed=1)
    write_dicom_series(thin, tmp_path / "thin")
    made = make_networks()
    made = replace(made, infection=Network(made.infection.card, hesitant))
    made = calibrated(made, errors=(-200.0,) * 10 + (200.0,) * 10)
    monkeypatch.setattr(scan, "networks_of", lambda *_: lambda: made)
    result = invoke("scan", tmp_path / "thin", "--out", tmp_path / "out", "--weights", weights, "--strict", "--json")
    assert result.exit_code == 0, result.output
    [done] = [event for event in map(json.loads, result.stdout.splitlines()) if event["event"] == "done"]
    assert "low-confidence" in done["warnings"]
    assert done["infection_percent_interval"][0] == 0


def test_no_lung_has_no_interval_of_its_share(networks):
    empty = np.zeros((1, 4, 4), np.uint8)
    burden = measure_burden(np.zeros((1, 4, 4)), empty, np.zeros((1, 4, 4), bool), 1.0)
    flipping = calibrated(replace(networks, infection=replace(
        networks.infection, card=networks.infection.card.replaced(flip=True))))  # fmt: skip
    sure = uncertainty(burden, Tally.empty(0.5), [Tally.empty(0.5)], flipping)
    assert sure.looks == 2
    assert sure.intervals["infection_percent"] is None
    assert sure.intervals["volume_ml"] == pytest.approx((0, 9 * FLOOR_ML))
