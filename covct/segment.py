"""Networks as functions: model-space slices in, probabilities out, in batches, on CPU or GPU. Loads keras."""

from __future__ import annotations

import warnings
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
