"""What is not read is named once for each kind, with what would be; a source of which nothing is read ends with 3."""

import gzip
import shutil
import zipfile
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from covct.cli import app
from covct.intake.discover import discover
from covct.intake.nifti import write_nifti
from covct.unattended import batch
from covct.unattended.convert_event import ConvertEvent
from support.batches import never, run
from support.events import events_in

pytestmark = pytest.mark.slow

PROBLEMS = ("not-read", "nothing-read")


def problems(found):
    return {problem.label: (problem.slug, problem.message) for problem in found.problems}


@pytest.fixture
def unread(inbox, phantom_series):
    """Three studies, and what nobody reads: archives, compressed slices, Analyze, an archive within one."""
    aside = inbox / "e"
    aside.mkdir()
    for path in sorted(phantom_series.iterdir())[:5]:
        (aside / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    shutil.make_archive(str(aside / "study"), "gztar", phantom_series)
    for name in ("chest.hdr", "chest.img", "Other.HDR", "brain.mgz"):
        (aside / name).write_bytes(bytes(348))
    shutil.make_archive(str(inbox.parent / "inner"), "zip", phantom_series)
    with zipfile.ZipFile(aside / "outer.zip", "w") as archive:
        archive.write(inbox.parent / "inner.zip", "deep/inner.zip")
    return inbox


def test_each_kind_is_named_once_with_its_count_and_what_to_do(unread):
    told = problems(discover([unread]))
    counts = {label: message.split()[0] for label, (_, message) in told.items()}
    assert counts == {
        "*.dcm.gz": "5", "*.tar.gz": "one", "*.hdr": "2", "*.img": "one", "*.mgz": "one", "*.zip within .zip": "one"
    }  # fmt: skip
    assert all(slug == "not-read" and "wanted DICOM" in message for slug, message in told.values())
    assert "unpack" in told["*.tar.gz"][1] and "NIfTI" in told["*.img"][1]


def test_the_studies_beside_are_done(unread, order, networks):
    tally, events = run(order, networks)
    assert tally["done"] == 3
    assert len([event for event in events if event["event"] == "problem"]) == 6
    assert run(order, never)[0]["done before"] == 3


def test_watch_says_it_once(unread, order, networks):
    events = []
    told = replace(order)
    from covct.errors import Stopped
    from support.batches import Clock

    clock = Clock([None] * 8)
    with pytest.raises(Stopped):
        batch.watch(told, lambda: networks, events.append, 25, 10, clock.sleep, lambda: clock.now)
    assert len([event for event in events if event["event"] == "problem"]) == 6


def test_dicom_is_read_under_any_name(inbox):
    for index, path in enumerate(sorted((inbox / "a").iterdir())):
        path.rename(path.with_suffix((".img", ".hdr", ".rec", ".z")[index % 4]))
    found = discover([inbox])
    assert (len(found.series), found.problems) == (3, ())


def test_voxels_of_a_detached_header_are_not_named(phantom, tmp_path):
    import SimpleITK as sitk

    from support.volumes import as_itk

    (tmp_path / "in").mkdir()
    sitk.WriteImage(as_itk(phantom.volume), str(tmp_path / "in" / "a.nhdr"), useCompression=True)
    assert (tmp_path / "in" / "a.raw.gz").exists()
    found = discover([tmp_path / "in"])
    assert (len(found.series), found.problems) == (1, ())


def test_an_archive_that_holds_another_is_not_moved(inbox, order, networks, tmp_path):
    shutil.make_archive(str(tmp_path / "inner"), "zip", inbox / "a")
    with zipfile.ZipFile(inbox / "both.zip", "w") as archive:
        archive.write(tmp_path / "inner.zip", "inner.zip")
        for path in (inbox / "b").iterdir():
            archive.write(path, f"b/{path.name}")
    shutil.rmtree(inbox / "b")
    run(replace(order, move_done=tmp_path / "moved"), networks)
    assert (inbox / "both.zip").exists()
    assert not (inbox / "a").exists()


# Sources of which nothing is read


def scanned(sources, order, *options):
    where = ["--out", str(order.out), "--weights", str(order.weights)]
    return CliRunner().invoke(app, ["scan", *map(str, sources), *where, "--formats", "seg", *options])


def empty(folder):
    pass


def hidden(folder):
    (folder / ".DS_Store").write_bytes(b"x")


def a_marker(folder):
    (folder / "READY.txt").write_text("ready")


def half_copied(folder):
    (folder / "a.dcm.part").write_bytes(b"x")


def a_dose_report(folder):
    (folder / "report.dcm").write_bytes(bytes(128) + b"DICM" + b"\x02\x00\x10\x00UI\x14\x001.2.840.10008.1.2.1\x00")
    import pydicom
    from pydicom.dataset import Dataset, FileMetaDataset

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.67"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.Modality, dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "SR", "1.2", "1.2.1"
    pydicom.dcmwrite(folder / "report.dcm", dataset, enforce_file_format=True)


LEFT_OF_A_CD = ("Thumbs.db", "AUTORUN.INF", "viewer.exe", "lib/View.DLL", "README", "ReadMe.1st", "help/index.htm",
                "help/style.css", "help/logo.gif", "desktop.ini")  # fmt: skip


def a_viewer(folder):
    for name in LEFT_OF_A_CD:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")


@pytest.mark.parametrize("holding", [empty, hidden, a_marker, half_copied, a_dose_report, a_viewer])
def test_an_inbox_that_has_nothing_new_is_no_fault(holding, tmp_path, order, networks):
    folder = tmp_path / "quiet"
    folder.mkdir()
    holding(folder)
    tally, events = run(replace(order, sources=(folder,)), networks)
    assert tally[batch.SOURCES_NOT_READ] == 0
    assert not [event for event in events if event.get("slug") == "nothing-read"]


def an_archive(folder):
    (folder / "study.tar.gz").write_bytes(b"x")


def something_else(folder):
    for index in range(300):
        (folder / f"{index}.dat").write_bytes(b"x")


def broken_dicom(folder):
    (folder / "a.dcm").write_bytes(b"x")


def a_broken_archive(folder):
    (folder / "a.zip").write_bytes(b"PK x")


@pytest.mark.parametrize("holding", [an_archive, something_else, broken_dicom, a_broken_archive])
def test_a_source_of_which_nothing_is_read_ends_with_3(holding, tmp_path, inbox, order, networks):
    folder = tmp_path / "wrong"
    folder.mkdir()
    holding(folder)
    tally, events = run(replace(order, sources=(folder, inbox)), networks)
    assert (tally["done"], tally[batch.SOURCES_NOT_READ]) == (3, 1)
    [event] = [event for event in events if event.get("slug") == "nothing-read"]
    assert event["file"] == str(folder)
    assert event["message"].startswith("it contains files, but none of them")
    result = scanned([folder, inbox], order, "--json")
    assert result.exit_code == 3
    assert scanned([inbox], order, "--json").exit_code == 0
    assert scanned([folder], order, "--dry-run").exit_code == 3


def test_the_nights_after_a_cd_was_moved_away_are_quiet(inbox, order, networks, tmp_path):
    """Its viewer stays, and held every later night to have read nothing."""
    a_viewer(inbox)
    moving = replace(order, move_done=tmp_path / "moved")
    assert run(moving, networks)[0]["done"] == 3
    assert len([path for path in inbox.rglob("*") if path.is_file()]) == len(LEFT_OF_A_CD)
    tally, events = run(moving, never)
    assert tally[batch.SOURCES_NOT_READ] == 0
    assert not [event for event in events if event.get("slug") == "nothing-read"]
    (inbox / "README.tar.gz").write_bytes(b"x")
    assert run(moving, never)[0][batch.SOURCES_NOT_READ] == 1, "which may hold images"


def test_a_file_that_is_no_image_named_as_a_source(tmp_path, order):
    for name in ("notes.txt", "picture.png", "half.dcm.part", "a.raw", "viewer.exe"):
        (tmp_path / name).write_bytes(b"x")
        assert scanned([tmp_path / name], order, "--dry-run").exit_code == 3


def test_conversion_of_nothing_ends_with_3(tmp_path, phantom):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "study.7z").write_bytes(b"x")
    asked = ["convert", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--json"]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 3
    slugs = [event.get("slug") for event in events_in(result.stdout, ConvertEvent) if event["event"] == "problem"]
    assert slugs == list(PROBLEMS)
    write_nifti(phantom.volume, tmp_path / "in" / "a.nii.gz")
    assert CliRunner().invoke(app, asked).exit_code == 0
    assert CliRunner().invoke(app, [*asked, "--strict"]).exit_code == 3


def test_a_source_within_another_is_read_with_it(inbox, order):
    assert scanned([inbox, inbox / "a", inbox], order, "--dry-run").exit_code == 0
