"""Whose lungs these are: files, series and studies that name several patients, one of them twice, or none."""

import json
import shutil

import pydicom
import pytest

from covct.dicom.patient import Patient
from covct.errors import SeriesError
from covct.intake.choice import choose
from covct.intake.discover import discover
from covct.intake.gate import check_headers, header_warnings
from covct.intake.load_dicom import load_dicom
from covct.results.verify import verify
from covct.unattended.convert import Conversion, convert
from covct.unattended.logs import identifier_key
from covct.unattended.whose import people
from support.line import night
from support.running import read_json
from support.series import change, each_slice, named

pytestmark = pytest.mark.slow

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


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"PatientName": "Doe^Jane"}, {"PatientID": "0815", "PatientBirthDate": "19660606"}),
        ({"PatientID": "1", "IssuerOfPatientID": "CITY"}, {"PatientID": "2", "IssuerOfPatientID": "LAKE"}),
    ],
    ids=["a name and a number", "numbers of two issuers"],
)
def test_slices_that_name_people_by_nothing_in_common_are_refused(one, other, series_folder):
    call(series_folder, {**NOBODY, **one}, slice(15))
    call(series_folder, {**NOBODY, **other}, slice(15, None))
    refused(series_folder)


def test_two_patients_in_one_series_are_not_read_past_the_gate_either(jane):
    """As training and evaluation do, which take cases that the gate would only warn of."""
    call(jane, JOHN, slice(15, None))
    [series] = discover([jane]).series
    with pytest.raises(SeriesError) as caught:
        load_dicom(series)
    assert caught.value.slug == "mixed-patients"


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


# Several people under one Study Instance UID


def another(folder, who, name):
    """The slices of a folder as another series of the same study, of somebody else."""
    beside = copy(folder, who, name)
    for dataset in each_slice(beside):
        named(dataset, name).SeriesInstanceUID = uid(name)
    return beside


def uid(name):
    return f"1.2.3.{sum(name.encode())}"


def study_of(folder):
    return pydicom.dcmread(next(folder.iterdir())).StudyInstanceUID


def patients(done):
    """Patient IDs of the SEGs by folder of the study."""
    found = sorted(done.out.glob("*/*/segmentation.seg.dcm"))
    return {path.parent.parent.name: pydicom.dcmread(path).PatientID for path in found}


def test_three_patients_under_one_study_uid_are_three_studies(jane):
    others = [another(jane, {**JOHN, "PatientID": name, "PatientName": name}, name) for name in ("one", "two")]
    done = night(jane, *others, formats=("seg",))
    study = study_of(jane)
    assert set(patients(done)) == {study, f"{study}-p2", f"{study}-p3"}
    assert sorted(patients(done).values()) == ["4711", "one", "two"]
    again = night(jane, *others, out=done.out, formats=("seg",))
    assert len(again.said("skipped")) == 3 and not again.said("started")
    assert not defects(done.out, jane, *others)


def defects(out, *sources):
    return [defect for verdict in verify(out, sources) for defect in verdict.defects]


def test_who_comes_later_under_a_study_uid_leaves_the_first_ones_result_alone(jane):
    """With more slices, under the very UIDs, and with the first one's files gone."""
    first = night(jane, formats=("seg",))
    before = {path: path.read_bytes() for path in first.out.glob("*/*/*") if path.is_file()}
    john = copy(jane, JOHN)
    for dataset in each_slice(john):
        named(dataset, "john")
    night(john, out=first.out, formats=("seg",))
    assert not night(john, out=first.out, formats=("seg",)).said("started")
    study = study_of(jane)
    assert patients(first) == {study: "4711", f"{study}-p2": "0815"}
    assert {path: path.read_bytes() for path in before} == before
    assert not night(jane, out=first.out, formats=("seg",)).said("started"), "everyone finds his own again"


def test_slices_of_another_beside_a_finished_series_do_not_take_its_result(jane):
    first = night(jane, formats=("seg",))
    john = copy(jane, JOHN, slices=slice(5))
    for dataset in each_slice(john):
        named(dataset, "john")
    later = night(jane, john, out=first.out, formats=("seg",))
    assert [event["slug"] for event in later.said("rejected")] == ["mixed-patients"]
    assert patients(first) == {study_of(jane): "4711"}
    assert not night(jane, john, out=first.out, formats=("seg",)).said("started")


def test_a_series_that_names_nobody_does_not_supersede_one_that_names_its_patient(jane):
    first = night(jane, formats=("seg",))
    nobody = another(jane, NOBODY, "nobody")
    for dataset in each_slice(nobody):
        dataset.ConvolutionKernel, dataset.SliceThickness = "B70f", 0.6
    both = night(jane, nobody, out=first.out, formats=("seg",))
    assert not both.said("done")
    assert patients(first) == {study_of(jane): "4711"}


def test_who_has_nothing_in_common_with_the_first_does_not_supersede_her_result(series_folder):
    by_name = call(series_folder, {**NOBODY, "PatientName": "Doe^Jane"})
    first = night(by_name, formats=("seg",))
    by_number = another(by_name, {**NOBODY, "PatientID": "0815", "PatientBirthDate": "19660606"}, "number")
    call(by_number, {}, SliceThickness=0.5)
    night(by_name, by_number, out=first.out, formats=("seg",))
    assert patients(first) == {study_of(by_name): "", f"{study_of(by_name)}-p2": "0815"}


def test_a_series_of_another_part_that_names_its_patient_is_chosen_after_an_anonymous_chest(jane):
    chest = another(jane, {**NOBODY, "BodyPartExamined": "CHEST"}, "chest")
    call(jane, {}, BodyPartExamined="ABDOMEN", SeriesDescription="", StudyDescription="")
    series = discover([jane, chest]).series
    chosen = choose(list(series), check_headers).chosen
    assert chosen and chosen.series_uid == uid("chest")


def test_a_patient_whose_name_is_corrected_keeps_the_study(jane):
    first = night(jane, formats=("seg",))
    late = another(jane, {**JANE, "PatientName": "Smith^Jane", "PatientID": " 4711"}, "late")
    call(late, {}, SliceThickness=1.0)
    night(jane, late, out=first.out, formats=("seg",))
    assert set(patients(first)) == {study_of(jane)}
    assert len(list(first.out.glob("*/*/outcome.json"))) == 1, "the better series supersedes"


def test_whose_result_it_is_stands_in_the_objects_of_an_older_tree(jane):
    first = night(jane, formats=("seg",))
    path = first.result / "outcome.json"
    outcome = read_json(path)
    assert len(outcome.pop("patient")) == 5
    assert not [word for word in IDENTIFYING if word in path.read_text().lower().replace("0815", "")]
    path.write_text(json.dumps(outcome))
    john = copy(jane, JOHN)
    for dataset in each_slice(john):
        named(dataset, "john")
    night(john, out=first.out, formats=("seg",))
    assert patients(first)[study_of(jane)] == "4711"


@pytest.mark.parametrize("key", ["", None], ids=["too short", "no file"])
def test_a_key_that_cannot_be_used_costs_no_result(key, jane):
    out = jane.parent / "out"
    path = out / ".covct" / "identifier-key"
    path.parent.mkdir(parents=True)
    path.mkdir() if key is None else path.write_text(key)
    done = night(jane, out=out, formats=("seg",))
    assert read_json(done.result / "outcome.json")["patient"] == []
    john = copy(jane, JOHN)
    for dataset in each_slice(john):
        named(dataset, "john")
    night(john, out=out, formats=("seg",))
    assert sorted(patients(done).values()) == ["0815", "4711"], "the objects say whose they are"


@pytest.mark.parametrize("unknown", [NOBODY, {**NOBODY, "PatientName": "UNKNOWN"}], ids=["nobody", "unknown"])
def test_an_original_after_its_anonymous_copy_is_no_second_result(unknown, series_folder):
    anonymous = call(series_folder, unknown)
    first = night(anonymous, formats=("seg",))
    jane = copy(anonymous, JANE, "jane")
    night(anonymous, jane, out=first.out, formats=("seg",))
    night(jane, out=first.out, formats=("seg", "sr"))
    assert patients(first) == {study_of(jane): "4711"}, "of a redo the original's"
    night(call(jane, JOHN), out=first.out, formats=("seg",))
    assert patients(first) == {study_of(jane): "4711", f"{study_of(jane)}-p2": "0815"}, "of another it is none"


def test_a_name_that_is_put_in_or_taken_out_later_leaves_one_result(jane):
    first = night(call(jane, NOBODY))
    for who in (JANE, NOBODY, JANE):
        night(call(jane, who), out=first.out)
        assert [path.parent.parent.name for path in first.out.glob("*/*/outcome.json")] == [study_of(jane)]


def test_another_series_of_a_study_that_named_nobody_joins_it(jane):
    first = night(call(jane, NOBODY))
    night(another(jane, JANE, "late"), out=first.out)
    assert {path.parent.parent.name for path in first.out.glob("*/*/outcome.json")} == {study_of(jane)}


def test_a_result_that_names_nobody_is_not_replaced_by_other_instances_of_a_name(jane):
    first = night(call(jane, NOBODY))
    before = (first.result / "outcome.json").read_bytes()
    for dataset in each_slice(call(jane, JANE)):
        named(dataset, "others")
    night(jane, out=first.out)
    assert (first.result / "outcome.json").read_bytes() == before
    assert len(list(first.out.glob("*/*/outcome.json"))) == 2


@pytest.mark.parametrize("lost", ["the key", "the private folder", "the key, in a tree that noted none"])
def test_a_key_that_is_lost_doubles_no_result(lost, jane):
    first = night(jane, formats=("seg",))
    private = first.out / ".covct"
    shutil.rmtree(private) if lost == "the private folder" else (private / "identifier-key").unlink()
    if lost.endswith("none"):
        path = first.result / "outcome.json"
        path.write_text(json.dumps({**(told := read_json(path)), "patient": told["patient"][:4]}))
    identifier_key(private)  # as --hash-identifiers makes it, or any other result
    sorted(jane.iterdir())[-1].unlink()
    night(jane, out=first.out, formats=("seg",))
    john = copy(jane, JOHN)
    for dataset in each_slice(john):
        named(dataset, "john")
    night(john, out=first.out, formats=("seg",))
    study = study_of(jane)
    assert patients(first) == {study: "4711", f"{study}-p2": "0815"}


@pytest.mark.parametrize("key", ["another", "none"])
def test_of_a_result_without_objects_and_without_its_key_nobody_is_the_owner(key, jane):
    """It stays; whoever comes under its UIDs gets a folder of his own."""
    first = night(jane)
    before = (first.result / "outcome.json").read_bytes()
    path = first.out / ".covct" / "identifier-key"
    path.unlink()
    path.mkdir() if key == "none" else identifier_key(path.parent)
    john = call(jane, JOHN)
    for dataset in each_slice(john):
        named(dataset, "john")
    done = night(john, out=first.out)
    assert done.result.parent.name == f"{study_of(john)}-p2"
    assert (first.result / "outcome.json").read_bytes() == before


def test_who_says_only_a_birth_date_does_not_bring_two_together():
    jane, john, born = Patient(names="a"), Patient(id="2"), Patient(birth_date="3", sex="4")
    assert len(people([jane, john, born])) == 3


def test_people_who_cannot_be_told_apart_from_two_others_are_nobody_of_them():
    jane, john = Patient(id="1", names="a"), Patient(id="2", names="b")
    assert people([jane, Patient(), john]) == [[jane], [john], [Patient()]]
    assert people([jane, Patient()]) == [[jane, Patient()]]


def test_the_source_files_of_a_study_stay_until_each_of_its_patients_has_a_result(jane, tmp_path):
    john = another(jane, JOHN, "john")
    for dataset in each_slice(john):
        dataset.Modality = "MR"
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    for folder in (jane, john):
        shutil.move(folder, inbox)
    done = night(inbox, move_done=tmp_path / "moved")
    assert len(done.said("done")) == len(done.said("rejected")) == 1
    assert not (tmp_path / "moved").exists() or not list((tmp_path / "moved").rglob("*.dcm"))


def test_a_patient_whose_turn_did_not_come_is_not_forgotten(jane, tmp_path):
    """The other one under that study UID was done; his files stay, and he is done by the next run."""
    john = another(jane, JOHN, "john")
    inbox, moved = tmp_path / "inbox", tmp_path / "moved"
    inbox.mkdir()
    for folder in (jane, john):
        shutil.move(folder, inbox)
    first = night(inbox, move_done=moved, limit=1)
    assert first.said("waiting") and not list(moved.rglob("*.dcm"))
    assert len(night(inbox, out=first.out, move_done=moved).said("done")) == 1
    assert not list(inbox.rglob("*.dcm"))


# Converted to another format


UIDS = {"whole": {}, "none valid": {"StudyInstanceUID": "4fae-study", "SeriesInstanceUID": "4fae-series"}}


def convert_all(source, out, to):
    """The folders that the series became files in, and the files' bytes."""
    events = []
    convert(Conversion((source,), out, to), events.append)
    told = [event["path"] for event in events if event["event"] in ("converted", "kept")]
    files = [path for path in out.rglob("*") if path.is_file() and ".covct" not in path.parts]
    return [path.removeprefix(f"{out}/").split("/")[0] for path in told], {path: path.read_bytes() for path in files}


@pytest.mark.parametrize("instances", ["the same instances", "others"])
@pytest.mark.parametrize(("uids", "to"), [("whole", "nifti"), ("none valid", "nifti"), ("none valid", "dicom")])
def test_who_comes_later_under_uids_that_are_taken_replaces_no_converted_file(uids, to, instances, jane, tmp_path):
    call(jane, UIDS[uids])
    john = copy(jane, JOHN, "john")
    if instances == "others":
        for dataset in each_slice(john):
            named(dataset, "john")
    out = tmp_path / "converted"
    [hers], first = convert_all(jane, out, to)
    [his], both = convert_all(john, out, to)
    assert his == f"{hers}-p2" and first.items() < both.items()
    assert convert_all(jane, out, to) == ([hers], both) and convert_all(john, out, to) == ([his], both)
    for path in out.rglob("*.json"):
        assert not [word for word in IDENTIFYING if word in path.read_text().lower()]


def test_two_patients_of_one_study_are_converted_each_to_a_folder_of_his_own(jane, tmp_path):
    john = copy(jane, JOHN, "in/john")
    shutil.move(jane, john.parent / "jane")
    change(john, SeriesInstanceUID="1.2.3.99", SOPInstanceUID=lambda i: f"1.2.3.99.{i}")
    folders, files = convert_all(john.parent, tmp_path / "converted", "nifti")
    assert len(files) == 2 and sorted(folders) == [min(folders), f"{min(folders)}-p2"]


def test_two_patients_in_one_series_are_not_converted(jane, tmp_path):
    call(jane, JOHN, slice(15, None))
    assert convert_all(jane, tmp_path / "converted", "nifti") == ([], {})


def test_a_series_that_an_earlier_version_converted_is_kept_and_noted(jane, tmp_path):
    out = tmp_path / "converted"
    [hers], first = convert_all(jane, out, "nifti")
    shutil.rmtree(out / ".covct")
    assert convert_all(jane, out, "nifti") == ([hers], first)
    [his], both = convert_all(copy(jane, JOHN, "john"), out, "nifti")
    assert his == f"{hers}-p2" and first.items() < both.items()


# What `covct verify` says of what `covct scan` let through


def test_verify_finds_nothing_where_one_person_is_spelled_in_two_ways(jane):
    call(jane, NOBODY, slice(0, 5))
    call(jane, {"PatientName": "DÖ^JANE", "PatientID": "004711 "}, slice(5, 16), SpecificCharacterSet="ISO_IR 100")
    call(jane, {"PatientName": "Dö^Jane"}, slice(16, None), SpecificCharacterSet="ISO_IR 192")
    call(jane, NOBODY, slice(25, None))
    done = night(jane, formats=("seg", "sr", "ko", "sc", "pdf"))
    assert done.said("done") and not defects(done.out, jane)
    written = [pydicom.dcmread(path) for path in done.result.glob("*.dcm")]
    [(name, born)] = {(str(one.PatientName), one.PatientBirthDate) for one in written}
    assert (name.upper(), born) == ("DÖ^JANE", "19500101"), "what is known of the patient is told"


def test_verify_names_a_source_of_somebody_else(jane):
    done = night(jane, formats=("seg",))
    call(jane, JOHN, slice(29, None))
    [defect] = defects(done.out, jane)
    assert defect.slug == "patient-differs" and defect.message.startswith("PatientID, PatientName")


def test_verify_is_not_misled_by_people_whose_instances_are_numbered_alike(jane):
    john = copy(jane, JOHN)
    for dataset in each_slice(john):
        dataset.SeriesInstanceUID = "1.2.3"
        dataset.ImagePositionPatient = [7.0, *dataset.ImagePositionPatient[1:]]
    done = night(jane, john, formats=("seg",))
    assert len(done.said("done")) == 2 and not defects(done.out, jane, john)


# A UID of its own for every slice


def scatter(folder, *keywords):
    """What a faulty anonymiser makes of a series."""
    for index, dataset in enumerate(each_slice(folder)):
        for keyword in keywords:
            setattr(dataset, keyword, f"1.2.3.{index + 1}")


@pytest.mark.parametrize(
    "keywords",
    [
        ("SeriesInstanceUID",),
        ("StudyInstanceUID",),
        ("FrameOfReferenceUID",),
        ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"),
    ],
    ids="+".join,
)
def test_a_uid_of_its_own_for_every_slice_is_said_once(keywords, jane):
    scatter(jane, *keywords)
    done = night(jane)
    slug, message = done.rejection
    assert slug == "uid-per-slice" and message.startswith("each of the 30 slices") and keywords[0] in message
    assert not night(jane, out=done.out).said("started")


def test_a_folder_a_slice_and_every_file_twice_are_no_way_around(jane):
    scatter(jane, "SeriesInstanceUID")
    shutil.copytree(jane, jane.parent / "again")
    for index, path in enumerate(sorted(jane.iterdir())):
        (jane / str(index)).mkdir()
        path.rename(jane / str(index) / path.name)
    [series] = discover([jane.parent]).series
    assert (len(series.instances), len(series.twins)) == (30, 30)


def test_single_images_of_an_intervention_are_what_they_say(jane):
    scatter(jane, "SeriesInstanceUID")
    for index, dataset in enumerate(each_slice(jane)):
        dataset.ImagePositionPatient = [0.0, 0.0, float((7 * index) % 11)]
    assert len(discover([jane]).series) == 30
