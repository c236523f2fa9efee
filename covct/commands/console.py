"""What people see on a terminal: the two consoles, and texts from outside made safe to print there."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape

from covct.visible import visible

# Without emoji: the file name ":bomb:.dcm" is a name and no picture.
stdout, stderr = Console(emoji=False), Console(stderr=True, emoji=False)


def plain(text: Any) -> str:
    """A text from outside (a name, a header's value, an error) for printing among rich's markup."""
    return escape(visible(str(text)))
