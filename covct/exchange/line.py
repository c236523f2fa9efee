"""What one destination has and lacks of a tree, kept in memory while a sender runs, so that only news is read."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from covct.exchange.answers import NotReached
from covct.exchange.deliveries import Delivery
from covct.exchange.destinations import Destination
from covct.exchange.outgoing import Due, Signature, due, folders_of, signature
from covct.unattended.sending import MOST_REASONS, WORDS, DestinationState, Kind, Reason

FIRST_PAUSE_S, LONGEST_PAUSE_S = 30.0, 3600.0  # after a destination was not reached
FIRST_RETRY_S = {"failed": 60.0, "refused": 3600.0}  # of an object
LONGEST_RETRY_S = {"failed": 6 * 3600.0, "refused": 24 * 3600.0}
COMMITMENT_AGAIN_S = 3600.0  # an archive may take its time
UNCOMMITTED = "it has not taken responsibility for it yet"
TO_BE_REJECTED = "a rejection note waits"
NOT_REJECTED = "the destination still has the objects before; reject or delete them there"


@dataclass(frozen=True)
class Row:
    """Objects of a result that are not where they should be: of one kind, for one reason, since one moment."""

    kind: Kind
    why: str
    since: float
    objects: int = 1


@dataclass(frozen=True)
class Standing:
    """A result as it stood when it was last looked at. `again` is when it is worth another look; None: when it has
    changed."""

    seen: Signature
    delivered: int
    rows: tuple[Row, ...]
    again: float | None


@dataclass
class Line:
    """One destination, and what is known of it.

    Attributes
    ----------
    failures, not_before, error
        How often in a row it was not reached, when it is tried again (Unix time), and why it was not.
    looked : dict of str to Standing
        By folder of the result.
    """

    out: Path
    destination: Destination
    failures: int = 0
    not_before: float = 0.0
    error: str = ""
    last_delivered: str = ""
    looked: dict[str, Standing] = field(default_factory=dict)

    def to_do(self, patient: bool) -> list[Due]:
        """What is to be done now, the oldest results first. `patient`: what was tried too recently is left alone."""
        now, found = time.time(), []
        folders = folders_of(self.out, self.destination)
        for folder in folders:
            seen, known = signature(self.out, folder), self.looked.get(folder)
            if known and known.seen == seen and (known.again is None or (patient and known.again > now)):
                continue
            one = due(self.out, folder, self.destination)
            if one is None:
                continue
            self.look(one, seen)
            if ready := _ready(one, self.destination, now, patient):
                found.append(ready)
        for folder in self.looked.keys() - set(folders):
            del self.looked[folder]
        return sorted(found, key=lambda one: one.finished)

    def look(self, one: Due, seen: Signature) -> None:
        """Take in how a result stands."""
        rows = tuple(_rows(one, self.destination))
        self.looked[one.folder] = Standing(seen, len(one.stands), rows, _again(one, self.destination))

    def look_again(self, folder: str) -> Due | None:
        """The same after something was entered."""
        seen, one = signature(self.out, folder), due(self.out, folder, self.destination)
        if one:
            self.look(one, seen)
        return one

    def reached(self) -> None:
        self.failures, self.not_before, self.error = 0, 0.0, ""

    def not_reached(self, error: NotReached) -> None:
        """The next attempt is after a pause that doubles, up to an hour; or when it asks for it."""
        pause = min(FIRST_PAUSE_S * 2.0 ** min(self.failures, 20), LONGEST_PAUSE_S)
        self.failures, self.error = self.failures + 1, str(error)
        self.not_before = time.time() + max(pause, error.wait_s or 0.0)

    def state(self) -> DestinationState:
        """For `covct status`."""
        grouped: dict[tuple[Kind, str], list[Row]] = defaultdict(list)
        results: dict[tuple[Kind, str], set[str]] = defaultdict(set)
        for folder, standing in self.looked.items():
            for row in standing.rows:
                grouped[row.kind, row.why].append(row)
                results[row.kind, row.why].add(folder)
        reasons = [
            Reason(
                kind=kind, why=why, objects=sum(row.objects for row in rows), results=len(results[kind, why]),
                since=min(row.since for row in rows),
            )
            for (kind, why), rows in sorted(grouped.items())
        ]  # fmt: skip
        counts = {kind: sum(one.objects for one in reasons if one.kind == kind) for kind in WORDS}
        return DestinationState(
            name=self.destination.name,
            address=self.destination.address,
            delivered=sum(standing.delivered for standing in self.looked.values()),
            **counts,
            reasons=sorted(reasons, key=lambda one: -one.objects)[:MOST_REASONS],
            failures=self.failures,
            not_before=self.not_before,
            error=self.error,
            last_delivered=self.last_delivered,
        )


def retry_after(state: str, attempts: int) -> float:
    """Seconds until an object is tried again that was not taken `attempts` times."""
    return float(min(FIRST_RETRY_S[state] * 2.0 ** min(attempts - 1, 20), LONGEST_RETRY_S[state]))


def uncommitted(one: Due, destination: Destination) -> list[Delivery]:
    """What the destination has, and is to be asked to take responsibility for."""
    return [each for each in one.stands if not each.committed] if destination.commitment else []


def _ready(one: Due, destination: Destination, now: float, patient: bool) -> Due | None:
    """What of it is to be done now; None: nothing."""

    def is_due(file: str, sha256: str) -> bool:
        entry = one.entered.of(file, sha256)
        return not patient or entry is None or entry.not_before <= now

    ready = replace(one, to_send=tuple(each for each in one.to_send if is_due(*each)))
    asked = [each for each in uncommitted(one, destination) if not patient or _ask_again(each) <= now]
    rejects = _reject_at(one, destination)
    return ready if ready.to_send or asked or (rejects is not None and (not patient or rejects <= now)) else None


def _again(one: Due, destination: Destination) -> float | None:
    moments = [entry.not_before if (entry := one.entered.of(*each)) else 0.0 for each in one.to_send]
    moments += [_ask_again(each) for each in uncommitted(one, destination)]
    moments += [rejects] if (rejects := _reject_at(one, destination)) is not None else []
    return min(moments) if moments else None


def _reject_at(one: Due, destination: Destination) -> float | None:
    """When a note may reject what was replaced: once all that replaces it is there. None: there is nothing to."""
    if not destination.rejects or not one.superseded or one.to_send:
        return None
    return max(each.not_before for each in one.superseded)


def _ask_again(one: Delivery) -> float:
    return one.commitment_asked + COMMITMENT_AGAIN_S if one.commitment_asked else 0.0


def _rows(one: Due, destination: Destination) -> Iterator[Row]:
    finished = _moment(one.finished)
    for each in one.to_send:
        entry = one.entered.of(*each)
        if entry is None:
            yield Row("waiting", "", finished)
        else:
            yield Row("refused" if entry.state == "refused" else "waiting", entry.reason, entry.since or finished)
    for entry in uncommitted(one, destination):
        yield Row("waiting", UNCOMMITTED, _moment(entry.at))
    if one.pruned:
        yield Row("pruned", ", ".join(one.pruned), finished, len(one.pruned))
    if one.superseded:
        since = min(_moment(entry.at) for entry in one.superseded)
        if destination.rejects:
            yield Row("waiting", one.superseded[0].reason or TO_BE_REJECTED, since, len(one.superseded))
        else:
            yield Row("superseded", NOT_REJECTED, since, len(one.superseded))


def _moment(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return time.time()
