"""What a reader must know to read the figures rightly, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from covct.data.cases import MA, Case
from covct.data.domains import CLAHE
from covct.data.leakage import two_names, untold
from covct.evaluation.bootstrap import FEWEST_PATIENTS
from covct.evaluation.eligible import Judge
from covct.evaluation.networks import held_out_by
from covct.evaluation.order import RESTORED, EvaluationOrder
from covct.evaluation.pooling import ALL
from covct.evaluation.truth import is_whole
from covct.networks.cards import RESTORER, Card, default_weights_folder


def notes_on(
    order: EvaluationOrder,
    cards: dict[str, Card],
    rows: list[dict[str, Any]],
    groups: list[dict[str, Any]],
    cases: Sequence[Case],
    lent: Sequence[str] = (),
) -> list[str]:
    """Sentences, the gravest first; `cases` are those that were to be judged, with their domains; `lent`: whose lungs
    and restorer were taken."""
    return [
        *_on_patients(order, cards, rows),
        *lent,
        *_on_thresholds(order, cards, rows),
        *_on_slices(rows, [] if order.predictions else cases, order.clahe == RESTORED),
        *_on_figures(rows, groups),
    ]


def lent_notes(chosen: Mapping[str, tuple[Judge, list[str]]], cases: Sequence[Case], restored: bool) -> Iterator[str]:
    """Where a folder lacks a network and which took its place."""
    by = [(chosen[case.key][0], case) for case in cases if case.key in chosen]
    alone = [(judge, case) for judge, case in by if judge.lent]
    if alone:
        asked = sum(judge.needs_lent(case) for judge, case in alone)
        inside = [
            *([f"inside the true lungs of {len(alone) - asked} cases"] if asked < len(alone) else []),
            *([f"inside the lungs that the shipped network finds in {asked} cases"] if asked else []),
        ]
        yield f"The weights hold no lungs network: infection is called {' and '.join(inside)}."
    borrowed = {judge.restorer for judge, case in by if case.domain == CLAHE and judge.restorer.parent != judge.folder}
    if restored and borrowed & {default_weights_folder() / RESTORER}:
        yield "The weights hold no restorer: 8-bit CLAHE slices are restored by the shipped one."


def _on_patients(order: EvaluationOrder, cards: dict[str, Card], rows: list[dict[str, Any]]) -> Iterator[str]:
    if seen := [row for row in rows if row["seen_by"]]:
        yield (
            f"SEEN IN TRAINING: networks have learned from {len(seen)} of {len(rows)} cases; "
            "these figures say nothing about other patients."
        )
    if order.predictions and not cards:
        yield "Masks of another tool: whom it has learned from is not known."
    for key, card in cards.items():
        if hashes := ", ".join(sha256[:12] for sha256 in untold(card)):
            yield f"No card says whom every network behind {key} has learned from: that of sha256 {hashes} is unknown."
        if twice := two_names(card):
            told = ", ".join(f"{held} (as {' and '.join(learned)})" for held, learned in twice.items())
            yield (
                f"The card of {key} knows people by two names: it holds out {told}, and has learned from the same "
                "person by the name in brackets. They count as learned from."
            )


def _on_thresholds(order: EvaluationOrder, cards: dict[str, Card], rows: list[dict[str, Any]]) -> Iterator[str]:
    if order.threshold is not None:
        yield f"The threshold {order.threshold:g} was given by hand."
    elif not order.predictions:
        chosen_on = {source for card in cards.values() for source in held_out_by(card)}
        if mine := sorted({row["source"] for row in rows if not row["seen_by"] and row["source"] in chosen_on}):
            yield (
                f"Thresholds and best epochs were chosen in training on the held-out patients of {', '.join(mine)}, "
                "the same that these figures are of: a little optimistic. Dice with 'threshold chosen on the other "
                "patients' is not."
            )


def _on_slices(rows: list[dict[str, Any]], cases: Sequence[Case], restored: bool) -> Iterator[str]:
    if unknown := sorted({row["source"] for row in rows if not row["spacing_mm"]}):
        yield (
            f"Spacing is not known of {', '.join(unknown)}: no distances in mm and no volumes in mL there; figures of "
            "a volume are pooled over its slices."
        )
    if any(case.known_as == MA and case.domain == CLAHE for case in cases):
        how = "restored to HU" if restored else "read as they are, their grey linearly as HU,"
        yield f"Slices of ma are {how} and cropped around their true lungs, as in training."
    if in_hu := sum(case.layout == "slices-hu" for case in cases):
        yield (
            f"Slices of {in_hu} volumes are judged in HU, and not on 8 bit where they are there in both; what nobody "
            "knows around them is filled with soft tissue and counts for nothing."
        )
    if in_full := sum(case.layout == "slices-line" for case in cases):
        yield (
            f"{in_full} slices are judged in full field, in HU by a line each, and not cropped where they are there in "
            "both."
        )
    if cut := sum(not is_whole(case) and not case.of_pictures for case in cases):
        yield (
            f"{cut} volumes on 8 bit are judged as networks learn from them: brought to HU, cut to the body, "
            "256 x 256 pixels, without what a scan does to the masks afterwards."
        )


def _on_figures(rows: list[dict[str, Any]], groups: list[dict[str, Any]]) -> Iterator[str]:
    if any(row["fold"] for row in rows):
        yield (
            "Cross-validation: each patient is judged by the fold that held that patient out; data that no fold knows, "
            "by the first one."
        )
    if any(row["calls_without_truth"] for row in rows):
        yield (
            "Cases without infection truth say only how much is called in them; in people with another disease none of "
            "it need be wrong."
        )
    if any(row["by_slice"] and not row["tasks"] and row["by_slice"]["labelled"] for row in rows):
        yield (
            "Labels by slice say that there is infection on a slice and not where: a slice counts as found wherever "
            "on it something is called, and calls on labelled slices are not among the false ones."
        )
    if any(row["false_calls"] and row["false_calls"]["ml"] is None for row in rows):
        yield (
            "Where the spacing is unknown, false calls are told apart as if slices were 5 mm and pixels 1.6 mm apart, "
            "without an apex, and domes count as `arch`, since nobody knows which way is up."
        )
    if few := [group["patients"] for group in groups if group["patients"] < FEWEST_PATIENTS]:
        yield (
            f"No intervals over fewer than {FEWEST_PATIENTS} patients (here {min(few)} and more): they would be too "
            "narrow, knowing no patient but these."
        )
    if any(group["cases"] > group["patients"] for group in groups):
        yield "Several cases of one patient count once in bias and limits of agreement, with their mean."
    if any(group["source"] == ALL for group in groups):
        yield "Pooled over all sources, those with more voxels a case count more."


def notes_against(against: dict[str, Any]) -> list[str]:
    """What must be known to read a comparison rightly."""
    what = "another folder's networks" if against["what"] == "networks" else "masks of another tool"
    cases = len({(row["source"], row["case"]) for row in against["cases"]})
    notes = [
        f"Compared with {what} on {cases} cases that both may judge; intervals of differences are by patients, paired."
    ]
    if against["what"] == "predictions":
        notes.append("Whom the tool that is compared with has learned from is not known.")
    others = max((group["other_pixels"] for group in against["groups"]), default=0)
    if others:
        notes.append(
            f"In {others} cases the two sides are judged on different pixels: networks on slices brought to 256 x 256, "
            "masks on the slices' own."
        )
    return notes
