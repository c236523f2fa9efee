"""The DICOM key object selection, judged by dciodvfy and against the masks."""

from dataclasses import replace

import nibabel
import numpy as np
import pydicom
import pytest

from covct.dicom.key_object import key_slices, write_key_object
from covct.intake.choice import choose
from covct.intake.discover import discover
from covct.intake.gate import check_headers
from covct.intake.load_dicom import load_dicom
from covct.phantom.dicom import write_dicom_series
from covct.pipeline.series import Clock, process
from support.line import segment
from support.objects import KO, MAKING, as_multi_frame, evidence, items, judge, without_infection
from support.running import read_json

pytestmark = pytest.mark.slow


def references(path):
    """Referenced SOP Instance UIDs and frame numbers of a selection, in its order."""
    found = []
    for item in items(pydicom.dcmread(path)):
        if item.ValueType == "IMAGE":
            reference = item.ReferencedSOPSequence[0]
            found.append((reference.ReferencedSOPInstanceUID, reference.get("ReferencedFrameNumber")))
    return found


def description(path):
    [text] = [
        item.TextValue
        for item in items(pydicom.dcmread(path))
        if item.ConceptNameCodeSequence[0].CodeMeaning == "Key Object Description"
    ]
    return text


def heights(source):
    """Height of each slice of a series, mm to the head."""
    found = {}
    for path in source.iterdir():
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        found[dataset.SOPInstanceUID] = float(dataset.ImagePositionPatient[2])
    return found


def areas(path):
    """Marked voxels by height, and the heights, mm to the head."""
    mask = nibabel.as_closest_canonical(nibabel.load(path))
    per_slice = np.count_nonzero(np.asarray(mask.dataobj), axis=(0, 1))
    return per_slice, mask.affine[2, 3] + mask.affine[2, 2] * np.arange(len(per_slice))


def test_most_infected_slices_first_and_not_all_neighbours():
    """1 mm slices: the worst, then the worst that is 15 mm away."""
    infected = np.zeros(60)
    infected[20:40] = [*range(11, 21), *range(30, 20, -1)]  # most at 30, falling to both sides
    assert key_slices(infected, 1.0) == [30]
    assert key_slices(infected, 5.0) == [30, 33, 36, 39, 27]
    infected[55] = 1
    assert key_slices(infected, 1.0) == [30, 55]
    assert key_slices(np.zeros(60), 1.0) == []


def test_equal_slices_are_chosen_the_same_way_every_time():
    assert key_slices(np.ones(100), 20.0) == [0, 1, 2, 3, 4]


def test_dciodvfy_finds_no_error(series_folder, tmp_path, weights, networks):
    folder = segment(series_folder, tmp_path / "out", weights, networks, formats=("ko",))
    assert judge(folder / KO) == (0, [])
    assert [path.name for path in folder.glob("*.dcm")] == [KO], "it needs no SEG: it refers to source slices"


def test_it_refers_to_the_slices_with_most_infection(series_folder, tmp_path, weights, networks):
    folder = segment(series_folder, tmp_path / "out", weights, networks, formats=("ko", "nifti"))
    per_slice, z = areas(folder / "infection.nii.gz")
    height = heights(series_folder)
    chosen = [height[uid] for uid, frame in references(folder / KO)]
    assert 1 < len(chosen) <= 5
    infected = [per_slice[np.argmin(np.abs(z - one))] for one in chosen]
    assert infected[0] == per_slice.max()
    assert infected == sorted(infected, reverse=True)
    assert min(abs(a - b) for a in chosen for b in chosen if a != b) >= 15


def test_the_same_slices_however_the_patient_lay(phantom, tmp_path, weights, networks):
    found = []
    for position in ("HFS", "FFP"):
        write_dicom_series(phantom, tmp_path / position, orientation=position)
        folder = segment(tmp_path / position, tmp_path / f"{position}-out", weights, networks, formats=("ko",))
        height = heights(tmp_path / position)
        found.append([height[uid] for uid, _ in references(folder / KO)])
    assert found[0] == pytest.approx(found[1])


def test_evidence_lists_what_is_referenced_and_that_exists(series_folder, tmp_path, weights, networks):
    folder = segment(series_folder, tmp_path / "out", weights, networks, formats=("ko",))
    listed = evidence(pydicom.dcmread(folder / KO))
    assert set(listed) == {uid for uid, _ in references(folder / KO)} <= set(heights(series_folder))
    assert set(listed.values()) == {read_json(folder / "report.json")["source"]["series_instance_uid"]}


def test_research_use_stands_in_the_document(series_folder, tmp_path, weights, networks):
    folder = segment(series_folder, tmp_path / "out", weights, networks, formats=("ko",))
    document = pydicom.dcmread(folder / KO)
    assert document.ConceptNameCodeSequence[0].CodeMeaning == "Of Interest"
    assert "Research use only. Not a medical device." in description(folder / KO)
    assert "research use only" in document.SeriesDescription.lower()
    assert document.ContentQualification == "RESEARCH"


def test_clean_lung_shows_the_largest_lungs_and_says_so(series_folder, tmp_path, weights, networks):
    """A selection cannot be empty, and one that is missing would read as a failure."""
    folder = segment(series_folder, tmp_path / "out", weights, without_infection(networks), formats=("ko", "nifti"))
    per_slice, z = areas(folder / "lungs.nii.gz")
    [(uid, _)] = references(folder / KO)
    assert heights(series_folder)[uid] == pytest.approx(z[per_slice.argmax()])
    assert description(folder / KO).startswith("No opacity was called.")
    assert judge(folder / KO) == (0, [])


@pytest.mark.parametrize("clean", [False, True])
def test_multi_frame_source_is_referred_to_by_frame(clean, series_folder, tmp_path, networks):
    networks = without_infection(networks) if clean else networks
    choice = choose(list(discover([series_folder]).series), check_headers)
    result = process(choice, lambda: networks, "0" * 64, Clock())
    single, multi = tmp_path / "single.dcm", tmp_path / "multi.dcm"
    write_key_object(single, result.scan, result.masks, "0" * 64, MAKING)
    scan = as_multi_frame(result.scan)
    write_key_object(multi, scan, result.masks, "0" * 64, MAKING)
    place = {header.SOPInstanceUID: index for index, header in enumerate(result.scan.headers)}
    expected = [scan.frames[place[uid]] for uid, _ in references(single)]
    [(uid, frames)] = references(multi)
    assert uid == scan.headers[0].SOPInstanceUID
    assert [int(frame) for frame in np.atleast_1d(frames)] == expected
    assert judge(multi) == (0, [])


def test_one_infected_slice_is_one_reference(series_folder, tmp_path, networks):
    choice = choose(list(discover([series_folder]).series), check_headers)
    result = process(choice, lambda: networks, "0" * 64, Clock())
    infection = np.zeros(result.masks.infection.shape, bool)
    infection[12] = result.masks.lungs[12] > 0
    write_key_object(tmp_path / KO, result.scan, replace(result.masks, infection=infection), "0" * 64, MAKING)
    [(uid, _)] = references(tmp_path / KO)
    marked = result.scan.to_source(infection).array.any((1, 2))
    assert uid == result.scan.headers[int(marked.argmax())].SOPInstanceUID
    assert load_dicom(result.series).headers[int(marked.argmax())].SOPInstanceUID == uid
