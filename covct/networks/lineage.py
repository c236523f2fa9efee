"""What a weight card says of whom its network has learned from, and the networks that it started from."""

from __future__ import annotations

from pydantic import Field

from covct.disk.documents import Document

Names = dict[str, list[str]]  # by source


class Lineage(Document):
    """Of one network. None where its card does not say: cards of earlier versions say less."""

    task: str | None = None
    sha256: str | None = Field(None, description="Of an ancestor's weights file.")
    epochs: int | None = None
    held_out_patients: Names | None = Field(None, description="By source, the patients held out of training.")
    learned_patients: Names | None = Field(None, description="By source, hashes of the patients it was trained on.")
    ancestors: list[Lineage] | None = Field(None, description="The network it started from, and its ancestors.")
    initial: Lineage | None = Field(None, description="The network it started from, by its hash.")
