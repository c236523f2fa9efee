"""A sign of life that a health check can trust: fresh while covct works, old when it hangs, whatever the clock does."""

import json
from dataclasses import replace

import pytest
from test_cli import invoke, threshold_networks  # noqa: F401 - a fixture

from covct import heartbeat
from covct.errors import OutputNotWritable, Stopped


def health(out, *options):
    result = invoke("health", out, "--json", *options)
    return result.exit_code, json.loads(result.stdout)


@pytest.fixture
def private(tmp_path):
    (tmp_path / ".covct").mkdir()
    return tmp_path / ".covct"


def aged(private, seconds, **changes):
    """The last beat made older."""
    last = heartbeat.read_beat(private)
    older = replace(last, unix=last.unix - seconds, since_boot=last.since_boot - seconds)
    (private / heartbeat.NAME).write_text(json.dumps(vars(replace(older, **changes))))


def test_a_scan_leaves_a_sign_of_life(series_folder, tmp_path, weights, threshold_networks):  # noqa: F811
    assert invoke("scan", series_folder, "-o", tmp_path / "out", "--weights", weights).exit_code == 0
    code, told = health(tmp_path / "out")
    assert (code, told["healthy"], told["state"]) == (0, True, "ended")


def test_never_started_is_not_healthy(tmp_path):
    code, told = health(tmp_path)
    assert (code, told["state"]) == (3, None)


def test_a_hanging_watch_is_not_healthy(private):
    heartbeat.beat(private, heartbeat.WORKING)
    assert health(private.parent)[0] == 0
    aged(private, 2000)
    assert health(private.parent)[0] == 3
    assert health(private.parent, "--max-age", 3000)[0] == 0


def test_a_beat_cut_short_leaves_nothing_for_good(private, monkeypatch):
    """Killed, or the disk full, between writing it and giving it its name: a restart loop must not fill the folder."""

    def killed(*_):
        raise Stopped("SIGKILL")

    for process in (1, 2):
        monkeypatch.setattr(heartbeat.os, "getpid", lambda process=process: process)
        with monkeypatch.context() as patch, pytest.raises(Stopped):
            patch.setattr(heartbeat.os, "replace", killed)
            heartbeat.beat(private, heartbeat.WORKING)
    heartbeat.beat(private, heartbeat.WORKING)
    assert [path.name for path in private.iterdir()] == [heartbeat.NAME]


@pytest.mark.parametrize("hours", [-30, 30])
def test_a_clock_that_was_set_changes_nothing(private, monkeypatch, hours):
    heartbeat.beat(private, heartbeat.WORKING)
    aged(private, 10)
    if not heartbeat.read_beat(private).boot:
        pytest.skip("this kernel does not say which start of the machine it is")
    now = heartbeat.time.time()
    monkeypatch.setattr(heartbeat.time, "time", lambda: now + 3600 * hours)
    assert 10 <= heartbeat.age_s(heartbeat.read_beat(private)) < 60


def test_after_the_machine_was_started_anew_the_clock_decides(private):
    heartbeat.beat(private, heartbeat.WORKING)
    aged(private, 5000, boot="another", since_boot=1e9)
    assert 5000 <= heartbeat.age_s(heartbeat.read_beat(private)) < 5060


@pytest.mark.parametrize(
    ("error", "state", "code"), [(OutputNotWritable("full"), "broken", 3), (Stopped("SIGTERM"), "ended", 0)]
)
def test_an_error_is_broken_and_a_stop_is_not(private, error, state, code):
    with pytest.raises(type(error)), heartbeat.kept(private, lambda event: None):
        assert heartbeat.read_beat(private).state == "working"
        raise error
    assert heartbeat.read_beat(private).state == state
    assert health(private.parent)[0] == code


def test_each_event_is_a_beat_but_not_thousands_a_second(private, monkeypatch):
    now, beats = [0.0], []
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(heartbeat, "beat", lambda private, state: beats.append(now[0]))
    with heartbeat.kept(private, lambda event: None) as emit:
        for now[0] in (0.1, 0.5, 1.5, 1.6, 9.0):
            emit({"event": "alive"})
    assert beats == [0.0, 1.5, 9.0, 9.0]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"state": "working"}'])
def test_a_damaged_sign_is_none(private, content):
    (private / heartbeat.NAME).write_text(content)
    assert health(private.parent)[0] == 3


def test_a_disk_that_takes_no_sign_does_not_stop_the_work(tmp_path):
    heartbeat.beat(tmp_path / "absent", heartbeat.WORKING)


def test_a_long_step_gives_signs_between_its_calls_of_the_network(series_folder, tmp_path, weights, networks):
    from covct import batch

    events = []
    batch.scan(batch.Order((series_folder,), tmp_path / "out", weights), lambda: networks, events.append)
    kinds = [(event["event"], event.get("step")) for event in events]
    assert ("alive", None) in kinds[kinds.index(("step", "lungs")) :]
