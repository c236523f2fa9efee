"""The whole line with the shipped weights, as a person runs it. The slowest tests: keras is loaded for real."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import nibabel
import numpy as np
import pytest

import covct
from covct.phantom.chest import Phantom, make_phantom
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


@dataclass(frozen=True)
class Night:
    """One run over a chest with lesions and one without: loading the networks takes longer than either."""

    folder: Path
    sick: Phantom
    events: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    folder = tmp_path_factory.mktemp("night")
    sick = make_phantom(slices=40, rows=256, columns=256, lesions="moderate", seed=0)
    clean = make_phantom(slices=30, rows=256, columns=256, lesions="none", seed=3)
    write_dicom_series(sick, folder / "in" / "sick", study_uid="1.2.1")
    write_dicom_series(clean, folder / "in" / "clean", study_uid="1.2.2")
    events, _ = scan(folder / "in", "--out", folder / "out", cwd=folder)
    done = {event["study"]: event for event in events if event["event"] == "done"}
    return Night(folder, sick, {"sick": done["1.2.1"], "clean": done["1.2.2"]})


def test_phantom_with_the_shipped_weights(night):
    report = read_json(night.folder / "out" / night.events["sick"]["folder"] / "report.json")
    jsonschema.validate(report, SCHEMA)
    truth = night.sick.truth()
    for side in ("right_lung", "left_lung"):
        assert report["regions"][side]["volume_ml"] == pytest.approx(truth[f"{side}_ml"], rel=0.05)
    assert report["regions"]["lungs"]["infection_ml"] == pytest.approx(truth["infection_ml"], rel=0.4)
    assert report["run"]["device"]["kind"] == "cpu"


def test_then_nothing_is_left_to_do_and_nothing_heavy_is_loaded(night):
    events, imports = scan(night.folder / "in", "--out", night.folder / "out", cwd=night.folder)
    assert [event["event"] for event in events] == ["found", "skipped", "skipped", "finished"]
    for heavy in ("keras", "tensorflow", "highdicom", "SimpleITK"):
        assert f" {heavy}\n" not in imports, f"{heavy} was imported although there was nothing to do"


def test_clean_phantom_is_nearly_clean(night):
    assert night.events["clean"]["infection_percent"] < 3
    assert night.events["clean"]["severity_class"] == 1


def test_real_series_from_a_zip_matches_the_radiotherapists_lungs(shared, tmp_path):
    """LCTSC case-005 was kept out of all training; the bar for its lungs is a Dice of 0.94 at full resolution.

    Its left lung is partly collapsed: the consolidation is lung to covct, and none to a planner of radiotherapy.
    """
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
    assert dice >= 0.94
