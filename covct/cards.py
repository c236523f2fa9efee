"""Weight cards: the JSON beside a weights file that says how to use it, where it came from and how good it is."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from covct.errors import WeightsError

CARD_FORMAT = 1


@dataclass(frozen=True)
class Card:
    """How a network is built and fed, and what it was trained on.

    Attributes
    ----------
    task : str
        "lungs", "infection" or "restorer".
    architecture, recipe : dict
        ``{"name": ..., "arguments": {...}}``: a key of ARCHITECTURES and one of RECIPES.
    field_of_view : str
        "body": the square around the body; "whole": the whole slice.
    size : int
        Side of the input, pixels.
    flip : bool
        Whether the probability is the mean of the slice's and of its mirror image's: twice the time, steadier.
    threshold : float
        Probability from which a pixel is called.
    sha256 : str
        Of the weights file; checked before loading.
    training, scores, limits : dict, dict, str
        Data and licence, held-out patients and their scores, what the network is known to do badly.
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
        fields = json.loads(path.read_text())
        if fields.get("format") != CARD_FORMAT:
            raise WeightsError(f"{path}: card format {fields.get('format')!r}, wanted {CARD_FORMAT}")
        card = Card(**fields)
    except OSError as error:
        raise WeightsError(f"{path}: the weight card cannot be read ({error.strerror}); reinstall covct") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path}: not a weight card: {error}") from error
    weights = weights_path(path, card)
    try:
        actual = file_sha256(weights)
    except OSError as error:
        raise WeightsError(f"{weights}: the weights cannot be read ({error.strerror}); reinstall covct") from error
    if actual != card.sha256:
        raise WeightsError(f"{weights}: sha256 is {actual[:12]}…, the card says {card.sha256[:12]}…: altered weights")
    return card


def weights_path(card_path: Path, card: Card) -> Path:
    """The weights file a card names; a bare file name beside the card, never a path."""
    if Path(card.weights).name != card.weights:
        raise WeightsError(f"{card_path}: weights must be a bare file name, got {card.weights!r}")
    return card_path.with_name(card.weights)


def default_weights_folder() -> Path:
    """`$COVCT_WEIGHTS`, else the weights inside the installed package, else those of the source checkout."""
    if chosen := os.environ.get("COVCT_WEIGHTS"):
        return Path(chosen)
    installed = Path(__file__).with_name("weights")
    return installed if installed.is_dir() else Path(__file__).parent.parent / "weights"


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
