"""One study's trouble is its own: a step that breaks at a study is told of, and the others go on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from covct.disk.sources import Problem
from covct.errors import RunError, logged, whereabouts
from covct.outputs import Emit

UNEXPECTED = "unexpected-error"


@dataclass
class Troubles:
    """The studies of a run at which a step broke unexpectedly, where that is no outcome of a series.

    Attributes
    ----------
    emit : function (dict) -> None
        Told of each trouble once, as a problem of the study by its folder.
    studies : set of str
        Their folders: not finished, not to be moved away. Watch takes out whose turn has come again.
    met : set of str
        All that were ever among them.
    files : set of str
        Labels of files (or of folders, where no study could be made of them) at which reading broke unexpectedly.
    """

    emit: Emit
    studies: set[str] = field(default_factory=set)
    met: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)
    _told: set[tuple[str, str]] = field(default_factory=set)

    @property
    def count(self) -> int:
        return len(self.met | self.files)

    def tell_all(self, problems: Iterable[Problem]) -> None:
        """Tell of what was met in the sources."""
        for one in problems:
            self.files |= {one.label} if one.slug == UNEXPECTED else set()
            self.emit({"event": "problem", "file": one.label, "slug": one.slug, "message": one.message})

    @contextmanager
    def of(self, study: str, step: str) -> Iterator[None]:
        """Within, an error is this study's trouble; an OSError is our own disk, which stops the run.

        Parameters
        ----------
        step : str
            What was done, as it follows "while".
        """
        try:
            yield
        except (RunError, OSError):
            raise
        except Exception as error:
            if self.tell(study, f"{whereabouts(error)} while {step}"):
                logged(error)

    def note(self, studies: set[str]) -> None:
        self.studies |= studies
        self.met |= studies

    def tell(self, study: str, message: str, slug: str = UNEXPECTED) -> bool:
        """Note a trouble, and tell of it unless it is one told before: watch meets it again at every look."""
        self.note({study})
        if (study, message) in self._told:
            return False
        self._told.add((study, message))
        self.emit({"event": "problem", "file": study, "slug": slug, "message": message})
        return True
