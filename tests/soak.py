"""A long night: thousands of small series arrive in an inbox that `covct watch` looks at, in every way series arrive.

    python tests/soak.py --series 2000

Some come whole; of some a slice is there by half and completed later, before they settle or long after; of some a slice
comes late; some under the names of unfinished transfers. The order is drawn anew by each seed. The networks are
thresholds, everything else is the program as a process of its own. Printed: memory and open files in the first and the
last quarter of the series, and whether every series has one result, with all of its slices.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PROGRAM = """
from support.thresholds import make_networks
from covct import cli
from covct.commands import scan
networks = make_networks()
scan.networks_of = lambda *_: lambda: networks
cli.main()
"""
STUDY, SERIES, SLICE = "1.2.3.1000000000", "1.2.3.2000000000", "1.2.3.3000000000"
SLICES = 4
MOST_AHEAD = 60  # series that have arrived and have no result yet
WAYS = {"whole": 12, "half, soon whole": 3, "half, whole much later": 2, "a late slice": 2, "renamed when whole": 3}
GROWTH = 1.05  # of the median memory, from the first quarter to the last


@dataclass(frozen=True)
class Sample:
    """The working process at one moment, when so many series were finished."""

    finished: int
    rss_mib: float
    descriptors: int
    threads: int


@dataclass
class Arrivals:
    """What is still to be written, and when: (seconds, path, contents or None to give it its real name)."""

    inbox: Path
    contents: list[bytes]
    settle_s: float
    draw: random.Random
    later: list[tuple[float, Path, bytes | None]] = field(default_factory=list)
    ways: Counter = field(default_factory=Counter)

    def arrive(self, number: int) -> None:
        """The slices of a series in random order; what comes later is noted."""
        [way] = self.draw.choices(list(WAYS), list(WAYS.values()))
        self.ways[way] += 1
        folder = self.inbox / f"{number:06}"
        folder.mkdir()
        names = [f"{index:04}.dcm" for index in range(SLICES)]
        slices = [(folder / name, of_series(self.contents[index], number, index)) for index, name in enumerate(names)]
        self.draw.shuffle(slices)
        path, contents = slices.pop()
        for one, whole in slices:
            one.write_bytes(whole)
        now, soon, late = time.monotonic(), 0.5 * self.settle_s, self.draw.uniform(3, 6) * self.settle_s
        if way == "whole":
            path.write_bytes(contents)
        elif way == "a late slice":
            self.later.append((now + late, path, contents))
        elif way == "renamed when whole":
            partial = path.with_name(path.name + ".part")
            partial.write_bytes(contents)
            self.later.append((now + soon, partial, None))
        else:
            path.write_bytes(contents[: self.draw.randrange(1, len(contents))])
            self.later.append((now + (soon if way == "half, soon whole" else late), path, contents))

    def go_on(self) -> None:
        now = time.monotonic()
        for one in [one for one in self.later if one[0] <= now]:
            self.later.remove(one)
            _, path, contents = one
            if contents is None:
                path.rename(path.with_suffix(""))
            else:
                path.write_bytes(contents)


def template(folder: Path) -> list[bytes]:
    """The slices of a small chest with UIDs of fixed length, to be replaced."""
    import pydicom

    from covct.phantom.chest import make_phantom
    from covct.phantom.dicom import write_dicom_series
    from support.series import each_slice

    phantom = make_phantom(
        slices=30, rows=64, columns=64, slice_spacing_mm=None, pixel_spacing_mm=(6.0, 6.0), lesions="severe", seed=1
    )
    write_dicom_series(phantom, folder)
    for path in [path for n, path in enumerate(sorted(folder.iterdir())) if not 12 <= n < 12 + SLICES]:
        path.unlink()
    for dataset in each_slice(folder):
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID = STUDY, SERIES, SLICE
        dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.UID(SLICE)
    return [path.read_bytes() for path in sorted(folder.iterdir())]


def of_series(contents: bytes, series: int, index: int) -> bytes:
    for uid, number in ((STUDY, series), (SERIES, series), (SLICE, series * SLICES + index)):
        contents = contents.replace(uid.encode(), f"{uid[:-9]}{number:09}".encode())
    return contents


def worker_of(process: int) -> int:
    """The youngest of a process and its children: the one that works."""
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return process
    return worker_of(int(children[0])) if children else process


def sample(process: int, finished: int) -> Sample:
    place = Path("/proc") / str(worker_of(process))
    status = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
    return Sample(
        finished, int(status["VmRSS"].split()[0]) / 1024, len(os.listdir(place / "fd")), int(status["Threads"])
    )


def events(path: Path) -> Iterator[list[dict]]:
    """What was said since the last time."""
    said = b""
    with open(path, "rb") as file:
        while True:
            *lines, said = (said + file.read()).split(b"\n")
            yield [json.loads(line) for line in lines]


def night(base: Path, arguments: argparse.Namespace) -> dict:
    inbox, out, told = base / "in", base / "out", base / "events.jsonl"
    inbox.mkdir()
    from support.thresholds import make_weights

    make_weights(base / "weights")
    arrivals = Arrivals(inbox, template(base / "template"), arguments.settle, random.Random(arguments.seed))
    here = Path(__file__).parent
    with open(told, "wb") as stdout, open(base / "errors.txt", "wb") as stderr:
        process = subprocess.Popen(
            [
                sys.executable, "-c", PROGRAM, "watch", inbox, "--out", out, "--weights", base / "weights", "--json",
                "--formats", arguments.formats, "--settle", str(arguments.settle),
                "--interval", str(arguments.interval),
            ],
            stdout=stdout, stderr=stderr, env={**os.environ, "PYTHONPATH": f"{here.parent}:{here}"},
        )  # fmt: skip
    waiting = list(range(arguments.series))
    arrivals.draw.shuffle(waiting)
    heard, whole, counts = events(told), set[str](), Counter[str]()
    samples: list[Sample] = []
    begun = time.monotonic()
    progress = begun
    while len(whole) < arguments.series and process.poll() is None and time.monotonic() < progress + arguments.patience:
        arrivals.go_on()
        while waiting and arguments.series - len(waiting) - len(whole) < MOST_AHEAD:
            arrivals.arrive(waiting.pop())
        for event in next(heard):
            counts[event["event"]] += 1
            if event["event"] == "done" and _slices(out / event["folder"]) == SLICES:
                whole.add(event["folder"])
                progress = time.monotonic()
        if process.poll() is None:
            samples.append(sample(process.pid, len(whole)))
        time.sleep(0.2)
    seconds = time.monotonic() - begun
    early = process.poll()
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code = process.wait(30)
    stopped_s = time.monotonic() - asked
    return {
        "series": arguments.series,
        "ways": dict(arrivals.ways),
        "seconds": round(seconds, 1),
        "series_per_hour": round(3600 * len(whole) / seconds),
        "events": {name: counts[name] for name in ("done", "rejected", "failed", "problem")},
        "exit": code,
        "stop_seconds": round(stopped_s, 2),
        **quarters(samples, arguments.series),
        "faults": [
            *(["the program ended before it was asked to"] if early is not None else []),
            *accounted(out, arguments.series, arrivals, code, (base / "errors.txt").read_text(errors="replace")),
        ],
    }


def _slices(folder: Path) -> int:
    try:
        return json.loads((folder / "report.json").read_text())["source"]["instances"]
    except OSError:
        return 0  # being redone just now


def quarters(samples: list[Sample], series: int) -> dict:
    """Medians while the first and the last quarter of the series were done. Nothing is measured before the first is."""
    at_work = [one for one in samples if one.finished] or [Sample(0, 0.0, 0, 0)]
    first = [one for one in at_work if one.finished <= series / 4] or at_work[:1]
    last = [one for one in at_work if one.finished > 3 * series / 4] or at_work[-1:]
    return {
        name: [round(statistics.median(getattr(one, name) for one in part), 1) for part in (first, last)]
        for name in ("rss_mib", "descriptors", "threads")
    }


def accounted(out: Path, series: int, arrivals: Arrivals, code: int, stderr: str) -> list[str]:
    """What is wrong: a result too few, one too many, one without all of its slices, anything half."""
    from covct.disk.outcome import is_whole, read_outcome

    said = [f"the program ended with {code}"] if code != 130 else []
    if "Traceback" in stderr or said:
        said.append(f"it said: {stderr[-500:]}")
    wanted = {f"{STUDY[:-9]}{number:09}/{SERIES[:-9]}{number:09}" for number in range(series)}
    found = {str(path.parent.relative_to(out)) for path in out.glob("[!.]*/*/outcome.json")}
    said += [f"no result: {name}" for name in sorted(wanted - found)]
    said += [f"nobody's result: {name}" for name in sorted(found - wanted)]
    for name in sorted(found & wanted):
        outcome = read_outcome(out / name)
        if not outcome or outcome.status != "done" or not is_whole(out / name, outcome):
            said.append(f"not done: {name}: {outcome and outcome.slug}")
        elif _slices(out / name) != SLICES:
            said.append(f"{_slices(out / name)} of {SLICES} slices: {name}")
    for kind in ("attempts", "staging", "old", "rubbish"):
        said += [f"left over: {path.relative_to(out)}" for path in (out / ".covct" / kind).rglob("*") if path.is_file()]
    changed = [path for path in arrivals.inbox.rglob("*") if path.is_file() and path.suffix != ".dcm"]
    return said + [f"in the inbox: {path.name}" for path in changed]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--series", type=int, default=2000)
    parser.add_argument("--settle", type=float, default=2.0, help="of the program, seconds")
    parser.add_argument("--interval", type=float, default=0.5, help="of the program, seconds")
    parser.add_argument("--formats", default="seg", help="of the program")
    parser.add_argument("--patience", type=float, default=300, help="seconds without a result before it is given up")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where to work")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="covct-soak-") as name:
        found = night(Path(name).resolve(), arguments)
    print(json.dumps(found, indent=2))
    grown = [found["rss_mib"][1] > GROWTH * found["rss_mib"][0], found["descriptors"][1] > found["descriptors"][0] + 2]
    raise SystemExit(bool(found["faults"]) or any(grown))


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    main()
