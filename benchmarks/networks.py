"""Parameters of every network, and its seconds for a CT of 300 slices on this CPU, as a markdown table.

    python benchmarks/networks.py [--slices 8] [--only unet,segnet]

Untrained weights: they take as long as trained ones. Each 2D network sees `--slices` slices of 256 x 256 once to warm
up and once by the clock, in batches as in inference, and the time is extrapolated to 300 slices. The 3D network sees
one patch of 80 x 160 x 160 each time; 300 slices of 256 x 256 are 63 of them, at half overlap. The mirrored look
(`flip` of a card) is not in it: up to as long again. CPU seconds are those of all cores together: they say something
also where the machine is busy with other things.
"""

from __future__ import annotations

import argparse
import os
import time

import numpy as np

from covct.commands.quiet import quiet_tensorflow
from covct.voxels.patches import starts

with quiet_tensorflow():
    from covct.architectures import ARCHITECTURES
    from covct.networks.segment import BATCH, keras_predictor

CT_SLICES, SIDE = 300, 256


def seconds(network, count: int) -> tuple[float, float]:
    """Wall and CPU seconds for `count` inputs, after as many to warm up."""
    predict = keras_predictor(network)
    inputs = np.random.default_rng(0).random((count, *network.input_shape[1:]), np.float32)
    predict(inputs)
    wall, cpu = time.perf_counter(), time.process_time()
    predict(inputs)
    return time.perf_counter() - wall, time.process_time() - cpu


def inputs_of_a_ct(network) -> int:
    """How many inputs a CT of 300 slices of 256 x 256 is."""
    if len(network.input_shape) < 5:
        return CT_SLICES
    depth, rows, columns = network.input_shape[1:4]
    return len(starts(CT_SLICES, depth)) * len(starts(SIDE, rows)) * len(starts(SIDE, columns))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=BATCH, help=f"a multiple of {BATCH}")
    parser.add_argument("--only", default=",".join(ARCHITECTURES), help="names, with commas")
    options = parser.parse_args()
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    print(f"{cores} cores, load {load:.1f} when it began, nice {os.nice(0)}\n")
    print(
        "| network | parameters, million | seconds for 300 slices | CPU seconds | measured on |\n|---|---|---|---|---|"
    )
    for name in options.only.split(","):
        network = ARCHITECTURES[name]()
        patches = len(network.input_shape) == 5
        count = 1 if patches else options.slices
        wall, cpu = (took * inputs_of_a_ct(network) / count for took in seconds(network, count))
        measured = "1 patch" if patches else f"{count} slices"
        print(f"| `{name}` | {network.count_params() / 1e6:.2f} | {wall:.0f} | {cpu:.0f} | {measured} |", flush=True)


if __name__ == "__main__":
    main()
