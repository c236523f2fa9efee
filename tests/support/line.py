"""The whole line over a folder of files, as a night runs it: from files to files, with networks that are thresholds."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from covct.disk.outcome import read_outcome
from covct.networks.network import Networks
from covct.outputs import Emit, Event, Outputs
from covct.unattended import batch
from support.running import read_json
from support.thresholds import make_networks, make_weights


@dataclass(frozen=True)
class Night:
    """What a pass said, and the output tree that it left."""

    out: Path
    events: list[dict[str, Any]]
    tally: batch.PassResult

    def said(self, event: str) -> list[dict[str, Any]]:
        return [one for one in self.events if one["event"] == event]

    @property
    def result(self) -> Path:
        """The folder of the one result; nothing failed."""
        assert not self.said("failed"), self.events
        [done] = self.said("done")
        return self.out / done["folder"]

    @property
    def report(self) -> dict[str, Any]:
        return read_json(self.result / "report.json")

    @property
    def warned(self) -> set[str]:
        return {warning["slug"] for warning in self.report["warnings"]}

    @property
    def left_out(self) -> dict[str, str]:
        """Series Instance UIDs that were not chosen, with their slugs."""
        return {entry["series_instance_uid"]: entry["slug"] for entry in self.report["selection"]["left_out"]}

    @property
    def rejection(self) -> tuple[str, str]:
        """Slug and message of the one rejected series; nothing done, nothing failed, and the ledger agrees."""
        assert not self.said("failed") and not self.said("done"), self.events
        [rejected] = self.said("rejected")
        outcome = read_outcome(self.out / rejected["folder"])
        assert outcome and (outcome.status, outcome.slug) == ("rejected", rejected["slug"])
        assert list(outcome.files) == [], "a rejected series leaves no figures and no masks"
        return rejected["slug"], rejected["message"]

    @property
    def file(self) -> str:
        """The file that the one rejected series is rejected for."""
        [rejected] = self.said("rejected")
        return rejected["file"]


def night(
    *sources: Path,
    out: Path | None = None,
    formats: tuple[str, ...] = (),
    networks: Networks | None = None,
    told: Emit = lambda event: None,
    **wishes: Any,
) -> Night:
    """One pass. Without `out` the result goes to a new folder beside the first source. `told` hears each event too."""
    beside = sources[0].parent
    out = out or Path(tempfile.mkdtemp(dir=beside, prefix="out-"))
    weights = beside / "threshold-weights"
    if not weights.is_dir():
        make_weights(weights)
    events: list[dict[str, Any]] = []
    order = batch.Order(sources, out, weights, Outputs(formats), **wishes)

    def heard(event: Event) -> None:
        events.append(event)
        told(event)

    tally = batch.scan(order, lambda: networks or make_networks(), heard)
    return Night(out, events, tally)


def segment(source, out, weights, networks, formats=("seg", "nifti"), seg_type="binary") -> Path:
    """The folder of the one result of a source."""
    order = batch.Order((source,), out, weights, outputs=Outputs(formats, seg_type))
    events: list[dict[str, Any]] = []
    tally = batch.scan(order, lambda: networks, events.append)
    assert tally["done"] == 1, events
    [report] = out.glob("*/*/report.json")
    return report.parent


def segmented_tree(sources, out, force=False, formats=("seg", "nifti", "png"), **outputs) -> Path:
    """The output tree of sources with a result each."""
    weights = out.parent / "weights"
    if not weights.is_dir():
        make_weights(weights)
    order = batch.Order(tuple(sources), out, weights, outputs=Outputs(formats, **outputs), force=force)
    tally = batch.scan(order, make_networks, lambda event: None)
    assert tally["done"] == len(sources)
    return out
