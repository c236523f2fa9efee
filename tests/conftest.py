"""Networks that are plain thresholds: the whole line without keras, in milliseconds, with masks checked by eye."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from covct.networks.cards import Card, file_sha256, write_card
from covct.networks.network import Device, Network, Networks

# The same examples in every run: what fails in continuous integration fails here. New ones: `make test-random`.
settings.register_profile("same", derandomize=True)
settings.register_profile("random", derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))
SHARED = Path(os.environ.get("COVCT_DATA", Path(__file__).parents[2] / "shared" / "data"))


def threshold_card(task: str, sha256: str = "0" * 64) -> Card:
    return Card(
        name=task,
        task=task,
        architecture={"name": "threshold", "arguments": {}},
        recipe={"name": "hu-window", "arguments": {"low": -1000, "high": 200}},
        field_of_view="body",
        size=256,
        threshold=0.5,
        weights=f"{task}.keras",
        sha256=sha256,
        licence="none",
    )


def call_lungs(slices: np.ndarray) -> np.ndarray:
    """Air inside the body: darker than -400 HU and not connected with the border of the slice."""
    import cv2

    out = np.zeros(slices.shape[:3], np.float32)
    for index, one in enumerate(slices[..., 0]):
        air = (one < 0.5).astype(np.uint8)
        count, labels = cv2.connectedComponents(air)
        outside = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
        out[index] = (air > 0) & ~np.isin(labels, outside[outside > 0])
    return out


def call_infection(slices: np.ndarray) -> np.ndarray:
    """Between -700 and -400 HU."""
    return ((slices[..., 0] > 0.25) & (slices[..., 0] < 0.5)).astype(np.float32)


def make_networks() -> Networks:
    return Networks(
        Network(threshold_card("lungs"), call_lungs),
        Network(threshold_card("infection"), call_infection),
        Device("cpu", "threshold"),
    )


def make_weights(folder: Path) -> Path:
    """A weights folder whose cards are whole and whose weights are a few bytes."""
    folder.mkdir()
    for task in ("lungs", "infection"):
        file = folder / f"{task}.keras"
        file.write_bytes(task.encode())
        write_card(threshold_card(task, file_sha256(file)), folder)
    return folder


@pytest.fixture
def networks() -> Networks:
    return make_networks()


@pytest.fixture
def weights(tmp_path) -> Path:
    return make_weights(tmp_path / "weights")


@pytest.fixture
def shared() -> Path:
    """Real scans; tests that need them are skipped where they are absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no real scans at {SHARED} (set COVCT_DATA)")
    return SHARED


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


SMALL = {"slices": 30, "rows": 128, "columns": 128, "slice_spacing_mm": None, "pixel_spacing_mm": (3.0, 3.0)}


@pytest.fixture(scope="session")
def phantom():
    """A coarse chest with lesions: 30 slices of 128 x 128, 3 mm pixels."""
    from covct.phantom.chest import make_phantom

    return make_phantom(**SMALL, lesions="moderate", seed=1)


@pytest.fixture(scope="session")
def phantom_series(phantom, tmp_path_factory) -> Path:
    """The coarse chest as DICOM files, head first and supine. Not to be changed: copy it."""
    from covct.phantom.dicom import write_dicom_series

    folder = tmp_path_factory.mktemp("phantom")
    write_dicom_series(phantom, folder)
    return folder


@pytest.fixture
def series_folder(phantom_series, tmp_path) -> Path:
    """A copy of the phantom series to spoil."""
    import shutil

    return Path(shutil.copytree(phantom_series, tmp_path / "series"))
