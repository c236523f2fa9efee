"""One case: what is called in it, and how that compares with the truth."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass, field, replace
from itertools import repeat

import cv2
import numpy as np

from covct.data.cases import Case
from covct.data.slice_distance import estimated_distance_mm
from covct.data.slices import first_of_runs, one_volume
from covct.errors import UsageError
from covct.evaluation import calibration, detection
from covct.evaluation.intervals import Promise, promise_of_report
from covct.evaluation.lesions import lesion_sums
from covct.evaluation.outline import outline_sums
from covct.evaluation.scores import Counts, count, scores
from covct.evaluation.surface import surface_scores
from covct.evaluation.truth import Truth
from covct.intake.choice import Choice
from covct.intake.discover import Series, discover
from covct.networks.cards import Card
from covct.networks.network import Network, Networks, field_of_view, probabilities, surroundings
from covct.pipeline.burden import severity
from covct.pipeline.conformal import Stated
from covct.pipeline.likeness import OUT_OF_DISTRIBUTION
from covct.pipeline.series import Clock, process
from covct.voxels.around import Around
from covct.voxels.fields_of_view import MODEL_PIXEL_MM, lung_field_of_view
from covct.voxels.half import to_half
from covct.voxels.overlay import BACKGROUND, cut, draw_slice, paint_agreement
from covct.voxels.preprocess import FieldOfView, from_model_space, whole_slice

PICTURE_SIDE, GAP = 260, 4
LEAST_SHOWN = 0.003  # of a slice marked, truth or called: of less the Dice says little and a picture nothing
MODEL_PIXELS_MM = (MODEL_PIXEL_MM, MODEL_PIXEL_MM)
CUT_ALREADY = ("body", "otsu-body", "whole")  # fields of view that are all of a slice in model space


@dataclass(frozen=True)
class Called:
    """What a network or another tool marks in a case.

    Attributes
    ----------
    masks : dict of str to (slices, rows, columns) bool
        By task.
    probability : dict of str to function (int) -> (rows, columns) float
        Of a slice; empty for other tools.
    promise : Promise or None
        Our networks' interval for the infected share of the lungs, of whole series.
    stated : dict of str to Stated
        Of whole series, by figure of both lungs: what the report gives, and the networks' own doubt.
    unlike : bool
        Of whole series: the report has no intervals, since the scan looks like nothing that was learned.
    """

    masks: dict[str, np.ndarray]
    probability: dict[str, Callable[[int], np.ndarray]] = field(default_factory=dict)
    promise: Promise | None = None
    stated: dict[str, Stated] = field(default_factory=dict)
    unlike: bool = False


@dataclass(frozen=True)
class Picture:
    """A slice without masks, with the truth and with what was called, side by side, as PNG."""

    case: str
    number: int
    of: int
    dice: float
    png: bytes


@dataclass(frozen=True)
class Burden:
    """Infection and lungs on both sides, each in mL, in voxels where the spacing is unknown."""

    true_infection: float
    true_lung: float
    infection: float
    lung: float

    def __add__(self, other: Burden) -> Burden:
        return Burden(*(one + more for one, more in zip(astuple(self), astuple(other), strict=True)))

    @property
    def percent(self) -> tuple[float, float]:
        """Infected share of the lungs, true and called; of no lung found 0."""
        found = 100 * self.infection / self.lung if self.lung else 0.0
        return 100 * self.true_infection / self.true_lung, found

    @property
    def severity(self) -> tuple[int, int]:
        """Severity class, as a report has it, true and called."""
        true, called = (severity(percent)[0] or 1 for percent in self.percent)
        return true, called


@dataclass(frozen=True)
class Judged:
    """One task of one case.

    Attributes
    ----------
    slice_counts : (slices, 4) int
        As `Counts`.
    surface : (hd95_mm, surface_dice) or None
        None where the spacing is unknown.
    volume_ml : (truth, called) or None
        None where the spacing is unknown.
    outline : (outline.LENGTH,) float
        As `outline.outline_sums`.
    burden : Burden or None
        Infection only, and where lungs are known on both sides.
    marked_inside : (inside, marked) or None
        Infection only: voxels of marked infection inside the lungs found, and all of them; None where no lungs were
        called.
    promise : Promise or None
        Infection only: our networks' interval for its share of the lungs.
    histogram : (calibration.LENGTH,) float or None
    detection : (detection.LENGTH,) float or None
        Infection only, where there are probabilities.
    lesions : (lesions.LENGTH,) float or None
        Infection only: as `lesions.lesion_sums`; None where the spacing is unknown, or of a single slice.
    """

    case: Case
    task: str
    counts: Counts
    slice_counts: np.ndarray
    surface: tuple[float, float] | None
    volume_ml: tuple[float, float] | None
    outline: np.ndarray
    burden: Burden | None
    marked_inside: tuple[int, int] | None
    promise: Promise | None
    histogram: np.ndarray | None
    detection: np.ndarray | None
    lesions: np.ndarray | None
    truth_sha256: str
    called_sha256: str
    spacing_mm: tuple[float, float, float] | None
    pictures: tuple[Picture, ...] = ()


def look_at_slices(networks: Networks, truth: Truth, infection: bool = True, lungs: np.ndarray | None = None) -> Called:
    """Our networks on slices in model space: thresholds only, infection inside the lungs found, or in `lungs`."""
    probability = {"lungs": _probability(networks.lungs, truth)} if lungs is None else {}
    masks = {"lungs": probability["lungs"] >= networks.lungs.card.threshold if lungs is None else lungs}
    if infection:
        probability["infection"] = _probability(networks.infection, truth, masks["lungs"])
        masks["infection"] = (probability["infection"] >= networks.infection.card.threshold) & masks["lungs"]
    return Called(masks, {task: one.__getitem__ for task, one in probability.items()})


def _probability(network: Network, truth: Truth, lungs: np.ndarray | None = None) -> np.ndarray:
    """(slices, rows, columns) float16, on the pixels of the slices; these are cut to the body already."""
    card, hu, shape = network.card, truth.hu, truth.hu.shape[1:]
    if card.spacing_mm:
        raise UsageError(
            f"{card.name} is a network of volumes at {card.spacing_mm} mm: got slices whose distance is not known, "
            "wanted whole series (NIfTI or DICOM)"
        )
    view = whole_slice(shape) if card.field_of_view in CUT_ALREADY else field_of_view(card, hu, MODEL_PIXELS_MM, lungs)
    seen = probabilities(network, hu, view, np.ones(len(hu), bool), around=_around(card, truth))
    if view == whole_slice(shape) and seen.shape == hu.shape:
        return seen
    return np.stack([to_half(from_model_space(one.astype(np.float32), view, shape)) for one in seen])


def _around(card: Card, truth: Truth) -> Around:
    """What lies around each slice: those of pictures have gaps, and mostly a distance that only they tell."""
    numbers = np.arange(len(truth.hu)) if truth.numbers is None else truth.numbers
    gaps = first_of_runs(one_volume(numbers))
    if not card.neighbours_mm:
        return surroundings(card, len(numbers), first_of_runs=gaps)
    slice_mm = truth.spacing_mm[0] if truth.spacing_mm else np.nan
    if np.isnan(slice_mm):
        slice_mm = estimated_distance_mm(truth.hu, numbers)
    return surroundings(card, len(numbers), slice_mm, gaps)


def look_at_series(networks: Networks, case: Case) -> Called:
    """Our networks on a whole series: the line as `covct scan` runs it, on the source's own grid."""
    result = process(Choice(_series(case), (), ()), lambda: networks, "evaluation", Clock())
    masks, figures = result.masks, result.report["regions"]["lungs"]
    shape = masks.lungs.shape[1:]
    return Called(
        {"lungs": np.asarray(masks.lungs) > 0, "infection": np.asarray(masks.infection)},
        {
            "lungs": lambda index: masks.lung_probability.on_slice(index, shape),
            "infection": lambda index: masks.infection_probability.on_slice(index, shape),
        },
        promise_of_report(result.report),
        {name: stated[0] for name, stated in result.stated.items() if figures[name] is not None},
        any(warning["slug"] == OUT_OF_DISTRIBUTION for warning in result.report["warnings"]),
    )


def _series(case: Case) -> Series:
    """What the line of a scan wants: of a volume file its contents' hash too."""
    return case.series or discover([case.images[0]]).series[0]


def judge(
    case: Case, label: str, truth: Truth, called: Called, tasks: tuple[str, ...], tolerance_mm: float
) -> list[Judged]:
    """Compare what was called with the truth, task by task. Returns a list of Judged.

    Where nobody knows the truth nothing counts, whatever is called there.

    Parameters
    ----------
    label : str
        The case's name as it may be shown.
    """
    if truth.known is not None:
        known = truth.known
        called = replace(called, masks={task: mask & known for task, mask in called.masks.items()})
    return [
        _judge(case, label, truth, called, task, tolerance_mm)
        for task in tasks
        if task in truth.masks and task in called.masks
    ]


def _judge(case: Case, label: str, truth: Truth, called: Called, task: str, tolerance_mm: float) -> Judged:
    true, mine = truth.masks[task], called.masks[task]
    known: Iterable[np.ndarray | None] = repeat(None, len(true)) if truth.known is None else truth.known
    slice_counts = np.array([list(count(*three)) for three in zip(true, mine, known, strict=True)])
    counts = Counts(*(int(total) for total in slice_counts.sum(0)))
    surface = volume_ml = lesions = None
    if truth.spacing_mm:
        surface = surface_scores(true, mine, truth.spacing_mm, tolerance_mm)
        voxel_ml = float(np.prod(truth.spacing_mm)) / 1000
        if task == "infection" and len(true) > 1:
            lesions = lesion_sums(true, mine, 1000 * voxel_ml)
        volume_ml = ((counts.hit + counts.missed) * voxel_ml, (counts.hit + counts.invented) * voxel_ml)
    return Judged(
        case,
        task,
        counts,
        slice_counts,
        surface,
        volume_ml,
        outline_sums(true, mine),
        _burden(truth, called, counts) if task == "infection" else None,
        _marked_inside(true, called) if task == "infection" else None,
        called.promise if task == "infection" else None,
        *_histograms(truth, called, task),
        lesions,
        digest([true]),
        digest([mine]),
        truth.spacing_mm,
        tuple(_pictures(label, truth, called, task, slice_counts)),
    )


def _burden(truth: Truth, called: Called, counts: Counts) -> Burden | None:
    """Each side by its own lungs; a tool that marks no lungs gets the true ones."""
    lungs = truth.masks.get("lungs")
    if lungs is None or not lungs.any():
        return None
    voxel = float(np.prod(truth.spacing_mm)) / 1000 if truth.spacing_mm else 1.0
    found = (int(np.count_nonzero(one)) for one in (lungs, called.masks.get("lungs", lungs)))
    true_lung, lung = (voxels * voxel for voxels in found)
    return Burden((counts.hit + counts.missed) * voxel, true_lung, (counts.hit + counts.invented) * voxel, lung)


def _marked_inside(true: np.ndarray, called: Called) -> tuple[int, int] | None:
    lungs = called.masks.get("lungs")
    return None if lungs is None else (int(np.count_nonzero(true & lungs)), int(np.count_nonzero(true)))


def _histograms(truth: Truth, called: Called, task: str) -> tuple[np.ndarray | None, np.ndarray | None]:
    """For calibration and for detection. Infection is asked for in the lungs found, lungs everywhere."""
    if task not in called.probability:
        return None, None
    calibrated, detected = np.zeros(calibration.LENGTH), np.zeros(detection.LENGTH)
    for index, true in enumerate(truth.masks[task]):
        region = called.masks["lungs"][index] if task == "infection" else np.ones(true.shape, bool)
        if truth.known is not None:
            region, true = region & truth.known[index], true & truth.known[index]
        probability = called.probability[task](index)
        calibrated += calibration.histogram(probability, true, region)
        if task == "infection":
            detected += detection.histogram(probability, true, region)
    return calibrated, detected if task == "infection" else None


def _pictures(label: str, truth: Truth, called: Called, task: str, slice_counts: np.ndarray) -> Iterator[Picture]:
    """The two worst and the two best slices of a case."""
    pixels = slice_counts.sum(1)
    marked = slice_counts[:, :3].sum(1)
    dice = scores(slice_counts)["dice"]
    telling = np.flatnonzero((marked >= LEAST_SHOWN * pixels) & ~np.isnan(dice))
    ranked = telling[np.argsort(dice[telling], kind="stable")].tolist()
    view = _view(truth, called)
    for index in dict.fromkeys([*ranked[:2], *ranked[-2:]]):
        png = _drawn(truth, called, task, index, view)
        yield Picture(label, index + 1, len(dice), float(dice[index]), png)


def _view(truth: Truth, called: Called) -> FieldOfView:
    """The same square for all slices of a case: around all that is marked in any of them."""
    marked = np.any([mask.any(0) for mask in (*truth.masks.values(), *called.masks.values())], axis=0)
    return lung_field_of_view(marked[None].astype(np.uint8), truth.spacing_mm[1:] if truth.spacing_mm else (1.0, 1.0))


def _drawn(truth: Truth, called: Called, task: str, index: int, view: FieldOfView) -> bytes:
    """Scan, truth and call of a slice, side by side; of the call what is right, false and missed."""
    nothing = np.zeros(truth.hu.shape[1:], np.uint8)

    def lungs_of(masks: dict[str, np.ndarray]) -> np.ndarray:
        return masks["lungs"][index].astype(np.uint8) if "lungs" in masks else nothing

    marked = truth.masks["infection"][index] if task == "infection" else nothing
    beside = lungs_of(called.masks) if task == "infection" else nothing
    layers = [(nothing, nothing), (lungs_of(truth.masks), marked), (beside, nothing)]
    panels = [draw_slice(truth.hu[index], *pair, view, PICTURE_SIDE) for pair in layers]
    true, mine = (cut(masks[task][index], view, PICTURE_SIDE) > 0.5 for masks in (truth.masks, called.masks))
    paint_agreement(panels[2], true, mine, fill_right=task == "infection")
    gap = np.full((PICTURE_SIDE, GAP, 3), BACKGROUND, np.uint8)
    row = np.concatenate([panels[0], gap, panels[1], gap, panels[2]], 1)
    _, png = cv2.imencode(".png", row[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
    return png.tobytes()


def digest(masks: Iterable[np.ndarray]) -> str:
    """sha256 of masks, bit by bit, with their shapes."""
    out = hashlib.sha256()
    for mask in masks:
        out.update(str(mask.shape).encode() + np.packbits(mask).tobytes())
    return out.hexdigest()
