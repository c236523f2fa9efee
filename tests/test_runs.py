"""The night in one small file and on one screen."""

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import jsonschema
import pytest

from covct.disk import state
from covct.disk.outcome import Outcome
from covct.errors import OutputNotWritable, Stopped
from covct.unattended import runs
from covct.unattended.run_summary import RunSummary
from covct.unattended.status import tree_status
from support.running import read_json

BEGAN = datetime(2026, 1, 31, 22, 0, 0, 123000, UTC)


def record(out, events, began=BEGAN, ends=None, own=()):
    """Run the events through a record; returns what its file says."""
    run = runs.Run(out, "scan", began, frozenset(own))
    with suppress(Stopped, OutputNotWritable, KeyboardInterrupt), runs.recorded(run, lambda event: None) as heard:
        for one in events:
            heard(one)
        if ends:
            raise ends
    return read_json(run.path)


def event(kind, folder="s/t", **details):
    return {"event": kind, "folder": folder, **details}


NIGHT = [
    event("skipped", status="done", slug=None),
    event("done", seconds=2.0, slug=None, device="cpu"),
    event("rejected", seconds=0.1, slug="localizer"),
    event("rejected", seconds=0.1, slug="localizer"),
    event("failed", folder="s/poison", seconds=0.1, slug="crashed-repeatedly"),
    {"event": "problem", "file": "x", "slug": "unreadable", "message": "Planted^Name"},
    {"event": "waiting", "series": 7, "why": "limit"},
]


def test_summary_follows_its_schema_and_counts_by_outcome_and_reason(tmp_path):
    told = record(tmp_path, NIGHT)
    jsonschema.validate(told, RunSummary.json_schema())
    assert told["outcomes"] == [
        {"status": "done", "slug": None, "series": 1},
        {"status": "failed", "slug": "crashed-repeatedly", "series": 1},
        {"status": "rejected", "slug": "localizer", "series": 2},
    ]
    assert told["finished_before"] == [{"status": "done", "slug": None, "series": 1}]
    assert (told["waiting"], told["end"], told["unreadable_files"]) == (7, "limit", 1)
    assert told["device"] == "cpu"
    assert told["last_error"]["folder"] == "s/poison"
    assert (tmp_path / "runs" / "20260131T220000.123Z.json").exists()


def test_messages_which_may_quote_a_file_name_stay_out(tmp_path):
    record(tmp_path, NIGHT)
    assert "Planted" not in "".join(path.read_text() for path in (tmp_path / "runs").iterdir())


@pytest.mark.parametrize(
    ("ends", "end", "error"),
    [
        (None, "finished", None),
        (Stopped("SIGTERM"), "stopped", None),
        (OutputNotWritable("full"), "error", "OutputNotWritable"),
    ],
)
def test_how_a_run_ended(tmp_path, ends, end, error):
    told = record(tmp_path, NIGHT[:-1], ends=ends)
    jsonschema.validate(told, RunSummary.json_schema())
    assert (told["end"], told["error"]) == (end, error)


def test_a_run_that_was_killed_has_a_summary_without_an_end(tmp_path):
    run = runs.Run(tmp_path, "watch", BEGAN)
    with runs.recorded(run, lambda event: None):
        told = read_json(run.path)
    jsonschema.validate(told, RunSummary.json_schema())
    assert told["end"] is None


def test_a_run_that_goes_on_in_a_new_process_is_one_run(tmp_path):
    record(tmp_path, [event("done", seconds=2.0)], ends=KeyboardInterrupt())
    told = record(tmp_path, [event("skipped", status="done"), event("done", "s/u", seconds=1.0)], own=["s/t"])
    assert told["outcomes"] == [{"status": "done", "slug": None, "series": 2}]
    assert told["finished_before"] == []
    assert told["work_seconds"] == 3.0
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_the_newest_stay_and_the_own_stays_when_the_clock_was_set_back(tmp_path):
    for day in range(runs.KEPT + 5):
        record(tmp_path, [], BEGAN + timedelta(days=day))
    record(tmp_path, [], BEGAN - timedelta(days=9999))
    names = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert len(names) == runs.KEPT
    assert names[0].startswith("1998")
    record(tmp_path, [], BEGAN)
    assert any(path.name.startswith("1998") for path in (tmp_path / "runs").iterdir()), "it is one of the newest"


@pytest.mark.parametrize("years", [-40, 30], ids=["in the past", "in the future"])
def test_a_run_whose_clock_was_wrong_does_not_hide_the_next_one(tmp_path, years):
    record(tmp_path, [{"event": "waiting", "series": 1, "why": "limit"}])
    wrong = BEGAN + timedelta(days=365 * years)
    record(tmp_path, [{"event": "waiting", "series": 2, "why": "limit"}], wrong)
    assert runs.latest(tmp_path).waiting == 2
    record(tmp_path, [{"event": "waiting", "series": 3, "why": "limit"}], BEGAN + timedelta(hours=1))
    assert runs.latest(tmp_path).waiting == 3


def test_a_run_dated_in_the_future_by_a_version_that_did_not_count_hides_none(tmp_path):
    for moment in (BEGAN + timedelta(days=365 * 70), BEGAN - timedelta(days=1), BEGAN):
        told = record(tmp_path, [], moment)
        told.pop("sequence")
        jsonschema.validate(told, RunSummary.json_schema())
        runs.Run(tmp_path, "scan", moment).path.write_text(json.dumps(told))
    assert runs.latest(tmp_path, BEGAN).began == BEGAN.isoformat(timespec="seconds")
    record(tmp_path, NIGHT, BEGAN - timedelta(days=9))
    assert runs.latest(tmp_path, BEGAN).waiting == 7


def test_a_run_that_goes_on_in_a_new_process_keeps_its_number(tmp_path):
    numbers = [record(tmp_path, [], BEGAN + timedelta(days=day))["sequence"] for day in (0, 1, 1, 2)]
    assert numbers == [1, 2, 2, 3]


def test_status_says_what_the_night_came_to(tmp_path):
    for name, status, slug in (("a", "done", None), ("b", "failed", "timeout"), ("c", "rejected", "localizer")):
        stage = state.new_stage(tmp_path, name)
        (stage / "report.json").write_text(json.dumps({"regions": {"lungs": {}}}))
        finished = f"2026-01-31T23:00:0{len(slug or '') % 10}+00:00"
        outcome = Outcome(status=status, work_key=name, slug=slug, message="why", finished=finished)
        state.commit(tmp_path, f"s/{name}", stage, outcome)
    record(tmp_path, NIGHT)
    told = tree_status(tmp_path, datetime.now(UTC) + timedelta(hours=1))
    assert told["series"] == 3
    assert told["waiting"] == 7
    assert told["last_error"]["slug"] in ("timeout", "damaged-result")
    assert told["last_run"]["end"] == "limit"
    assert 3600 <= told["last_run_seconds_ago"] < 3700


def test_status_of_a_tree_without_a_run(tmp_path):
    told = tree_status(tmp_path, datetime.now(UTC))
    assert (told["series"], told["last_run"], told["waiting"], told["last_error"]) == (0, None, None, None)


def test_a_damaged_summary_is_passed_over(tmp_path):
    record(tmp_path, NIGHT)
    (tmp_path / "runs" / "29990101T000000.000Z.json").write_text("{")
    assert runs.latest(tmp_path).waiting == 7
