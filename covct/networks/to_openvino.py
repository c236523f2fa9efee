"""A network converted for OpenVINO, beside its weights and named on its card. Loads keras, TensorFlow and OpenVINO."""

from __future__ import annotations

import re
import tempfile
from itertools import takewhile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from covct.disk.durable import bring_to_disk, output_errors, rename
from covct.disk.signals import unbroken
from covct.errors import WeightsError
from covct.networks.cards import Card, Converted, ensemble, file_sha256, read_card, tasks_in, write_card
from covct.networks.converted import check_model, openvino, read_converted
from covct.networks.network import input_shape
from covct.networks.segment import load_network

LARGEST_DIFFERENCE = 1e-3  # of a probability, in float32
# Convolutions at the start that are computed in float32 even where the rest is in bfloat16. HU of a lung in eight bits
# are 2 to 5 HU apart, which is what moves faint opacities in and out; the lungs' outline does not hang on it.
EXACT = {"infection": 2}
PRECISE = '<rt_info><attribute name="precise" version="0" /></rt_info>'
IDLE = frozenset({"Constant", "Parameter", "Result"})


def convert_folder(folder: Path) -> dict[Path, Card]:
    """Convert every network of a weights folder that a scan makes use of. Cards by their files, as they stand now.

    A network whose converted form fits already and loads is left as it is: OpenVINO writes the same bytes again, but
    another version of it may not, and the card's hash is part of what results are known by.
    """
    return {path: convert(path) for task in tasks_in(folder) for path in ensemble(folder, task)}


def convert(card_path: Path) -> Card:
    """Write NAME.xml and NAME.bin beside the weights, and name them on the card; the whole of it or nothing.

    Raises
    ------
    WeightsError
        The network cannot be converted, or the converted one says something else.
    OutputNotWritable
        The folder cannot be written.
    """
    card = read_card(card_path)
    folder = card_path.parent
    if _is_converted(card_path, card):
        return card
    card, network = load_network(card_path)
    with output_errors(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".convert-") as made:
        staged = Path(made)
        card = card.replaced(openvino=write_converted(card, network, staged))
        write_card(card, staged)
        compare(card, network, staged / f"{card.name}.json")
        bring_to_disk(staged)
        assert card.openvino is not None
        with unbroken():  # the card last: it holds the hashes of the others
            for name in (card.openvino.graph, card.openvino.arrays):
                rename(staged / name, folder / name)
            rename(staged / f"{card.name}.json", card_path)
    return card


def _is_converted(card_path: Path, card: Card) -> bool:
    try:
        read_converted(openvino().Core(), card_path, card)
    except WeightsError:
        return False
    return True


def write_converted(card: Card, network: keras.Model, folder: Path) -> Converted:
    """Convert a network into files of a folder. The same network and the same OpenVINO make the same bytes."""
    ov = openvino()
    raw, graph, arrays = folder / "raw.xml", folder / f"{card.name}.xml", folder / f"{card.name}.bin"
    try:
        network.export(str(raw), format="openvino", verbose=False)
        model = ov.Core().read_model(raw)
        _leave_out_sizes(model, len(network.output_shape))
        _strip(model, card.name)
        check_model(card, model)
        ov.serialize(model, str(graph), str(arrays))
        _begin_exactly(graph, _leading(model, EXACT.get(card.task, 0)))
    except (ImportError, RuntimeError, ValueError, NotImplementedError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise WeightsError(f"{card.name}: the network cannot be converted for OpenVINO: {said}") from error
    finally:
        for path in (raw, raw.with_suffix(".bin")):
            path.unlink(missing_ok=True)
    return Converted(
        graph=graph.name, graph_sha256=file_sha256(graph), arrays=arrays.name, arrays_sha256=file_sha256(arrays),
        source_sha256=card.sha256, version=str(ov.get_version()),
    )  # fmt: skip


def _leave_out_sizes(model: Any, axes: int) -> None:
    """Leave out results with fewer axes than the network's own: sizes that an enlarging layer reckons and nobody asks
    for, which TensorFlow's converter takes for results."""
    for result in model.get_results():
        if len(result.get_output_partial_shape(0)) < axes:
            model.remove_result(result)


def _strip(model: Any, name: str) -> None:
    """Leave out what differs from process to process: counted names, versions, how it was converted."""
    for number, operation in enumerate(model.get_ordered_ops()):
        operation.set_friendly_name(f"{operation.get_type_name()}_{number}")
        for output in operation.outputs():
            output.get_tensor().set_names(set())
    model.set_friendly_name(name)
    for key in list(model.rt_info):
        del model.rt_info[key]


def _leading(model: Any, convolutions: int) -> list[str]:
    """The names of all operations up to that convolution, counted from the input; of none for 0."""
    names = [op.get_friendly_name() for op in model.get_ordered_ops() if op.get_type_name() not in IDLE]
    last = [name for name in names if name.startswith("Convolution")][:convolutions]
    return [*takewhile(lambda name: name != last[-1], names), last[-1]] if last else []


def _begin_exactly(graph: Path, names: list[str]) -> None:
    """Mark operations of a written graph as precise: OpenVINO's own mark, which Python can set in the file alone."""
    text = graph.read_text()
    for name in names:
        text = re.sub(rf'(<layer id="\d+" name="{name}"[^>]*>)', rf"\1{PRECISE}", text, count=1)
    graph.write_text(text)


def compare(card: Card, network: keras.Model, converted: Path) -> None:
    """Both forms on the same input, in float32; a WeightsError where they differ by more than rounding."""
    ov = openvino()
    seen = np.random.default_rng(0).random((1, *input_shape(card)), np.float32)
    core = ov.Core()
    model = read_converted(core, converted, card)
    said = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})({0: seen})[0]
    wanted = np.asarray(network.predict_on_batch(seen))
    if said.shape != wanted.shape or not np.abs(said - wanted).max() <= LARGEST_DIFFERENCE:
        raise WeightsError(
            f"{card.name}: converted for OpenVINO, the network gives other probabilities; nothing is kept"
        )
