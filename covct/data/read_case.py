"""Labelled cases from disk to memory: images with their masks, checked to belong together, anterior up."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import highdicom as hd
import numpy as np

from covct.data.cases import Case, CaseError, Labelled
from covct.data.dicom_cases import read_series
from covct.data.domains import HU, detect_domain
from covct.errors import SeriesError
from covct.intake.volume_file import read_volume
from covct.voxels.volume import LARGEST_OFFSET, WORKING_ORIENTATION, voxels_apart

CLASS_COLOURS_BGR = {(0, 0, 128): 1, (0, 128, 0): 2, (128, 0, 0): 3}  # of medicalsegmentation.com


def read_case(case: Case) -> Labelled:
    """Read a case and its masks, and check that they belong together.

    Raises
    ------
    CaseError
        Slugs `unreadable`, `constant`, `other-shape`, `other-geometry`, `unexpected-labels`, `unknown-domain`,
        `other-domain`, or one of the gate's for DICOM. The message names the file, what was got, what was wanted.
    """
    if case.layout == "dicom":
        read = read_series(case)
    elif case.layout in ("slices", "medseg"):
        read = _read_pictures(case)
    else:
        read = _read_volume(case)
    pixels, masks, spacing, orientation = read
    low, high = np.min(pixels), np.max(pixels)
    if low == high:
        raise CaseError("constant", f"{_where(case)}: every pixel is {low:g}; wanted an image")
    domain, told_by = _domain(case, pixels)
    lungs, infection, classes = masks.get("lungs"), masks.get("infection"), masks.get("classes")
    if lungs is not None:
        sides = bool((lungs == 2).any())
        lungs = _sided(lungs) if sides else lungs
    return Labelled(
        case, pixels, domain, told_by, lungs, lungs is not None and sides, infection, classes, spacing, orientation
    )


def _where(case: Case) -> str:
    """The file that a message is about."""
    if case.series:
        return f"series {case.name}"
    return str(case.images[0]) if len(case.images) == 1 else f"{case.images[0].parent} ({case.name})"


def _domain(case: Case, pixels: np.ndarray) -> tuple[str, str]:
    if case.domain and case.layout == "dicom":
        return case.domain, "DICOM rescale"
    seen, reason = detect_domain(pixels)
    if not case.domain:
        if not seen:
            raise CaseError("unknown-domain", f"{_where(case)}: {reason}")
        return seen, f"detected: {reason}"
    # Among 8-bit domains the histogram of few slices is no proof; between HU and grey there is no doubt.
    if seen and (seen == HU) != (case.domain == HU):
        raise CaseError("other-domain", f"{_where(case)}: declared {case.domain}, but it looks like {seen} ({reason})")
    return case.domain, "declared"


def _read_volume(case: Case):
    image = _read(case.images[0])
    masks: dict[str, np.ndarray] = {}
    for kind, (path,) in case.masks.items():
        if kind == "both" and {"lungs", "infection"} <= case.masks.keys():
            continue  # it says the same again, without the side of what is infected
        array = _on_grid(image, _read(path), path, case)
        masks = (
            {**_by_label(kind, array, path), **masks} if kind == "both" else {**masks, **_by_label(kind, array, path)}
        )
    volume = image.to_patient_orientation(WORKING_ORIENTATION)
    spacing = (float(volume.spacing[0]), float(volume.spacing[1]), float(volume.spacing[2]))
    codes = "".join(str(code.value) for code in image.get_closest_patient_orientation())
    return volume.array, masks, spacing, codes


def _on_grid(image: hd.Volume, mask: hd.Volume, path: Path, case: Case) -> np.ndarray:
    """(slices, rows, columns) of a mask where its affine puts them, whatever order of voxels a converter left.

    The affine is passed over only where cases.csv says so, and then both must be stored in one order.
    """
    name = case.images[0].name
    if case.by_index:
        if mask.shape != image.shape:
            raise CaseError("other-shape", f"{path}: shape {mask.shape}, its image {name} {image.shape}")
        return image.with_array(mask.array).to_patient_orientation(WORKING_ORIENTATION).array
    one_order = mask.get_closest_patient_orientation() == image.get_closest_patient_orientation()
    image, mask = (one.to_patient_orientation(WORKING_ORIENTATION) for one in (image, mask))
    if mask.shape != image.shape:
        raise CaseError("other-shape", f"{path}: shape {mask.shape}, its image {name} {image.shape}")
    apart = voxels_apart(image, mask)
    if apart > LARGEST_OFFSET:
        # Not where the voxels lie in another order: by index the mask would be a mirrored one.
        advice = " (cases.csv: geometry by-index, if only the header is wrong)" if one_order else ""
        raise CaseError(
            "other-geometry",
            f"{path}: its voxels lie up to {apart:.1f} voxels from those of {name}; wanted one grid{advice}",
        )
    return mask.array


def _read(path: Path) -> hd.Volume:
    try:
        return read_volume(path)
    except SeriesError as error:
        raise CaseError("unreadable", f"{path}: {error.message}") from error


def _by_label(kind: str, array: np.ndarray, path: Path) -> dict[str, np.ndarray]:
    """A stored mask as the masks it holds, uint8. Raises CaseError for values outside the expected set."""
    values = _values(array)
    allowed = {"lungs": {0, 1, 2}, "infection": {0, 1, 2, 3}, "both": {0, 1, 2, 3}, "classes": {0, 1, 2, 3}}[kind]
    if set(values.tolist()) <= {0, 255}:  # as pictures store yes and no
        array = array > 0
    elif not set(values.tolist()) <= allowed:
        odd = ", ".join(f"{value:g}" for value in values if value not in allowed)
        raise CaseError(
            "unexpected-labels", f"{path}: values {odd[:80]}; wanted {', '.join(map(str, sorted(allowed)))} for {kind}"
        )
    array = array.astype(np.uint8)
    if kind == "lungs":
        return {"lungs": array}
    if kind == "both":  # infection lies in a lung, whose side is then not told
        return {"lungs": (array > 0).astype(np.uint8), "infection": (array == 3).astype(np.uint8)}
    if kind == "classes" or array.max() > 1:
        return {"infection": ((array == 1) | (array == 2)).astype(np.uint8), "classes": array}
    return {"infection": array}


def _values(array: np.ndarray) -> np.ndarray:
    """The distinct values, without sorting all of them where they are small whole numbers."""
    if array.dtype.kind in "iu" and array.min() >= 0 and array.max() <= 255:
        return np.flatnonzero(np.bincount(array.ravel(), minlength=256))
    return np.unique(array)


def _sided(lungs: np.ndarray) -> np.ndarray:
    """1 the patient's right lung, 2 the left, by where they lie: publishers number them either way."""
    columns = [
        float(np.mean(np.flatnonzero((lungs == value).any((0, 1))))) for value in (1, 2) if (lungs == value).any()
    ]
    return lungs if len(columns) < 2 or columns[0] <= columns[1] else np.array([0, 2, 1], np.uint8)[lungs]


def _read_pictures(case: Case):
    grey = [_picture(path) for path in case.images]
    shapes = Counter(one.shape for one in grey)
    if len(shapes) > 1:
        odd = next(path for path, one in zip(case.images, grey, strict=True) if one.shape != grey[0].shape)
        raise CaseError("other-shape", f"{odd}: another size than {case.images[0].name}; got {dict(shapes)}")
    masks: dict[str, np.ndarray] = {}
    for kind, paths in case.masks.items():
        read = []
        for path, image in zip(paths, grey, strict=True):
            mask = class_picture(path) if kind == "classes" else _picture(path)
            if mask.shape != image.shape:
                raise CaseError("other-shape", f"{path}: shape {mask.shape}, its image {image.shape}")
            read.append(next(iter(_by_label(kind, mask, path).values())) if kind != "classes" else mask)
        masks[kind] = _turned(np.stack(read), case.anterior)
    return _turned(np.stack(grey), case.anterior), masks, None, f"anterior {case.anterior}"


def _turned(images: np.ndarray, anterior: str) -> np.ndarray:
    """(slices, rows, columns) with the front of the patient up."""
    if anterior == "left":
        return np.rot90(images, -1, axes=(1, 2))
    return images[:, ::-1] if anterior == "down" else images


def _picture(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise CaseError("unreadable", f"{path}: not a readable image")
    if image.dtype != np.uint8:
        raise CaseError("unknown-domain", f"{path}: {8 * image.itemsize} bits a pixel; wanted 8")
    if image.ndim == 3:
        if image.shape[2] != 3 or (image != image[..., :1]).any():
            raise CaseError("unreadable", f"{path}: a coloured picture; wanted grey")
        image = image[..., 0]
    return image


def class_picture(path: Path) -> np.ndarray:
    """1 ground glass (dark red), 2 consolidation (dark green), 3 effusion (dark blue); or these numbers in grey."""
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise CaseError("unreadable", f"{path}: not a readable image")
    if image.ndim == 2:
        if image.max() > 3:
            raise CaseError("unexpected-labels", f"{path}: values up to {image.max()}; wanted 0, 1, 2, 3")
        return image
    image = image[..., :3]
    out = np.zeros(image.shape[:2], np.uint8)
    for colour, value in CLASS_COLOURS_BGR.items():
        out[(image == colour).all(-1)] = value
    if ((out == 0) & image.any(-1)).any():
        odd = image[(out == 0) & image.any(-1)][0][::-1].tolist()
        raise CaseError("unexpected-labels", f"{path}: colour {odd}; wanted dark red, green or blue of 128")
    return out
