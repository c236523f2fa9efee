"""The networks of a weights folder, task by task, whichever runtime makes functions of them. Never imports keras."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from covct.errors import WeightsError
from covct.networks.cards import Card, members
from covct.networks.diagnosis import read_diagnosis
from covct.networks.network import Network


def networks_in(folder: Path, load: Callable[[Path], Network], rest: Path | None = None) -> dict[str, Any]:
    """Every network that the pipeline can make use of, by its field of `Networks`, its ensemble with it; and the heads.

    Parameters
    ----------
    load : function (Path of a card) -> Network
    rest : Path, optional
        Where the network of a task lies that the folder lacks.

    Raises
    ------
    WeightsError
        A card of another task, or an ensemble whose networks do not see the same slices.
    """
    loaded: dict[str, Any] = {}
    cards = members(folder, rest)
    for task, paths in cards.items():
        first, *others = (_of_task(path, task, load(path)) for path in paths)
        for other in others:
            _check_member(folder, first.card, other.card)
        loaded[task.replace("-", "_")] = replace(first, members=tuple(others))
    infection: Network = loaded["infection"]
    return {**loaded, "diagnosis": read_diagnosis(cards["infection"][0].parent, infection.card)}


def _of_task(path: Path, task: str, network: Network) -> Network:
    if network.card.task != task:
        raise WeightsError(f"{path}: task is {network.card.task!r}, wanted {task!r}")
    return network


def _check_member(folder: Path, first: Card, other: Card) -> None:
    """All networks of an ensemble see the same slices; the threshold is that of the first."""
    for name in ("task", "size", "recipe", "field_of_view", "channels", "neighbours_mm", "patch", "spacing_mm"):
        got, wanted = getattr(other, name), getattr(first, name)
        if got != wanted:
            raise WeightsError(f"{folder / other.name}.json: {name} is {got!r}, {first.name}.json has {wanted!r}")
