"""Headers that round: one even grid is told from real jitter and from real gaps, on both sides of the line."""

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from covct.intake.discover import discover
from covct.intake.gate import check_headers, header_warnings
from covct.intake.load_dicom import load_dicom
from covct.intake.rounding import PLAIN_UNITS, decimals, even_line, gaps
from covct.phantom.chest import make_phantom
from support.cuts import Cut, tilted, turned, write_cut
from support.gate import slugs, verdict
from support.line import night
from support.running import invoke
from support.series import each_slice

NORMAL = np.array([0.0, 0.0, 1.0])


def stack(step, places, digits, start=-271.3, jitter=None):
    """Positions (n, 3) of an axial stack at these places, z rounded to so many digits."""
    z = start + step * np.asarray(places) + (0 if jitter is None else jitter)
    return np.stack([np.full(len(z), -175.5), np.full(len(z), -160.25), np.round(z, digits)], axis=1)


STEPS = st.one_of(st.sampled_from([0.625, 0.7, 0.75, 0.8, 1.0, 1.25, 1.5, 2.5, 3.0, 5.0]), st.floats(0.5, 6.0))


@settings(max_examples=100, deadline=None)
@given(step=STEPS, count=st.integers(20, 120), digits=st.integers(0, 2), start=st.floats(-400, 0))
@example(step=2.125, count=20, digits=0, start=0.0)  # a gap explains it just as well
@example(step=1.96875, count=21, digits=0, start=-1.125)
def test_rounding_alone_is_an_even_stack(step, count, digits, start):
    positions = stack(step, range(count), digits, start)
    unit = 10.0 ** -decimals(positions[:, 2])
    if step < 1.15 * unit:
        return  # a step of one unit: a slice may be missing just as well, see below
    line = even_line(positions, NORMAL, np.arange(count))
    if line is None:
        assert step < PLAIN_UNITS * unit and a_gap_explains(positions[:, 2], unit)
    else:
        # Both lines, ours and the one that was rounded, lie within half a unit of the first and of the last value.
        assert line.step[2] == pytest.approx(step, abs=2 * unit / (count - 1))


def a_gap_explains(values, unit):
    """Whether one missing place leaves an even line within the rounding: each line through two values is tried."""
    first, second = np.triu_indices(len(values), 1)
    for lost in range(1, len(values)):
        places = np.delete(np.arange(len(values) + 1), lost)
        slopes = (values[second] - values[first]) / (places[second] - places[first])
        rest = values - slopes[:, None] * places
        if np.ptp(rest, axis=1).min() <= unit * (1 + 1e-6) + 1e-9:
            return True
    return False


@settings(max_examples=200, deadline=None)
@given(
    step=STEPS,
    count=st.integers(10, 120),
    digits=st.integers(0, 2),
    start=st.floats(-400, 0),
    numbered=st.booleans(),
    data=st.data(),
)
def test_a_missing_slice_is_never_taken_for_rounding(step, count, digits, start, numbered, data):
    """Also where the numbers do not tell, as an exporter gave new ones."""
    lost = data.draw(st.integers(1, count - 2))
    places = np.delete(np.arange(count), lost)
    positions = stack(step, places, digits, start)
    if np.diff(positions[:, 2]).min() < 0.01:
        return  # doubled positions are refused before
    assert even_line(positions, NORMAL, places if numbered else np.arange(count - 1)) is None


@pytest.mark.parametrize("digits", [0, 1, 2])
@pytest.mark.parametrize("step", [0.625, 1.0, 1.25, 2.5, 5.0])
def test_where_a_slice_is_missing_is_named(step, digits):
    if step < 10.0**-digits:
        return
    places = np.delete(np.arange(60), 20)
    positions = stack(step, places, digits)
    assert gaps(positions, places) == [(19, 1)]
    assert gaps(positions, np.arange(59)) == [(19, 1)]


def test_several_gaps_are_told_by_the_numbers():
    places = np.delete(np.arange(60), [20, 21, 40])
    assert gaps(stack(1.25, places, 0), places) == [(19, 2), (37, 1)]


def test_whole_millimetres_with_one_long_step_may_miss_a_slice():
    """Positions of 1.02 mm would be written the same: nobody can tell, so the gap is believed."""
    positions = stack(1.0, np.delete(np.arange(40), 20), 0)
    assert even_line(positions, NORMAL, np.arange(39)) is None


@pytest.mark.parametrize(
    ("step", "jitter_mm", "digits"), [(1.25, 0.05, 3), (1.25, 0.05, 2), (1.25, 0.15, 1), (5.0, 1.2, 0)]
)
def test_jitter_beyond_the_last_digit_is_no_rounding(step, jitter_mm, digits):
    jitter = np.random.default_rng(0).uniform(-jitter_mm, jitter_mm, 60)
    positions = stack(step, range(60), digits, jitter=jitter)
    assert even_line(positions, NORMAL, np.arange(60)) is None
    assert gaps(positions, np.arange(60)) == []


def test_zeros_that_another_program_wrote_are_no_digits():
    assert decimals([float("13.000000"), float("-4.50")]) == 1
    assert decimals([1 / 3]) == 6


@pytest.fixture(scope="module")
def fine():
    return make_phantom(slices=60, rows=128, columns=128, pixel_spacing_mm=(3.0, 3.0), seed=1)


def rounded(folder, **digits):
    """Round the values of attributes in every file, each value to so many digits."""
    for dataset in each_slice(folder):
        for keyword, number in digits.items():
            dataset[keyword].value = [f"{float(value):.{number}f}" for value in dataset[keyword].value]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cut", "step_mm", "digits"),
    [
        (Cut(), 3.25, {"ImagePositionPatient": 0}),
        (Cut(), 3.625, {"ImagePositionPatient": 0}),
        (Cut(), 3.3, {"ImagePositionPatient": 0, "PixelSpacing": 1}),
        (tilted(15), 3.25, {"ImagePositionPatient": 0, "ImageOrientationPatient": 3}),
        (turned("x", 7), 3.25, {"ImagePositionPatient": 1, "ImageOrientationPatient": 2}),
        (turned("x", 7), 3.25, {"ImageOrientationPatient": 4}),
    ],
    ids=["whole mm", "whole mm, others", "spacing too", "tilted", "oblique, two digits", "oblique, four digits"],
)
def test_rounded_headers_change_no_volume_and_find_no_gap(cut, step_mm, digits, fine, tmp_path):
    exact = write_cut(fine, tmp_path / "exact", cut, 3.0, step_mm)
    expected = night(exact).report
    coarse = rounded(Path(shutil.copytree(exact, tmp_path / "coarse")), **digits)
    done = night(coarse, formats=("seg", "sr"))
    report = done.report
    for figure, near in (("slice_spacing_mm", 0.01), ("gantry_tilt_degrees", 0.1)):
        assert report["geometry"][figure] == pytest.approx(expected["geometry"][figure], abs=near)
    assert report["regions"]["lungs"]["volume_ml"] == pytest.approx(expected["regions"]["lungs"]["volume_ml"], rel=0.01)
    warned = {one["slug"] for one in expected["warnings"]}
    assert done.warned - warned <= {"rounded-headers"}
    checked = invoke("verify", done.out, coarse, "--no-dciodvfy")
    assert checked.exit_code == 0, checked.output


@pytest.mark.slow
def test_the_grid_is_the_one_that_was_rounded(fine, tmp_path):
    exact = write_cut(fine, tmp_path / "exact", Cut(), 3.0, 3.25)
    coarse = rounded(Path(shutil.copytree(exact, tmp_path / "coarse")), ImagePositionPatient=0)
    affines = [load_dicom(discover([folder]).series[0]).affine for folder in (exact, coarse)]
    places = [affine @ np.array([index, 0, 0, 1]) for affine in affines for index in (0, 80)]
    assert np.abs(places[0] - places[2]).max() <= 0.5
    assert np.abs(places[1] - places[3]).max() <= 0.5


@pytest.mark.slow
def test_a_slice_missing_among_rounded_positions_is_named(fine, tmp_path):
    folder = rounded(write_cut(fine, tmp_path / "in", Cut(), 3.0, 1.25), ImagePositionPatient=0)
    paths = sorted(folder.iterdir())
    between = [float(pydicom.dcmread(paths[index]).ImagePositionPatient[2]) for index in (29, 31)]
    paths[30].unlink()
    error = verdict(folder)
    assert error.slug == "missing-slices"
    assert error.message.startswith("1 slice is missing between")
    named = [float(word) for word in error.message.split() if word.lstrip("-").replace(".", "").isdigit()][1:3]
    assert np.abs(np.array(named) - between).max() <= 1.0


def test_positions_rounded_more_coarsely_than_the_slices_lie_are_said_to_be(series_folder):
    """Their order is not known, and two scans would look the same: refused, with both named."""
    for index, dataset in enumerate(each_slice(series_folder)):
        dataset.ImagePositionPatient = [0.0, 0.0, float(round(-0.6 * index))]
        dataset.InstanceNumber = 1
    error = verdict(series_folder)
    assert error.slug == "mixed-acquisitions"
    assert error.message.endswith("rounded to 1 mm, coarser than the slice spacing")


def test_cosines_and_spacing_that_each_slice_rounds_its_own_way(series_folder):
    for index, dataset in enumerate(each_slice(series_folder)):
        dataset.ImageOrientationPatient = ["1", "0", "0", "0", "1" if index % 2 else "0.999", "0.001"]
        dataset.PixelSpacing = ["3.0", "3.0"] if index % 3 else ["3.002", "3.002"]
    [series] = discover([series_folder]).series
    check_headers(series)
    notes = {one.slug: one for one in header_warnings(series)[1]}
    assert notes["rounded-headers"].level == "noted"
    assert "pixel spacing, from 3.002 mm" in notes["rounded-headers"].message


@pytest.mark.parametrize(
    ("keyword", "values"),
    [
        ("PixelSpacing", (["0.70", "0.70"], ["0.73", "0.73"])),
        ("PixelSpacing", (["3.000", "3.000"], ["3.020", "3.020"])),
        ("PixelSpacing", (["3.0001", "3.0001"], ["3.0161", "3.0161"])),
        ("ImageOrientationPatient", (["1", "0", "0", "0", "0.97", "0.24"], ["1", "0", "0", "0", "0.96", "0.27"])),
        ("ImageOrientationPatient", ([1, 0, 0, 0, 1, 0], ["1", "0", "0", "0", "0.99", "0.1"])),
    ],
)
def test_what_differs_by_more_than_the_last_digit_is_no_rounding(keyword, values, series_folder):
    for index, dataset in enumerate(each_slice(series_folder)):
        setattr(dataset, keyword, values[index % 2])
    assert verdict(series_folder).slug == "mixed-geometry"


def test_a_tilt_in_whole_cosines_is_a_tilt(series_folder):
    """Cosines of 1 and 0 are exact, not rounded to no digits."""
    for index, dataset in enumerate(each_slice(series_folder)):
        dataset.ImagePositionPatient = [0.0, round(10 * index * np.tan(np.radians(2)), 4), -10.0 * index]
    [series] = discover([series_folder]).series
    assert "gantry-tilt" in slugs(header_warnings(series)[1])
