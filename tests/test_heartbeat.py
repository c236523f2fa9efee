"""A sign of life that a health check can trust: fresh while covct works, old when it hangs, whatever the clock does."""

import errno
import json
import os
from dataclasses import asdict, replace

import numpy as np
import pytest

from covct.disk import state
from covct.errors import OutputNotWritable, Stopped
from covct.unattended import heartbeat
from support.running import invoke


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
    (private / heartbeat.NAME).write_text(json.dumps(asdict(replace(older, **changes))))


@pytest.mark.slow
def test_a_scan_leaves_a_sign_of_life(series_folder, tmp_path, weights, threshold_networks):
    assert invoke("scan", series_folder, "-o", tmp_path / "out", "--weights", weights).exit_code == 0
    code, told = health(tmp_path / "out")
    assert (code, told["healthy"], told["state"]) == (0, True, "ended")


def test_never_started_is_not_healthy(tmp_path):
    code, told = health(tmp_path)
    assert (code, told["state"]) == (3, None)


def test_a_hanging_watch_is_not_healthy(private):
    with state.lock(private.parent):
        heartbeat.beat(private, heartbeat.WORKING)
        assert health(private.parent)[0] == 0
        aged(private, 2000)
        code, told = health(private.parent)
        assert (code, told["state"]) == (3, "hung")
        assert health(private.parent, "--max-age", 3000)[0] == 0


def test_a_killed_one_is_not_healthy_at_once(private):
    """Its last beat is fresh, and says that it works: that nothing holds the tree tells."""
    heartbeat.beat(private, heartbeat.WORKING)
    code, told = health(private.parent)
    assert (code, told["state"]) == (3, "dead")


def test_a_beat_needs_no_room_and_no_new_name(private, monkeypatch):
    """A disk that is full, or has no inodes left, takes what is overwritten in place: the end of a run is told."""
    heartbeat.beat(private, heartbeat.WORKING)
    size, inode = (private / heartbeat.NAME).stat().st_size, (private / heartbeat.NAME).stat().st_ino
    opened = os.open

    def full(path, flags, *args, **options):
        if flags & os.O_TRUNC or not os.path.exists(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(path, flags, *args, **options)

    monkeypatch.setattr(heartbeat.os, "open", full)
    monkeypatch.setattr(heartbeat.os, "replace", None)
    heartbeat.beat(private, heartbeat.BROKEN, heartbeat.Doing(folder="1.2/3.4", step="lungs" * 50))
    found = (private / heartbeat.NAME).stat()
    assert (found.st_size, found.st_ino) == (size, inode) == (heartbeat.SIZE, inode)
    assert heartbeat.read_beat(private).state == "broken"


def test_a_beat_of_another_version_is_read(private):
    heartbeat.beat(private, heartbeat.ENDED)
    said = json.loads((private / heartbeat.NAME).read_text())
    older = {name: value for name, value in said.items() if name != "doing"}
    newer = {**said, "mood": "good", "doing": {**said["doing"], "more": 1}}
    for one in (older, newer):
        (private / heartbeat.NAME).write_text(json.dumps(one))
        assert heartbeat.read_beat(private).state == "ended"


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
    ("error", "how", "code"), [(OutputNotWritable("full"), "broken", 3), (Stopped("SIGTERM"), "ended", 0)]
)
def test_an_error_is_broken_and_a_stop_is_not(private, error, how, code):
    with pytest.raises(type(error)), heartbeat.kept(private, lambda event: None):
        assert heartbeat.read_beat(private).state == "working"
        raise error
    assert heartbeat.read_beat(private).state == how
    assert health(private.parent)[0] == code


def test_each_event_is_a_beat_but_not_thousands_a_second(private, monkeypatch):
    now, beats = [0.0], []
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(heartbeat, "beat", lambda private, state, doing: beats.append(now[0]))
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


@pytest.mark.slow
def test_a_long_step_gives_signs_between_its_calls_of_the_network(series_folder, tmp_path, weights, networks):
    from covct.unattended import batch

    events = []
    batch.scan(batch.Order((series_folder,), tmp_path / "out", weights), lambda: networks, events.append)
    kinds = [(event["event"], event.get("step")) for event in events]
    assert ("alive", None) in kinds[kinds.index(("step", "lungs")) :]


def test_every_way_to_ask_a_network_gives_a_sign(networks):
    """The first look at a slice describes it too, and where nothing is called there is no second."""
    from covct.unattended.preparing import _signs_of_life

    def describe(slices):
        return networks.infection.predict(slices), np.zeros((len(slices), 2))

    one = replace(networks.infection, describe=describe)
    events = []
    watched = _signs_of_life(replace(networks, infection=replace(one, members=(one,))), events.append).infection
    for ask in (watched.predict, watched.describe, watched.members[0].describe):
        before = len(events)
        ask(np.zeros((1, 4, 4, 1), np.float32))
        assert len(events) == before + 1
