"""Labelled cases in a folder of any known layout: found by their names, nothing guessed.

| layout | recognised by |
|---|---|
| `metadata` | ``metadata.csv`` with the columns ct_scan, lung_mask, infection_mask, lung_and_infection_mask |
| `nifti` | ``NAME_ct.nii[.gz]`` beside ``NAME_lungs`` and ``NAME_infection`` |
| `folders` | ``ct_scans/``, ``lung_mask/``, ``infection_mask/`` with NIfTI files of the same names |
| `slices` | ``volumes.csv`` (first, last, patient_group, anterior) over ``ct/``, ``lungs/``, ``infection/`` NNNN.png |
| `slices-hu` | ``slices.csv`` (number, patient_group) over ``ct/`` NNNN.png of 16 bits; see `covct.data.hu_slices` |
| `slices-line` | ``slices.csv`` (name, slope, intercept, patient_group) over ``img/``; see `covct.data.line_slices` |
| `slice-labels` | evaluation only: ``slice_labels.csv`` beside volume files; see `covct.data.slice_labels` |
| `medseg` | ``Imgs/`` with ``GT/`` and ``GT-multiclass/`` |
| `dicom` | CT series and the DICOM SEG that refer to them, or ``NAME/``, ``NAME.zip`` beside ``NAME_lungs`` |
| `pictures` | restoration only: ``ct/`` or ``images/``, maybe beside ``lungs/``, ``infection/``; or pictures |

Beside NIfTI files a ``cases.csv`` may declare what a file cannot say: columns name, and any of patient, domain,
infection (`none`, `unknown`) and geometry (`by-index`: masks fit voxel by voxel, whatever their headers say).

Training, evaluation and exploration want labelled cases; restoration takes images with whatever masks they have.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from covct.data.cases import LCTSC, MA, MEDSEG, OWN, TASKS, Case, LeftOut, medseg_patient
from covct.data.dicom_cases import AUTOMATIC, MADE_BY_COVCT, find_dicom, with_volume_masks
from covct.data.domains import WINDOW
from covct.data.hu_slices import find_hu_slices, is_hu_slices
from covct.data.labels import PLAIN
from covct.data.line_slices import find_line_slices, is_line_slices, is_of_medseg
from covct.data.pictures import numbered_pictures, sorted_pictures
from covct.data.slice_labels import find_labelled_by_slice, is_labelled_by_slice
from covct.data.tables import declared, named_volumes, patient_of, read_table, read_volume_rows, resolve_foreign
from covct.dicom.seg_masks import LabelNames
from covct.errors import UsageError
from covct.intake.volume_header import format_of, stem_of

DEEPEST = 8  # folders below DATA that are looked into
# The publishers of the 20 volumes brought the ten from Radiopaedia to this lung window on 0..255.
RADIOPAEDIA_WINDOW_HU = (-1250.0, 250.0)
COLUMNS = {"ct_scan": "ct", "lung_mask": "lungs", "infection_mask": "infection", "lung_and_infection_mask": "both"}
FOLDERS = {"ct_scans": "ct", "lung_mask": "lungs", "infection_mask": "infection", "lung_and_infection_mask": "both"}
UNDER_ONE_NAME = re.compile(
    r"_org(?=_)|covid-19-pneumonia-|-dcm$"
)  # the images' names have more in them than the masks'
RESULT = "outcome.json"  # in each folder of a results tree
WANTED = (
    "wanted metadata.csv, ct_scans/ with lung_mask/ or infection_mask/, NAME_ct.nii.gz (or DICOM in NAME/ or NAME.zip) "
    "with NAME_lungs or NAME_infection, volumes.csv or slices.csv with slices, Imgs/ with GT/, or DICOM series with "
    "DICOM SEG"
)
Layout = Callable[[Path, str, bool], Iterator[Case | LeftOut]]  # folder, source, whether masks are wanted


@dataclass(frozen=True)
class Found:
    """The cases below a folder, and what looks like one and is none."""

    cases: tuple[Case, ...]
    left_out: tuple[LeftOut, ...]


def at_least_one(found: Found, data: Path) -> Found:
    """What was found, if a case is among it; else UsageError says what is left out and what was wanted."""
    if not found.cases:
        first = sorted(found.left_out, key=lambda one: one.slug != AUTOMATIC)[:3]
        why = "; ".join(f"{one.slug}: {one.message}" for one in first) or "nothing of a known layout"
        only_ours = bool(first) and all(one.slug in (AUTOMATIC, "no-mask") for one in found.left_out)
        wanted = "wanted masks that a person drew or corrected" if only_ours and first[0].slug == AUTOMATIC else WANTED
        raise UsageError(f"{data}: no labelled cases ({why}); {wanted}")
    return found


def search_cases(data: Path, labels: LabelNames = PLAIN, masked: bool = True, by_slice: bool = False) -> Found:
    """The cases below a folder, and what is left out already for what lies where: no mask, no image, missing slices.

    Parameters
    ----------
    labels : dict
        What segments of a DICOM SEG are, where covct would not know them by their codes or labels.
    masked : bool
        A case has to have a mask.
    by_slice : bool
        Volumes whose slices are labelled, without a mask, are cases too.

    Raises
    ------
    UsageError
        There is no such folder, or a table in it cannot be read.
    """
    if not data.is_dir():
        raise UsageError(f"no such directory: {data}")
    found: list[Case | LeftOut] = []
    loose: list[Path] = []
    for folder, read in _folders(data, loose, masked, by_slice):
        source = folder.relative_to(data).as_posix() if folder != data else folder.resolve().name
        found += read(folder, source, masked)
    return _sorted(found + list(find_dicom(loose, data, labels, masked)))


def search_folder(folder: Path, masked: bool = True) -> Found:
    """The cases of one folder of a known layout, without what lies below it; UsageError where it has none."""
    if not (read := _layout(folder, masked)):
        raise UsageError(f"{folder}: nothing of a known layout; {WANTED}")
    return _sorted(read(folder, folder.resolve().name, masked))


def _sorted(found: Iterable[Case | LeftOut]) -> Found:
    found = list(found)
    return Found(
        tuple(one for one in found if isinstance(one, Case)), tuple(one for one in found if isinstance(one, LeftOut))
    )


def _folders(
    folder: Path, loose: list[Path], masked: bool, by_slice: bool, depth: int = 0
) -> Iterator[tuple[Path, Layout]]:
    """Folders of a known layout; they are not descended into. Files that may be DICOM are put into `loose`."""
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    known = find_labelled_by_slice if by_slice and is_labelled_by_slice(folder) else _layout(folder, masked)
    if known:
        yield folder, known
    if known and known is not _volume_pairs:
        return
    taken = set(_series_beside_masks(folder).values()) if known else set()
    for entry in entries:
        if entry in taken:
            continue
        if entry.is_dir() and depth < DEEPEST:
            yield from _folders(entry, loose, masked, by_slice, depth + 1)
        elif entry.is_file() and (entry.suffix.lower() in (".dcm", ".ima", ".zip", "") or entry.suffix[1:].isdigit()):
            loose.append(entry)


def _layout(folder: Path, masked: bool) -> Layout | None:
    """The function that reads a folder's layout; None where it has none."""
    if (folder / "metadata.csv").is_file():
        return _published
    if (folder / "volumes.csv").is_file():
        return _slices
    if is_hu_slices(folder):
        return find_hu_slices
    if is_line_slices(folder):
        return find_line_slices
    if (folder / "Imgs").is_dir() and ((folder / "GT").is_dir() or not masked):
        return _medseg
    if (folder / "ct_scans").is_dir() and any((folder / name).is_dir() for name in FOLDERS if name != "ct_scans"):
        return _three_folders
    if any(format_of(entry.name) for entry in folder.iterdir() if entry.is_file()):
        return _volume_pairs
    return None if masked or not _pictures_in(folder) else _loose_pictures


def published_source(folder: Path) -> str | None:
    """`ma`, `ma-hu`, `lungs`, `medseg` or `medseg-full`, by a folder's layout; None: its cases are source `cases`."""
    if (folder / "volumes.csv").is_file():
        return "ma"
    if is_hu_slices(folder):
        return "ma-hu"
    if is_line_slices(folder):
        return "medseg-full" if is_of_medseg(folder) else None
    if any(folder.glob("*_lungs.nii.gz")) and any(folder.glob("*_ct.nii.gz")) and _only_lungs(folder):
        return "lungs"
    if (folder / "Imgs").is_dir() and (folder / "GT").is_dir():
        return "medseg"
    return None


def _only_lungs(folder: Path) -> bool:
    """People without COVID-19, as LCTSC's; nothing is declared that would make a case another."""
    return not any(folder.glob("*_infection.nii*")) and not (folder / "cases.csv").is_file()


def _stem(path: Path | PurePosixPath) -> str:
    return stem_of(path.name) or path.name


def _published(folder: Path, source: str, masked: bool) -> Iterator[Case | LeftOut]:
    rows = read_table(folder / "metadata.csv", ("ct_scan",))
    for row in rows:
        paths = {kind: resolve_foreign(folder, row[column]) for column, kind in COLUMNS.items() if row.get(column)}
        name = _plain(_stem(PurePosixPath(row["ct_scan"].replace("\\", "/"))))
        absent = [row[column] for column, kind in COLUMNS.items() if kind in paths and paths[kind] is None]
        if absent:
            yield LeftOut(source, name, "incomplete", f"metadata.csv names {', '.join(absent)}, which is not there")
            continue
        yield _volume(folder, source, "metadata", name, {kind: path for kind, path in paths.items() if path}, masked)


def _plain(stem: str) -> str:
    """The name that image and masks of the 20 volumes share."""
    return UNDER_ONE_NAME.sub("", stem)


def _three_folders(folder: Path, source: str, masked: bool) -> Iterator[Case | LeftOut]:
    files: dict[str, dict[str, Path]] = defaultdict(dict)
    for name, kind in FOLDERS.items():
        for path in sorted(path for path in (folder / name).glob("*") if format_of(path.name)):
            files[_plain(_stem(path))][kind] = path
    for name, paths in sorted(files.items()):
        if "ct" not in paths:
            yield LeftOut(source, name, "no-image", f"{next(iter(paths.values())).name} has no image in ct_scans/")
        else:
            yield _volume(folder, source, "folders", name, paths, masked)


def _pairs(folder: Path) -> tuple[dict[str, dict[str, Path]], list[Path]]:
    """Volume files NAME_KIND of a folder by name and kind, and those of other names."""
    files: dict[str, dict[str, Path]] = defaultdict(dict)
    others = []
    for path in sorted(path for path in folder.iterdir() if format_of(path.name) and path.is_file()):
        name, _, kind = _stem(path).rpartition("_")
        if kind in ("ct", *TASKS) and name:
            files[name][kind] = path
        else:
            others.append(path)
    return files, others


def _series_beside_masks(folder: Path) -> dict[str, Path]:
    """DICOM in NAME/ or NAME.zip of which NAME_lungs or NAME_infection are the masks, by NAME."""
    places = {
        name: next((place for place in (folder / f"{name}.zip", folder / name) if place.exists()), None)
        for name, paths in _pairs(folder)[0].items()
        if "ct" not in paths
    }
    return {name: place for name, place in places.items() if place}


def _volume_pairs(folder: Path, source: str, masked: bool) -> Iterator[Case | LeftOut]:
    files, others = _pairs(folder)
    if masked:
        yield from (_no_pair(source, path) for path in others)
    else:
        files |= {_stem(path): {"ct": path} for path in others if _stem(path) not in files}
    said = declared(folder) if files else {}  # a cases.csv where no volume lies is something else
    beside = _series_beside_masks(folder)
    # Volumes with lung masks alone are people without COVID-19, the negatives of training; cases.csv may say otherwise.
    clean = not any("infection" in paths for paths in files.values())
    known_as = LCTSC if published_source(folder) == "lungs" else OWN
    for name, paths in sorted(files.items()):
        row = said.get(name, {})
        if "ct" not in paths and name not in beside:
            yield LeftOut(source, name, "no-image", f"{next(iter(paths.values())).name} has no {name}_ct beside it")
            continue
        case = _volume(folder, source, "nifti", name, paths, masked, row, clean)
        if isinstance(case, LeftOut):
            yield case
        elif "ct" in paths:
            yield replace(case, known_as=known_as)
        else:
            yield with_volume_masks(case, beside[name], row.get("patient", ""))


def _no_pair(source: str, path: Path) -> LeftOut:
    if (path.parent / RESULT).is_file():
        return LeftOut(source, _stem(path), AUTOMATIC, f"{path.name} of a results tree {MADE_BY_COVCT}")
    message = f"{path.name} is no NAME_ct, NAME_lungs or NAME_infection: no pair"
    return LeftOut(source, _stem(path), "no-mask", message)


def _volume(
    folder: Path,
    source: str,
    layout: str,
    name: str,
    paths: dict[str, Path],
    masked: bool,
    said: dict[str, str] | None = None,
    clean: bool = False,
) -> Case | LeftOut:
    masks = {kind: (path,) for kind, path in paths.items() if kind != "ct"}
    if not masks and masked:
        return LeftOut(source, name, "no-mask", f"{paths['ct'].name} has neither lung nor infection mask")
    said = said or {}
    infection = said.get("infection", "")
    published_window = layout in ("metadata", "folders") and name.startswith("radiopaedia")
    return Case(
        name,
        source,
        folder,
        layout,
        patient=patient_of(name, said),
        images=(paths["ct"],) if "ct" in paths else (),
        masks=masks,
        domain=said.get("domain", ""),
        window_hu=RADIOPAEDIA_WINDOW_HU if published_window else None,
        negative="infection" not in masks and (infection == "none" or (clean and infection != "unknown")),
        by_index=said.get("geometry") == "by-index",
    )


def _slices(folder: Path, source: str, masked: bool) -> Iterator[Case | LeftOut]:
    kinds = ("ct", *(kind for kind in TASKS if masked or (folder / kind).is_dir()))
    files = {kind: numbered_pictures(folder / kind) for kind in kinds}
    claimed: set[int] = set()
    for name, row in named_volumes(read_volume_rows(folder)):
        wanted = range(int(row["first"]), int(row["last"]) + 1)
        claimed.update(wanted)
        # Without masks nothing is learned from what is there, so a part of a volume will do.
        numbers = [number for number in wanted if masked or number in files["ct"]]
        absent = [f"{kind}/{number:04d}.png" for number in numbers for kind in kinds if number not in files[kind]]
        if absent:
            got = f"{len(absent)} of {len(kinds) * len(numbers)} files are not there, first {absent[0]}"
            yield LeftOut(source, name, "incomplete", got)
        elif numbers:
            chosen = {kind: tuple(files[kind][number] for number in numbers) for kind in kinds}
            images = chosen.pop("ct")
            yield Case(
                name, source, folder, "slices", row["patient_group"], images, chosen, row.get("domain", ""),
                mirrored=row["anterior"] == "down", known_as=MA,
            )  # fmt: skip
    spare = [files["ct"][number] for number in sorted(files["ct"].keys() - claimed)]
    if spare:
        message = f"volumes.csv claims none of {len(spare)} slices, first {spare[0].name}"
        yield LeftOut(source, "ct", "unclaimed", message)


def _medseg(folder: Path, source: str, masked: bool) -> Iterator[Case | LeftOut]:
    for path in sorted(sorted_pictures(folder / "Imgs"), key=lambda path: (len(path.stem), path.stem)):
        truth, classes = folder / "GT" / f"{path.stem}.png", folder / "GT-multiclass" / f"{path.stem}.png"
        name, patient = f"medseg_{path.stem}", medseg_patient(path.stem)
        if (masked or truth.parent.is_dir()) and not truth.is_file():
            yield LeftOut(source, name, "no-mask", f"Imgs/{path.name} has no GT/{truth.name}")
            continue
        masks = {kind: (one,) for kind, one in (("infection", truth), ("classes", classes)) if one.is_file()}
        yield Case(
            name, source, folder, "medseg", patient, (path,), masks, WINDOW if masked else "",
            anterior="left", known_as=MEDSEG,
        )  # fmt: skip


def _pictures_in(folder: Path) -> tuple[Path, ...]:
    places = [place for place in (folder / "ct", folder / "images") if place.is_dir()]
    return sorted_pictures(places[0] if places else folder)


def _loose_pictures(folder: Path, source: str, masked: bool) -> Iterator[Case | LeftOut]:
    """One volume in the order of the names."""
    images, name = _pictures_in(folder), folder.resolve().name
    masks: dict[str, tuple[Path, ...]] = {}
    for kind in TASKS if images[0].parent != folder else ():
        there = {path.stem: path for path in (sorted_pictures(folder / kind) if (folder / kind).is_dir() else ())}
        if there and (missing := [image.name for image in images if image.stem not in there]):
            got = f"{kind}/ has no mask for {missing[0]} and {len(missing) - 1} other pictures"
            yield LeftOut(source, name, "incomplete", got)
            return
        if there:
            masks[kind] = tuple(there[image.stem] for image in images)
    yield Case(name, source, folder, "pictures", "", images, masks)
