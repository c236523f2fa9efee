"""An inbox over many looks and runs: nothing read twice, nothing written into it, what is done moved away."""

import inspect
import os
import shutil
from dataclasses import replace

import pydicom
import pytest

from covct.disk.outcome import read_outcome
from covct.errors import Stopped
from covct.outputs import Outputs
from covct.unattended import batch, index, plan
from support.batches import Clock, never, run, watched
from support.running import read_json
from support.series import change

pytestmark = pytest.mark.slow


def snapshot(root):
    """Names, sizes and times of everything, folders too."""
    return {
        str(path.relative_to(root)): (found.st_size if path.is_file() else 0, found.st_mtime_ns, found.st_mode)
        for path in [root, *root.rglob("*")]
        for found in [path.lstat()]
    }


def test_sources_are_never_written_to(order, inbox, networks):
    (inbox / "a" / "x.dcm.part").write_bytes(b"half")
    (inbox / "broken.dcm").write_bytes(b"no DICOM")
    shutil.make_archive(str(inbox / "archive"), "zip", inbox / "c")
    before = snapshot(inbox)
    run(order, networks)
    watched(order, networks, [None] * 5)
    assert snapshot(inbox) == before


def test_a_rerun_plans_nothing_again_and_reads_no_header(order, networks, monkeypatch):
    run(order, networks)
    aged = os.stat(order.out).st_mtime_ns + 3600 * 10**9
    monkeypatch.setattr(index.Index.__init__, "__defaults__", (lambda: aged,))
    monkeypatch.setattr(inspect.unwrap(index.open_index), "__defaults__", (lambda: aged,))
    run(order, networks)

    def unexpected(*_):
        raise AssertionError("it is all known")

    monkeypatch.setattr(index, "read_facts", unexpected)
    monkeypatch.setattr(plan, "choose", unexpected)
    tally, events = run(order, never)
    assert tally["done before"] == 3
    assert [e["event"] for e in events] == ["found", "skipped", "skipped", "skipped", "finished"]
    assert {e["folder"] for e in events[1:4]} == {f"1.2.{n}/1.2.{n}.1" for n in (1, 2, 3)}


def test_without_the_index_the_rerun_is_the_same(order, networks):
    run(order, networks)
    usual = run(order, never)[1]
    (order.out / ".covct" / batch.INDEX_NAME).unlink()
    assert run(order, never)[1] == usual


@pytest.mark.parametrize(
    "wish",
    [{"force": True}, {"strict": True}, {"outputs": Outputs(("seg", "nifti"))}],
    ids=lambda w: next(iter(w)),
)
def test_other_wishes_are_not_taken_for_finished(order, networks, wish):
    run(order, networks)
    tally, _ = run(replace(order, **wish), networks)
    assert tally["done before"] == 0


def test_the_next_best_series_is_not_forgotten_when_the_limit_came_between(order, inbox, networks):
    """The preferred one was rejected, and that was all for this run: the study is not finished."""
    shutil.rmtree(inbox / "c")
    change(inbox / "b", StudyInstanceUID="1.2.1", ConvolutionKernel="B70s")
    for path in (inbox / "b").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.PixelData = bytes(len(dataset.PixelData))  # air, no lungs
        dataset.save_as(path)
    limited = replace(order, limit=1)
    tally, _ = run(limited, networks)
    assert (tally["rejected"], tally["done"], tally["waiting"]) == (1, 0, 1)
    tally, events = run(limited, networks)
    assert [e["folder"] for e in events if e["event"] == "done"] == ["1.2.1/1.2.1.1"]


def test_the_page_is_written_after_a_death_between_outcome_and_page(order, networks, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    monkeypatch.setattr(batch.Summary, "write", killed)
    with pytest.raises(Killed):
        run(order, networks)
    monkeypatch.undo()
    run(order, never)
    assert (order.out / "summary.csv").read_text().count("done") == 3


def test_watch_waits_for_the_marker(order, inbox, networks):
    (inbox / "b" / "DONE").touch()
    marked = replace(order, marker="DONE")
    assert watched(marked, networks, [None] * 5) == [("done", "1.2.2/1.2.2.1")]
    done = watched(marked, networks, [None] * 3 + [(inbox / "a" / "DONE").touch] + [None] * 3)
    assert ("done", "1.2.1/1.2.1.1") in done
    assert "1.2.3/1.2.3.1" not in [folder for _, folder in done]


def test_watch_leaves_a_partial_name_until_it_is_renamed(order, inbox, networks):
    last = sorted((inbox / "a").iterdir())[-1]
    part = last.with_name(last.name + ".filepart")
    last.rename(part)
    done = watched(order, networks, [None] * 4 + [lambda: part.rename(last)] + [None] * 4)
    assert done.count(("done", "1.2.1/1.2.1.1")) == 2, "a stale partial name does not keep the study for ever"
    assert read_json(order.out / "1.2.1/1.2.1.1/report.json")["source"]["instances"] == 30


def test_watch_survives_files_that_vanish_and_an_inbox_that_comes_and_goes(order, inbox, networks):
    aside = inbox.with_name("unmounted")
    changes = [None] * 4 + [lambda: inbox.rename(aside), None, lambda: aside.rename(inbox)] + [None] * 4
    done = watched(order, networks, changes)
    assert [event for event, _ in done] == ["done"] * 3, "when it is back, what was taken is not even looked at again"


def test_watch_says_how_many_studies_wait(order, inbox, networks):
    (inbox / "a" / "DONE").touch()
    clock, events = Clock([None] * 4), []
    with pytest.raises(Stopped):
        batch.watch(
            replace(order, marker="DONE"), lambda: networks, events.append, 25, 10, clock.sleep, lambda: clock.now
        )
    told = [(e["studies"], e["waiting"], e["without_marker"]) for e in events if e["event"] == "look"]
    assert told == [(3, 3, 0)] * 3 + [(3, 2, 2)] * 2


@pytest.fixture
def moving(order, tmp_path):
    return replace(order, move_done=tmp_path / "moved")


def names(root):
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and ".covct" not in path.parts}


def test_sources_of_done_studies_are_moved_and_others_stay(moving, inbox, networks):
    change(inbox / "c", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    before = names(inbox)
    tally, _ = run(moving, networks)
    assert (tally["done"], tally["rejected"]) == (2, 1)
    assert names(moving.move_done) == {name for name in before if not name.startswith("c/")}
    assert names(inbox) == {name for name in before if name.startswith("c/")}


def test_what_was_done_before_is_moved_by_the_next_run(moving, inbox, networks):
    """The process died between the last outcome and the move."""
    before = names(inbox)
    run(replace(moving, move_done=None), networks)
    assert names(inbox) == before
    assert run(moving, never)[0]["done before"] == 3
    assert names(moving.move_done) == before


def test_a_study_with_an_unreadable_file_beside_it_stays(moving, inbox, networks):
    """It may be a slice: alone it would come later and take the whole result's place."""
    (inbox / "a" / "half.dcm").write_bytes(b"no DICOM yet")
    run(moving, networks)
    assert {name[0] for name in names(inbox)} == {"a"}


def test_an_archive_is_moved_when_every_study_in_it_is_done(moving, inbox, networks, tmp_path):
    shutil.make_archive(str(tmp_path / "all"), "zip", inbox)
    shutil.rmtree(inbox)
    inbox.mkdir()
    shutil.move(tmp_path / "all.zip", inbox)
    failing = iter([None, ZeroDivisionError("a bug")] + [None] * 10)

    def sometimes(slices):
        if error := next(failing):
            raise error
        return networks.lungs.predict(slices)

    tally, _ = run(moving, replace(networks, lungs=replace(networks.lungs, predict=sometimes)))
    assert (tally["done"], tally["failed"]) == (2, 1)
    assert names(inbox) == {"all.zip"}
    run(replace(moving, retry_failed=True), networks)
    assert names(moving.move_done) == {"all.zip"}


def test_a_slice_that_comes_after_the_move_is_done_with_the_others(moving, inbox, networks):
    """Alone it would be a study of one slice, and take the place of the whole result."""
    late = sorted((inbox / "a").iterdir())[-1]
    aside = inbox.parent / late.name
    shutil.move(late, aside)
    run(moving, networks)
    (inbox / "elsewhere").mkdir()
    shutil.move(aside, inbox / "elsewhere" / late.name)
    tally, _ = run(moving, networks)
    assert tally["done"] == 1
    assert read_json(moving.out / "1.2.1/1.2.1.1/report.json")["source"]["instances"] == 30
    assert names(inbox) == set()


def test_watch_moves_what_it_has_done(moving, inbox, networks):
    before = names(inbox)
    watched(moving, networks, [None] * 5)
    assert names(moving.move_done) == before
    assert names(inbox) == set()
    assert all(read_outcome(path.parent).status == "done" for path in moving.out.glob("*/*/outcome.json"))


def test_a_directory_that_cannot_be_moved_to_is_a_problem_and_not_the_end(moving, inbox, networks):
    moving.move_done.write_text("a file")
    before = names(inbox)
    tally, events = run(moving, networks)
    assert tally["done"] == 3
    assert [e["study"] for e in events if e["event"] == "not-moved"] == ["1.2.1", "1.2.2", "1.2.3"]
    assert names(inbox) == before


@pytest.mark.parametrize("series_uid", ["1.2.1.1", "1.2.1.2"], ids=["his series too", "his study only"])
def test_who_arrives_under_the_study_of_one_who_is_done_and_moved_has_a_study_of_his_own(
    series_uid, moving, inbox, networks, tmp_path
):
    shutil.rmtree(inbox / "c")
    aside = tmp_path / "aside"
    shutil.move(inbox / "b", aside)
    change(aside, StudyInstanceUID="1.2.1", SeriesInstanceUID=series_uid, PatientID="ANOTHER", PatientName="Roe^John")
    done = watched(moving, networks, [None] * 4 + [lambda: shutil.move(aside, inbox / "b")] + [None] * 5)
    assert done[0] == ("done", "1.2.1/1.2.1.1")
    seg = pydicom.dcmread(moving.out / "1.2.1" / "1.2.1.1" / "segmentation.seg.dcm")
    assert seg.PatientID != "ANOTHER"
    if series_uid == "1.2.1.1":  # beside what was moved they are one series again, of two people
        assert done[1:] == [("rejected", "1.2.1-mixed/1.2.1.1")]
        assert (inbox / "b").exists()
    else:
        assert done[-1] == ("done", "1.2.1-p2/1.2.1.2")
        assert not list(inbox.rglob("*.dcm"))
