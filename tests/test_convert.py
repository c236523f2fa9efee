"""DICOM to NIfTI and NIfTI to DICOM: the same voxels at the same points of the patient, judged by other readers."""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from highdicom.legacy import LegacyConvertedEnhancedCTImage
from nibabel.affines import apply_affine, voxel_sizes

from covct import RESEARCH_USE
from covct.dicom.ct_series import Storage, storage_for, write_ct_series
from covct.errors import OutputNotWritable, SeriesError, UsageError
from covct.intake.discover import discover
from covct.intake.gate import check_headers
from covct.intake.nifti import write_nifti
from covct.intake.volume_file import read_volume
from covct.outputs import Outputs
from covct.phantom.chest import make_phantom
from covct.phantom.dicom import write_dicom_series
from covct.unattended import batch, convert
from covct.unattended.convert import Conversion
from covct.unattended.convert_event import ConvertEvent
from covct.voxels.volume import WORKING_ORIENTATION
from support.checkout import ROOT
from support.chests import SMALL
from support.events import as_published, events_in
from support.running import invoke, read_json, run, tool
from support.series import change, tilt
from support.volumes import save, sheared

pytestmark = pytest.mark.slow
NAME = "Doe^John"  # of an error: not in the line that raises it, as a traceback in the log shows that line


def converted(source, out, **order):
    """Convert, and return what each series became: path or slug, in the order of the events."""
    return [
        event.get("path") or event["slug"]
        for event in told(source, out, **order)
        if event["event"] in ("converted", "kept", "rejected", "failed")
    ]


def told(source, out, **order):
    """Convert, and return the events, each as published."""
    events = []
    convert.convert(Conversion((source,), out, **order), events.append)
    return as_published(ConvertEvent, events)


def one(source, out, **order):
    """Convert the one series of a source."""
    [path] = converted(source, out, **order)
    return Path(path)


def files_of(out):
    """Everything below an output folder but covct's own notes."""
    return sorted(p for p in out.rglob("*") if p.is_file() and ".covct" not in p.parts)


def read_by_itk(folder):
    """(voxels, 3) LPS mm and (voxels,) HU of a DICOM series, as SimpleITK reads it."""
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    hu = SimpleITK.GetArrayFromImage(image)
    xyz = np.argwhere(np.ones(hu.shape, bool))[:, ::-1] * np.array(image.GetSpacing())
    direction = np.array(image.GetDirection()).reshape(3, 3)
    return xyz @ direction.T + np.array(image.GetOrigin()), hu.ravel()


def nifti_at(path, points_lps_mm):
    """Values of a NIfTI at points of the patient, which must be centres of voxels; as nibabel reads it."""
    image = nibabel.load(path)
    index = apply_affine(np.linalg.inv(image.affine), points_lps_mm * [-1, -1, 1])
    assert np.abs(index - np.rint(index)).max() < 1e-3
    return np.asarray(image.dataobj)[tuple(np.rint(index).astype(int).T)]


def assert_same_patient(folder, nifti):
    points, hu = read_by_itk(folder)
    assert np.prod(nibabel.load(nifti).shape) == len(hu)
    np.testing.assert_array_equal(nifti_at(nifti, points), hu)


OBLIQUE = [0.995, 0.0998749, 0, -0.0998749, 0.995, 0]


@pytest.mark.parametrize(
    "lying",
    [{"orientation": p} for p in ("HFS", "HFP", "FFP", "HFDL", "FFDR")] + [{"orientation_cosines": OBLIQUE}],
    ids=str,
)
def test_there_and_back_and_there_again_is_the_same_patient(lying, tmp_path):
    """LPS and RAS, prone and feet first: every file shows the same HU at the same millimetres, seen by others."""
    made = make_phantom(**{**SMALL, "rows": 55, "columns": 70, "pixel_spacing_mm": (6.8, 5.6)}, seed=2)
    write_dicom_series(made, tmp_path / "in", **lying)
    first = one(tmp_path / "in", tmp_path / "a")
    assert_same_patient(tmp_path / "in", first)
    derived = one(first, tmp_path / "b")
    assert_same_patient(derived, first)
    again = one(derived, tmp_path / "c")
    assert_same_patient(derived, again)
    assert_same_patient(tmp_path / "in", again)


@pytest.mark.parametrize("codes", ["FPL", "LPH", "RAH", "PHR", "ARF"])
def test_slices_are_axial_and_head_first_whatever_the_axes_of_the_nifti(codes, phantom, tmp_path):
    write_nifti(phantom.volume.to_patient_orientation(codes), tmp_path / "a.nii")
    folder = one(tmp_path / "a.nii", tmp_path / "out")
    slices = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    assert [s.InstanceNumber for s in slices] == list(range(1, 31))
    assert all(list(s.ImageOrientationPatient) == [1, 0, 0, 0, 1, 0] for s in slices)
    heights = [s.ImagePositionPatient[2] for s in slices]
    assert heights == sorted(heights, reverse=True)
    expected = phantom.volume.to_patient_orientation(WORKING_ORIENTATION).array
    np.testing.assert_array_equal(np.stack([s.pixel_array.astype(int) - 1024 for s in slices]), expected)


def test_nifti_is_int16_in_the_axis_order_of_other_programs(series_folder, tmp_path):
    image = nibabel.load(one(series_folder, tmp_path / "out"))
    header = pydicom.dcmread(sorted(series_folder.iterdir())[0])
    assert image.shape == (header.Columns, header.Rows, 30)
    assert image.get_data_dtype() == np.int16
    assert (image.header["qform_code"], image.header["sform_code"]) == (1, 1)
    assert image.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(image.header.get_qform(), image.affine, atol=1e-4)


def test_fractions_of_a_hu_stay_in_the_nifti(series_folder, tmp_path):
    change(series_folder, RescaleSlope="0.5")
    image = nibabel.load(one(series_folder, tmp_path / "out"))
    assert image.get_data_dtype() == np.float32
    assert_same_patient(series_folder, image.get_filename())


def test_validators_are_content_with_the_derived_series(phantom, tmp_path):
    write_nifti(phantom.volume.to_patient_orientation("RAH"), tmp_path / "a.nii")
    files = sorted(one(tmp_path / "a.nii", tmp_path / "out").iterdir())
    for file in files[::10]:
        verdict = subprocess.run([tool("dciodvfy"), "-new", file], capture_output=True, text=True, check=False)
        assert verdict.returncode == 0, verdict.stderr
        assert "Error" not in verdict.stdout + verdict.stderr
    verdict = subprocess.run([tool("dcentvfy"), *files], capture_output=True, text=True, check=False)
    assert (verdict.returncode, verdict.stdout, verdict.stderr) == (0, "", "")


def test_derived_series_says_what_it_is_and_nothing_of_a_patient(phantom, tmp_path):
    write_nifti(phantom.volume, tmp_path / "Doe^John_19500101.nii.gz")
    folder = one(tmp_path / "Doe^John_19500101.nii.gz", tmp_path / "out")
    header = pydicom.dcmread(sorted(folder.iterdir())[0])
    assert list(header.ImageType) == ["DERIVED", "PRIMARY", "AXIAL"]
    assert header.ContentQualification == "RESEARCH"
    for text in (header.SeriesDescription, header.DerivationDescription, header.ImageComments):
        assert "NIfTI" in text and "covct" in text and "research use only" in text.lower()
    assert RESEARCH_USE in header.DerivationDescription
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "PatientPosition"):
        assert keyword in header and not header[keyword].value, keyword
    for path in files_of(tmp_path / "out"):
        assert "Doe" not in str(path.relative_to(tmp_path)) and b"Doe" not in path.read_bytes()
        assert b"19500101" not in path.read_bytes()


def test_no_name_or_date_of_the_patient_reaches_the_nifti(series_folder, tmp_path):
    change(
        series_folder, PatientName="Doe^Jane", PatientID="MRN4711", StudyDate="20200317", PatientBirthDate="19500101"
    )
    path = one(series_folder, tmp_path / "out")
    header = bytes(nibabel.load(path).header.binaryblock)
    for private in (b"Doe", b"Jane", b"MRN4711", b"20200317", b"19500101"):
        assert private not in header
        assert private not in path.read_bytes()[:100], "nor the gzip header, which can hold a file name"
        assert private.decode() not in str(path.relative_to(tmp_path))
    assert b"Research use only" in header


def test_the_same_file_twice_is_the_same_series_byte_for_byte(phantom, tmp_path):
    write_nifti(phantom.volume, tmp_path / "a.nii.gz")
    shutil.copy(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz")
    first, second = one(tmp_path / "a.nii.gz", tmp_path / "one"), one(tmp_path / "b.nii.gz", tmp_path / "two")
    assert first.relative_to(tmp_path / "one") == second.relative_to(tmp_path / "two")
    assert [p.read_bytes() for p in files_of(first)] == [p.read_bytes() for p in files_of(second)]
    assert len(converted(tmp_path, tmp_path / "both", to="dicom")) == 1, "under two names it is converted once"


def test_another_file_is_another_study(phantom, tmp_path):
    write_nifti(phantom.volume, tmp_path / "a.nii")
    write_nifti(phantom.volume.with_array(phantom.volume.array + np.int16(1)), tmp_path / "b.nii")
    uids = []
    for name in ("a.nii", "b.nii"):
        header = pydicom.dcmread(next(one(tmp_path / name, tmp_path / "out").iterdir()))
        uids.append(
            {header.StudyInstanceUID, header.SeriesInstanceUID, header.FrameOfReferenceUID, header.SOPInstanceUID}
        )
    assert not uids[0] & uids[1]


def test_a_nifti_study_gets_a_seg_and_the_same_figures(phantom, weights, networks, tmp_path):
    """The way the manual shows: convert, then scan. What the NIfTI itself yields is the yardstick."""
    write_nifti(phantom.volume.to_patient_orientation("RAH"), tmp_path / "a.nii.gz")
    derived = one(tmp_path / "a.nii.gz", tmp_path / "derived")
    reports = []
    for source, out in ((tmp_path / "a.nii.gz", tmp_path / "one"), (tmp_path / "derived", tmp_path / "two")):
        order = batch.Order((source,), out, weights, outputs=Outputs(("seg",)))
        assert batch.scan(order, lambda: networks, lambda event: None)["done"] == 1
        [path] = out.glob("*/*/report.json")
        reports.append(read_json(path))
    assert reports[0]["regions"] == reports[1]["regions"]
    assert reports[0]["lesions"] == reports[1]["lesions"]
    assert reports[0]["regions"]["lungs"]["infection_ml"] > 0
    told = [{warning["slug"] for warning in report["warnings"]} for report in reports]
    assert "no-seg" in told[0] - told[1]
    seg = pydicom.dcmread(path.parent / "segmentation.seg.dcm")
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == derived.name
    verdict = subprocess.run(
        [tool("dciodvfy"), "-new", path.parent / "segmentation.seg.dcm"], capture_output=True, text=True, check=False
    )
    assert verdict.returncode == 0, verdict.stderr


def test_one_slice_keeps_its_thickness(tmp_path):
    hu = np.full((6, 5, 1), -1000, np.int16)
    hu[3] = 40
    save(hu, tmp_path / "a.nii", np.diag([-2.0, -2, 7, 1]))
    again = one(one(tmp_path / "a.nii", tmp_path / "out"), tmp_path / "back")
    np.testing.assert_allclose(nibabel.load(again).header.get_zooms(), (2, 2, 7))


SHEARED = np.array(
    [[0.0, 0, 2, -60], [0.9, 2, 0, -50], [-4, 0, 0, 30], [0, 0, 0, 1]]
)  # each slice shifted along the columns


def test_tilted_scan_has_a_sheared_sform_and_no_qform(series_folder, tmp_path):
    """ITK has no shear, so each slice's own header is the yardstick."""
    tilt(series_folder, 14)
    image = nibabel.load(one(series_folder, tmp_path / "out"))
    assert (image.header["qform_code"], image.header["sform_code"]) == (0, 1)
    np.testing.assert_allclose(image.header.get_zooms(), voxel_sizes(image.affine), atol=1e-5)
    for path in sorted(series_folder.iterdir())[::7]:
        header = pydicom.dcmread(path)
        for row, column in ((0, 0), (20, 90), (127, 3)):
            x, y, z = header.ImagePositionPatient + np.array([3.0 * column, 3.0 * row, 0])
            value = nifti_at(image.get_filename(), np.array([[x, y, z]]))
            assert value == header.pixel_array[row, column] - 1024.0


@pytest.mark.parametrize("codes", ["LPH", "HLP", "PHL"])
def test_tilted_nifti_becomes_tilted_slices_and_comes_back(codes, phantom, tmp_path):
    """Whichever axis of the file holds the slices, and whether rows or columns are pushed along."""
    volume = phantom.volume.to_patient_orientation(codes)
    affine = volume.affine.copy()
    affine[1, codes.index("H")] += 2.6  # of 10 mm
    write_nifti(volume, tmp_path / "a.nii", affine)
    folder = one(tmp_path / "a.nii", tmp_path / "out")
    for path in sorted(folder.iterdir())[::9]:
        header = pydicom.dcmread(path)
        points = header.ImagePositionPatient + np.array([[3.0 * 90, 3.0 * 20, 0], [3.0 * 40, 3.0 * 60, 0]])
        np.testing.assert_array_equal(
            nifti_at(tmp_path / "a.nii", points), header.pixel_array[[20, 60], [90, 40]] - 1024.0
        )
    again = nibabel.load(one(folder, tmp_path / "back"))
    assert again.header["qform_code"] == 0
    points = apply_affine(again.affine, [[90, 20, 3], [40, 60, 25]]) * [-1, -1, 1]
    np.testing.assert_array_equal(
        nifti_at(tmp_path / "a.nii", points), np.asarray(again.dataobj)[[90, 40], [20, 60], [3, 25]]
    )


def test_shear_within_the_axial_slices_is_refused(phantom, tmp_path):
    volume = phantom.volume.to_patient_orientation("LHP")
    affine = volume.affine.copy()
    affine[0, 2] += 0.8  # of 3 mm: from one row to the next
    write_nifti(volume, tmp_path / "a.nii", affine)
    assert converted(tmp_path / "a.nii", tmp_path / "out") == ["no-geometry"]


def test_multi_frame_instance_gives_the_nifti_of_its_single_frames(series_folder, tmp_path):
    frames = [pydicom.dcmread(path) for path in series_folder.iterdir()]
    whole = LegacyConvertedEnhancedCTImage(frames, "1.2.3", 1, "1.2.3.1", 1)
    (tmp_path / "multi").mkdir()
    whole.save_as(tmp_path / "multi" / "a.dcm")
    first, second = (nibabel.load(one(f, tmp_path / "out")) for f in (series_folder, tmp_path / "multi"))
    np.testing.assert_allclose(first.affine, second.affine, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(first.dataobj), np.asarray(second.dataobj))


def test_slices_of_a_sheared_volume_are_written_where_they_lie(tmp_path):
    hu = np.arange(5 * 6 * 7, dtype=np.int16).reshape(5, 6, 7) - 1000
    write_ct_series(tmp_path, hu, SHEARED, pydicom.Dataset(), lambda number: f"1.2.{number}", storage_for(hu))
    for index, path in enumerate(sorted(tmp_path.iterdir())):
        dataset = pydicom.dcmread(path)
        np.testing.assert_allclose(dataset.ImagePositionPatient, SHEARED[:3, 3] + index * SHEARED[:3, 0])
        assert list(dataset.ImageOrientationPatient) == [1, 0, 0, 0, 1, 0]
        assert dataset.SliceThickness == 4, "along the normal, not along the tilted table"


def decoded(hu, storage):
    return np.stack([storage.encode(one).astype(float) for one in hu]) * storage.slope + storage.intercept


def test_whole_numbers_are_stored_as_a_scanner_does():
    hu = np.array([[[-1024, 0, 3071]]], np.int16)
    assert storage_for(hu) == storage_for(hu.astype(np.float32)) == Storage(1.0, -1024)


@pytest.mark.parametrize("low_high", [(-3024, 3071), (-32768, 32767), (-1024, 32767)])
def test_every_int16_is_stored_without_loss(low_high):
    hu = np.linspace(*low_high, 600).astype(np.int16).reshape(2, 15, 20)
    storage = storage_for(hu)
    np.testing.assert_array_equal(decoded(hu, storage), hu)
    assert not storage.rounded and not storage.clipped


def test_halves_are_stored_without_loss():
    hu = np.arange(-1024, 1000, 0.5, np.float32).reshape(2, 2, -1)
    storage = storage_for(hu)
    assert (storage.slope, storage.rounded) == (0.5, False)
    np.testing.assert_array_equal(decoded(hu, storage), hu)


@pytest.mark.parametrize(("high", "error"), [(-50, 0.01), (3071, 1 / 32), (30000, 0.5)])
def test_fractions_are_rounded_as_finely_as_16_bits_allow_and_it_is_said(high, error, tmp_path):
    hu = np.random.default_rng(0).uniform(-1024, min(high, 200), (20, 20, 10)).astype(np.float32)
    hu[0, 0, 0], hu[0, 0, 1] = -1024, high
    save(hu, tmp_path / "a.nii")
    [event] = [e for e in told(tmp_path / "a.nii", tmp_path / "out") if e["event"] == "converted"]
    assert [f["slug"] for f in event["findings"]] == ["implausible-size", "rounded"]
    [folder] = (tmp_path / "out").glob("1*/*")
    points, read = read_by_itk(folder)
    assert np.abs(nifti_at(tmp_path / "a.nii", points) - read).max() <= error + 1e-4
    header = pydicom.dcmread(next(folder.iterdir()))
    assert f"steps of {float(header.RescaleSlope):g}" in header.DerivationDescription


def test_beyond_16_bits_is_clipped_and_it_is_said(tmp_path):
    hu = np.full((8, 8, 4), -1000, np.int32)
    hu[4:], hu[5, 5, 2], hu[6, 6, 1] = 40, 70000, -40000
    save(hu, tmp_path / "a.nii")
    [event] = [e for e in told(tmp_path / "a.nii", tmp_path / "out") if e["event"] == "converted"]
    assert [f["slug"] for f in event["findings"]] == ["implausible-size", "clipped"]
    assert event["findings"][1]["message"].startswith("2 voxels")
    points, read = read_by_itk(next((tmp_path / "out").glob("1*/*")))
    np.testing.assert_array_equal(read, np.clip(nifti_at(tmp_path / "a.nii", points), -32768, 32767))


def spoil(name, folder):
    """A NIfTI that is refused, by its slug."""
    lungs = np.linspace(-1000, 400, 8 * 9 * 10).astype(np.int16).reshape(8, 9, 10)
    path = folder / f"{name}.nii.gz"
    if name == "not-3d":
        save(np.stack([lungs, lungs], -1), path)
    elif name == "gantry-tilt":
        save(lungs, path, sheared(35), qform=0)
    elif name == "not-hounsfield":
        save((lungs > -400).astype(np.uint8), path)
    elif name == "no-geometry":
        save(lungs, path, sform=0, qform=0)
    else:
        save(lungs, path)
        path.write_bytes(path.read_bytes()[:200])
    return path


@pytest.mark.parametrize("slug", ["not-3d", "gantry-tilt", "not-hounsfield", "no-geometry", "unreadable"])
def test_bad_nifti_is_named_with_its_reason_and_leaves_nothing(slug, tmp_path):
    spoil(slug, tmp_path)
    assert converted(tmp_path, tmp_path / "out") == [slug]
    assert files_of(tmp_path / "out") == []


def test_one_bad_series_does_not_stop_the_others(series_folder, phantom, tmp_path):
    gap = shutil.copytree(series_folder, tmp_path / "gap")
    change(gap, SeriesInstanceUID="1.2.3", SOPInstanceUID=lambda i: f"1.2.3.{i + 1}")
    for path in sorted(gap.iterdir())[10:12]:
        path.unlink()
    cut = shutil.copytree(series_folder, tmp_path / "cut")
    change(cut, SeriesInstanceUID="1.2.4", SOPInstanceUID=lambda i: f"1.2.4.{i + 1}")
    whole = sorted(cut.iterdir())[5].read_bytes()
    sorted(cut.iterdir())[5].write_bytes(whole[:-5000])
    spoil("not-hounsfield", tmp_path)
    became = converted(tmp_path, tmp_path / "out")
    assert sorted(p for p in became if "/" not in p) == ["missing-slices", "not-hounsfield", "unreadable"]
    assert len(files_of(tmp_path / "out")) == 1


def test_every_series_of_a_study_is_converted_not_only_the_chosen(series_folder, tmp_path):
    soft = shutil.copytree(series_folder, tmp_path / "series" / "soft")
    change(soft, SeriesInstanceUID="1.2.3", SOPInstanceUID=lambda i: f"1.2.3.{i + 1}", SliceThickness=5)
    assert len(converted(series_folder, tmp_path / "out")) == 2
    [study] = {path.parent for path in files_of(tmp_path / "out")}
    assert study.name == pydicom.dcmread(next(soft.iterdir())).StudyInstanceUID


def test_two_acquisitions_of_a_series_are_two_files(series_folder, tmp_path):
    second = shutil.copytree(series_folder, tmp_path / "second")
    change(series_folder, AcquisitionNumber=1)
    change(second, AcquisitionNumber=2, SOPInstanceUID=lambda i: f"1.2.3.{i + 1}", RescaleIntercept="-1000")
    paths = converted(tmp_path, tmp_path / "out")
    assert [path[-9:] for path in paths] == ["-1.nii.gz", "-2.nii.gz"]
    first, other = (np.asarray(nibabel.load(path).dataobj) for path in paths)
    assert set(np.unique(other - first)) == {24}


def test_unexpected_error_costs_one_series_and_is_told_without_its_text(series_folder, tmp_path, monkeypatch):
    def broken(series):
        raise KeyError(NAME)

    monkeypatch.setattr(convert, "load_dicom", broken)
    result = invoke("convert", series_folder, "--out", tmp_path / "out", "--json")
    assert result.exit_code == 3
    assert [e["event"] for e in events_in(result.stdout, ConvertEvent)] == ["found", "failed", "finished"]
    assert "KeyError at test_convert.py" in result.stdout
    assert "Doe" not in result.stdout + result.stderr


@pytest.mark.parametrize("step", ["_target", "_place", "_is_there", "told_apart"])
def test_what_breaks_before_the_first_series_costs_only_its_own(step, series_folder, tmp_path, monkeypatch):
    second = tmp_path / "second"
    shutil.copytree(series_folder, second)
    change(second, StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.4", SOPInstanceUID=lambda i: f"1.2.3.{i + 1}")
    whole = getattr(convert, step)

    def broken(out, series, *others):
        if "1.2.4" in {one.series_uid for one in (series if step == "told_apart" else [series])}:
            raise KeyError(NAME)
        return whole(out, series, *others)

    monkeypatch.setattr(convert, step, broken)
    result = invoke("convert", series_folder, second, "--out", tmp_path / "out", "--json")
    events = {event["series"]: event for event in events_in(result.stdout, ConvertEvent) if "series" in event}
    assert result.exit_code == 3
    assert (len(events), events.pop("1.2.4")["slug"]) == (2, "unexpected-error")
    assert [event["event"] for event in events.values()] == ["converted"]
    assert "Doe" not in result.stdout + result.stderr


def test_a_series_that_cannot_even_be_told_of_ends_with_3(series_folder, tmp_path, monkeypatch):
    """It has no folder of its own yet: a scan ends so, too."""

    def broken(group):
        raise KeyError(NAME)

    monkeypatch.setattr("covct.intake.discover._dicom_series", broken)
    result = invoke("convert", series_folder, "--out", tmp_path / "out", "--json")
    events = events_in(result.stdout, ConvertEvent)
    assert (result.exit_code, events[-1]["troubled"]) == (3, 1)
    assert [one["slug"] for one in events if one["event"] == "problem"] == ["unexpected-error"]
    assert "Doe" not in result.stdout + result.stderr


def test_a_series_with_no_such_place_is_refused_before_it_is_asked_for(series_folder, tmp_path, monkeypatch):
    """What refuses a series while it is planned is that series' refusal, too."""

    def refuse(*_):
        raise SeriesError("unreadable", "no place")

    monkeypatch.setattr(convert, "_place", refuse)
    assert converted(series_folder, tmp_path / "out") == ["unreadable"]


@pytest.fixture
def both(series_folder, phantom, tmp_path):
    """A folder with a DICOM series and a NIfTI."""
    folder = tmp_path / "both"
    folder.mkdir()
    shutil.move(series_folder, folder / "dicom")
    write_nifti(phantom.volume, folder / "a.nii")
    return folder


@pytest.mark.parametrize(("to", "files"), [(None, {".gz", ".dcm"}), ("nifti", {".gz"}), ("dicom", {".dcm"})])
def test_folder_with_both_kinds(to, files, both, tmp_path):
    converted(both, tmp_path / "out", to=to)
    assert {path.suffix for path in files_of(tmp_path / "out")} == files


def test_what_is_there_is_kept_and_force_redoes_it(both, tmp_path):
    out = tmp_path / "out"
    converted(both, out)
    before = {path: path.stat().st_mtime_ns for path in files_of(out)}
    converted(both, out)
    assert {path: path.stat().st_mtime_ns for path in files_of(out)} == before
    contents = [path.read_bytes() for path in files_of(out)]
    converted(both, out, force=True)
    assert all(path.stat().st_mtime_ns > before[path] for path in files_of(out))
    assert [path.read_bytes() for path in files_of(out)] == contents


def test_late_slice_replaces_the_nifti(series_folder, tmp_path):
    """That a file exists does not mean that it is of this input."""
    late = sorted(series_folder.iterdir())[-1]
    late.rename(tmp_path / "late.dcm")
    assert nibabel.load(one(series_folder, tmp_path / "out")).shape[2] == 29
    (tmp_path / "late.dcm").rename(late)
    assert nibabel.load(one(series_folder, tmp_path / "out")).shape[2] == 30


def test_file_of_another_program_is_not_overwritten(series_folder, tmp_path):
    path = one(series_folder, tmp_path / "out")
    path.write_bytes(b"precious")
    with pytest.raises(OutputNotWritable, match="not written by covct"):
        converted(series_folder, tmp_path / "out")
    assert path.read_bytes() == b"precious"
    converted(series_folder, tmp_path / "out", force=True)
    assert nibabel.load(path).shape[2] == 30


def test_output_inside_the_source_is_not_converted_back(both):
    converted(both, both / "out")
    first = files_of(both / "out")
    converted(both, both / "out")
    assert files_of(both / "out") == first


def test_output_that_is_the_source_or_a_scan_is_refused(series_folder, weights, networks, tmp_path):
    with pytest.raises(UsageError, match="both source and output"):
        converted(series_folder, series_folder)
    batch.scan(batch.Order((series_folder,), tmp_path / "out", weights), lambda: networks, lambda event: None)
    with pytest.raises(UsageError, match="results of a scan"):
        converted(series_folder, tmp_path / "out")


def test_exit_codes_and_strict(series_folder, tmp_path):
    strict = invoke("convert", series_folder, "--out", tmp_path / "a", "--strict")
    assert strict.exit_code == 3
    assert "thick-slices" in strict.stderr, "a warning refuses"
    assert files_of(tmp_path / "a") == []
    sorted(series_folder.iterdir())[10].unlink()
    result = invoke("convert", series_folder, "--out", tmp_path / "b")
    assert result.exit_code == 0
    assert "missing-slices" in result.stderr
    assert invoke("convert", series_folder, "--out", tmp_path / "b", "--strict").exit_code == 3
    assert run("convert", tmp_path / "none", "--out", tmp_path / "c").returncode == 2


def test_nothing_found_is_said(series_folder, tmp_path):
    (tmp_path / "empty").mkdir()
    result = invoke("convert", tmp_path / "empty", "--out", tmp_path / "out")
    assert result.exit_code == 0
    assert "neither a DICOM image series nor a NIfTI, MetaImage or NRRD below" in result.stderr
    result = invoke("convert", series_folder, "--to", "dicom", "--out", tmp_path / "out")
    assert result.exit_code == 0
    assert "is already dicom, or cannot be converted to it" in result.stderr


def test_json_events(both, tmp_path):
    result = invoke("convert", both, "--out", tmp_path / "out", "--json")
    events = events_in(result.stdout, ConvertEvent)
    assert [e["event"] for e in events] == ["found", "converted", "converted", "finished"]
    assert all(os.path.exists(e["path"]) for e in events[1:3])
    assert {e["to"] for e in events[1:3]} == {"nifti", "dicom"}
    assert events[-1]["converted"] == 2
    again = events_in(invoke("convert", both, "--out", tmp_path / "out", "--json").stdout, ConvertEvent)
    assert [e["event"] for e in again] == ["found", "kept", "kept", "finished"]


def test_output_below_a_file_is_exit_12(series_folder, tmp_path):
    (tmp_path / "file").write_text("")
    result = run("convert", series_folder, "--out", tmp_path / "file" / "out")
    assert result.returncode == 12
    assert "cannot write" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("kind", ["nifti", "dicom"])
def test_full_disk_is_exit_12_and_leaves_nothing_half_written(kind, both, tmp_path):
    """A limit on the size of a file fails in the middle of writing, as a full disk does."""
    result = subprocess.run(
        [sys.executable, "-m", "covct", "convert", both, "--to", kind, "--out", tmp_path / "out"],
        capture_output=True, text=True, check=False, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )  # fmt: skip
    assert result.returncode == 12, result.stderr
    assert "cannot write" in result.stderr
    assert "Traceback" not in result.stderr
    assert files_of(tmp_path / "out") == []
    assert not list((tmp_path / "out" / ".covct" / "staging").iterdir())


def test_real_nifti_becomes_a_series_that_passes_the_gate(shared, tmp_path):
    source = shared / "nifti" / "body-3mm.nii.gz"
    folder = one(source, tmp_path / "out")
    assert len(list(folder.iterdir())) == 112
    [series] = discover([folder]).series
    check_headers(series)
    points, hu = read_by_itk(folder)
    np.testing.assert_array_equal(nifti_at(source, points), hu)


def test_real_series_lies_where_its_published_lungs_do(shared, tmp_path):
    path = one(shared / "dicom" / "lctsc-case-005.zip", tmp_path / "out")
    image, lungs = nibabel.load(path), nibabel.load(shared / "dicom" / "lctsc-case-005_lungs.nii.gz")
    assert image.shape == lungs.shape
    np.testing.assert_allclose(image.affine, lungs.affine, atol=1e-3)
    inside = np.asarray(image.dataobj)[np.asarray(lungs.dataobj) > 0]
    assert -900 < np.median(inside) < -700
    volume = read_volume(path)
    assert volume.array.dtype == np.int16
