"""Bytes of any kind to every first reader, guided by coverage, and judged by what they cost.

    python tests/fuzz_cost.py --seconds 3600 --corpus DIR     # a campaign; DIR keeps what reached new code

With atheris (`pip install atheris`) the inputs grow by coverage of covct and pydicom; without it they are the corpus
damaged at random. The corpus is made by code: a file of each kind that is read, and each of `bombs.py` in small. An
input is a defect that takes more than seconds and MiB in proportion to its bytes at any look or stage, or raises what
no caller expects. It is written to the corpus' folder, as `defect-*`, and the campaign ends.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from random import Random

try:
    import atheris
except ImportError:
    atheris = None  # type: ignore[assignment]

LONGEST = 128 * 1024  # bytes of an input
FREE_S, S_A_MIB = 1.5, 5.0  # of the processors: a hundred thousand elements take half a second
SLOWER = 6  # instrumented code
FREE_MIB, MIB_A_MIB = 64.0, 60.0
BYTES_A_PIXEL = 16  # of one that is decoded: as it is stored, as numbers, as Hounsfield units
ADDRESS_SPACE = 2 << 30
SCRATCH = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


class Costly(Exception):
    """An input that costs more than its bytes are worth."""


def judged(stage: Callable[[bytes, Path], object], contents: bytes, folder: Path, by_coverage: bool = False) -> None:
    """Run one stage over one input.

    Raises
    ------
    Costly
        What it took, and what would have been allowed.
    """
    from support.cost import status

    Path("/proc/self/clear_refs").write_text("5")
    before, start = status("VmRSS"), time.process_time()
    stage(contents, folder)
    seconds, mib, size = time.process_time() - start, (status("VmHWM") - before) / 2**20, len(contents) / 2**20
    allowed = (SLOWER if by_coverage else 1) * (FREE_S + S_A_MIB * size)
    enough = FREE_MIB + MIB_A_MIB * size
    if seconds > allowed or (mib > enough and mib > enough + BYTES_A_PIXEL * declared_pixels(contents) / 2**20):
        raise Costly(f"{stage.__name__}: {seconds:.2f} s and {mib:.0f} MiB for {len(contents)} bytes")


def declared_pixels(contents: bytes) -> int:
    """Of one frame, by the header, as far as covct decodes it: a few bytes of JPEG 2000 may hold them honestly."""
    import pydicom

    from covct.dicom.pixels import LARGEST_SIDE

    try:
        header = pydicom.dcmread(BytesIO(contents), specific_tags=["Rows", "Columns"], stop_before_pixels=True)
        rows, columns = int(header.Rows), int(header.Columns)
    except Exception:
        return 0
    return rows * columns if max(rows, columns) <= LARGEST_SIDE else 0


def look(contents: bytes, folder: Path) -> None:
    """As a DICOM file at a look: with a name that claims it, and without."""
    from covct.dicom.header import read_header
    from covct.disk.sources import SourceFile
    from covct.errors import SeriesError

    for name in ("a.dcm", "a"):
        (folder / name).write_bytes(contents)
        try:
            read_header(SourceFile(str(folder / name)))
        except SeriesError as error:
            if isinstance(error.__cause__, MemoryError):
                raise error.__cause__ from error


def whole(contents: bytes, folder: Path) -> None:
    """As a DICOM file that passed the gate: parsed to the end, its pixels decoded, its header inherited."""
    from covct.dicom.pixels import hounsfield
    from covct.dicom.read import read_dataset

    try:
        dataset = read_dataset(contents)
        hounsfield(dataset, 1)
    except MemoryError:
        raise
    except Exception:
        return  # decoders and parsers raise anything; what loads a series wraps it


def volume(contents: bytes, folder: Path) -> None:
    """As a NIfTI, as an archive, and as a MetaImage or NRRD."""
    from covct.errors import SeriesError
    from covct.intake.discover import discover
    from covct.intake.volume_file import read_volume

    for name in ("a.nii", "a.zip", "a.mha", "a.nrrd"):
        (folder / name).write_bytes(contents)
        discover([folder / name])
        try:
            if name == "a.nii":
                read_volume(folder / name)
        except SeriesError as error:
            if isinstance(error.__cause__, MemoryError):
                raise error.__cause__ from error
        (folder / name).unlink()


def weights(contents: bytes, folder: Path) -> None:
    """As the arrays of a weights file."""
    from covct.networks.weights_file import read_h5

    (folder / "a.h5").write_bytes(contents)
    try:
        read_h5(folder / "a.h5")
    except (ValueError, KeyError, OSError, RuntimeError):  # as whoever loads networks expects, and h5py's own
        return


STAGES = (look, whole, volume, weights)


def make_corpus(folder: Path) -> list[bytes]:
    """A file of each kind, as short as it can be; each bomb in small."""
    import h5py

    import fuzz
    from support import bombs

    made = [base.contents[0] for base in fuzz.make_bases(folder).values()]
    made += [getattr(bombs, name)(200) for name in bombs.BOMBS if name not in ("zipped_elements",)
             and "without_end" not in name]  # fmt: skip
    arrays = BytesIO()
    with h5py.File(arrays, "w") as file:
        group = file.create_group("layers/conv2d/vars")
        group.create_dataset("0", data=[1.0, 2.0])
        file["again"] = group
    return [one for one in [*made, arrays.getvalue()] if len(one) <= LONGEST]


class Campaign:
    """One input after the other, to all stages, in one folder."""

    def __init__(self, folder: Path, kept: Path, by_coverage: bool = False):
        self.folder, self.kept, self.by_coverage, self.inputs, self.bytes = folder, kept, by_coverage, 0, 0

    def take(self, contents: bytes) -> None:
        contents = bytes(contents)
        self.inputs, self.bytes = self.inputs + 1, self.bytes + len(contents)
        for stage in STAGES:
            try:
                judged(stage, contents, self.folder, self.by_coverage)
            except BaseException:
                name = f"defect-{stage.__name__}-{hashlib.sha256(contents).hexdigest()[:12]}"
                (self.kept / name).write_bytes(contents)
                raise


def guided(campaign: Campaign, seconds: int) -> int:
    """By coverage, in a child: libFuzzer ends its process, and would leave the scratch folder. The exit code.

    Its own clock is the wall's and judges only what hangs: on a busy machine ten seconds of it are one of a processor.
    """
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    arguments = [
        sys.argv[0], str(campaign.kept), f"-max_total_time={seconds}", f"-max_len={LONGEST}", "-timeout=60",
        "-report_slow_units=60", "-rss_limit_mb=3072", "-print_final_stats=1", "-handle_abrt=1",
        f"-artifact_prefix={campaign.kept}/defect-",
    ]  # fmt: skip
    atheris.Setup(arguments, campaign.take)
    atheris.Fuzz()
    raise AssertionError("libFuzzer has ended this process")


def unguided(campaign: Campaign, corpus: list[bytes], seconds: int, seed: int) -> None:
    from support import mutators

    kinds = [*mutators.ANY.values(), *mutators.DICOM.values(), *mutators.GROUPS.values(), *mutators.NIFTI.values()]
    rng, end = Random(seed), time.monotonic() + seconds
    for one in corpus:
        campaign.take(one)
    while time.monotonic() < end:
        contents = rng.choice(corpus)
        for _ in range(rng.randint(1, 4)):
            contents = rng.choice(kinds)(contents, rng)
        campaign.take(contents[:LONGEST])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--corpus", type=Path, help="kept from campaign to campaign; default: made anew")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--unguided", action="store_true", help="even where atheris is installed")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    by_coverage = atheris is not None and not options.unguided
    if by_coverage:
        with atheris.instrument_imports(include=["covct", "pydicom"]):
            import covct.intake.discover  # noqa: F401
            import covct.intake.load_dicom  # noqa: F401
            import covct.intake.nifti  # noqa: F401
            import covct.networks.weights_file  # noqa: F401
    with tempfile.TemporaryDirectory(prefix="covct-fuzz-", dir=SCRATCH) as scratch:
        kept = options.corpus or Path(scratch) / "corpus"
        kept.mkdir(exist_ok=True)
        corpus = make_corpus(Path(scratch) / "made")
        for one in corpus:
            (kept / hashlib.sha256(one).hexdigest()[:16]).write_bytes(one)
            for stage in STAGES:
                stage(one, Path(scratch))  # libraries and tables are loaded now
        if not by_coverage:
            from support.cost import status

            ceiling = status("VmSize") + ADDRESS_SPACE
            resource.setrlimit(resource.RLIMIT_AS, (ceiling, ceiling))
        campaign = Campaign(Path(scratch), kept, by_coverage)
        if by_coverage:
            return guided(campaign, options.seconds)
        unguided(campaign, corpus, options.seconds, options.seed)
        print(f"{campaign.inputs} inputs of {campaign.bytes} bytes through {len(STAGES)} stages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
