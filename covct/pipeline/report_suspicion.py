"""The part of a report that says how much a scan looks like pictures of COVID-19. It is not a diagnosis."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from covct.disk.documents import Document, Sha256, Share
from covct.pipeline.report_figures import Text

Worth = Annotated[float, Field(ge=0, le=1)]


class Suspicion(Document):
    """How much the scan looks like pictures of COVID-19 rather than of other diseases. Not a diagnosis."""

    notice: Literal["Not a diagnosis. Research use only."] = Field(description="What it may not be taken for.")
    covid: Share = Field(
        description="Calibrated probability of the class covid for the mean of the slices with lung. Not a diagnosis."
    )
    interval: tuple[Share, Share] = Field(description="What heads that were fitted to other draws of the sources say.")
    level: Share = Field(description="Share of these heads that the interval spans.")
    auc: Worth = Field(description="Of pictures of source groups held out: 0.5 is chance, 1 is all.")
    auc_borders: Worth = Field(description="The same of the pictures' borders alone, which show no disease.")
    sha256: Sha256 = Field(description="sha256 of diagnosis.json.")
    limits: Text = Field(description="What it is known to be misled by.")
