"""What is shown to people: text that others wrote, made safe (a terminal obeys none of it, and it stays on its line),
and shares with no more digits than they hold.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

# C1 controls, line and paragraph separators, marks that turn the direction of reading: json.dumps leaves them be.
OBEYED = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def visible(text: str) -> str:
    r"""The text on one line, with each character that does not print as its escape, such as ``\x1b`` or ``\n``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def json_line(value: Any) -> str:
    """A value as JSON on one line, readable in any language, without characters that a terminal obeys.

    Lone surrogates (bytes of a file name that are no UTF-8) are escaped too: no stream takes them.
    """
    text = json.dumps(value, ensure_ascii=False, default=str)
    text = OBEYED.sub(lambda one: f"\\u{ord(one[0]):04x}", text)
    return re.sub("[\ud800-\udfff]", lambda one: f"\\u{ord(one[0]):04x}", text)


def decimals(interval: Sequence[float] | None) -> int:
    """How many decimals a figure, and each end of its interval, is worth: none where the interval is 10 wide."""
    return 0 if interval is not None and interval[1] - interval[0] >= 10 else 1


def share(percent: float | None, interval: Sequence[float] | None = None) -> str:
    """A share in percent as it is shown: what is there, but rounds to nothing, is not 0."""
    if percent is None:
        return "-"
    digits = decimals(interval)
    least: float = 10.0**-digits
    return f"< {least:g} %" if 0 < percent < least / 2 else f"{percent:.{digits}f} %"


def from_to(interval: Sequence[float], between: str = "–") -> str:
    """The interval of a share in percent, with the decimals that the share has."""
    return between.join(f"{end:.{decimals(interval)}f}" for end in interval)


def utc(moment: datetime | None = None) -> str:
    """A moment, now by default, as a log has it: 2026-01-31T22:00:00Z."""
    return (moment or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def cell(value: str | float | None) -> str | float | None:
    """A value as a spreadsheet may open it: text that would be run as a formula gets an apostrophe in front.

    After a semicolon too, where spreadsheets of half of Europe begin a new cell.
    """
    if isinstance(value, str):
        return re.sub(r"(^|;)(\s*)(?=[=+\-@\uff1d\uff0b\uff0d\uff20])", r"\1\2'", value)
    return round(value, 3) if isinstance(value, float) else value


def days(count: int) -> str:
    """A number of days in words."""
    return f"{count} day{'s' * (count != 1)}"


def span(seconds: float | None) -> str:
    """A length of time as a person says it: 41 s, 12 min, 3 h 5 min, 2 days."""
    if seconds is None:
        return "?"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{timedelta(hours=hours).days} days"
