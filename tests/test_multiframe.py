"""Enhanced multi-frame CT: one file a series, and the SEG points at its frames."""

import subprocess

import numpy as np
import pydicom
import pytest

from covct.errors import SeriesError
from covct.intake.choice import choose
from covct.intake.discover import discover
from covct.intake.gate import check_headers
from covct.intake.load_dicom import load_dicom
from support.line import segment
from support.multiframe import write_enhanced, write_legacy_converted
from support.running import tool


@pytest.fixture
def expected(phantom_series):
    return load_dicom(discover([phantom_series]).series[0])


def test_an_enhanced_ct_is_the_same_scan(phantom_series, expected, tmp_path):
    [series] = discover([write_enhanced(phantom_series, tmp_path / "e.dcm").parent]).series
    check_headers(series)
    assert len(series.instances) == 30
    assert series.content == tuple(f"{series.instances[0].sop_instance_uid}#{n}" for n in range(1, 31))
    scan = load_dicom(series)
    np.testing.assert_array_equal(scan.volume.array, expected.volume.array)
    np.testing.assert_allclose(scan.affine, expected.affine)
    assert len(scan.headers) == 1
    assert sorted(scan.frames) == list(range(1, 31))


def test_rescale_that_differs_from_frame_to_frame(phantom_series, expected, tmp_path):
    path = write_enhanced(phantom_series, tmp_path / "e.dcm", slopes=(1.0, 0.5, 0.25))
    scan = load_dicom(discover([path]).series[0])
    np.testing.assert_allclose(scan.volume.array, expected.volume.array)


def test_legacy_converted_enhanced_ct_is_the_same_scan(phantom_series, expected, tmp_path):
    [series] = discover([write_legacy_converted(phantom_series, tmp_path / "l.dcm")]).series
    check_headers(series)
    scan = load_dicom(series)
    np.testing.assert_array_equal(scan.volume.array, expected.volume.array)
    np.testing.assert_allclose(scan.affine, expected.affine)


def test_two_stacks_are_two_candidates_and_one_is_chosen(phantom_series, expected, tmp_path):
    path = write_enhanced(phantom_series, tmp_path / "e.dcm", stacks=2)
    both = discover([path]).series
    assert [series.folder[-3:] for series in both] == ["-s1", "-s2"]
    choice = choose(list(both), check_headers)
    second = load_dicom(next(series for series in both if series != choice.chosen))
    np.testing.assert_array_equal(second.volume.array, np.maximum(expected.volume.array + 100, -1024))


@pytest.mark.slow
@pytest.mark.parametrize("write", [write_enhanced, write_legacy_converted])
def test_seg_sr_and_key_object_point_at_the_frames(write, phantom_series, weights, networks, tmp_path):
    path = write(phantom_series, tmp_path / "in" / "e.dcm")
    folder = segment(path.parent, tmp_path / "out", weights, networks, formats=("seg", "sr", "ko", "nifti"))
    plain = segment(phantom_series, tmp_path / "plain", weights, networks, formats=("seg",))
    source = pydicom.dcmread(path)
    places = [frame.PlanePositionSequence[0].ImagePositionPatient for frame in source.PerFrameFunctionalGroupsSequence]
    seg = pydicom.dcmread(folder / "segmentation.seg.dcm")
    for frame in seg.PerFrameFunctionalGroupsSequence:
        reference = frame.DerivationImageSequence[0].SourceImageSequence[0]
        assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
        place = places[int(reference.ReferencedFrameNumber) - 1]
        np.testing.assert_allclose(frame.PlanePositionSequence[0].ImagePositionPatient, place)
    same = pydicom.dcmread(plain / "segmentation.seg.dcm")
    assert seg.pixel_array.sum() == same.pixel_array.sum()
    for file in sorted(folder.glob("*.dcm")):
        verdict = subprocess.run([tool("dciodvfy"), "-new", file], capture_output=True, text=True, check=False)
        assert verdict.returncode == 0, (file.name, verdict.stderr)


def test_a_stack_of_two_marks_only_its_own_frames(phantom_series, weights, networks, tmp_path):
    path = write_enhanced(phantom_series, tmp_path / "in" / "e.dcm", stacks=2)
    folder = segment(path.parent, tmp_path / "out", weights, networks, formats=("seg",))
    seg = pydicom.dcmread(folder / "segmentation.seg.dcm")
    numbers = {
        int(frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber)
        for frame in seg.PerFrameFunctionalGroupsSequence
    }
    assert max(numbers) <= 30


def test_a_cut_enhanced_file_is_named(phantom_series, tmp_path):
    path = write_enhanced(phantom_series, tmp_path / "e.dcm")
    whole = path.read_bytes()
    for share in (0.01, 0.3, 0.9):
        path.write_bytes(whole[: int(share * len(whole))])
        found = discover([path])
        if found.series:
            with pytest.raises(SeriesError) as caught:
                load_dicom(found.series[0])
            assert "e.dcm" in caught.value.file
        else:
            assert "e.dcm" in found.problems[0].label
