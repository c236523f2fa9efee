"""One series of a study, always the same, and the reason why not the others."""

import random
import re
import shutil

import pytest

from covct.intake.choice import choose, selected
from covct.intake.discover import discover
from covct.intake.gate import check_headers
from support.running import invoke, read_json
from support.series import change


@pytest.fixture
def study(series_folder, tmp_path):
    """A function that adds a series to the study, changed by attributes; it is known by its UID 1.2.N."""
    made = []

    def add(**attributes):
        made.append(tmp_path / f"s{len(made)}")
        shutil.copytree(series_folder, made[-1])
        uid = f"1.2.{len(made)}"
        change(made[-1], SeriesInstanceUID=uid, SOPInstanceUID=lambda i: f"{uid}.{i + 1}", **attributes)
        return uid

    add.folders = made  # type: ignore[attr-defined]
    return add


def chosen(study):
    candidates = list(discover(study.folders).series)
    random.Random(len(candidates)).shuffle(candidates)
    choice = choose(candidates, check_headers)
    return choice.chosen.series_uid, {series.series_uid: message for series, _, message in choice.left_out}


@pytest.mark.parametrize(
    ("worse", "better", "reason"),
    [
        ({"BodyPartExamined": "ABDOMEN", "SeriesDescription": ""}, {"BodyPartExamined": "CHEST"}, "another part"),
        ({"SeriesDescription": "CHEST EXP 1.0"}, {"SeriesDescription": "CHEST INSP 1.0"}, "in expiration"),
        ({"ConvolutionKernel": "B30f"}, {"ConvolutionKernel": "B60f"}, "kernel B30f"),
        ({"SliceThickness": 5}, {"SliceThickness": 1}, "5 mm thick"),
        ({"LossyImageCompression": "01"}, {}, "lossy compression"),
        ({"KVP": "80"}, {"KVP": "100"}, "80 kV; the chosen series: 30 slices; 10 mm thick; kernel STANDARD; 100 kV"),
        ({"NominalPercentageOfCardiacPhase": 40.0}, {"NominalPercentageOfCardiacPhase": 70.0}, "phase 40 %"),
        ({"ContrastBolusAgent": "Iodine"}, {}, "with contrast medium"),
    ],
)
def test_each_line_of_the_rule(study, worse, better, reason):
    bad, good = study(**worse), study(**better)
    uid, others = chosen(study)
    assert uid == good
    assert reason in others[bad]


def test_a_thin_piece_of_the_chest_does_not_win_over_the_whole(study):
    piece, whole = study(SliceThickness=1, ConvolutionKernel="B60f"), study(SliceThickness=5)
    for path in sorted(study.folders[0].iterdir())[12:]:
        path.unlink()
    uid, others = chosen(study)
    assert uid == whole
    assert "from head to feet" in others[piece]


def test_what_differs_in_nothing_is_decided_by_the_uid(study):
    first, second = study(), study()
    assert chosen(study)[0] == min(first, second)


def test_series_and_select_override_the_rule(study, tmp_path, weights, threshold_networks):
    soft, sharp = study(ConvolutionKernel="B30f"), study(ConvolutionKernel="B60f")
    for number, wish in enumerate((["--series", soft], ["--select", "ConvolutionKernel=b3"])):
        out = tmp_path / f"out{number}"
        result = invoke("scan", *study.folders, "--out", out, "--weights", weights, "--formats", "none", *wish)
        assert result.exit_code == 0, result.stderr
        [path] = out.glob("*/*/report.json")
        report = read_json(path)
        assert report["source"]["series_instance_uid"] == soft
        assert [(o["series_instance_uid"], o["slug"]) for o in report["selection"]["left_out"]] == [
            (sharp, "not-selected")
        ]


def test_a_study_without_a_selected_series_is_left_alone(study, tmp_path, weights, threshold_networks):
    study()
    result = invoke("scan", *study.folders, "--out", tmp_path / "out", "--weights", weights, "--series", "9.9")
    assert result.exit_code == 3
    assert not list((tmp_path / "out").glob("*/*/outcome.json"))


@pytest.mark.parametrize("wish", ["ConvolutionKernel", "NoSuchKeyword=1", "ConvolutionKernel=("])
def test_a_select_that_makes_no_sense_is_usage(wish, study, tmp_path, weights):
    study()
    result = invoke("scan", *study.folders, "--out", tmp_path / "out", "--weights", weights, "--select", wish)
    assert "--select" in str(result.exception)
    assert result.exception.exit_code == 2


def test_several_values_and_missing_ones_can_be_matched(study):
    uid = study(ImageType=["ORIGINAL", "PRIMARY", "AXIAL"])
    [series] = discover(study.folders).series
    assert selected(series, (uid,), (("ImageType", re.compile(r"ORIGINAL\\PRIMARY")),))
    assert not selected(
        series,
        (),
        (
            (
                "ContrastBolusAgent",
                re.compile("."),
            ),
        ),
    )
