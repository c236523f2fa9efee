"""`covct evaluate`: every figure against a hand count, every refusal, and both files from plain threshold networks."""

import json
import os
import re
from dataclasses import fields, replace
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace

import cv2
import highdicom as hd
import numpy as np
import pytest
from typer.testing import CliRunner

from covct import cli
from covct.data.cases import Case, medseg_patient
from covct.data.dicom_cases import pseudonym
from covct.data.labels import parse_labels
from covct.data.layouts import search_cases
from covct.data.leakage import ancestors_of, learned_patients
from covct.data.published import find_sources, read_lung_slices
from covct.dicom.seg_masks import find_segmentations, read_segmentation
from covct.disk.sources import SourceFile
from covct.errors import UsageError
from covct.evaluation import agreement, bootstrap, calibration
from covct.evaluation.eligible import find_judges, seen_by
from covct.evaluation.evaluate_event import EvaluateEvent
from covct.evaluation.figures import Box, Square, box_plot, confusion
from covct.evaluation.judge import Judged
from covct.evaluation.order import EvaluationOrder
from covct.evaluation.outline import LENGTH
from covct.evaluation.pooling import group_figures
from covct.evaluation.predictions import read_seg_mask
from covct.evaluation.run import evaluate
from covct.evaluation.scores import SCORES, Counts, count, scores
from covct.evaluation.surface import surface_scores
from covct.evaluation.truth import read_truth
from covct.intake.discover import discover
from covct.intake.nifti import write_nifti
from covct.networks.cards import file_sha256, read_card, write_card
from support.chests import corrected, published
from support.events import as_published, events_in
from support.labelled import find_cases
from support.thresholds import make_networks, make_weights

# Scores


def test_scores_by_hand():
    """Of 10 voxels 4 are true; 5 are called, 3 of them rightly."""
    truth = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], bool)
    called = np.array([1, 1, 1, 0, 1, 1, 0, 0, 0, 0], bool)
    assert count(truth, called) == Counts(3, 2, 1, 4)
    assert {name: float(value) for name, value in scores(count(truth, called)).items()} == pytest.approx(
        {"dice": 6 / 9, "iou": 3 / 6, "precision": 3 / 5, "recall": 3 / 4, "f1": 6 / 9, "specificity": 4 / 6,
         "accuracy": 7 / 10}
    )  # fmt: skip


def test_voxels_nobody_vouches_for_are_not_counted():
    truth, called = np.array([1, 0, 0], bool), np.array([0, 1, 0], bool)
    assert count(truth, called, known=np.array([0, 0, 1], bool)) == Counts(0, 0, 0, 1)


def test_empty_truth_and_empty_call():
    """The conventions of `scores`: both empty says nothing; a false alarm and a miss are zeros that count."""
    both, alarm, miss = (scores(Counts(*four)) for four in ((0, 0, 0, 9), (0, 2, 0, 7), (0, 0, 2, 7)))
    assert {name for name in SCORES if np.isnan(both[name])} == {"dice", "iou", "f1", "precision", "recall"}
    assert both["specificity"] == both["accuracy"] == 1
    assert alarm["dice"] == alarm["iou"] == alarm["precision"] == 0
    assert np.isnan(alarm["recall"])
    assert miss["dice"] == miss["recall"] == 0
    assert np.isnan(miss["precision"])


def test_pooled_scores_are_those_of_summed_counts():
    counts = np.array([[1, 0, 1, 8], [3, 1, 0, 6]])
    assert scores(counts.sum(0))["dice"] == pytest.approx(8 / 10)
    np.testing.assert_allclose(scores(counts)["dice"], [2 / 3, 6 / 7])


# Surfaces


def test_two_boxes_five_millimetres_apart():
    truth = np.zeros((5, 20, 20), bool)
    truth[1:4, 2:8, 2:8] = True
    called = np.roll(truth, 5, axis=2)
    hd95, surface_dice = surface_scores(truth, called, (3.0, 1.0, 1.0), 5.0)
    assert hd95 == pytest.approx(5.0)
    assert surface_dice == 1
    assert surface_scores(truth, called, (3.0, 1.0, 1.0), 0.5)[1] < 0.3


def test_surfaces_of_nothing():
    nothing, something = np.zeros((3, 4, 4), bool), np.ones((3, 4, 4), bool)
    assert np.isnan(surface_scores(nothing, nothing, (1, 1, 1), 1)).all()
    assert surface_scores(something, nothing, (1, 1, 1), 1) == (np.inf, 0)


# Intervals, agreement, calibration


def test_bootstrap_of_a_mean_is_its_normal_interval():
    """100 patients with values of deviation 1: the mean's interval is 1.98 / 10 (Student's t) to either side."""
    values = np.random.default_rng(3).standard_normal(100)
    values = (values - values.mean()) / values.std()
    sums = np.stack([values, np.ones(100)], 1)
    drawn = bootstrap.draw(100, 4000, seed=1)
    low, high = bootstrap.interval(sums, lambda s: s[..., 0] / s[..., 1], drawn)
    assert low == pytest.approx(-0.198, abs=0.015)
    assert high == pytest.approx(0.198, abs=0.015)
    assert (low, high) == bootstrap.interval(sums, lambda s: s[..., 0] / s[..., 1], bootstrap.draw(100, 4000, seed=1))
    assert (low, high) != bootstrap.interval(sums, lambda s: s[..., 0] / s[..., 1], bootstrap.draw(100, 4000, seed=2))


def test_resamples_hold_as_many_patients_as_there_are():
    assert (bootstrap.draw(7, 50).sum(1) == 7).all()


def test_fewer_than_ten_patients_have_no_interval():
    for patients, there in ((1, False), (9, False), (10, True)):
        sums = np.stack([np.arange(patients), np.ones(patients)], 1)
        found = bootstrap.interval(sums, lambda s: s[..., 0] / s[..., 1], bootstrap.draw(patients, 200))
        assert (found is not None) == there


def test_patients_who_tell_nothing_of_a_score_are_not_among_its_ten():
    """Twelve of whom nine are clear, and in five of these something is called: eight tell of Dice, three of recall."""
    sick, alarms, clear = [(50 + n, 5, 9, 900) for n in range(3)], [(0, 7, 0, 900)] * 5, [(0, 0, 0, 900)] * 4
    pooled = pooled_of([*sick, *alarms, *clear])
    assert {name for name in SCORES if pooled[name]["interval"]} == {"specificity", "accuracy"}
    assert pooled["dice"]["value"] == pytest.approx(2 * 153 / (2 * 153 + 50 + 27), abs=1e-6)
    pooled = pooled_of([*sick, *alarms, *alarms, *clear])
    assert {name for name in SCORES if not pooled[name]["interval"]} == {"recall"}


def pooled_of(counts):
    """Pooled scores of patients with one case each."""
    found = []
    for number, four in enumerate(counts):
        of = SimpleNamespace(known_as="some", patient=str(number), identity=("some", str(number)))
        told = dict.fromkeys(field.name for field in fields(Judged))
        told |= {"case": of, "counts": Counts(*four), "slice_counts": np.array([four]), "outline": np.zeros(LENGTH)}
        found.append(Judged(**told))
    return group_figures("some", "infection", found, resamples=200)["pooled"]


def test_an_interval_of_ten_patients_holds_the_truth_nearly_as_often_as_it_says():
    """Of Dice as they are, bunched below 1. By percentiles alone it would be 0.89."""
    rng, held = np.random.default_rng(0), []
    drawn = bootstrap.draw(10, 500, seed=0)
    for _ in range(400):
        sums = np.stack([rng.beta(6, 2, 10), np.ones(10)], 1)
        low, high = bootstrap.interval(sums, lambda s: s[..., 0] / s[..., 1], drawn)
        held.append(low <= 0.75 <= high)
    assert np.mean(held) > 0.91


def test_several_cases_of_a_patient_count_once():
    """Else a patient with ten like errors would narrow the limits of agreement for everybody."""
    alike = agreement.patient_sums([(10.0, 13.0)] * 9 + [(10.0, 3.0)])
    assert alike == pytest.approx(agreement.difference_sums([10.0], [12.0]))
    assert not agreement.patient_sums([]).any()


def test_bland_altman_by_hand():
    """Differences 1, 2 and 6: bias 3, deviation sqrt(7)."""
    sums = agreement.difference_sums(np.array([10, 20, 30]), np.array([11, 22, 36]))
    assert agreement.bias(sums) == pytest.approx(3)
    assert agreement.deviation(sums) == pytest.approx(7**0.5)
    assert agreement.upper_limit(sums) == pytest.approx(3 + 1.96 * 7**0.5)
    assert agreement.lower_limit(sums) == pytest.approx(3 - 1.96 * 7**0.5)
    assert np.isnan(agreement.deviation(agreement.difference_sums(np.array([1]), np.array([2]))))


def test_mean_size_of_errors_does_not_cancel_out():
    sums = agreement.difference_sums(np.array([0, 0]), np.array([-2, 4]))
    assert (agreement.bias(sums), agreement.mean_size(sums)) == (1, 3)


def test_calibration_by_hand():
    """Four pixels at 0.75, three of them true, are calibrated; two at 0.25, both true, are 0.75 off."""
    p = np.array([0.75] * 4 + [0.25] * 2, np.float32)
    truth = np.array([1, 1, 1, 0, 1, 1], bool)
    sums = calibration.histogram(p, truth, np.ones(6, bool))
    assert calibration.expected_calibration_error(sums) == pytest.approx(2 / 6 * 0.75)
    assert calibration.brier_score(sums) == pytest.approx((3 * 0.25**2 + 0.75**2 + 2 * 0.75**2) / 6)
    filled = [one for one in calibration.reliability(sums) if one["pixels"]]
    shown = [(one["pixels"], one["probability"], one["frequency"]) for one in filled]
    assert shown == [(2, 0.25, 1.0), (4, 0.75, 0.75)]


def test_thresholds_call_what_their_masks_would():
    rng = np.random.default_rng(0)
    truth = rng.random(500) < 0.4
    region = rng.random(500) < 0.8
    p = np.clip(0.3 * truth + rng.random(500) * 0.7, 0, 1).astype(np.float16)
    sums = calibration.histogram(p, truth, region)
    for k in (1, 11, 19):
        wanted = scores(count(truth, (p >= k / 20) & region))["dice"]
        assert calibration.dice_at(sums, k) == pytest.approx(wanted)


def test_infection_takes_a_higher_threshold_where_dice_is_flat():
    """Rather a little less Dice than calls in people without the disease; of lungs the best is the best."""
    probability, truth = np.repeat([0.95, 0.52, 0.02], [1000, 9, 1000]), np.repeat([True, True, False], [1000, 9, 1000])
    sums = calibration.histogram(probability, truth, np.ones(len(truth), bool))
    assert calibration.chosen_twentieth(sums) == 10
    assert calibration.chosen_twentieth(sums, calibration.FLAT_DICE["infection"]) == 19


def test_a_patient_s_threshold_is_chosen_on_the_others():
    """Two patients whose best thresholds differ: the honest Dice is that of the wrong one for each."""
    low = calibration.histogram(np.array([0.3, 0.1]), np.array([1, 0], bool), np.ones(2, bool))
    high = calibration.histogram(np.array([0.9, 0.6]), np.array([1, 0], bool), np.ones(2, bool))
    assert calibration.chosen_twentieth(low) == 6
    assert calibration.chosen_twentieth(high) == 18
    dice, thresholds = calibration.threshold_by_others(np.stack([low, high]))
    assert thresholds == [0.9, 0.3]
    assert dice == pytest.approx(2 / (2 + 1 + 1))


# Masks of all kinds


def box(shape=(4, 10, 12), spacing=(3.0, 2.0, 2.0), shift=0, dtype=np.uint8):
    array = np.zeros(shape, dtype)
    array[1:3, 3:7, 3 + shift : 8 + shift] = 1
    return hd.Volume.from_components(
        array, spacing=spacing, coordinate_system="PATIENT", position=(0, 0, 0), patient_orientation="FPL"
    )


@pytest.fixture
def pairs(tmp_path):
    """Two cases with lungs, one with infection too, as NIfTI in another axis order; truth in DATA, calls in CALLS."""
    data, calls = tmp_path / "data", tmp_path / "calls"
    data.mkdir(), calls.mkdir()
    for name in ("a", "b"):
        write_nifti(box().with_array(np.where(box().array, -800, 40).astype(np.int16)), data / f"{name}_ct.nii.gz")
        write_nifti(box(), data / f"{name}_lungs.nii.gz")
        write_nifti(box(shift=1).to_patient_orientation("RAS"), calls / f"{name}_lungs.nii.gz")
    return data, calls


def judge(data, calls, out, **wishes):
    order = EvaluationOrder(
        data, out, predictions=calls, **{"patients": "all", "tasks": ("lungs",), "resamples": 200, **wishes}
    )
    return evaluate(order, no_networks, no_networks, lambda event: as_published(EvaluateEvent, [event]))


def no_networks(path):
    raise AssertionError("no network is asked for")


def test_another_tool_s_nifti_masks_are_matched_by_name(pairs, tmp_path):
    """Boxes of 4 x 5 x 2 voxels, one column apart: 32 of 40 overlap, wherever the axes of the file point."""
    evaluation = judge(*pairs, out=tmp_path / "out", tolerance_mm=0.5)
    one = evaluation["cases"][0]["tasks"]["lungs"]
    assert one["counts"] == {"hit": 32, "invented": 8, "missed": 8, "rest": 480 - 48}
    assert one["dice"] == pytest.approx(0.8)
    assert one["volume_ml"] == {"truth": 0.48, "called": 0.48}
    assert one["hd95_mm"] == pytest.approx(2.0)
    [group] = evaluation["groups"]
    assert (group["cases"], group["patients"]) == (2, 2)
    assert group["pooled"]["dice"] == {"value": 0.8, "interval": None}, "of two patients"
    assert group["volume_ml"]["bias"]["value"] == 0


def test_written_files_follow_the_schema_and_hold_no_names(pairs, tmp_path):
    jsonschema = pytest.importorskip("jsonschema")
    data, calls = pairs
    for folder in pairs:
        for path in folder.iterdir():
            path.rename(folder / path.name.replace("a_", "Doe^Jane_"))
    judge(data, calls, tmp_path / "out")
    text, page = ((tmp_path / "out" / f"evaluation.{end}").read_text() for end in ("json", "html"))
    schema = json.loads(files("covct.evaluation").joinpath("evaluation.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(json.loads(text))
    assert "Doe" not in text + page
    assert "Research use only" in text
    assert "Research use only" in page
    assert "://" not in page
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "cases.csv", "evaluation.html", "evaluation.json",
    ]  # fmt: skip
    judge(data, calls, tmp_path / "named", names=True)
    assert "Doe^Jane" in (tmp_path / "named" / "evaluation.json").read_text()


def test_a_mask_of_another_grid_is_refused_or_resampled(pairs, tmp_path):
    data, calls = pairs
    finer = box((8, 20, 24), (1.5, 1.0, 1.0))
    array = np.zeros(finer.shape, np.uint8)
    array[2:6, 6:14, 6:16] = 1
    write_nifti(finer.with_array(array), calls / "a_lungs.nii.gz")
    with pytest.raises(UsageError, match=r"a_lungs.nii.gz: the mask has 8 x 20 x 24 voxels, wanted 4 x 10 x 12"):
        judge(data, calls, tmp_path / "out")
    evaluation = judge(data, calls, tmp_path / "out", resample=True)
    assert max(row["tasks"]["lungs"]["dice"] for row in evaluation["cases"]) == 1


def test_a_missed_case_is_told_beside_the_mean_distance(pairs, tmp_path):
    """Nothing called in b: its HD95 is infinite and in no mean, which alone would look better than without the miss."""
    data, calls = pairs
    write_nifti(box().with_array(np.zeros_like(box().array)), calls / "b_lungs.nii.gz")
    [group] = judge(data, calls, tmp_path / "out")["groups"]
    mean = group["mean"]["hd95_mm"]
    assert (mean["value"], mean["cases"], mean["infinite"]) == (pytest.approx(2.0), 1, 1)
    assert group["mean"]["dice"]["infinite"] == 0
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert page.count("and ∞ in 1 of 2 cases") == 1
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(files("covct.evaluation").joinpath("evaluation.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(json.loads((tmp_path / "out" / "evaluation.json").read_text()))


def test_a_mask_beside_its_scan_is_refused(pairs, tmp_path):
    data, calls = pairs
    moved = hd.Volume.from_components(
        box().array, spacing=(3, 2, 2), coordinate_system="PATIENT", position=(0, 0, 4), patient_orientation="FPL"
    )
    write_nifti(moved, calls / "b_lungs.nii.gz")
    with pytest.raises(UsageError, match=r"b_lungs.nii.gz: the mask lies up to 1.3 voxels beside its scan"):
        judge(data, calls, tmp_path / "out")
    write_nifti(moved, data / "b_lungs.nii.gz")
    with pytest.raises(UsageError, match=r"b_lungs.nii.gz .of b_ct.nii.gz.: the mask lies up to 1.3 voxels beside"):
        judge(data, calls, tmp_path / "out")


def test_labels_are_explained_or_refused(pairs, tmp_path):
    data, calls = pairs
    write_nifti(box().with_array(box().array * 3), calls / "a_lungs.nii.gz")
    with pytest.raises(UsageError, match="holds labels 0, 3; say which are lungs, e.g. --label lungs=3"):
        judge(data, calls, tmp_path / "out")
    write_nifti(box().with_array(box().array * 3), calls / "b_lungs.nii.gz")
    labels = parse_labels(["lungs=3"])
    for wanted, got in (("lungs=right", "right"), ("lungs=3,left", "left")):
        with pytest.raises(UsageError, match=f"a_lungs.nii.gz: --label {wanted}: got {got}, wanted whole numbers"):
            judge(data, calls, tmp_path / "out", labels=parse_labels([wanted]))
    (data / "a_lungs.nii.gz").unlink()
    (data / "b_lungs.nii.gz").unlink()
    for name in ("a", "b"):
        write_nifti(box().with_array(box().array * 3), data / f"{name}_lungs.nii.gz")
    assert judge(data, calls, tmp_path / "out", labels=labels)["groups"][0]["pooled"]["dice"]["value"] == 1
    for wrong in ("lungs", "heart=1", "lungs="):
        with pytest.raises(UsageError, match="wanted TASK=LABEL"):
            parse_labels([wrong])


def test_a_missing_mask_is_named(pairs, tmp_path):
    data, calls = pairs
    (calls / "b_lungs.nii.gz").unlink()
    with pytest.raises(UsageError, match=r"no lungs mask of b; wanted b_lungs.nii.gz, lungs/b.nii.gz"):
        judge(data, calls, tmp_path / "out")


def test_probabilities_are_no_mask(pairs, tmp_path):
    data, calls = pairs
    write_nifti(box(dtype=np.float32).with_array(np.float32(0.3) * box().array), calls / "a_lungs.nii.gz")
    with pytest.raises(UsageError, match="a_lungs.nii.gz: 2 different values"):
        judge(data, calls, tmp_path / "out")


def loose_slices(folder, volumes):
    """The layout with volumes.csv: an infected square in each slice's lungs, which fill half of it."""
    for kind in ("ct", "lungs", "infection"):
        (folder / kind).mkdir(parents=True)
    lines, number = ["first,last,slices,patient_group,anterior,source_intensity"], 0
    for patient, slices, anterior in volumes:
        lines.append(f"{number:04d},{number + slices - 1:04d},{slices},{patient},{anterior},HU")
        for _ in range(slices):
            lungs, infection = np.zeros((2, 64, 64), np.uint8)
            lungs[8:56, 8:56], infection[20:30, 20:30] = 255, 255
            for kind, image in (("ct", 255 - lungs // 2), ("lungs", lungs), ("infection", infection)):
                cv2.imwrite(str(folder / kind / f"{number:04d}.png"), image)
            number += 1
    (folder / "volumes.csv").write_text("\n".join(lines) + "\n")


def test_two_volumes_of_a_patient_are_two_cases_and_one_patient(tmp_path):
    """Pictures of masks, matched by the slices' names; no millimetres where the spacing is unknown."""
    loose_slices(tmp_path / "data", [("p", 2, "up"), ("p", 1, "down"), ("q", 3, "up")])
    calls = tmp_path / "calls" / "infection"
    calls.mkdir(parents=True)
    for path in (tmp_path / "data" / "infection").iterdir():
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        cv2.imwrite(str(calls / path.name), np.roll(image, 5, 1))
    evaluation = judge(tmp_path / "data", tmp_path / "calls", tmp_path / "out", tasks=("infection",), names=True)
    assert [row["case"] for row in evaluation["cases"]] == ["p-1", "p-2", "q"]
    [group] = evaluation["groups"]
    assert (group["cases"], group["patients"], group["slices"]) == (3, 2, 6)
    assert group["pooled"]["dice"]["value"] == pytest.approx(0.5)
    assert group["volume_ml"] is None
    assert group["mean"]["hd95_mm"] == {"value": None, "interval": None, "cases": 0, "infinite": 0}
    assert group["percent_of_lung"]["bias"]["value"] == pytest.approx(0)
    assert any("Spacing is not known of ma" in note for note in evaluation["notes"])
    (calls / "0001.png").unlink()
    with pytest.raises(UsageError, match=r"0001.png: no such file; 1 of the case's 2 slices have a mask"):
        judge(tmp_path / "data", tmp_path / "calls", tmp_path / "out", tasks=("infection",))


def test_a_table_of_slices_is_read_as_in_training(tmp_path):
    """Two volumes of two patients that claim one slice would put it on both sides; the line is named."""
    loose_slices(tmp_path, [("p", 2, "up"), ("q", 3, "up")])
    table = (tmp_path / "volumes.csv").read_text()
    for old, new, words in ((",up,", ",front,", "line 2: anterior is 'front', wanted up or down"),
                            ("0001,2", "x,2", "line 2: first '0000', last 'x'; wanted two numbers"),
                            ("0002,", "0001,", "two rows claim slice 0001")):  # fmt: skip
        assert old in table
        (tmp_path / "volumes.csv").write_text(table.replace(old, new, 1))
        with pytest.raises(UsageError, match=words):
            find_cases(tmp_path)


def as_training_has_them(data):
    """Source and patient of each case below a folder, by the modules of training."""
    sources = find_sources(data)
    taken = {sources[known]: name for known, name in (("lungs", "lctsc"), ("ma", "ma")) if known in sources}
    return {case.name: (taken.get(case.folder, "cases"), case.patient) for case in search_cases(data).cases}


@pytest.mark.parametrize("names", [False, True])
def test_a_person_in_two_sources_is_one_patient_of_all(names, pairs, tmp_path):
    """Slices and NIfTI of one public volume: over all sources three patients, not four; b is another than b."""
    data, calls = pairs
    for folder in pairs:
        (folder / "a_lungs.nii.gz").rename(folder / "coronacases_003_lungs.nii.gz")
    (data / "a_ct.nii.gz").rename(data / "coronacases_003_ct.nii.gz")
    loose_slices(data / "slices", [("coronacases_003", 2, "up"), ("b", 2, "up")])
    (calls / "lungs").mkdir()
    for path in (data / "slices" / "lungs").iterdir():
        (calls / "lungs" / path.name).write_bytes(path.read_bytes())
    groups = judge(data, calls, tmp_path / "out", names=names)["groups"]
    assert [(group["source"], group["cases"], group["patients"]) for group in groups] == [
        ("lctsc", 2, 2), ("ma", 2, 2), ("all", 4, 3)
    ]  # fmt: skip
    assert "4 cases of 3 patients" in (tmp_path / "out" / "evaluation.html").read_text()


def test_a_patient_that_a_card_publishes_does_not_publish_the_name_of_his_file(pairs, weights, tmp_path):
    data, calls = pairs
    (data / "cases.csv").write_text("name,patient\na,p1\nb,b\n")
    with_held_out(weights, cases=["p1", "b"])
    rows = judge(data, calls, tmp_path / "out", weights=weights, patients="held-out")["cases"]
    assert {row["patient"] for row in rows} == {"p1", "b"}
    assert [row["case"] == "b" or row["case"].startswith("case-") for row in rows] == [True, True]


@pytest.mark.parametrize("kind", ["lungs alone", "lungs alone, declared", "with infection"])
def test_sources_and_patients_are_called_as_in_training(kind, pairs, tmp_path):
    """Else people learned from count as new, held-out ones as learned from, and volumes of one patient as two."""
    data, calls = pairs
    for folder in pairs:
        for old, new in (("a", "radiopaedia_10_85902_1"), ("b", "radiopaedia_10_85902_3")):
            for path in folder.glob(f"{old}_*"):
                path.rename(folder / path.name.replace(old, new, 1))
    if kind == "lungs alone, declared":
        (data / "cases.csv").write_text("name,patient,infection\nradiopaedia_10_85902_1,someone,unknown\n")
    if kind == "with infection":
        write_nifti(box(), data / "radiopaedia_10_85902_1_infection.nii.gz")
    found = find_cases(data)
    assert {case.name: (case.known_as, case.patient) for case in found} == as_training_has_them(data)
    assert {case.known_as for case in found} == {"lctsc" if kind == "lungs alone" else "cases"}
    [group] = judge(data, calls, tmp_path / "out")["groups"]
    assert (group["cases"], group["patients"]) == (2, 2 if "declared" in kind else 1)


def test_patients_of_volumes_restored_by_covct_are_not_new_to_a_network_that_learned_from_them(pairs, weights):
    """`covct restore` writes cases.csv, and training then knows the folder as "cases": no card names "lctsc"."""
    data, _ = pairs
    (data / "cases.csv").write_text("name,patient,domain,infection\na,a,hu,unknown\nb,b,hu,unknown\n")
    [judge] = find_judges(with_held_out(weights, cases=["a"]))
    seen = {case.name: judge.seen(case, restored=False) for case in find_cases(data)}
    assert seen == {"a": [], "b": ["lungs", "infection"]}


def test_a_table_called_cases_where_no_case_lies_is_somebody_else_s(pairs):
    data, _ = pairs
    (data / "notes").mkdir()
    (data / "notes" / "cases.csv").write_text("when,what\n")
    assert len(find_cases(data)) == 2


def test_volumes_of_one_person_are_never_parted_where_lungs_are_learned(pairs):
    """The reader of the negatives has the same rule as the others."""
    data, _ = pairs
    for path in sorted(data.iterdir()):
        path.rename(data / f"radiopaedia_10_8590{path.name}")
    for path in data.glob("*_ct.nii.gz"):
        write_nifti(box().with_array(np.where(box().array, -800, 40).astype(np.int16)), path)
    assert set(read_lung_slices(data).patients) == {"radiopaedia_10"}


@pytest.mark.slow
def test_own_results_come_back_as_truth_and_as_calls(series_folder, phantom_series, tmp_path, weights):
    """A scan's SEG beside its slices is truth; the same SEG elsewhere, of any type, is a call, slice by slice."""
    from covct.outputs import Outputs
    from covct.unattended import batch

    for name in ("binary", "labelmap"):
        order = batch.Order((phantom_series,), tmp_path / name, weights, Outputs(("seg",), name, False, "key"))
        batch.scan(order, make_networks, lambda event: None)
    [seg] = (tmp_path / "binary").rglob("*.seg.dcm")
    corrected(seg, series_folder / "truth.dcm")
    [found] = find_segmentations(series_folder)
    [series] = discover([phantom_series]).series
    assert found.series_uids == {series.series_uid}
    evaluation = judge(series_folder, tmp_path / "labelmap", tmp_path / "out", tasks=("lungs", "infection"))
    [row] = evaluation["cases"]
    assert [row["tasks"][task]["dice"] for task in ("lungs", "infection")] == [1, 1]
    assert row["tasks"]["infection"]["counts"]["hit"] > 100
    report = json.loads(next((tmp_path / "binary").rglob("report.json")).read_text())["regions"]["lungs"]
    assert row["tasks"]["infection"]["volume_ml"]["called"] == pytest.approx(report["infection_ml"], abs=0.01)
    assert row["tasks"]["infection"]["percent_of_lung"]["truth"] == pytest.approx(report["infection_percent"], abs=0.01)


@pytest.mark.slow
def test_masks_of_covct_are_no_truth(series_folder, phantom_series, tmp_path, weights):
    """An evaluation of a results tree by its own masks said 1.0."""
    from covct.outputs import Outputs
    from covct.unattended import batch

    results, out = tmp_path / "results", tmp_path / "out"
    order = batch.Order((phantom_series,), results, weights, Outputs(("seg", "nifti"), "binary", False, "key"))
    batch.scan(order, make_networks, lambda event: None)
    named = "automatic-mask: .*segmentation.seg.dcm was drawn by covct and corrected by nobody"
    with pytest.raises(UsageError, match=named):
        judge(results, results, out)
    [seg] = results.rglob("*.seg.dcm")
    (series_folder / "beside.dcm").write_bytes(seg.read_bytes())
    with pytest.raises(UsageError, match="automatic-mask: beside.dcm was drawn by covct and corrected by nobody"):
        judge(series_folder, results, out)
    corrected(seg, series_folder / "corrected.dcm")
    events = []
    wishes = {"predictions": results, "patients": "all", "tasks": ("lungs",), "resamples": 100}
    evaluation = evaluate(EvaluationOrder(series_folder, out, **wishes), no_networks, no_networks, events.append)
    assert [row["tasks"]["lungs"]["dice"] for row in evaluation["cases"]] == [1]
    [left] = evaluation["left_out"]
    assert left["slug"] == "automatic-mask" and "covct" in left["reason"]
    reasons = [event.get("reason", "") for event in as_published(EvaluateEvent, events)]
    assert any("beside.dcm was drawn by covct" in reason for reason in reasons)
    assert "beside.dcm" not in (out / "evaluation.json").read_text(), "a file's name may be a patient's"


@pytest.mark.slow
@pytest.mark.parametrize("table", [True, False], ids=["metadata.csv", "without it"])
def test_the_twenty_volumes_are_judged_as_they_are_published(table, tmp_path, weights):
    """Those in HU as series, those in a lung window as training sees them; one person's two volumes are one patient."""
    data = published(tmp_path / "set")
    if not table:
        (data / "metadata.csv").unlink()
    calls = tmp_path / "calls"
    for name in ("coronacases_001", "radiopaedia_10_85902_1", "radiopaedia_10_85902_3"):
        for task, folder in (("lungs", "lung_mask"), ("infection", "infection_mask")):
            (calls / task).mkdir(parents=True, exist_ok=True)
            (calls / task / f"{name}.nii.gz").write_bytes((data / folder / f"{name}.nii.gz").read_bytes())
    evaluation = judge(data, calls, tmp_path / "out", tasks=("lungs", "infection"), names=True)
    rows = {row["case"]: row for row in evaluation["cases"]}
    assert set(rows) == {"coronacases_001", "radiopaedia_10_85902_1", "radiopaedia_10_85902_3"}
    for row in rows.values():
        assert [row["tasks"][task]["dice"] for task in ("lungs", "infection")] == [1, 1]
        assert row["spacing_mm"] == [5.0, 4.0, 4.0]
    assert evaluation["groups"][0]["patients"] == 2
    assert evaluation["groups"][0]["source"] == "cases"


def test_volumes_in_a_lung_window_are_judged_as_training_sees_them(tmp_path):
    """Not by the line of a scan, which wants HU: cut to the body, 256 x 256, with their millimetres."""
    data = published(tmp_path / "set")
    weights = with_held_out(make_weights(tmp_path / "w"), cases=["radiopaedia_10"])
    evaluation = evaluate(
        EvaluationOrder(data, tmp_path / "out", weights=weights, resamples=100), threshold_networks, no_networks
    )
    assert [row["case"] for row in evaluation["cases"]] == ["radiopaedia_10_85902_1", "radiopaedia_10_85902_3"]
    for row in evaluation["cases"]:
        # The field of view cuts the right lung of so small a chest.
        assert row["tasks"]["lungs"]["precision"] > 0.95
        volume = row["tasks"]["lungs"]["volume_ml"]
        truth = np.count_nonzero(read_truth(find_cases(data)[1]).masks["lungs"]) * 5 * 4 * 4 / 1000
        assert 0.6 * truth < volume["truth"] < 1.05 * truth
    assert any(note.startswith("2 volumes on 8 bit are judged as networks learn") for note in evaluation["notes"])


def test_dicom_with_nifti_masks_beside_it(phantom, phantom_series, tmp_path):
    """The series in a folder, its true mask as a NIfTI of the folder's name; a mask of fewer slices is refused."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "chest").symlink_to(phantom_series)
    lungs = phantom.volume.with_array((phantom.lungs > 0).astype(np.uint8))
    write_nifti(lungs, tmp_path / "data" / "chest_lungs.nii.gz")
    [case] = find_cases(tmp_path / "data")
    assert case.known_as == "cases"
    assert case.patient == pseudonym(case.series), "as training calls the patient of a DICOM series"
    truth = read_truth(case)
    assert truth.masks["lungs"].sum() == (phantom.lungs > 0).sum()
    assert truth.hu[truth.masks["lungs"]].mean() < -500, "the mask lies on the lungs"
    write_nifti(lungs[:-2], tmp_path / "data" / "chest_lungs.nii.gz")
    with pytest.raises(
        UsageError, match=r"chest_lungs.nii.gz .of series chest.: the mask has 28 x 128 x 128 voxels, wanted 30 x 128"
    ):
        read_truth(case)


@pytest.mark.slow
def test_a_seg_of_other_slices_is_refused(phantom_series, tmp_path, weights):
    from covct.intake.load_dicom import load_dicom
    from covct.outputs import Outputs
    from covct.unattended import batch

    order = batch.Order((phantom_series,), tmp_path / "out", weights, Outputs(("seg",), "binary", False, "key"))
    batch.scan(order, make_networks, lambda event: None)
    [path] = (tmp_path / "out").rglob("*.seg.dcm")
    [series] = discover([phantom_series]).series
    shorter = load_dicom(replace(series, instances=series.instances[:12]))
    seg = read_segmentation(SourceFile(str(path)))
    with pytest.raises(UsageError, match=r"seg.dcm: frame \d+ refers to a slice that its scan does not have"):
        read_seg_mask(seg, "lungs", {}, shorter)
    scan = load_dicom(series)
    assert read_seg_mask(seg, "infection", {}, scan).any()
    assert (
        read_seg_mask(seg, "lungs", parse_labels(["lungs=1"]), scan).sum() < read_seg_mask(seg, "lungs", {}, scan).sum()
    )
    assert read_seg_mask(seg, "lungs", parse_labels(["lungs=heart"]), scan) is None
    (tmp_path / "broken.dcm").write_bytes(path.read_bytes()[:3000])
    with pytest.raises(UsageError, match="broken.dcm"):
        find_segmentations(tmp_path)


# Whom networks have learned from


def someone(patient, source, domain="hu"):
    return Case("x", source, Path(), "nifti", patient, domain=domain, known_as=source)


def with_held_out(weights, **held):
    for task in ("lungs", "infection"):
        card = read_card(weights / f"{task}.json")
        write_card(card.replaced(training={"held_out_patients": held}), weights)
    return weights


def test_who_is_not_held_out_was_learned_from(weights):
    cards = {"lungs": read_card(with_held_out(weights, ma=["p"]) / "lungs.json")}
    case = someone("p", "ma")
    assert seen_by(case, cards) == []
    assert seen_by(replace(case, patient="q"), cards) == ["lungs"]
    assert seen_by(replace(case, patient="q", known_as="elsewhere"), cards) == []


def test_whoever_an_ancestor_learned_from_is_not_new(weights):
    """A network that started from one that knew p; as a restorer it counts only where it restores."""
    first = read_card(with_held_out(weights, ma=["q"]) / "lungs.json")
    later = first.replaced(training={"held_out_patients": {"lctsc": ["k"]}, "ancestors": ancestors_of(first)})
    write_card(later.replaced(task="restorer", name="restorer"), with_held_out(weights, lctsc=["k"]))
    case = someone("p", "ma", "clahe-8bit")
    assert seen_by(case, {"later": later}) == ["later"]
    assert seen_by(replace(case, patient="q"), {"later": later}) == []
    [judge] = find_judges(weights)
    assert (judge.seen(case, restored=True), judge.seen(case, restored=False)) == (["restorer"], [])


def test_a_network_of_unknown_ancestors_is_said_to_be_one(pairs, weights, tmp_path):
    card = read_card(with_held_out(weights, lctsc=["a", "b"]) / "infection.json")
    write_card(card.replaced(training={**card.training, "initial": {"task": "infection", "sha256": "7" * 64}}), weights)
    evaluation = judge(*pairs, out=tmp_path / "out", weights=weights)
    note = "No card says whom every network behind infection has learned from: that of sha256 777777777777 is unknown."
    assert note in evaluation["notes"]
    assert not any("behind lungs" in note for note in evaluation["notes"])


def test_a_person_is_known_again_in_another_source(weights):
    """Learned from as slices, judged as NIfTI: public names and hashes of a Patient ID say who it is, others do not."""
    card = read_card(with_held_out(weights, ma=["coronacases_001"]) / "lungs.json")
    names = ["coronacases_003", "patient-0123456789ab", "case-003"]
    told = learned_patients({"ma": ["coronacases_001", *names]}, {"ma": ["coronacases_001"]})
    exact = card.replaced(training={**card.training, "learned_patients": told})
    for source, patient, known in (
        ("cases", "coronacases_003", True), ("here", "coronacases_003", True), ("cases", "coronacases_001", False),
        ("cases", "patient-0123456789ab", True), ("cases", "patient-ffff56789abc", False), ("cases", "case-003", False),
    ):  # fmt: skip
        case = someone(patient, source)
        assert seen_by(case, {"exact": exact}) == ["exact"] * known, (source, patient)
    assert seen_by(someone("coronacases_003", "cases"), {"old": card}) == ["old"]


def test_a_folder_of_a_known_layout_may_have_been_among_the_own_cases(weights):
    """Training knows only the first volumes.csv as "ma"; by its hashes a card tells its own cases from another's."""
    held, everyone = {"cases": ["p"]}, {"cases": ["p", "q"]}
    card = read_card(with_held_out(weights, **held) / "lungs.json")
    exact = card.replaced(training={"held_out_patients": held, "learned_patients": learned_patients(everyone, held)})
    cases = [someone(name, "ma", "clahe-8bit") for name in "pqr"]
    assert [bool(seen_by(case, {"old": card})) for case in cases] == [False, True, True]
    assert [bool(seen_by(case, {"exact": exact})) for case in cases] == [False, True, False]


def test_an_ancestor_without_a_list_has_seen_only_whom_the_line_knows(weights):
    """The older card says whom it held out, the newer one who there was: nobody else can have been learned from."""
    held, everyone = {"ma": ["coronacases_001"]}, {"ma": ["coronacases_001", "coronacases_003", "coronacases_005"]}
    card = read_card(with_held_out(weights, ma=["coronacases_001", "coronacases_005"]) / "lungs.json")
    ancestor = {"task": "lungs", "sha256": "4" * 64, "held_out_patients": held}
    line = card.replaced(
        training={
            "held_out_patients": {"ma": ["coronacases_001", "coronacases_005"]},
            "learned_patients": learned_patients(everyone, {"ma": ["coronacases_001", "coronacases_005"]}),
            "ancestors": [ancestor],
        },
    )
    for source in ("ma", "here"):
        seen = [bool(seen_by(someone(f"coronacases_00{number}", source), {"line": line})) for number in (1, 3, 5, 8)]
        assert seen == [False, True, True, False], "5 by the ancestor; 8 by nobody"


def test_data_of_a_name_that_no_card_knows_is_unseen(pairs, weights, tmp_path):
    """--source: the folder's own cases are another's than those that the networks learned from."""
    names = {"lctsc": ["p"]}
    with_held_out(weights, **names)
    for task in ("lungs", "infection"):
        card = read_card(weights / f"{task}.json")
        told = {"held_out_patients": names, "learned_patients": learned_patients({"lctsc": ["a", "p"]}, names)}
        write_card(card.replaced(training=told), weights)
    evaluation = judge(*pairs, out=tmp_path / "out", weights=weights, patients="all", also_seen=True)
    assert [bool(row["seen_by"]) for row in evaluation["cases"]] == [True, False]
    evaluation = judge(*pairs, out=tmp_path / "mine", weights=weights, patients="all", also_seen=True, source="mine")
    assert [bool(row["seen_by"]) for row in evaluation["cases"]] == [False, False]


def test_one_person_under_two_names_of_a_card_is_told_and_counts_as_seen(pairs, weights, tmp_path):
    """Slices 35 and 67 of medicalsegmentation.com show one person; an older card held out the one and not the other."""
    held = {"medseg": ["medseg_35", "medseg_40"]}
    told = learned_patients({"medseg": ["medseg_35", "medseg_40", "medseg_67"]}, held)
    card = read_card(weights / "infection.json").replaced(
        training={"held_out_patients": held, "learned_patients": told}
    )
    write_card(card, weights)
    write_card(read_card(weights / "lungs.json").replaced(training={"held_out_patients": held}), weights)
    cases = [someone(medseg_patient(number), "medseg") for number in ("35", "40", "67")]
    assert [bool(seen_by(case, {"infection": card})) for case in cases] == [True, False, True]
    notes = judge(*pairs, out=tmp_path / "out", weights=weights)["notes"]
    assert any("medseg_35 (as medseg_67)" in note and "behind" not in note for note in notes)


def threshold_networks(folder):
    """The threshold networks, with the cards of a folder."""
    made = make_networks()
    cards = {task: read_card(folder / f"{task}.json") for task in ("lungs", "infection")}
    return replace(
        made,
        lungs=replace(made.lungs, card=cards["lungs"]),
        infection=replace(made.infection, card=cards["infection"]),
    )


@pytest.fixture(scope="module")
def chests(phantom, tmp_path_factory):
    """Three cases in HU as NIfTI with their true masks; of the third nobody marked any infection."""
    data = tmp_path_factory.mktemp("chests")
    for name in ("c0", "c1", "c2"):
        write_nifti(phantom.volume, data / f"{name}_ct.nii.gz")
        write_nifti(phantom.volume.with_array((phantom.lungs > 0).astype(np.uint8)), data / f"{name}_lungs.nii.gz")
        if name != "c2":
            write_nifti(
                phantom.volume.with_array(phantom.infection.astype(np.uint8)), data / f"{name}_infection.nii.gz"
            )
    return data


@pytest.mark.slow
def test_only_patients_held_out_are_judged(chests, tmp_path):
    """Networks on whole series: the rest of the patients is left alone, refused, or judged and marked."""
    weights = with_held_out(make_weights(tmp_path / "w"), cases=["c0", "c2"])
    order = EvaluationOrder(chests, tmp_path / "out", weights=weights, resamples=200)
    evaluation = evaluate(order, threshold_networks, no_networks)
    assert [row["case"] for row in evaluation["cases"]] == ["c0", "c2"]
    assert not evaluation["also_seen"]
    assert evaluation["judged"]["cards"]["lungs"]["sha256"] == read_card(weights / "lungs.json").sha256
    assert evaluation["groups"][0]["pooled"]["dice"]["value"] > 0.8, "thresholds find most of a phantom's lungs"
    assert evaluation["groups"][0]["calibration"]["bins"][9]["pixels"] > 0
    unmarked = evaluation["cases"][1]
    assert "infection" not in unmarked["tasks"]
    assert 0 < unmarked["calls_without_truth"]["percent_of_lung"] < 50
    with pytest.raises(UsageError, match="learned from 1 of 3 cases; say --also-seen"):
        evaluate(replace(order, patients="all"), threshold_networks, no_networks)
    evaluation = evaluate(replace(order, patients="all", also_seen=True), threshold_networks, no_networks)
    assert evaluation["also_seen"]
    assert [row["seen_by"] for row in evaluation["cases"]] == [[], ["lungs", "infection"], []]
    assert evaluation["notes"][0].startswith("SEEN IN TRAINING")
    assert "Seen in training" in (tmp_path / "out" / "evaluation.html").read_text()
    with pytest.raises(UsageError, match="learned from all 3 cases"):
        evaluate(replace(order, weights=with_held_out(weights, cases=[])), threshold_networks, no_networks)
    evaluation = evaluate(replace(order, source="here"), threshold_networks, no_networks)
    assert len(evaluation["cases"]) == 3, "no card knows this source"


@pytest.mark.slow
def test_each_patient_is_judged_by_the_fold_that_held_him_out(chests, tmp_path):
    """A cross-validation is one evaluation of all patients, none of them by a network that has learned from him."""
    (tmp_path / "cv").mkdir()
    for fold, held in enumerate((["c0"], ["c1"])):
        folder = with_held_out(make_weights(tmp_path / "cv" / f"fold-{fold}"), cases=held)
        card = read_card(folder / "lungs.json")
        write_card(card.replaced(threshold=0.5 + fold / 4), folder)
    order = EvaluationOrder(chests, tmp_path / "out", weights=tmp_path / "cv", resamples=100)
    evaluation = evaluate(order, threshold_networks, no_networks)
    assert [(row["case"], row["fold"]) for row in evaluation["cases"]] == [("c0", "fold-0"), ("c1", "fold-1")]
    assert evaluation["judged"]["cards"]["fold-1/lungs"]["threshold"] == 0.75
    [lungs, _] = [group for group in evaluation["groups"] if group["source"] == "cases"]
    assert set(lungs["folds"]["dice"]) == {"fold-0", "fold-1"}
    assert lungs["folds"]["mean"] == pytest.approx(sum(lungs["folds"]["dice"].values()) / 2, abs=1e-6)
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(files("covct.evaluation").joinpath("evaluation.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(evaluation)
    assert "fold-0/lungs" in (tmp_path / "out" / "evaluation.html").read_text()


def test_a_restorer_counts_only_where_it_is_asked(weights, tmp_path):
    """The people whose HU scans taught the restorer may be judged as they are, and CLAHE that is read linearly too."""
    folder = with_held_out(weights, ma=["p"], lctsc=["p"])
    card = read_card(folder / "lungs.json")
    write_card(card.replaced(name="restorer", task="restorer", training={"held_out_patients": {"ma": [], "lctsc": []}}),
               folder)  # fmt: skip
    [judge] = find_judges(folder)
    clahe, hu = someone("p", "ma", "clahe-8bit"), someone("p", "lctsc")
    assert judge.seen(clahe, restored=True) == ["restorer"]
    assert judge.seen(clahe, restored=False) == []
    assert judge.seen(hu, restored=True) == []


@pytest.mark.parametrize("also", ["infection-fold-3", "lungs-fold-1", "empty-slices"])
def test_every_network_that_is_loaded_counts(also, pairs, weights, tmp_path):
    """Members of an ensemble, and the network that finds empty slices, have a hand in what is called: a is known."""
    with_held_out(weights, lctsc=["a", "b"])
    (weights / f"{also}.keras").write_bytes(b"another")
    card = read_card(weights / "lungs.json").replaced(task=also.partition("-fold-")[0], weights=f"{also}.keras")
    card = card.replaced(sha256=file_sha256(weights / card.weights), training={"held_out_patients": {"lctsc": ["b"]}})
    write_card(card.replaced(name=also), weights)
    evaluation = judge(*pairs, out=tmp_path / "out", weights=weights, patients="held-out")
    assert [row["case"] for row in evaluation["cases"]] == ["b"]
    used = evaluation["judged"]["cards"]
    assert set(used) == {"lungs", "infection", also}
    assert used[also]["card_sha256"] == file_sha256(weights / f"{also}.json")
    assert used[also]["threshold"] == (None if "fold" in also else 0.5), "a member's threshold is not used"
    assert also in (tmp_path / "out" / "evaluation.html").read_text()
    evaluation = judge(*pairs, out=tmp_path / "out", weights=weights, also_seen=True)
    assert {row["case"]: row["seen_by"] for row in evaluation["cases"]} == {"a": [also], "b": []}
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(files("covct.evaluation").joinpath("evaluation.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(evaluation)


def test_networks_of_another_input_size_are_judged_on_the_slices_own_pixels():
    """A network that sees 128 pixels of a slice of 256: its mask lies where the 256 pixel network's does."""

    from covct.evaluation.judge import look_at_slices
    from covct.evaluation.truth import Truth

    rows, columns = np.mgrid[:256, :256]
    hu = np.where(np.hypot(rows - 100, columns - 90) < 40, -850, 40)[None].astype(np.int16)
    fine, made = make_networks(), make_networks()
    half = {task: replace(getattr(made, task), card=getattr(made, task).card.replaced(size=128))
            for task in ("lungs", "infection")}  # fmt: skip
    wanted = look_at_slices(fine, Truth(hu, {}), infection=False)
    called = look_at_slices(replace(made, **half), Truth(hu, {}))
    assert called.masks["lungs"].shape == hu.shape
    assert scores(count(wanted.masks["lungs"], called.masks["lungs"]))["dice"] > 0.97
    assert called.probability["lungs"](0).max() == 1


def test_a_threshold_by_hand_is_one_network_s(chests, tmp_path):
    weights = with_held_out(make_weights(tmp_path / "w"), cases=["c0"])
    order = EvaluationOrder(chests, tmp_path / "out", weights=weights, tasks=("lungs",), threshold=0.25, resamples=100)
    evaluation = evaluate(order, threshold_networks, no_networks)
    assert evaluation["judged"]["cards"]["lungs"]["threshold"] == 0.25
    assert any("given by hand" in note for note in evaluation["notes"])
    with pytest.raises(UsageError, match="goes with --weights and with --task"):
        evaluate(replace(order, tasks=("lungs", "infection")), threshold_networks, no_networks)


def test_training_curves_come_from_beside_the_card(chests, tmp_path):
    weights = with_held_out(make_weights(tmp_path / "w"), cases=["c0"])
    history = {"loss": [1.0, 0.5, float("nan")], "val_loss": [1.2, 0.7, 0.6], "val_dice": [0.1, 0.5, 0.6]}
    (weights / "lungs-history.json").write_text(json.dumps(history))
    evaluate(EvaluationOrder(chests, tmp_path / "out", weights=weights, resamples=100), threshold_networks, no_networks)
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert "lungs: loss" in page
    assert "No training history was found beside the card of infection" in page
    assert not re.search(r"points=\"[^\"]*nan", page)


@pytest.mark.slow
def test_the_figures_of_the_page_are_written_as_files_too(chests, tmp_path):
    """Those of an evaluation before are gone, what else lies there stays."""
    weights = with_held_out(make_weights(tmp_path / "w"), cases=["c0", "c1"])
    (weights / "lungs-history.json").write_text(json.dumps({"loss": [1.0, 0.5], "val_dice": [0.1, 0.5]}))
    figures = tmp_path / "out" / "figures"
    figures.mkdir(parents=True)
    for name in ("infection-old.png", "own.png"):
        (figures / name).touch()
    order = EvaluationOrder(chests, tmp_path / "out", weights=weights, resamples=100, figures=True)
    evaluate(order, threshold_networks, no_networks)
    found = {path.name for path in figures.iterdir()}
    wanted = ["box-plot", "reliability", "dice-by-threshold", "precision-recall", "roc", "severity-classes",
              "agreement-volume", "agreement-infected-share", "worst-slices"]  # fmt: skip
    assert found >= {f"infection-{name}.png" for name in wanted} | {"lungs-box-plot.png", "own.png"}
    assert found >= {"training-lungs-loss.png", "training-lungs-dice.png"}
    assert "infection-old.png" not in found
    for path in figures.glob("*-*.png"):
        image = cv2.imread(str(path))
        assert image is not None and image.std() > 5, f"{path.name} shows something"
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert page.count('class="quartiles"') > 8 and page.count('class="square"') == 1


def test_a_box_plot_and_a_confusion_hold_what_they_are_given():
    rows = [("a", "s0", 0.2), ("b", "s0", 0.4), ("c", "s1", 0.9)]
    plot = box_plot({"Dice": rows}, "", "")
    assert plot.boxes == [Box(1, 0.2, pytest.approx(0.3), 0.4, pytest.approx(0.65), 0.9)]
    assert [dot.y for dot in plot.dots] == [0.2, 0.4, 0.9]
    assert plot.x.told == [(1, "Dice")]
    changes = [{"truth": 2, "called": 1, "patients": 3}, {"truth": 5, "called": 5, "patients": 6}]
    assert confusion(changes, 5, "").squares == [Square(1, 2, 0.5, "3"), Square(5, 5, 1, "6")]


def test_command_line(pairs, tmp_path):
    def run(*arguments):
        return CliRunner().invoke(cli.app, ["evaluate", *map(str, arguments)])

    data, calls = pairs
    result = run(data, "--predictions", calls, "-o", tmp_path / "out", "--json", "--resamples", 100)
    assert result.exit_code == 0
    events = events_in(result.stdout, EvaluateEvent)
    assert [event["event"] for event in events] == ["found", "judged", "judged", "evaluated"]
    result = run(data, "--predictions", calls, "-o", tmp_path / "out", "--task", "infection")
    assert isinstance(result.exception, UsageError)
    for wrong in ((), ("--weights", tmp_path / "nowhere"), ("--predictions", calls, "--patients", "held-out"),
                  ("--predictions", calls, "--also-seen", "--patients", "held-out")):  # fmt: skip
        assert isinstance(run(data, "-o", tmp_path / "out", *wrong).exception, UsageError)
    with pytest.raises(UsageError, match="no labelled cases"):
        find_cases(calls)


def test_half_a_page_is_never_left(pairs, tmp_path, monkeypatch):
    from covct.errors import OutputNotWritable

    judge(*pairs, out=tmp_path / "out")
    before = (tmp_path / "out" / "evaluation.json").read_bytes()

    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputNotWritable, match="No space left"):
        judge(*pairs, out=tmp_path / "out", tolerance_mm=9)
    assert (tmp_path / "out" / "evaluation.json").read_bytes() == before
    assert len(list((tmp_path / "out").iterdir())) == 3
