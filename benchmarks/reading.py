"""Seconds to read a series of 300 x 512 x 512 in each transfer syntax, and the memory it takes, beside other readers.

covct: `load_dicom` of a discovered series, to Hounsfield units with geometry. pydicom: dcmread and pixel_array, as they
come. SimpleITK: ImageSeriesReader with the names in order. Each reader has a process of its own; medians of --runs, of
seconds and, in brackets, of processor seconds, which a busy machine changes less. Run it on a quiet machine; it prints
a table in Markdown to copy to RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pydicom
from pydicom.encaps import encapsulate

READERS = ("covct", "pydicom", "SimpleITK")
JPEG = "1.2.840.10008.1.2.4."


def encode(pixels: np.ndarray, uid: str) -> bytes | None:
    """One frame of 12-bit pixels; None where the syntax has no codec for single frames."""
    import imagecodecs as codecs

    encoders = {
        f"{JPEG}50": lambda: codecs.jpeg8_encode((pixels // 16).astype(np.uint8), 95),
        f"{JPEG}51": lambda: codecs.jpeg8_encode(pixels, 95, bitspersample=12),
        f"{JPEG}57": lambda: codecs.jpeg8_encode(pixels, lossless=True, predictor=4, bitspersample=12),
        f"{JPEG}70": lambda: codecs.jpeg8_encode(pixels, lossless=True, predictor=1, bitspersample=12),
        f"{JPEG}80": lambda: codecs.jpegls_encode(pixels),
        f"{JPEG}81": lambda: codecs.jpegls_encode(pixels, 4),
        f"{JPEG}90": lambda: codecs.jpeg2k_encode(pixels, 0, codecformat="J2K", reversible=True, bitspersample=12),
        f"{JPEG}91": lambda: codecs.jpeg2k_encode(pixels, 60, codecformat="J2K", bitspersample=12),
        f"{JPEG}201": lambda: codecs.htj2k_encode(pixels, reversible=True),
        f"{JPEG}202": lambda: codecs.htj2k_encode(pixels, reversible=True, tlm=True),
        f"{JPEG}203": lambda: codecs.htj2k_encode(pixels, 0.001, reversible=False),
    }
    return encoders[uid]() if uid in encoders else None


def write_series(plain: Path, folder: Path, uid: str) -> int:
    """The plain series in another transfer syntax; its size in bytes."""
    folder.mkdir()
    for path in sorted(plain.iterdir()):
        dataset = pydicom.dcmread(path)
        pixels = np.minimum(dataset.pixel_array, 4095)
        dataset.BitsStored, dataset.HighBit = 12, 11
        dataset.PixelData = pixels.astype(">u2" if uid == pydicom.uid.ExplicitVRBigEndian else "<u2").tobytes()
        if uid == f"{JPEG}50":
            dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.RescaleSlope = 8, 8, 7, 16
        if (frame := encode(pixels, uid)) is not None:
            dataset.PixelData = encapsulate([frame])
            dataset["PixelData"].is_undefined_length = True
        elif uid == pydicom.uid.RLELossless:
            dataset.compress(uid, generate_instance_uid=False)
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(uid)
        kept = pydicom.Dataset(dataset)
        kept.file_meta = dataset.file_meta
        kept.save_as(folder / path.name, enforce_file_format=True)
    return sum(path.stat().st_size for path in folder.iterdir())


def read(reader: str, folder: Path, runs: int) -> None:
    """Read so many times; print seconds, processor seconds and the peak memory of this process in MiB as JSON."""
    names = sorted(folder.iterdir())
    if reader == "covct":
        from covct.intake.discover import discover
        from covct.intake.load_dicom import load_dicom

        [series] = discover([folder]).series

        def once() -> int:
            return load_dicom(series).volume.array.size
    elif reader == "pydicom":

        def once() -> int:
            return np.stack([pydicom.dcmread(name).pixel_array for name in names]).size
    else:
        import SimpleITK as sitk

        def once() -> int:
            series_reader = sitk.ImageSeriesReader()
            series_reader.SetFileNames([str(name) for name in names])
            return series_reader.Execute().GetNumberOfPixels()

    seconds, processor = [], []
    for _ in range(runs):
        start, started = time.perf_counter(), time.process_time()
        assert once() == len(names) * 512 * 512
        seconds.append(time.perf_counter() - start)
        processor.append(time.process_time() - started)
    status = Path("/proc/self/status").read_text()  # ru_maxrss would count the parent's memory, too
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    print(json.dumps([statistics.median(seconds), statistics.median(processor), peak / 1024]))


def measured(reader: str, folder: Path, runs: int) -> tuple[str, str]:
    """Seconds and MiB as text; dashes where the reader cannot."""
    process = subprocess.run(
        [sys.executable, __file__, "--read", reader, str(folder), "--runs", str(runs)],
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        return "—", "—"
    seconds, processor, mib = json.loads(process.stdout.splitlines()[-1])
    return f"{seconds:.2f} ({processor:.2f})", f"{mib:,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--read", nargs=2, metavar=("READER", "FOLDER"), help="what a process of one reader does")
    arguments = parser.parse_args()
    if arguments.read:
        read(arguments.read[0], Path(arguments.read[1]), arguments.runs)
        return
    from covct.dicom.syntaxes import SYNTAXES
    from covct.phantom.chest import make_phantom
    from covct.phantom.dicom import write_dicom_series

    print(f"{arguments.slices} x 512 x 512, {len(os.sched_getaffinity(0))} cores, seconds and peak MiB\n")
    print("| transfer syntax | MB |" + "".join(f" {reader} s |" for reader in READERS), end="")
    print("".join(f" {reader} MiB |" for reader in READERS))
    print("|---|" + "---:|" * (1 + 2 * len(READERS)))
    with tempfile.TemporaryDirectory() as name:
        plain = Path(name) / "plain"
        write_dicom_series(make_phantom(slices=arguments.slices, seed=0), plain)
        for uid, syntax in SYNTAXES.items():
            folder = Path(name) / uid
            size = write_series(plain, folder, uid)
            columns = [measured(reader, folder, arguments.runs) for reader in READERS]
            cells = [syntax.name, f"{size / 1e6:.0f}", *(c[0] for c in columns), *(c[1] for c in columns)]
            print("| " + " | ".join(cells) + " |", flush=True)
            for path in folder.iterdir():
                path.unlink()


if __name__ == "__main__":
    main()
