"""covct beside lungmask on one series, in turn (A B A B), and beside the floor of the processor's cores.

    python benchmarks/peers.py [--slices 300] [--rounds 2] [--peer PYTHON]

Whole: a process from its start to its end. covct segments lungs and infection and writes SEG, SR, report and overlay;
lungmask segments lungs, and writes nothing. Compute: of covct its steps lungs and infection; of lungmask its `apply`
without what it does to the mask of a whole volume. Its weights are random (nothing is downloaded): that costs the
network the same, and the mask of noise would cost far more afterwards than one of lungs.

--peer is the Python of an environment that has lungmask; without it one is made in a temporary folder, with pip.
Floor: the operations of both networks, one look at every slice, over the most that a product of matrices reaches.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
import venv
from pathlib import Path

import numpy as np
from scan_throughput import scan, write_series

from covct.networks.cards import default_weights_folder, read_card
from covct.networks.converted import _precision, _settings, openvino, read_converted

SIDE = 4096  # of the matrices: more is no faster
LUNGMASK = """
import sys, time
from pathlib import Path
import SimpleITK as sitk, torch
from lungmask.mask import LMInferer
from lungmask.resunet import UNet

folder, weights = sys.argv[1:]
if not Path(weights).exists():
    torch.manual_seed(0)
    network = UNet(n_classes=3, padding=True, depth=5, up_mode="upsample", batch_norm=True, residual=False)
    torch.save(network.state_dict(), weights)
inferer = LMInferer(modelpath=weights, force_cpu=True, volume_postprocessing=False, tqdm_disable=True)
reader = sitk.ImageSeriesReader()
reader.SetFileNames(reader.GetGDCMSeriesFileNames(folder))
image = reader.Execute()
start = time.perf_counter()
mask = inferer.apply(image)
assert mask.shape == image.GetSize()[::-1]
print(time.perf_counter() - start)
"""


def peer_python(folder: Path) -> Path:
    """An environment of its own with lungmask."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "lungmask"], check=True)
    return python


def run_lungmask(python: Path, series: Path, weights: Path) -> tuple[float, float, float]:
    """Seconds of the whole process and of its `apply`; peak MiB."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    start = time.perf_counter()
    process = subprocess.Popen(
        [python, "-c", LUNGMASK, series, weights], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=environment,
    )  # fmt: skip
    assert process.stdout
    said = process.stdout.read()
    _, code, usage = os.wait4(process.pid, 0)
    if code:
        raise SystemExit(f"lungmask ended with {os.waitstatus_to_exitcode(code)}: is it installed in {python}?")
    return time.perf_counter() - start, float(said), usage.ru_maxrss / 1024


def run_covct(series: Path, out: Path) -> tuple[float, float, float]:
    """Seconds of the whole process and of its steps `lungs` and `infection`; peak MiB."""
    whole, peak, events = scan([series], out)
    [folder] = [event["folder"] for event in events if event["event"] == "done"]
    steps = json.loads((out / folder / "report.json").read_text())["run"]["timings_s"]
    return whole, steps["lungs"] + steps["infection"], peak


def operations(task: str) -> int:
    """Of a network for one slice: a multiplication and an addition for each weight of its convolutions and pixel."""
    path = default_weights_folder() / f"{task}.json"
    model = read_converted(openvino().Core(), path, read_card(path))
    total = 0
    for node in model.get_ops():
        if node.get_type_name() == "Convolution":
            weights = node.input_value(1).get_partial_shape().to_shape()
            pixels = [side.get_length() for side in list(node.get_output_partial_shape(0))[2:]]
            total += 2 * int(np.prod(list(weights))) * int(np.prod(pixels))
    return total


def peak_of_the_cores(seconds: float = 4.0) -> tuple[str, float]:
    """Precision that the networks are computed in here, and operations a second of a product of matrices in it."""
    ov = openvino()
    core, ops = ov.Core(), ov.opset13
    precision = _precision(core)
    seen = ops.parameter([SIDE, SIDE], ov.Type.f32)
    fixed = np.random.default_rng(0).random((SIDE, SIDE), np.float32)
    model = ov.Model([ops.matmul(seen, ops.constant(fixed), False, False)], [seen], "product")
    request = core.compile_model(model, "CPU", {**_settings(precision), "NUM_STREAMS": 1}).create_infer_request()
    request.set_input_tensor(ov.Tensor(fixed))
    request.infer()
    best, end = np.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        request.infer()
        best = min(best, time.perf_counter() - start)
    return precision, 2 * SIDE**3 / best


def show(name: str, runs: list[tuple[float, float, float]]) -> tuple[float, float]:
    whole, compute, peak = (statistics.median(values) for values in zip(*runs, strict=True))
    print(f"| {name} | {whole:.1f} | {compute:.1f} | {peak:.0f} |")
    return whole, compute


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--peer", type=Path, help="python of an environment with lungmask")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = arguments.peer or peer_python(folder / "peer")
        write_series(folder / "in", arguments.slices, 1)
        ours, theirs = [], []
        for number in range(arguments.rounds):
            ours.append(run_covct(folder / "in" / "0", folder / f"out{number}"))
            theirs.append(run_lungmask(python, folder / "in" / "0", folder / "weights.pth"))
    cores = len(os.sched_getaffinity(0))
    print(f"{arguments.slices} x 512 x 512, {cores} cores, medians of {arguments.rounds} in turn")
    print("| | whole, s | compute, s | peak MiB |\n|---|---:|---:|---:|")
    whole, compute = show("covct: lungs and infection", ours)
    whole_of_peer, compute_of_peer = show("lungmask: lungs", theirs)
    print(f"| lungmask / covct | {whole_of_peer / whole:.1f} | {compute_of_peer / compute:.1f} | |")
    precision, peak = peak_of_the_cores()
    needed = arguments.slices * (operations("lungs") + operations("infection"))
    print(
        f"\nFloor: {needed / 1e12:.2f} TFLOP, one look of both networks at every slice; at most {peak / 1e9:.0f} "
        f"GFLOP/s in {precision}: {needed / peak:.1f} s. covct's compute is {compute * peak / needed:.1f} times that."
    )


if __name__ == "__main__":
    main()
