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
    """A card, and `predict` (slices, size, size, 1) float32 in 0..1 -> (slices, size, size) probability.

    `members` are the same network trained on other folds: its probability is the mean of all.
    """

    card: Card
    predict: Callable[[np.ndarray], np.ndarray]
    members: tuple[Network, ...] = ()

    @property
    def looks(self) -> int:
        """How many times it looks at a slice that shows something."""
        return sum(2 if one.card.flip else 1 for one in (self, *self.members))


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


def probabilities(
    network: Network,
    hu: np.ndarray,
    view: FieldOfView,
    chosen: np.ndarray,
    watch: Callable[[np.ndarray, list[np.ndarray]], None] = lambda indices, looks: None,
) -> np.ndarray:
    """Run a network over the chosen slices.

    Parameters
    ----------
    hu : (slices, rows, columns) number
        Working orientation.
    chosen : (slices,) bool
        Slices to look at; the others come back as zero.
    watch : function (indices, looks), optional
        Told of every chunk its slices' indices and what each look made of them, before the mean is taken.

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
        all_looks = looks(network, seen[..., None])
        watch(part, all_looks)
        out[part] = _mean(all_looks)
    return out


def predict(network: Network, slices: np.ndarray) -> np.ndarray:
    """One call of the network as its card wants it. (slices, size, size, 1) -> (slices, size, size) probability."""
    return _mean(looks(network, slices))


def looks(network: Network, slices: np.ndarray) -> list[np.ndarray]:
    """Every look by itself: of each member straight, and mirrored where its card says so. As `predict` each."""
    out = []
    for one in (network, *network.members):
        straight = one.predict(slices)
        out.append(straight)
        if not one.card.flip:
            continue
        mirrored = straight
        # Where the straight look sees nothing at all, the mirrored one would change nothing: it is spared.
        doubtful = straight.max((1, 2)) >= FAINT
        if doubtful.any():
            mirrored = straight.copy()
            mirrored[doubtful] = one.predict(np.ascontiguousarray(slices[doubtful][:, :, ::-1]))[:, :, ::-1]
        out.append(mirrored)
    return out


def _mean(all_looks: list[np.ndarray]) -> np.ndarray:
    return all_looks[0] if len(all_looks) == 1 else np.mean(all_looks, axis=0)
