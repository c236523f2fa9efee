"""The ledger: what a crash leaves, and what it does not."""

import json
import multiprocessing
import os
from dataclasses import asdict

import pytest

from covct import state
from covct.errors import OutputLocked, OutputNotWritable


def outcome(key="k1", status="done"):
    return state.Outcome(status=status, work_key=key)


def stage_with(out, key, text):
    stage = state.new_stage(out, key)
    (stage / "report.json").write_text(text)
    return stage


def test_work_key_knows_the_input_the_settings_and_the_weights():
    base = state.work_key(("1.2", "1.3"), {"formats": ["seg"]}, {"lungs": "aa", "infection": "bb"})
    assert state.work_key(("1.3", "1.2"), {"formats": ["seg"]}, {"infection": "bb", "lungs": "aa"}) == base
    assert state.work_key(("1.3",), {"formats": ["seg"]}, {"lungs": "aa", "infection": "bb"}) != base
    assert state.work_key(("1.2", "1.3"), {"formats": ["png"]}, {"lungs": "aa", "infection": "bb"}) != base
    assert state.work_key(("1.2", "1.3"), {"formats": ["seg"]}, {"lungs": "aa", "infection": "cc"}) != base
    assert state.work_key(("1.2", "1.3"), {"formats": ["seg"]}, {"lungs": "bb", "infection": "aa"}) != base


def test_commit_and_read(tmp_path):
    state.commit(tmp_path, "study/series", stage_with(tmp_path, "k1", "{}"), outcome())
    assert state.read_outcome(tmp_path / "study/series") == outcome()


def test_a_new_result_replaces_the_old_whole(tmp_path):
    state.commit(tmp_path, "s/t", stage_with(tmp_path, "k1", "old"), outcome("k1"))
    (tmp_path / "s/t/extra").write_text("of the old result")
    state.commit(tmp_path, "s/t", stage_with(tmp_path, "k2", "new"), outcome("k2"))
    assert (tmp_path / "s/t/report.json").read_text() == "new"
    assert not (tmp_path / "s/t/extra").exists()
    assert not list((tmp_path / ".covct" / "old").glob("*/*"))


def test_killed_between_the_two_renames_the_old_result_comes_back(tmp_path, monkeypatch):
    state.commit(tmp_path, "s/t", stage_with(tmp_path, "k1", "old"), outcome("k1"))
    stage = stage_with(tmp_path, "k2", "new")
    rename = os.rename

    def killed(source, target):
        if source == stage:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        state.commit(tmp_path, "s/t", stage, outcome("k2"))
    monkeypatch.undo()
    assert not (tmp_path / "s/t").exists()
    state.recover(tmp_path)
    assert state.read_outcome(tmp_path / "s/t").work_key == "k1"
    assert (tmp_path / "s/t/report.json").read_text() == "old"
    assert not (tmp_path / ".covct" / "staging").exists()


def test_a_stage_without_outcome_is_no_result(tmp_path):
    stage_with(tmp_path, "k1", "half")
    state.recover(tmp_path)
    assert not list(tmp_path.glob("*/*/report.json"))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"status": "done"}', '{"unknown": 1}'])
def test_a_damaged_outcome_is_none(tmp_path, content):
    (tmp_path / "outcome.json").write_text(content)
    assert state.read_outcome(tmp_path) is None


def test_attempts_count_for_one_key_only(tmp_path):
    assert [state.begin_attempt(tmp_path, "s/t", "k1") for _ in range(3)] == [1, 2, 3]
    assert state.begin_attempt(tmp_path, "s/t", "k2") == 1
    state.end_attempt(tmp_path, "s/t")
    assert state.begin_attempt(tmp_path, "s/t", "k2") == 1


def _hold(out, ready, done):
    with state.lock(out):
        ready.set()
        done.wait(20)


def test_a_second_process_is_told_who_holds_the_tree(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, ready, done))
    holder.start()
    assert ready.wait(20)
    with pytest.raises(OutputLocked, match=f"process {holder.pid}"), state.lock(tmp_path):
        pass
    done.set()
    holder.join()
    with state.lock(tmp_path):
        pass


def test_lock_of_a_killed_process_is_free(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, ready, done))
    holder.start()
    assert ready.wait(20)
    holder.kill()
    holder.join()
    with state.lock(tmp_path):
        pass


def test_output_below_a_file_is_not_writable(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputNotWritable, match="cannot write results"), state.lock(tmp_path / "file" / "out"):
        pass


def test_nan_never_reaches_a_json_file(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        state.write_json(tmp_path / "a.json", {"percent": float("nan")})


def test_outcome_is_plain_json(tmp_path):
    state.write_json(tmp_path / "outcome.json", asdict(outcome()))
    assert json.loads((tmp_path / "outcome.json").read_text())["status"] == "done"
