"""The sources parted into what is trained on and what is validated on: by patient, or by slice where that is wished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from covct.data.slices import Slices
from covct.errors import UsageError
from covct.training.folds import (
    held_out,
    is_by_slice,
    left_for_a_test,
    patients_on_both_sides,
    refuse_patients_on_both_sides,
)
from covct.training.settings import Settings


@dataclass(frozen=True)
class Split:
    """The sources, each in two parts; `checks` hold no slices where all is trained on."""

    train_sets: list[Slices]
    check_sets: list[Slices]
    held_out: dict[str, list[str]]
    patients: dict[str, list[str]]
    on_both_sides: int

    @property
    def judged(self) -> list[Slices]:
        """What is validated on: of LCTSC, whose slices come in two looks, the scanner's."""
        return [part for part in self.check_sets if part.source != "lctsc-restored"]


def split_sources(parts: list[Slices], settings: Settings) -> Split:
    chosen = frozenset[str]().union(*(left_for_a_test(part.patients, settings) for part in parts))
    parts, left_out = _without(parts, sorted(chosen | set(settings.leave_out)))
    held = {part.source: held_out(part.patients, settings) for part in parts}
    patients = {part.source: part.patients for part in parts}
    both, told = on_both_sides_and_held_out(patients, held, settings)
    return Split(
        [part.chosen(~held[part.source]) for part in parts],
        [part.chosen(held[part.source]) for part in parts],
        {
            source: sorted([*told.get(source, []), *names])
            for source, names in (dict.fromkeys(told, ()) | left_out).items()
        },
        {source: sorted(set(names)) for source, names in patients.items()},
        both,
    )


def _without(parts: list[Slices], names: Sequence[str]) -> tuple[list[Slices], dict[str, list[str]]]:
    """The sources without the patients of these names, and by source who they are."""
    unknown = set(names) - {patient for part in parts for patient in part.patients}
    if unknown:
        raise UsageError(f"--leave-out {', '.join(sorted(unknown))}: no source has such a patient")
    kept = [part.chosen(np.array([patient not in names for patient in part.patients], bool)) for part in parts]
    left_out = {part.source: sorted(set(names) & set(part.patients)) for part in parts}
    return [part for part in kept if len(part)], {source: found for source, found in left_out.items() if found}


def on_both_sides_and_held_out(
    patients: Mapping[str, Sequence[str]], held: dict[str, np.ndarray], settings: Settings
) -> tuple[int, dict[str, list[str]]]:
    """How many patients are on both sides, and who is held out by source; UsageError where nobody may be on both."""
    sides: dict[bool, list[list[str]]] = {
        side: [[p for p, h in zip(names, held[source], strict=True) if h == side] for source, names in patients.items()]
        for side in (False, True)
    }
    refuse_patients_on_both_sides(sides[False], sides[True], settings)
    # Split by slice, nobody is held out: whoever starts from these weights later must know that they saw everyone.
    told = [[] if is_by_slice(settings) else sorted(set(names)) for names in sides[True]]
    return len(patients_on_both_sides(sides[False], sides[True])), dict(zip(patients, told, strict=True))
