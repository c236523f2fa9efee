"""Training data: folders of labelled slices, each source with its intensity domain, split by patient.

Domains are never mixed silently: `ma-slices` come as 8-bit CLAHE and reach Hounsfield units only through a
restoration network (`covct train restorer`), `medseg` slices through two anchors of their own histogram. Cases of any
other layout (`covct.data.layouts`) are read as source "cases".
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from covct.data.cases import Case, Labelled, LeftOut, medseg_patient, person_of
from covct.data.domains import CLAHE, HU, as_grey, hu_by_anchors, hu_of_window, marked_pixels
from covct.data.layouts import read_volume_rows, search_cases
from covct.data.noise import noise
from covct.data.read_case import class_picture, read_case
from covct.data.screen import SAME, Likeness, Screen
from covct.errors import UsageError
from covct.voxels.preprocess import FieldOfView, body_field_of_view, clahe, to_model_space, whole_slice

SIZE = 256
Restore = Callable[[np.ndarray], np.ndarray]
UNKNOWN = 2  # infection label of a pixel nobody vouches for; left out of the loss
AERATED_HU = -640  # smoothed lung below this holds no infection; above it a cancer patient's lung may
TRUSTED_HU = -700  # darker still: only so far is a cancer patient's lung taken as a negative in training
TISSUE_HU = 40
UNKNOWN_CLASS = 255

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Slices:
    """Labelled axial slices of one source, anterior up.

    Attributes
    ----------
    hu : (slices, 256, 256) int16
    lungs : (slices, 256, 256) uint8
        1 inside either lung; `UNKNOWN` where the source has no lung mask.
    infection : (slices, 256, 256) uint8
        0, 1 or `UNKNOWN`.
    patients : tuple of str
        Patient group of each slice: the unit of every split.
    source : str
    classes : (slices, 256, 256) uint8 or None
        1 ground glass, 2 consolidation, 3 effusion; `UNKNOWN_CLASS` where nobody told them apart.
    sides : (slices, 256, 256) uint8 or None
        1 right lung, 2 left lung; `UNKNOWN_CLASS` where nobody told them apart.
    places : (slices, 2) int or None
        The number of the volume that a slice is of, and its own in it: those one apart are adjacent in the data. None:
        every slice is by itself.
    spacing_mm : (slices, 3) float or None
        Between slices, rows and columns, of the 256 x 256 pixels; NaN where it is not known.
    pool, around : Slices and (slices, channels) int, or None
        Each slice's neighbours as indices into the pool, itself in the middle; see `training.neighbours`.
    """

    hu: np.ndarray
    lungs: np.ndarray
    infection: np.ndarray
    patients: tuple[str, ...]
    source: str
    classes: np.ndarray | None = None
    sides: np.ndarray | None = None
    places: np.ndarray | None = None
    spacing_mm: np.ndarray | None = None
    pool: Slices | None = None
    around: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.hu)

    @property
    def first_of_patients(self) -> list[int]:
        """Index of each patient's first slice."""
        return sorted({patient: index for index, patient in reversed(list(enumerate(self.patients)))}.values())

    def with_lung(self, pixels: int = 200) -> Slices:
        """The slices with at least so much lung."""
        return self.chosen(np.count_nonzero(self.lungs == 1, axis=(1, 2)) >= pixels)

    def with_known_lungs(self) -> Slices:
        """The slices that somebody marked the lungs in."""
        known = (self.lungs != UNKNOWN).all(axis=(1, 2))
        return self if known.all() else self.chosen(known)

    def of(self, patients: frozenset[str], keep: bool = True) -> Slices:
        """The slices of these patients, or with `keep` false of all others."""
        return self.chosen(np.array([(patient in patients) == keep for patient in self.patients], bool))

    def chosen(self, chosen: np.ndarray) -> Slices:
        """Some of the slices. chosen (slices,) bool."""
        arrays = {name: value[chosen] for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        kept = tuple(patient for patient, c in zip(self.patients, chosen, strict=True) if c)
        return replace(self, **arrays, patients=kept)


def held_out_patients(patients: list[str], share: float, seed: int) -> frozenset[str]:
    """Choose whole patients for validation, the same for the same seed. At least one, never all."""
    distinct = sorted(set(patients))
    if len(distinct) < 2:
        raise UsageError(f"a split by patient needs two patients or more, got {len(distinct)}")
    count = min(len(distinct) - 1, max(1, round(share * len(distinct))))
    return frozenset(random.Random(seed).sample(distinct, count))


def read_ma_volumes(folder: Path) -> list[tuple[str, str, np.ndarray, np.ndarray, np.ndarray]]:
    """Read slices of Ma et al. 2020 as published on 8 bit: CLAHE images with lung and infection masks.

    Returns
    -------
    list of (patient, source_intensity, pixels, lungs, infection)
        One entry a volume; (slices, 256, 256) uint8, anterior up.
    """
    volumes = []
    for row in read_volume_rows(folder):
        names = [f"{index:04d}.png" for index in range(int(row["first"]), int(row["last"]) + 1)]
        images = [_stacked([folder / kind / name for name in names]) for kind in ("ct", "lungs", "infection")]
        for place, kind in ((1, "lungs"), (2, "infection")):
            if images[place].shape != images[0].shape:
                got = images[place].shape
                raise UsageError(f"{folder / kind}: {names[0]} and on have shape {got}, ct {images[0].shape}")
            images[place] = marked_pixels(images[place], folder / kind / names[0]).astype(np.uint8)
        if not images[1].any():
            raise UsageError(f"{folder / 'lungs'}: {names[0]} to {names[-1]} mark nothing; wanted lungs")
        if row["anterior"] == "down":
            images = [image[:, ::-1] for image in images]
        pixels, lungs, infection = images
        volumes.append(
            (
                row["patient_group"],
                row.get("source_intensity", ""),
                pixels,
                lungs,
                infection,
            )
        )
    return volumes


def read_ma_slices(folder: Path, restore: Restore, only: frozenset[str] | None = None) -> Slices:
    """The slices of Ma et al. in Hounsfield units, body-cropped, by `restore` (slices, 256, 256) uint8 -> HU.

    `only`: of these patients.
    """
    parts = []
    for patient, _, pixels, lungs, infection in read_ma_volumes(folder):
        if only is not None and patient not in only:
            continue
        hu, lungs, infection = _model_space(restore(pixels), lungs, infection, _view_around_lungs(lungs))
        parts.append(Slices(hu, lungs, infection, (patient,) * len(hu), "ma", places=one_volume(range(len(hu)))))
    return joined(parts, "ma")


def read_lung_volumes(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray, tuple[float, float]]]:
    """Read pairs `NAME_ct.nii.gz`, `NAME_lungs.nii.gz`: HU and lung mask, slices head to feet, anterior up.

    Returns
    -------
    dict of str to (hu, lungs, pixel_spacing_mm)
        (slices, rows, columns) int16 and uint8.

    Raises
    ------
    CaseError
        As `read_case`: a mask is missing or does not fit, or it is no CT in HU.
    """
    volumes = {}
    for labelled in _read_lung_cases(folder):
        assert labelled.lungs is not None and labelled.spacing_mm
        lungs = (labelled.lungs > 0).astype(np.uint8)
        volumes[labelled.case.name] = (labelled.pixels, lungs, labelled.spacing_mm[1:])
    return volumes


def _read_lung_cases(folder: Path) -> Iterator[Labelled]:
    for path in sorted(folder.glob("*_ct.nii.gz")):
        name = path.name.removesuffix("_ct.nii.gz")
        masks = {"lungs": (path.with_name(f"{name}_lungs.nii.gz"),)}
        yield read_case(Case(name, folder.name, folder, "nifti", name, (path,), masks, HU, negative=True))


def read_published_size(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray, tuple[float, float]]]:
    """As `read_lung_volumes`, at the 256 x 256 pixels of the published slices, which restorers are of."""
    out = {}
    for name, (hu, lungs, (down, across)) in read_lung_volumes(folder).items():
        hu, lungs, spacing = _published_size(hu, lungs, (1.0, down, across))
        out[name] = hu, lungs, spacing[1:]
    return out


def _published_size(hu: np.ndarray, lungs: np.ndarray, spacing_mm: tuple[float, float, float]):
    rows, columns = hu.shape[1:]
    if (rows, columns) == (SIZE, SIZE):
        return hu, lungs, spacing_mm
    fine = hu.astype(np.float32)
    hu = np.rint([cv2.resize(one, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for one in fine]).astype(np.int16)
    between, down, across = spacing_mm
    return hu, _nearest(lungs, SIZE), (between, down * rows / SIZE, across * columns / SIZE)


def read_lung_slices(folder: Path, restore: Restore | None = None) -> Slices:
    """LCTSC-like volumes in model space. No infection where lung is aerated; elsewhere in the lung unknown.

    With `restore` they go through the 8-bit recipe and back first: negatives that look restored, as source
    "lctsc-restored".
    """
    parts = []
    rng = np.random.default_rng(0)
    for labelled in _read_lung_cases(folder):
        hu, labels, spacing = labelled.pixels, labelled.lungs, labelled.spacing_mm
        assert labels is not None and spacing
        if restore:
            hu, labels, spacing = _published_size(hu, labels, spacing)
            noisy = np.stack([noise(one.astype(np.float32), rng, strongest=80) for one in hu])
            hu = restore(recipe_pixels(noisy))
        view = body_field_of_view(hu, spacing[1:])
        sides = _model_labels(labels, view, (1, 2)) if labelled.sides else None
        hu, lungs, _ = _model_space(hu, labels > 0, np.zeros_like(labels), view)
        patient, infection = person_of(labelled.case.name), _clean_where_aerated(hu, lungs)
        parts.append(
            Slices(
                hu, lungs, infection, (patient,) * len(hu), "lctsc", None, sides,
                one_volume(range(len(hu))), _model_spacing(len(hu), spacing, view),
            )
        )  # fmt: skip
    return joined(parts, "lctsc-restored" if restore else "lctsc")


def _clean_where_aerated(hu: np.ndarray, lungs: np.ndarray) -> np.ndarray:
    """Infection labels of a person without COVID-19: 0, and `UNKNOWN` in dense lung, which may be another disease."""
    dense = np.stack([_smoothed_inside(one, mask) > TRUSTED_HU for one, mask in zip(hu, lungs, strict=True)])
    return np.where((lungs > 0) & dense, UNKNOWN, 0).astype(np.uint8)


def _smoothed_inside(hu: np.ndarray, mask: np.ndarray, sigma: float = 4.0) -> np.ndarray:
    """HU smoothed over the mask alone, so that neither a vessel nor the chest wall makes lung look dense."""
    weight = (mask > 0).astype(np.float32)
    total = cv2.GaussianBlur((hu + 1000) * weight, (0, 0), sigma)
    return total / np.maximum(cv2.GaussianBlur(weight, (0, 0), sigma), 1e-3) - 1000


def read_medseg_slices(folder: Path, with_classes: bool = False) -> Slices:
    """The 50 JPEG slices of medicalsegmentation.com: lung window, cropped, patient on the side.

    The window is not told: see `hu_by_anchors`. With `with_classes` also those of GT-multiclass/, where it has them.
    """
    stems = sorted((path.stem for path in (folder / "Imgs").glob("*.jpg")), key=lambda stem: (len(stem), stem))
    if not stems:
        raise UsageError(f"{folder / 'Imgs'}: no .jpg pictures; wanted them as medicalsegmentation.com has them")
    return joined([read_medseg_slice(folder, stem, with_classes) for stem in stems], "medseg")


def read_medseg_slice(folder: Path, stem: str, with_classes: bool = False) -> Slices:
    """One of them, the patient upright."""
    gray = np.rot90(_read_gray(folder / "Imgs" / f"{stem}.jpg"), -1).astype(np.float32)
    truth = folder / "GT" / f"{stem}.png"
    infection = np.rot90(marked_pixels(_read_gray(truth), truth), -1)
    if infection.shape != gray.shape:
        raise UsageError(f"{truth}: shape {infection.shape[::-1]}, its image {gray.shape[::-1]}")
    hu, mask = _cropped_in_model_space(hu_by_anchors(gray), infection)
    path, classes = folder / "GT-multiclass" / f"{stem}.png", None
    if with_classes and path.is_file():
        picture = np.rot90(class_picture(path), -1)
        if picture.shape != gray.shape:
            raise UsageError(f"{path}: shape {picture.shape[::-1]}, its image {gray.shape[::-1]}")
        classes = _cropped_classes(picture)
    return Slices(hu, np.full(hu.shape, UNKNOWN, np.uint8), mask, (medseg_patient(stem),), "medseg", classes)


def _cropped_in_model_space(hu: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A slice cropped at the ribs, (rows, columns) float and bool, padded: (1, 256, 256) int16 and uint8."""
    view = whole_slice((max(hu.shape), max(hu.shape)))
    square = to_model_space(_square(hu, TISSUE_HU)[None], view, SIZE)
    marked = to_model_space(_square(mask.astype(np.float32), 0)[None], view, SIZE) > 0.5
    return np.clip(square, -1100, 3071).astype(np.int16), marked.astype(np.uint8)


def _square(image: np.ndarray, fill: float) -> np.ndarray:
    """Pad (rows, columns) to a square: what lies beyond a slice cropped at the ribs is chest wall, not air."""
    side = max(image.shape)
    above, left = (side - image.shape[0]) // 2, (side - image.shape[1]) // 2
    below, right = side - image.shape[0] - above, side - image.shape[1] - left
    return cv2.copyMakeBorder(image, above, below, left, right, cv2.BORDER_CONSTANT, value=fill)


def recipe_pixels(hu: np.ndarray) -> np.ndarray:
    """HU slices as the publisher of `ma-slices` would have made them: (slices, 256, 256) uint8."""
    return np.rint(clahe(hu) * 255).astype(np.uint8)


def find_sources(data: Path) -> dict[str, Path]:
    """Which sources lie under a data folder, recognised by their layout.

    Returns
    -------
    dict of str to Path
        With any of the keys `ma`, `lungs`, `medseg`, each the first folder of its layout, and `cases` (DATA itself)
        where it holds labelled cases beside them: see `other_cases`.

    Raises
    ------
    UsageError
        There is none.
    """
    folders = [data, *sorted(p for p in data.iterdir() if p.is_dir())] if data.is_dir() else []
    found: dict[str, Path] = {}
    for folder in folders:
        if known := published_source(folder):
            found.setdefault(known, folder)
    if other_cases(data, found)[0]:
        found["cases"] = data
    if not found:
        raise UsageError(
            f"{data}: no training data; wanted a folder with volumes.csv (ct/, lungs/, infection/ slices), "
            "NAME_ct.nii.gz with NAME_lungs.nii.gz or NAME_infection.nii.gz, metadata.csv, DICOM series with "
            "DICOM SEG, or Imgs/ with GT/; `covct explore DATA` says what is there and why it is left out"
        )
    return found


def published_source(folder: Path) -> str | None:
    """`ma`, `lungs` or `medseg`, by a folder's layout; None where its cases are source `cases`."""
    if (folder / "volumes.csv").is_file():
        return "ma"
    if any(folder.glob("*_lungs.nii.gz")) and any(folder.glob("*_ct.nii.gz")) and _only_lungs(folder):
        return "lungs"
    if (folder / "Imgs").is_dir() and (folder / "GT").is_dir():
        return "medseg"
    return None


def _only_lungs(folder: Path) -> bool:
    """People without COVID-19, as LCTSC's; nothing is declared that would make a case another."""
    return not any(folder.glob("*_infection.nii*")) and not (folder / "cases.csv").is_file()


def other_cases(data: Path, sources: dict[str, Path]) -> tuple[list[Case], list[LeftOut]]:
    """The labelled cases that none of the sources `ma`, `lungs`, `medseg` holds, and what is left out of them.

    A person who is among those sources already is left out: on both sides of a split nobody would notice.
    """
    taken = {path.resolve() for name, path in sources.items() if name != "cases"}
    found = search_cases(data)
    known = {case.person: case.source for case in found.cases if case.folder.resolve() in taken}
    cases, left_out = [], list(found.left_out)
    for case in found.cases:
        if case.folder.resolve() in taken:
            continue
        if case.person in known:
            left_out.append(
                LeftOut(case.source, case.name, "patient-elsewhere", f"{case.person} is in {known[case.person]} too")
            )
        else:
            cases.append(case)
    return cases, left_out


def read_other_slices(data: Path, sources: dict[str, Path], restore: Restore | None = None) -> Slices:
    """The slices of `other_cases` as source "cases". What is left out is logged with its reason.

    Raises
    ------
    UsageError
        8-bit CLAHE slices without a restorer, or nothing that can be learned from.
    """
    cases, left_out = other_cases(data, sources)
    screen, likeness, parts = Screen(), Likeness(), []
    for case in cases:
        try:
            labelled = read_case(case)
        except UsageError as error:
            left_out.append(LeftOut(case.source, case.name, getattr(error, "slug", "unreadable"), str(error)))
            continue
        kept, faults = screen.judge(labelled)
        left_out += faults
        if kept is not None:
            likeness.add(kept)
            parts.append(slices_of(kept, restore))
    for one in left_out:
        some = f" ({len(one.slices)} slices)" if one.slices else ""
        log.warning("left out: %s %s%s: %s: %s", one.source, one.case, some, one.slug, one.message)
    if not parts:
        raise UsageError(f"{data}: every case was left out; `covct explore {data}` lists the reasons")
    return _one_patient_where_alike(joined(parts, "cases"), likeness)


def _one_patient_where_alike(slices: Slices, likeness: Likeness) -> Slices:
    """Patients with slices that look alike become one, so that no split comes between them."""
    patients = slices.patients
    for one, other, count, _ in likeness.pairs(SAME):
        log.warning("taken for one patient: %s and %s (%d slices look alike)", one.name, other.name, count)
        first, second = (dict(zip(slices.patients, patients, strict=True))[case.patient] for case in (one, other))
        patients = tuple(first if patient == second else patient for patient in patients)
    return replace(slices, patients=patients)


def read_slices(case: Case, restore: Restore | None = None) -> Slices:
    """A case of any layout in model space, in Hounsfield units, as a source of its own.

    Parameters
    ----------
    case : Case
    restore : function, optional
        (slices, 256, 256) uint8 -> HU; 8-bit CLAHE slices need it.

    Raises
    ------
    CaseError
        As `read_case`.
    UsageError
        A restorer is needed and not given.
    """
    return slices_of(read_case(case), restore)


def slices_of(labelled: Labelled, restore: Restore | None = None) -> Slices:
    """A case that was read, in model space; see `read_slices`."""
    case, shape = labelled.case, labelled.pixels.shape
    lungs = np.zeros(shape, np.uint8) if labelled.lungs is None else (labelled.lungs > 0).astype(np.uint8)
    infection = np.zeros(shape, np.uint8) if labelled.infection is None else labelled.infection
    classes, sides = labelled.classes, labelled.lungs if labelled.sides else None
    places = one_volume(range(len(labelled)) if labelled.numbers is None else labelled.numbers)
    spacing = None
    if case.layout == "medseg":
        hu, infection = _cropped_in_model_space(hu_by_anchors(as_grey(labelled.pixels)[0]), infection[0] > 0)
        classes = None if classes is None else _cropped_classes(classes[0])
        lungs = np.zeros(hu.shape, np.uint8)
    else:
        hu, view = _hounsfield(labelled, lungs, restore)
        if hu.shape != shape:  # the restorer has a size of its own
            lungs, infection = (_nearest(mask, SIZE) for mask in (lungs, infection))
            classes = None if classes is None else _nearest(classes, SIZE)
            sides = None if sides is None else _nearest(sides, SIZE)
            view = _view_around_lungs(lungs) if lungs.any() else whole_slice((SIZE, SIZE))
        classes = None if classes is None else _model_labels(classes, view, (1, 2, 3))
        sides = None if sides is None else _model_labels(sides, view, (1, 2))
        if labelled.spacing_mm:
            between, down, across = labelled.spacing_mm
            pixel = (down * shape[1] / hu.shape[1], across * shape[2] / hu.shape[2])
            spacing = _model_spacing(len(hu), (between, *pixel), view)
        hu, lungs, infection = _model_space(hu, lungs, infection, view)
    if case.negative:
        infection = _clean_where_aerated(hu, lungs)
    elif labelled.infection is None:
        infection = np.where(lungs > 0, UNKNOWN, 0).astype(np.uint8)
    if labelled.lungs is None:
        lungs = np.full(hu.shape, UNKNOWN, np.uint8)
    return Slices(hu, lungs, infection, (case.patient,) * len(hu), case.source, classes, sides, places, spacing)


def to_hounsfield(labelled: Labelled, restore: Restore | None = None) -> np.ndarray:
    """The pixels of a case in HU, by the one way of its domain; (slices, rows, columns), CLAHE at 256 x 256.

    Raises
    ------
    UsageError
        8-bit CLAHE without a restorer, naming the file.
    """
    if labelled.domain == HU:
        return labelled.pixels
    grey = as_grey(labelled.pixels)
    if labelled.domain == CLAHE:
        if restore is None:
            where = labelled.case.images[0] if labelled.case.images else labelled.case.name
            raise UsageError(f"{where}: 8-bit CLAHE slices need a restorer: --restorer CARD (covct train restorer)")
        if grey.shape[1:] != (SIZE, SIZE):
            grey = np.stack([cv2.resize(one, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for one in grey])
        return restore(grey)
    if labelled.case.window_hu:
        return hu_of_window(grey, labelled.case.window_hu)
    return hu_by_anchors(grey)  # one window for all slices of a volume


def _hounsfield(labelled: Labelled, lungs: np.ndarray, restore: Restore | None) -> tuple[np.ndarray, FieldOfView]:
    hu = to_hounsfield(labelled, restore)
    if labelled.domain == CLAHE and lungs.any():
        return hu, _view_around_lungs(lungs)
    if labelled.domain == CLAHE:
        return hu, whole_slice(hu.shape[1:])
    spacing = labelled.spacing_mm[1:] if labelled.spacing_mm else (1.0, 1.0)
    return hu, body_field_of_view(hu, spacing)


def _nearest(mask: np.ndarray, size: int) -> np.ndarray:
    return np.stack([cv2.resize(one, (size, size), interpolation=cv2.INTER_NEAREST) for one in mask])


def _cropped_classes(classes: np.ndarray) -> np.ndarray:
    """As `_cropped_in_model_space`, for labels (rows, columns) -> (1, 256, 256) uint8."""
    empty = np.zeros(classes.shape, np.float32)
    return np.maximum.reduce(
        [np.uint8(value) * _cropped_in_model_space(empty, classes == value)[1] for value in (1, 2, 3)], dtype=np.uint8
    )


def joined(parts: Iterable[Slices], source: str) -> Slices:
    """Several sources as one."""
    parts = list(parts)
    return Slices(
        np.concatenate([part.hu for part in parts]),
        np.concatenate([part.lungs for part in parts]),
        np.concatenate([part.infection for part in parts]),
        tuple(patient for part in parts for patient in part.patients),
        source,
        _labels_joined([part.classes for part in parts], parts),
        _labels_joined([part.sides for part in parts], parts),
        _places_joined(parts),
        np.concatenate([np.full((len(p), 3), np.nan) if p.spacing_mm is None else p.spacing_mm for p in parts]),
    )


def _labels_joined(labels: list[np.ndarray | None], parts: list[Slices]) -> np.ndarray | None:
    """Labels of several sources, `UNKNOWN_CLASS` where one has none; None where nobody has."""
    if all(one is None for one in labels):
        return None
    unknown = (np.full(part.hu.shape, UNKNOWN_CLASS, np.uint8) for part in parts)
    return np.concatenate([u if one is None else one for one, u in zip(labels, unknown, strict=True)])


def _places_joined(parts: list[Slices]) -> np.ndarray:
    """The places of several sources' slices, no volume of one with the number of another's."""
    out, first = [np.zeros((0, 2), int)], 0
    for part in parts:
        places = np.stack([np.arange(len(part)), np.zeros(len(part), int)], 1) if part.places is None else part.places
        out.append(places + (first, 0))
        first += int(places[:, 0].max(initial=-1)) + 1
    return np.concatenate(out)


def one_volume(numbers: Sequence[int] | np.ndarray) -> np.ndarray:
    """The places of slices of one volume, by their numbers in it: (slices, 2) int."""
    return np.stack([np.zeros(len(numbers), int), np.asarray(numbers, int)], 1)


def _model_spacing(count: int, spacing_mm: tuple[float, float, float], view: FieldOfView) -> np.ndarray:
    """The spacing of slices once a field of view of them is 256 x 256: (count, 3) float."""
    between, down, across = spacing_mm
    return np.tile((between, down * view.height / SIZE, across * view.width / SIZE), (count, 1))


def _view_around_lungs(lungs: np.ndarray) -> FieldOfView:
    """A square as large as the body's would be: restored air outside the body is not to be trusted.

    lungs (slices, rows, columns) uint8. In the LCTSC volumes the body's square is 1.5 times as wide as the lungs.
    """
    rows, columns = np.flatnonzero(lungs.any((0, 2))), np.flatnonzero(lungs.any((0, 1)))
    side = 1.5 * (columns[-1] - columns[0] + 1)
    return FieldOfView((rows[0] + rows[-1]) / 2, (columns[0] + columns[-1]) / 2, side, side)


def _model_space(hu, lungs, infection, view: FieldOfView):
    masks = [_model_mask(mask, view) for mask in (lungs, infection)]
    return np.clip(np.rint(to_model_space(hu, view, SIZE)), -1100, 3071).astype(np.int16), *masks


def _model_mask(mask: np.ndarray, view: FieldOfView) -> np.ndarray:
    return (to_model_space(mask.astype(np.float32) * 1000 + -1000, view, SIZE) > -500).astype(np.uint8)


def _model_labels(labels: np.ndarray, view: FieldOfView, values: tuple[int, ...]) -> np.ndarray:
    """As `_model_mask`, of labels; where two meet in one pixel the higher."""
    return np.maximum.reduce([np.uint8(v) * _model_mask(labels == v, view) for v in values], dtype=np.uint8)


def _stacked(paths: list[Path]) -> np.ndarray:
    images = [_read_gray(path) for path in paths]
    for path, image in zip(paths, images, strict=True):
        if image.shape != images[0].shape:
            raise UsageError(f"{path}: shape {image.shape}, {paths[0].name} of its volume {images[0].shape}")
    return np.stack(images)


def _read_gray(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise UsageError(f"{path}: not a readable image")
    return image
