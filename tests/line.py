"""The whole line over a folder of files, as a night runs it: from files to files, with networks that are thresholds."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from conftest import make_networks, make_weights, read_json
from pydicom.uid import generate_uid

from covct.disk import state
from covct.networks.network import Networks
from covct.outputs import Outputs
from covct.unattended import batch


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
        outcome = state.read_outcome(self.out / rejected["folder"])
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
    **wishes: Any,
) -> Night:
    """One pass. Without `out` the result goes to a new folder beside the first source."""
    beside = sources[0].parent
    out = out or Path(tempfile.mkdtemp(dir=beside, prefix="out-"))
    weights = beside / "threshold-weights"
    if not weights.is_dir():
        make_weights(weights)
    events: list[dict[str, Any]] = []
    order = batch.Order(sources, out, weights, Outputs(formats), **wishes)
    tally = batch.scan(order, lambda: networks or make_networks(), events.append)
    return Night(out, events, tally)


def each_slice(folder: Path) -> Iterator[pydicom.Dataset]:
    """Every file's data set in order of its name, saved again when the loop comes round to the next."""
    for path in sorted(folder.iterdir()):
        dataset = pydicom.dcmread(path)
        yield dataset
        with pydicom.config.disable_value_validation():
            dataset.save_as(path)


def named(dataset: pydicom.Dataset, *identity: Any) -> pydicom.Dataset:
    """Give a data set an instance UID of its own."""
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[dataset.SOPInstanceUID, *map(str, identity)])
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def anew(folder: Path, series_uid: str | None = None) -> Path:
    """Make every slice of a folder an instance of its own, of another series if one is given."""
    for dataset in each_slice(folder):
        named(dataset, folder.name)
        if series_uid:
            dataset.SeriesInstanceUID = series_uid
    return folder


def put_hu(dataset: pydicom.Dataset, hu: np.ndarray) -> None:
    """Replace a slice's pixels, stored without sign and with an intercept of -1024."""
    dataset.Rows, dataset.Columns = hu.shape
    dataset.PixelData = np.clip(np.rint(hu) + 1024, 0, 65535).astype("<u2").tobytes()


def hu_of(dataset: pydicom.Dataset) -> np.ndarray:
    return dataset.pixel_array.astype(int) - 1024
