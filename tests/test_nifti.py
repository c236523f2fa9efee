"""NIfTI in: only here RAS is known."""

import gzip

import nibabel
import numpy as np
import pytest
import SimpleITK

from covct.errors import SeriesError
from covct.intake.discover import discover
from covct.intake.nifti import write_nifti
from covct.intake.volume_file import load_volume, read_volume
from covct.unattended import batch
from support.running import read_json
from support.volumes import save, sheared


@pytest.mark.parametrize("signs", [(-1, -1, 1), (1, 1, 1), (1, -1, -1), (-1, 1, -1)])
def test_every_axis_direction_gives_the_same_patient(phantom, tmp_path, signs):
    """LPS, RAS, RPI, LAI files of one patient look alike in working orientation."""
    codes = "".join(pair[sign < 0] for pair, sign in zip(("LR", "PA", "HF"), signs, strict=True))
    write_nifti(phantom.volume.to_patient_orientation(codes), tmp_path / "a.nii")
    np.testing.assert_array_equal(load_volume(discover([tmp_path]).series[0]).working.array, phantom.volume.array)


def test_zipped_and_gzipped(phantom, tmp_path):
    import zipfile

    write_nifti(phantom.volume, tmp_path / "a.nii.gz")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "a.nii.gz", "deep/a.nii.gz")
    (tmp_path / "a.nii.gz").unlink()
    [series] = discover([tmp_path]).series
    np.testing.assert_array_equal(load_volume(series).working.array, phantom.volume.array)


def test_time_series_is_refused(tmp_path):
    save(np.zeros((4, 4, 4, 2), np.int16), tmp_path / "a.nii")
    with pytest.raises(SeriesError, match="3D") as caught:
        read_volume(tmp_path / "a.nii")
    assert caught.value.slug == "not-3d"


def test_truncated_gzip_is_unreadable(tmp_path):
    save(np.random.default_rng(0).integers(-1000, 500, (40, 40, 40)).astype(np.int16), tmp_path / "a.nii.gz")
    whole = (tmp_path / "a.nii.gz").read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SeriesError) as caught:
        read_volume(tmp_path / "a.nii.gz")
    assert caught.value.slug == "unreadable"


def test_no_orientation_is_refused(tmp_path):
    save(np.zeros((4, 4, 4), np.int16), tmp_path / "a.nii", sform=0, qform=0)
    with pytest.raises(SeriesError) as caught:
        read_volume(tmp_path / "a.nii")
    assert caught.value.slug == "no-geometry"


def test_scale_slope_is_applied(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.float32) - 512.5, np.eye(4))
    image.header.set_data_dtype(np.int16)
    image.set_sform(image.affine, code=1)
    nibabel.save(image, tmp_path / "a.nii")
    assert read_volume(tmp_path / "a.nii").array.min() == pytest.approx(-512.5, abs=0.1)


def test_masks_and_report_but_no_seg_and_it_says_so(phantom, tmp_path, weights, networks):
    write_nifti(phantom.volume, tmp_path / "patient.nii")
    order = batch.Order((tmp_path / "patient.nii",), tmp_path / "out", weights)
    assert batch.scan(order, lambda: networks, lambda event: None)["done"] == 1
    [folder] = [p.parent for p in (tmp_path / "out").glob("*/*/report.json")]
    assert {p.name for p in folder.iterdir()} == {
        "report.json", "outcome.json", "report.pdf", "lungs.nii.gz", "infection.nii.gz", "study.html", "thumbnail.jpg"
    }  # fmt: skip
    assert "no-seg" in [warning["slug"] for warning in read_json(folder / "report.json")["warnings"]]
    source, mask = nibabel.load(tmp_path / "patient.nii"), nibabel.load(folder / "lungs.nii.gz")
    assert mask.shape == source.shape
    np.testing.assert_allclose(mask.affine, source.affine, atol=1e-4)
    assert "patient" not in str(folder), "a file name may hold a patient's name"


def test_8_bit_nifti_is_rejected_with_what_was_wanted(tmp_path, weights, networks):
    save(np.random.default_rng(0).integers(0, 256, (40, 40, 30)).astype(np.uint8), tmp_path / "a.nii.gz")
    order = batch.Order((tmp_path,), tmp_path / "out", weights)
    events = []
    assert batch.scan(order, lambda: networks, events.append)["rejected"] == 1
    [event] = [e for e in events if e["event"] == "rejected"]
    assert event["slug"] == "not-hounsfield"
    assert "0 to 255" in event["message"]
    assert "Hounsfield" in event["message"]


def test_corrupt_gzip_header(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(b"no nifti at all"))
    with pytest.raises(SeriesError):
        read_volume(tmp_path / "a.nii.gz")


def test_damage_that_leaves_the_length_is_found_by_the_checksum(tmp_path):
    save(np.random.default_rng(0).integers(-1000, 500, (40, 40, 40)).astype(np.int16), tmp_path / "a.nii.gz")
    contents = bytearray((tmp_path / "a.nii.gz").read_bytes())
    middle = len(contents) // 2
    contents[middle : middle + 50] = bytes(50)
    (tmp_path / "a.nii.gz").write_bytes(bytes(contents))
    with pytest.raises(SeriesError) as caught:
        read_volume(tmp_path / "a.nii.gz")
    assert caught.value.slug == "unreadable"


def test_sform_and_qform_that_mirror_each_other_are_refused(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((20, 20, 20), np.int16), np.diag([-2.0, -2, 5, 1]))
    image.set_sform(np.diag([-2.0, -2, 5, 1]), code=1)
    image.set_qform(np.diag([2.0, -2, 5, 1]), code=1)
    nibabel.save(image, tmp_path / "a.nii")
    with pytest.raises(SeriesError, match="disagree") as caught:
        read_volume(tmp_path / "a.nii")
    assert caught.value.slug == "no-geometry"


def test_an_oblique_affine_rounded_to_three_digits_is_read(tmp_path):
    turn = np.radians(12)
    affine = np.eye(4)
    affine[:2, :2] = np.round([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]], 3)
    save(np.zeros((4, 5, 6), np.int16), tmp_path / "a.nii", affine, qform=0)
    assert read_volume(tmp_path / "a.nii").shape == (4, 5, 6)


def nifti_series(path):
    [series] = discover([path]).series
    return series


def test_a_sheared_affine_is_a_tilted_gantry(tmp_path):
    save(np.zeros((4, 5, 6), np.int16), tmp_path / "a.nii", sheared(20), qform=0)
    scan = load_volume(nifti_series(tmp_path / "a.nii"))
    assert scan.tilt_degrees == pytest.approx(20, abs=0.01)
    assert np.prod(scan.volume.spacing) == pytest.approx(30)
    np.testing.assert_allclose(scan.affine, np.diag([-1, -1, 1, 1]) @ sheared(20), atol=1e-5)


def test_a_tilted_nifti_is_segmented_where_its_slices_lie(phantom, weights, networks, tmp_path):
    image = phantom.volume.to_nibabel()
    affine = image.affine.copy()
    affine[1, np.abs(affine[2, :3]).argmax()] = 3.0  # of 10 mm: 17 degrees
    save(np.asarray(image.dataobj), tmp_path / "a.nii", affine, qform=0)
    order = batch.Order((tmp_path / "a.nii",), tmp_path / "out", weights)
    assert batch.scan(order, lambda: networks, lambda event: None)["done"] == 1
    [path] = (tmp_path / "out").glob("*/*/report.json")
    report = read_json(path)
    [warned] = [warning["message"] for warning in report["warnings"] if warning["slug"] == "gantry-tilt"]
    assert "SimpleITK refuses NIfTI masks with such a shear" in warned
    with pytest.raises(RuntimeError, match="orthonormal"):
        SimpleITK.ReadImage(path.with_name("lungs.nii.gz"))
    assert report["regions"]["lungs"]["volume_ml"] == pytest.approx(phantom.truth()["lungs_ml"], rel=0.1)
    np.testing.assert_allclose(nibabel.load(path.parent / "lungs.nii.gz").affine, affine, atol=1e-3)


def test_more_shear_than_any_gantry_tilts_is_refused(tmp_path):
    save(np.zeros((4, 5, 6), np.int16), tmp_path / "a.nii", sheared(35), qform=0)
    with pytest.raises(SeriesError) as caught:
        read_volume(tmp_path / "a.nii")
    assert caught.value.slug == "gantry-tilt"


def test_colours_are_no_hounsfield_units(tmp_path):
    colours = np.zeros((4, 4, 4), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    save(colours, tmp_path / "a.nii")
    with pytest.raises(SeriesError) as caught:
        read_volume(tmp_path / "a.nii")
    assert caught.value.slug == "not-hounsfield"


def test_nifti_2_and_upper_case_names(tmp_path):
    image = nibabel.Nifti2Image(np.full((4, 5, 6), -7, np.int16), np.eye(4))
    image.set_sform(image.affine, code=1)
    nibabel.save(image, tmp_path / "a.nii.gz")
    (tmp_path / "a.nii.gz").rename(tmp_path / "A.NII.GZ")
    assert load_volume(discover([tmp_path]).series[0]).volume.array.max() == -7
