"""Patches of whole volumes (3D): slices put together again, on their own grid or at one spacing, drawn and covered.

Volumes are made of the slices that the sources give, body-cropped and 256 x 256; a single published slice makes none.
A patch is drawn through whole planes: moved, tinted and shown to the recipe at full width, as inference does it, and
only then cut, so that neither a border nor the cut changes what a grey means. No lesions are put in or changed: what
`augment` invents has a shape in a plane, and no third side.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from covct.data.slices import SIZE, Slices
from covct.data.views import equalised
from covct.errors import UsageError
from covct.training.samples import augment
from covct.training.samples.prepare import Preparation, recipe_of, to_size, truth_of
from covct.training.samples.presets import augmented
from covct.training.settings import Settings
from covct.voxels.preprocess import whole_slice
from covct.voxels.resample import to_volume_space

DISEASED_SHARE = 0.5  # of the patches: drawn around what is looked for
MOST_VALIDATION_VOXELS = 2**26  # 800 MB as float32 with their truth
LABELLED = 0.5  # of a resampled voxel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Volume:
    """One volume to draw patches from, at least as large as a patch.

    Attributes
    ----------
    hu : (slices, rows, columns) int16
    label, known : (slices, rows, columns) bool
        Known is what counts in the loss; false also where the volume was padded to the size of a patch.
    source, patient : str
    first : int
        Number of its first slice among the source's slices of that patient.
    """

    hu: np.ndarray
    label: np.ndarray
    known: np.ndarray
    source: str
    patient: str
    first: int


def volumes_of(
    part: Slices,
    label: np.ndarray,
    known: np.ndarray,
    how: Preparation,
    settings: Settings,
    patch: tuple[int, ...],
) -> list[Volume]:
    """The volumes of a source: runs of adjacent slices, in their order.

    label, known (slices, 256, 256) bool. With a spacing asked for, volumes of unknown spacing are left out.
    """
    bounds = [0, *part.first_of_runs, len(part)] if len(part) else []
    out = []
    for first, end in zip(bounds, bounds[1:], strict=False):
        if end - first < 2:
            continue
        grids = [part.hu[first:end], label[first:end], known[first:end]]
        if settings.spacing_mm:
            source_mm = None if part.spacing_mm is None else part.spacing_mm[first]
            if source_mm is None or not np.isfinite(source_mm).all():
                continue
            between, down, across = map(float, source_mm)
            grids = _resampled(grids, (between, down, across), settings.spacing_mm)
        elif how.size != SIZE:
            hu = np.rint(to_size(grids[0].astype(np.float32), how.size)).astype(np.int16)
            grids = [hu, *(np.moveaxis(truth_of(how, grids[1], grids[2]), -1, 0) > 0)]
        patient = part.patients[first]
        hu, marked, counted = _padded(grids, patch)
        out.append(Volume(hu, marked, counted, part.source, patient, first - part.patients.index(patient)))
    return out


def can_be_volumes(parts: Iterable[Slices], settings: Settings) -> list[Slices]:
    """The sources, each less the slices that no volume can be made of; the log says how many and why.

    Raises
    ------
    UsageError
        Nothing remains.
    """
    kept = []
    for part in parts:
        bounds = np.array([0, *part.first_of_runs, len(part)])
        alone = np.repeat(np.diff(bounds) < 2, np.diff(bounds))
        unknown = np.zeros(len(part), bool)
        if settings.spacing_mm:
            unknown = ~alone & (True if part.spacing_mm is None else np.isnan(part.spacing_mm).any(1))
        for which, why in (
            (alone, "they are single slices"),
            (unknown, "--spacing, and theirs is unknown"),
        ):
            if which.any():
                log.warning("left out: %d of %d slices of %s: %s", which.sum(), len(part), part.source, why)
        if not (alone | unknown).all():
            kept.append(part.chosen(~(alone | unknown)))
    if not kept:
        wanted = "of known spacing (NIfTI or DICOM)" if settings.spacing_mm else "of adjacent slices"
        raise UsageError(f"a network of volumes learns from volumes {wanted}; the data hold none")
    return kept


def _resampled(
    grids: Sequence[np.ndarray], source_mm: tuple[float, float, float], spacing_mm: tuple[float, ...]
) -> list[np.ndarray]:
    """HU, labels and what is known at another spacing; half a voxel decides."""
    hu, *masks = grids
    between, down, across = spacing_mm

    def brought(array: np.ndarray) -> np.ndarray:
        _, rows, columns = array.shape
        out, _ = to_volume_space(array, whole_slice((rows, columns)), source_mm, (between, down, across))
        return out

    # masks as HU, for what lies beyond is air: 0 becomes -1000, 1 becomes 0
    marked = [brought(mask * np.float32(1000) - 1000) / 1000 + 1 >= LABELLED for mask in masks]
    return [np.rint(brought(hu)).astype(np.int16), *marked]


def _padded(grids: Sequence[np.ndarray], patch: tuple[int, ...]) -> list[np.ndarray]:
    """At least as large as a patch: the last slice, row and column repeated, as `context.patchwise` does it."""
    beyond = [(0, max(0, wanted - have)) for have, wanted in zip(grids[0].shape, patch, strict=True)]
    hu, *masks = grids
    return [np.pad(hu, beyond, "edge"), *(np.pad(mask, beyond) for mask in masks)]


def draw_patch(
    volume: Volume, how: Preparation, patch: tuple[int, ...], rng: np.random.Generator, equalise: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """A random patch as the network sees it, with its truth: (*patch, 1) and (*patch, 2) float32.

    Half of the patches hold some of what is looked for. The slices run either way, see `neighbours.stack`.

    equalise : in the look of the published CLAHE slices, see `views`.
    """
    around = volume.label & volume.known if rng.random() < DISEASED_SHARE else None
    slab = (patch[0], *volume.hu.shape[1:])
    hu, label, known = augment.random_patch((volume.hu, volume.label, volume.known), slab, rng, around, share=1.0)
    way = 1 if rng.random() < 0.5 else -1
    masks = [label[::way].astype(np.uint8), known[::way].astype(np.uint8)]
    hu, (label, known) = augmented(how.preset, hu[::way], masks, rng)
    seen = recipe_of(how, rng)(equalised(hu) if equalise else hu)
    around = (label & known) > 0 if around is not None else None
    seen, label, known = augment.random_patch((seen, label, known), patch, rng, around, share=1.0)
    return seen[..., None].astype(np.float32), np.stack([label, known], -1).astype(np.float32)


def validation_patches(
    volumes: list[Volume], how: Preparation, patch: tuple[int, ...], seed: int, share: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Patches that cover the volumes, each voxel counted once; of many a sample by the seed, as memory allows.

    share : these volumes may take one part in so many of it.

    Unlike a scan's they are not blended: scores are a little lower than those of whole volumes.
    """
    places = [(volume, corner) for volume in volumes for corner in product(*map(_covering, volume.hu.shape, patch))]
    most = max(1, MOST_VALIDATION_VOXELS // (share * int(np.prod(patch))))
    if len(places) > most:
        chosen = np.sort(np.random.default_rng(seed).choice(len(places), most, replace=False))
        places = [places[index] for index in chosen]
    x = np.zeros((len(places), *patch, 1), np.float32)
    truth = np.zeros((len(places), *patch, 2), np.float32)
    seen = counted = before = None
    for number, (volume, corner) in enumerate(places):
        if volume is not before:
            seen = recipe_of(how)(volume.hu.astype(np.float32))
            before, counted = volume, np.zeros(volume.hu.shape, bool)
        assert seen is not None and counted is not None
        cut = tuple(slice(first, first + length) for first, length in zip(corner, patch, strict=True))
        x[number, ..., 0] = seen[cut]
        truth[number, ..., 0] = volume.label[cut]
        truth[number, ..., 1] = volume.known[cut] & ~counted[cut]
        counted[cut] = True
    return x, truth


def _covering(length: int, patch: int) -> list[int]:
    """Where the fewest patches begin that cover an axis, evenly."""
    count = -(-length // patch)
    return [round(step * (length - patch) / max(1, count - 1)) for step in range(count)]
