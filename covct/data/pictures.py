"""Pictures of slices and of masks, read by one rule each and turned so that the patient's front is up."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from covct.data.cases import CaseError

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
ANTERIOR = ("up", "down", "left", "right")
QUARTER_TURNS = {"up": 0, "down": 2, "left": 3, "right": 1}  # against the clock, until the front is up
HU_OFFSET, UNKNOWN_HU, HIGHEST_HU = 1024, 65535, 4095  # of pictures of 16 bits
MASK_GREY = 127  # above it a picture of a mask is white, whatever its compression did at the edges
CLASS_COLOURS_BGR = {(0, 0, 128): 1, (0, 128, 0): 2, (128, 0, 0): 3}  # of medicalsegmentation.com


def read_grey(path: Path) -> np.ndarray:
    """A grey picture of 8 bits, (rows, columns) uint8.

    Raises
    ------
    CaseError
        `unreadable`, also for a coloured picture; `unknown-domain` where it has other bits a pixel than 8.
    """
    image = _stored(path)
    if image.dtype != np.uint8:
        bits = 8 * image.itemsize
        raise CaseError("unknown-domain", f"{path}: {bits} bits a pixel, wanted 8: these may be Hounsfield units")
    if image.ndim == 3:
        if (image[..., :3] != image[..., :1]).any():
            raise CaseError("unreadable", f"{path}: a coloured picture, wanted grey")
        image = image[..., 0]
    return image


def read_hounsfield(path: Path) -> np.ndarray:
    """A picture of 16 bits, (rows, columns) uint16: HU + `HU_OFFSET`, or `UNKNOWN_HU`.

    Raises
    ------
    CaseError
        `unreadable`, or `unknown-domain` where it has other bits or values.
    """
    image = _stored(path)
    wanted = f"wanted 16 bits of HU + {HU_OFFSET}, {UNKNOWN_HU} where it is not known"
    if image.dtype != np.uint16 or image.ndim != 2:
        raise CaseError("unknown-domain", f"{path}: {8 * image.itemsize} bits a pixel, {image.ndim} axes; {wanted}")
    known = image[image != UNKNOWN_HU]
    if known.size and known.max() > HIGHEST_HU + HU_OFFSET:
        raise CaseError("unknown-domain", f"{path}: values up to {known.max()}; {wanted}")
    return image


def read_classes(path: Path) -> np.ndarray:
    """1 ground glass (dark red), 2 consolidation (dark green), 3 effusion (dark blue); or these numbers in grey.

    (rows, columns) uint8.

    Raises
    ------
    CaseError
        `unreadable`, or `unexpected-labels` for any other colour or number.
    """
    image = _stored(path)
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


def _stored(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise CaseError("unreadable", f"{path}: not a readable picture")
    picture: np.ndarray = image
    return picture


def marked_pixels(picture: np.ndarray, path: Path) -> np.ndarray:
    """Which pixels a picture of a mask marks, bool: the white ones, or where it holds nothing above 1, those of 1.

    Raises
    ------
    CaseError
        `unexpected-labels`: its highest value is neither, so it holds labels that nobody explains.
    """
    highest = int(picture.max(initial=0))
    if 1 < highest <= MASK_GREY:
        raise CaseError(
            "unexpected-labels", f"{path}: a mask with values up to {highest}; wanted 0 and 255, or 0 and 1"
        )
    return picture > (MASK_GREY if highest > 1 else 0)


def read_stack(
    paths: tuple[Path, ...], read: Callable[[Path], np.ndarray] = read_grey, like: tuple[int, ...] | None = None
) -> np.ndarray:
    """Pictures of one size as (slices, rows, columns), as stored.

    Parameters
    ----------
    read : function (Path) -> (rows, columns) array
    like : (slices, rows, columns), optional
        Of the images that these are masks of; else all must be as the first.

    Raises
    ------
    CaseError
        As `read`, and `other-shape`; the file is named.
    """
    out: list[np.ndarray] = []
    for path in paths:
        out.append(read(path))
        wanted = out[0].shape if like is None else like[1:]
        if out[-1].shape != wanted:
            whose = f"{paths[0].name} has" if like is None else "its picture has"
            advice = " (--each makes every picture a volume of its own)" if like is None else ""
            raise CaseError("other-shape", f"{path}: {_size(out[-1].shape)} pixels, {whose} {_size(wanted)}{advice}")
    return np.stack(out)


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(str(extent) for extent in shape)


def upright(images: np.ndarray, anterior: str, mirrored: bool = False) -> np.ndarray:
    """(slices, rows, columns) with the patient's front up.

    Parameters
    ----------
    anterior : str
        Where it is in the pictures, one of `ANTERIOR`: they are turned.
    mirrored : bool
        Their rows run the other way: they are flipped.
    """
    images = np.rot90(images, QUARTER_TURNS[anterior], axes=(1, 2))
    return images[:, ::-1] if mirrored else images


def sorted_pictures(folder: Path) -> tuple[Path, ...]:
    """Pictures of a folder in the order a person would count them: 2 before 10."""

    def key(path: Path) -> list[tuple[bool, int, str]]:
        parts = re.split(r"(\d+)", path.name)
        return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]

    return tuple(sorted((path for path in folder.iterdir() if path.is_file() and is_picture(path)), key=key))


def numbered_pictures(folder: Path) -> dict[int, Path]:
    """The pictures of a folder by the numbers that are their names; none where there is no such folder."""
    pictures = sorted_pictures(folder) if folder.is_dir() else ()
    return {int(path.stem): path for path in pictures if path.stem.isdecimal()}


def is_picture(path: Path) -> bool:
    return path.name.lower().endswith(PICTURES) and not path.name.startswith(".")
