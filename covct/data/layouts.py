"""Labelled cases in a folder of any known layout: found by their names, nothing guessed.

| layout | how it is told |
|---|---|
| `metadata` | ``metadata.csv`` with the columns ct_scan, lung_mask, infection_mask, lung_and_infection_mask |
| `nifti` | ``NAME_ct.nii[.gz]`` beside ``NAME_lungs`` and ``NAME_infection`` |
| `folders` | ``ct_scans/``, ``lung_mask/``, ``infection_mask/`` with NIfTI files of the same names |
| `slices` | ``volumes.csv`` (first, last, patient_group, anterior) over ``ct/``, ``lungs/``, ``infection/`` NNNN.png |
| `medseg` | ``Imgs/`` with ``GT/`` and ``GT-multiclass/`` |
| `dicom` | CT series and the DICOM SEG that refer to them |

Beside NIfTI files a ``cases.csv`` may declare what a file cannot say: columns name, and any of patient, domain,
infection (`none`, `unknown`) and geometry (`by-index`: masks fit voxel by voxel, whatever their headers say).
"""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath

from covct.data.cases import KINDS, Case, LeftOut, medseg_patient, person_of
from covct.data.dicom_cases import find_dicom
from covct.data.domains import DOMAINS, WINDOW
from covct.errors import UsageError
from covct.intake.volume_header import format_of, stem_of

DEEPEST = 4  # folders below DATA that are looked into
# The publishers of the 20 volumes brought the ten from Radiopaedia to this lung window on 0..255.
RADIOPAEDIA_WINDOW_HU = (-1250.0, 250.0)
PUBLISHED = {"ct_scan": "ct", "lung_mask": "lungs", "infection_mask": "infection", "lung_and_infection_mask": "both"}
FOLDERS = {"ct_scans": "ct", "lung_mask": "lungs", "infection_mask": "infection", "lung_and_infection_mask": "both"}
UNDER_ONE_NAME = re.compile(
    r"_org(?=_)|covid-19-pneumonia-|-dcm$"
)  # the images' names have more in them than the masks'
ANTERIOR = ("up", "down")


@dataclass(frozen=True)
class Found:
    """The cases below a folder, and what looks like one and is none."""

    cases: tuple[Case, ...]
    left_out: tuple[LeftOut, ...]


def find_cases(data: Path) -> list[Case]:
    """The labelled cases below a folder, in any of the layouts above.

    Raises
    ------
    UsageError
        The folder is not there, or holds no case; what was found instead.
    """
    found = search_cases(data)
    if not found.cases:
        why = "; ".join(f"{one.case}: {one.message}" for one in found.left_out[:3]) or "nothing of a known layout"
        raise UsageError(
            f"{data}: no labelled cases ({why}); wanted metadata.csv, NAME_ct.nii.gz with NAME_lungs or "
            "NAME_infection, volumes.csv with slices, Imgs/ with GT/, or DICOM series with DICOM SEG"
        )
    return list(found.cases)


def search_cases(data: Path) -> Found:
    """The cases below a folder, and what is left out already for what lies where: no mask, no image, missing slices."""
    if not data.is_dir():
        raise UsageError(f"no such directory: {data}")
    cases: list[Case] = []
    left_out: list[LeftOut] = []
    loose: list[Path] = []
    for folder in _folders(data, loose):
        source = folder.relative_to(data).as_posix() if folder != data else folder.resolve().name
        for one in _layout(folder)(folder, source):
            (cases if isinstance(one, Case) else left_out).append(one)  # type: ignore[arg-type]
    for one in find_dicom(loose, data):
        (cases if isinstance(one, Case) else left_out).append(one)  # type: ignore[arg-type]
    return Found(tuple(cases), tuple(left_out))


def _folders(folder: Path, loose: list[Path], depth: int = 0) -> Iterator[Path]:
    """Folders of a known layout; they are not descended into. Files that may be DICOM are put into `loose`."""
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    known = _layout(folder)
    if known:
        yield folder
    if known in (_published, _slices, _medseg, _three_folders):
        return
    for entry in entries:
        if entry.is_dir() and depth < DEEPEST:
            yield from _folders(entry, loose, depth + 1)
        elif entry.is_file() and (entry.suffix.lower() in (".dcm", ".ima", ".zip", "") or entry.suffix[1:].isdigit()):
            loose.append(entry)


def _layout(folder: Path):
    """The function that reads a folder's layout; None where it has none."""
    if (folder / "metadata.csv").is_file():
        return _published
    if (folder / "volumes.csv").is_file():
        return _slices
    if (folder / "Imgs").is_dir() and (folder / "GT").is_dir():
        return _medseg
    if (folder / "ct_scans").is_dir() and any((folder / name).is_dir() for name in FOLDERS if name != "ct_scans"):
        return _three_folders
    if any(format_of(entry.name) for entry in folder.iterdir() if entry.is_file()):
        return _volume_pairs
    return None


def _stem(path: Path | PurePosixPath) -> str:
    return stem_of(path.name) or path.name


def read_table(path: Path, wanted: Iterable[str] = ()) -> list[dict[str, str]]:
    """The rows of a CSV file.

    Raises
    ------
    UsageError
        It cannot be read, or lacks a wanted column; which.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeError, csv.Error) as error:
        raise UsageError(f"{path}: not a readable table ({type(error).__name__})") from error
    missing = [name for name in wanted if not rows or name not in rows[0]]
    if missing:
        got = ", ".join(name or "?" for name in rows[0]) if rows else "no rows"
        raise UsageError(f"{path}: no column {', '.join(missing)}; got {got}")
    return [{name: (value or "").strip() for name, value in row.items() if isinstance(name, str)} for row in rows]


def resolve_foreign(folder: Path, written: str) -> Path | None:
    """A path as somebody else wrote it, by the longest trailing part that exists below the folder."""
    parts = [part for part in PurePosixPath(written.replace("\\", "/")).parts if part not in ("/", ".", "..")]
    for start in range(len(parts)):
        path = folder.joinpath(*parts[start:])
        for candidate in (path, path.with_name(path.name + ".gz")):
            if candidate.is_file():
                return candidate
            nested = candidate / candidate.name  # some archives unpack each file into a folder of its own name
            if nested.is_file():
                return nested
    return None


def _published(folder: Path, source: str) -> Iterator[Case | LeftOut]:
    rows = read_table(folder / "metadata.csv", ("ct_scan",))
    for row in rows:
        paths = {kind: resolve_foreign(folder, row[column]) for column, kind in PUBLISHED.items() if row.get(column)}
        name = _plain(_stem(PurePosixPath(row["ct_scan"].replace("\\", "/"))))
        absent = [row[column] for column, kind in PUBLISHED.items() if kind in paths and paths[kind] is None]
        if absent:
            yield LeftOut(source, name, "incomplete", f"metadata.csv names {', '.join(absent)}, which is not there")
            continue
        yield _volume(folder, source, "metadata", name, {kind: path for kind, path in paths.items() if path})


def _plain(stem: str) -> str:
    """The name that image and masks of the 20 volumes share."""
    return UNDER_ONE_NAME.sub("", stem)


def _three_folders(folder: Path, source: str) -> Iterator[Case | LeftOut]:
    files: dict[str, dict[str, Path]] = defaultdict(dict)
    for name, kind in FOLDERS.items():
        for path in sorted(path for path in (folder / name).glob("*") if format_of(path.name)):
            files[_plain(_stem(path))][kind] = path
    for name, paths in sorted(files.items()):
        if "ct" not in paths:
            yield LeftOut(source, name, "no-image", f"{next(iter(paths.values())).name} has no image in ct_scans/")
        else:
            yield _volume(folder, source, "folders", name, paths)


def _volume_pairs(folder: Path, source: str) -> Iterator[Case | LeftOut]:
    files: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in sorted(folder.iterdir()):
        if not format_of(path.name):
            continue
        name, _, kind = _stem(path).rpartition("_")
        if kind in ("ct", *KINDS) and name:
            files[name][kind] = path
        else:
            yield LeftOut(
                source, _stem(path), "no-mask", f"{path.name} is no NAME_ct, NAME_lungs or NAME_infection: no pair"
            )
    said = declared(folder)
    # Volumes with lung masks alone are people without COVID-19, the negatives of training; cases.csv may say otherwise.
    clean = not any("infection" in paths for paths in files.values())
    for name, paths in sorted(files.items()):
        if "ct" not in paths:
            yield LeftOut(source, name, "no-image", f"{next(iter(paths.values())).name} has no {name}_ct beside it")
        else:
            yield _volume(folder, source, "nifti", name, paths, said.get(name, {}), clean)


def declared(folder: Path) -> dict[str, dict[str, str]]:
    """The rows of a folder's cases.csv by the names of their volumes; none where there is no such file.

    Raises
    ------
    UsageError
        It cannot be read, or says what nobody understands.
    """
    path = folder / "cases.csv"
    if not path.is_file():
        return {}
    rows = read_table(path, ("name",))
    allowed = {"domain": ("", *DOMAINS), "infection": ("", "none", "unknown"), "geometry": ("", "by-index")}
    for row in rows:
        for column, values in allowed.items():
            if row.get(column, "") not in values:
                wanted = ", ".join(value for value in values if value)
                raise UsageError(f"{path}: {row['name']} has {column} {row[column]!r}; wanted {wanted} or nothing")
    return {row["name"]: row for row in rows}


def patient_of(name: str, said: Mapping[str, str]) -> str:
    """Whose volume it is: as its row of cases.csv says, else the person that a public set's name tells, else its own.

    The one rule for NIfTI files, of training and of evaluation: under two names a patient would be two.
    """
    return said.get("patient") or person_of(name)


def _volume(
    folder: Path,
    source: str,
    layout: str,
    name: str,
    paths: dict[str, Path],
    declared_row: dict[str, str] | None = None,
    clean: bool = False,
) -> Case | LeftOut:
    masks = {kind: (path,) for kind, path in paths.items() if kind != "ct"}
    if not masks:
        return LeftOut(source, name, "no-mask", f"{paths['ct'].name} has neither lung nor infection mask")
    said = declared_row or {}
    infection = said.get("infection", "")
    published_window = layout in ("metadata", "folders") and name.startswith("radiopaedia")
    return Case(
        name,
        source,
        folder,
        layout,
        patient=patient_of(name, said),
        images=(paths["ct"],),
        masks=masks,
        domain=said.get("domain", ""),
        window_hu=RADIOPAEDIA_WINDOW_HU if published_window else None,
        negative="infection" not in masks and (infection == "none" or (clean and infection != "unknown")),
        by_index=said.get("geometry") == "by-index",
    )


def _slices(folder: Path, source: str) -> Iterator[Case | LeftOut]:
    claimed: set[str] = set()
    rows = read_volume_rows(folder)
    repeated = Counter(row["patient_group"] for row in rows)
    numbers: Counter[str] = Counter()
    for row in rows:
        patient = row["patient_group"]
        numbers[patient] += 1
        name = patient if repeated[patient] == 1 else f"{patient}-{numbers[patient]}"
        files = [f"{index:04d}.png" for index in range(int(row["first"]), int(row["last"]) + 1)]
        claimed.update(files)
        absent = [f"{kind}/{file}" for file in files for kind in ("ct", *KINDS) if not (folder / kind / file).is_file()]
        if absent:
            yield LeftOut(
                source, name, "incomplete", f"{len(absent)} of {3 * len(files)} files are not there, first {absent[0]}"
            )
            continue
        yield Case(
            name,
            source,
            folder,
            "slices",
            patient,
            images=tuple(folder / "ct" / file for file in files),
            masks={kind: tuple(folder / kind / file for file in files) for kind in KINDS},
            domain=row.get("domain", ""),
            anterior=row["anterior"],
        )
    spare = sorted(path.name for path in (folder / "ct").glob("*.png") if path.name not in claimed)
    if spare:
        yield LeftOut(source, "ct", "unclaimed", f"volumes.csv claims none of {len(spare)} slices, first {spare[0]}")


def read_volume_rows(folder: Path) -> list[dict[str, str]]:
    """The rows of volumes.csv: first and last are numbers, `anterior` is up or down, the domain if any is known.

    Raises
    ------
    UsageError
        They are not, or two rows claim one slice, which then would be of two patients.
    """
    path = folder / "volumes.csv"
    rows = read_table(path, ("first", "last", "patient_group", "anterior"))
    for number, row in enumerate(rows, 2):
        if not (row["first"].isdigit() and row["last"].isdigit() and int(row["first"]) <= int(row["last"])):
            raise UsageError(f"{path}, line {number}: first {row['first']!r}, last {row['last']!r}; wanted two numbers")
        if row["anterior"] not in ANTERIOR:
            raise UsageError(f"{path}, line {number}: anterior is {row['anterior']!r}, wanted {' or '.join(ANTERIOR)}")
        if row.get("domain", "") not in ("", *DOMAINS):
            raise UsageError(f"{path}, line {number}: domain is {row['domain']!r}, wanted {', '.join(DOMAINS)}")
        if not row["patient_group"]:
            raise UsageError(f"{path}, line {number}: no patient_group; without it patients cannot be kept apart")
    claimed = sorted((int(row["first"]), int(row["last"])) for row in rows)
    for (first, last), (again, _) in pairwise(claimed):
        if again <= last:
            raise UsageError(f"{path}: two rows claim slice {again:04d}, one {first:04d} to {last:04d}; wanted one row")
    return rows


def _medseg(folder: Path, source: str) -> Iterator[Case | LeftOut]:
    images = [path for path in (folder / "Imgs").iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png")]
    for path in sorted(images, key=lambda p: (len(p.stem), p.stem)):
        truth, classes = folder / "GT" / f"{path.stem}.png", folder / "GT-multiclass" / f"{path.stem}.png"
        name, patient = f"medseg_{path.stem}", medseg_patient(path.stem)
        if not truth.is_file():
            yield LeftOut(source, name, "no-mask", f"Imgs/{path.name} has no GT/{truth.name}")
            continue
        masks = {"infection": (truth,), **({"classes": (classes,)} if classes.is_file() else {})}
        yield Case(name, source, folder, "medseg", patient, (path,), masks, WINDOW, anterior="left")
