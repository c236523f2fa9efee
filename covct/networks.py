"""What the pipeline knows of a network: a card and a function. Never imports keras."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from covct.cards import Card
from covct.devices import Device, Ladder
from covct.preprocess import RECIPES, FieldOfView, body_field_of_view, to_model_space, whole_slice

FAINT = 0.1
CHUNK = 32  # slices in model space at once: bounded memory whatever the series


@dataclass(frozen=True)
class Network:
    """A card, and `predict` (slices, size, size, 1) float32 in 0..1 -> (slices, size, size) probability."""

    card: Card
    predict: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Networks:
    """Both networks, the device they were made for, and the ladder that they go down when its memory runs out."""

    lungs: Network
    infection: Network
    device: Device = Device("cpu", "plain function")
    ladder: Ladder | None = None

    def begin(self) -> None:
        """A new series begins."""
        if self.ladder:
            self.ladder.begin()

    def used(self) -> Device:
        """The device as it was used for this series."""
        return self.ladder.used() if self.ladder else self.device


def field_of_view(card: Card, hu: np.ndarray, pixel_spacing_mm: tuple[float, float]) -> FieldOfView:
    """The region of the slices that the card's network looks at."""
    if card.field_of_view == "body":
        return body_field_of_view(hu, pixel_spacing_mm)
    return whole_slice(hu.shape[1:], pixel_spacing_mm)


def probabilities(network: Network, hu: np.ndarray, view: FieldOfView, chosen: np.ndarray) -> np.ndarray:
    """Run a network over the chosen slices.

    Parameters
    ----------
    hu : (slices, rows, columns) number
        Working orientation.
    chosen : (slices,) bool
        Slices to look at; the others come back as zero.

    Returns
    -------
    (slices, size, size) float16
    """
    size = network.card.size
    recipe, arguments = RECIPES[network.card.recipe["name"]], network.card.recipe["arguments"]
    out = np.zeros((len(hu), size, size), np.float16)
    indices = np.flatnonzero(chosen)
    for start in range(0, len(indices), CHUNK):
        part = indices[start : start + CHUNK]
        seen = recipe(to_model_space(hu[part], view, size), **arguments)
        out[part] = predict(network, seen[..., None])
    return out


def predict(network: Network, slices: np.ndarray) -> np.ndarray:
    """One call of the network as its card wants it. (slices, size, size, 1) -> (slices, size, size) probability."""
    straight = network.predict(slices)
    if not network.card.flip:
        return straight
    # Where the straight look sees nothing at all, the mirrored one would change nothing: it is spared.
    doubtful = straight.max((1, 2)) >= FAINT
    if doubtful.any():
        mirrored = network.predict(np.ascontiguousarray(slices[doubtful][:, :, ::-1]))
        straight[doubtful] = (straight[doubtful] + mirrored[:, :, ::-1]) / 2
    return straight
