"""From a folder with truth to evaluation.json, evaluation.html and cases.csv."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from covct import RESEARCH_USE, __version__
from covct.data.cases import OWN, TASKS, Case, LeftOut, person_of
from covct.data.dicom_cases import AUTOMATIC
from covct.data.domains import CLAHE
from covct.data.layouts import at_least_one, search_cases
from covct.data.line_slices import DOUBTFUL
from covct.data.model_space import Restore
from covct.disk.durable import output_errors, replace_file
from covct.disk.versions import EVALUATION, EVALUATION_FORMAT
from covct.errors import OutputNotWritable, SeriesError, UsageError
from covct.evaluation import document
from covct.evaluation.against import compare, order_against, pairs_of, rows_of
from covct.evaluation.calls import CaseCalls, look_at_calls
from covct.evaluation.cases_csv import as_csv
from covct.evaluation.eligible import Judge, find_judges
from covct.evaluation.figure_files import figure_files
from covct.evaluation.judge import Called, Judged, Picture, judge, look_at_series, look_at_slices
from covct.evaluation.networks import Loaded, cards_of, choose, held_out_by
from covct.evaluation.notes import lent_notes, notes_against, notes_on
from covct.evaluation.order import RESTORED, EvaluationOrder, check_order, with_tasks_of
from covct.evaluation.page import as_html, read_history
from covct.evaluation.page_plots import History
from covct.evaluation.people import Calibrating, Measured
from covct.evaluation.predictions import Predictions, find_predictions, read_predictions
from covct.evaluation.robustness import Varied, vary
from covct.evaluation.schema import Evaluation
from covct.evaluation.truth import Truth, each_once, is_whole, named, read_truth, truth_for_networks
from covct.networks.cards import Card
from covct.networks.network import Networks
from covct.outputs import Emit
from covct.voxels.volume import Scan

JSON, PAGE, TABLE, FIGURES = "evaluation.json", "evaluation.html", "cases.csv", "figures"
# Left out of the data, and still no fault of it: what has no mask is no case, an older mask has a newer one, and a
# table says itself which slices are doubtful.
NO_CASES = ("no-mask", "unclaimed", "superseded", DOUBTFUL)
# Messages of what is left out name files, which may be patients' names: not in what is published.
REASONS = {
    AUTOMATIC: "its mask was drawn by covct and corrected by nobody: no truth",
    "incomplete": "files that a table names are not there",
    "no-image": "the image that its mask is of is not among the data",
}


@dataclass
class Evaluated:
    """What has been judged so far, and what was left out."""

    judged: list[Judged] = field(default_factory=list)
    calls: list[CaseCalls] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[dict[str, str]] = field(default_factory=list)
    people: dict[tuple[str, str], Measured] = field(default_factory=dict)
    unlike: int = 0  # scans

    def measure(self, case: Case, by: Judge, truth: Truth, called: Called) -> None:
        """What a whole scan tells of its person, if reports give intervals to scans that look so."""
        if called.unlike:
            self.unlike += 1
        else:
            self.people.setdefault(case.identity, Measured(case.known_as, by)).add(case, truth, called)


@dataclass(frozen=True)
class Session:
    """One evaluation: who judges which case by what.

    Attributes
    ----------
    cards : dict of str to Card
        Of all judges, by the names of their files.
    cases : list of Case
        Those that are judged, judge by judge.
    chosen : dict of str to (Judge, list of str)
        By case, who judges it and which of his networks have seen its patient.
    published : set of str
        People whom a card names, and who may be named.
    calibrating : Calibrating or None
        Where the people measured go.
    """

    order: EvaluationOrder
    loaded: Loaded
    calls: Predictions | None
    judges: list[Judge]
    cards: dict[str, Card]
    cases: list[Case]
    chosen: dict[str, tuple[Judge, list[str]]]
    published: set[str]
    calibrating: Calibrating | None = None

    def label(self, case: Case) -> tuple[str, bool]:
        """What the case is called in the results, and whether its patient is named."""
        shown = self.order.names or case.person in self.published
        # by a patient that cases.csv declares no card publishes the name of his file
        return case.name if self.order.names or (shown and case.named_by_patient) else case.key, shown

    def look(self, case: Case) -> tuple[Truth, Called]:
        """The truth of a case, and what is called in it; SeriesError where the gate refuses it."""
        labels, tasks = self.order.labels or {}, self.order.tasks
        if self.calls:
            truth = read_truth(case, labels)
            mine = (task for task in tasks if task in truth.masks or case.slice_labels)
            return truth, Called(read_predictions(self.calls, case, truth, mine))
        by = self.chosen[case.key][0]
        truth = truth_for_networks(case, labels, self.loaded.restore(by) if case.domain == CLAHE else None)
        if is_whole(case):
            return truth, look_at_series(self.loaded.networks(by), case)
        infection = "infection" in tasks and "infection" in truth.masks
        own_lungs = None if not by.lent or by.needs_lent(case) else truth.masks.get("lungs")
        return truth, look_at_slices(self.loaded.networks(by), truth, infection, own_lungs)

    def vary(self, case: Case, scan: Scan, called: Called) -> Varied:
        """A whole series, called again as other kernels and thicknesses would show it."""
        networks = self.loaded.networks(self.chosen[case.key][0])
        return vary(networks, scan, called.masks["lungs"], called.masks["infection"])


def evaluate(
    order: EvaluationOrder,
    load_networks: Callable[[Path], Networks],
    load_restorer: Callable[[Path], Restore],
    emit: Emit = lambda event: None,
) -> dict[str, Any]:
    """Judge every case asked for, and write the three files, each whole or not at all.

    Parameters
    ----------
    load_networks, load_restorer : functions
        Asked only for what is needed.
    emit : function
        Gets an event a case.

    Returns
    -------
    dict
        As written to evaluation.json.

    Raises
    ------
    UsageError
        Nothing to judge; a patient that was learned from and `also_seen` is not said; a mask that does not fit; a
        folder to calibrate that is another's, said before the first case.
    OutputNotWritable
        A full disk. Where only the card that is calibrated cannot be written, the evaluation is there.
    """
    check_order(order)
    found = at_least_one(search_cases(order.data, order.labels or {}, by_slice=True), order.data)
    session, rival = (
        wanted and _session(wanted, found.cases, Loaded(wanted, load_networks, load_restorer))
        for wanted in (order, order_against(order) if order.against else None)
    )
    assert session
    order, cases, done = session.order, session.cases, Evaluated()
    emit({"event": "found", "cases": len(cases)})
    _leave_out_unfit(found.left_out, order, done, emit)
    for case in cases:
        _judge_case(session, case, done, emit)
    if not done.rows:
        why = done.left_out[0]["reason"]
        raise UsageError(f"{order.data}: none of {len(cases)} cases could be judged; first: {why}")
    evaluation = _document(session, done)
    not_written: UsageError | OutputNotWritable | None = None
    if rival:
        try:
            evaluation["against"] = _against(session, rival, done, emit)
            evaluation["notes"] += notes_against(evaluation["against"])
        except UsageError as error:  # hours of judging are not thrown away for it
            evaluation["notes"].append("nothing was compared: what --against names does not fit these cases")
            not_written = error
    if session.calibrating:
        try:
            evaluation["notes"].append(session.calibrating.write(done.people.values(), done.unlike))
        except (UsageError, OutputNotWritable) as error:
            evaluation["notes"].append(f"nobody was written into {session.calibrating.card.name}")
            not_written = error
    _write(order, evaluation, session.judges, done.judged)
    if not_written:
        raise not_written
    return evaluation


def _session(order: EvaluationOrder, found: Sequence[Case], loaded: Loaded) -> Session:
    judges = find_judges(order.weights, order.restorer) if order.weights else []
    if judges and not order.predictions:
        order = with_tasks_of(order, {task for judge in judges for task in judge.tasks}, order.weights)
    restored = order.clahe == RESTORED and not order.predictions
    all_cases = named(each_once(found), order.source, not order.predictions)
    cases, chosen = choose(order, all_cases, judges, restored)
    calls = find_predictions(order.predictions, order.labels or {}, order.resample) if order.predictions else None
    lent = not order.predictions and any(chosen[case.key][0].needs_lent(case) for case in cases)
    cards = cards_of(judges, restored and any(case.domain == CLAHE for case in cases), lent)
    calibrating = Calibrating.into(order.calibrate, judges) if order.calibrate else None
    return Session(order, loaded, calls, judges, cards, cases, chosen, _named_by(cards), calibrating)


def _named_by(cards: dict[str, Card]) -> set[str]:
    return {person_of(name) for card in cards.values() for held in held_out_by(card).values() for name in held}


def _leave_out_unfit(left_out: Iterable[LeftOut], order: EvaluationOrder, done: Evaluated, emit: Emit) -> None:
    """What looks like truth and is none, with its reason."""
    for one in left_out:
        if one.slug in NO_CASES:
            continue
        source = order.source or OWN
        told = {"case": one.case if order.names else one.key, "source": source, "slug": one.slug}
        reason = one.message if order.names else REASONS.get(one.slug, "it cannot be used as truth")
        done.left_out.append({**told, "reason": reason})
        emit({"event": "left-out", **told, "reason": f"{one.slug}: {one.message}"})


def _judge_case(session: Session, case: Case, done: Evaluated, emit: Emit) -> None:
    order, began = session.order, time.monotonic()
    label, shown = session.label(case)

    def leave_out(slug: str, reason: str) -> None:
        done.left_out.append({"case": label, "source": case.known_as, "slug": slug, "reason": reason})
        emit({"event": "left-out", **done.left_out[-1]})

    try:
        truth, called = session.look(case)
        calls = look_at_calls(case, truth, called.masks if "infection" in order.tasks else {})
        if order.robustness and is_whole(case) and truth.scan:
            calls = replace(calls, varied=session.vary(case, truth.scan, called))
    except SeriesError as error:
        leave_out(error.slug, error.message)
        return
    found = judge(case, label, truth, called, order.tasks, order.tolerance_mm)
    if not found and not calls.any:
        got = ", ".join(truth.masks) or "nothing"
        leave_out("no-truth", f"it has truth of {got}, wanted {' or '.join(order.tasks)}")
        return
    by, seen = session.chosen.get(case.key, (None, []))
    row = document.row(case, label, shown, truth, found, calls, by, seen)
    done.judged += found
    if by and not seen and called.stated:
        done.measure(case, by, truth, called)
    done.calls += [calls] if calls.any else []
    done.rows.append(row)
    dice = {one.task: row["tasks"][one.task]["dice"] for one in found}
    seconds = round(time.monotonic() - began, 1)
    told = {"case": label, "source": case.known_as, "slices": len(truth.hu), "dice": dice, "seconds": seconds}
    emit({"event": "judged", **told})


def _document(session: Session, done: Evaluated) -> dict[str, Any]:
    order, cards = session.order, session.cards
    fold_of = {key: by.name for key, (by, _) in session.chosen.items() if by.name}
    groups = document.groups(done.judged, order, fold_of)
    lent = [] if order.predictions else list(lent_notes(session.chosen, session.cases, order.clahe == RESTORED))
    return {
        "schema": EVALUATION,
        "format": EVALUATION_FORMAT,
        "research_use": RESEARCH_USE,
        "covct_version": __version__,
        "software": document.software(session.loaded.last),
        "settings": document.settings(order),
        "judged": document.judged_what(order, cards, session.judges),
        "also_seen": any(row["seen_by"] for row in done.rows),
        "notes": notes_on(order, cards, done.rows, groups, session.cases, lent),
        "groups": groups,
        "calls": document.calls_groups(done.calls, order),
        "cases": done.rows,
        "left_out": done.left_out,
        "against": None,
    }


def _against(session: Session, rival: Session, done: Evaluated, emit: Emit) -> dict[str, Any]:
    """The same cases judged by what they are compared with, as far as it may judge them too."""
    order, again = session.order, Evaluated()

    def tell(event: dict[str, Any]) -> None:
        emit({**event, "event": "compared"} if event["event"] == "judged" else event)

    mine = {one.case.key for one in done.judged}
    for case in rival.cases:
        if case.key in mine:
            _judge_case(rival, case, again, tell)
    pairs = pairs_of(done.judged, again.judged)
    if not pairs:
        raise UsageError(
            f"--against {order.against}: it may judge none of the {len(mine)} cases; wanted patients that neither side "
            "has learned from"
        )
    return {
        **document.judged_what(rival.order, rival.cards, rival.judges),
        "groups": compare(pairs, order.resamples, order.seed),
        "cases": rows_of(pairs, lambda case: session.label(case)[0]),
        "left_out": again.left_out,
    }


def _write(order: EvaluationOrder, evaluation: dict[str, Any], judges: list[Judge], judged: list[Judged]) -> None:
    history = {
        judge.key(task): read_history(judge.folder, task)
        for judge in ([] if order.predictions else judges)
        for task in order.tasks
    }
    pictures = {task: [p for one in judged if one.task == task for p in one.pictures] for task in order.tasks}
    with output_errors(order.out):
        order.out.mkdir(parents=True, exist_ok=True)
        replace_file(order.out / TABLE, as_csv(evaluation))
        replace_file(order.out / JSON, Evaluation.model_validate(evaluation).as_json(indent=1))
        replace_file(order.out / PAGE, as_html(evaluation, history, pictures))
        if order.figures:
            _write_figures(order.out / FIGURES, evaluation, history, pictures)


def _write_figures(
    folder: Path, evaluation: dict[str, Any], history: dict[str, History | None], pictures: dict[str, list[Picture]]
) -> None:
    """In place of those of an evaluation before, which may have had others."""
    folder.mkdir(exist_ok=True)
    for earlier in (path for kind in (*TASKS, "training") for path in folder.glob(f"{kind}-*.png")):
        earlier.unlink()
    for name, png in figure_files(evaluation, history, pictures):
        replace_file(folder / name, png, to_disk=False)
