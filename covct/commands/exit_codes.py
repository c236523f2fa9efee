"""What the exit codes say, and when a run that ended does not end with 0."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from covct.errors import RunError

if TYPE_CHECKING:
    from collections import Counter

    from covct.unattended.one_pass import PassResult

EXIT_CODES = (
    "Exit codes: 0 nothing left to do; 1 internal error (traceback); 2 usage error; 3 finished, but series failed or "
    "(with --strict) were rejected, nothing could be read from a source, something could not be sent, or verify, "
    "health or doctor found a problem; "
    "10 weights missing or altered; 11 output tree locked; 12 output not writable or disk full; "
    "13 GPU or runtime required but absent; "
    "14 a source, a driver or the workers' scheduler is not responding, and what hung was killed or cannot be; "
    "15 training loss is not a number; 130 stopped by a signal, finished series are kept."
)


def ended_badly(tally: PassResult | Counter[str], strict: bool) -> int:
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
