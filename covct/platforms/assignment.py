"""What a platform asks for, in terms of the ordinary scan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from covct.results.entries import Entry

WORK = (
    ".covct-work"  # the output tree of the scan, below where results go: the same file system, and certainly writable
)


@dataclass(frozen=True)
class Results:
    """What the scan came to.

    Attributes
    ----------
    tree : Path
        Its output tree, which is removed once they are delivered.
    entries : list of Entry
        One a series.
    """

    tree: Path
    entries: list[Entry]

    @property
    def done(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.status == "done"]

    def files(self, entry: Entry) -> list[Path]:
        """The files of a result, without those of the ledger."""
        return [self.tree / entry.folder / name for name in entry.files]


@dataclass(frozen=True)
class Assignment:
    """One scan that a platform asks for.

    Attributes
    ----------
    source, out : Path
        What is read, and the folder that the platform takes results from.
    deliver : function (Results) -> None
        Puts them there. It may be called again over what an earlier call left.
    settings : mapping of str to (bool, int, float, str or list)
        Options of ``covct scan`` by their names, as the platform's users gave them; not yet checked.
    given_in : str
        Where the settings stand, for messages.
    own : tuple of str
        Names of settings that are the platform's own and no options of the scan.
    """

    source: Path
    out: Path
    deliver: Callable[[Results], None]
    settings: Mapping[str, Any] = field(default_factory=dict)
    given_in: str = ""
    own: tuple[str, ...] = ()

    @property
    def tree(self) -> Path:
        return self.out / WORK


@dataclass(frozen=True)
class Wishes:
    """What the command's own options say.

    Attributes
    ----------
    root : Path
        The folder that stands for ``/``.
    image, lungs, infection : str
        Of Grand-challenge: the paths of its sockets below ``/input`` and ``/output``.
    """

    root: Path = Path("/")
    image: str = "images/ct"
    lungs: str = "images/lung-segmentation"
    infection: str = "images/covid-19-lesion-segmentation"

    def path(self, text: str) -> Path:
        """An absolute path of the platform's, below the root."""
        return self.root / text.lstrip("/")


@dataclass(frozen=True)
class Platform:
    """A platform's contract.

    Attributes
    ----------
    title : str
        As it calls itself.
    sign : str
        By what it is recognised, for messages.
    recognise : function (environment, Wishes) -> bool
        Whether it started this process.
    assignments : function (environment, Wishes) -> iterable of Assignment
        What it asks for; UsageError where it does not keep its own contract.
    """

    title: str
    sign: str
    recognise: Callable[[Mapping[str, str], Wishes], bool]
    assignments: Callable[[Mapping[str, str], Wishes], Iterable[Assignment]]
