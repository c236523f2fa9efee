"""Whose networks judge which case, and those in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from covct.data.cases import Case
from covct.data.model_space import Restore
from covct.data.views import as_hounsfield
from covct.errors import UsageError
from covct.evaluation.eligible import Judge, judge_of
from covct.evaluation.order import HELD_OUT, LINEAR, EvaluationOrder
from covct.networks.cards import Card, lineage
from covct.networks.network import Networks


def choose(
    order: EvaluationOrder, cases: list[Case], judges: list[Judge], restored: bool
) -> tuple[list[Case], dict[str, tuple[Judge, list[str]]]]:
    """The cases to judge, judge by judge; and by case who judges it and which of his networks have seen its patient.

    A patient counts as seen with all of his volumes where only one of them was.
    """
    if not judges:
        return cases, {}
    chosen = {case.key: judge_of(case, judges, restored) for case in cases}
    seen = [case for case in cases if chosen[case.key][1]]
    cases = sorted(cases, key=lambda case: judges.index(chosen[case.key][0]))
    if order.patients == HELD_OUT:
        if len(seen) == len(cases):
            raise UsageError(
                f"{order.data}: the networks have learned from all {len(cases)} cases{_by_lent(seen, chosen)}; judge "
                "patients that the cards hold out, or say --patients all --also-seen (the scores then say nothing "
                "about other patients)"
            )
        return [case for case in cases if not chosen[case.key][1]], chosen
    if seen and not order.also_seen:
        raise UsageError(
            f"{order.data}: the networks have learned from {len(seen)} of {len(cases)} cases; say --also-seen to judge "
            "these too, or --patients held-out. Other data by the same layout: --source NAME"
        )
    return cases, chosen


def _by_lent(seen: list[Case], chosen: dict[str, tuple[Judge, list[str]]]) -> str:
    """From how many of them only the shipped lungs network has learned."""
    told = (chosen[case.key] for case in seen)
    count = sum(set(names) <= judge.lent.keys() for judge, names in told)
    return f" (from {count} of them only the shipped lungs network, since the weights hold none)" if count else ""


def cards_of(judges: list[Judge], with_restorer: bool, with_lent: bool) -> dict[str, Card]:
    """The cards of all judges by the names of their files, of folds as "fold-0/lungs"."""
    named = {judge.key(name): card for judge in judges for name, card in judge.cards.items()}
    if with_lent:
        named |= {judge.key(name): card for judge in judges for name, card in judge.lent.items()}
    if with_restorer:
        named |= {judge.key("restorer"): judge.restorer_card for judge in judges}
    return named


def held_out_by(card: Card) -> dict[str, list[str]]:
    """By source, whom a card names as held out."""
    return lineage(card).held_out_patients or {}


class Loaded:
    """The networks in memory: those of one judge at a time, as cases come judge by judge."""

    def __init__(
        self, order: EvaluationOrder, load_networks: Callable[[Path], Networks], load_restorer: Callable[..., Restore]
    ):
        self.order, self.load_networks, self.load_restorer = order, load_networks, load_restorer
        self.folder: Path | None = None
        self.last: Networks | None = None
        self.restorers: dict[Path, Restore] = {}

    def networks(self, judge: Judge) -> Networks:
        if self.last is None or self.folder != judge.folder:
            loaded = _with_threshold(self.load_networks(judge.folder), self.order)
            self.folder, self.last = judge.folder, loaded if "infection" in judge.tasks else _silent(loaded)
        return self.last

    def restore(self, judge: Judge) -> Restore:
        if self.order.clahe == LINEAR:
            return as_hounsfield
        if judge.restorer not in self.restorers:
            self.restorers = {judge.restorer: self.load_restorer(judge.restorer)}
        return self.restorers[judge.restorer]


def _silent(networks: Networks) -> Networks:
    """With an infection network that finds none, and takes no time: only the lungs are judged."""

    def find_nothing(seen: np.ndarray) -> np.ndarray:
        return np.zeros(seen.shape[:-1], np.float32)

    infection = replace(networks.infection, predict=find_nothing, members=(), describe=None, learned=None)
    return replace(networks, infection=infection, empty_slices=None)


def _with_threshold(networks: Networks, order: EvaluationOrder) -> Networks:
    if order.threshold is None:
        return networks
    [task] = order.tasks
    network = getattr(networks, task)
    return replace(networks, **{task: replace(network, card=network.card.replaced(threshold=order.threshold))})
