"""What the pipeline knows of a network: a card and a function. Never imports keras."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from covct.networks.cards import TASK_CLASSES, Card
from covct.networks.devices import Device, Ladder
from covct.networks.diagnosis import Diagnosis
from covct.networks.features import Learned
from covct.networks.meanwhile import meanwhile
from covct.voxels.around import Around, adjacent, at_distances, channels_last, mixed
from covct.voxels.fields_of_view import FIELDS_OF_VIEW, enclosed_air_mm2
from covct.voxels.half import to_half
from covct.voxels.labels import Slices
from covct.voxels.patches import patchwise
from covct.voxels.preprocess import FieldOfView, to_model_space, with_arguments
from covct.voxels.resample import from_volume_space, to_volume_space

FAINT = 0.1
CHUNK = 16  # slices that a network is given at once, the next ones being prepared: bounded memory for any series


@dataclass(frozen=True)
class Network:
    """A card, and `predict` float32 in 0..1 -> probability.

    (slices, size, size, channels) -> (slices, size, size), or (slices,) of the empty-slice network; of a volumetric
    one (patches, *patch, 1) -> (patches, *patch). `members` are the same network trained on other folds: its
    probability is the mean of all.

    `describe`, where its card knows the features of what it `learned`, gives them too, (slices, features), beside the
    probability.
    """

    card: Card
    predict: Callable[[np.ndarray], np.ndarray]
    members: tuple[Network, ...] = ()
    describe: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None
    learned: Learned | None = None

    @property
    def looks(self) -> int:
        """How many times it looks at a slice that shows something."""
        return sum(2 if one.card.flip else 1 for one in (self, *self.members))

    def by_member(self, looks: list[np.ndarray]) -> list[list[np.ndarray]]:
        """The looks of each network of an ensemble; all of them for each where they were averaged before."""
        networks = (self, *self.members)
        if len(looks) != self.looks:
            return [looks for _ in networks]
        rest = iter(looks)
        return [[next(rest) for _ in range(2 if one.card.flip else 1)] for one in networks]


@dataclass(frozen=True)
class Networks:
    """Both networks, the device they were made for, and the ladder that they go down when its memory runs out.

    `empty_slices`, where there is one, spares the infection network the slices that hold no infection. `diagnosis`:
    heads on the infection network's features, where a folder has them.
    """

    lungs: Network
    infection: Network
    device: Device = Device("cpu", "plain function")
    ladder: Ladder | None = None
    empty_slices: Network | None = None
    diagnosis: Diagnosis | None = None

    def begin(self) -> None:
        """A new series begins."""
        if self.ladder:
            self.ladder.begin()

    def used(self) -> Device:
        """The device as it was used for this series."""
        return self.ladder.used() if self.ladder else self.device


def input_shape(card: Card) -> tuple[int, ...]:
    """What the card's network sees at once: (size, size, channels), or of a volumetric one (*patch, 1)."""
    return (*(card.patch or (card.size, card.size)), card.channels)


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
    watch: Callable[[np.ndarray, list[np.ndarray]], None] = lambda indices, looks: None,
    around: Around | None = None,
    notice: Callable[[np.ndarray], None] | None = None,
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
    watch : function (indices, looks), optional
        Told of every chunk its slices' indices and what each look made of them, before the mean is taken.
    around : Around, optional
        What lies around each slice, where they are no series of `spacing_mm` without gaps.
    notice : function (features), optional
        Told of every chunk its slices' features, where the network describes them.

    Returns
    -------
    (slices, size, size) float16
    """
    card = network.card
    if card.least_air_mm2:
        chosen = chosen & (enclosed_air_mm2(hu, spacing_mm[1:]) >= card.least_air_mm2)
    if card.patch:
        out = _by_patches(network, hu, view, chosen, spacing_mm)
        indices = np.flatnonzero(chosen)
        for start in range(0, len(indices), CHUNK):  # looks are averaged patch by patch: one is left
            part = indices[start : start + CHUNK]
            watch(part, [out[part].astype(np.float32)])
        return out
    out = np.zeros((len(hu), card.size, card.size), np.float16)
    chunks = _chunks(card, hu, view, chosen, around or surroundings(card, len(hu), spacing_mm[0]))
    for part, all_looks in meanwhile(partial(looks, network, notice=notice), chunks):
        watch(part, all_looks)
        out[part] = to_half(_mean(all_looks))
    return out


def _by_patches(
    network: Network, hu: np.ndarray, view: FieldOfView, chosen: np.ndarray, spacing_mm: tuple[float, float, float]
) -> np.ndarray:
    """As `probabilities`, of a volumetric network: on slices as they are, or resampled there and back."""
    card = network.card
    depth, rows, columns = card.patch
    ask, indices = partial(predict, network), np.flatnonzero(chosen)
    if not card.spacing_mm or not indices.size:
        return patchwise(ask, partial(_seen, card, hu, view), chosen, (card.size, card.size), (depth, rows, columns))
    between, down, across = card.spacing_mm
    held = slice(int(indices[0]), int(indices[-1]) + 1)
    volume, grid = to_volume_space(hu[held], view, spacing_mm, (between, down, across))
    seen = with_arguments(card.recipe.name, card.recipe.arguments)(volume)
    plane = (grid.shape[1], grid.shape[2])
    said = patchwise(ask, seen.__getitem__, np.ones(len(seen), bool), plane, (depth, rows, columns))
    out = np.zeros((len(hu), card.size, card.size), np.float16)
    out[held] = from_volume_space(said, grid, card.size)
    out[~chosen] = 0
    return out


def holds_infection(
    network: Network,
    hu: np.ndarray,
    view: FieldOfView,
    chosen: np.ndarray,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> np.ndarray:
    """Which of the chosen slices the empty-slice network does not call empty. As `probabilities`; (slices,) bool."""
    out = np.zeros(len(hu), bool)
    chunks = _chunks(network.card, hu, view, chosen, surroundings(network.card, len(hu), spacing_mm[0]))
    for part, probability in meanwhile(partial(predict, network), chunks):
        out[part] = probability >= network.card.threshold
    return out


def surroundings(
    card: Card, count: int, slice_mm: float | np.ndarray = np.nan, first_of_runs: Sequence[int] = ()
) -> Around:
    """What the card's network sees with each of `count` slices; see `voxels.around`."""
    if card.neighbours_mm:
        return at_distances(count, card.neighbours_mm, slice_mm, first_of_runs)
    return adjacent(count, card.channels, first_of_runs)


def _chunks(
    card: Card, hu: np.ndarray, view: FieldOfView, chosen: np.ndarray, around: Around
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Indices of some chosen slices, and these with their neighbours: (slices, size, size, channels) float32."""
    indices = np.flatnonzero(chosen)
    for start in range(0, len(indices), CHUNK):
        part = indices[start : start + CHUNK]
        here = around.chosen(part)
        needed, places = np.unique(here.indices, return_inverse=True)
        slices = to_model_space(hu[needed], view, card.size)
        yield part, _seen_around(card, slices, Around(places.reshape(here.indices.shape), here.shares))


def _seen_around(card: Card, hu: np.ndarray, around: Around) -> np.ndarray:
    """Slices with what lies around them as the card's network sees them.

    hu (slices, size, size) in model space -> (n, size, size, channels) float32.
    """
    recipe = with_arguments(card.recipe.name, card.recipe.arguments)
    if not card.neighbours_mm:
        return channels_last(mixed(recipe(hu), around))
    out = np.empty((len(around.indices), *hu.shape[1:], card.channels), np.float32)
    for index in range(len(out)):  # what one slice takes stays in the processor's cache
        here = around.chosen(slice(index, index + 1))
        seen = recipe(mixed(hu, here)[0])
        seen[~here.there[0]] = 0
        out[index] = np.moveaxis(seen, 0, -1)
    return out


def _seen(card: Card, hu: np.ndarray, view: FieldOfView, indices: np.ndarray) -> np.ndarray:
    """Slices as the card's network sees them. (indices,) -> (slices, size, size) float32."""
    recipe = with_arguments(card.recipe.name, card.recipe.arguments)
    return recipe(to_model_space(hu[indices], view, card.size))


def predict(network: Network, slices: np.ndarray) -> np.ndarray:
    """One call of the network as its card wants it: `Network.predict`, with the mirror image where it flips."""
    return _mean(looks(network, slices))


def looks(network: Network, slices: np.ndarray, notice: Callable[[np.ndarray], None] | None = None) -> list[np.ndarray]:
    """Every look by itself: of each member straight, and mirrored where its card says so. As `predict` each.

    notice : told of the features that the first look describes, if it does.
    """
    out: list[np.ndarray] = []
    for one in (network, *network.members):
        if notice and not out and one.describe:
            straight, features = one.describe(slices)
            notice(features)
        else:
            straight = one.predict(slices)
        out.append(straight)
        if not one.card.flip:
            continue
        mirrored = straight
        # Where the straight look sees nothing at all, the mirrored one would change nothing: it is spared.
        doubtful = straight.reshape(len(straight), -1).max(1) >= FAINT
        if doubtful.any():
            mirrored = straight.copy()
            back = one.predict(np.ascontiguousarray(np.flip(slices[doubtful], -2)))
            mirrored[doubtful] = back if back.ndim == 1 else np.flip(back, -1)  # one figure a slice has no sides
        out.append(mirrored)
    return out


def _mean(all_looks: list[np.ndarray]) -> np.ndarray:
    return all_looks[0] if len(all_looks) == 1 else np.mean(all_looks, axis=0)


def task_probability(card: Card, outputs: np.ndarray) -> np.ndarray:
    """The probability of what the card's task looks for, of all that its network gives. (..., outputs) -> (...).

    One output is that probability. Of several classes those count that belong to the task (`cards.TASK_CLASSES`): an
    effusion is no infection of the lung. Classes that exclude each other (softmax: "background" is one of them) add up;
    of classes that do not (sigmoids) the likeliest counts.

    Raises
    ------
    ValueError
        Another number of outputs than the card has classes.
    """
    if outputs.shape[-1] != max(1, len(card.classes)):
        raise ValueError(f"the network gives {outputs.shape[-1]} classes, its card names {len(card.classes)}")
    if not card.classes:
        return outputs[..., 0]
    counted = _counted(card)
    together = np.sum if "background" in card.classes else np.max
    probability: np.ndarray = together(outputs[..., counted], axis=-1)
    return probability


def one_probability(card: Card, outputs: np.ndarray, seen: int) -> np.ndarray:
    """As `task_probability`, of what a network gives for an input of `seen` axes: with the mean of its heads first."""
    return task_probability(card, outputs.mean(-1) if outputs.ndim > seen else outputs)


def is_of_task(card: Card, label: np.ndarray) -> np.ndarray:
    """Truth of what `task_probability` gives the probability of: of 0 and 1, or of numbers of exclusive classes."""
    return np.isin(np.rint(label), _counted(card)) if card.classes else label > 0.5


def _counted(card: Card) -> list[int]:
    """Numbers of the classes that count for the card's task."""
    return [number for number, name in enumerate(card.classes) if name in TASK_CLASSES[card.task]]
