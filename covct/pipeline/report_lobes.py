"""What a report says by lobe, as typed objects."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from covct.disk.documents import Document, Sha256, Share
from covct.networks.lobe_card import LobeDice
from covct.pipeline.report_figures import Interval, Least, Text
from covct.terms import LOBES

Score = Annotated[int, Field(ge=0, le=5)]
Sum = Annotated[int, Field(ge=0, le=25)]
Percent = Annotated[float, Field(ge=0, le=100)]


def _ordered(ends: tuple[int, int]) -> tuple[int, int]:
    if ends[0] > ends[1]:
        raise ValueError("wanted the lower end first")
    return ends


class Lobe(Document):
    """Approximate figures of one lobe."""

    volume_ml: Least | None = Field(
        description="Volume of the lobe, opacity included, mL. Null where valid_for.volume is false."
    )
    infection_ml: Least | None = Field(
        description="Volume of opacity in the lobe, mL. Null where valid_for.volume is false."
    )
    infection_percent: Percent | None = Field(
        description="Share of opacity in the lobe's volume, percent. Null for a lobe of no voxel, where its lung is "
        "withheld (see withheld), or where valid_for.percent is false."
    )
    infection_percent_interval: Interval | None = Field(
        description="From and to of infection_percent, percent: by the courses of fissures that the atlas's own errors "
        "make. Null where there is no figure."
    )
    score: Score | None = Field(
        description="0: no opacity; 1: below 5 %; 2: 5 to 25 %; 3: above 25 to 50 %; 4: above 50 to 75 %; 5: above "
        "75 %. Null where there is no share."
    )
    score_interval: Annotated[tuple[Score, Score], AfterValidator(_ordered)] | None = Field(
        description="From and to of score, likewise. Null where there is no score."
    )


class LobeFigures(Document):
    """Figures by lobe; left and right are the patient's."""

    right_upper_lobe: Lobe = Field(description="Right upper lobe.")
    right_middle_lobe: Lobe = Field(description="Right middle lobe.")
    right_lower_lobe: Lobe = Field(description="Right lower lobe.")
    left_upper_lobe: Lobe = Field(description="Left upper lobe, with the lingula.")
    left_lower_lobe: Lobe = Field(description="Left lower lobe.")

    def items(self) -> list[tuple[str, Lobe]]:
        """The lobes with their names."""
        return [(lobe.name, getattr(self, lobe.name)) for lobe in LOBES]


class AtlasUsed(Document):
    """The atlas that the lobes come from, as its card describes it."""

    name: Text = Field(description="Name of the atlas.")
    sha256: Sha256 = Field(description="sha256 of its file.")
    licence: Text = Field(description="Its licence.")
    source: Text = Field(description="Whose lobes it holds.")
    people: int = Field(ge=1, description="How many people's.")
    dice: LobeDice = Field(description="How well lobes of its own people are predicted by the others.")
    interval_held: Share = Field(
        description="Share of scores of its own people, each by the others, that lie in their intervals."
    )
    limits: str = Field(description="What it is known to do badly.")


class Lobes(Document):
    """Approximate figures by lobe, and the CT severity score that they make."""

    scale: Text = Field(description="Name of the score.")
    by_lobe: LobeFigures = Field(description="Figures by lobe.")
    score: Sum | None = Field(
        description="Sum of the lobes' scores, 0 to 25. Null where one of them is null, or where valid_for.percent is "
        "false."
    )
    score_interval: Annotated[tuple[Sum, Sum], AfterValidator(_ordered)] | None = Field(
        description="From and to of score, by the atlas's own errors. What the infection network may have called too "
        "much or too little is not in it. Null where there is no score."
    )
    level: float = Field(gt=0, lt=1, description="What share of the atlas's people the intervals hold.")
    withheld: list[Text] = Field(description="Why figures of a lung's lobes are withheld.")
    atlas: AtlasUsed = Field(description="Where the lobes come from.")


# Beside the regions' figures: what `valid_for` withholds, "*" for every item.
WITHHELD = {
    "volume": (("lobes", "by_lobe", "*", "volume_ml"), ("lobes", "by_lobe", "*", "infection_ml")),
    "percent": (
        ("lobes", "by_lobe", "*", "infection_percent"),
        ("lobes", "by_lobe", "*", "infection_percent_interval"),
        ("lobes", "by_lobe", "*", "score"),
        ("lobes", "by_lobe", "*", "score_interval"),
        ("lobes", "score"),
        ("lobes", "score_interval"),
    ),
    "hu_bands": (),
}
