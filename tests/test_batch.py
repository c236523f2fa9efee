"""Many series: every one has an outcome, none is done twice, one's failure is not another's."""

import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime

import jsonschema
import pydicom
import pytest

from covct.disk import state
from covct.disk.attempts import begin_attempt, note_timeout
from covct.disk.outcome import read_outcome
from covct.errors import OutputNotWritable, Stopped, WeightsError
from covct.intake.discover import discover
from covct.networks.cards import file_sha256
from covct.unattended import batch, one_pass
from covct.unattended.plan import card_hashes, plan
from support.batches import never, run, watched
from support.example_report import SCHEMA
from support.running import change_json, read_json
from support.series import change

pytestmark = pytest.mark.slow


def test_every_series_has_a_report_that_follows_the_schema(order, networks):
    tally, _ = run(order, networks)
    assert tally["done"] == 3
    reports = list(order.out.glob("*/*/report.json"))
    assert len(reports) == 3
    for path in reports:
        jsonschema.validate(read_json(path), SCHEMA)


def test_second_run_does_nothing_and_loads_nothing(order, networks):
    run(order, networks)
    before = {p: p.stat().st_mtime_ns for p in order.out.glob("*/*/*")}
    tally = batch.scan(order, never, lambda event: None)
    assert (tally["done before"], tally["done"]) == (3, 0)
    assert {p: p.stat().st_mtime_ns for p in order.out.glob("*/*/*")} == before


def test_one_bad_series_does_not_stop_the_others(order, inbox, networks):
    victim = sorted((inbox / "b").iterdir())[7]
    victim.write_bytes(victim.read_bytes()[:-9000])
    tally, events = run(order, networks)
    assert (tally["done"], tally["rejected"]) == (2, 1)
    [rejected] = [e for e in events if e["event"] == "rejected"]
    assert rejected["slug"] == "unreadable"
    assert victim.name in rejected["file"], "the file is named"
    kept = [path for path in order.out.rglob("*") if path.suffix in (".json", ".csv", ".html")]
    assert not any(victim.name in path.read_text() for path in kept), "and its name, which may be a patient's, not kept"


def test_unexpected_error_fails_one_series_and_is_retried_on_demand(order, networks):
    calls = []

    def sometimes(slices):
        calls.append(1)
        if len(calls) == 1:
            raise ZeroDivisionError("a bug")
        return networks.lungs.predict(slices)

    flaky = replace(networks, lungs=replace(networks.lungs, predict=sometimes))
    tally, events = run(order, flaky)
    assert (tally["done"], tally["failed"]) == (2, 1)
    [failed] = [e for e in events if e["event"] == "failed"]
    assert failed["message"].startswith("ZeroDivisionError at test_batch.py:"), "the place, not the text: it may quote"
    again = run(order, flaky)[0]
    assert (again["done before"], again["failed before"]) == (2, 1)
    assert run(replace(order, retry_failed=True), flaky)[0]["done"] == 1


def test_a_late_slice_reopens_its_series_only(order, inbox, networks):
    late = sorted((inbox / "a").iterdir())[-1]
    aside = inbox.parent / late.name
    shutil.move(late, aside)
    run(order, networks)
    shutil.move(aside, late)
    tally, _ = run(order, networks)
    assert (tally["done"], tally["done before"]) == (1, 2)


def test_other_weights_redo_everything(order, networks):
    run(order, networks)
    (order.weights / "lungs.keras").write_bytes(b"other")
    change_json(order.weights / "lungs.json", sha256=file_sha256(order.weights / "lungs.keras"))
    assert run(order, networks)[0]["done"] == 3


def test_altered_weights_stop_the_run_before_any_work(order, networks):
    (order.weights / "infection.keras").write_bytes(b"altered")
    with pytest.raises(WeightsError, match="altered"):
        run(order, networks)


def test_series_that_keeps_killing_the_process_is_given_up(order, networks):
    """A container's restart loop must move on: three attempts without outcome, and the series is poison."""
    [victim, *_] = plan(order, discover(order.sources), card_hashes(order.weights))
    with state.lock(order.out):
        for _ in range(3):
            begin_attempt(order.out, victim.series.folder, victim.work_key)
    tally, events = run(order, networks)
    assert (tally["done"], tally["failed"]) == (2, 1)
    assert [e["slug"] for e in events if e["event"] == "failed"] == ["crashed-repeatedly"]


def test_a_series_that_timed_out_is_recorded_and_retried_on_demand(order, networks):
    """Its process was ended, and another one goes on with the run."""
    [victim, *_] = plan(order, discover(order.sources), card_hashes(order.weights))
    with state.lock(order.out):
        begin_attempt(order.out, victim.series.folder, victim.work_key)
        note_timeout(order.out, victim.series.folder, 60)
    tally, events = run(order, networks)
    assert (tally["done"], tally["failed"]) == (2, 1)
    [failed] = [e for e in events if e["event"] == "failed"]
    assert (failed["slug"], "60 s" in failed["message"]) == ("timeout", True)
    assert run(order, networks)[0]["failed before"] == 1
    assert run(replace(order, retry_failed=True), networks)[0]["done"] == 1


def test_a_forced_run_that_goes_on_in_a_new_process_does_not_begin_anew(order, networks):
    """Else a series that hangs would hang again in each, for ever."""
    run(order, networks)
    already = frozenset({"1.2.1/1.2.1.1", "1.2.2/1.2.2.1"})
    tally, events = run(replace(order, force=True, already=already), networks)
    assert [e["folder"] for e in events if e["event"] == "done"] == ["1.2.3/1.2.3.1"]
    assert (tally["done"], tally["done before"]) == (3, 0), "all of this run, whichever of its processes did them"


def test_a_limit_leaves_the_rest_waiting(order, networks):
    tally, events = run(replace(order, limit=2), networks)
    assert (tally["done"], tally["waiting"]) == (2, 1)
    assert [e for e in events if e["event"] == "waiting"] == [{"event": "waiting", "series": 1, "why": "limit"}]
    tally, _ = run(replace(order, limit=2), networks)
    assert (tally["done before"], tally["done"], tally["waiting"]) == (2, 1, 0)


def test_a_limit_counts_what_a_process_before_did_in_this_run(order, networks):
    already = frozenset({"1.2.1/1.2.1.1"})
    assert run(replace(order, limit=2, already=already), networks)[0]["done"] == 1


def test_after_the_hour_no_series_is_started(order, networks, monkeypatch):
    """The night ends at six; what is at work then is finished."""
    times = iter(["2026-01-31T05:59:59+00:00", "2026-01-31T06:00:00+00:00"])

    class Wall(datetime):
        @classmethod
        def now(cls, zone=None):
            return cls.fromisoformat(next(times, "2026-01-31T06:00:00+00:00"))

    until = datetime.fromisoformat("2026-01-31T06:00:00+00:00")
    began = datetime.fromisoformat("2026-01-30T22:00:00+00:00")
    monkeypatch.setattr(one_pass, "datetime", Wall)
    tally, events = run(replace(order, until=until, began=began), networks)
    assert (tally["done"], tally["waiting"]) == (1, 2)
    assert [e["why"] for e in events if e["event"] == "waiting"] == ["until"]


def test_since_takes_whole_studies_of_which_a_file_is_new(order, inbox, networks):
    for path in inbox.glob("*/*"):
        os.utime(path, (1_600_000_000,) * 2)
    os.utime(sorted((inbox / "b").iterdir())[3], (1_700_000_000,) * 2)
    tally, _ = run(replace(order, since=datetime.fromtimestamp(1_700_000_000, UTC)), networks)
    assert tally["done"] == 1
    assert read_json(order.out / "1.2.2/1.2.2.1/report.json")["source"]["instances"] == 30


def test_a_commit_that_was_killed_before_the_worse_series_went_is_ended(order, inbox, networks, monkeypatch):
    """Its series is finished and is skipped; the patient must not be counted twice for ever."""
    soft, lung = one_study(inbox, ConvolutionKernel="B70s")
    shutil.move(inbox / "b", inbox.parent / "later")
    run(order, networks)
    shutil.move(inbox.parent / "later", inbox / "b")
    monkeypatch.setattr(state, "_end_commit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(order, networks)
    monkeypatch.undo()
    assert (order.out / soft).exists()
    tally = batch.scan(order, never, lambda event: None)
    assert tally["done before"] == 1
    assert not (order.out / soft).exists()
    assert (order.out / lung / "report.json").exists()


def test_a_stop_signal_is_no_attempt_and_leaves_nothing_half(order, networks):
    def stopped(slices):
        raise Stopped("SIGTERM")

    for _ in range(4):
        with pytest.raises(Stopped):
            run(order, replace(networks, lungs=replace(networks.lungs, predict=stopped)))
    assert not list(order.out.glob("1.2.*/*/*"))
    assert run(order, networks)[0]["done"] == 3


def test_our_own_disk_failing_stops_the_run(order, networks, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state.os, "fsync", full)
    with pytest.raises(OutputNotWritable, match="No space left"):
        run(order, networks)


def test_a_study_where_nothing_qualifies_has_its_reasons(order, inbox, networks):
    change(inbox / "c", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    tally, _ = run(order, networks)
    assert (tally["done"], tally["rejected"]) == (2, 1)
    outcome = read_outcome(order.out / "1.2.3" / "1.2.3.1")
    assert (outcome.status, outcome.slug) == ("rejected", "localizer")


def test_hashes_in_the_outcome_are_those_of_the_files(order, networks):
    from covct.networks.cards import file_sha256

    run(order, networks)
    for path in order.out.glob("*/*/outcome.json"):
        for name, digest in read_json(path)["files"].items():
            assert file_sha256(path.with_name(name)) == digest


def test_no_patient_name_in_events_and_file_names(order, inbox, networks):
    change(inbox / "a", PatientName="Planted^Name", PatientID="PLANTED-ID", PatientBirthDate="19010203")
    _, events = run(order, networks)
    seen = repr(events) + repr([str(p) for p in order.out.rglob("*")])
    for secret in ("Planted", "PLANTED", "19010203"):
        assert secret not in seen
    text = "".join(p.read_text() for p in order.out.rglob("*.json"))
    assert "Planted" not in text


def test_output_inside_the_source_is_not_segmented_again(order, inbox, networks):
    inside = replace(order, out=inbox / "out")
    run(inside, networks)
    assert run(inside, networks)[0]["done before"] == 3


def test_empty_directory_is_nothing_to_do(tmp_path, weights):
    (tmp_path / "empty").mkdir()
    tally = batch.scan(batch.Order((tmp_path / "empty",), tmp_path / "out", weights), never, lambda event: None)
    assert not tally.counts


def test_watch_waits_until_a_study_has_settled(order, inbox, networks):
    aside = inbox.parent / "aside"
    shutil.move(inbox / "a", aside)
    (inbox / "a").mkdir()
    parts = sorted(aside.iterdir())

    def arrive(first, last):
        return lambda: [shutil.copy2(p, inbox / "a") for p in parts[first:last]]

    done = watched(order, networks, [arrive(0, 10), arrive(10, 20), arrive(20, 30), None, None, None, None])
    assert sorted(done) == [("done", "1.2.1/1.2.1.1"), ("done", "1.2.2/1.2.2.1"), ("done", "1.2.3/1.2.3.1")]
    assert read_json(order.out / "1.2.1/1.2.1.1/report.json")["source"]["instances"] == 30


def test_watch_redoes_a_study_that_a_late_slice_reopens(order, inbox, networks):
    late = sorted((inbox / "a").iterdir())[-1]
    aside = inbox.parent / late.name
    shutil.move(late, aside)
    done = watched(order, networks, [None, None, None, lambda: shutil.move(aside, late), None, None, None])
    assert done.count(("done", "1.2.1/1.2.1.1")) == 2
    assert done.count(("done", "1.2.2/1.2.2.1")) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file_is_named(order, inbox, networks):
    path = sorted((inbox / "a").iterdir())[3]
    path.chmod(0)
    _, events = run(order, networks)
    assert path.name in [e for e in events if e["event"] == "problem"][0]["file"]


def test_lossy_is_flagged(order, inbox, networks):
    for path in (inbox / "a").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.LossyImageCompression = "01"
        dataset.save_as(path)
    run(order, networks)
    report = read_json(order.out / "1.2.1/1.2.1.1/report.json")
    assert report["source"]["lossy"] is True
    assert "lossy" in [w["slug"] for w in report["warnings"]]


def test_a_slice_that_was_half_copied_is_read_again_when_it_is_whole(order, inbox, networks):
    """Its SOP Instance UID is the same then and now: the rejection must not outlive the copying."""
    victim = sorted((inbox / "b").iterdir())[7]
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-9000])
    assert run(order, networks)[0]["rejected"] == 1
    victim.write_bytes(whole)
    tally, _ = run(order, networks)
    assert (tally["done"], tally["done before"]) == (1, 2)


def one_study(inbox, **of_b):
    """Series a and b in one study."""
    shutil.rmtree(inbox / "c")
    change(inbox / "b", StudyInstanceUID="1.2.1", **of_b)
    return "1.2.1/1.2.1.1", "1.2.1/1.2.2.1"


def test_the_next_best_series_takes_the_place_of_one_without_lungs(order, inbox, networks):
    """A sharp head series in a polytrauma study must not hide the chest."""
    chest, head = one_study(inbox, ConvolutionKernel="B70s")
    for path in (inbox / "b").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.PixelData = bytes(len(dataset.PixelData))  # air, no lungs
        dataset.save_as(path)
    tally, events = run(order, networks)
    assert (tally["done"], tally["rejected"]) == (1, 1)
    assert [e["folder"] for e in events if e["event"] in ("done", "rejected")] == [head, chest]
    left_out = read_json(order.out / chest / "report.json")["selection"]["left_out"]
    assert [entry["slug"] for entry in left_out] == ["no-lungs"]
    again = run(order, networks)[0]
    assert (again["done before"], again["rejected before"], again["done"]) == (1, 1, 0)


def test_a_series_named_head_comes_after_the_chest(order, inbox, networks):
    chest, _ = one_study(inbox, ConvolutionKernel="B70s", BodyPartExamined="HEAD", SeriesDescription="bone")
    _, events = run(order, networks)
    assert [e["folder"] for e in events if e["event"] == "done"] == [chest]


def test_a_better_series_that_comes_later_supersedes_the_first(order, inbox, networks):
    """The patient must not be counted twice in the morning."""
    soft, lung = one_study(inbox, ConvolutionKernel="B70s")
    shutil.move(inbox / "b", inbox.parent / "later")
    run(order, networks)
    assert (order.out / soft / "report.json").exists()
    shutil.move(inbox.parent / "later", inbox / "b")
    run(order, networks)
    assert (order.out / lung / "report.json").exists()
    assert not (order.out / soft).exists()


def test_a_series_unreadable_when_a_better_one_was_done_is_superseded_once_it_can_be_read(order, inbox, networks):
    """That night nobody could say that the better one is better; the next it need not be done again."""
    soft, lung = one_study(inbox, ConvolutionKernel="B70s")
    shutil.move(inbox / "b", inbox.parent / "later")
    run(order, networks)
    shutil.move(inbox.parent / "later", inbox / "b")
    damaged = sorted((inbox / "a").iterdir())[15]
    contents = damaged.read_bytes()
    damaged.write_bytes(contents[:300])
    run(order, networks)
    assert (order.out / lung / "report.json").exists() and (order.out / soft / "report.json").exists()
    damaged.write_bytes(contents)
    tally, _ = run(order, networks)
    assert not (order.out / soft).exists()
    assert (tally["done"], tally["done before"]) == (0, 1)
    assert soft not in (order.out / "summary.csv").read_text()


def test_a_result_whose_file_was_lost_is_done_again(order, networks):
    run(order, networks)
    next(order.out.glob("*/*/segmentation.seg.dcm")).unlink()
    tally, _ = run(order, networks)
    assert (tally["done"], tally["done before"]) == (1, 2)


def test_the_page_shows_what_was_finished_before_the_stop(order, networks):
    calls = []

    def stopped(slices):
        calls.append(1)
        if len(calls) > 2:  # the first series takes two: sixteen slices, then fourteen
            raise Stopped("SIGTERM")
        return networks.lungs.predict(slices)

    with pytest.raises(Stopped):
        run(order, replace(networks, lungs=replace(networks.lungs, predict=stopped)))
    assert (order.out / "summary.csv").read_text().count("done") == 1


def test_an_error_that_quotes_the_patient_stays_out_of_results_and_logs(order, networks, caplog):
    header = "Unable to convert '1950-01-01' of Planted^Name"

    def quoting(slices):
        raise ValueError(header)

    _, events = run(order, replace(networks, lungs=replace(networks.lungs, predict=quoting)))
    text = repr(events) + caplog.text + "".join(p.read_text() for p in order.out.rglob("*.json"))
    assert "ValueError" in text
    assert "Planted" not in text
    assert "1950-01-01" not in text


def test_watch_keeps_the_tree_to_itself(order, networks):
    from covct.errors import OutputLocked

    def second():
        with pytest.raises(OutputLocked):
            batch.scan(order, never, lambda event: None)

    watched(order, networks, [second, second])
