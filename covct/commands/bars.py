"""How far a command is: a bar on a terminal, elsewhere a line for what begins and one now and then."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from covct.commands.console import plain, stderr

QUIET_S = 30.0  # between two lines where there is no terminal to draw on


@dataclass
class Bar:
    """What is being done, and how much of it is done."""

    bar: Progress | None  # None where there is no terminal
    line: TaskID
    quiet: bool = False
    what: str = ""
    last_s: float = field(default_factory=time.monotonic)

    def say(self, what: str) -> None:
        """Something else begins, unless it is the same; how much of it there is, is not known yet."""
        if what == self.what:
            return
        self.what = what
        if self.bar:
            self.bar.update(self.line, description=what, total=None, completed=0, told="")
        elif not self.quiet:
            stderr.print(plain(what), highlight=False, soft_wrap=True)

    def at(self, done: int, total: int | None, told: str = "") -> None:
        """So much of it is done."""
        if self.bar:
            self.bar.update(self.line, completed=done, total=total, told=told)
        elif not self.quiet and time.monotonic() - self.last_s >= QUIET_S:
            self.last_s = time.monotonic()
            of = f"{done}" if total is None else f"{done} of {total}"
            stderr.print(plain(f"{self.what}: {of}{f', {told}' if told else ''}"), highlight=False, soft_wrap=True)

    def print(self, line: str) -> None:
        """A line with markup that stays."""
        (self.bar.console if self.bar else stderr).print(line, highlight=False, soft_wrap=True)


@contextmanager
def progress(what: str, quiet: bool = False, time_left: bool = True) -> Iterator[Bar]:
    """A bar on standard error.

    Parameters
    ----------
    quiet : bool
        Nothing at all, since a program reads what is told.
    time_left : bool
        Show the time left; False where what is told has it.
    """
    if quiet or not stderr.is_terminal:
        bar = Bar(None, TaskID(0), quiet)
        bar.say(what)
        yield bar
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        *([TimeRemainingColumn()] if time_left else []),
        TextColumn("{task.fields[told]}", markup=False),
    )
    # Results go to standard output, which may be a file: they are not the bar's.
    with Progress(*columns, console=stderr, transient=True, redirect_stdout=False) as drawn:
        bar = Bar(drawn, drawn.add_task(what, total=None, told=""), quiet, what)
        yield bar
