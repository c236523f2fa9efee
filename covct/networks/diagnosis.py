"""How much a scan's features look like those of pictures of COVID-19: a linear head on the infection network's encoder.

It is not a diagnosis. Published pictures of the two classes come from different papers, and whatever tells the papers
apart (windows, borders, letters) tells the classes too: see `covct.training.diagnosis`, and docs/diagnosis.md.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from covct.disk.documents import DamagedDocument, Document, Sha256, Share
from covct.errors import WeightsError
from covct.networks.cards import LARGEST_CARD, Card, file_sha256
from covct.networks.features import MOST_FEATURES

NAME = "diagnosis"
FILE = f"{NAME}.json"
NOTICE: Literal["Not a diagnosis. Research use only."] = "Not a diagnosis. Research use only."
WORTH = ("auc_whole", "auc_borders")  # scores that are told with every figure
Numbers = Annotated[list[float], Field(min_length=1, max_length=MOST_FEATURES)]


class Head(Document):
    """One logistic regression on standardised features."""

    coefficients: Numbers
    intercept: float


class DiagnosisCard(Document):
    """The heads on the encoder of one infection network, how they are calibrated, and what they are worth."""

    notice: Literal["Not a diagnosis. Research use only."] = NOTICE
    encoder_sha256: Sha256 = Field(description="Of the infection network's weights; with others it is refused.")
    mean: Numbers = Field(description="Of each feature, in training.")
    scale: Numbers = Field(description="Standard deviation of each feature, in training.")
    heads: list[Head] = Field(
        min_length=1, max_length=200, description="The first of all source groups, the others of groups drawn anew."
    )
    slope: float = Field(description="Of the calibration (Platt 1999): probability is sigmoid(slope * logit + offset).")
    offset: float
    level: Share = Field(description="Share of the heads whose probabilities an interval spans.")
    scores: dict[str, float] = Field(description="On source groups held out, and of what is no disease at all.")
    training: dict[str, int | str] = Field(description="Pictures and source groups by class, and where from.")
    licence: str
    limits: str
    format: Literal[1] = 1


@dataclass(frozen=True)
class Diagnosis:
    """The card as arrays, and the hash of its file."""

    card: DiagnosisCard
    sha256: str

    def of(self, features: np.ndarray) -> tuple[float, tuple[float, float]]:
        """Probability of the class covid for the mean of some slices' features, and its interval.

        features (slices, features)
        """
        card = self.card
        seen = (np.asarray(features, np.float64).mean(0) - card.mean) / card.scale
        logits = np.array([seen @ head.coefficients + head.intercept for head in card.heads])
        told = 1 / (1 + np.exp(-np.clip(card.slope * logits + card.offset, -30, 30)))
        low, high = np.quantile(told, [(1 - card.level) / 2, (1 + card.level) / 2])
        return float(told[0]), (float(min(low, told[0])), float(max(high, told[0])))


def read_diagnosis(folder: Path, infection: Card) -> Diagnosis | None:
    """The heads that lie in a weights folder; None where there are none.

    Raises
    ------
    WeightsError
        They cannot be read, or were fitted to another infection network.
    """
    path = folder / FILE
    if not os.path.lexists(path):
        return None
    try:
        if path.stat().st_size > LARGEST_CARD:
            raise WeightsError(f"{path}: it has more than {LARGEST_CARD} bytes")
        card = DiagnosisCard.read(path, exact=True)
    except OSError as error:
        raise WeightsError(f"{path}: it cannot be read ({error.strerror})") from error
    except DamagedDocument as error:
        raise WeightsError(f"{path}: not what covct train diagnosis writes: {error.told}") from error
    if card.encoder_sha256 != infection.sha256:
        raise WeightsError(
            f"{path}: fitted to another infection network ({card.encoder_sha256[:12]}…) than {infection.weights} "
            f"({infection.sha256[:12]}…); covct train diagnosis --initial infection.json fits it anew"
        )
    width = len(card.mean)
    if len(card.scale) != width or any(len(head.coefficients) != width for head in card.heads) or min(card.scale) <= 0:
        raise WeightsError(f"{path}: its mean, scale and coefficients do not fit each other")
    if not all(0 <= card.scores.get(name, -1) <= 1 for name in WORTH):
        raise WeightsError(f"{path}: it does not say what it is worth; wanted {' and '.join(WORTH)} of 0 to 1")
    return Diagnosis(card, file_sha256(path))
