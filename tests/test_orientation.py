"""Left is the patient's left, in every file, however the patient lay."""

import subprocess

import nibabel
import numpy as np
import pydicom
import pytest
from nibabel.affines import apply_affine

from covct.intake.discover import discover
from covct.intake.load_dicom import load_dicom
from covct.outputs import Outputs
from covct.phantom.chest import make_phantom
from covct.phantom.dicom import write_dicom_series
from covct.unattended import batch
from covct.voxels.volume import WORKING_ORIENTATION
from support.chests import SMALL
from support.cuts import CUTS, POSITIONS, Cut, label_at, points_in_seg, write_cut
from support.running import read_json, tool

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("position", POSITIONS)
def test_the_network_sees_the_same_patient(position, phantom, tmp_path):
    """Whatever way the patient lay: anterior up, the patient's right on the image's left, head first."""
    write_dicom_series(phantom, tmp_path, orientation=position)
    scan = load_dicom(discover([tmp_path]).series[0])
    working = scan.working
    assert working.shape == phantom.volume.shape
    np.testing.assert_array_equal(working.array, phantom.volume.to_patient_orientation(WORKING_ORIENTATION).array)


@pytest.mark.parametrize("position", POSITIONS)
def test_seg_marks_the_same_points_in_the_patient(position, phantom, weights, networks, tmp_path):
    """Supine alone proves nothing: prone and feet-first catch a mirrored SEG. The phantom is asymmetric in all axes."""
    import highdicom as hd

    write_dicom_series(phantom, tmp_path / "in", orientation=position)
    out = tmp_path / "out"
    order = batch.Order((tmp_path / "in",), out, weights, outputs=Outputs(("seg", "nifti")))
    assert batch.scan(order, lambda: networks, lambda event: None)["done"] == 1
    [folder] = [path.parent for path in out.glob("*/*/report.json")]
    seg = hd.seg.segread(folder / "segmentation.seg.dcm")
    # Slices without a segment have no frame: the patient's own coordinates say where the rest belongs.
    marked = seg.get_volume(combine_segments=False).match_geometry(phantom.volume, tol=1e-3)
    truth = phantom.lungs
    for label in (1, 2):
        inside = truth == label
        assert np.mean(marked.array[..., label - 1][inside]) > 0.85, "the lung is called on its own side"
        assert np.mean(marked.array[..., 2 - label][inside]) < 0.02, "and not on the other"
    nifti = nibabel.load(folder / "lungs.nii.gz")
    right = np.argwhere(np.asarray(nifti.dataobj) == 1).mean(0)
    left = np.argwhere(np.asarray(nifti.dataobj) == 2).mean(0)
    assert (nifti.affine @ [*right, 1])[0] > (nifti.affine @ [*left, 1])[0], "RAS: the patient's right has the larger x"
    sources = {pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in (tmp_path / "in").iterdir()}
    referenced = {
        frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        for frame in seg.PerFrameFunctionalGroupsSequence
    }
    assert referenced <= sources


def test_report_is_the_same_for_every_position(phantom, weights, networks, tmp_path):
    regions = []
    for position in ("HFS", "FFP", "HFDL"):
        write_dicom_series(phantom, tmp_path / position, orientation=position)
        order = batch.Order((tmp_path / position,), tmp_path / f"out-{position}", weights, outputs=Outputs(()))
        batch.scan(order, lambda: networks, lambda event: None)
        [path] = (tmp_path / f"out-{position}").glob("*/*/report.json")
        report = read_json(path)
        regions.append((report["regions"], report["lesions"]))
    assert regions[0] == regions[1] == regions[2]


def test_rows_longer_than_columns(weights, networks, tmp_path):
    made = make_phantom(**{**SMALL, "rows": 110, "columns": 140, "pixel_spacing_mm": (3.4, 2.8)}, seed=2)
    write_dicom_series(made, tmp_path / "in")
    order = batch.Order((tmp_path / "in",), tmp_path / "out", weights, outputs=Outputs(("seg",)))
    assert batch.scan(order, lambda: networks, lambda event: None)["done"] == 1
    [path] = (tmp_path / "out").glob("*/*/report.json")
    report = read_json(path)
    assert report["geometry"]["row_spacing_mm"] == pytest.approx(3.4)
    assert report["geometry"]["column_spacing_mm"] == pytest.approx(2.8)


@pytest.fixture(scope="module")
def fine_phantom():
    return make_phantom(slices=60, rows=128, columns=128, slice_spacing_mm=None, pixel_spacing_mm=(3.0, 3.0), seed=1)


def segment_cut(cut, phantom, networks, weights, folder):
    write_cut(phantom, folder / "in", cut, pixel_mm=3.0, step_mm=4.0)
    order = batch.Order((folder / "in",), folder / "out", weights, outputs=Outputs(("seg", "nifti")))
    events = []
    assert batch.scan(order, lambda: networks, events.append)["done"] == 1, events
    [path] = (folder / "out").glob("*/*/report.json")
    return path.parent, read_json(path)


STRAIGHT_ML: dict[str, float] = {}


@pytest.fixture
def straight_ml(fine_phantom, networks, weights, tmp_path):
    """Lung volumes that covct measures in plain axial slices of the same phantom."""
    if not STRAIGHT_ML:
        _, report = segment_cut(Cut(), fine_phantom, networks, weights, tmp_path / "straight")
        STRAIGHT_ML.update({name: report["regions"][name]["volume_ml"] for name in ("right_lung", "left_lung")})
    return STRAIGHT_ML


@pytest.mark.parametrize("name", CUTS)
def test_any_cut_marks_the_same_points_in_the_patient(name, fine_phantom, straight_ml, weights, networks, tmp_path):
    """The patient stays, the planes differ: what the SEG calls right lung must be the phantom's right lung."""
    folder, report = segment_cut(CUTS[name], fine_phantom, networks, weights, tmp_path)
    seg = folder / "segmentation.seg.dcm"
    nifti = nibabel.load(folder / "lungs.nii.gz")
    for segment, region in ((1, "right_lung"), (2, "left_lung")):
        points = points_in_seg(seg, segment)
        labels = label_at(fine_phantom, points)
        assert np.mean(labels == segment) > 0.97, "the lung is called on its own side"
        assert np.mean(labels == 3 - segment) < 0.005, "and not on the other"
        assert report["regions"][region]["volume_ml"] == pytest.approx(straight_ml[region], rel=0.01)
        index = np.argwhere(np.asarray(nifti.dataobj) == segment)
        ras = apply_affine(nifti.affine, index)
        assert_same_points(ras * [-1, -1, 1], points)
        if "tilt" not in name:  # an ITK image has no shear: dcmqi cannot hold tilted slices
            assert_same_points(points_by_dcmqi(seg, segment, tmp_path), points)
    referenced_slices_hold_the_marked_points(seg, tmp_path / "in")
    verdict = subprocess.run([tool("dciodvfy"), "-new", seg], capture_output=True, text=True, check=False)
    assert verdict.returncode == 0, verdict.stderr


def assert_same_points(one, other):
    """Two sets of points (N, 3) LPS mm are the same but for their order and rounding."""

    def ordered(points):
        return points[np.lexsort(np.round(points, 1).T)]

    assert one.shape == other.shape
    np.testing.assert_allclose(ordered(one), ordered(other), atol=0.06)


def points_by_dcmqi(seg, segment, folder):
    subprocess.run(
        [tool("segimage2itkimage"), "--inputDICOM", seg, "--outputDirectory", folder, "-p", "q", "-t", "nifti"],
        check=True, capture_output=True,
    )  # fmt: skip
    image = nibabel.load(folder / f"q-{segment}.nii.gz")
    return apply_affine(image.affine, np.argwhere(np.asarray(image.dataobj) > 0)) * [-1, -1, 1]


def referenced_slices_hold_the_marked_points(seg_path, source):
    """Each frame lies where the slice that it refers to lies."""
    places = {}
    for path in source.iterdir():
        header = pydicom.dcmread(path, stop_before_pixels=True)
        places[header.SOPInstanceUID] = np.array(header.ImagePositionPatient, float)
    for frame in pydicom.dcmread(seg_path).PerFrameFunctionalGroupsSequence:
        uid = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        np.testing.assert_allclose(frame.PlanePositionSequence[0].ImagePositionPatient, places[uid], atol=1e-4)
