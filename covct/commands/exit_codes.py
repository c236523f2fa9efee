"""What the exit codes say, and when a run that ended does not end with 0."""

from __future__ import annotations

import re

from covct.errors import RunError

EXIT_CODES = (
    "Exit codes: 0 nothing left to do; 1 a bug (traceback); 2 usage; 3 ended, some series failed or (with --strict) "
    "were rejected, nothing of a source was read, or verify, health or doctor found something; "
    "10 weights missing or altered; 11 output tree locked; 12 output not writable or disk full; "
    "13 GPU required but absent; 14 a source or a driver does not answer: what hung was ended, or cannot be; "
    "15 training came to a loss that is not a number; "
    "130 stopped by a signal, finished series kept."
)


def ended_badly(tally, strict: bool) -> int:
    """What was rejected or failed before counts too: a rerun shall not turn a 3 into a 0."""
    from covct.intake.unread import SOURCES_NOT_READ

    bad = tally["failed"] + tally["failed before"] + tally["troubled"] + tally[SOURCES_NOT_READ]
    if strict:
        bad += tally["rejected"] + tally["rejected before"] + tally["unreadable files"]
    return bad


def meaning_of(error: RunError) -> str:
    """What an error means, by the table of exit codes and the system's own words: without paths."""
    [meaning] = re.findall(rf"\b{error.exit_code} ([^;.]+)", EXIT_CODES)
    system = getattr(error.__cause__, "strerror", None)
    return f"{meaning} ({system})" if system else meaning
