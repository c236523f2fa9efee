"""The sender of a tree: what its destinations are still to get goes to them, again and again where it has to.

Beside whoever writes results, and without waiting for it: an object is read whole and must have the hash that its
outcome has for it, so that a result which is replaced meanwhile is met whole or not at all, and comes another time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from covct.dicom.syntaxes import EXPLICIT_LITTLE_ENDIAN
from covct.disk.durable import output_errors
from covct.exchange import commitment
from covct.exchange.answers import Answer, Loaded, NotReached, Store
from covct.exchange.audit import MINOR_FAILURE, SUCCESS, AuditLog, Instance, Party
from covct.exchange.c_store import c_store
from covct.exchange.deliveries import Deliveries, Delivery, only_sender, write_deliveries
from covct.exchange.destinations import Destination
from covct.exchange.line import Line, retry_after
from covct.exchange.notes import KEY_OBJECT, note_of
from covct.exchange.outgoing import Due, kinds_of, loaded
from covct.exchange.stow import stow
from covct.outputs import Emit
from covct.unattended.sending import DestinationState, as_event, read_sending, write_sending

RESULTS_AT_ONCE = 25  # over one association
ENTERED_AT_ONCE = 16  # objects: as many may be sent once more after a kill
TURN_S = 60.0  # of one destination, before the others have theirs
SHARE_OF_TIME = 20.0  # a look over a tree that takes one second is followed by a rest of so many
LONGEST_REST_S = 600.0
NOBODY_LEFT = "the study has no object left that tells whose it is; reject or delete what it had there"
SPOILED = "its file is not the one that its outcome lists (see covct verify)"


@dataclass(frozen=True)
class Call:
    """What a sender was called for.

    Attributes
    ----------
    emit : function (dict) -> None
        Told of every result that was sent, and how each destination stands.
    """

    out: Path
    destinations: tuple[Destination, ...]
    emit: Emit
    audit: AuditLog
    reports: commitment.Reports


def send(
    out: Path,
    destinations: tuple[Destination, ...],
    emit: Emit,
    audit: AuditLog,
    every_s: float | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> list[DestinationState]:
    """Send what is to be sent: all of it once, whatever was tried before; with `every_s` again and again, until
    stopped, with pauses for what does not work.

    Raises
    ------
    OutputLocked, OutputNotWritable, UsageError
    """
    with only_sender(out), commitment.listening(destinations) as reports:
        call = Call(out, destinations, emit, audit, reports)
        lines = [_line(out, one) for one in destinations]
        while True:
            looked_s = _round(call, lines, patient=every_s is not None)
            states = _say(call, lines)
            if every_s is None:
                return states
            sleep(max(every_s, min(SHARE_OF_TIME * looked_s, LONGEST_REST_S)))


def _round(call: Call, lines: list[Line], *, patient: bool) -> float:
    """Each destination in its turn, until none is left with anything to do. Returns how long a look over the tree took.

    Whoever is patient looks again for a destination that has nothing to do while another one has much; else a look is
    all there is, as what was refused would be tried again and again.
    """
    began = time.monotonic()
    queues = [line.to_do(patient) for line in lines]
    looked_s = time.monotonic() - began
    while any(queues):
        for index, line in enumerate(lines):
            queues[index] = _turn(call, line, queues[index], patient=patient)
        if patient and any(queues):
            queues = [queue or line.to_do(patient) for queue, line in zip(queues, lines, strict=True)]
    return looked_s


def _line(out: Path, destination: Destination) -> Line:
    """As the sender before this one left it: its pauses hold."""
    before = read_sending(out)
    if before is None:
        return Line(out, destination)
    state = before.state_of(destination.name)
    return Line(out, destination, state.failures, state.not_before, state.error, state.last_delivered)


def _say(call: Call, lines: Iterable[Line]) -> list[DestinationState]:
    states = [line.state() for line in lines]
    with output_errors(call.out), suppress(FileNotFoundError):  # half of it was taken for a dead process's: next time
        write_sending(call.out, {state.name: state for state in states})
    for state in states:
        call.emit(as_event(state))
    return states


def _turn(call: Call, line: Line, to_do: list[Due], *, patient: bool) -> list[Due]:
    """Send to one destination. Returns what is left to do when its time is over."""
    _take_reports(call, line)
    if not to_do or (patient and time.time() < line.not_before):
        return []
    deadline = time.monotonic() + TURN_S
    try:
        while to_do:
            batch, to_do = to_do[:RESULTS_AT_ONCE], to_do[RESULTS_AT_ONCE:]
            _send_batch(call, line, batch)
            line.reached()
            _say(call, [line])
            if len(call.destinations) > 1 and time.monotonic() > deadline:
                break
    except NotReached as error:
        line.not_reached(error)
        parties = Party(line.destination.ours), Party(line.destination.name, line.destination.address)
        call.audit.record("sent", *parties, outcome=MINOR_FAILURE, reason=line.error)
        call.emit({"event": "not-reached", "destination": line.destination.name, "why": line.error})
        return []
    return to_do


def _send_batch(call: Call, line: Line, batch: list[Due]) -> None:
    destination = line.destination
    kinds = kinds_of(call.out, batch)
    if destination.rejects:
        kinds.add((KEY_OBJECT, EXPLICIT_LITTLE_ENDIAN))
    with _channel(call, destination, kinds) as (store, ask):
        for one in batch:
            if now := _as_it_is_now(line, one):
                _send_result(call, line, now, store)
            after = line.look_again(one.folder)
            if after and destination.rejects and after.superseded and not after.to_send:
                _reject(call, line, after, store)
        if ask:
            commitment.ask_for(call.out, line, [one.folder for one in batch], ask, call.reports)
            _take_reports(call, line)


def _as_it_is_now(line: Line, one: Due) -> Due | None:
    """Of what was to be sent, what still is: the queue may have been long. None: nothing, or it is being replaced."""
    now = line.look_again(one.folder)
    to_send = tuple(each for each in one.to_send if each in now.to_send) if now else ()
    return replace(now, to_send=to_send) if now and to_send else None


@contextmanager
def _channel(call: Call, destination: Destination, kinds: set[tuple[str, str]]) -> Iterator[tuple[Store, Any]]:
    """What sends, and the association by which commitment is asked for; None: it is not."""
    if destination.peer is None:
        with stow(destination) as store:
            yield store, None
        return
    further = [commitment.PUSH_MODEL] if destination.commitment else []
    with c_store(destination, kinds, further, call.reports.handlers) as (store, association):
        yield store, association if destination.commitment else None


def _send_result(call: Call, line: Line, one: Due, store: Store) -> None:
    """Send the objects of one result, and enter what became of each, also where that is cut short."""
    entered, new = one.entered, list[tuple[Delivery, str]]()
    spoiled: list[tuple[str, str]] = []
    written = 0

    def whole() -> Iterator[Loaded]:
        for each, found in loaded(call.out, one):
            if found:
                yield found
            else:
                spoiled.append(each)

    try:
        for item, answer in store(whole()):
            entry = _entry(one, entered, item, answer)
            entered = _with_study(entered.with_one(entry), item)
            new.append((entry, item.study))
            if len(new) - written >= ENTERED_AT_ONCE:
                write_deliveries(call.out, line.destination.folder, entered)
                written = len(new)
    finally:
        for file, digest in spoiled:
            empty = Loaded(file, digest, "", "", "", "", "", b"")
            entry = _entry(one, entered, empty, Answer("failed", SPOILED))
            entered = entered.with_one(entry)
            new.append((entry, ""))
        if len(new) > written:
            write_deliveries(call.out, line.destination.folder, _without_gone(entered, one))
        line.look_again(one.folder)
        _tell(call, line, one, new)


def _entry(one: Due, entered: Deliveries, item: Loaded, answer: Answer) -> Delivery:
    before = entered.of(item.file, item.sha256)
    same_uid = [each for each in entered.objects if each.sop_instance_uid == item.sop_instance]
    others = [each for each in same_uid if each.state == "delivered" and each.sha256 != item.sha256]
    if answer.was_there and others:
        answer = Answer("refused", "it keeps the object that it got under this UID before")
    now, tried = time.time(), (before.attempts if before else 0) + 1
    waits = answer.state != "delivered"
    return Delivery(
        file=item.file,
        sha256=item.sha256,
        work_key=one.outcome.work_key if one.outcome else "",
        sop_class_uid=item.sop_class,
        sop_instance_uid=item.sop_instance,
        series_instance_uid=item.series,
        state=answer.state,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        reason=answer.reason,
        attempts=tried,
        since=(before.since if before and before.state != "delivered" else 0.0) or now,
        not_before=now + retry_after(answer.state, tried) if waits else 0.0,
    )


def _with_study(entered: Deliveries, item: Loaded) -> Deliveries:
    return entered.model_copy(update={"study_instance_uid": item.study or entered.study_instance_uid})


def _without_gone(entered: Deliveries, one: Due) -> Deliveries:
    """Without what never got there and is no longer to be sent."""
    files = one.outcome.files if one.outcome else {}
    kept = [each for each in entered.objects if each.state == "delivered" or files.get(each.file) == each.sha256]
    return entered.model_copy(update={"objects": kept})


def _tell(call: Call, line: Line, one: Due, new: Sequence[tuple[Delivery, str]]) -> None:
    """The event and the lines of the audit log: one for what was delivered, one for what was not."""
    destination = line.destination
    parties = Party(destination.ours), Party(destination.name, destination.address)
    taken = [(entry, study) for entry, study in new if entry.state == "delivered"]
    rest = [(entry, study) for entry, study in new if entry.state != "delivered"]
    for entries, outcome in ((taken, SUCCESS), (rest, MINOR_FAILURE)):
        if entries:
            instances = [Instance(study, entry.sop_class_uid) for entry, study in entries]
            reason = entries[0][0].reason if outcome else ""
            call.audit.record("sent", *parties, instances, outcome, reason)
    if taken:
        line.last_delivered = taken[-1][0].at
    if new:
        counts = {state: sum(entry.state == state for entry, _ in new) for state in ("delivered", "refused", "failed")}
        why = rest[0][0].reason if rest else None
        call.emit({"event": "sent", "destination": destination.name, "folder": one.folder, **counts, "why": why})


def _reject(call: Call, line: Line, one: Due, store: Store) -> None:
    """Send a note that rejects what was replaced, once all that replaces it is there."""
    note = note_of(call.out, one)
    if note is None:
        _enter_rejection(call, line, one, "", Answer("refused", NOBODY_LEFT))
        return
    for item, answer in store([note]):
        _enter_rejection(call, line, one, item.sop_instance, answer)
        parties = Party(line.destination.ours), Party(line.destination.name, line.destination.address)
        outcome = SUCCESS if answer.state == "delivered" else MINOR_FAILURE
        call.audit.record("sent", *parties, [Instance(item.study, item.sop_class)], outcome, answer.reason)


def _enter_rejection(call: Call, line: Line, one: Due, note: str, answer: Answer) -> None:
    """That objects were rejected by a note, or why not and until when they are left alone."""
    gone = {each.sop_instance_uid for each in one.superseded}

    def changed(each: Delivery) -> Delivery:
        if each.sop_instance_uid not in gone:
            return each
        if answer.state == "delivered":
            return each.model_copy(update={"rejected": note, "reason": ""})
        tried = each.attempts + 1
        pause = retry_after(answer.state, tried)
        return each.model_copy(update={"attempts": tried, "reason": answer.reason, "not_before": time.time() + pause})

    objects = [changed(each) for each in one.entered.objects]
    write_deliveries(call.out, line.destination.folder, one.entered.model_copy(update={"objects": objects}))
    line.look_again(one.folder)


def _take_reports(call: Call, line: Line) -> None:
    """Enter what the destination has taken responsibility for since, and what not."""
    for folder in commitment.enter(call.out, line.destination, call.reports):
        line.look_again(folder)
