"""Faults on purpose, by the hundred: kill, stop, starve and mislead covct, run it again, and compare what is left.

    python tests/faults.py --kills 200

Each run is the command line in a process group of its own, forked from this one, which has imported everything; the
networks are thresholds, the scans tiny. After each fault the same command is run again undisturbed. Its output tree
must be the tree of a run that nothing ever disturbed: the same paths, and the same bytes, apart from what tells of the
run itself (times, device, memory). No series that had its result is done again, and nothing half is left.

Which call of the C library fails, or is the last, is chosen by `failing_calls.c`, compiled here: nothing above it, be
it Python, SQLite or a codec, is changed. Without a C compiler the campaigns that need it are left out, and say so.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from math import ceil
from pathlib import Path
from typing import Any

SHIM = "COVCT_FAULTS_SHIM"
# Calls and deeds, as in failing_calls.c.
CREATE, OPEN, WRITE, SYNC, RENAME, MKDIR, UNLINK, READ, EVENT, CLOSE = (1 << n for n in range(10))
FAIL, KILL_BEFORE, KILL_AFTER, TEAR, TERMINATE, VANISH, CLOCK, REMOVE, GROW, CUT, KILL_ALONE = range(11)
CHANGES = CREATE | WRITE | SYNC | RENAME | MKDIR | UNLINK
SECONDS = 120.0  # after which a run counts as hung
STOP_SECONDS = 5.0
RUN_OF = {
    "finished",
    "seconds",
    "signatures",
    "moments",
}  # what in an outcome or a summary tells of the run, or of files' times
KEYED = {"patient"}  # digests under a key that each tree draws for itself
DONE, NOT_WRITABLE, LOCKED, STOPPED = 0, 12, 11, 130
ALL_FORMATS = "seg,sr,sc,ko,pdf,nifti,png,page"


@dataclass(frozen=True)
class Fault:
    """The deed at the `nth` of the `calls` on files of the output tree, or `below` the work folder; 0: only count."""

    calls: int = CHANGES
    nth: int = 0
    deed: int = FAIL
    number: int = 0
    lasting: bool = False
    below: str = "out"


@dataclass(frozen=True)
class Ended:
    """How a run ended. `code` is negative for a signal; None where it hung. `stop_s`: from the signal to the end."""

    code: int | None
    seconds: float
    events: list[dict[str, Any]]
    stderr: str
    calls: int = 0
    hit: str = ""
    stop_s: float = 0.0


@dataclass(frozen=True)
class Scenario:
    """What is run: an inbox, the tree it begins with, and what an undisturbed run makes of it."""

    name: str
    inbox: Path
    formats: str
    before: Path | None = None
    tree: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    selection: bool = True  # whether the reasons for a series' preference are compared

    @property
    def results(self) -> dict[str, str]:
        """Folder to work key."""
        return {
            path.removesuffix("/outcome.json"): outcome["work_key"]
            for path, outcome in self.tree.items()
            if path.endswith("/outcome.json")
        }


@dataclass
class Row:
    """What a campaign found: one line of the table. `calls`: where a fault could have struck."""

    kind: str
    runs: int = 0
    calls: int = 0
    worst: str = ""
    faults: list[str] = field(default_factory=list)
    omitted: str = ""
    codes: Counter = field(default_factory=Counter)

    @property
    def identical(self) -> bool:
        return not self.faults


@dataclass(frozen=True)
class Size:
    """How large the campaigns are: random kills and stops, pairs of processes, calls of each scenario at most."""

    kills: int = 200
    stops: int = 50
    pairs: int = 50
    calls: int = sys.maxsize
    seed: int = 1


class Bench:
    """A place to run in: one run at a time, always under the same paths, since outcomes name their sources."""

    def __init__(self, base: Path):
        self.base, self.work, self.weights = base, base / "bench", base / "weights"
        self.out, self.source = self.work / "out", self.work / "in"
        self.work.mkdir()
        self.counts: dict[tuple[str, int, str], int] = {}
        self.shim = ctypes.CDLL(os.environ[SHIM]) if os.environ.get(SHIM) else None
        if self.shim:
            self.shim.faults_board.restype = ctypes.POINTER(Board)
            self.board = self.shim.faults_board().contents

    def lay(self, scenario: Scenario) -> None:
        """The scenario's inbox, and the tree it begins with."""
        shutil.rmtree(self.work)
        shutil.copytree(scenario.inbox, self.source)
        if scenario.before:
            shutil.copytree(scenario.before, self.out)

    def start(self, scenario: Scenario, fault: Fault | None = None, name: str = "one", barrier: int = -1) -> int:
        """Fork a run; it waits for the barrier's other end to be closed. Returns its process, which leads a group."""
        if self.shim:
            self.shim.faults_board()
        for suffix in ("jsonl", "txt"):
            (self.work / f"{name}.{suffix}").touch()
        child = os.fork()
        if child:
            with suppress(OSError):  # both do it: whichever comes first, it is a group before it is killed
                os.setpgid(child, child)
            return child
        code = 1
        try:
            os.setpgid(0, 0)
            for descriptor, suffix in ((1, "jsonl"), (2, "txt")):
                target = os.open(self.work / f"{name}.{suffix}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(target, descriptor)
                os.close(target)
            if barrier >= 0:
                os.read(barrier, 1)
            self._become(scenario, fault, name)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            try:
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)

    def _become(self, scenario: Scenario, fault: Fault | None, name: str) -> None:
        from covct import cli
        from covct.commands import scan
        from covct.unattended import one_series
        from support.thresholds import make_networks

        networks = make_networks()
        scan.networks_of = lambda *_: lambda: networks  # type: ignore[assignment]
        one_series.now = lambda: datetime(2026, 5, 4, tzinfo=UTC)  # what objects tell of their making
        one_series.installation = lambda out: "one"
        sys.argv = ["covct", "scan", str(self.source), "--out", str(self.out), "--weights", str(self.weights)]
        sys.argv += ["--formats", scenario.formats, "--json"]
        if fault and self.shim:
            places = [os.fsencode(self.work / fault.below), os.fsencode(self.work / f"{name}.jsonl")]
            self.shim.faults_arm(
                *places, fault.calls, ctypes.c_long(fault.nth), fault.deed, fault.number, int(fault.lasting)
            )
        cli.main()
        sys.exit(0)

    def end(self, process: int, kill_after: float | None = None, by: int = signal.SIGKILL, name: str = "one") -> Ended:
        """Wait for a run's end, and for that of all its group; kill it after a time."""
        begun = time.monotonic()
        due = begun + kill_after if kill_after is not None else None
        signalled = 0.0
        status = None
        while time.monotonic() < begun + SECONDS:
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                break
            status = None
            if due is not None and time.monotonic() >= due:
                os.killpg(process, by) if by == signal.SIGKILL else os.kill(process, by)
                due, signalled = None, time.monotonic()
            time.sleep(0.001)
        now = time.monotonic()
        if status is None:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
        while _group_lives(process):  # a worker whose parent was killed goes a moment later
            time.sleep(0.001)
        lines = (self.work / f"{name}.jsonl").read_text().splitlines()
        return Ended(
            None if status is None else os.waitstatus_to_exitcode(status),
            now - begun,
            [json.loads(line) for line in lines if line.endswith("}")],
            (self.work / f"{name}.txt").read_text(errors="replace"),
            self.board.calls if self.shim else 0,
            f"{self.board.what.decode()} {_short(self.board.path.decode())}" if self.shim and self.board.hits else "",
            now - signalled if signalled else 0.0,
        )

    def run(self, scenario: Scenario, fault: Fault | None = None, **end: Any) -> Ended:
        return self.end(self.start(scenario, fault), **end)


class Board(ctypes.Structure):
    """The memory shared with runs, as in failing_calls.c."""

    _fields_ = [
        ("calls", ctypes.c_long),
        ("hits", ctypes.c_long),
        ("clock_s", ctypes.c_long),
        ("what", ctypes.c_char * 16),
        ("path", ctypes.c_char * 4096),
    ]


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _short(path: str) -> str:
    return re.sub(r"[0-9a-f]{16,}", "…", path.split("/bench/")[-1])


def tree_of(out: Path, selection: bool = True) -> dict[str, Any]:
    """All there is of an output tree, by path, with what must be the same whenever it is made.

    Without `selection` it is left out why a series was preferred to others: they may not have been readable then.
    """
    apart = {"run"} if selection else {"run", "selection"}
    tree: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if name.startswith((".covct/index", "runs/")) or name in (".covct/lock", ".covct/suspects.json"):
            continue  # may be thrown away; of each run one; says who held it; at which file a process was ended
        if path.is_dir():
            if not name.startswith(".covct"):
                tree[name + "/"] = "folder"
        elif name.startswith(".covct/"):
            tree[name] = "there"
        elif path.name == "report.json":
            tree[name] = {key: value for key, value in json.loads(path.read_text()).items() if key not in apart}
        elif path.name == "outcome.json":
            outcome = {key: value for key, value in json.loads(path.read_text()).items() if key not in RUN_OF | KEYED}
            tree[name] = outcome | {"files": outcome["files"] | {"report.json": "its run differs"}}
        elif name == "summary.csv":
            tree[name] = _timeless_rows(path)
        elif name == "index.html":
            tree[name] = "there"
        else:
            tree[name] = _sha256(path)
    return tree


def _timeless_rows(path: Path) -> list[dict[str, str]]:
    import csv

    with open(path, newline="") as file:
        return [{key: value for key, value in row.items() if key not in RUN_OF} for row in csv.DictReader(file)]


def _sha256(path: Path) -> str:
    from covct.networks.cards import file_sha256

    return file_sha256(path)


def differences(tree: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Paths that are too many, too few, or not the same."""
    said = [f"too much: {_short(name)}" for name in sorted(tree.keys() - wanted.keys())]
    said += [f"lost: {_short(name)}" for name in sorted(wanted.keys() - tree.keys())]
    unlike = [name for name in sorted(tree.keys() & wanted) if tree[name] != wanted[name]]
    return said + [f"differs: {_short(name)}{_where(tree[name], wanted[name])}" for name in unlike]


def _where(one: Any, other: Any) -> str:
    """Which fields of two documents differ, with both values."""
    if isinstance(one, dict) and isinstance(other, dict):
        unlike = [key for key in sorted(one.keys() | other.keys()) if one.get(key) != other.get(key)]
        return "".join(f", {key}{_where(one.get(key), other.get(key))}" for key in unlike)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return "".join(_where(mine, its) for mine, its in zip(one, other, strict=True) if mine != its)
    return f" {one!r:.80} for {other!r:.80}"


def _fate(outcome: Path | dict[str, Any]) -> tuple[str, str, dict[str, str]]:
    """Status, reason and formats: a series that could not be read is rightly done again, and one that lacks formats is
    added to, though its key is the same."""
    read = json.loads(outcome.read_text()) if isinstance(outcome, Path) else outcome
    return read["status"], read["slug"], read["formats"]


def whole(folder: Path) -> str:
    """The work key of a result whose every file is that of its outcome; empty where it is not."""
    from covct.disk.outcome import read_outcome

    outcome = read_outcome(folder)
    if not outcome or {path.name for path in folder.iterdir()} != {*outcome.files, "outcome.json"}:
        return ""
    there = all(_sha256(folder / name) == digest for name, digest in outcome.files.items())
    return outcome.work_key if there else ""


def left(bench: Bench, scenario: Scenario, ended: Ended, allowed: Iterable[int]) -> tuple[list[str], set[str]]:
    """What is wrong with a tree after a fault, and the folders that have their result."""
    said = []
    if ended.code not in allowed:
        said.append(f"ended with {ended.code}")
    if "Traceback" in ended.stderr:
        said.append(f"traceback: {ended.stderr.strip().splitlines()[-1]}")
    standing = set()
    for path in bench.out.glob("[!.]*/*/outcome.json"):
        folder = str(path.parent.relative_to(bench.out))
        key = whole(path.parent)
        if not key:
            said.append(f"half a result: {_short(folder)}")
        elif key == scenario.results.get(folder) and _fate(path) == _fate(scenario.tree[f"{folder}/outcome.json"]):
            standing.add(folder)
    for path in scenario.before.glob("[!.]*/*/outcome.json") if scenario.before else ():
        folder = str(path.parent.relative_to(scenario.before))  # type: ignore[arg-type]
        aside = bench.out / ".covct" / "old" / folder
        superseded = folder not in scenario.results and any(map(whole, (bench.out / folder).parent.glob("*")))
        if not (whole(bench.out / folder) or whole(aside) or superseded):
            said.append(f"the old result is lost before the new one stands: {_short(folder)}")
    return said, standing


def again(bench: Bench, scenario: Scenario, standing: set[str]) -> tuple[list[str], Ended]:
    """Run once more, undisturbed: what is wrong with the tree then."""
    ended = bench.run(scenario)
    said = [f"the rerun ended with {ended.code}: {ended.stderr[-300:]}"] if ended.code != DONE else []
    folders = {kind: {e["folder"] for e in ended.events if e["event"] == kind} for kind in ("started", "unchanged")}
    redone = (folders["started"] - folders["unchanged"]) & standing  # files that grew are looked at
    said += [f"done twice: {_short(folder)}" for folder in sorted(redone)]
    return said + differences(tree_of(bench.out, scenario.selection), scenario.tree), ended


def suffer(
    bench: Bench, scenario: Scenario, row: Row, allowed: Iterable[int], fault: Fault | None = None, **end: Any
) -> Ended:
    """One run with a fault, and one without: into the row."""
    bench.lay(scenario)
    ended = bench.run(scenario, fault, **end)
    return verify(bench, scenario, row, allowed, ended)


def verify(bench: Bench, scenario: Scenario, row: Row, allowed: Iterable[int], ended: Ended) -> Ended:
    said, standing = left(bench, scenario, ended, allowed)
    more, rerun = again(bench, scenario, standing)
    row.runs += 1
    row.codes[ended.code] += 1
    where = ended.hit or f"after {ended.seconds:.2f} s"
    row.faults += [f"{scenario.name}, {where}: {one}" for one in said + more]
    return rerun


def undisturbed(bench: Bench, scenario: Scenario) -> Scenario:
    """The scenario with what becomes of it when nothing happens."""
    bench.lay(scenario)
    ended = bench.run(scenario)
    if ended.code != DONE or "Traceback" in ended.stderr:
        raise SystemExit(f"{scenario.name}: an undisturbed run ended with {ended.code}: {ended.stderr}")
    return replace(scenario, tree=tree_of(bench.out), seconds=ended.seconds)


def moments(bench: Bench, scenario: Scenario, fault: Fault, size: Size, share: float = 1.0) -> list[Fault]:
    """The fault at each call, or at a share of them drawn by the seed."""
    counted = scenario.name, fault.calls, fault.below
    if counted not in bench.counts:
        bench.lay(scenario)
        bench.counts[counted] = bench.run(scenario, replace(fault, nth=0)).calls
    total = bench.counts[counted]
    chosen = random.Random(size.seed).sample(range(1, total + 1), min(ceil(share * total), size.calls))
    return [replace(fault, nth=nth) for nth in sorted(chosen)]


def sweep(
    bench: Bench,
    row: Row,
    fault: Fault,
    allowed: Iterable[int],
    scenarios: Iterable[Scenario],
    size: Size,
    share: float = 1.0,
) -> Row:
    for scenario in scenarios:
        chosen = moments(bench, scenario, fault, size, share)
        row.calls += bench.counts[scenario.name, fault.calls, fault.below]
        for one in chosen:
            suffer(bench, scenario, row, allowed, one)
    row.worst = f"exit codes {_codes(row)}"
    return row


def _codes(row: Row) -> str:
    return ", ".join(f"{code} ({number})" for code, number in sorted(row.codes.items(), key=str))


KILLED = (-signal.SIGKILL, DONE)  # done: after the last call there is nothing to disturb


def killed_at_steps(bench: Bench, few: list[Scenario], ten: list[Scenario], size: Size) -> Row:
    """Before each event is told: found, started, each step (load, check, networks, ... write), done, finished."""
    row = Row("SIGKILL at each step's boundary")
    return sweep(bench, row, Fault(EVENT, deed=KILL_BEFORE), KILLED, few, size)


def killed_before_calls(bench: Bench, few: list[Scenario], ten: list[Scenario], size: Size) -> Row:
    return sweep(bench, Row("SIGKILL before each call"), Fault(deed=KILL_BEFORE), KILLED, few, size)


def killed_after_calls(bench: Bench, few: list[Scenario], ten: list[Scenario], size: Size) -> Row:
    fault = Fault(CREATE | SYNC | RENAME | MKDIR | UNLINK, deed=KILL_AFTER)
    return sweep(bench, Row("SIGKILL after each call"), fault, KILLED, few, size)


def killed_in_writes(bench: Bench, few: list[Scenario], ten: list[Scenario], size: Size) -> Row:
    return sweep(bench, Row("SIGKILL half way through each write"), Fault(WRITE, deed=TEAR), KILLED, few, size)


def worker_killed(bench: Bench, few: list[Scenario], ten: list[Scenario], size: Size) -> Row:
    """The kernel ends the process that works, for want of memory; the one that looks after it goes on by itself."""
    row = Row("SIGKILL of the worker alone, at each call")
    return sweep(bench, row, Fault(deed=KILL_ALONE), (DONE,), few, size, 1 / 2)


def killed_at_random(bench: Bench, few: list[Scenario], ten: list[Scenario], size: Size) -> Row:
    """Of a ten-series batch, from nothing and over old results; a third of the reruns are killed as well."""
    row, draw, most, twice = Row("SIGKILL at random moments of ten series"), random.Random(size.seed), 0, 0
    while row.runs < size.kills:
        scenario = ten[row.runs % len(ten)]
        bench.lay(scenario)
        ended = bench.run(scenario, kill_after=draw.uniform(0, scenario.seconds))
        if ended.code == DONE:
            continue  # it was faster than the one that the moments are drawn from
        if draw.random() < 1 / 3:
            second = bench.run(scenario, kill_after=draw.uniform(0, scenario.seconds / 2))
            twice += second.code != DONE
            ended = second
        rerun = verify(bench, scenario, row, KILLED, ended)
        most = max(most, sum(event["event"] == "started" for event in rerun.events))
    row.worst = f"{twice} killed twice; up to {most} series left to the rerun"
    return row


def stopped_at_random(bench: Bench, few: list[Scenario], ten: list[Scenario], size: Size) -> Row:
    row, draw, slowest, early = Row("SIGTERM at random moments of ten series"), random.Random(size.seed), 0.0, 0
    while row.runs < size.stops:
        scenario = ten[row.runs % len(ten)]
        bench.lay(scenario)
        ended = bench.run(scenario, kill_after=draw.uniform(0, scenario.seconds), by=signal.SIGTERM)
        if ended.code == DONE:
            continue
        if ended.code == -signal.SIGTERM and not ended.events:
            early += 1  # before the program has begun to listen
            continue
        slowest = max(slowest, ended.stop_s)
        if ended.stop_s > STOP_SECONDS:
            row.faults.append(f"{scenario.name}: {ended.stop_s:.1f} s from SIGTERM to the end")
        verify(bench, scenario, row, (STOPPED,), ended)
    row.worst = f"{slowest:.2f} s to the end; exit codes {_codes(row)}" + (
        f"; {early} before it began" if early else ""
    )
    return row


def stopped_at_calls(bench: Bench, few: list[Scenario], ten: list[Scenario], size: Size) -> Row:
    """At the last calls of all the run is as good as done, and may say so."""
    row = Row("SIGTERM at each call")
    return sweep(bench, row, Fault(deed=TERMINATE), (STOPPED, DONE), few, size, 1 / 3)


def disk_full_at_writes(bench: Bench, few: list[Scenario], ten: list[Scenario], size: Size) -> Row:
    """Only the last sign of life may fail without being said: the results are there."""
    fault = Fault(CREATE | WRITE | MKDIR, number=errno.ENOSPC, lasting=True)
    return sweep(bench, Row("ENOSPC from each write on"), fault, (NOT_WRITABLE, DONE), few, size)


def disk_full_every_night(bench: Bench, few: list[Scenario], ten: list[Scenario], size: Size) -> Row:
    """It is not the series' fault, however often."""
    row, fault = Row("ENOSPC four runs on end"), Fault(WRITE, number=errno.ENOSPC, lasting=True)
    for scenario in few:
        for one in moments(bench, scenario, fault, size, 1 / 6):
            bench.lay(scenario)
            for _ in range(3):
                bench.run(scenario, one)
            verify(bench, scenario, row, (NOT_WRITABLE, DONE), bench.run(scenario, one))
    row.worst = f"exit codes {_codes(row)}"
    return row


def disk_small(bench: Bench, few: list[Scenario], ten: list[Scenario], size: Size) -> Row:
    """A real file system that is too small: tmpfs, in a mount namespace of our own."""
    row = Row("tmpfs of each size up to enough")
    library = ctypes.CDLL(None, use_errno=True)
    new_namespace, private, remount = 0x20000, 1 << 18 | 1 << 14, 32
    out = os.fsencode(bench.out)

    def mount(flags: int, kib: int) -> None:
        if library.mount(b"none", out, b"tmpfs", flags, f"size={kib}k".encode()):
            raise OSError(ctypes.get_errno(), "mount")

    def inside() -> Row:
        if library.unshare(new_namespace) or library.mount(b"none", b"/", None, private, None):
            return replace(row, omitted="takes the right to mount")
        for scenario in few:
            kib = 16
            while True:
                shutil.rmtree(bench.work)
                shutil.copytree(scenario.inbox, bench.source)
                bench.out.mkdir()
                mount(0, kib)
                try:
                    if scenario.before:
                        shutil.copytree(scenario.before, bench.out, dirs_exist_ok=True)
                    ended = bench.run(scenario)
                except (OSError, shutil.Error):  # not even what the scenario begins with
                    ended = None
                if ended:
                    mount(remount, 2**18)
                    verify(bench, scenario, row, (NOT_WRITABLE, DONE), ended)
                library.umount2(out, 2)
                if ended and ended.code == DONE:
                    break
                kib += 1024 if size.calls == 1 else 32
        row.worst = f"exit codes {_codes(row)}"
        return row

    return _apart(inside)


def _apart(function: Callable[[], Row]) -> Row:
    """A row found in a child process, whose namespaces are its own."""
    ears, mouth = os.pipe()
    child = os.fork()
    if not child:
        try:
            row = function()
        except BaseException:
            row = Row("", faults=[traceback.format_exc()])
        os.write(mouth, json.dumps(asdict(row) | {"codes": {}, "faults": row.faults[:50]}).encode())
        os._exit(0)
    os.close(mouth)
    with open(ears) as file:
        found = json.load(file)
    os.waitpid(child, 0)
    return Row(**found | {"codes": Counter()})


def failing(name: str, number: int, calls: int, lasting: bool = False, allowed: tuple[int, ...] = (NOT_WRITABLE, DONE)):
    """A campaign: the error at each call. Where the call does not matter to a result, the run may go on."""

    def campaign(bench: Bench, few: list[Scenario], ten: list[Scenario], size: Size) -> Row:
        return sweep(bench, Row(name), Fault(calls, number=number, lasting=lasting), allowed, few, size)

    return campaign


def read_only(bench: Bench, few: list[Scenario], ten: list[Scenario], size: Size) -> Row:
    row = Row("output read-only from the start")
    for scenario in few:
        suffer(bench, scenario, row, (NOT_WRITABLE,), Fault(nth=1, number=errno.EROFS, lasting=True))
    row.worst = f"exit codes {_codes(row)}"
    return row


def output_vanishes(bench: Bench, few: list[Scenario], ten: list[Scenario], size: Size) -> Row:
    """A drive is unplugged; it comes back before the rerun, in the place of whatever was written meanwhile."""
    row, gone = Row("output vanishes at each call"), bench.work / "out.gone"
    for scenario in few:
        for one in moments(bench, scenario, Fault(deed=VANISH), size, 1 / 2):
            bench.lay(scenario)
            ended = bench.run(scenario, one)
            if gone.exists():
                shutil.rmtree(bench.out, ignore_errors=True)
                gone.rename(bench.out)
            verify(bench, scenario, row, (NOT_WRITABLE, DONE), ended)
    row.worst = f"exit codes {_codes(row)}"
    return row


def clock_jumps(bench: Bench, few: list[Scenario], ten: list[Scenario], size: Size) -> Row:
    row = Row("clock set back a day, on 30 years, at each call")
    for seconds in (-86_400, 30 * 31_557_600):
        sweep(bench, row, Fault(deed=CLOCK, number=seconds), (DONE,), few, size, 1 / 6)
    return row


def without_selection(scenario: Scenario) -> Scenario:
    """Where a source cannot be read the report of another tells it, and rightly still does when it can be."""
    tree = {
        name: {key: value for key, value in entry.items() if key != "selection"} if isinstance(entry, dict) else entry
        for name, entry in scenario.tree.items()
    }
    return replace(scenario, tree=tree, selection=False)


def misread(name: str, fault: Fault):
    """A campaign: something happens to a source file as it is opened or read. At most its own study suffers, what is
    said of that is no result of another's, and once the file is whole again the rerun makes all good."""

    def campaign(bench: Bench, few: list[Scenario], ten: list[Scenario], size: Size) -> Row:
        row, said = Row(name), Counter[str]()
        for scenario in map(without_selection, few):
            for one in moments(bench, scenario, replace(fault, below="in"), size, 1 / 2):
                bench.lay(scenario)
                ended = bench.run(scenario, one)
                tree = tree_of(bench.out, scenario.selection)
                wrong = {
                    name for name in tree.keys() | scenario.tree.keys() if tree.get(name) != scenario.tree.get(name)
                }
                studies = {name.split("/")[0] for name in wrong if "/" in name and not name.startswith(".covct")}
                if len(studies) > 1:
                    row.faults.append(f"{scenario.name}, {ended.hit}: {len(studies)} studies suffer")
                row.faults += [
                    f"{ended.hit}: {e['slug']}: {e['message']}" for e in ended.events if e["event"] == "failed"
                ]
                said.update(e["slug"] for e in ended.events if e["event"] == "rejected" and studies)
                shutil.rmtree(bench.source)
                shutil.copytree(scenario.inbox, bench.source)
                verify(bench, scenario, row, (DONE,), ended)
        slugs = ", ".join(f"{slug} ({number})" for slug, number in said.most_common())
        row.worst = f"one study {slugs}" if slugs else "no study suffers"
        return row

    return campaign


def two_at_once(bench: Bench, few: list[Scenario], ten: list[Scenario], size: Size) -> Row:
    """With every format, so that the first is still at work when the second has lost its patience with the lock."""
    row, names = Row("two processes started together"), ("one", "two")
    scenario = undisturbed(bench, replace(ten[0], name="ten, all formats", formats=ALL_FORMATS))
    while row.runs < size.pairs:
        bench.lay(scenario)
        ears, mouth = os.pipe()
        children = [bench.start(scenario, name=name, barrier=ears) for name in names]
        os.close(ears)
        os.write(mouth, b"go")
        both = [bench.end(child, name=name) for child, name in zip(children, names, strict=True)]
        os.close(mouth)
        row.runs += 1
        row.codes.update(one.code for one in both)
        if sorted(one.code or 0 for one in both) != [DONE, LOCKED]:
            row.faults.append(f"{scenario.name}: ended with {[one.code for one in both]}")
        done = Counter(e["folder"] for one in both for e in one.events if e["event"] in ("done", "rejected", "failed"))
        if set(done) != set(scenario.results) or set(done.values()) != {1}:
            row.faults.append(f"{scenario.name}: not each series once: {sorted(done.values())}")
        row.faults += [f"{scenario.name}: {one}" for one in differences(tree_of(bench.out), scenario.tree)]
    row.worst = f"exit codes {_codes(row)}"
    return row


Campaign = Callable[[Bench, list[Scenario], list[Scenario], Size], Row]
CAMPAIGNS: dict[str, Campaign] = {
    "kill-steps": killed_at_steps,
    "kill-before": killed_before_calls,
    "kill-after": killed_after_calls,
    "kill-torn": killed_in_writes,
    "kill-worker": worker_killed,
    "kill-random": killed_at_random,
    "stop-random": stopped_at_random,
    "stop-calls": stopped_at_calls,
    "enospc": disk_full_at_writes,
    "enospc-nights": disk_full_every_night,
    "tmpfs": disk_small,
    "eio": failing("EIO at each call", errno.EIO, CHANGES | CLOSE),
    "eacces": failing("EACCES from each call on", errno.EACCES, CREATE | RENAME | MKDIR | UNLINK, lasting=True),
    "erofs": failing("read-only from each call on", errno.EROFS, CHANGES, lasting=True),
    "read-only": read_only,
    "output-vanishes": output_vanishes,
    "clock": clock_jumps,
    "source-vanishes": misread("source file vanishes as it is opened", Fault(OPEN, deed=REMOVE)),
    "source-grows": misread("source file grows as it is read", Fault(READ, deed=GROW)),
    "source-cut": misread("source file is cut to half as it is read", Fault(READ, deed=CUT)),
    "source-eio": misread("EIO at each read of a source file", Fault(READ, number=errno.EIO)),
    "source-eacces": misread("EACCES at each opening of a source file", Fault(OPEN, number=errno.EACCES)),
    "two": two_at_once,
}
WITHOUT_SHIM = {"kill-random", "stop-random", "tmpfs", "two"}
OF_TEN = {"kill-random", "stop-random", "two"}


def inboxes(base: Path) -> None:
    """Ten series of a few slices: seven chests, a NIfTI file, a localizer, one of air. And two studies before and after
    more has come: of one a series that is chosen over the first, of the other a slice."""
    from covct.phantom.chest import make_phantom
    from covct.phantom.dicom import write_dicom_series
    from support.series import anew, each_slice

    phantom = make_phantom(
        slices=30, rows=64, columns=64, slice_spacing_mm=None, pixel_spacing_mm=(6.0, 6.0), lesions="severe", seed=1
    )
    write_dicom_series(phantom, base / "chest")
    for path in [path for n, path in enumerate(sorted((base / "chest").iterdir())) if not 12 <= n < 16]:
        path.unlink()

    def series(place: str, study: int, number: int = 1, **attributes: Any) -> Path:
        folder = Path(shutil.copytree(base / "chest", base / place))
        for dataset in each_slice(anew(folder, f"1.2.{study}.{number}")):
            dataset.StudyInstanceUID = f"1.2.{study}"
            for keyword, value in attributes.items():
                setattr(dataset, keyword, value)
        return folder

    for study in range(1, 8):
        series(f"ten/{study}", study)
    series("ten/8", 8, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    series("ten/9", 9, PixelData=bytes(64 * 64 * 2))
    subprocess.run(
        [sys.executable, "-m", "covct", "convert", str(base / "chest"), "--out", str(base / "nifti"), "--to", "nifti"],
        check=True, capture_output=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    [volume] = (base / "nifti").rglob("*.nii.gz")
    shutil.copy(volume, base / "ten" / "volume.nii.gz")

    series("one/1", 1)
    series("one/8", 8, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])

    series("more/1/soft", 1, 1)
    series("more/1/sharp", 1, 2, ConvolutionKernel="B70s")
    series("more/2", 2)
    shutil.copytree(base / "more", base / "less")
    shutil.rmtree(base / "less" / "1" / "sharp")
    sorted((base / "less" / "2").iterdir())[-1].unlink()


def scenarios(bench: Bench, with_ten: bool) -> tuple[list[Scenario], list[Scenario]]:
    """Few series, for faults at each call; and ten, for random moments. Each from nothing, and over old results."""
    base = bench.base

    def old(name: str, inbox: str) -> Path:
        undisturbed(bench, Scenario(name, base / inbox, "seg"))
        return Path(shutil.copytree(bench.out, base / f"tree-{name}"))

    few = [
        undisturbed(bench, Scenario("one", base / "one", ALL_FORMATS)),
        undisturbed(bench, Scenario("more", base / "more", "seg,sr", before=old("less", "less"))),
    ]
    if not with_ten:
        return few, []
    ten = [
        undisturbed(bench, Scenario("ten", base / "ten", "seg,sr")),
        undisturbed(bench, Scenario("ten over old", base / "ten", "seg,sr", before=old("ten-old", "ten"))),
    ]
    return few, ten


def compiled(folder: Path) -> str:
    """The shared library of failing_calls.c; empty without a C compiler."""
    library = folder / "failing_calls.so"
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler and sys.platform == "linux":
        source = Path(__file__).with_name("failing_calls.c")
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
        return str(library)
    return ""


def campaign(name: str, bench: Bench, few: list[Scenario], ten: list[Scenario], size: Size) -> Row:
    if not bench.shim and name not in WITHOUT_SHIM:
        return Row(name, omitted="takes a C compiler, on Linux")
    return CAMPAIGNS[name](bench, few, ten, size)


def work(arguments: argparse.Namespace, base: Path) -> list[Row]:
    import cv2

    cv2.setNumThreads(1)  # a process with threads cannot be forked
    import covct.cli
    import covct.intake.nifti
    import covct.pipeline.series
    import covct.results.writers  # noqa: F401
    from support.thresholds import make_weights

    make_weights(base / "weights")
    bench = Bench(base)
    _in_a_child(lambda: inboxes(base))
    _warm(base)
    names = arguments.only or list(CAMPAIGNS)
    few, ten = scenarios(bench, bool(OF_TEN & {*names}))
    calls = 1 if arguments.short else arguments.calls or sys.maxsize
    size = Size(arguments.kills, arguments.stops, arguments.pairs, calls, arguments.seed)
    rows = []
    for turn, name in enumerate(names):
        begun = time.monotonic()
        row = campaign(name, bench, [few[turn % 2]] if arguments.short else few, ten, size)
        rows.append(row)
        _show(name, row, arguments.json, time.monotonic() - begun)
    return rows


def _warm(base: Path) -> None:
    """Whatever libraries do at their first call is done before the forks."""
    from support.line import night

    night(base / "one", out=base / "warm", formats=tuple(ALL_FORMATS.split(",")))
    deadline = time.monotonic() + STOP_SECONDS
    while len(os.listdir("/proc/self/task")) > 1 and time.monotonic() < deadline:
        time.sleep(0.05)  # threads that have nothing left to do take a moment to end, on a busy machine
    if len(os.listdir("/proc/self/task")) > 1:
        raise SystemExit("this process has threads, and cannot be forked")


def _in_a_child(function: Callable[[], None]) -> None:
    """Whatever threads and memory it takes, this process is not to have them."""
    child = os.fork()
    if not child:
        try:
            function()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    if os.waitpid(child, 0)[1]:
        raise SystemExit("the inboxes could not be made")


def _show(name: str, row: Row, as_json: bool, seconds: float) -> None:
    if as_json:
        shown = asdict(row) | {"name": name, "identical": row.identical, "codes": _codes(row)}
        print(json.dumps(shown | {"seconds": round(seconds, 1)}), flush=True)
        return
    verdict = row.omitted and "omitted" or ("yes" if row.identical else "NO")
    runs = f"{row.runs} (of {row.calls} calls)" if row.calls else row.runs
    print(f"| {row.kind} | {runs} | {row.worst or row.omitted} | {verdict} |", flush=True)
    print(f"{row.kind}: {seconds:.0f} s", file=sys.stderr)
    for fault in row.faults[:20]:
        print(f"    {fault}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="at random moments of ten series")
    parser.add_argument("--stops", type=int, default=50, help="at random moments of ten series")
    parser.add_argument("--pairs", type=int, default=50, help="of processes on one tree")
    parser.add_argument("--calls", type=int, help="at most as many of each scenario, drawn by the seed; default: all")
    parser.add_argument("--short", action="store_true", help="one call a campaign, of the scenarios in turn")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=CAMPAIGNS, metavar="CAMPAIGN", help=", ".join(CAMPAIGNS))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--folder", type=Path, help="where to work; on the file system to be tried")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="covct-faults-") as name:
        base = Path(name).resolve()
        if SHIM not in os.environ:
            # Once more, with the library before the others and one thread in each: only such a process can be forked.
            library = compiled(base)
            single = {name: "1" for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")}
            code = subprocess.run(
                [sys.executable, __file__, *sys.argv[1:]],
                env={**os.environ, **single, SHIM: library, "LD_PRELOAD": library}, check=False,
            ).returncode  # fmt: skip
            raise SystemExit(code)
        if not arguments.json:
            print("| fault | runs | worst case | all identical |\n|---|---|---|---|", flush=True)
        rows = work(arguments, base)
    raise SystemExit(any(not row.identical for row in rows))


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    main()
