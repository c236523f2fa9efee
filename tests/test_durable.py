"""Files that are there whole or not at all, whatever ends the writing."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from covct.disk.durable import is_a_stream, remove_halves, rename, replace_file, replace_json, replacing, write_json
from covct.disk.signals import stoppable
from covct.errors import Stopped


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def calls(monkeypatch):
    """What is asked of the disk, in order: ("fsync", path) and ("replace", target)."""
    made, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (made.append(("fsync", os.readlink(f"/proc/self/fd/{fd}"))), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda one, two: (made.append(("replace", str(two))), replace(one, two)))
    return made


@pytest.mark.parametrize("content", ["Übel\n", "Übel\n".encode(), memoryview("Übel\n".encode())])
def test_text_is_utf_8_and_bytes_are_as_they_are(content, tmp_path):
    replace_file(tmp_path / "a", content)
    assert (tmp_path / "a").read_bytes() == b"\xc3\x9cbel\n"
    assert listing(tmp_path) == ["a"]


def test_file_is_on_the_disk_before_its_name_and_the_name_before_the_return(calls, tmp_path):
    replace_file(tmp_path / "a", "new")
    assert [name for name, _ in calls] == ["fsync", "replace", "fsync"]
    assert calls[0][1].endswith(".tmp")
    assert calls[1:] == [("replace", str(tmp_path / "a")), ("fsync", str(tmp_path))]


def test_a_named_pipe_is_written_to_and_stays(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE)
    replace_file(tmp_path / "pipe", "whole\n")
    assert reader.communicate(timeout=20)[0] == b"whole\n"
    assert (tmp_path / "pipe").is_fifo() and listing(tmp_path) == ["pipe"]


@pytest.mark.parametrize("into", ["file", "pipe"])
def test_standard_output_is_written_to_wherever_it_leads(into, tmp_path):
    code = "replace_file(Path('/proc/self/fd/1'), 'whole')"
    code = f"from pathlib import Path; from covct.disk.durable import replace_file; {code}"
    with (tmp_path / "out").open("wb") as file:
        stdout = file if into == "file" else subprocess.PIPE
        run = subprocess.run([sys.executable, "-c", code], stdout=stdout, timeout=60, check=True)
    assert (run.stdout or (tmp_path / "out").read_bytes()) == b"whole"
    assert all(is_a_stream(Path(place)) for place in ("/dev/stdout", "/dev/fd/1", "/dev/null"))


def test_a_device_stays_a_device(calls, tmp_path):
    (tmp_path / "null").symlink_to("/dev/null")  # not the device itself, which a failure would replace
    replace_file(tmp_path / "null", "gone")
    assert (tmp_path / "null").is_char_device() and calls == []


@pytest.mark.parametrize("place", ["file", "link to a file", "nothing", "folder"])
def test_all_else_is_replaced_as_ever(place, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link to a file").symlink_to("file")
    assert not is_a_stream(tmp_path / place)


def test_what_may_be_made_again_is_not_forced_to_the_disk(calls, tmp_path):
    replace_json(tmp_path / "a", [1], to_disk=False)
    assert calls == [("replace", str(tmp_path / "a"))]


def test_stage_is_forced_to_the_disk_without_a_rename(calls, tmp_path):
    write_json(tmp_path / "a", {"ä": 1})
    assert calls == [("fsync", str(tmp_path / "a"))]
    assert (tmp_path / "a").read_text() == '{\n  "ä": 1\n}\n'


def test_renaming_forces_both_folders_to_the_disk(calls, tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "file").write_text("")
    rename(tmp_path / "a" / "file", tmp_path / "b" / "file")
    assert {path for _, path in calls} == {str(tmp_path / "a"), str(tmp_path / "b")}


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_failure_leaves_the_old_file_and_nothing_else(call, tmp_path, monkeypatch):
    replace_file(tmp_path / "a", "old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        replace_file(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
    assert listing(tmp_path) == ["a"]


def test_error_of_the_writer_leaves_the_old_file_and_nothing_else(tmp_path):
    replace_file(tmp_path / "a", "old")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a") as beside:
        beside.write_text("half")
        raise ZeroDivisionError
    assert (tmp_path / "a").read_text() == "old"
    assert listing(tmp_path) == ["a"]


def test_nan_is_refused_and_leaves_the_old_file(tmp_path):
    replace_json(tmp_path / "a", 1)
    with pytest.raises(ValueError, match="JSON"):
        replace_json(tmp_path / "a", {"percent": float("nan")})
    assert (tmp_path / "a").read_text() == "1\n"


def test_stop_signal_waits_until_the_name_is_on_the_disk(calls, tmp_path, monkeypatch):
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *names: (os.kill(os.getpid(), signal.SIGTERM), replace(*names)))
    with stoppable(), pytest.raises(Stopped):
        replace_file(tmp_path / "a", "new")
    assert calls[-1] == ("fsync", str(tmp_path))
    assert listing(tmp_path) == ["a"]


def test_process_that_is_killed_leaves_the_old_file_and_its_half_goes_later(tmp_path):
    replace_file(tmp_path / "a", "old")
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom covct.disk.durable import replacing\n"
        "with replacing(Path(sys.argv[1])) as beside:\n    beside.write_text('half')\n    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "a"], check=False, timeout=60)
    assert (tmp_path / "a").read_text() == "old"
    assert len(listing(tmp_path)) == 2
    (tmp_path / ".a.1.tmp").write_text("of a process that runs")
    remove_halves(tmp_path)
    assert listing(tmp_path) == [".a.1.tmp", "a"]


@pytest.mark.parametrize("name", ["a" * 250, "ä" * 125, "漢" * 85])
def test_longest_names_can_be_replaced(name, tmp_path):
    """With what a temporary name has more, they would be longer than file systems take."""
    replace_file(tmp_path / name, "new")
    assert listing(tmp_path) == [name]


def test_ending_of_the_temporary_name_is_the_writers(tmp_path):
    with replacing(tmp_path / "a.nii.gz", suffix=".nii.gz") as beside:
        assert beside.name.endswith(".nii.gz") and beside.name.startswith(".")
        beside.write_text("")
    with replacing(tmp_path / "covct.prom") as beside:
        assert not beside.name.endswith(".prom"), "a collector would read it"
        beside.write_text("")
