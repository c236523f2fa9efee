"""Whose lungs these are: files, series and studies that name several patients, one of them twice, or none."""

import shutil

import pydicom
import pytest
from line import each_slice, named, night

from covct.discover import discover
from covct.errors import SeriesError
from covct.quality import check_headers, header_warnings

JANE = {"PatientID": "4711", "PatientName": "Doe^Jane", "PatientBirthDate": "19500101", "PatientSex": "F"}
JOHN = {"PatientID": "0815", "PatientName": "Roe^John", "PatientBirthDate": "19660606", "PatientSex": "M"}
NOBODY = dict.fromkeys(JANE, "")
IDENTIFYING = ("4711", "0815", "doe", "jane", "roe", "john", "1950", "1966")


def call(folder, who, slices=slice(None), **attributes):
    """Say in every file of the slices whose it is."""
    for path in sorted(folder.iterdir())[slices]:
        dataset = pydicom.dcmread(path)
        for keyword, value in {**who, **attributes}.items():
            setattr(dataset, keyword, value)
        dataset.save_as(path)
    return folder


@pytest.fixture
def jane(series_folder):
    return call(series_folder, JANE)


def copy(folder, who, name="copy", slices=slice(None)):
    """Some slices of a folder beside it, said to be of somebody, under the UIDs that they have."""
    beside = folder.parent / name
    shutil.copytree(folder, beside)
    for path in set(beside.iterdir()) - set(sorted(beside.iterdir())[slices]):
        path.unlink()
    return call(beside, who)


def refused(*folders):
    [series] = discover(folders).series
    with pytest.raises(SeriesError) as caught:
        check_headers(series)
    message = caught.value.message
    assert caught.value.slug == "mixed-patients"
    assert not [word for word in IDENTIFYING if word in message.lower()]
    return message


# One series


def test_two_patients_in_one_series_are_refused(jane):
    call(jane, JOHN, slice(15, None))
    assert night(jane).rejection[0] == "mixed-patients"
    assert "PatientID, PatientName, PatientBirthDate, PatientSex differ" in refused(jane)


def test_two_patients_in_two_acquisitions_of_one_series_are_refused_once(jane):
    john = copy(jane, JOHN)
    for dataset in each_slice(john):
        named(dataset, "john").AcquisitionNumber = 2
    refused(jane, john)


def test_another_number_alone_is_another_patient(jane):
    call(jane, {"PatientID": "0815"}, slice(1))
    assert refused(jane).startswith("PatientID differs")


@pytest.mark.parametrize(
    ("spelled", "said"),
    [
        ({"PatientID": " 004711 ", "PatientName": "DOE^JANE^^^"}, set()),
        ({"PatientName": "Doe^Jane^Maria"}, {"mixed-patients"}),
        ({"PatientName": "Smith^Jane"}, {"mixed-patients"}),
        ({"PatientBirthDate": "19500110"}, {"mixed-patients"}),
        ({"PatientName": "", "PatientBirthDate": ""}, set()),
        (NOBODY, {"mixed-patients"}),
    ],
    ids=str,
)
def test_one_person_in_two_spellings_is_done(spelled, said, jane):
    call(jane, spelled, slice(15, None))
    [series] = discover([jane]).series
    check_headers(series)
    assert {finding.slug for finding in header_warnings(series)[1]} - {"thick-slices"} == said


def test_a_damaged_name_does_not_cost_the_series(jane):
    for dataset in each_slice(jane):
        dataset.add_new("PatientName", "PN", "")
        dataset["PatientName"]._value = "\udcff^\x1b$"
        break
    [series] = discover([jane]).series
    check_headers(series)


# A copy beside its original


@pytest.mark.parametrize("pseudonym", [NOBODY, {**NOBODY, "PatientID": "SUBJECT-7", "PatientName": "SUBJECT-7"}])
@pytest.mark.parametrize("slices", [slice(None), slice(8, 20)], ids=["whole", "a part"])
@pytest.mark.parametrize("name", ["a copy", "z copy"])
def test_an_anonymised_copy_beside_its_original_is_one_study_from_one_source(pseudonym, slices, name, jane):
    other = copy(jane, pseudonym, name, slices)
    [series] = discover([jane.parent]).series
    assert {i.file.path.parent for i in series.instances} == {jane}
    check_headers(series)
    assert len(series.twins) == series.copies == len(list(other.iterdir()))


def test_the_result_beside_an_anonymised_copy_is_the_originals(jane):
    done = night(jane, copy(jane, NOBODY, "a copy"), formats=("seg",))
    assert pydicom.dcmread(done.result / "segmentation.seg.dcm").PatientID == "4711"


def test_a_whole_copy_is_taken_before_an_incomplete_original(jane):
    other = copy(jane, NOBODY)
    for path in sorted(jane.iterdir())[20:]:
        path.unlink()
    [series] = discover([jane.parent]).series
    assert {i.file.path.parent for i in series.instances} == {other}


def test_two_incomplete_copies_are_not_put_together(jane):
    other = copy(jane, NOBODY, slices=slice(10, None))
    for path in sorted(jane.iterdir())[20:]:
        path.unlink()
    refused(jane, other)


def test_slices_sent_again_under_a_corrected_name_are_put_together(jane):
    other = copy(jane, {"PatientName": "Doe-Smith^Jane"}, slices=slice(10, None))
    for path in sorted(jane.iterdir())[20:]:
        path.unlink()
    [series] = discover([jane, other]).series
    check_headers(series)
    assert len(series.instances) == 30


def test_two_people_whose_exports_were_numbered_alike_are_no_copy(jane):
    john = copy(jane, JOHN)
    for dataset in each_slice(john):
        dataset.ImagePositionPatient = [7.0, *dataset.ImagePositionPatient[1:]]
    refused(jane, john)


def test_a_copy_that_holds_other_pixels_is_refused(jane):
    john = copy(jane, JOHN)
    for dataset in each_slice(john):
        dataset.PixelData = bytes(len(dataset.PixelData))
    assert night(jane, john).rejection[0] == "conflicting-files"
