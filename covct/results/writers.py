"""A result to files. `WRITERS` maps a format's name to a function (Result, folder, Outputs)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from covct.dicom.capture import captures
from covct.dicom.key_object import write_key_object
from covct.dicom.seg import write_seg
from covct.dicom.sr import write_sr
from covct.intake.nifti import write_mask
from covct.outputs import DICOM_FORMATS, Outputs
from covct.pipeline.series import Result
from covct.voxels.volume import spacing_mm

SEG_NAME, OVERLAY_NAME, REPORT_NAME = "segmentation.seg.dcm", "overlay.png", "report.json"
SR_NAME, KEY_OBJECT_NAME = "measurements.sr.dcm", "key-slices.ko.dcm"
CAPTURE_NAME = "capture-{:04d}.sc.dcm"


def write_dicom_seg(result: Result, folder: Path, outputs: Outputs) -> None:
    write_seg(folder / SEG_NAME, result.scan, result.masks, result.work_key, _weights(result), outputs)


def write_dicom_captures(result: Result, folder: Path, outputs: Outputs) -> None:
    """One file a slice, each written before the next is drawn."""
    drawn = captures(result.scan, result.masks, result.report, result.work_key, outputs)
    for number, capture in enumerate(drawn, start=1):
        capture.save_as(folder / CAPTURE_NAME.format(number))


def _weights(result: Result) -> dict[str, str]:
    """sha256 of the weights by task."""
    return {task: result.report["networks"][task]["sha256"] for task in ("lungs", "infection")}


def write_dicom_sr(result: Result, folder: Path, outputs: Outputs) -> None:
    write_sr(folder / SR_NAME, result.scan, result.report, result.work_key, outputs)


def write_dicom_key_object(result: Result, folder: Path, outputs: Outputs) -> None:
    write_key_object(folder / KEY_OBJECT_NAME, result.scan, result.masks, result.work_key)


def write_nifti_masks(result: Result, folder: Path, outputs: Outputs) -> None:
    """Two masks: lungs (1 right, 2 left) and infection (1); on the NIfTI's own grid and axis order, or on the grid that
    `covct convert` gives a DICOM series."""
    scan = result.scan
    for name, mask in (("lungs", result.masks.lungs), ("infection", result.masks.infection)):
        write_mask(scan, mask, folder / f"{name}.nii.gz", dicom_grid=result.series.kind == "dicom")


def write_png(result: Result, folder: Path, outputs: Outputs) -> None:
    """The montage to look at."""
    from covct.voxels.overlay import write_overlay  # draws with OpenCV; not needed to write the rest

    volume = result.scan.working
    write_overlay(
        folder / OVERLAY_NAME,
        volume.array,
        result.masks.lungs,
        result.masks.infection,
        spacing_mm(volume)[1:],
        _caption(result.report),
    )


def _caption(report: dict) -> list[str]:
    parts = []
    for name, region in (("lungs", "lungs"), ("right", "right_lung"), ("left", "left_lung")):
        percent = report["regions"][region]["infection_percent"]
        parts.append(f"{name} {percent:.1f} % infected" if percent is not None else f"{name} no percentage")
        interval = report["regions"][region]["infection_percent_interval"]
        if percent is not None and region == "lungs" and interval:
            parts[-1] += f" ({interval[0]:.1f} to {interval[1]:.1f})"
    warned = ", ".join(warning["slug"] for warning in report["warnings"])
    return ["   ".join(parts), *([f"warnings: {warned}"] if warned else [])]


WRITERS: dict[str, Callable[[Result, Path, Outputs], None]] = {
    "seg": write_dicom_seg,
    "sr": write_dicom_sr,
    "ko": write_dicom_key_object,
    "sc": write_dicom_captures,
    "nifti": write_nifti_masks,
    "png": write_png,
}


def formats_for(kind: str, wanted: tuple[str, ...], referable: bool = True) -> tuple[str, ...]:
    """The formats to write, each once and in the order of WRITERS: some refer to those before.

    A volume file always gets NIfTI masks, since it has no DICOM instances to refer to; so does a DICOM series that is
    not `referable`, as its instances have no valid UIDs. The SR brings the SEG along: its
    figures are those of the SEG's segments.
    """
    formats = set(wanted)
    if "sr" in formats:
        formats.add("seg")
    if kind != "dicom" or not referable:
        formats = formats - set(DICOM_FORMATS) | {"nifti"}
    return tuple(name for name in WRITERS if name in formats)
