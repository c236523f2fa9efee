"""What each task learns from: how a sample is drawn, whom it is validated on, and what the card says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from covct.errors import UsageError
from covct.training import augment
from covct.training.dataset import (
    SIZE,
    UNKNOWN,
    Slices,
    held_out_patients,
    read_lung_slices,
    read_lung_volumes,
    read_ma_slices,
    read_medseg_slices,
)
from covct.training.empty_slices import of_slices
from covct.training.prepare import Preparation, crop, preparation, show
from covct.training.presets import deform, tint
from covct.training.restoration import Sample, restoration_pair
from covct.training.settings import Settings

SOURCES = {
    "ma": "COVID-19 CT Lung and Infection Segmentation (Ma et al. 2020, doi 10.5281/zenodo.3757476), "
    "8-bit CLAHE slices; partly CC BY-NC-SA",
    "lungs": "LCTSC (The Cancer Imaging Archive), CC BY 3.0",
    "medseg": "medicalsegmentation.com COVID-19 CT segmentation slices, non-commercial use only",
}
# medseg's slices end at the ribs: shrink, and put tissue around; but not where all are cropped to the lungs
CROPPED = {"scale": (0.6, 1.0), "border_hu": 40.0}
CROPPED_LIKE_ALL = {"scale": (0.85, 1.15), "border_hu": 40.0}


@dataclass(frozen=True)
class Plan:
    """One task's data: how to draw a sample, what to validate on, and what the card says of it."""

    draw: Callable[[np.random.Generator], Sample]
    validation: tuple[np.ndarray, np.ndarray]
    loss: str
    recipe: str
    field_of_view: str
    held_out: dict[str, list[str]]
    sources: dict[str, str]
    slices: dict[str, int]
    arguments: dict[str, float] = field(default_factory=dict)  # of the recipe
    size: int = SIZE


def plan_restorer(sources: dict[str, Path], settings: Settings, restore=None) -> Plan:
    """The way back from 8-bit CLAHE to HU: pairs are free from any HU scan through the recipe."""
    preparation(settings)
    if "lungs" not in sources:
        raise UsageError("the restorer learns from HU volumes with lung masks (NAME_ct.nii.gz, NAME_lungs.nii.gz)")
    volumes = read_lung_volumes(sources["lungs"])
    held = held_out_patients(list(volumes), settings.validation_share, settings.seed)
    kept = [(hu, lungs) for name, (hu, lungs, _) in volumes.items() if name not in held]
    hu, lungs = (np.concatenate(arrays) for arrays in zip(*kept, strict=True))
    check = [(hu, lungs) for name, (hu, lungs, _) in volumes.items() if name in held]
    check_hu, check_lungs = (np.concatenate(arrays)[::4] for arrays in zip(*check, strict=True))
    rng = np.random.default_rng(settings.seed)
    validation = [restoration_pair(h, m, rng) for h, m in zip(check_hu, check_lungs, strict=True)]

    def draw(rng: np.random.Generator) -> Sample:
        index = rng.integers(len(hu))
        return restoration_pair(hu[index], lungs[index], rng)

    x, y = (np.stack(arrays) for arrays in zip(*validation, strict=True))
    return Plan(
        draw, (x, y), "l1", "clahe", "whole", {"lctsc": sorted(held)}, _cite(sources, "lungs"), {"lctsc": len(hu)}
    )


def plan_lungs(sources: dict[str, Path], settings: Settings, restore) -> Plan:
    """Lungs with consolidation inside: radiologists' masks, and dense lesions put into real HU lungs."""
    how = preparation(settings)
    parts = [crop(part, how.field_of_view) for part in _read(sources, restore, ("ma", "lungs"))]
    train_sets, check_sets, held = _split(parts, settings)

    def draw(rng: np.random.Generator) -> Sample:
        part = train_sets[rng.integers(len(train_sets))]
        index = rng.integers(len(part))
        hu, lungs, infection = part.hu[index], part.lungs[index], part.infection[index]
        hu, lungs, infection = deform(
            how.preset, (hu, lungs, infection), ("hu", "mask", "mask"), rng, scale=(0.75, 1.25)
        )
        if how.preset.lesions and rng.random() < 0.4:
            hu = augment.lung_density(hu, lungs, rng)
        if how.preset.lesions and rng.random() < 0.5:
            hu, _ = augment.insert_opacity(hu, lungs, rng)
        return show(how, tint(how.preset, hu, rng), lungs == 1, np.ones(lungs.shape), rng)

    checks = [_stack(how, part, part.lungs == 1, np.ones(part.lungs.shape)) for part in check_sets]
    return _plan(draw, how, checks, held, sources, train_sets)


def plan_infection(sources: dict[str, Path], settings: Settings, restore) -> Plan:
    """Infection where the source of a slice tells nothing: each source comes with disease and without.

    Ma slices keep, change or lose their lesions; LCTSC slices stay as they are or receive transplanted or
    invented ones, and half of them went through the recipe and the restoration like the Ma slices.
    """
    parts = _read(sources, restore, ("ma", "lungs", "medseg"))
    if restore and "lungs" in sources:
        parts.append(read_lung_slices(sources["lungs"], restore))
    how = preparation(settings)
    parts = [crop(part, how.field_of_view) for part in parts]
    train_sets, check_sets, held = _split(parts, settings)
    by_source = {part.source: part for part in train_sets}
    diseased = [by_source[name] for name in ("ma", "medseg") if name in by_source]
    clean = [by_source[name] for name in ("lctsc", "lctsc-restored") if name in by_source]
    if not diseased:
        raise UsageError("infection needs slices with infection masks (volumes.csv with ct/, lungs/, infection/)")
    donors = by_source.get("ma")
    at_the_ribs = CROPPED_LIKE_ALL if how.field_of_view.startswith("lung-") else CROPPED
    clean = [part.with_lung() for part in clean]  # the network runs on slices with lung only

    def draw(rng: np.random.Generator) -> Sample:
        cropped = False
        if not clean or rng.random() < 0.68:
            part = diseased[0] if len(diseased) == 1 or rng.random() < 0.8 else diseased[1]
            hu, lungs, infection = _pick(part, rng)
            cropped = part.source == "medseg"
            if how.preset.lesions and part.source == "ma" and rng.random() < 0.4:
                hu, infection = augment.rescale_lesion(hu.astype(np.float32), lungs, infection, rng)
        else:
            hu, lungs, infection = _pick(clean[rng.integers(len(clean))], rng)
            if how.preset.lesions:
                hu, infection = _maybe_diseased(hu.astype(np.float32), lungs, infection, donors, rng)
        own = at_the_ribs if cropped else {"scale": (0.85, 1.3)}
        hu, lungs, infection = deform(how.preset, (hu, lungs, infection), ("hu", "mask", "mask"), rng, **own)
        if how.preset.lesions and rng.random() < 0.25:
            hu = augment.lung_density(hu, lungs == 1, rng)
        return show(how, tint(how.preset, hu, rng), infection == 1, infection != UNKNOWN, rng)

    checks = [
        _stack(how, part, part.infection == 1, part.infection != UNKNOWN)
        for part in check_sets
        if part.source != "lctsc-restored"
    ]
    return _plan(draw, how, checks, held, sources, train_sets, "tversky+ce")


def _maybe_diseased(hu, lungs, infection, donors, rng):
    kind = rng.random()
    if kind < 0.45:
        return hu, infection
    if kind < 0.75 and donors is not None:
        donor = rng.integers(len(donors))
        hu, mask = augment.transplant_lesion(
            hu, lungs, donors.hu[donor], donors.lungs[donor], donors.infection[donor], rng
        )
    else:
        before = hu
        hu, mask = augment.insert_opacity(hu, lungs, rng)
        mask = mask * (hu - before > 40)
    return hu, np.where(mask > 0.5, 1, infection).astype(np.uint8)


def _read(sources: dict[str, Path], restore, wanted: tuple[str, ...]) -> list[Slices]:
    parts = []
    if "ma" in wanted and "ma" in sources:
        if restore is None:
            raise UsageError("the 8-bit CLAHE slices need a restorer: --restorer CARD (covct train restorer)")
        parts.append(read_ma_slices(sources["ma"], restore))
    if "lungs" in wanted and "lungs" in sources:
        parts.append(read_lung_slices(sources["lungs"]))
    if "medseg" in wanted and "medseg" in sources:
        parts.append(read_medseg_slices(sources["medseg"]))
    if not parts:
        raise UsageError(f"none of the sources {wanted} was found")
    return parts


def _split(parts: list[Slices], settings: Settings):
    train_sets, check_sets, held = [], [], {}
    for part in parts:
        patients = held_out_patients(list(part.patients), settings.validation_share, settings.seed)
        held[part.source] = sorted(patients)
        train_sets.append(part.of(patients, keep=False))
        check_sets.append(part.of(patients))
    return train_sets, check_sets, held


def _pick(part: Slices, rng):
    """A slice: half the time of any patient alike, else any slice alike; patients have 2 to 180 slices."""
    index = rng.integers(len(part))
    if rng.random() < 0.5:
        patient = part.patients[rng.choice(part.first_of_patients)]
        index = rng.choice(np.flatnonzero(np.array(part.patients) == patient))
    return part.hu[index], part.lungs[index], part.infection[index]


def _stack(how: Preparation, part: Slices, label, weight) -> Sample:
    """Every second slice: neighbours tell little more, and cost as much."""
    return show(how, part.hu[::2], label[::2], weight[::2])


def _plan(draw, how: Preparation, checks, held, sources, train_sets, loss="dice+ce") -> Plan:
    x, y = (np.concatenate(arrays) for arrays in zip(*checks, strict=True))
    counts = {part.source: len(part) for part in train_sets}
    cited = _cite(sources, "ma", "lungs", "medseg")
    return Plan(draw, (x, y), loss, how.recipe, how.field_of_view, held, cited, counts, dict(how.arguments), how.size)


def _cite(sources: dict[str, Path], *names: str) -> dict[str, str]:
    return {name: SOURCES[name] for name in names if name in sources}


def plan_empty_slices(sources: dict[str, Path], settings: Settings, restore) -> Plan:
    """Which slices hold no infection: learned from the same slices as infection itself."""
    return of_slices(plan_infection(sources, settings, restore), settings)


PLANS = {
    "restorer": plan_restorer,
    "lungs": plan_lungs,
    "infection": plan_infection,
    "empty-slices": plan_empty_slices,
}
