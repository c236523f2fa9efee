"""An output tree as the program leaves it, without a scan."""

from __future__ import annotations

import json

from covct.terms import FIGURES
from support.example_report import example_report

DICOM_FILES = ("report.json", "segmentation.seg.dcm", "overlay.png")


def put(out, folder, status="done", files=DICOM_FILES, report=None, **changes):
    """A result as the program leaves it; `changes` replace keys of its outcome."""
    place = out / folder
    place.mkdir(parents=True)
    study, series = folder.split("/")
    outcome = {
        "status": status,
        "slug": None,
        "message": None,
        "work_key": "a" * 64,
        "files": {name: "b" * 64 for name in files} if status == "done" else {},
        "covct_version": "0.1.0",
        "finished": "2026-03-04T02:15:00Z",
        "seconds": 41.7,
        "study_instance_uid": study,
        "series_instance_uid": series,
        "source": "/archive/Doe^Jane",
    }
    if status == "done":
        (place / "report.json").write_text(json.dumps(report or example_report()))
    (place / "outcome.json").write_text(json.dumps(outcome | changes))
    return place


def withhold(report, *kinds):
    figures = [figure.name for figure in FIGURES if set(kinds) & set(figure.valid_for)]
    for region in report["regions"].values():
        for part in (region, *region["thirds"].values()):
            part.update({name: None for name in part if name.removesuffix("_interval") in figures})


def view(percent):
    """A report of a single slice: no share of the lungs, and perhaps one of the lung in view."""
    report = example_report(valid_for={"volume": False, "percent": False, "hu_bands": True})
    withhold(report, "volume", "percent")
    report["severity"] = {"scale": "CT-SS", "class": None, "label": "not determined"}
    report["uncertainty"].update(lowest_class=None, highest_class=None, nearest_class=None, low_confidence=None)
    report["lesions"]["largest"] = []
    report["in_view"] = None if percent is None else {"called_percent": percent}
    return report
