"""Labelled cases from disk to memory: images with their masks, checked to belong together, anterior up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import highdicom as hd
import numpy as np

from covct.data.cases import Case, CaseError, Labelled
from covct.data.dicom_cases import read_segments, read_series
from covct.data.domains import HU, TISSUE_HU, detect_domain
from covct.data.grids import difference
from covct.data.labels import PLAIN, explained, masks_in, sided
from covct.data.pictures import (
    HU_OFFSET,
    UNKNOWN_HU,
    marked_pixels,
    read_classes,
    read_grey,
    read_hounsfield,
    read_stack,
    upright,
)
from covct.dicom.seg_masks import LabelNames
from covct.errors import SeriesError
from covct.intake.volume_file import read_volume
from covct.voxels.volume import WORKING_ORIENTATION, Scan, spacing_mm

Masks = dict[str, np.ndarray]


def read_case(case: Case, labels: LabelNames = PLAIN, any_domain: bool = False) -> Labelled:
    """Read a case and its masks, and check that they belong together.

    Parameters
    ----------
    any_domain : bool
        An image whose intensities do not tell what they are is read too; its domain is empty.
    labels : dict
        By task, what its masks hold where covct does not expect it; from `parse_labels`.

    Raises
    ------
    CaseError
        Slugs `unreadable`, `constant`, `other-shape`, `other-geometry`, `unexpected-labels`, `unknown-domain`,
        `other-domain`, or one of the gate's for DICOM. The message names the file, what was got, what was wanted.
    """
    pixels, scan, orientation = read_image(case)
    low, high = np.min(pixels), np.max(pixels)
    if low == high:
        raise CaseError("constant", f"{case.where}: every pixel is {low:g}; wanted an image")
    domain, told_by = _domain(case, pixels, any_domain)
    masks = read_masks(case, pixels.shape, scan, labels)
    lungs = masks.get("lungs")
    sides = lungs is not None and bool((lungs == 2).any())
    return Labelled(
        case,
        pixels,
        domain,
        told_by,
        sided(lungs) if lungs is not None and sides else lungs,
        sides,
        masks.get("infection"),
        masks.get("classes"),
        spacing_mm(scan.working) if scan else None,
        orientation,
        scan,
        _numbers(case),
        _unknown(case),
    )


def _numbers(case: Case) -> np.ndarray | None:
    """Of slices that are named by number, where there are gaps."""
    numbers = np.array(case.numbers)
    return numbers - numbers[0] if (np.diff(numbers) != 1).any() else None


def _unknown(case: Case) -> np.ndarray | None:
    if case.layout != "slices-hu":
        return None
    unknown = _turned(case, read_stack(case.images, read_hounsfield)) == UNKNOWN_HU
    return unknown if unknown.any() else None


def with_domain(case: Case) -> Case:
    """The case with its domain, told by its intensities where its layout does not declare any.

    An image that cannot be read, or does not tell, says so once it is read with its masks.
    """
    if case.domain:
        return case
    try:
        pixels, _, _ = read_image(case)
    except CaseError:
        return case
    return replace(case, domain=detect_domain(pixels)[0])


def read_image(case: Case) -> tuple[np.ndarray, Scan | None, str]:
    """A case's pixels (slices, rows, columns), the scan that they are of, and how what lies on disk is turned.

    Raises
    ------
    CaseError
        `unreadable`, `other-shape`, `unknown-domain` for pictures of 16 bits, or one of the gate's for DICOM.
    """
    if case.of_pictures:
        pixels = _turned(case, _read_hu(case.images) if case.layout == "slices-hu" else read_stack(case.images))
        return pixels, None, f"anterior {'down' if case.mirrored else case.anterior}"
    scan = read_series(case) if case.series else Scan(_read(case.images[0]))
    codes = "".join(str(code.value) for code in scan.volume.get_closest_patient_orientation())
    return scan.working.array, scan, codes


def _read_hu(paths: tuple[Path, ...]) -> np.ndarray:
    """HU, int16; soft tissue where nobody knows."""
    stored = read_stack(paths, read_hounsfield)
    return np.where(stored == UNKNOWN_HU, TISSUE_HU, stored.astype(np.int32) - HU_OFFSET).astype(np.int16)


def _domain(case: Case, pixels: np.ndarray, any_domain: bool) -> tuple[str, str]:
    if case.domain and case.series:
        return case.domain, "DICOM rescale"
    seen, reason = detect_domain(pixels)
    if not case.domain:
        if not seen and not any_domain:
            raise CaseError("unknown-domain", f"{case.where}: {reason}; declare the domain")
        return seen, f"detected: {reason}"
    # Among 8-bit domains the histogram of few slices is no proof; between HU and grey there is no doubt.
    if seen and (seen == HU) != (case.domain == HU):
        raise CaseError("other-domain", f"{case.where}: declared {case.domain}, but it looks like {seen} ({reason})")
    return case.domain, "declared"


def read_masks(case: Case, shape: tuple[int, ...], scan: Scan | None, labels: LabelNames = PLAIN) -> Masks:
    """A case's masks on its pixels: `lungs` as numbered by its publisher, `infection`, `classes`; uint8.

    Raises
    ------
    CaseError
        `unreadable`, `other-shape`, `other-geometry`, `unexpected-labels`.
    """
    if case.slice_labels:
        return {}
    return _picture_masks(case, shape, labels) if scan is None else _volume_masks(case, scan, labels)


def _volume_masks(case: Case, scan: Scan, labels: LabelNames) -> Masks:
    """Masks in volume files, or in DICOM SEG, on the voxels of the scan in working orientation."""
    if not case.masks:
        return read_segments(case, scan, labels)
    masks: Masks = {}
    for kind, (path,) in case.masks.items():
        if kind == "both" and {"lungs", "infection"} <= case.masks.keys():
            continue  # it says the same again, without the side of what is infected
        found = masks_in(kind, _on_grid(scan.volume, _read(path), path, case), path, labels)
        masks = found | masks if kind == "both" else masks | found
    return masks


def _on_grid(image: hd.Volume, mask: hd.Volume, path: Path, case: Case) -> np.ndarray:
    """(slices, rows, columns) of a mask where its affine puts them, whatever order of voxels a converter left.

    The affine is passed over only where cases.csv says so, and then both must be stored in one order.
    """
    name = case.images[0].name if case.images else case.where
    if case.by_index:
        if mask.shape != image.shape:
            raise CaseError("other-shape", f"{path} (of {name}): {difference(mask, image)}")
        aligned: np.ndarray = image.with_array(mask.array).to_patient_orientation(WORKING_ORIENTATION).array
        return aligned
    one_order = mask.get_closest_patient_orientation() == image.get_closest_patient_orientation()
    image, mask = (one.to_patient_orientation(WORKING_ORIENTATION) for one in (image, mask))
    if mask.shape != image.shape:
        raise CaseError("other-shape", f"{path} (of {name}): {difference(mask, image)}")
    if apart := difference(mask, image):
        # Not where the voxels lie in another order: by index the mask would be a mirrored one.
        advice = " (cases.csv: geometry by-index, if only the header is wrong)" if one_order else ""
        raise CaseError("other-geometry", f"{path} (of {name}): {apart}{advice}")
    array: np.ndarray = mask.array
    return array


def _read(path: Path) -> hd.Volume:
    try:
        return read_volume(path)
    except SeriesError as error:
        raise CaseError("unreadable", f"{path}: {error.message}") from error
    except OSError as error:
        raise CaseError("unreadable", f"{path}: cannot be read ({error.strerror})") from error


def _picture_masks(case: Case, shape: tuple[int, ...], labels: LabelNames) -> Masks:
    masks: Masks = {}
    for kind, paths in case.masks.items():
        read = read_classes if kind == "classes" else partial(_read_mask, kind, labels)
        masks[kind] = _turned(case, read_stack(paths, read, _as_stored(case, shape)))
    if "classes" in masks and "infection" not in masks:
        masks = masks_in("infection", masks["classes"], case.masks["classes"][0], labels) | masks
    return masks


def _read_mask(kind: str, labels: Mapping[str, frozenset[str]], path: Path) -> np.ndarray:
    picture = read_grey(path)
    marked = explained(picture, path, kind, labels) if kind in labels else marked_pixels(picture, path)
    return marked.astype(np.uint8)


def _turned(case: Case, images: np.ndarray) -> np.ndarray:
    return upright(images, case.anterior, case.mirrored)


def _as_stored(case: Case, shape: tuple[int, ...]) -> tuple[int, ...]:
    slices, rows, columns = shape
    return (slices, columns, rows) if case.anterior in ("left", "right") else shape
