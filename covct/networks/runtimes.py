"""What computes the networks: OpenVINO on a CPU where it can, else keras on TensorFlow. Loads neither to choose."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from covct.errors import DeviceMissing, RunError, UsageError, WeightsError
from covct.networks.cards import Card, members, read_card
from covct.networks.devices import DRIVER, OPENVINO, TENSORFLOW, Wish

AUTO = "auto"  # `--runtime`, or one of both


@dataclass(frozen=True)
class Choice:
    """Which runtime is taken, and why none other.

    Attributes
    ----------
    runtime : str
        OPENVINO or TENSORFLOW.
    fallback : str
        Why TensorFlow is taken on a CPU although OpenVINO would be faster; empty where nothing was missing.
    """

    runtime: str
    fallback: str = ""


def check(runtime: str, wish: Wish, require_gpu: bool) -> None:
    """Refuse what contradicts itself, before anything is read."""
    if runtime == OPENVINO and (wish.kind == "gpu" or require_gpu):
        raise UsageError("--runtime openvino computes on the CPU: leave out --device gpu and --require-gpu")


def choose(runtime: str, folder: Path, on_gpu: bool, rest: Path | None = None) -> Choice:
    """The runtime for all networks of a weights folder: one for all, so that they compute in the same numbers.

    Parameters
    ----------
    on_gpu : bool
        A GPU is to compute, or may be there.
    rest : Path, optional
        Where the network of a task lies that the folder lacks.

    Raises
    ------
    DeviceMissing
        OpenVINO was asked for and is not installed.
    WeightsError
        OpenVINO was asked for and a network has no converted form; or a card cannot be read.
    """
    if runtime == TENSORFLOW or (runtime == AUTO and on_gpu):
        return Choice(TENSORFLOW)
    if not is_installed("openvino"):
        if runtime == OPENVINO:
            raise DeviceMissing("OpenVINO was asked for and is not installed: pip install 'covct[cpu]' or covct[slim]")
        return Choice(TENSORFLOW, "openvino: not installed")
    lack = why_not_converted({path: read_card(path) for paths in members(folder, rest).values() for path in paths})
    if not lack:
        return Choice(OPENVINO)
    if runtime == OPENVINO:
        raise WeightsError(f"{folder}: OpenVINO was asked for, and {lack}; covct export openvino converts the networks")
    return Choice(TENSORFLOW, f"openvino: {lack}")


def why_not_converted(cards: dict[Path, Card]) -> str:
    """Why these networks have no converted form that could be loaded; empty where they have. Looks at no hash."""
    for path, card in cards.items():
        if card.openvino is None:
            return f"{path.name} names no converted network"
        for name in (card.openvino.graph, card.openvino.arrays):
            if not path.with_name(name).exists():
                return f"{name} is missing"
    return ""


def foreseen(runtime: str, folder: Path, wish: Wish, require_gpu: bool) -> str:
    """What will compute, for counting memory before the networks are loaded; TensorFlow, which takes more, in doubt."""
    try:
        return choose(runtime, folder, require_gpu or may_have_gpu(wish, os.environ)).runtime
    except RunError:  # loading will tell
        return TENSORFLOW


def may_have_gpu(wish: Wish, environment: Mapping[str, str]) -> bool:
    """Whether a GPU may compute: one is wanted, or a driver is there that is not hidden. Only keras knows for sure."""
    if wish.kind == "gpu":
        return True
    hidden = environment.get("CUDA_VISIBLE_DEVICES", "all").strip()
    return wish.kind == "auto" and hidden not in ("", "-1") and any(path.exists() for path in DRIVER)


def is_installed(package: str) -> bool:
    """Whether a package can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None
