"""The sources of a data folder as slices, each read once, however many folds and networks learn from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from covct.data.layouts import published_source
from covct.data.model_space import Restore
from covct.data.published import (
    find_sources,
    read_equalised_ma_slices,
    read_lung_slices,
    read_ma_slices,
    read_medseg_slices,
    read_other_slices,
)
from covct.data.slices import Slices
from covct.errors import UsageError
from covct.networks.cards import RESTORER, default_weights_folder
from covct.training.samples.restoration import load_restorer

Read = TypeVar("Read")


@dataclass(frozen=True)
class Reading:
    """Where the sources lie, how 8-bit CLAHE slices come to HU, and what has been read of them.

    Attributes
    ----------
    sources : dict of str to Path
        As of `find_sources`.
    restore : function (slices, 256, 256) uint8 -> HU, or None
    shipped : Path or None
        Card of a restorer for where `restore` is None and slices cannot be read without one. Slices of Ma et al. can,
        where they are there in HU too.
    """

    sources: dict[str, Path]
    restore: Restore | None = None
    restorer: Path | None = None
    shipped: Path | None = None
    _kept: dict[object, Any] = field(default_factory=dict, repr=False)

    @property
    def only_hu(self) -> bool:
        """Whether the slices of Ma et al. are there in HU, and those on 8 bit are not brought there."""
        return self.restore is None and (
            "ma-hu" in self.sources or ("ma" in self.sources and published_source(self.sources["ma"]) == "ma-hu")
        )

    @property
    def restored_by(self) -> Path | None:
        """The card of the restorer that slices went through, or will go through."""
        return self.restorer or (self.shipped if "shipped" in self._kept else None)

    def _by_shipped(self, pixels: np.ndarray) -> np.ndarray:
        assert self.shipped is not None
        if "shipped" not in self._kept:
            self._kept["shipped"] = load_restorer(self.shipped)
        restored: np.ndarray = self._kept["shipped"](pixels)
        return restored

    def parts(self, wanted: tuple[str, ...], with_classes: bool = False) -> list[Slices]:
        """The wanted sources, where there are any; UsageError where there are none, or a restorer is missing."""
        restore = self.restore or (self._by_shipped if self.shipped else None)
        in_hu = self.sources.get("ma-hu")
        readers: dict[str, Callable[[Path], Slices]] = {
            "ma": lambda folder: read_ma_slices(folder, self.restore if in_hu else restore, in_hu=in_hu),
            "lungs": read_lung_slices,
            "medseg": lambda folder: read_medseg_slices(folder, with_classes, self.sources.get("medseg-full")),
            "cases": lambda folder: read_other_slices(folder, self.sources, restore),
        }
        found = [name for name in readers if name in wanted and name in self.sources]
        if not found:
            raise UsageError(f"none of the sources {wanted} was found")
        return [self._once((name, with_classes and name == "medseg"), name, readers[name]) for name in found]

    def other_looks(self) -> list[Slices]:
        """Ma slices in the look of CLAHE, and LCTSC as if it had been restored: "ma-equalised", "lctsc-restored".

        None where nothing is restored since the slices are there in HU: scans never look so.
        """
        looks: list[Slices] = []
        if self.only_hu:
            return looks
        if "ma" in self.sources and (equalised := self._once("ma-equalised", "ma", read_equalised_ma_slices)):
            looks.append(equalised)
        restore = self.restore or (self._by_shipped if self.restored_by else None)
        if restore and "lungs" in self.sources:
            looks.append(self._once("lctsc-restored", "lungs", lambda folder: read_lung_slices(folder, restore)))
        return looks

    def _once(self, key: object, source: str, read: Callable[[Path], Read]) -> Read:
        if key not in self._kept:
            self._kept[key] = read(self.sources[source])
        kept: Read = self._kept[key]
        return kept


class Readings:
    """The last reading, for the next network that learns from the same data by the same restorer."""

    def __init__(self) -> None:
        self._last: Reading | None = None

    def of(self, data: Path, restorer: Path | None) -> Reading:
        """What lies under a folder, without a restorer by the shipped one where the slices cannot do without.

        Raises UsageError where there is nothing to learn from.
        """
        sources, shipped = find_sources(data), default_weights_folder() / RESTORER
        if self._last is None or (self._last.sources, self._last.restorer) != (sources, restorer):
            restore = load_restorer(restorer) if restorer else None
            self._last = Reading(sources, restore, restorer, shipped if shipped.is_file() else None)
        return self._last
