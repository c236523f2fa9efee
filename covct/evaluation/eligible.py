"""Which networks may judge a case: those of one folder, or those of the fold of a cross-validation that held it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from covct.data.cases import TASKS, Case
from covct.data.domains import CLAHE
from covct.data.leakage import has_learned_from
from covct.errors import UsageError
from covct.evaluation.truth import is_whole
from covct.networks.cards import RESTORER, Card, default_weights_folder, ensemble, read_card, tasks_in


@dataclass(frozen=True)
class Judge:
    """The networks of one folder.

    Attributes
    ----------
    name : str
        The fold's, such as "fold-0"; empty for a folder of its own.
    cards : dict of str to Card
        Of every network that inference loads from the folder, by the names of their files: "lungs" and "infection",
        of ensembles "infection-fold-1" and so on too, and "empty-slices" where it is there. Infection is called inside
        the lungs found, and each member of an ensemble has its share, so all count whatever the task.
    restorer : Path
        Its card, which need not be there: only 8-bit CLAHE slices that are restored need it.
    lent : dict of str to Card
        Of a folder with the network for infection alone, the cards of the shipped lungs network, by the names of their
        files; of one with that for the lungs alone, empty, since the lungs do not depend on what is infected.
    """

    name: str
    folder: Path
    cards: dict[str, Card]
    restorer: Path
    lent: dict[str, Card] = field(default_factory=dict)

    @property
    def tasks(self) -> tuple[str, ...]:
        """What it can be judged by."""
        return tuple(task for task in TASKS if task in self.cards)

    def needs_lent(self, case: Case) -> bool:
        """Whether the shipped lungs are asked for: not where slices have true ones, infection is called inside them."""
        return bool(self.lent) and (is_whole(case) or not case.masks.keys() & {"lungs", "both"})

    def key(self, task: str) -> str:
        return f"{self.name}/{task}" if self.name else task

    def seen(self, case: Case, restored: bool) -> list[str]:
        """Names of its networks that have learned from the case's patient; the restorer's only if it is asked."""
        asked = self.cards | (self.lent if self.needs_lent(case) else {})
        if restored and case.domain == CLAHE:
            asked = asked | {"restorer": self.restorer_card}
        return seen_by(case, asked)

    @cached_property
    def restorer_card(self) -> Card:
        """Read once: every case of 8-bit CLAHE slices asks for it.

        Raises
        ------
        UsageError
            There is none.
        """
        if not self.restorer.is_file():
            raise UsageError(
                f"{self.restorer}: no such card; 8-bit CLAHE slices need --restorer CARD (covct train restorer), or "
                "--clahe linear"
            )
        return read_card(self.restorer)


def find_judges(weights: Path, restorer: Path | None = None) -> list[Judge]:
    """The networks of a folder of cards, or of each of its folders fold-0, fold-1, ... of a cross-validation."""
    folders = [weights]
    if not any((weights / f"{task}.json").is_file() for task in TASKS):
        folders = sorted(weights.glob("fold-*"), key=lambda path: (len(path.name), path.name)) or folders
    return [_judge("" if folder == weights else folder.name, folder, restorer) for folder in folders]


def _judge(name: str, folder: Path, restorer: Path | None) -> Judge:
    own = [task for task in tasks_in(folder) if (folder / f"{task}.json").is_file()]
    wanted = own if set(own) & set(TASKS) else tasks_in(folder)  # of a folder without any the first is told of
    lent = ensemble(default_weights_folder(), "lungs") if "infection" in own and "lungs" not in own else []
    return Judge(
        name,
        folder,
        {path.stem: read_card(path) for task in wanted for path in ensemble(folder, task)},
        Path(str(restorer).replace("{fold}", folder.name.removeprefix("fold-"))) if restorer else _restorer_of(folder),
        {path.stem: read_card(path) for path in lent},
    )


def _restorer_of(folder: Path) -> Path:
    """Its own, else the shipped one; which need not be there."""
    own, shipped = folder / RESTORER, default_weights_folder() / RESTORER
    return own if own.is_file() or not shipped.is_file() else shipped


def judge_of(case: Case, judges: Sequence[Judge], restored: bool) -> tuple[Judge, list[str]]:
    """The first whose networks have not learned from the case's patient, else the first; and which of his have."""
    for one in judges:
        if not one.seen(case, restored):
            return one, []
    return judges[0], judges[0].seen(case, restored)


def seen_by(case: Case, cards: Mapping[str, Card]) -> list[str]:
    """Names, as `cards` has them, of the networks that have learned from the case's patient."""
    return [name for name, card in cards.items() if has_learned_from(card, case.known_as, case.patient)]
