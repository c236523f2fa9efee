"""The line at the bottom of a terminal that says what a run is at."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TimeElapsedColumn
from rich.text import Text

from covct.commands.console import stderr
from covct.unattended.live import Live
from covct.visible import span


class _Said(ProgressColumn):
    """Words that change with time, and not only with an event."""

    def __init__(self, say: Callable[[], str], style: str = ""):
        self._say, self._style = say, style
        super().__init__()

    def render(self, task: Task) -> Text:
        return Text(self._say(), style=self._style, no_wrap=True, overflow="ellipsis")


class RunBar:
    """A bar of a run; `shorten` makes a series' name fit."""

    def __init__(self, shorten: Callable[[str], str], *, shown: bool):
        self._live, self._shorten = Live(), shorten
        self.progress = Progress(
            _Said(lambda: self._live.at(time.monotonic()), "progress.description"),
            BarColumn(20),
            _Said(self._count),
            TimeElapsedColumn(),
            _Said(self._left),
            console=stderr,
            disable=not shown,
            refresh_per_second=4,
            transient=True,  # the last line that stays names the page
            redirect_stdout=False,  # rich would print it on standard error: JSON goes where it is asked for
        )
        self._task = self.progress.add_task("", total=None)

    def hear(self, event: dict[str, Any]) -> None:
        """An event, of whatever kind."""
        if "series" in event:
            event = {**event, "series": self._shorten(str(event["series"]))}
        self._live.hear(event, time.monotonic())
        share = self._live.share
        if share is not None:
            self.progress.update(self._task, total=1.0, completed=share)
        elif event["event"] in ("found", "finished") or "rest_s" in event:
            self.progress.update(self._task, total=1.0 if "rest_s" in event else None, completed=0.0)

    def _count(self) -> str:
        return f"{self._live.finished}/{self._live.to_do} series" if self._live.to_do else ""

    def _left(self) -> str:
        left = self._live.left_s(time.monotonic())
        return "" if left is None else f"about {span(left)} left"
