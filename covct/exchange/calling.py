"""Associations with other application entities, and in a sentence why there is none."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from covct.errors import PeerError
from covct.exchange.peers import Peer
from covct.exchange.tls import why_not_trusted

if TYPE_CHECKING:
    from pynetdicom.association import Association

CONNECTING_S = 20.0
ANSWERING_S = 60.0  # until the peer says yes or no to an association
STALLED_S = 60.0  # in the middle of a message, of which the peer takes nothing, or sends no more
SILENT_S = 600.0  # between two messages: an archive may fetch from a tape first
WHY_REJECTED = {  # by source and diagnostic (PS3.8 table 9-21)
    (1, 3): "it does not know our AE title {ours}; wanted it entered there, or another one here",
    (1, 7): "it is not called {theirs}; wanted its own AE title",
    (3, 1): "it has too much to do at the moment",
    (3, 2): "it has as many associations as it takes",
}


@contextmanager
def associated(
    peer: Peer,
    ours: str,
    contexts: Iterable[Any],
    *,
    roles: Sequence[Any] = (),
    handlers: Sequence[Any] = (),
    tls: ssl.SSLContext | None = None,
) -> Iterator[Association]:
    """An association; released at the end, aborted after an error.

    Parameters
    ----------
    ours : str
        Our AE title.
    contexts : iterable of PresentationContext
        At most 128.
    roles : sequence of SCP_SCU_RoleSelectionNegotiation
    handlers : sequence of (event, function)
    tls : ssl.SSLContext, optional
        Of a peer that is spoken to by TLS.

    Raises
    ------
    PeerError
        There is none, and why.
    """
    from pynetdicom import AE

    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)  # it is told here, in a sentence
    entity = AE(ae_title=ours)
    entity.requested_contexts = list(contexts)
    entity.connection_timeout, entity.acse_timeout = CONNECTING_S, ANSWERING_S
    entity.dimse_timeout = entity.network_timeout = SILENT_S
    secured = (tls, peer.host) if peer.is_secured else None
    addresses_of(peer)
    association = entity.associate(
        peer.host, peer.port, ae_title=peer.title, ext_neg=list(roles), evt_handlers=list(handlers), tls_args=secured
    )
    if not association.is_established:
        raise PeerError(f"{peer}: {_why_not(association, peer, ours, tls)}")
    # The library waits for ever in a call that sends, and aborting waits for that call.
    connection = association.dul.socket.socket
    connection.settimeout(STALLED_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a message's last part waits for no answer
    try:
        yield association
        association.release()
    finally:
        if association.is_established:
            association.abort()


def addresses_of(peer: Peer) -> list[str]:
    """The addresses of a peer's host, each once.

    Raises
    ------
    PeerError
        Nobody knows the host's name.
    """
    try:
        found = socket.getaddrinfo(peer.host, peer.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise PeerError(f"{peer}: the host name {peer.host} does not resolve: {error.strerror}") from error
    return list(dict.fromkeys(str(address[0]).partition("%")[0] for *_, address in found))


def _why_not(association: Association, peer: Peer, ours: str, tls: ssl.SSLContext | None) -> str:
    if association.is_rejected:
        answer = association.acceptor.primitive
        why = WHY_REJECTED.get((answer.result_source, answer.diagnostic))
        told = why.format(ours=ours, theirs=peer.title) if why else str(answer.reason_str).lower()
        return f"it refused the association: {told}"
    try:
        with socket.create_connection((peer.host, peer.port), timeout=5.0) as connection:
            if peer.is_secured and tls:
                tls.wrap_socket(connection, server_hostname=peer.host).close()
    except ssl.SSLError as error:
        return why_not_trusted(error)
    except OSError as error:
        return f"nobody answers there: {error.strerror or 'no connection within 5 s'}"
    if association.acceptor.primitive is None:
        return "something listens there, but it does not answer as a DICOM node does"
    return "it broke the association off, or takes nothing of what is asked of it"
