"""What `covct evaluate` says beside overlap: outlines in pixels, labels by slice, people without disease, burden."""

import json
from dataclasses import replace
from importlib.resources import files

import highdicom as hd
import numpy as np
import pytest

from covct.commands.schemas import schema_path
from covct.data.layouts import search_cases
from covct.errors import OutputNotWritable, UsageError
from covct.evaluation.order import EvaluationOrder
from covct.evaluation.outline import SCORES, outline_sums
from covct.evaluation.robustness import thicker, variants
from covct.evaluation.run import evaluate
from covct.evaluation.schema import Evaluation
from covct.intake.choice import Choice
from covct.intake.discover import discover
from covct.intake.nifti import write_nifti
from covct.networks.cards import file_sha256, read_card
from covct.pipeline.series import Clock, process, segment
from covct.voxels.volume import Scan
from support.chests import chest, save, save_pair
from support.running import read_json
from support.thresholds import make_networks, make_weights

# Outlines


def square(shift=0, side=6, extent=20):
    mask = np.zeros((1, extent, extent), bool)
    mask[0, 5 : 5 + side, 5 + shift : 5 + shift + side] = True
    return mask


def outlines(truth, called):
    return {name: float(score(outline_sums(truth, called))) for name, score in SCORES.items()}


def test_outlines_by_hand():
    """A square of 6 x 6, moved by 2 columns: outlines of 20 pixels each, 24 wrong pixels, all within 2 of the other."""
    found = outlines(square(), square(2))
    assert found["dice_within_2px"] == 1
    # Right are the 24 that overlap, and of each side's 12 wrong ones the 6 of the nearer column.
    assert found["dice_within_1px"] == pytest.approx(2 * 36 / (2 * 36 + 12))
    assert found["surface_dice_2px"] == 1
    assert found["surface_dice_1px"] == pytest.approx(brute_force(square()[0], square(2)[0], 1))


def brute_force(truth, called, tolerance):
    def edge(mask):
        padded = np.pad(mask, 1)
        inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        return np.argwhere(mask & ~inner)

    one, other = edge(truth), edge(called)
    apart = np.linalg.norm(one[:, None] - other[None], axis=2)
    return ((apart.min(1) <= tolerance).sum() + (apart.min(0) <= tolerance).sum()) / (len(one) + len(other))


@pytest.mark.parametrize("seed", range(3))
def test_surface_dice_of_ragged_masks_against_brute_force(seed):
    rng = np.random.default_rng(seed)
    truth, called = (rng.random((1, 14, 17)) > 0.7 for _ in range(2))
    for tolerance in (1, 2):
        wanted = brute_force(truth[0], called[0], tolerance)
        assert outlines(truth, called)[f"surface_dice_{tolerance}px"] == pytest.approx(wanted)


def test_outlines_of_nothing():
    """A slice on which one side marks nothing has an outline that is found nowhere."""
    nothing = np.zeros((1, 20, 20), bool)
    assert outlines(square(), nothing) == dict.fromkeys(SCORES, 0.0)
    assert np.isnan(list(outlines(nothing, nothing).values())).all()
    both = np.concatenate([square(), square()]), np.concatenate([square(), nothing])
    assert outlines(*both)["surface_dice_1px"] == pytest.approx(40 / 60)


# Labels by slice


def labels(folder, rows, header="patient,diagnosis,index_head_first,infection,RUL"):
    folder.mkdir(exist_ok=True)
    lines = [header, *(",".join(map(str, row)) for row in rows)]
    (folder / "slice_labels.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def labelled(tmp_path):
    """Two people of 6 slices with labels: slice 0 has no lung; the second has no disease. Calls of another tool."""
    data, calls = tmp_path / "data", tmp_path / "calls"
    said = [("P1", "COVID-19", index, int(index in (2, 3, 4)), 1) for index in range(6)]
    labels(data, [*said, *(("N1", "normal", index, "", "") for index in range(6))])
    for name, shown in (("P1", [2, 3, 5]), ("N1", [1])):
        hu, lungs, infection = chest(0, infected=name == "P1")
        sick = chest(0)[2]
        save(hu, data / f"{name}_hu.nii.gz")
        save((lungs > 0).astype(np.uint8), calls / f"{name}_lungs.nii.gz")
        called = np.zeros_like(infection)
        called[shown] = sick[shown]
        save(called, calls / f"{name}_infection.nii.gz")
    return data, calls


def judge(folders, out, **wishes):
    data, calls = folders
    order = EvaluationOrder(data, out, predictions=calls, patients="all", resamples=100, names=True, **wishes)
    return evaluate(order, None, None)


def test_labels_by_slice_are_a_truth(labelled, tmp_path):
    """Of 3 labelled slices 2 are called; of the others with lung, 1 and 5, one is. Slice 0 has no lung: no merit."""
    evaluation = judge(labelled, tmp_path / "out")
    rows = {row["case"]: row for row in evaluation["cases"]}
    assert rows["P1"]["by_slice"] == {"labelled": 3, "found": 2, "clear": 2, "called": 1}
    assert rows["N1"]["by_slice"] == {"labelled": 0, "found": 0, "clear": 5, "called": 1}
    assert rows["P1"]["tasks"] == {} and evaluation["groups"] == []
    assert rows["P1"]["calls_without_truth"] is None, "there is infection"
    lung, sick = (int(np.count_nonzero(one)) for one in chest(0)[1:])
    told = rows["N1"]["calls_without_truth"]
    assert told["percent_of_lung"] == pytest.approx(100 * (sick / 5) / lung, rel=1e-4)
    assert told["lungs"] == "found"
    assert rows["N1"]["false_calls"]["ml"] == pytest.approx(sick / 5 * 0.08), "all that is called"
    assert rows["P1"]["false_calls"]["ml"] == pytest.approx(sick / 5 * 0.08), "slice 5 alone"
    [group] = evaluation["calls"]
    assert (group["patients"], group["by_slice"]["sensitivity"]["value"]) == (2, pytest.approx(2 / 3, abs=1e-6))
    assert group["by_slice"]["specificity"]["value"] == pytest.approx(5 / 7, abs=1e-6)
    assert sum(one["share"]["value"] for one in group["false_calls"]["regions"].values()) == pytest.approx(1, abs=1e-5)
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert "2 of 3" in page and "Infection called, slice by slice and by anatomy" in page


def test_labels_by_slice_are_read_by_evaluation_alone(labelled):
    """Nothing is marked that a network could learn from: training and exploration leave it out, as before."""
    data, _ = labelled
    assert search_cases(data).cases == ()
    cases = search_cases(data, by_slice=True).cases
    assert [(case.name, case.patient, case.negative) for case in cases] == [("P1", "P1", False), ("N1", "N1", True)]
    assert cases[0].slice_labels == (False, False, True, True, True, False)


def test_several_series_of_a_patient_are_one_patient(tmp_path):
    rows = [(series, "p", index, "yes") for series in ("a", "b") for index in range(6)]
    data = labels(tmp_path / "data", rows, "series,patient,index_head_first,infection")
    for name in ("a", "b"):
        save(chest(0)[0], data / f"{name}.nii.gz")
    assert [(case.name, case.patient) for case in search_cases(data, by_slice=True).cases] == [("a", "p"), ("b", "p")]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("a", 0, 1), ("a", 2, 1)], "slices of a are not numbered from 0 without a gap"),
        ([("a", 0, "perhaps")], "line 2: index_head_first '0', infection 'perhaps'; wanted a number from 0"),
        ([("a", "top", 1)], "line 2: index_head_first 'top'"),
    ],
)
def test_a_table_that_says_nothing_clear_is_refused(rows, said, tmp_path):
    data = labels(tmp_path / "data", rows, "series,index_head_first,infection")
    save(chest(0)[0], data / "a.nii.gz")
    with pytest.raises(UsageError, match=said):
        search_cases(data, by_slice=True)


def test_labels_of_no_volume_are_left_out_and_too_few_are_refused(labelled, tmp_path):
    data, calls = labelled
    labels(data, [*(("P1", "", i, 1, "") for i in range(6)), ("Q", "", 0, 1, "")])
    evaluation = judge((data, calls), tmp_path / "out")
    assert [row["case"] for row in evaluation["cases"]] == ["P1"]
    assert [one["slug"] for one in evaluation["left_out"]] == ["no-image"]
    labels(data, [("N1", "normal", index, "", "") for index in range(5)])
    with pytest.raises(UsageError, match="5 labels, 6 slices; wanted a label for each slice"):
        judge((data, calls), tmp_path / "out")


# Beside masks


@pytest.fixture
def marked(tmp_path):
    """Two patients with masks; of the first a lung is lost, and with it all its infection."""
    data, calls = tmp_path / "data", tmp_path / "calls"
    for name, seed in (("a", 0), ("b", 1)):
        save_pair(data, name, seed)
        _, lungs, infection = chest(seed)
        lost = lungs == (1 if name == "a" else 9)
        save(np.where(lost, 0, lungs > 0).astype(np.uint8), calls / f"{name}_lungs.nii.gz")
        save(np.where(lost, 0, infection).astype(np.uint8), calls / f"{name}_infection.nii.gz")
    return data, calls


def test_infection_outside_the_lungs_found_and_changes_of_class(marked, tmp_path):
    evaluation = judge(marked, tmp_path / "out")
    rows = {row["case"]: row["tasks"]["infection"] for row in evaluation["cases"]}
    assert (rows["a"]["marked_inside_lungs"], rows["b"]["marked_inside_lungs"]) == (0, 1)
    sick = {name: int(np.count_nonzero(chest(seed)[2])) for name, seed in (("a", 0), ("b", 1))}
    lung = int(np.count_nonzero(chest(0)[1]))
    [group] = [one for one in evaluation["groups"] if one["task"] == "infection"]
    share = sick["b"] / (sick["a"] + sick["b"])
    assert group["marked_inside_lungs"]["value"] == pytest.approx(share, abs=1e-6)
    burden = group["burden"]
    error = 100 * sick["a"] / lung
    assert burden["mean_absolute_error"]["value"] == pytest.approx(error / 2, abs=1e-4)
    assert burden["worst"] == pytest.approx(error, abs=1e-4)
    assert burden["classes"] == [
        {"truth": 2, "called": 1, "patients": 1}, {"truth": 2, "called": 2, "patients": 1},
    ]  # fmt: skip
    assert rows["a"]["severity"] == {"truth": 2, "called": 1}
    assert rows["b"]["outline"]["surface_dice_1px"] == 1
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert "same: 1, 2 → 1: 1" in page and "share inside the lungs found" in page


def test_the_document_follows_its_schema_and_an_earlier_one_is_still_read(marked, labelled, tmp_path):
    jsonschema = pytest.importorskip("jsonschema")
    judge(marked, tmp_path / "marked")
    judge(labelled, tmp_path / "labelled")
    schema = json.loads(files("covct.evaluation").joinpath("evaluation.schema.json").read_text())
    assert schema_path(Evaluation).is_file()
    for name in ("marked", "labelled"):
        written = json.loads((tmp_path / name / "evaluation.json").read_text())
        jsonschema.Draft202012Validator(schema).validate(written)
        Evaluation.model_validate_json(json.dumps(written))
        for one in written["groups"]:
            del one["outline"], one["marked_inside_lungs"], one["burden"], one["intervals"], one["lesions"]
        for row in written["cases"]:
            del row["by_slice"], row["false_calls"]
            for task in row["tasks"].values():
                del task["outline"], task["severity"], task["marked_inside_lungs"], task["interval"]
        del written["calls"]
        Evaluation.model_validate_json(json.dumps(written))


# Robustness


def ramp(slices=9, spacing=(2.0, 1.0, 1.0)):
    """Each slice has its own HU: 0, 100, 200 ..."""
    array = np.repeat(100 * np.arange(slices, dtype=np.int16)[:, None, None], 8, 1).repeat(8, 2)
    return hd.Volume.from_components(
        array, spacing=spacing, coordinate_system="PATIENT", position=(5, 6, 100), patient_orientation="FPL"
    )


@pytest.mark.parametrize("thickness", [3.0, 4.0, 5.0])
def test_thicker_slices_are_means_where_they_lie(thickness):
    """HU of the ramp is a function of height: of the means too, at their own centres, to a tenth of a step."""
    thin = ramp()
    thick = thicker(thin, thickness)
    assert len(thick.array) == int(18 / thickness)
    assert thick.spacing == (thickness, 1.0, 1.0)
    z = thick.map_indices_to_reference(np.array([[index, 0, 0] for index in range(len(thick.array))]))[:, 2]
    np.testing.assert_allclose(thick.array[:, 3, 3], (100 - z) / 2 * 100, atol=10)


def test_variants_of_a_scan():
    """Slices of 2 mm cannot be seen at 1 mm. A step is softer and steeper, and no HU is beyond those of its slice."""
    step = ramp(6)
    array = step.array.copy()
    array[:, :, 4:] = 1000
    found = dict(variants(step.with_array(array)))
    assert list(found) == ["smooth", "sharp", "3mm", "5mm"]
    rise = {name: np.diff(found[name].array[2, 4].astype(int)).max() for name in ("smooth", "sharp")}
    assert rise["smooth"] < 800 <= rise["sharp"]
    assert found["sharp"].array[2].min() == 200 and found["sharp"].array[2].max() == 1000


@pytest.mark.slow
def test_what_is_segmented_again_is_what_a_scan_segments(phantom, phantom_series):
    networks, series = make_networks(), discover([phantom_series]).series[0]
    masks = process(Choice(series, (), ()), lambda: networks, "key", Clock()).masks
    found = segment(networks, Scan(phantom.volume))
    np.testing.assert_array_equal(np.asarray(found.lungs), np.asarray(masks.lungs))
    np.testing.assert_array_equal(np.asarray(found.infection), np.asarray(masks.infection))


def test_robustness_is_asked_for(labelled, tmp_path):
    data, calls = labelled
    with pytest.raises(UsageError, match="--robustness segments changed scans"):
        judge((data, calls), tmp_path / "out", robustness=True)


def test_a_whole_series_is_segmented_again_and_told_on_the_page(phantom, tmp_path):
    data = labels(tmp_path / "whole", [("p", index, 1) for index in range(30)], "series,index_head_first,infection")
    write_nifti(phantom.volume, data / "p.nii.gz")
    weights = make_weights(tmp_path / "weights")
    order = EvaluationOrder(data, tmp_path / "out", weights=weights, resamples=100, robustness=True)
    evaluation = evaluate(order, lambda folder: make_networks(), None)
    [row], [group] = evaluation["cases"], evaluation["calls"]
    assert set(row["robustness"]["points"]) == {"smooth", "sharp"}, "its slices are 10 mm thick"
    assert group["robustness"]["smooth"]["worst"] == abs(row["robustness"]["points"]["smooth"])
    assert 0 < row["by_slice"]["found"] < 30
    assert "softer kernel" in (tmp_path / "out" / "evaluation.html").read_text()


# Intervals


@pytest.fixture
def two_people(phantom, tmp_path):
    """One phantom twice: with its infection marked, and with none."""
    data = tmp_path / "data"
    for name, infection in (("a", phantom.infection), ("b", np.zeros_like(phantom.infection))):
        data.mkdir(exist_ok=True)
        write_nifti(phantom.volume, data / f"{name}_ct.nii.gz")
        write_nifti(phantom.volume.with_array((phantom.lungs > 0).astype(np.uint8)), data / f"{name}_lungs.nii.gz")
        write_nifti(phantom.volume.with_array(infection.astype(np.uint8)), data / f"{name}_infection.nii.gz")
    return data


@pytest.mark.slow
def test_calibration_writes_whole_scans_into_the_card_and_reports_say_how_few_they_are(two_people, tmp_path):
    """Then, with people enough, their intervals hold the truth or do not, and the evaluation counts it."""
    weights = make_weights(tmp_path / "weights")
    order = EvaluationOrder(two_people, tmp_path / "out", weights=weights, patients="all", names=True, resamples=100,
                            source="new", calibrate=weights)  # fmt: skip
    networks = make_networks()
    own = {task: read_card(weights / f"{task}.json") for task in ("lungs", "infection")}
    networks = replace(networks, lungs=replace(networks.lungs, card=own["lungs"]),
                       infection=replace(networks.infection, card=own["infection"]))  # fmt: skip
    evaluation = evaluate(order, lambda folder: networks, None)
    said = "2 people in whole scans, 1 of them with infection, were written into infection.json"
    assert evaluation["notes"][-1] == said
    told = read_card(weights / "infection.json").calibration
    assert [(one.source, one.there) for one in told.people] == [("new", True), ("new", False)]
    with_it, without = (one.errors for one in told.people)
    assert without["infection_percent"] < with_it["infection_percent"], "much is called where nothing is"
    assert with_it["volume_ml"] == without["volume_ml"]
    assert not any(row["tasks"]["infection"]["interval"] for row in evaluation["cases"]), "two people promise nothing"

    person = told.people[0]
    people = [person] * 20 + [person.model_copy(update={"there": False})] * 20
    many = told.model_copy(update={"people": people})
    networks = replace(networks, infection=replace(
        networks.infection, card=own["infection"].replaced(calibration=many.model_dump())))  # fmt: skip
    evaluation = evaluate(replace(order, calibrate=None), lambda folder: networks, None)
    rows = {row["case"]: row["tasks"]["infection"] for row in evaluation["cases"]}
    for row in rows.values():
        inside = row["interval"]["low"] <= row["percent_of_lung"]["truth"] <= row["interval"]["high"]
        assert row["interval"]["holds_truth"] == inside
    assert not rows["b"]["interval"]["holds_truth"], "nothing is there, and much is called"
    [group] = [one for one in evaluation["groups"] if one["task"] == "infection"]
    assert (group["intervals"]["cases"], group["intervals"]["level"]) == (2, 0.9)
    lesions = group["lesions"]
    assert lesions["marked"] == rows["a"]["lesions"]["marked"] > 0 == rows["b"]["lesions"]["marked"]
    assert lesions["sensitivity"]["value"] == pytest.approx(lesions["found"] / lesions["marked"], abs=1e-6)
    assert "inside the report&#39;s interval" in (tmp_path / "out" / "evaluation.html").read_text()


def test_other_networks_than_those_that_judged_are_refused_before_anybody_is_measured(two_people, tmp_path):
    weights, others = make_weights(tmp_path / "weights"), make_weights(tmp_path / "others")
    (others / "infection.keras").write_bytes(b"another")
    card = read_json(others / "infection.json")
    card["sha256"] = file_sha256(others / "infection.keras")
    (others / "infection.json").write_text(json.dumps(card))
    order = EvaluationOrder(two_people, tmp_path / "out", weights=weights, patients="all", source="new",
                            resamples=100, calibrate=others)  # fmt: skip
    with pytest.raises(UsageError, match="its networks are not those that judged"):
        evaluate(order, lambda folder: pytest.fail("a case is looked at"), None)


def test_an_evaluation_outlives_a_card_that_cannot_be_written(two_people, tmp_path, monkeypatch):
    """Hours of cases are not lost by a disk that is full at their end."""
    (two_people / "b_ct.nii.gz").unlink()
    weights = make_weights(tmp_path / "weights")
    order = EvaluationOrder(two_people, tmp_path / "out", weights=weights, patients="all", source="new",
                            resamples=100, calibrate=weights)  # fmt: skip

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("covct.evaluation.people.replace_file", full)
    with pytest.raises(OutputNotWritable, match="No space left"):
        evaluate(order, lambda folder: make_networks(), None)
    evaluation = read_json(tmp_path / "out" / "evaluation.json")
    assert (len(evaluation["cases"]), evaluation["notes"][-1]) == (1, "nobody was written into infection.json")
