"""Slices with their neighbours as channels (2.5D): picked, changed alike and shown as inference shows them.

A sample is a stack (channels, rows, columns), the slice in question in the middle, as `voxels.around` orders it: the
next slices, or what lies at distances in millimetres. Only the middle slice has a truth. All slices of a stack move
alike (one draw) and get the same noise and calibration. Lesions:

- density of lungs and lesions is changed, and lesions are taken away, by one decision for the whole stack;
- a lesion that is put in goes straight through the stack: the same outline, density and texture in every slice, as far
  as each slice's own lungs reach. Real lesions taper; over a few slices that is the smaller lie than one slice alone.

Every function takes single slices (rows, columns) as well and does with them what it always did, draw by draw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from covct.data.slice_distance import estimated_distance_mm
from covct.data.slices import UNKNOWN, Context, Slices
from covct.training.samples import augment
from covct.training.samples.prepare import Preparation, see, truth_of
from covct.training.settings import Settings
from covct.voxels.around import Around, adjacent, at_distances, channels_last, mixed, offsets_mm, run_bounds

ALONE_SHARE = 0.15  # of the stacks by distance are shown without neighbours, as slices published by themselves are
THICK_SHARE = 0.5  # of those whose distance is known become slices of another thickness, where the preset has any
THINNEST_MM = 1.0
KNOWN_SHARE = 0.75  # of a thick slice has to be known


class Stack(NamedTuple):
    """A slice, (rows, columns) each, or a slice with what lies around it, (channels, rows, columns).

    there : (channels,) bool or None
        Where anything lies; None: everywhere.
    """

    hu: np.ndarray
    lungs: np.ndarray
    infection: np.ndarray
    there: np.ndarray | None = None


def with_context(part: Slices, settings: Settings) -> Slices:
    """A source whose slices know what lies around them, where the settings ask for it; else it stays as it is.

    To be called before slices are chosen from it: those left out later are still seen as neighbours, as they are at
    inference.
    """
    if settings.channels == 1:
        return part
    count, first = len(part), part.first_of_runs
    slice_mm = distances_of(part) if settings.neighbours_mm else np.full(count, np.nan)
    if settings.neighbours_mm:
        around = at_distances(count, settings.neighbours_mm, slice_mm, first)
    else:
        around = adjacent(count, settings.channels, first)
    runs = np.stack(run_bounds(count, first), 1)
    return replace(part, context=Context(part, around, runs, settings.neighbours_mm, slice_mm))


def distances_of(part: Slices) -> np.ndarray:
    """From slice to slice, mm: (slices,) float. Where nobody says, as `slice_distance` sees it; NaN where it cannot."""
    slice_mm = np.full(len(part), np.nan) if part.spacing_mm is None else part.spacing_mm[:, 0].astype(float)
    if part.places is not None:
        for volume in np.unique(part.places[np.isnan(slice_mm), 0]):
            mine = part.places[:, 0] == volume
            slice_mm[mine] = estimated_distance_mm(part.hu[mine], part.places[mine, 1])
    return slice_mm


def stack(part: Slices, index: int, rng: np.random.Generator, thickest_mm: float = 0.0) -> Stack:
    """HU, lungs and infection of a slice, or of it and what lies around it.

    Half of the stacks are turned around: nobody says which end of published slices is the head (those of Ma et al. run
    up from the feet, a series that is scanned runs down from the head), and neither end tells disease.

    Parameters
    ----------
    thickest_mm : float
        Half of the stacks by distance are shown as if the scan had been reconstructed in thicker slices, up to this.
    """
    context = part.context
    if context is None:
        return Stack(part.hu[index], part.lungs[index], part.infection[index])
    way = 1 if rng.random() < 0.5 else -1
    if not context.distances_mm:
        around = context.around.indices[index, ::way, 0]
        pool = context.pool
        return Stack(pool.hu[around], pool.lungs[around], pool.infection[around])
    thickness = _thickness(float(context.slice_mm[index]), thickest_mm, rng)
    indices, shares = _thick(context, index, thickness) if thickness else _thin(context, index)
    if rng.random() < ALONE_SHARE:
        shares[np.arange(len(shares)) != len(shares) // 2] = 0
    return _mixture(context.pool, indices, shares[::way])


def _thickness(slice_mm: float, thickest_mm: float, rng: np.random.Generator) -> float:
    """A thickness that slices can be averaged to, any as likely as its double; 0 to leave them as they are."""
    thickness = float(np.exp(rng.uniform(np.log(THINNEST_MM), np.log(max(THINNEST_MM, thickest_mm)))))
    thicker = rng.random() < THICK_SHARE and thickness > 1.05 * slice_mm  # false for NaN
    return thickness if thicker else 0.0


def _thin(context: Context, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices into the pool (n,) and of each channel its shares (channels, n), as inference mixes them."""
    indices, places = np.unique(context.around.indices[index], return_inverse=True)
    pairs = context.around.shares[index]
    shares = np.zeros((len(pairs), len(indices)), np.float32)
    np.add.at(shares, (np.arange(len(pairs))[:, None], places.reshape(pairs.shape)), pairs)
    return indices, shares


def _thick(context: Context, index: int, thickness: float) -> tuple[np.ndarray, np.ndarray]:
    """As `_thin`, of a scan whose slices are as thick as they lie apart, one of them in the middle."""
    offsets, middle = offsets_mm(context.distances_mm), len(context.distances_mm)
    first, end = context.runs[index]
    slice_mm = float(context.slice_mm[index])
    heights = (np.arange(first, end) - context.around.indices[index, middle, 0]) * slice_mm
    below = np.floor(offsets / thickness)
    share = (offsets / thickness - below)[:, None]
    lower, upper = (_slabs(heights, slice_mm, steps * thickness, thickness) for steps in (below, below + 1))
    shares = (1 - share) * lower + share * upper
    shares[shares.sum(1) < 0.999] = 0  # beyond an end of the run
    shares[middle] = lower[middle] / lower[middle].sum()
    seen = np.flatnonzero(shares.any(0))
    return seen + first, shares[:, seen].astype(np.float32)


def _slabs(heights: np.ndarray, slice_mm: float, centres: np.ndarray, thickness: float) -> np.ndarray:
    """How much each slice has in slabs around these heights, mm. (centres,), (slices,) -> (centres, slices)."""
    top = np.minimum(heights + slice_mm / 2, centres[:, None] + thickness / 2)
    bottom = np.maximum(heights - slice_mm / 2, centres[:, None] - thickness / 2)
    slabs: np.ndarray = np.maximum(top - bottom, 0) / thickness
    return slabs


def _mixture(pool: Slices, indices: np.ndarray, shares: np.ndarray) -> Stack:
    """HU as mixed; masks of the slice in question as mixed, of the others those of the slice that they are most of."""
    hu = np.stack([_sum(pool.hu, indices, channel) for channel in shares])
    nearest, mine = indices[shares.argmax(1)], len(shares) // 2
    lungs, infection = pool.lungs[nearest], pool.infection[nearest]
    for masks, whole in ((lungs, pool.lungs), (infection, pool.infection)):
        masks[mine] = _labels(whole[indices], shares[mine])
    there = np.asarray(shares.any(1))
    lungs[~there], infection[~there] = 0, 0
    return Stack(hu, lungs, infection, there)


def _sum(slices: np.ndarray, indices: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """(rows, columns) float32. Not by a matrix product, whose threads would stand in each other's way."""
    out = np.zeros(slices.shape[1:], np.float32)
    for index, share in zip(indices, shares, strict=True):
        if share:
            out += share * slices[index]
    return out


def _labels(labels: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """What most of a mixture is; `UNKNOWN` where too much of it is not known."""
    order = np.arange(len(labels))
    is_one = _sum(labels == 1, order, shares) >= 0.5
    unknown = _sum(labels == UNKNOWN, order, shares) > 1 - KNOWN_SHARE
    return np.where(is_one, 1, np.where(unknown, UNKNOWN, 0)).astype(np.uint8)


def middle(images: np.ndarray) -> np.ndarray:
    """The slice in question: (rows, columns)."""
    return images if images.ndim == 2 else images[len(images) // 2]


def show_stack(
    how: Preparation,
    hu: np.ndarray,
    label: np.ndarray,
    weight: np.ndarray,
    rng: np.random.Generator | None = None,
    there: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """As `prepare.show`, of a slice or a stack: (size, size, channels), and the truth of the middle slice."""
    seen = see(how, hu, rng)
    if there is not None:
        seen[~there] = 0
    channels = seen[..., None] if hu.ndim == 2 else _channels_last(seen)
    return channels, truth_of(how, middle(label), middle(weight))


def show_part(
    how: Preparation, part: Slices, label: np.ndarray, weight: np.ndarray, step: int
) -> tuple[np.ndarray, np.ndarray]:
    """Every so many slices of a source as inference shows them, with their truth; (slices, size, size, channels)."""
    truth = truth_of(how, label[::step], weight[::step])
    if part.context is None:
        return see(how, part.hu[::step])[..., None], truth
    around = part.context.around.chosen(slice(None, None, step))
    out = np.zeros((len(truth), how.size, how.size, around.shares.shape[1]), np.float32)
    for index in range(len(out)):
        out[index] = channels_last(_seen_around(how, part.context.pool.hu, around.chosen(slice(index, index + 1))))[0]
    return out, truth


def _seen_around(how: Preparation, hu: np.ndarray, around: Around) -> np.ndarray:
    seen = see(how, mixed(hu, around))
    seen[~around.there] = 0
    return seen


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
