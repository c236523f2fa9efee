"""Training data below a folder: the published sources that training knows by their layout, and all other cases.

The first folder of each published layout is a source of its own: `ma` (slices of Ma et al. 2020), `lungs` (people
without COVID-19, such as LCTSC's) and `medseg` (medicalsegmentation.com, cropped or in full field). Nothing is left out
of them but slices that a table calls doubtful: what does not fit is an error. Cases of any other folder
(`covct.data.layouts`) are read as source "cases", without those that do not fit.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from covct.data.cases import LCTSC, MA, MEDSEG, OWN, Case, Labelled, LeftOut
from covct.data.domains import CLAHE, HU
from covct.data.layouts import WANTED, published_source, search_cases, search_folder
from covct.data.line_slices import DOUBTFUL
from covct.data.model_space import Restore, nearest, recipe_pixels, slices_of
from covct.data.noise import noise
from covct.data.read_case import read_case, with_domain
from covct.data.screen import SAME, Likeness, Screen
from covct.data.slices import SIZE, Slices, joined
from covct.data.views import as_hounsfield
from covct.errors import UsageError

log = logging.getLogger(__name__)


def find_sources(data: Path) -> dict[str, Path]:
    """Which sources lie under a data folder, recognised by their layout.

    Returns
    -------
    dict of str to Path
        With any of the keys `ma`, `lungs`, `medseg`, each the first folder of its layout, `ma-hu` where slices of
        `ma` are there in HU too, `medseg-full` where those of `medseg` are there in full field too, and `cases` (DATA
        itself) where it holds labelled cases beside them: see `other_cases`.

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
    for name, better in (("ma", "ma-hu"), ("medseg", "medseg-full")):
        if name not in found and better in found:
            found[name] = found.pop(better)
    cases, left_out = other_cases(data, found) if data.is_dir() else ([], [])
    if cases:
        found["cases"] = data
    if not found:
        first = "".join(f"; {one.slug}: {one.message}" for one in left_out[:2])
        raise UsageError(
            f"{data}: no training data{first}; {WANTED}; `covct explore {data}` says what is there and why not"
        )
    return found


def _cases_of(folder: Path) -> list[Case]:
    """The cases of a published source; UsageError for the first that lacks a file."""
    found = search_folder(folder)
    for one in found.left_out:
        if one.slug not in ("unclaimed", DOUBTFUL):
            raise UsageError(f"{folder}: {one.case}: {one.message}")
    log_left_out(one for one in found.left_out if one.slug == DOUBTFUL)
    return list(found.cases)


def read_ma_slices(
    folder: Path, restore: Restore | None, only: frozenset[str] | None = None, in_hu: Path | None = None
) -> Slices:
    """The slices of Ma et al. in Hounsfield units, body-cropped; 8-bit CLAHE by `restore` (slices, 256, 256) -> HU.

    Parameters
    ----------
    only : set of str
        Of these patients.
    in_hu : Path
        A folder with some of them in HU (`covct.data.hu_slices`), which take the place of those on 8 bit. Without a
        restorer these are all.
    """
    exact = _cases_of(in_hu) if in_hu else []
    there = {(case.patient, number) for case in exact for number in case.numbers}
    rest = [one for case in _cases_of(folder) if (one := _without(case, there)).images]
    if exact and restore is None:
        count = sum(len(case.images) for case in rest)
        log.warning("left out: %d slices of %s on 8 bit: no --restorer to bring them to HU", count, folder.name)
        rest = []
    cases = [*exact, *rest]
    chosen = [case for case in cases if only is None or case.patient in only]
    return joined([slices_of(_with_lungs(case), restore) for case in chosen], MA)


def _without(case: Case, there: set[tuple[str, int]]) -> Case:
    """The slices of a case that are not there already."""
    kept = [index for index, number in enumerate(case.numbers) if (case.patient, number) not in there]
    masks = {kind: tuple(paths[index] for index in kept) for kind, paths in case.masks.items()}
    return replace(case, images=tuple(case.images[index] for index in kept), masks=masks)


def read_equalised_ma_slices(folder: Path) -> Slices | None:
    """Those that are published as 8-bit CLAHE, in that look: source "ma-equalised". None where none is."""
    cases = [case for case in map(with_domain, _cases_of(folder)) if case.domain == CLAHE]
    parts = [slices_of(_with_lungs(case), as_hounsfield) for case in cases]
    return joined(parts, "ma-equalised") if parts else None


def _with_lungs(case: Case) -> Labelled:
    labelled = read_case(case)
    if labelled.lungs is None or not labelled.lungs.any():
        paths = case.masks.get("lungs", case.images)
        raise UsageError(f"{paths[0].parent}: {paths[0].name} to {paths[-1].name} mark nothing; wanted lungs")
    return labelled


def read_lung_volumes(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray, tuple[float, float]]]:
    """Read pairs `NAME_ct.nii.gz`, `NAME_lungs.nii.gz`: HU and lung mask, slices head to feet, anterior up.

    Returns
    -------
    dict of str to (hu, lungs, pixel_spacing_mm)
        (slices, rows, columns) int16 and uint8.

    Raises
    ------
    UsageError
        As `read_case`: a mask is missing or does not fit, or it is no CT in HU.
    """
    volumes = {}
    for labelled in _read_lung_cases(folder):
        assert labelled.lungs is not None and labelled.spacing_mm
        lungs = (labelled.lungs > 0).astype(np.uint8)
        volumes[labelled.case.name] = (labelled.pixels, lungs, labelled.spacing_mm[1:])
    return volumes


def _read_lung_cases(folder: Path) -> Iterator[Labelled]:
    return (read_case(replace(case, domain=HU)) for case in _cases_of(folder))


def read_published_size(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray, tuple[float, float]]]:
    """As `read_lung_volumes`, at the 256 x 256 pixels of the published slices, which restorers are of."""
    out = {}
    for name, (hu, lungs, (down, across)) in read_lung_volumes(folder).items():
        hu, lungs, spacing = _published_size(hu, lungs, (1.0, down, across))
        out[name] = hu, lungs, spacing[1:]
    return out


def _published_size(
    hu: np.ndarray, lungs: np.ndarray, spacing_mm: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    rows, columns = hu.shape[1:]
    if (rows, columns) == (SIZE, SIZE):
        return hu, lungs, spacing_mm
    fine = hu.astype(np.float32)
    hu = np.rint([cv2.resize(one, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for one in fine]).astype(np.int16)
    between, down, across = spacing_mm
    return hu, nearest(lungs, SIZE), (between, down * rows / SIZE, across * columns / SIZE)


def read_lung_slices(folder: Path, restore: Restore | None = None) -> Slices:
    """LCTSC-like volumes in model space. No infection where lung is aerated; elsewhere in the lung unknown.

    With `restore` they go through the 8-bit recipe and back first: negatives that look restored, as source
    "lctsc-restored".
    """
    if restore is None:
        return joined(map(slices_of, _read_lung_cases(folder)), LCTSC)
    rng = np.random.default_rng(0)
    parts = [slices_of(_there_and_back(labelled, restore, rng)) for labelled in _read_lung_cases(folder)]
    return joined(parts, "lctsc-restored")


def _there_and_back(labelled: Labelled, restore: Restore, rng: np.random.Generator) -> Labelled:
    """A volume in HU as if it had been published as 8-bit CLAHE and restored."""
    assert labelled.lungs is not None and labelled.spacing_mm
    hu, lungs, spacing = _published_size(labelled.pixels, labelled.lungs, labelled.spacing_mm)
    noisy = np.stack([noise(one.astype(np.float32), rng, strongest=80) for one in hu])
    return replace(labelled, pixels=restore(recipe_pixels(noisy)), lungs=lungs, spacing_mm=spacing)


def read_medseg_slices(folder: Path, with_classes: bool = False, in_full: Path | None = None) -> Slices:
    """The slices of medicalsegmentation.com: lung window, cropped, patient on the side, here upright.

    Parameters
    ----------
    with_classes : bool
        Also the classes, where somebody told them apart (GT-multiclass/).
    in_full : Path
        A folder with some of them in full field (`covct.data.line_slices`), which take the place of those cropped.
    """
    full = _cases_of(in_full) if in_full else []
    there = {case.name for case in full}
    cases = [*full, *(case for case in _cases_of(folder) if case.name not in there)]
    if not cases:
        raise UsageError(f"{folder / 'Imgs'}: no pictures; wanted them as medicalsegmentation.com has them")
    if not with_classes:
        cases = [replace(case, masks=_one_of(case.masks, "infection", "classes")) for case in cases]
    slices = joined([slices_of(read_case(case)) for case in cases], MEDSEG)
    return slices if with_classes else replace(slices, classes=None)


def _one_of(masks: Mapping[str, tuple[Path, ...]], *kinds: str) -> dict[str, tuple[Path, ...]]:
    """The first kind of mask that is there."""
    kind = next(kind for kind in kinds if kind in masks)
    return {kind: masks[kind]}


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
    log_left_out(left_out)
    if not parts:
        raise UsageError(f"{data}: every case was left out; `covct explore {data}` lists the reasons")
    return _one_patient_where_alike(joined(parts, OWN), likeness)


def log_left_out(left_out: Iterable[LeftOut]) -> None:
    """A warning for each."""
    for one in left_out:
        some = f" ({len(one.slices)} slices)" if one.slices else ""
        log.warning("left out: %s %s%s: %s: %s", one.source, one.case, some, one.slug, one.message)


def _one_patient_where_alike(slices: Slices, likeness: Likeness) -> Slices:
    """Patients with slices that look alike become one, so that no split comes between them."""
    patients = slices.patients
    for one, other, count, _ in likeness.pairs(SAME):
        log.warning("taken for one patient: %s and %s (%d slices look alike)", one.name, other.name, count)
        first, second = (dict(zip(slices.patients, patients, strict=True))[case.patient] for case in (one, other))
        patients = tuple(first if patient == second else patient for patient in patients)
    return replace(slices, patients=patients)
