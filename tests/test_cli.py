"""The program as a person or a pipeline runs it: exit codes, stdout and stderr."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
import typer

import covct
from covct import cli
from covct.errors import UsageError
from support.batches import well_told
from support.checkout import ROOT
from support.running import invoke, run


def test_json_events_are_one_object_a_line_on_stdout(series_folder, tmp_path, weights, threshold_networks):
    result = invoke(
        "scan", series_folder, "--out", tmp_path / "out", "--weights", weights, "--formats", "seg", "--json"
    )
    assert result.exit_code == 0
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [e["event"] for e in well_told(events) if e["event"] != "step"] == ["found", "started", "done", "finished"]
    done = next(e for e in events if e["event"] == "done")
    assert done["infection_percent"] > 0
    assert "Research use only" in done["research_use"]


def test_without_json_stdout_is_empty(series_folder, tmp_path, weights, threshold_networks):
    result = invoke("scan", series_folder, "--out", tmp_path / "out", "--weights", weights, "--formats", "seg")
    assert (result.exit_code, result.stdout) == (0, "")
    assert (tmp_path / "out" / "summary.csv").exists()
    assert "Research use only" in (tmp_path / "out" / "index.html").read_text()


def test_strict_turns_a_rejection_into_exit_3_also_on_the_second_run(
    series_folder, tmp_path, weights, threshold_networks
):
    sorted(series_folder.iterdir())[10].unlink()
    arguments = ("scan", series_folder, "--out", tmp_path / "out", "--weights", weights)
    assert invoke(*arguments).exit_code == 0
    assert invoke(*arguments, "--strict").exit_code == 3
    assert invoke(*arguments, "--strict", "--force").exit_code == 3


def test_dry_run_says_what_and_why_and_writes_nothing(series_folder, tmp_path, weights):
    shutil.copytree(series_folder, tmp_path / "gap")
    for path in sorted((tmp_path / "gap").iterdir())[10:12]:
        path.unlink()
    result = run("scan", tmp_path / "gap", series_folder, "--out", tmp_path / "out", "--dry-run", "--weights", weights)
    assert result.returncode == 0
    assert "segment" in result.stdout
    assert "Research use only" in result.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["scan", "/nonexistent", "--out", "{tmp}/out"], 2, "no such file or directory: /nonexistent"),
        (["watch", "/nonexistent", "--out", "{tmp}/out"], 2, "no such directory"),
        (["status", "/nonexistent"], 2, "no such directory"),
        (["scan", "{tmp}/in", "--out", "{tmp}/out", "--formats", "seg,jpeg"], 2, "unknown format jpeg"),
        (["scan", "{tmp}/in", "--out", "{tmp}/out", "--weights", "{tmp}/none"], 10, "wanted a folder with lungs.json"),
        (["scan", "{tmp}/in", "--out", "/proc/out"], 12, "cannot write"),
        (["scan", "{tmp}/in"], 2, "--out"),
        (["scan", "{tmp}/in", "--out", "{tmp}/out", "--move-done", "{tmp}/in/moved"], 2, "nor contains it"),
        (["watch", "{tmp}/in", "--out", "{tmp}/out", "--marker", "a/b"], 2, "not a path"),
    ],
)
def test_exit_codes(arguments, code, words, tmp_path, weights):
    (tmp_path / "in").mkdir()
    result = run(*(a.format(tmp=tmp_path) for a in arguments), COVCT_WEIGHTS=str(weights))
    assert result.returncode == code, result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_empty_directory_is_exit_0_and_says_so(tmp_path, weights):
    (tmp_path / "in").mkdir()
    result = run("scan", tmp_path / "in", "--out", tmp_path / "out", COVCT_WEIGHTS=str(weights))
    assert result.returncode == 0
    assert "0 series found" in result.stderr
    assert "nothing to do" in result.stderr


def test_second_process_on_one_tree_is_exit_11(tmp_path, weights):
    from covct.disk import state

    (tmp_path / "in").mkdir()
    with state.lock(tmp_path / "out"):
        result = run("scan", tmp_path / "in", "--out", tmp_path / "out", COVCT_WEIGHTS=str(weights))
    assert result.returncode == 11
    assert f"process {os.getpid()}" in result.stderr


def test_watch_ends_on_sigterm_with_130(tmp_path, weights):
    (tmp_path / "in").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "covct", "watch", tmp_path / "in", "-o", tmp_path / "out", "--interval=0.2", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COVCT_WEIGHTS": str(weights)},
    )  # fmt: skip
    assert json.loads(process.stdout.readline())["event"] == "watching"
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "finished series are kept" in stderr


def test_status_counts_by_reason(series_folder, tmp_path, weights, threshold_networks):
    sorted(series_folder.iterdir())[10].unlink()
    invoke("scan", series_folder, "--out", tmp_path / "out", "--weights", weights)
    result = invoke("status", tmp_path / "out", "--json")
    assert json.loads(result.stdout)["by_outcome"] == [{"status": "rejected", "slug": "missing-slices", "series": 1}]
    assert "missing-slices" in invoke("status", tmp_path / "out").stdout


def test_version():
    result = run("--version")
    assert result.stdout.startswith(f"covct {covct.__version__}")


@pytest.mark.parametrize("command", ["scan", "watch", "convert"])
@pytest.mark.parametrize("where", ["equal", "inside", "around"])
def test_results_among_sources_are_a_usage_error_before_anything_is_written(
    series_folder, tmp_path, weights, command, where, monkeypatch
):
    """Results would be found as sources the next night, or sources among the results."""
    inbox = tmp_path / "a" / "inbox"
    shutil.copytree(series_folder, inbox)
    out = {"equal": inbox, "inside": inbox / "out", "around": tmp_path / "a"}[where]
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setenv("COVCT_WEIGHTS", str(weights))
    refused = invoke(command, inbox, "--out", out).exception
    assert isinstance(refused, UsageError) and "wanted a directory that neither lies in" in str(refused)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_source_named_twice_or_within_another_is_counted_once(series_folder, tmp_path, weights):
    inbox = tmp_path / "inbox"
    shutil.copytree(series_folder, inbox / "study")
    slices = len(list((inbox / "study").iterdir()))
    for sources in ([inbox, inbox], [inbox, inbox / "study"], [inbox / "study", inbox / "." / "study"]):
        shown = invoke("scan", *sources, "--out", tmp_path / "out", "--weights", weights, "--dry-run", "--json")
        [row] = well_told([json.loads(line) for line in shown.stdout.splitlines()])
        assert (row["verdict"], row["slices"]) == ("segment", slices)


def test_the_list_of_commands_says_what_each_says_of_itself():
    """It is written twice, so that the list can be shown without importing what it lists."""
    group: Any = typer.main.get_command(cli.app)
    for name, listed in group.commands.items():
        command = group.named(name)
        assert listed.help == command.help.split("\n\n")[0].replace("\n", " ")
        assert (listed.name, listed.rich_help_panel) == (command.name, command.rich_help_panel)
        assert command.params or command.commands


def test_a_mistyped_command_and_option_are_met_with_the_near_one(tmp_path):
    for arguments, near in [(["scna"], "'scan'"), (["scan", "--ot", "x"], "--out")]:
        told = run(*arguments, cwd=tmp_path)
        assert told.returncode == 2 and near in told.stderr


@pytest.mark.parametrize(
    ("words", "wanted"), [("covct s", "scan status summary send"), ("covct verify --dc", "--dciodvfy")]
)
def test_a_shell_completes_commands_and_options(words, wanted):
    asked = {"_COVCT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    code = "import sys; sys.argv[0] = 'covct'; from covct.cli import main; main()"
    told = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == wanted.split()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--formats", ""), "--formats names no format; wanted seg, "),
        (("--memory-limit", "0.01"), "--memory-limit 0.01 GiB: wanted at least 0.5"),
        (("--metrics", "/nowhere/covct.prom"), "no such directory: /nowhere"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_at_once(options, said, series_folder, tmp_path, weights):
    refused = invoke("scan", series_folder, "--out", tmp_path / "out", "--weights", weights, *options)
    assert isinstance(refused.exception, UsageError) and said in str(refused.exception)
    assert not (tmp_path / "out").exists()


def test_a_foreign_page_is_not_written_over(series_folder, tmp_path, weights):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "index.html").write_text("somebody's")
    for command in (
        ("scan", series_folder, "--out", tmp_path / "out", "--weights", weights),
        ("summary", tmp_path / "out"),
        ("status", tmp_path / "out"),
    ):
        assert isinstance(invoke(*command).exception, UsageError)
    assert (tmp_path / "out" / "index.html").read_text() == "somebody's"


def test_an_empty_mount_is_a_good_night_only_where_none_was_expected(tmp_path, weights, threshold_networks):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "note.txt").write_text("no CT")
    arguments = ("scan", tmp_path / "in", "--out", tmp_path / "out", "--weights", weights)
    ended = invoke(*arguments)
    assert ended.exit_code == 0 and ", 1 other files (of pictures" in ended.stderr
    assert invoke(*arguments, "--expect-input").exit_code == 3


def test_figures_may_lie_in_a_tree_that_is_still_to_be_made(series_folder, tmp_path, weights, threshold_networks):
    metrics = tmp_path / "out" / "covct.prom"
    arguments = ("scan", series_folder, "--out", tmp_path / "out", "--weights", weights, "--formats", "none")
    assert invoke(*arguments, "--metrics", metrics).exit_code == 0 and metrics.exists()


def test_a_fresh_volume_is_nobodys(tmp_path):
    (tmp_path / "lost+found").mkdir()
    (tmp_path / ".gitkeep").touch()
    assert invoke("status", tmp_path).exit_code == 0


def test_an_unreadable_file_is_no_series(series_folder, tmp_path, weights, threshold_networks):
    for path in sorted(series_folder.iterdir()):
        path.write_bytes(path.read_bytes()[:400])
    arguments = ("scan", series_folder, "--out", tmp_path / "out", "--weights", weights)
    assert invoke(*arguments, "--expect-input").exit_code == 3


def test_a_series_that_is_not_there_is_no_good_night(series_folder, tmp_path, weights, threshold_networks):
    arguments = ("scan", series_folder, "--out", tmp_path / "out", "--weights", weights, "--formats", "none")
    assert invoke(*arguments, "--series", "9.9").exit_code == 3
    assert invoke(*arguments, "--expect-input").exit_code == 0
    assert invoke(*arguments, "--expect-input").exit_code == 0, "finished before counts"
