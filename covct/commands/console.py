"""What people see on a terminal: the two consoles, and texts from outside made safe to print there."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from covct.visible import utc, visible

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
