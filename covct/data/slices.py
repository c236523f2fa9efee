"""Labelled slices in model space, of one source or several: what networks learn from, split by patient."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from covct.errors import UsageError
from covct.voxels.around import Around

SIZE = 256
UNKNOWN = 2  # infection label of a pixel nobody vouches for; left out of the loss
UNKNOWN_CLASS = 255


@dataclass(frozen=True)
class Slices:
    """Labelled axial slices of one source, anterior up.

    Attributes
    ----------
    hu : (slices, 256, 256) int16
    lungs : (slices, 256, 256) uint8
        1 inside either lung; `UNKNOWN` where the source has no lung mask, or the slice no pixel.
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
    at_the_ribs : (slices,) bool or None
        Whether a slice ends at the ribs, where its publisher cropped it. None: none does.
    context : Context or None
        What lies around each slice, where it is seen with that.
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
    at_the_ribs: np.ndarray | None = None
    context: Context | None = None

    def __len__(self) -> int:
        return len(self.hu)

    def ends_at_the_ribs(self, index: int) -> bool:
        return self.at_the_ribs is not None and bool(self.at_the_ribs[index])

    @property
    def first_of_patients(self) -> list[int]:
        """Index of each patient's first slice."""
        return sorted({patient: index for index, patient in reversed(list(enumerate(self.patients)))}.values())

    @property
    def first_of_runs(self) -> tuple[int, ...]:
        """Indices of slices that do not follow the one before: another volume, or a gap. As `voxels.around` wants."""
        if self.places is None:
            return tuple(range(1, len(self)))
        return first_of_runs(self.places)

    def with_lung(self, pixels: int = 200) -> Slices:
        """The slices with at least so much lung."""
        return self.chosen(np.count_nonzero(self.lungs == 1, axis=(1, 2)) >= pixels)

    def with_known_lungs(self) -> Slices:
        """The slices that somebody marked the lungs in, if not in all of the slice."""
        known = (self.lungs != UNKNOWN).any(axis=(1, 2))
        return self if known.all() else self.chosen(known)

    def of(self, patients: frozenset[str], keep: bool = True) -> Slices:
        """The slices of these patients, or with `keep` false of all others."""
        return self.chosen(np.array([(patient in patients) == keep for patient in self.patients], bool))

    def chosen(self, chosen: np.ndarray) -> Slices:
        """Some of the slices. chosen (slices,) bool."""
        arrays = {name: value[chosen] for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        kept = tuple(patient for patient, c in zip(self.patients, chosen, strict=True) if c)
        context = self.context and self.context.chosen(chosen)
        return replace(self, **arrays, patients=kept, context=context)


@dataclass(frozen=True)
class Context:
    """What lies around the slices of a source, those included that have been left out of it.

    Attributes
    ----------
    pool : Slices
        All slices of the source.
    around : Around
        Indices into the pool.
    runs : (slices, 2) int
        Of each slice's run of adjacent ones the first in the pool, and the first beyond.
    distances_mm : tuple of float
        As of `voxels.around.at_distances`; empty: of the adjacent slices.
    slice_mm : (slices,) float
        From slice to slice; NaN where it is not known.
    """

    pool: Slices
    around: Around
    runs: np.ndarray
    distances_mm: tuple[float, ...]
    slice_mm: np.ndarray

    def chosen(self, chosen: np.ndarray) -> Context:
        """Of some of the slices. chosen (slices,) bool."""
        return replace(self, around=self.around.chosen(chosen), runs=self.runs[chosen], slice_mm=self.slice_mm[chosen])


def held_out_patients(patients: list[str], share: float, seed: int) -> frozenset[str]:
    """Choose whole patients for validation, the same for the same seed. At least one, never all."""
    distinct = sorted(set(patients))
    if len(distinct) < 2:
        raise UsageError(f"a split by patient needs two patients or more, got {len(distinct)}")
    count = min(len(distinct) - 1, max(1, round(share * len(distinct))))
    return frozenset(random.Random(seed).sample(distinct, count))


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
        np.concatenate([np.zeros(len(p), bool) if p.at_the_ribs is None else p.at_the_ribs for p in parts]),
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


def first_of_runs(places: np.ndarray) -> tuple[int, ...]:
    """As `Slices.first_of_runs`, of places (slices, 2) int."""
    return tuple((np.flatnonzero((np.diff(places, axis=0) != (0, 1)).any(1)) + 1).tolist())
