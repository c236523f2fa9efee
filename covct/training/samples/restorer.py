"""The plan of the restorer: pairs that any HU scan makes by the publisher's recipe, and slices published in both forms.

The true ones (`covct.data.pairs`) lie in a crop around the lungs, of few patients, all with disease; the made ones have
whole bodies, lungs of every density and opacities of every density.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from covct.data.cases import person_of
from covct.data.pairs import read_pairs
from covct.data.published import read_published_size
from covct.data.slices import SIZE
from covct.errors import UsageError
from covct.training.folds import held_out
from covct.training.samples.plan import Origin, Origins, Plan, cite
from covct.training.samples.prepare import preparation
from covct.training.samples.reading import Reading
from covct.training.samples.restoration import Sample, published_pair, restoration_pair
from covct.training.samples.split import on_both_sides_and_held_out
from covct.training.settings import Settings

TRUE_SHARE = 0.7  # of the samples, where there are slices in both forms
CHECKED_EVERY = 4  # slices: neighbours tell little more


@dataclass(frozen=True)
class _Source:
    """Slices of one source, and how a pair is made of one of them."""

    name: str
    patients: tuple[str, ...]
    numbers: tuple[int, ...]
    pair: Callable[[int, np.random.Generator], Sample]


def plan_restorer(reading: Reading, settings: Settings) -> Plan:
    """The way back from 8-bit CLAHE to HU."""
    preparation(settings)
    if "lungs" not in reading.sources:
        raise UsageError("the restorer learns from HU volumes with lung masks (NAME_ct.nii.gz, NAME_lungs.nii.gz)")
    parts = [_made(reading), *_true(reading)]
    patients = {part.name: part.patients for part in parts}
    left_out = {name: np.isin(names, settings.leave_out) for name, names in patients.items()}
    if unknown := set(settings.leave_out) - {one for names in patients.values() for one in names}:
        raise UsageError(f"--leave-out {', '.join(sorted(unknown))}: no source has such a patient")
    held = {name: held_out(names, settings) & ~left_out[name] for name, names in patients.items()}
    both, told = on_both_sides_and_held_out(patients, held, settings)
    for name, names in patients.items():
        told[name] = sorted({*told[name], *np.array(names)[left_out[name]].tolist()})
    trained = [np.flatnonzero(~held[part.name] & ~left_out[part.name]) for part in parts]

    def draw(rng: np.random.Generator, origins: Origins | None = None) -> Sample:
        which = int(len(parts) > 1 and rng.random() < TRUE_SHARE)
        part, index = parts[which], int(trained[which][rng.integers(len(trained[which]))])
        if origins is not None:
            origins.append(Origin(part.name, part.patients[index], part.numbers[index]))
        return part.pair(index, rng)

    rng = np.random.default_rng(settings.seed)
    validation = [part.pair(i, rng) for part in parts for i in np.flatnonzero(held[part.name])[::CHECKED_EVERY]]
    x, y = (np.stack(arrays) for arrays in zip(*validation, strict=True)) if validation else (None, None)
    return Plan(
        draw,
        None if x is None or y is None else (x, y),
        "l1",
        "clahe",
        "whole",
        told,
        cite(reading.sources, "lungs", *(("ma", "ma-hu") if len(parts) > 1 else ())),
        {part.name: len(chosen) for part, chosen in zip(parts, trained, strict=True)},
        {name: sorted(set(names)) for name, names in patients.items()},
        both,
    )


def _made(reading: Reading) -> _Source:
    """Pairs that are free from any HU scan through the recipe."""
    volumes = read_published_size(reading.sources["lungs"])
    names = tuple(person_of(name) for name, (hu, *_) in volumes.items() for _ in hu)
    numbers = tuple(number for hu, *_ in volumes.values() for number in range(len(hu)))
    hu, lungs = (np.concatenate([volume[kind] for volume in volumes.values()]) for kind in (0, 1))
    return _Source("lctsc", names, numbers, lambda index, rng: restoration_pair(hu[index], lungs[index], rng))


def _true(reading: Reading) -> list[_Source]:
    """Pairs of the slices that were published in both forms, where they are."""
    if not {"ma", "ma-hu"} <= reading.sources.keys():
        return []
    pairs = read_pairs(reading.sources["ma"], reading.sources["ma-hu"]).at_size(SIZE)

    def pair(index: int, rng: np.random.Generator) -> Sample:
        return published_pair(pairs.grey[index], pairs.hu[index], pairs.kind[index], rng)

    return [_Source("ma", pairs.patients, tuple(pairs.numbers.tolist()), pair)]
