"""What is called in one case beyond its overlap with a mask: slice by slice, where there is no infection, and where.

Three kinds of truth say where there is none: a mask, labels by slice, and a person without COVID-19.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from covct.data.cases import Case, CaseError
from covct.data.model_space import AERATED_HU
from covct.evaluation.anatomy import Chest, count_regions
from covct.evaluation.robustness import Varied
from covct.evaluation.truth import Truth
from covct.voxels.fields_of_view import MODEL_PIXEL_MM

CALLED_ML = 0.10  # of infection on a slice: less is a speck
SMOOTHED_MM = 4.0
ASSUMED_MM = (5.0, MODEL_PIXEL_MM, MODEL_PIXEL_MM)  # of slices of unknown spacing: the rules look at the next slice


@dataclass(frozen=True)
class BySlice:
    """Slices by label and call; a slice is called with more than `CALLED_ML` of infection on it.

    Attributes
    ----------
    labelled, found : int
        Slices with infection by label, and those of them that are called.
    clear, called : int
        Slices with lung and without infection by label, and those of them that are called.
    """

    labelled: int
    found: int
    clear: int
    called: int


@dataclass(frozen=True)
class FalseCalls:
    """Infection called where there is none, by region.

    Attributes
    ----------
    voxels : dict of str to int
        By `anatomy.REGIONS`.
    lung_voxels : int
    voxel_ml : float or None
        None where the spacing is unknown, and lengths are those of `ASSUMED_MM`.
    """

    voxels: dict[str, int]
    lung_voxels: int
    voxel_ml: float | None


@dataclass(frozen=True)
class Everywhere:
    """All that is called in a case of which nobody marked any infection.

    Attributes
    ----------
    called, lung : int
        Voxels of infection, and of the lungs.
    called_aerated, aerated : int
        Those of them that hold air.
    lungs_marked : bool
        The lungs are the true ones; else those found.
    """

    called: int
    lung: int
    called_aerated: int
    aerated: int
    lungs_marked: bool


@dataclass(frozen=True)
class CaseCalls:
    """The calls of one case; a part that its truth does not allow, or that was not asked for, is None."""

    case: Case
    by_slice: BySlice | None
    false: FalseCalls | None
    everywhere: Everywhere | None
    varied: Varied | None = None

    @property
    def any(self) -> bool:
        return any((self.by_slice, self.false, self.everywhere, self.varied))


def look_at_calls(case: Case, truth: Truth, masks: dict[str, np.ndarray]) -> CaseCalls:
    """What is called in a case.

    Parameters
    ----------
    masks : dict of str to (slices, rows, columns) bool
        As called, by task; without infection there is nothing to say.

    Raises
    ------
    CaseError
        `other-shape`: there are not as many labels as slices.
    """
    if "infection" not in masks:
        return CaseCalls(case, None, None, None)
    infection, lungs = masks["infection"], truth.masks.get("lungs", masks.get("lungs"))
    lungs = lungs if lungs is not None and lungs.any() else None
    if truth.known is not None:
        infection = infection & truth.known
    marked = truth.masks.get("infection")
    labels = slice_labels(case, marked, len(infection))
    false = _false(infection, marked, labels)
    by_slice = _by_slice(labels, infection, lungs, truth.spacing_mm) if labels and truth.spacing_mm else None
    if lungs is None:
        return CaseCalls(case, by_slice, None, None)
    return CaseCalls(
        case,
        by_slice,
        None if false is None else _by_region(truth, infection, lungs, false),
        _everywhere(truth, infection, lungs) if marked is None and not any(labels) else None,
    )


def slice_labels(case: Case, marked: np.ndarray | None, slices: int) -> tuple[bool | None, ...]:
    """Whether each slice holds infection, head first: by a table of labels, a mask or a person without COVID-19.

    None where nobody says so; empty where nobody says anything.
    """
    if case.slice_labels:
        if len(case.slice_labels) != slices:
            got = f"{len(case.slice_labels)} labels, {slices} slices"
            raise CaseError("other-shape", f"{case.where}: {got}; wanted a label for each slice")
        return case.slice_labels
    if marked is not None:
        return tuple(bool(one.any()) for one in marked)
    return (False,) * slices if case.negative else ()


def _by_slice(
    labels: Sequence[bool | None],
    infection: np.ndarray,
    lungs: np.ndarray | None,
    spacing_mm: tuple[float, float, float],
) -> BySlice:
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    called = np.count_nonzero(infection, axis=(1, 2)) * voxel_ml > CALLED_ML
    with_lung = np.ones(len(infection), bool) if lungs is None else lungs.any((1, 2)) | called
    yes = np.array([label is True for label in labels])
    no = np.array([label is False for label in labels]) & with_lung
    return BySlice(*(int(np.count_nonzero(one)) for one in (yes, yes & called, no, no & called)))


def _false(infection: np.ndarray, marked: np.ndarray | None, labels: Sequence[bool | None]) -> np.ndarray | None:
    """Infection called where there is none; None where nobody says where that is."""
    if marked is None and not labels:
        return None
    clear = np.array([label is False for label in labels])[:, None, None] if marked is None else ~marked
    false: np.ndarray = infection & clear
    return false


def _by_region(truth: Truth, infection: np.ndarray, lungs: np.ndarray, false: np.ndarray) -> FalseCalls:
    spacing = truth.spacing_mm or ASSUMED_MM
    outlined = "lungs" in truth.masks
    chest = Chest(
        truth.hu, lungs, spacing, truth.masks.get("infection"), whole=truth.spacing_mm is not None,
        outlined=outlined, prone=_prone(truth),
    )  # fmt: skip
    voxel_ml = float(np.prod(truth.spacing_mm)) / 1000 if truth.spacing_mm else None
    return FalseCalls(count_regions(chest, false), int(np.count_nonzero(lungs)), voxel_ml)


def _prone(truth: Truth) -> bool:
    headers = truth.scan.headers if truth.scan else ()
    return bool(headers) and str(headers[0].get("PatientPosition", "")).endswith("P")


def _everywhere(truth: Truth, infection: np.ndarray, lungs: np.ndarray) -> Everywhere | None:
    """Lung below `AERATED_HU` after smoothing over 4 mm holds no infection; denser lung may be diseased without anyone
    having said so.
    """
    if not (truth.spacing_mm and truth.measured):
        return None
    sigma = SMOOTHED_MM / truth.spacing_mm[1]
    called = aerated = 0
    for hu, here, found in zip(truth.hu, lungs, infection, strict=True):
        if here.any():
            air = here & (cv2.GaussianBlur(hu.astype(np.float32), (0, 0), sigma) < AERATED_HU)
            aerated += int(np.count_nonzero(air))
            called += int(np.count_nonzero(found & air))
    whole = int(np.count_nonzero(infection)), int(np.count_nonzero(lungs))
    return Everywhere(*whole, called, aerated, "lungs" in truth.masks)
