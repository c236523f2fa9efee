"""Whatever else lies in an inbox, an honest study's results are, byte for byte, what they are without it."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fuzz
from covct.intake.nifti import write_nifti
from covct.outputs import Outputs
from covct.phantom.dicom import write_dicom_series
from covct.unattended import batch, one_series
from support.checkout import SHARED
from support.odd import ODD
from support.thresholds import make_networks, make_weights

pytestmark = pytest.mark.slow

CASES = SHARED.parent / "cases" / "make.py"
OF_THE_MOMENT = {
    "run",
    "seconds",
    "finished",
    "moments",
    "report.json",
    "patient",
}  # the last two: hashes
STUDY = "1.2.826.0.1.3680043.10.54321"


@pytest.fixture(scope="module")
def bench(phantom, tmp_path_factory):
    """An honest inbox, DICOM and NIfTI; its results; and damaged files by number."""
    here = tmp_path_factory.mktemp("honest")
    write_dicom_series(phantom, here / "in" / "dicom", study_uid=STUDY, series_uid=f"{STUDY}.1")
    (here / "in" / "nifti").mkdir()
    write_nifti(phantom.volume, here / "in" / "nifti" / "a.nii.gz")
    make_weights(here / "weights")
    scan([here / "in"], here / "out", here)
    expected = results(here / "out")
    assert len({name.split("/")[0] for name in expected}) == 2
    made = fuzz.make_bases(tmp_path_factory.mktemp("bases"))
    return here, expected, fuzz.Bench(here, made, [made["nifti"]])


def scan(sources, out, here):
    order = batch.Order(tuple(sources), out, here / "weights", Outputs(("seg", "sr", "nifti")))
    with pytest.MonkeyPatch.context() as patch:  # another tree, another moment: dates and device of the objects
        patch.setattr(one_series, "now", lambda: datetime(2026, 5, 4, tzinfo=UTC))
        patch.setattr(one_series, "installation", lambda out: "one")
        return batch.scan(order, make_networks, lambda event: None)


def results(out: Path) -> dict[str, object]:
    """Contents of every file of the honest studies; of JSON what does not change from moment to moment."""
    found: dict[str, object] = {}
    for path in sorted(out.glob("*/*/*")):
        contents = path.read_bytes()
        found[str(path.relative_to(out))] = lasting(json.loads(contents)) if path.suffix == ".json" else contents
    return found


def lasting(value):
    if isinstance(value, dict):
        return {key: lasting(one) for key, one in value.items() if key not in OF_THE_MOMENT}
    return [lasting(one) for one in value] if isinstance(value, list) else value


def is_isolated(bench, intruders: Path, out: Path) -> bool:
    here, expected, _ = bench
    tally = scan([here / "in", intruders], out, here)
    found = results(out)
    return tally["done"] >= 2 and all(found.get(name) == contents for name, contents in expected.items())


def test_odd_things_change_no_honest_result(bench, tmp_path):
    """All of them in one inbox; if they do, each by itself tells which."""
    for name, put in ODD.items():
        (tmp_path / "odd" / name).mkdir(parents=True)
        put(tmp_path / "odd" / name)
    if not is_isolated(bench, tmp_path / "odd", tmp_path / "out"):
        apart = [name for name in ODD if not is_isolated(bench, tmp_path / "odd" / name, tmp_path / f"out-{name}")]
        raise AssertionError(apart or "together only")


@given(numbers=st.lists(st.integers(0, 10**6), min_size=5, max_size=5, unique=True))
@settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_damaged_files_change_no_honest_result(numbers, bench, tmp_path_factory):
    """Of every kind that the fuzzer makes; those of one study damaged together may still make a series."""
    folder = tmp_path_factory.mktemp("damaged")
    for number in numbers:
        case = fuzz.make_case(number, bench[2])
        if case.place != "verify":
            fuzz.write_files(case.files[0], case.base.suffix, folder / "odd" / str(number), case.place == "zip")
    (folder / "odd").mkdir(exist_ok=True)
    assert is_isolated(bench, folder / "odd", folder / "out")


@pytest.mark.real
@pytest.mark.skipif(not CASES.exists(), reason="the cases are not there")
def test_cases_of_practice_change_no_honest_result(bench, tmp_path):
    subprocess.run([sys.executable, CASES, "all", tmp_path / "odd"], check=True, capture_output=True)
    assert is_isolated(bench, tmp_path / "odd", tmp_path / "out")
