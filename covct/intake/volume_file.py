"""A file that holds a whole volume (NIfTI, MetaImage, NRRD), read with the same checks whatever its format."""

from __future__ import annotations

import zlib
from pathlib import Path

import highdicom as hd
import numpy as np

from covct.disk.sources import SourceFile, read_all
from covct.errors import SeriesError, SourceDefect, why
from covct.intake.discover import Series
from covct.intake.gate_geometry import default_affine, nifti_geometry
from covct.intake.gate_rules import Finding
from covct.intake.nifti import compact, decode_nifti, nifti_affine, nifti_size, straight_affine
from covct.intake.volume_header import check, format_of, layout_of
from covct.intake.voxel_layout import VoxelLayout
from covct.voxels.volume import Scan

READ_AT_ONCE, INFLATED_AT_ONCE = 64 * 1024, 1024**2


def load_volume(series: Series) -> Scan:
    """The series' one file as a Scan; also from inside a zip archive. Errors as `read_volume`."""
    assert series.path is not None
    volume, tilted = _decode(series.path)
    return Scan(volume, tilted_affine=tilted)


def read_volume(path: Path) -> hd.Volume:
    """Read a volume file in LPS millimetres, in its own axis order.

    Returns
    -------
    highdicom.Volume
        (i, j, k) of the file; int16 where the stored values are whole numbers in that range, else float32.

    Raises
    ------
    SeriesError
        `unreadable` for a truncated, damaged or foreign file, `not-3d` for more than one volume, `not-hounsfield` for
        colours, `no-geometry` where the file does not say how the patient lies.
    """
    return _decode(SourceFile(str(path)))[0]


def declared_size(series: Series) -> tuple[tuple[int, int, int], float]:
    """Extents by the header alone, and the bytes a voxel takes while the file is read.

    Raises
    ------
    SeriesError
        `unreadable` where even the header cannot be read.
    """
    assert series.path is not None
    if series.kind == "nifti":
        return nifti_size(series.path)
    layout = layout_of(series.path)
    i, j, k = (*layout.shape, 1, 1, 1)[:3]
    further = layout.size / (i * j * k)
    # The file's bytes, its voxels, and as numbers where they are not whole ones.
    return (i, j, k), 2 * further + 4


def declared_findings(series: Series) -> list[Finding]:
    """Warnings of the gate by the header alone: an affine that nobody set, a size or slices that chests do not have.

    Raises
    ------
    SeriesError
        What refuses the file by its header.
    """
    assert series.path is not None
    shape, _ = declared_size(series)
    affine = nifti_affine(series.path) if series.kind == "nifti" else layout_of(series.path).affine
    if affine is None:
        return []  # said when it is read
    axes = np.abs(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)).argmax(axis=1)[::-1]
    working = affine[:, [*axes, 3]]
    slices, rows, columns = (shape[axis] for axis in axes)
    return [*default_affine(affine), *nifti_geometry(working, (slices, rows, columns))]


def _decode(file: SourceFile) -> tuple[hd.Volume, np.ndarray | None]:
    """The volume, and the LPS affine of its tilted slices where the gantry was tilted."""
    files = check(file)  # also what stands for a file that is only known by its beginning
    if format_of(file.name) == "nifti":
        return decode_nifti(file)
    layout = layout_of(file)
    what = layout.format
    if len(layout.shape) != 3:
        shape = " x ".join(map(str, layout.shape))
        raise SeriesError("not-3d", f"the {what} has shape {shape}; wanted one 3D volume")
    if layout.components != 1:
        message = f"the {what} holds {layout.components} values a voxel; wanted Hounsfield units (air -1000, water 0)"
        raise SeriesError("not-hounsfield", message)
    if layout.affine is None:
        message = f"the {what} lacks {layout.missing}: left and right, or the voxels' size, are unknown"
        raise SeriesError("no-geometry", message)
    affine, tilted = straight_affine(layout.affine, what)
    array = np.frombuffer(_voxels(files[-1], layout), layout.dtype).reshape(layout.shape, order="F")
    return hd.Volume(compact(array.astype(layout.dtype.newbyteorder("="), copy=False)), affine, "PATIENT"), tilted


def _voxels(file: SourceFile, layout: VoxelLayout) -> memoryview:
    """As many bytes as the header declares, no more and no fewer."""
    [(_, contents)] = read_all([file])
    try:
        if layout.compressed:
            return _inflated(memoryview(contents)[layout.offset :], layout.size)
        start = len(contents) - layout.size if layout.offset < 0 else layout.offset
        if start < 0 or len(contents) - start < layout.size:
            raise SourceDefect(f"the file has {len(contents)} bytes, but its header declares more")
        return memoryview(contents)[start : start + layout.size]
    except (SourceDefect, zlib.error) as error:
        raise SeriesError("unreadable", f"the {layout.format} cannot be read: {why(error)}", file.label) from error


def _inflated(packed: memoryview, wanted: int) -> memoryview:
    """By zlib or gzip, whose checksum finds damage that leaves the length as it was."""
    stream = zlib.decompressobj(zlib.MAX_WBITS | 32)
    voxels, got = bytearray(wanted), 0
    for start in range(0, len(packed), READ_AT_ONCE):
        piece: bytes | memoryview = packed[start : start + READ_AT_ONCE]
        while piece and not stream.eof:
            part = stream.decompress(piece, INFLATED_AT_ONCE)
            if got + len(part) > wanted:
                raise SourceDefect(f"it swells beyond the {wanted} bytes that its header declares")
            voxels[got : got + len(part)] = part
            got += len(part)
            piece = stream.unconsumed_tail
    if not stream.eof or got < wanted:
        raise SourceDefect(f"it ends after {got} of the {wanted} bytes that its header declares")
    return memoryview(voxels)
