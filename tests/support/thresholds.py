"""Networks that are plain thresholds: the whole line without keras, in milliseconds, with masks checked by eye."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from covct.networks.cards import Card, file_sha256, write_card
from covct.networks.network import Device, Network, Networks
from covct.pipeline.uncertainty import MAY_BE_NOTHING, settings_of, weights_of


def threshold_card(task: str, sha256: str = "0" * 64) -> Card:
    return Card(
        name=task,
        task=task,
        architecture={"name": "threshold", "arguments": {}},
        recipe={"name": "hu-window", "arguments": {"low": -1000, "high": 200}},
        field_of_view="body",
        size=256,
        threshold=0.5,
        weights=f"{task}.keras",
        sha256=sha256,
        licence="none",
    )


def call_lungs(slices: np.ndarray) -> np.ndarray:
    """Air inside the body: darker than -400 HU and not connected with the border of the slice."""
    import cv2

    out = np.zeros(slices.shape[:3], np.float32)
    for index, one in enumerate(slices[..., 0]):
        air = (one < 0.5).astype(np.uint8)
        count, labels = cv2.connectedComponents(air)
        outside = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
        out[index] = (air > 0) & ~np.isin(labels, outside[outside > 0])
    return out


def call_infection(slices: np.ndarray) -> np.ndarray:
    """Between -700 and -400 HU."""
    return ((slices[..., 0] > 0.25) & (slices[..., 0] < 0.5)).astype(np.float32)


def make_networks() -> Networks:
    return Networks(
        Network(threshold_card("lungs"), call_lungs),
        Network(threshold_card("infection"), call_infection),
        Device("cpu", "threshold"),
    )


def make_weights(folder: Path) -> Path:
    """A weights folder whose cards are whole and whose weights are a few bytes."""
    folder.mkdir(parents=True)
    for task in ("lungs", "infection"):
        file = folder / f"{task}.keras"
        file.write_bytes(task.encode())
        write_card(threshold_card(task, file_sha256(file)), folder)
    return folder


FIGURES = tuple(MAY_BE_NOTHING)


def calibrated(made: Networks, errors: Iterable[float] = range(-9, 10), **changes: Any) -> Networks:
    """The networks, with as many people in the card with infection as without, whose errors are these."""
    errors = list(errors)
    people = [
        {"source": "made up", "there": there, "fold": 0, "errors": dict.fromkeys(FIGURES, float(error))}
        for there in (True, False)
        for error in errors
    ]
    hashes, thresholds = weights_of(made)
    empty = made.empty_slices and made.empty_slices.card
    settings = settings_of(made.lungs.card, made.infection.card, empty)
    told = {"networks": hashes, "thresholds": thresholds, "settings": settings, "by_folds": False,
            "source": "people of a test", "people": people, **changes}  # fmt: skip
    card = made.infection.card.replaced(calibration=told)
    return replace(made, infection=replace(made.infection, card=card))
