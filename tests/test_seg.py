"""The DICOM SEG, judged by others: dciodvfy, dcmqi, highdicom."""

import subprocess

import highdicom as hd
import nibabel
import numpy as np
import pydicom
import pytest
from nibabel.affines import apply_affine
from pydicom.sr.codedict import codes

from covct.dicom.colour import cielab
from covct.terms import SEGMENTS
from support.line import segment
from support.running import read_json, tool
from support.series import change

pytestmark = pytest.mark.slow


def test_dciodvfy_finds_no_error(series_folder, tmp_path, weights, networks):
    folder = segment(series_folder, tmp_path / "out", weights, networks)
    verdict = subprocess.run(
        [tool("dciodvfy"), "-new", folder / "segmentation.seg.dcm"], capture_output=True, text=True, check=False
    )
    errors = [line for line in verdict.stderr.splitlines() if line.startswith("Error")]
    assert verdict.returncode == 0, errors
    assert not errors


def test_dcmqi_reads_the_same_voxels(series_folder, tmp_path, weights, networks):
    folder = segment(series_folder, tmp_path / "out", weights, networks)
    subprocess.run(
        [tool("segimage2itkimage"), "--inputDICOM", folder / "segmentation.seg.dcm", "--outputDirectory", tmp_path,
         "-p", "q", "-t", "nifti"],
        check=True, capture_output=True,
    )  # fmt: skip
    lungs = nibabel.load(folder / "lungs.nii.gz")
    for number in (1, 2):
        theirs = nibabel.load(tmp_path / f"q-{number}.nii.gz")
        points = np.argwhere(np.asarray(theirs.dataobj) > 0)
        world = apply_affine(theirs.affine, points)
        index = np.rint(apply_affine(np.linalg.inv(lungs.affine), world)).astype(int)
        ours = np.asarray(lungs.dataobj) == number
        assert len(points) == np.count_nonzero(ours)
        assert ours[tuple(index.T)].all()


def test_clean_lung_is_written_and_says_zero(series_folder, tmp_path, weights, networks):
    from dataclasses import replace

    nothing = replace(
        networks, infection=replace(networks.infection, predict=lambda s: np.zeros(s.shape[:3], np.float32))
    )
    folder = segment(series_folder, tmp_path / "out", weights, nothing)
    report = read_json(folder / "report.json")
    assert report["regions"]["lungs"]["infection_percent"] == 0
    assert report["lesions"].items() >= {"count": 0, "smallest_counted_ml": 0.1, "largest": []}.items()
    assert report["severity"]["class"] == 1
    seg = hd.seg.segread(folder / "segmentation.seg.dcm")
    assert [seg.get_segment_description(n).segment_label for n in (1, 2, 3)] == [s.label for s in SEGMENTS]


def test_deidentified_series_without_type_2_attributes(series_folder, tmp_path, weights, networks):
    for path in series_folder.iterdir():
        dataset = pydicom.dcmread(path)
        for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber",
                        "StudyDate", "StudyTime", "ReferringPhysicianName", "FrameOfReferenceUID", "SliceThickness",
                        "PositionReferenceIndicator"):  # fmt: skip
            if keyword in dataset:
                delattr(dataset, keyword)
        dataset.save_as(path)
    folder = segment(series_folder, tmp_path / "out", weights, networks)
    seg = pydicom.dcmread(folder / "segmentation.seg.dcm")
    assert seg.PatientID in ("", None), "nothing is invented that could be taken for the patient's"
    verdict = subprocess.run(
        [tool("dciodvfy"), "-new", folder / "segmentation.seg.dcm"], capture_output=True, text=True, check=False
    )
    assert verdict.returncode == 0, verdict.stderr
    report = read_json(folder / "report.json")
    assert "filled-headers" in [w["slug"] for w in report["warnings"]]
    assert "FrameOfReferenceUID: missing, derived from the work key" in report["source"]["filled"]


def test_noise_in_the_cosines_still_encodes(series_folder, tmp_path, weights, networks):
    change(series_folder, ImageOrientationPatient=lambda i: [1, 1e-6 * (i % 3), 0, 0, 1, -1e-6])
    segment(series_folder, tmp_path / "out", weights, networks)


def test_a_redo_sends_the_same_object(series_folder, tmp_path, weights, networks):
    first = segment(series_folder, tmp_path / "one", weights, networks)
    second = segment(series_folder, tmp_path / "two", weights, networks)
    uids = [
        pydicom.dcmread(f / "segmentation.seg.dcm", stop_before_pixels=True).SOPInstanceUID for f in (first, second)
    ]
    assert uids[0] == uids[1]


def test_research_use_stands_in_the_object(series_folder, tmp_path, weights, networks):
    folder = segment(series_folder, tmp_path / "out", weights, networks)
    seg = pydicom.dcmread(folder / "segmentation.seg.dcm")
    assert "research use only" in seg.SeriesDescription.lower()
    assert "Not a medical device" in seg.ContentDescription


def test_it_names_what_is_seen_and_no_disease(series_folder, tmp_path, weights, networks):
    """A tumour is called too. The code is that of an opacity, which PS3.16 CID 6104 has for chest findings."""
    seg = pydicom.dcmread(segment(series_folder, tmp_path / "out", weights, networks) / "segmentation.seg.dcm")
    lung, _, called = seg.SegmentSequence
    assert (called.SegmentLabel, called.TrackingID) == (
        "Opacity (COVID-19 network)",
        "covct Opacity (COVID-19 network)",
    )
    [kind] = called.SegmentedPropertyTypeCodeSequence
    assert (kind.CodeValue, kind.CodingSchemeDesignator, kind.CodeMeaning) == ("112001", "DCM", "Opacity")
    assert kind.CodeValue == codes.cid6104.Opacity.value
    assert "SegmentedPropertyTypeModifierCodeSequence" not in kind
    assert seg.DimensionOrganizationType == "3D"
    assert "threshold=0.5" in called.SegmentationAlgorithmIdentificationSequence[0].AlgorithmParameters
    [region] = lung.AnatomicRegionSequence
    assert (region.CodeValue, region.AnatomicRegionModifierSequence[0].CodeMeaning) == ("39607008", "Right")


def test_a_fractional_seg_says_from_which_probability_on_is_called(series_folder, tmp_path, weights, networks):
    folder = segment(series_folder, tmp_path / "out", weights, networks, formats=("seg",), seg_type="fractional")
    described = pydicom.dcmread(folder / "segmentation.seg.dcm").SegmentSequence[2].SegmentDescription
    assert described == "Probability; volumes are of what is called, from 0.5 on."


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [((255, 0, 0), (54.3, 80.8, 69.9)), ((0, 0, 255), (29.6, 68.3, -112.0)), ((255, 255, 255), (100, 0, 0))],
)
def test_colours_are_cielab_under_d50(rgb, lab):
    """sRGB as colour management has it, whose white is D50 as DICOM's: under D65 red is (53.2, 80.1, 67.2)."""
    assert cielab(rgb) == pytest.approx(lab, abs=0.1)


@pytest.mark.parametrize(
    "dirt",
    [
        {"PatientBirthDate": "19500000"},
        {"PatientBirthDate": "1950-01-01"},
        {"PatientBirthDate": "UNKNOWN"},
        {"StudyDate": "20200230"},
        {"StudyTime": "10:10:10"},
        {"StudyTime": "240000"},
        {"PatientSex": "UNKNOWN"},
        {"SpecificCharacterSet": "ISO-IR 100"},
        {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada^Tarou=山田^太郎"},
        {"SpecificCharacterSet": "GB18030", "PatientName": "Wang^XiaoDong=王^小东"},
    ],
    ids=str,
)
def test_dirt_in_the_header_does_not_cost_the_result(dirt, series_folder, tmp_path, weights, networks):
    for path in series_folder.iterdir():
        dataset = pydicom.dcmread(path)
        with pydicom.config.disable_value_validation():
            for keyword, value in dirt.items():
                setattr(dataset, keyword, value)
            dataset.save_as(path)
    folder = segment(series_folder, tmp_path / "out", weights, networks, formats=("seg",))
    seg = pydicom.dcmread(folder / "segmentation.seg.dcm")
    if "PatientName" in dirt:
        assert str(seg.PatientName) == dirt["PatientName"]
    verdict = subprocess.run(
        [tool("dciodvfy"), "-new", folder / "segmentation.seg.dcm"], capture_output=True, text=True, check=False
    )
    assert verdict.returncode == 0, verdict.stderr
