"""Networks of a few operations in OpenVINO's form, made without keras: a folder of them as a scan takes it."""

from __future__ import annotations

from pathlib import Path

from covct.networks.cards import Card, Converted, file_sha256, write_card
from covct.networks.converted import openvino
from support.thresholds import threshold_card

SIDE = 64


def make_converted(folder: Path, tasks: tuple[str, ...] = ("lungs", "infection")) -> Path:
    """A weights folder whose cards name converted networks: dark is lung, what is between dark and bright infection."""
    folder.mkdir(parents=True, exist_ok=True)
    for task, (darkest, brightest) in {"lungs": (0.05, 0.5), "infection": (0.25, 0.5)}.items():
        weights = folder / f"{task}.keras"
        weights.write_bytes(task.encode())
        card = threshold_card(task, file_sha256(weights)).replaced(size=SIDE)
        if task in tasks:
            card = card.replaced(openvino=write_between(card, folder, darkest, brightest))
        write_card(card, folder)
    return folder


def write_between(card: Card, folder: Path, darkest: float, brightest: float, operation: str = "sigmoid") -> Converted:
    """The files of a network that marks smoothed pixels between two values, softly, as an average with noise would."""
    ov = openvino()
    ops = ov.opset13
    seen = ops.parameter([-1, card.size, card.size, card.channels], ov.Type.f32)
    kernel = [[[[1 / 9] * 3] * 3] * card.channels]
    ahead = ops.transpose(seen, ops.constant([0, 3, 1, 2]))
    smooth = ops.convolution(ahead, ops.constant(kernel, ov.Type.f32), [1, 1], [1, 1], [1, 1], [1, 1])
    above = ops.sigmoid(ops.multiply(ops.subtract(smooth, f32(darkest)), f32(40)))
    below = getattr(ops, operation)(ops.multiply(ops.subtract(smooth, f32(brightest)), f32(-40)))
    inside = ops.multiply(above, below)
    model = ov.Model([ops.transpose(inside, ops.constant([0, 2, 3, 1]))], [seen], card.name)
    graph, arrays = folder / f"{card.name}.xml", folder / f"{card.name}.bin"
    ov.serialize(model, str(graph), str(arrays))
    return Converted(
        graph=graph.name, graph_sha256=file_sha256(graph), arrays=arrays.name, arrays_sha256=file_sha256(arrays),
        source_sha256=card.sha256, version="2026.0",
    )  # fmt: skip


def f32(value: float):
    ov = openvino()
    return ov.opset13.constant(value, ov.Type.f32)
