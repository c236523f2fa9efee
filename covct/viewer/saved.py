"""What a reader corrected, as files that `covct train` takes for truth and `covct evaluate` for a reader's masks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import numpy as np
import pydicom

from covct.dicom.evidence import Making
from covct.dicom.seg import write_seg
from covct.disk.durable import output_errors, replace_file, replacing
from covct.disk.sources import SourceFile, read_all
from covct.errors import UsageError
from covct.intake.nifti import read_description, write_mask
from covct.intake.volume_header import stem_of
from covct.outputs import Outputs
from covct.viewer.opened import Opened

CORRECTED = "covct, corrected by "  # in a NIfTI's header, which holds 80 bytes
LONGEST_NAME = 60


def check_reader(reader: str) -> str:
    """The name of a reader as a file may hold it; UsageError where it is none."""
    reader = " ".join(reader.split())
    if not reader:
        raise UsageError("nobody is named as the reader; wanted the name under which the masks are saved")
    if not reader.isprintable() or set(reader) & set("\\=") or len(reader.encode()) > LONGEST_NAME:
        raise UsageError(f"the reader's name: wanted up to {LONGEST_NAME} bytes without \\ and =")
    return reader


def save(opened: Opened, folder: Path, reader: str, with_scan: bool = False) -> list[Path]:
    """Write the masks as they now are: a DICOM SEG where they can refer to slices, else NIfTI.

    Parameters
    ----------
    folder : Path
        Made where it is not there.
    with_scan : bool
        Put the scan beside them, so that the folder can be learned from as it is.

    Returns
    -------
    list of Path
        The masks. What the same reader saved before is replaced.

    Raises
    ------
    UsageError
        No reader's name; or a file of that name is there, which this reader did not save.
    """
    reader = check_reader(reader)
    paths = places(opened, folder)
    for path in paths:
        _check_own(path, reader)
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if with_scan:
            _copy_scan(opened, folder)
        if opened.series.can_be_referred_to:
            _save_seg(opened, paths[0], reader)
        else:
            for path, mask in zip(paths, (opened.labels.lungs, opened.labels.infection), strict=True):
                with replacing(path, suffix=".nii.gz") as beside:
                    dicom_grid = opened.series.kind == "dicom"
                    write_mask(opened.scan, mask, beside, dicom_grid, _described(reader))
    return paths


def places(opened: Opened, folder: Path) -> list[Path]:
    """A SEG is found by what it refers to, a volume's masks by their names: NAME_lungs, NAME_infection."""
    name = _name(opened)
    if opened.series.can_be_referred_to:
        return [folder / f"{name}.seg.dcm"]
    return [folder / f"{name}_{task}.nii.gz" for task in ("lungs", "infection")]


def _name(opened: Opened) -> str:
    """Of DICOM the series' folder, of a volume file its own name: masks are found by it."""
    series = opened.series
    if series.kind == "dicom" or series.path is None:
        return series.folder.split("/")[-1]
    name = Path(series.path.name).name  # of a member of an archive
    return (stem_of(name) or name).removesuffix("_ct")


def _check_own(path: Path, reader: str) -> None:
    if not path.exists():
        return
    if path.suffix == ".dcm":
        made_by = ""
        with suppress(Exception):  # whatever it is, it is not this reader's
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["ContentCreatorName"])
            made_by = str(header.get("ContentCreatorName") or "")
        own = made_by == reader
    else:
        own = read_description(path) == _described(reader)
    if not own:
        raise UsageError(f"{path.name} is there already, and {reader} did not save it; wanted another --save-to")


def _described(reader: str) -> str:
    return f"{CORRECTED}{reader}"


def _save_seg(opened: Opened, path: Path, reader: str) -> None:
    """UIDs derive from the work, the reader and the marks: another correction is another object."""
    digest = hashlib.sha256(f"{opened.result.work_key} {reader} ".encode())
    for one in opened.labels:
        digest.update(np.packbits(one[..., None] & np.array([1, 2, 4], np.uint8) > 0).tobytes())
    networks = opened.result.report["networks"]
    making = Making(datetime.now().astimezone(), "")
    with replacing(path) as beside:
        masks = opened.result.masks
        write_seg(beside, opened.scan, masks, digest.hexdigest(), networks, Outputs(), making, reader)


def _copy_scan(opened: Opened, folder: Path) -> None:
    """The source beside its masks: slices in a folder of their own, a volume as NAME_ct. Nothing is written over."""
    sources = [file.path.resolve() for file in _files(opened)]
    if any(path.is_relative_to(folder.resolve()) for path in sources):
        return  # it lies there
    name = _name(opened)
    if opened.series.kind == "dicom":
        (folder / name).mkdir(exist_ok=True)
        for number, (_, contents) in enumerate(read_all(_files(opened)), start=1):
            _copy(folder / name / f"{number:04d}.dcm", contents)
        return
    file = opened.series.path
    assert file is not None
    ending = file.name.removeprefix(stem_of(file.name) or "")
    if ending.lower() not in (".nii", ".nii.gz"):
        raise UsageError(f"--with-scan copies DICOM and NIfTI, and this is {ending}; put it beside the masks by hand")
    [(_, contents)] = read_all([file])
    _copy(folder / f"{name}_ct{ending}", contents)


def _copy(path: Path, contents: bytes) -> None:
    if not path.exists():
        replace_file(path, contents, to_disk=False)
    elif path.read_bytes() != contents:
        raise UsageError(f"{path.name} is there already, and is another scan; wanted another --save-to")


def _files(opened: Opened) -> Iterator[SourceFile]:
    """Each file once, in the order of the slices; of a volume file that file."""
    if opened.series.kind != "dicom" and opened.series.path is not None:
        yield opened.series.path
        return
    yield from dict.fromkeys(instance.file for instance in opened.series.instances)
