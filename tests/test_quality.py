"""The input gate, named after the situations it meets."""

import shutil

import numpy as np
import pydicom
import pytest

from covct.errors import SeriesError
from covct.intake.discover import discover
from covct.intake.gate import check_headers, check_hounsfield, check_region, coverage, header_warnings
from covct.intake.gate_rules import ValidFor
from support.gate import slugs, verdict
from support.series import change, tilt


def test_a_whole_series_passes_without_a_warning(series_folder):
    [series] = discover([series_folder]).series
    check_headers(series)
    valid, found = header_warnings(series)
    assert valid == ValidFor()
    assert slugs(found) == ["thick-slices"], "the coarse phantom's slices lie 10 mm apart"


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
    tilt(series_folder, 15)
    [series] = discover([series_folder]).series
    check_headers(series)
    [thick, warned] = header_warnings(series)[1]
    assert warned.slug == "gantry-tilt"
    assert "15.0°" in warned.message


def test_more_shear_than_any_gantry_tilts_is_refused(series_folder):
    tilt(series_folder, 33)
    error = verdict(series_folder)
    assert error.slug == "gantry-tilt"
    assert "33.0°" in error.message


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
    assert slugs(header_warnings(series)[1]) == ["uneven-spacing", "thick-slices"]


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
        ({"ImageType": ["DERIVED", "PRIMARY", "OTHER"]}, "derived"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"}, "not-ct"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "derived"),
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
    [(0, 255, "8-bit"), (0, 4095, "without air"), (-200, 300, "almost no air"), (0, 1, "mask")],
)
def test_grey_values_that_are_no_hounsfield_units(low, high, word):
    values = np.linspace(low, high, 20 * 64 * 64).reshape(20, 64, 64)
    with pytest.raises(SeriesError, match=word) as caught:
        check_hounsfield(values)
    assert caught.value.slug == "not-hounsfield"


def lungs_of(*areas, side=40):
    """(slices, 40, 40) labels with so many lung voxels a slice, away from the edge."""
    out = np.zeros((len(areas), side * side), np.uint8)
    for one, area in zip(out, areas, strict=True):
        one[:area] = 1
    return np.pad(out.reshape(-1, side, side), ((0, 0), (1, 1), (1, 1)))


SPACING = (5.0, 5.0, 5.0)


@pytest.mark.parametrize(("other_part", "slug"), [(False, "no-lungs"), (True, "head-or-abdomen")])
def test_a_head_has_no_lungs(other_part, slug):
    with pytest.raises(SeriesError) as caught:
        coverage(lungs_of(*[0] * 40), SPACING, other_part)
    assert caught.value.slug == slug


@pytest.mark.parametrize(
    ("areas", "said"),
    [
        ([0], "no lung found in the one slice; wanted a chest CT (at least 40 cm² a slice)"),
        ([20], "only 5.0 cm² of lung found in the one slice; wanted a chest CT (at least 40 cm² a slice)"),
        ([20, 40], "only 7.5 cm² of lung found a slice in 2 slices; wanted a chest CT (at least 40 cm² a slice)"),
        ([0] * 40, "no lung found in 40 slices over 200 mm; wanted a chest CT (at least 300 mL)"),
        ([20] * 40, "only 100 mL of lung found in 40 slices over 200 mm; wanted a chest CT (at least 300 mL)"),
    ],
)
def test_few_slices_without_lung_are_told_by_their_area(areas, said):
    """One slice was 0 mL of lung over 2 mm: its volume says only how thick it is."""
    with pytest.raises(SeriesError) as caught:
        coverage(lungs_of(*areas), SPACING)
    assert caught.value.message == said


def test_lungs_cut_in_half_have_no_volume_and_no_percentage():
    valid, [warning] = coverage(lungs_of(*[0] * 10, *[900] * 10), SPACING)
    assert (valid.volume, valid.percent, valid.hu_bands) == (False, False, True)
    assert warning.slug == "partial-lungs"
    assert "last slice" in warning.message


def test_a_missing_tip_is_only_a_warning():
    valid, [warning] = coverage(lungs_of(30, 400, *[900] * 15, 400, 0), SPACING)
    assert valid.volume
    assert warning.slug == "partial-lungs"


def test_a_field_of_view_that_cuts_the_lungs(series_folder):
    valid, [warning] = coverage(lungs_of(0, *[900] * 15, 0)[:, 1:], SPACING)
    assert not valid.percent
    assert warning.slug == "partial-lungs"
    assert "15 slices" in warning.message


def test_one_slice_speaks_for_itself_only():
    valid, [warning] = coverage(lungs_of(900), SPACING)
    assert not valid.percent
    assert warning.slug == "too-few-slices"


def test_without_rescale_figures_by_hu_are_withheld(series_folder):
    for path in series_folder.iterdir():
        dataset = pydicom.dcmread(path)
        del dataset.RescaleSlope
        dataset.save_as(path)
    [series] = discover([series_folder]).series
    valid, found = header_warnings(series)
    assert slugs(found) == ["thick-slices", "no-rescale"]
    assert not valid.hu_bands


def test_lossy_compression_withholds_figures_by_hu_and_is_refused_beyond_15_to_1(series_folder):
    change(series_folder, LossyImageCompression="01", LossyImageCompressionRatio=8)
    [series] = discover([series_folder]).series
    check_headers(series)
    valid, found = header_warnings(series)
    assert "lossy" in slugs(found)
    assert not valid.hu_bands
    change(series_folder, LossyImageCompressionRatio=[8, 20])
    assert verdict(series_folder).slug == "lossy"


def test_strict_makes_a_warning_a_refusal(series_folder):
    tilt(series_folder, 10)
    [series] = discover([series_folder]).series
    with pytest.raises(SeriesError):
        check_headers(series, strict=True)


def test_slices_shifted_sideways(series_folder):
    change(series_folder, ImagePositionPatient=lambda i: [2.0 * (i % 2), 0.0, -10.0 * i])
    [series] = discover([series_folder]).series
    check_headers(series)
    assert "mixed-geometry" in slugs(header_warnings(series)[1])
    change(series_folder, ImagePositionPatient=lambda i: [20.0 * (i % 2), 0.0, -10.0 * i])
    assert verdict(series_folder).slug == "mixed-geometry"


def test_fewer_slices_than_the_header_says_were_acquired(series_folder):
    change(series_folder, ImagesInAcquisition=34)
    [series] = discover([series_folder]).series
    [_, warning] = header_warnings(series)[1]
    assert warning.slug == "missing-slices"
    assert "34 acquired images, but 30 are present" in warning.message


def test_two_scans_that_nothing_tells_apart(series_folder):
    change(series_folder, ImagePositionPatient=lambda i: [0.0, 0.0, 10.0 * (i // 2)], InstanceNumber=1)
    assert verdict(series_folder).slug == "mixed-acquisitions"


def test_slices_farther_apart_than_lesions_are_large(series_folder):
    change(series_folder, ImagePositionPatient=lambda i: [0.0, 0.0, 25.0 * i])
    assert verdict(series_folder).slug == "thick-slices"


@pytest.mark.parametrize(
    ("orientation", "slug"), [([1, 0, 0, 0, 0.766, 0.643], "oblique"), ([1, 0, 0, 0, 0, -1], "too-few-slices")]
)
def test_planes_that_axial_slices_cannot_be_made_of(series_folder, orientation, slug):
    for path in sorted(series_folder.iterdir())[5:]:
        path.unlink()
    normal = np.cross(orientation[:3], orientation[3:])
    change(
        series_folder,
        ImageOrientationPatient=orientation,
        ImagePositionPatient=lambda i: [float(v) for v in 5 * i * normal],
    )
    assert verdict(series_folder).slug == slug


def test_a_file_that_came_twice_and_says_two_things(series_folder, tmp_path):
    from covct.intake.load_dicom import load_dicom

    second = tmp_path / "again"
    shutil.copytree(series_folder, second)
    [series] = discover([series_folder, second]).series
    load_dicom(series)
    path = sorted(second.iterdir())[7]
    dataset = pydicom.dcmread(path)
    dataset.PixelData = bytes(len(dataset.PixelData))
    dataset.save_as(path)
    with pytest.raises(SeriesError) as caught:
        load_dicom(series)
    assert caught.value.slug == "conflicting-files"
    assert dataset.SOPInstanceUID in caught.value.message
    assert path.name in caught.value.file


def test_a_head_is_told_by_header_and_air_before_the_networks_are_loaded():
    head = np.full((20, 128, 128), -1000, np.int16)
    head[:, 20:108, 20:108] = 40
    with pytest.raises(SeriesError) as caught:
        check_region(head, (5.0, 1.5, 1.5), other_part=True)
    assert caught.value.slug == "head-or-abdomen"
    head[:, 40:80, 40:80] = -850
    check_region(head, (5.0, 1.5, 1.5), other_part=True)
