"""covct.toml: where it is found, what goes before what, and what a mistake in it is told as."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from covct import cli
from covct.commands import scan
from covct.commands.config_file import lines_of
from covct.errors import UsageError
from covct.unattended import supervisor
from support.running import invoke

ROOT = Path(cli.__file__).parents[1]


@pytest.fixture(autouse=True)
def no_settings_of_the_machine(monkeypatch):
    for name in [name for name in os.environ if name.startswith("COVCT_") and name != "COVCT_DATA"]:
        monkeypatch.delenv(name)


def held(*arguments):
    """Value and origin of each setting of a command, by its name."""
    ended = invoke("config", "--json", *arguments)
    assert ended.exit_code == 0, ended.output
    return {one["name"]: (one["value"], one["from"]) for one in json.loads(ended.stdout)["settings"]}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def refused(*arguments) -> str:
    ended = invoke(*arguments)
    assert isinstance(ended.exception, UsageError), ended.output
    return str(ended.exception)


def test_command_line_goes_before_environment_before_file_before_default(tmp_path, monkeypatch):
    file = write(tmp_path / "covct.toml", "[scan]\nlimit = 1\nformats = 'seg'\ndevice = 'cpu'\n")
    monkeypatch.setenv("COVCT_SCAN_LIMIT", "2")
    monkeypatch.setenv("COVCT_SCAN_FORMATS", "sr")
    found = held("scan", "--config", file, "--limit", "3")
    assert found["limit"] == (3, "command line")
    assert found["formats"] == ("sr", "environment")
    assert found["device"] == ("cpu", "file")
    assert found["captures"] == ("key", "default")


def test_config_goes_before_the_variable_before_the_file_beside_the_output_tree(tmp_path, monkeypatch):
    for number, name in enumerate(("asked", "variable", "beside"), 1):
        write(tmp_path / name / "covct.toml", f"[scan]\nlimit = {number}\n")
    out = tmp_path / "beside" / "out"
    assert held("scan", "--out", out)["limit"] == (3, "file")
    monkeypatch.setenv("COVCT_CONFIG", str(tmp_path / "variable" / "covct.toml"))
    assert held("scan", "--out", out)["limit"] == (2, "file")
    assert held("scan", "--out", out, "--config", tmp_path / "asked" / "covct.toml")["limit"] == (1, "file")


def test_a_file_of_another_user_beside_the_output_tree_is_not_obeyed(tmp_path, monkeypatch):
    """Such as /tmp/covct.toml, with --out /tmp/out."""
    file = write(tmp_path / "covct.toml", "[scan]\nlimit = 1\n")
    if file.stat().st_uid == 0:
        os.chown(file, 54321, -1)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert "wanted one of yours or root's" in refused("config", "scan", "--out", tmp_path / "out")
    assert held("scan", "--out", tmp_path / "out", "--config", file)["limit"] == (1, "file")


def test_a_commands_table_goes_before_what_stands_above_all_tables(tmp_path):
    file = write(tmp_path / "covct.toml", 'log-format = "json"\nforce = true\n[scan]\nlog-format = "text"\n')
    assert held("scan", "--config", file)["log-format"] == ("text", "file")
    assert held("watch", "--config", file)["log-format"] == ("json", "file")
    assert "force" not in held("watch", "--config", file)


def test_the_documented_file_is_one(tmp_path):
    [text] = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "configuration.md").read_text(), re.S)
    file = write(tmp_path / "covct.toml", text)
    assert held("scan", "--config", file)["formats"] == ("seg,sr,ko", "file")
    assert held("watch", "--config", file)["log-format"] == ("json", "file")


def test_a_relative_path_counts_from_the_folder_of_the_file(tmp_path, monkeypatch):
    file = write(tmp_path / "a" / "covct.toml", '[scan]\nsources = ["in", "/b"]\nmove-done = "../done"\n')
    monkeypatch.chdir(tmp_path)
    found = held("scan", "--config", Path("a/covct.toml"))
    assert found["sources"][0] == [str(file.parent / "in"), "/b"]
    assert found["move-done"][0] == str(file.parent / "../done")


@pytest.mark.slow
def test_a_scan_takes_sources_and_options_from_its_file(series_folder, tmp_path, weights, networks, monkeypatch):
    monkeypatch.setattr(scan, "networks_of", lambda *_: lambda: networks)
    settings = f'weights = "{weights}"\n[scan]\nsources = ["{series_folder}"]\nformats = "seg"\n'
    write(tmp_path / "covct.toml", settings)
    assert invoke("scan", "--out", tmp_path / "out").exit_code == 0
    [outcome] = (tmp_path / "out").glob("*/*/outcome.json")
    assert {path.name for path in outcome.parent.iterdir()} == {"outcome.json", "report.json", "segmentation.seg.dcm"}


def test_a_worker_that_follows_another_has_its_settings(tmp_path, monkeypatch, capsys):
    """The file is edited while a watch runs, and spoiled; then a worker crashes."""
    file = write(tmp_path / "covct.toml", "[watch]\nsettle = 3\n")
    monkeypatch.setattr(supervisor, "supervise", lambda: write(file, "[watch]\nsettle = = 3\n"))
    monkeypatch.setattr(sys, "argv", ["covct", "watch", str(tmp_path / "gone"), "-o", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        cli._run()
    assert ended.value.code == 2
    assert "no such directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("lmit = 3", "[scan] lmit: covct scan has no such option; did you mean limit?"),
        ("log_format = 'text'", "[scan] log_format: covct scan has no such option; did you mean log-format?"),
        ("settle = 3", "[scan] settle: covct scan has no such option"),
        ("limit = '3'", '[scan] limit: "3", wanted a whole number'),
        ("limit = true", "[scan] limit: true, wanted a whole number"),
        ("limit = 2.5", "[scan] limit: 2.5, wanted a whole number"),
        ("limit = 0", "[scan] limit: 0: "),
        ("memory-limit = 'all'", '[scan] memory-limit: "all", wanted a number'),
        ("strict = 1", "[scan] strict: 1, wanted true or false"),
        ("formats = ['seg']", '[scan] formats: ["seg"], wanted text in quotes'),
        ("seg-type = 'binry'", '[scan] seg-type: "binry", wanted one of "binary", "labelmap", "fractional"'),
        ("sources = 'in'", '[scan] sources: "in", wanted a list, such as ["a", "b"]'),
        ("select = [3]", '[scan] select: [3], wanted a list, such as ["a", "b"]'),
    ],
)
def test_a_mistake_is_named_with_file_line_key_and_what_was_wanted(tmp_path, setting, message):
    file = write(tmp_path / "covct.toml", f"# the night\n[scan]\nseries = [\n  '1.2',\n]\n\n{setting}\n")
    told = refused("scan", tmp_path, "--out", tmp_path / "out")
    assert told.startswith(f"{file}, line 7: {message}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lmit = 3", "line 1: lmit: no command has such an option; did you mean limit?"),
        ("\n[scna]\nlimit = 3", "line 2: scna: no such command; did you mean scan?"),
        ("scan = 3", "line 1: scan: wanted a table, [scan]"),
        ("json = 'yes'", 'line 1: json: "yes", wanted true or false'),
        ("a = = 1", "not TOML: Invalid value (at line 1, column 5)"),
        ("a = 1\na = 2", "not TOML: "),
        ("[watch]\nintervall = 3", "line 2: [watch] intervall: covct watch has no such option; did you mean interval?"),
    ],
)
def test_a_mistake_anywhere_in_the_file_is_told_by_every_command(tmp_path, text, message):
    assert message in refused("scan", tmp_path, "--config", write(tmp_path / "covct.toml", text), "-o", tmp_path / "o")


def test_a_file_that_cannot_be_read_is_a_usage_error(tmp_path):
    (tmp_path / "latin.toml").write_bytes("# für\n".encode("latin-1"))
    (tmp_path / "large.toml").write_bytes(b"#" * 70_000)
    for name, why in (("none", "No such file"), ("latin", "not UTF-8"), ("large", "more than 64 KiB")):
        assert why in refused("status", tmp_path, "--config", tmp_path / f"{name}.toml")


def test_a_file_written_on_windows_is_read(tmp_path):
    (tmp_path / "covct.toml").write_bytes(b"\xef\xbb\xbf# night\r\n[scan]\r\nlimit = 3\r\n")
    assert held("scan", "--out", tmp_path / "out")["limit"] == (3, "file")


def test_the_line_of_a_key_is_where_it_begins():
    text = 'a = """\n[no]\nb = 1\n"""\n\n# c\nc = [\n  1, # [d]\n]\n[t]\nd.e = 1\nf = { g = 2 }\n[u]\nd = 1'
    lines = lines_of(text)
    assert {key: lines[key] for key in (("", "a"), ("", "c"), ("t", "d"), ("t", "f"), ("u", "d"))} == {
        ("", "a"): 1, ("", "c"): 7, ("t", "d"): 11, ("t", "f"): 12, ("u", "d"): 14,
    }  # fmt: skip


def test_a_broken_file_does_not_keep_the_help_away(tmp_path):
    assert invoke("scan", "--help", "--config", write(tmp_path / "covct.toml", "a = = 1")).exit_code == 0


def test_a_bad_value_from_the_environment_names_its_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("COVCT_SCAN_LIMIT", "many")
    monkeypatch.setenv("COLUMNS", "200")
    ended = invoke("scan", tmp_path, "--out", tmp_path / "out")
    assert ended.exit_code == 2
    assert "(environment variable COVCT_SCAN_LIMIT)" in ended.output


def test_a_version_in_the_environment_does_not_ask_for_the_version(tmp_path, monkeypatch):
    """Images and clusters set such variables for their own ends."""
    monkeypatch.setenv("COVCT_VERSION", "1")
    monkeypatch.setenv("COVCT_HELP", "1")
    assert "alive" in invoke("status", tmp_path).output


def test_config_without_a_command_lists_what_is_no_default(tmp_path, monkeypatch):
    monkeypatch.setenv("COVCT_WATCH_SETTLE", "5")
    file = write(tmp_path / "covct.toml", "[scan]\nlimit = 3\n")
    ended = invoke("config", "--config", file, "--json")
    documents = {one["command"]: one["settings"] for one in map(json.loads, ended.stdout.splitlines())}
    assert documents["scan"] == [{"name": "limit", "value": 3, "from": "file", "place": f"{file}:2"}]
    assert documents["watch"] == [
        {"name": "settle", "value": 5.0, "from": "environment", "place": "COVCT_WATCH_SETTLE"}
    ]
    assert documents["train"] == []


def test_config_as_a_table_says_what_is_missing(monkeypatch):
    monkeypatch.setenv("COVCT_WEIGHTS", "/w")
    ended = invoke("config", "scan", "--strict")
    rows = {line.split("│")[1].strip(): line for line in ended.stdout.splitlines() if line.startswith("│")}
    assert "missing" in rows["out"]
    assert "command line" in rows["strict"]
    assert "COVCT_WEIGHTS" in rows["weights"]
    assert "no configuration file" in ended.stderr


def test_config_of_an_unknown_command_suggests_the_near_one():
    assert "Did you mean 'scan'?" in invoke("config", "sacn").output


@pytest.mark.parametrize(
    ("arguments", "near"),
    [(["sacn"], "'scan'"), (["scan", "--lmit", "3"], "--limit"), (["train", "--learning-rat"], "--learning-rate")],
)
def test_a_mistyped_command_or_option_suggests_the_near_one(arguments, near):
    ended = invoke(*arguments)
    assert (ended.exit_code, near in ended.output) == (2, True)


@pytest.mark.parametrize(
    ("line", "offered"),
    [("covct sc", ["scan"]), ("covct scan --li", ["--limit"]), ("covct scan --seg-type l", ["labelmap"])],
)
def test_a_shell_completes_commands_options_and_choices(line, offered, tmp_path):
    asked = {"_COVCT_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
    code = "import sys; sys.argv[0] = 'covct'; from covct.cli import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), **asked},
    )  # fmt: skip
    assert ended.stdout.split() == offered
