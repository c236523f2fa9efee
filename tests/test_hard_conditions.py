"""Hard cases of the night, by number: what happens to the process and its machine. test_hard_cases.py has the files."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest

import covct
from covct.disk import state
from covct.disk.outcome import read_outcome
from covct.networks.cards import file_sha256
from covct.outputs import Outputs
from covct.phantom.dicom import write_dicom_series
from covct.pipeline import memory
from covct.unattended import batch
from support.batches import watched
from support.line import night
from support.running import read_json
from support.series import anew, each_slice
from support.thresholds import make_networks, make_weights

pytestmark = pytest.mark.slow

ROOT = Path(covct.__file__).parent.parent
SEG = "segmentation.seg.dcm"
# The program with networks that are thresholds; `before` is run first.
PROGRAM = """
from support.thresholds import make_networks
from covct import cli
from covct.commands import scan
from covct.pipeline import memory
scan.networks_of = lambda *_: make_networks
{before}
cli.main()
"""
STRANGER = 54321


def environment(**more):
    """This process's, with covct and the tests' helpers to import."""
    return {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "COLUMNS": "200", **more}


def program(*arguments, before="", start=subprocess.run, **options):
    """The command line as a process of its own."""
    if start is subprocess.run:
        options = {"timeout": 120, "check": False, **options}
    return start(
        [sys.executable, "-c", PROGRAM.format(before=before), *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), **options,
    )  # fmt: skip


@pytest.fixture
def scan_of(series_folder, tmp_path):
    """Arguments of a scan of the phantom into tmp_path/out."""
    weights = make_weights(tmp_path / "weights")
    return ("scan", series_folder, "--out", tmp_path / "out", "--weights", weights, "--formats", "seg")


@pytest.fixture
def some(series_folder):
    """Twelve slices of the phantom: enough to be segmented, quick to do often."""
    for path in [p for n, p in enumerate(sorted(series_folder.iterdir())) if not 9 <= n < 21]:
        path.unlink()
    return series_folder


def assert_whole(out):
    """One result, each of its files with the hash that the outcome says, and nothing half beside it."""
    [path] = out.glob("*/*/outcome.json")
    outcome = read_outcome(path.parent)
    assert outcome.status == "done"
    assert {p.name for p in path.parent.iterdir()} == {*outcome.files, "outcome.json"}
    assert {name: file_sha256(path.with_name(name)) for name in outcome.files} == outcome.files
    assert not [path for kind in ("staging", "old") for path in (out / ".covct" / kind).rglob("*.*")]
    return read_json(path.with_name("report.json"))


@pytest.fixture(scope="module")
def growth(phantom, phantom_series, tmp_path_factory):
    """Peak memory that a scan of 90 x 512 x 512 takes beyond one of 30 x 128 x 128, in volumes of int16.

    Less what each slice takes in the networks' space, which the gate counts apart; the least of two runs, as threads
    meet at other moments each time.
    """
    folder = tmp_path_factory.mktemp("large")
    array = phantom.volume.array.repeat(3, axis=0).repeat(4, axis=1).repeat(4, axis=2)
    volume = hd.Volume.from_components(
        array, spacing=(10 / 3, 0.75, 0.75), coordinate_system="PATIENT", patient_orientation="FPL",
        center_position=(0, 0, 0),
    )  # fmt: skip
    write_dicom_series(volume, folder / "in")
    code = f"""
import re
from pathlib import Path
from support.line import night
for source in ({str(phantom_series)!r}, {str(folder / "in")!r}):
    assert night(Path(source), formats=("seg", "sr")).result
    status = Path("/proc/self/status").read_text()  # getrusage would begin with what this test's process had
    print(1024 * int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]))
"""
    taken = []
    for _ in range(2):
        run = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment()
        )
        small, large = map(int, run.stdout.split())
        taken.append(large - small)
    more_slices = len(array) - phantom.volume.shape[0]
    return (min(taken) - more_slices * memory.SLICE_MIB * memory.MIB) / array.nbytes


def test_18_memory_grows_by_the_volume_and_no_faster(growth):
    """Case 18: what a scan takes is a fixed number of volumes."""
    assert growth < 11


def test_18_1500_slices_of_768_fit_4_gib(growth):
    """Case 18: the bound, measured on a scan of a fortieth of the size."""
    assert growth < 2.0


def test_21_killed_while_it_segments(scan_of, tmp_path):
    """Case 21: the next run does the series, and nothing of the first is in its way."""
    # the process that looks after this one, which dies with it: else another one would go on at once
    before = "import os, time; scan.networks_of = lambda *_: lambda: (os.kill(os.getppid(), 9), time.sleep(60))"
    assert program(*scan_of, before=before).returncode == -signal.SIGKILL
    assert not list((tmp_path / "out").glob("[!.]*/*/*"))
    assert program(*scan_of).returncode == 0
    assert assert_whole(tmp_path / "out")["regions"]["lungs"]["infection_percent"] > 0


# A child for each moment: the n-th time that Python touches a file of the output tree, the process is gone.
KILL_EVERYWHERE = """
import json, os, signal, sys
from pathlib import Path
import covct.pipeline.series, covct.results.writers
from covct.unattended import batch
from covct.outputs import Outputs
from support.thresholds import make_networks
source, weights, master, base = sys.argv[1:]

def scan(out, moment):
    touched = 0
    def look(event, arguments):
        nonlocal touched
        if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"):
            if any(isinstance(one, (str, Path)) and str(one).startswith(str(out)) for one in arguments):
                touched += 1
                if touched == moment:
                    os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(look)
    order = batch.Order((Path(source),), out, Path(weights), Outputs(("nifti",)), force=True)
    batch.scan(order, make_networks, lambda event: None)

moment = 0
while True:
    moment += 1
    out = Path(base) / str(moment)
    os.system(f"cp -a {master} {out}")
    child = os.fork()
    if not child:
        scan(out, moment)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if not os.WIFSIGNALED(status):
        assert status == 0
        break
print(moment)
"""


def test_21_killed_anywhere(some, tmp_path):
    """Case 21: killed at any touch of the output tree, in the middle of a redo: the old result or the new one stands,
    whole, and the next run has nothing to do."""
    for path in sorted(some.iterdir())[3:]:
        path.unlink()
    first = night(some, formats=("nifti",))
    regions = assert_whole(first.out)["regions"]
    arguments = (some, tmp_path / "threshold-weights", first.out, tmp_path / "killed")
    (tmp_path / "killed").mkdir()
    run = subprocess.run(
        [sys.executable, "-c", KILL_EVERYWHERE, *map(str, arguments)],
        capture_output=True, text=True, env=environment(), timeout=300, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    deaths = int(run.stdout) - 1
    assert deaths > 20, "the moments are counted by Python's audit events"
    for moment in range(1, deaths + 1):
        out = tmp_path / "killed" / str(moment)
        state.recover(out)
        assert assert_whole(out)["regions"] == regions, moment
        if moment % 5 == 0:
            assert night(some, out=out, formats=("nifti",)).tally["done before"] == 1, moment


def test_21_disk_full(scan_of, tmp_path):
    """Case 21: exit 12, said in a sentence; nothing half is left, no attempt is counted, the next run does it."""

    def little_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    full = program(*scan_of, preexec_fn=little_room)
    assert full.returncode == 12, full.stderr
    assert "cannot write results" in full.stderr
    assert "Traceback" not in full.stderr
    assert not list((tmp_path / "out").glob("[!.]*/*/*"))
    assert not list((tmp_path / "out" / ".covct" / "attempts").iterdir())
    assert program(*scan_of).returncode == 0
    assert_whole(tmp_path / "out")


def as_stranger(*command):
    """A command line under an arbitrary uid, which of root's powers has at most that of reading."""
    if os.geteuid():
        return [*command]
    setpriv = shutil.which("setpriv")
    if not setpriv:
        pytest.skip("setpriv (util-linux) is needed to give up root's powers")
    read = "-all,+dac_read_search"  # the interpreter may lie where only root may look
    return [
        setpriv, f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups", f"--inh-caps={read}",
        f"--ambient-caps={read}", f"--bounding-set={read}", "--no-new-privs", *command,
    ]  # fmt: skip


def test_21_read_only_output(phantom_series):
    """Case 21: exit 12 before any work, and the folder is named."""
    with tempfile.TemporaryDirectory() as here:  # pytest's own folders are closed to strangers
        place = Path(here)
        place.chmod(0o755)
        source, weights = shutil.copytree(phantom_series, place / "series"), make_weights(place / "weights")
        source.chmod(0o755)
        (place / "out").mkdir(mode=0o555)
        scan = ("scan", source, "--out", place / "out", "--weights", weights)
        command = as_stranger(sys.executable, "-c", PROGRAM.format(before=""), *map(str, scan))
        run = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=60, check=False)
    assert run.returncode == 12, run.stderr
    assert f"{place / 'out'}: cannot write results" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("years", [-30, 10])
def test_21_clock_jump(years, some, tmp_path):
    """Case 21: times of files that lie in the future or before DICOM was born redo nothing, and hold nothing up."""
    first = night(some)
    then = time.time() + years * 365 * 86400
    for path in (*some.iterdir(), *first.out.rglob("*")):
        os.utime(path, (then, then))
    assert night(some, out=first.out).tally["done before"] == 1
    order = batch.Order((some,), tmp_path / "watched", tmp_path / "threshold-weights", Outputs(()))
    [(event, _)] = watched(order, make_networks(), [None, None, None, None])
    assert event == "done"


def test_22_two_containers_on_one_output(scan_of, tmp_path):
    """Case 22: the second is told who is at work and ends with 11; the first is not disturbed."""
    wait = "def held():\n    print('held', flush=True)\n    input()\n    return make_networks()\n"
    first = program(
        *scan_of, before=wait + "scan.networks_of = lambda *_: held", start=subprocess.Popen, stdin=subprocess.PIPE
    )
    assert first.stdout.readline() == "held\n"
    second = program(*scan_of)
    assert second.returncode == 11
    assert f"started by {first.pid}, " in second.stderr
    _, stderr = first.communicate("go on\n", timeout=60)
    assert first.returncode == 0, stderr
    assert_whole(tmp_path / "out")


def test_22_two_containers_on_one_input(some, tmp_path):
    """Case 22: each with an output of its own makes the same objects, so that a PACS keeps one of each."""
    headers = []
    for name in ("one", "two"):
        done = night(some, out=tmp_path / name, formats=("seg", "sr"))
        files = sorted(done.result.glob("*.dcm"))
        headers.append([pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in files])
    assert len(set(headers[0])) == 2
    assert headers[0] == headers[1]


# What `docker run --read-only --network none --cap-drop ALL --security-opt no-new-privileges --shm-size 64k
# --pids-limit 256 --tmpfs /tmp --user ... -v IN:/in:ro -v OUT:/out` does, by hand.
CONTAINER = """
set -e
mount -t tmpfs none /mnt
mkdir /mnt/in /mnt/out
mount --bind "$1" /mnt/in
mount --bind "$2" /mnt/out
mount -t tmpfs none /tmp
mount -t tmpfs -o size=64k none /dev/shm
mount -o remount,bind,ro /
mount -o remount,ro /mnt
mount -o remount,bind,ro /mnt/in
cd /
shift 2
exec prlimit --nproc=256 "$@"
"""


@pytest.fixture
def container(tmp_path):
    """A function that runs a command as a container would: no network, read-only root, a stranger without HOME."""
    unshare = shutil.which("unshare")
    if os.geteuid() or not unshare or not shutil.which("prlimit"):
        pytest.skip("making a container by hand takes root, unshare and prlimit (util-linux)")
    if any(Path(place).is_relative_to(hidden) for place in (ROOT, sys.prefix) for hidden in ("/tmp", "/mnt")):
        pytest.skip("this checkout or its Python lies where the container has folders of its own: /tmp or /mnt")
    out = tmp_path / "out"
    out.mkdir()
    out.chmod(0o777)

    def run(source, *arguments):
        source.chmod(0o755)
        command = [
            unshare, "--mount", "--net", "--propagation", "private", "bash", "-c", CONTAINER, "container",
            str(source), str(out), *as_stranger(sys.executable, "-m", "covct", *arguments),
        ]  # fmt: skip
        bare = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(command, capture_output=True, text=True, env=bare, timeout=300, check=False)
        if "unshare" in done.stderr or "mount:" in done.stderr:
            pytest.skip(f"no namespaces here: {done.stderr.strip()}")
        return done

    run.out = out  # type: ignore[attr-defined]
    return run


def test_23_and_24_in_a_container_without_a_gpu(some, container):
    """Cases 23 and 24, with keras and the shipped weights: no HOME, nothing writable but /out and /tmp, 64 KiB of
    /dev/shm, no network, 256 processes, no powers. --require-gpu fails and leaves no trace; else the CPU is said."""
    pytest.importorskip("keras")
    for path in sorted(some.iterdir())[4:]:
        path.unlink()
    scan = ("scan", "/mnt/in", "--out", "/mnt/out", "--formats", "seg,sr")
    refused = container(some, *scan, "--require-gpu")
    assert refused.returncode == 13, refused.stderr
    assert "a GPU is required" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not list(container.out.glob("[!.]*/*/*"))
    done = container(some, *scan, "--json")
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [e["event"] for e in events if e["event"] in ("done", "rejected", "failed")] == ["done"]
    report = assert_whole(container.out)
    assert report["run"]["device"]["kind"] == "cpu"
    assert {path.stat().st_uid for path in container.out.rglob("*")} == {STRANGER}


class ResourceExhaustedError(Exception):
    """Named as TensorFlow's."""


def test_24_gpu_out_of_memory_costs_one_series_only(series_folder, tmp_path):
    """Case 24: it fails by name, the next is done, and --retry-failed does it once there is room."""
    other = anew(shutil.copytree(series_folder, tmp_path / "other"), "1.2.826.0.1.3680043.8.498.7")
    for dataset in each_slice(other):
        dataset.StudyInstanceUID = "1.2.826.0.1.3680043.8.498.8"
    networks = make_networks()
    calls = []

    def full_once(slices):
        calls.append(len(slices))
        if len(calls) == 1:
            raise ResourceExhaustedError("OOM when allocating tensor")
        return networks.lungs.predict(slices)

    full = replace(networks, lungs=replace(networks.lungs, predict=full_once))
    got = night(series_folder, other, networks=full)
    assert (got.tally["failed"], got.tally["done"]) == (1, 1)
    [failed] = got.said("failed")
    assert failed["message"].startswith("ResourceExhaustedError at ")
    assert night(series_folder, other, out=got.out, retry_failed=True).tally["done"] == 1


def test_24_smaller_batches_where_the_gpu_is_full():
    """Case 24: 8, 4, 2, 1 slices at once, then the CPU."""
    segment = pytest.importorskip("covct.networks.segment")

    class Small:
        def predict_on_batch(self, slices):
            if len(slices) > 2:
                raise ResourceExhaustedError("OOM when allocating tensor")
            return slices

    slices = np.random.default_rng(0).random((5, 8, 8, 1)).astype(np.float32)
    np.testing.assert_array_equal(segment.keras_predictor(Small())(slices), slices[..., 0])


def test_many_studies_load_the_networks_once(series_folder, tmp_path):
    """No case of its own: the peers load a model for every study."""
    other = anew(shutil.copytree(series_folder, tmp_path / "other"), "1.2.826.0.1.3680043.8.498.7")
    for dataset in each_slice(other):
        dataset.StudyInstanceUID = "1.2.826.0.1.3680043.8.498.8"
    loads = []

    def load():
        loads.append(1)
        return make_networks()

    order = batch.Order((series_folder, other), tmp_path / "out", make_weights(tmp_path / "weights"), Outputs(()))
    assert batch.scan(order, load, lambda event: None)["done"] == 2
    assert len(loads) == 1
