"""What the viewer answers: pages of the series, and to its own pages what became of a correction or of a truth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from threading import Lock
from typing import Any

from covct.data.cases import TASKS
from covct.data.pictures import ANTERIOR
from covct.errors import OutputNotWritable, UsageError
from covct.viewer.opened import Opened, open_study
from covct.viewer.pages import list_page, result_page, scan_page
from covct.viewer.saved import check_reader, places, save
from covct.viewer.studies import Study
from covct.viewer.truth import read_truth
from covct.voxels.labels import Labels

HTML, JSON = "text/html; charset=utf-8", "application/json"
# What of a page is left of a result is read from the tree: its script may draw, and ask for nothing.
SANDBOXED = (
    "sandbox allow-scripts allow-top-navigation-by-user-activation; default-src 'none'; img-src data: blob:; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
ONLY_OURS = "frame-ancestors 'none'; base-uri 'none'; form-action 'none'; object-src 'none'"


@dataclass(frozen=True)
class Answer:
    """To one request."""

    body: bytes
    kind: str = HTML
    status: int = HTTPStatus.OK
    policy: str = ONLY_OURS


def told(status: int = HTTPStatus.OK, **values: Any) -> Answer:
    """An answer to a script."""
    return Answer(json.dumps(values, allow_nan=False).encode(), JSON, status)


NOT_FOUND = told(HTTPStatus.NOT_FOUND, message="There is no such page.")


@dataclass
class Viewer:
    """What is looked at, and what is kept of it in memory: one series.

    Attributes
    ----------
    studies : list of Study
    save_to : Path
        Where corrections go.
    reader : str
        Who corrects, as the page proposes it.
    with_scan : bool
        As `saved.save` has it.
    anterior : str
        Where the front of the patient is in pictures, one of `pictures.ANTERIOR`.
    """

    studies: list[Study]
    save_to: Path
    reader: str = ""
    with_scan: bool = False
    anterior: str = ANTERIOR[0]
    _opened: tuple[int, Opened] | None = None
    _corrected: dict[int, Labels] = field(default_factory=dict)  # by series, as last saved
    _written: dict[Path, int] = field(default_factory=dict)  # files, with the series that each holds
    _one_at_a_time: Lock = field(default_factory=Lock)

    def get(self, path: str) -> Answer:
        """The page of an address."""
        if path == "/":
            return Answer(list_page(self.studies).encode())
        number, rest = self._series(path)
        if number is None or rest:
            return NOT_FOUND
        with self._one_at_a_time:
            try:
                return Answer(scan_page(self._open(number), self.reader).encode())
            except UsageError as error:
                sentence = f"This is the result alone: {error}. Nothing can be corrected or compared here."
                return Answer(result_page(self.studies[number], sentence), policy=SANDBOXED)

    def post(self, path: str, query: Mapping[str, str], body: bytes) -> Answer:
        """What becomes of a correction (``/marks``) or a truth (``/truth``) of a series."""
        number, rest = self._series(path)
        does = {"marks": self._correct, "truth": self._compare}.get(rest)
        if number is None or does is None:
            return NOT_FOUND
        with self._one_at_a_time:
            try:
                return does(number, query, body)
            except (UsageError, OutputNotWritable) as error:
                return told(HTTPStatus.BAD_REQUEST, message=f"Not done: {error}.")

    def _series(self, path: str) -> tuple[int | None, str]:
        """Number and what follows it, of ``/series/NUMBER/...``; None of what is not there."""
        first, _, rest = path.removeprefix("/series/").partition("/")
        there = path.startswith("/series/") and first.isdecimal() and len(first) < 9 and int(first) < len(self.studies)
        return (int(first), rest) if there and self.studies[int(first)].done else (None, rest)

    def _open(self, number: int) -> Opened:
        if self._opened is None or self._opened[0] != number:
            self._opened = None  # its memory first
            opened = open_study(self.studies[number])
            for index, marks in enumerate(self._corrected.get(number, ())):
                opened.labels[index] = marks
            self._opened = number, opened
        return self._opened[1]

    def _correct(self, number: int, query: Mapping[str, str], body: bytes) -> Answer:
        opened = self._open(number)
        try:
            sent = json.loads(body)
            reader, slices = str(sent["reader"]), sent["slices"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UsageError("what was sent is no correction") from error
        check_reader(reader)
        self._check_loaded(number, opened)
        before = opened.correct(slices)
        try:
            paths = save(opened, self.save_to, reader, self.with_scan)
        except BaseException:  # what was not saved is not said to be
            opened.put_back(before)
            raise
        self._corrected[number] = opened.labels
        self._written |= dict.fromkeys(paths, number)
        names = " and ".join(path.name for path in paths)
        last = next(reversed(opened.truths), "")  # brought last
        compared = opened.compared(last) if last else None
        return told(message=f"Saved: {names} in {self.save_to}.", compared=compared)

    def _check_loaded(self, number: int, opened: Opened) -> None:
        """Refuse to write over corrections that nobody has loaded here: they would be lost."""
        for path in places(opened, self.save_to):
            if path.exists() and self._written.get(path) != number:
                raise UsageError(
                    f"{path.name} is there already, from an earlier session or of another scan of that name, and is "
                    "not loaded here; wanted another --save-to"
                )

    def _compare(self, number: int, query: Mapping[str, str], body: bytes) -> Answer:
        opened = self._open(number)
        task = query.get("task", "")
        if task not in TASKS:
            raise UsageError(f"no such task; wanted {' or '.join(TASKS)}")
        name, labels = query.get("name", ""), query.get("labels", "")
        truth = read_truth(body, name, task, labels, opened.scan, self.anterior)
        opened.truths.pop(task, None)
        opened.truths[task] = truth
        return told(**opened.compared(task), runs=opened.truth_runs(task))
