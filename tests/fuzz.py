"""Damaged input by the thousand through discovery, gate, loading, whole batches and `covct verify`.

    python tests/fuzz.py --cases 50000 --seed 7     # a campaign: prints each defect with the case that shows it
    python tests/fuzz.py --replay 7000123 --keep x  # one case again, with its traceback; its files are kept in x

A case is its number: it decides which honest file is damaged, how, and where the file is met. Cases run in forked
processes of a hundred with a limit of memory and a watchdog, so that a decoder that crashes, hangs or fills the memory
is named by its case as well. What counts as a defect:

- any exception but SeriesError, of what promises that; in a batch, a series that failed unexpectedly;
- a process that died, or a case of more than LONGEST_S;
- memory beyond twice that of the honest file, or of an honest file of the size that header and codestream declare
  together; and a refusal that came only because memory ran out;
- a damaged result in which `covct verify` finds nothing.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import faulthandler
import gc
import io
import json
import logging
import mmap
import os
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
import tracemalloc
import warnings
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from random import Random

import imagecodecs
import numpy as np
import pydicom
from pydicom.encaps import encapsulate
from pydicom.uid import RLELossless

from covct.dicom import pixels
from covct.dicom.header import read_values
from covct.dicom.read import read_dataset
from covct.dicom.syntaxes import DEFLATED, EXPLICIT_BIG_ENDIAN, EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN
from covct.errors import SeriesError
from covct.intake import gate, nifti  # noqa: F401 - all that a case imports, before the fork
from covct.intake.choice import choose, is_other_part
from covct.intake.discover import Series, discover
from covct.intake.load_dicom import load_dicom
from covct.intake.nifti import write_nifti
from covct.intake.volume_file import load_volume
from covct.networks.cards import file_sha256, write_card
from covct.networks.network import Device, Network, Networks
from covct.outputs import FORMATS, Outputs
from covct.phantom.chest import make_phantom
from covct.phantom.dicom import write_dicom_series
from covct.pipeline import series as pipeline  # noqa: F401 - all that a case imports, before the fork
from covct.results import verify, writers  # noqa: F401 - all that a case imports, before the fork
from covct.unattended import batch  # noqa: F401 - all that a case imports, before the fork
from covct.voxels.volume import spacing_mm
from support import mutators
from support.multiframe import write_enhanced, write_legacy_converted
from support.thresholds import call_infection, call_lungs, threshold_card

LONGEST_S = 10.0  # of the processors' time
WATCHDOG_S = 60.0  # of the clock
MEMORY_FACTOR = 2
SLACK = {"rss": 16 << 20, "traced": 8 << 20}  # bytes: arenas, a table of 65,536 HU, 2 KiB an item in pydicom
BATCH_SLACK = 64 << 20  # of a whole line: thread pools, painting
ADDRESS_SPACE = 2 << 30  # bytes that a block of cases may take beyond what it began with
BLOCK = 100  # cases in one process
TRACED_EVERY = 30  # tracemalloc sees what is allocated and never touched, but makes a case five times slower
SERIES_LENGTH = 5  # slices where only the gate and loading are meant; a batch takes whole lungs
KEYWORDS = ("SeriesDescription", "PatientPosition", "KVP", "BodyPartExamined", "InstanceNumber", "StudyDate")
SCRATCH = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


# Honest files


@dataclass(frozen=True)
class Base:
    """An honest series and the damage that suits it.

    Attributes
    ----------
    contents : tuple of bytes
        Its files; one for multi-frame, NIfTI and zip.
    kinds : dict of str to Mutator
    codec : str
        Whose memory grows with the size that its codestream declares; empty for what is checked against bytes at hand.
    """

    name: str
    suffix: str
    contents: tuple[bytes, ...]
    kinds: dict[str, mutators.Mutator]
    codec: str = ""


def _stored(dataset: pydicom.Dataset) -> bytes:
    out = io.BytesIO()
    uid = dataset.file_meta.TransferSyntaxUID
    for _ in dataset.iterall():  # numbers are parsed now, by the byte order that they were read in
        pass
    pydicom.dcmwrite(
        out, dataset, implicit_vr=uid == IMPLICIT_LITTLE_ENDIAN, little_endian=uid != EXPLICIT_BIG_ENDIAN,
        force_encoding=True,
    )  # fmt: skip
    return out.getvalue()


def _dressed(dataset: pydicom.Dataset) -> pydicom.Dataset:
    """What a scanner's header has and a phantom's lacks: sequences, private elements, contrast, padding."""
    request, code = pydicom.Dataset(), pydicom.Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "24627-2", "LN", "Chest CT"
    request.RequestedProcedureDescription = "Chest"
    request.RequestedProcedureCodeSequence = [code]
    dataset.RequestAttributesSequence = [request]
    dataset.ProcedureCodeSequence = [copy.deepcopy(code)]
    dataset.ContrastBolusAgent = "none"
    dataset.PatientAge, dataset.PatientWeight = "060Y", "70"
    dataset.TemporalPositionIdentifier, dataset.ImagesInAcquisition = 1, 16
    dataset.LossyImageCompression = "00"
    dataset.add_new("PixelPaddingValue", "US", 0)
    block = dataset.private_block(0x0009, "COVCT FUZZ", create=True)
    block.add_new(0x01, "LO", "private")
    block.add_new(0x02, "DS", ["1.5", "2.5"])
    block.add_new(0x03, "OB", bytes(range(64)))
    return dataset


def _encoded(dataset: pydicom.Dataset, uid: str, encode: Callable[[np.ndarray], bytes]) -> pydicom.Dataset:
    out = copy.deepcopy(dataset)
    frames = np.frombuffer(out.PixelData, f"<u{out.BitsAllocated // 8}").reshape(-1, out.Rows, out.Columns)
    out.PixelData = encapsulate([encode(frame) for frame in frames], has_bot=len(frames) > 1)
    out["PixelData"].VR = "OB"
    out["PixelData"].is_undefined_length = True
    out.file_meta.TransferSyntaxUID = uid
    return out


def _as(dataset: pydicom.Dataset, uid: str) -> pydicom.Dataset:
    out = copy.deepcopy(dataset)
    if uid == EXPLICIT_BIG_ENDIAN:
        out.PixelData = np.frombuffer(out.PixelData, "<u2").astype(">u2").tobytes()
    out.file_meta.TransferSyntaxUID = uid
    return out


def _run_lengths(dataset: pydicom.Dataset) -> pydicom.Dataset:
    out = copy.deepcopy(dataset)
    out.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    return out


def _narrow(dataset: pydicom.Dataset, bits: int) -> pydicom.Dataset:
    """The same HU in fewer bits, for the JPEG of 8 and 12."""
    out = copy.deepcopy(dataset)
    stored = np.frombuffer(out.PixelData, "<u2") >> (12 - bits)
    out.PixelData = np.minimum(stored, (1 << bits) - 1).astype("u1" if bits == 8 else "<u2").tobytes()
    out.BitsAllocated, out.BitsStored, out.HighBit = (8 if bits == 8 else 16), bits, bits - 1
    out.RescaleSlope, out.LossyImageCompression = str(1 << (12 - bits)), "01"
    return out


def _first_order(pixels: np.ndarray) -> bytes:
    return imagecodecs.jpeg8_encode(pixels, lossless=True, bitspersample=16)


def _process_14(pixels: np.ndarray) -> bytes:
    return imagecodecs.ljpeg_encode(pixels, bitspersample=16)


def _jpeg_2000(pixels: np.ndarray) -> bytes:
    return imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", level=0, reversible=True)


CODECS: dict[str, tuple[str, str, Callable[[np.ndarray], bytes]]] = {  # transfer syntax, codestream, encoder
    "jpeg-lossless": ("1.2.840.10008.1.2.4.70", "jpeg-lossless", _first_order),
    "jpeg-lossless-14": ("1.2.840.10008.1.2.4.57", "jpeg-lossless", _process_14),
    "jpeg-ls": ("1.2.840.10008.1.2.4.80", "jpeg-ls", imagecodecs.jpegls_encode),
    "jpeg-2000": ("1.2.840.10008.1.2.4.90", "jpeg2000", _jpeg_2000),
    "htj2k": ("1.2.840.10008.1.2.4.201", "jpeg2000", imagecodecs.htj2k_encode),
}


def make_bases(folder: Path) -> dict[str, Base]:
    """Every kind of file that is read, of one small chest."""
    phantom = make_phantom(
        slices=16, rows=64, columns=64, slice_spacing_mm=18.5, pixel_spacing_mm=(6.0, 6.0), lesions="moderate", seed=1
    )
    plain = [_dressed(pydicom.dcmread(p)) for p in write_dicom_series(phantom, folder / "plain")]
    for path, dataset in zip(sorted((folder / "plain").iterdir()), plain, strict=True):
        dataset.save_as(path)
    dicom = {**mutators.ANY, **mutators.DICOM}
    coded = {**dicom, **mutators.CODESTREAM}
    grouped = {**dicom, **mutators.GROUPS}
    bases: list[Base] = []

    def add(name: str, datasets, kinds, codec: str = "", suffix: str = ".dcm") -> None:
        bases.append(Base(name, suffix, tuple(_stored(d) for d in datasets), kinds, codec))

    for name, uid in (("explicit", EXPLICIT_LITTLE_ENDIAN), ("implicit", IMPLICIT_LITTLE_ENDIAN),
                      ("big-endian", EXPLICIT_BIG_ENDIAN)):  # fmt: skip
        add(name, [_as(d, uid) for d in plain], dicom)
    add("deflated", [_as(d, DEFLATED) for d in plain], {**dicom, **mutators.DEFLATE}, "deflate")
    bases.append(Base("no-preamble", "", tuple(one[132:] for one in bases[0].contents), dicom))
    add("rle", [_run_lengths(d) for d in plain], coded)
    add("jpeg-8", [_encoded(_narrow(d, 8), "1.2.840.10008.1.2.4.50", imagecodecs.jpeg8_encode) for d in plain], coded)
    add(
        "jpeg-12",
        [
            _encoded(_narrow(d, 12), "1.2.840.10008.1.2.4.51", lambda a: imagecodecs.jpeg8_encode(a, bitspersample=12))
            for d in plain
        ],
        coded,
    )
    for name, (uid, codec, encode) in CODECS.items():
        add(name, [_encoded(d, uid, encode) for d in plain], coded, codec)
    large = _larger(plain[8], 8)
    for name, (uid, codec, encode) in CODECS.items():
        add(f"{name}-512", [_encoded(large, uid, encode)], coded, codec)
    add("rle-512", [_run_lengths(large)], coded)
    add("explicit-512", [large], dicom)
    enhanced = pydicom.dcmread(write_enhanced(folder / "plain", folder / "e.dcm"))
    add("enhanced", [enhanced], grouped)
    add("enhanced-undefined-lengths", [_undefined_lengths(enhanced)], grouped)
    uid, codec, encode = CODECS["jpeg-2000"]
    add("enhanced-jpeg-2000", [_encoded(enhanced, uid, encode)], {**coded, **mutators.GROUPS}, codec)
    add("enhanced-rle", [_run_lengths(enhanced)], {**coded, **mutators.GROUPS})
    add("legacy-converted", [pydicom.dcmread(write_legacy_converted(folder / "plain", folder / "l.dcm"))], grouped)
    for name, method in (("zip-stored", zipfile.ZIP_STORED), ("zip-deflated", zipfile.ZIP_DEFLATED)):
        archive = _zipped(bases[0].contents[:SERIES_LENGTH], method)
        bases.append(Base(name, ".zip", (archive,), {**mutators.ANY, **mutators.ZIP}))
    write_nifti(phantom.volume, folder / "n.nii")
    write_nifti(phantom.volume, folder / "n.nii.gz")
    first = (folder / "n.nii").read_bytes()
    bases.append(Base("nifti", ".nii", (first,), {**mutators.ANY, **mutators.NIFTI}))
    bases.append(Base("nifti-2", ".nii", (_second_nifti(first),), {**mutators.ANY, **mutators.NIFTI}))
    compressed = (folder / "n.nii.gz").read_bytes()
    bases.append(Base("nifti-gz", ".nii.gz", (compressed,), {**mutators.ANY, **mutators.GZIP}, "gzip"))
    return {base.name: base for base in bases}


def _larger(dataset: pydicom.Dataset, factor: int) -> pydicom.Dataset:
    out = copy.deepcopy(dataset)
    out.PixelData = np.kron(dataset.pixel_array, np.ones((factor, factor), "<u2")).astype("<u2").tobytes()
    out.Rows, out.Columns = dataset.Rows * factor, dataset.Columns * factor
    out.PixelSpacing = [float(v) / factor for v in dataset.PixelSpacing]
    return out


def _undefined_lengths(dataset: pydicom.Dataset) -> pydicom.Dataset:
    out = copy.deepcopy(dataset)

    def mark(item: pydicom.Dataset) -> None:
        for element in item:
            if element.VR == "SQ":
                element.is_undefined_length = True
                for inner in element.value:
                    inner.is_undefined_length_sequence_item = True
                    mark(inner)

    mark(out)
    return out


def _zipped(contents, method: int, suffix: str = ".dcm") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for number, one in enumerate(contents):
            archive.writestr(f"deep/{number:04d}{suffix}", one)
    return out.getvalue()


def _second_nifti(first: bytes) -> bytes:
    import nibabel

    image = nibabel.Nifti1Image.from_bytes(first)
    return nibabel.Nifti2Image(np.asanyarray(image.dataobj), image.affine, image.header).to_bytes()


# One case


@dataclass
class Case:
    """What a case number stands for: an honest file, damage of one to three kinds, and where it is met."""

    number: int
    base: Base
    kinds: tuple[str, ...]
    place: str

    @property
    def yardstick(self) -> str:
        """The honest case to compare with: a slice damaged is a series read, a zip is what it holds."""
        if self.place in ("batch", "verify"):
            return f"{self.base.name} {self.place}"
        return f"{self.base.name} {'file' if self.place == 'file' or len(self.base.contents) == 1 else 'all'}"

    def honest_files(self) -> list[bytes]:
        contents = list(self.base.contents)
        if self.place in ("slice", "all") or (self.place == "zip" and len(contents) > 1):
            return contents[5 : 5 + SERIES_LENGTH]
        return contents[len(contents) // 2 :][:1] if self.place == "file" else contents

    @cached_property
    def files(self) -> tuple[list[bytes], int]:
        """The files' contents, and how many of them are damaged; several are damaged in the same way."""
        contents = self.honest_files()
        rng = Random(self.number)
        alike = self.place == "all" or (self.place != "slice" and rng.random() < 0.5)
        hit = range(len(contents)) if alike else [rng.randrange(len(contents))]
        for index in hit:
            for turn, kind in enumerate(self.kinds):
                contents[index] = self.base.kinds[kind](contents[index], Random(f"{self.number} {turn}"))
        return contents, len(hit)


PLACES = {"file": 70, "slice": 11, "all": 11, "zip": 5, "batch": 1.5, "verify": 1.5}


def make_case(number: int, bench: Bench) -> Case:
    rng = Random(f"case {number}")
    [place] = rng.choices(list(PLACES), list(PLACES.values()))
    bases = bench.results if place == "verify" else list(bench.bases.values())
    base = rng.choice(bases)
    if (place in ("slice", "all") and len(base.contents) < SERIES_LENGTH) or (place == "zip" and base.suffix == ".zip"):
        place = "file"
    kinds = tuple(rng.choice(list(base.kinds)) for _ in range(rng.choices((1, 2, 3), (70, 20, 10))[0]))
    return Case(number, base, kinds, place)


class Starved(Exception):
    """A refusal that came only because memory ran out: something was allocated before it was checked."""


@dataclass
class Bench:
    """What all cases share; made before the first fork."""

    folder: Path
    bases: dict[str, Base]
    results: list[Base] = field(default_factory=list)
    honest: dict[str, dict[str, int]] = field(default_factory=dict)  # bytes, by base and place
    bytes_a_pixel: dict[str, float] = field(default_factory=dict)  # by codec

    @property
    def weights(self) -> Path:
        return self.folder / "weights"

    @property
    def tree(self) -> Path:
        """An output tree of one honest result."""
        return self.folder / "out"


NETWORKS = Networks(
    Network(threshold_card("lungs"), call_lungs),
    Network(threshold_card("infection"), call_infection),
    Device("cpu", "threshold"),
)


def write_files(contents: list[bytes], suffix: str, folder: Path, zipped: bool = False) -> None:
    folder.mkdir(parents=True)
    if zipped:
        (folder / "all.zip").write_bytes(_zipped(contents, zipfile.ZIP_DEFLATED, suffix))
        return
    for number, one in enumerate(contents):
        (folder / f"{number:04d}{suffix}").write_bytes(one)


def through_the_line(folder: Path) -> list[str]:
    """Discovery, gate, loading and the checks of the voxels, as a batch calls them. What became of each series."""
    found = discover([folder])
    verdicts = [f"problem {problem.slug}" for problem in found.problems]
    for series in found.series:
        try:
            choice = choose([series], gate.check_headers)
            if series.instances:
                read_values(series.instances[0].file, KEYWORDS)
            if choice.chosen is None:
                raise SeriesError(*choice.left_out[0][1:])
            gate.header_warnings(series)
            _load(series)
            verdicts.append("loaded")
        except SeriesError as error:
            _not_starved(error)
            verdicts.append(f"refused {error.slug}")
    return verdicts or ["ignored"]


def _load(series: Series) -> None:
    scan = load_dicom(series) if series.kind == "dicom" else load_volume(series)
    volume = scan.working
    gate.check_hounsfield(volume.array)
    gate.check_region(volume.array, spacing_mm(volume), is_other_part(series))
    gate.check_region(volume.array, spacing_mm(volume), True)


def _not_starved(error: BaseException | None) -> None:
    while error is not None:
        if isinstance(error, MemoryError):
            raise Starved(str(error)) from error
        error = error.__cause__ or error.__context__


def through_the_decoder(contents: list[bytes]) -> None:
    """What the gate keeps from the decoders, given to them all the same: they may raise, not crash."""
    for one in contents[:2]:
        try:
            dataset = read_dataset(one)
            for frame in (None, 1):
                pixels.hounsfield(dataset, frame)
        except Exception as error:
            _not_starved(error)


def _order(source: Path, out: Path, bench: Bench) -> batch.Order:
    return batch.Order((source,), out, bench.weights, Outputs(formats=tuple(FORMATS)))


def through_a_batch(folder: Path, bench: Bench) -> list[str]:
    events: list[dict] = []
    batch.scan(_order(folder, folder.parent / "out", bench), lambda: NETWORKS, events.append)
    failed = [event["message"] for event in events if event["event"] == "failed"]
    if failed:
        raise Starved(failed[0]) if "MemoryError" in failed[0] else AssertionError(f"failed: {failed[0]}")
    return [f"{e['event']} {e.get('slug') or ''}" for e in events if e["event"] in ("done", "rejected", "problem")]


def through_verify(case: Case, folder: Path, bench: Bench) -> list[str]:
    shutil.copytree(bench.tree, folder)
    [damaged] = case.files[0]
    [path] = folder.glob(f"*/*/{case.base.suffix}")
    path.write_bytes(damaged)
    defects = {defect.slug for verdict in verify.verify(folder) for defect in verdict.defects}
    if not defects and damaged != case.base.contents[0] and path.name != "outcome.json":
        raise AssertionError(f"covct verify finds nothing wrong with a damaged {path.name}")
    if path.suffix == ".json":  # what the next run reads of the last one
        batch.scan(_order(bench.folder / "in", folder, bench), lambda: NETWORKS, lambda event: None)
    return sorted(defects) or ["nothing"]


def run_case(case: Case, bench: Bench, folder: Path) -> tuple[list[str], int]:
    """What became of the case, and how many instances were damaged. Whatever is raised is a defect."""
    if case.place == "verify":
        return through_verify(case, folder / "out", bench), 1
    contents, damaged = case.files
    write_files(contents, case.base.suffix, folder / "in", zipped=case.place == "zip")
    if case.place == "batch":
        return through_a_batch(folder / "in", bench), damaged
    verdicts = through_the_line(folder / "in")
    if "loaded" not in verdicts and case.base.suffix in (".dcm", ""):
        through_the_decoder(contents)
    return verdicts, damaged


# Memory


LIBC = ctypes.CDLL(None)


@dataclass
class Meter:
    """The most memory that was held at once between two moments, beyond what was held at the first."""

    traced: bool

    def __enter__(self) -> Meter:
        gc.collect()
        LIBC.malloc_trim(0)
        if self.traced:
            tracemalloc.start()
        Path("/proc/self/clear_refs").write_text("5")  # the high water mark begins anew
        self.before = _resident("VmRSS")
        return self

    def __exit__(self, *_) -> None:
        self.bytes = {"rss": _resident("VmHWM") - self.before}
        if self.traced:
            self.bytes["traced"] = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()


def _resident(name: str) -> int:
    return 1024 * int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])  # type: ignore[index]


def _declared_pixels(case: Case) -> int:
    """Pixels that a compressed file's header declares: its decoder may take what an honest file of that size takes."""
    most = 0
    for one in case.files[0]:
        try:
            if case.base.codec == "gzip":
                start = zlib.decompressobj(wbits=31).decompress(one, 1 << 16)
                most = max(most, nifti._declared_bytes(start) // 2)
                continue
            header = read_dataset(one, stop_before_pixels=True)
            rows, columns = int(header.Rows), int(header.Columns)
            frames = min(
                int(header.get("NumberOfFrames") or 1), len(header.get("PerFrameFunctionalGroupsSequence") or "1")
            )
            if max(rows, columns) <= pixels.LARGEST_SIDE:
                most = max(most, rows * columns * max(1, frames))
        except Exception:
            continue
    return most


def memory_ratios(case: Case, bench: Bench, used: dict[str, int]) -> dict[str, float]:
    """Bytes used to bytes of the honest file, less an allowance for noise. Above MEMORY_FACTOR is a defect."""
    honest = bench.honest[case.yardstick]
    sizes = sum(map(len, case.files[0])) / max(1, sum(map(len, case.honest_files())))
    ratios = {}
    for kind, measured in used.items():
        slack = BATCH_SLACK if case.place in ("batch", "verify") else SLACK[kind]
        allowed = int(max(honest[kind], 1 << 20) * max(1.0, sizes))  # a larger file may need more
        if measured - slack > MEMORY_FACTOR * allowed and case.base.codec:
            allowed = max(allowed, int(_declared_pixels(case) * bench.bytes_a_pixel[case.base.codec]))
        ratios[kind] = max(0, measured - slack) / allowed
    return ratios


# Many cases


def make_bench(folder: Path) -> Bench:
    """Honest files and results, and what they need. The yardsticks are measured in a process of their own."""
    _quiet()
    bench = Bench(folder, make_bases(folder / "made"))
    bench.weights.mkdir()
    for task in ("lungs", "infection"):
        (bench.weights / f"{task}.keras").write_bytes(task.encode())
        write_card(threshold_card(task, file_sha256(bench.weights / f"{task}.keras")), bench.weights)
    gc.freeze()  # collecting before each case is quick then
    for base in bench.bases.values():  # decoders are imported when they are first called
        _honest(base, "file", bench)
    _in_a_child(lambda: (folder / "honest.json").write_text(json.dumps(_yardsticks(bench))))
    found = json.loads((folder / "honest.json").read_text())
    bench.honest, bench.bytes_a_pixel = found["honest"], found["bytes_a_pixel"]
    [result] = (path.parent for path in bench.tree.glob("*/*/outcome.json"))
    for path in sorted(result.iterdir()):
        kinds = {".json": mutators.JSON, ".dcm": mutators.DICOM, ".gz": mutators.GZIP}.get(path.suffix, {})
        bench.results.append(Base("result", path.name, (path.read_bytes(),), {**mutators.ANY, **kinds}))
    return bench


def _honest(base: Base, place: str, bench: Bench) -> dict[str, int]:
    """Memory of a case without damage; that it passes is what makes the others say something."""
    used: dict[str, int] = {}
    for traced in (False, True) if place == "file" else (False,):
        with tempfile.TemporaryDirectory(dir=SCRATCH) as folder, Meter(traced) as meter:
            case = Case(0, base, (), place)
            verdicts, _ = run_case(case, bench, Path(folder))
        if not set(verdicts) <= {"loaded", "done "}:
            raise AssertionError(f"the honest {base.name} is not taken ({place}): {verdicts}")
        used = meter.bytes | used  # the resident memory of the one that was not traced
    return used


def _yardsticks(bench: Bench) -> dict[str, dict]:
    honest: dict[str, dict[str, int]] = {}
    for base in bench.bases.values():
        for place in ("file", *(["all"] if len(base.contents) > 1 else [])):
            honest[f"{base.name} {place}"] = _honest(base, place, bench)
    explicit = bench.bases["explicit"]
    line = _honest(explicit, "batch", bench)
    honest |= {f"{name} batch": line for name in bench.bases}
    write_files(list(explicit.contents), ".dcm", bench.folder / "in")
    through_a_batch(bench.folder / "in", bench)
    with Meter(False) as meter:
        list(verify.verify(bench.tree))
    honest["result verify"] = meter.bytes
    large = _larger(pydicom.dcmread(io.BytesIO(explicit.contents[8])), 16)
    each: dict[str, float] = {}
    coded = [(codec, _encoded(large, uid, encode)) for uid, codec, encode in CODECS.values()]
    for codec, dataset in [*coded, ("deflate", _as(large, DEFLATED))]:
        used = _honest(Base(codec, ".dcm", (_stored(dataset),), {}), "file", bench)
        each[codec] = max(each.get(codec, 0.0), max(used.values()) / (large.Rows * large.Columns))
    each["gzip"] = max(honest["nifti-gz file"].values()) / (16 * 64 * 64)
    return {"honest": honest, "bytes_a_pixel": each}


def _quiet() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)


def _in_a_child(function: Callable[[], object]) -> None:
    child = os.fork()
    if child == 0:
        try:
            function()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    if os.waitpid(child, 0)[1]:
        raise SystemExit("the honest files could not be measured")


@dataclass
class Record:
    """What one case came to, as a line of JSON between processes."""

    number: int
    base: str
    kinds: tuple[str, ...]
    place: str
    verdicts: list[str] = field(default_factory=list)
    instances: int = 1
    seconds: float = 0.0
    ratios: dict[str, float] = field(default_factory=dict)
    mebibytes: float = 0.0
    defect: str = ""


def judge(number: int, bench: Bench) -> Record:
    """Run one case in this process and say what was wrong, if anything was."""
    case = make_case(number, bench)
    record = Record(number, case.base.name if case.place != "verify" else case.base.suffix, case.kinds, case.place)
    traced = number % TRACED_EVERY == 0 and case.place == "file"
    case.files  # noqa: B018 - damaged now: that is not to be measured
    start = time.process_time()  # of all threads: others use the machine too
    with tempfile.TemporaryDirectory(dir=SCRATCH, ignore_cleanup_errors=True) as folder, Meter(traced) as meter:
        try:
            record.verdicts, record.instances = run_case(case, bench, Path(folder))
        except Starved as error:
            record.defect = f"memory ran out: {error}"
        except Exception as error:
            record.defect = _where(error)
    record.seconds = time.process_time() - start
    record.mebibytes = max(meter.bytes.values()) / 2**20
    record.ratios = memory_ratios(case, bench, meter.bytes)
    if not record.defect and max(record.ratios.values()) > MEMORY_FACTOR:
        record.defect = f"memory: {record.mebibytes:.0f} MiB, {max(record.ratios.values()):.1f} times the honest file's"
    if not record.defect and record.seconds > LONGEST_S:
        record.defect = f"slow: {record.seconds:.1f} s"
    return record


def _where(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f"{Path(f.filename).name}:{f.lineno}" for f in frames if f"{os.sep}covct{os.sep}" in f.filename]
    return f"{type(error).__name__} at {' < '.join(reversed(ours[-3:])) or 'the runner'}: {str(error)[:200]}"


def _block(numbers: range, bench: Bench, current: mmap.mmap, out: Path) -> None:
    """The child: cases one after the other, under limits. What kills it, kills only it."""
    faulthandler.enable(open(out.with_suffix(".trace"), "w"))  # noqa: SIM115 - as long as the process
    trace = open(out.with_suffix(".trace"), "a")  # noqa: SIM115
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ceiling = _resident("VmSize") + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (ceiling, ceiling))
    with open(out, "a", buffering=1) as records:
        for number in numbers:
            current[:8] = number.to_bytes(8, "little")
            faulthandler.dump_traceback_later(WATCHDOG_S, exit=True, file=trace)
            record = judge(number, bench)
            faulthandler.cancel_dump_traceback_later()
            records.write(json.dumps(asdict(record)) + "\n")


def run(numbers: range, bench: Bench, jobs: int) -> Iterator[Record]:
    """All cases, some blocks side by side. A case that killed its process is a record too, and the rest goes on."""
    waiting = [numbers[at : at + BLOCK] for at in range(0, len(numbers), BLOCK)]
    running: dict[int, tuple[range, mmap.mmap, Path]] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            part = waiting.pop(0)
            current, out = mmap.mmap(-1, 8), bench.folder / f"{part[0]}.jsonl"
            child = os.fork()
            if child == 0:
                try:
                    _block(part, bench, current, out)
                    os._exit(0)
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
            running[child] = part, current, out
        child, status = os.wait()
        part, current, out = running.pop(child)
        if status:
            number = int.from_bytes(current[:8], "little")
            case, how = make_case(number, bench), os.waitstatus_to_exitcode(status)
            trace = [line.strip() for line in out.with_suffix(".trace").read_text().splitlines()]
            ours = next((line for line in trace if f"{os.sep}covct{os.sep}" in line), "")
            defect = f"hang: {ours}" if any(t.startswith("Timeout") for t in trace) else f"died ({how}): {ours}"
            name = case.base.name if case.place != "verify" else case.base.suffix
            yield Record(number, name, case.kinds, case.place, defect=defect)
            if number + 1 < part.stop:
                waiting.append(range(number + 1, part.stop))
        if out.exists():
            yield from (Record(**json.loads(line)) for line in out.read_text().splitlines())
            out.unlink()
        out.with_suffix(".trace").unlink(missing_ok=True)


def report(records: list[Record], seconds: float) -> tuple[str, int]:
    """What a campaign came to, in words, and the number of cases that showed a defect."""
    by_kind = Counter(kind for r in records for kind in r.kinds)
    verdicts = Counter(verdict.strip() for r in records for verdict in set(r.verdicts))
    slowest, ratios = max(records, key=lambda r: r.seconds), [(max(r.ratios.values(), default=0.0), r) for r in records]
    highest, where = max(ratios, key=lambda pair: pair[0])
    most = max(records, key=lambda r: r.mebibytes)
    lines = [
        f"{len(records)} cases with {sum(r.instances for r in records)} damaged instances in {seconds:.0f} s",
        "where: " + ", ".join(f"{name} {n}" for name, n in Counter(r.place for r in records).most_common()),
        "kinds: " + ", ".join(f"{name} {n}" for name, n in by_kind.most_common()),
        "files: " + ", ".join(f"{name} {n}" for name, n in Counter(r.base for r in records).most_common()),
        "ended: " + ", ".join(f"{name} {n}" for name, n in verdicts.most_common()),
        f"slowest: {slowest.seconds:.2f} s, {_name(slowest)}",
        f"most memory: {most.mebibytes:.0f} MiB, {_name(most)}",
        f"highest memory ratio: {highest:.2f}, {_name(where)}",
    ]
    defects: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record.defect:
            alike = "memory" if record.defect.startswith("memory:") else re.sub(r"\d{2,}", "N", record.defect[:90])
            defects[alike].append(record)
    for some in sorted(defects.values(), key=len, reverse=True):
        lines.append(f"DEFECT, {len(some)} cases: {some[0].defect}")
        lines += [f"    {_name(r)}" for r in some[:4]]
    return "\n".join(lines), sum(map(len, defects.values()))


def _name(record: Record) -> str:
    return f"case {record.number} ({record.base}, {record.place}: {' + '.join(record.kinds)})"


def replay(number: int, bench: Bench, keep: Path | None) -> None:
    case = make_case(number, bench)
    print(case.base.name, case.base.suffix, case.place, case.kinds)
    if keep and case.place != "verify":
        write_files(case.files[0], case.base.suffix, keep, zipped=case.place == "zip")
    case.files  # noqa: B018
    with tempfile.TemporaryDirectory(dir=SCRATCH) as folder, Meter(True) as meter:
        start = time.perf_counter()
        try:
            print(run_case(case, bench, Path(folder)))
        except Exception:
            traceback.print_exc()
        print(f"{time.perf_counter() - start:.2f} s")
    print({k: round(v / 2**20, 1) for k, v in meter.bytes.items()}, "MiB", memory_ratios(case, bench, meter.bytes))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0, help="cases are numbered from a million times this")
    parser.add_argument("--jobs", type=int, default=2, help="processes side by side")
    parser.add_argument("--replay", type=int, help="run this case alone, here, and show its traceback")
    parser.add_argument("--keep", type=Path, help="with --replay: a new folder for the case's files")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="covct-fuzz-", dir=SCRATCH) as folder:
        bench = make_bench(Path(folder))
        if options.replay is not None:
            replay(options.replay, bench, options.keep)
            return 0
        start, first = time.perf_counter(), options.seed * 1_000_000
        records = list(run(range(first, first + options.cases), bench, options.jobs))
        text, defects = report(records, time.perf_counter() - start)
        print(text, flush=True)
    return 1 if defects else 0


if __name__ == "__main__":
    sys.exit(main())
