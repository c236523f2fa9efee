"""What is to be done: the series of each study that get an outcome, and which of them have it already."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from covct.disk.outcome import Outcome, content_key, is_whole, read_outcome, work_key
from covct.disk.sources import Opener
from covct.errors import RunError, logged
from covct.intake.choice import NOT_CHOSEN, NOT_SELECTED, Choice, choose, selected
from covct.intake.discover import Discovery, Series
from covct.intake.gate import check_headers
from covct.intake.older_trees import where_it_lies
from covct.networks import diagnosis
from covct.networks.cards import ensemble, file_sha256, read_card, tasks_in
from covct.networks.devices import TENSORFLOW
from covct.networks.lobe_card import checked, lobe_card
from covct.outputs import Outputs, formats_for, hold_masks, with_needed
from covct.unattended.replaced import may_be_replaced, signature
from covct.unattended.whose import further_patients, record, told_apart

# A file that was still being copied has the same identity when it is whole; and memory is not the series' own.
NEVER_FINAL = ("unreadable", "too-large")


@dataclass(frozen=True)
class Order:
    """What a scan was asked for.

    Attributes
    ----------
    outputs : Outputs
    force, retry_failed : bool
        Redo everything; redo what failed unexpectedly.
    strict : bool
        Warnings refuse a series.
    series_uids : tuple of str
        Only these series; empty: the rule chooses.
    select : tuple of (str, re.Pattern)
        Only series whose first slice has this in an attribute, by keyword.
    move_done : Path or None
        Where the source files of done studies go.
    marker : str
        `watch` takes a study once a file of this name lies in its folder. Empty: at once.
    memory_mib : float or None
        Memory that a series may need; None: all that the machine or the container has.
    runtime : str
        What will compute the networks, as far as is known before they are loaded: it takes its share of that memory.
    since : datetime or None
        Only studies of which a file was modified then or later.
    until : datetime or None
        No series is started then or later.
    limit : int or None
        At most as many series get an outcome in this run.
    began : datetime or None
        The run's beginning, where a process before this one began it.
    already : frozenset of str
        Folders that have an outcome of this run from a process before: neither forced nor retried.
    priors : tuple of Path
        Further results trees with earlier results of the same patients.
    identifier_key : bytes or None
        What paths in results are hashed with; None: they stand as they are.
    show_identifiers : bool
        index.html shows what the archive knows the studies by.
    lobes : str
        Where lobes come from: "none", there are none, or "atlas".
    """

    sources: tuple[Path, ...]
    out: Path
    weights: Path
    outputs: Outputs = Outputs()
    force: bool = False
    retry_failed: bool = False
    strict: bool = False
    series_uids: tuple[str, ...] = ()
    select: tuple[tuple[str, re.Pattern[str]], ...] = ()
    move_done: Path | None = None
    marker: str = ""
    memory_mib: float | None = None
    runtime: str = TENSORFLOW
    since: datetime | None = None
    until: datetime | None = None
    limit: int | None = None
    began: datetime | None = None
    already: frozenset[str] = frozenset()
    priors: tuple[Path, ...] = ()
    identifier_key: bytes | None = None
    show_identifiers: bool = False
    lobes: str = "none"


@dataclass(frozen=True)
class Job:
    """One series with its study's choice, or one that is rejected by its headers (`refusal`).

    Attributes
    ----------
    work_key : str
        Of its instances. Slices that replace those of an earlier result under their UIDs get another, once read.
    finished : Outcome or None
        The outcome that stands. None where there is something to do.
    trouble : str
        Its study broke the planning, by this kind of error at this place.
    before : Outcome or None
        The outcome in its folder, if it is of the same instances.
    doubtful : bool
        `before` stands if the series still holds the slices that it was made of: files have changed since.
    signature : str
        Of the files, as `replaced.signature` has it.
    outputs : Outputs
        What its result is to hold: what is asked for, beside what the result in its folder holds.
    lacking : tuple of str
        Formats that `before`, which stands, lacks of that.
    from_masks : bool
        They are written from the masks that `before` holds.
    """

    series: Series
    choice: Choice
    work_key: str
    finished: Outcome | None
    refusal: tuple[str, str] | None = None
    trouble: str = ""
    before: Outcome | None = None
    doubtful: bool = False
    signature: str = ""
    outputs: Outputs = Outputs()
    lacking: tuple[str, ...] = ()
    from_masks: bool = False

    @property
    def stays(self) -> bool:
        """Whether `before` stays where nothing comes of the work."""
        return self.before is not None and (self.doubtful or bool(self.lacking))

    @property
    def to_do(self) -> bool:
        return self.finished is None

    @property
    def to_prepare(self) -> bool:
        """Whether its slices are to be read."""
        return self.to_do and not self.refusal and not self.trouble


def plan(order: Order, found: Discovery, cards: dict[str, str]) -> list[Job]:
    """Every series that gets an outcome: the chosen one of each study, or all of a study where none qualifies.

    `cards` holds the hash of each weight card, from `card_hashes`.
    """
    jobs = []
    further = further_patients(order.out)
    with Opener() as opener:
        for _, candidates in _by_study(_with_folders(order, found, cards)):
            try:
                studies = told_apart(order.out, candidates, further)
                jobs += [job for study in studies for job in _plan_study(order, study, cards, opener)]
            except (RunError, OSError):
                raise
            except Exception as error:
                trouble = logged(error)
                jobs += [_troubled(order, series, trouble) for series in candidates]
    return jobs


def _plan_study(order: Order, candidates: list[Series], cards: dict[str, str], opener: Opener) -> list[Job]:
    wanted = [series for series in candidates if selected(series, order.series_uids, order.select)]
    if not wanted:
        return []
    choice = choose(wanted, partial(check_headers, strict=order.strict))
    choice = replace(choice, left_out=(*choice.left_out, *_not_selected(candidates, wanted)))
    if not choice.chosen:
        return [
            _job(order, series, choice, cards, (slug, message), opener)
            for series, slug, message in choice.left_out
            if slug != NOT_SELECTED
        ]
    jobs = []
    job: Job | None = _job(order, choice.chosen, choice, cards, None, opener)
    while job:
        jobs.append(job)
        job = follow(order, job, job.finished, cards, opener)
    return jobs


def _troubled(order: Order, series: Series, trouble: str) -> Job:
    """A series of a study that cannot be planned. Its key is no result's: whoever can plan it does it anew."""
    key = work_key(series.content, {"planned": False}, {})
    return Job(series, Choice(None, (), ()), key, standing(order, series.folder, key), trouble=trouble)


def _with_folders(order: Order, found: Discovery, cards: dict[str, str]) -> list[Series]:
    """The series, each with the folder that its result has or is to have."""

    def lying(series: Series) -> Series:
        try:
            return where_it_lies(order.out, series, lambda one: _key(order, one, cards, order.outputs))
        except (RunError, OSError):
            raise
        except Exception as error:  # planning its study will tell
            logged(error)
            return series

    return [lying(series) for series in found.series]


def _not_selected(candidates: list[Series], wanted: list[Series]) -> list[tuple[Series, str, str]]:
    message = "not selected by --series or --select"
    return [(series, NOT_SELECTED, message) for series in candidates if series not in wanted]


def _by_study(found: list[Series]) -> Iterator[tuple[str, list[Series]]]:
    """Each study's folder with its series, in a fixed order."""
    ordered = sorted(found, key=lambda series: (series.study_folder, series.folder))
    for study, group in groupby(ordered, key=lambda series: series.study_folder):
        yield study, list(group)


def card_hashes(weights: Path, lobes: str = "none") -> dict[str, str]:
    """sha256 of each card, once its weights are found unaltered; of the atlas of lobes where these are asked for."""
    hashes = {}
    for task in tasks_in(weights):
        for card in ensemble(weights, task):
            read_card(card)
            hashes[card.stem] = file_sha256(card)
    if os.path.lexists(weights / diagnosis.FILE):  # told in the report, so another one gives another result
        hashes[diagnosis.NAME] = file_sha256(weights / diagnosis.FILE)
    if lobes != "none":
        card = lobe_card(weights)
        checked(card)
        hashes["lobes"] = file_sha256(card)
    return hashes


def _job(
    order: Order,
    series: Series,
    choice: Choice,
    cards: dict[str, str],
    refusal: tuple[str, str] | None,
    opener: Opener | None,
) -> Job:
    outcome = read_outcome(order.out / series.folder)
    outputs, now = order.outputs.beside(outcome.held if outcome else {}), signature(series, opener)
    key = _key(order, series, cards, outputs)
    stands = outcome is not None and _stands(order, series.folder, key, outcome)
    changed = outcome is not None and may_be_replaced(outcome, now)
    lacking = _lacking(outcome, series, outputs) if outcome and stands and not refusal else ()
    from_masks = bool(
        lacking
        and outcome
        and hold_masks(outcome.held)
        and not _of_probabilities(outputs, lacking)
        and outcome.patient == record(order.out, series)  # else one result's objects would tell of two
    )
    return Job(
        series,
        choice,
        key,
        outcome if stands and not changed and not lacking else None,
        refusal,
        before=outcome if outcome and outcome.content == content_key(series.content) else None,
        doubtful=bool(stands and changed and outcome and outcome.status == "done" and not refusal),
        signature=now,
        outputs=outputs,
        lacking=lacking,
        from_masks=from_masks,
    )


def _lacking(outcome: Outcome, series: Series, outputs: Outputs) -> tuple[str, ...]:
    """The formats that a result which stands is to hold and does not, with what they need; less what was taken away by
    `covct prune`: nobody wants that back every night."""
    if outcome.status != "done":
        return ()
    lacking = _missing(outcome, formats_for(series.kind, outputs.formats), outputs)
    if lacking and not series.can_be_referred_to:  # which looks at every UID
        lacking = _missing(outcome, formats_for(series.kind, outputs.formats, referable=False), outputs)
    return lacking


def _missing(outcome: Outcome, wanted: tuple[str, ...], outputs: Outputs) -> tuple[str, ...]:
    held = outcome.held
    missing = [name for name in wanted if held.get(name) != outputs.kind(name)]
    needed = with_needed(name for name in missing if name not in outcome.pruned)
    return tuple(name for name in missing if name in needed)


def _of_probabilities(outputs: Outputs, formats: tuple[str, ...]) -> bool:
    """Whether one of them holds what networks said, and not only what was called."""
    return "seg" in formats and outputs.seg_type == "fractional"


def _key(order: Order, series: Series, cards: dict[str, str], outputs: Outputs) -> str:
    """Of what decides masks and figures, and the kind of SEG. Formats do not: what is there can be added to."""
    return work_key(series.content, {"seg": outputs.of_key(series.kind), "strict": order.strict}, cards)


def settings(order: Order) -> dict[str, Any]:
    """All that a call asks for of each result."""
    return {**order.outputs.settings(), "strict": order.strict}


def standing(order: Order, folder: str, key: str) -> Outcome | None:
    """The outcome that a series has, unless it is to be done again."""
    outcome = read_outcome(order.out / folder)
    return outcome if outcome and _stands(order, folder, key, outcome) else None


def _stands(order: Order, folder: str, key: str, outcome: Outcome) -> bool:
    again = folder not in order.already
    return not (
        (order.force and again)
        or not outcome.is_of(key)
        or outcome.slug in NEVER_FINAL
        or (outcome.status == "failed" and order.retry_failed and again)
        or not is_whole(order.out / folder, outcome)
    )


def follow(
    order: Order, job: Job, outcome: Outcome | None, cards: dict[str, str], opener: Opener | None = None
) -> Job | None:
    """The next best series of the study, where the chosen one was rejected for what it holds."""
    if not outcome or outcome.status != "rejected" or job.refusal:
        return None
    choice = job.choice.without_chosen(outcome.slug or "", outcome.message or "")
    return _job(order, choice.chosen, choice, cards, None, opener) if choice and choice.chosen else None


def superseded(choice: Choice) -> list[str]:
    """A better series came later: the result of the one chosen before must not count the patient twice.

    Nor that of the whole series, from before the slices came by which it is taken apart.
    """
    folders = [series.folder for series, slug, _ in choice.left_out if slug == NOT_CHOSEN]
    chosen = choice.chosen
    if chosen and chosen.whole_folder != chosen.folder:
        folders.append(chosen.whole_folder)
    return folders
