"""A process that hangs, crashes or is stopped, with another one looking after it: what a night does at 03:00."""

import signal
import time
from pathlib import Path

import pytest

import covct
from covct.unattended import supervisor
from support.processes import VICTIM, child_of, ended, outcomes, until_at_work
from support.running import read_json

pytestmark = pytest.mark.slow

ROOT = Path(covct.__file__).parent.parent


@pytest.mark.parametrize("how", ["hang", "hang early"])
def test_a_series_that_hangs_in_c_is_ended_and_the_others_are_done(start, tmp_path, how):
    code, told, _ = ended(start("--series-timeout=8", misbehave=how))
    assert code == 3
    assert {folder: event for folder, (event, _) in told.items()} == {
        "1.2.1/1.2.1.1": "done", VICTIM: "failed", "1.2.3/1.2.3.1": "done",
    }  # fmt: skip
    found = outcomes(tmp_path / "out")[VICTIM]
    assert (found.status, found.slug) == ("failed", "timeout")
    assert "8 s" in found.message
    [run] = (tmp_path / "out" / "runs").iterdir()
    assert sum(row["series"] for row in read_json(run)["outcomes"]) == 3, "one run, whoever worked"
    assert read_json(run)["finished_before"] == []


def test_a_series_that_crashes_the_process_costs_only_itself(start, tmp_path):
    """Three processes die at it, and the fourth records it and goes on."""
    code, told, counts = ended(start(misbehave="crash"))
    assert code == 3
    assert (counts["done"], counts["failed"]) == (2, 1), "of this run, whichever of its processes did them"
    assert "done before" not in counts
    assert told[VICTIM] == ("failed", "crashed-repeatedly")
    assert told["1.2.3/1.2.3.1"][0] == "done"


def test_networks_that_never_load_end_the_run_and_are_no_series_fault(start, tmp_path):
    """A weights file of 35 KB was read for ever, and the series' timeout did not count it."""
    code, told, _ = ended(start(misbehave="load"))
    assert code == 10
    assert not told
    assert not list((tmp_path / "out").rglob("attempt.json")), "the next run begins with none"


def test_a_series_has_an_hour_unless_more_is_said():
    from inspect import signature

    from covct.commands.scan import scan_command, watch_command

    for command in (scan_command, watch_command):
        assert signature(command).parameters["series_timeout"].default == supervisor.LONGEST_SERIES_S == 3600


def test_a_process_killed_between_two_series_is_followed_by_another(start, tmp_path):
    """For want of memory while the summary is written, say: the night is not over."""
    code, told, _ = ended(start(misbehave="die 2"))
    assert code == 0
    assert {event for event, _ in told.values()} <= {"done", "skipped"}
    assert (tmp_path / "out" / "summary.csv").exists()


def test_a_process_killed_again_and_again_between_two_series_is_given_up(start, tmp_path):
    code, *_ = ended(start(misbehave="die 9"))
    assert code == 1
    assert len((tmp_path / "out" / "runs" / "deaths").read_text()) == 4
    assert len(outcomes(tmp_path / "out")) == 3, "what was finished stays"


def test_sigterm_ends_a_call_into_c_within_five_seconds_and_is_no_attempt(start, tmp_path):
    process = start(misbehave="hang")
    until_at_work(process)
    worker, begun = child_of(process), time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=20)
    assert time.monotonic() - begun < 5
    assert process.returncode == 130
    assert "finished series are kept" in stderr
    assert not Path(f"/proc/{worker}").exists()
    assert not list((tmp_path / "out" / ".covct" / "attempts").iterdir())
    assert ended(start())[0] == 0
    assert {o.status for o in outcomes(tmp_path / "out").values()} == {"done"}


def test_a_stop_signal_ends_python_at_once(start, tmp_path):
    process = start(misbehave="slow")
    until_at_work(process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 130
    [run] = (tmp_path / "out" / "runs").iterdir()
    assert read_json(run)["end"] == "stopped"
    assert (tmp_path / "out" / "summary.csv").read_text().count("1.2.1.1") >= 1


def test_when_the_parent_is_killed_the_child_dies_and_frees_the_tree(start, tmp_path):
    """docker kill, the OOM killer: nobody may go on writing into the tree unseen."""
    process = start(misbehave="hang")
    until_at_work(process)
    process.kill()
    process.communicate()
    assert ended(start())[0] == 0
    assert {o.status for o in outcomes(tmp_path / "out").values()} == {"done"}


def test_a_series_time_runs_while_its_steps_do():
    work = supervisor.Work(began=None, timeout_s=10)
    work.hear({"event": "started", "folder": "s/t"})
    assert not work.counting
    work.hear({"event": "step", "folder": "s/t", "step": "networks"})
    assert not work.counting, "the networks are loaded once, which is no series' fault"
    work.hear({"event": "step", "folder": "s/t", "step": "lungs"})
    assert work.counting
    work.elapsed_s = 10.1
    assert work.too_long
    work.hear({"event": "done", "folder": "s/t"})
    assert not work.too_long
    assert work.finished == {"s/t"}


def test_a_series_whose_result_stays_is_at_work_no_longer():
    """Its time stands still; and it is not finished by this run, as whoever forces or retries asks."""
    work = supervisor.Work(began=None, timeout_s=10)
    work.hear({"event": "started", "folder": "s/t"})
    work.hear({"event": "step", "folder": "s/t", "step": "load"})
    work.hear({"event": "unchanged", "folder": "s/t"})
    work.pass_time(3600)
    assert not work.too_long and not work.counting
    assert not work.finished
