"""What one task learns from: how a sample is drawn, whom it is validated on, and what the card says of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from covct.data.slices import SIZE
from covct.training.samples.restoration import Sample

SOURCES = {
    "ma": "COVID-19 CT Lung and Infection Segmentation (Ma et al. 2020, doi 10.5281/zenodo.3757476), "
    "8-bit CLAHE slices; partly CC BY-NC-SA",
    "ma-hu": "the same slices in HU, from linear 8-bit pictures of the volumes; non-commercial use only",
    "lungs": "LCTSC (The Cancer Imaging Archive), CC BY 3.0",
    "medseg": "medicalsegmentation.com COVID-19 CT segmentation slices, non-commercial use only",
    "medseg-full": "slices of the same set in full field, in HU by a line each; non-commercial use only",
    "cases": "labelled cases of the user's own",
}
RESTORED = ("ma", "cases")


@dataclass(frozen=True)
class Plan:
    """One task's data: how to draw a sample, what to validate on, and what the card says of it.

    Attributes
    ----------
    draw : function (Generator, Origins or None) -> Sample
        Draws depend on the generator alone. Where a list is given, the slices that a sample is made of are noted there.
    validation : (x, truth) or None
        None where all is trained on.
    held_out, patients : dict of str to list of str
        By source: who is held out, and all there are.
    on_both_sides : int
        Patients that are trained on and held out at once: not 0 only where the split is by slice.
    size : int
        Side of a sample, pixels.
    limits : tuple of str
        What these data do not teach, for the card: a sentence each.
    """

    draw: Callable[..., Sample]
    validation: tuple[np.ndarray, np.ndarray] | None
    loss: str
    recipe: str
    field_of_view: str
    held_out: dict[str, list[str]]
    sources: dict[str, str]
    slices: dict[str, int]
    patients: dict[str, list[str]] = field(default_factory=dict)
    on_both_sides: int = 0
    size: int = SIZE
    arguments: dict[str, float] = field(default_factory=dict)  # of the recipe
    validated: tuple[str, ...] = ()  # the source of each validation sample
    limits: tuple[str, ...] = ()

    @property
    def restored(self) -> list[str]:
        """The sources whose held-out slices may pass the restorer before they are judged."""
        return [source for source in self.held_out if source in RESTORED]


@dataclass(frozen=True)
class Origin:
    """Where a sample comes from: the slice is counted among those of the patient that are trained on.

    The text has the patient only as a hash, since it goes into logs.
    """

    source: str
    patient: str
    slice: int

    def __str__(self) -> str:
        return f"{self.source} {hashlib.sha256(self.patient.encode()).hexdigest()[:8]} slice {self.slice}"


Origins = list[Origin]


def cite(sources: Mapping[str, Path], *names: str) -> dict[str, str]:
    """What the card says of the sources of these names, as far as there are any."""
    return {name: SOURCES[name] for name in names if name in sources}
