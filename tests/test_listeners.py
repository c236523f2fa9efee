"""Whoever listens to covct may go away: the night goes on, and the exit code still tells how it went."""

from __future__ import annotations

import errno
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import pytest

from covct.commands.listeners import Listener
from covct.visible import json_line, visible
from support.checkout import PYTHONPATH
from support.processes import outcomes
from support.running import read_json

pytestmark = pytest.mark.slow


@pytest.fixture
def scan(inbox, tmp_path, weights):
    """A function that runs `covct scan` by a shell's line, in which ``$SCAN`` is the command; its exit code."""

    def run(line, **more):
        command = (
            f"'{sys.executable}' -m support.threshold_cli scan '{inbox}' -o '{tmp_path / 'out'}' --formats=seg --json"
        )
        environment = {**os.environ, "PYTHONPATH": PYTHONPATH, "COVCT_WEIGHTS": str(weights), **more}
        script = line.replace("$SCAN", command)
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", script], env=environment, timeout=120, capture_output=True, text=True
        )

    return run


def all_done(out):
    return [outcome.status for outcome in outcomes(out).values()] == ["done"] * 3


@pytest.mark.parametrize(
    "line",
    [
        "$SCAN >&-",
        "$SCAN 2>&-",
        "$SCAN <&- >&- 2>&-",
        "$SCAN --log-format=json 2>&- >/dev/null",
        "$SCAN 2>/dev/full >/dev/null",
        "$SCAN --log-format=json 2>/dev/full >/dev/null",
        "$SCAN | head -n 1",
        "$SCAN 2>&1 >/dev/null | true",
    ],
)
def test_a_lost_listener_ends_nothing(scan, tmp_path, line):
    ended = scan(line)
    assert ended.returncode == 0, ended.stderr
    assert all_done(tmp_path / "out")
    [run] = (tmp_path / "out" / "runs").iterdir()
    assert read_json(run)["end"] == "finished"


def test_events_lost_to_a_full_disk_are_exit_12_and_every_series_is_done(scan, tmp_path):
    ended = scan("$SCAN >/dev/full")
    assert (ended.returncode, all_done(tmp_path / "out")) == (12, True)
    assert "standard output could not be written: No space left on device" in ended.stderr


def test_a_terminal_that_goes_away_takes_only_itself(inbox, tmp_path, weights):
    """A closed window hangs up: SIGHUP, and an error for every write from then on."""
    pid, terminal = pty.fork()
    if not pid:
        environment = {**os.environ, "PYTHONPATH": PYTHONPATH, "COVCT_WEIGHTS": str(weights)}
        arguments = ["-m", "support.threshold_cli", "scan", inbox, "-o", tmp_path / "out", "--formats=seg"]
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        os.execve(sys.executable, [sys.executable, *map(str, arguments)], environment)
    os.read(terminal, 1)  # it has begun to talk
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert all_done(tmp_path / "out")


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError as error:
            assert error.errno == errno.EBADF


def test_a_reader_that_stops_reading_is_waited_for_once(pipe):
    reads, writes = pipe
    listener = Listener(writes, patience_s=0.2)
    line = b"x" * 1023 + b"\n"
    begun = time.monotonic()
    for _ in range(200):  # a pipe holds 64 of them
        assert listener.write(line) == len(line)
    assert time.monotonic() - begun < 5
    assert listener.lost.errno == errno.ETIMEDOUT
    while len(os.read(reads, 65536)) == 65536:
        pass
    listener.write(b"again\n")
    assert os.read(reads, 65536).splitlines()[-1] == b"again", "a reader that comes back is told on"


def test_a_reader_that_is_gone_costs_nothing(pipe):
    reads, writes = pipe
    os.close(reads)
    listener = Listener(writes)
    assert listener.write(b"line\n") == 5
    assert listener.lost.errno == errno.EPIPE


def test_what_is_whole_arrives_whole(pipe):
    reads, writes = pipe
    text = b"".join(b"%d\n" % number for number in range(5000))
    Listener(writes).write(text)
    assert os.read(reads, 100_000) == text


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("plain, na\u00efve, \u4e2d\u6587", "plain, na\u00efve, \u4e2d\u6587"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("two\nlines\r", "two\\nlines\\r"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202etxt.exe", "\\u202etxt.exe"),
        ("\udcff", "\\udcff"),
    ],
)
def test_control_characters_are_shown_and_never_sent(text, seen):
    assert visible(text) == seen
    line = json_line({"text": text})
    assert json.loads(line) == {"text": text}, "JSON says what it was"
    assert line.isprintable()
    line.encode()  # as UTF-8


def test_a_file_name_is_shown_as_it_is_and_draws_no_picture(scan, inbox, tmp_path):
    name = ":bomb:\x1b]0;owned\x07\n[red].dcm"
    (inbox / "a" / name).write_bytes(b"\0" * 128 + b"DICM" + b"\1" * 40)
    ended = scan("$SCAN")
    assert ":bomb:\\x1b]0;owned\\x07\\n[red].dcm" in ended.stderr
    assert "\x1b]0" not in ended.stderr + ended.stdout
    [told] = [e for e in map(json.loads, ended.stdout.splitlines()) if e["event"] == "problem"]
    assert told["file"].endswith(":bomb:\\x1b]0;owned\\x07\\n[red].dcm")


def test_a_locale_without_umlauts_changes_nothing(scan, inbox, tmp_path):
    """ASCII by the locale, and Python told not to know better: a member of an archive and a folder with umlauts."""
    study = inbox / "Müller"
    (inbox / "a").rename(study)
    with zipfile.ZipFile(inbox / "Prüfung.zip", "w") as archive:
        for path in sorted((inbox / "c").iterdir()):
            archive.write(path, f"Bäuche/{path.name}")
    shutil.rmtree(inbox / "c")
    ascii_locale = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ended = scan("$SCAN", **ascii_locale)
    assert (ended.returncode, all_done(tmp_path / "out")) == (0, True)
    again = scan("$SCAN", **ascii_locale)
    [told] = [e for e in map(json.loads, again.stdout.splitlines()) if e["event"] == "finished"]
    assert told["done before"] == 3, "what was done is found whole in any locale"
