"""The input gate, named after the situations it meets."""

import numpy as np
import pydicom
import pytest
from test_discover import change

from covct.discover import discover
from covct.errors import SeriesError
from covct.quality import ValidFor, check_headers, check_hounsfield, coverage, header_warnings


def verdict(folder) -> SeriesError:
    [series] = discover([folder]).series
    with pytest.raises(SeriesError) as caught:
        check_headers(series)
    return caught.value


def test_a_whole_series_passes_without_a_warning(series_folder):
    [series] = discover([series_folder]).series
    check_headers(series)
    assert header_warnings(series) == (ValidFor(), [])


def test_two_slices_missing_mid_stack_are_named_in_mm(series_folder):
    paths = sorted(series_folder.iterdir())
    positions = sorted(float(pydicom.dcmread(p).ImagePositionPatient[2]) for p in paths[11:15])
    for path in paths[12:14]:
        path.unlink()
    error = verdict(series_folder)
    assert error.slug == "missing-slices"
    assert "2 slices are missing" in error.message
    assert f"between {positions[0]:.1f} and {positions[3]:.1f} mm" in error.message


def test_gantry_tilt_is_named_in_degrees(series_folder):
    def sheared(index):
        dataset = pydicom.dcmread(sorted(series_folder.iterdir())[index])
        x, y, z = dataset.ImagePositionPatient
        return [float(x), round(float(y) + 0.2679 * float(z), 4), float(z)]  # tan 15 degrees

    change(series_folder, ImagePositionPatient=sheared)
    error = verdict(series_folder)
    assert error.slug == "gantry-tilt"
    assert "15.0°" in error.message


def test_uneven_spacing_is_refused_beyond_ten_percent(series_folder):
    rng = np.random.default_rng(0)
    paths = sorted(series_folder.iterdir())
    z = [float(pydicom.dcmread(p).ImagePositionPatient[2]) for p in paths]
    step = abs(z[1] - z[0])
    jitter = rng.uniform(-0.2, 0.2, len(z)) * step
    change(series_folder, ImagePositionPatient=lambda i: [0.0, 0.0, round(z[i] + jitter[i], 3)])
    assert verdict(series_folder).slug == "uneven-spacing"


def test_little_jitter_is_a_warning(series_folder):
    paths = sorted(series_folder.iterdir())
    z = [float(pydicom.dcmread(p).ImagePositionPatient[2]) for p in paths]
    step = abs(z[1] - z[0])
    change(series_folder, ImagePositionPatient=lambda i: [0.0, 0.0, round(z[i] + 0.02 * step * (i % 2), 4)])
    [series] = discover([series_folder]).series
    check_headers(series)
    assert [warning.slug for warning in header_warnings(series)[1]] == ["uneven-spacing"]


def test_same_position_with_another_uid(series_folder):
    twin = pydicom.dcmread(sorted(series_folder.iterdir())[3])
    twin.SOPInstanceUID = twin.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    twin.save_as(series_folder / "twin.dcm")
    assert verdict(series_folder).slug == "duplicate-slices"


@pytest.mark.parametrize(
    ("attributes", "slug"),
    [
        ({"Modality": "MR"}, "not-ct"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ({"ImageType": ["DERIVED", "SECONDARY", "MIP"]}, "derived"),
        ({"ImageType": ["DERIVED", "PRIMARY", "MPR"]}, "derived"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2.1"}, "enhanced-multiframe"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "not-ct"),
        ({"SeriesInstanceUID": ""}, "no-identifiers"),
        ({"ImagePositionPatient": None}, "no-geometry"),
        ({"PixelSpacing": [0, 0]}, "no-geometry"),
        ({"RescaleType": "Z_EFF"}, "not-hounsfield"),
        ({"FrameOfReferenceUID": lambda i: f"1.2.{i % 2}"}, "mixed-geometry"),
        ({"Rows": lambda i: 128 if i else 64}, "mixed-geometry"),
        ({"ImageOrientationPatient": lambda i: [1, 0, 0, 0, 1, 0] if i else [0, 1, 0, 0, 0, -1]}, "mixed-geometry"),
    ],
)
def test_what_is_no_axial_ct_is_refused(series_folder, attributes, slug):
    change(series_folder, **attributes)
    error = verdict(series_folder)
    assert error.slug == slug
    assert len(error.message) > 20


def test_noise_of_1e_6_in_the_cosines_is_no_mixed_orientation(series_folder):
    change(series_folder, ImageOrientationPatient=lambda i: [1, 1e-6 * (i % 3), 0, 0, 1, 0])
    [series] = discover([series_folder]).series
    check_headers(series)


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(0, 255, "8-bit"), (0, 4095, "without air"), (-200, 300, "next to no air"), (0, 1, "mask")],
)
def test_grey_values_that_are_no_hounsfield_units(low, high, word):
    values = np.linspace(low, high, 20 * 64 * 64).reshape(20, 64, 64)
    with pytest.raises(SeriesError, match=word) as caught:
        check_hounsfield(values)
    assert caught.value.slug == "not-hounsfield"


def test_a_head_has_no_lungs():
    with pytest.raises(SeriesError) as caught:
        coverage(np.zeros(40, int), 0.0, 160.0)
    assert caught.value.slug == "no-lungs"


def test_lungs_cut_in_half_have_no_volume_and_no_percentage():
    valid, [warning] = coverage(np.array([0] * 10 + [900] * 10), 2000.0, 100.0)
    assert (valid.volume, valid.percent, valid.hu_bands) == (False, False, True)
    assert warning.slug == "partial-lungs"
    assert "last slice" in warning.message


def test_a_missing_tip_is_only_a_warning():
    areas = np.array([30, 400, *[900] * 15, 400, 0])
    valid, [warning] = coverage(areas, 4000.0, 300.0)
    assert valid.volume
    assert warning.slug == "partial-lungs"


def test_one_slice_speaks_for_itself_only():
    valid, [warning] = coverage(np.array([900]), 50.0, 2.5)
    assert not valid.percent
    assert warning.slug == "few-slices"


def test_without_rescale_figures_by_hu_are_withheld(series_folder):
    for path in series_folder.iterdir():
        dataset = pydicom.dcmread(path)
        del dataset.RescaleSlope
        dataset.save_as(path)
    [series] = discover([series_folder]).series
    valid, [warning] = header_warnings(series)
    assert warning.slug == "no-rescale"
    assert not valid.hu_bands
