"""The whole line with the shipped weights, as a person runs it. The slowest tests: keras is loaded for real."""

import json
import os
import subprocess
import sys

import jsonschema
import nibabel
import numpy as np
import pytest

import covct
from covct.phantom.chest import make_phantom
from covct.phantom.dicom import write_dicom_series
from support.example_report import SCHEMA
from support.running import read_json

pytestmark = pytest.mark.slow

pytest.importorskip("keras")


def scan(*arguments, cwd):
    """Run `covct scan` from an empty directory; its JSON events."""
    root = os.path.dirname(os.path.dirname(covct.__file__))
    environment = {name: value for name, value in os.environ.items() if name != "COVCT_WEIGHTS"}
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "covct", "scan", *map(str, arguments), "--json", "--device", "cpu"],
        capture_output=True, text=True, check=False, cwd=cwd, env={**environment, "PYTHONPATH": root},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    return [json.loads(line) for line in run.stdout.splitlines()], run.stderr


def test_phantom_with_the_shipped_weights_then_nothing_left_to_do(tmp_path):
    made = make_phantom(slices=60, rows=256, columns=256, lesions="moderate", seed=0)
    write_dicom_series(made, tmp_path / "in")
    events, _ = scan(tmp_path / "in", "--out", tmp_path / "out", cwd=tmp_path)
    [done] = [event for event in events if event["event"] == "done"]
    report = read_json(tmp_path / "out" / done["folder"] / "report.json")
    jsonschema.validate(report, SCHEMA)
    truth = made.truth()
    for side in ("right_lung", "left_lung"):
        assert report["regions"][side]["volume_ml"] == pytest.approx(truth[f"{side}_ml"], rel=0.05)
    assert report["regions"]["lungs"]["infection_ml"] == pytest.approx(truth["infection_ml"], rel=0.4)
    assert report["run"]["device"]["kind"] == "cpu"

    events, imports = scan(tmp_path / "in", "--out", tmp_path / "out", cwd=tmp_path)
    assert [event["event"] for event in events] == ["found", "skipped", "finished"]
    for heavy in ("keras", "tensorflow", "highdicom", "SimpleITK"):
        assert f" {heavy}\n" not in imports, f"{heavy} was imported although there was nothing to do"


def test_clean_phantom_is_nearly_clean(tmp_path):
    write_dicom_series(make_phantom(slices=40, rows=256, columns=256, lesions="none", seed=3), tmp_path / "in")
    events, _ = scan(tmp_path / "in", "--out", tmp_path / "out", cwd=tmp_path)
    [done] = [event for event in events if event["event"] == "done"]
    assert done["infection_percent"] < 3
    assert done["severity_class"] == 1


def test_real_series_from_a_zip_matches_the_radiotherapists_lungs(shared, tmp_path):
    """LCTSC case-005 was kept out of all training; the bar for its lungs is a Dice of 0.95 at full resolution."""
    source = shared / "dicom" / "lctsc-case-005.zip"
    events, _ = scan(source, "--out", tmp_path / "out", "--formats", "seg,nifti", cwd=tmp_path)
    [done] = [event for event in events if event["event"] == "done"]
    found = nibabel.load(tmp_path / "out" / done["folder"] / "lungs.nii.gz")
    truth = nibabel.load(shared / "dicom" / "lctsc-case-005_lungs.nii.gz")
    as_truth = nibabel.orientations.io_orientation(truth.affine)
    found = found.as_reoriented(
        nibabel.orientations.ornt_transform(nibabel.orientations.io_orientation(found.affine), as_truth)
    )
    np.testing.assert_allclose(found.affine, truth.affine, atol=0.05)
    ours, theirs = np.asarray(found.dataobj) > 0, np.asarray(truth.dataobj) > 0
    dice = 2 * np.count_nonzero(ours & theirs) / (np.count_nonzero(ours) + np.count_nonzero(theirs))
    assert dice >= 0.95
