"""NIfTI files to and from volumes. The only module that knows NIfTI's RAS millimetres; everything else is LPS."""

from __future__ import annotations

import gzip
import math
import zlib
from io import SEEK_END, BytesIO
from pathlib import Path

import highdicom as hd
import nibabel
import numpy as np

from covct.disk.archives import DEFLATE_RATIO, GZIP_MAGIC, LARGEST_FILE
from covct.disk.sources import SourceFile, read_all, size_of
from covct.errors import SeriesError, SourceDefect, why
from covct.intake.gate_rules import PIXEL_MM, TILT_REFUSED_DEGREES
from covct.voxels.labels import Labels, Slices
from covct.voxels.volume import Scan

LONGEST_MM = 100.0  # no voxel of a scanner is longer; the gate judges what is shorter
READ_AT_ONCE = 1024**2
BEHIND_VOXELS = 1024**2  # bytes that may follow them
GZIP_LEVEL = 1  # masks shrink to a hundredth at any level
HEADER_PEEK = 16 * 1024
HEADER_BYTES = 352  # of NIfTI-1, with the four bytes that say that no extension follows
NIFTI2_HEADER = (540).to_bytes(4, "little")  # its size; in either byte order
RAS_OF_LPS = np.diag([-1.0, -1, 1, 1])
SHEAR_TOLERANCE = 0.01  # of a direction cosine, 0.6 degrees: what rounding to three digits can make


def nifti_size(file: SourceFile) -> tuple[tuple[int, int, int], float]:
    """Extents by the header alone, and the bytes a voxel takes while the file is read.

    Raises
    ------
    SeriesError
        `unreadable` where even the header cannot be read.
    """
    header, is_packed = _peek(file)
    shape = (*header.get_data_shape(), 1, 1, 1)
    itemsize = header.get_data_dtype().itemsize
    held = 2 if _holds_whole(header.get_data_dtype(), *header.get_slope_inter()) else 6  # twice, if not at once HU
    # The file, packed and inflated, and the voxels beside it.
    plain = itemsize * np.prod(shape[3:], dtype=float)
    voxels = max(1.0, float(np.prod(shape[:3], dtype=float)))
    packed = size_of(file) / voxels if is_packed else 0.0
    return (int(shape[0]), int(shape[1]), int(shape[2])), float(packed + plain + held)


def nifti_affine(file: SourceFile) -> np.ndarray:
    """(4, 4) index to LPS mm by the header alone, its axes perpendicular; errors as `decode_nifti`."""
    header, _ = _peek(file)
    affine: np.ndarray = RAS_OF_LPS @ _affine(header, header.get_best_affine(), (*header.get_data_shape(), 1, 1))[0]
    return affine


def _peek(file: SourceFile) -> tuple[nibabel.Nifti1Header, bool]:
    """The header, of the file's beginning, and whether the file is packed. What it says of its voxels can be read."""
    [(_, beginning)] = read_all([file], HEADER_PEEK)
    is_packed = beginning[:2] == GZIP_MAGIC
    try:
        if is_packed:
            beginning = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(beginning, HEADER_PEEK)
        header = _header(beginning)
        header.get_data_shape(), header.get_data_dtype(), header.get_slope_inter()
    except Exception as error:  # a damaged file raises what the damage hits
        raise SeriesError("unreadable", f"the NIfTI cannot be read: {error}") from error
    return header, is_packed


def read_mask(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels of a mask that `write_nifti` wrote, and its affine (4, 4) to LPS mm, sheared where the gantry was tilted.

    Raises
    ------
    SeriesError
        `unreadable` for a truncated, damaged or foreign file.
    """
    [(_, contents)] = read_all([SourceFile(str(path))])
    try:
        image = _image(contents)
        return np.asanyarray(image.dataobj), np.diag([-1, -1, 1, 1]) @ image.affine  # RAS to LPS
    except Exception as error:  # a damaged file raises what the damage hits
        raise SeriesError("unreadable", f"the NIfTI cannot be read: {why(error)}") from error


def _image(contents: bytes) -> nibabel.Nifti1Image:
    """The image, once its file is known to hold what its header declares, and not much more."""
    plain = _decompressed(contents) if contents[:2] == GZIP_MAGIC else BytesIO(contents)
    start = plain.read(READ_AT_ONCE)
    wanted, got = _declared_bytes(start), plain.seek(0, SEEK_END)
    if got < wanted:
        raise SourceDefect(f"the file has {got} bytes, but its header declares {wanted}")
    plain.seek(0)
    return _kind(start).from_stream(plain)


def _kind(plain: bytes) -> type[nibabel.Nifti1Image]:
    kind: type[nibabel.Nifti1Image] = (
        nibabel.Nifti2Image if NIFTI2_HEADER in (plain[:4], plain[3::-1]) else nibabel.Nifti1Image
    )
    return kind


def _header(start: bytes) -> nibabel.Nifti1Header:
    """The header without its extensions, which may be longer than what has been read so far."""
    kind = _kind(start).header_class
    return kind(start[: kind.template_dtype.itemsize], check=False)


def _declared_bytes(start: bytes) -> int:
    header = _header(start)
    shape = [int(extent) for extent in header.get_data_shape()]
    if min(shape, default=0) < 1:
        raise SourceDefect(f"the NIfTI has shape {shape}")
    return int(int(header.get_data_offset()) + math.prod(shape) * header.get_data_dtype().itemsize)


def _decompressed(contents: bytes) -> BytesIO:
    """All of it, from its beginning; gzip's checksum finds damage that leaves the length as it was.

    Inflated into the one buffer that is read from: in pieces that are joined it would be in memory twice.
    """
    plain = BytesIO()
    with gzip.GzipFile(fileobj=BytesIO(contents)) as stream:
        part = stream.read(READ_AT_ONCE)
        wanted, got = _declared_bytes(part), 0
        if wanted > LARGEST_FILE:
            raise SourceDefect(f"its header declares {wanted} bytes; wanted at most {LARGEST_FILE}")
        if wanted > DEFLATE_RATIO * len(contents):
            raise SourceDefect(
                f"its header declares {wanted} bytes, more than {len(contents)} compressed ones can hold"
            )
        while part:
            got += plain.write(part)
            if got > wanted + BEHIND_VOXELS:
                raise SourceDefect(f"it swells beyond the {wanted} bytes that its header declares")
            part = stream.read(READ_AT_ONCE)
    plain.seek(0)
    return plain


def decode_nifti(file: SourceFile) -> tuple[hd.Volume, np.ndarray | None]:
    """Read a 3D NIfTI in LPS millimetres, in the file's own axis order.

    Returns
    -------
    (highdicom.Volume, (4, 4) or None)
        (i, j, k) of the file; int16 where the stored values are whole numbers in that range, else float32. And the LPS
        affine of its tilted slices, where the gantry was tilted.

    Raises
    ------
    SeriesError
        `unreadable` for a truncated, damaged or foreign file, `not-3d` for more than one volume, `no-geometry` where
        the file says nothing, or two different things, of how the patient lies.
    """
    [(_, contents)] = read_all([file])
    try:
        image = _image(contents)
        if len(image.shape) < 3 or any(extent != 1 for extent in image.shape[3:]):
            raise SeriesError("not-3d", f"the NIfTI has shape {image.shape}; wanted one 3D volume")
        if image.get_data_dtype().kind not in "iuf":
            what = "colours" if image.get_data_dtype().fields else "complex numbers"
            raise SeriesError("not-hounsfield", f"the NIfTI holds {what}; wanted Hounsfield units (air -1000, water 0)")
        array = _voxels(image)
        affine, tilted = _affine(image.header, image.affine, image.shape)
        volume = hd.Volume(array, affine, "PATIENT", from_reference_convention="RAS")
        return volume, None if tilted is None else RAS_OF_LPS @ tilted
    except SeriesError:
        raise
    except Exception as error:  # a damaged file raises what the damage hits
        raise SeriesError("unreadable", f"the NIfTI cannot be read: {why(error)}") from error


def _voxels(image: nibabel.Nifti1Image) -> np.ndarray:
    """The voxels as `compact` has them, slice by slice: scaled ones are float64 in between, and took 22 bytes each."""
    voxels, shape, further = image.dataobj, image.shape[:3], (0,) * (len(image.shape) - 3)
    if _holds_whole(voxels.dtype, voxels.slope, voxels.inter):
        whole: np.ndarray = np.asanyarray(voxels).astype(np.int16, copy=False).reshape(shape, order="F")
        return whole
    found = np.empty(shape, np.float32, order="F")
    fits = True
    for index in range(shape[2]):
        one = compact(np.asanyarray(voxels[:, :, index, *further]))
        found[..., index] = one
        fits &= one.dtype == np.int16
    return found.astype(np.int16) if fits else found


def _holds_whole(stored: np.dtype, slope: float | None, intercept: float | None) -> bool:
    """Whether every value that the file can hold is an int16."""
    return slope in (None, 1) and intercept in (None, 0) and np.can_cast(stored, np.int16)


def _affine(
    header: nibabel.Nifti1Header, affine: np.ndarray, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray | None]:
    """The affine (RAS) as `straight_affine` has it."""
    if not (header["sform_code"] or header["qform_code"]):
        raise SeriesError("no-geometry", "the NIfTI has neither sform nor qform: left and right are unknown")
    affine = np.array(affine, float)
    if header["sform_code"] and header["qform_code"]:
        corners = np.array([[0, 0, 0, 1], [*np.array(shape[:3]) - 1, 1]]).T
        apart = np.abs(header.get_sform() @ corners - header.get_qform() @ corners)[:3].max()
        if apart > max(header.get_zooms()[:3]):
            raise SeriesError(
                "no-geometry", f"sform and qform of the NIfTI disagree by {apart:.0f} mm; wanted one position"
            )
    return straight_affine(affine, "NIfTI")


def straight_affine(affine: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray | None]:
    """An affine with its axes made exactly perpendicular, since headers round; and as it is, where tilted.

    Parameters
    ----------
    affine : (4, 4) float
        Index to mm, LPS or RAS.
    what : str
        The kind of file, for messages.

    Raises
    ------
    SeriesError
        `no-geometry` where voxels have no size, one no scanner makes, or sheared edges; `gantry-tilt` beyond what a
        gantry tilts.
    """
    affine = affine.copy()
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.all(np.isfinite(affine)) or spacing.min() <= 0:
        raise SeriesError("no-geometry", f"the {what}'s affine is singular: its voxels have no size")
    if spacing.min() < PIXEL_MM[0] or spacing.max() > LONGEST_MM:
        sizes = " x ".join(f"{mm:g}" for mm in spacing)
        raise SeriesError(
            "no-geometry", f"the {what}'s voxels have {sizes} mm; wanted {PIXEL_MM[0]:g} to {LONGEST_MM:g} mm"
        )
    cosines = affine[:3, :3] / spacing
    u, _, v = np.linalg.svd(cosines)
    if np.abs(u @ v - cosines).max() <= SHEAR_TOLERANCE:
        affine[:3, :3] = (u @ v) * spacing
        return affine, None
    return _straightened(affine, what), affine


def _straightened(affine: np.ndarray, what: str) -> np.ndarray:
    """A tilted gantry's affine with its slices pushed straight along their normal: the same voxel volume.

    The last axis is taken for that of the slices, where the other two are perpendicular, as converters write it.
    """
    cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    for axis in (2, 1, 0):
        one, other = (cosines[:, k] for k in range(3) if k != axis)
        if abs(one @ other) > SHEAR_TOLERANCE:
            continue
        normal = np.cross(one, other)
        normal /= np.linalg.norm(normal)
        tilt = np.degrees(np.arccos(np.clip(abs(cosines[:, axis] @ normal), 0, 1)))
        if tilt > TILT_REFUSED_DEGREES:
            raise SeriesError(
                "gantry-tilt", f"the {what}'s affine is sheared by {tilt:.1f}°, more than a gantry can tilt"
            )
        straight = affine.copy()
        straight[:3, axis] = normal * (affine[:3, axis] @ normal)
        return straight
    raise SeriesError("no-geometry", f"the {what}'s axes are sheared against each other; wanted perpendicular rows")


def write_dicom_grid(scan: Scan, volume: hd.Volume, path: Path, description: str = "") -> None:
    """Write a volume on the grid of a DICOM series as other programs do: columns, rows, slices."""
    order = [2, 1, 0]
    write_nifti(volume.permute_spatial_axes(order), path, scan.affine[:, [*order, 3]], description)


def write_nifti(volume: hd.Volume, path: Path, affine: np.ndarray | None = None, description: str = "") -> None:
    """Write a volume as NIfTI in its own axis order.

    Parameters
    ----------
    affine : (4, 4), optional
        Index to LPS mm, where the slices of a tilted gantry lie askew. It becomes the sform; a qform cannot hold that
        and is marked as unknown. Default: the volume's own, as both sform and qform (scanner coordinates).
    description : str
        For the header's `descrip`, up to 80 bytes. Nothing of the patient belongs there.
    """
    nibabel.save(_described(volume, affine, description), path)


def write_mask(scan: Scan, mask: Slices | Labels, path: Path, dicom_grid: bool, description: str = "") -> None:
    """Write a mask in working orientation as .nii.gz in the order of the source, in the memory of a few slices.

    Parameters
    ----------
    dicom_grid : bool
        In the order of columns, rows and slices, as `write_dicom_grid`; else in the axis order of the source.
    description : str
        As `write_nifti` has it.
    """
    # One byte in place of each voxel's: the image is only asked for its header.
    nothing = scan.volume.with_array(np.broadcast_to(np.uint8(0), scan.volume.shape))
    order = [2, 1, 0] if dicom_grid else [0, 1, 2]
    image = _described(nothing.permute_spatial_axes(order), scan.affine[:, [*order, 3]], description)
    header = image.header
    header.set_slope_inter(1, 0)
    header.set_data_offset(HEADER_BYTES)
    with gzip.GzipFile(path, "wb", GZIP_LEVEL, mtime=0) as file:
        file.write(header.binaryblock.ljust(HEADER_BYTES, b"\0"))
        # The first axis of the file runs fastest.
        for plane in scan.planes_of_source(mask.__getitem__, axis=order[2]):
            file.write((plane if dicom_grid else plane.T).tobytes())


def _described(volume: hd.Volume, affine: np.ndarray | None, description: str) -> nibabel.Nifti1Image:
    image = volume.to_nibabel()
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = description.encode()
    if affine is None or np.allclose(affine, volume.affine, atol=1e-4):
        image.set_qform(image.affine, code=1)
        image.set_sform(image.affine, code=1)
    else:
        image.set_sform(RAS_OF_LPS @ affine, code=1)
        image.set_qform(None, code=0)
        image.header.set_zooms(np.linalg.norm(affine[:3, :3], axis=0))
    return image


def read_description(path: Path) -> str:
    """The header's `descrip`; empty for what is no NIfTI."""
    try:
        text: str = nibabel.load(path).header["descrip"].item().decode("utf-8", "replace")
        return text
    except Exception:  # a damaged or foreign file raises what the damage hits
        return ""


def compact(array: np.ndarray) -> np.ndarray:
    """int16 where the values are whole numbers in that range, else float32; air for what is no number."""
    if np.issubdtype(array.dtype, np.floating):
        array = np.nan_to_num(array.astype(np.float32, copy=False), nan=-1024.0, posinf=3071.0, neginf=-1024.0)
        if not np.all(array == np.rint(array)):
            return array
    if array.size and (array.min() < -32768 or array.max() > 32767):
        return array.astype(np.float32)
    return array.astype(np.int16, copy=False)
