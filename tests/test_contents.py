"""What a thing is, is told by its contents: media directories, objects without UIDs, debris, entries of archives."""

import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.fileset import FileSet
from pydicom.tag import Tag

from covct.dicom.syntaxes import DEFLATED, EXPLICIT_BIG_ENDIAN, IMPLICIT_LITTLE_ENDIAN
from covct.disk.sources import SourceFile
from covct.intake.discover import discover
from covct.intake.load_dicom import load_dicom
from covct.outputs import Outputs
from covct.phantom.chest import make_phantom
from covct.phantom.dicom import write_dicom_series
from covct.results.verify import installed_judges, verify
from covct.unattended import movable
from covct.unattended.batch import Order, scan
from covct.unattended.convert import Conversion, convert
from covct.unattended.inbox import Study, Survey
from support.chests import SMALL
from support.encodings import rewrite
from support.running import read_json
from support.thresholds import make_networks, make_weights

pytestmark = pytest.mark.slow

EVERYTHING = Outputs(formats=("seg", "sr", "sc", "ko", "pdf", "nifti", "png"))


def night(source, tmp_path, outputs=Outputs(("seg",)), **wishes):  # noqa: B008 - it is frozen
    """One scan. Returns its events; the results lie in tmp_path/out."""
    events = []
    weights = tmp_path / "weights"
    if not weights.exists():
        make_weights(weights)
    order = Order((source,), tmp_path / "out", weights, outputs=outputs, **wishes)
    scan(order, make_networks, events.append)
    return events


def outcomes(tmp_path):
    return [read_json(path) for path in sorted((tmp_path / "out").glob("*/*/outcome.json"))]


def reports(tmp_path):
    return [read_json(path) for path in sorted((tmp_path / "out").glob("*/*/report.json"))]


def warned(tmp_path):
    [report] = reports(tmp_path)
    return {warning["slug"]: warning["message"] for warning in report["warnings"]}


def change(folder, spoil):
    for path in sorted(folder.iterdir()):
        dataset = pydicom.dcmread(path)
        spoil(dataset)
        dataset.save_as(path)


def medium(series_folder, to):
    """A medium with the series on it. Returns the folder that the slices lie in."""
    media = FileSet()
    for path in sorted(series_folder.iterdir()):
        media.add(path)
    media.write(to)
    (leaf,) = {path.parent for path in to.rglob("*") if path.is_file() and path.name != "DICOMDIR"}
    return leaf


# Media directories


@pytest.fixture(scope="module")
def thin_series(tmp_path_factory):
    folder = tmp_path_factory.mktemp("thin")
    write_dicom_series(make_phantom(**{**SMALL, "slices": 60}, lesions="moderate", seed=1), folder)
    return folder


@pytest.fixture
def thin_folder(thin_series, tmp_path):
    """Slices of 5 mm, which nothing is to be warned of."""
    return Path(shutil.copytree(thin_series, tmp_path / "thin"))


@pytest.fixture(scope="module")
def plain_regions(phantom_series, tmp_path_factory):
    """What is measured in the series that others are made of."""
    folder = tmp_path_factory.mktemp("plain")
    night(phantom_series, folder)
    return reports(folder)[0]["regions"]


def test_a_media_directory_under_any_name_is_no_image_and_no_problem(thin_folder, tmp_path):
    leaf = medium(thin_folder, tmp_path / "medium")
    shutil.copy(tmp_path / "medium" / "DICOMDIR", leaf / "DIRFILE")
    (tmp_path / "medium" / "DICOMDIR").rename(tmp_path / "medium" / "DICOMDIR;1")
    events = night(tmp_path / "medium", tmp_path, strict=True)
    assert not [event for event in events if event["event"] == "problem"]
    [outcome] = outcomes(tmp_path)
    assert outcome["status"] == "done"
    assert not {"unreadable-beside"} & set(warned(tmp_path))
    found = discover([tmp_path / "medium"])
    assert (len(found.series), found.problems) == (1, ())


def test_a_media_directory_is_moved_with_the_last_of_its_studies(phantom, series_folder, tmp_path):
    shutil.copytree(series_folder, tmp_path / "medium" / "first")
    write_dicom_series(phantom, tmp_path / "medium" / "second")
    change(tmp_path / "medium" / "second", lambda d: setattr(d, "Modality", "MR"))  # refused: it stays
    change(tmp_path / "medium" / "second", lambda d: setattr(d, "StudyInstanceUID", "1.2.3"))
    medium(series_folder, tmp_path / "other")
    shutil.copy(tmp_path / "other" / "DICOMDIR", tmp_path / "medium" / "first" / "DIRFILE")
    shutil.copy(tmp_path / "other" / "DICOMDIR", tmp_path / "medium" / "INDEX")
    night(tmp_path / "medium", tmp_path, move_done=tmp_path / "done")
    assert sorted(path.name for path in (tmp_path / "medium").iterdir()) == ["INDEX", "second"]
    assert (tmp_path / "done" / "first" / "DIRFILE").exists()
    shutil.rmtree(tmp_path / "medium" / "second")
    shutil.move(tmp_path / "done" / "first", tmp_path / "medium" / "first")
    night(tmp_path / "medium", tmp_path, move_done=tmp_path / "done")
    assert (tmp_path / "done" / "INDEX").exists()
    assert not list((tmp_path / "medium").iterdir())


def one_medium(number: int) -> tuple[str, list[SourceFile], SourceFile]:
    """A study of four slices in two folders, and the media directory above them."""
    export = Path(f"/in/ward{number % 3}/export{number}")
    slices = [SourceFile(f"{export}/IMAGES{at % 2}/{at}") for at in range(4)]
    return f"1.{number}", slices, SourceFile(str(export / "DICOMDIR"))


def media_of(count: int) -> Survey:
    found = Survey(media=[SourceFile("/in/ward0/DICOMDIR"), SourceFile("/in/empty/DICOMDIR")])
    for name, slices, directory in map(one_medium, range(count)):
        found.studies[name] = Study(slices, [0] * len(slices))
        found.media.append(directory)
    return found


def test_each_media_directory_goes_with_the_last_of_the_studies_below_it():
    ready = {f"1.{number}" for number in range(6)}
    own = {name: [directory] for name, _, directory in map(one_medium, range(6))}
    assert movable.media_of(media_of(7), ready) == own, "1.6 is below that of the ward, and stays"
    own["1.3"].insert(0, SourceFile("/in/ward0/DICOMDIR"))
    assert movable.media_of(media_of(6), ready) == own


def test_twice_the_media_take_twice_the_work_and_not_four_times():
    def calls(count: int) -> int:
        seen, made = media_of(count), 0

        def counting(frame, event, argument):
            nonlocal made
            made += event in ("call", "c_call")

        sys.setprofile(counting)
        try:
            found = movable.media_of(seen, set(seen.studies))
        finally:
            sys.setprofile(None)
        assert sum(map(len, found.values())) == count + 1
        return made

    assert calls(200) < 2.5 * calls(100)


def test_a_media_directory_given_as_the_source_means_its_medium(series_folder, tmp_path):
    medium(series_folder, tmp_path / "medium")
    (tmp_path / "medium" / "DICOMDIR").rename(tmp_path / "medium" / "dicomdir;1")
    [series] = discover([tmp_path / "medium" / "dicomdir;1"]).series
    assert len(series.instances) == 30


# Objects that are no images


def nameless_object(path, sop_class, modality):
    """A DICOM file of some other kind, without any UID of its own."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = sop_class, pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = ""
    dataset = Dataset()
    dataset.file_meta, dataset.SOPClassUID, dataset.Modality, dataset.SOPInstanceUID = meta, sop_class, modality, ""
    dataset.PatientID, dataset.ContentLabel = "X", "SOMETHING"
    dataset.save_as(path, enforce_file_format=False, implicit_vr=False, little_endian=True)
    path.write_bytes(bytes(128) + b"DICM" + path.read_bytes().removeprefix(bytes(128) + b"DICM"))


def test_reports_states_and_private_objects_without_uids_do_not_warn_of_the_chest(thin_folder, tmp_path):
    kinds = {
        "report.dcm": ("1.2.840.10008.5.1.4.1.1.88.22", "SR"),
        "state.dcm": ("1.2.840.10008.5.1.4.1.1.11.1", "PR"),
        "private.ima": ("1.3.12.2.1107.5.9.1", "CT"),
    }
    for name, (sop_class, modality) in kinds.items():
        nameless_object(thin_folder / name, sop_class, modality)
    night(thin_folder, tmp_path, strict=True)
    [outcome] = outcomes(tmp_path)
    assert outcome["status"] == "done"
    assert "unreadable-beside" not in warned(tmp_path)


def test_what_systems_leave_behind_is_no_image(series_folder, tmp_path):
    slice_ = sorted(series_folder.iterdir())[0]
    fork = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X" + bytes(100)
    for name, contents in {
        "._0001.dcm": fork, "copied 0001.dcm": fork, ".DS_Store": b"\0\0\0\1Bud1", "Thumbs.db": b"\xd0\xcf\x11\xe0",
        "desktop.ini": b"[.ShellClassInfo]", ".hidden.dcm": slice_.read_bytes(),
    }.items():  # fmt: skip
        (series_folder / name).write_bytes(contents)
    (series_folder / "__MACOSX").mkdir()
    (series_folder / "__MACOSX" / "._0001.dcm").write_bytes(fork)
    found = discover([series_folder])
    assert not found.problems
    [series] = found.series
    assert (len(series.instances), series.unreadable_beside, series.twins) == (30, 0, ())


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda contents: contents[: len(contents) // 200], "cut short"),
        (lambda contents: contents.replace(b"\x28\0\x10\0US\2\0", b"\x28\0\x10\0US\3\0"), "Rows"),
    ],
)
def test_a_file_that_cannot_be_read_says_what_is_wrong(spoil, words, series_folder):
    path = sorted(series_folder.iterdir())[3]
    path.write_bytes(spoil(path.read_bytes()))
    [problem] = discover([series_folder]).problems
    assert words in problem.message


# Archives


def test_members_of_one_name_are_two_entries(series_folder, tmp_path):
    """Each folder of an exporter numbered its slices anew, and a tool packed them without the folders."""
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        for path in sorted(series_folder.iterdir()):
            archive.write(path, "slice.dcm")
    [series] = discover([tmp_path / "study.zip"]).series
    assert (len(series.instances), series.twins) == (30, ())
    night(tmp_path / "study.zip", tmp_path)
    [outcome] = outcomes(tmp_path)
    assert outcome["status"] == "done"


def test_entries_with_odd_names_are_what_they_hold(series_folder, tmp_path):
    slices = sorted(series_folder.iterdir())
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for index, name in enumerate(["a\\b\\1.dcm", "Müller 日本.dcm", "x\ny", " ", '?*:|<>".dcm', "../../up.dcm"]):
            archive.write(slices[index], name)
        folder = zipfile.ZipInfo("folder.dcm/")
        archive.writestr(folder, b"")
        unmarked = zipfile.ZipInfo("other.dcm")
        unmarked.external_attr = 0o40755 << 16 | 0x10
        archive.writestr(unmarked, b"")
        archive.writestr("__MACOSX\\._1.dcm", b"\x00\x05\x16\x07")
    (tmp_path / "named.dcm").mkdir()
    for path in slices[6:]:
        shutil.copy(path, tmp_path / "named.dcm")
    found = discover([tmp_path / "study.zip", tmp_path / "named.dcm"])
    assert not found.problems
    [series] = found.series
    assert len(series.instances) == 30


# UIDs


UUIDS = {"StudyInstanceUID": "3f2504e0-4f89-11d3-9a0c-0305e82c3301", "SeriesInstanceUID": "9b2c8a90-aaaa-bbbb-0000-1"}


def without_uids(dataset):
    """As whole public series come."""
    dataset.SOPInstanceUID, dataset.FrameOfReferenceUID = "", ""
    dataset.file_meta.MediaStorageSOPInstanceUID = ""
    for keyword, value in UUIDS.items():
        setattr(dataset, keyword, value)


@pytest.fixture
def nameless(series_folder):
    change(series_folder, without_uids)
    return series_folder


def test_a_series_without_uids_is_done_without_dicom_objects(nameless, tmp_path):
    night(nameless, tmp_path, EVERYTHING)
    [outcome] = outcomes(tmp_path)
    assert outcome["status"] == "done"
    assert set(outcome["files"]) == {"report.json", "report.pdf", "overlay.png", "lungs.nii.gz", "infection.nii.gz"}
    message = warned(tmp_path)["missing-uids"]
    assert "SOPInstanceUID" in message
    assert "StudyInstanceUID" in message
    assert not [defect for verdict in verify(tmp_path / "out", [nameless]) for defect in verdict.defects]


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
def test_no_object_refers_to_what_has_no_valid_uid(keyword, series_folder, tmp_path):
    def spoil(dataset):
        setattr(dataset, keyword, UUIDS["StudyInstanceUID"])
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID

    change(series_folder, spoil)
    night(series_folder, tmp_path, EVERYTHING)
    [outcome] = outcomes(tmp_path)
    assert outcome["status"] == "done"
    assert not any(name.endswith(".dcm") for name in outcome["files"])
    assert keyword in warned(tmp_path)["missing-uids"]


def test_a_frame_of_reference_that_is_no_uid_is_as_good_as_none(series_folder, tmp_path):
    change(series_folder, lambda d: setattr(d, "FrameOfReferenceUID", UUIDS["StudyInstanceUID"]))
    night(series_folder, tmp_path, EVERYTHING)
    [report] = reports(tmp_path)
    assert report["source"]["frame_of_reference_uid"] is None
    assert any(phrase.startswith("FrameOfReferenceUID") for phrase in report["source"]["filled"])
    assert not [defect for verdict in verify(tmp_path / "out", [series_folder]) for defect in verdict.defects]


def test_slices_without_uids_are_known_by_what_they_hold(nameless, tmp_path):
    """A copy is a twin, in a zip too; another name changes nothing; other contents are another slice."""
    shutil.copytree(nameless, tmp_path / "again")
    with zipfile.ZipFile(tmp_path / "packed.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(nameless.iterdir()):
            archive.write(path, path.name)
    [series] = discover([nameless, tmp_path / "again", tmp_path / "packed.zip"]).series
    assert (len(series.instances), len(series.twins)) == (30, 60)
    [alone] = discover([tmp_path / "packed.zip"]).series
    assert alone.content == series.content
    night(nameless, tmp_path)
    events = night(tmp_path / "again", tmp_path)
    assert [event["event"] for event in events if event["event"] in ("skipped", "done")] == ["skipped"]


def test_uids_with_leading_zeros_are_referred_to(series_folder, tmp_path):
    """Forbidden, and common: an archive finds by them what was filed under them."""
    change(series_folder, lambda d: setattr(d, "StudyInstanceUID", "1.2.03.4"))
    night(series_folder, tmp_path)
    [outcome] = outcomes(tmp_path)
    assert "segmentation.seg.dcm" in outcome["files"]
    assert "missing-uids" not in warned(tmp_path)


def given_uids(source, tmp_path, **wishes):
    events = []
    convert(Conversion((source,), tmp_path / "given", "dicom", **wishes), events.append)
    return [event for event in events if event["event"] in ("converted", "kept", "rejected", "failed")]


def test_convert_gives_valid_uids_and_a_scan_then_writes_objects(nameless, plain_regions, tmp_path):
    [event] = given_uids(nameless, tmp_path)
    assert (event["event"], event["to"]) == ("converted", "dicom")
    again = Path(event["path"])
    headers = [pydicom.dcmread(path) for path in sorted(again.iterdir())]
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        [uid] = {header[keyword].value for header in headers}
        assert uid.startswith("2.25.")
        assert uid.is_valid
    assert len({header.SOPInstanceUID for header in headers}) == 30
    night(again, tmp_path, EVERYTHING)
    [report] = reports(tmp_path)
    assert report["regions"] == plain_regions
    [outcome] = outcomes(tmp_path)
    assert "segmentation.seg.dcm" in outcome["files"]
    verdicts = verify(tmp_path / "out", [again], installed_judges())
    assert not [defect for verdict in verdicts for defect in verdict.defects]


def test_given_uids_are_always_the_same_and_a_late_slice_joins_its_series(nameless, tmp_path):
    late = sorted(nameless.iterdir())[-1]
    late.rename(tmp_path / "late.dcm")
    [first] = given_uids(nameless, tmp_path)
    there = {path.name for path in Path(first["path"]).iterdir()}
    [kept] = given_uids(nameless, tmp_path)
    assert kept["event"] == "kept"
    (tmp_path / "late.dcm").rename(late)
    [second] = given_uids(nameless, tmp_path)
    assert (second["event"], second["path"]) == ("converted", first["path"])
    assert there < {path.name for path in Path(second["path"]).iterdir()}


def test_what_is_missing_is_no_reason_to_refuse_to_give_it(thin_folder, tmp_path):
    change(thin_folder, without_uids)
    [event] = given_uids(thin_folder, tmp_path, strict=True)
    assert event["event"] == "converted"


def test_a_series_with_uids_is_dicom_already(series_folder, tmp_path):
    assert not given_uids(series_folder, tmp_path)


@pytest.mark.parametrize("uid", [DEFLATED, EXPLICIT_BIG_ENDIAN, IMPLICIT_LITTLE_ENDIAN, "1.2.840.10008.1.2.4.90"])
def test_uids_are_given_in_every_encoding(uid, series_folder, tmp_path):
    rewrite(series_folder, uid)
    change(series_folder, without_uids)
    [event] = given_uids(series_folder, tmp_path)
    [before] = discover([series_folder]).series
    [after] = discover([Path(event["path"])]).series
    assert after.can_be_referred_to
    assert {i.transfer_syntax_uid for i in after.instances} == {uid}
    assert np.array_equal(load_dicom(after).volume.array, load_dicom(before).volume.array)


# Decimal commas


def raw(keyword, vr, value):
    return RawDataElement(Tag(keyword), vr, len(value), value, 0, False, True)


COMMAS = {
    "PixelSpacing": b"3,0\\3,000 ",
    "RescaleSlope": b"1,0 ",
    "SliceThickness": b"10,0",
    "RescaleIntercept": b"-1024,000 ",
}


@pytest.mark.parametrize("keyword", COMMAS)
def test_a_decimal_comma_is_read_as_meant_and_noted(keyword, series_folder, plain_regions, tmp_path):
    change(series_folder, lambda d: d.__setitem__(Tag(keyword), raw(keyword, "DS", COMMAS[keyword])))
    night(series_folder, tmp_path, EVERYTHING)
    [report] = reports(tmp_path)
    assert report["regions"] == plain_regions
    assert keyword in warned(tmp_path)["decimal-comma"]
    assert not [defect for verdict in verify(tmp_path / "out", [series_folder]) for defect in verdict.defects]


def test_a_comma_that_may_stand_between_thousands_is_refused_with_the_value(series_folder, tmp_path):
    change(series_folder, lambda d: d.__setitem__(Tag("RescaleIntercept"), raw("RescaleIntercept", "DS", b"-1,024")))
    night(series_folder, tmp_path)
    [outcome] = outcomes(tmp_path)
    assert (outcome["status"], outcome["slug"]) == ("rejected", "decimal-comma")
    assert "-1,024" in outcome["message"]


def test_a_comma_between_two_values_is_no_decimal_comma(series_folder):
    change(series_folder, lambda d: d.__setitem__(Tag("PixelSpacing"), raw("PixelSpacing", "DS", b"3,3 ")))
    [series] = discover([series_folder]).series
    assert series.instances[0].pixel_spacing is None
