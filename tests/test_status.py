"""What an operator sees at three in the morning: ten situations, and that each fault shows everywhere in seconds."""

import json
import os
import re
import shutil
import signal
import time
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path

import pytest

from covct.commands import options
from covct.disk import state
from covct.errors import Stopped
from covct.unattended import batch, heartbeat, running, status, supervisor
from covct.unattended.inbox import Roots
from support.processes import child_of, ended, until_at_work
from support.running import invoke

pytestmark = pytest.mark.slow

SECONDS = 20  # within which a fault shows, on a slow machine
WATCH = ("--settle", "0", "--interval", "0.2")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def told(out, name):
    """`covct status` as a text on one line; kept in the file that COVCT_SITUATIONS names."""
    until(out.is_dir, "the output tree")
    result = invoke("status", out)
    assert result.exit_code == 0, result.output
    if file := os.environ.get("COVCT_SITUATIONS"):
        with open(file, "a") as texts:
            texts.write(f"=== {name}\n{result.stdout}\n")
    return " ".join(result.stdout.split())


def until(happens, what):
    deadline = time.monotonic() + SECONDS
    while not (found := happens()):
        assert time.monotonic() < deadline, f"not within {SECONDS} s: {what}"
        time.sleep(0.1)
    return found


def health(out):
    result = invoke("health", out, "--json")
    return result.exit_code, json.loads(result.stdout)["state"] if result.stdout else ""


def metric(file, name):
    lines = file.read_text().splitlines() if file.exists() else []
    return [line.split()[-1].removesuffix(".0") for line in lines if line.startswith(name)]


@pytest.fixture
def figures(tmp_path):
    return tmp_path / "covct.prom"


def counted(figures, outcome, reason=""):
    return metric(figures, f'covct_series_total{{outcome="{outcome}",reason="{reason}"}}')


def age(out, seconds):
    """Make the last beat older, as that of a process which hangs."""
    last = heartbeat.read_beat(out / state.PRIVATE)
    doing = replace(last.doing, since=last.doing.since - seconds, series_since=last.doing.series_since - seconds)
    older = replace(last, unix=last.unix - seconds, since_boot=last.since_boot - seconds, doing=doing)
    (out / state.PRIVATE / heartbeat.NAME).write_text(json.dumps(asdict(older)))


def test_working(start, out):
    process = start(misbehave="slow")
    until_at_work(process)
    until(lambda: "step lungs" in told(out, "working (before)"), "the step")
    text = told(out, "working")
    assert "alive yes: scan is working (process" in text
    assert "at work 1.2.2/1.2.2.1: step lungs for" in text
    assert "progress 1 of 3 series in this pass" in text and "2 to do, about" in text
    assert "lost nothing so far" in text
    assert "1.2.2/1.2.2.1: it is being processed, step lungs" in invoke("status", out, "--why", "1.2.2.1").stdout
    assert health(out) == (0, "working")
    assert json.loads(invoke("status", out, "--json").stdout)["now"]["folder"] == "1.2.2/1.2.2.1"


def test_idle(start, out, figures):
    start(*WATCH, "--metrics", figures, command="watch")
    until(lambda: health(out) == (0, "idle") and len(list(out.glob("*/*/outcome.json"))) == 3, "all done")
    text = until(lambda: (text := told(out, "idle")) and "watch is idle" in text and text, "idle")
    assert "done" in text and "at work" not in text
    assert metric(figures, "covct_source_ok") == ["1"]
    shutil.rmtree(out / "1.2.3")
    assert invoke("status", out, "--why", "1.2.3").exit_code == 3


def test_waiting_for_markers(start, out):
    start(*WATCH, "--marker", "end", command="watch")
    text = until(lambda: (text := told(out, "waiting for markers")) and "without a marker" in text and text, "waiting")
    assert "waiting 3 without a marker yet; the oldest for" in text
    why = invoke("status", out, "--why", "1.2.3")
    assert "1.2.3: waiting, its marker file has not arrived (for" in why.stdout


def test_a_hung_series(start, out):
    process = start(misbehave="hang")
    until_at_work(process)
    until(lambda: heartbeat.read_beat(out / state.PRIVATE).doing.step == "lungs", "the step")
    os.kill(child_of(process), signal.SIGSTOP)
    age(out, 4000)
    text = told(out, "hung series")
    assert "alive it hangs: process" in text and "last sign of life 1 h 7 min ago" in text
    assert "at work 1.2.2/1.2.2.1: step lungs for 1 h 7 min" in text
    assert health(out) == (3, "hung")


def test_dead(start, out, figures):
    """Nobody is left to write figures: they still say up, and the time of the last event stands still."""
    process = start("--metrics", figures, misbehave="slow")
    until_at_work(process)
    process.kill()
    until(lambda: health(out) == (3, "dead"), "that it was killed")
    assert metric(figures, "covct_up") == ["1"]
    [last] = metric(figures, "covct_last_event_timestamp_seconds")
    assert abs(time.time() - float(last)) < 60
    text = told(out, "dead")
    assert "alive no: it was killed while working" in text and "Restart it" in text
    assert "lost it was killed at 1.2.2/1.2.2.1, which will be redone" in text
    assert "was being processed when covct was killed" in invoke("status", out, "--why", "1.2.2.1").stdout


def test_a_full_disk(start, out, figures):
    process = start("--metrics", figures, misbehave="full")
    assert ended(process)[0] == 12
    assert (metric(figures, "covct_up"), counted(figures, "done")) == (["0"], ["1"]), "in place: there is no room"
    text = told(out, "full disk")
    assert "alive no: OutputNotWritable ended it" in text
    assert "last run scan" in text and "ended by OutputNotWritable, 1 done" in text
    assert "lost an error ended it at 1.2.2/1.2.2.1, which will be redone" in text
    assert health(out) == (3, "broken")


def test_the_source_is_gone_and_comes_back(start, out, inbox, figures, tmp_path):
    process = start(*WATCH, "--metrics", figures, command="watch")
    until(lambda: health(out) == (0, "idle") and len(list(out.glob("*/*/outcome.json"))) == 3, "all done")
    inbox.rename(tmp_path / "unmounted")
    until(lambda: health(out) == (3, "source-gone"), "health")
    until(lambda: metric(figures, "covct_source_ok") == ["0"], "the figures")
    assert metric(figures, 'covct_problems_total{reason="source-gone"}') == ["1"]
    assert metric(figures, "covct_up") == ["1"]
    assert "the source is gone or cannot be read" in told(out, "source gone")
    (tmp_path / "unmounted").rename(inbox)
    until(lambda: health(out) == (0, "idle") and metric(figures, "covct_source_ok") == ["1"], "it is back")
    process.send_signal(signal.SIGTERM)
    code, outcomes, _ = ended(process)
    assert code == 130 and len(outcomes) == 3, "nothing was done again"


def test_two_writers(start, out):
    first = start(misbehave="slow")
    until_at_work(first)
    second = start()
    assert ended(second)[0] == 11
    text = told(out, "two writers")
    assert f"scan is working (process {child_of(first)} on" in text
    assert health(out) == (0, "working")


def test_after_a_bad_night(start, out):
    process = start("--limit", "2", misbehave="crash")
    assert ended(process)[0] == 3
    text = told(out, "after a bad night")
    assert "alive no: it has ended" in text
    assert "lost 1 series failed (--retry-failed); 1 series wait for the next run" in text
    assert "ended by --limit" in text and "waiting 1 left over by --limit" in text
    assert "last error" in text and "crashed-repeatedly" in text
    assert "crashed-repeatedly" in invoke("status", out, "--why", "1.2.2").stdout
    waits = invoke("status", out, "--why", "1.2.3")
    assert "waiting, --limit was reached before its turn" in waits.stdout


def test_after_a_good_night(start, out):
    assert ended(start())[0] == 0
    text = told(out, "after a good night")
    assert "alive no: it has ended" in text
    assert "lost nothing: every series found has an outcome" in text
    assert health(out) == (0, "ended")


def test_a_process_that_is_given_up_leaves_no_sign_of_working(start, out, figures):
    """The one that worked cannot say so: its parent does, without the lock, for which a full disk has no room."""
    assert ended(start("--metrics", figures, misbehave="die 9"))[0] == 1
    assert health(out) == (3, "broken")
    assert (metric(figures, "covct_up"), counted(figures, "done")) == (["0"], ["3"]), "what it counted stays"


def test_a_series_that_hangs_is_counted_once_it_is_ended(start, out, figures):
    process = start("--series-timeout=4", "--metrics", figures, misbehave="hang")
    until_at_work(process)
    hung = time.monotonic()
    until(lambda: metric(figures, "covct_up") == ["1"] and counted(figures, "done") == ["1"], "up, one done")
    until(lambda: counted(figures, "failed", "timeout") == ["1"], "the timeout")
    assert time.monotonic() - hung < SECONDS
    assert ended(process)[0] == 3
    assert (metric(figures, "covct_up"), counted(figures, "done")) == (["0"], ["2"]), "before and after it"


def test_figures_say_that_a_run_is_over_whose_hung_process_had_to_be_killed(start, out, figures):
    process = start("--metrics", figures, misbehave="hang")
    until_at_work(process)
    time.sleep(1)  # it is in C by then
    process.send_signal(signal.SIGTERM)
    until(lambda: metric(figures, "covct_up") == ["0"], "the end")
    assert ended(process)[0] == 130
    assert (health(out), counted(figures, "done")) == ((0, "ended"), ["1"])


def test_a_run_goes_on_in_its_figures_when_its_process_is_killed(start, out, figures):
    process = start("--metrics", figures, misbehave="slow")
    until_at_work(process)
    os.kill(first := child_of(process), signal.SIGKILL)
    until_at_work(process)
    assert child_of(process) != first
    assert (metric(figures, "covct_up"), counted(figures, "done")) == (["1"], ["1"])


def test_a_source_that_does_not_answer_ends_the_watch(start, out, figures, monkeypatch):
    """A restart policy can act on a process that ended, not on one that hangs."""
    monkeypatch.setenv("COVCT_HUNG_S", "2")
    process = start(*WATCH, "--metrics", figures, command="watch", misbehave="stall")
    assert ended(process)[0] == 14
    assert (health(out), metric(figures, "covct_up")) == ((3, "broken"), ["0"])


@pytest.mark.parametrize(("asked", "wanted"), [("21:30", (2026, 1, 31, 21, 30)), ("20:30", (2026, 2, 1, 20, 30))])
def test_until_is_the_runs_not_the_processs(monkeypatch, asked, wanted):
    """A worker that is started anew at 22:00 goes on with the night that began at 21:00."""
    began = datetime(2026, 1, 31, 21, 0).astimezone()
    monkeypatch.setattr(options, "worker", lambda: supervisor.Worker(0, began, frozenset()))
    assert options.until_of(asked) == datetime(*wanted).astimezone()
    assert (began - options.since_of("2h")).total_seconds() == 7200


def test_a_share_that_is_no_longer_mounted_is_told_from_an_empty_inbox(tmp_path, monkeypatch):
    roots = Roots([tmp_path])
    assert roots.problems(0.0) == (True, [])
    monkeypatch.setattr(roots, "_devices", {tmp_path: -1})
    is_ok, [problem] = roots.problems(1.0)
    assert not is_ok and problem.slug == "source-gone" and "on a different file system" in problem.message
    assert roots.problems(2.0) == (False, []), "said"
    assert len(roots.problems(700.0)[1]) == 1, "said again"
    (tmp_path / "study").mkdir()
    assert roots.problems(701.0) == (True, [])


def test_a_share_that_was_mounted_anew_is_there_also_once_it_is_drained(tmp_path, monkeypatch):
    """Another number than at first, and later no files: everything was moved away."""
    roots = Roots([tmp_path])
    monkeypatch.setattr(roots, "_devices", {tmp_path: -1})
    (tmp_path / "study").mkdir()
    assert roots.problems(0.0) == (True, [])
    (tmp_path / "study").rmdir()
    assert roots.problems(1.0) == (True, [])


@pytest.mark.parametrize("is_there", [True, False], ids=["a quiet inbox", "a share that is gone"])
def test_a_watch_that_rests_for_hours_gives_signs_of_life(is_there, tmp_path, weights, monkeypatch):
    """Else its parent ends it in its sleep."""
    now, silent, stale = [0.0], [0.0], []
    order = batch.Order((tmp_path / "inbox",), tmp_path / "out", weights)
    (tmp_path / "inbox").mkdir()
    monkeypatch.setattr(Roots, "problems", lambda self, now: (is_there, []))

    def sleep(seconds):
        now[0] += seconds
        stale.append(now[0] - silent[0])
        if now[0] >= 8 * 3600:
            raise Stopped("SIGTERM")

    def heard(event):
        silent[0] = now[0]

    with pytest.raises(Stopped):
        batch.watch(order, lambda: None, heard, 30, 4 * 3600, sleep, lambda: now[0])
    assert now[0] == 8 * 3600 and max(stale) < min(status.MAX_AGE_S, supervisor.HUNG_S) / 10
    assert heartbeat.read_beat(order.out / ".covct").doing.step == heartbeat.IDLE


def test_a_look_over_many_files_gives_signs_of_life(inbox, tmp_path, weights, networks, monkeypatch):
    monkeypatch.setattr(heartbeat, "MOST_OFTEN_S", 0.0)
    events = []
    order = batch.Order((inbox,), tmp_path / "out", weights)
    batch.scan(order, lambda: networks, events.append)
    kinds = [one["event"] for one in events]
    assert kinds[: kinds.index("found")].count("alive") >= 89, "one a file"


def test_moving_away_what_is_done_gives_signs_of_life(inbox, tmp_path, weights, networks, monkeypatch):
    """Else the parent takes a night's moving for a source that does not answer, and ends it."""
    monkeypatch.setattr(heartbeat, "MOST_OFTEN_S", 0.0)
    order, events = batch.Order((inbox,), tmp_path / "out", weights, move_done=tmp_path / "moved"), []
    batch.scan(order, lambda: networks, events.append)
    kinds = [one["event"] for one in events]
    moved = len(list((tmp_path / "moved").rglob("*.dcm")))
    assert moved >= 30 and kinds[kinds.index("finished") :].count("alive") > moved, "one a file and one a study"


def test_health_finds_the_trees_of_what_runs_here(tmp_path):
    lines = {
        "1": ["tini", "--", "covct", "watch", "/in", "-o", "/results"],
        "2": ["/opt/covct/bin/python", "/opt/covct/bin/covct", "scan", "/in", "--out=/other"],
        "3": ["python", "-m", "covct", "scan", "/in", "-oout"],
        "4": ["covct", "health"],
        "5": ["covct", "train", "lungs", "-o", "/models"],
        "6": ["/opt/covct/bin/python", "/opt/covct/bin/covct", "platform", "auto"],
        "self": ["covct", "scan", "-o", "/no"],
    }
    for name, words in lines.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "cmdline").write_bytes(b"\0".join(map(os.fsencode, [*words, ""])))
        (tmp_path / name / "cwd").symlink_to("/zone")
    (tmp_path / "6/fd").mkdir()  # its output tree is in no word of it, but its lock is open
    for number, target in enumerate(("/dev/null", "/out/.covct-work/.covct/lock", "/out/lock")):
        (tmp_path / "6/fd" / str(number)).symlink_to(target)
    trees = ["/other", "/out/.covct-work", "/results", "/zone/out"]
    assert running.output_trees(tmp_path) == [*map(Path, trees)]


def test_health_without_a_tree_is_well_where_nothing_runs(monkeypatch):
    monkeypatch.setattr(running, "output_trees", lambda: [])
    result = invoke("health")
    assert (result.exit_code, "no scan or watch is running" in result.stdout) == (0, True)


@pytest.mark.parametrize(
    ("seconds", "words"), [(41, "41 s"), (125, "2 min"), (3600, "1 h"), (11100, "3 h 5 min"), (200000, "2 days")]
)
def test_lengths_of_time_are_said_as_people_do(seconds, words):
    assert status.span(seconds) == words


def test_every_line_of_the_nights_log_has_its_time(start, out):
    """Of the worker's events, of its errors, and of the parent that ended it."""
    process = start(misbehave="crash")
    _, stderr = process.communicate(timeout=60)
    lines = stderr.splitlines()
    assert any("was killed by SIGSEGV" in line for line in lines) and any("done" in line for line in lines)
    assert [line for line in lines if not re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ", line)] == []
    _, stderr = start(out / "absent").communicate(timeout=60)
    assert re.match(r"\d{4}-\d\d-\d\dT\S+Z  covct: no such file", stderr)
