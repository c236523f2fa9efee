"""Slices that were published twice, on 8 bit after CLAHE and in HU: the way back is learned from them, and judged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from covct.data.cases import Case
from covct.data.domains import CLAHE
from covct.data.layouts import search_folder
from covct.data.model_space import nearest
from covct.data.read_case import read_case

UNKNOWN_HERE, TISSUE, LUNG, INFECTED = range(4)  # `Pairs.kind`


@dataclass(frozen=True)
class Pairs:
    """The same slices in both forms, as `covct restore` sees them: not cut to the body.

    Attributes
    ----------
    grey : (slices, rows, columns) uint8
        After CLAHE.
    hu : (slices, rows, columns) int16
    kind : (slices, rows, columns) uint8
        UNKNOWN_HERE where nobody knows the HU, TISSUE outside the lungs, LUNG, or INFECTED lung.
    patients : tuple of str
        Of each slice.
    numbers : (slices,) int
    """

    grey: np.ndarray
    hu: np.ndarray
    kind: np.ndarray
    patients: tuple[str, ...]
    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.grey)

    def at_size(self, size: int) -> Pairs:
        """The same slices of `size` x `size` pixels."""
        if self.grey.shape[1:] == (size, size):
            return self
        grey, hu = (
            np.stack([cv2.resize(one, (size, size), interpolation=cv2.INTER_AREA) for one in images])
            for images in (self.grey, self.hu)
        )
        return replace(self, grey=grey, hu=hu, kind=nearest(self.kind, size))


def read_pairs(published: Path, in_hu: Path) -> Pairs:
    """Both forms of the slices in two folders that have the same numbers, anterior up.

    Parameters
    ----------
    published : Path
        ``volumes.csv`` with ``ct/``, ``lungs/``, ``infection/`` (`covct.data.layouts`).
    in_hu : Path
        As of `covct.data.hu_slices`.

    Raises
    ------
    CaseError, UsageError
        As `read_case` and the layouts.
    """
    images = dict(_numbered(search_folder(published).cases))
    read = [_both(case, images) for case in search_folder(in_hu).cases]
    grey, hu, kind, numbers = (np.concatenate(arrays) for arrays in zip(*(arrays for _, *arrays in read), strict=True))
    return Pairs(grey, hu, kind, tuple(patient for patient, one, *_ in read for _ in one), numbers)


def _numbered(cases: tuple[Case, ...]) -> Iterator[tuple[tuple[str, int], tuple[Case, Path]]]:
    for case in cases:
        for number, image in zip(case.numbers, case.images, strict=True):
            yield (case.patient, number), (case, image)


def _both(
    exact: Case, images: dict[tuple[str, int], tuple[Case, Path]]
) -> tuple[str, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    labelled = read_case(exact)
    twins = [images[exact.patient, number] for number in exact.numbers]
    twin = replace(twins[0][0], images=tuple(image for _, image in twins), masks={}, domain=CLAHE)
    kind = np.full(labelled.pixels.shape, TISSUE, np.uint8)
    for value, mask in ((LUNG, labelled.lungs), (INFECTED, labelled.infection)):
        if mask is not None:
            kind[mask > 0] = value
    if labelled.unknown is not None:
        kind[labelled.unknown] = UNKNOWN_HERE
    return exact.patient, read_case(twin).pixels, labelled.pixels, kind, np.array(exact.numbers)
