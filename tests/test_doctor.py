"""`covct doctor` on machines that are not fit: each lack is told with its remedy and a scan's exit code."""

import errno
import fcntl
import json
import os
import socket
from dataclasses import replace

import numpy as np
import pytest

from covct.commands import scan
from covct.dicom.syntaxes import SYNTAXES
from covct.dicom.tiny_slice import tiny_slice
from covct.networks.network import Device
from covct.unattended import doctor, installed
from covct.unattended.doctor import Check, exit_code
from support.running import invoke
from support.thresholds import make_networks


def examined(*options):
    """Exit code, and the checks by name."""
    result = invoke("doctor", "--json", *options)
    checks = [json.loads(line) for line in result.stdout.splitlines()]
    return result.exit_code, {check["name"]: check for check in checks}


def test_a_fit_machine_passes_without_a_word_over_the_network(tmp_path, weights, monkeypatch):
    def forbidden(*_, **__):
        raise AssertionError("the network is none of its business")

    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, forbidden)
    monkeypatch.setattr(socket.socket, "connect", forbidden)
    monkeypatch.delenv("HOME")
    code, checks = examined("--out", tmp_path / "out", "--weights", weights)
    assert (code, [name for name, check in checks.items() if check["verdict"] == "fail"]) == (0, [])
    assert {"packages", "decoders", "weights: lungs", "device", "memory", "output: locks", "clock"} <= set(checks)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".covct*")), "it leaves nothing behind"


def test_every_failure_and_warning_says_what_to_do(tmp_path, weights, monkeypatch):
    (weights / "lungs.keras").write_bytes(b"altered")
    monkeypatch.setattr(doctor, "at_hand_mib", lambda: 1000.0)
    (tmp_path / "out").write_text("a file")
    code, checks = examined("--out", tmp_path / "out", "--weights", weights)
    bad = {name: check for name, check in checks.items() if check["verdict"] != "ok"}
    assert {"weights: lungs", "memory", "output"} <= set(bad)
    assert all(check["fix"] for check in bad.values())
    assert code == 10, "the first failure with a code of its own decides"
    text = invoke("doctor", "--out", tmp_path / "out", "--weights", weights).stdout
    assert "-> reinstall covct" in text


def test_altered_weights_are_10(weights):
    (weights / "infection.keras").write_bytes(b"altered")
    code, checks = examined("--weights", weights)
    assert (code, checks["weights: infection"]["exit_code"]) == (10, 10)
    assert checks["weights: lungs"]["verdict"] == "ok"


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_an_output_that_cannot_be_written_is_12(tmp_path, weights):
    tmp_path.chmod(0o500)
    code, checks = examined("--out", tmp_path, "--weights", weights)
    tmp_path.chmod(0o700)
    assert (code, checks["output: writing"]["verdict"]) == (12, "fail")


@pytest.mark.parametrize("broken", [errno.EROFS, errno.ENOSPC])
def test_a_disk_that_takes_nothing_is_12(tmp_path, weights, monkeypatch, broken):
    def refuse(*_):
        raise OSError(broken, os.strerror(broken))

    monkeypatch.setattr(doctor.os, "fsync", refuse)
    code, checks = examined("--out", tmp_path, "--weights", weights)
    assert code == 12
    assert os.strerror(broken) in checks["output: writing"]["message"]


def test_a_file_system_without_locks_is_12(tmp_path, weights, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    code, checks = examined("--out", tmp_path, "--weights", weights)
    assert (code, checks["output: locks"]["verdict"]) == (12, "fail")


def test_locks_that_keep_nobody_out_are_12(tmp_path, weights, monkeypatch):
    """Some network file systems say yes to everybody."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    code, checks = examined("--out", tmp_path, "--weights", weights)
    assert (code, checks["output: locks"]["verdict"]) == (12, "fail")


def test_a_damaged_outcome_and_a_damaged_run_are_named_with_the_field(tmp_path, weights):
    out = tmp_path / "out"
    for number, status in enumerate(("done", "finished")):
        (out / "1.2" / f"1.2.{number}").mkdir(parents=True)
        outcome = {"status": status, "work_key": "k", "source": "Planted^Name"}
        (out / "1.2" / f"1.2.{number}" / "outcome.json").write_text(json.dumps(outcome))
    _, checks = examined("--out", out, "--weights", weights)
    assert checks["output: documents"]["message"] == (
        "1.2/1.2.1/outcome.json: status is \"finished\", wanted 'done', 'rejected' or 'failed'"
    )
    (out / "runs").mkdir()
    (out / "runs" / "20260131T220000.000Z.json").write_text('{"schema": "covct-run-2"}')
    _, checks = examined("--out", out, "--weights", weights)
    assert checks["output: documents"]["verdict"] == "warn"
    assert 'runs/20260131T220000.000Z.json: schema is "covct-run-2"' in checks["output: documents"]["message"]


def test_a_tree_of_a_newer_version_is_2(tmp_path, weights):
    (tmp_path / "out" / ".covct").mkdir(parents=True)
    (tmp_path / "out" / ".covct" / "format").write_text('{"format": 99, "covct_version": "9.9"}')
    code, checks = examined("--out", tmp_path / "out", "--weights", weights)
    assert code == 2
    assert "was written by covct 9.9, in format 99" in checks["output: format"]["message"]


@pytest.mark.parametrize(("free", "verdict", "code"), [(50 * 2**20, "fail", 12), (2**30, "warn", 0), (2**40, "ok", 0)])
def test_room(tmp_path, weights, monkeypatch, free, verdict, code):
    usage = doctor.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage._replace(free=free))
    found, checks = examined("--out", tmp_path, "--weights", weights)
    assert (found, checks["output: room"]["verdict"]) == (code, verdict)


def with_device(monkeypatch, kind, **changes):
    networks = replace(make_networks(), device=Device(kind, f"a {kind}"), **changes)
    monkeypatch.setattr(scan, "networks_of", lambda *_: lambda: networks)


def test_keras_is_asked_only_on_request(weights, monkeypatch):
    def never(*_):
        raise AssertionError("keras takes seconds")

    monkeypatch.setattr(scan, "networks_of", lambda *_: never)
    code, checks = examined("--weights", weights)
    assert code == 0
    assert "--networks" in checks["device"]["message"]


def test_no_gpu_is_13_only_where_one_is_required(weights, monkeypatch):
    with_device(monkeypatch, "cpu")
    assert examined("--weights", weights, "--networks")[0] == 0
    code, checks = examined("--weights", weights, "--require-gpu")
    assert (code, checks["device"]["verdict"]) == (13, "fail")
    with_device(monkeypatch, "gpu")
    assert examined("--weights", weights, "--require-gpu")[0] == 0


def test_a_driver_that_keras_does_not_see_is_a_warning(weights, monkeypatch, tmp_path):
    """The usual accident: the CPU package in the GPU machine. The night would be ten times as long."""
    (tmp_path / "version").write_text("")
    monkeypatch.setattr(doctor, "DRIVER", (tmp_path / "version",))
    with_device(monkeypatch, "cpu")
    code, checks = examined("--weights", weights, "--networks")
    assert (code, checks["device"]["verdict"]) == (0, "warn")


def test_networks_that_compute_nonsense_are_found(weights, monkeypatch):
    nonsense = replace(make_networks().lungs, predict=lambda slices: np.full(slices.shape[:3], np.nan))
    with_device(monkeypatch, "cpu", lungs=nonsense)
    code, checks = examined("--weights", weights, "--networks")
    assert (code, checks["networks"]["verdict"]) == (3, "fail")


@pytest.mark.parametrize("uid", SYNTAXES)
def test_a_tiny_slice_of_every_transfer_syntax_is_what_it_says(uid):
    from covct.dicom.read import read_dataset

    _, contents = tiny_slice(uid)
    dataset = read_dataset(contents)
    assert dataset.file_meta.TransferSyntaxUID == uid
    assert (dataset.Rows, dataset.Columns) == (16, 16)


def test_a_decoder_that_is_gone_is_named(weights, monkeypatch):
    import imagecodecs

    def gone(*_, **__):
        raise ImportError("charls")

    monkeypatch.setattr(imagecodecs, "jpegls_decode", gone)
    code, checks = examined("--weights", weights)
    assert code == 3
    assert "JPEG-LS Lossless" in checks["decoders"]["message"] and "RLE" not in checks["decoders"]["message"]


@pytest.mark.parametrize(
    ("base", "words"),
    [(["numpy>=99"], "numpy>=99 wanted, got"), (["nosuchpackage>=1"], "nosuchpackage is missing")],
)
def test_packages_of_another_version_or_none_are_named(weights, monkeypatch, base, words):
    _, extras = doctor.declared()
    monkeypatch.setattr(doctor, "declared", lambda: (base, extras))
    code, checks = examined("--weights", weights)
    assert code == 3
    assert words in checks["packages"]["message"] and "pip install" in checks["packages"]["fix"]


def test_what_an_installed_package_declares_is_what_the_checkout_declares(monkeypatch, tmp_path):
    """In an image there is no pyproject.toml: the wheel's metadata say the same in their own words."""
    base, extras = doctor.declared()
    lines = [*base, *(f"{line}; extra == '{name}'" for name, several in extras.items() for line in several)]
    monkeypatch.setattr(installed, "package_file", str(tmp_path / "covct" / "__init__.py"))
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: lines)
    assert doctor.declared() == (base, extras)


def test_a_check_that_breaks_does_not_end_the_others(weights, monkeypatch):
    def broken():
        raise ZeroDivisionError("Planted")
        yield

    monkeypatch.setattr(doctor, "check_memory", broken)
    code, checks = examined("--weights", weights)
    assert code == 3
    assert checks["doctor"]["message"].startswith("a check failed unexpectedly: ZeroDivisionError at test_doctor.py")
    assert "clock" in checks


def test_exit_codes_follow_the_table():
    ok, warn = Check("a", "ok", ""), Check("b", "warn", "", "do")
    plain, weights_, disk = (Check("c", "fail", "", "do", code) for code in (3, 10, 12))
    assert exit_code([ok, warn]) == 0
    assert exit_code([ok, plain]) == 3
    assert exit_code([plain, disk, weights_]) == 12


def test_an_image_for_a_gpu_says_that_there_is_none(weights, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "DRIVER", (tmp_path / "no-driver",))
    monkeypatch.setenv("NVIDIA_VISIBLE_DEVICES", "all")
    _, checks = examined("--weights", weights)
    assert checks["device"]["verdict"] == "warn" and "--gpus all" in checks["device"]["fix"]


@pytest.mark.parametrize(("most", "verdict"), [("20", "warn"), ("4096", "ok"), ("max", "ok")])
def test_too_few_processes_for_the_threads_of_a_network(weights, monkeypatch, tmp_path, most, verdict):
    (tmp_path / "pids.max").write_text(most)
    monkeypatch.setattr(doctor, "control_groups", lambda controller: [tmp_path])
    monkeypatch.setattr(doctor.resource, "getrlimit", lambda _: (-1, -1))
    _, checks = examined("--weights", weights)
    assert checks["limits"]["verdict"] == verdict
    assert ("--pids-limit" in checks["limits"]["fix"]) == (verdict == "warn")


def test_a_read_only_root_is_said(weights, monkeypatch):
    flags = type("Flags", (), {"f_flag": os.ST_RDONLY, "f_frsize": 1, "f_blocks": 1, "f_bavail": 1, "f_bfree": 1})
    monkeypatch.setattr(doctor.os, "statvfs", lambda path: flags)
    assert "/ is read-only" in "".join(check.message for check in doctor.check_environment())
