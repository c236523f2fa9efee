"""The figures that a result's other files tell: the numbers of its SR and the row of summary.csv, as paths of the
report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pydicom

from covct.recompute.figures import LOBES
from covct.recompute.masks import LOBES as LOBE_CODES
from covct.recompute.masks import LUNG
from covct.recompute.masks import SIDES as NUMBERS

GROUP, FINDING, FINDING_SITE, SEGMENT = "125007", "121071", "363698007", "121191"
TRACKING_IDENTIFIER = "112039"
SIDES = {"24028007": "right_lung", "7771000": "left_lung"}
THIRDS = {"264217000": "upper", "11896004": "middle", "261089000": "lower"}
LABEL_MAP_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"
# Concept names of measurements: of a lung's group, and of a group of what is infected. Earlier versions said
# "infected" where later ones say "opacity".
NAMED = {
    "ml": "infection_ml",
    "percent": "infection_percent",
    "mass-g": "infection_mass_g",
    "mean-hu": "infection_mean_hu",
}
SHARED = {
    **{f"{word}-{rest}": figure for word in ("infected", "opacity") for rest, figure in NAMED.items()},
    "ground-glass-ml": "ground_glass_ml",
    "consolidation-ml": "consolidation_ml",
    "below-bands-ml": "below_bands_ml",
    "above-bands-ml": "above_bands_ml",
}
OF_LUNG = {**SHARED, "118565006": "volume_ml", "112031": "mean_hu"}
OF_INFECTION = {
    **SHARED,
    "118565006": "infection_ml",
    "118538004": "infection_mass_g",
    "112031": "infection_mean_hu",
}
# Columns of summary.csv, each with where the report has it.
COLUMNS = {
    "lungs_volume_ml": "regions.lungs.volume_ml",
    "infection_ml": "regions.lungs.infection_ml",
    "infection_percent": "regions.lungs.infection_percent",
    "infection_percent_right": "regions.right_lung.infection_percent",
    "infection_percent_left": "regions.left_lung.infection_percent",
    "ground_glass_ml": "regions.lungs.ground_glass_ml",
    "consolidation_ml": "regions.lungs.consolidation_ml",
    "below_bands_ml": "regions.lungs.below_bands_ml",
    "above_bands_ml": "regions.lungs.above_bands_ml",
    "infection_mass_g": "regions.lungs.infection_mass_g",
    "lung_mean_hu": "regions.lungs.mean_hu",
    "lung_mean_hu_right": "regions.right_lung.mean_hu",
    "lung_mean_hu_left": "regions.left_lung.mean_hu",
    "severity_class": "severity.class",
    "lobes_score": "lobes.score",
    **{f"{name}_score": f"lobes.by_lobe.{name}.score" for name in LOBES},
    **{f"{name}_percent": f"lobes.by_lobe.{name}.infection_percent" for name in LOBES},
}
# The same by lobe: concept names, and the group that they are in.
OF_LOBE = {
    **OF_LUNG,
    "lobe-percent": "infection_percent",
    "lobe-score": "score",
}
LOBE_OF_LUNG = "31094006"


@dataclass(frozen=True)
class Told:
    """A number of a file.

    Attributes
    ----------
    value : float or None
        None of an empty cell.
    path : str
        Of the same figure in the report; empty where the number is none of those known.
    less : str
        Path of what is subtracted from it; empty: nothing.
    lesion : int
        It is the volume of the lesion of this rank; 0: of none.
    """

    name: str
    value: float | None
    path: str
    less: str = ""
    lesion: int = 0


def of_row(row: Mapping[str, str]) -> Iterator[Told]:
    """The figures of a row of summary.csv, as far as its version has the columns."""
    for column, path in COLUMNS.items():
        if column in row:
            yield Told(column, float(row[column]) if row[column] else None, path)


def of_sr(path: Path) -> Iterator[Told]:
    """Every number of an SR's measurement groups."""
    for item in _items(pydicom.dcmread(path)):
        if _concept(item) == GROUP:
            yield from _of_group(item)


def _of_group(group: pydicom.Dataset) -> Iterator[Told]:
    content = list(group.get("ContentSequence") or [])
    finding = next((_value(one) for one in content if _concept(one) == FINDING), "")
    sites = [one for one in content if _concept(one) == FINDING_SITE]
    where = [_value(one) for site in sites for one in site.get("ContentSequence") or []]
    region = next((SIDES[code] for code in where if code in SIDES), "lungs")
    third = next((f".thirds.{THIRDS[code]}" for code in where if code in THIRDS), "")
    tracked = next((str(one.TextValue) for one in content if _concept(one) == TRACKING_IDENTIFIER), "")
    lesion = int(tracked.rpartition(" ")[2]) if "Lesion " in tracked else 0
    segments = [one.ReferencedSOPSequence[0] for one in content if _concept(one) == SEGMENT]
    outside = finding == LUNG and any(one.ReferencedSOPClassUID == LABEL_MAP_STORAGE for one in segments)
    for one in content:
        if one.get("ValueType") != "NUM" or not one.MeasuredValueSequence:
            continue
        name = one.ConceptNameCodeSequence[0]
        if by_lobe := _of_lobes(finding, where, str(name.CodeValue)):
            yield Told(f"{name.CodeMeaning} of {by_lobe}", float(one.MeasuredValueSequence[0].NumericValue), by_lobe)
            continue
        figure = (OF_LUNG if finding == LUNG else OF_INFECTION).get(str(name.CodeValue), "")
        yield Told(
            f"{name.CodeMeaning} of {f'lesion {lesion}' if lesion else f'the {region}{third}'}",
            float(one.MeasuredValueSequence[0].NumericValue),
            figure and f"regions.{region}{third}.{figure}",
            f"regions.{region}.infection_ml" if outside else "",
            lesion,
        )


def _of_lobes(finding: str, where: list[str], name: str) -> str:
    """Where the report has a figure of a lobe, or of all of them; empty where it is none."""
    if finding == LOBE_OF_LUNG:
        return "lobes.score" if name == "lobes-score" else ""
    side = next((NUMBERS[code] for code in where if code in NUMBERS), 0)
    if (finding, side) not in LOBE_CODES or name not in OF_LOBE:
        return ""
    return f"lobes.by_lobe.{list(LOBES)[LOBE_CODES.index((finding, side))]}.{OF_LOBE[name]}"


def _items(dataset: pydicom.Dataset) -> Iterator[pydicom.Dataset]:
    """Every content item below."""
    for item in dataset.get("ContentSequence") or []:
        yield item
        yield from _items(item)


def _concept(item: pydicom.Dataset) -> str:
    names = item.get("ConceptNameCodeSequence")
    return str(names[0].CodeValue) if names else ""


def _value(item: pydicom.Dataset) -> str:
    codes = item.get("ConceptCodeSequence")
    return str(codes[0].CodeValue) if codes else ""
