"""Who is held out: whole patients, per source, the same for the same seed; by slice only to repeat others' numbers.

The assignment to folds is kept in `folds.json`, so that restorer, lungs and infection of one fold never see each
other's held-out patients, on whatever machine they are trained.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from covct.data.slices import held_out_patients
from covct.disk.durable import output_errors, replace_json
from covct.errors import UsageError
from covct.training.settings import Settings

FILE = "folds.json"


@dataclass(frozen=True)
class Split:
    """How data is parted. `by`: "patient", "slice" or "none"; `share` is what is held out, `test` what is left out."""

    by: str
    share: float = 0.3
    test: float = 0.0


def parse_split(text: str) -> Split:
    """Read "90/10", "70/30", "0.2", "72/18/10", "slice", "slice:90/10" or "none"."""
    by, _, rest = text.partition(":") if text.startswith("slice") else ("patient", "", text)
    if text == "none":
        return Split("none", 0.0)
    try:
        share, test = _shares(rest) if rest or by == "patient" else (Split.share, 0.0)
    except ValueError:
        share, test = -1.0, 0.0
    if by not in ("patient", "slice") or not 0 < share < 1 or not 0 <= test < 1 or (test and by == "slice"):
        raise UsageError(
            f"--split {text}: wanted 90/10, 70/30 or a share held out such as 0.2 (by patient), 72/18/10 (the last "
            "tenth left out for a test), slice or slice:90/10 (by slice, leaks), or none (train on all)"
        )
    return Split(by, share, test)


def _shares(text: str) -> tuple[float, float]:
    """What is held out, of what is not left out; and what is left out."""
    if "/" not in text:
        return float(text), 0.0
    trained, held, *rest = (float(part) for part in text.split("/"))
    if len(rest) > 1 or trained + held + sum(rest) != 100 or any(part <= 0 for part in rest):
        return -1.0, 0.0
    return held / (trained + held), sum(rest) / 100


def left_for_a_test(patients: Sequence[str], settings: Settings) -> frozenset[str]:
    """The patients of one source whom a split of three parts leaves out of training and validation."""
    test = 0.0 if settings.folds else parse_split(settings.split).test
    return held_out_patients(list(patients), test, settings.seed + 1) if test else frozenset()


def assign_folds(patients: Sequence[str], folds: int, seed: int) -> dict[str, int]:
    """Deal the patients of one source to folds 0 to `folds` - 1, sizes differ by one at most.

    Only names and seed decide, not how many slices were read: the restorer reads other slices than the rest.
    """
    distinct = sorted(set(patients))
    if len(distinct) < folds:
        raise UsageError(f"{folds} folds by patient need as many patients in each source, got {len(distinct)}")
    random.Random(seed).shuffle(distinct)
    return {patient: place % folds for place, patient in enumerate(distinct)}


def held_out(patients: Sequence[str], settings: Settings) -> np.ndarray:
    """Which slices of one source are held out.

    Parameters
    ----------
    patients : sequence of str
        Patient group of each slice.

    Returns
    -------
    (slices,) bool
    """
    if settings.folds:
        fold_of = assign_folds(patients, settings.folds, settings.seed)
        return np.array([fold_of[patient] == settings.fold for patient in patients], bool)
    split = parse_split(settings.split)
    if split.by == "none":
        return np.zeros(len(patients), bool)
    if split.by == "slice":
        chosen = np.random.default_rng(settings.seed).permutation(len(patients))
        return np.isin(np.arange(len(patients)), chosen[: max(1, round(split.share * len(patients)))])
    held = held_out_patients(list(patients), split.share, settings.seed)
    return np.array([patient in held for patient in patients], bool)


def patients_on_both_sides(trained: Sequence[Sequence[str]], held: Sequence[Sequence[str]]) -> list[str]:
    """Patients that some source trains on and some source, another one perhaps, holds out."""
    return sorted({p for part in trained for p in part} & {p for part in held for p in part})


def refuse_patients_on_both_sides(
    trained: Sequence[Sequence[str]], held: Sequence[Sequence[str]], settings: Settings
) -> None:
    """Raise UsageError where a patient lies on both sides; a split by slice is asked for with open eyes."""
    both = patients_on_both_sides(trained, held)
    if both and not is_by_slice(settings):
        raise UsageError(
            f"{len(both)} patients would be on both sides of the split: {', '.join(both[:5])}; "
            "two sources hold the same patient: leave one out, or give the patient the same name and fold in both"
        )


def is_by_slice(settings: Settings) -> bool:
    return not settings.folds and parse_split(settings.split).by == "slice"


def keep_folds(out: Path, patients: dict[str, list[str]], settings: Settings) -> None:
    """Write the assignment to `out`/folds.json, or check it against what stands there.

    patients : source to its patients. Sources that the file does not know yet are added.

    Raises
    ------
    UsageError
        The file holds another number of folds, another seed or other patients: the folds would not be comparable.
    """
    path = out / FILE
    wanted = {source: assign_folds(names, settings.folds, settings.seed) for source, names in patients.items()}
    known: dict[str, dict[str, int]] = {}
    if path.exists():
        try:
            stored = json.loads(path.read_text())
            known = dict(stored["sources"])
            before = (stored["folds"], stored["seed"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path}: cannot be read as an assignment to folds: {error}") from error
        if before != (settings.folds, settings.seed):
            raise UsageError(
                f"{path}: it holds {before[0]} folds with seed {before[1]}, wanted {settings.folds} with seed "
                f"{settings.seed}: take another folder"
            )
        for source in wanted.keys() & known.keys():
            if known[source] != wanted[source]:
                differing = sorted(wanted[source].items() ^ known[source].items())
                raise UsageError(f"{path}: source {source} has other patients or folds there, e.g. {differing[0][0]}")
    if known.keys() >= wanted.keys():
        return
    with output_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        replace_json(path, {"folds": settings.folds, "seed": settings.seed, "sources": {**known, **wanted}})
