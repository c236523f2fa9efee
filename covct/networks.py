"""What the pipeline knows of a network: a card and a function. Never imports keras."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from covct.cards import Card
from covct.crops import FIELDS_OF_VIEW, enclosed_air_mm2
from covct.devices import Device, Ladder
from covct.labels import Slices
from covct.preprocess import FieldOfView, bound_recipe, to_model_space
from covct.resample import from_volume_space, to_volume_space

FAINT = 0.1
CHUNK = 32  # slices in model space at once: bounded memory whatever the series


@dataclass(frozen=True)
class Network:
    """A card, and `predict` (slices, size, size, 1) float32 in 0..1 -> (slices, size, size) probability.

    Where the card names a spacing, `predict` takes one whole volume (slices, rows, columns, 1) of any extent instead,
    resampled to it; how it is cut into patches is its own affair.
    """

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


def field_of_view(
    card: Card, hu: np.ndarray, pixel_spacing_mm: tuple[float, float], lungs: Slices | None = None
) -> FieldOfView:
    """The region of the slices that the card's network looks at. `lungs`: what was found of them before, if anything.

    Without `lungs` a card that wants them is served by the contours of air.
    """
    return FIELDS_OF_VIEW[card.field_of_view](hu, pixel_spacing_mm, lungs)


def probabilities(
    network: Network,
    hu: np.ndarray,
    view: FieldOfView,
    chosen: np.ndarray,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> np.ndarray:
    """Run a network over the chosen slices.

    Parameters
    ----------
    hu : (slices, rows, columns) number
        Working orientation.
    chosen : (slices,) bool
        Slices to look at; the others come back as zero, and so do those that the card calls uninformative.
    spacing_mm : (float, float, float)
        Between slices, rows and columns of `hu`.

    Returns
    -------
    (slices, size, size) float16
    """
    size = network.card.size
    recipe = bound_recipe(network.card.recipe["name"], network.card.recipe["arguments"])
    out = np.zeros((len(hu), size, size), np.float16)
    if network.card.least_air_mm2:
        chosen = chosen & (enclosed_air_mm2(hu, spacing_mm[1:]) >= network.card.least_air_mm2)
    indices = np.flatnonzero(chosen)
    if network.card.spacing_mm and indices.size:
        between, down, across = network.card.spacing_mm
        held = slice(int(indices[0]), int(indices[-1]) + 1)
        volume, grid = to_volume_space(hu[held], view, spacing_mm, (between, down, across))
        out[held] = from_volume_space(predict(network, recipe(volume)[..., None]), grid, size)
        out[~chosen] = 0
        return out
    for start in range(0, len(indices), CHUNK):
        part = indices[start : start + CHUNK]
        seen = recipe(to_model_space(hu[part], view, size))
        out[part] = predict(network, seen[..., None])
    return out


def predict(network: Network, slices: np.ndarray) -> np.ndarray:
    """One call of the network as its card wants it. (slices, size, size, 1) -> (slices, size, size) probability."""
    straight = network.predict(slices)
    if not network.card.flip:
        return straight
    # Where the straight look sees nothing at all, the mirrored one would change nothing: it is spared.
    doubtful = straight.max((1, 2)) >= FAINT
    if network.card.spacing_mm:  # a volume is looked at whole
        doubtful[:] = doubtful.any()
    if doubtful.any():
        mirrored = network.predict(np.ascontiguousarray(slices[doubtful][:, :, ::-1]))
        straight[doubtful] = (straight[doubtful] + mirrored[:, :, ::-1]) / 2
    return straight
