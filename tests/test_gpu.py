"""On a GPU only: `python -m pytest tests/test_gpu.py`. Skipped where the driver lists none."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import covct
from covct.networks.devices import present_gpus

if not present_gpus():
    pytest.skip("no NVIDIA GPU", allow_module_level=True)

ROOT = Path(covct.__file__).parent.parent


def python(*arguments):
    """In a process of its own: which GPUs are seen is settled once in each."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_scan_on_the_first_gpu_says_so(phantom_series, tmp_path):
    result = python(
        "-m", "covct", "scan", phantom_series, "-o", tmp_path, "--device", "gpu:0", "--require-gpu", "--json"
    )
    assert result.returncode == 0, result.stderr
    [report] = tmp_path.glob("*/*/report.json")
    device = json.loads(report.read_text())["run"]["device"]
    assert (device["kind"], device["fallbacks"]) == ("gpu", [])


def test_gpu_beyond_the_last_is_exit_13(phantom_series, tmp_path):
    result = python("-m", "covct", "scan", phantom_series, "-o", tmp_path, "--device", f"gpu:{len(present_gpus())}")
    assert result.returncode == 13
    assert present_gpus()[0] in result.stderr


LADDER = """
import sys
import keras, numpy as np
from pathlib import Path
from covct.networks.cards import default_weights_folder
from covct.networks.devices import Ladder
from covct.networks.segment import device_in_use, keras_predictor, load_network
card, network = load_network(default_weights_folder() / "lungs.json")
ladder = Ladder(device_in_use(), 16384)  # more than any GPU holds
slices = np.random.default_rng(0).random((4, card.size, card.size, 1), np.float32)
seen = keras_predictor(network, ladder)(slices)
np.save(sys.argv[1], seen)
print(ladder.used().batch, *ladder.used().fallbacks, sep="\\n")
"""


def test_batch_that_no_gpu_holds_is_halved_until_it_fits(tmp_path):
    result = python("-c", LADDER, tmp_path / "seen.npy")
    assert result.returncode == 0, result.stderr[-2000:]
    batch, *fallbacks = result.stdout.splitlines()
    assert fallbacks and int(batch) < 16384
    assert np.isfinite(np.load(tmp_path / "seen.npy")).all()
