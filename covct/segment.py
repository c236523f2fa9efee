"""Networks as functions: model-space slices in, probabilities out, in batches, on CPU or GPU. Loads keras."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import keras
import numpy as np

from covct.architectures import ARCHITECTURES
from covct.cards import Card, read_card, weights_path
from covct.devices import Device, Ladder, is_out_of_memory
from covct.errors import WeightsError
from covct.networks import Network, Networks
from covct.preprocess import bound_recipe
from covct.weights_file import read_arrays

BATCH = 8
SNAKE = re.compile(r"(?<=[a-z])(?=[A-Z])")  # BatchNormalization, batch_normalization; Conv2D, conv2d


def load_network(card_path: Path) -> tuple[Card, keras.Model]:
    """Build the card's architecture and load its weights, after checking their hash.

    The network is built from the card by our own code and only arrays are read from the file, so that a weights
    file can never run code.
    """
    card = read_card(card_path)
    try:
        bound_recipe(card.recipe["name"], card.recipe["arguments"])
    except ValueError as error:
        raise WeightsError(f"{card_path}: {error}") from error
    try:
        arrays = read_arrays(weights_path(card_path, card), card.sha256)
        network = ARCHITECTURES[card.architecture["name"]](**card.architecture["arguments"])
        _assign(network, arrays)
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise WeightsError(f"{card_path}: the weights do not fit the card's architecture: {error}") from error
    return card, network


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
        raise ValueError(f"{len(unused)} arrays are no part of the network, first {min(unused)}")


def keras_predictor(
    network: keras.Model, ladder: Ladder | None = None, on_cpu: Callable[[], keras.Model] | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """A network as a plain function (slices, rows, columns, channels) -> (slices, rows, columns) float32.

    Parameters
    ----------
    ladder : Ladder, optional
        Batch sizes, and the CPU, for when memory runs out. Default: one of its own, on the device in use.
    on_cpu : function () -> keras.Model, optional
        The same network with its weights in the CPU's memory; asked for only when a GPU's does not suffice.
    """
    steps = ladder or Ladder(device_in_use(), BATCH)
    cpu_network = cache(on_cpu or (lambda: network))

    def compute(slices: np.ndarray, kind: str) -> np.ndarray:
        if kind == steps.device.kind:
            return np.asarray(network.predict_on_batch(slices))[..., 0]
        with keras.device("cpu:0"):
            return np.asarray(cpu_network().predict_on_batch(slices))[..., 0]

    return partial(steps.run, compute)


def load_keras_networks(folder: Path) -> Networks:
    """Both networks of a weights folder, ready to call. On the CPU where the GPU has no memory for so much as them."""
    device = device_in_use()
    try:
        return _load_on(folder, device)
    except Exception as error:
        if device.kind == "cpu" or not is_out_of_memory(error):
            raise
    cpu = Device("cpu", f"cpu, in place of {device.name}", fallbacks=("gpu: out of memory for the weights",))
    with keras.device("cpu:0"):
        return _load_on(folder, cpu)


def _load_on(folder: Path, device: Device) -> Networks:
    ladder = Ladder(device, BATCH)
    loaded = {}
    for task in ("lungs", "infection"):
        path = folder / f"{task}.json"
        card, network = load_network(path)
        loaded[task] = Network(card, keras_predictor(network, ladder, partial(_load_on_cpu, path)))
    return Networks(**loaded, device=device, ladder=ladder)


def _load_on_cpu(path: Path) -> keras.Model:
    with keras.device("cpu:0"):
        return load_network(path)[1]


def device_in_use() -> Device:
    """What keras will compute on."""
    gpus = keras.distribution.list_devices("gpu")
    return Device("gpu", str(gpus[0])) if gpus else Device("cpu", f"cpu ({keras.backend.backend()})")
