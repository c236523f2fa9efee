"""People with truth, in whole scans, to what the intervals of reports rest on: `covct evaluate --calibrate`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from covct.data.cases import Case
from covct.disk.durable import output_errors, replace_file
from covct.errors import UsageError
from covct.evaluation.eligible import Judge
from covct.evaluation.judge import Called
from covct.evaluation.truth import Truth
from covct.networks.cards import LARGEST_CARD, MOST_PEOPLE, Calibrated, Card, PersonSeen, ensemble, read_card
from covct.pipeline.uncertainty import settings_of

DIGITS = 4
BOTH, EMPTY = ("lungs", "infection"), "empty-slices"
SOURCE = "covct evaluate --calibrate"


@dataclass
class Measured:
    """A person: by figure the errors of one whole scan, the first of those that tell the most figures."""

    source: str
    judge: Judge
    there: bool = False
    errors: dict[str, float] = field(default_factory=dict)

    def add(self, case: Case, truth: Truth, called: Called) -> None:
        """A whole scan of theirs. Without truth, or where the gate withholds a figure, it tells nothing of that."""
        true = true_figures(case, truth)
        errors = {name: round(one.error(true[name]), DIGITS) for name, one in called.stated.items() if name in true}
        if len(errors) > len(self.errors):
            self.there, self.errors = true.get("infection_ml", 0.0) > 0, errors


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


@dataclass(frozen=True)
class Calibrating:
    """A folder of networks into whose infection card people go: the networks that judged, or all folds as an ensemble.

    Attributes
    ----------
    card : Path
        The infection network's.
    own : dict of str to list of Card
        By task, as in the folder.
    settings : str
        As `settings_of`.
    folds : dict of str to int
        By the judge's name, which network of the ensemble is theirs.
    """

    card: Path
    own: dict[str, list[Card]]
    settings: str
    folds: dict[str, int]

    @classmethod
    def into(cls, folder: Path, judges: Sequence[Judge]) -> Calibrating:
        """Look whether people can go there, before anybody is measured.

        Raises
        ------
        UsageError
            The folder holds other networks: what is measured would say nothing about these.
        OutputNotWritable
            Nothing can be written into the folder.
        """
        own = {task: [read_card(path) for path in ensemble(folder, task)] for task in BOTH}
        folds, settings = _places(folder, own, judges), _settings(folder, own, judges)
        with output_errors(folder), tempfile.TemporaryFile(dir=folder):
            pass
        return cls(ensemble(folder, "infection")[0], own, settings, folds)

    def write(self, people: Iterable[Measured], unlike: int = 0) -> str:
        """Put people into the card, which is whole at any moment, and say in a sentence what came of it.

        unlike : int
            Scans that were left out, since they look like nothing that was learned.

        Raises
        ------
        UsageError
            They are more than a card can hold.
        OutputNotWritable
            The card is as it was.
        """
        told = [
            PersonSeen(source=one.source[:99], there=one.there, fold=self.folds[one.judge.name], errors=one.errors)
            for one in people
            if one.errors
        ]
        if len(told) > MOST_PEOPLE:
            raise UsageError(f"{self.card}: got {len(told)} people in whole scans, wanted {MOST_PEOPLE} at most")
        content = self.own["infection"][0].replaced(calibration=self._calibrated(told).model_dump()).as_json().encode()
        if len(content) > LARGEST_CARD:
            got = f"got {len(told)} people, with whom the card has {len(content)} bytes"
            raise UsageError(f"{self.card}: {got}, wanted {LARGEST_CARD} at most")
        with output_errors(self.card.parent):
            replace_file(self.card, content)
        there = sum(one.there for one in told)
        said = f"{len(told)} people in whole scans, {there} of them with infection, were written into {self.card.name}"
        return f"{said}; scans left out that look like nothing learned: {unlike}" if unlike else said

    def _calibrated(self, people: list[PersonSeen]) -> Calibrated:
        sources = ", ".join(sorted({one.source for one in people})) or "nobody"
        return Calibrated(
            networks=[one.sha256 for task in BOTH for one in self.own[task]],
            thresholds=[self.own[task][0].threshold for task in BOTH],
            settings=self.settings,
            by_folds=len(self.folds) > 1,
            source=f"{SOURCE}: {len(people)} people of {sources}"[:999],
            people=people,
        )


def _places(folder: Path, own: dict[str, list[Card]], judges: Sequence[Judge]) -> dict[str, int]:
    """Which network of the folder's ensemble each judge's is, from 0.

    A single judge has all networks of the folder in their order. Judges that are folds have one each for infection, and
    together those of the folder and no others; several may share their lungs'.
    """
    hashes = {task: [card.sha256 for card in cards] for task, cards in own.items()}
    theirs = {task: [_hashes(judge, task) for judge in judges] for task in own}
    if len(judges) == 1:
        same = all(theirs[task] == [hashes[task]] for task in own)
    else:
        same = sorted(theirs["infection"]) == sorted([one] for one in hashes["infection"])
        same &= sorted({tuple(one) for one in theirs["lungs"]}) == sorted((one,) for one in hashes["lungs"])
    if not same:
        of = ", ".join(str(judge.name or judge.folder) for judge in judges)
        raise UsageError(
            f"{folder}: its networks are not those that judged ({of}); wanted their own folder, or of folds all of "
            "them together and no others: infection.json, infection-fold-1.json, ... (and lungs alike)"
        )
    if len(judges) == 1:
        return {judges[0].name: 0}
    return {judge.name: hashes["infection"].index(_hashes(judge, "infection")[0]) for judge in judges}


def _settings(folder: Path, own: dict[str, list[Card]], judges: Sequence[Judge]) -> str:
    """Of the folder: those of who judged. Folds may have thresholds of their own."""
    path = folder / f"{EMPTY}.json"
    lungs, infection = (own[task][0] for task in BOTH)
    empty = read_card(path) if path.is_file() else None
    whole = settings_of(lungs, infection, empty)
    for judge in judges:
        theirs = judge.cards["lungs"], judge.cards["infection"]
        same = settings_of(*theirs, judge.cards.get(EMPTY)) == whole
        if len(judges) == 1:
            same &= [card.threshold for card in theirs] == [lungs.threshold, infection.threshold]
        if not same:
            raise UsageError(
                f"{folder}: its cards feed the networks in another way than those that judged ({judge.folder}); wanted "
                "the same settings and thresholds, and the same empty-slices network or none"
            )
    return whole


def _hashes(judge: Judge, task: str) -> list[str]:
    """Of all networks for a task, in the order of their ensemble."""
    return [card.sha256 for name, card in judge.cards.items() if name == task or name.startswith(f"{task}-fold-")]
