"""Detection against hand counts, networks judged alone, and one side compared with another."""

import csv
import json
from dataclasses import replace
from importlib.resources import files

import cv2
import highdicom as hd
import numpy as np
import pytest

from covct.data.cases import Case
from covct.errors import UsageError
from covct.evaluation import detection, lesions
from covct.evaluation.against import holds_cards, order_against
from covct.evaluation.evaluate_event import EvaluateEvent
from covct.evaluation.judge import Called, judge
from covct.evaluation.order import EvaluationOrder
from covct.evaluation.run import evaluate
from covct.evaluation.truth import Truth
from covct.intake.nifti import write_nifti
from covct.networks.cards import read_card, write_card
from covct.voxels.overlay import FALSE_RGB, MISSED_RGB, RIGHT_RGB
from support.chests import save_slices, windowed
from support.events import as_published, events_in
from support.running import invoke
from support.thresholds import make_networks, make_weights

# Pixels


def test_curves_by_hand():
    """From the surest: right, wrong, right, wrong. One more is marked where no lung was found."""
    probability = np.array([[0.95, 0.8, 0.6, 0.1, 0.99]], np.float16)
    truth = np.array([[1, 0, 1, 0, 0]], bool)
    region = np.array([[1, 1, 1, 1, 0]], bool)
    sums = detection.histogram(probability, truth, region)
    assert float(detection.roc_auc(sums)) == pytest.approx(3 / 4)
    assert float(detection.average_precision(sums)) == pytest.approx((1 + 2 / 3) / 2)
    outside = detection.histogram(probability, truth | ~region, region)
    assert float(detection.average_precision(outside)) == pytest.approx((1 + 2 / 3) / 3)
    assert float(detection.roc_auc(outside)) == pytest.approx(3 / 4 * 2 / 3)
    found = {round(point["recall"], 2) for point in detection.points(sums, 4)}
    assert found == {0, 0.5, 1}


def test_curves_of_nothing_are_no_number():
    nothing = detection.histogram(np.array([0.2, 0.9], np.float32), np.zeros(2, bool), np.ones(2, bool))
    assert np.isnan(detection.average_precision(nothing))
    assert np.isnan(detection.roc_auc(nothing))


def test_histograms_of_slices_add_up_and_hold_thresholds_near_certainty():
    """A network is sure of most pixels: what distinguishes 0.99 from 0.999 is not lost."""
    rng = np.random.default_rng(0)
    truth = rng.random(20000) < 0.3
    probability = 1 / (1 + np.exp(-(rng.normal(0, 1.5, 20000) + 6 + 2 * truth)))
    there = np.ones(10000, bool)
    whole = detection.histogram(probability, truth, np.ones(20000, bool))
    halves = [detection.histogram(probability[k::2], truth[k::2], there) for k in (0, 1)]
    np.testing.assert_array_equal(sum(halves), whole)
    ranks = np.argsort(np.argsort(probability)) + 1.0
    exact = (ranks[truth].sum() - truth.sum() * (truth.sum() + 1) / 2) / (truth.sum() * (~truth).sum())
    assert float(detection.roc_auc(whole)) == pytest.approx(exact, abs=0.002)


# Lesions


def test_lesions_by_size():
    """Cubes of 0.5, 5 and 20 mL are marked; the middle one and another, of 1.2 mL, are called."""
    marked, called = np.zeros((2, 20, 40, 80), bool)
    for mask, at, size in ((marked, 0, (1, 5, 10)), (marked, 20, (5, 10, 10)), (marked, 40, (10, 20, 10)),
                           (called, 20, (4, 10, 10)), (called, 65, (3, 4, 10))):  # fmt: skip
        mask[: size[0], : size[1], at : at + size[2]] = True
    sums = lesions.lesion_sums(marked, called, voxel_mm3=10)
    assert dict(zip(lesions.NAMES, sums, strict=False)) == {
        "marked": 3, "called": 2, "found": 1, "right": 1, "matched": 1,
    }  # fmt: skip
    assert [dict(zip(lesions.BY_SIZE, row, strict=True)) for row in lesions.by_size(sums)] == [
        {"marked": 1, "found": 0, "called": 0, "right": 0},
        {"marked": 1, "found": 1, "called": 2, "right": 1},
        {"marked": 1, "found": 0, "called": 0, "right": 0},
    ]


def test_pictures_show_what_is_right_false_and_missed(tmp_path):
    truth, mine = np.zeros((2, 1, 64, 64), bool)
    truth[:, 20:40, 10:34], mine[:, 20:40, 22:50] = True, True
    case = Case("a", "some", tmp_path, "nifti", "", ())
    scan = Truth(np.full(truth.shape, -800, np.int16), {"infection": truth}, (5.0, 1.0, 1.0))
    [one] = judge(case, "a", scan, Called({"infection": mine}), ("infection",), 2.0)
    drawn = cv2.imdecode(np.frombuffer(one.pictures[0].png, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1].astype(int)
    call = drawn[:, -260:]
    grey = call[130, 3]
    tints = {colour: np.array(colour) - grey for colour in (RIGHT_RGB, FALSE_RGB, MISSED_RGB)}
    places = {}
    for colour, tint in tints.items():
        off = call - grey
        like = (off @ tint) / (np.linalg.norm(off, axis=-1) * np.linalg.norm(tint) + 1e-9) > 0.98
        places[colour] = np.flatnonzero(like.any(0)).mean()
    assert places[MISSED_RGB] < places[RIGHT_RGB] < places[FALSE_RGB]


# One side against another


def box(shift=0):
    array = np.zeros((4, 10, 16), np.uint8)
    array[1:3, 3:7, 3 + shift : 8 + shift] = 1
    return hd.Volume.from_components(
        array, spacing=(3, 2, 2), coordinate_system="PATIENT", position=(0, 0, 0), patient_orientation="FPL"
    )


@pytest.fixture
def two_tools(tmp_path):
    """Twelve people; one tool marks their lungs a column aside, the other two columns, and of the last none."""
    data, near, far = (tmp_path / name for name in ("data", "near", "far"))
    for folder in (data, near, far):
        folder.mkdir()
    for k in range(12):
        write_nifti(box().with_array(np.where(box().array, -800, 40).astype(np.int16)), data / f"=p{k}_ct.nii.gz")
        for folder, shift in ((data, 0), (near, 1), (far, 2)):
            write_nifti(box(shift), folder / f"=p{k}_lungs.nii.gz")
    write_nifti(box().with_array(np.zeros((4, 10, 16), np.uint8)), far / "=p11_lungs.nii.gz")
    return data, near, far


def test_two_tools_are_compared_patient_by_patient(two_tools, tmp_path):
    """Dice 0.8 against 0.6: a difference that no resample of these people changes, but for the one who was missed."""
    jsonschema = pytest.importorskip("jsonschema")
    data, near, far = two_tools
    order = EvaluationOrder(data, tmp_path / "out", predictions=near, against=far, patients="all", tasks=("lungs",),
                            resamples=400, names=True)  # fmt: skip
    told = []
    evaluation = evaluate(order, None, None, lambda event: told.append(event) or as_published(EvaluateEvent, [event]))
    assert [event["event"] for event in told].count("compared") == 12
    [group] = evaluation["against"]["groups"]
    assert (group["patients"], group["cases"], group["other_pixels"]) == (12, 12, 0)
    mean = group["figures"]["mean_dice"]
    assert (mean["value"], mean["against"]) == (pytest.approx(0.8), pytest.approx(0.55))
    low, high = mean["difference"]["interval"]
    assert 0.19 < low < mean["difference"]["value"] < high < 0.6
    single = evaluation["groups"][0]["mean"]["dice"]["interval"]
    assert single == [0.8, 0.8]
    schema = json.loads(files("covct.evaluation").joinpath("evaluation.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(json.loads((tmp_path / "out" / "evaluation.json").read_text()))
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert "Against another tool&#39;s masks" in page
    assert page.count('<circle class="dot s0"') >= 12
    rows = list(csv.DictReader((tmp_path / "out" / "cases.csv").read_text().splitlines()))
    assert len(rows) == 12
    assert rows[0]["case"].startswith("'=p"), "no spreadsheet runs a name"
    assert {(row["dice"], row["dice_against"]) for row in rows} == {("0.8", "0.6"), ("0.8", "0.0")}


def test_against_on_the_command_line(two_tools, tmp_path):
    data, near, far = two_tools
    asked = ("evaluate", data, "--predictions", near, "-o", tmp_path / "out", "--task", "lungs", "--resamples", 100)
    ended = invoke(*asked, "--against", far, "--json")
    assert ended.exit_code == 0, ended.exception
    assert {event["event"] for event in events_in(ended.stdout, EvaluateEvent)} == {
        "found", "judged", "compared", "evaluated",
    }  # fmt: skip
    assert ended.stderr == ""
    assert "reading" in invoke(*asked).stderr
    assert isinstance(invoke(*asked, "--against", tmp_path / "nowhere").exception, UsageError)
    (far / "=p3_lungs.nii.gz").unlink()
    assert "no lungs mask of =p3" in str(invoke(*asked, "--against", far).exception)


def test_networks_that_masks_are_compared_with_judge_whom_they_have_not_learned_from(two_tools, tmp_path):
    data, near, _ = two_tools
    weights = alone(tmp_path / "w", "lungs", lctsc=["=p4"])
    order = EvaluationOrder(data, tmp_path / "out", predictions=near, against=weights, patients="all",
                            tasks=("lungs",), resamples=100, names=True, source="lctsc")  # fmt: skip
    seen = order_against(order)
    assert (seen.weights, seen.predictions, seen.patients) == (weights, None, "held-out")
    assert order_against(replace(order, also_seen=True)).patients == "all"
    assert order_against(replace(order, against=near)).patients == "all"


# A network by itself


def alone(folder, task, **held_out):
    """A weights folder with one network."""
    made = make_weights(folder)
    for other in {"lungs", "infection"} - {task}:
        (made / f"{other}.json").unlink()
        (made / f"{other}.keras").unlink()
    card = read_card(made / f"{task}.json")
    write_card(card.replaced(training={"held_out_patients": held_out}), made)
    return made


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    folder = make_weights(tmp_path / "shipped")
    monkeypatch.setenv("COVCT_WEIGHTS", str(folder))
    return folder


def never(seen):
    raise AssertionError("this network is not asked")


@pytest.fixture(scope="module")
def chests(phantom, tmp_path_factory):
    data = tmp_path_factory.mktemp("chests")
    for name in ("c0", "c1"):
        write_nifti(phantom.volume, data / f"{name}_ct.nii.gz")
        write_nifti(phantom.volume.with_array((phantom.lungs > 0).astype(np.uint8)), data / f"{name}_lungs.nii.gz")
        write_nifti(phantom.volume.with_array(phantom.infection.astype(np.uint8)), data / f"{name}_infection.nii.gz")
    return data


@pytest.mark.slow
def test_an_infection_network_alone_is_judged_in_the_shipped_lungs(chests, shipped, tmp_path):
    weights = alone(tmp_path / "w", "infection", cases=["c0"])
    order = EvaluationOrder(chests, tmp_path / "out", weights=weights, resamples=100)
    evaluation = evaluate(order, lambda folder: make_networks(), None)
    assert {group["task"] for group in evaluation["groups"]} == {"infection"}
    assert set(evaluation["judged"]["cards"]) == {"infection", "lungs"}
    assert any("shipped network finds in 1 cases" in note for note in evaluation["notes"])
    [group] = evaluation["groups"]
    curves = group["curves"]
    assert 0 < curves["average_precision"]["value"] < 1
    assert curves["mean_roc_auc"]["value"] == curves["roc_auc"]["value"], "of one patient"
    assert sum(row["marked"] for row in group["lesions"]["by_size"]) == group["lesions"]["marked"] > 0
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert "ROC in the lungs found" in page and "average precision" in page
    with pytest.raises(UsageError, match=r"no network for lungs; wanted lungs.json"):
        evaluate(replace(order, tasks=("lungs",)), never, None)
    write_card(read_card(shipped / "lungs.json").replaced(training={"held_out_patients": {"cases": ["c1"]}}), shipped)
    with pytest.raises(UsageError, match=r"learned from all 2 cases \(from 1 of them only the shipped lungs network"):
        evaluate(order, never, None)
    with pytest.raises(UsageError, match="may judge none of the 1 cases"):
        evaluate(replace(order, weights=alone(tmp_path / "lungs", "lungs", cases=["c0"]), tasks=("lungs",),
                         against=alone(tmp_path / "other", "lungs", cases=["c1"])),
                 lambda folder: make_networks(), None)  # fmt: skip


def test_an_infection_network_alone_is_judged_in_the_true_lungs_of_slices(shipped, tmp_path):
    """Whom the shipped lungs have learned from does not matter then: they are not asked."""
    save_slices(tmp_path / "data", ["p1", "p2"], windowed)
    weights = alone(tmp_path / "w", "infection", ma=["p1", "p2"])
    write_card(read_card(shipped / "lungs.json").replaced(training={"held_out_patients": {"ma": []}}), shipped)
    made = make_networks()
    made = replace(made, lungs=replace(made.lungs, predict=never))
    order = EvaluationOrder(tmp_path / "data", tmp_path / "out", weights=weights, against=weights, resamples=100)
    evaluation = evaluate(order, lambda folder: made, None)
    assert set(evaluation["judged"]["cards"]) == {"infection"}
    assert any("called inside the true lungs of 2 cases." in note for note in evaluation["notes"])
    [group] = evaluation["against"]["groups"]
    assert group["figures"]["dice"]["difference"]["value"] == 0, "compared with itself"
    assert "average_precision" in group["figures"]


@pytest.mark.slow
def test_a_lungs_network_alone_is_judged_without_any_for_infection(chests, shipped, tmp_path):
    weights = alone(tmp_path / "w", "lungs", cases=["c0"])
    made = make_networks()
    made = replace(made, infection=replace(made.infection, predict=never))
    order = EvaluationOrder(chests, tmp_path / "out", weights=weights, resamples=100)
    evaluation = evaluate(order, lambda folder: made, None)
    assert [(group["task"], group["cases"]) for group in evaluation["groups"]] == [("lungs", 1)]
    assert set(evaluation["judged"]["cards"]) == {"lungs"}
    assert holds_cards(weights) and not holds_cards(chests)


def test_the_shipped_restorer_is_taken_where_the_weights_hold_none(shipped, tmp_path):
    from covct.evaluation.eligible import find_judges

    weights = alone(tmp_path / "w", "lungs")
    [judge] = find_judges(weights)
    assert judge.restorer == weights / "restorer.json", "there is none anywhere: the message names their own"
    (shipped / "restorer.json").write_text("{}")
    [judge] = find_judges(weights)
    assert judge.restorer == shipped / "restorer.json"
    (weights / "restorer.json").write_text("{}")
    [judge] = find_judges(weights)
    assert judge.restorer == weights / "restorer.json"
