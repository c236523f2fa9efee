"""The facts of a labelled case: shapes, intensities, shares of lungs and infection, and what looks doubtful."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import SupportsFloat

import numpy as np

from covct.data.cases import Labelled
from covct.data.domains import HU, as_grey
from covct.data.screen import outside_share, touches_border
from covct.errors import SeriesError
from covct.intake import gate_rules
from covct.intake.gate_geometry import size_findings
from covct.intake.gate_voxels import judge_chest, measure_chest

CLASS_NAMES = {1: "ground_glass", 2: "consolidation", 3: "effusion"}
FEW_SLICES = 30


@dataclass(frozen=True)
class Facts:
    """One case. Shares are of voxels, None where the mask is missing; intensities in the units of the domain.

    Attributes
    ----------
    shape : (int, int, int)
        Slices, rows, columns.
    spacing_mm : (float, float, float) or None
    intensity : (float, float, float, float, float)
        Lowest, 0.5th percentile, median, 99.5th percentile, highest.
    orientation : str
        Of the file's axes towards the patient, or where the front is in slices without a header.
    labels : tuple of str
    lung_share : float or None
        Of the image.
    infection_share, outside_share : float or None
        Infection as a share of the lungs; the share of it outside the lungs.
    class_shares : dict of str to float
        Of the infection and effusion together.
    without_lung, without_infection : int or None
        Slices.
    cropped : int
        Slices whose lungs, or without a lung mask whose body, reach the border of the image.
    healthy, infected : float or None
        Median intensity of lung outside and inside infection.
    negative : bool
        Without COVID-19.
    """

    name: str
    source: str
    layout: str
    patient: str
    domain: str
    told_by: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float] | None
    intensity: tuple[float, float, float, float, float]
    orientation: str
    labels: tuple[str, ...]
    lung_share: float | None
    infection_share: float | None
    outside_share: float | None
    class_shares: dict[str, float]
    without_lung: int | None
    without_infection: int | None
    cropped: int
    healthy: float | None
    infected: float | None
    negative: bool


def doubts(labelled: Labelled) -> list[str]:
    """What the gate of a scan would say of a volume's size and of how its lungs lie, in words. No age is known."""
    lungs, spacing = labelled.lungs, labelled.spacing_mm
    if (
        labelled.domain != HU
        or lungs is None
        or spacing is None
        or len(lungs) < gate_rules.FEW_SLICES
        or not lungs.any()
    ):
        return []
    try:
        found = size_findings(spacing, lungs.shape)
        chest = measure_chest(labelled.pixels, lungs, spacing)
        if not labelled.sides:
            chest = replace(chest, right_ml=chest.volume_ml / 2, left_ml=chest.volume_ml / 2)
        found += judge_chest(chest, None, other_part=False)
    except SeriesError as error:
        return [error.message]
    return [finding.message for finding in found]


def facts_of(labelled: Labelled) -> Facts:
    """The facts of one case."""
    case, pixels, mm = labelled.case, labelled.pixels, labelled.spacing_mm
    lungs, infection, classes = labelled.lungs, labelled.infection, labelled.classes
    inside = None if lungs is None else lungs > 0
    infected = None if infection is None else infection > 0
    few = slice(None, None, max(1, len(pixels) // FEW_SLICES))  # figures that need no voxel's word for it
    seen = pixels[few] if labelled.unknown is None else pixels[few][~labelled.unknown[few]]
    p_low, middle, p_high = np.percentile(seen, [0.5, 50, 99.5])
    marked = 0 if classes is None else int(np.count_nonzero(classes))
    return Facts(
        name=case.name,
        source=case.source,
        layout=case.layout,
        patient=case.patient,
        domain=labelled.domain,
        told_by=labelled.told_by,
        shape=(int(pixels.shape[0]), int(pixels.shape[1]), int(pixels.shape[2])),
        spacing_mm=mm and (round(mm[0], 4), round(mm[1], 4), round(mm[2], 4)),
        intensity=(float(pixels.min()), float(p_low), float(middle), float(p_high), float(pixels.max())),
        orientation=labelled.orientation,
        labels=_labels(labelled),
        lung_share=None if inside is None else rounded(inside.mean()),
        infection_share=_share_of_lungs(inside, infected),
        outside_share=rounded(outside_share(labelled)),
        class_shares={
            name: round(float(np.count_nonzero(classes == value) / marked), 5)
            for value, name in CLASS_NAMES.items()
            if marked
        },
        without_lung=None if inside is None else int(np.count_nonzero(~inside.any((1, 2)))),
        without_infection=None if infected is None else int(np.count_nonzero(~infected.any((1, 2)))),
        cropped=_cropped_slices(labelled),
        healthy=_median(
            pixels[few], None if inside is None else (inside if infected is None else inside & ~infected)[few]
        ),
        infected=_median(pixels[few], None if infected is None else infected[few]),
        negative=case.negative,
    )


def _labels(labelled: Labelled) -> tuple[str, ...]:
    out = []
    if labelled.lungs is not None:
        out.append("lungs, left and right" if labelled.sides else "lungs")
    if labelled.infection is not None:
        out.append("infection")
    if labelled.classes is not None:
        out.append("classes")
    return tuple(out)


def _share_of_lungs(inside: np.ndarray | None, infected: np.ndarray | None) -> float | None:
    if inside is None or infected is None:
        return None
    return rounded(int(np.count_nonzero(infected & inside)) / max(1, int(np.count_nonzero(inside))))


def _cropped_slices(labelled: Labelled) -> int:
    """Without a lung mask: slices where most of the border is brighter than air, as where the body reaches it."""
    if labelled.lungs is not None:
        return int(np.count_nonzero(touches_border(labelled.lungs)))
    middle = -400 if labelled.domain == HU else 100
    body = (labelled.pixels if labelled.domain == HU else as_grey(labelled.pixels)) > middle
    sides = [body[:, 0], body[:, -1], body[:, :, 0], body[:, :, -1]]
    return int(np.count_nonzero(np.mean([side.mean(1) for side in sides], axis=0) > 0.5))


def _median(pixels: np.ndarray, mask: np.ndarray | None) -> float | None:
    return float(np.median(pixels[mask])) if mask is not None and mask.any() else None


def rounded(value: SupportsFloat | None) -> float | None:
    """To five digits; None stays."""
    return None if value is None else round(float(value), 5)
