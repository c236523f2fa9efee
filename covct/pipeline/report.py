"""The report: measured values to the document that `report_document` describes."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

from covct import RESEARCH_USE, __version__
from covct.dicom.quotable import quoted_kernel
from covct.disk.versions import REPORT
from covct.intake.choice import Choice
from covct.intake.gate_rules import Finding, ValidFor
from covct.networks.network import Network, Networks
from covct.pipeline.burden import Lesion, RegionBurden, ThirdBurden, severity
from covct.pipeline.conformal import Guarantee
from covct.pipeline.lobes import ByLobe, lobes_part
from covct.pipeline.postprocess import SPECK_MM3
from covct.pipeline.report_document import Report
from covct.pipeline.uncertainty import Interval, Uncertainty, classes, doubts, next_class
from covct.terms import FIGURES, HU_BANDS, SEVERITY_SCALE, THIRDS, Figure
from covct.voxels.components import CONNECTIVITY
from covct.voxels.volume import Scan, voxel_volume_mm3

CARD_FIELDS = (
    "name", "sha256", "threshold", "licence", "architecture", "recipe", "field_of_view", "flip", "scores", "limits",
)  # fmt: skip


@dataclass(frozen=True)
class Measurements:
    """What was measured of a scan: by region, how sure that is, the lesions (their count, the largest), what holds;
    and by lobe, where that was asked for."""

    burden: dict[str, RegionBurden]
    sure: Uncertainty
    lesions: tuple[int, list[Lesion]]
    valid_for: ValidFor
    lobes: ByLobe | None = None

    def doubts(self) -> list[Finding]:
        """The warning of an uncertain share, where a share may be given."""
        return doubts(self.sure.intervals["infection_percent"] if self.valid_for.percent else None)


def build_report(
    choice: Choice,
    scan: Scan,
    measured: Measurements,
    findings: list[Finding],
    networks: Networks,
    work_key: str,
    filled: list[str],
    skipped_slices: int = 0,
    suspicion: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything but the `run` part, which is known only when the files are written; see `finished`.

    `filled`: what the headers lack, as `evidence.filled` has it; `suspicion` as `suspicion_of` has it.

    Volumes are rounded to 0.001 mL, percent to 0.01: far below what a segmentation can promise, but a one-voxel
    lesion shall not read as 0.
    """
    valid_for = measured.valid_for
    percent = measured.burden["lungs"].infection_percent if valid_for.percent else None
    cls, words = severity(percent)
    return {
        "schema": REPORT,
        "research_use": RESEARCH_USE,
        "covct_version": __version__,
        "work_key": work_key,
        "source": _source(choice, scan, filled),
        "selection": _selection(choice),
        "geometry": _geometry(scan),
        "valid_for": asdict(valid_for),
        "warnings": [{"slug": finding.slug, "message": finding.message} for finding in findings],
        "regions": {
            name: _region(region, measured.sure.intervals if name == "lungs" else {}, valid_for)
            for name, region in measured.burden.items()
        },
        "thirds": _thirds_divided(measured.burden["lungs"]),
        "lesions": _lesions(scan, *measured.lesions, valid_for),
        "severity": {"scale": SEVERITY_SCALE, "class": cls, "label": words},
        "in_view": _in_view(measured),
        "uncertainty": _uncertainty(percent, measured.sure, valid_for),
        "suspicion": suspicion,
        "lobes": lobes_part(measured.lobes, valid_for) if measured.lobes else None,
        "since": None,  # compared with the patient's earlier results once it is this one's turn to be written
        "hu_bands": {name: list(band) for name, band in HU_BANDS.items()},
        "networks": _networks(networks, skipped_slices),
    }


def finished(report: dict[str, Any], run: dict[str, Any]) -> Report:
    """The report as it is written, validated as whoever reads it will.

    Parameters
    ----------
    report : dict
        As `build_report` makes it.
    run : dict
        Its `run` part.

    Raises
    ------
    DamagedDocument
        It is no report: a bug.
    """
    return Report.parse(json.dumps({**report, "run": run}), "report.json", exact=True)


def _source(choice: Choice, scan: Scan, filled: list[str]) -> dict[str, Any]:
    series = choice.chosen
    assert series is not None
    return {
        "format": series.kind,
        "study_instance_uid": series.study_uid or None,
        "series_instance_uid": series.series_uid or None,
        "frame_of_reference_uid": scan.volume.frame_of_reference_uid,
        "instances": len(series.sop_instance_uids) or 1,
        "path": series.path.label if series.path else None,
        "transfer_syntaxes": list(scan.transfer_syntaxes),
        "lossy": any(i.lossy for i in series.instances),
        "kernel": quoted_kernel(series.instances[0].kernel) or None if series.instances else None,
        "contrast": any(i.contrast for i in series.instances) if series.instances else None,
        "filled": filled,
    }


def _selection(choice: Choice) -> dict[str, Any]:
    left_out = [
        {"series_instance_uid": other.series_uid or None, "slug": slug, "message": message}
        for other, slug, message in choice.left_out
    ]
    return {"reasons": list(choice.reasons), "left_out": left_out}


def _lesions(scan: Scan, count: int, largest: list[Lesion], valid_for: ValidFor) -> dict[str, Any]:
    listed = [
        {
            "volume_ml": round(lesion.volume_ml, 3) if valid_for.volume else None,
            "centroid_lps_mm": list(lesion.centroid_lps_mm),
            "side": lesion.side,
        }
        for lesion in largest
    ]
    one_slice = scan.volume.shape[0] == 1
    return {
        "connectivity": CONNECTIVITY,
        "count": count,
        "smallest_counted_ml": None if one_slice else SPECK_MM3 / 1000,
        "smallest_counted_voxels": None if one_slice else math.ceil(SPECK_MM3 / voxel_volume_mm3(scan.working)),
        "largest": listed,
    }


def _in_view(measured: Measurements) -> dict[str, float] | None:
    """Of a slice, of a part of the lungs, of voxels whose size is in doubt: a share needs none of it."""
    called = measured.burden["lungs"].infection_percent
    return None if measured.valid_for.percent or called is None else {"called_percent": round(called, 2)}


def _thirds_divided(lungs: RegionBurden) -> dict[str, Any]:
    thirds = [lungs.thirds[name] for name in THIRDS]
    return {"by": "height", "edges": [*(third.first for third in thirds), thirds[-1].end]}


def _networks(networks: Networks, skipped_slices: int) -> dict[str, Any]:
    return {
        "lungs": _network(networks.lungs),
        "infection": _network(networks.infection),
        "empty_slices": _network(networks.empty_slices) if networks.empty_slices else None,
        "skipped_slices": skipped_slices,
    }


def _geometry(scan: Scan) -> dict[str, Any]:
    volume = scan.working
    spacing = [round(float(v), 4) for v in volume.spacing]
    orientation = "".join(str(getattr(v, "value", v)) for v in scan.volume.get_closest_patient_orientation())
    return {
        "slices": volume.shape[0],
        "rows": volume.shape[1],
        "columns": volume.shape[2],
        "slice_spacing_mm": spacing[0],
        "row_spacing_mm": spacing[1],
        "column_spacing_mm": spacing[2],
        "voxel_volume_mm3": round(voxel_volume_mm3(volume), 6),
        "patient_orientation": orientation,
        "gantry_tilt_degrees": round(scan.tilt_degrees, 2),
    }


def _region(region: RegionBurden, sure: dict[str, Interval | None], valid_for: ValidFor) -> dict[str, Any]:
    thirds = {name: _figures(third, valid_for) for name, third in region.thirds.items()}
    return {**_figures(region, valid_for), **_intervals(sure, valid_for), "thirds": thirds}


def _figures(measured: RegionBurden | ThirdBurden, valid_for: ValidFor) -> dict[str, float | None]:
    """Rounded; null where the gate does not vouch for it."""
    return {
        figure.name: _rounded(getattr(measured, figure.name), figure, valid_for)
        for figure in FIGURES
        if figure.in_thirds or isinstance(measured, RegionBurden)
    }


def _rounded(value: float | None, figure: Figure, valid_for: ValidFor) -> float | None:
    return round(value, figure.digits) if value is not None and _holds(figure, valid_for) else None


def _intervals(sure: dict[str, Interval | None], valid_for: ValidFor) -> dict[str, list[float] | None]:
    """Each rounded like its figure, so that it holds it still; of a single lung none."""
    intervals: dict[str, list[float] | None] = {}
    for figure in FIGURES:
        if figure.interval:
            interval = sure.get(figure.name) if _holds(figure, valid_for) else None
            intervals[f"{figure.name}_interval"] = [round(end, figure.digits) for end in interval] if interval else None
    return intervals


def _holds(figure: Figure, valid_for: ValidFor) -> bool:
    return all(getattr(valid_for, kind) for kind in figure.valid_for)


def _uncertainty(percent: float | None, sure: Uncertainty, valid_for: ValidFor) -> dict[str, Any]:
    """What the intervals are, where they come from, and how near the figure is to another severity class."""
    interval = sure.intervals["infection_percent"] if valid_for.percent else None
    near = next_class(percent) if percent is not None else None
    lowest, highest = classes(interval) if interval else (None, None)
    return {
        "looks": sure.looks,
        "calibration": None,
        "source": sure.source,
        "figures": {name: _guarantee(one) for name, one in sure.guarantees.items()},
        "lowest_class": lowest,
        "highest_class": highest,
        "nearest_class": near
        and {
            "class": near.number,
            "boundary_percent": near.boundary_percent,
            "distance_percent": round(near.distance_percent, 2),
        },
        "low_confidence": None if interval is None else bool(doubts(interval)),
        "unlikeness": None if sure.apart is None else round(sure.apart, 3),
    }


def _guarantee(one: Guarantee) -> dict[str, Any]:
    coverage = one.coverage and [round(end, 3) for end in one.coverage]
    return {**asdict(one), "coverage": coverage}


def _network(network: Network) -> dict[str, Any]:
    """What of the card a reader of the figures needs; the whole card is known by the weights' hash."""
    members = [{"name": one.card.name, "sha256": one.card.sha256} for one in network.members]
    card = network.card.model_dump()
    return {**{name: card[name] for name in CARD_FIELDS}, "members": members}
