"""Which series are found, which is chosen, and why not the others."""

import os
import shutil
import zipfile

import pydicom
import pytest

from covct.intake.choice import choose, is_lung_kernel
from covct.intake.discover import discover
from covct.intake.gate import check_headers
from support.series import change


def test_one_series_in_nested_folders(series_folder, tmp_path):
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    shutil.move(series_folder, deep / "c")
    [series] = discover([tmp_path / "a"]).series
    assert len(series.instances) == 30


def test_a_zip_is_read_like_a_folder(series_folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "series.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in series_folder.iterdir():
            archive.write(path, f"deep/{path.name}")
    from_folder, from_zip = discover([series_folder]).series[0], discover([tmp_path / "series.zip"]).series[0]
    assert from_zip.content == from_folder.content
    assert [from_zip.study_uid, from_zip.series_uid] == [from_folder.study_uid, from_folder.series_uid]


def test_every_file_twice_is_one_series_with_a_note(series_folder, tmp_path):
    shutil.copytree(series_folder, tmp_path / "again")
    [series] = discover([series_folder, tmp_path / "again"]).series
    assert len(series.instances) == 30
    assert len(series.twins) == 30


def test_two_acquisitions_in_one_series_are_two_candidates(series_folder, tmp_path):
    second = shutil.copytree(series_folder, tmp_path / "second")
    change(series_folder, AcquisitionNumber=1)
    change(second, AcquisitionNumber=2, SOPInstanceUID=lambda i: f"1.2.3.{i + 1}")
    first, other = discover([series_folder, second]).series
    assert {len(first.instances), len(other.instances)} == {30}
    assert first.folder.endswith("-1")
    assert other.folder.endswith("-2")


def test_thin_lung_kernel_is_chosen_before_thick_soft_kernel(series_folder, tmp_path):
    soft = shutil.copytree(series_folder, tmp_path / "soft")
    change(series_folder, ConvolutionKernel="B60f", SliceThickness=1.0)
    change(
        soft,
        ConvolutionKernel="B30f",
        SliceThickness=5.0,
        SeriesInstanceUID="1.2.3",
        SOPInstanceUID=lambda i: f"1.9.{i}",
    )
    choice = choose(list(discover([series_folder, soft]).series), check_headers)
    assert choice.chosen.instances[0].kernel == "B60f"
    assert "kernel B60f (lung)" in choice.reasons
    [(left, slug, _)] = choice.left_out
    assert (left.series_uid, slug) == ("1.2.3", "not-chosen")


def test_localizer_in_the_study_is_left_out_with_its_reason(series_folder, tmp_path):
    scout = tmp_path / "scout"
    scout.mkdir()
    shutil.copy(sorted(series_folder.iterdir())[0], scout / "scout.dcm")
    change(scout, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], SeriesInstanceUID="1.2.3", SOPInstanceUID="1.2.3.4")
    choice = choose(list(discover([series_folder, scout]).series), check_headers)
    assert len(choice.chosen.instances) == 30
    assert [slug for _, slug, _ in choice.left_out] == ["localizer"]


def test_files_without_preamble_and_suffix_are_found(series_folder):
    for path in list(series_folder.iterdir()):
        path.with_suffix("").write_bytes(path.read_bytes()[132:])
        path.unlink()
    [series] = discover([series_folder]).series
    assert len(series.instances) == 30


def test_junk_is_ignored_and_broken_dicom_is_named(series_folder):
    (series_folder / "notes.txt").write_text("no image")
    (series_folder / "empty").write_bytes(b"")
    (series_folder / "zero.dcm").write_bytes(b"")
    (series_folder / "cut.dcm").write_bytes(sorted(series_folder.glob("*.dcm"))[0].read_bytes()[:200])
    found = discover([series_folder])
    assert len(found.series) == 1
    assert {os.path.basename(problem.label) for problem in found.problems} == {"zero.dcm", "cut.dcm"}
    assert found.ignored == 2


def test_symlink_loop_fifo_and_hidden_files_do_no_harm(series_folder):
    (series_folder / "loop").symlink_to(series_folder)
    os.mkfifo(series_folder / "pipe")
    (series_folder / ".hidden").write_bytes(b"DICM")
    found = discover([series_folder])
    assert len(found.series[0].instances) == 30
    assert not found.problems


def test_zip_bomb_is_refused_unread(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.dcm", bytes(64 * 1024**2))
    [problem] = discover([tmp_path]).problems
    assert "zip bomb" in problem.message


def test_damaged_zip_is_named(tmp_path):
    (tmp_path / "half.zip").write_bytes(b"PK\x03\x04 cut short")
    [problem] = discover([tmp_path]).problems
    assert problem.slug == "unreadable"
    assert "half.zip" in problem.label


def test_uids_that_are_no_uids_never_become_paths(series_folder):
    change(series_folder, StudyInstanceUID="../../etc", SeriesInstanceUID="..")
    [series] = discover([series_folder]).series
    assert ".." not in series.folder
    assert all(part.startswith("uid-") for part in series.folder.split("/"))


def test_output_tree_inside_the_source_is_not_entered(series_folder):
    out = series_folder / "out"
    shutil.copytree(series_folder, out, ignore=shutil.ignore_patterns("out"))
    [series] = discover([series_folder], avoid=out).series
    assert not series.twins


@pytest.mark.parametrize("kernel", ["LUNG", "B60f", "Br59", "FC51", "L", "BL57"])
def test_lung_kernels(kernel):
    assert is_lung_kernel(kernel)


@pytest.mark.parametrize("kernel", ["STANDARD", "B30f", "FC17", "SOFT", "Br38f", "", "B"])
def test_soft_kernels(kernel):
    assert not is_lung_kernel(kernel)


def with_sequence(folder):
    """A header like a scanner's, with a sequence of undefined length before the pixels."""
    path = sorted(folder.iterdir())[0]
    dataset = pydicom.dcmread(path)
    item = pydicom.Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "99TEST", "test"
    dataset.ProcedureCodeSequence = [item]
    dataset["ProcedureCodeSequence"].is_undefined_length = True
    dataset.save_as(path)
    return path


def test_a_file_cut_anywhere_never_ends_the_night(series_folder):
    path = with_sequence(series_folder)
    whole = path.read_bytes()
    end = len(whole) - 128 * 128 * 2
    for cut in range(0, end, 7):
        path.write_bytes(whole[:cut])
        found = discover([path])
        assert len(found.series) + len(found.problems) + found.ignored == 1


def test_a_slice_cut_before_its_pixels_is_no_slice(series_folder):
    """Half copied: a UID in the middle founds a study that never was, and a slice without a place has its series
    rejected, under the key that it has when the slice is whole."""
    path = sorted(series_folder.iterdir())[4]
    whole = path.read_bytes()
    for cut in range(140, len(whole) - 128 * 128 * 2, 11):
        path.write_bytes(whole[:cut])
        found = discover([path])
        assert not found.series, cut
        assert [problem.slug for problem in found.problems] == ["unreadable"]


@pytest.mark.parametrize("value", ["nan", "inf", "abc", ""])
def test_numbers_that_are_none(series_folder, value):
    path = sorted(series_folder.iterdir())[0]
    dataset = pydicom.dcmread(path)
    with pydicom.config.disable_value_validation():
        for keyword in ("AcquisitionNumber", "InstanceNumber", "SliceThickness"):
            dataset.add_new(keyword, "LO", value)
    dataset.save_as(path)
    assert len(discover([series_folder]).series) == 1


def test_header_longer_than_the_first_read(series_folder):
    for path in series_folder.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.add_new(0x00091010, "OB", bytes(100_000))
        dataset.save_as(path)
    [series] = discover([series_folder]).series
    assert series.instances[0].shape == (128, 128)


def test_latin_1_file_names(series_folder):
    folder = os.fsencode(series_folder)
    os.rename(os.fsencode(sorted(series_folder.iterdir())[0]), os.path.join(folder, b"M\xfcller.dcm"))
    with open(os.path.join(folder, b"kaputt-\xfc.dcm"), "wb") as file:
        file.write(b"no dicom")
    found = discover([series_folder])
    assert len(found.series[0].instances) == 30
    assert found.problems[0].label.encode("utf-8")


def test_a_damaged_member_is_named_and_the_rest_is_read(series_folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(series_folder.iterdir()):
            archive.write(path, path.name)
        offset = archive.infolist()[-1].header_offset + 60
    contents = bytearray((tmp_path / "a.zip").read_bytes())
    contents[offset : offset + 40] = b"\xff" * 40
    (tmp_path / "a.zip").write_bytes(bytes(contents))
    found = discover([tmp_path / "a.zip"])
    assert len(found.series[0].instances) == 29
    assert len(found.problems) == 1
    assert found.series[0].unreadable_beside == 1


def test_one_slice_sent_again_does_not_tear_a_series_into_rotations(series_folder):
    change(series_folder, AcquisitionNumber=lambda i: 1 + i // 12)
    twin = pydicom.dcmread(sorted(series_folder.iterdir())[3])
    twin.SOPInstanceUID = twin.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    twin.save_as(series_folder / "twin.dcm")
    [series] = discover([series_folder]).series
    assert len(series.instances) == 31
