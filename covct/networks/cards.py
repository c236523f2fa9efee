"""Weight cards: the JSON beside a weights file that says how to use it, where it came from and how good it is."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from importlib.resources import files
from math import prod
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from covct.disk import versions
from covct.disk.documents import DamagedDocument, Document, Sha256
from covct.errors import WeightsError
from covct.networks.lineage import Lineage

MOST_PEOPLE = 9999  # that intervals may rest on: some 250 bytes each
LARGEST_CARD = 8 * 1024**2  # bytes
Task = Literal["lungs", "infection", "restorer", "empty-slices"]
TASKS = get_args(Task)
# The classes of a network of several that count for its task; all others are beside it.
TASK_CLASSES = {
    "lungs": ("lungs", "right-lung", "left-lung"),
    "infection": ("infection", "ground-glass", "consolidation"),
}
OTHER_CLASSES = ("background", "effusion")
MOST_CHANNELS, MOST_VOXELS = 15, 2**22
ViewName = Literal["body", "otsu-body", "whole", "lung-contours", "lung-mask"]  # functions in `fields_of_view`
FIELDS_OF_VIEW = get_args(ViewName)
SPACINGS_MM = (0.3, 20.0)
NEIGHBOURS_MM = (0.5, 30.0)
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise ValueError("wanted a bare name of letters, digits, dots and dashes")
    return text


def _argument(value: Any) -> Any:
    """They go to a function of ours."""
    if isinstance(value, str):
        return _name(value)
    if not isinstance(value, int | float) or not abs(value) < 1e6:  # true for NaN
        raise ValueError("wanted a name or a number below a million")
    return value


Name = Annotated[str, AfterValidator(_name), WithJsonSchema({"type": "string", "pattern": f"^{NAME.pattern}$"})]
Argument = Annotated[Any, AfterValidator(_argument), WithJsonSchema({"type": ["string", "number", "boolean"]})]


class Call(Document):
    """A function of ours by its name in a table, and its arguments."""

    name: Name
    arguments: dict[str, Argument]


class Calibration(Document):
    """A factor of widths, as earlier versions used it; it held less than it said, and is read but not used."""

    factor: float = Field(gt=0, lt=1000)
    level: float = Field(gt=0, lt=1, description="The share of patients whose true value the intervals contain.")
    looks: int = Field(gt=0, lt=1000, description="Looks at each slice; with another number it does not apply.")
    source: str = Field(min_length=1, max_length=999, description="Where it was measured, in words.")


class PersonSeen(Document):
    """One person with truth, judged by networks that have not learned from them. Nothing tells who it is."""

    source: str = Field(min_length=1, max_length=99, description="Name of the data.")
    there: bool = Field(description="Whether there is any infection.")
    fold: int = Field(0, ge=0, lt=1000, description="Which network of an ensemble has not seen them, from 0.")
    errors: dict[Name, float] = Field(
        description="By figure, such as infection_percent: truth less figure, in widths of covct.pipeline.uncertainty."
    )


class Calibrated(Document):
    """What the intervals of reports rest on: whole scans with truth. `covct evaluate --calibrate` writes it."""

    networks: list[Sha256] = Field(
        description="Of the weights of all networks for lungs and infection; with others it does not apply."
    )
    thresholds: list[float] = Field(description="Of lungs and infection; with others it does not apply.")
    settings: Sha256 | None = Field(
        None,
        description="Of what their cards say of how they are fed, and of the empty-slices network; with others it does "
        "not apply. null: of earlier versions, not compared.",
    )
    by_folds: bool = Field(
        description="Each person was judged by the fold that held them out, and the networks are these folds together."
    )
    source: str = Field(min_length=1, max_length=999, description="Where it was measured, in words.")
    people: list[PersonSeen] = Field(max_length=MOST_PEOPLE, description="Each once.")


class Converted(Document):
    """The same network in OpenVINO's own form, which needs neither keras nor TensorFlow: two files beside the card."""

    graph: Name = Field(description="The file of its operations, NAME.xml.")
    graph_sha256: Sha256
    arrays: Name = Field(description="The file of its weights, NAME.bin.")
    arrays_sha256: Sha256
    source_sha256: Sha256 = Field(
        description="Of the weights file it was converted from. If it is not the card's, the network is another one, "
        "and refused."
    )
    version: str = Field(min_length=1, max_length=99, description="Of the OpenVINO that converted it.")


class Features(Document):
    """What training samples look like to the network itself, so that a scan unlike them all is noticed."""

    file: Name = Field(description="The file of their features' mean and spread, NAME.npy.")
    sha256: Sha256
    source_sha256: Sha256 = Field(description="Of the weights file they are of; another one is refused.")
    limit: float = Field(gt=0, lt=1e6, description="The distance above which a scan gets the warning.")
    samples: int = Field(gt=0, description="Training samples that it was measured on.")
    source: str = Field(min_length=1, max_length=999, description="On whom the limit was set, in words.")
    ranges: dict[Name, tuple[float, float]] = Field(
        {}, description="What was learned from, by name and unit: the 1st and the 99th percentile of the samples."
    )


def _lineage(training: dict[str, Any]) -> dict[str, Any]:
    Lineage.checked(training)
    return training


NotMeasured = BeforeValidator(lambda value: None if value == {} else value)
AsObject = PlainSerializer(lambda value: value.model_dump() if value else {})
NeighbourMm = Annotated[float, Field(ge=NEIGHBOURS_MM[0], le=NEIGHBOURS_MM[1])]
Spacing = Annotated[float, Field(ge=SPACINGS_MM[0], le=SPACINGS_MM[1])]


class Card(Document):
    """How a network is built and fed, and what it was trained on: NAME.json beside its weights file."""

    PUBLISHED_AS: ClassVar[str] = versions.CARD
    TITLE: ClassVar[str] = "covct weight card"

    name: Name
    task: Task = Field(description="What it finds; empty-slices: which slices hold no infection.")
    architecture: Call = Field(description="A key of ARCHITECTURES.")
    recipe: Call = Field(description="A key of RECIPES: from Hounsfield units to what the network sees.")
    field_of_view: ViewName = Field(
        description="body, otsu-body: the square around the body, by fixed HU or by Otsu's threshold; whole: the whole "
        "slice; lung-contours: the square around the two largest contours of air in the body; lung-mask: around the "
        "lungs found before. A network that finds the lungs cannot use the last."
    )
    size: int = Field(ge=16, le=1024, description="Side of the input, pixels.")
    threshold: float = Field(
        gt=0,
        lt=1,
        description="Probability from which a pixel is marked; of empty-slices, a slice examined.",
    )
    weights: Name = Field(description="The weights file beside the card.")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="Of the weights file; checked before loading.")
    licence: str
    training: Annotated[dict[str, Any], AfterValidator(_lineage)] = Field(
        {}, description="Data, settings, and the patients the network was trained on."
    )
    scores: dict[str, Any] = Field({}, description="On patients held out.")
    limits: str = Field("", description="Known weaknesses.")
    flip: bool = Field(False, description="Average a slice and its mirror image: twice the time, steadier.")
    uncertainty: Annotated[Calibration | None, NotMeasured, AsObject] = Field(
        None, description="Of earlier versions, not used any more."
    )
    calibration: Calibrated | None = Field(
        None, description="Of the infection network, and of the lungs' beside it. null: reports have no intervals."
    )
    channels: int = Field(
        1, ge=1, le=MOST_CHANNELS, description="Slices seen at once, the middle one in question; odd."
    )
    neighbours_mm: list[NeighbourMm] = Field(
        [],
        description="Distances at which slices are seen on either side, mm, ascending. "
        "Empty: the adjacent slices, whatever their distance.",
    )
    patch: list[int] = Field(
        [], description="Of a volumetric network: slices, rows and columns seen at once. Empty: it sees slices."
    )
    classes: list[str] = Field(
        [], description="Names of several outputs; background first where they exclude each other."
    )
    spacing_mm: list[Spacing] | None = Field(
        None, min_length=3, max_length=3,
        description="Of a volumetric network: between slices, rows and columns. null: slices as they are.",
    )  # fmt: skip
    least_air_mm2: float = Field(
        0.0, ge=0, lt=1e5, description="Slices with less air inside the body are skipped. 0: none are."
    )
    openvino: Converted | None = Field(
        None, description="The same network, converted for OpenVINO. null: it runs on TensorFlow only."
    )
    features: Features | None = Field(
        None, description="What was learned, as the network sees it. null: no scan is said to be unlike it."
    )
    format: Literal[1] = versions.CARD_FORMAT

    @field_validator("field_of_view")
    @classmethod
    def _is_known_before(cls, view: str, info: ValidationInfo) -> str:
        if info.data.get("task") in ("lungs", "restorer") and view == "lung-mask":
            raise ValueError(
                f"wanted body, otsu-body, lung-contours or whole: a {info.data['task']} network runs before the lungs "
                "are known"
            )
        return view

    @field_validator("channels")
    @classmethod
    def _has_a_middle(cls, channels: int) -> int:
        if channels % 2 == 0:
            raise ValueError(f"wanted an odd number up to {MOST_CHANNELS}")
        return channels

    @field_validator("neighbours_mm")
    @classmethod
    def _are_its_channels(cls, distances: list[float], info: ValidationInfo) -> list[float]:
        channels = info.data.get("channels", 1)
        if distances and (len(distances) != channels // 2 or distances != sorted(set(distances))):
            raise ValueError(f"wanted none, or for {channels} channels {channels // 2}, ascending")
        return distances

    @field_validator("patch")
    @classmethod
    def _is_a_patch(cls, patch: list[int], info: ValidationInfo) -> list[int]:
        is_one = len(patch) == 3 and min(patch) > 0 and prod(patch) <= MOST_VOXELS
        if patch and (not is_one or info.data.get("channels", 1) > 1):
            raise ValueError(f"wanted slices, rows and columns, {MOST_VOXELS} voxels at most, with 1 channel, or none")
        return patch

    @field_validator("classes")
    @classmethod
    def _are_of_the_task(cls, classes: list[str], info: ValidationInfo) -> list[str]:
        task = info.data.get("task")
        if not classes or task is None:
            return classes
        if task not in TASK_CLASSES:
            raise ValueError(f"wanted none, as of any network for {task}")
        own = TASK_CLASSES[task]
        if not set(classes) <= {*own, *OTHER_CLASSES}:
            raise ValueError(f"wanted some of {', '.join((*own, *OTHER_CLASSES))}")
        if len(set(classes)) < len(classes) or not set(classes) & set(own) or "background" in classes[1:]:
            raise ValueError(f"wanted each once, one of {', '.join(own)} among them, and the background first")
        return classes

    @field_validator("spacing_mm")
    @classmethod
    def _is_of_a_volume(cls, spacing_mm: list[float] | None, info: ValidationInfo) -> list[float] | None:
        if spacing_mm is not None and not info.data.get("patch", True):
            raise ValueError("wanted null where patch is empty: it is for volumetric networks")
        return spacing_mm


def lineage(card: Card) -> Lineage:
    """Whom its network has learned from, as the card says."""
    return Lineage.checked(card.training)


def write_card(card: Card, folder: Path) -> Path:
    path = folder / f"{card.name}.json"
    path.write_text(card.as_json())
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
            raise WeightsError(f"{path}: not a weight card: it has more than {LARGEST_CARD} bytes")
        card = Card.read(path, exact=True)
    except OSError as error:
        raise WeightsError(f"{path}: the weight card cannot be read ({error.strerror}); {_mend(path)}") from error
    except DamagedDocument as error:
        raise WeightsError(f"{path}: not a weight card: {error.told}") from error
    weights = weights_path(path, card)
    try:
        if not stat.S_ISREG(os.stat(weights).st_mode):
            raise WeightsError(f"{weights}: the weights are not a file; {_mend(path)}")
        actual = file_sha256(weights)
    except OSError as error:
        raise WeightsError(f"{weights}: the weights cannot be read ({error.strerror}); {_mend(path)}") from error
    if actual != card.sha256:
        raise WeightsError(f"{weights}: sha256 is {actual[:12]}…, the card says {card.sha256[:12]}…: altered weights")
    return card


def weights_path(card_path: Path, card: Card) -> Path:
    """The weights file a card names, beside the card."""
    return card_path.with_name(card.weights)


def ensemble(folder: Path, task: str) -> list[Path]:
    """The cards of a task: ``TASK.json``, and of the same network trained on other folds ``TASK-fold-1.json``, ..."""
    members = [path for path in folder.glob(f"{task}-fold-*.json") if path.stem[len(task) + 6 :].isdecimal()]
    return [folder / f"{task}.json", *sorted(members, key=lambda path: int(path.stem[len(task) + 6 :]))]


def members(folder: Path, rest: Path | None = None) -> dict[str, list[Path]]:
    """By task the cards of a weights folder, as `ensemble`; those of a task that it lacks from the folder `rest`."""

    def home(task: str) -> Path:
        return folder if rest is None or os.path.lexists(folder / f"{task}.json") else rest

    return {task: ensemble(home(task), task) for task in tasks_in(folder)}


def tasks_in(folder: Path) -> tuple[str, ...]:
    """Tasks of the networks in a weights folder: the two that the pipeline needs, and what it can make use of."""
    optional = ("empty-slices",)
    return ("lungs", "infection", *(task for task in optional if os.path.lexists(folder / f"{task}.json")))


def _mend(path: Path) -> str:
    """What helps against weights that are not there."""
    shipped = path.parent == default_weights_folder() and "COVCT_WEIGHTS" not in os.environ
    return "reinstall covct" if shipped else "wanted a folder with lungs.json, infection.json and their weights"


RESTORER = "restorer.json"  # its card, in a folder of weights


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
