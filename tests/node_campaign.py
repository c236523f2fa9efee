"""A node in a bad night: studies sent side by side, some cut off, repeated or refused; `covct node` killed at random
moments; the archive away for a while. At the end nothing that was acknowledged is lost, and each result is in the
archive once.

    python tests/node_campaign.py --studies 200 --kills 50

Orthanc is the archive, behind a door that can be shut; modalities are dcmsend, pynetdicom, and sockets that break off.
The networks are thresholds, everything else is the program as processes of its own. A modality sends a study until all
of it was acknowledged, as real ones do.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pydicom

HERE = Path(__file__).parent
WAYS = ("pynetdicom", "dcmsend", "cut off", "twice")
REFUSED = ("another AE title", "an unknown caller", "no CT")
LONGEST_WAIT_S = 600.0  # for the last result, once all is sent
SETTLE_S, INTERVAL_S = 3.0, 0.5


@dataclass
class Door:
    """A port that leads to another one, while it is open."""

    target: int
    opened: socket.socket = field(init=False)
    port: int = field(init=False)
    is_open: bool = True
    _through: list[socket.socket] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.opened = socket.create_server(("127.0.0.1", 0))
        self.port = self.opened.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def shut(self) -> None:
        """Break off what goes through, and let nothing in."""
        self.is_open = False
        for one in self._through:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        while True:
            caller, _ = self.opened.accept()
            if not self.is_open:
                caller.close()
                continue
            other = socket.create_connection(("127.0.0.1", self.target))
            self._through = [*self._through[-20:], caller, other]
            for one, to in ((caller, other), (other, caller)):
                threading.Thread(target=_copy, args=(one, to), daemon=True).start()


def _copy(one: socket.socket, to: socket.socket) -> None:
    with suppress(OSError):
        while piece := one.recv(1 << 16):
            to.sendall(piece)
    with suppress(OSError):
        to.shutdown(socket.SHUT_WR)


@dataclass
class Node:
    """`covct node` as a process, which may be killed."""

    base: Path
    port: int
    to: str
    process: subprocess.Popen | None = None

    def start(self) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(HERE), str(HERE.parent))),
            "COVCT_WEIGHTS": str(self.base / "weights"),
            "COVCT_WATCH_SETTLE": str(SETTLE_S),
            "COVCT_WATCH_INTERVAL": str(INTERVAL_S),
            "COVCT_WATCH_FORMATS": "seg,sr",
            "COVCT_WATCH_RETRY_FAILED": "1",  # at each start: a series that was killed three times is not to blame here
        }
        with (self.base / "node.log").open("a") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, HERE / "support" / "threshold_cli.py", "node", self.base / "inbox",
                    self.base / "out", "--to", self.to, "--port", str(self.port), "--allow", "CT1",
                    "--metrics", self.base / "node.prom",
                ],
                stdout=log, stderr=log, env=environment, cwd=self.base,
            )  # fmt: skip

    def listens(self) -> bool:
        with socket.socket() as caller:
            return not caller.connect_ex(("127.0.0.1", self.port))

    def kill(self) -> list[int]:
        """Kill the parent; the processes that outlive it."""
        assert self.process
        family = descendants(self.process.pid)
        self.process.kill()
        self.process.wait()
        end = time.monotonic() + 5
        while (left := [one for one in family if is_alive(one)]) and time.monotonic() < end:
            time.sleep(0.05)
        return left

    def stop(self) -> int:
        assert self.process
        self.process.terminate()
        return self.process.wait(30)


def descendants(process: int) -> list[int]:
    found = []
    with suppress(OSError):
        for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@dataclass
class Modality:
    """What is to be sent, and what was acknowledged, when: by path."""

    port: int
    seed: int
    todo: queue.Queue[Path]
    pause_s: float
    acknowledged: dict[Path, float] = field(default_factory=dict)
    ways: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Send studies until there is none left; each until all of it was acknowledged."""
        rng = random.Random(self.seed)
        while True:
            try:
                study = self.todo.get_nowait()
            except queue.Empty:
                return
            time.sleep(rng.uniform(0, 2 * self.pause_s))
            paths = sorted(study.iterdir())
            if rng.random() < 0.3:
                self._be_refused(rng.choice(REFUSED), paths)
            way = rng.choice(WAYS)
            self.ways[way] += 1
            while not self._sent(way, paths):
                time.sleep(0.3)
                way = rng.choice(WAYS[:2])  # after a failure, a modality begins again

    def _sent(self, way: str, paths: list[Path]) -> bool:
        from support.dicom_peers import MODALITY, Raw, send

        try:
            if way == "dcmsend":
                command = ["dcmsend", "-aet", MODALITY, "-aec", "COVCT", "127.0.0.1", str(self.port), *map(str, paths)]
                if subprocess.run(command, capture_output=True, check=False).returncode:
                    return False
                self.acknowledged |= dict.fromkeys(paths, time.time())
                return True
            if way == "cut off":
                with Raw(self.port) as peer:
                    peer.store("1.2.3.4", paths[0].read_bytes()[400:2000], last=False)
                return False
            for _ in range(2 if way == "twice" else 1):
                for path, status in zip(paths, send(self.port, paths), strict=False):
                    if status == 0:
                        self.acknowledged[path] = time.time()
            return all(path in self.acknowledged for path in paths)
        except (OSError, RuntimeError):
            return False

    def _be_refused(self, how: str, paths: list[Path]) -> None:
        from support.dicom_peers import CAPTURE, Raw, send

        taken: list[int] = []
        with suppress(OSError, RuntimeError):
            if how == "another AE title":
                taken = send(self.port, paths[:1], called="OTHER")
            elif how == "an unknown caller":
                taken = send(self.port, paths[:1], title="NOBODY")
            else:
                with Raw(self.port) as peer:
                    taken = [0] if peer.store("1.2.3.4", b"", CAPTURE) == 0 else []
        self.refused[how] += 1
        if 0 in taken:
            self.faults.append(f"{how}: was taken")


@dataclass
class Night:
    """What a campaign came to."""

    studies: int = 0
    instances: int = 0
    kills: int = 0
    started_again: int = 0  # by the operator, since a series had been killed three times
    shut: int = 0
    seconds: float = 0.0
    delays_s: list[float] = field(default_factory=list)
    objects: int = 0
    superseded: int = 0
    ways: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def document(self) -> dict[str, object]:
        delays = sorted(self.delays_s)
        told = {"median": round(statistics.median(delays), 1), "longest": round(delays[-1], 1)} if delays else {}
        return {**self.__dict__, "delays_s": told, "seconds": round(self.seconds, 1)}


def campaign(base: Path, studies: int, kills: int, senders: int, seed: int, life_s: float) -> Night:
    """One night in an empty folder."""
    from support.pacs import free_ports, started
    from support.thresholds import make_weights

    make_weights(base / "weights")
    (base / "pacs").mkdir()
    sources = make_studies(base / "sent", studies)
    night, rng, begun = Night(studies=studies), random.Random(seed), time.monotonic()
    with started(base / "pacs") as pacs:
        door = Door(pacs.dicom_port)
        node = Node(base, free_ports(1)[0], f"ORTHANC@127.0.0.1:{door.port}")
        node.start()
        try:
            todo: queue.Queue[Path] = queue.Queue()
            for source in sources:
                todo.put(source)
            pause_s = kills * life_s / 2 * senders / studies
            modalities = [Modality(node.port, seed + number, todo, pause_s) for number in range(senders)]
            with sending(modalities):
                disturb(node, door, rng, kills, life_s, night)
            acknowledged = {path: at for one in modalities for path, at in one.acknowledged.items()}
            wait(lambda: len(statuses(base)) >= studies, LONGEST_WAIT_S)
            while "failed" in statuses(base) and night.started_again < kills:
                night.started_again += 1
                node.stop()
                node.start()
                wait(node.listens, LONGEST_WAIT_S)
                wait(lambda: "failed" not in statuses(base), LONGEST_WAIT_S / 10)
            wait(lambda: len(pacs.listed("/instances")) >= len(results(base / "out")), LONGEST_WAIT_S)
            if (code := node.stop()) != 130:
                night.faults.append(f"the node ended with {code}")
        finally:
            if node.process and node.process.poll() is None:
                node.kill()
        night.seconds = time.monotonic() - begun
        night.instances = len(acknowledged)
        for one in modalities:
            night.ways += one.ways
            night.refused += one.refused
            night.faults += one.faults
        check_inbox(base, acknowledged, night)
        check_archive(base, pacs, acknowledged, night)
    return night


@contextmanager
def sending(modalities: list[Modality]) -> Iterator[None]:
    threads = [threading.Thread(target=one.run, daemon=True) for one in modalities]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join(LONGEST_WAIT_S)


def disturb(node: Node, door: Door, rng: random.Random, kills: int, life_s: float, night: Night) -> None:
    """Kill and start again, at random moments; the archive is away between two of them."""
    away = rng.randrange(kills) if kills > 1 else -1
    for number in range(kills):
        wait(node.listens, LONGEST_WAIT_S)
        time.sleep(rng.uniform(0, life_s))
        if number == away:
            door.shut()
            night.shut += 1
        if left := node.kill():
            night.faults.append(f"{len(left)} processes outlived the node")
        night.kills += 1
        node.start()
        if number == away + 1:
            door.is_open = True
    door.is_open = True


def make_studies(folder: Path, count: int) -> list[Path]:
    """Studies of a few slices each, of one chest."""
    from covct.phantom.chest import make_phantom
    from covct.phantom.dicom import write_dicom_series
    from support.series import anew, each_slice

    phantom = make_phantom(
        slices=30, rows=64, columns=64, slice_spacing_mm=None, pixel_spacing_mm=(6.0, 6.0), lesions="severe", seed=1
    )
    write_dicom_series(phantom, folder / "chest")
    for path in [path for n, path in enumerate(sorted((folder / "chest").iterdir())) if not 12 <= n < 16]:
        path.unlink()
    for number in range(1, count + 1):
        copy = Path(shutil.copytree(folder / "chest", folder / str(number)))
        for dataset in each_slice(anew(copy, f"1.2.{number}.1")):
            dataset.StudyInstanceUID, dataset.PatientID = f"1.2.{number}", f"patient {number}"
    return [folder / str(number) for number in range(1, count + 1)]


def wait(until: Callable[[], bool], longest_s: float) -> None:
    end = time.monotonic() + longest_s
    while not until() and time.monotonic() < end:
        time.sleep(0.5)


def results(out: Path) -> list[Path]:
    """The DICOM objects of results in place."""
    return sorted(out.glob("*/*/*.dcm"))


def statuses(base: Path) -> list[str]:
    """Of the results in place."""
    found = []
    for path in (base / "out").glob("*/*/outcome.json"):
        with suppress(OSError):  # it is being replaced
            found.append(json.loads(path.read_text())["status"])
    return found


def check_inbox(base: Path, acknowledged: dict[Path, float], night: Night) -> None:
    """What was acknowledged lies there, byte for byte, and nothing else does."""
    from support.pacs import data_set

    kept = {path.stem: path for path in (base / "inbox").rglob("*") if path.is_file()}
    for path in acknowledged:
        uid = str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)
        if uid not in kept:
            night.faults.append(f"lost: {uid} was acknowledged")
        elif data_set(kept.pop(uid).read_bytes()) != data_set(path.read_bytes()):
            night.faults.append(f"changed: {uid}")
    night.faults += [f"left in the inbox: {path.name}" for path in kept.values()]


def check_archive(base: Path, pacs, acknowledged: dict[Path, float], night: Night) -> None:
    """Each study has one result, and each of its objects is in the archive once and as it is here."""
    from support.pacs import data_set

    outcomes = statuses(base)
    if outcomes != ["done"] * night.studies:
        night.faults.append(f"results: {dict(Counter(outcomes))}, wanted {night.studies} done")
    last: dict[str, float] = {}
    for path, at in acknowledged.items():
        last[path.parent.name] = max(at, last.get(path.parent.name, 0.0))
    objects = results(base / "out")
    for path in objects:
        uid = str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)
        found = json.loads(pacs.ask("POST", "/tools/lookup", uid.encode())[0])
        found = [one["ID"] for one in found if one["Type"] == "Instance"]
        if len(found) != 1:
            night.faults.append(f"{path.name} of {path.parent.name} is in the archive {len(found)} times")
        elif data_set(pacs.file(uid)) != data_set(path.read_bytes()):
            night.faults.append(f"{path.name} of {path.parent.name} is another in the archive")
        else:
            told = pacs.ask("GET", f"/instances/{found[0]}/metadata/ReceptionDate")[0].decode()
            moment = datetime.strptime(told, "%Y%m%dT%H%M%S").replace(tzinfo=UTC).timestamp()
            night.delays_s.append(moment - last[path.parent.parent.name.rpartition(".")[2]])
    night.objects = len(objects)
    night.superseded = len(pacs.listed("/instances")) - len(objects)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--senders", type=int, default=4, help="modalities that send side by side")
    parser.add_argument("--life", type=float, default=12.0, help="longest seconds from listening to the next kill")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where to work; on the file system to be tried")
    parser.add_argument("--keep", action="store_true", help="leave the folder")
    arguments = parser.parse_args()
    base = Path(tempfile.mkdtemp(dir=arguments.folder, prefix="covct-node-")).resolve()
    try:
        night = campaign(base, arguments.studies, arguments.kills, arguments.senders, arguments.seed, arguments.life)
    finally:
        if not arguments.keep:
            shutil.rmtree(base, ignore_errors=True)
    print(json.dumps(night.document()))
    raise SystemExit(bool(night.faults))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    main()
