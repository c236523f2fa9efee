"""The plan of each task: which slices, how they are changed, and on whom it is validated."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from covct.data.slices import UNKNOWN, Slices, joined
from covct.data.views import equalised
from covct.errors import UsageError
from covct.training.samples import classes, neighbours, volumes
from covct.training.samples.empty_slices import of_slices
from covct.training.samples.inputs import patch_of
from covct.training.samples.lung_changes import change_lungs
from covct.training.samples.neighbours import show_part, show_stack, stack, with_context
from covct.training.samples.partial_lungs import with_partial_lungs
from covct.training.samples.plan import SOURCES, Origin, Origins, Plan, cite
from covct.training.samples.prepare import Preparation, crop, preparation
from covct.training.samples.presets import LungChanges, deform, tint_alike
from covct.training.samples.reading import Reading
from covct.training.samples.restoration import Sample
from covct.training.samples.restorer import plan_restorer
from covct.training.samples.split import Split, split_sources
from covct.training.settings import Settings

log = logging.getLogger(__name__)
# Slices that end at the ribs: shrink, and put tissue around; but not where all are cropped to the lungs
CROPPED = {"scale": (0.6, 1.0), "border_hu": 40.0}
CROPPED_LIKE_ALL = {"scale": (0.85, 1.15), "border_hu": 40.0}
NOTHING_AROUND = (
    "What lies around the chest is unknown in all slices that it learned from: in scans it may call anything there."
)
EQUALISED = {"scale": (0.7, 1.2)}  # the publisher's CLAHE saw whole slices, ours are cut around the body
EQUALISED_SHARE = 0.4


def plan_lungs(reading: Reading, settings: Settings) -> Plan:
    """Lungs with consolidation inside: radiologists' masks, dense lung put into real HU lungs, and real dense lung.

    The latter is medicalsegmentation.com's, of which only infection is marked: see `partial_lungs`. In the look of a
    scanner only: trained on with the look of CLAHE, lungs lost more of the dense lung in HU (weights/README.md).
    """
    how = preparation(settings)
    if settings.classes:
        return _plan_classes(reading, settings, how, ("lungs", "cases"))
    read = reading.parts(("ma", "lungs", "medseg", "cases"))
    marked = [with_partial_lungs(part) if part.source == "medseg" else part.with_known_lungs() for part in read]
    parts = [crop(part, how.field_of_view) for part in marked if len(part)]
    if not parts:
        raise UsageError("lungs need slices with lung masks; none of the cases has one")
    if patch_of(settings):
        return _plan_volumes(parts, reading, settings, how)
    split = split_sources(parts, settings)
    train_sets = [with_context(part, settings) for part in split.train_sets]

    partial = [part for part in train_sets if part.source == "medseg"]
    whole = [part for part in train_sets if part.source != "medseg"]
    partial_share = (how.preset.lungs or LungChanges()).partial

    def draw(rng: np.random.Generator, origins: Origins | None = None) -> Sample:
        among = partial if partial and (not whole or rng.random() < partial_share) else whole
        part = among[rng.integers(len(among))]
        index = int(rng.integers(len(part)))
        _note(origins, part, index)
        hu, lungs, infection, there = stack(part, index, rng, how.preset.thickest_mm)
        own = CROPPED if part.ends_at_the_ribs(index) else {"scale": (0.75, 1.25)}
        hu, lungs, infection = deform(how.preset, (hu, lungs, infection), ("hu", "mask", "mask"), rng, **own)
        if how.preset.lungs:
            hu = change_lungs(how.preset.lungs, hu, lungs, rng, whole=part.source != "medseg")
        return show_stack(how, tint_alike(how.preset, hu, rng), lungs == 1, lungs != UNKNOWN, rng, there)

    check_sets = [with_context(part, settings) for part in split.check_sets]
    checks = {part.source: _stack(how, part, part.lungs == 1, part.lungs != UNKNOWN) for part in check_sets}
    return replace(_plan(draw, how, checks, split, reading.sources), limits=_unknown_around(marked))


def _unknown_around(marked: list[Slices]) -> tuple[str, ...]:
    """What is to be said where no slice tells what lies at its rim, as those do not that were cropped to the chest."""
    if any((part.lungs[:, [0, -1]] != UNKNOWN).any() for part in marked):
        return ()
    log.warning("lungs: %s Add scans in full field to the data.", NOTHING_AROUND)
    return (NOTHING_AROUND,)


def plan_infection(reading: Reading, settings: Settings) -> Plan:
    """Infection where the source of a slice tells nothing: each source comes with disease and without.

    Ma slices keep, change or lose their lesions; LCTSC slices stay as they are or receive transplanted or
    invented ones, and half of them went through the recipe and the restoration like the Ma slices.
    """
    how = preparation(settings)
    if settings.classes:
        return _plan_classes(reading, settings, how, ("lungs", "medseg", "cases"))
    read = reading.parts(("ma", "lungs", "medseg", "cases")) + reading.other_looks()
    parts = [crop(part, how.field_of_view) for part in read]
    if patch_of(settings):
        return _plan_volumes(parts, reading, settings, how)
    split = split_sources(parts, settings)
    looks, medseg, clean, donors = _diseased_and_clean(split, settings)
    at_the_ribs = CROPPED_LIKE_ALL if how.field_of_view.startswith("lung-") else CROPPED

    def draw(rng: np.random.Generator, origins: Origins | None = None) -> Sample:
        if not clean or rng.random() < 0.68:
            part = medseg if medseg and (not looks or rng.random() < 0.2) else looks[rng.integers(len(looks))]
            index = _place(part, rng, origins)
            hu, lungs, infection, there = stack(part, index, rng, how.preset.thickest_mm)
            if how.preset.lesions and part.source in ("ma", "ma-equalised") and rng.random() < 0.4:
                hu, infection = neighbours.rescale_lesion(hu.astype(np.float32), lungs, infection, rng)
        else:
            part = clean[rng.integers(len(clean))]
            index = _place(part, rng, origins)
            hu, lungs, infection, there = stack(part, index, rng, how.preset.thickest_mm)
            if how.preset.lesions:
                hu, infection = _maybe_diseased(hu.astype(np.float32), lungs, infection, donors, rng, origins)
            elif how.preset.transplants and rng.random() < how.preset.transplants and donors is not None:
                hu, infection = _transplanted(hu.astype(np.float32), lungs, infection, donors, rng, origins)
        equalise = _in_the_look_of_clahe(reading, part.source, rng)
        own = at_the_ribs if part.ends_at_the_ribs(index) else EQUALISED if equalise else {"scale": (0.85, 1.3)}
        hu, lungs, infection = deform(how.preset, (hu, lungs, infection), ("hu", "mask", "mask"), rng, **own)
        if equalise:
            hu = equalised(tint_alike(how.preset, hu, rng))
        elif how.preset.lesions and rng.random() < 0.25:
            hu = neighbours.lung_density(hu, lungs == 1, rng)
        return show_stack(how, tint_alike(how.preset, hu, rng), infection == 1, infection != UNKNOWN, rng, there)

    judged = [(part, with_context(part, settings)) for part in split.judged]
    checks = {part.source: _stack(how, whole, part.infection == 1, part.infection != UNKNOWN) for part, whole in judged}
    return _plan(draw, how, checks, split, reading.sources, "tversky+ce")


def _diseased_and_clean(
    split: Split, settings: Settings
) -> tuple[list[Slices], Slices | None, list[Slices], Slices | None]:
    """What infection is learned from: the looks of whole slices with disease, slices that end at the ribs, slices
    without disease, and whose lesions are transplanted."""
    by_source = {part.source: part for part in split.train_sets}
    if "cases" in by_source and (by_source["cases"].infection == 1).any():
        # in HU, or brought there: learned from like the Ma slices
        by_source["ma"] = joined([by_source[name] for name in ("ma", "cases") if name in by_source], "ma")
    by_source = {name: with_context(part, settings) for name, part in by_source.items()}
    looks = [by_source[name] for name in ("ma", "ma-equalised") if name in by_source]
    medseg = by_source.get("medseg")
    clean = [by_source[name] for name in ("lctsc", "lctsc-restored") if name in by_source]
    clean += [part for part in [by_source.get("cases")] if part and not (part.infection == 1).any()]
    if not looks and not medseg:
        raise UsageError("infection needs slices with infection masks (volumes.csv with ct/, lungs/, infection/)")
    clean = [part for one in clean if len(part := one.with_lung())]  # the network runs on slices with lung only
    return looks, medseg, clean, by_source.get("ma")


def _maybe_diseased(
    hu: np.ndarray,
    lungs: np.ndarray,
    infection: np.ndarray,
    donors: Slices | None,
    rng: np.random.Generator,
    origins: Origins | None,
) -> tuple[np.ndarray, np.ndarray]:
    kind = rng.random()
    if kind < 0.45:
        return hu, infection
    if kind < 0.75 and donors is not None:
        return _transplanted(hu, lungs, infection, donors, rng, origins)
    before = hu
    hu, mask = neighbours.insert_opacity(hu, lungs, rng)
    mask = mask * (hu - before > 40)
    return hu, np.where(mask > 0.5, 1, infection).astype(np.uint8)


def _transplanted(
    hu: np.ndarray,
    lungs: np.ndarray,
    infection: np.ndarray,
    donors: Slices,
    rng: np.random.Generator,
    origins: Origins | None,
) -> tuple[np.ndarray, np.ndarray]:
    donor = int(rng.integers(len(donors)))
    _note(origins, donors, donor)
    of_donor = donors.hu[donor], donors.lungs[donor], donors.infection[donor]
    hu, mask = neighbours.transplant_lesion(hu, lungs, *of_donor, rng)
    return hu, np.where(mask > 0.5, 1, infection).astype(np.uint8)


def _plan_volumes(parts: list[Slices], reading: Reading, settings: Settings, how: Preparation) -> Plan:
    """Lungs or infection in patches of whole volumes, every volume alike."""
    parts = volumes.can_be_volumes(parts, settings)
    sources = _used(reading.sources, parts)
    split, patch = split_sources(parts, settings), patch_of(settings)

    def volumes_in(part: Slices) -> list[volumes.Volume]:
        is_lungs = settings.task == "lungs"
        label = part.lungs == 1 if is_lungs else part.infection == 1
        known = (part.lungs if is_lungs else part.infection) != UNKNOWN
        return volumes.volumes_of(part, label, known, how, settings, patch)

    trained = [volume for part in split.train_sets for volume in volumes_in(part)]
    if not any(volume.label.any() for volume in trained):
        raise UsageError(f"{settings.task} needs volumes with {settings.task} masks; no training volume has one")

    def draw(rng: np.random.Generator, origins: Origins | None = None) -> Sample:
        volume = trained[rng.integers(len(trained))]
        if origins is not None:
            origins.append(Origin(volume.source, volume.patient, volume.first))
        equalise = volume.source == "lctsc" and _in_the_look_of_clahe(reading, volume.source, rng)
        return volumes.draw_patch(volume, how, patch, rng, equalise)

    judged = split.judged
    checks = {
        part.source: volumes.validation_patches(volumes_in(part), how, patch, settings.seed, len(judged))
        for part in judged
    }
    return _plan(draw, how, checks, split, sources, "dice+ce" if settings.task == "lungs" else "tversky+ce")


def _plan_classes(reading: Reading, settings: Settings, how: Preparation, wanted: tuple[str, ...]) -> Plan:
    """The task's classes, from the slices on which they are told apart; half of the samples of any patient alike."""
    read = reading.parts(wanted, with_classes=True) if reading.sources.keys() & set(wanted) else []
    parts = [crop(part, how.field_of_view) for part in read]
    parts = classes.with_classes(parts, settings.task)
    sources = _used(reading.sources, parts)
    split = split_sources(parts, settings)
    train_sets = [with_context(part, settings) for part in split.train_sets]
    showing = [part for part in train_sets if classes.shows_classes(part)]
    clean = [part for part in train_sets if not classes.shows_classes(part)]
    if not showing:
        raise UsageError(
            "--classes: every patient whose masks distinguish them is held out; wanted more such patients, or --split"
        )

    def draw(rng: np.random.Generator, origins: Origins | None = None) -> Sample:
        among = showing if not clean or rng.random() < 0.68 else clean
        part = among[rng.integers(len(among))]
        index = _place(part, rng, origins)
        equalise = _in_the_look_of_clahe(reading, part.source, rng)
        own = CROPPED if part.ends_at_the_ribs(index) else EQUALISED if equalise else {"scale": (0.85, 1.3)}
        return classes.draw(part, index, how, settings.task, own, equalise, rng)

    checks = {
        part.source: show_part(how, with_context(part, settings), *classes.truth_of_classes(part.classes), step=1)
        for part in split.check_sets
        if part.classes is not None
    }
    return _plan(draw, how, checks, split, sources)


def _in_the_look_of_clahe(reading: Reading, source: str, rng: np.random.Generator) -> bool:
    """Whether a sample is shown so by chance: where other sources have that look, it must not tell the source."""
    return not reading.only_hu and source in ("lctsc", "medseg") and rng.random() < EQUALISED_SHARE


def _note(origins: Origins | None, part: Slices, index: int) -> None:
    if origins is not None:
        patient = part.patients[index]
        origins.append(Origin(part.source, patient, int(index) - part.patients.index(patient)))


def _place(part: Slices, rng: np.random.Generator, origins: Origins | None = None) -> int:
    """A slice: half the time of any patient alike, else any slice alike; patients have 2 to 180 slices."""
    index = int(rng.integers(len(part)))
    if rng.random() < 0.5:
        patient = part.patients[rng.choice(part.first_of_patients)]
        index = int(rng.choice(np.flatnonzero(np.array(part.patients) == patient)))
    _note(origins, part, index)
    return index


def _stack(how: Preparation, part: Slices, label: np.ndarray, weight: np.ndarray) -> Sample:
    """Every second slice: neighbours tell little more, and cost as much."""
    return show_part(how, part, label, weight, 2)


def _plan(
    draw: Callable[..., Sample],
    how: Preparation,
    checks: Mapping[str, Sample],
    split: Split,
    sources: Mapping[str, Path],
    loss: str = "dice+ce",
) -> Plan:
    x, y = (np.concatenate(arrays) for arrays in zip(*checks.values(), strict=True))
    counts = {part.source: len(part) for part in split.train_sets}
    return Plan(
        draw,
        (x, y) if len(x) else None,
        loss,
        how.recipe,
        how.field_of_view,
        split.held_out,
        cite(sources, *SOURCES),
        counts,
        split.patients,
        split.on_both_sides,
        how.size,
        dict(how.arguments),
        tuple(source for source, (inputs, _) in checks.items() for _ in inputs),
    )


def _used(sources: dict[str, Path], parts: list[Slices]) -> dict[str, Path]:
    """The sources that something is left of."""
    left = {{"lctsc": "lungs"}.get(part.source.split("-")[0], part.source.split("-")[0]) for part in parts}
    return {name: folder for name, folder in sources.items() if name.split("-")[0] in left}


def plan_empty_slices(reading: Reading, settings: Settings) -> Plan:
    """Which slices hold no infection: learned from the same slices as infection itself."""
    return of_slices(plan_infection(reading, settings), settings)


PLANS = {
    "restorer": plan_restorer,
    "lungs": plan_lungs,
    "infection": plan_infection,
    "empty-slices": plan_empty_slices,
}
