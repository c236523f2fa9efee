"""8-bit slices to Hounsfield units: the domain told or named, restored, compared with the literature, written whole."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import highdicom as hd
import numpy as np

from covct import RESEARCH_USE, __version__
from covct.data.before_after import draw_sheet
from covct.data.cases import TASKS, Case, person_of
from covct.data.domains import CLAHE, HU, WINDOW, as_grey, detect_domain, hu_by_anchors, hu_of_window
from covct.data.layouts import Found, search_cases, search_folder
from covct.data.pictures import PICTURES, is_picture
from covct.data.read_case import read_image, read_masks
from covct.data.slices import SIZE
from covct.data.tables import read_table
from covct.disk.durable import output_errors, replace_file, replacing
from covct.errors import UsageError
from covct.intake.nifti import write_nifti
from covct.intake.volume_header import format_of, stem_of

FORMAT = 1
RECORD = "restored.json"
KINDS = {"clahe": CLAHE, "window": WINDOW}
RANGE_HU = (-1100, 3071)
# Where the literature has the medians: healthy lung between inspiration and expiration, infection from ground glass
# to consolidation (Lung CT Analyzer's bands, which covct reports too).
EXPECTED_HU = {"healthy_lung": (-900, -750), "infected_lung": (-750, -50)}
GROUND_GLASS_HU = (-750, -400)
LEAST_VOXELS = 200
UNKNOWN_MM = (1.0, 1.0, 1.0)

Way = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Stack:
    """One volume of grey slices, anterior up.

    Attributes
    ----------
    case : Case
    volume : highdicom.Volume
        As stored (grey values), (slices, rows, columns), LPS millimetres.
    masks : dict of str to (slices, rows, columns) bool
    spacing_known : bool
        Else the volume's spacing is 1 mm for want of a better.
    """

    case: Case
    volume: hd.Volume
    masks: dict[str, np.ndarray]
    spacing_known: bool


@dataclass(frozen=True)
class Tissue:
    """HU of one tissue of a volume: percentiles, and whether the median is where the literature has it."""

    voxels: int
    p10_hu: int
    median_hu: int
    p90_hu: int
    expected_hu: tuple[int, int]
    plausible: bool


@dataclass(frozen=True)
class Restored:
    """One volume that was brought to HU; figures only of what masks show."""

    name: str
    kind: str
    told_by: str
    slices: int
    rows: int
    columns: int
    spacing_known: bool
    tissues: dict[str, Tissue]
    infected_ground_glass_percent: float | None
    files: tuple[str, ...]


def find_images(place: Path, anterior: str | None = None, each: bool = False) -> Found:
    """The volumes in a file or below a folder, of any layout (`covct.data.layouts`), with whatever masks they have.

    Parameters
    ----------
    anterior : str, optional
        Where the patient's front is in the pictures: one of `pictures.ANTERIOR`. Default: as the layout has it, else
        up.
    each : bool
        Every picture of a folder is a volume of its own.

    Raises
    ------
    UsageError
        Nothing of the kind is there, or two volumes would be written under one name.
    """
    if not place.exists():
        raise UsageError(f"no such file or directory: {place}")
    found = _in_file(place) if place.is_file() else search_cases(place, masked=False)
    left_out = tuple(one for one in found.left_out if one.slug not in ("no-mask", "unclaimed"))
    cases = [one for case in found.cases for one in (_singles(case) if each and case.layout == "pictures" else [case])]
    if not cases:
        why = "; ".join(one.message for one in found.left_out[:3])
        got = f" ({why})" if why else ""
        raise UsageError(f"{place}: no pictures ({', '.join(PICTURES)}) and no NIfTI, MetaImage or NRRD files{got}")
    if anterior:
        cases = [replace(case, anterior=anterior) if case.of_pictures else case for case in cases]
    names = [output_name(case) for case in cases]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise UsageError(f"{place}: two volumes would be written as {twice}_ct.nii.gz; wanted one folder at a time")
    return Found(tuple(cases), left_out)


def _in_file(path: Path) -> Found:
    if is_picture(path):
        return Found((Case(path.stem, path.parent.name, path.parent, "pictures", "", (path,)),), ())
    if not format_of(path.name):
        raise UsageError(f"{path}: neither a picture ({', '.join(PICTURES)}) nor a NIfTI, MetaImage or NRRD")
    beside = search_folder(path.parent, masked=False).cases
    name = stem_of(path.name) or path.name
    alone = Case(name.removesuffix("_ct"), path.parent.name, path.parent, "nifti", "", (path,))
    return Found((next((case for case in beside if case.images == (path,)), alone),), ())


def _singles(whole: Case) -> Iterator[Case]:
    for index, image in enumerate(whole.images):
        masks: dict[str, tuple[Path, ...]] = {kind: (paths[index],) for kind, paths in whole.masks.items()}
        yield replace(whole, name=f"{whole.name}-{image.stem}", images=(image,), masks=masks)


def output_name(case: Case) -> str:
    """What the files of a volume are called: NAME_ct.nii.gz and so on.

    Raises
    ------
    UsageError
        A table gives a name that no file may have.
    """
    if case.layout == "medseg":
        return f"{case.folder.resolve().name}-{case.images[0].stem}"
    if case.layout != "slices":
        return case.name
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,80}", case.patient):
        table = case.folder / "volumes.csv"
        raise UsageError(f"{table}: patient_group is {case.patient!r}, wanted letters, digits and dashes")
    return f"{case.patient}-{int(case.images[0].stem):04d}"


def read_stack(case: Case, spacing_mm: tuple[float, float, float] | None = None) -> Stack:
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
    if case.series:
        raise UsageError(f"{case.where}: these are Hounsfield units already (DICOM); wanted slices on 8 bit")
    if "infection" in case.masks:  # which the classes only tell apart
        case = replace(case, masks={kind: paths for kind, paths in case.masks.items() if kind != "classes"})
    pixels, scan, _ = read_image(case)
    masks = {task: mask > 0 for task, mask in read_masks(case, pixels.shape, scan).items() if task in TASKS}
    if scan:
        return Stack(case, scan.working, masks, True)
    slice_mm, row_mm, column_mm = spacing_mm or UNKNOWN_MM
    # Slices from the feet up, as NIfTI stores them; rows to the back, columns to the patient's left.
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = slice_mm, row_mm, column_mm, 1
    return Stack(case, hd.Volume(np.ascontiguousarray(pixels), affine, "PATIENT"), masks, spacing_mm is not None)


def domain_of(stack: Stack, kind: str | None) -> tuple[str, str]:
    """The domain of some slices, detected or as said: (domain, what told it).

    Parameters
    ----------
    kind : str or None
        Key of KINDS, as said by the user.

    Raises
    ------
    UsageError
        The slices are in HU already, or they do not tell and nobody said.
    """
    seen, reason = detect_domain(stack.volume.array)
    where = stack.case.images[0]
    if seen == HU:
        raise UsageError(f"{where}: these are Hounsfield units already ({reason}); wanted slices on 8 bit")
    if kind:
        differs = f"; they look like {seen}" if seen not in ("", KINDS[kind]) else ""
        return KINDS[kind], f"--source-kind {kind}{differs}"
    if stack.case.domain:
        return stack.case.domain, "declared"
    if not seen:
        raise UsageError(f"{where}: {reason}; say --source-kind clahe or window")
    return seen, reason


def to_hu(grey: np.ndarray, domain: str, restorer: Way, window: tuple[float, float] | None = None) -> np.ndarray:
    """8-bit slices in HU on their own grid.

    grey (slices, rows, columns) uint8 -> int16. CLAHE goes through the restorer at its size, a window back by its two
    ends or, where they are not told, by air and soft tissue in its own histogram.
    """
    if domain == WINDOW:
        hu = hu_of_window(grey, window) if window else hu_by_anchors(grey)
    else:
        hu = _through(grey, restorer, SIZE)
    restored: np.ndarray = np.clip(np.rint(hu), *RANGE_HU).astype(np.int16)
    return restored


def _through(grey: np.ndarray, restorer: Way, size: int) -> np.ndarray:
    """The restorer sees squares; beyond a slice that is none, the darkest grey."""
    rows, columns = grey.shape[1:]
    side = max(rows, columns)
    top, left = (side - rows) // 2, (side - columns) // 2
    out = np.empty(grey.shape, np.float32)
    for start in range(0, len(grey), 16):
        part = grey[start : start + 16]
        square = np.full((len(part), side, side), part.min(), np.uint8)
        square[:, top : top + rows, left : left + columns] = part
        if side != size:
            how = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
            square = np.stack([cv2.resize(one, (size, size), interpolation=how) for one in square])
        hu = restorer(square).astype(np.float32)
        if side != size:
            hu = np.stack([cv2.resize(one, (side, side), interpolation=cv2.INTER_LINEAR) for one in hu])
        out[start : start + 16] = hu[:, top : top + rows, left : left + columns]
    return out


def tissues_of(hu: np.ndarray, masks: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """HU values of healthy and of infected lung, of each only where its masks are there and show enough."""
    found: dict[str, np.ndarray] = {}
    lungs, infection = masks.get("lungs"), masks.get("infection")
    if lungs is not None and infection is not None:
        found["healthy_lung"] = hu[lungs & ~infection]
    if infection is not None:
        found["infected_lung"] = hu[infection if lungs is None else infection & lungs]
    return {name: values for name, values in found.items() if values.size >= LEAST_VOXELS}


def _tissue(name: str, values: np.ndarray) -> Tissue:
    low, median, high = (round(float(p)) for p in np.percentile(values, (10, 50, 90)))
    expected = EXPECTED_HU[name]
    return Tissue(int(values.size), low, median, high, expected, expected[0] <= median <= expected[1])


def restore_case(
    case: Case,
    out: Path,
    kind: str | None,
    restorer: Way,
    window: tuple[float, float] | None = None,
    spacing_mm: tuple[float, float, float] | None = None,
) -> Restored:
    """Bring one volume to HU and write it: ``NAME_ct.nii.gz``, its masks beside it, ``NAME_sheet.png`` to look at.

    Raises
    ------
    UsageError
        The input is not for this, naming the file.
    OutputNotWritable
        Nothing half-written stays.
    """
    stack, name = read_stack(case, spacing_mm), output_name(case)
    domain, told_by = domain_of(stack, kind)
    grey = as_grey(stack.volume.array)
    hu = to_hu(grey, domain, restorer, window or case.window_hu)
    values = tissues_of(hu, stack.masks)
    with output_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        _declare(out / "cases.csv", name, case)
        written = _write_volumes(out, name, stack, hu, domain)
        sheet = draw_sheet(name, domain, grey, hu, stack.masks, values, EXPECTED_HU)
        _, png = cv2.imencode(".png", sheet[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 6])
        written.append(f"{name}_sheet.png")
        replace_file(out / written[-1], png.tobytes(), to_disk=False)
    tissues, share = _tissues(values)
    told = name, domain, told_by, len(grey), grey.shape[1], grey.shape[2], stack.spacing_known
    return Restored(*told, tissues, share, tuple(written))


def _tissues(values: dict[str, np.ndarray]) -> tuple[dict[str, Tissue], float | None]:
    """The figures of each tissue, and how much of the infection has the density of ground glass, percent."""
    infected = values.get("infected_lung")
    share = None if infected is None else _share_between(infected, GROUND_GLASS_HU)
    return {tissue: _tissue(tissue, one) for tissue, one in values.items()}, share


def _write_volumes(out: Path, name: str, stack: Stack, hu: np.ndarray, domain: str) -> list[str]:
    """HU and masks as NIfTI; the names of the files."""
    spacing = "" if stack.spacing_known else "; spacing unknown, 1 mm taken"
    written = [f"{name}_ct.nii.gz"]
    _write_nifti(out / written[0], stack, hu, f"covct: HU restored from {domain}{spacing}")
    for task, mask in stack.masks.items():
        written.append(f"{name}_{task}.nii.gz")
        _write_nifti(out / written[-1], stack, mask.astype(np.uint8), f"covct: {task} of the source{spacing}")
    return written


def _share_between(values: np.ndarray, band: tuple[int, int]) -> float:
    return round(100 * float(np.mean((values >= band[0]) & (values < band[1]))), 1)


def _write_nifti(path: Path, stack: Stack, array: np.ndarray, description: str) -> None:
    """Whole or not at all; columns, rows, slices, as other programs have it."""
    volume = stack.volume.with_array(array).permute_spatial_axes([2, 1, 0])
    with replacing(path, to_disk=False, suffix=".nii.gz") as beside:  # the ending tells nibabel to compress
        write_nifti(volume, beside, description=description)


def _declare(path: Path, name: str, case: Case) -> None:
    """A row of ``cases.csv``, for training; rows of other volumes stay.

    A volume without a mask of infection has unknown infection: it must never be learned from as healthy, so this is
    written before the volume is. Volumes of one patient are said to be, lest a split comes between them.
    """
    patient = case.patient if case.of_pictures or case.patient != person_of(name) else ""
    infection = "" if case.masks.keys() & {"infection", "both", "classes"} else "unknown"
    told = {"name": name, "patient": patient, "domain": HU, "infection": infection}
    rows = [row for row in (read_table(path, ("name",)) if path.is_file() else []) if row["name"] != name]
    table = io.StringIO()
    columns = dict.fromkeys(name for row in (told, *rows) for name in row)
    lines = csv.DictWriter(table, list(columns), restval="", lineterminator="\n")
    lines.writeheader()
    lines.writerows([*rows, told])
    replace_file(path, table.getvalue().encode(), to_disk=False)


def write_record(out: Path, restored: list[Restored], restorer: dict[str, str] | None) -> Path:
    """``restored.json``: what the slices were, and what became of them."""
    path = out / RECORD
    record: dict[str, Any] = {
        "format": FORMAT,
        "research_use": RESEARCH_USE,
        "covct_version": __version__,
        "restorer": restorer,
        "volumes": [asdict(one) for one in restored],
    }
    with output_errors(out):
        replace_file(path, (json.dumps(record, indent=2) + "\n").encode(), to_disk=False)
    return path
