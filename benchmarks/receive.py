"""Instances a second into `covct listen`, and into DCMTK's `storescp` in the same run.

    python benchmarks/receive.py [--instances 200] [--rounds 3] [--folder FOLDER]

CT slices of 512 x 512 are sent by `dcmsend`, over one association and over four side by side, to each receiver in turn.
covct brings every instance to the disk before it answers; storescp leaves that to the operating system, so that on a
file system in memory (--folder /dev/shm) the programs are compared, and elsewhere what they promise. Processor time is
the receiver's. storescp is measured as it comes, where on loopback each instance waits for a delayed acknowledgement
of TCP, and with TCP_NODELAY=1, its best; `--fork` lets it receive from several.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

TICKS = os.sysconf("SC_CLK_TCK")


def make_instances(folder: Path, count: int) -> None:
    """Slices of noise: 512 KiB each, as nothing compresses."""
    folder.mkdir()
    rng, study, series = np.random.default_rng(1), generate_uid(), generate_uid()
    for number in range(count):
        dataset = Dataset()
        dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, generate_uid()
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
        dataset.Modality, dataset.InstanceNumber = "CT", number
        dataset.Rows = dataset.Columns = 512
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.PixelData = rng.integers(0, 4096, (512, 512), dtype=np.uint16).tobytes()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.save_as(folder / f"{number:05}.dcm", enforce_file_format=True)


@dataclass
class Receiver:
    """A program that receives.

    Attributes
    ----------
    words : list of str
        Its command line, with {port} and {folder}.
    """

    name: str
    words: list[str]
    environment: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def running(self, port: int, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
        """The program, once it listens; it is ended with the context, also where sending to it fails."""
        folder.mkdir()
        words = [word.format(port=port, folder=folder) for word in self.words]
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(words, stdout=quiet, stderr=quiet, env={**os.environ, **self.environment})
        try:
            while not _listens(port):
                if process.poll() is not None:
                    raise SystemExit(f"{self.name} ended with exit code {process.returncode}")
                time.sleep(0.05)
            yield process
        finally:
            process.terminate()
            process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


RECEIVERS = [
    Receiver("covct listen", [sys.executable, "-m", "covct", "listen", "{folder}", "--port", "{port}"]),
    Receiver("storescp", ["storescp", "--fork", "--output-directory", "{folder}", "{port}"]),
    Receiver(
        "storescp, TCP_NODELAY=1",
        ["storescp", "--fork", "--max-pdu", "131072", "--output-directory", "{folder}", "{port}"],
        {"TCP_NODELAY": "1"},
    ),
]


def processor_s(process: int) -> float:
    """Of a process and of its children that have ended."""
    words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, words[11:15])) / TICKS


def sent(port: int, shares: Sequence[Path]) -> float:
    """Seconds until every share, an association each, was acknowledged."""
    begun = time.monotonic()
    senders = [
        subprocess.Popen(
            ["dcmsend", "-aec", "COVCT", "--max-send-pdu", "131072", "+sd", "127.0.0.1", str(port), share],
            env={**os.environ, "TCP_NODELAY": "1"}, stdout=subprocess.DEVNULL,
        )
        for share in shares
    ]  # fmt: skip
    codes = [sender.wait() for sender in senders]
    if any(codes):
        raise SystemExit("not everything was acknowledged")
    return time.monotonic() - begun


def shared_out(source: Path, folder: Path, count: int) -> list[Path]:
    """The instances in so many folders."""
    shares = [folder / f"{count}-{number}" for number in range(count)]
    for share in shares:
        share.mkdir(parents=True)
    for number, path in enumerate(sorted(source.iterdir())):
        os.link(path, shares[number % count] / path.name)
    return shares


def measure(base: Path, instances: int, rounds: int) -> None:
    make_instances(base / "source", instances)
    found: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    for associations in (1, 4):
        shares = shared_out(base / "source", base / "shares", associations)
        for _ in range(rounds):
            for receiver in RECEIVERS:
                with socket.create_server(("127.0.0.1", 0)) as free:
                    port = free.getsockname()[1]
                with receiver.running(port, base / "received") as process:
                    time.sleep(0.5)
                    before = processor_s(process.pid)
                    seconds = sent(port, shares)
                    time.sleep(0.5)  # children of storescp end
                    used = processor_s(process.pid) - before
                kept = [path for path in (base / "received").rglob("*") if path.is_file()]
                assert len(kept) == instances, (receiver.name, len(kept))
                shutil.rmtree(base / "received")
                found[receiver.name, associations].append((instances / seconds, 1000 * used / instances))
    print("| receiver | associations | instances/s | processor, ms an instance |\n|---|---|---|---|")
    for (name, associations), row in found.items():
        rate, used = (statistics.median(column) for column in zip(*row, strict=True))
        print(f"| {name} | {associations} | {rate:.0f} | {used:.1f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to receive; on the disk to be measured")
    arguments = parser.parse_args()
    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        measure(Path(folder), arguments.instances, arguments.rounds)
