"""People with truth, in whole scans, to what the intervals of reports rest on: `covct evaluate --calibrate`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from covct.data.cases import Case
from covct.disk.durable import output_errors
from covct.errors import UsageError
from covct.evaluation.eligible import Judge
from covct.evaluation.judge import Called
from covct.evaluation.truth import Truth
from covct.networks.cards import Calibrated, Card, PersonSeen, ensemble, read_card, write_card

DIGITS = 4
SOURCE = "covct evaluate --calibrate"


@dataclass
class Measured:
    """A person: by figure the error of the first whole scan that tells it."""

    source: str
    judge: Judge
    there: bool = False
    errors: dict[str, float] = field(default_factory=dict)

    def add(self, case: Case, truth: Truth, called: Called) -> None:
        """A whole scan of theirs. Without truth, or where the gate withholds a figure, it tells nothing of that."""
        true = true_figures(case, truth)
        self.there |= true.get("infection_ml", 0.0) > 0
        for name, stated in called.stated.items():
            if name in true and name not in self.errors:
                self.errors[name] = round(stated.error(true[name]), DIGITS)


def true_figures(case: Case, truth: Truth) -> dict[str, float]:
    """Of both lungs, as a report names them; of somebody whose slices are all labelled clear, that there is nothing."""
    assert truth.spacing_mm is not None
    ml = float(np.prod(truth.spacing_mm)) / 1000
    voxels = {task: int(np.count_nonzero(mask)) for task, mask in truth.masks.items()}
    figures = {}
    if voxels.get("lungs"):
        figures["volume_ml"] = voxels["lungs"] * ml
    if "infection" in voxels:
        figures["infection_ml"] = voxels["infection"] * ml
        if voxels.get("lungs"):
            figures["infection_percent"] = 100 * voxels["infection"] / voxels["lungs"]
    elif case.slice_labels and not any(label is not False for label in case.slice_labels):
        figures |= {"infection_ml": 0.0, "infection_percent": 0.0}
    return figures


def write_calibration(folder: Path, people: Iterable[Measured], judges: Sequence[Judge]) -> str:
    """Put people into the card of the infection network in a folder, and say in a sentence what came of it.

    The folder holds the networks that judged, or, where they were folds, all of them as one ensemble.

    Raises
    ------
    UsageError
        The folder holds other networks: what was measured says nothing about these.
    """
    own = {task: [read_card(path) for path in ensemble(folder, task)] for task in ("lungs", "infection")}
    folds = {judge.name: _place(folder, own, judge, len(judges) > 1) for judge in judges}
    told = [
        PersonSeen(source=one.source[:99], there=one.there, fold=folds[one.judge.name], errors=one.errors)
        for one in people
        if one.errors
    ]
    sources = ", ".join(sorted({one.source for one in told})) or "nobody"
    card = own["infection"][0]
    calibrated = Calibrated(
        networks=[one.sha256 for task in ("lungs", "infection") for one in own[task]],
        thresholds=[own[task][0].threshold for task in ("lungs", "infection")],
        by_folds=len(judges) > 1,
        source=f"{SOURCE}: {len(told)} people of {sources}"[:999],
        people=told,
    )
    with output_errors(folder):
        write_card(card.replaced(calibration=calibrated.model_dump()), folder)
    there = sum(one.there for one in told)
    return f"{len(told)} people in whole scans, {there} of them with infection, were written into {card.name}.json"


def _place(folder: Path, own: dict[str, list[Card]], judge: Judge, folds: bool) -> int:
    """Which network of the folder's ensemble a judge's is, from 0."""
    theirs = {task: judge.cards[task].sha256 for task in own}
    hashes = {task: [card.sha256 for card in cards] for task, cards in own.items()}
    same = [theirs["infection"]] == hashes["infection"][:1] and [theirs["lungs"]] == hashes["lungs"][:1]
    if folds and len(own["infection"]) > 1:
        same = theirs["infection"] in hashes["infection"] and theirs["lungs"] in hashes["lungs"]
    if not same:
        raise UsageError(
            f"{folder}: its networks are not those that judged ({judge.name or judge.folder}); wanted their own "
            "folder, or of folds all of them together: infection.json, infection-fold-1.json, ... (and lungs alike)"
        )
    return hashes["infection"].index(theirs["infection"]) if folds else 0
