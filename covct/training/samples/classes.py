"""Several classes in place of one: ground glass, consolidation and effusion; the right and the left lung.

Only slices are learned from on which somebody told the classes apart, and of them only the pixels that are known. Of
people without COVID-19 aerated lung is known to be none of the classes of infection; their other pixels are not.
Nothing is put into the lungs or changed there: an invented lesion has no class, and another density is another class.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from covct.data.slices import UNKNOWN_CLASS, Slices
from covct.data.views import equalised
from covct.errors import UsageError
from covct.training.samples.inputs import CLASSES
from covct.training.samples.neighbours import show_stack, stack
from covct.training.samples.prepare import Preparation
from covct.training.samples.presets import deform, tint_alike

log = logging.getLogger(__name__)


def with_classes(parts: Iterable[Slices], task: str) -> list[Slices]:
    """The sources with the task's classes as `classes`, less the slices without any; the log says how many.

    Classes are numbers in `inputs.CLASSES`, `UNKNOWN_CLASS` where nobody told.

    Raises
    ------
    UsageError
        No slice shows any class but the background.
    """
    kept = []
    for part in parts:
        labels = _labels(part, task)
        told = (labels != UNKNOWN_CLASS).any((1, 2))
        if not told.all():
            log.warning("left out: %d of %d slices of %s: no classes", (~told).sum(), len(part), part.source)
        if told.any():
            kept.append(replace(part, classes=labels).chosen(told))
    if not any(shows_classes(part) for part in kept):
        wanted = {
            "infection": "GT-multiclass/ beside GT/, NAME_infection with 1, 2, 3, or DICOM SEG of these segments",
            "lungs": "NAME_lungs with 1 and 2, or DICOM SEG with right and left lung",
        }
        raise UsageError(
            f"--classes: no slice distinguishes {', '.join(CLASSES[task][1:])}; wanted masks that do ({wanted[task]})"
        )
    return kept


def shows_classes(part: Slices) -> bool:
    """Whether any pixel is of a class that is not the background."""
    return part.classes is not None and bool(((part.classes > 0) & (part.classes != UNKNOWN_CLASS)).any())


def _labels(part: Slices, task: str) -> np.ndarray:
    own = part.sides if task == "lungs" else part.classes
    labels = np.full(part.hu.shape, UNKNOWN_CLASS, np.uint8) if own is None else own.copy()
    if task == "infection" and part.source.startswith("lctsc"):
        labels[(part.lungs == 1) & (part.infection == 0)] = 0
    return labels


def draw(
    part: Slices,
    index: int,
    how: Preparation,
    task: str,
    own: Mapping[str, Any],
    equalise: bool,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """One slice of a source of `with_classes` as the network sees it; truth is the class's number and a weight.

    own : the source's arguments of the geometry. equalise : in the look of CLAHE slices, see `views`. Left and right
    are exchanged for the infection only.
    """
    assert part.classes is not None
    hu, _, _, there = stack(part, index, rng)
    geometry = {**own, "flip": False} if task == "lungs" else own
    hu, classes = deform(how.preset, (hu, part.classes[index]), ("hu", "mask"), rng, **geometry)
    hu = tint_alike(how.preset, hu, rng)
    return show_stack(how, equalised(hu) if equalise else hu, *truth_of_classes(classes), rng, there)


def truth_of_classes(classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class numbers and weights; where nobody told, the background without a weight."""
    known = classes != UNKNOWN_CLASS
    return np.where(known, classes, 0), known
