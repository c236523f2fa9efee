"""What people see on a terminal: the two consoles, and texts from outside made safe to print there."""

from __future__ import annotations

import logging
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from covct.visible import utc, visible

if TYPE_CHECKING:
    from rich.logging import RichHandler

# Without emoji: the file name ":bomb:.dcm" is a name and no picture.
stdout, stderr = Console(emoji=False), Console(stderr=True, emoji=False)


def plain(text: Any) -> str:
    """A text from outside (a name, a header's value, an error) for printing among rich's markup."""
    return escape(visible(str(text)))


def stamp() -> str:
    """The time in front of a line of the night's log, with markup: on a terminal that of the clock on the wall."""
    return f"[dim]{datetime.now():%H:%M:%S}[/]  " if stderr.is_terminal else f"{utc()}  "


def log_time(moment: datetime) -> Text:
    """The same for what is logged."""
    return Text(f"{moment:%H:%M:%S}" if stderr.is_terminal else utc(moment))


class Log(logging.Handler):
    """What is logged, on standard error as rich shows it; that part of rich is imported with the first record."""

    @cached_property
    def _shown(self) -> RichHandler:
        from rich.logging import RichHandler

        return RichHandler(console=stderr, show_path=False, log_time_format=log_time, omit_repeated_times=False)

    def emit(self, record: logging.LogRecord) -> None:
        self._shown.emit(record)
