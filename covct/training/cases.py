"""Labelled cases in a folder of any known layout: found by their names, read with their masks, nothing guessed.

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
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import cv2
import highdicom as hd
import numpy as np

from covct.dicom import seg_masks
from covct.dicom.header import read_values
from covct.dicom.load import load_dicom
from covct.discover import Series, discover
from covct.errors import SeriesError, SourceDefect, UsageError
from covct.nifti import read_nifti
from covct.quality import check_headers
from covct.sources import SourceFile
from covct.training.domains import DOMAINS, HU, WINDOW, detect_domain

NIFTI = (".nii.gz", ".nii")
DEEPEST = 4  # folders below DATA that are looked into
# The publishers of the 20 volumes brought the ten from Radiopaedia to this lung window on 0..255.
RADIOPAEDIA_WINDOW_HU = (-1250.0, 250.0)
PUBLISHED = {"ct_scan": "ct", "lung_mask": "lungs", "infection_mask": "infection", "lung_and_infection_mask": "both"}
FOLDERS = {"ct_scans": "ct", "lung_mask": "lungs", "infection_mask": "infection", "lung_and_infection_mask": "both"}
KINDS = ("lungs", "infection")
UNDER_ONE_NAME = re.compile(
    r"_org(?=_)|covid-19-pneumonia-|-dcm$"
)  # the images' names have more in them than the masks'
PERSON = re.compile(r"(radiopaedia_\d+|coronacases_\d+)")
CLASSES = {"ground glass": 1, "consolidation": 2, "effusion": 3}
CLASS_COLOURS_BGR = {(0, 0, 128): 1, (0, 128, 0): 2, (128, 0, 0): 3}  # of medicalsegmentation.com
MEDSEG_SAME_PATIENT = {"43": "10", "46": "5"}  # one slice saved twice; two slices of one lung (`covct explore`)
LARGEST_OFFSET = 0.5  # of a voxel: image and mask further apart lie on two grids
ANTERIOR = ("up", "down")


class CaseError(UsageError):
    """A case that cannot be learned from: `slug` says why in one word, the message what was got and wanted."""

    def __init__(self, slug: str, message: str):
        super().__init__(message)
        self.slug = slug


@dataclass(frozen=True)
class LeftOut:
    """What is not learned from, and why.

    Attributes
    ----------
    source, case : str
    slug : str
        The reason in one word.
    message : str
        What was got and what was wanted.
    slices : tuple of int
        Only these slices of the case (from 0, in its own order); empty: all of it.
    """

    source: str
    case: str
    slug: str
    message: str
    slices: tuple[int, ...] = ()


@dataclass(frozen=True)
class Case:
    """One labelled volume, or one labelled slice, as it lies on disk.

    Attributes
    ----------
    name : str
        Unique within its source.
    source : str
        The folder it was found in, below DATA.
    folder : Path
    layout : str
        As in the table above.
    patient : str
        The unit of every split: volumes of one patient share it. Of DICOM a hash, never the identifier itself.
    images : tuple of Path
        One NIfTI file, or the slices from head to feet; empty for DICOM.
    masks : dict of str to tuple of Path
        By label: `lungs`, `infection`, `both` (1, 2 lungs, 3 infection) or `classes`.
    domain : str
        As declared by the layout; empty where the intensities have to tell.
    window_hu : (float, float) or None
        HU of grey 0 and 255, where the window is known.
    anterior : str
        Where the front of the patient is in slices without a header: `up`, `down` or `left`.
    negative : bool
        A person without COVID-19: aerated lung holds no infection.
    by_index : bool
        The masks fit voxel by voxel, whatever their headers say.
    series : Series or None
        DICOM only.
    segmentation : SourceFile or None
        DICOM only: the SEG with the masks.
    """

    name: str
    source: str
    folder: Path
    layout: str
    patient: str
    images: tuple[Path, ...] = ()
    masks: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    domain: str = ""
    window_hu: tuple[float, float] | None = None
    anterior: str = "up"
    negative: bool = False
    by_index: bool = False
    series: Series | None = None
    segmentation: SourceFile | None = None

    @property
    def person(self) -> str:
        """The patient under the name that a public set gives in each of its forms."""
        found = PERSON.search(self.patient)
        return found[1] if found else self.patient


@dataclass(frozen=True)
class Labelled:
    """A case in memory: slices head to feet where known, anterior up, columns from the patient's right to left.

    Attributes
    ----------
    case : Case
    pixels : (slices, rows, columns) number
        In the units of `domain`.
    domain : str
        One of `DOMAINS`.
    told_by : str
        What the domain was told by.
    lungs : (slices, rows, columns) uint8 or None
        1 right lung, 2 left lung; all 1 where the sides are not told. None: no mask.
    sides : bool
        Whether 1 and 2 are the sides.
    infection : (slices, rows, columns) uint8 or None
        0 or 1; an effusion is none.
    classes : (slices, rows, columns) uint8 or None
        1 ground glass, 2 consolidation, 3 effusion.
    spacing_mm : (float, float, float) or None
        Between slices, rows, columns.
    orientation : str
        Of the file's axes, as it lay on disk.
    numbers : (slices,) int or None
        Where some slices are left out, the numbers of those that remain; None: they are all there.
    """

    case: Case
    pixels: np.ndarray
    domain: str
    told_by: str
    lungs: np.ndarray | None
    sides: bool
    infection: np.ndarray | None
    classes: np.ndarray | None
    spacing_mm: tuple[float, float, float] | None
    orientation: str
    numbers: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.pixels)


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
    for one in _dicom(loose, data):
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
    if any(entry.name.endswith(NIFTI) for entry in folder.iterdir() if entry.is_file()):
        return _nifti_pairs
    return None


def _stem(path: Path | PurePosixPath) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")


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
        for path in sorted((folder / name).glob("*.nii*")):
            files[_plain(_stem(path))][kind] = path
    for name, paths in sorted(files.items()):
        if "ct" not in paths:
            yield LeftOut(source, name, "no-image", f"{next(iter(paths.values())).name} has no image in ct_scans/")
        else:
            yield _volume(folder, source, "folders", name, paths)


def _nifti_pairs(folder: Path, source: str) -> Iterator[Case | LeftOut]:
    files: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in sorted(folder.iterdir()):
        if not path.name.endswith(NIFTI):
            continue
        name, _, kind = _stem(path).rpartition("_")
        if kind in ("ct", *KINDS) and name:
            files[name][kind] = path
        else:
            yield LeftOut(
                source, _stem(path), "no-mask", f"{path.name} is no NAME_ct, NAME_lungs or NAME_infection: no pair"
            )
    declared = {row["name"]: row for row in _declared(folder)}
    # Volumes with lung masks alone are people without COVID-19, the negatives of training; cases.csv may say otherwise.
    clean = not any("infection" in paths for paths in files.values())
    for name, paths in sorted(files.items()):
        if "ct" not in paths:
            yield LeftOut(source, name, "no-image", f"{next(iter(paths.values())).name} has no {name}_ct beside it")
        else:
            yield _volume(folder, source, "nifti", name, paths, declared.get(name, {}), clean)


def _declared(folder: Path) -> list[dict[str, str]]:
    path = folder / "cases.csv"
    if not path.is_file():
        return []
    rows = read_table(path, ("name",))
    allowed = {"domain": ("", *DOMAINS), "infection": ("", "none", "unknown"), "geometry": ("", "by-index")}
    for row in rows:
        for column, values in allowed.items():
            if row.get(column, "") not in values:
                wanted = ", ".join(value for value in values if value)
                raise UsageError(f"{path}: {row['name']} has {column} {row[column]!r}; wanted {wanted} or nothing")
    return rows


def _volume(
    folder: Path,
    source: str,
    layout: str,
    name: str,
    paths: dict[str, Path],
    declared: dict[str, str] | None = None,
    clean: bool = False,
) -> Case | LeftOut:
    masks = {kind: (path,) for kind, path in paths.items() if kind != "ct"}
    if not masks:
        return LeftOut(source, name, "no-mask", f"{paths['ct'].name} has neither lung nor infection mask")
    said = declared or {}
    person = PERSON.search(name)
    infection = said.get("infection", "")
    published_window = layout in ("metadata", "folders") and name.startswith("radiopaedia")
    return Case(
        name,
        source,
        folder,
        layout,
        patient=said.get("patient") or (person[1] if person and layout != "nifti" else name),
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
    """The rows of volumes.csv, with first and last being numbers, `anterior` up or down, and a known domain if any."""
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


def medseg_patient(stem: str) -> str:
    """Whose slice a file of the medicalsegmentation.com set is; the set does not say, each is taken for another's."""
    return f"medseg_{MEDSEG_SAME_PATIENT.get(stem, stem)}"


# DICOM: a series and the SEG that refers to it


def _dicom(files: list[Path], data: Path) -> Iterator[Case | LeftOut]:
    if not files:
        return
    discovery = discover(files)
    for problem in discovery.problems:
        yield LeftOut("dicom", Path(problem.label).name, problem.slug, problem.message)
    segmentations: list[seg_masks.Segmentation] = []
    series: list[Series] = []
    for one in discovery.series:
        if one.instances and one.instances[0].sop_class_uid in seg_masks.SEG_STORAGE:
            for instance in one.instances:
                try:
                    segmentations.append(seg_masks.read_segmentation(instance.file))
                except (SeriesError, SourceDefect, AttributeError, KeyError, ValueError) as error:
                    yield LeftOut("dicom", instance.file.name, "unreadable", _why(error))
        else:
            series.append(one)
    used: set[SourceFile] = set()
    for one in series:
        if one.kind != "dicom" or one.instances[0].modality != "CT":
            continue
        mine = [seg for seg in segmentations if _refers(seg, one)]
        used.update(seg.file for seg in mine)
        yield from _with_masks(one, mine, data)
    for seg in segmentations:
        if seg.file not in used:
            yield LeftOut(
                "dicom", seg.file.name, "no-image", "the series that this SEG refers to is not among the data"
            )


def _refers(seg: seg_masks.Segmentation, series: Series) -> bool:
    if seg.instance_uids:
        return bool(seg.instance_uids & set(series.sop_instance_uids))
    return series.series_uid in seg.series_uids


def _with_masks(series: Series, segs: list[seg_masks.Segmentation], data: Path) -> Iterator[Case | LeftOut]:
    name = series.folder.split("/")[-1]
    source = _dicom_source(series, data)
    known = [seg for seg in segs if seg.structures]
    drawn = [seg for seg in known if not seg.automatic]
    if not segs:
        yield LeftOut(source, name, "no-mask", "no DICOM SEG refers to this series")
        return
    for seg in segs:
        if not seg.structures:
            yield LeftOut(source, name, "no-mask", f"{seg.file.name} has no segment of lungs or infection")
        elif seg.automatic:
            yield LeftOut(source, name, "automatic-mask", f"{seg.file.name} was drawn by covct and corrected by nobody")
    if not drawn:
        return
    *older, chosen = sorted(drawn, key=lambda seg: (seg.moment, seg.file))
    for seg in older:
        yield LeftOut(source, name, "superseded", f"{seg.file.name} is older than {chosen.file.name}")
    try:
        check_headers(series)
    except SeriesError as error:
        yield LeftOut(source, name, error.slug, error.message)
        return
    yield Case(
        name,
        source,
        data,
        "dicom",
        _pseudonym(series),
        domain=HU,
        series=series,
        segmentation=chosen.file,
    )


def _dicom_source(series: Series, data: Path) -> str:
    """The top folder (or archive) below DATA that the series lies in."""
    parts = series.instances[0].file.path.relative_to(data).parts
    return parts[0] if len(parts) > 1 else "dicom"


def _pseudonym(series: Series) -> str:
    """A patient's name for splits, cards and logs: a hash, since identifiers do not belong there."""
    values = read_values(series.instances[0].file, ("PatientID", "IssuerOfPatientID"))
    identity = "\\".join(values.values()) if values["PatientID"] else series.study_uid
    return "patient-" + hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:12]


# Reading


def read_case(case: Case) -> Labelled:
    """Read a case and its masks, and check that they belong together.

    Raises
    ------
    CaseError
        Slugs `unreadable`, `constant`, `other-shape`, `other-geometry`, `unexpected-labels`, `unknown-domain`,
        `other-domain`, or one of the gate's for DICOM. The message names the file, what was got, what was wanted.
    """
    if case.layout == "dicom":
        read = _read_series(case)
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
    image = _nifti(case.images[0])
    masks: dict[str, np.ndarray] = {}
    for kind, (path,) in case.masks.items():
        if kind == "both" and {"lungs", "infection"} <= case.masks.keys():
            continue  # it says the same again, without the side of what is infected
        mask = _nifti(path)
        if mask.shape != image.shape:
            raise CaseError("other-shape", f"{path}: shape {mask.shape}, its image {case.images[0].name} {image.shape}")
        apart = _offset(image, mask)
        if apart > LARGEST_OFFSET and not case.by_index:
            raise CaseError(
                "other-geometry",
                f"{path}: its voxels lie up to {apart:.1f} voxels from those of {case.images[0].name}; wanted one grid "
                "(cases.csv: geometry by-index, if only the header is wrong)",
            )
        array = image.with_array(mask.array).to_patient_orientation("FPL").array
        masks = (
            {**_by_label(kind, array, path), **masks} if kind == "both" else {**masks, **_by_label(kind, array, path)}
        )
    volume = image.to_patient_orientation("FPL")
    spacing = (float(volume.spacing[0]), float(volume.spacing[1]), float(volume.spacing[2]))
    codes = "".join(str(code.value) for code in image.get_closest_patient_orientation())
    return volume.array, masks, spacing, codes


def _nifti(path: Path) -> hd.Volume:
    try:
        return read_nifti(path)
    except SeriesError as error:
        raise CaseError("unreadable", f"{path}: {error.message}") from error


def _offset(image: hd.Volume, mask: hd.Volume) -> float:
    """How far corners of the two grids lie apart, in voxels of the image."""
    ends = [0, 1]
    corners = np.array([[i, j, k] for i in ends for j in ends for k in ends]) * (np.array(image.shape) - 1)
    corners = np.c_[corners, np.ones(len(corners))].T
    return float(np.abs((np.linalg.inv(image.affine) @ mask.affine @ corners - corners)[:3]).max())


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


def _read_series(case: Case):
    assert case.series and case.segmentation
    try:
        scan = load_dicom(case.series)
        masks = seg_masks.read_masks(case.segmentation, scan, case.series.instances)
    except SeriesError as error:
        raise CaseError(error.slug, f"{_where(case)}: {error.message}") from error
    except SourceDefect as error:
        raise CaseError("other-geometry", f"{case.segmentation.name}: {error}") from error
    except (AttributeError, KeyError, ValueError, IndexError) as error:
        raise CaseError("unreadable", f"{case.segmentation.name}: {_why(error)}") from error
    volume = scan.working
    turned = {
        name: scan.volume.with_array(mask.astype(np.uint8)).to_patient_orientation("FPL").array
        for name, mask in masks.items()
    }
    spacing = (float(volume.spacing[0]), float(volume.spacing[1]), float(volume.spacing[2]))
    codes = "".join(str(code.value) for code in scan.volume.get_closest_patient_orientation())
    return volume.array, _from_structures(turned), spacing, codes


def _from_structures(masks: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    out: dict[str, np.ndarray] = {}
    parts = [masks[name] for name in (seg_masks.LUNGS, seg_masks.RIGHT_LUNG, seg_masks.LEFT_LUNG) if name in masks]
    if parts:
        lungs = (np.maximum.reduce(parts) > 0).astype(np.uint8)
        left = masks.get(seg_masks.LEFT_LUNG)
        right = masks.get(seg_masks.RIGHT_LUNG)
        if left is not None and right is not None and not (lungs & (left == 0) & (right == 0)).any():
            lungs[left > 0] = 2
        out["lungs"] = lungs
    named = {CLASSES[name]: masks[name] for name in CLASSES if name in masks}
    if named:
        classes = np.zeros_like(next(iter(named.values())))
        for value, mask in named.items():
            classes[mask > 0] = value
        out["classes"] = classes
    infected = [masks[name] for name in (seg_masks.INFECTION, "ground glass", "consolidation") if name in masks]
    if infected:
        out["infection"] = (np.maximum.reduce(infected) > 0).astype(np.uint8)
    return out


def _why(error: Exception) -> str:
    return (
        error.message
        if isinstance(error, SeriesError)
        else str(error)
        if isinstance(error, SourceDefect)
        else (f"it cannot be read ({type(error).__name__})")
    )
