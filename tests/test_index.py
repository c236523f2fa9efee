"""The index of headers: never wrong, never needed, and no patient in it."""

import os
import shutil
import sqlite3
import stat
import time
from dataclasses import astuple, replace

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from covct.dicom.header import read_header
from covct.dicom.patient import Patient
from covct.disk.sources import SourceFile
from covct.intake import choice
from covct.intake.discover import discover, read_facts
from covct.unattended import index, sealed
from covct.unattended.inbox import survey
from support.batches import later
from support.multiframe import write_enhanced
from support.series import change


def look(folder, database, now_ns=later):
    """One run: the studies, with what every file of them says."""
    with index.open_index(database, now_ns) as opened:
        seen = survey([folder], None, opened)
        facts = [opened.facts_of(file) for study in seen.studies.values() for file in study.files]
        return sorted(seen.studies), facts, seen


def test_a_second_run_reads_no_file(four_slices, index_file, files_read):
    first = look(four_slices, index_file)
    assert len(files_read) == 4
    assert look(four_slices, index_file)[:2] == first[:2]
    assert len(files_read) == 4


def test_a_second_look_of_one_run_reads_no_file(four_slices, index_file, files_read):
    with index.open_index(index_file, later) as opened:
        for _ in range(3):
            survey([four_slices], None, opened)
            opened.sweep()
    assert len(files_read) == 4


def test_what_is_recalled_is_what_the_header_says(four_slices, index_file):
    look(four_slices, index_file)
    for facts in look(four_slices, index_file)[1]:
        [instance] = facts.instances
        read = read_header(instance.file)
        words = choice.telling_words(read.instances[0].body_part, read.instances[0].comment)
        expected = replace(read.instances[0], body_part=words[0], comment=words[1])
        assert facts == replace(read, instances=(expected,))


def test_frames_of_a_multi_frame_instance_are_recalled(four_slices, index_file, tmp_path):
    write_enhanced(four_slices, tmp_path / "enhanced.dcm")
    first = look(tmp_path / "enhanced.dcm", index_file)
    assert len(first[1][0].instances) == 4
    assert look(tmp_path / "enhanced.dcm", index_file)[:2] == first[:2]


def test_members_of_an_archive_are_not_read_again(four_slices, index_file, files_read, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "a"), "zip", four_slices)
    first = look(tmp_path / "a.zip", index_file)
    assert (len(first[1]), len(files_read)) == (4, 4)
    assert look(tmp_path / "a.zip", index_file)[:2] == first[:2]
    assert len(files_read) == 4
    os.utime(archive, ns=(1, 1))
    look(tmp_path / "a.zip", index_file)
    assert len(files_read) == 8


def test_a_nifti_is_hashed_once_and_junk_sniffed_once(index_file, files_read, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.nii").write_bytes(b"some volume")
    (tmp_path / "in" / "junk").write_bytes(b"no image")
    first = look(tmp_path / "in", index_file)
    assert first[0][0].startswith("nifti-")
    assert look(tmp_path / "in", index_file)[0] == first[0]
    assert sorted(files_read) == ["a.nii", "junk"]


@pytest.mark.parametrize("kept", ["nothing", "modification time", "modification time and size"])
def test_a_changed_file_is_read_again(four_slices, index_file, files_read, kept):
    """A corrected slice that was copied over the old one with its times: only the change time tells."""
    look(four_slices, index_file)
    path = sorted(four_slices.iterdir())[0]
    before = path.stat()
    dataset = pydicom.dcmread(path)
    dataset.SeriesInstanceUID = dataset.SeriesInstanceUID[:-1] + str((int(dataset.SeriesInstanceUID[-1]) + 1) % 10)
    if kept != "modification time and size":
        dataset.ImageComments = "longer"
    dataset.save_as(path)
    if kept != "nothing":
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size == before.st_size) == (kept == "modification time and size")
    facts = look(four_slices, index_file)[1]
    assert files_read[4:] == [path.name]
    assert len({header.series_uid for header in facts}) == 2


def test_what_changed_a_moment_ago_is_not_relied_on(four_slices, index_file, files_read):
    """It may change again within the tick of its time stamp."""
    first = look(four_slices, index_file, time.time_ns)
    assert look(four_slices, index_file, time.time_ns)[:2] == first[:2]
    assert len(files_read) == 8, "once a run, for study and facts together"


def test_a_file_that_cannot_be_read_is_asked_again(four_slices, index_file, files_read):
    """A mode or a network may change where the file does not."""
    broken = four_slices / "broken.dcm"
    broken.write_bytes(b"no DICOM")
    for _ in range(2):
        assert [problem.label for problem in look(four_slices, index_file)[2].problems] == [str(broken)]
    assert files_read.count("broken.dcm") == 2


def test_a_file_that_vanishes_after_it_was_listed_is_no_problem(four_slices, index_file, monkeypatch):
    victim = sorted(four_slices.iterdir())[2]

    def vanishing(file, *opener):
        victim.unlink(missing_ok=True)
        return read_facts(file, *opener)

    monkeypatch.setattr(index, "read_facts", vanishing)
    _, facts, seen = look(four_slices, index_file)
    assert len(facts) == 3
    assert not seen.problems


def damage_text(path):
    path.write_text("no database")


def damage_middle(path):
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 3 :] = os.urandom(len(contents) - len(contents) // 3)
    path.write_bytes(bytes(contents))


def damage_rows(path):
    """As a torn write may leave it: a good database with another file's facts."""
    database = sqlite3.connect(path)
    rows = database.execute("SELECT key, facts FROM files ORDER BY key").fetchall()
    for (key, _), (_, facts) in zip(rows, rows[1:] + rows[:1], strict=True):
        database.execute("UPDATE files SET facts = ? WHERE key = ?", (facts, key))
    database.commit()
    database.close()


def damage_shared(path):
    database = sqlite3.connect(path)
    database.execute("UPDATE shared SET facts = replace(facts, 'CT', 'MR')")
    database.commit()
    database.close()


def lose_shared(path):
    database = sqlite3.connect(path)
    database.execute("DELETE FROM shared")
    database.commit()
    database.close()


def another_version(path):
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 12345")
    database.close()


def become_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "damage",
    [damage_text, damage_middle, damage_rows, damage_shared, lose_shared, another_version, become_folder, os.unlink],
)
def test_a_damaged_index_is_built_again(four_slices, index_file, files_read, damage):
    first = look(four_slices, index_file)
    damage(index_file)
    assert look(four_slices, index_file)[:2] == first[:2]
    again = len(files_read)
    assert again > 4
    if damage is not become_folder:
        look(four_slices, index_file)
        assert len(files_read) == again, "the new one serves"


def test_an_index_that_is_damaged_under_way_does_no_harm(four_slices, index_file):
    first = look(four_slices, index_file)
    with index.open_index(index_file, later) as opened:
        seen = survey([four_slices], None, opened)
        damage_text(index_file)
        facts = [opened.facts_of(file) for study in seen.studies.values() for file in study.files]
    assert facts == first[1]


def test_an_index_that_cannot_be_written_is_kept_in_memory(four_slices, files_read, tmp_path):
    (tmp_path / "file").write_text("")
    assert len(look(four_slices, tmp_path / "file" / "index.sqlite")[1]) == 4
    assert len(files_read) == 4, "also then once a run"


def fill_up(opened):
    """A full disk: the database may not grow by a page."""
    [pages] = opened._database.execute("PRAGMA page_count").fetchone()
    opened._database.execute(f"PRAGMA max_page_count = {pages}")


def test_a_full_disk_of_one_night_leaves_the_index_to_the_next(four_slices, index_file, files_read, monkeypatch):
    monkeypatch.setattr(index, "ROWS_A_COMMIT", 1)
    first = look(four_slices, index_file)
    more = shutil.copytree(four_slices, four_slices / "more")
    for number in range(60):
        shutil.copy2(more / sorted(os.listdir(four_slices))[0], more / f"copy {number}.dcm")
    with index.open_index(index_file, later) as opened, monkeypatch.context() as patch:
        fill_up(opened)
        patch.setattr(
            index, "_opened", lambda _, key: index._connected(":memory:", key)
        )  # nor is there room for another
        seen = survey([four_slices], None, opened)
        assert sum(len(study.files) for study in seen.studies.values()) == 68, "the night goes on"
        facts = [opened.facts_of(file) for study in seen.studies.values() for file in study.files]
        assert len(facts) == 68
    shutil.rmtree(more)
    files_read.clear()
    assert look(four_slices, index_file)[:2] == first[:2]
    assert not files_read


@pytest.mark.parametrize("moment", ["opened", "read"])
@pytest.mark.parametrize(
    "name", ["SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_NOMEM"]
)
def test_a_failing_disk_leaves_the_index_to_the_next_night(
    four_slices, index_file, files_read, monkeypatch, moment, name
):
    first = look(four_slices, index_file)
    error = sqlite3.OperationalError(name)
    error.sqlite_errorcode = getattr(sqlite3, name)

    def failing(*_):
        raise error

    with monkeypatch.context() as patch:
        if moment == "opened":
            connect = sqlite3.connect
            patch.setattr(
                index.sqlite3, "connect", lambda path, **k: connect(path) if path == ":memory:" else failing()
            )
        else:
            patch.setattr(index.Index, "_load", failing)
            patch.setattr(index.Index, "_recalled", failing)
        assert look(four_slices, index_file)[1] == first[1]
    files_read.clear()
    assert look(four_slices, index_file)[:2] == first[:2]
    assert not files_read


def test_an_index_whose_file_may_not_be_touched_stays(four_slices, index_file, monkeypatch):
    first = look(four_slices, index_file)
    monkeypatch.setattr(index.Path, "touch", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    assert look(four_slices, index_file)[:2] == first[:2]
    assert index_file.stat().st_size


def test_files_that_were_not_met_for_long_are_forgotten(four_slices, index_file, files_read):
    look(four_slices, index_file)
    with index.open_index(index_file, lambda: time.time_ns() + 40 * index.DAY_NS):
        pass
    look(four_slices, index_file)
    assert len(files_read) == 8


def test_files_met_every_day_are_kept(four_slices, index_file, files_read):
    for day in range(0, 80, 20):
        with index.open_index(index_file, lambda day=day: later() + day * index.DAY_NS) as opened:
            survey([four_slices], None, opened)
    assert len(files_read) == 4


def test_a_watch_that_runs_for_months_keeps_what_is_there_and_forgets_the_rest(four_slices, index_file, files_read):
    day = 0
    with index.open_index(index_file, lambda: later() + day * index.DAY_NS) as opened:
        for day in range(0, 80, 20):
            survey([four_slices], None, opened)
            opened.sweep()
            if not day:
                sorted(four_slices.iterdir())[0].unlink()
        assert len(survey([four_slices], None, opened).studies) == 1
    assert len(files_read) == 4
    rows = sqlite3.connect(index_file).execute("SELECT count(*) FROM files").fetchone()
    assert rows == (3,)


def test_no_patient_in_the_index(four_slices, index_file, tmp_path):
    """It lies in the output tree. Paths and free text of old exports hold names."""
    change(
        four_slices, PatientName="Planted^Name", PatientID="PLANTED", SeriesDescription="Planted chest 5mm",
        ImageComments="PLANTED exp.", BodyPartExamined="CHEST",
    )  # fmt: skip
    four_slices.rename(tmp_path / "PLANTED")
    _, facts, _ = look(tmp_path / "PLANTED", index_file)
    assert b"planted" not in index_file.read_bytes().lower()
    assert {(i.body_part, i.comment) for header in facts for i in header.instances} == {("CHEST", "EXP")}


def test_no_value_of_the_patient_can_be_tried_on_the_index(four_slices, index_file):
    """There are 40,000 birth dates: an unkeyed digest of one tells it."""
    change(four_slices, PatientName="Doe^Jane", PatientID="4711", PatientBirthDate="19500101", PatientSex="F")
    _, facts, _ = look(four_slices, index_file)
    patient = facts[0].instances[0].patient
    stored = index_file.read_bytes()
    assert patient.is_named and patient == read_header(facts[0].instances[0].file).instances[0].patient
    assert not [word for value in astuple(patient) for word in value.split() if word.encode() in stored]
    assert stat.S_IMODE(index_file.stat().st_mode) == 0o600


@pytest.mark.parametrize("key", ["another", "one that is too short"])
def test_an_index_under_another_key_is_built_again(four_slices, index_file, files_read, key):
    first = look(four_slices, index_file)
    path = index_file.with_name("identifier-key")
    path.write_text("7" * (64 if key == "another" else 5))
    assert look(four_slices, index_file)[:2] == first[:2]
    assert len(files_read) == 8
    look(four_slices, index_file)
    assert len(files_read) == (8 if key == "another" else 12), "a key of one run serves no other"


@given(st.lists(st.text(), max_size=5), st.binary(min_size=32, max_size=32))
def test_what_is_sealed_is_opened_by_its_key(values, key):
    text = sealed.sealed(tuple(values), key)
    assert sealed.unsealed(text, key) == Patient(*values)


@given(
    st.lists(st.sampled_from(["CHEST", "HEAD", "X", " ", "EXP", "THORAX", "ABDOMEN", "EXSPIRATION", "MEIER", "CAP"])),
    st.text(),
)
def test_the_words_that_are_kept_decide_as_the_whole_text_does(words, text):
    whole = "".join(words) + text.upper()
    part, comment = choice.telling_words(whole, whole)
    for pattern in (choice.OTHER_PARTS, choice.CHEST_PARTS):
        assert bool(pattern.search(part)) == bool(pattern.search(whole))
    assert bool(choice.EXPIRATION.search(comment)) == bool(choice.EXPIRATION.search(whole))


def test_a_survey_finds_the_studies_that_discover_finds(four_slices, index_file, tmp_path):
    (tmp_path / "in" / "a.nii").write_bytes(b"some volume")
    change_one = shutil.copytree(four_slices, tmp_path / "in" / "deep")
    (change_one / "a.nii").unlink()
    change(change_one, StudyInstanceUID="", SOPInstanceUID=lambda i: f"1.2.3.{i}")
    assert look(tmp_path / "in", index_file)[0] == sorted({s.study_folder for s in discover([tmp_path / "in"]).series})


def test_what_came_of_a_study_is_known_for_the_same_files_and_wishes_only(index_file):
    with index.open_index(index_file) as opened:
        opened.finish("1.2", 7, "seg", [["1.2/1.3", "key"]])
    with index.open_index(index_file) as opened:
        assert opened.finished("1.2", 7, "seg") == [["1.2/1.3", "key"]]
        for other in [("1.3", 7, "seg"), ("1.2", 8, "seg"), ("1.2", 7, "png")]:
            assert opened.finished(*other) is None


def test_a_file_is_still_the_same_only_while_it_is(four_slices, index_file):
    file = SourceFile(str(sorted(four_slices.iterdir())[0]))
    with index.open_index(index_file, later) as opened:
        opened.study_of(file)
        assert opened.still(file)
        with open(file.path, "ab") as stream:
            stream.write(b"more")
        assert not opened.still(file)
        file.path.unlink()
        os.mkfifo(file.path)
        assert not opened.still(file), "and nobody waits for a writer"
