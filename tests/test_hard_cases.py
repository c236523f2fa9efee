"""Hard cases of the night, by number: what comes in as files, and what a radiology department needs to come out.

Every case goes through the whole line: done with right figures at the right place, or rejected with a reason that
names what was got. Cases of the process and its machine are in test_hard_conditions.py.
"""

import contextlib
import os
import random
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import cv2
import highdicom as hd
import nibabel
import numpy as np
import pydicom
import pytest
from nibabel.affines import apply_affine
from pydicom import uid

from covct.phantom.chest import make_phantom
from covct.phantom.dicom import write_dicom_series
from covct.terms import SEGMENTS
from support.chests import SMALL
from support.cuts import Cut, label_at, points_in_seg, tilted, turned, write_cut
from support.encodings import rewrite
from support.line import night
from support.multiframe import write_enhanced, write_legacy_converted
from support.series import anew, each_slice, hu_of, named, put_hu
from support.thresholds import make_networks

pytestmark = pytest.mark.slow

SEG, SR, KO = "segmentation.seg.dcm", "measurements.sr.dcm", "key-slices.ko.dcm"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


@pytest.fixture(scope="session")
def plain(phantom_series):
    """What covct says of the phantom in plain files: the figures that a case must come to as well."""
    return night(phantom_series).report


def assert_same_figures(report, plain):
    assert report["regions"] == plain["regions"]
    assert report["lesions"] == plain["lesions"]


def volumes(report):
    return {side: report["regions"][side]["volume_ml"] for side in ("right_lung", "left_lung")}


def assert_seg_lies_on_its_sources(seg_path, source):
    """Every frame lies in the plane of the instance that it refers to."""
    planes = {}
    for path in source.iterdir():
        header = pydicom.dcmread(path, stop_before_pixels=True)
        planes[header.SOPInstanceUID] = (*header.ImagePositionPatient, *header.ImageOrientationPatient)
    seg = pydicom.dcmread(seg_path)
    orientation = seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient
    assert len(seg.PerFrameFunctionalGroupsSequence) > 10
    for frame in seg.PerFrameFunctionalGroupsSequence:
        plane = planes[frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID]
        np.testing.assert_allclose(
            (*frame.PlanePositionSequence[0].ImagePositionPatient, *orientation), plane, atol=1e-4
        )


def assert_lungs_are_the_phantoms(seg_path, phantom):
    for side in (1, 2):
        labels = label_at(phantom, points_in_seg(seg_path, side))
        assert np.mean(labels == side) > 0.97, "the lung is called on its own side"
        assert np.mean(labels == 3 - side) < 0.005, "and not on the other"


LAYS = {
    "head first supine": {"orientation": "HFS"},
    "head first prone": {"orientation": "HFP"},
    "feet first supine": {"orientation": "FFS"},
    "feet first prone": {"orientation": "FFP"},
    "head first on the right side": {"orientation": "HFDR"},
    "columns that run upwards": {"orientation_cosines": (1, 0, 0, 0, -1, 0)},
}


@pytest.mark.parametrize("lay", LAYS)
def test_01_every_orientation(lay, phantom, plain, tmp_path):
    """Case 1: the SEG hits the source instances, the points are the patient's, the figures do not know how he lay."""
    write_dicom_series(phantom, tmp_path / "in", **LAYS[lay])
    done = night(tmp_path / "in", formats=("seg",))
    assert_same_figures(done.report, plain)
    assert_seg_lies_on_its_sources(done.result / SEG, tmp_path / "in")
    assert_lungs_are_the_phantoms(done.result / SEG, phantom)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A phantom of 60 slices, and what covct measures of its lungs in plain axial slices."""
    fine = make_phantom(slices=60, rows=128, columns=128, pixel_spacing_mm=(3.0, 3.0), seed=1)
    folder = write_cut(fine, tmp_path_factory.mktemp("straight") / "in", Cut(), pixel_mm=3.0, step_mm=5.0)
    return fine, volumes(night(folder).report)


@pytest.mark.parametrize(
    ("cut", "tilt"), [(turned("x", 5), 0), (tilted(15), 15)], ids=["oblique 5 degrees", "gantry tilt 15 degrees"]
)
def test_02_planes_askew(cut, tilt, straight, tmp_path):
    """Cases 1 and 2: oblique slices, a tilted gantry. The right volume in mL, masks on the slices as they lie."""
    fine, expected_ml = straight
    write_cut(fine, tmp_path / "in", cut, pixel_mm=3.0, step_mm=5.0)
    done = night(tmp_path / "in", formats=("seg",))
    assert volumes(done.report) == pytest.approx(expected_ml, rel=0.015)
    assert done.report["geometry"]["gantry_tilt_degrees"] == pytest.approx(tilt, abs=0.01)
    assert ("gantry-tilt" in done.warned) == bool(tilt)
    assert_seg_lies_on_its_sources(done.result / SEG, tmp_path / "in")
    assert_lungs_are_the_phantoms(done.result / SEG, fine)


def test_03_two_slices_missing_mid_stack(series_folder):
    """Case 3: never stretched over; the gap is named in mm."""
    paths = sorted(series_folder.iterdir())
    above, below = (float(pydicom.dcmread(paths[index]).ImagePositionPatient[2]) for index in (11, 14))
    for path in paths[12:14]:
        path.unlink()
    slug, message = night(series_folder).rejection
    assert slug == "missing-slices"
    assert f"2 slices are missing between {below:.1f} and {above:.1f} mm" in message


def test_03_slices_missing_at_an_end(series_folder):
    """Case 3: no gap shows it. The lungs that reach the last slice do, and so does the scanner's own count."""
    for dataset in each_slice(series_folder):
        dataset.ImagesInAcquisition = 30
    for path in sorted(series_folder.iterdir())[16:]:
        path.unlink()
    done = night(series_folder)
    assert {"missing-slices", "partial-lungs"} <= done.warned
    assert done.report["valid_for"]["volume"] is False
    assert done.report["regions"]["lungs"]["volume_ml"] is None
    assert done.report["regions"]["lungs"]["infection_percent"] is None
    assert done.report["severity"]["class"] is None


def test_03_a_slice_an_hour_late(series_folder, plain, tmp_path):
    """Case 3: rejected without it, done with it, and never done from what was there first."""
    late = sorted(series_folder.iterdir())[14]
    shutil.move(late, tmp_path / "late")
    first = night(series_folder)
    assert first.rejection[0] == "missing-slices"
    shutil.move(tmp_path / "late", late)
    assert_same_figures(night(series_folder, out=first.out).report, plain)


def test_04_every_file_twice(series_folder, plain):
    """Case 4: the same instance under two names counts once."""
    for path in list(series_folder.iterdir()):
        shutil.copy(path, path.with_name(f"copy of {path.name}"))
    done = night(series_folder)
    assert_same_figures(done.report, plain)
    assert done.report["geometry"]["slices"] == 30
    assert "duplicate-files" in done.warned


def test_04_a_slice_again_under_a_new_uid(series_folder):
    """Case 4: two slices at one position, and nothing says which is right."""
    path = sorted(series_folder.iterdir())[12]
    twin = named(pydicom.dcmread(path), "again")
    twin.save_as(series_folder / "again.dcm")
    slug, message = night(series_folder).rejection
    assert slug == "duplicate-slices"
    assert f"{float(twin.ImagePositionPatient[2]):.1f} mm" in message


def test_04_the_whole_series_again_under_new_uids(series_folder, tmp_path):
    """Case 4: sent twice by a broken anonymiser; the doubled stack is not segmented as one of half the spacing."""
    again = anew(shutil.copytree(series_folder, tmp_path / "again"))
    slug, message = night(series_folder, again).rejection
    assert slug == "mixed-acquisitions"
    assert "30 of 60 slices" in message


def test_04_a_corrected_slice_beside_the_wrong_one(series_folder):
    """Case 4: one UID, two contents. It is named, and while the night runs both files are."""
    path = sorted(series_folder.iterdir())[12]
    corrected = pydicom.dcmread(path)
    put_hu(corrected, hu_of(corrected) + 50)
    corrected.save_as(series_folder / "corrected.dcm")
    twin_uid = corrected.SOPInstanceUID
    done = night(series_folder)
    slug, message = done.rejection
    assert slug == "conflicting-files"
    assert twin_uid in message
    assert path.name in done.file
    assert "corrected.dcm" in done.file


def test_04_a_corrected_slice_in_place_of_the_wrong_one(series_folder):
    """Case 4: the file is overwritten between two passes."""
    first = night(series_folder)
    for dataset in each_slice(series_folder):
        put_hu(dataset, np.where(hu_of(dataset) < -400, hu_of(dataset) + 100, hu_of(dataset)))
    assert night(series_folder, out=first.out).said("done")


def test_05_two_acquisitions_under_one_series_uid(series_folder, plain, tmp_path):
    """Case 5: neither interleaved nor halved. One is done, the other is listed, the SEG refers to one only."""
    second = anew(shutil.copytree(series_folder, tmp_path / "second"))
    for dataset in each_slice(second):
        dataset.AcquisitionNumber = 2
        put_hu(dataset, hu_of(dataset) + 100)
    done = night(series_folder, second, formats=("seg",))
    assert_same_figures(done.report, plain)
    assert_seg_lies_on_its_sources(done.result / SEG, series_folder)
    assert list(done.left_out.values()) == ["not-chosen"]


def test_05_two_breath_holds_half_a_step_apart(series_folder, plain, tmp_path):
    """Case 5: no position is doubled and the steps are even, yet every second slice is of another breath."""
    second = anew(shutil.copytree(series_folder, tmp_path / "second"))
    for dataset in each_slice(second):
        dataset.AcquisitionNumber = 2
        x, y, z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, y, float(z) + 5.0]
    assert_same_figures(night(series_folder, second).report, plain)


def test_05_a_spiral_in_several_rotations_is_one_scan(series_folder, plain):
    """Case 5, the other way round: an acquisition number a block is no second scan."""
    for index, dataset in enumerate(each_slice(series_folder)):
        dataset.AcquisitionNumber = 1 + index // 10
    assert_same_figures(night(series_folder).report, plain)


def study(series_folder, tmp_path):
    """The series with all that stands beside it in a study; series UIDs by what they are."""
    tmp_path = tmp_path / "study"
    shutil.copytree(series_folder, tmp_path / "chest")
    paths = sorted(series_folder.iterdir())

    def beside(name, count, **attributes):
        folder = tmp_path / name
        folder.mkdir()
        for path in paths[:count]:
            shutil.copy(path, folder)
        anew(folder, uid.generate_uid(entropy_srcs=[name]))
        for dataset in each_slice(folder):
            for keyword, value in attributes.items():
                setattr(dataset, keyword, value)
            dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        return dataset.SeriesInstanceUID

    capture = {"SOPClassUID": SECONDARY_CAPTURE, "ImageType": ["DERIVED", "SECONDARY"]}
    coronal = {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1], "SliceThickness": 1.0}
    return tmp_path, {
        beside("scout", 2, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]): "localizer",
        beside("dose screen", 1, **{**capture, "ImageType": ["DERIVED", "SECONDARY", "DOSE_INFO"]}): "derived",
        beside("dose report", 1, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.67", Modality="SR"): "not-ct",
        beside("mip", 30, ImageType=["DERIVED", "SECONDARY", "AXIAL", "MIP"], SliceThickness=1.0): "derived",
        beside("mip by its words", 30, ImageType=["DERIVED", "PRIMARY", "AXIAL", "CT_SOM5 MIP"]): "derived",
        beside("render", 8, ImageType=["DERIVED", "SECONDARY", "VRT"]): "derived",
        beside("coronal", 30, ImageType=["DERIVED", "PRIMARY", "MPR"], **coronal): "derived",
        beside("burned-in", 30, BurnedInAnnotation="YES", **capture): "derived",
    }


def test_06_what_stands_beside_the_series_in_a_study(series_folder, plain, tmp_path):
    """Case 6: the chest is done, everything else is listed with its reason."""
    folder, expected = study(series_folder, tmp_path)
    done = night(folder)
    assert_same_figures(done.report, plain)
    assert done.left_out == expected
    assert len(done.said("done")) == 1


def test_06_coronal_reformat_that_does_not_say_so(series_folder, phantom, plain, tmp_path):
    """Case 6: axial slices come first, also before more and thinner ones of a reformat."""
    coronal = write_cut(phantom, tmp_path / "coronal", Cut(column=(0, 0, -1), step=(0, 1, 0)), 3.0, 3.0)
    for dataset in each_slice(coronal):
        dataset.StudyInstanceUID = plain["source"]["study_instance_uid"]
        dataset.SliceThickness = 1.0
    done = night(series_folder, coronal)
    assert_same_figures(done.report, plain)
    [left_out] = done.report["selection"]["left_out"]
    assert left_out["message"].startswith("not axial")


def test_07_thick_soft_and_thin_lung_kernel(series_folder, tmp_path):
    """Case 7: always the thin lung kernel, in whatever order files and folders come, and the reason is written."""
    for dataset in each_slice(series_folder):
        dataset.SliceThickness, dataset.ConvolutionKernel = 5.0, "B30f"
    lung = anew(shutil.copytree(series_folder, tmp_path / "lung"), "1.2.826.0.1.3680043.8.498.9")
    for dataset in each_slice(lung):
        dataset.SliceThickness, dataset.ConvolutionKernel = 1.0, "B60f"
    paths = [*series_folder.iterdir(), *lung.iterdir()]
    selections = []
    for seed in (1, 2, 3):
        random.Random(seed).shuffle(paths)
        for place, path in enumerate(paths):
            target = tmp_path / f"order-{seed}" / str(place % 7) / f"{place:03d}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        done = night(tmp_path / f"order-{seed}")
        assert done.report["source"]["series_instance_uid"] == "1.2.826.0.1.3680043.8.498.9"
        selections.append(done.report["selection"])
    assert selections[0] == selections[1] == selections[2]
    assert "1 mm thick" in selections[0]["reasons"]
    assert [entry["slug"] for entry in selections[0]["left_out"]] == ["not-chosen"]


def test_08_truncated_slice(series_folder):
    """Case 8: named, and never dropped: 29 slices would be another, shorter lung."""
    path = sorted(series_folder.iterdir())[12]
    uid = pydicom.dcmread(path).SOPInstanceUID
    path.write_bytes(path.read_bytes()[:-5000])
    done = night(series_folder)
    slug, message = done.rejection
    assert slug == "unreadable"
    assert uid in message
    assert path.name in done.file


def test_08_slice_that_is_still_being_written(series_folder, plain):
    """Case 8: its UID is the same when it is whole: the first verdict is not the last."""
    path = sorted(series_folder.iterdir())[12]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    first = night(series_folder)
    assert first.rejection[0] == "unreadable"
    path.write_bytes(whole)
    assert_same_figures(night(series_folder, out=first.out).report, plain)


def test_08_junk_in_the_folder(series_folder, plain):
    """Case 8: zero bytes, no preamble, a DICOMDIR, notes, a pipe, a loop. The chest is done; what may be a slice of it
    and cannot be read is named and warned of."""
    for path in sorted(series_folder.iterdir())[::2]:
        path.write_bytes(path.read_bytes()[132:])
    (series_folder / "DICOMDIR").write_bytes(bytes(200))
    (series_folder / "zero.dcm").write_bytes(b"")
    (series_folder / "notes.txt").write_text("call the ward")
    (series_folder / "thumbs").write_bytes(random.Random(0).randbytes(5000))
    os.mkfifo(series_folder / "pipe.dcm")
    (series_folder / "loop").symlink_to(series_folder)
    (series_folder / "gone.dcm").symlink_to(series_folder / "nowhere")
    done = night(series_folder)
    assert_same_figures(done.report, plain)
    assert {Path(problem["file"]).name for problem in done.said("problem")} == {"zero.dcm", "gone.dcm"}
    assert "unreadable-beside" in done.warned


@contextlib.contextmanager
def as_stranger(folder):
    """For root, who may read everything: become somebody else for a while, who owns the folder."""
    if os.geteuid():
        yield
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 54321, 54321)
    os.seteuid(54321)
    try:
        yield
    finally:
        os.seteuid(0)


def test_08_file_and_folder_that_may_not_be_read(series_folder):
    """Case 8: both are named; what may be a slice is missing, and it is said."""
    import covct.pipeline.series  # noqa: F401 - while it may still be read
    import covct.results.writers  # noqa: F401

    with tempfile.TemporaryDirectory() as here:
        place = Path(shutil.copytree(series_folder, Path(here) / "series"))
        closed, locked = place / "closed", sorted(place.iterdir())[12]
        closed.mkdir()
        with as_stranger(Path(here)):
            locked.chmod(0)
            closed.chmod(0)
            got = night(place)
            closed.chmod(0o700)
        assert {Path(problem["file"]).name for problem in got.said("problem")} == {locked.name, "closed"}
        slug, message = got.rejection
        assert slug == "missing-slices"
        assert "1 slice is missing" in message


ENCODINGS = {
    "JPEG lossless": uid.JPEGLosslessSV1,
    "JPEG-LS": uid.JPEGLSLossless,
    "JPEG 2000": uid.JPEG2000Lossless,
    "RLE": uid.RLELossless,
    "deflated": uid.DeflatedExplicitVRLittleEndian,
    "big-endian": uid.ExplicitVRBigEndian,
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_09_lossless_compression_changes_no_figure(encoding, series_folder, plain):
    """Case 9. Every encoding that pydicom knows is in test_encodings.py; here the whole line, one of each kind."""
    rewrite(series_folder, ENCODINGS[encoding])
    done = night(series_folder)
    assert_same_figures(done.report, plain)
    [syntax] = done.report["source"]["transfer_syntaxes"]
    assert syntax != "Explicit VR Little Endian"
    assert done.report["source"]["lossy"] is False


@pytest.mark.parametrize("flagged", [True, False], ids=["flagged", "by its transfer syntax only"])
def test_09_lossy_compression_is_flagged(flagged, series_folder, plain):
    """Case 9: volumes hold, figures by HU are withheld, also where only the transfer syntax says that it was lossy."""
    pytest.importorskip("jpeg_ls")
    for path in series_folder.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.compress(uid.JPEGLSNearLossless, jls_error=2, generate_instance_uid=False)
        if flagged:
            dataset.LossyImageCompression, dataset.LossyImageCompressionRatio = "01", "4"
        dataset.save_as(path)
    done = night(series_folder)
    assert "lossy" in done.warned
    assert done.report["source"]["lossy"] is True
    assert done.report["valid_for"]["hu_bands"] is False
    assert done.report["regions"]["lungs"]["ground_glass_ml"] is None
    assert volumes(done.report) == pytest.approx(volumes(plain), rel=0.01)


@pytest.mark.parametrize("write", [write_enhanced, write_legacy_converted])
def test_10_enhanced_multi_frame_ct(write, phantom_series, plain, tmp_path):
    """Case 10: one file, its frames not in the order of space; the SEG names the frame that it lies on."""
    path = write(phantom_series, tmp_path / "in" / "enhanced.dcm")
    done = night(path.parent, formats=("seg",))
    assert_same_figures(done.report, plain)
    frames = pydicom.dcmread(path).PerFrameFunctionalGroupsSequence
    for frame in pydicom.dcmread(done.result / SEG).PerFrameFunctionalGroupsSequence:
        number = int(frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber)
        np.testing.assert_allclose(
            frame.PlanePositionSequence[0].ImagePositionPatient,
            frames[number - 1].PlanePositionSequence[0].ImagePositionPatient,
        )


def without_rescale(dataset):
    hu = hu_of(dataset)
    del dataset.RescaleSlope, dataset.RescaleIntercept
    dataset.PixelRepresentation = 1
    dataset.PixelData = hu.astype("<i2").tobytes()


def slope_of_a_half(dataset):
    stored = 2 * (hu_of(dataset) + 1024)
    dataset.RescaleSlope = "0.5"
    dataset.PixelData = stored.astype("<u2").tobytes()


def round_field_of_view(dataset, padding, attribute, radius=0.5):
    """Signed pixels, and padding outside the scanner's circle; its radius as a share of the matrix."""
    hu = hu_of(dataset)
    y, x = np.mgrid[: hu.shape[0], : hu.shape[1]] - (np.array(hu.shape)[:, None, None] - 1) / 2
    hu[np.hypot(y, x) > radius * hu.shape[0]] = padding
    dataset.PixelRepresentation, dataset.RescaleIntercept = 1, "0"
    dataset.PixelData = hu.astype("<i2").tobytes()
    if attribute:
        dataset.add_new("PixelPaddingValue", "SS", padding)


def monochrome_1(dataset):
    """A matter of display: the rescale to HU is the same."""
    dataset.PhotometricInterpretation = "MONOCHROME1"


STORED = {
    "slope of a half": slope_of_a_half,
    "padding -2000": lambda dataset: round_field_of_view(dataset, -2000, True),
    "padding -2000 that no attribute tells": lambda dataset: round_field_of_view(dataset, -2000, False),
    "MONOCHROME1": monochrome_1,
}


@pytest.mark.parametrize("name", STORED)
def test_11_pixels_stored_in_other_ways(name, series_folder, plain):
    """Case 11: the same HU, the same figures."""
    for dataset in each_slice(series_folder):
        STORED[name](dataset)
    assert_same_figures(night(series_folder).report, plain)


def test_11_padding_that_is_brighter_than_bone(series_folder, plain):
    """Case 11: a circle that cuts the arms off. Taken for tissue, padding would close all air in."""
    for dataset in each_slice(series_folder):
        round_field_of_view(dataset, 3095, True, radius=0.44)
    done = night(series_folder)
    assert volumes(done.report) == pytest.approx(volumes(plain), rel=0.005)
    assert done.report["valid_for"]["volume"] is True


def test_11_no_rescale_withholds_figures_by_hu(series_folder, plain):
    """Case 11: 1 and 0 may be right, and cannot be known to be. Volumes hold."""
    for dataset in each_slice(series_folder):
        without_rescale(dataset)
    done = night(series_folder)
    assert "no-rescale" in done.warned
    assert volumes(done.report) == volumes(plain)
    assert done.report["regions"]["lungs"]["infection_mean_hu"] is None


def test_11_inverted_pixels_are_refused(series_folder):
    """Case 11: a writer that stored the display's values has turned air into metal."""
    for dataset in each_slice(series_folder):
        monochrome_1(dataset)
        put_hu(dataset, 3071 - 1024 - hu_of(dataset))
    slug, message = night(series_folder).rejection
    assert slug == "not-hounsfield"
    assert "air" in message


def test_11_matrix_of_630(tmp_path):
    """Case 11: no power of two, no multiple of the network's input; volumes within 5 % of the phantom's truth."""
    phantom = make_phantom(slices=20, rows=630, columns=630, lesions="none", seed=1)
    write_dicom_series(phantom, tmp_path / "in")
    done = night(tmp_path / "in", formats=("seg",))
    truth = phantom.truth()
    assert volumes(done.report) == pytest.approx({side: truth[f"{side}_ml"] for side in volumes(done.report)}, rel=0.05)
    assert pydicom.dcmread(done.result / SEG).Columns == 630
    assert_lungs_are_the_phantoms(done.result / SEG, phantom)


def grey(low, high, padding=False):
    """Replace HU -1000..400 by grey values; outside the patient padding, if asked for."""

    def change(dataset):
        hu = hu_of(dataset)
        values = np.interp(hu, (-1000, 400), (low, high))
        dataset.PixelData = np.rint(values).astype("<u2").tobytes()
        dataset.RescaleIntercept = "0"
        if padding:
            dataset.add_new("PixelPaddingValue", "US", int(low))

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (grey(0, 255), "0 to 255"),
        (grey(0, 4095), "0 to 4095"),
        (grey(0, 4095, padding=True), "4095"),
        (grey(0, 1), "mask"),
    ],
    ids=["0-255", "0-4095", "0-4095 with padding", "mask"],
)
def test_12_grey_values_are_no_hounsfield_units(change, words, series_folder):
    """Case 12: refused, and the message says what was got and what was wanted. Padding must not pass for air."""
    for dataset in each_slice(series_folder):
        change(dataset)
    slug, message = night(series_folder).rejection
    assert slug == "not-hounsfield"
    assert words in message
    assert "wanted Hounsfield units" in message


def test_13_metal_of_30000_hu(series_folder, plain):
    """Case 13: a pacemaker in the chest wall, a valve between the lungs. No overflow, no other figure."""
    for index, dataset in enumerate(each_slice(series_folder)):
        hu = hu_of(dataset)
        if 8 <= index < 14:
            body = np.argwhere(hu > 0)
            row, column = body[len(body) // 2]
            hu[body[0, 0] + 3 : body[0, 0] + 8, column - 4 : column + 4] = 30000
            hu[row : row + 2, 63:65] = np.where(hu[row : row + 2, 63:65] > 0, 30000, hu[row : row + 2, 63:65])
            assert np.count_nonzero(hu == 30000) > 20
        put_hu(dataset, hu)
    report = night(series_folder).report
    assert volumes(report) == pytest.approx(volumes(plain), rel=0.005)
    for figure in ("infection_percent", "infection_mean_hu", "ground_glass_ml"):
        assert report["regions"]["lungs"][figure] == pytest.approx(plain["regions"]["lungs"][figure], rel=0.01)


def test_14_clean_lung(series_folder):
    """Case 14: 0 % is the commonest good answer, and is written to every file."""
    networks = make_networks()
    clean = replace(networks.infection, predict=lambda slices: np.zeros(slices.shape[:3], np.float32))
    done = night(series_folder, formats=("seg", "sr", "ko", "png"), networks=replace(networks, infection=clean))
    assert done.report["regions"]["lungs"]["infection_percent"] == 0
    assert done.report["severity"]["class"] == 1
    assert {SEG, SR, KO, "overlay.png", "report.json", "outcome.json"} == {p.name for p in done.result.iterdir()}
    assert {int(s.SegmentNumber) for s in pydicom.dcmread(done.result / SEG).SegmentSequence} == {1, 2, 3}
    assert len(points_in_seg(done.result / SEG, 3)) == 0


@pytest.mark.parametrize(
    ("part", "sinus_hu", "slug"),
    [("HEAD", -950, "head-or-abdomen"), ("", -950, "no-lungs"), ("PELVIS", 0, "head-or-abdomen")],
)
def test_14_no_lung_at_all(part, sinus_hu, slug, series_folder):
    """Case 14: a head with its sinuses, said to be one or not, and a pelvis without any gas."""
    y, x = np.mgrid[:128, :128] - 64
    hu = np.where(np.hypot(y, x) < 35, 40, -1000)
    hu[50:56, 60:68] = sinus_hu
    for dataset in each_slice(series_folder):
        dataset.BodyPartExamined, dataset.SeriesDescription = part, part
        put_hu(dataset, hu)
    got, message = night(series_folder).rejection
    assert got == slug
    assert "wanted a chest CT" in message


def filled_left_lung(phantom, remnant_rows=0):
    """The left lung full of fluid; of it an island of air in the middle rows stays, if asked for."""
    hu = phantom.volume.array.copy()
    kernel = np.ones((5, 5), np.uint8)
    for one, lungs in zip(hu, phantom.lungs, strict=True):
        left = cv2.dilate((lungs == 2).astype(np.uint8), kernel) > 0
        fluid = left & (lungs != 1)
        if remnant_rows:
            rows, columns = np.nonzero(lungs == 2)
            if len(rows):
                fluid[
                    int(rows.mean()) : int(rows.mean()) + remnant_rows,
                    int(columns.mean()) : int(columns.mean()) + remnant_rows,
                ] = False
        one[fluid] = 15
    return phantom.volume.with_array(hu)


@pytest.mark.parametrize("remnant_rows", [0, 8], ids=["no air left", "some air left"])
def test_15_white_out_lung_or_pneumonectomy(remnant_rows, phantom, tmp_path):
    """Case 15: that lung's percent is undefined, not 0 and not that of its last bubble; the other's holds."""
    write_dicom_series(filled_left_lung(phantom, remnant_rows), tmp_path / "in")
    done = night(tmp_path / "in", formats=("seg", "sr"))
    right, left = (done.report["regions"][side] for side in ("right_lung", "left_lung"))
    assert left["infection_percent"] is None
    assert left["thirds"]["lower"]["infection_percent"] is None
    assert right["infection_percent"] > 0
    assert right["volume_ml"] == pytest.approx(phantom.truth()["right_lung_ml"], rel=0.1)
    assert "one-lung" in done.warned
    values = sr_values(done.result / SR)
    assert ("opacity-percent", "Left") not in values
    assert values["opacity-percent", "Right"] == right["infection_percent"]


def sr_values(path):
    """Numbers of the SR's groups of opacity by code and side of the finding site; those of single lesions are not."""
    out = {}
    [container] = [item for item in pydicom.dcmread(path).ContentSequence if name_of(item) == "Imaging Measurements"]
    for group in container.ContentSequence:
        told = {name_of(item): item for item in group.ContentSequence}
        if told["Finding"].ConceptCodeSequence[0].CodeMeaning != "Opacity":
            continue
        sides = [one.ConceptCodeSequence[0].CodeMeaning for one in told["Finding Site"].get("ContentSequence", [])]
        for item in group.ContentSequence:
            lesion = "Lesion" in told["Tracking Identifier"].TextValue
            if item.ValueType == "NUM" and item.MeasuredValueSequence and not lesion:
                code = item.ConceptNameCodeSequence[0].CodeValue
                out[code, sides[0] if sides else ""] = float(item.MeasuredValueSequence[0].NumericValue)
    return out


def name_of(item):
    return item.ConceptNameCodeSequence[0].CodeMeaning


def dense(slices):
    """An infection network that marks all that is denser than 188 HU, wherever it lies; no vessel is."""
    return (slices[..., 0] > 0.99).astype(np.float32)


LESION_HU = 1226  # half way to aerated lung is what `dense` marks: to the voxel, in spite of interpolation


def test_16_lesion_that_leaves_the_lung(series_folder):
    """Case 16: what lies outside the lungs is not theirs: percent stays at 100 or below, the SEG inside the lungs."""
    networks = make_networks()
    all_over = replace(networks.infection, predict=lambda slices: np.ones(slices.shape[:3], np.float32))
    done = night(series_folder, formats=("seg",), networks=replace(networks, infection=all_over))
    for region in done.report["regions"].values():
        assert region["infection_percent"] == 100
        assert region["infection_ml"] == region["volume_ml"]
        assert all(third["infection_percent"] == 100 for third in region["thirds"].values())
    points = [points_in_seg(done.result / SEG, segment) for segment in (1, 2, 3)]
    assert len(points[2]) == len(points[0]) + len(points[1])


def test_16_one_voxel_lesion(phantom, tmp_path):
    """Case 16: one voxel of 90 mm3 is below what is counted, and the report says so; two are, to the voxel."""
    networks = make_networks()
    networks = replace(networks, infection=replace(networks.infection, predict=dense))
    healthy = make_phantom(**SMALL, lesions="none", seed=1)
    aerated = [
        cv2.erode((hu < -700).astype(np.uint8) * (lungs == 1), np.ones((9, 9)))
        for hu, lungs in zip(healthy.volume.array, healthy.lungs, strict=True)
    ]
    index, row, column = np.argwhere(np.minimum(np.roll(aerated, 1, 0), np.minimum(aerated, np.roll(aerated, -1, 0))))[
        0
    ]
    reports = []
    for voxels in range(3):
        hu = healthy.volume.array.copy()
        hu[index, row, column : column + voxels] = LESION_HU
        write_dicom_series(healthy.volume.with_array(hu), tmp_path / f"{voxels}")
        reports.append(night(tmp_path / f"{voxels}", networks=networks).report)
    none, one, two = (report["regions"]["right_lung"]["infection_ml"] for report in reports)
    assert one == none
    assert reports[1]["lesions"]["smallest_counted_ml"] == 0.1
    assert two - none == pytest.approx(0.18, abs=0.001)
    assert reports[2]["lesions"]["count"] == reports[0]["lesions"]["count"] + 1


NAMES = {
    "Japanese": (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    "Chinese": ("GB18030", "Wang^XiaoDong=王^小东"),
    "Russian": ("ISO_IR 192", "Иванов^Пётр"),
    "German": ("ISO_IR 100", "Größe^Jürgen"),
    "Korean": (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
}


@pytest.mark.parametrize("language", NAMES)
def test_17_names_in_other_scripts(language, series_folder):
    """Case 17: the name is the same in every object that goes back to the PACS, and stands nowhere else."""
    character_set, name = NAMES[language]
    for dataset in each_slice(series_folder):
        dataset.SpecificCharacterSet, dataset.PatientName = character_set, name
    done = night(series_folder, formats=("seg", "sr", "ko"))
    for file in (SEG, SR, KO):
        header = pydicom.dcmread(done.result / file, stop_before_pixels=True)
        assert str(header.PatientName) == name
        assert header.SpecificCharacterSet == "ISO_IR 192"
    family = name.split("^")[0]
    assert family not in repr(done.events) + "".join(path.read_text() for path in done.out.rglob("*.json"))


def test_17_names_whose_character_set_is_not_said(series_folder, plain):
    """Case 17: Latin-1 bytes under no character set are not worth a lost result."""
    for path in series_folder.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.SpecificCharacterSet, dataset.PatientName = "ISO_IR 100", "Müller^Jörg"
        del dataset.file_meta.ImplementationVersionName
        dataset.save_as(path)
        path.write_bytes(path.read_bytes().replace(b"ISO_IR 100", b"ISO_IR 6  "))
    assert_same_figures(night(series_folder, formats=("seg", "sr", "ko")).report, plain)


def test_17_identifiers_that_are_missing(series_folder, plain):
    """Case 17: a de-identified study is done, what was filled is listed, and nothing is invented for the patient."""
    gone = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber", "StudyDate",
            "StudyTime", "FrameOfReferenceUID", "SliceThickness", "PositionReferenceIndicator")  # fmt: skip
    for dataset in each_slice(series_folder):
        for keyword in gone:
            delattr(dataset, keyword)
    done = night(series_folder, formats=("seg", "sr", "ko"))
    assert_same_figures(done.report, plain)
    assert "filled-headers" in done.warned
    for file in (SEG, SR, KO):
        header = pydicom.dcmread(done.result / file, stop_before_pixels=True)
        assert not header.PatientID and not header.PatientName


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID"])
def test_17_uids_that_are_missing(keyword, series_folder):
    """Case 17: without them a result could not be attached to its series."""
    for dataset in each_slice(series_folder):
        delattr(dataset, keyword)
    slug, message = night(series_folder).rejection
    assert slug == "no-identifiers"
    assert keyword in message


@pytest.mark.parametrize("slices", [1, 3])
def test_19_a_few_slices(slices, series_folder):
    """Case 19: masks of what is shown, no volume of lungs that are not."""
    for path in [p for n, p in enumerate(sorted(series_folder.iterdir())) if n not in range(12, 12 + slices)]:
        path.unlink()
    done = night(series_folder, formats=("seg", "sr", "ko", "png"))
    assert "too-few-slices" in done.warned
    assert done.report["geometry"]["slices"] == slices
    assert done.report["regions"]["lungs"]["volume_ml"] is None
    assert done.report["regions"]["lungs"]["infection_percent"] is None
    assert len(points_in_seg(done.result / SEG, 1)) > 1000


@pytest.mark.parametrize(("step_mm", "repeats"), [(1.25, 6), (10.0, 1)])
def test_19_thin_and_thick_slices(step_mm, repeats, phantom, plain, tmp_path):
    """Case 19: spacing is taken from the positions, and volumes follow it."""
    volume = hd.Volume.from_components(
        np.repeat(phantom.volume.array, repeats, axis=0),
        spacing=(step_mm, 3.0, 3.0), coordinate_system="PATIENT", patient_orientation="FPL",
        center_position=(0, 0, 0),
    )  # fmt: skip
    write_dicom_series(volume, tmp_path / "in")
    done = night(tmp_path / "in")
    assert done.report["geometry"]["slice_spacing_mm"] == step_mm
    expected = {side: ml * repeats * step_mm / 10 for side, ml in volumes(plain).items()}
    assert volumes(done.report) == pytest.approx(expected, rel=0.001)
    assert ("thick-slices" in done.warned) == (step_mm > 5)


def nifti(volume, codes="LPH", matrix=None):
    """A volume as a NIfTI image in the axis order of `codes`, turned by `matrix`."""
    image = volume.to_patient_orientation(codes).to_nibabel()
    affine = image.affine if matrix is None else matrix @ image.affine
    image = nibabel.Nifti1Image(np.asarray(image.dataobj), affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    return image


def scaled(image):
    """Stored as 2 HU + 2048, with the scale that takes it back."""
    stored = nibabel.Nifti1Image((2 * (np.asarray(image.dataobj) + 1024)).astype(np.int16), image.affine, image.header)
    stored.header.set_slope_inter(0.5, -1024)
    return stored


def about(axis, degrees):
    out = np.eye(4)
    cut = turned(axis, degrees)
    out[:3, :3] = np.array([cut.row, cut.column, cut.step]).T
    return out


def mirrored_qform(image):
    image.set_qform(np.diag([-1, 1, 1, 1]) @ image.affine, code=1)
    return image


def stacked(image, count):
    return nibabel.Nifti1Image(np.stack([np.asarray(image.dataobj)] * count, axis=3), image.affine)


NIFTI_DONE = {
    "LAS": lambda v: nifti(v, "LAH"),
    "RAS": lambda v: nifti(v, "RAH"),
    "slices first": lambda v: nifti(v, "HLP"),
    "scl_slope 0.5, scl_inter -1024": lambda v: scaled(nifti(v)),
    "one volume in four dimensions": lambda v: stacked(nifti(v), 1),
}
NIFTI_REFUSED = {
    "sform and qform that mirror each other": (lambda v: mirrored_qform(nifti(v)), "no-geometry", "disagree"),
    "turned by 40 degrees": (lambda v: nifti(v, matrix=about("x", 40)), "oblique", "40°"),
    "slices 30 mm apart": (lambda v: nifti(v[::3]), "thick-slices", "30 mm apart"),
    "4-D": (lambda v: stacked(nifti(v), 2), "not-3d", "2)"),
    "no orientation": (
        lambda v: nibabel.Nifti1Image(np.asarray(nifti(v).dataobj), None),
        "no-geometry",
        "left and right",
    ),
}


@pytest.mark.parametrize("name", NIFTI_DONE)
def test_20_nifti_of_every_kind(name, phantom, plain, tmp_path):
    """Case 20: the same patient, the same figures, and masks in the file's own grid."""
    path = tmp_path / "in.nii.gz"
    NIFTI_DONE[name](phantom.volume).to_filename(path)
    done = night(path)
    assert done.report["regions"] == plain["regions"]
    source, mask = nibabel.load(path), nibabel.load(done.result / "lungs.nii.gz")
    assert mask.shape == source.shape[:3]
    np.testing.assert_allclose(mask.affine, source.affine, atol=1e-3)


def test_20_oblique_nifti(phantom, plain, tmp_path):
    """Case 20: turned by 12 degrees; the mask lies where the phantom was turned to."""
    turn = about("x", 12)
    nifti(phantom.volume, matrix=turn).to_filename(tmp_path / "in.nii")
    done = night(tmp_path / "in.nii")
    assert done.report["regions"] == plain["regions"]
    mask = nibabel.load(done.result / "lungs.nii.gz")
    ras = apply_affine(np.linalg.inv(turn) @ mask.affine, np.argwhere(np.asarray(mask.dataobj) == 1))
    assert np.mean(label_at(phantom, ras * [-1, -1, 1]) == 1) > 0.97


@pytest.mark.parametrize("name", NIFTI_REFUSED)
def test_20_nifti_that_is_refused(name, phantom, tmp_path):
    """Case 20: with the reason, in words."""
    make, slug, words = NIFTI_REFUSED[name]
    make(phantom.volume).to_filename(tmp_path / "in.nii.gz")
    got, message = night(tmp_path / "in.nii.gz").rejection
    assert got == slug
    assert words in message


def test_20_truncated_nifti_is_read_again_when_it_is_whole(phantom, plain, tmp_path):
    """Case 20: a half-copied file."""
    path = tmp_path / "in.nii.gz"
    nifti(phantom.volume).to_filename(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    first = night(path)
    assert first.rejection[0] == "unreadable"
    path.write_bytes(whole)
    assert night(path, out=first.out).report["regions"] == plain["regions"]


def coloured(picture, colour):
    """Mean column of the pixels of a colour; None where there are next to none."""
    columns = np.nonzero((np.abs(picture.astype(int) - colour) <= 28).all(axis=-1))[1]
    return columns.mean() if len(columns) > 20 else None


def pictures(folder):
    """Every drawn slice of a result: the tiles of the overlay, the captures; (rows, columns, 3) RGB."""
    overlay = cv2.imread(str(folder / "overlay.png"))[:, :, ::-1]
    left, side, gap = 20, 384, 8
    tiles = [overlay[:-64, left + n * (side + gap) :][:, :side] for n in range(4)]
    return tiles, [pydicom.dcmread(path).pixel_array[60:560] for path in sorted(folder.glob("*.sc.dcm"))]


@pytest.mark.parametrize("position", ["HFS", "FFP"])
def test_25_left_is_the_patients_left_in_every_file(position, tmp_path):
    """Case 25: one lesion, near the top of the left lung: SEG, SR, JSON, NIfTI and pictures agree where it is."""
    healthy = make_phantom(**SMALL, lesions="none", seed=1)
    hu = np.where(healthy.lungs > 0, np.minimum(healthy.volume.array, -800), healthy.volume.array)
    deep = [cv2.erode((lungs == 2).astype(np.uint8), np.ones((15, 15))) for lungs in healthy.lungs]
    index, row, column = np.argwhere(deep)[0] + (1, 0, 0)
    hu[index - 1 : index + 2, row - 4 : row + 5, column - 4 : column + 5] = LESION_HU
    write_dicom_series(healthy.volume.with_array(hu), tmp_path / "in", orientation=position)
    networks = make_networks()
    networks = replace(networks, infection=replace(networks.infection, predict=dense))
    done = night(tmp_path / "in", formats=("seg", "sr", "sc", "nifti", "png"), networks=networks)

    regions, [lesion] = done.report["regions"], done.report["lesions"]["largest"]
    assert regions["left_lung"]["infection_ml"] == pytest.approx(3 * 81 * 0.09, rel=0.05)
    assert regions["left_lung"]["thirds"]["upper"]["infection_ml"] == regions["left_lung"]["infection_ml"]
    assert regions["right_lung"]["infection_ml"] == 0
    assert lesion["side"] == "left_lung"
    affine = healthy.volume.affine
    centre = affine[:3, :3] @ (index, row, column) + affine[:3, 3]
    np.testing.assert_allclose(lesion["centroid_lps_mm"], centre, atol=1)

    np.testing.assert_allclose(points_in_seg(done.result / SEG, 3).mean(0), centre, atol=1)
    assert (label_at(healthy, points_in_seg(done.result / SEG, 3)) == 2).all()
    assert_lungs_are_the_phantoms(done.result / SEG, healthy)
    labels = {int(s.SegmentNumber): s.SegmentLabel for s in pydicom.dcmread(done.result / SEG).SegmentSequence}
    assert labels == {segment.number: segment.label for segment in SEGMENTS}

    values = sr_values(done.result / SR)
    assert values["118565006", "Left"] == regions["left_lung"]["infection_ml"]
    assert values["118565006", "Right"] == 0

    infection, lungs = (nibabel.load(done.result / f"{name}.nii.gz") for name in ("infection", "lungs"))
    infected = np.asarray(infection.dataobj) > 0
    ras = apply_affine(infection.affine, np.argwhere(infected))
    np.testing.assert_allclose(ras.mean(0) * (-1, -1, 1), centre, atol=1)
    assert (np.asarray(lungs.dataobj)[infected] == 2).all()

    for kind in pictures(done.result):
        found = 0
        for picture in kind:
            right, left, red = (coloured(picture, segment.colour_rgb) for segment in SEGMENTS)
            assert right < left, "the patient's right stands on the left of the picture"
            found += red is not None
            assert red is None or abs(red - left) < abs(red - right)
        assert found
