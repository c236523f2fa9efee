"""A result to files. `WRITERS` maps a format's name to a function (Result, folder)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from covct.nifti import write_nifti
from covct.pipeline import Result
from covct.seg import write_seg
from covct.volume import spacing_mm

SEG_NAME, OVERLAY_NAME, REPORT_NAME = "segmentation.seg.dcm", "overlay.png", "report.json"


def write_dicom_seg(result: Result, folder: Path) -> None:
    """A DICOM SEG; for NIfTI input there are no instances to reference, and none is written."""
    if result.series.kind == "dicom":
        weights = {task: network["sha256"] for task, network in result.report["networks"].items()}
        write_seg(folder / SEG_NAME, result.scan, result.lungs, result.infection, result.work_key, weights)


def write_nifti_masks(result: Result, folder: Path) -> None:
    """Two masks in the source's own grid and axis order: lungs (1 right, 2 left) and infection (1)."""
    for name, mask in (("lungs", result.lungs), ("infection", result.infection.astype("uint8"))):
        write_nifti(result.scan.to_source(mask), folder / f"{name}.nii.gz")


def write_png(result: Result, folder: Path) -> None:
    """The montage to look at."""
    from covct.overlay import write_overlay  # draws with OpenCV; not needed to write the rest

    volume = result.scan.working
    write_overlay(
        folder / OVERLAY_NAME,
        volume.array,
        result.lungs,
        result.infection,
        spacing_mm(volume)[1:],
        _caption(result.report),
    )


def _caption(report: dict) -> list[str]:
    parts = []
    for name, region in (("lungs", "lungs"), ("right", "right_lung"), ("left", "left_lung")):
        percent = report["regions"][region]["infection_percent"]
        parts.append(f"{name} {percent:.1f} % infected" if percent is not None else f"{name} no percentage")
    warned = ", ".join(warning["slug"] for warning in report["warnings"])
    return ["   ".join(parts), *([f"warnings: {warned}"] if warned else [])]


WRITERS: dict[str, Callable[[Result, Path], None]] = {
    "seg": write_dicom_seg,
    "nifti": write_nifti_masks,
    "png": write_png,
}


def formats_for(kind: str, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The formats to write: NIfTI input always gets NIfTI masks, since it can have no SEG."""
    formats = dict.fromkeys(wanted)
    if kind == "nifti":
        formats = {"nifti": None, **{name: None for name in formats if name != "seg"}}
    return tuple(formats)
