"""A result to files: `WRITERS` maps a format's name to a function (Result, folder, Outputs, Making)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from covct.dicom.capture import captures
from covct.dicom.evidence import Making
from covct.dicom.key_object import write_key_object
from covct.dicom.seg import write_seg
from covct.dicom.sr import write_sr
from covct.intake.nifti import write_mask
from covct.outputs import FORMATS, Outputs
from covct.pipeline.series import Result
from covct.visible import from_to, share
from covct.voxels.volume import spacing_mm


def write_dicom_seg(result: Result, folder: Path, outputs: Outputs, making: Making) -> None:
    networks, lobes = result.report["networks"], result.report["lobes"]
    if lobes:
        networks = {**networks, "lobes": lobes["atlas"]}
    write_seg(folder / FORMATS["seg"].file, result.scan, result.masks, result.work_key, networks, outputs, making)


def write_dicom_captures(result: Result, folder: Path, outputs: Outputs, making: Making) -> None:
    """One file a slice, each written before the next is drawn."""
    drawn = captures(result.scan, result.masks, result.report, result.work_key, outputs, making)
    for number, capture in enumerate(drawn, start=1):
        capture.save_as(folder / FORMATS["sc"].name(number))


def write_dicom_sr(result: Result, folder: Path, outputs: Outputs, making: Making) -> None:
    path = folder / FORMATS["sr"].file
    write_sr(path, result.scan, result.masks, result.report, result.work_key, outputs, making)


def write_dicom_key_object(result: Result, folder: Path, outputs: Outputs, making: Making) -> None:
    write_key_object(folder / FORMATS["ko"].file, result.scan, result.masks, result.work_key, making)


def write_pdf(result: Result, folder: Path, outputs: Outputs, making: Making) -> None:
    """The report on paper; where there are instances to refer to, also as a DICOM object."""
    from covct.dicom.encapsulated_pdf import write_encapsulated_pdf
    from covct.results.paper import report_pdf  # ReportLab and OpenCV; not needed to write the rest

    plain, encapsulated = FORMATS["pdf"].files
    pdf = report_pdf(result, making.of_comparison.computed)
    (folder / plain).write_bytes(pdf)
    if result.series.can_be_referred_to:
        write_encapsulated_pdf(folder / encapsulated, pdf, result.scan, result.report, result.work_key, making)


def write_nifti_masks(result: Result, folder: Path, outputs: Outputs, making: Making) -> None:
    """Masks: lungs (1 right, 2 left), infection (1), and lobes (1 to 5) if any; on the NIfTI's own grid and axis order,
    or on the grid that `covct convert` gives a DICOM series."""
    scan, masks = result.scan, result.masks
    named = dict(zip(FORMATS["nifti"].files, (masks.lungs, masks.infection, masks.lobes), strict=True))
    for name, mask in named.items():
        if mask is not None:
            write_mask(scan, mask, folder / name, dicom_grid=result.series.kind == "dicom")


def write_png(result: Result, folder: Path, outputs: Outputs, making: Making) -> None:
    """The montage to look at."""
    from covct.voxels.overlay import write_overlay  # draws with OpenCV; not needed to write the rest

    volume = result.scan.working
    write_overlay(
        folder / FORMATS["png"].file,
        volume.array,
        result.masks.lungs,
        result.masks.infection,
        spacing_mm(volume)[1:],
        _caption(result.report, making.computed),
        bands=bool(result.report["valid_for"]["hu_bands"]),
    )


def write_study_page(result: Result, folder: Path, outputs: Outputs, making: Making) -> None:
    """The page to look through the slices, and what stands for it on the page of all results."""
    from covct.results.study_page import study_page  # Jinja2 and OpenCV; not needed to write the rest
    from covct.voxels.overlay import write_thumbnail

    page, thumbnail = FORMATS["page"].files
    (folder / page).write_text(study_page(result), encoding="utf-8")
    volume, masks = result.scan.working, result.masks
    write_thumbnail(folder / thumbnail, volume.array, masks.lungs, masks.infection, spacing_mm(volume)[1:])


def _caption(report: dict[str, Any], computed: datetime) -> list[str]:
    """Figures, what the interval is worth, when it was computed (not when the patient was scanned), warnings."""
    parts, level = [], report["uncertainty"]["figures"]["infection_percent"]["level"]
    for name, region in (("lungs", "lungs"), ("right", "right_lung"), ("left", "left_lung")):
        percent = report["regions"][region]["infection_percent"]
        interval = report["regions"][region]["infection_percent_interval"] if region == "lungs" else None
        parts.append(f"{name} {share(percent, interval)} opacity" if percent is not None else f"{name} no percentage")
        if percent is not None and interval:
            parts[-1] += f" ({from_to(interval, ' to ')}, level {100 * level:g} %)"
    warned = ", ".join(warning["slug"] for warning in report["warnings"])
    when = f"computed {computed:%Y-%m-%d %H:%M}"
    return ["   ".join(parts), f"{when}   warnings: {warned}" if warned else when]


WRITERS: dict[str, Callable[[Result, Path, Outputs, Making], None]] = {
    "seg": write_dicom_seg,
    "sr": write_dicom_sr,
    "ko": write_dicom_key_object,
    "sc": write_dicom_captures,
    "pdf": write_pdf,
    "nifti": write_nifti_masks,
    "png": write_png,
    "page": write_study_page,
}
