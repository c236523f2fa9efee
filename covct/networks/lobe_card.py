"""The atlas of lobes in a folder of weights: its card, checked like a network's, and the people that it is of."""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from covct.disk.documents import DamagedDocument, Document, Sha256, Share
from covct.errors import WeightsError
from covct.networks.cards import Name, default_weights_folder

if TYPE_CHECKING:
    from covct.voxels.lobes import Atlas

CARD = "lobes.json"
LARGEST_CARD, LARGEST_ATLAS = 64 * 1024, 16 * 1024**2  # bytes


class LobeDice(Document):
    """Dice of the atlas's lobes and drawn ones: the mean of all its people, each by an atlas of the others."""

    right_upper_lobe: Share = Field(description="Of the right upper lobe.")
    right_middle_lobe: Share = Field(description="Of the right middle lobe.")
    right_lower_lobe: Share = Field(description="Of the right lower lobe.")
    left_upper_lobe: Share = Field(description="Of the left upper lobe.")
    left_lower_lobe: Share = Field(description="Of the left lower lobe.")


class LobeCard(Document):
    """Where lobes come from, and how good they are: lobes.json beside the atlas."""

    name: Name
    task: Literal["lobes"]
    weights: Name = Field(description="The file of the atlas beside the card, NAME.npy.")
    sha256: Sha256 = Field(description="Of that file; checked before it is read.")
    licence: str = Field(min_length=1, max_length=999)
    source: str = Field(min_length=1, max_length=999, description="Whose lobes they are, in words.")
    people: int = Field(ge=3, le=9999)
    dice: LobeDice = Field(description="How well lobes of its own people are predicted by the others.")
    interval_held: Share = Field(
        description="Share of scores of its own people, each by the others, that lie in their intervals."
    )
    limits: str = ""
    format: Literal[1] = 1


def lobe_card(folder: Path) -> Path:
    """The card of a folder of weights; that of covct's own where the folder has none."""
    own = folder / CARD
    return own if os.path.lexists(own) else default_weights_folder() / CARD


def checked(path: Path) -> tuple[LobeCard, bytes]:
    """A card of lobes, and the file of the atlas beside it, which has the card's hash.

    Raises
    ------
    WeightsError
        One of them is missing or altered.
    """
    try:
        card = LobeCard.parse(_bounded(path, LARGEST_CARD), path.name, exact=True)
    except DamagedDocument as error:
        raise WeightsError(f"{path}: not a card of lobes: {error.told}") from error
    file = path.with_name(card.weights)
    content = _bounded(file, LARGEST_ATLAS)
    if (actual := hashlib.sha256(content).hexdigest()) != card.sha256:
        raise WeightsError(f"{file}: sha256 is {actual[:12]}…, the card says {card.sha256[:12]}…: altered atlas")
    return card, content


def read_lobes(path: Path) -> tuple[LobeCard, Atlas]:
    """A card of lobes and its atlas.

    Raises
    ------
    WeightsError
        As `checked`; or the file holds no atlas of so many people.
    """
    card, content = checked(path)
    try:
        return card, _decoded(content, card.people)
    except (ValueError, EOFError) as error:
        raise WeightsError(f"{path.with_name(card.weights)}: not an atlas of lobes: {error}") from error


@lru_cache(maxsize=1)
def _decoded(content: bytes, people: int) -> Atlas:
    """Once for all series of a run."""
    from covct.voxels.lobes import Atlas  # OpenCV: not to know whether a series is finished

    return Atlas.of_file(content, people)


def _bounded(path: Path, most: int) -> bytes:
    try:
        if not path.is_file():
            raise WeightsError(f"{path}: no such file; reinstall covct, or leave --lobes out")
        with open(path, "rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise WeightsError(f"{path}: it cannot be read ({error.strerror})") from error
    if len(content) > most:
        raise WeightsError(f"{path}: it has more than {most} bytes")
    return content
