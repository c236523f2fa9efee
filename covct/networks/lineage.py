"""What a weight card says of whom its network has learned from, and the networks that it started from."""

from __future__ import annotations

from pydantic import Field

from covct.disk.documents import Document

Names = dict[str, list[str]]  # by source


class Lineage(Document):
    """Of one network. None where its card does not say: cards of earlier versions say less."""

    task: str | None = None
    sha256: str | None = Field(None, description="Of the weights file; of ancestors.")
    epochs: int | None = None
    held_out_patients: Names | None = Field(None, description="By source, whom the network has not learned from.")
    learned_patients: Names | None = Field(None, description="By source, hashes of whom it has learned from.")
    ancestors: list[Lineage] | None = Field(None, description="The network that it started from, and that one's own.")
    initial: Lineage | None = Field(None, description="The network that it started from, by its hash.")
