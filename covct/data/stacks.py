"""8-bit slices as they are published: pictures or NIfTI files, with the masks beside them where there are any.

| SLICES is | taken as |
|---|---|
| a picture | a volume of one slice |
| a NIfTI file | a volume with its geometry; masks `NAME_lungs`, `NAME_infection` beside `NAME` or `NAME_ct` |
| a folder with `ct/` or `images/`, maybe `lungs/`, `infection/` | a volume a line of `volumes.csv`, else one volume |
| a folder with `Imgs/`, maybe `GT/` (medicalsegmentation.com) | each picture a volume, patients on their side |
| a folder of pictures | one volume in the order of their names, or with `each` every picture one |
| a folder of NIfTI files | a volume each |
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import highdicom as hd
import numpy as np

from covct.data.cases import medseg_patient
from covct.data.domains import marked_pixels
from covct.errors import SeriesError, UsageError
from covct.intake.volume_file import read_volume
from covct.intake.volume_header import FORMATS, format_of, stem_of, volume_beside
from covct.voxels.volume import WORKING_ORIENTATION

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
IMAGE_FOLDERS = ("ct", "images", "Imgs")
MASK_ENDINGS = ("_lungs", "_infection")
MASK_FOLDERS = {"lungs": ("lungs",), "infection": ("infection", "GT")}
ANTERIOR = ("up", "down", "left", "right")
QUARTER_TURNS = {"up": 0, "down": 2, "left": 3, "right": 1}  # against the clock, until the front is up
UNKNOWN_MM = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Source:
    """Where one volume lies: pictures in order, or one NIfTI file; masks likewise by kind ("lungs", "infection").

    `patient` is whose it is, where the layout says so; else empty.
    """

    name: str
    images: tuple[Path, ...]
    masks: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    anterior: str = "up"
    mirrored: bool = False
    patient: str = ""


@dataclass(frozen=True)
class Stack:
    """One volume of grey slices, anterior up.

    Attributes
    ----------
    source : Source
    volume : highdicom.Volume
        As stored (grey values), (slices, rows, columns), LPS millimetres.
    masks : dict of str to (slices, rows, columns) bool
    spacing_known : bool
        Else the volume's spacing is 1 mm for want of a better.
    """

    source: Source
    volume: hd.Volume
    masks: dict[str, np.ndarray]
    spacing_known: bool


def find_stacks(place: Path, anterior: str | None = None, each: bool = False) -> list[Source]:
    """The volumes under a place, by the table above.

    Parameters
    ----------
    anterior : str, optional
        Where the patient's front is in the pictures: one of ANTERIOR. Default: as the layout has it, else up.
    each : bool
        Every picture of a folder is a volume of its own.

    Raises
    ------
    UsageError
        Nothing of the kind is there, or a mask is missing.
    """
    if not place.exists():
        raise UsageError(f"no such file or directory: {place}")
    if place.is_file():
        if not _is(place, PICTURES) and not format_of(place.name):
            raise UsageError(f"{place}: neither a picture ({', '.join(PICTURES)}) nor a NIfTI, MetaImage or NRRD")
        return [_of_volume(place)] if format_of(place.name) else [Source(place.stem, (place,), {}, anterior or "up")]
    for name in IMAGE_FOLDERS:
        if (place / name).is_dir():
            return _of_layout(place, place / name, anterior, each)
    images = [path for path in _sorted(place, tuple(FORMATS)) if not (stem_of(path.name) or "").endswith(MASK_ENDINGS)]
    if images:
        return [_of_volume(path) for path in images]
    pictures = _sorted(place, PICTURES)
    if not pictures:
        raise UsageError(f"{place}: no pictures ({', '.join(PICTURES)}) and no NIfTI, MetaImage or NRRD files")
    whole = Source(place.resolve().name, pictures, {}, anterior or "up")
    return list(_single(whole)) if each else [whole]


def _of_layout(place: Path, folder: Path, anterior: str | None, each: bool) -> list[Source]:
    images = _sorted(folder, PICTURES)
    if not images:
        raise UsageError(f"{folder}: no pictures ({', '.join(PICTURES)})")
    masks = {kind: _masks_of(images, place, names) for kind, names in MASK_FOLDERS.items()}
    on_its_side = folder.name == "Imgs"
    whole = Source(
        place.resolve().name,
        images,
        {kind: paths for kind, paths in masks.items() if paths},
        anterior or ("left" if on_its_side else "up"),
    )
    if (place / "volumes.csv").is_file():
        return _by_table(whole, place / "volumes.csv")
    if on_its_side:
        return [replace(one, patient=medseg_patient(one.images[0].stem)) for one in _single(whole)]
    return list(_single(whole)) if each else [whole]


def _masks_of(images: tuple[Path, ...], place: Path, names: tuple[str, ...]) -> tuple[Path, ...]:
    folder = next((place / name for name in names if (place / name).is_dir()), None)
    if folder is None:
        return ()
    there = {path.stem: path for path in _sorted(folder, PICTURES)}
    if missing := [image.name for image in images if image.stem not in there]:
        raise UsageError(f"{folder}: no mask for {missing[0]} and {len(missing) - 1} other pictures")
    return tuple(there[image.stem] for image in images)


def _by_table(whole: Source, table: Path) -> list[Source]:
    """The volumes of a table with columns first, last, patient_group and anterior; only slices that are there."""
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    out = []
    for row in rows:
        try:
            first, last = int(row["first"]), int(row["last"])
            number = {index: int(path.stem) for index, path in enumerate(whole.images)}
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"{table}: wanted columns first and last, and pictures named by number") from error
        chosen = [index for index, stem in number.items() if first <= stem <= last]
        if not chosen:
            continue
        patient = row.get("patient_group") or "volume"
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,80}", patient):
            raise UsageError(f"{table}: patient_group is {patient!r}, wanted letters, digits and dashes")
        # The table's "down" is a volume whose rows run the other way: mirrored, not turned.
        mirrored = row.get("anterior") == "down"
        out.append(
            replace(
                whole,
                name=f"{patient}-{first:04d}",
                images=tuple(whole.images[index] for index in chosen),
                masks={kind: tuple(paths[index] for index in chosen) for kind, paths in whole.masks.items()},
                mirrored=mirrored,
                patient=patient if row.get("patient_group") else "",
            )
        )
    if not out:
        raise UsageError(f"{table}: none of the pictures beside it is in it")
    return out


def _single(whole: Source) -> Iterator[Source]:
    for index, image in enumerate(whole.images):
        masks: dict[str, tuple[Path, ...]] = {kind: (paths[index],) for kind, paths in whole.masks.items()}
        yield replace(whole, name=f"{whole.name}-{image.stem}", images=(image,), masks=masks)


def _of_volume(path: Path) -> Source:
    name = (stem_of(path.name) or path.name).removesuffix("_ct")
    masks = {kind: volume_beside(path.with_name(f"{name}_{kind}")) for kind in MASK_FOLDERS}
    return Source(name, (path,), {kind: (found,) for kind, found in masks.items() if found})


def read_stack(source: Source, spacing_mm: tuple[float, float, float] | None = None) -> Stack:
    """Read the slices of one volume with their masks.

    Parameters
    ----------
    spacing_mm : (float, float, float), optional
        Of pictures, which have none: between slices, rows and columns.

    Raises
    ------
    UsageError
        A file that cannot be read, or that is not as the others; it is named.
    """
    if format_of(source.images[0].name):
        return _read_volume(source)
    pixels = _pictures(source, source.images)
    masks = {kind: marked_pixels(_pictures(source, paths, pixels), paths[0]) for kind, paths in source.masks.items()}
    pixels, masks = _upright(source, pixels), {kind: _upright(source, mask) for kind, mask in masks.items()}
    slice_mm, row_mm, column_mm = spacing_mm or UNKNOWN_MM
    # Slices from the feet up, as NIfTI stores them; rows to the back, columns to the patient's left.
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = slice_mm, row_mm, column_mm, 1
    return Stack(source, hd.Volume(pixels, affine, "PATIENT"), masks, spacing_mm is not None)


def _read_volume(source: Source) -> Stack:
    volume = _read(source.images[0])
    masks = {}
    for kind, [path] in source.masks.items():
        mask = _read(path)
        if mask.shape != volume.shape or not np.allclose(mask.affine, volume.affine, atol=0.5):
            raise UsageError(f"{path}: shape {mask.shape}, or another place; its image has shape {volume.shape}")
        masks[kind] = mask.array > 0
    return Stack(source, volume, masks, True)


def _read(path: Path) -> hd.Volume:
    try:
        return read_volume(path).to_patient_orientation(WORKING_ORIENTATION)
    except SeriesError as error:
        raise UsageError(f"{path}: {error.message}") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error


def _pictures(source: Source, paths: tuple[Path, ...], like: np.ndarray | None = None) -> np.ndarray:
    """(slices, rows, columns) uint8, as stored. With `like` they are masks, and of its size."""
    out = []
    for path in paths:
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if image is None:
            raise UsageError(f"{path}: not a readable picture")
        if image.dtype != np.uint8:
            raise UsageError(f"{path}: {8 * image.itemsize} bits a pixel, wanted 8: these may be Hounsfield units")
        if image.ndim == 3:
            if (image[..., :3] != image[..., :1]).any():
                raise UsageError(f"{path}: a coloured picture, wanted grey")
            image = image[..., 0]
        out.append(image)
        wanted = out[0].shape if like is None else like[len(out) - 1].shape
        if image.shape != wanted:
            whose = f"{source.images[0].name} has" if like is None else "its picture has"
            raise UsageError(
                f"{path}: {image.shape[0]} x {image.shape[1]} pixels, {whose} {wanted[0]} x {wanted[1]}"
                + (" (--each makes every picture a volume of its own)" if like is None else "")
            )
    return np.stack(out)


def _upright(source: Source, images: np.ndarray) -> np.ndarray:
    images = np.rot90(images, QUARTER_TURNS[source.anterior], axes=(1, 2))
    return np.ascontiguousarray(images[:, ::-1] if source.mirrored else images)


def _is(path: Path, endings: tuple[str, ...]) -> bool:
    return path.name.lower().endswith(endings) and not path.name.startswith(".")


def _sorted(folder: Path, endings: tuple[str, ...]) -> tuple[Path, ...]:
    """Files of a folder in the order a person would count them: 2 before 10."""

    def key(path: Path):
        parts = re.split(r"(\d+)", path.name)
        return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]

    return tuple(sorted((path for path in folder.iterdir() if path.is_file() and _is(path, endings)), key=key))
