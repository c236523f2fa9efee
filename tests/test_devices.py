"""Which device is wanted, which there is, and what is done when its memory runs out. No GPU is needed."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest

import covct
from covct.errors import DeviceMissing, UsageError
from covct.networks import devices
from covct.networks.devices import Device, Ladder, Wish
from covct.networks.network import Network
from covct.outputs import Outputs
from covct.unattended import batch
from support.example_report import SCHEMA
from support.running import read_json
from support.thresholds import call_infection, call_lungs

ROOT = Path(covct.__file__).parent.parent


class ResourceExhaustedError(Exception):
    """As TensorFlow names it."""


class JaxRuntimeError(RuntimeError):
    """As JAX names it, for every kind of error."""


def short_of_memory(most, function=lambda slices: slices[..., 0], error=None, on=("gpu",)):
    """A network on a device that takes at most `most` slices at once; and a list of what it was given."""
    calls = []

    def compute(slices, kind):
        calls.append((kind, len(slices)))
        if kind in on and len(slices) > most:
            raise error or ResourceExhaustedError("OOM when allocating tensor")
        return function(slices)

    return compute, calls


def slices(count):
    return np.arange(count * 4, dtype=np.float32).reshape(count, 2, 2, 1)


def test_whole_batches_and_a_padded_last_one():
    compute, calls = short_of_memory(8)
    ladder = Ladder(Device("gpu", "gpu:0"), 8)
    np.testing.assert_array_equal(ladder.run(compute, slices(19)), slices(19)[..., 0])
    assert calls == [("gpu", 8)] * 3
    assert ladder.used() == Device("gpu", "gpu:0", 8)


@pytest.mark.parametrize(
    "error",
    [
        ResourceExhaustedError("{{function_node}} OOM when allocating tensor"),
        JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 123 bytes."),
        RuntimeError("CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_batch_that_does_not_fit_is_halved_until_it_does(error):
    compute, calls = short_of_memory(2, error=error)
    ladder = Ladder(Device("gpu", "gpu:0"), 8)
    np.testing.assert_array_equal(ladder.run(compute, slices(5)), slices(5)[..., 0])
    assert calls == [("gpu", 8), ("gpu", 4), ("gpu", 2), ("gpu", 2), ("gpu", 2)]
    used = ladder.used()
    assert (used.kind, used.batch) == ("gpu", 2)
    assert used.fallbacks == ("gpu: out of memory with 8 slices at once", "gpu: out of memory with 4 slices at once")


def test_slices_that_were_done_when_memory_ran_out_are_not_done_again():
    """A neighbour on the same GPU grows in the middle of a series."""
    room, calls = [8], []

    def compute(part, kind):
        calls.append(part[:, 0, 0, 0].tolist())
        if len(part) > room[0]:
            raise ResourceExhaustedError
        if len(calls) == 1:
            room[0] = 4
        return part[..., 0]

    out = Ladder(Device("gpu", "gpu:0"), 8).run(compute, slices(16))
    np.testing.assert_array_equal(out, slices(16)[..., 0])
    assert [len(call) for call in calls] == [8, 8, 4, 4]
    assert calls[2][0] == 32, "the ninth slice"


def test_at_last_the_cpu_does_it_and_the_next_series_begins_on_the_gpu_again():
    compute, calls = short_of_memory(0)
    ladder = Ladder(Device("gpu", "gpu:0"), 4)
    np.testing.assert_array_equal(ladder.run(compute, slices(6)), slices(6)[..., 0])
    assert calls == [("gpu", 4), ("gpu", 2), ("gpu", 1), ("cpu", 4), ("cpu", 4)]
    used = ladder.used()
    assert (used.kind, used.name, used.batch) == ("cpu", "cpu, in place of gpu:0", 4)
    assert used.fallbacks[-1] == "gpu: out of memory with 1 slice at once"
    ladder.begin()
    assert ladder.used() == Device("gpu", "gpu:0", 4)


def test_no_memory_on_the_cpu_either_is_an_error_and_no_endless_loop():
    compute, calls = short_of_memory(0, on=("gpu", "cpu"))
    with pytest.raises(MemoryError):
        Ladder(Device("gpu", "gpu:0"), 4).run(compute, slices(6))
    assert len(calls) == 6


def test_another_error_is_not_taken_for_memory():
    compute, calls = short_of_memory(0, error=ValueError("shapes do not match"))
    with pytest.raises(ValueError, match="shapes"):
        Ladder(Device("gpu", "gpu:0"), 4).run(compute, slices(6))
    assert len(calls) == 1


@pytest.mark.slow
def test_what_the_ladder_did_stands_in_the_report(series_folder, tmp_path, weights, networks):
    """Both networks share a device's memory, and so a ladder; a batch goes on after it."""
    ladder = Ladder(Device("gpu", "gpu:0"), 8)
    tight = replace(
        networks,
        ladder=ladder,
        lungs=Network(networks.lungs.card, lambda s: ladder.run(short_of_memory(4, call_lungs)[0], s)),
        infection=Network(networks.infection.card, lambda s: ladder.run(short_of_memory(2, call_infection)[0], s)),
    )
    plain, short = tmp_path / "plain", tmp_path / "short"
    for out, given in ((plain, networks), (short, tight)):
        order = batch.Order((series_folder,), out, weights, outputs=Outputs(("seg",)))
        assert batch.scan(order, lambda given=given: given, lambda event: None)["done"] == 1
    [report], [expected] = ([read_json(p) for p in out.glob("*/*/report.json")] for out in (short, plain))
    jsonschema.validate(report, SCHEMA)
    assert report["run"]["device"] == {
        "kind": "gpu",
        "name": "gpu:0",
        "batch": 2,
        "fallbacks": ["gpu: out of memory with 8 slices at once", "gpu: out of memory with 4 slices at once"],
        "runtime": None,
        "precision": None,
    }
    assert report["regions"] == expected["regions"]


@pytest.mark.parametrize(
    ("text", "wish"),
    [
        ("auto", Wish("auto")),
        ("CPU", Wish("cpu")),
        ("gpu", Wish("gpu")),
        ("gpu:0", Wish("gpu", 0)),
        ("gpu:12", Wish("gpu", 12)),
    ],
)
def test_device_is_read(text, wish):
    assert devices.parse_wish(text) == wish


@pytest.mark.parametrize("text", ["", "gpu:", "gpu:-1", "gpu:x", "cpu:0", "tpu"])
def test_device_that_makes_no_sense(text):
    with pytest.raises(UsageError, match="wanted auto, cpu, gpu or gpu:N"):
        devices.parse_wish(text)


@pytest.fixture
def two_gpus(tmp_path) -> Path:
    for bus, model in (("0000:3b:00.0", "NVIDIA A"), ("0000:af:00.0", "NVIDIA B")):
        (tmp_path / "gpus" / bus).mkdir(parents=True)
        (tmp_path / "gpus" / bus / "information").write_text(f"Model: \t\t {model}\nIRQ:   \t\t 42\n")
    return tmp_path / "gpus"


@pytest.mark.parametrize(
    ("wish", "given", "shown"),
    [
        ("auto", None, None),
        ("auto", "1", "1"),
        ("cpu", "0,1", "-1"),
        ("gpu", None, None),
        ("gpu:1", None, "1"),
        ("gpu:1", "3,GPU-abc", "GPU-abc"),
    ],
)
def test_cuda_is_shown_what_is_wanted(wish, given, shown, two_gpus):
    environment = {} if given is None else {"CUDA_VISIBLE_DEVICES": given}
    devices.select(devices.parse_wish(wish), environment, two_gpus)
    assert environment.get("CUDA_VISIBLE_DEVICES") == shown
    assert environment.get("CUDA_DEVICE_ORDER") == ("PCI_BUS_ID" if ":" in wish else None)


@pytest.mark.parametrize("given", [None, "0,1", "0,-1,1", ""])
def test_gpu_that_is_not_there_says_which_are(given, two_gpus):
    environment = {} if given is None else {"CUDA_VISIBLE_DEVICES": given}
    with pytest.raises(DeviceMissing, match=r"GPU 2 was asked for; the driver lists 0 \(NVIDIA A\), 1 \(NVIDIA B\)"):
        devices.select(Wish("gpu", 2), environment, two_gpus)


def test_driver_that_lists_nothing_leaves_the_last_word_to_the_backend(tmp_path):
    environment = {}
    devices.select(Wish("gpu", 1), environment, tmp_path)
    assert environment["CUDA_VISIBLE_DEVICES"] == "1"
    error = devices.missing(Wish("gpu", 1), {}, tmp_path)
    assert error.exit_code == 13
    assert "GPU 1 was asked for, and keras sees none; the driver lists none" in str(error)


@pytest.mark.slow
def test_unknown_gpu_ends_the_scan_with_13_before_anything_heavy_is_loaded(series_folder, tmp_path, weights):
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "covct", "scan", series_folder, "-o", tmp_path / "out",
         "--weights", weights, "--device", "gpu:7"],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "0,1"},
    )  # fmt: skip
    assert result.returncode == 13, result.stderr[-500:]
    assert "GPU 7 was asked for" in result.stderr
    assert " keras\n" not in result.stderr


# As the narrowest container: no more than 64 KiB of /dev/shm, which nothing may need; a root that cannot be written,
# /tmp with it; another's uid; no HOME; no network.
NARROW = """
case "$PREFIX" in /root/*)  # an interpreter in root's home, where another uid cannot go
  mkdir "$BASE/python"; mount --bind "$PREFIX" "$BASE/python"
  mount -t tmpfs -o mode=755 tmpfs /root; mkdir -p "$PREFIX"; mount --bind "$BASE/python" "$PREFIX" ;;
esac
mount -t tmpfs -o size=64k,mode=1777 tmpfs /dev/shm
mount --bind "$OUT" "$OUT"
mount -o remount,bind,ro /
exec setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all \
  env -i PATH=/usr/bin:/bin PYTHONPATH="$ROOT" PYTHONDONTWRITEBYTECODE=1 \
  "$PYTHON" -m covct scan "$IN" --out "$OUT" --device cpu --json
"""


@pytest.mark.slow
def test_runs_with_no_home_any_uid_a_read_only_root_and_no_shared_memory(phantom_series, tmp_path_factory):
    pytest.importorskip("keras")
    if os.geteuid() or not (shutil.which("unshare") and shutil.which("setpriv")):
        pytest.skip("needs root, unshare and setpriv, to give them up")
    alone = ["unshare", "--mount", "--net", "--propagation", "private", "bash", "-ec"]
    probe = subprocess.run(
        [*alone, "mount -t tmpfs tmpfs /dev/shm && mount -o remount,bind,ro /"], capture_output=True, check=False
    )
    if probe.returncode:
        pytest.skip("this container may not mount")
    # Below /tmp another uid may go everywhere but into pytest's own folders.
    base = Path("/var/tmp" if os.access("/var/tmp", os.W_OK) else "/tmp") / f"covct-narrow-{os.getpid()}"
    (base / "out").mkdir(parents=True)
    try:
        shutil.copytree(phantom_series, base / "in")
        for folder in (base, base / "in"):
            os.chmod(folder, 0o755)
        os.chown(base / "out", 65534, 65534)
        result = subprocess.run(
            [*alone, NARROW], capture_output=True, text=True, check=False,
            env={**os.environ, "BASE": str(base), "IN": str(base / "in"), "OUT": str(base / "out"), "ROOT": str(ROOT),
                 "PYTHON": sys.executable, "PREFIX": sys.base_prefix},
        )  # fmt: skip
        assert result.returncode == 0, result.stderr[-2000:]
        [report] = [read_json(path) for path in (base / "out").glob("*/*/report.json")]
        assert report["run"]["device"]["kind"] == "cpu"
        assert report["run"]["device"]["fallbacks"] == []
    finally:
        shutil.rmtree(base)
