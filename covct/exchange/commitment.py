"""Storage commitment (PS3.4 annex J): the archive is asked to take responsibility for what it has stored.

It answers over the same association, or calls our own listener. An answer that never comes, or comes after a restart,
costs another request: what was promised is entered only once the archive has said so.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from covct.errors import UsageError
from covct.exchange.answers import of_status
from covct.exchange.deliveries import Deliveries, Delivery, read_deliveries, write_deliveries
from covct.exchange.destinations import Destination
from covct.exchange.line import Line, retry_after, uncommitted
from covct.exchange.tls import server_context

if TYPE_CHECKING:
    import pydicom
    from pynetdicom.association import Association

PUSH_MODEL, WELL_KNOWN = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
REQUEST, NOT_KNOWN = 1, 0x0112  # action type; a transaction that is not ours
ANSWER_S = 10.0  # for which a sender waits; later answers come to the listener
MOST_AT_ONCE = 500  # objects of a request


@dataclass(frozen=True)
class Asked:
    """Whom a transaction was asked of, and of which results."""

    destination: str
    folders: dict[str, str]  # by SOP Instance UID


@dataclass
class Reports:
    """Transactions that wait for their answers, and answers that wait to be entered."""

    asked: dict[str, Asked] = field(default_factory=dict)
    came: SimpleQueue[tuple[str, set[str], dict[str, int]]] = field(default_factory=SimpleQueue)
    waiting: list[tuple[str, set[str], dict[str, int]]] = field(default_factory=list)

    @property
    def handlers(self) -> list[Any]:
        """For an association, or a listener."""
        from pynetdicom import evt

        return [(evt.EVT_N_EVENT_REPORT, self._hear)]

    def _hear(self, event: Any) -> tuple[int, None]:
        """In a thread of the library: the sender's own enters it."""
        try:
            told = event.event_information
            transaction = str(told.TransactionUID)
            kept = {str(item.ReferencedSOPInstanceUID) for item in told.get("ReferencedSOPSequence", [])}
            failed = {
                str(item.ReferencedSOPInstanceUID): int(item.get("FailureReason", 0x0110))
                for item in told.get("FailedSOPSequence", [])
            }
        except Exception:  # what it holds is nothing that the standard wants
            return 0x0110, None
        if transaction not in self.asked:
            return NOT_KNOWN, None
        self.came.put((transaction, kept, failed))
        return 0x0000, None


@contextmanager
def listening(destinations: Iterable[Destination]) -> Iterator[Reports]:
    """Hear what destinations answer that call us for it; each port is listened at once.

    Raises
    ------
    UsageError
        A port is taken, or a certificate of ours is not valid any more.
    """
    reports = Reports()
    with ExitStack() as servers:
        for one in {each.commitment_port: each for each in destinations if each.commitment}.values():
            if one.peer and one.commitment_port:
                servers.callback(_server(one, reports).shutdown)
        yield reports


def _server(destination: Destination, reports: Reports) -> Any:
    from pynetdicom import AE

    assert destination.peer and destination.commitment_port
    entity = AE(ae_title=destination.ours)
    entity.add_supported_context(PUSH_MODEL, scu_role=True, scp_role=True)
    entity.require_calling_aet = [destination.peer.title]
    entity.require_called_aet = True
    entity.maximum_associations = 4
    address, access = _ours_towards(destination), destination.access
    tls = None
    if destination.peer.is_secured and access.certificate and access.key:
        tls = server_context(access.certificate, access.key, authorities=access.authorities)
    place = (address, destination.commitment_port)
    try:
        return entity.start_server(place, block=False, evt_handlers=reports.handlers, ssl_context=tls)
    except OSError as error:
        where = f"{address}:{destination.commitment_port}"
        raise UsageError(
            f"commit_port of {destination.name}: nobody can listen at {where}: {error.strerror}"
        ) from error


def _ours_towards(destination: Destination) -> str:
    """Our address as the destination sees it: nobody else is listened for."""
    import socket

    assert destination.peer
    try:
        found = socket.getaddrinfo(destination.peer.host, destination.peer.port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(found[0], found[1]) as asking:
            asking.connect(found[4])  # sends nothing: the kernel says by which way it would
            return str(asking.getsockname()[0])
    except OSError:
        return "127.0.0.1"


def ask_for(out: Path, line: Line, folders: Sequence[str], association: Association, reports: Reports) -> None:
    """Ask a destination to take responsibility for what it has of some results, and wait a little for the answer."""
    wanted = [(folder, each) for folder in folders for each in _uncommitted(line, folder)]
    if not any(context.abstract_syntax == PUSH_MODEL for context in association.accepted_contexts):
        _note(out, line, wanted, "it does not take requests for storage commitment")
        return
    for at in range(0, len(wanted), MOST_AT_ONCE):
        part = wanted[at : at + MOST_AT_ONCE]
        transaction, request = _request([each for _, each in part])
        reports.asked[transaction] = Asked(line.destination.name, {e.sop_instance_uid: folder for folder, e in part})
        status, _ = association.send_n_action(request, REQUEST, PUSH_MODEL, WELL_KNOWN)
        if status.get("Status") != 0x0000:
            del reports.asked[transaction]
            _note(out, line, part, f"it refuses storage commitment (status {status.get('Status', 0):04X})")
            continue
        _note(out, line, part, "")
        deadline = time.monotonic() + ANSWER_S
        while reports.came.empty() and association.is_established and time.monotonic() < deadline:
            time.sleep(0.05)


def _uncommitted(line: Line, folder: str) -> list[Delivery]:
    one = line.look_again(folder)
    return uncommitted(one, line.destination) if one else []


def _request(objects: Sequence[Delivery]) -> tuple[str, pydicom.Dataset]:
    from pydicom import Dataset
    from pydicom.uid import generate_uid

    request = Dataset()
    request.TransactionUID = generate_uid()
    request.ReferencedSOPSequence = []
    for one in objects:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = one.sop_class_uid, one.sop_instance_uid
        request.ReferencedSOPSequence.append(item)
    return str(request.TransactionUID), request


def _note(out: Path, line: Line, objects: Sequence[tuple[str, Delivery]], reason: str) -> None:
    """Enter that a destination was asked: not again for a while."""
    by_folder: dict[str, set[str]] = {}
    for folder, one in objects:
        by_folder.setdefault(folder, set()).add(one.sop_instance_uid)
    for folder, uids in by_folder.items():
        entered = read_deliveries(out, line.destination.folder, folder)
        changes = {"commitment_asked": time.time(), "reason": reason}
        write_deliveries(out, line.destination.folder, _changed(entered, dict.fromkeys(uids, changes)))
        line.look_again(folder)


def enter(out: Path, destination: Destination, reports: Reports) -> list[str]:
    """Enter what came of a destination's transactions; returns the folders of the results that it is about."""
    try:
        while True:
            reports.waiting.append(reports.came.get_nowait())
    except Empty:
        pass
    reports.waiting = [one for one in reports.waiting if one[0] in reports.asked]  # others were told twice
    mine = [one for one in reports.waiting if reports.asked[one[0]].destination == destination.name]
    reports.waiting = [one for one in reports.waiting if one not in mine]
    touched: list[str] = []
    for transaction, kept, failed in mine:
        asked = reports.asked.pop(transaction, None)
        if asked is None:
            continue
        folders = asked.folders
        for folder in dict.fromkeys(folders.values()):
            entered = read_deliveries(out, destination.folder, folder)
            changes = {uid: _committed() for uid in kept if folders.get(uid) == folder}
            changes |= {uid: _lost(reason) for uid, reason in failed.items() if folders.get(uid) == folder}
            write_deliveries(out, destination.folder, _changed(entered, changes))
            touched.append(folder)
    return touched


def _committed() -> dict[str, Any]:
    return {"committed": datetime.now(UTC).isoformat(timespec="seconds"), "reason": ""}


def _lost(reason: int) -> dict[str, Any]:
    """It has it no longer: it is sent again."""
    why = f"it does not take responsibility for it: {of_status(reason).reason or f'status {reason:04X}'}"
    now = time.time()
    return {"state": "failed", "reason": why, "since": now, "not_before": now + retry_after("failed", 1)}


def _changed(entered: Deliveries, changes: dict[str, dict[str, Any]]) -> Deliveries:
    objects = [
        each.model_copy(update=changes[each.sop_instance_uid])
        if each.state == "delivered" and each.sop_instance_uid in changes
        else each
        for each in entered.objects
    ]
    return entered.model_copy(update={"objects": objects})
