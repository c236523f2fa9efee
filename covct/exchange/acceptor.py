"""One association as who is called: its negotiation, C-ECHO and C-STORE (PS3.7), until its end.

It is one thread that reads, stores and answers in turn, so that a peer cannot send faster than the disk takes it: what
it costs is one PDU of memory and one file.
"""

from __future__ import annotations

import struct
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pydicom.uid import PYDICOM_IMPLEMENTATION_UID
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
)
from pynetdicom.presentation import build_context, negotiate_as_acceptor

from covct import __version__
from covct.dicom.syntaxes import EXPLICIT_LITTLE_ENDIAN, SYNTAXES
from covct.exchange import pdus
from covct.exchange.archive import CT_IMAGES
from covct.exchange.pdus import Gone, Violation, Wire
from covct.exchange.peers import VERIFICATION, Caller, may_call
from covct.exchange.received import (
    INVALID_INSTANCE,
    SUCCESS,
    Answer,
    Bringing,
    Inbox,
    Incoming,
    does_not_match,
    is_name,
)

# Whoever offers several gets the first of these: as plain as can be, and lossy only where nothing else is offered.
TAKEN_SYNTAXES = (EXPLICIT_LITTLE_ENDIAN, *sorted(SYNTAXES.keys() - {EXPLICIT_LITTLE_ENDIAN}, key=lambda uid: (
    ("never", "maybe", "always").index(SYNTAXES[uid].loss), [*SYNTAXES].index(uid)
)))  # fmt: skip
ECHO, STORE, RESPONSE = 0x0030, 0x0001, 0x8000
NO_DATA_SET = 0x0101
# Elements of a command set, of group 0.
GROUP_LENGTH, AFFECTED_CLASS, COMMAND_FIELD, MESSAGE, MESSAGE_RESPONDED_TO = 0x0, 0x2, 0x100, 0x110, 0x120
DATA_SET_TYPE, STATUS, ERROR_COMMENT, AFFECTED_INSTANCE = 0x800, 0x900, 0x902, 0x1000
LONGEST_COMMENT = 64
LARGEST_COMMAND = 1 << 16
# Result, source and reason of a rejection (PS3.8 9.3.4): permanent by the user, by the protocol, or for the time being.
OTHER_CALLED, OTHER_CALLING, OTHER_VERSION, TOO_MANY = (1, 1, 7), (1, 1, 3), (1, 2, 2), (2, 3, 2)


@dataclass(frozen=True)
class Terms:
    """What a listener agrees to.

    Attributes
    ----------
    title : str
        Our AE title: who calls another is rejected.
    allowed : tuple of Caller
        Who may call.
    max_pdu : int
        Bytes of the longest data PDU that we take.
    timeout_s : float
        After which a silent peer is given up.
    """

    title: str
    allowed: tuple[Caller, ...]
    max_pdu: int
    timeout_s: float


class Rejected(Exception):
    """No association comes about; the peer is told."""


@dataclass
class Acceptor:
    """One association, as its acceptor.

    Attributes
    ----------
    address : str
        Of the peer.
    is_one_too_many : bool
        It is to be rejected, for the time being.
    stopping : threading.Event
        Set where covct is to stop: the association ends after the instance at hand.
    title : str
        The peer's AE title, once it has told it.
    counts : Counter of str
        Instances by what became of them: "stored", "again", "replaced", "refused".
    refusals : Counter of str
        Why instances were refused.
    acknowledged : Counter of (str, str)
        Instances that were not, by Study Instance UID and SOP Class UID.
    """

    wire: Wire
    terms: Terms
    inbox: Inbox
    address: str
    is_one_too_many: bool = False
    stopping: threading.Event = field(default_factory=threading.Event)
    title: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    acknowledged: Counter[tuple[str, str]] = field(default_factory=Counter)
    _contexts: dict[int, tuple[str, str]] = field(default_factory=dict)
    _encoded: bytearray = field(default_factory=bytearray)
    _command: _Command | None = None
    _incoming: Incoming | None = None

    def serve(self) -> None:
        """From the request to the release.

        Raises
        ------
        Gone
            The peer is gone without a release; or covct stops.
        Violation, Rejected
            The peer was told.
        """
        try:
            self._negotiate()
            with self.inbox.association() as bringing:
                self.acknowledged = bringing.acknowledged
                while self._served(bringing):
                    if self.stopping.is_set():
                        self.wire.send(pdus.abort_pdu(pdus.NOT_SPECIFIED))
                        raise Gone("covct stops")
        except Violation as violation:
            with suppress(Gone):
                self.wire.send(pdus.abort_pdu(violation.reason))
            raise
        finally:
            if self._incoming:
                self._incoming.discard()
            self.wire.close()

    def _negotiate(self) -> None:
        kind, body = self.wire.read()
        if kind != pdus.REQUEST:
            raise Violation(f"a PDU of type {kind} before an association", pdus.UNEXPECTED)
        request, versions = _request(bytes(pdus.HEAD.pack(kind, 0, len(body))) + bytes(body))
        self.title = str(request.calling_ae_title).strip()
        if refusal := self._refusal(request, versions):
            self.wire.send(pdus.reject_pdu(*refusal[1]))
            raise Rejected(refusal[0])
        accepted, pdu = _acceptance(request, self.terms)
        self._contexts = accepted
        self.wire.send(pdu)

    def _refusal(self, request: Any, versions: int) -> tuple[str, tuple[int, int, int]] | None:
        if self.is_one_too_many:
            return "too many associations at once", TOO_MANY
        if not versions & 1:
            return "another version of the protocol", OTHER_VERSION
        if str(request.called_ae_title).strip() != self.terms.title:
            return "it calls an AE title that is not ours", OTHER_CALLED
        if not may_call(self.terms.allowed, self.title, self.address):
            return "this AE title may not call from this address", OTHER_CALLING
        return None

    def _served(self, bringing: Bringing) -> bool:
        """Take one PDU; False once the association is released."""
        kind, body = self.wire.read()
        if kind == pdus.RELEASE:
            self.wire.send(pdus.released_pdu())
            return False
        if kind == pdus.ABORT:
            raise Gone("the peer aborted")
        if kind != pdus.DATA:
            raise Violation(f"a PDU of type {kind} within an association", pdus.UNEXPECTED)
        for context, control, value in pdus.fragments(body):
            if control & pdus.COMMAND:
                self._take_command(context, control, value)
            else:
                self._take_data(context, control, value, bringing)
        return True

    def _take_command(self, context: int, control: int, value: memoryview) -> None:
        if self._command:
            raise Violation("a command within a data set", pdus.UNEXPECTED)
        self._encoded += value
        if len(self._encoded) > LARGEST_COMMAND:
            raise Violation(f"a command of more than {LARGEST_COMMAND} bytes")
        if not control & pdus.LAST:
            return
        command, self._encoded = _command_of(bytes(self._encoded), context), bytearray()
        if context not in self._contexts:
            raise Violation(f"a command in context {context}, which was not accepted")
        abstract, syntax = self._contexts[context]
        if command.field == ECHO and abstract == VERIFICATION:
            self._answer(command, SUCCESS)
            return
        if command.field != STORE or abstract == VERIFICATION or not command.has_data_set:
            raise Violation(f"a command of type {command.field:#06x} in a context for another", pdus.UNEXPECTED)
        self._command = command
        if command.sop_class_uid == abstract and is_name(command.sop_instance_uid):
            self._incoming = self.inbox.begin(abstract, command.sop_instance_uid, syntax)

    def _take_data(self, context: int, control: int, value: memoryview, bringing: Bringing) -> None:
        command = self._command
        if not command or command.context != context:
            raise Violation("a data set without its command", pdus.UNEXPECTED)
        if self._incoming:
            self._incoming.write(value)
        if not control & pdus.LAST:
            return
        if self._incoming:
            answer = self._incoming.finish(bringing)
        elif is_name(command.sop_instance_uid):
            answer = does_not_match("the command names another SOP class than the context")
        else:
            answer = Answer(INVALID_INSTANCE, "the SOP Instance UID is none")
        self._command = self._incoming = None
        if answer.status == SUCCESS:
            self.counts[answer.said] += 1
        else:
            self.counts["refused"] += 1
            self.refusals[answer.said] += 1
        self._answer(command, answer.status, answer.said)

    def _answer(self, command: _Command, status: int, said: str = "") -> None:
        self.wire.send(pdus.command_pdu(command.context, _response(command, status, said)))


@dataclass(frozen=True)
class _Command:
    context: int
    field: int
    message: int
    sop_class_uid: str
    sop_instance_uid: str
    has_data_set: bool


def _request(encoded: bytes) -> tuple[Any, int]:
    """An A-ASSOCIATE-RQ as pynetdicom's primitive, and the versions of the protocol that its caller speaks."""
    pdu = A_ASSOCIATE_RQ()
    try:
        pdu.decode(encoded)
        return pdu.to_primitive(), pdu.protocol_version
    except Exception as error:  # what is damaged raises what the damage hits
        raise Violation(f"a request that cannot be read ({type(error).__name__})") from error


def _acceptance(request: Any, terms: Terms) -> tuple[dict[int, tuple[str, str]], bytes]:
    """Accepted contexts (class and transfer syntax by their number), and the PDU that tells them."""
    ours = [build_context(VERIFICATION), *(build_context(uid, list(TAKEN_SYNTAXES)) for uid in CT_IMAGES)]
    found, _ = negotiate_as_acceptor(request.presentation_context_definition_list, ours)
    longest, implementation, version = (
        MaximumLengthNotification(), ImplementationClassUIDNotification(), ImplementationVersionNameNotification(),
    )  # fmt: skip
    longest.maximum_length_received = terms.max_pdu
    implementation.implementation_class_uid = PYDICOM_IMPLEMENTATION_UID
    version.implementation_version_name = f"COVCT_{__version__}"[:16]
    answer = A_ASSOCIATE()
    answer.application_context_name = request.application_context_name
    answer.calling_ae_title, answer.called_ae_title = request.calling_ae_title, request.called_ae_title
    answer.result, answer.result_source = 0, 1
    answer.presentation_context_definition_results_list = found
    answer.user_information = [longest, implementation, version]
    accepted = {
        int(one.context_id): (str(one.abstract_syntax), str(one.transfer_syntax[0]))
        for one in found
        if one.result == 0 and one.context_id is not None
    }
    return accepted, A_ASSOCIATE_AC(answer).encode()


def _command_of(encoded: bytes, context: int) -> _Command:
    """A request's command set (PS3.7 E.1): elements of group 0, implicit, little endian."""
    values: dict[int, bytes] = {}
    try:
        at = 0
        while at < len(encoded):
            group, number, length = struct.unpack_from("<HHL", encoded, at)
            at += 8 + length
            if group or at > len(encoded):
                raise Violation("a command that cannot be read")
            values[number] = encoded[at - length : at]
        kind, message, data_set = (_number(values[one]) for one in (COMMAND_FIELD, MESSAGE, DATA_SET_TYPE))
    except (struct.error, KeyError) as error:
        raise Violation("a command that cannot be read") from error
    sop_class, instance = (_text(values.get(one, b"")) for one in (AFFECTED_CLASS, AFFECTED_INSTANCE))
    return _Command(context, kind, message, sop_class, instance, data_set != NO_DATA_SET)


def _number(value: bytes) -> int:
    number: int = struct.unpack("<H", value)[0]
    return number


def _text(value: bytes) -> str:
    return value.rstrip(b"\0 ").decode("ascii", "replace")


def _response(command: _Command, status: int, said: str) -> bytes:
    """A response's command set (PS3.7 E.1), encoded as command sets are: implicit, little endian."""
    elements = [
        _element(AFFECTED_CLASS, _even(command.sop_class_uid, "\0")),
        _element(COMMAND_FIELD, struct.pack("<H", command.field | RESPONSE)),
        _element(MESSAGE_RESPONDED_TO, struct.pack("<H", command.message)),
        _element(DATA_SET_TYPE, struct.pack("<H", NO_DATA_SET)),
        _element(STATUS, struct.pack("<H", status)),
    ]
    if status != SUCCESS:
        elements.append(_element(ERROR_COMMENT, _even(said[:LONGEST_COMMENT], " ")))
    if is_name(command.sop_instance_uid):
        elements.append(_element(AFFECTED_INSTANCE, _even(command.sop_instance_uid, "\0")))
    encoded = b"".join(elements)
    return _element(GROUP_LENGTH, struct.pack("<L", len(encoded))) + encoded


def _element(number: int, value: bytes) -> bytes:
    return struct.pack("<HHL", 0, number, len(value)) + value


def _even(text: str, padding: str) -> bytes:
    return (text + padding * (len(text) % 2)).encode("ascii", "replace")
