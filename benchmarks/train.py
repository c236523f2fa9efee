"""How fast `covct train` goes: seconds an epoch and slices a second, in float32 and in bfloat16.

    python benchmarks/train.py [DATA] [--samples 64] [--epoch 1200] [--batch-size 8] [--base-filters 16]

Without DATA the samples are invented on the fly and cost next to nothing: the speed of the network alone. With DATA (a
folder with HU volumes and lung masks) they are drawn and augmented as for the restorer, by `--workers` threads: the
speed of training as it is. The first steps compile and are not counted. On a GPU its utilisation is asked of nvidia-smi
while it computes. Prints a table; set KERAS_BACKEND=jax for JAX.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path
from statistics import mean

from covct.commands.quiet import quiet_tensorflow

with quiet_tensorflow():
    import keras

import numpy as np

from covct.data.published import find_sources
from covct.data.slices import SIZE
from covct.networks.segment import device_in_use
from covct.training.batches import batches
from covct.training.build import build, compiled
from covct.training.samples.plans import plan_restorer
from covct.training.samples.reading import Reading
from covct.training.settings import Settings

WARM_UP = 2  # steps


def invented(rng: np.random.Generator, origins=None):
    x = rng.random((SIZE, SIZE, 1), np.float32)
    return x, np.concatenate([x, np.ones_like(x)], -1)


def utilisation(stop: threading.Event, seen: list[float]) -> None:
    """What nvidia-smi says of the first GPU, twice a second."""
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--id=0"]
    while not stop.wait(0.5):
        answer = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        if answer.isdigit():
            seen.append(float(answer))


def measure(settings: Settings, draw, workers: int) -> tuple[float, list[float]]:
    """Slices a second, and the GPU's utilisation in percent as it was seen."""
    network = compiled(build(settings, SIZE), settings, "l1")
    places = ((0, step) for step in range(settings.steps_per_epoch + WARM_UP))
    stop, seen, begun = threading.Event(), [], 0.0
    watcher = threading.Thread(target=utilisation, args=(stop, seen))
    for step, (x, truth) in enumerate(batches(draw, settings.batch_size, 0, places, workers)):
        if step == WARM_UP:
            begun = time.perf_counter()
            if shutil.which("nvidia-smi"):
                watcher.start()
        network.train_on_batch(x, truth)
    seconds = time.perf_counter() - begun
    stop.set()
    if watcher.ident:
        watcher.join()
    return settings.steps_per_epoch * settings.batch_size / seconds, seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--architecture", default="unet")
    parser.add_argument("--samples", type=int, default=64, help="slices to measure with")
    parser.add_argument("--epoch", type=int, default=1200, help="slices of the epoch whose seconds are printed")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--base-filters", type=int, default=16)
    parser.add_argument("--workers", type=int, default=max(1, len(os.sched_getaffinity(0)) // 2))
    asked = parser.parse_args()
    settings = Settings(
        "restorer", 1, asked.samples, asked.batch_size, base_filters=asked.base_filters, architecture=asked.architecture
    )
    draw = plan_restorer(Reading(find_sources(asked.data)), settings).draw if asked.data else invented
    load, origin = os.getloadavg()[0], f"drawn by {asked.workers} threads" if asked.data else "invented"
    print(
        f"{device_in_use().name}, {len(os.sched_getaffinity(0))} CPUs, load {load:.1f} before, "
        f"{keras.backend.backend()}; {asked.architecture}, {asked.base_filters} base filters, "
        f"batches of {asked.batch_size}, samples {origin}\n"
    )
    print(f"| arithmetic | slices/s | seconds an epoch of {asked.epoch} | GPU, % |\n|---|---|---|---|")
    for mixed in (False, True):
        this = Settings(**{**settings.__dict__, "mixed_precision": mixed})
        rate, seen = measure(this, draw, asked.workers)
        used = f"{mean(seen):.0f}" if seen else "–"
        print(f"| {'bfloat16' if mixed else 'float32'} | {rate:.1f} | {asked.epoch / rate:.0f} | {used} |", flush=True)


if __name__ == "__main__":
    main()
