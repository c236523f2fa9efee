"""`covct node`: what died is started again, what cannot work ends it, and a bad night loses nothing."""

import json
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from covct.disk.places import PRIVATE
from covct.errors import Stopped, UsageError
from covct.exchange import node
from covct.exchange.node import Part, run
from covct.exchange.node_figures import write_figures
from covct.unattended.parts import PartState, forget_parts, note_parts
from support.running import invoke

HERE = Path(__file__).parent


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(node, "TICK_S", 0.02)
    monkeypatch.setattr(node, "FIRST_DELAY_S", 0.05)


def parts_that(monkeypatch, script: str, *names: str) -> list[Part]:
    """Parts whose processes run a script that gets their name."""
    monkeypatch.setattr(node, "_program", lambda: [sys.executable, "-S", "-c", script])
    return [Part(name, ()) for name in names]


def stopping_when(condition):
    def note(states):
        if condition(states):
            raise Stopped("SIGTERM")

    return note


@pytest.mark.parametrize("end", ["sys.exit(1)", "os.kill(os.getpid(), 9)"])
def test_a_part_that_dies_is_started_again_later_and_later(end, quick, monkeypatch):
    events = []
    [part] = parts_that(monkeypatch, f"import os, sys; {end}", "watch")
    with pytest.raises(Stopped):
        run([part], events.append, stopping_when(lambda states: states[0].restarts == 3))
    assert [event["again_in_s"] for event in events] == [0.05, 0.1, 0.2]
    assert {event["exit_code"] for event in events} == {1 if "exit" in end else -9}


def test_a_part_that_was_well_starts_at_once(quick, monkeypatch):
    monkeypatch.setattr(node, "WELL_S", 0.0)
    events = []
    [part] = parts_that(monkeypatch, "raise SystemExit(1)", "watch")
    with pytest.raises(Stopped):
        run([part], events.append, stopping_when(lambda states: states[0].restarts == 3))
    assert {event["again_in_s"] for event in events} == {0.0}


@pytest.mark.parametrize(("code", "lasts"), [(2, True), (10, True), (13, True), (1, False), (11, False), (12, False)])
def test_what_another_start_cannot_mend_ends_the_node_with_its_exit_code(code, lasts, quick, monkeypatch):
    script = f"import sys, time; sys.exit({code}) if sys.argv[1] == 'watch' else time.sleep(60)"
    parts, seen = parts_that(monkeypatch, script, "listen", "watch"), []

    def note(states):
        seen[:] = states
        if states[1].restarts > 0:
            raise Stopped("SIGTERM")

    if lasts:
        assert run(parts, lambda event: None, note) == code
    else:
        with pytest.raises(Stopped):
            run(parts, lambda event: None, note)


def test_parts_end_in_order_and_one_that_does_not_is_killed(quick, monkeypatch, tmp_path):
    monkeypatch.setattr(node, "STOP_GRACE_S", 2.0)
    script = f"""
import pathlib, signal, sys, time
here = pathlib.Path({str(tmp_path)!r})
def end(*_):
    (here / 'ended').open('a').write(sys.argv[1] + ' ')
    if sys.argv[1] != 'deaf':
        sys.exit(130)
signal.signal(signal.SIGTERM, end)
(here / sys.argv[1]).touch()
time.sleep(30)
time.sleep(30)
"""
    parts = parts_that(monkeypatch, script, "listen", "deaf", "watch")
    monkeypatch.setattr(node, "NOTE_EVERY_S", 0.05)
    with pytest.raises(Stopped):
        run(parts, lambda event: None, stopping_when(lambda _: all((tmp_path / one.name).exists() for one in parts)))
    assert (tmp_path / "ended").read_text() == "listen deaf watch "


def test_one_metrics_file(tmp_path):
    watch, listen, both = (tmp_path / name for name in ("watch.prom", "listen.prom", "node.prom"))
    watch.write_text("# HELP covct_up it runs\n# TYPE covct_up gauge\ncovct_up 1.0\n")
    listen.write_text(
        "# HELP covct_up it runs\n# TYPE covct_up gauge\ncovct_up 1.0\n"
        "# HELP covct_instances_received_total i\n# TYPE covct_instances_received_total counter\n"
        'covct_instances_received_total{outcome="stored"} 4.0\n'
    )
    write_figures(both, watch, listen, [PartState("listen", True, 0, None), PartState("watch", False, 2, 1)])
    from prometheus_client.parser import text_string_to_metric_families

    samples = [sample for family in text_string_to_metric_families(both.read_text()) for sample in family.samples]
    found = {(one.name, *one.labels.values()): one.value for one in samples}
    assert len(found) == len(samples)  # no family twice
    assert found == {
        ("covct_up",): 1.0,
        ("covct_instances_received_total", "stored"): 4.0,
        ("covct_part_up", "listen"): 1.0,
        ("covct_part_up", "watch"): 0.0,
        ("covct_part_restarts", "listen"): 0.0,
        ("covct_part_restarts", "watch"): 2.0,
    }


def test_health_says_which_part_is_down(tmp_path):
    (tmp_path / PRIVATE).mkdir()
    note_parts(tmp_path / PRIVATE, [PartState("listen", False, 3, 12), PartState("watch", True, 0, None)])
    told = invoke("health", tmp_path)
    assert told.exit_code == 3
    assert "the node's listen is down: it ended with exit code 12" in told.stdout
    assert "watch is down" not in told.stdout
    as_json = json.loads(invoke("health", tmp_path, "--json").stdout)
    assert as_json["healthy"] is False
    assert as_json["down"] == ["listen"]


def test_status_says_how_the_parts_are(tmp_path):
    (tmp_path / PRIVATE).mkdir()
    parts = [PartState("listen", True, 0, None), PartState("watch", False, 3, 12)]
    note_parts(tmp_path / PRIVATE, parts)
    said = " ".join(invoke("status", tmp_path).stdout.split())
    assert "node listen is up; watch is down: it ended with exit code 12, started again 3 times" in said
    assert json.loads(invoke("status", tmp_path, "--json").stdout)["parts"] == [asdict(part) for part in parts]
    forget_parts(tmp_path / PRIVATE)
    assert "node" not in invoke("status", tmp_path).stdout.split()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--address", "0.0.0.0"], "wanted --allow"), (["--tls-key", "node.key"], "one is missing")],
)
def test_what_cannot_work_is_said_at_once(arguments, said, tmp_path):
    error = invoke("node", tmp_path / "inbox", tmp_path / "out", *arguments).exception
    assert isinstance(error, UsageError)
    assert said in str(error)
    assert not (tmp_path / "inbox").exists()


def test_what_is_not_covcts_is_not_written_over(tmp_path):
    """The node makes its folder first; its watch would then take the tree for its own."""
    (out := tmp_path / "out").mkdir()
    (out / "index.html").write_text("somebody's")
    error = invoke("node", tmp_path / "inbox", out).exception
    assert isinstance(error, UsageError) and "its index.html is not covct's" in str(error)
    error = invoke("node", tmp_path / "inbox", tmp_path / "inbox/out").exception
    assert isinstance(error, UsageError) and "OUT" in str(error)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "index.html"]


@pytest.mark.slow
def test_a_bad_night_shortened(tmp_path):
    """Whole, in half an hour: `python tests/node_campaign.py`."""
    command = [sys.executable, HERE / "node_campaign.py", "--folder", tmp_path, "--studies", "2", "--kills", "1"]
    command += ["--life", "2"]
    campaign = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if "is not installed" in campaign.stderr:
        pytest.skip(campaign.stderr.splitlines()[-1])
    night = json.loads(campaign.stdout)
    assert not night["faults"]
    assert (night["studies"], night["kills"], night["objects"]) == (2, 1, 4)
    assert campaign.returncode == 0


def test_a_stop_signal_ends_a_node(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "covct", "node", tmp_path / "inbox", tmp_path / "out", "--port", "0", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    said = {json.loads(process.stdout.readline())["event"] for _ in range(2)}
    assert said == {"listening", "watching"}
    process.send_signal(signal.SIGTERM)
    assert process.wait(15) == 130
    assert not list((tmp_path / "out" / PRIVATE).glob("node.json"))
