"""Who may ask: one who has the token, on this machine's own address, from the viewer's own pages."""

from __future__ import annotations

import ipaddress
import secrets
import socket
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

LOCAL = "localhost"
ANY = ("", "0.0.0.0", "::")  # every address of this machine
NO_TOKEN = "This address lacks its token; open the one that covct view printed."
OTHER_HOST = "The viewer is asked for under a name that is not its own."
OTHER_PAGE = "Another page asks; only the viewer's own may."


def _token() -> str:
    return secrets.token_urlsafe(24)


@dataclass
class Guard:
    """What a request must bring.

    Attributes
    ----------
    host : str
        What the server is bound to.
    port : int
        Of the cookie's name: cookies of one host are shared by its ports.
    token : str
        In the address that is printed; then in a cookie, so that it does not stay in the address.
    once : str
        Stands in the address that the browser is started with, which other users of the machine can see in the list of
        processes: it opens once.
    """

    host: str
    port: int
    token: str = field(default_factory=_token)
    once: str = field(default_factory=_token)

    @property
    def cookie(self) -> str:
        """Its name."""
        return f"covct-view-{self.port}"

    def address(self, token: str) -> str:
        """Where the viewer is reached, with a token."""
        host = socket.gethostname() if self.host in ANY else self.host
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{self.port}/?token={token}"

    def opens(self, token: str) -> bool:
        """Whether a token of an address is right."""
        if same(token, self.token):
            return True
        if self.once and same(token, self.once):
            self.once = ""
            return True
        return False

    def refusal(self, method: str, host: str, origin: str) -> str:
        """Why a request with these headers is refused whatever it asks for; empty where it is not.

        A page elsewhere may have a name of its own lead to this machine, so that the browser takes the viewer for a
        part of it: the name asked for is not ours then.
        """
        if not self.is_own(host):
            return OTHER_HOST
        if method != "GET" and origin.lower() != f"http://{host}".lower():
            return OTHER_PAGE
        return ""

    def knows(self, cookies: str) -> bool:
        """Whether the cookie is among those of a request."""
        try:
            cookie = SimpleCookie(cookies).get(self.cookie)
        except CookieError:
            return False
        return cookie is not None and same(cookie.value, self.token)

    def is_own(self, host: str) -> bool:
        """Whether a Host header names this machine: by its number, or by a name that it was told. Any port: a tunnel
        has another."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        if name in self._names() or (not is_loopback(self.host) and _first(name) == _first(socket.gethostname())):
            return True
        try:
            return ipaddress.ip_address(name).is_loopback or not is_loopback(self.host)
        except ValueError:
            return False

    def _names(self) -> set[str]:
        return {LOCAL, self.host.lower()}


def _first(name: str) -> str:
    """Of a machine's name, which may be followed by its domain."""
    return name.lower().split(".")[0]


def same(got: str, wanted: str) -> bool:
    """In the same time, however much of it is right."""
    return secrets.compare_digest(got.encode("utf-8", "replace"), wanted.encode())


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return host.lower() == LOCAL or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
