"""What waits to be sent, where and why: `.covct/sending.json`, which the sender of a tree keeps up to date.

It is made of the ledger of deliveries, and holds what a sender must still know after a restart: how often in a row a
destination was not reached, and when it is tried again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from covct.disk.documents import Count, DamagedDocument, Document, Moment
from covct.disk.durable import replace_file
from covct.disk.places import PRIVATE
from covct.outputs import Event
from covct.visible import span

NAME = "sending.json"
MOST_REASONS = 12  # of a destination
Kind = Literal["waiting", "refused", "pruned", "superseded"]
WORDS: dict[Kind, str] = {
    "waiting": "to be sent",
    "refused": "refused",
    "pruned": "pruned before they were sent",
    "superseded": "replaced here since they were sent",
}


class Reason(Document):
    """Why objects are not where they should be."""

    kind: Kind
    why: str
    objects: Count
    results: Count
    since: float  # Unix time of the oldest


class DestinationState(Document):
    """One destination, as it stands. Times in seconds are Unix time."""

    name: str
    address: str = ""
    delivered: Count = 0
    waiting: Count = 0
    refused: Count = 0
    pruned: Count = 0
    superseded: Count = 0
    reasons: list[Reason] = []
    failures: Count = 0  # attempts in a row that did not reach it
    not_before: float = 0.0  # the next one
    error: str = ""  # why it was not reached
    last_delivered: str = ""

    @property
    def is_done(self) -> bool:
        """Whether it has all that it is to have, and nothing that it should no longer have."""
        return not (self.waiting or self.refused or self.pruned)


class Sending(Document):
    """All destinations that this tree was ever sent to."""

    updated: Moment
    destinations: list[DestinationState] = []

    def state_of(self, name: str) -> DestinationState:
        return next((one for one in self.destinations if one.name == name), DestinationState(name=name))


def read_sending(out: Path) -> Sending | None:
    """What the last sender said; None where there was none, or its file is damaged."""
    try:
        return Sending.read(out / PRIVATE / NAME)
    except (OSError, DamagedDocument):
        return None


def write_sending(out: Path, states: dict[str, DestinationState]) -> None:
    """Say how destinations stand; those of earlier senders stay. An OSError is the caller's."""
    before = read_sending(out)
    every = {one.name: one for one in (before.destinations if before else [])} | states
    told = Sending(updated=datetime.now(UTC).isoformat(timespec="seconds"), destinations=list(every.values()))
    replace_file(out / PRIVATE / NAME, told.as_json())


def as_event(state: DestinationState) -> Event:
    """For figures and --json."""
    told = state.model_dump(include={"waiting", "refused", "delivered"})
    return {"event": "sending", "destination": state.name, **told, "why": state.error or _first_reason(state)}


def as_document(states: Iterable[DestinationState], now: float | None = None) -> list[dict[str, Any]]:
    """For `covct status --json`: each destination, with seconds from now in place of moments."""
    now = time.time() if now is None else now
    told = []
    for state in states:
        row = state.model_dump(exclude={"reasons", "not_before"})
        row["next_attempt_s"] = round(state.not_before - now) if state.not_before > now else None
        row["reasons"] = [
            {**one.model_dump(exclude={"since"}), "oldest_s": round(max(0.0, now - one.since))} for one in state.reasons
        ]
        told.append(row)
    return told


def sentence(row: dict[str, Any]) -> str:
    """One destination in words, of a row of `as_document`."""
    parts = [f"{row['delivered']} objects delivered"]
    if row["error"]:
        again = f", next attempt in {span(row['next_attempt_s'])}" if row["next_attempt_s"] else ""
        parts.append(f"not reached ({row['error']}){again}")
    parts += [
        f"{one['objects']} {WORDS[one['kind']]}, the oldest for {span(one['oldest_s'])}"
        + (f": {one['why']}" if one["why"] else "")
        for one in row["reasons"]
    ]
    return f"{row['name']}: {'; '.join(parts)}"


def _first_reason(state: DestinationState) -> str:
    return next((one.why for one in state.reasons if one.kind in ("waiting", "refused") and one.why), "")
