"""The figures of one result against those that `covct.recompute` derives from its masks and its source alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from covct.dicom.header import Instance
from covct.disk.places import REPORT_NAME
from covct.disk.sources import read_all
from covct.errors import logged
from covct.intake.discover import Series
from covct.outputs import FORMATS, NIFTI_LOBES
from covct.recompute.figures import Lesion
from covct.recompute.masks import NoMasks, read_nifti_pair, read_nifti_source, read_seg
from covct.recompute.result import Recomputed, of_masks, of_seg, of_volume
from covct.recompute.told import Told, of_row, of_sr
from covct.results.check_masks import MASKS
from covct.results.defects import Defect

SUMMARY = "summary.csv"
SEG, SR = FORMATS["seg"].file, FORMATS["sr"].file
# Decimals that the report gives, by the unit at the end of a figure's name. What has none of them is exact.
DIGITS = {"ml": 3, "g": 3, "percent": 2, "hu": 2, "mm": 4, "mm3": 6, "degrees": 2}
CENTROID_DIGITS = 1
SHARE = "regions.lungs.infection_percent"
SAME = 1e-9  # of the value: by so much sums in another order differ
# A figure is null where the input does not allow it, which masks cannot tell.
NEEDS = {
    **dict.fromkeys(("volume_ml", "infection_ml"), ("volume",)),
    **dict.fromkeys(("infection_percent", "class", "score"), ("percent",)),
    "infection_mean_hu": ("hu_bands",),
    "mean_hu": ("percent", "hu_bands"),
    **dict.fromkeys(
        ("ground_glass_ml", "consolidation_ml", "below_bands_ml", "above_bands_ml", "infection_mass_g"),
        ("volume", "hu_bands"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class SourceFiles:
    """What a result may have been made of.

    Attributes
    ----------
    slices, series : mapping of (SOP Instance UID, frame number or None) to Instance
        All slices among the sources, and those of the result's series.
    volumes : list of Series
        Volume files that may be its source.
    """

    slices: Mapping[tuple[str, int | None], Instance]
    series: Mapping[tuple[str, int | None], Instance]
    volumes: list[Series]


def check_figures(
    folder: Path, files: Iterable[str], sources: SourceFiles, row: Mapping[str, str] | None
) -> tuple[list[Defect], int]:
    """Compare report, SR and CSV with what the masks and the source make.

    Parameters
    ----------
    folder : Path
        Of the result.
    files : iterable of str
        Those of the result that are there.
    sources : SourceFiles
        Where what was segmented lies.
    row : mapping of str to str, or None
        Of the result in summary.csv, where there is one.

    Returns
    -------
    defects, and how many numbers were compared
    """
    there = set(files)
    try:
        report = json.loads((folder / REPORT_NAME).read_text(encoding="utf-8"))
        made = _recomputed(folder, there, report, sources)
    except NoMasks as reason:
        return [Defect("not-recomputed", f"no figure: {reason}", REPORT_NAME)], 0
    except Exception as error:  # damage raises anything; its text may quote the patient
        return [Defect("not-recomputed", f"no figure: {logged(error)}", REPORT_NAME)], 0
    defects = [Defect("not-recomputed", f"{what}: {why}", REPORT_NAME) for what, why in made.missing.items()]
    if report.get("lobes") and "lobes" not in made.tree:
        defects.append(Defect("not-recomputed", f"figures by lobe: {_no_lobes(there)}", REPORT_NAME))
    compared = list(_report(report, made))
    if SR in there:
        compared += _copies(SR, of_sr(folder / SR), report, made)
    if row is None:
        defects.append(Defect("not-recomputed", "it has no row of this result", SUMMARY))
    else:
        compared += _copies(SUMMARY, of_row(row), report, made)
    return defects + [one for one in compared if one], len(compared)


def _no_lobes(there: set[str]) -> str:
    if NIFTI_LOBES in there and SEG not in there:
        return "whether a lung is mostly dense is not known without HU"
    return "its masks hold no lobes, or HU are missing"


def _recomputed(folder: Path, there: set[str], report: dict[str, Any], sources: SourceFiles) -> Recomputed:
    """By a SEG that holds masks, else by NIfTI masks."""
    one_height = report.get("thirds") is not None  # earlier reports divide each lung by its own height
    why = "it has neither a SEG nor NIfTI masks"
    if SEG in there:
        try:
            seg = read_seg(folder / SEG)
            files = _contents(one for (uid, _), one in sources.slices.items() if uid in seg.instances)
            return of_seg(seg, files, one_height=one_height)
        except NoMasks as reason:
            why = str(reason)
    if not there.issuperset(MASKS):
        raise NoMasks(why)
    pair = read_nifti_pair(*(folder / name for name in (*MASKS, NIFTI_LOBES) if name in there))
    if report["source"]["format"] == "dicom":
        return of_masks(pair, _contents(sources.series.values()), one_height=one_height)
    hu, why = _volume(report["source"]["format"], sources.volumes)
    return of_volume(pair, hu, why, one_height=one_height)


def _contents(instances: Iterable[Instance]) -> Iterator[bytes]:
    """Of each file once, however many slices are in it."""
    return (contents for _, contents in read_all(dict.fromkeys(instance.file for instance in instances)))


def _volume(kind: str, volumes: list[Series]) -> tuple[np.ndarray | None, str]:
    """HU of the source, or None and why."""
    if kind != "nifti":
        return None, f"the source is a {kind} file, whose voxels are not read here"
    file = next((one.path for one in volumes if one.path), None)
    if file is None:
        return None, "no file among the sources has these contents"
    [(_, contents)] = read_all([file])
    return read_nifti_source(contents), ""


# Comparing


def _report(report: dict[str, Any], made: Recomputed) -> Iterator[Defect | None]:
    for path, value in _leaves(made.tree):
        parent, name = _at(report, path.rpartition(".")[0]), path.rpartition(".")[2]
        if isinstance(parent, dict) and name in parent:  # figures of later versions are not in earlier reports
            yield _compared(REPORT_NAME, path, parent[name], value, report, made)
    if seen := report.get("in_view"):
        called = _at(made.tree, SHARE)
        yield _compared(REPORT_NAME, SHARE, seen["called_percent"], called, report, made, "in_view.called_percent")
    yield from _lesions(report, made)


def _copies(file: str, told: Iterable[Told], report: dict[str, Any], made: Recomputed) -> Iterator[Defect | None]:
    for one in told:
        if not one.path:
            yield Defect("not-recomputed", f"{one.name} ({one.value:g}) is no figure that is known here", file)
            continue
        if one.lesion:
            volume = made.lesions[one.lesion - 1].volume_ml if one.lesion <= len(made.lesions) else None
            yield _compared(file, "volume_ml", one.value, volume, report, made, one.name)
            continue
        parent, name = _at(made.tree, one.path.rpartition(".")[0]), one.path.rpartition(".")[2]
        if parent is None or name not in parent:  # it needs HU or masks of lobes, and there are none
            continue
        value = parent[name]
        if one.less and value is not None:
            value -= _at(made.tree, one.less)
        yield _compared(file, one.path, one.value, value, report, made, one.name, 3 if one.less else 1)


def _leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def _at(tree: Any, path: str) -> Any:
    for name in path.split(".") if path else ():
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree


def _compared(
    file: str,
    path: str,
    told: Any,
    value: Any,
    report: dict[str, Any],
    made: Recomputed,
    name: str = "",
    times: int = 1,
) -> Defect | None:
    """What is wrong with a figure; None where it agrees, or where the input does not allow it."""
    figure = path.rpartition(".")[2]
    if told is None and not all(report["valid_for"][kind] for kind in NEEDS.get(figure, ())):
        return None
    if told is None or value is None or isinstance(value, str | list):
        if told == value:
            return None
        return Defect("figure-differs", f"{name or path} is {_shown(told)}, recomputed {_shown(value)}", file)
    tolerance = times * _tolerance(figure, value, made.inexact)
    if abs(told - value) <= tolerance:
        return None
    message = f"{name or path} is {told:.12g}, recomputed {value:.12g} (tolerance {tolerance:.2g})"
    return Defect("figure-differs", message, file)


def _shown(value: Any) -> str:
    return "null" if value is None else f"{value:.12g}" if isinstance(value, float) else str(value)


def _tolerance(figure: str, value: float, inexact: float) -> float:
    """Half a unit of the last decimal reported, and what rounded headers leave open of volumes."""
    unit = figure.rpartition("_")[2]
    if unit not in DIGITS:
        return 0.0
    share = SAME + (inexact if unit in ("ml", "g", "mm", "mm3") else 0.0)
    return 0.5 * 10.0 ** -DIGITS[unit] + share * max(1.0, abs(value))


def _lesions(report: dict[str, Any], made: Recomputed) -> Iterator[Defect | None]:
    """Their number, and each that is listed: its volume by its rank, its place and side among those so large."""
    told = report["lesions"]
    count, listed = len(made.lesions), told["largest"]
    differs = told["count"] != count
    yield (
        Defect("figure-differs", f"lesions.count is {told['count']}, recomputed {count}", REPORT_NAME)
        if differs
        else None
    )
    left = list(made.lesions)
    for rank, (one, ranked) in enumerate(zip(listed, made.lesions, strict=False)):
        path = f"lesions.largest[{rank}]"
        yield _compared(REPORT_NAME, f"{path}.volume_ml", one["volume_ml"], ranked.volume_ml, report, made)
        found = next((lesion for lesion in left if lesion.voxels == ranked.voxels and _is_at(lesion, one, made)), None)
        if found:
            left.remove(found)
            yield None
            continue
        where, wanted = (f"at {_place(place)} mm" for place in (one["centroid_lps_mm"], ranked.centroid_lps_mm))
        message = f"{path} lies {where} ({one['side']}), recomputed {wanted} ({ranked.side}; tolerance 0.05)"
        yield Defect("figure-differs", message, REPORT_NAME)


def _is_at(lesion: Lesion, told: dict[str, Any], made: Recomputed) -> bool:
    reach = max(1.0, *map(abs, lesion.centroid_lps_mm))
    tolerance = 0.5 * 10.0**-CENTROID_DIGITS + made.inexact_mm + (SAME + made.inexact) * reach
    apart = (abs(a - b) for a, b in zip(lesion.centroid_lps_mm, told["centroid_lps_mm"], strict=True))
    return max(apart) <= tolerance and lesion.side == str(told["side"])


def _place(centroid: Iterable[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in centroid)
