"""Fixtures of many tests, and the settings of all. Plain helpers are in `support`."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from hypothesis import settings

from covct.commands import scan
from covct.intake.discover import read_facts
from covct.networks.network import Networks
from covct.outputs import Outputs
from covct.unattended import batch, index
from support import pacs as orthancs
from support.checkout import PYTHONPATH, SHARED
from support.chests import SMALL
from support.series import change
from support.thresholds import make_networks, make_weights

# No schema of ours has IRIs, and jsonschema would make a grammar of them at each start, a second of a processor, where
# cyclonedx-bom has brought it.
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]

# The same examples in every run: what fails in continuous integration fails here. New ones: `make test-random`.
settings.register_profile("same", derandomize=True)
settings.register_profile("random", derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


def pytest_collection_modifyitems(items):
    """What a test asks for tells what it needs. Slow tests are not traced for coverage: it would double their time."""
    everything = os.environ.get("COVCT_COVERAGE") == "all"
    for item in items:
        if item.get_closest_marker("slow") and not everything:
            item.add_marker("no_cover")
        for fixture, marker in {"shared": "real", "orthanc": "orthanc", "browser": "browser"}.items():
            if fixture in item.fixturenames:
                item.add_marker(marker)


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


@pytest.fixture(scope="session")
def orthanc(tmp_path_factory):
    """A PACS on loopback."""
    with orthancs.started(tmp_path_factory.mktemp("orthanc")) as one:
        yield one


@pytest.fixture
def pacs(orthanc) -> orthancs.Orthanc:
    """Orthanc with nothing in it."""
    for patient in orthanc.listed("/patients"):
        orthanc.ask("DELETE", f"/patients/{patient}")
    return orthanc


@pytest.fixture
def series_folder(phantom_series, tmp_path) -> Path:
    """A copy of the phantom series to spoil."""
    return Path(shutil.copytree(phantom_series, tmp_path / "series"))


@pytest.fixture
def threshold_networks(monkeypatch, networks):
    """The command line in this process, with networks that need no keras."""
    monkeypatch.setattr(scan, "networks_of", lambda *_: lambda: networks)


@pytest.fixture
def inbox(phantom_series, tmp_path):
    """Three studies: a, b, c."""
    for number, name in enumerate("abc", start=1):
        folder = shutil.copytree(phantom_series, tmp_path / "inbox" / name)
        change(
            folder,
            StudyInstanceUID=f"1.2.{number}",
            SeriesInstanceUID=f"1.2.{number}.1",
            SOPInstanceUID=lambda i, number=number: f"1.2.{number}.1.{i + 1}",
        )
    return tmp_path / "inbox"


@pytest.fixture
def order(inbox, tmp_path, weights):
    return batch.Order((inbox,), tmp_path / "out", weights, outputs=Outputs(("seg",)))


@pytest.fixture
def uneven_inbox(inbox):
    """The second study lacks a slice, which makes it the one at which `support/threshold_cli.py` misbehaves."""
    sorted((inbox / "b").iterdir())[-1].unlink()
    return inbox


@pytest.fixture
def start(uneven_inbox, tmp_path, weights):
    """A function that starts `covct scan` as a process of its own."""
    started = []

    def run(*options, misbehave="", command="scan"):
        process = subprocess.Popen(
            [sys.executable, "-m", "support.threshold_cli", command, uneven_inbox, "-o", tmp_path / "out",
             "--formats=seg", "--json", *options],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": PYTHONPATH, "COVCT_WEIGHTS": str(weights), "COVCT_MISBEHAVE": misbehave},
            preexec_fn=partial(signal.signal, signal.SIGHUP, signal.SIG_DFL),  # under nohup it would be ignored
        )  # fmt: skip
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def four_slices(phantom_series, tmp_path):
    """Four slices of a series."""
    (tmp_path / "in").mkdir()
    for path in sorted(phantom_series.iterdir())[:4]:
        shutil.copy2(path, tmp_path / "in")
    return tmp_path / "in"


@pytest.fixture
def index_file(tmp_path):
    return tmp_path / "index.sqlite"


@pytest.fixture
def files_read(monkeypatch):
    """The names of the files that are really read, and not taken from the index."""
    names = []

    def counted(file, *opener):
        names.append(file.path.name)
        return read_facts(file, *opener)

    monkeypatch.setattr(index, "read_facts", counted)
    return names
