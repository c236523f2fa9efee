"""Left is the patient's left, in every file, however the patient lay."""

import nibabel
import numpy as np
import pydicom
import pytest
from conftest import SMALL, read_json

from covct import batch
from covct.dicom.load import load_dicom
from covct.discover import discover
from covct.outputs import Outputs
from covct.phantom import make_phantom
from covct.phantom_dicom import write_dicom_series
from covct.volume import WORKING_ORIENTATION

POSITIONS = ["HFS", "HFP", "FFS", "FFP", "HFDR", "HFDL", "FFDR", "FFDL"]


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
