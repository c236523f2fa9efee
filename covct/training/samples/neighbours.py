"""Slices with their neighbours as channels (2.5D): picked, changed alike and shown as inference shows them.

A sample is a stack (channels, rows, columns), the slice in question in the middle, as `context.neighbours` orders it:
where there is no next slice in the data (the end of a volume, a gap, a slice published by itself) the last is
repeated. Only the middle slice has a truth. All slices of a stack move alike (one draw) and get the same noise and
calibration. Lesions:

- density of lungs and lesions is changed, and lesions are taken away, by one decision for the whole stack;
- a lesion that is put in goes straight through the stack: the same outline, density and texture in every slice, as far
  as each slice's own lungs reach. Real lesions taper; over a few slices that is the smaller lie than one slice alone.

Every function takes single slices (rows, columns) as well and does with them what it always did, draw by draw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from covct.data.slices import Slices
from covct.training.samples import augment
from covct.training.samples.prepare import Preparation, see, truth_of
from covct.voxels.patches import neighbours, with_neighbours


def with_context(part: Slices, count: int) -> Slices:
    """A source whose slices know `count` neighbours on either side; with 0 it stays as it is.

    To be called before slices are chosen from it: those left out later are still seen as neighbours, as they are at
    inference.
    """
    if not count:
        return part
    return replace(part, pool=part, around=neighbours(len(part), 2 * count + 1, first_of_runs(part)))


def first_of_runs(part: Slices) -> tuple[int, ...]:
    """Indices of slices that do not follow the one before: another volume, or a gap. As `context.neighbours` wants."""
    if part.places is None:
        return tuple(range(1, len(part)))
    return tuple((np.flatnonzero((np.diff(part.places, axis=0) != (0, 1)).any(1)) + 1).tolist())


def stack(part: Slices, index: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """HU, lungs and infection of a slice: (rows, columns) each, or with neighbours (channels, rows, columns).

    Half of the stacks are turned around: nobody says which end of published slices is the head (those of Ma et al. run
    up from the feet, a series that is scanned runs down from the head), and neither end tells disease.
    """
    if part.pool is None or part.around is None:
        return part.hu[index], part.lungs[index], part.infection[index]
    around = part.around[index][:: 1 if rng.random() < 0.5 else -1]
    return part.pool.hu[around], part.pool.lungs[around], part.pool.infection[around]


def middle(images: np.ndarray) -> np.ndarray:
    """The slice in question: (rows, columns)."""
    return images if images.ndim == 2 else images[len(images) // 2]


def show_stack(
    how: Preparation, hu: np.ndarray, label: np.ndarray, weight: np.ndarray, rng: np.random.Generator | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """As `prepare.show`, of a slice or a stack: (size, size, channels), and the truth of the middle slice."""
    seen = see(how, hu, rng)
    channels = seen[..., None] if hu.ndim == 2 else _channels_last(seen)
    return channels, truth_of(how, middle(label), middle(weight))


def show_part(
    how: Preparation, part: Slices, label: np.ndarray, weight: np.ndarray, step: int
) -> tuple[np.ndarray, np.ndarray]:
    """Every so many slices of a source as inference shows them, with their truth; (slices, size, size, channels)."""
    truth = truth_of(how, label[::step], weight[::step])
    if part.pool is None or part.around is None:
        return see(how, part.hu[::step])[..., None], truth
    return with_neighbours(see(how, part.pool.hu), part.around[::step]), truth


def lung_density(hu: np.ndarray, lungs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`augment.lung_density` with one factor."""
    return _together(augment.lung_density, (hu, lungs), rng)


def rescale_lesion(
    hu: np.ndarray, lungs: np.ndarray, infection: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """`augment.rescale_lesion` with one decision, by the medians of the whole stack."""
    if hu.ndim == 2:
        return augment.rescale_lesion(hu, lungs, infection, rng)
    changed, label = augment.rescale_lesion(_channels_last(hu), _channels_last(lungs), _channels_last(infection), rng)
    return np.moveaxis(changed, -1, 0), np.moveaxis(label, -1, 0)


def consolidate_dependent(hu: np.ndarray, lungs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`augment.consolidate_dependent` of every slice with the same draws."""
    if hu.ndim == 2:
        return augment.consolidate_dependent(hu, lungs, rng)
    return np.stack(_each(augment.consolidate_dependent, (hu, lungs), rng))


def insert_opacity(hu: np.ndarray, lungs: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """`augment.insert_opacity` into every slice as far as its own lungs reach; the outline is the middle's."""
    if hu.ndim == 2:
        return augment.insert_opacity(hu, lungs, rng)
    outline = augment.lesion_mask(middle(lungs), rng)
    target, texture = augment.random_density(rng)
    masks = outline * (lungs > 0)
    changed = _each(lambda one, mask, same: augment.fill_air(one, mask, target, same, texture), (hu, masks), rng)
    return np.stack(changed), masks


def transplant_lesion(
    hu: np.ndarray,
    lungs: np.ndarray,
    donor_hu: np.ndarray,
    donor_lungs: np.ndarray,
    donor_infection: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """`augment.transplant_lesion` of one slice of the donor, moved alike into every slice."""
    donor = (donor_hu, donor_lungs, donor_infection)
    if hu.ndim == 2:
        return augment.transplant_lesion(hu, lungs, *donor, rng)
    moved = _each(lambda one, inside, same: augment.transplant_lesion(one, inside, *donor, same), (hu, lungs), rng)
    changed, masks = zip(*moved, strict=True)
    return np.stack(changed), np.stack(masks)


def _each(change: Callable[..., Any], stacks: Sequence[np.ndarray], rng: np.random.Generator) -> list[Any]:
    """A change of every slice by itself, all with the same draws."""
    seed = int(rng.integers(2**32))
    return [change(*slices, np.random.default_rng(seed)) for slices in zip(*stacks, strict=True)]


def _together(change: Callable[..., Any], stacks: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """A change of all slices at once: what is written for (rows, columns) takes channels last, too."""
    if stacks[0].ndim == 2:
        changed: np.ndarray = change(*stacks, rng)
        return changed
    return np.moveaxis(change(*(_channels_last(one) for one in stacks), rng), -1, 0)


def _channels_last(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(images, 0, -1))
