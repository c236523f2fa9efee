"""Protocol data units over one connection (PS3.8 9.3), as who is called reads them.

pynetdicom says what they mean. Its own reactor reads whatever length a peer announces into memory, queues messages
faster than they are stored, and shakes hands for TLS where it accepts: here one is read at a time, none longer than was
agreed, in a thread that nobody else waits for.
"""

from __future__ import annotations

import ssl
import struct
from collections.abc import Iterator
from io import BufferedReader
from socket import socket
from typing import cast

from covct.exchange.tls import why_not_trusted

REQUEST, ACCEPT, REJECT, DATA, RELEASE, RELEASED, ABORT = range(1, 8)
LARGEST_REQUEST = 1 << 20  # bytes of a PDU that is no data; of 128 contexts with all their syntaxes, a few 100 KiB
READ_AHEAD = 1 << 18
HEAD, FRAGMENT = struct.Struct(">BBL"), struct.Struct(">LBB")
COMMAND, LAST = 1, 2  # bits of a fragment's message control header (PS3.8 E.2)
NOT_SPECIFIED, UNRECOGNIZED, UNEXPECTED, INVALID_VALUE = 0, 1, 2, 6  # why we abort (PS3.8 9.3.8)


class Gone(Exception):
    """The peer is gone, or silent: there is nobody to answer."""


class Violation(Exception):
    """The peer breaks the protocol, in a sentence; `reason` stands in the abort that it gets."""

    def __init__(self, message: str, reason: int = INVALID_VALUE):
        super().__init__(message)
        self.reason = reason


class Wire:
    """A connection as PDUs.

    Parameters
    ----------
    connection : socket
        With the timeout after which a silent peer is given up.
    largest : int
        Bytes of a data PDU that we take, as it is told to the peer.
    """

    def __init__(self, connection: socket, largest: int):
        self._connection = connection
        self._stream = cast(BufferedReader, connection.makefile("rb", READ_AHEAD))
        self._buffer = memoryview(bytearray(max(largest, HEAD.size)))
        self.largest = largest

    def read(self) -> tuple[int, memoryview]:
        """Kind and contents of the next PDU; the contents hold until the next call.

        Raises
        ------
        Gone
        Violation
            It is longer than agreed, or of no kind that there is.
        """
        kind, _, length = HEAD.unpack(self._filled(memoryview(bytearray(HEAD.size))))
        if not REQUEST <= kind <= ABORT:
            raise Violation(f"a PDU of type {kind}", UNRECOGNIZED)
        most = self.largest if kind == DATA else LARGEST_REQUEST
        if length > most:
            raise Violation(f"a PDU of {length} bytes, wanted at most {most}")
        place = self._buffer[:length] if kind == DATA else memoryview(bytearray(length))
        return kind, self._filled(place)

    def _filled(self, place: memoryview) -> memoryview:
        at = 0
        try:
            while at < len(place):
                if not (read := self._stream.readinto(place[at:])):
                    raise Gone("the connection was closed")
                at += read
        except TimeoutError:
            raise Gone(f"nothing came for {self._connection.gettimeout():g} s") from None
        except ssl.SSLError as error:
            raise Gone(why_not_trusted(error)) from error
        except (OSError, ValueError) as error:
            raise Gone(f"the connection broke: {getattr(error, 'strerror', None) or 'closed'}") from error
        return place

    def send(self, pdu: bytes) -> None:
        """Send a whole PDU.

        Raises
        ------
        Gone
        """
        try:
            self._connection.sendall(pdu)
        except (OSError, ValueError) as error:
            raise Gone(f"the connection broke: {getattr(error, 'strerror', None) or 'closed'}") from error

    def close(self) -> None:
        """Close the reading side; the connection is its owner's."""
        self._stream.close()


def fragments(data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Context, message control header and contents of the values in a data PDU (PS3.8 9.3.5).

    Raises
    ------
    Violation
    """
    at = 0
    while at < len(data):
        if len(data) - at < FRAGMENT.size:
            raise Violation("a data value that is cut short")
        length, context, control = FRAGMENT.unpack_from(data, at)
        end = at + 4 + length
        if length < 2 or end > len(data):
            raise Violation(f"a data value of {length} bytes in {len(data)}")
        yield context, control, data[at + FRAGMENT.size : end]
        at = end


def command_pdu(context: int, command: bytes) -> bytes:
    """A command set as one data PDU: ours have a few hundred bytes, and any peer takes as many."""
    value = FRAGMENT.pack(len(command) + 2, context, COMMAND | LAST) + command
    return HEAD.pack(DATA, 0, len(value)) + value


def released_pdu() -> bytes:
    """That a release is granted."""
    return HEAD.pack(RELEASED, 0, 4) + bytes(4)


def abort_pdu(reason: int) -> bytes:
    """That we end the association, as the provider of the service."""
    return HEAD.pack(ABORT, 0, 4) + bytes((0, 0, 2, reason))


def reject_pdu(result: int, source: int, reason: int) -> bytes:
    """That we take no association (PS3.8 9.3.4)."""
    return HEAD.pack(REJECT, 0, 4) + bytes((0, result, source, reason))
