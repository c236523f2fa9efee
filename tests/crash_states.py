"""Power failures: every state that a disk may be left in, and what covct makes of it.

    python tests/crash_states.py --all

What faults.py cannot see, as it keeps the page cache, is a missing fsync. Here the calls of a commit, a recovery, files
being moved, an index and a whole night are recorded (recorded_calls.c, compiled here), and after each of them all that
a disk may hold then is laid out (disk.py), put right as the next run does, and compared.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

from support.disk import Disk, Tree, lay, read_calls, tree_of

SHIM = "COVCT_RECORDER"
Check = Callable[[Path, set[str]], list[str]]


@dataclass(frozen=True)
class Scenario:
    """`prepare` makes a folder that is whole on the disk, `act` is recorded, `check` says what is wrong with a state of
    it: given the folder, and which marks were passed before the power failed. `dear`: a check takes long."""

    prepare: Callable[[Path], None]
    act: Callable[[Path, Callable[[str], None]], None]
    check: Check
    dear: bool = False


@dataclass
class Row:
    name: str
    calls: int = 0
    states: int = 0  # different ones
    checked: int = 0
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0


def recorded(scenario: Scenario, root: Path) -> Disk:
    lay(root, {})
    scenario.prepare(root)
    disk = Disk(root)
    shim = ctypes.CDLL(os.environ[SHIM])
    with tempfile.TemporaryFile() as log:
        shim.record_from(os.fsencode(root), log.fileno())
        try:
            scenario.act(root, lambda mark: shim.record_mark(mark.encode()))
        finally:
            shim.record_end()
        log.seek(0)
        disk.record(read_calls(log.read()))
    whole = next(disk.states(disk.end, random.Random(0)))
    if whole != tree_of(root):
        wrong = sorted(k for k in {**whole, **tree_of(root)} if whole.get(k, 0) != tree_of(root).get(k, 0))
        raise SystemExit(f"the record is not what happened: {wrong[:5]}")
    return disk


def campaign(name: str, scenario: Scenario, root: Path, most: int, seed: int, unordered: bool = False) -> Row:
    """Check at most so many of the states, the others drawn by the seed; each distinct one once."""
    begun, row, draw = time.monotonic(), Row(name), random.Random(seed)
    disk = recorded(scenario, root)
    row.calls = disk.end
    found = list(_few(disk, draw, most, unordered) if scenario.dear else _all(disk, draw, unordered))
    row.states = len(found)
    for moment, tree in found if len(found) <= most else draw.sample(found, most):
        lay(root, tree)
        with mock.patch("os.fsync"):  # the power does not fail again
            try:
                said = scenario.check(root, disk.passed(moment))
            except Exception as error:
                said = [f"{type(error).__name__}: {error}"]
        row.checked += 1
        row.faults += [f"{name}, after call {moment}: {one}" for one in said]
    row.seconds = time.monotonic() - begun
    return row


def _all(disk: Disk, draw: random.Random, unordered: bool) -> Iterator[tuple[int, Tree]]:
    """Each distinct state once, with the call after which the power failed."""
    seen: set[int] = set()
    for moment in range(disk.end + 1):
        for tree in disk.states(moment, draw, unordered):
            mark = hash((frozenset(tree.items()), frozenset(disk.passed(moment))))
            if mark not in seen:
                seen.add(mark)
                yield moment, tree


def _few(disk: Disk, draw: random.Random, most: int, unordered: bool) -> Iterator[tuple[int, Tree]]:
    """A state of each moment, or of some, drawn."""
    moments = range(disk.end + 1)
    for moment in moments if most > len(moments) else sorted(draw.sample(moments, most)):
        yield moment, draw.choice(list(islice(disk.states(moment, draw, unordered), 30)))


# A commit, its recovery


def results(out: Path) -> dict[str, tuple[str, str]]:
    """Work key and text of every result in its place; "half" where one is not whole."""
    from covct.disk.outcome import read_outcome

    found = {}
    for folder in out.glob("[!.]*/*"):
        outcome = read_outcome(folder)
        report = folder / "report.json"
        whole = outcome and report.is_file() and len(list(folder.iterdir())) == 3
        found["/".join(folder.parts[-2:])] = (
            (outcome.work_key, report.read_text()) if outcome and whole else ("half", "")
        )
    return found


OLD = {"s/t": ("k1", "old"), "s/worse": ("k0", "worse")}


def commit(out: Path, folder: str, key: str, text: str, supersedes: tuple[str, ...] = ()) -> None:
    from covct.disk import state
    from covct.disk.outcome import Outcome

    stage = state.new_stage(out, key)
    (stage / "report.json").write_text(text)
    (stage / "mask.nii.gz").write_bytes(text.encode() * 100)
    state.commit(out, folder, stage, Outcome(status="done", work_key=key), supersedes)


def with_old(root: Path) -> None:
    for folder, (key, text) in OLD.items():
        commit(root / "out", folder, key, text)


def redo(out: Path, mark: Callable[[str], None] = lambda mark: None) -> int:
    from covct.disk.attempts import begin_attempt

    attempts = begin_attempt(out, "s/t", "k2").attempts
    mark("noted")
    commit(out, "s/t", "k2", "new", ("s/worse",))
    mark("committed")
    return attempts


def check_commit(root: Path, passed: set[str], old: dict[str, tuple[str, str]] = OLD) -> list[str]:
    """One result stands whole, what it supersedes exactly as long as the old one; what was said to be done is."""
    from covct.disk import state

    out, new = root / "out", {"s/t": ("k2", "new")}
    out.mkdir(exist_ok=True)
    state.recover(out)
    found = results(out)
    said = [] if found in (old, new) else [f"recovered to {found}"]
    if "committed" in passed and found != new:
        said.append("a commit that was ended is lost")
    if found != new:
        attempts = redo(out)
        wanted = {2} if "noted" in passed else {1, 2}
        said += [f"counted as attempt {attempts}"] if attempts not in wanted else []
    if results(out) != new:
        said.append(f"redone to {results(out)}")
    state.recover(out)
    left = {path.name for path in (out / ".covct").iterdir()} - {"attempts"}
    return said + ([f"left over: {sorted(left)}"] if left else [])


def crashed(root: Path, at: str) -> None:
    """A tree that needs recovery: the process died at the rename of that name."""
    with_old(root)
    rename = os.rename

    def dying(source: Path, target: Path) -> None:
        if at in str(source if at == "staging" else target):
            raise KeyboardInterrupt
        rename(source, target)

    os.rename = dying  # type: ignore[assignment]
    try:
        redo(root / "out")
    except KeyboardInterrupt:
        pass
    finally:
        os.rename = rename  # type: ignore[assignment]


def recover(root: Path, mark: Callable[[str], None]) -> None:
    from covct.disk import state

    state.recover(root / "out")


# Formats that are taken away

MASK, REPORT = "lungs.nii.gz", "report.json"


def old_results(root: Path) -> None:
    from covct.disk import state
    from covct.disk.outcome import Outcome

    for key in ("k1", "k2"):
        stage = state.new_stage(root / "out", key)
        files = {"segmentation.seg.dcm": b"seg " * 100, MASK: b"mask" * 100, REPORT: b"{}"}
        for name, contents in files.items():
            (stage / name).write_bytes(contents)
        outcome = Outcome(
            status="done",
            work_key=key,
            files={name: hashlib.sha256(contents).hexdigest() for name, contents in files.items()},
            formats={"seg": "binary", "nifti": ""},
            moments={key: "2026-01-01T00:00:00+00:00"},
        )
        state.commit(root / "out", f"s/{key}", stage, outcome)


def prune(root: Path, mark: Callable[[str], None] = lambda mark: None) -> None:
    from covct.unattended.prune import prune as pruned

    for one in pruned(root / "out", datetime(2026, 2, 1, tzinfo=UTC), {"seg"}):
        mark(one.folder)


def check_pruned(root: Path, passed: set[str]) -> list[str]:
    """Each result is whole, with the mask or without; what was said to be removed is; a second call does the rest."""
    from covct.disk import state
    from covct.disk.outcome import read_outcome

    out, said = root / "out", []
    state.recover(out)
    for again in (False, True):
        for folder in (out / "s" / "k1", out / "s" / "k2"):
            outcome = read_outcome(folder)
            found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("[!o]*")}
            if not outcome or found != outcome.files:
                said.append(f"{folder.name} is not whole: {sorted(found)}")
            elif (MASK in found) == ("nifti" in outcome.pruned):
                said.append(f"{folder.name} has {sorted(found)}, pruned {outcome.pruned}")
            elif MASK in found and (again or f"s/{folder.name}" in passed):
                said.append(f"the mask of {folder.name} came back")
        prune(root)
    if MASK in (out / "index.html").read_text():
        said.append("the page leads to what is gone")
    return said


# Files that are moved


def three_slices(root: Path) -> None:
    for number in range(3):
        path = root / "in" / "a" / "s" / f"{number}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"slice {number}".encode())


def move(root: Path, mark: Callable[[str], None] = lambda mark: None, across: bool = False) -> list[str]:
    """Move what lies in the inbox; as if to another file system."""
    from covct.unattended.file_status import status_of
    from covct.unattended.move_done import move_study

    rename = os.rename

    def renamed(source: Path, target: Path) -> None:
        if across and (root / "in") in Path(source).parents and (root / "in") not in Path(target).parents:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(source, target)

    os.rename = renamed  # type: ignore[assignment]
    try:
        files = {path: status_of(path) for path in sorted((root / "in").rglob("*.dcm"))}
        return move_study("1.2", files, [root / "in"], root / "done")
    finally:
        os.rename = rename  # type: ignore[assignment]


def contents(folder: Path) -> list[bytes]:
    return sorted(p.read_bytes() for p in folder.rglob("*.dcm") if p.stat().st_size and ".covct" not in p.parts)


def check_moved(root: Path, passed: set[str], across: bool = False) -> list[str]:
    """Each slice is whole somewhere, in the inbox or known to belong to the study; a rerun ends it."""
    from covct.unattended.move_done import moved_before

    (root / "in").mkdir(exist_ok=True)
    all_of_them = [b"slice 0", b"slice 1", b"slice 2"]
    there = {*contents(root / "in"), *contents(root / "done")}
    said = [] if there >= {*all_of_them} else [f"lost: {sorted({*all_of_them} - there)}"]
    known = {path.read_bytes() for path in moved_before(root / "done", "1.2")} | {*contents(root / "in")}
    said += [] if known >= {*all_of_them} else ["moved, and nobody knows of which study"]
    said += move(root, across=across)
    if contents(root / "done") != all_of_them or contents(root / "in"):
        said.append(f"moved again to {contents(root / 'done')}, {contents(root / 'in')}")
    return said


# An index of headers


def headers(root: Path, slices: Path) -> None:
    shutil.copytree(slices, root / "in")


def look(root: Path, mark: Callable[[str], None] = lambda mark: None) -> list[Any]:
    from covct.unattended.inbox import survey
    from covct.unattended.index import open_index

    with open_index(root / "index.sqlite", lambda: time.time_ns() + 3600 * 10**9) as index:
        seen = survey([root / "in"], None, index)
        facts = [index.facts_of(file) for study in seen.studies.values() for file in study.files]
        index.finish("1.2", 7, "seg", [["1.2/1.3", "key"]])
    return sorted(facts, key=lambda header: header.instances[0].file.path)


def check_index(root: Path, passed: set[str]) -> list[str]:
    """What it says is what the files say, whatever it lost; and the next look writes it."""
    from covct.dicom.header import read_header

    found = [(h.series_uid, h.instances[0].sop_instance_uid) for h in look(root)]
    read = [read_header(h.instances[0].file) for h in look(root)]
    wanted = [(h.series_uid, h.instances[0].sop_instance_uid) for h in read]
    return [] if found == wanted else ["the index says another thing than the files"]


# A whole night


@dataclass
class Night:
    """Two studies, one of them done before in another format, which is added to; their files are moved when done."""

    inbox: Path
    weights: Path
    tree: dict[str, Any] = field(default_factory=dict)
    slices: list[bytes] = field(default_factory=list)

    def run(self, root: Path, mark: Callable[[str], None] = lambda mark: None, formats=("seg",), moves=True) -> None:
        from covct.outputs import Outputs
        from covct.unattended import batch, one_series
        from support.thresholds import make_networks

        one_series.now = lambda: datetime(2026, 5, 4, tzinfo=UTC)  # what objects tell of their making
        one_series.installation = lambda out: "one"
        done = root / "done" if moves else None
        order = batch.Order((root / "in",), root / "out", self.weights, Outputs(tuple(formats)), move_done=done)
        batch.scan(order, make_networks, lambda event: None)

    def prepare(self, root: Path) -> None:
        shutil.copytree(self.inbox / "1", root / "in" / "1")
        self.run(root, formats=("nifti",), moves=False)
        shutil.copytree(self.inbox / "2", root / "in" / "2")
        self.slices = contents(root / "in")

    def undisturbed(self, root: Path) -> None:
        from faults import tree_of as outputs_of

        lay(root, {})
        self.prepare(root)
        self.run(root)
        self.tree = outputs_of(root / "out")

    def check(self, root: Path, passed: set[str]) -> list[str]:
        from covct.disk.outcome import read_outcome
        from covct.unattended import heartbeat
        from faults import differences
        from faults import tree_of as outputs_of

        for folder in ("in", "out"):
            (root / folder).mkdir(exist_ok=True)
        if last := heartbeat.read_beat(root / "out" / ".covct"):
            heartbeat.age_s(last)
        there = {*contents(root / "in"), *contents(root / "done")}
        said = ["a slice is lost"] if not there >= {*self.slices} else []
        self.run(root)
        said += differences(outputs_of(root / "out"), self.tree)
        patients = {str(read_outcome(path.parent).patient) for path in (root / "out").glob("[!.]*/*/outcome.json")}
        if len(patients) != 1:
            said.append("one patient, and two digests: the key was lost")
        if contents(root / "done") != self.slices or contents(root / "in"):
            said.append("not every slice was moved once")
        return said


def scenarios(base: Path, names: list[str]) -> dict[str, Scenario]:
    both = partial
    found = {
        "commit": Scenario(with_old, lambda root, mark: _ignore(redo(root / "out", mark)), check_commit),
        "first": Scenario(
            lambda root: None, lambda root, mark: _ignore(redo(root / "out", mark)), both(check_commit, old={})
        ),
        "recover-aside": Scenario(both(crashed, at="staging"), recover, check_commit),
        "recover-end": Scenario(both(crashed, at="rubbish"), recover, check_commit),
        "prune": Scenario(old_results, prune, check_pruned, True),
        "move": Scenario(three_slices, lambda root, mark: _ignore(move(root, mark)), check_moved),
        "move-across": Scenario(
            three_slices, lambda root, mark: _ignore(move(root, mark, True)), both(check_moved, across=True)
        ),
    }
    if {"index", "night"} & {*names}:
        _in_a_child(lambda: inboxes(base))
        slices = base / "headers"
        found["index"] = Scenario(
            both(headers, slices=slices), lambda r, mark: _ignore(look(r, mark)), check_index, True
        )
    if "night" in names:
        night = Night(base / "inbox", base / "weights")
        night.undisturbed(base / "disk")
        found["night"] = Scenario(night.prepare, night.run, night.check, True)
    return found


NAMES = ("commit", "first", "recover-aside", "recover-end", "prune", "move", "move-across", "index", "night")


def _ignore(value: object) -> None:
    pass


def inboxes(base: Path) -> None:
    from covct.phantom.chest import make_phantom
    from covct.phantom.dicom import write_dicom_series
    from support.series import anew, each_slice
    from support.thresholds import make_weights

    phantom = make_phantom(
        slices=30, rows=64, columns=64, slice_spacing_mm=None, pixel_spacing_mm=(6.0, 6.0), lesions="severe", seed=1
    )
    write_dicom_series(phantom, base / "chest")
    for path in [path for n, path in enumerate(sorted((base / "chest").iterdir())) if not 12 <= n < 16]:
        path.unlink()
    for study in ("1", "2"):
        folder = Path(shutil.copytree(base / "chest", base / "inbox" / study))
        for dataset in each_slice(anew(folder, f"1.2.{study}.1")):
            dataset.StudyInstanceUID = f"1.2.{study}"
    shutil.copytree(base / "chest", base / "headers")
    make_weights(base / "weights")


def _in_a_child(function: Callable[[], None]) -> None:
    child = os.fork()
    if not child:
        code = 1
        try:
            function()
            code = 0
        finally:
            os._exit(code)
    if os.waitpid(child, 0)[1]:
        raise SystemExit("the inboxes could not be made")


def compiled(folder: Path) -> str:
    """The shared library of recorded_calls.c; empty without a C compiler."""
    library = folder / "recorded_calls.so"
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler or sys.platform != "linux":
        return ""
    source = Path(__file__).with_name("recorded_calls.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl", "-lpthread"], check=True)
    return str(library)


def work(arguments: argparse.Namespace, base: Path) -> bool:
    names = arguments.only or list(NAMES)
    there = scenarios(base, names)
    faults = False
    for name in names:
        most = sys.maxsize if arguments.all else arguments.dear if there[name].dear else arguments.states
        row = campaign(name, there[name], base / "disk", most, arguments.seed, arguments.unordered)
        faults |= bool(row.faults)
        if arguments.json:
            print(json.dumps(vars(row)), flush=True)
            continue
        verdict = "yes" if not row.faults else f"NO ({len(row.faults)})"
        print(f"| {name} | {row.calls} | {row.states} | {row.checked} | {verdict} | {row.seconds:.0f} s |", flush=True)
        for fault in row.faults[:10]:
            print(f"    {fault}", file=sys.stderr, flush=True)
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="every state; else at most so many as follow")
    parser.add_argument("--states", type=int, default=150, help="of each scenario")
    parser.add_argument("--dear", type=int, default=8, help="of the index and of a whole night, which take long")
    parser.add_argument("--unordered", action="store_true", help="also changes of one folder out of their order")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="SCENARIO", help=", ".join(NAMES))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="covct-crash-") as name:
        base = Path(name).resolve()
        if SHIM not in os.environ:
            library = compiled(base)
            if not library:
                raise SystemExit("takes a C compiler, on Linux")
            code = subprocess.run(
                [sys.executable, __file__, *sys.argv[1:]],
                env={**os.environ, SHIM: library, "LD_PRELOAD": library}, check=False,
            ).returncode  # fmt: skip
            raise SystemExit(code)
        if not arguments.json:
            print(
                "| what is cut short | calls | states | checked | all well | time |\n|---|---|---|---|---|---|",
                flush=True,
            )
        raise SystemExit(work(arguments, base))


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    main()
