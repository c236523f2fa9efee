"""The socket that others call: whom it lets in, how many at once, and how it ends."""

from __future__ import annotations

import errno
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from covct.errors import UsageError, logged
from covct.exchange.acceptor import Acceptor, Rejected, Terms
from covct.exchange.audit import MINOR_FAILURE, SERIOUS_FAILURE, SUCCESS, AuditLog, Instance, Party
from covct.exchange.pdus import Gone, Violation, Wire
from covct.exchange.peers import ANY, Caller, may_call
from covct.exchange.received import Inbox
from covct.exchange.tls import why_not_trusted
from covct.outputs import Emit

TICK_S = 0.5  # signs of what is open are touched as often
STOP_GRACE_S = 3.0  # for instances that have come whole, once covct is to stop
MOST_REJECTED = 8  # connections beyond the limit that are told so at one time; more are closed
BACKLOG = 64
SAY_AGAIN_S = 60.0  # between two events of the same address that is turned away


@dataclass
class Listener:
    """A Storage SCP.

    Attributes
    ----------
    opened : socket
        Listens already.
    tls : ssl.SSLContext or None
    most : int
        Associations at once.
    emit : function (dict)
        Told of each association when it has ended, and of who was turned away; one call at a time.
    audit : AuditLog or None
    """

    opened: socket.socket
    terms: Terms
    inbox: Inbox
    tls: ssl.SSLContext | None
    most: int
    emit: Emit
    audit: AuditLog | None = None
    _stopping: threading.Event = field(default_factory=threading.Event)
    _open: dict[threading.Thread, socket.socket] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _turned_away: dict[str, float] = field(default_factory=dict)

    @property
    def address(self) -> tuple[str, int]:
        """Where it is called."""
        host, port = self.opened.getsockname()[:2]
        return str(host), int(port)

    def serve(self) -> None:
        """Answer callers until `stop`, or a stop signal (`Stopped`).

        What has come whole has a moment to be stored; what has come in part is not acknowledged, and is sent again.
        """
        try:
            while not self._stopping.is_set():
                ready, _, _ = select.select([self.opened], [], [], TICK_S)
                self.inbox.touch()
                if ready:
                    self._accept()
        finally:
            self._end()

    def stop(self) -> None:
        """End `serve`, from another thread."""
        self._stopping.set()

    def _accept(self) -> None:
        try:
            connection, address = self.opened.accept()
        except OSError as error:  # the caller is gone already, or there is no descriptor left
            if error.errno in (errno.EMFILE, errno.ENFILE):
                time.sleep(TICK_S / 10)
            return
        anybody = (Caller(ANY, caller.network) for caller in self.terms.allowed)
        if not may_call(anybody, "", address[0]):
            self._turn_away(connection, address[0], "nobody may call from this address")
        elif len(self._open) >= self.most + MOST_REJECTED:
            self._turn_away(connection, address[0], "too many connections at once")
        else:
            connection.settimeout(self.terms.timeout_s)
            with self._lock:
                too_many = len(self._open) >= self.most
                thread = threading.Thread(target=self._meet, args=(connection, address[0], too_many), daemon=True)
                self._open[thread] = connection
            thread.start()

    def _turn_away(self, connection: socket.socket, address: str, why: str) -> None:
        connection.close()
        now = time.monotonic()
        if now - self._turned_away.get(address, -SAY_AGAIN_S) >= SAY_AGAIN_S:
            self._turned_away = {one: said for one, said in self._turned_away.items() if now - said < SAY_AGAIN_S}
            self._turned_away[address] = now
            self._tell({"event": "turned-away", "address": address, "why": why})

    def _meet(self, connection: socket.socket, address: str, too_many: bool) -> None:
        """One connection, in a thread of its own, to its end; it is never the end of the listener."""
        began, association, how, why = time.monotonic(), None, "released", ""
        try:
            if self.tls:
                connection = self.tls.wrap_socket(connection, server_side=True)
                with self._lock:
                    self._open[threading.current_thread()] = connection
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wire = Wire(connection, self.terms.max_pdu)
            association = Acceptor(wire, self.terms, self.inbox, address, too_many, self._stopping)
            association.serve()
        except (Rejected, Violation, Gone) as error:
            how = {Rejected: "rejected", Violation: "aborted", Gone: "lost"}[type(error)]
            why = str(error)
        except ssl.SSLError as error:
            how, why = "refused", why_not_trusted(error)
        except OSError as error:
            how, why = "lost", f"the connection broke: {error.strerror or 'nothing came'}"
        except Exception as error:
            how, why = "failed", logged(error)
        finally:
            with suppress(OSError):
                connection.close()
            with self._lock:
                self._open.pop(threading.current_thread(), None)
            self._tell(_ended(address, association, how, why, time.monotonic() - began))
            if association and self.audit:
                self._record(self.audit, association, how, why)

    def _tell(self, event: dict[str, Any]) -> None:
        with self._lock:
            self.emit(event)

    def _record(self, audit: AuditLog, association: Acceptor, how: str, why: str) -> None:
        here = ":".join(map(str, self.address)) if self.opened.fileno() >= 0 else ""
        ends = Party(association.title, association.address), Party(self.terms.title, here)
        received = (Instance(*one) for one in association.acknowledged.elements())
        with self._lock:
            if how in ("rejected", "aborted"):
                audit.record("alert", *ends, received, SERIOUS_FAILURE, why)
            else:
                audit.record(
                    "received", *ends, received, MINOR_FAILURE if association.refusals or why else SUCCESS, why
                )

    def _end(self) -> None:
        """No new caller; nothing more is read, and what has come whole is stored."""
        self.opened.close()
        self._stopping.set()
        with self._lock:
            threads = dict(self._open)
        for connection in threads.values():
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RD)
        end = time.monotonic() + STOP_GRACE_S
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))


def _ended(address: str, association: Acceptor | None, how: str, why: str, seconds: float) -> dict[str, Any]:
    """An association that has ended, as an event: AE title and address of the peer, and counts. Nobody's name."""
    counts = association.counts if association else {}
    refusals = association.refusals if association else {}
    return {
        "event": "association",
        "peer": association.title if association else "",
        "address": address,
        "ended": how,
        **({"why": why} if why else {}),
        **{name: counts[name] for name in ("stored", "again", "replaced", "refused") if counts.get(name)},
        **({"refusals": dict(refusals)} if refusals else {}),
        "seconds": round(seconds, 3),
    }


@contextmanager
def listening(
    address: str,
    port: int,
    terms: Terms,
    inbox: Inbox,
    tls: ssl.SSLContext | None,
    most: int,
    emit: Emit,
    audit: AuditLog | None = None,
) -> Iterator[Listener]:
    """A listener on its socket; `serve` answers. Port 0 takes a free one.

    Raises
    ------
    UsageError
        The port is in use, or there is no such address here.
    """
    try:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        opened = socket.create_server((address, port), family=family, backlog=BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(f"--port {port} is in use on {address}") from error
        raise UsageError(f"cannot listen on {address}, port {port}: {error.strerror or error}") from error
    with opened:
        yield Listener(opened, terms, inbox, tls, most, emit, audit)
