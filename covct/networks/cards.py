"""Weight cards: the JSON beside a weights file that says how to use it, where it came from and how good it is."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from math import prod
from pathlib import Path
from typing import Any

from covct.errors import WeightsError

CARD_FORMAT = 1
LARGEST_CARD = 1024**2  # bytes
TASKS = ("lungs", "infection", "restorer", "empty-slices")
# The classes of a network of several that count for its task; all others are beside it.
TASK_CLASSES = {
    "lungs": ("lungs", "right-lung", "left-lung"),
    "infection": ("infection", "ground-glass", "consolidation"),
}
OTHER_CLASSES = ("background", "effusion")
MOST_CHANNELS, MOST_VOXELS = 15, 2**22
FIELDS_OF_VIEW = ("body", "otsu-body", "whole", "lung-contours", "lung-mask")  # functions in crops.py
SPACINGS_MM = (0.3, 20.0)
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")


@dataclass(frozen=True)
class Card:
    """How a network is built and fed, and what it was trained on.

    Attributes
    ----------
    task : str
        "lungs", "infection", "restorer", or "empty-slices": which slices hold no infection.
    architecture, recipe : dict
        ``{"name": ..., "arguments": {...}}``: a key of ARCHITECTURES and one of RECIPES.
    field_of_view : str
        "body" or "otsu-body": the square around the body, by fixed HU or by Otsu's threshold; "whole": the whole
        slice; "lung-contours": the square around the two largest contours of air in the body; "lung-mask": around the
        lungs found before. Not for every task: whoever looks for the lungs cannot be shown only them.
    size : int
        Side of the input, pixels.
    flip : bool
        Whether the probability is the mean of the slice's and of its mirror image's: twice the time, steadier.
    channels : int
        Adjacent slices that the network sees at once, the middle one the one in question; odd. 1: that alone.
    patch : list of int
        Of a volumetric network: slices, rows and columns of what it sees at once. Empty: it sees slices.
    classes : list of str
        Names of the network's outputs where it has several, from `TASK_CLASSES` and `OTHER_CLASSES`; "background"
        first where they exclude each other. How one probability comes of them: `networks.task_probability`.
    spacing_mm : list of three float, or None
        Of a volumetric network: distance between slices, rows and columns that it sees. None: slices as they are,
        resized to `size`.
    least_air_mm2 : float
        Slices with less air inside the body tell nothing and are not looked at. 0: all are.
    threshold : float
        Probability from which a pixel is called; of the empty-slice network, from which a slice is looked at.
    sha256 : str
        Of the weights file; checked before loading.
    training, scores, limits : dict, dict, str
        Data and licence, held-out patients and their scores, what the network is known to do badly.
    uncertainty : dict
        What the widths of `covct.pipeline.uncertainty` are multiplied by, as `benchmarks/uncertainty.py` measured it:
        "factor", "level", "looks" at a slice, and "source" in words. Empty: not measured, a default is taken.
    """

    name: str
    task: str
    architecture: dict[str, Any]
    recipe: dict[str, Any]
    field_of_view: str
    size: int
    threshold: float
    weights: str
    sha256: str
    licence: str
    training: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    limits: str = ""
    flip: bool = False
    uncertainty: dict[str, Any] = field(default_factory=dict)
    channels: int = 1
    patch: list[int] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    spacing_mm: list[float] | None = None
    least_air_mm2: float = 0.0
    format: int = CARD_FORMAT


def write_card(card: Card, folder: Path) -> Path:
    path = folder / f"{card.name}.json"
    path.write_text(json.dumps(asdict(card), indent=2, ensure_ascii=False) + "\n")
    return path


def read_card(path: Path) -> Card:
    """Read a card and check the weights file beside it against the card's hash. Never loads the network.

    Raises
    ------
    WeightsError
        The card is missing, malformed, of another format, or the weights are missing or altered.
    """
    try:
        if path.stat().st_size > LARGEST_CARD:
            raise ValueError(f"it has more than {LARGEST_CARD} bytes")
        fields = json.loads(path.read_text())
        if fields.get("format") != CARD_FORMAT:
            raise WeightsError(f"{path}: card format {fields.get('format')!r}, wanted {CARD_FORMAT}")
        card = Card(**fields)
    except OSError as error:
        raise WeightsError(f"{path}: the weight card cannot be read ({error.strerror}); reinstall covct") from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{path}: not a weight card: {error}") from error
    weights = weights_path(path, card)
    if unsound := next(_unsound(card), None):
        raise WeightsError(f"{path}: not a weight card: {unsound}")
    try:
        if not stat.S_ISREG(os.stat(weights).st_mode):
            raise WeightsError(f"{weights}: the weights are no file; reinstall covct")
        actual = file_sha256(weights)
    except OSError as error:
        raise WeightsError(f"{weights}: the weights cannot be read ({error.strerror}); reinstall covct") from error
    if actual != card.sha256:
        raise WeightsError(f"{weights}: sha256 is {actual[:12]}…, the card says {card.sha256[:12]}…: altered weights")
    return card


def _unsound(card: Card) -> Iterator[str]:
    """What of a card is of the wrong type or out of its range."""
    if not _is_name(card.name):
        yield f"name is {card.name!r}, wanted letters, digits, dots and dashes"
    if card.task not in TASKS:
        yield f"task is {card.task!r}, wanted one of {', '.join(TASKS)}"
    if card.field_of_view not in FIELDS_OF_VIEW:
        yield f"field_of_view is {card.field_of_view!r}, wanted one of {', '.join(FIELDS_OF_VIEW)}"
    elif card.task in ("lungs", "restorer") and str(card.field_of_view).startswith("lung-"):
        yield (
            f"field_of_view is {card.field_of_view!r}, wanted 'body', 'otsu-body' or 'whole': a {card.task} network "
            "works before lungs are known, and a crop by them would cut off what is not aerated"
        )
    for field_name in ("architecture", "recipe"):
        if not _is_call(getattr(card, field_name)):
            yield f"{field_name} is {getattr(card, field_name)!r}, wanted a name and plain arguments"
    if type(card.size) is not int or not 16 <= card.size <= 1024:
        yield f"size is {card.size!r}, wanted 16 to 1024"
    if card.spacing_mm is not None and not _are_spacings(card.spacing_mm):
        yield f"spacing_mm is {card.spacing_mm!r}, wanted three distances from {SPACINGS_MM[0]} to {SPACINGS_MM[1]} mm"
    elif card.spacing_mm is not None and not card.patch:
        yield "spacing_mm is for volumetric networks, and patch is empty"
    if type(card.least_air_mm2) not in (int, float) or not 0 <= card.least_air_mm2 < 1e5:  # false for NaN
        yield f"least_air_mm2 is {card.least_air_mm2!r}, wanted an area from 0 to 100000 mm2"
    if type(card.threshold) not in (int, float) or not 0 < card.threshold < 1:  # false for NaN
        yield f"threshold is {card.threshold!r}, wanted a probability between 0 and 1"
    if not isinstance(card.sha256, str) or not re.fullmatch("[0-9a-f]{64}", card.sha256):
        yield f"sha256 is {card.sha256!r}, wanted 64 hexadecimal digits"
    if type(card.flip) is not bool:
        yield f"flip is {card.flip!r}, wanted true or false"
    if type(card.channels) is not int or not 1 <= card.channels <= MOST_CHANNELS or card.channels % 2 == 0:
        yield f"channels is {card.channels!r}, wanted an odd number up to {MOST_CHANNELS}"
    elif not _is_patch(card.patch) or (card.patch and card.channels > 1):
        yield f"patch is {card.patch!r}, wanted slices, rows and columns, and 1 channel, or nothing"
    if fault := _fault_of_classes(card.classes, card.task):
        yield f"classes are {card.classes!r}, wanted {fault}"
    if not isinstance(card.training, dict) or not isinstance(card.scores, dict):
        yield "training and scores are no objects"
    if not _is_calibration(card.uncertainty):
        yield f"uncertainty is {card.uncertainty!r}, wanted factor, level, looks and source, or nothing"
    if not isinstance(card.licence, str) or not isinstance(card.limits, str):
        yield "licence and limits are no texts"


def _are_spacings(value: Any) -> bool:
    low, high = SPACINGS_MM
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(type(one) in (int, float) and low <= one <= high for one in value)
    )


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and NAME.fullmatch(value) is not None


def _is_patch(patch: Any) -> bool:
    return patch == [] or (
        isinstance(patch, list)
        and len(patch) == 3
        and all(type(length) is int and length > 0 for length in patch)
        and prod(patch) <= MOST_VOXELS
    )


def _fault_of_classes(classes: Any, task: Any) -> str | None:
    """What a card's classes should have been, or None."""
    if classes == []:
        return None
    if task not in TASK_CLASSES:
        return f"none, as of any network for {task}"
    own = TASK_CLASSES[task]
    if not isinstance(classes, list) or not all(name in (*own, *OTHER_CLASSES) for name in classes):
        return f"some of {', '.join((*own, *OTHER_CLASSES))}"
    if len(set(classes)) < len(classes) or not set(classes) & set(own) or "background" in classes[1:]:
        return f"each once, one of {', '.join(own)} among them, and the background first"
    return None


def _is_call(value: Any) -> bool:
    """A name, and arguments that are names or finite numbers: they go to a function of ours."""
    return (
        isinstance(value, dict)
        and set(value) == {"name", "arguments"}
        and _is_name(value["name"])
        and isinstance(value["arguments"], dict)
        and all(
            _is_name(one) or (isinstance(one, int | float) and abs(one) < 1e6) for one in value["arguments"].values()
        )
    )


def _is_calibration(value: Any) -> bool:
    return value == {} or (
        isinstance(value, dict)
        and set(value) == {"factor", "level", "looks", "source"}
        and type(value["factor"]) in (int, float)
        and 0 < value["factor"] < 1000
        and type(value["level"]) in (int, float)
        and 0 < value["level"] < 1
        and type(value["looks"]) is int
        and 0 < value["looks"] < 1000
        and isinstance(value["source"], str)
        and 0 < len(value["source"]) < 1000
    )


def ensemble(folder: Path, task: str) -> list[Path]:
    """The cards of a task: ``TASK.json``, and of the same network trained on other folds ``TASK-fold-1.json``, ..."""
    members = [path for path in folder.glob(f"{task}-fold-*.json") if path.stem[len(task) + 6 :].isdecimal()]
    return [folder / f"{task}.json", *sorted(members, key=lambda path: int(path.stem[len(task) + 6 :]))]


def tasks_in(folder: Path) -> tuple[str, ...]:
    """Tasks of the networks in a weights folder: the two that the pipeline needs, and what it can make use of."""
    optional = ("empty-slices",)
    return ("lungs", "infection", *(task for task in optional if os.path.lexists(folder / f"{task}.json")))


def weights_path(card_path: Path, card: Card) -> Path:
    """The weights file a card names; a bare file name beside the card, never a path."""
    if not _is_name(card.weights):
        raise WeightsError(f"{card_path}: weights must be a bare file name, got {card.weights!r}")
    return card_path.with_name(card.weights)


def default_weights_folder() -> Path:
    """`$COVCT_WEIGHTS`, else the weights inside the installed package, else those of the source checkout."""
    if chosen := os.environ.get("COVCT_WEIGHTS"):
        return Path(chosen)
    package = Path(str(files("covct")))
    installed = package / "weights"
    return installed if installed.is_dir() else package.parent / "weights"


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
