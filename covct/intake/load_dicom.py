"""DICOM series to a Scan: decoded slices in Hounsfield units, sorted along the normal."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
from pydicom.tag import Tag
from pydicom.uid import UID

from covct.dicom.header import BY_CONTENTS, HEADER_TAGS, Header, Instance, own_uid, read_header
from covct.dicom.parallel import WORKERS, decode_in_order
from covct.dicom.patient import PATIENT_TAGS, patient_of, text_of
from covct.dicom.pixels import Fragments, frame_index, hounsfield
from covct.dicom.quotable import quoted_uid
from covct.dicom.read import read_dataset
from covct.dicom.syntaxes import is_compressed
from covct.dicom.valid import commas_to_points, is_uid
from covct.disk.archives import LARGEST_FILE
from covct.disk.sources import SourceFile, read_all, sizes
from covct.errors import SeriesError, why
from covct.intake.discover import Series
from covct.intake.gate import check_people
from covct.intake.gate_rules import TILT_WARNED_DEGREES
from covct.intake.grid import Grid, grid_of
from covct.voxels.volume import Scan

# Of a file with one slice; 4096 x 4096 pixels have half of it. Some are in memory at once.
MEASURING_TAGS = tuple(Tag(keyword) for keyword in HEADER_TAGS)
LARGEST_SLICE = 64 * 1024**2
BYTES_A_PIXEL = 2  # at most, of those that are read


def load_dicom(series: Series) -> Scan:
    """Read every slice of a series that passed the gate.

    Raises
    ------
    SeriesError
        `unreadable`, naming the file that is truncated or cannot be decoded: a slice is never silently dropped.
        `conflicting-files`, where a file that came twice says two different things.
        `mixed-patients`, `uid-per-slice`: also of a series that did not go through the gate.
    """
    check_people(series)
    grid = grid_of(series)
    ordered = list(grid.ordered)
    array, headers, digests = _read_slices(ordered, keep_digests=bool(series.twins))
    _check_twins(series, ordered, array, digests)
    return _scan(grid, array, headers)


def load_headers(series: Series) -> Scan:
    """As `load_dicom`, but no pixel is decoded: its volume is 0 HU throughout, and takes no memory.

    For whoever knows that the files are those that were read before.

    Raises
    ------
    SeriesError
        As `load_dicom`, of what headers tell.
    """
    check_people(series)
    grid = grid_of(series)
    ordered = list(grid.ordered)
    of_files = ordered[:1] if ordered[0].frame else ordered
    largest = LARGEST_FILE if ordered[0].frame else LARGEST_SLICE
    headers = []
    for instance, (file, contents) in zip(of_files, _read(of_files, largest), strict=True):
        headers.append(_dataset(file, contents, instance))
        headers[-1].pop("PixelData", None)
    nothing: np.ndarray = np.broadcast_to(np.zeros((), hu_type(ordered)), (len(ordered), *ordered[0].shape))
    return _scan(grid, nothing, _checked(headers, ordered))


def _scan(grid: Grid, array: np.ndarray, headers: tuple[pydicom.Dataset, ...]) -> Scan:
    ordered = grid.ordered
    affine = np.eye(4)
    affine[:3, 0] = step = grid.step if len(ordered) > 1 else grid.normal * _thickness(ordered[0])
    affine[:3, 1] = grid.column * grid.spacing[0]  # moving down the rows follows the column cosines
    affine[:3, 2] = grid.row * grid.spacing[1]
    affine[:3, 3] = grid.origin
    straight = affine.copy()
    straight[:3, 0] = grid.normal * float(step @ grid.normal)
    frame_of_reference = ordered[0].frame_of_reference_uid
    if not is_uid(frame_of_reference):
        frame_of_reference = None
    volume = hd.Volume(array, straight, "PATIENT", frame_of_reference_uid=frame_of_reference)
    return Scan(
        volume,
        headers,
        transfer_syntaxes=tuple(sorted({UID(i.transfer_syntax_uid).name for i in ordered if i.transfer_syntax_uid})),
        frames=tuple(i.frame for i in ordered if i.frame),
        tilted_affine=affine if grid.tilt_degrees > TILT_WARNED_DEGREES else None,
    )


def bytes_beside(series: Series) -> float:
    """What is held beside the Hounsfield units while they are read, bytes, by the files' sizes alone.

    A multi-frame file is in memory whole, twice while it is parsed. Of single slices a few are; and all headers are
    kept, so that what follows the pixels counts, whatever it is.

    Raises
    ------
    SeriesError
        `unreadable`, naming a file that went away.
    """
    first = series.instances[0]
    most = LARGEST_FILE if first.frame else LARGEST_SLICE  # beyond it a file is refused when it is read
    found = [min(size, most) for size in sizes(dict.fromkeys(one.file for one in series.instances))]
    voxels = float(np.prod(first.shape, dtype=float))
    if first.frame:
        hu = len(series.instances) * voxels * np.dtype(hu_type(series.instances)).itemsize
        return max(2 * sum(found) - hu, float(sum(found)))
    at_once = 2 * (WORKERS + 2) * max(found)
    return at_once + sum(max(0.0, size - BYTES_A_PIXEL * voxels) for size in found)


THICKNESS_MM = (0.1, 100.0)  # of a single slice; what no scanner makes is as good as missing


@dataclass(frozen=True)
class _Slice:
    """One decoded slice: HU (rows, columns), its header without pixels, and a digest of its file."""

    instance: Instance
    hu: np.ndarray
    header: pydicom.Dataset
    digest: bytes


def _read_slices(
    ordered: list[Instance], keep_digests: bool
) -> tuple[np.ndarray, tuple[pydicom.Dataset, ...], dict[str, bytes]]:
    """(slices, rows, columns) HU; headers without pixels; and a digest of each file by SOP Instance UID."""
    array: np.ndarray | None = None
    headers: list[pydicom.Dataset] = []
    digests: dict[str, bytes] = {}
    for index, one in enumerate(_decoded(ordered, keep_digests)):
        hu, instance = one.hu, one.instance
        if array is None:
            array = np.empty((len(ordered), *hu.shape), hu_type(ordered))
        if hu.shape != array.shape[1:] or hu.shape != instance.shape:
            raise _wrong(instance, f"has {hu.shape} pixels, but its header declared {instance.shape}")
        if hu.dtype != array.dtype and array.dtype != np.float32:
            array = array.astype(np.float32)
        array[index] = hu
        digests[instance.sop_instance_uid] = one.digest
        if not headers or not instance.frame:
            headers.append(one.header)
    assert array is not None
    for header in headers:
        header.pop("PixelData", None)
    return array, _checked(headers, ordered), digests


def _checked(headers: list[pydicom.Dataset], ordered: list[Instance]) -> tuple[pydicom.Dataset, ...]:
    """Headers of one study and series, all of which say whose they are."""
    for header, instance in zip(headers, ordered, strict=False):  # one header for all frames of one file
        _check_identity(header, headers[0], instance)
    _say_whose(headers)
    return tuple(headers)


def _say_whose(headers: list[pydicom.Dataset]) -> None:
    """What slices of one person leave empty of him, the most telling of them says: objects take it from the first."""
    namings = [patient_of(header.get) for header in headers]
    if len(set(namings)) < 2:
        return
    telling = headers[max(range(len(headers)), key=lambda index: namings[index].telling)]
    for header, naming in zip(headers, namings, strict=True):
        for keyword, silent in zip(PATIENT_TAGS, astuple(naming), strict=True):
            if not silent and (value := text_of(telling.get, keyword)):
                setattr(header, keyword, value)


def _check_identity(header: pydicom.Dataset, first: pydicom.Dataset, instance: Instance) -> None:
    """A damaged file may name its study twice: the first name, by which it was found, need not be the last."""
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID"):
        if header.get(keyword) != first.get(keyword):
            raise _wrong(instance, f"has two values of {keyword}; wanted one for all slices")


def hu_type(instances: Iterable[Instance]) -> type:
    """int16, or float32 where a slice's rescale gives fractions of a HU."""
    rescales = (instance.rescale for instance in instances if instance.rescale)
    return np.int16 if all(number.is_integer() for rescale in rescales for number in rescale) else np.float32


def _decoded(ordered: list[Instance], keep_digests: bool) -> Iterator[_Slice]:
    """Each slice in order; compressed ones are decoded side by side. A multi-frame file is read once."""
    workers = WORKERS if any(is_compressed(i.transfer_syntax_uid) for i in ordered) else 1
    if ordered[0].frame:
        [(file, contents)] = _read(ordered[:1])
        digest = hashlib.sha256(contents).digest() if keep_digests else b""
        dataset = _dataset(file, contents, ordered[0])
        del contents
        index = _frame_index(dataset, ordered[0], file)
        yield from decode_in_order(
            ordered, lambda instance: _Slice(instance, _hounsfield(dataset, instance, index), dataset, digest), workers
        )
        return

    def decode(item: tuple[Instance, tuple[SourceFile, bytes]]) -> _Slice:
        instance, (file, contents) = item
        dataset = _dataset(file, contents, instance)
        hu = _hounsfield(dataset, instance)
        dataset.pop("PixelData", None)
        return _Slice(instance, hu, dataset, hashlib.sha256(contents).digest() if keep_digests else b"")

    files = _read(ordered, LARGEST_SLICE)
    yield from decode_in_order(zip(ordered, files, strict=True), decode, workers)


def _read(ordered: list[Instance], largest: int = LARGEST_FILE) -> Iterator[tuple[SourceFile, bytes]]:
    files = read_all((i.file for i in ordered), largest=largest)
    for instance in ordered:
        try:
            yield next(files)
        except SeriesError as error:
            raise _wrong(instance, f"is unreadable: {error.message}") from error


def _dataset(file: SourceFile, contents: bytes, instance: Instance) -> pydicom.Dataset:
    try:
        dataset = read_dataset(contents)
        commas_to_points(dataset, MEASURING_TAGS)
        uid = own_uid(dataset) or f"{BY_CONTENTS}{hashlib.sha256(contents).hexdigest()}"
    except Exception as error:  # a damaged file raises what the damage hits
        raise _wrong(instance, f"cannot be decoded ({why(error)}); wanted a whole slice", file) from error
    if uid != instance.sop_instance_uid:
        raise _wrong(instance, "changed while it was being read", file)
    return dataset


def _frame_index(dataset: pydicom.Dataset, instance: Instance, file: SourceFile) -> list[Fragments]:
    try:
        return frame_index(dataset)
    except Exception as error:
        raise _wrong(instance, f"cannot be decoded ({why(error)}); wanted a whole slice", file) from error


def _hounsfield(dataset: pydicom.Dataset, instance: Instance, index: list[Fragments] | None = None) -> np.ndarray:
    try:
        return hounsfield(dataset, instance.frame, instance.rescale if instance.frame else None, index)
    except Exception as error:  # decoders raise all kinds of errors on damaged pixels
        raise _wrong(instance, f"cannot be decoded ({why(error)}); wanted a whole slice") from error


def _check_twins(series: Series, ordered: list[Instance], array: np.ndarray, digests: dict[str, bytes]) -> None:
    """Files that came twice must say the same: the bytes, or at least pixels and place (one may be compressed)."""
    index_of = {(i.sop_instance_uid, i.frame): index for index, i in enumerate(ordered)}
    for file, contents in read_all(series.twins, largest=LARGEST_FILE if ordered[0].frame else LARGEST_SLICE):
        header = read_header(file)
        if (
            not isinstance(header, Header)
            or digests.get(header.instances[0].sop_instance_uid) == hashlib.sha256(contents).digest()
        ):
            continue
        dataset, fragments = None, None
        for instance in header.instances:
            index = index_of.get((instance.sop_instance_uid, instance.frame))
            if index is None:
                continue  # of another scan of the series
            if dataset is None:
                dataset = _dataset(file, contents, instance)
                fragments = _frame_index(dataset, instance, file)
            hu = _hounsfield(dataset, instance, fragments)
            if not np.array_equal(hu, array[index]) or _place(instance) != _place(ordered[index]):
                raise SeriesError(
                    "conflicting-files",
                    f"two files of instance {quoted_uid(instance.sop_instance_uid)} contain different slices",
                    f"{file.label}, {ordered[index].file.label}",
                )


def _place(instance: Instance) -> tuple[Any, ...]:
    return instance.position, instance.orientation, instance.pixel_spacing


def _thickness(only: Instance) -> float:
    """How far a single slice reaches, mm."""
    thickness = only.thickness or 1.0
    return thickness if THICKNESS_MM[0] <= thickness <= THICKNESS_MM[1] else 1.0


def _wrong(instance: Instance, what: str, file: SourceFile | None = None) -> SeriesError:
    """`unreadable`, with the slice named by its UID, or by its contents where it has none: the result names no file."""
    uid = instance.sop_instance_uid
    named = uid if uid.startswith(BY_CONTENTS) else quoted_uid(uid)
    return SeriesError("unreadable", f"instance {named} {what}", (file or instance.file).label)
