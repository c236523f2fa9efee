"""A converted network made quicker: what keras' export writes as twelve operations is one of OpenVINO's.

A UpSampling2D (nearest neighbour) comes as rows that are repeated, then columns, with two changes between channels
first and last: a seventh of a U-Net's time, to copy numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# From the larger image back to the smaller: columns repeated, rows repeated; both are (images, channels, rows, columns)
CHAIN = ("Transpose", "Reshape", "Tile", "Unsqueeze", "Reshape", "Transpose", "Tile", "Unsqueeze")
REPEATS = {2: [1, 1, 1, None, 1], 6: [1, 1, None, 1, 1]}  # of the CHAIN's tiles: columns, rows
ORDERS = {0: [0, 3, 1, 2], 5: [0, 3, 2, 4, 1]}  # of its transpositions


def enlarge_at_once(model: Any) -> None:
    """Replace each such chain of an `openvino.Model` by one operation that gives the same numbers, in place."""
    from openvino import opset13

    for last in model.get_ordered_ops():
        found = _found(last)
        if not found:
            continue
        small, scales = found
        large = opset13.interpolate(
            small, np.array(scales, np.float32), "nearest", "scales", axes=np.array([2, 3]),
            coordinate_transformation_mode="asymmetric", nearest_mode="floor",
        )  # fmt: skip
        last.output(0).replace(large.output(0))
    model.validate_nodes_and_infer_types()


def _found(last: Any) -> tuple[Any, list[int]] | None:
    """The smaller image of a chain that ends here, and how often its rows and columns are repeated."""
    node, scales = last, []
    for place, kind in enumerate(CHAIN):
        if node.get_type_name() != kind:
            return None
        if place in REPEATS | ORDERS:
            said = _constant(node)
            wanted = ORDERS.get(place) or REPEATS[place]
            if len(said) != len(wanted) or any(w not in (s, None) for s, w in zip(said, wanted, strict=True)):
                return None
            scales += [s for s, w in zip(said, wanted, strict=True) if w is None]
        output = node.input_value(0)
        node = output.get_node()
    scales.reverse()
    small, large = ([_length(side) for side in one.get_partial_shape()][1:] for one in (output, last.output(0)))
    return (output, scales) if large == [small[0], small[1] * scales[0], small[2] * scales[1]] else None


def _constant(node: Any) -> list[int]:
    """The second input of an operation, where it is a constant; else nothing."""
    given = node.input_value(1).get_node()
    return [int(value) for value in given.data.ravel()] if given.get_type_name() == "Constant" else []


def _length(side: Any) -> int:
    return -1 if side.is_dynamic else int(side.get_length())
