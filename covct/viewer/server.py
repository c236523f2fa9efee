"""The viewer's web server: on loopback unless told, one token, nothing logged, nothing asked of any other machine."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from urllib.parse import parse_qs, urlsplit

from covct.errors import UsageError, logged
from covct.viewer.answers import Answer, Viewer, told
from covct.viewer.guard import NO_TOKEN, Guard

MOST_BYTES = 2 * 1024**3  # of what is sent: a mask of a large volume, not packed
SILENT_S = 60.0  # after which a connection that says nothing is closed
ALWAYS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Server(ThreadingTCPServer):
    """A socket, with whom it serves; `http.server`'s own asks for names of hosts."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int, viewer: Viewer):
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), Request)
        self.viewer, self.guard = viewer, Guard(host, self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that went away is no news."""
        error = sys.exc_info()[1]
        if isinstance(error, Exception) and not isinstance(error, ConnectionError | TimeoutError):
            logged(error)


@contextmanager
def listening(viewer: Viewer, host: str, port: int) -> Iterator[Server]:
    """A server that listens; `serve_forever` answers.

    Parameters
    ----------
    host : str
    port : int
        0 takes a free one.

    Raises
    ------
    UsageError
        The port is in use, or there is no such address here.
    """
    try:
        server = Server(host, port, viewer)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(f"--port {port} is in use; --port 0 takes a free one") from error
        raise UsageError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from error
    try:
        yield server
    finally:
        server.server_close()


class Request(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = SILENT_S

    def do_GET(self) -> None:
        """Pages."""
        asked = urlsplit(self.path)
        token = parse_qs(asked.query).get("token", [""])[-1]
        if refused := self._refusal():
            self._send(told(HTTPStatus.FORBIDDEN, message=refused))
        elif token and self.server.guard.opens(token):
            self._send(Answer(b"", status=HTTPStatus.SEE_OTHER), self._with_cookie(asked.path))
        elif not self._has_cookie():
            self._send(told(HTTPStatus.FORBIDDEN, message=NO_TOKEN))
        else:
            self._answer(lambda: self.server.viewer.get(asked.path))

    def do_POST(self) -> None:
        """What a page sends."""
        asked = urlsplit(self.path)
        self.close_connection = True  # until the body was read
        length = self.headers.get("Content-Length", "")
        if refused := self._refusal() or ("" if self._has_cookie() else NO_TOKEN):
            self._send(told(HTTPStatus.FORBIDDEN, message=refused))
        elif not length.isdecimal() or int(length) > MOST_BYTES:
            message = f"Not done: wanted a file of at most {MOST_BYTES // 1024**3} GiB."
            self._send(told(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message=message))
        elif len(body := self.rfile.read(int(length))) == int(length):
            self.close_connection = False
            query = {name: values[-1] for name, values in parse_qs(asked.query).items()}
            self._answer(lambda: self.server.viewer.post(asked.path, query, body))

    def _refusal(self) -> str:
        headers = self.headers
        return self.server.guard.refusal(self.command, headers.get("Host", ""), headers.get("Origin", ""))

    def _has_cookie(self) -> bool:
        return self.server.guard.knows(self.headers.get("Cookie", ""))

    def _with_cookie(self, path: str) -> dict[str, str]:
        """To the same page without the token, which goes into a cookie."""
        guard = self.server.guard
        where = path if path.startswith("/") and not path.startswith("//") else "/"
        return {
            "Location": where,
            "Set-Cookie": f"{guard.cookie}={guard.token}; HttpOnly; SameSite=Lax; Path=/",
        }

    def _answer(self, find: Callable[[], Answer]) -> None:
        try:
            self._send(find())
        except (ConnectionError, TimeoutError):
            raise
        except Exception as error:  # its text may quote a header
            message = f"Not done: {logged(error)}."
            self._send(told(HTTPStatus.INTERNAL_SERVER_ERROR, message=message))

    def _send(self, answer: Answer, more: dict[str, str] | None = None) -> None:
        self.send_response_only(answer.status)
        headers = {"Content-Type": answer.kind, "Content-Length": str(len(answer.body))}
        headers |= {**ALWAYS, "Content-Security-Policy": answer.policy, **(more or {})}
        for name, value in headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, *_: object) -> None:
        """Nothing: addresses hold tokens and names of files."""
