"""What a person who sits before a run sees: how far it is, also within a series, how long it takes, what waits."""

import io
import json
import re
from datetime import datetime
from pathlib import Path

import pytest
from rich.console import Console

import covct
from covct.commands import run_bar, told
from covct.errors import Stopped
from covct.unattended import batch
from covct.unattended.live import AT_THE_END, BESIDE, SHARES, WORDS, Live
from support.batches import Clock
from support.running import invoke

FOUND = {"event": "found", "to_do": 2, "slices_to_do": 400}


def live(*events, clock=lambda: datetime(2026, 3, 2, 2, 14)):
    """Events with the seconds at which they come."""
    told_of = Live(clock)
    for now, event in events:
        told_of.hear(event, now)
    return told_of


def of_series(event, **more):
    return {"event": event, "series": "1.2.3", **more}


def test_it_is_further_within_a_series_and_time_left_is_told_from_the_first_on():
    at_work = [
        (0.0, FOUND),
        (10.0, of_series("started", slices=100)),
        (10.0, of_series("step", step="load")),
        (11.0, of_series("step", step="load", seconds=1.0)),
        (11.0, of_series("step", step="networks")),
        (41.0, of_series("step", step="networks", seconds=30.0)),
        (41.0, of_series("step", step="lungs")),
        (45.0, of_series("alive", done=50, of=100)),
    ]
    told_of = live(*at_work)
    expected = (SHARES["load"] + SHARES["check"] + SHARES["lungs"] / 2) * 100 / 400
    assert told_of.share == pytest.approx(expected)
    assert told_of.at(45.0) == "1.2.3 finding the lungs, 50 of 100 slices"
    worked = 35.0 - 30.0  # loading the networks comes once
    left = worked * (1 - expected) / expected
    assert told_of.left_s(45.0) == pytest.approx(left)
    assert told_of.left_s(48.0) == pytest.approx(left - 3), "it runs backwards until more is known"
    assert live(*at_work[:5]).at(12.0) == "1.2.3 loading the networks"
    assert live(*at_work[:7]).left_s(44.0) is None, "nobody can tell yet"
    assert live(*at_work[:2]).at(10.5) == "1.2.3 loading the libraries"
    assert live(*at_work, (60.0, of_series("done")), (60.0, {"event": "finished"})).at(61.0) == "done"


def test_every_step_of_a_series_has_words():
    code = "".join(path.read_text() for path in Path(covct.__file__).parent.rglob("*.py"))
    steps = set(re.findall(r'(?:clock\.step|clock\.announce)\("([a-z]+)"\)', code))
    assert {"load", "networks", "masks"} <= steps <= WORDS.keys()
    assert steps - {*BESIDE, *AT_THE_END} == SHARES.keys(), "and its share of the time"


def test_the_time_of_a_series_is_divided_as_it_was_in_those_before():
    steps = [(0.0, of_series("step", step=step, seconds=8.0 if step == "write" else 1.0)) for step in SHARES]
    first = [(0.0, FOUND), (0.0, of_series("started", slices=200)), *steps, (14.0, of_series("done"))]
    second = [(14.0, of_series("started", slices=200)), (20.0, of_series("step", step="write"))]
    assert live(*first).share == 0.5
    assert live(*first, *second).share == pytest.approx(0.5 + 0.5 * 6 / 14)


def test_a_series_to_which_formats_are_added_has_few_of_the_steps():
    steps = [(0.0, of_series("step", step=step, seconds=1.0)) for step in ("load", "masks", "write")]
    first = [(0.0, FOUND), (0.0, of_series("started", slices=200)), *steps, (3.0, of_series("done"))]
    second = [(3.0, of_series("started", slices=200)), (4.0, of_series("step", step="compare"))]
    assert live(*first).share == 0.5
    assert live(*first, *second).share == pytest.approx(1 - SHARES["write"] / 2)


def test_a_large_series_counts_for_more_than_a_small_one():
    small = live((0.0, FOUND), (0.0, of_series("started", slices=40)), (4.0, of_series("done")))
    assert small.share == 0.1 and small.left_s(4.0) == pytest.approx(36.0)


def test_a_look_and_a_wait_say_what_they_are_about():
    rest = {"event": "alive", "rest_s": 10.0}
    look = {"event": "look", "studies": 2, "waiting": 1, "without_marker": 0, "source_ok": True}
    settling = {**look, "settling_files": 60, "settles_in_s": 15.0}
    assert live().at(0.0) == "looking for studies"
    assert live((0.0, {"event": "alive", "files": 12300})).at(5.0) == "looking for studies, 12,300 files so far"
    assert live((0.0, settling), (0.0, rest)).at(3.0) == "60 files are still settling, 12 s"
    assert live((0.0, {**look, "settling_files": 0}), (0.0, rest)).at(5.0) == "idle since 02:14, next look in 5 s"
    gone = live((0.0, {**look, "source_ok": False}), (0.0, rest))
    assert gone.at(5.0) == "the inbox cannot be read, next look in 5 s"
    marker = live((0.0, {**look, "without_marker": 1}), (0.0, rest))
    assert marker.at(5.0) == "1 study waits for the marker, next look in 5 s"
    assert live((0.0, {"event": "alive", "step": "page"})).at(1.0) == "writing summary.csv and index.html"


def test_a_quick_look_of_a_watch_does_not_flicker():
    look = {"event": "look", "source_ok": True}
    again = live((0.0, look), (0.0, {"event": "alive", "rest_s": 10.0}), (10.0, {"event": "looking"}))
    assert again.at(10.5).startswith("idle since") and again.at(12.0) == "looking for studies"


def test_a_scan_tells_how_far_each_network_is(order, networks):
    events = []
    batch.scan(order, lambda: networks, events.append)
    one = [event for event in events if event.get("series") == "1.2.1.1"]
    steps = {step: [] for step in ("lungs", "infection")}
    at = ""
    for event in one:
        at = event.get("step", at)
        if "of" in event:
            steps[at].append((event["done"], event["of"]))
    for told_of in steps.values():
        assert told_of[-1][0] == told_of[-1][1] > 0 and told_of == sorted(told_of)
    shares, whole = [], Live()
    for event in events:
        whole.hear(event, 0.0)
        shares += [] if whole.share is None else [round(whole.share, 9)]
    assert shares == sorted(shares) and shares[-1] == 1.0 and len(set(shares)) > 3 * len(SHARES)


def test_a_watch_tells_how_many_files_settle_and_for_how_long(order, networks):
    clock, events = Clock([None] * 3), []
    with pytest.raises(Stopped):
        batch.watch(order, lambda: networks, events.append, 25, 10, clock.sleep, lambda: clock.now)
    files = sum(1 for path in order.sources[0].rglob("*") if path.is_file())
    looks = [(one["settling_files"], one["settles_in_s"]) for one in events if one["event"] == "look"]
    assert looks[:3] == [(files, 25.0), (files, 15.0), (files, 5.0)]
    assert looks[3:] == [(0, 0.0)] * len(looks[3:])
    assert [one["rest_s"] for one in events if "rest_s" in one][:3] == [10, 10, 10]


@pytest.fixture
def terminal(monkeypatch):
    """Standard error as a terminal; what is written on it."""
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=100, emoji=False)
    for module in (told, run_bar):
        monkeypatch.setattr(module, "stderr", console)
    return written


def test_json_goes_to_standard_output_and_not_into_the_bar(terminal, capsys):
    with told.showing(True) as emit:
        emit({**FOUND, "candidates": 2, "finished_before": 0, "problems": 0, "ignored_files": 0})
        emit(of_series("started", slices=100))
    out = capsys.readouterr().out
    assert [json.loads(line)["event"] for line in out.splitlines()] == ["found", "started"]
    assert "loading the libraries" in terminal.getvalue() and '"event"' not in terminal.getvalue()


def test_where_json_goes_to_the_terminal_there_is_no_bar(terminal, capsys, monkeypatch):
    monkeypatch.setattr(told, "stdout", Console(file=io.StringIO(), force_terminal=True))
    with told.showing(True) as emit:
        emit({**FOUND, "candidates": 2, "finished_before": 0, "problems": 0, "ignored_files": 0})
        emit(of_series("started", slices=100))
    assert "loading the libraries" not in terminal.getvalue() and "2 series found" in terminal.getvalue()


def test_the_last_line_names_the_page_to_open(series_folder, tmp_path, weights, threshold_networks):
    scan = ("scan", series_folder, "--out", tmp_path / "out", "--weights", weights, "--formats", "none")
    assert invoke(*scan).stderr.splitlines()[-1].endswith(f"open {tmp_path}/out/index.html")
    assert "index.html" not in invoke(*scan, "--hash-identifiers").stderr, "a path may say too much"
    assert "index.html" not in invoke(*scan, "--log-format", "json").stderr
