"""Networks as functions: model-space slices in, probabilities out, in batches, on CPU or GPU. Loads keras."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from covct.architectures import ARCHITECTURES
from covct.cards import Card, read_card, weights_path
from covct.errors import WeightsError
from covct.networks import Device, Network, Networks
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


def keras_predictor(network: keras.Model, batch: int = BATCH) -> Callable[[np.ndarray], np.ndarray]:
    """A network as a plain function (slices, rows, columns, channels) -> (slices, rows, columns) float32."""

    def predict(slices: np.ndarray) -> np.ndarray:
        out = np.empty(slices.shape[:3], np.float32)
        for start in range(0, len(slices), batch):
            chunk = slices[start : start + batch]
            # A full batch always: another shape would trace the graph once more.
            padded = np.concatenate([chunk, np.zeros((batch - len(chunk), *chunk.shape[1:]), chunk.dtype)])
            out[start : start + batch] = np.asarray(network.predict_on_batch(padded))[: len(chunk), ..., 0]
        return out

    return predict


def load_keras_networks(folder: Path) -> Networks:
    """Both networks of a weights folder, ready to call."""
    loaded = {}
    for task in ("lungs", "infection"):
        card, network = load_network(folder / f"{task}.json")
        loaded[task] = Network(card, keras_predictor(network))
    return Networks(**loaded, device=device_in_use())


def device_in_use() -> Device:
    """What keras will compute on."""
    gpus = keras.distribution.list_devices("gpu")
    return Device("gpu", str(gpus[0])) if gpus else Device("cpu", f"cpu ({keras.backend.backend()})")
