"""A whole report to test with: every key there, every figure plausible."""

from __future__ import annotations

import copy
import json
from importlib.resources import files
from typing import Any

from jsonschema import Draft202012Validator

from covct import RESEARCH_USE, __version__

SCHEMA = json.loads(files("covct.pipeline").joinpath("report.schema.json").read_text(encoding="utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)


def example_report(**changes: Any) -> dict[str, Any]:
    """A valid report; `changes` are set by path, with two underscores between keys.

    ``example_report(regions__lungs__infection_percent=None)``
    """
    report = copy.deepcopy(_REPORT)
    for path, value in changes.items():
        *parents, key = path.split("__")
        place = report
        for parent in parents:
            place = place[parent]
        place[key] = value
    return report


def _region(volume_ml: float, infection_ml: float) -> dict[str, Any]:
    shares = {"upper": 0.2, "middle": 0.3, "lower": 0.5}
    return {
        "volume_ml": volume_ml,
        "infection_ml": infection_ml,
        "infection_percent": 100 * infection_ml / volume_ml,
        "volume_ml_interval": [0.97 * volume_ml, 1.03 * volume_ml],
        "infection_ml_interval": [0.8 * infection_ml, 1.3 * infection_ml],
        "infection_percent_interval": [80 * infection_ml / volume_ml, 130 * infection_ml / volume_ml],
        "infection_mean_hu": -512.5,
        "ground_glass_ml": 0.75 * infection_ml,
        "consolidation_ml": 0.2 * infection_ml,
        "below_bands_ml": 0.04 * infection_ml,
        "above_bands_ml": 0.01 * infection_ml,
        "infection_mass_g": 0.4875 * infection_ml,
        "mean_hu": -790.5,
        "thirds": {
            third: {
                "volume_ml": volume_ml / 3,
                "infection_ml": share * infection_ml,
                "infection_percent": 300 * share * infection_ml / volume_ml,
            }
            for third, share in shares.items()
        },
    }


def _network(task: str) -> dict[str, Any]:
    return {
        "name": f"{task}-1",
        "sha256": "c" * 64,
        "threshold": 0.5,
        "licence": "CC BY-NC-SA 4.0",
        "architecture": {"name": "unet", "arguments": {"size": 256}},
        "recipe": {"name": "hu-window", "arguments": {"low": -1000, "high": 200}},
        "field_of_view": "body",
        "flip": False,
        "scores": {"validation_dice": 0.9},
        "limits": "few patients",
        "members": [],
    }


_REPORT: dict[str, Any] = {
    "schema": "covct-report-1",
    "research_use": RESEARCH_USE,
    "covct_version": __version__,
    "work_key": "0123456789abcdef" * 4,
    "source": {
        "format": "dicom",
        "study_instance_uid": "1.2.826.0.1.3680043.8.498.1",
        "series_instance_uid": "1.2.826.0.1.3680043.8.498.1.2",
        "frame_of_reference_uid": "1.2.826.0.1.3680043.8.498.1.3",
        "instances": 122,
        "path": None,
        "transfer_syntaxes": ["1.2.840.10008.1.2.1"],
        "lossy": False,
        "kernel": "B70f",
        "contrast": False,
        "filled": [],
    },
    "selection": {
        "reasons": ["122 slices", "3 mm thick"],
        "left_out": [
            {
                "series_instance_uid": "1.2.826.0.1.3680043.8.498.1.9",
                "slug": "too-few-slices",
                "message": "2 slices; a localizer?",
            }
        ],
    },
    "geometry": {
        "slices": 122,
        "rows": 512,
        "columns": 512,
        "slice_spacing_mm": 3.0,
        "row_spacing_mm": 0.9765625,
        "column_spacing_mm": 0.9765625,
        "voxel_volume_mm3": 2.86102294921875,
        "patient_orientation": "FPL",
        "gantry_tilt_degrees": 0.0,
    },
    "valid_for": {"volume": True, "percent": True, "hu_bands": True},
    "warnings": [{"slug": "thick-slices", "message": "slices are 3 mm thick; small lesions may be missed"}],
    "regions": {
        "right_lung": _region(2400.0, 240.0),
        "left_lung": _region(2000.0, 300.0),
        "lungs": _region(4400.0, 540.0),
    },
    "thirds": {"by": "height", "edges": [8, 44, 80, 115]},
    "lesions": {
        "connectivity": 6,
        "count": 14,
        "smallest_counted_ml": 0.1,
        "smallest_counted_voxels": 35,
        "largest": [{"volume_ml": 210.4, "centroid_lps_mm": [62.1, 40.0, -210.5], "side": "left_lung"}],
    },
    "severity": {"scale": "CT-SS (whole lung, 1-5)", "class": 2, "label": "5 to below 25 %"},
    "in_view": None,
    "suspicion": None,
    "uncertainty": {
        "looks": 2,
        "calibration": None,
        "source": "40 held-out patients",
        "figures": {
            name: {
                "people": 40,
                "people_without": 20 if name != "volume_ml" else 0,
                "level": 0.9,
                "guaranteed": 0.9,
                "coverage": [0.774, 0.981],
                "reason": None,
            }
            for name in ("volume_ml", "infection_ml", "infection_percent")
        },
        "lowest_class": 2,
        "highest_class": 2,
        "nearest_class": {"class": 1, "boundary_percent": 5.0, "distance_percent": 7.27},
        "low_confidence": False,
        "unlikeness": 0.8,
    },
    "lobes": None,
    "since": {
        "mark": "first",
        "reason": "no earlier result of this patient was found",
        "sentences": ["No earlier result of this patient was found."],
        "earlier": [],
        "comparison": None,
    },
    "hu_bands": {"ground_glass": [-750, -400], "consolidation": [-400, 100]},
    "networks": {
        "lungs": _network("lungs"),
        "infection": _network("infection"),
        "empty_slices": None,
        "skipped_slices": 0,
    },
    "run": {
        "device": {
            "kind": "cpu",
            "name": "8 cores",
            "batch": 8,
            "fallbacks": [],
            "runtime": "openvino",
            "precision": "bfloat16",
        },
        "timings_s": {"load": 1.2, "lungs": 14.0, "infection": 15.5, "write": 0.8},
        "peak_memory_mib": 1830.5,
    },
}
