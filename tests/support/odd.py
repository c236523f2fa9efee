"""Odd things that lie in inboxes, each a function that puts one into a folder. None holds a person's data."""

from __future__ import annotations

import gzip
import os
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import nibabel
import numpy as np

from support.bombs import BOMBS, CT, EMPTY_ITEM, identity, long, part_10, short

ODD: dict[str, Callable[[Path], object]] = {}


def odd(function: Callable[[Path], object]) -> Callable[[Path], object]:
    ODD[function.__name__] = function
    return function


@odd
def empty_files(folder):
    """Two of the same nothing: an upload that did not begin."""
    for name in ("a.nii", "b.nii", "c.dcm", "d.zip", "e.nii.gz", "f"):
        (folder / name).write_bytes(b"")


@odd
def zeros(folder):
    for name in ("a.dcm", "a.nii", "a.zip", "a"):
        (folder / name).write_bytes(bytes(100_000))


@odd
def noise(folder):
    for name in ("a.dcm", "a.nii", "a.nii.gz", "a.zip", "a.mha", "a.nrrd"):
        (folder / name).write_bytes(Random(name).randbytes(100_000))


@odd
def strange_names(folder):
    for name in (b"\xff\xfe.dcm", b"a\nb.dcm", b"\x1b[31m.dcm", b"[red]:bomb:.dcm", b"M\xfcller^Hans.dcm", b"x" * 250):
        Path(os.fsdecode(os.path.join(os.fsencode(folder), name))).write_bytes(part_10(identity()))


@odd
def things_that_are_no_files(folder):
    os.mkfifo(folder / "a.dcm")
    (folder / "b.dcm").symlink_to("b.dcm")
    (folder / "c.dcm").symlink_to("/dev/zero")
    (folder / "d").symlink_to(folder)
    with socket.socket(socket.AF_UNIX) as one:
        here = os.getcwd()
        os.chdir(folder)  # its name may have 108 bytes
        try:
            one.bind("s.dcm")
        finally:
            os.chdir(here)


@odd
def sparse(folder):
    for name in ("a.dcm", "a.nii", "a.nii.gz", "a.zip"):
        with open(folder / name, "wb") as file:
            file.truncate(3 * 1024**3)


@odd
def archive_of_everything(folder):
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../a.dcm", part_10(identity()))
        archive.writestr("b/../c.nii", bytes(1000))
        archive.writestr("d.zip", b"PK\5\6" + bytes(18))
        archive.writestr("zeros.dcm", bytes(20_000_000))


@odd
def uids_that_lead_out(folder):
    for number, uid in enumerate(("../../x", "..", "/", "", "1" * 300, "1.2.3.", "CON", "\x00")):
        body = short(0x00080016, "UI", CT.encode()) + short(0x00080018, "UI", b"1.2.3.%d" % number)
        body += short(0x00080060, "CS", b"CT")
        body += short(0x0020000D, "UI", uid.encode()) + short(0x0020000E, "UI", uid.encode())
        (folder / f"{number}.dcm").write_bytes(part_10(body + long(0x7FE00010, "OW", bytes(8))))


@odd
def niftis_of_no_chest(folder):
    affine = np.diag([1.0, 1, 1, 1])
    for name, array in {
        "flat": np.zeros((1, 1, 1), np.int16),
        "not_a_number": np.full((8, 8, 8), np.nan, np.float32),
        "colours": np.zeros((8, 8, 8), [("R", "u1"), ("G", "u1"), ("B", "u1")]),
        "deep": np.zeros((2, 2, 2, 2, 2, 2), np.int16),
        "infinite": np.full((40, 40, 40), np.inf, np.float64),
    }.items():
        nibabel.save(nibabel.Nifti1Image(array, affine), folder / f"{name}.nii")
    (folder / "swells.nii.gz").write_bytes(gzip.compress(bytes(30_000_000)))


@odd
def fragments_without_end(folder):
    pixels = b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff" + EMPTY_ITEM * 50_000
    body = identity() + short(0x00280010, "US", b"\2\0") + short(0x00280011, "US", b"\2\0") + pixels
    (folder / "a.dcm").write_bytes(part_10(body, "1.2.840.10008.1.2.5"))


for _name, (_suffix, _make) in BOMBS.items():
    ODD[_name] = lambda folder, make=_make, suffix=_suffix: (folder / f"a{suffix}").write_bytes(make())
