"""Networks as functions: model-space slices in, probabilities out, in batches, on CPU or GPU. Loads keras."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from covct.architectures import ARCHITECTURES
from covct.cards import Card, read_card, weights_path
from covct.errors import WeightsError
from covct.networks import Device, Network, Networks

BATCH = 8


def load_network(card_path: Path) -> tuple[Card, keras.Model]:
    """Build the card's architecture and load its weights, after checking their hash.

    The network is built from the card by our own code and only arrays are read from the file, so that a weights
    file can never run code.
    """
    card = read_card(card_path)
    try:
        network = ARCHITECTURES[card.architecture["name"]](**card.architecture["arguments"])
        with warnings.catch_warnings():
            # keras only warns where the file lacks a layer, and leaves it at random
            warnings.filterwarnings("error", message=".*(no matching group|freshly-initialized).*")
            network.load_weights(weights_path(card_path, card))
    except (KeyError, TypeError, ValueError, OSError, UserWarning) as error:
        raise WeightsError(f"{card_path}: the weights do not fit the card's architecture: {error}") from error
    return card, network


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
