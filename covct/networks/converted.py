"""Converted networks as plain functions: OpenVINO computes them on the CPU. Loads neither keras nor TensorFlow."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from covct.errors import WeightsError
from covct.networks.cards import Card, read_card
from covct.networks.devices import BFLOAT16, FLOAT32, Device
from covct.networks.enlarging import enlarge_at_once
from covct.networks.features import read_learned
from covct.networks.network import Network, Networks, input_shape, one_probability
from covct.networks.of_folder import networks_in
from covct.networks.processors import adds_bfloat16, processors_at_hand
from covct.voxels.preprocess import bound_recipe

BATCH = 4  # slices a request: one fixed shape, so that a slice's probability does not depend on how many go with it
THREADS = 4  # of a request, where there are so many processors for each of SIDE_BY_SIDE
SIDE_BY_SIDE = 2  # requests at least: no thread waits for another at each layer, and what is shared is little
LARGEST_GRAPH, LARGEST_ARRAYS = 4 * 1024**2, 1024**3  # bytes; the shipped networks have 0.1 and 8 million
# What the architectures are made of. A graph comes from outside: nothing else is computed, least of all loops.
OPERATIONS = frozenset({
    "Add", "AvgPool", "Broadcast", "Concat", "Constant", "Convert", "Convolution", "ConvolutionBackpropData", "Divide",
    "Equal", "Gather", "Greater", "Interpolate", "LogicalAnd", "MVN", "MatMul", "MaxPool", "Maximum", "Multiply", "Pad",
    "Parameter", "Power", "ReduceMax", "ReduceMean", "Relu", "Reshape", "Result", "ShapeOf", "Sigmoid", "Softmax",
    "Sqrt", "SquaredDifference", "Squeeze", "StridedSlice", "Subtract", "Tile", "Transpose", "Unsqueeze",
})  # fmt: skip


def load_converted_networks(folder: Path, rest: Path | None = None) -> Networks:
    """The networks of a weights folder, ready to call, each in the form that its card names.

    `rest`: where the network of a task lies that it lacks.

    Raises
    ------
    WeightsError
        A card without a converted network, or with one that is missing, altered, or made of other weights.
    """
    core = openvino().Core()
    precision = _precision(core)
    ready = networks_in(folder, partial(_load, core, precision), rest)
    device = Device("cpu", f"cpu (openvino, {precision})", BATCH, runtime="openvino", precision=precision)
    return Networks(**ready, device=device)


def openvino() -> Any:
    """The package, without what would tell its makers over the network of each conversion: covct opens no socket."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # its importers do without it
    import openvino

    return openvino


def _precision(core: Any) -> str:
    """bfloat16 where the processor adds and multiplies in it; where it would be emulated, float32 is faster."""
    can = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return BFLOAT16 if "BF16" in can and adds_bfloat16() else FLOAT32


def _load(core: Any, precision: str, path: Path) -> Network:
    card = read_card(path)
    try:
        bound_recipe(card.recipe.name, card.recipe.arguments)
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from error
    model = read_converted(core, path, card)
    batch = 1 if card.patch else BATCH
    enlarge_at_once(model)
    learned = read_learned(path, card)
    if learned:
        _describe(model)
    model.reshape([batch, *input_shape(card)])
    describe = _describer(core.compile_model(model, "CPU", _settings(precision)), card, batch)
    return Network(card, lambda slices: describe(slices)[0], (), describe if learned else None, learned)


def _describe(model: Any) -> None:
    """Give a model its features as a second output: see `covct.networks.features`."""
    ops = openvino().opset13
    pooled = [op.output(0) for op in model.get_ordered_ops() if op.get_type_name() == "MaxPool"]  # (slices, n, y, x)
    means = [ops.reduce_mean(one, np.array([2, 3], np.int64), keep_dims=False).output(0) for one in pooled]
    model.add_outputs(ops.concat(means, 1).output(0))


def _settings(precision: str) -> dict[str, Any]:
    """No thread is bound to a processor: a second scan on this machine would bind its threads to the same ones."""
    processors = processors_at_hand()
    return {
        "INFERENCE_PRECISION_HINT": {BFLOAT16: "bf16", FLOAT32: "f32"}[precision],
        "INFERENCE_NUM_THREADS": processors,
        "NUM_STREAMS": max(min(SIDE_BY_SIDE, processors), processors // THREADS),
        "ENABLE_CPU_PINNING": False,
    }


def _describer(compiled: Any, card: Card, batch: int) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """As `Network.describe`, without features where the model gives none. In whole batches, the last one filled up;
    one caller at a time."""
    queue, alone = openvino().AsyncInferQueue(compiled), Lock()
    count = compiled.outputs[1].get_partial_shape()[1].get_length() if len(compiled.outputs) > 1 else 0

    def describe(slices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        each = () if card.task == "empty-slices" else slices.shape[1:-1]
        out = np.empty((len(slices), *each), np.float32)
        features = np.empty((len(slices), count), np.float32)

        def done(request: Any, start: int) -> None:
            part = out[start : start + batch]
            part[:] = one_probability(card, request.get_output_tensor(0).data[: len(part)], slices.ndim)
            if count:
                features[start : start + batch] = request.get_output_tensor(1).data[: len(part)]

        with alone:
            queue.set_callback(done)
            for start in range(0, len(slices), batch):
                part = np.zeros((batch, *slices.shape[1:]), np.float32)
                part[: len(slices) - start] = slices[start : start + batch]
                queue.start_async({0: part}, start)
            queue.wait_all()
        return out, features

    return describe


def read_converted(core: Any, card_path: Path, card: Card) -> Any:
    """The model that a card names, after checking that it is the card's and does nothing but what our networks do.

    Raises
    ------
    WeightsError
        There is none, or it is missing, altered, made of other weights, or not of the card's shape.
    """
    given = card.openvino
    if given is None:
        raise WeightsError(f"{card_path}: it names no converted network; covct export openvino adds one")
    if given.source_sha256 != card.sha256:
        raise WeightsError(
            f"{card_path}: its converted network was made of other weights ({given.source_sha256[:12]}…) than "
            f"{card.weights} ({card.sha256[:12]}…); covct export openvino makes it anew"
        )
    graph = _checked_bytes(card_path.with_name(given.graph), given.graph_sha256, LARGEST_GRAPH)
    arrays = _checked_bytes(card_path.with_name(given.arrays), given.arrays_sha256, LARGEST_ARRAYS)
    try:
        model = core.read_model(model=graph, weights=arrays)
        check_model(card, model)
    except (RuntimeError, ValueError) as error:
        said = (str(error).strip().splitlines() or ["unreadable"])[-1].strip()
        raise WeightsError(f"{card_path.with_name(given.graph)}: not the card's network: {said}") from error
    return model


def _checked_bytes(path: Path, sha256: str, largest: int) -> bytes:
    """The bytes that are parsed are those that were hashed: the file may be exchanged meanwhile."""
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= largest else b""
    except OSError as error:
        raise WeightsError(f"{path}: the converted network cannot be read ({error.strerror})") from error
    if size > largest:
        raise WeightsError(f"{path}: it has {size} bytes, at most {largest} are read")
    if (actual := hashlib.sha256(content).hexdigest()) != sha256:
        raise WeightsError(
            f"{path}: sha256 is {actual[:12]}…, the card says {sha256[:12]}…: an altered or another converted network"
        )
    return content


def check_model(card: Card, model: Any) -> None:
    """One input and one output of the shapes that the card tells, and known operations between them, or ValueError."""
    if unknown := {op.get_type_name() for op in model.get_ops()} - OPERATIONS:
        raise ValueError(f"the operation {min(unknown)} is in no network of covct")
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ValueError(f"{len(model.inputs)} inputs and {len(model.outputs)} outputs, wanted one each")
    wanted = input_shape(card)
    got = tuple(-1 if side.is_dynamic else side.get_length() for side in model.inputs[0].get_partial_shape())
    if got[1:] != wanted:
        raise ValueError(f"the network takes {got[1:]}, the card's size, patch and channels {wanted}")
