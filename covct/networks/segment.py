"""Networks as functions: model-space slices in, probabilities out, in batches, on CPU or GPU. Loads keras."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from math import prod
from pathlib import Path
from typing import Any

import keras
import numpy as np

from covct.architectures import ARCHITECTURES
from covct.architectures.deeplab import load_backbone
from covct.errors import WeightsError
from covct.networks.cards import Card, read_card, weights_path
from covct.networks.devices import FLOAT32, Device, Ladder, is_out_of_memory
from covct.networks.features import Learned, read_learned
from covct.networks.network import Network, Networks, input_shape, task_probability
from covct.networks.of_folder import networks_in
from covct.networks.weights_file import read_arrays, read_h5
from covct.voxels.preprocess import bound_recipe

BATCH = 8
PATCHES = 1  # of a volume at once: one is as much as thirty slices
# BatchNormalization, batch_normalization; Conv2D, conv2d; Conv2DTranspose, conv2d_transpose
SNAKE = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def load_network(card_path: Path) -> tuple[Card, keras.Model]:
    """Build the card's architecture and load its weights, after checking their hash.

    The network is built from the card by our own code and only arrays are read from the file, so that a weights
    file can never run code.
    """
    card = read_card(card_path)
    try:
        bound_recipe(card.recipe.name, card.recipe.arguments)
    except ValueError as error:
        raise WeightsError(f"{card_path}: {error}") from error
    try:
        arrays = read_arrays(weights_path(card_path, card), card.sha256)
        network = ARCHITECTURES[card.architecture.name](**card.architecture.arguments)
        _assign(network, arrays)
        _check_shapes(card, network)
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise WeightsError(f"{card_path}: the weights do not fit the card's architecture: {error}") from error
    return card, network


def start_from_backbone(network: keras.Model, path: Path) -> int:
    """Give a `deeplabv3_plus` the ResNet50 of a published weights file. Returns the number of layers that got weights.

    The file, such as keras.applications' `..._notop.h5`, is brought by the user; nothing is downloaded.
    """
    try:
        return load_backbone(network, read_h5(path))
    except (KeyError, ValueError, OSError) as error:
        raise WeightsError(f"{path}: no backbone for {network.name}: {error}") from error


def _assign(network: keras.Model, arrays: dict[str, np.ndarray]) -> None:
    """Give every variable its array; keras would only warn where a layer is missing, and leave it at random.

    keras' `save` calls the layers by their kind, counted in the order of the network: conv2d, conv2d_1, ...
    """
    counted: Counter[str] = Counter()
    unused = {place for place in arrays if place.startswith("layers/")}
    for layer in network.layers:
        kind = SNAKE.sub("_", type(layer).__name__).lower()
        name = f"{kind}_{counted[kind]}" if counted[kind] else kind
        counted[kind] += 1
        for number, variable in enumerate(layer.weights):
            place = f"layers/{name}/vars/{number}"
            variable.assign(arrays[place])
            unused.remove(place)
    if unused:
        raise ValueError(f"{len(unused)} arrays are not part of the network, the first is {min(unused)}")


def _check_shapes(card: Card, network: keras.Model) -> None:
    """The card tells the pipeline what to feed, and the architecture's arguments what is taken: they must agree."""
    wanted = input_shape(card)
    if network.input_shape[1:] != wanted:
        raise ValueError(f"the network takes {network.input_shape[1:]}, the card's size, patch and channels {wanted}")
    if (len(network.output_shape) == 2) != (card.task == "empty-slices"):
        raise ValueError(f"an output of shape {network.output_shape} does not fit the task {card.task}")
    heads = len(network.output_shape) > len(network.input_shape)
    outputs = network.output_shape[-2 if heads else -1]
    if outputs != max(1, len(card.classes)):
        raise ValueError(f"the network has {outputs} outputs, the card {len(card.classes)} classes")


def make_network(
    card: Card,
    network: keras.Model,
    ladder: Ladder | None = None,
    on_cpu: Callable[[], keras.Model] | None = None,
    learned: Learned | None = None,
) -> Network:
    """A keras network as the pipeline knows it, which describes slices if what it `learned` is known.

    Other parameters as of `keras_predictor`.
    """
    combine = partial(task_probability, card)
    if not learned:
        return Network(card, keras_predictor(network, ladder, on_cpu, combine))
    describe = keras_describer(network, ladder, on_cpu, combine)
    return Network(card, lambda slices: describe(slices)[0], (), describe, learned)


def keras_predictor(
    network: keras.Model,
    ladder: Ladder | None = None,
    on_cpu: Callable[[], keras.Model] | None = None,
    combine: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Callable[[np.ndarray], np.ndarray]:
    """A network as a plain function (slices, rows, columns, channels) -> (slices, rows, columns) float32.

    Or (patches, slices, rows, columns, channels) -> (patches, slices, rows, columns); of a network that gives one
    figure a slice (slices,). With deep supervision the mean over the heads.

    Parameters
    ----------
    combine : function (..., outputs) -> (...), optional
        Makes one probability of all outputs; to be given where there are several.
    ladder : Ladder, optional
        Batch sizes, and the CPU, for when memory runs out. Default: one of its own, on the device in use.
    on_cpu : function () -> keras.Model, optional
        The same network with its weights in the CPU's memory; asked for only when a GPU's does not suffice.
    """
    steps = ladder or Ladder(device_in_use(), BATCH)
    ask = _on_either(network, steps, on_cpu)

    def compute(slices: np.ndarray, kind: str) -> np.ndarray:
        return _one_of(np.asarray(ask(slices, kind)), slices.ndim, combine)

    def predict(slices: np.ndarray) -> np.ndarray:
        return steps.run(compute, slices, PATCHES if slices.ndim == 5 else None)

    return predict


def keras_describer(
    network: keras.Model,
    ladder: Ladder | None = None,
    on_cpu: Callable[[], keras.Model] | None = None,
    combine: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """As `Network.describe`: what `keras_predictor` gives, and the features of the same pass. Of slices only."""
    steps = ladder or Ladder(device_in_use(), BATCH)
    both = _described(network)
    ask = _on_either(both, steps, on_cpu and (lambda: _described(on_cpu())))

    def compute(slices: np.ndarray, kind: str) -> np.ndarray:
        """One row a slice, the probabilities and then the features: what a ladder can cut into batches."""
        outputs, features = map(np.asarray, ask(slices, kind))
        return np.concatenate([_one_of(outputs, slices.ndim, combine).reshape(len(slices), -1), features], 1)

    def describe(slices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        plane = slices.shape[1:-1]
        if not len(slices):
            return np.empty((0, *plane), np.float32), np.empty((0, both.output_shape[1][-1]), np.float32)
        rows = steps.run(compute, slices)
        return rows[:, : prod(plane)].reshape(len(slices), *plane), rows[:, prod(plane) :]

    return describe


def _described(network: keras.Model) -> keras.Model:
    """The network with its features as a second output, (slices, features): see `covct.networks.features`."""
    pooled = [layer.output for layer in network.layers if isinstance(layer, keras.layers.MaxPooling2D)]
    features = keras.ops.concatenate([keras.ops.mean(one, (1, 2)) for one in pooled], 1)
    return keras.Model(network.inputs, [network.output, features])


def _on_either(
    network: keras.Model, steps: Ladder, on_cpu: Callable[[], keras.Model] | None
) -> Callable[[np.ndarray, str], Any]:
    """One call of the network on a kind of device."""
    cpu_network = cache(on_cpu or (lambda: network))

    def ask(slices: np.ndarray, kind: str) -> Any:
        if kind == steps.device.kind:
            return network.predict_on_batch(slices)
        with keras.device("cpu:0"):
            return cpu_network().predict_on_batch(slices)

    return ask


def _one_of(outputs: np.ndarray, seen: int, combine: Callable[[np.ndarray], np.ndarray] | None) -> np.ndarray:
    outputs = outputs.mean(-1) if outputs.ndim > seen else outputs
    return combine(outputs) if combine else np.squeeze(outputs, -1)


def load_keras_networks(folder: Path, fallbacks: tuple[str, ...] = (), rest: Path | None = None) -> Networks:
    """The networks of a weights folder, ready to call. On the CPU where the GPU has no memory for so much as them.

    `fallbacks`: what was tried before, and why not that. `rest`: where the network of a task lies that it lacks.
    """
    device = replace(device_in_use(), fallbacks=fallbacks)
    try:
        return _load_on(folder, device, rest)
    except Exception as error:
        if device.kind == "cpu" or not is_out_of_memory(error):
            raise
    cpu = replace(
        device, kind="cpu", name=f"cpu, in place of {device.name}",
        fallbacks=(*fallbacks, "gpu: out of memory for the weights"),
    )  # fmt: skip
    with keras.device("cpu:0"):
        return _load_on(folder, cpu, rest)


def _load_on(folder: Path, device: Device, rest: Path | None) -> Networks:
    ladder = Ladder(device, BATCH)
    return Networks(**networks_in(folder, partial(_loaded, ladder), rest), device=device, ladder=ladder)


def _loaded(ladder: Ladder, path: Path) -> Network:
    card, network = load_network(path)
    return make_network(card, network, ladder, partial(_load_on_cpu, path), read_learned(path, card))


def _load_on_cpu(path: Path) -> keras.Model:
    with keras.device("cpu:0"):
        return load_network(path)[1]


def device_in_use() -> Device:
    """What keras will compute on."""
    # jax raises where it is asked for a kind of device that it has not: all are asked for
    gpus = [device for device in keras.distribution.list_devices() if str(device).startswith(("gpu", "cuda"))]
    runtime = keras.backend.backend()
    used = Device("gpu", str(gpus[0])) if gpus else Device("cpu", f"cpu ({runtime})")
    return replace(used, runtime=runtime, precision=FLOAT32)
