"""The contract of Holoscan and MONAI Deploy: two folders by environment variables, two manifests in the image.

https://docs.nvidia.com/holoscan/sdk-user-guide/cli/hap.html. The image has no /etc/monai/app.json, the manifest of
older packages: Mercure takes an image that has one for a package which must run as root.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from covct.disk.durable import make_folder, output_errors, replace_json
from covct.errors import UsageError
from covct.networks.cards import default_weights_folder, tasks_in
from covct.platforms.assignment import Assignment, Platform, Results, Wishes
from covct.platforms.deliver import below_its_study, lay_out, tell
from covct.version import RELEASE

IN, OUT = "HOLOSCAN_INPUT_PATH", "HOLOSCAN_OUTPUT_PATH"
MANIFEST_VERSION = "1.0.0"
APPLICATION, MODELS = "/opt/holoscan/app", "/opt/holoscan/models"
HOME = "/var/holoscan"


def assignments(environment: Mapping[str, str], wishes: Wishes) -> Iterable[Assignment]:
    """The one that the environment names."""
    if not environment.get(OUT):
        raise UsageError(f"{IN} is set and {OUT} is not; Holoscan sets both")
    out = wishes.path(environment[OUT])

    def deliver(results: Results) -> None:
        tell(results, out, lay_out(results, out, below_its_study))

    yield Assignment(wishes.path(environment[IN]), out, deliver)


def write_manifests(folder: Path, with_gpu: bool) -> None:
    """Write app.json and pkg.json, which lie in /etc/holoscan of an image.

    Raises
    ------
    OutputNotWritable
    """
    with output_errors(folder):
        make_folder(folder)
        replace_json(folder / "app.json", application_manifest())
        replace_json(folder / "pkg.json", package_manifest(with_gpu))


def application_manifest() -> dict[str, Any]:
    """How the application is run."""
    return {
        "apiVersion": MANIFEST_VERSION,
        "type": "application",
        "command": "covct platform holoscan",
        "environment": {
            IN: f"{HOME}/input",
            OUT: f"{HOME}/output",
            "HOLOSCAN_WORKDIR": HOME,
            "HOLOSCAN_APPLICATION": APPLICATION,
            "HOLOSCAN_MODEL_PATH": MODELS,
            "HOLOSCAN_APP_MANIFEST_PATH": "/etc/holoscan/app.json",
            "HOLOSCAN_PKG_MANIFEST_PATH": "/etc/holoscan/pkg.json",
        },
        "input": {"path": "input", "formats": ["file"]},
        "output": {"path": "output", "format": "file"},
        "liveness": {
            "type": "command",
            "command": ["covct", "health"],
            "initialDelaySeconds": 300,
            "periodSeconds": 300,
        },
        "timeout": 0,
        "version": semantic_version(),
        "workingDirectory": HOME,
    }


def package_manifest(with_gpu: bool) -> dict[str, Any]:
    """What the package holds, and needs."""
    return {
        "apiVersion": MANIFEST_VERSION,
        "applicationRoot": APPLICATION,
        "modelRoot": MODELS,
        "models": [{"name": task} for task in tasks_in(default_weights_folder())],
        "resources": {"cpu": 2, "gpu": int(with_gpu), "memory": "4Gi", "sharedMemory": "64Mi"},
        "version": semantic_version(),
    }


def semantic_version() -> str:
    """The release as semver has it: 0.2.0-dev0 for 0.2.0.dev0."""
    return RELEASE.replace(".dev", "-dev")


HOLOSCAN = Platform("Holoscan", IN, lambda environment, wishes: bool(environment.get(IN)), assignments)
