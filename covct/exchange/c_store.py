"""Objects sent by C-STORE, over one association, each in the transfer syntax of its file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any

from covct.dicom.syntaxes import EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN
from covct.errors import PeerError, UsageError, whereabouts
from covct.exchange.answers import Answer, Loaded, NotReached, Store, of_status
from covct.exchange.calling import associated
from covct.exchange.destinations import Destination
from covct.exchange.peers import VERIFICATION
from covct.exchange.tls import client_context

if TYPE_CHECKING:
    from pynetdicom.association import Association

ANSWER_S = 120.0  # from the last byte of an object to its status
MOST_CONTEXTS = 128


@contextmanager
def c_store(
    destination: Destination,
    kinds: Iterable[tuple[str, str]],
    further: Iterable[str] = (),
    handlers: Iterable[Any] = (),
) -> Iterator[tuple[Store, Association]]:
    """What sends objects to a DICOM node, and the association that it does it over.

    Parameters
    ----------
    kinds : iterable of (str, str)
        SOP Class UID and Transfer Syntax UID of what may come. Uncompressed objects may also go as Implicit VR, which
        every node takes (PS3.5 10.1); compressed ones as they are, or not at all.
    further : iterable of str
        Other SOP classes to be spoken over it.
    handlers : iterable of (event, function)
        Of pynetdicom.

    Raises
    ------
    NotReached
        There is no association, or it broke.
    """
    if destination.peer is None:
        raise ValueError(f"{destination.name} is no DICOM node")
    access = destination.access
    secured = destination.peer.is_secured
    contexts = _contexts(kinds, further)
    try:
        tls = client_context(access.authorities, access.certificate, access.key) if secured else None
        with associated(destination.peer, destination.ours, contexts, handlers=list(handlers), tls=tls) as association:
            association.dimse_timeout = ANSWER_S
            yield lambda objects: _sent(association, objects), association
    except NotReached:
        raise
    except (PeerError, UsageError) as error:  # of ours: a certificate that has expired since
        raise NotReached(str(error).removeprefix(f"{destination.peer}: ")) from error


def _contexts(kinds: Iterable[tuple[str, str]], further: Iterable[str]) -> list[Any]:
    """One context for each class and syntax, so that refusing one refuses no other. With Verification, which is hardly
    ever refused, there is an association even where all of them are, and each refusal is known by its reason."""
    from pynetdicom.presentation import build_context

    wanted = set(kinds)
    wanted |= {(sop_class, IMPLICIT_LITTLE_ENDIAN) for sop_class, syntax in wanted if syntax == EXPLICIT_LITTLE_ENDIAN}
    wanted |= {(sop_class, IMPLICIT_LITTLE_ENDIAN) for sop_class in (VERIFICATION, *further)}
    return [build_context(sop_class, syntax) for sop_class, syntax in sorted(wanted)][:MOST_CONTEXTS]


def _sent(association: Association, objects: Iterable[Loaded]) -> Iterator[tuple[Loaded, Answer]]:
    from pydicom import dcmread

    for one in objects:
        if refusal := _refusal(association, one):
            yield one, Answer("refused", refusal)
            continue
        if not association.is_established:
            raise NotReached("it broke the association off")
        try:
            status = association.send_c_store(dcmread(BytesIO(one.content)))
        except Exception as error:
            if not association.is_established:  # it went between two of our instructions
                raise NotReached("it broke the association off") from error
            yield one, Answer("failed", f"it cannot be encoded ({whereabouts(error)})")  # the others can
            continue
        if "Status" not in status:
            raise NotReached(f"it broke the association off, or gave no answer within {ANSWER_S:g} s")
        yield one, of_status(status.Status)


def _refusal(association: Association, one: Loaded) -> str:
    """Why there is no presentation context for an object; empty where there is one."""
    from pydicom.uid import UID

    accepted = [context for context in association.accepted_contexts if context.abstract_syntax == one.sop_class]
    syntaxes = {context.transfer_syntax[0] for context in accepted}
    usable = {one.transfer_syntax} | (
        {IMPLICIT_LITTLE_ENDIAN} if one.transfer_syntax == EXPLICIT_LITTLE_ENDIAN else set()
    )
    if syntaxes & usable:
        return ""
    name = UID(one.sop_class).name
    rejected = [context for context in association.rejected_contexts if context.abstract_syntax == one.sop_class]
    results = {context.result for context in rejected}
    if syntaxes or results == {4}:  # 4: no transfer syntax of those proposed (PS3.8 table 9-18)
        return f"it does not take {name} in the transfer syntax {UID(one.transfer_syntax).name}"
    return f"it does not take {name}"
